"""``load_into``, ``compare_outputs``, ``to_device`` and the casts of ``state_dict``, against torch itself."""

from __future__ import annotations

import doctest
import os
import warnings
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

import ckpt_inspect as ci
import ckpt_inspect.torch as ct
from ckpt_inspect.model.inputs import InputSpec, parse_input
from ckpt_inspect.operations.trial import trial
from ckpt_inspect.torch import streaming
from ckpt_inspect.torch.forward import make_inputs, run_forward
from tests import zoo
from tests.zoo import MODELS, files


def same(a: nn.Module, b: nn.Module) -> bool:
    one, other = a.state_dict(), b.state_dict()
    tensors = {key for key, value in one.items() if isinstance(value, torch.Tensor)}
    return list(one) == list(other) and all(torch.equal(one[key], other[key]) for key in tensors)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("on", ["cpu", "meta"])
def test_as_torch_loads_it(name: str, on: str, tmp_path: Path) -> None:
    with files.quiet():
        source, target = MODELS[name](), MODELS[name]()
    torch.save(source.state_dict(), tmp_path / "w.pt")
    if on == "meta" and name != "extra-state":
        target = target.to("meta")
    report = ct.load_into(target, tmp_path / "w.pt")
    assert same(target, source)
    assert report.matched == report.of
    assert report.missing == report.unexpected == []
    grads = [(n, p.requires_grad) for n, p in source.named_parameters(remove_duplicate=False)]
    assert [(n, p.requires_grad) for n, p in target.named_parameters(remove_duplicate=False)] == grads
    if name in zoo.INPUTS and name != "attributes" and not report.unfilled:  # it computes with a plain attribute
        assert ct.compare_outputs(source, target, zoo.example_input(name)).equal


@pytest.mark.parametrize("name", ["cnn2", "cnn3", "gpt"])
def test_the_modules_own_ties_are_made_again(name: str, tmp_path: Path) -> None:
    source, target = MODELS[name](), MODELS[name]()
    torch.save({key: value.clone() for key, value in source.state_dict().items()}, tmp_path / "untied.pt")
    report = ct.load_into(target, tmp_path / "untied.pt")
    assert report.tied
    assert len(list(target.parameters())) == len(list(source.parameters()))
    for names in report.tied:
        tensors = [dict(target.named_parameters(remove_duplicate=False)).get(n) for n in names]
        assert len({id(t) for t in tensors if t is not None}) <= 1


def test_a_tied_absence_is_no_fault(tmp_path: Path) -> None:
    source, target = zoo.Gpt(), zoo.Gpt()
    state = source.state_dict()
    del state["wte.weight"]
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(RuntimeError, match="Missing key"):
        zoo.Gpt().load_state_dict(torch.load(tmp_path / "w.pt"))
    assert ct.load_into(target, tmp_path / "w.pt").missing == []
    assert same(target, source)
    safetensors.torch.save_model(source, str(tmp_path / "w.safetensors"))
    assert ct.load_into(zoo.Gpt(), tmp_path / "w.safetensors").missing == []


def test_two_values_for_one_tensor_end_as_torch_ends(tmp_path: Path) -> None:
    state = OrderedDict((key, torch.rand_like(value)) for key, value in zoo.Gpt().state_dict().items())
    torch.save(state, tmp_path / "w.pt")
    ours, theirs = zoo.Gpt(), zoo.Gpt()
    ct.load_into(ours, tmp_path / "w.pt")
    theirs.load_state_dict(state)
    assert same(ours, theirs)


def test_metadata_of_the_caller_is_left_alone(tmp_path: Path) -> None:
    torch.save(zoo.Cnn1().state_dict(), tmp_path / "w.pt")
    with ci.open(tmp_path / "w.pt") as checkpoint:
        before = repr(checkpoint.sections[""].metadata)
        ct.load_into(zoo.Cnn1(), checkpoint)
        assert repr(checkpoint.sections[""].metadata) == before
    assert "assign" not in before


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
def test_what_torch_refuses_leaves_the_module_as_it_was(change: str, tmp_path: Path) -> None:
    state = zoo.Cnn1().state_dict()
    if change == "missing":
        del state["conv1.weight"]
    elif change == "unexpected":
        state["more"] = torch.ones(1)
    else:
        state["fc2.weight"] = torch.ones(3, 3)
    torch.save(state, tmp_path / "w.pt")
    model, twin = zoo.Cnn1(), zoo.Cnn1()
    twin.load_state_dict(model.state_dict())
    with pytest.raises(ci.ModelError, match=r"Error.s. in loading state_dict") as caught:
        ct.load_into(model, tmp_path / "w.pt")
    assert "ckpt check" in (caught.value.hint or "")
    assert same(model, twin)
    if change != "shape":
        report = ct.load_into(model, tmp_path / "w.pt", strict=False)
        assert report.missing == (["conv1.weight"] if change == "missing" else [])
        assert report.unexpected == (["more"] if change == "unexpected" else [])
        assert torch.equal(model.fc2.weight, state["fc2.weight"])


def test_keymap(tmp_path: Path) -> None:
    source = zoo.Cnn1()
    torch.save(files.renamed(source.state_dict(), lambda key: f"net.{key}"), tmp_path / "w.pt")
    for keymap in (
        lambda key: key.removeprefix("net."),
        {f"net.{key}": key for key in source.state_dict()},
        ci.KeyMap({f"net.{key}": key for key in source.state_dict()}),
    ):
        target = zoo.Cnn1()
        ct.load_into(target, tmp_path / "w.pt", keymap=keymap)
        assert same(target, source)
    assert ct.state_dict(tmp_path / "w.pt", strip_prefix="net").keys() == source.state_dict().keys()


def test_a_dtype_that_would_change_needs_a_word(tmp_path: Path) -> None:
    half = zoo.Cnn1().half()
    torch.save(half.state_dict(), tmp_path / "w.pt")
    model = zoo.Cnn1()
    with pytest.raises(ci.ModelError, match=r"torch.float16 in the file and torch.float32 in the model") as caught:
        ct.load_into(model, tmp_path / "w.pt")
    assert "dtype='model'" in (caught.value.hint or "")
    assert ct.load_into(model, tmp_path / "w.pt", dtype="model").recast
    assert model.fc1.weight.dtype == torch.float32
    assert torch.equal(model.fc1.weight, half.fc1.weight.float())
    ct.load_into(model, tmp_path / "w.pt", dtype="file")
    assert model.fc1.weight.dtype == torch.float16
    ct.load_into(model, tmp_path / "w.pt", dtype=torch.bfloat16)
    assert model.fc1.weight.dtype == torch.bfloat16
    assert model.bn1.num_batches_tracked.dtype == torch.int64


def test_buffers_that_are_not_persistent_are_named_where_they_have_no_values(tmp_path: Path) -> None:
    class Rotary(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2)
            self.register_buffer("freq", torch.arange(2.0), persistent=False)

        def forward(self, x: Any) -> Any:
            return self.fc(x) * self.freq

    source = Rotary()
    torch.save(source.state_dict(), tmp_path / "w.pt")
    with torch.device("meta"):
        model = Rotary()
    assert ct.load_into(model, tmp_path / "w.pt").unfilled == ["freq"]
    import sys

    module = type(sys)("rotary_net")
    module.Rotary = Rotary  # type: ignore[attr-defined]
    sys.modules["rotary_net"] = module
    done = trial(ci.open(tmp_path / "w.pt"), ct.Model("rotary_net:Rotary"), inputs=[InputSpec((1, 2))])
    assert done.ok


def test_strip_prefix_and_dtype_of_state_dict(tmp_path: Path) -> None:
    source = zoo.cnn3()
    torch.save(source.state_dict(), tmp_path / "w.pt")
    found = ct.state_dict(tmp_path / "w.pt", strip_prefix="auto", dtype=torch.float16)
    expected = source.module.state_dict()
    assert list(found) == list(expected)
    assert found._metadata == expected._metadata  # type: ignore[attr-defined]
    assert all(torch.equal(found[key], value.half() if value.is_floating_point() else value)
               for key, value in expected.items())  # fmt: skip
    assert found["stage1.0.weight"].data_ptr() == found["stage2.module.0.weight"].data_ptr()
    with pytest.raises(ci.SelectionError, match=r"not every key carries 'conv2\.'"):
        ct.state_dict(tmp_path / "w.pt", strip_prefix="conv2")


def test_a_cast_keeps_views_of_one_storage(tmp_path: Path) -> None:
    whole = torch.arange(12.0)
    torch.save(
        {"whole": whole, "row": whole.view(3, 4)[1], "t": whole.view(3, 4).t(), "n": torch.ones(2)}, tmp_path / "w"
    )
    found = ct.state_dict(tmp_path / "w", dtype=torch.bfloat16)
    assert found["row"].untyped_storage().data_ptr() == found["whole"].untyped_storage().data_ptr()
    assert torch.equal(found["t"], whole.view(3, 4).t().bfloat16())
    assert torch.equal(found["row"], whole[4:8].bfloat16())


@pytest.mark.parametrize("nbytes", [0, 1, 100, streaming._CHUNK, streaming._CHUNK + 1, 5 * streaming._CHUNK + 3])
def test_streaming_gives_every_byte(nbytes: int, tmp_path: Path) -> None:
    data = os.urandom(nbytes)
    (tmp_path / "bytes").write_bytes(b"head" + data)
    from ckpt_inspect.model.source import BytesSource, FileSource

    target = torch.zeros(nbytes, dtype=torch.uint8)
    file = FileSource(str(tmp_path / "bytes"))
    streaming.read_in(file.slice(4, nbytes), target, "x")
    assert bytes(target.numpy()) == data
    target.zero_()
    streaming.read_in(BytesSource(data, ""), target, "x")
    assert bytes(target.numpy()) == data
    if nbytes:
        copied = torch.zeros(nbytes, dtype=torch.uint8)
        streaming.copy_in(target, copied)
        assert torch.equal(copied, target)
        with pytest.raises(ci.CorruptError):
            streaming.read_in(file.slice(5, nbytes), target, "x")
    file.close()
    with pytest.raises(ci.CheckpointError):
        streaming.read_in(file.slice(4, nbytes), target, "x")


def test_compare_outputs() -> None:
    one, other = nn.Linear(3, 2), nn.Linear(3, 2)
    other.load_state_dict(one.state_dict())
    x = torch.ones(4, 3)
    assert ct.compare_outputs(one, other, x) == ct.Comparison(True, True, 0.0, 0.0)
    with torch.no_grad():
        other.weight += 1e-7
    found = ct.compare_outputs(one, other, [x])
    assert found.close
    assert not found.equal
    with torch.no_grad():
        other.weight += 1
    assert not ct.compare_outputs(one, other, {"input": x}).close
    assert ct.compare_outputs(one, nn.Linear(3, 5), x).why == "output  has the shapes (4, 2) and (4, 5)"
    with pytest.raises(ci.ModelError, match="forward fails: RuntimeError: mat1 and mat2"):
        ct.compare_outputs(one, other, torch.ones(4, 4))


def test_modes_are_given_back() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Linear(2, 2).eval())
    run_forward(model, torch.ones(1, 2))
    assert [part.training for part in model.modules()] == [True, True, False]


def test_to_device_keeps_what_is_one() -> None:
    tensor = torch.ones(3)
    moved = ct.to_device(OrderedDict(a=tensor, b=[tensor, (tensor, 1)], c="text"), "meta")
    assert moved["a"] is moved["b"][0] is moved["b"][1][0]
    assert moved["a"].is_meta
    with pytest.raises(ci.SelectionError, match=r"torch sees no CUDA device|there are"):
        ct.to_device(tensor, "cuda:99")
    with pytest.raises(ci.SelectionError, match="no device"):
        ct.to_device(tensor, "nowhere")


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("1,3,32,32", InputSpec((1, 3, 32, 32))),
        ("()", InputSpec(())),
        ("1,16:int64:0..999", InputSpec((1, 16), "int64", 0, 999)),
        ("4:float16:-1..1", InputSpec((4,), "float16", -1, 1)),
        ("4:torch.bool", InputSpec((4,), "bool")),
        ("4::0..1", InputSpec((4,), "float32", 0, 1)),
    ],
)
def test_inputs(text: str, spec: InputSpec) -> None:
    assert parse_input(text) == spec
    (made,) = make_inputs([spec], 0, torch.device("cpu"))
    assert (tuple(made.shape), made.dtype) == (spec.shape, getattr(torch, spec.dtype))
    assert torch.equal(made, make_inputs([spec], 0, torch.device("cpu"))[0])
    if spec.low is not None and spec.high is not None:
        assert made.min() >= spec.low
        assert made.max() <= spec.high


@pytest.mark.parametrize("text", ["", "1,,2", "a", "1:int65", "1:int64:5", "1:int64:5..1", "-1", "1:qint8", "²"])
def test_inputs_that_are_none(text: str) -> None:
    with pytest.raises(ci.SelectionError, match="--input"):
        parse_input(text)


def test_examples_in_docstrings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ckpt_inspect.operations import check
    from ckpt_inspect.torch import forward, loading

    monkeypatch.chdir(tmp_path)
    for module in (ct, loading, forward, check):
        tried = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
        assert tried.attempted
        assert tried.failed == 0


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", ["cnn1", "cnn3", "gpt"])
def test_onto_a_gpu(name: str, tmp_path: Path) -> None:
    source, target = MODELS[name](), MODELS[name]().to("meta")
    torch.save(source.state_dict(), tmp_path / "w.pt")
    report = ct.load_into(target, tmp_path / "w.pt", device="cuda")
    assert report.device.type == "cuda"
    assert {p.device.type for p in target.parameters()} == {"cuda"}
    assert same(target.cpu(), source)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_large_tensors_through_pinned_buffers(tmp_path: Path) -> None:
    big = torch.randn(40_000_000)
    torch.save({"big": big, "small": torch.ones(3)}, tmp_path / "w.pt")
    found = ct.state_dict(tmp_path / "w.pt", device="cuda")
    assert torch.equal(found["big"].cpu(), big)
    assert torch.equal(ct.to_device(big, "cuda").cpu(), big)
    assert torch.equal(ct.to_device(big[::2], "cuda").cpu(), big[::2])


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_module_moved_onto_a_gpu(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(3000, 3000), nn.BatchNorm1d(3000))
    before = {key: value.clone() for key, value in module.state_dict().items()}
    parameters = list(module.parameters())
    moved = ct.to_device(module, "cuda")
    assert list(moved.parameters()) == parameters
    assert {value.device.type for value in moved.state_dict().values()} == {"cuda"}
    assert all(torch.equal(value.cpu(), before[key]) for key, value in moved.state_dict().items())


@pytest.mark.cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="no two GPUs")
def test_a_gpu_that_is_not_the_current_one(tmp_path: Path) -> None:
    """Buffers are filled again once the copies out of them are done, on the stream of that GPU."""
    big = torch.randn(100_000_000)
    assert torch.cuda.current_device() == 0
    assert torch.equal(ct.to_device(big, "cuda:1").cpu(), big)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_two_threads_onto_a_gpu() -> None:
    many = [torch.randn(20_000_000) for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        moved = list(threads.map(lambda one: ct.to_device(one, "cuda"), many))
    assert all(torch.equal(one.cpu(), other) for one, other in zip(moved, many, strict=True))


def test_lazy_modules_and_hooks_that_read_values(tmp_path: Path) -> None:
    class Reads(nn.Linear):  # type: ignore[misc]
        def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
            assert float(state_dict[prefix + "weight"].sum()) < 1e9
            super()._load_from_state_dict(state_dict, prefix, *rest)

    source = nn.Sequential(nn.Linear(2, 3))
    torch.save(source.state_dict(), tmp_path / "w.pt")
    for made in (nn.Sequential(nn.LazyLinear(3)), nn.Sequential(Reads(2, 3))):
        assert ct.check(made, tmp_path / "w.pt").loads
        ct.load_into(made, tmp_path / "w.pt")
        assert same(made, source)
    other = nn.Sequential(Reads(2, 4))
    before = {key: value.clone() for key, value in other.state_dict().items()}
    with pytest.raises(ci.ModelError, match="size mismatch"):
        ct.load_into(other, tmp_path / "w.pt")
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())


def test_a_compiled_model_wants_its_prefix(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "w.pt")
    found = ct.check(torch.compile(nn.Linear(2, 3)), tmp_path / "w.pt")
    assert found.fix is not None
    assert found.fix.command.startswith("ckpt add-prefix ")
    assert " _orig_mod " in found.fix.command


def test_a_nested_tensor_for_a_plain_parameter_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "nested.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch remarks that nested tensors are new
        torch.save({"weight": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "bias": torch.ones(2)}, path)
        for strict in (True, False):
            module = nn.Linear(3, 2)
            with pytest.raises(ci.ModelError):
                ct.load_into(module, path, strict=strict)
