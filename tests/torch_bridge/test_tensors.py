"""Real tensors out of every file of the zoo, bit for bit those that torch itself loads."""

from __future__ import annotations

import doctest
import hashlib
import importlib
import io
import mmap
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import ckpt_inspect as ci
import ckpt_inspect.torch as ct
from ckpt_inspect.model.tensor import TensorInfo
from tests.zoo import MODELS, byhand, example_input, files, oracle
from tests.zoo.byhand import Call, Global, floats

OPENABLE = [name for name in files.names(odd=True) if files.FORMATS[name] not in (files.DCP, files.PT2)]
OPENABLE = [name for name in OPENABLE if not name.startswith("protocol-0")]  # torch cannot read those back
CUDA = pytest.param(
    "cuda:0", marks=[pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
)


def written(name: str, directory: Path) -> Path:
    return files.FILES[name](directory)


def sha(path: Path) -> dict[str, str]:
    paths = [path] if path.is_file() else sorted(path.rglob("*"))
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in paths if file.is_file()}


def stored_bytes(tensor: Any) -> Any:
    return torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage()).cpu()


def facts(tensor: Any) -> dict[str, Any]:
    """All that makes a tensor the one it is, but for its values."""
    found = {
        "type": type(tensor), "dtype": tensor.dtype, "layout": tensor.layout, "grad": tensor.requires_grad,
        "leaf": tensor.is_leaf, "meta": tensor.is_meta, "nested": tensor.is_nested, "dim": tensor.dim(),
    }  # fmt: skip
    if tensor.layout is torch.sparse_coo:
        found["coalesced"] = tensor.is_coalesced()
    if not tensor.is_nested:
        found["shape"] = tensor.shape
    if tensor.layout is torch.strided and not tensor.is_nested:
        found |= {"stride": tensor.stride(), "offset": tensor.storage_offset()}
        found |= {"conj": tensor.is_conj(), "neg": tensor.is_neg()}
    if tensor.is_quantized:
        found["scheme"] = tensor.qscheme()
        if tensor.qscheme() == torch.per_tensor_affine:
            found |= {"scale": tensor.q_scale(), "zero": tensor.q_zero_point()}
        else:
            found["axis"] = tensor.q_per_channel_axis()
    return found


def assert_same(found: Any, real: Any, name: str = "") -> None:
    """The same kind of tensor over the same stored bytes: NaN safe, and nothing is expanded."""
    assert facts(found) == facts(real), name
    parts = list(zip(oracle._parts(found), oracle._parts(real), strict=True))
    for (part, inner), (_, expected) in parts:
        assert_same(inner, expected, f"{name}.{part}")
    if (parts and not real.is_quantized) or real.is_meta:
        return
    if found.untyped_storage().nbytes() == real.untyped_storage().nbytes():
        assert torch.equal(stored_bytes(found), stored_bytes(real)), name
    else:  # safetensors: its library may load a tensor with its neighbours
        assert torch.equal(found.contiguous().view(torch.uint8), real.contiguous().view(torch.uint8)), name


def addresses(tensors: dict[str, Any]) -> dict[str, int]:
    """Where the storages are, of tensors that have one with something in it."""
    return {
        name: tensor.untyped_storage().data_ptr()
        for name, tensor in tensors.items()
        if not tensor.is_meta
        and (not oracle._parts(tensor) or tensor.is_quantized)
        and tensor.untyped_storage().nbytes()
    }


def groups(by_name: dict[str, int]) -> set[frozenset[str]]:
    return {frozenset(n for n, a in by_name.items() if a == address) for address in by_name.values()}


# -- every file of the zoo ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPENABLE)
def test_every_tensor_is_torchs_own(name: str, tmp_path: Path) -> None:
    path = written(name, tmp_path)
    real = oracle.tensors(path)
    loader = ct.Loader()
    found: dict[str, Any] = {}
    with ci.open(path) as checkpoint:
        for key, _, info in checkpoint.tensors():
            expected = real.get(key)
            if expected is None:  # constants of TorchScript code, bare storages: torch gives them no name
                if info.dtype.startswith("F6"):
                    with pytest.raises(ci.UnsupportedError, match=f"no dtype {info.dtype}"):
                        loader.tensor(info)
                else:
                    loader.tensor(info)
            elif info.cls is not None and info.layout != "jagged":
                with pytest.raises(ci.UnsupportedError, match=info.cls):
                    loader.tensor(info)
            else:
                found[key] = loader.tensor(info)
                assert_same(found[key], expected, key)
    if files.FORMATS[name] not in (files.SAFETENSORS, files.SHARDED):  # loaded one by one by the library
        assert groups(addresses(found)) == groups(addresses({key: real[key] for key in found}))


@pytest.mark.parametrize("name", ["frozen_model.pt", "frozen-norms.pt"])
def test_constants_of_the_code(name: str, tmp_path: Path) -> None:
    path = written(name, tmp_path)
    real = oracle.script_constants(path)
    with ci.open(path) as checkpoint:
        found = {key: ct.to_tensor(info) for key, _, info in checkpoint.tensors()}
    tensors = {key.partition(".")[2]: value for key, value in found.items()}
    assert tensors
    for key, tensor in tensors.items():
        if isinstance(real.get(key), torch.Tensor):
            assert torch.equal(tensor, real[key]), key


def test_bare_storages(tmp_path: Path) -> None:
    with ci.open(written("storages.pth", tmp_path)) as checkpoint:
        assert ct.to_tensor(checkpoint["typed"]).tolist() == [1.0, 2.0]
        assert ct.to_tensor(checkpoint["untyped"]).tolist() == [7, 7, 7, 7]


WRITABLE = ["tied.pth", "tied-legacy.pth", "forms.pth", "zip-deflated.pth", "zip-big-endian.pth", "tar2017.pth.tar"]
WRITABLE += ["mnist_para.pth", "scripted_model.pt", "pickle-4.pkl", "handmade.safetensors", "sharded-bin"]


@pytest.mark.parametrize("name", WRITABLE)
def test_writing_to_a_tensor_leaves_the_file_alone(name: str, tmp_path: Path) -> None:
    path = written(name, tmp_path)
    before = sha(path)
    loader = ct.Loader()
    with ci.open(path) as checkpoint:
        infos = [info for _, _, info in checkpoint.tensors() if info.storage is not None and info.cls is None]
        tensors = [loader.tensor(info) for info in infos]
    touched = 0
    for tensor in tensors:
        whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
        whole.fill_(0xA5)
        touched += whole.numel()
    assert touched
    assert all((stored_bytes(tensor) == 0xA5).all() for tensor in tensors)
    del tensors
    assert sha(path) == before


def test_the_file_may_go(tmp_path: Path) -> None:
    """A mapping outlives the name and the checkpoint."""
    path = written("mnist_para.pth", tmp_path)
    real = oracle.tensors(path)
    found = ct.state_dict(path)
    path.unlink()
    for key, tensor in found.items():
        assert torch.equal(tensor, real[key]), key


def test_values_are_mapped_not_read(tmp_path: Path) -> None:
    with ci.open(written("mnist_para.pth", tmp_path)) as checkpoint:
        info = checkpoint["fc1.weight"]
        (place,) = [s.data.file_range() for s in [info.storage] if s is not None and s.data is not None]
        assert place is not None
        mapped = ct.Loader().tensor(info)
        assert mapped.data_ptr() % mmap.PAGESIZE == place[1] % mmap.PAGESIZE
        copied = ct.Loader(mmap=False).tensor(info)
        assert torch.equal(mapped, copied)
        Path(checkpoint.path).write_bytes(b"")  # torch.save over the source would do this
        assert copied.sum().isfinite()


def test_misaligned_storages_are_copied(tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    entries = {
        "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "b": {"dtype": "F64", "shape": [2], "data_offsets": [1, 17]},
    }
    files.write_safetensors(path, entries, b"\x07" + struct.pack("<2d", 1.5, -2.5))
    with ci.open(path) as checkpoint:
        assert ct.to_tensor(checkpoint["b"]).tolist() == [1.5, -2.5]
        assert ct.to_tensor(checkpoint["b"]).data_ptr() % 8 == 0


@pytest.mark.parametrize("refused", ["whole file", "everything"])
def test_where_the_system_maps_nothing(refused: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file larger than memory may not be mapped whole: its parts are then, or are read."""
    path = written("tied.pth", tmp_path)
    real = oracle.tensors(path)
    mapping = mmap.mmap
    size = path.stat().st_size

    def limited(fd: int, length: int, **options: Any) -> mmap.mmap:
        if refused == "everything" or length == size:
            raise OSError(12, "Cannot allocate memory")
        return mapping(fd, length, **options)

    monkeypatch.setattr("ckpt_inspect.torch.storages.mmap.mmap", limited)
    loader = ct.Loader()
    with ci.open(path) as checkpoint:
        found = {key: loader.tensor(info) for key, _, info in checkpoint.tensors()}
    for key, tensor in found.items():
        assert_same(tensor, real[key], key)
    assert groups(addresses(found)) == groups(addresses(real))


# -- devices --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mnist-cuda1.pt", "mixed-devices.pth", "fake-cuda.pth", "form-xla.pth"])
def test_cpu_whatever_the_file_says(name: str, tmp_path: Path) -> None:
    with ci.open(written(name, tmp_path)) as checkpoint:
        assert {ct.to_tensor(info).device.type for _, _, info in checkpoint.tensors()} == {"cpu"}


def test_meta_reads_nothing(tmp_path: Path) -> None:
    path = written("truncated-cnn1.safetensors", tmp_path)
    loader = ct.Loader(device="meta")
    with ci.open(path) as checkpoint:
        for _, _, info in checkpoint.tensors():
            tensor = loader.tensor(info)
            assert tensor.is_meta
            assert (tensor.shape, tensor.stride()) == (info.shape, info.stride)


@pytest.mark.parametrize("device", [CUDA])
@pytest.mark.parametrize(
    "name", ["forms.pth", "tied-legacy.pth", "dtypes.pth", "tar2017.pth.tar", "zip-big-endian.pth"]
)
def test_moved(name: str, device: str, tmp_path: Path) -> None:
    path = written(name, tmp_path)
    real = oracle.tensors(path)
    loader = ct.Loader(device=device)
    found = {}
    with ci.open(path) as checkpoint:
        for key, _, info in checkpoint.tensors():
            if info.cls is None and info.layout == "strided" and info.device != "meta" and "quint" not in info.dtype:
                found[key] = loader.tensor(info)
                assert str(found[key].device) == device
                assert_same(found[key], real[key], key)
    assert groups(addresses(found)) == groups(addresses({key: real[key] for key in found}))


@pytest.mark.parametrize("device", [CUDA])
@pytest.mark.parametrize("layout", ["coo", "csr", "nested", "jagged"])
def test_moved_in_parts(layout: str, device: str, tmp_path: Path) -> None:
    path = written(f"form-{layout}.pth", tmp_path)
    (real,) = oracle.tensors(path).values()
    with ci.open(path) as checkpoint:
        found = ct.to_tensor(checkpoint[layout], device=device)
    assert str(found.device) == device
    assert_same(found.cpu(), real)


# -- what is refused ------------------------------------------------------------------------------------------


def test_subclasses_are_named_and_their_parts_can_be_had(tmp_path: Path) -> None:
    with ci.open(written("forms.pth", tmp_path)) as checkpoint:
        two, tagged = checkpoint["two"], checkpoint["tagged"]
        with pytest.raises(ci.UnsupportedError, match=r"tests\.zoo\.TwoTensor(.|\n)*a, b"):
            ct.to_tensor(two)
        assert [ct.to_tensor(part).sum().item() for part in two.parts] == [6.0, 0.0]
        with pytest.raises(ci.UnsupportedError, match=r"_replace\(cls=None\)"):
            ct.to_tensor(tagged)
        assert type(ct.to_tensor(tagged._replace(cls=None))) is torch.Tensor


@pytest.mark.parametrize("name", [f"truncated-{name}" for name in files.CUT if name != "pickle-2.pkl"])
def test_missing_bytes(name: str, tmp_path: Path) -> None:
    """Every tensor of a cut file is whole, and right, or refused by the name of its storage."""
    path = written(name, tmp_path)
    original = oracle.tensors(files.FILES[name.removeprefix("truncated-")](tmp_path))
    try:
        checkpoint = ci.open(path)
    except ci.CorruptError:
        return
    refused = []
    with checkpoint:
        for key, _, info in checkpoint.tensors():
            try:
                assert_same(ct.to_tensor(info), original[key], key)
            except ci.CorruptError as error:
                refused.append((info.storage, error.record))
    assert refused
    assert all(storage is not None and storage.id == record for storage, record in refused)


def test_a_closed_checkpoint(tmp_path: Path) -> None:
    checkpoint = ci.open(written("mnist_para.pth", tmp_path))
    checkpoint.close()
    with pytest.raises(ci.FileError, match="closed"):
        ct.to_tensor(checkpoint["fc1.weight"])


def test_a_file_that_became_shorter(tmp_path: Path) -> None:
    path = written("mnist_para.pth", tmp_path)
    with ci.open(path) as checkpoint:
        with path.open("r+b") as file:
            file.truncate(1000)
        with pytest.raises(ci.CorruptError, match="shorter"):
            ct.to_tensor(checkpoint["fc1.weight"])


def info_of(path: Path, value: Any, storages: dict[str, bytes]) -> TensorInfo:
    byhand.write_zip(path, {"weight": value}, storages)
    return ci.open(path)["weight"]


def layout(name: str) -> Call:
    return Call(Global("torch.serialization", "_get_layout"), (f"torch.{name}",))


LONG = Global("torch", "LongStorage")


def longs(key: str, *values: int, size: tuple[int, ...] | None = None) -> tuple[Call, bytes]:
    size = size or (len(values),)
    stride = (size[1], 1) if len(size) == 2 else (1,)
    data = struct.pack(f"<{len(values)}q", *values)
    return byhand.tensor(byhand.storage(key, len(values), "cpu", LONG), size, stride), data


def hostile(kind: str) -> tuple[Any, dict[str, bytes]]:
    """Compound tensors whose numbers point outside of their bytes."""
    values, data = byhand.tensor(byhand.storage("0", 2), (2,), (1,)), {"0": floats(1, 2)}
    quantized = byhand.storage("9", 4, "cpu", Global("torch", "QInt8Storage"))
    if kind == "coo":
        indices, data["1"] = longs("1", 0, 9, size=(1, 2))
        return Call(
            Global("torch._utils", "_rebuild_sparse_tensor"), (layout("sparse_coo"), (indices, values, (3,)))
        ), data
    if kind == "csr":
        (rows, data["1"]), (columns, data["2"]) = longs("1", 0, 1, 2), longs("2", 0, 7)
        parts = (rows, columns, values, (2, 2))
        return Call(Global("torch._utils", "_rebuild_sparse_tensor"), (layout("sparse_csr"), parts)), data
    if kind in ("nested", "nested-offset"):
        (sizes, data["1"]), (strides, data["2"]) = longs("1", 1, 2, size=(2, 1)), longs("2", 1, 1, size=(2, 1))
        offsets, data["3"] = longs("3", 0, 1 if kind == "nested" else -1)
        return Call(Global("torch._utils", "_rebuild_nested_tensor"), (values, sizes, strides, offsets)), data
    if kind == "axis":
        scales, (zeros, data["1"]) = values, longs("1", 0, 0)
        scheme: tuple[Any, ...] = (Global("torch", "per_channel_affine"), scales, zeros, 5)
    else:
        scheme = (Global("torch", "per_tensor_affine"), "scale", 0)
    args = (quantized, 0, (2, 2), (2, 1), scheme, False, byhand.ORDERED_DICT)
    return Call(Global("torch._utils", "_rebuild_qtensor"), args), {**data, "9": bytes(4)}


@pytest.mark.parametrize("kind", ["coo", "csr", "nested", "nested-offset", "axis", "scale"])
def test_impossible_tensors_are_refused(kind: str, tmp_path: Path) -> None:
    info = info_of(tmp_path / "hostile.pt", *hostile(kind))
    with pytest.raises(ci.CorruptError):
        ct.to_tensor(info)


def test_no_grad_for_integers(tmp_path: Path) -> None:
    whole = byhand.storage("0", 2, "cpu", LONG)
    args = (whole, 0, (2,), (1,), True, byhand.ORDERED_DICT)
    value = Call(Global("torch._utils", "_rebuild_tensor_v2"), args)
    with pytest.raises(ci.CorruptError, match="torch refuses 'weight'"):
        ct.to_tensor(info_of(tmp_path / "grad.pt", value, {"0": bytes(16)}))


def test_a_view_beyond_its_storage_is_refused_here_too(tmp_path: Path) -> None:
    with ci.open(written("mnist_para.pth", tmp_path)) as checkpoint:
        info = checkpoint["fc1.bias"]
        with pytest.raises(ci.CorruptError, match="needs"):
            ct.to_tensor(info._replace(shape=(info.shape[0] + 1,)))


def test_bfloat16_that_went_through_numpy(tmp_path: Path) -> None:
    """XLA's bfloat16 tensors were saved as float32 arrays."""
    array = byhand.dump(np.array([1.0, -2.5], dtype=np.float32), 2)[2:-1]
    args = (byhand.Raw(array), Global("torch", "bfloat16"), "xla:0", True)
    value = Call(Global("torch._utils", "_rebuild_device_tensor_from_numpy"), args)
    found = ct.to_tensor(info_of(tmp_path / "xla.pt", value, {}))
    assert (found.dtype, found.tolist(), found.requires_grad) == (torch.bfloat16, [1.0, -2.5], True)


def test_big_endian_halves_of_complex_and_untyped(tmp_path: Path) -> None:
    """torch reverses halves of complex numbers, and leaves untyped storages as they are."""
    original, path = tmp_path / "little.pt", tmp_path / "big.pt"
    state = {"c": torch.tensor([1 + 2j]), "u": torch.tensor([1, 2], dtype=torch.uint16), "i": torch.tensor([7])}
    torch.save(state, original)
    swaps = {"data/0": ">f4", "data/2": ">i8"}

    def edit(name: str, data: bytes) -> bytes:
        if name in swaps:
            return bytes(np.frombuffer(data, swaps[name].replace(">", "<")).astype(swaps[name]).tobytes())
        return b"big" if name == "byteorder" else data

    byhand.repack(original, path, edit)
    real = torch.load(path)
    for key, tensor in ct.state_dict(path).items():
        assert_same(tensor, real[key], key)
        assert torch.equal(tensor, state[key]), key


# -- state_dict -----------------------------------------------------------------------------------------------


def original(name: str, **options: Any) -> Any:
    """The model as the zoo saved it: its writers are seeded."""
    with files.quiet():
        return MODELS[name](**options).eval()


def emptied(name: str) -> Any:
    """The same model, everything that a state_dict holds set to zero."""
    model = original(name)
    with torch.no_grad():
        for value in model.state_dict().values():
            if isinstance(value, torch.Tensor):
                value.zero_()
    return model


WAYS = ["-state_dict.pth", "-legacy.pth", "-module.pt", ".safetensors"]
SAVED = [(model, model + way) for model in MODELS for way in WAYS if model + way in files.FILES]
SAVED += [("mnist", name) for name in ("mnist.pt", "mnist-legacy.pt", "mnist_para.pth", "mnist_para-legacy.pth")]
SAVED += [("mnist", name) for name in ("mnist-fresh.ckpt", "mnist-cuda0.pt", "traced_model.pt", "scripted_model.pt")]
SAVED += [("mnist", name) for name in ("scripted_model-cuda0.pt", "mobile_model.ptl", "mnist.safetensors")]
SAVED += [("lstm", "lstm-traced.pt"), ("cnn1", "cnn1-traced.pt"), ("cnn2", "cnn2-script.pt"), ("gpt", "gpt-traced.pt")]
SAVED += [("named-lenet", "named-lenet-script.pt"), ("lenet", "sharded-bin"), ("lenet", "sharded-safetensors")]
SAVED += [("lenet", "one-file"), ("lenet", "extra-files-script.pt")]


@pytest.mark.parametrize(("model", "name"), SAVED, ids=[name for _, name in SAVED])
def test_every_model_loads_and_works_as_before(model: str, name: str, tmp_path: Path) -> None:
    path = written(name, tmp_path)
    weights = ct.state_dict(path)
    fresh = emptied(model)
    if name == "extra-state-module.pt":  # get_extra_state() is code of the class
        missing = fresh.load_state_dict(weights, strict=False).missing_keys
        assert all(key.endswith("_extra_state") for key in missing)
    elif name == "gpt-traced.pt":  # TorchScript knows no buffers that are not persistent: torch's answer has them
        assert all(key.endswith("mask") for key in fresh.load_state_dict(weights, strict=False).unexpected_keys)
    else:
        fresh.load_state_dict(weights, strict=True)
    with torch.no_grad(), files.quiet():
        example = example_input(model)
        assert torch.equal(fresh(example), original(model)(example))


def test_ties_survive_assignment(tmp_path: Path) -> None:
    weights = ct.state_dict(written("gpt-state_dict.pth", tmp_path))
    assert weights["wte.weight"].data_ptr() == weights["lm_head.weight"].data_ptr()
    model = original("gpt")
    model.load_state_dict(weights, assign=True)
    assert model.wte.weight.data_ptr() == model.lm_head.weight.data_ptr()


LOADED: dict[str, tuple[str | None, Callable[[Any], Any]]] = {
    "mnist_para.pth": (None, lambda loaded: loaded),
    "mnist.ckpt": (None, lambda loaded: loaded["model_state_dict"]),
    "cnn3-legacy.pth": (None, lambda loaded: loaded),
    "cnn3-module.pt": (None, lambda loaded: loaded.state_dict()),
    "attributes-module.pt": (None, lambda loaded: loaded.state_dict()),
    "modules-in-list.pt": ("2", lambda loaded: loaded[2].state_dict()),
    "module-in-dict.pt": (None, lambda loaded: loaded["model"].state_dict()),
    "vanished-module.pt": (None, lambda loaded: loaded["model"].state_dict()),
    "quantized-state_dict.pth": ("", lambda loaded: loaded),
    "nested-deep.pth": ("agents/right", lambda loaded: loaded["agents"]["right"]["actor"]),
    "lightning.ckpt": ("state_dict", lambda loaded: loaded["state_dict"]),
    "tar2017.pth.tar": (None, lambda loaded: loaded["state_dict"]),
    "pickle-5.pkl": (None, lambda loaded: loaded["model"]),
    "protocol-1.pth": (None, lambda loaded: loaded["model"]),
    "keys-nested.pth": ("a~1b", lambda loaded: loaded["a/b"]),
    "tied.pth": ("model", lambda loaded: loaded["model"]),
    "empty-state_dict.pth": (None, lambda loaded: loaded),
}


@pytest.mark.parametrize("name", LOADED)
def test_equals_what_torch_loads(name: str, tmp_path: Path) -> None:
    path = written(name, tmp_path)
    section, pick = LOADED[name]
    real = pick(oracle.load(path))
    found = ct.state_dict(path, section=section)
    assert type(found) is OrderedDict
    assert list(found) == list(real)
    for key, value in real.items():
        if isinstance(value, torch.Tensor):
            assert_same(found[key], value, key)
        else:
            assert type(found[key]) is type(value)
    recorded = {} if name.endswith(("module.pt", "modules-in-list.pt", "dict.pt")) else getattr(real, "_metadata", {})
    assert getattr(found, "_metadata", {}) == recorded


def test_torchscript_equals_what_torch_loads(tmp_path: Path) -> None:
    path = written("holding-script.pt", tmp_path)
    real = torch.jit.load(str(path)).state_dict()
    found = ct.state_dict(path)
    assert list(found) == list(real)
    for key, value in real.items():
        assert_same(found[key], value, key)
    assert not ct.state_dict(written("frozen_model.pt", tmp_path))  # torch's answer too


def test_one_object_stays_one(tmp_path: Path) -> None:
    path = tmp_path / "twice.pt"
    weight = nn.Parameter(torch.ones(2))
    torch.save({"a": weight, "b": weight, "c": weight.detach()}, path)
    found = ct.state_dict(path)
    assert found["a"] is found["b"]
    assert type(found["a"]) is nn.Parameter
    assert found["c"].data_ptr() == found["a"].data_ptr()


def test_extra_state(tmp_path: Path) -> None:
    path = written("extra-state-state_dict.pth", tmp_path)
    found, real = ct.state_dict(path), oracle.load(path)
    assert found["calls._extra_state"]["calls"] == 3
    assert torch.equal(found["calls._extra_state"]["last"], real["calls._extra_state"]["last"])
    assert found["blob._extra_state"].getvalue() == b"\x80opaque"


class Foreign:
    """What a checkpoint should not make the tool build."""


def test_plain_data_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "plain.pt"
    shared = [1, {2, 3}]
    plain: dict[str, Any] = {
        "none": None, "flag": True, "text": "ü", "bytes": b"\x00\xff", "array": bytearray(b"\xff"), "big": 2**70,
        "complex": 1 + 2j, "size": torch.Size([2]), "device": torch.device("cuda", 0), "dtype": torch.bfloat16,
        "nested": {"a": (1, [2.5]), 3: frozenset([4]), (1, "x"): None}, "shared": [shared, shared],
        "ordered": OrderedDict(b=1, a=2), "buffer": io.BytesIO(b"abc"),
    }  # fmt: skip
    tensors = {f"w{n}": torch.rand(2) for n in range(2 * len(plain))}
    cycle: list[Any] = []
    cycle.append(cycle)
    refused = {"object": Foreign(), "within": [Foreign()], "cycle": cycle, "numpy": np.float64(1.5)}
    torch.save({**tensors, **plain, **refused}, path)
    found = ct.state_dict(path)
    assert list(found) == [*tensors, *plain]
    assert found["buffer"].getvalue() == b"abc"
    for key in plain.keys() - {"buffer"}:
        assert (type(found[key]), found[key]) == (type(plain[key]), plain[key]), key
    assert found["shared"][0] is found["shared"][1]


def test_names_that_save_model_dropped_come_back(tmp_path: Path) -> None:
    path = written("cnn2.safetensors", tmp_path)
    found = ct.state_dict(path)
    assert set(found) == set(original("cnn2").state_dict())
    assert found["stage1.0.weight"] is found["conv1.weight"]
    plain = written("metadata.safetensors", tmp_path)
    assert set(ct.state_dict(plain)) == {"w"}


def test_sources(tmp_path: Path) -> None:
    path = written("nested-several.pth", tmp_path)
    by_path = ct.state_dict(path, section="ema")
    assert list(ct.state_dict(f"{path}#ema")) == list(by_path)
    with ci.open(path) as checkpoint:
        assert list(ct.state_dict(checkpoint, section="ema")) == list(by_path)
        assert list(ct.state_dict(checkpoint.select("ema"))) == list(by_path)
        assert ct.to_tensor(checkpoint["ema/0.weight"]).shape == by_path["0.weight"].shape  # still open


CHOICES = {
    "nested-several.pth": (None, "several parts can be meant: model, ema, teacher"),
    "rl.pth": (None, "several parts can be meant: actors, critics"),
    "gan.pth": (None, "several parts can be meant: generator, discriminator"),
    "tensor.t": (None, "no part is a state_dict"),
    "tensors.pth": (None, "no part is a state_dict"),
    "number.pth": (None, "it holds no tensors"),
    "optimizer-only.pth": (None, "no part is a state_dict"),
    "mnist.ckpt": ("optimizer_state_dict", "the state of an optimizer"),
    "nested-deep.pth": ("agents/left", "holds several sections: agents/left/actor, agents/left/critic"),
    "values.pth": ("dict", "holds no tensors"),
}


@pytest.mark.parametrize("name", CHOICES)
def test_open_choices_are_listed(name: str, tmp_path: Path) -> None:
    section, message = CHOICES[name]
    with pytest.raises(ci.SelectionError, match=message):
        ct.state_dict(written(name, tmp_path), section=section)


def test_a_storage_longer_than_torch_can_count(tmp_path: Path) -> None:
    """The tar of 2016 says how many elements follow, in 64 bits: with their size that can be more."""
    path = files.FILES["tar-views.pth.tar"](tmp_path)
    data = path.read_bytes()
    at = data.index(b"." + (6).to_bytes(8, "little")) + 1
    path.write_bytes(data[:at] + (2**62).to_bytes(8, "little") + data[at + 8 :])
    with ci.open(path) as checkpoint:
        info = next(info for _, _, info in checkpoint.tensors() if info.storage and info.storage.nbytes >= 2**63)
        with pytest.raises(ci.CorruptError, match="64 bits"):
            ct.Loader(device="meta").tensor(info)


def test_an_optimizer_without_a_tensor_has_none_to_name(tmp_path: Path) -> None:
    path = tmp_path / "fresh.pt"
    torch.save({"optimizer": torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], 0.1).state_dict()}, path)
    for section in (None, "optimizer"):
        with pytest.raises(ci.SelectionError) as caught:
            ct.state_dict(path, section=section)
        assert caught.value.hint is None


def test_a_section_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ci.MissingKeyError, match="model_state_dict"):
        ct.state_dict(written("mnist.ckpt", tmp_path), section="model_state_dic")


def test_damage_is_said(tmp_path: Path) -> None:
    path = written("sharded-missing", tmp_path)
    with pytest.warns(UserWarning, match="model-00002-of-00002.safetensors is missing"):
        assert ct.state_dict(path)
    cut = written("truncated-cnn1.safetensors", tmp_path)
    with pytest.warns(UserWarning, match="cut"), pytest.raises(ci.CorruptError) as caught:
        ct.state_dict(cut)
    assert caught.value.path == str(cut)


def test_a_malformed_tensor_is_no_gap(tmp_path: Path) -> None:
    path = tmp_path / "malformed.pt"
    good = byhand.tensor(byhand.storage("0", 2), (2,), (1,))
    bad = byhand.tensor(byhand.storage("0", 2), (9,), (1,))
    byhand.write_zip(path, {"good": good, "other": good, "bad": bad}, {"0": floats(1, 2)})
    with pytest.warns(UserWarning, match="bad"), pytest.raises(ci.CorruptError, match="'bad' is a malformed tensor"):
        ct.state_dict(path)


def test_what_was_loaded_can_be_saved(tmp_path: Path) -> None:
    path = written("tied.pth", tmp_path)
    found = ct.state_dict(path, section="model")
    torch.save(found, tmp_path / "again.pt")
    again = torch.load(tmp_path / "again.pt")
    assert again["emb.weight"].data_ptr() == again["head.weight"].data_ptr()
    with zipfile.ZipFile(tmp_path / "again.pt") as archive:
        assert sum("/data/" in name for name in archive.namelist()) == 1
    assert pickle.loads(pickle.dumps(found))["q"].tolist() == found["q"].tolist()


# -- the package ----------------------------------------------------------------------------------------------


def test_only_asking_for_it_imports_torch() -> None:
    code = "import sys; import ckpt_inspect{}; print('torch' in sys.modules)"
    code = "\n".join(code.format(name) for name in ("", ".torch"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


@pytest.mark.parametrize("name", ["ckpt_inspect.torch", "ckpt_inspect.torch.tensors", "ckpt_inspect.torch.state_dicts"])
def test_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    failed, tried = doctest.testmod(importlib.import_module(name))
    assert tried
    assert not failed


def test_a_warning_has_nothing_raw_of_the_file(tmp_path: Path) -> None:
    import json

    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, tmp_path / "one.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "\x1b[2J"}}))
    with pytest.warns(UserWarning, match="is missing") as heard:
        ct.state_dict(str(index))
    assert "\x1b" not in str(heard[0].message)
