"""Casts, slimmer storages, plain data, arrays: torch does the same in memory, and must find the same in the file."""

from __future__ import annotations

import argparse
import collections
import pathlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import ckpt_inspect as ci
import ckpt_inspect.torch as ct
from ckpt_inspect.model.casts import TARGETS
from ckpt_inspect.operations.conversion import Asked, sizes
from ckpt_inspect.operations.convert import convert, plan
from ckpt_inspect.operations.save import save
from tests.conftest import FIXTURES
from tests.zoo import MODELS, files, oracle

from .compare import bits, converted

FLOATS = [getattr(torch, name) for name in (*TARGETS, "float8_e8m0fnu")]


def load(path: Path) -> Any:
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("target", TARGETS)
def test_every_dtype_to_every_dtype_as_torch_casts(target: str, tmp_path: Path) -> None:
    values = torch.tensor([0.0, -0.0, 1.5, -3.25, 1e-9, 1e9, 65519.0, 7e4, float("inf"), float("nan"), 2.0**-20])
    state: dict[str, Any] = {str(dtype): values.to(dtype) for dtype in FLOATS}
    state |= {"int": torch.arange(3), "bool": torch.tensor([True]), "complex": torch.ones(2, dtype=torch.complex64)}
    torch.save(state, tmp_path / "a.pt")
    loaded = load(converted(tmp_path / "a.pt", tmp_path / "b.pt", dtype=target))
    for key, tensor in state.items():
        wanted = tensor.to(getattr(torch, target)) if tensor.is_floating_point() else tensor
        assert bits(loaded[key]) == bits(wanted), key
    named = {key: tensor for key, tensor in state.items() if key != "complex"}
    save_file(named, tmp_path / "a.safetensors")
    cast = load_file(converted(tmp_path / "a.safetensors", tmp_path / "b.safetensors", dtype=target))
    for key, tensor in named.items():
        wanted = tensor.to(getattr(torch, target)) if tensor.is_floating_point() else tensor
        assert bits(cast[key]) == bits(wanted), key


def test_what_is_lost_is_counted_as_torch_has_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weight = torch.randn(3000, 500) * torch.logspace(-12, 6, 500)
    weight[0, 0], weight[1, 1] = float("nan"), float("inf")
    torch.save({"weight": weight, "bias": torch.randn(7)}, tmp_path / "a.pt")
    made = plan(ci.open(tmp_path / "a.pt"), Asked(dtype=("float16",)))
    save(made.checkpoint, str(tmp_path / "b.pt"))
    half = weight.half()
    over = torch.isfinite(weight) & ~torch.isfinite(half)
    under = (weight != 0) & (half == 0)
    error = (weight - half.float()).abs()
    assert made.losses is not None
    assert made.losses.overflowed == {"weight": int(over.sum())}
    assert made.losses.underflowed["weight"] == int(under.sum())
    largest, name = made.losses.largest
    assert name == "weight"
    assert largest == pytest.approx(float(error[torch.isfinite(error)].max()))
    with pytest.raises(ci.UnsupportedError, match="too large for float16"):
        save(convert(ci.open(tmp_path / "a.pt"), dtype="float16", no_overflow=True), str(tmp_path / "c.pt"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt", "b.pt"]


def test_ties_views_and_parameters_stay(tmp_path: Path) -> None:
    table = torch.nn.Parameter(torch.randn(6, 4))
    state = {
        "wte": table,
        "head": table,
        "view": table.data[2:4, 1:],
        "turned": table.data.t(),
        "grad": torch.ones(2, requires_grad=True),
    }
    torch.save(state, tmp_path / "a.pt")
    loaded = load(converted(tmp_path / "a.pt", tmp_path / "b.pt", dtype="bfloat16"))
    assert len({tensor.untyped_storage().data_ptr() for key, tensor in loaded.items() if key != "grad"}) == 1
    assert isinstance(loaded["wte"], torch.nn.Parameter)
    assert loaded["grad"].requires_grad
    for key, tensor in state.items():
        assert torch.equal(loaded[key], tensor.bfloat16())
        assert loaded[key].stride() == tensor.stride()
    converted(tmp_path / "a.pt", tmp_path / "c.pt", dtype="float8_e5m2")
    load(tmp_path / "c.pt")


def test_an_optimizer_is_touched_only_when_named_and_its_step_never(tmp_path: Path) -> None:
    before = load(FIXTURES / "mnist.ckpt")
    weights = load(converted(FIXTURES / "mnist.ckpt", tmp_path / "a.pt", dtype="float16"))
    assert {t.dtype for t in weights["model_state_dict"].values()} == {torch.float16}
    assert weights["optimizer_state_dict"]["state"][0]["exp_avg"].dtype == torch.float32
    both = load(
        converted(FIXTURES / "mnist.ckpt", tmp_path / "b.pt", dtype=["float16", "optimizer_state_dict=bfloat16"])
    )
    state = both["optimizer_state_dict"]["state"][0]
    assert (state["exp_avg"].dtype, state["step"].dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(state["step"], before["optimizer_state_dict"]["state"][0]["step"])
    some = load(
        converted(FIXTURES / "mnist.ckpt", tmp_path / "c.pt", dtype=["bf16", "fc2.*=float32", "*.bias=float64"])
    )
    kinds = {key: tensor.dtype for key, tensor in some["model_state_dict"].items()}
    assert kinds["fc2.weight"] == torch.float32
    assert kinds["fc2.bias"] == torch.float64
    assert kinds["conv1.weight"] == torch.bfloat16


def test_only_some_tensors_of_a_storage_are_refused(tmp_path: Path) -> None:
    table = torch.randn(4, 4)
    torch.save({"a": table, "b": table[1:]}, tmp_path / "a.pt")
    with pytest.raises(ci.UnsupportedError, match="a and b share memory"):
        convert(ci.open(tmp_path / "a.pt"), dtype="a=float16")
    with pytest.raises(ci.SelectionError, match="matches no tensor"):
        convert(ci.open(tmp_path / "a.pt"), dtype="c=float16")
    with pytest.raises(ci.SelectionError) as caught:
        convert(ci.open(tmp_path / "a.pt"), dtype="flaot16")
    assert "Did you mean float16" in (caught.value.hint or "")


def test_bfloat16_that_went_through_numpy(tmp_path: Path) -> None:
    """XLA tensors: recorded as bfloat16, stored as float32."""
    for name in [name for name in files.FILES if "from_numpy" in name]:
        path = files.FILES[name](tmp_path)
        (info,) = [info for _, _, info in ci.open(path).tensors()]
        if info.dtype not in ("float32", "bfloat16"):
            continue
        wanted = ct.to_tensor(info, device="cpu")
        for target in (torch.float64, torch.float16):
            out = tmp_path / f"{name}-{target}.pt"
            save(convert(ci.open(path), dtype=str(target), device="cpu"), str(out))
            (tensor,) = oracle.tensors(out).values()
            assert bits(tensor) == bits(wanted.to(target)), name


# -- slim -------------------------------------------------------------------------------------------------------


def test_a_slice_of_four_megabytes_becomes_four_kilobytes(tmp_path: Path) -> None:
    table = torch.randn(1024, 1024)
    tied = torch.randn(8, 8)
    torch.save({"slice": table[3], "again": table[3], "column": table[:, 5], "a": tied, "b": tied}, tmp_path / "a.pt")
    out = converted(tmp_path / "a.pt", tmp_path / "b.pt", slim=True)
    assert (tmp_path / "a.pt").stat().st_size > 4_000_000
    loaded = load(out)
    assert torch.equal(loaded["slice"], table[3])
    assert torch.equal(loaded["column"], table[:, 5])
    assert loaded["slice"].data_ptr() == loaded["again"].data_ptr()
    assert loaded["a"].data_ptr() == loaded["b"].data_ptr()
    # the row and the column cross: they share one element, and go on sharing it
    assert loaded["slice"].untyped_storage().data_ptr() == loaded["column"].untyped_storage().data_ptr()
    torch.save({"slice": table[3], "again": table[3]}, tmp_path / "c.pt")
    small = converted(tmp_path / "c.pt", tmp_path / "d.pt", slim=True)
    assert small.stat().st_size < 8000
    again = load(small)
    assert again["slice"].data_ptr() == again["again"].data_ptr()


@st.composite
def views(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    """Tensors that share storages in all sorts of ways."""
    found: dict[str, torch.Tensor] = {}
    for base in range(draw(st.integers(1, 3))):
        dtype = draw(
            st.sampled_from([torch.float32, torch.float64, torch.int16, torch.uint8, torch.complex64, torch.bfloat16])
        )
        storage = torch.arange(60).to(dtype)
        for number in range(draw(st.integers(1, 4))):
            shape = draw(st.lists(st.integers(0, 4), min_size=0, max_size=3))
            stride = [draw(st.integers(0, 5)) for _ in shape]
            reach = sum((n - 1) * s for n, s in zip(shape, stride, strict=True)) if 0 not in shape else 0
            offset = draw(st.integers(0, max(0, 59 - reach)))
            if reach < 60:
                tensor = storage.as_strided(shape, stride, offset)
                found[f"{base}.{number}"] = tensor
                if draw(st.booleans()):
                    found[f"{base}.{number}.tied"] = tensor
    return found


def stored(path: Path) -> int:
    return sum(size.nbytes for size in sizes(ci.open(path)))


def overlaps(tensors: dict[str, torch.Tensor]) -> set[frozenset[str]]:
    """Pairs of names whose elements share memory."""
    cells = {
        key: {tensor.untyped_storage().data_ptr() + tensor.element_size() * (tensor.storage_offset() + int(i))
              for i in _indices(tensor)} for key, tensor in tensors.items()
    }  # fmt: skip
    return {frozenset((a, b)) for a in cells for b in cells if a < b and cells[a] & cells[b]}


def _indices(tensor: torch.Tensor) -> Any:
    if not tensor.numel():
        return []
    grid = torch.zeros(tensor.shape, dtype=torch.int64)
    for dim, (n, step) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        shape = [1] * tensor.dim()
        shape[dim] = n
        grid = grid + torch.arange(n).reshape(shape) * step
    return grid.flatten().tolist()


@given(views())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_views_survive_every_conversion(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    if not tensors:
        return
    path = tmp_path / "a.pt"
    torch.save(tensors, path)
    steps: list[dict[str, Any]] = [
        {"slim": True},
        {"format": "torch-legacy"},
        {"dtype": "*=float64"},
        {"slim": True, "device": "cuda:0"},
    ]
    for asked in steps:
        out = tmp_path / "b.pt"
        out.unlink(missing_ok=True)
        try:
            save(convert(ci.open(path), **asked), str(out))
        except ci.UnsupportedError:
            continue
        loaded = torch.load(out, map_location="cpu", weights_only=True)
        assert list(loaded) == list(tensors)
        for key, tensor in tensors.items():
            wanted = tensor.double() if "dtype" in asked and tensor.is_floating_point() else tensor
            assert bits(loaded[key]) == bits(wanted), (asked, key)
        assert overlaps(loaded) == overlaps(tensors), asked
        if "slim" in asked:
            assert stored(out) <= stored(path)
    named = tmp_path / "a.safetensors"
    named.unlink(missing_ok=True)
    save(convert(ci.open(path), format="safetensors"), str(named))
    back = tmp_path / "c.pt"
    back.unlink(missing_ok=True)
    save(convert(ci.open(named), format="torch-zip"), str(back))
    loaded = load(back)
    assert list(loaded) == list(tensors)
    for key, tensor in tensors.items():
        assert bits(loaded[key]) == bits(tensor), key
        tied = key + ".tied"
        if tied in tensors and tensor.numel():
            assert loaded[key].data_ptr() == loaded[tied].data_ptr()


# -- plain data, arrays -----------------------------------------------------------------------------------------


def test_weights_only_of_a_module_without_its_class(tmp_path: Path) -> None:
    for name in ("cnn2", "cnn3"):
        model = MODELS[name]()
        torch.save(model, tmp_path / f"{name}.pt")
        out = converted(tmp_path / f"{name}.pt", tmp_path / f"{name}.weights.pt", weights_only=True)
        state = load(out)
        wanted = model.state_dict()
        assert list(state) == list(wanted)
        assert not any(tensor.requires_grad for tensor in state.values())
        assert all(torch.equal(state[key], wanted[key]) for key in wanted)
        fresh = MODELS[name]()
        fresh.load_state_dict(state, strict=True)
        named = converted(tmp_path / f"{name}.pt", tmp_path / f"{name}.safetensors")
        fresh.load_state_dict(load(converted(named, tmp_path / f"{name}.back.pt")), strict=True)


def test_weights_only_keeps_plain_data_and_lists_the_rest(tmp_path: Path) -> None:
    table = torch.randn(3)
    torch.save(
        {
            "epoch": 3, "lr": np.float64(0.5), "path": pathlib.PurePosixPath("/a/b"), "args": argparse.Namespace(x=1, y=[2]),
            "table": collections.defaultdict(list, {"a": [1]}), "fn": print, "odd": {1: "a", "t": (1, table)},
            "array": np.arange(4.0), "set": {1, 2}, "bytes": b"ab" * 10, "weight": table,
        },
        tmp_path / "a.pt",
    )  # fmt: skip
    with pytest.raises(Exception, match="Weights only load failed"):
        load(tmp_path / "a.pt")
    made = plan(ci.open(tmp_path / "a.pt"), Asked(weights_only=True))
    save(made.checkpoint, str(tmp_path / "b.pt"))
    loaded = load(tmp_path / "b.pt")
    assert [name for name, _ in made.removed] == ["fn", "array"]
    assert loaded["lr"] == 0.5
    assert loaded["path"] == "/a/b"
    assert loaded["args"] == {"x": 1, "y": [2]}
    assert loaded["table"] == {"a": [1]}
    assert loaded["odd"][1] == "a"
    assert loaded["odd"]["t"][1].data_ptr() == loaded["weight"].data_ptr()
    assert loaded["set"] == {1, 2}
    assert loaded["bytes"] == b"ab" * 10
    with_arrays = load(converted(tmp_path / "a.pt", tmp_path / "c.pt", weights_only=True, from_numpy=True))
    assert torch.equal(with_arrays["array"], torch.arange(4.0, dtype=torch.float64))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["f4", "f8", ">f4", "i8", "u1", "?", "c16", "f2", "u4", ">i2"])
def test_arrays_become_tensors(kind: str, order: Any, tmp_path: Path) -> None:
    array: Any = np.arange(12).reshape(3, 4).astype(kind, order=order)
    torch.save({"a": array, "b": [array, 1], "big": np.zeros((100, 100), dtype=kind)}, tmp_path / "a.pt")
    loaded = load(converted(tmp_path / "a.pt", tmp_path / "b.pt", from_numpy=True, weights_only=True))
    wanted = torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
    assert torch.equal(loaded["a"], wanted)
    assert loaded["a"] is loaded["b"][0] or loaded["a"].data_ptr() == loaded["b"][0].data_ptr()
    assert loaded["big"].shape == (100, 100)
