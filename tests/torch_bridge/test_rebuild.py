"""``build_module`` and ``ckpt code``: keys, shapes, dtypes and strict loading against the file; layers against the original."""

from __future__ import annotations

import ast
import json
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import ckpt_inspect as ci
import ckpt_inspect.torch as ct
from ckpt_inspect.operations.code import code
from ckpt_inspect.torch.calls import LAYERS
from ckpt_inspect.torch.container import Container
from ckpt_inspect.torch.forward import flat
from ckpt_inspect.torch.rebuild import draft
from ckpt_inspect.torch.source import Writer
from ckpt_inspect.torch.state_dicts import entries_of
from tests import zoo
from tests.conftest import FIXTURES, Run, in_process
from tests.test_real import REAL
from tests.torch_bridge.every_layer import EVERY
from tests.zoo import MODELS, files

VARIANTS = ("-cuda0", "-cuda1", "-mps")
NAMES = [name for name in files.names() if not any(variant in name for variant in VARIANTS) and "form-" not in name]


@contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def described(state: Any) -> dict[str, Any]:
    return {key: (v.dtype, v.shape) if isinstance(v, torch.Tensor) else None for key, v in state.items()}


def rebuilt(path: Path) -> int:
    """Every state_dict and module of a file, rebuilt and loaded strictly, by us and from the source; how many."""
    count = 0
    try:
        checkpoint = ci.open(path)
    except ci.CheckpointError:
        return 0
    for pointer, section in checkpoint.sections.items():
        if section.kind not in ("state_dict", "module"):
            continue
        try:
            built = ct.build_module(checkpoint, section=pointer)
        except ci.UnsupportedError:
            continue
        state = entries_of(checkpoint, section, ct.Loader(), ties=False)
        expected = described(state)
        assert described(built.state_dict()) == expected
        assert all(torch.equal(v.nan_to_num(), state[k].nan_to_num()) for k, v in built.state_dict().items()
                   if isinstance(v, torch.Tensor) and v.dtype in (torch.float32, torch.int64))  # fmt: skip
        built.load_state_dict(ct.state_dict(checkpoint, section=pointer), strict=True)
        built.load_state_dict(state, strict=True, assign=True)
        made = from_source(code(checkpoint, pointer).source)
        assert {key: v for key, v in described(made.state_dict()).items() if v} == {
            k: v for k, v in expected.items() if v
        }
        made.load_state_dict(state, strict=True)
        made.load_state_dict(ct.state_dict(checkpoint, section=pointer), strict=True)
        count += 1
    return count


def from_source(source: str) -> nn.Module:
    scope: dict[str, Any] = {"__name__": "rebuilt"}
    exec(compile(source, "source", "exec"), scope)
    made = scope["build"]()
    assert isinstance(made, nn.Module)
    return made


@pytest.mark.parametrize("name", NAMES)
def test_every_file_of_the_zoo(name: str, tmp_path: Path) -> None:
    with quiet():
        rebuilt(files.FILES[name](tmp_path))


def test_every_fixture() -> None:
    with quiet():
        assert sum(rebuilt(path) for path in FIXTURES.iterdir() if path.suffix != ".py") >= 10


@pytest.mark.skipif(not REAL.exists(), reason="the real files are not here")
def test_every_real_file() -> None:
    with quiet():
        assert sum(rebuilt(path) for path in sorted(REAL.rglob("*")) if path.is_file()) >= 80


SEGMENTS = ["a", "b", "0", "1", "", "type", "half", "forward", "weight", "bias", "training", "_modules", "_extra_state",
            "running_mean", "num_batches_tracked", "class", "é", "state_dict", "_held_values", "original0", "a b", "'"]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=4).map(".".join), min_size=1, max_size=8, unique=True
    )
)
def test_any_keys(tmp_path_factory: pytest.TempPathFactory, keys: list[str]) -> None:
    path = tmp_path_factory.getbasetemp() / "keys.pt"
    shapes = [(), (3,), (2, 3), (4, 2, 3, 3)]
    torch.save(OrderedDict((key, torch.rand(shapes[n % 4])) for n, key in enumerate(keys)), path)
    rebuilt(path)


STANDARD: list[tuple[Any, tuple[int, ...]]] = [
    (
        nn.Conv2d(4, 8, 3, stride=2, padding=(1, 2), dilation=2, groups=2, bias=False, padding_mode="reflect"),
        (1, 4, 9, 9),
    ),
    (nn.Conv1d(2, 4, 3, padding="same"), (1, 2, 7)),
    (nn.ConvTranspose2d(4, 2, (3, 2), stride=2, output_padding=1), (1, 4, 5, 5)),
    (nn.BatchNorm2d(3, eps=1e-3, momentum=None, affine=False), (2, 3, 4, 4)),
    (nn.InstanceNorm1d(3, affine=True, track_running_stats=True), (2, 3, 4)),
    (nn.GroupNorm(2, 4, eps=0.1), (2, 4, 3)),
    (nn.LayerNorm((3, 4), bias=False), (2, 3, 4)),
    (nn.Linear(3, 5, bias=False, dtype=torch.float64), (2, 3)),
    (nn.Bilinear(3, 3, 2), (2, 3)),
    (nn.PReLU(3, init=0.1), (2, 3)),
    (nn.LeakyReLU(0.3), (2, 3)),
    (nn.Softmax(dim=0), (2, 3)),
    (nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True), (1, 1, 8, 8)),
    (nn.AdaptiveAvgPool2d((2, None)), (1, 1, 8, 8)),
    (nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), (1, 1, 3, 3)),
    (nn.ZeroPad2d((1, 2, 3, 4)), (1, 1, 3, 3)),
    (nn.Unflatten(1, (2, 3)), (2, 6)),
    (nn.GELU("tanh"), (2, 3)),
    (nn.GRU(3, 4, num_layers=2, batch_first=True, bidirectional=True), (2, 5, 3)),
    (nn.RNN(3, 4, nonlinearity="relu", bias=False), (5, 2, 3)),
    (nn.LSTM(3, 4, proj_size=2), (5, 2, 3)),
]


@pytest.mark.parametrize(("layer", "shape"), STANDARD, ids=lambda value: type(value).__name__)
def test_a_recorded_layer_computes_what_it_computed(layer: Any, shape: tuple[int, ...], tmp_path: Path) -> None:
    torch.save(nn.Sequential(layer), tmp_path / "m.pt")
    again = ct.build_module(tmp_path / "m.pt")
    assert type(again[0]) is type(layer)
    assert repr(again[0]) == repr(layer)
    x = torch.rand(shape, dtype=torch.float64 if isinstance(layer, nn.Linear) else torch.float32)
    inputs = (x, x) if isinstance(layer, nn.Bilinear) else (x,)
    for module in (again[0], from_source(code(ci.open(tmp_path / "m.pt")).source)[0]):
        module.load_state_dict(layer.state_dict())
        with quiet():
            one, other = layer.eval()(*inputs), module.eval()(*inputs)
        assert torch.equal(one[0], other[0]) if isinstance(one, tuple) else torch.equal(one, other)


def fed(text: str) -> torch.Tensor:
    kind, _, rest = text.partition(",")
    if kind == "01":
        return torch.rand([*map(int, rest.split(","))])
    if kind.startswith("i"):
        return torch.randint(int(kind[1:]), [*map(int, rest.split(","))])
    return torch.randn([*map(int, text.split(","))])


def outputs(layer: Any, arguments: list[torch.Tensor]) -> list[torch.Tensor]:
    torch.manual_seed(0)  # some sample
    with quiet(), torch.no_grad():
        return [tensor for _, tensor in flat(layer.eval()(*(one.clone() for one in arguments)))]


def test_every_layer_is_tried() -> None:
    names = {line.partition("(")[0] for line in EVERY}
    assert {name for name in names if hasattr(nn, name)} == set(LAYERS)


@pytest.mark.parametrize("line", EVERY)
def test_every_layer_of_torch_computes_what_it_computed(line: str, tmp_path: Path) -> None:
    text, _, inputs = line.rpartition(" : ")
    if not hasattr(nn, text.partition("(")[0]):
        pytest.skip("this torch has no such layer")
    with quiet():
        layer = eval(f"nn.{text}", {"nn": nn})
    for index, parameter in enumerate(layer.parameters()):
        parameter.requires_grad_(index % 2 == 0)
    torch.save(nn.Sequential(layer), tmp_path / "m.pt")
    again = ct.build_module(tmp_path / "m.pt")[0]
    source = from_source(code(ci.open(tmp_path / "m.pt")).source)[0]
    source.load_state_dict(layer.state_dict(), strict=True)
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in layer.parameters()]
    arguments = [fed(one) for one in inputs.split(" ")]
    expected = outputs(layer, arguments)
    assert expected
    for made in (again, source):
        assert type(made) is type(layer)
        assert repr(made) == repr(layer)
        found = outputs(made, arguments)
        assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(found, expected, strict=True))


def test_a_layer_that_was_changed_is_not_made_as_new(tmp_path: Path) -> None:
    """The arguments of a composite layer are in its children: one that was exchanged makes it a container."""
    changed = nn.TransformerEncoderLayer(4, 2, 8)
    changed.dropout1.p = 0.7
    exchanged = nn.TransformerEncoderLayer(4, 2, 8)
    exchanged.linear2 = nn.Sequential(nn.Linear(8, 4))
    shared = nn.ModuleDict({"layer": nn.TransformerEncoderLayer(4, 2, 8)})
    shared["linear"] = shared["layer"].linear1
    for layer in (changed, exchanged, shared):
        torch.save(layer, tmp_path / "m.pt")
        parts = list(ct.build_module(tmp_path / "m.pt").modules())
        assert not any(isinstance(part, nn.TransformerEncoderLayer) for part in parts)
        assert len(parts) == len(list(layer.modules()))
        assert rebuilt(tmp_path / "m.pt") == 1
    modes = nn.TransformerEncoderLayer(4, 2, 8).eval()
    modes.dropout.train()
    torch.save(modes, tmp_path / "m.pt")
    again = ct.build_module(tmp_path / "m.pt")
    assert type(again) is nn.TransformerEncoderLayer
    assert [part.training for part in again.modules()] == [part.training for part in modes.modules()]


def test_a_composite_layer_is_not_inferred(tmp_path: Path) -> None:
    """How many heads it has is in no shape."""
    with quiet():
        torch.save(nn.Transformer(8, 2, 1, 1, 16).state_dict(), tmp_path / "w.pt")
    assert rebuilt(tmp_path / "w.pt") == 1
    assert {type(part) for part in ct.build_module(tmp_path / "w.pt").modules()}.isdisjoint(
        {nn.Transformer, nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.MultiheadAttention}
    )
    source = code(ci.open(tmp_path / "w.pt")).source
    for name in ("TransformerEncoderLayer", "MultiheadAttention"):
        assert f"(nn.Module):  # {name}~; its forward is not in the file" in source


def test_a_composite_layer_of_another_dtype(tmp_path: Path) -> None:
    torch.save(
        nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 2).bfloat16(), tmp_path / "m.pt"
    )
    again = ct.build_module(tmp_path / "m.pt")
    assert type(again) is nn.TransformerEncoder
    assert {p.dtype for p in again.parameters()} == {torch.bfloat16}
    assert rebuilt(tmp_path / "m.pt") == 1


def test_names_decide_where_tensors_leave_it_open(tmp_path: Path) -> None:
    shapes: dict[str, tuple[int, ...]] = {
        "lm_head.weight": (9, 4), "wte.weight": (9, 4), "q_proj.weight": (4, 4), "embed_out.weight": (9, 4),
        "ln_1.weight": (4,), "ln_1.bias": (4,), "norm.weight": (4,), "norm.bias": (4,), "to_out.0.weight": (4, 4),
        "rms_norm.weight": (4,), "input_layernorm.weight": (4,), "thing.weight": (9, 4),
    }  # fmt: skip
    torch.save(OrderedDict((key, torch.rand(shape)) for key, shape in shapes.items()), tmp_path / "w.pt")
    assert rebuilt(tmp_path / "w.pt") == 1
    made = {path: type(part).__name__ for path, part in ct.build_module(tmp_path / "w.pt").named_modules() if path}
    assert made == {
        "lm_head": "Linear", "wte": "Embedding", "q_proj": "Linear", "embed_out": "Container", "ln_1": "LayerNorm",
        "norm": "Container", "to_out": "ModuleList", "to_out.0": "Linear", "rms_norm": "RMSNorm",
        "input_layernorm": "Container", "thing": "Container",
    }  # fmt: skip
    source = code(ci.open(tmp_path / "w.pt")).source
    assert "self.lm_head = nn.Linear(4, 9, bias=False)  # ~ Linear|Embedding, by its name\n" in source
    assert "Linear|Embedding~: its tensors fit several" in source


def test_what_changes_what_a_layer_computes_is_said(tmp_path: Path) -> None:
    layer = nn.Sequential(nn.Linear(2, 3))
    layer[0].register_forward_hook(print)
    torch.save(layer, tmp_path / "m.pt")
    assert "nn.Linear(2, 3),  # its forward_hooks are not made again" in code(ci.open(tmp_path / "m.pt")).source


def test_quantized_modules_are_refused(tmp_path: Path) -> None:
    with quiet():
        quantized = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(2, 3)), {nn.Linear})
        torch.save(quantized, tmp_path / "q.pt")
    with pytest.raises(ci.UnsupportedError, match=r"'0': a quantized module, .*Linear\. Only torch\.ao"):
        ct.build_module(tmp_path / "q.pt")


def test_attention(tmp_path: Path) -> None:
    layer = nn.MultiheadAttention(8, 2, add_bias_kv=True, batch_first=True).eval()
    torch.save(nn.ModuleDict({"attention": layer}), tmp_path / "m.pt")
    again = ct.build_module(tmp_path / "m.pt").eval()["attention"]
    x = torch.rand(2, 3, 8)
    assert torch.equal(layer(x, x, x)[0], again(x, x, x)[0])


@pytest.mark.parametrize("name", ["mnist", "norm", "named-lenet", "cifar-seq", "cnn2", "cnn3", "gpt", "norms", "lstm"])
def test_whole_modules_layer_by_layer(name: str, tmp_path: Path) -> None:
    with files.quiet():
        model = MODELS[name]()
        torch.save(model, tmp_path / "m.pt")
    again = ct.build_module(tmp_path / "m.pt")
    theirs = dict(again.named_modules(remove_duplicate=False))
    seen: dict[str, Any] = {}
    for path, part in model.named_modules(remove_duplicate=False):
        assert theirs[path].training is part.training
        if isinstance(theirs[path], Container) or type(part) in (nn.Sequential, nn.ModuleList):
            continue
        assert type(theirs[path]) is type(part), path
        part.register_forward_hook(lambda _, args, out, path=path: seen.update({path: (args, out)}))
    with torch.no_grad():
        model.eval()(zoo.example_input(name))
        again.eval()
        for path, (args, out) in seen.items():
            assert torch.equal(theirs[path](*args)[0], out[0]), path
    assert [path for path, _ in again.named_modules()] == [path for path, _ in model.named_modules()]
    assert seen
    assert len(list(again.parameters())) == len(list(model.parameters()))


def test_shared_modules_are_shared_and_ties_tied(tmp_path: Path) -> None:
    torch.save(zoo.Cnn2(), tmp_path / "m.pt")
    again = ct.build_module(tmp_path / "m.pt")
    parts = dict(again.named_modules(remove_duplicate=False))
    assert parts["stage1.0"] is parts["conv1"]
    torch.save(zoo.Gpt().state_dict(), tmp_path / "w.pt")
    assert len(list(ct.build_module(tmp_path / "w.pt").parameters())) == len(list(zoo.Gpt().parameters()))


def test_source_takes_the_names_that_safetensors_dropped(tmp_path: Path) -> None:
    safetensors.torch.save_model(zoo.Gpt(), str(tmp_path / "w.safetensors"))
    stored = safetensors.torch.load_file(tmp_path / "w.safetensors")
    whole = ct.state_dict(tmp_path / "w.safetensors")
    assert whole.keys() > stored.keys()
    source = code(ci.open(tmp_path / "w.safetensors")).source
    for state in (stored, whole):
        made = from_source(source)
        made.load_state_dict(state, strict=True)
        assert all(torch.equal(value, stored[key]) for key, value in made.state_dict().items())


def test_a_thousand_classes_of_one_name_are_not_compared_with_each_other(tmp_path: Path) -> None:
    class Counting(set[str]):
        looked = 0

        def __contains__(self, name: object) -> bool:
            Counting.looked += 1
            return super().__contains__(name)

    many = 1000
    torch.save({f"blocks.{n}.p{n}": torch.ones(1) for n in range(many)}, tmp_path / "w.pt")
    checkpoint = ci.open(tmp_path / "w.pt")
    plan, _ = draft(checkpoint, checkpoint.sections[""], ct.Loader(device="meta"))
    writer = Writer(plan, "many", "Net", [])
    writer.used = Counting()
    source = writer.source()
    assert len(from_source(source).state_dict()) == many
    assert f"class Block{many}(" in source
    assert Counting.looked < 3 * many


def test_a_frozen_archive_is_refused_and_attributes_are_named(tmp_path: Path, ckpt: Run) -> None:
    with quiet():
        module = nn.Sequential(nn.Linear(3, 2)).eval()
        torch.jit.freeze(torch.jit.script(module)).save(str(tmp_path / "frozen.pt"))
    assert not torch.jit.load(str(tmp_path / "frozen.pt")).state_dict()
    done = ckpt("code", tmp_path / "frozen.pt")
    assert done.returncode == 2
    assert not done.stdout
    assert "its state_dict() is empty: 2 tensors are constants" in done.stderr
    module.mean = torch.ones(3)
    torch.save(module, tmp_path / "whole.pt")
    source = code(ci.open(tmp_path / "whole.pt")).source
    assert "# left out, neither parameters nor buffers in the file: mean\n" in source
    from_source(source).load_state_dict(module.state_dict(), strict=True)


def test_before_there_were_counters(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    del model[1]._buffers["num_batches_tracked"]
    state = model.state_dict()
    del state._metadata
    torch.save(model, tmp_path / "w.pt")
    again = ct.build_module(tmp_path / "w.pt")
    assert [type(part).__name__ for part in again.modules()][1:] == ["Conv2d", "BatchNorm2d"]
    again.load_state_dict(state, strict=True)
    assert again.state_dict().keys() == state.keys()
    assert rebuilt(tmp_path / "w.pt") == 1


def test_what_is_inferred_is_marked(tmp_path: Path) -> None:
    torch.save(zoo.Cnn1().state_dict(), tmp_path / "w.pt")
    source = code(ci.open(tmp_path / "w.pt")).source
    assert "self.conv1 = nn.Conv2d(3, 12, kernel_size=3)  # ~ not in the file: stride, padding, dilation" in source
    assert "self.bn1 = nn.BatchNorm2d(12)  # ~" in source
    assert "self.fc1 = nn.Linear(600, 128)  # ~" in source
    torch.save(zoo.Cnn1(), tmp_path / "m.pt")
    source = code(ci.open(tmp_path / "m.pt")).source
    assert "self.conv1 = nn.Conv2d(3, 12, 3, padding=1)\n" in source
    assert "recorded: tests.zoo.Cnn1" in source


@pytest.mark.parametrize(
    "name",
    ["x'); import os; os.system('false'); ('", "\n    import os", '"""\nimport os\n"""', "a # b", "\u2028x", "\\"],
)
def test_names_are_never_code(name: str, tmp_path: Path) -> None:
    state = OrderedDict([(f"{name}.weight", torch.rand(2, 3)), (f"b.{name}", torch.rand(2)), (name, torch.rand(1))])
    path = tmp_path / "w.pt"
    torch.save(state, path)
    source = code(ci.open(path)).source
    assert "Import" not in {type(node).__name__ for node in ast.walk(ast.parse(source))}.difference({"Import"})
    names = {alias.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import) for alias in node.names}
    assert names == {"torch"}
    assert rebuilt(path) == 1


def test_what_torch_cannot_hold_is_listed(tmp_path: Path) -> None:
    sparse = torch.eye(3).to_sparse()
    torch.save(OrderedDict([("a", torch.ones(2)), ("b", sparse), ("c", sparse)]), tmp_path / "w.pt")
    with pytest.raises(ci.UnsupportedError, match=r"'b': a compound tensor.*'c': a compound tensor"):
        ct.build_module(tmp_path / "w.pt")
    torch.save({0: torch.ones(2), "a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "w.pt")
    with pytest.raises(ci.CheckpointError):
        ct.build_module(tmp_path / "w.pt")


def test_arguments_from_a_file_make_no_work(tmp_path: Path) -> None:
    """A recurrent net of a billion layers, by its attributes."""
    model = nn.LSTM(2, 2)
    model.num_layers = 10**9
    torch.save(model, tmp_path / "m.pt")
    assert rebuilt(tmp_path / "m.pt") == 1


def test_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert in_process(["code", str(FIXTURES / "lenet.pt")]) == 0
    assert "class LeNet(nn.Module):" in capsys.readouterr().out
    assert in_process(["code", str(FIXTURES / "run.ckpt"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["schema"], found["layers"]) == ("ckpt-inspect/code/1", 8)
    assert in_process(["code", str(FIXTURES / "tied.pt"), "-q"]) in (0, 2)
