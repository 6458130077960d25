"""``diff`` against torch: every verdict, every metric, over random pairs of state_dicts and over files made to order."""

from __future__ import annotations

import json
import math
import zipfile
from collections import OrderedDict
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file, save_model
from torch import nn

import ckpt_inspect as ci
from ckpt_inspect.operations.diff import diff
from ckpt_inspect.operations.difference import Difference
from ckpt_inspect.render import diff as render
from tests.conftest import FIXTURES, Run, in_process
from tests.zoo import MODELS

pytestmark = [  # what torch has to remark about kinds of tensors that are new or old
    pytest.mark.filterwarnings("ignore:ComplexHalf support"),
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor"),
    pytest.mark.filterwarnings("ignore:enable_nested_tensor is True"),
]

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
EIGHTS = [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu]
COMPLEX = [torch.complex64, torch.complex128, torch.complex32]
INTEGERS = [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64]
DTYPES = [*FLOATS, *EIGHTS, *COMPLEX, *INTEGERS, torch.bool]


def compared(a: object, b: object, where: Path, **options: Any) -> Difference:
    torch.save(a, where / "a.pt")
    torch.save(b, where / "b.pt")
    return diff(ci.open(where / "a.pt"), ci.open(where / "b.pt"), **options)


def raw(tensor: torch.Tensor) -> bytes:
    """Logical bytes."""
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous().clone()
    return bytes(torch.empty(0, dtype=torch.uint8).set_(plain.untyped_storage()).numpy())


def wide(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.dtype == torch.complex32:
        return torch.view_as_complex(
            tensor.resolve_conj().contiguous().reshape(-1).view(torch.float16).double().view(*tensor.shape, 2)
        )
    if tensor.is_complex():
        return tensor.to(torch.complex128).resolve_conj()
    return (tensor.float() if tensor.dtype in EIGHTS else tensor).double()


def random_tensor(draw: st.DrawFn, dtype: torch.dtype, shape: list[int]) -> torch.Tensor:
    count = math.prod(shape)
    seed = draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.bool:
        return torch.randint(0, 2, (count,), generator=generator).bool().reshape(shape)
    if dtype in INTEGERS:
        if draw(st.booleans()):  # any bits at all
            words = torch.randint(0, 256, (count * dtype.itemsize,), dtype=torch.uint8, generator=generator)
            return words.view(dtype).reshape(shape)
        return torch.randint(0, 4, (count,), generator=generator).to(dtype).reshape(shape)
    if dtype.is_complex:
        made = torch.complex(torch.randn(count, generator=generator), torch.randn(count, generator=generator))
        return (made.to(dtype) if dtype != torch.complex32 else made.to(torch.complex32)).reshape(shape)
    made = torch.randn(count, generator=generator) * draw(st.sampled_from([0.0, 1e-3, 1.0, 100.0]))
    if dtype in FLOATS and count and draw(st.booleans()):
        odd = draw(st.sampled_from([math.nan, math.inf, -math.inf, -0.0]))
        made[draw(st.integers(0, count - 1))] = odd
    return made.abs().to(dtype).reshape(shape) if dtype == torch.float8_e8m0fnu else made.to(dtype).reshape(shape)


def view_of(draw: st.DrawFn, tensor: torch.Tensor) -> torch.Tensor:
    """The same values, perhaps through other strides."""
    if tensor.dim() < 2 or tensor.dtype in EIGHTS or draw(st.booleans()):
        return tensor
    return tensor.transpose(0, 1).contiguous().transpose(0, 1)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    a, b = {}, {}
    for index in range(draw(st.integers(1, 4))):
        dtype = draw(st.sampled_from(DTYPES))
        shape = draw(st.lists(st.integers(0, 4), max_size=3))
        x = random_tensor(draw, dtype, shape)
        y = x.clone()
        if draw(st.booleans()):
            y = random_tensor(draw, dtype, shape)
        elif x.numel() and draw(st.booleans()):  # one flipped bit
            words = y.reshape(-1).view(torch.uint8)
            if dtype != torch.bool:
                words[draw(st.integers(0, words.numel() - 1))] ^= 1 << draw(st.integers(0, 7))
            else:
                y.reshape(-1)[0] = ~y.reshape(-1)[0]
        a[f"k{index}"], b[f"k{index}"] = view_of(draw, x), view_of(draw, y)
    if draw(st.booleans()):
        a["tie"], b["tie"] = a["k0"], b["k0"]
    return a, b


def check_metrics(x: torch.Tensor, y: torch.Tensor, found: Any) -> None:
    """The definitions of ``torch/metrics.py``, in whole tensors; of integers, with Python's own."""
    if x.dtype in INTEGERS and y.dtype in INTEGERS:
        numbers = list(zip(x.flatten().tolist(), y.flatten().tolist(), strict=True))
        sizes = [abs(b - a) for a, b in numbers]
        assert (found.max_abs, found.sum_abs, found.changed) == (max(sizes), sum(sizes), sum(map(bool, sizes)))
        relative = [size / abs(a) for size, (a, _) in zip(sizes, numbers, strict=True) if a]
        assert found.max_rel == (pytest.approx(max(relative), rel=1e-9) if relative else None)
        norms = [math.sqrt(math.fsum(float(v) ** 2 for v in side)) for side in (sizes, [a for a, _ in numbers])]
        assert found.relative_norm == (pytest.approx(norms[0] / norms[1], rel=1e-9) if norms[1] else None)
        return
    x, y = wide(x).flatten(), wide(y).flatten()
    differ = (x != y) & ~(x.isnan() & y.isnan())
    assert found.count == x.numel()
    assert found.changed == int(differ.sum())
    assert found.nan_appeared == int((y.isnan() & ~x.isnan()).sum())
    there = ~(x.isnan() | y.isnan())
    x, y = x[there], y[there]
    size = torch.where(x == y, 0.0, (y - x).abs())
    near: dict[str, Any] = {"rel": 1e-9, "abs": 1e-300}
    if not x.numel():
        assert found.mean_abs is None
        return
    assert float(found.max_abs) == pytest.approx(size.max().item(), **near)
    assert float(found.mean_abs) == pytest.approx(size.mean().item(), **near)
    some = x != 0
    expected = (
        (size[some] / x[some].abs()).nan_to_num(nan=math.inf, posinf=math.inf).max().item() if some.any() else None
    )
    assert found.max_rel == (None if expected is None else pytest.approx(expected, **near))
    xx, yy, dd = (math.isfinite(float((side.abs() ** 2).sum())) for side in (x, y, size))
    norm, other = x.norm(), y.norm()
    if norm:
        expected = pytest.approx((size.norm() / norm).item(), **near) if xx and dd else None
        assert found.relative_norm == expected
    if norm and other and xx and yy:
        dot = (x.conj() * y).real.sum() if x.is_complex() else (x * y).sum()
        assert found.cosine == pytest.approx((dot / norm / other).item(), rel=1e-9, abs=1e-9)
    elif not (xx and yy):
        assert found.cosine is None


@settings(max_examples=150, deadline=None)
@given(pair=pairs())
def test_agrees_with_torch(
    pair: tuple[dict[str, Any], dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    a, b = pair
    found = compared(a, b, tmp_path_factory.getbasetemp())
    identical = [key for key in a if raw(a[key]) == raw(b[key])]
    assert [place.key for place in found.identical] == identical
    assert [change.place.key for change in found.changed] == [key for key in a if key not in identical]
    assert found.same == (len(identical) == len(a))
    assert found.status == int(not found.same)
    for change in found.changed:
        key = change.place.key
        if change.metrics is None:
            continue
        check_metrics(a[key], b[key], change.metrics)
        if a[key].dtype in INTEGERS:
            assert not change.close
            continue
        x, y = wide(a[key]), wide(b[key])
        assert change.close == bool(((x == y) | (x.isnan() & y.isnan())).all())


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 999), atol=st.sampled_from([0.0, 1e-6, 0.1]), rtol=st.sampled_from([0.0, 1e-5, 0.05]),
    scale=st.sampled_from([1e-7, 1e-3, 0.2]),
)  # fmt: skip
def test_tolerance_is_that_of_isclose(
    seed: int, atol: float, rtol: float, scale: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(50, generator=generator, dtype=torch.float64)
    y = x + torch.randn(50, generator=generator, dtype=torch.float64) * scale
    found = compared({"x": x}, {"x": y}, tmp_path_factory.getbasetemp(), atol=atol, rtol=rtol)
    beyond = int((~torch.isclose(x, y, rtol=rtol, atol=atol)).sum())
    assert found.changed[0].metrics is not None
    assert found.changed[0].metrics.beyond == beyond
    assert found.same == (beyond == 0 and bool(atol or rtol))


def test_large_tensors_are_divided(tmp_path: Path) -> None:
    x = torch.arange(40_000_000, dtype=torch.int32)
    y = x.clone()
    y[-1] += 7
    found = compared({"x": x, "same": x[:5].clone()}, {"x": y, "same": x[:5].clone()}, tmp_path)
    (change,) = found.changed
    assert change.metrics is not None
    assert (change.metrics.count, change.metrics.changed, change.metrics.max_abs) == (40_000_000, 1, 7)


def test_integers_are_exact(tmp_path: Path) -> None:
    low, high = torch.iinfo(torch.int64).min, torch.iinfo(torch.int64).max
    x = torch.tensor([low, high, 2**53, 0])
    y = torch.tensor([high, low, 2**53 + 1, 0])
    found = compared({"x": x}, {"x": y}, tmp_path)
    metrics = found.changed[0].metrics
    assert metrics is not None
    assert (metrics.max_abs, metrics.sum_abs, metrics.changed) == (2**64 - 1, 2 * (2**64 - 1) + 1, 3)
    assert found.to_dict()["changed"][0]["max_abs"] == str(2**64 - 1)


@pytest.mark.parametrize(
    ("before", "after"), [("float32", "bfloat16"), ("float16", "float32"), ("int64", "int32"), ("float32", "int64")]
)
def test_across_dtypes_values_are_compared(before: str, after: str, tmp_path: Path) -> None:
    x = torch.arange(6.0).to(getattr(torch, before))
    found = compared({"x": x}, {"x": x.to(getattr(torch, after))}, tmp_path)
    assert found.changed[0].what == ("dtype",)
    assert found.changed[0].metrics is not None
    assert found.changed[0].metrics.changed == 0
    x = torch.randn(100).to(getattr(torch, before)) * 100
    y = x.to(getattr(torch, after))
    found = compared({"x": x}, {"x": y}, tmp_path)
    assert found.changed[0].metrics is not None
    check_metrics(x, y, found.changed[0].metrics)


def test_zeros_and_nan_payloads_are_changed_bytes_but_equal_values(tmp_path: Path) -> None:
    found = compared({"x": torch.tensor([0.0, 1.0])}, {"x": torch.tensor([-0.0, 1.0])}, tmp_path)
    (change,) = found.changed
    assert change.metrics is not None
    assert change.metrics.changed_fraction == 0
    assert change.note is not None
    assert not found.same
    payload = torch.tensor([0x7FC00001], dtype=torch.int32).view(torch.float32)
    found = compared({"x": torch.tensor([math.nan])}, {"x": payload}, tmp_path)
    assert (found.changed[0].metrics.changed, found.changed[0].close) == (0, True)  # type: ignore[union-attr]


def test_reshaped_and_permuted_are_named(tmp_path: Path) -> None:
    x = torch.randn(4, 4, 3)
    a = {"reshaped": x, "permuted": x, "square": x[:, :, 0].contiguous(), "other": x}
    b = {
        "reshaped": x.reshape(8, 6), "permuted": x.permute(2, 0, 1).contiguous(),
        "square": x[:, :, 0].t().contiguous(), "other": torch.randn(3, 4, 4),
    }  # fmt: skip
    notes = {change.place.key: change.note for change in compared(a, b, tmp_path).changed}
    assert notes == {
        "reshaped": "the same values, reshaped", "permuted": "the same values, permuted: permute(2, 0, 1)",
        "square": "the same values, permuted: permute(1, 0)", "other": None,
    }  # fmt: skip


def test_cifar_against_sequential_is_five_layers_renamed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = MODELS["cifar"]().state_dict()
    names = list(MODELS["cifar-seq"]().state_dict())
    other = OrderedDict(zip(names, state.values(), strict=True))
    found = compared(state, other, tmp_path)
    assert [*found.added, *found.removed, *found.changed, *found.identical] == []
    assert [(old.key, new.key) for old, new in found.renamed] == list(zip(state, names, strict=True))
    assert found.status == 1


def test_blocks_that_were_just_initialised_are_no_renames(tmp_path: Path) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16)
    small, large = nn.TransformerEncoder(layer, 2), nn.TransformerEncoder(layer, 3)
    found = compared(small.state_dict(), large.state_dict(), tmp_path)
    assert not found.renamed
    assert {place.key.split(".")[1] for place in found.added} == {"2"}
    # a renamed block among equal ones is none either: which one was it?
    state = {key.replace("layers.1", "blocks.1"): value for key, value in small.state_dict().items()}
    found = compared(small.state_dict(), state, tmp_path)
    assert not found.renamed
    assert all(found.notes[place].startswith("same bytes as ") for place in [*found.added, *found.removed])


def test_a_renamed_subtree_predicts_its_constants(tmp_path: Path) -> None:
    net = nn.Sequential(OrderedDict((f"b{i}", nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))) for i in range(4)))
    state = net.state_dict()
    found = compared(state, {f"body.{key}": value for key, value in state.items()}, tmp_path)
    assert [(old.key, new.key) for old, new in found.renamed] == [(key, f"body.{key}") for key in state]


def test_frozen_backbone_with_trained_head(tmp_path: Path, ckpt: Run) -> None:
    base = {"backbone.w": torch.randn(5), "backbone.n": torch.tensor(3), "head.w": torch.randn(5)}
    tuned = {**base, "head.w": torch.randn(5)}
    torch.save(base, tmp_path / "a.pt")
    torch.save(tuned, tmp_path / "b.pt")
    done = ckpt("diff", tmp_path / "a.pt", tmp_path / "b.pt", "--frozen", "backbone.*")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "# all 2 frozen tensors are as they were"
    assert [line.split("\t")[:2] for line in done.stdout.splitlines() if line.startswith("!")] == [["!", "head.w"]]
    assert ckpt("diff", tmp_path / "a.pt", tmp_path / "b.pt", "--frozen", "head.*", "-q").returncode == 1
    assert ckpt("diff", tmp_path / "a.pt", tmp_path / "b.pt", "--frozen", "neck.*").returncode == 2
    assert ckpt("diff", tmp_path / "a.pt", tmp_path / "b.pt").returncode == 1


def test_a_frozen_or_filtered_tensor_may_have_another_name(tmp_path: Path) -> None:
    state = {"conv.w": torch.randn(5), "fc.w": torch.randn(3)}
    other = {"body.conv.w": state["conv.w"], "fc.w": torch.randn(3)}
    found = compared(state, other, tmp_path, frozen=["conv.*"])
    assert (found.status, found.frozen is not None and len(found.frozen[0])) == (0, 1)
    found = compared(state, other, tmp_path, filter=["conv.*"])
    assert [(old.key, new.key) for old, new in found.renamed] == [("conv.w", "body.conv.w")]
    assert [*found.removed, *found.added] == []


def test_data_parallel_against_its_plain_twin(tmp_path: Path) -> None:
    state = MODELS["mnist"]().state_dict()
    wrapped = {f"module.{key}": value for key, value in state.items()}
    assert compared(wrapped, state, tmp_path, ignore_prefix=["module."]).same
    assert compared(state, wrapped, tmp_path, ignore_prefix=["module"]).same
    assert compared(wrapped, state, tmp_path, rules=["module.** -> **"]).same
    assert not compared(wrapped, state, tmp_path).same


def test_across_formats(tmp_path: Path) -> None:
    state = {"b": torch.randn(3, 4).t().contiguous(), "a": torch.arange(5)}
    save_file(state, tmp_path / "m.safetensors", metadata={"format": "pt"})
    torch.save({key: value.t().contiguous().t() for key, value in state.items()}, tmp_path / "m.pt")
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    files = [ci.open(tmp_path / name) for name in ("m.pt", "m.safetensors", "old.pt")]
    for a in files:
        for b in files:
            assert diff(a, b).same
    shards = ci.open(FIXTURES / "sharded")
    assert diff(shards, shards).same


def test_sections(tmp_path: Path) -> None:
    model = {"w": torch.ones(3), "b": torch.zeros(3)}
    torch.save({"model": model, "ema": {"w": torch.ones(3), "b": torch.ones(3)}, "epoch": 3}, tmp_path / "run.pt")
    whole = ci.open(tmp_path / "run.pt")
    found = diff(whole.select("model"), whole.select("ema"))
    assert [change.name for change in found.changed] == ["b"]
    torch.save(model, tmp_path / "plain.pt")
    found = diff(whole.select("model"), ci.open(tmp_path / "plain.pt"))
    assert found.same
    torch.save({"model": model, "optimizer": {"state": {}, "param_groups": []}}, tmp_path / "other.pt")
    found = diff(ci.open(tmp_path / "other.pt"), ci.open(tmp_path / "plain.pt"))
    assert (found.same, found.not_compared) == (True, ["optimizer"])
    with pytest.raises(ci.SelectionError, match="several could be meant: model, ema"):
        diff(whole, ci.open(tmp_path / "plain.pt"))


def test_a_training_file_and_its_slim_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    ema = {key: value + 1 for key, value in model.state_dict().items()}
    whole = {"model": model.state_dict(), "ema": ema, "optimizer": optimizer.state_dict(), "epoch": 3}
    a, b = str(tmp_path / "a.pt"), str(tmp_path / "b.pt")
    torch.save(whole, a)
    torch.save({"ema": ema, "model": model.state_dict(), "epoch": 4}, b)
    for one, other in ((a, b), (b, a)):
        found = diff(ci.open(one), ci.open(other))
        assert found.same
        assert found.not_compared == ["optimizer"]
        assert in_process(["diff", one, other]) == 0
        assert f"not compared: optimizer (only in {a}), 1 other entry" in capsys.readouterr().out
    drawn = ["".join(text for text, _ in line) for line in render.lines(diff(ci.open(a), ci.open(b)), columns=60)]
    assert (drawn[-2], drawn[-1]) == (f"not compared: optimizer (only in {a}),", "  1 other entry")
    torch.save({"ema": {**ema, "bias": ema["bias"] + 1}, "model": model.state_dict()}, b)
    assert [change.name for change in diff(ci.open(a), ci.open(b)).changed] == ["ema/bias"]
    torch.save({"avg": ema, "model": model.state_dict()}, b)  # which is which is not for us to say
    with pytest.raises(ci.SelectionError, match="several could be meant: model, ema"):
        diff(ci.open(a), ci.open(b))


def test_what_only_one_side_has_is_named_beside_renames(tmp_path: Path) -> None:
    plain = {f"h.{n}.weight": torch.rand(3) for n in range(4)}
    averaged = torch.optim.swa_utils.AveragedModel(nn.Linear(1, 1)).state_dict()
    a, b = tmp_path / "a.pt", tmp_path / "b.pt"
    torch.save(plain, a)
    torch.save({"n_averaged": averaged["n_averaged"], **{f"module.{k}": v for k, v in plain.items()}}, b)
    for one, other, mark in ((a, b, "+"), (b, a, "-")):
        drawn = ["".join(text for text, _ in line) for line in render.lines(diff(ci.open(one), ci.open(other)))]
        assert f"{mark} n_averaged   ()   int64" in drawn


def test_every_row_within_the_tolerance_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = {"moved": torch.ones(3), "signed": torch.zeros(3), "cast": torch.ones(3)}
    b = {"moved": torch.ones(3) + 1e-3, "signed": -torch.zeros(3), "cast": torch.ones(3).half()}
    assert all(torch.allclose(a[key], b[key].float(), atol=0.01) for key in a)
    torch.save(a, tmp_path / "a.pt")
    torch.save(b, tmp_path / "b.pt")
    assert in_process(["diff", str(tmp_path / "a.pt"), str(tmp_path / "b.pt"), "--atol", "0.01"]) == 1
    rows = [row.split("\t") for row in capsys.readouterr().out.splitlines() if row.startswith("!")]
    assert {row[1] for row in rows if "within-tolerance" in row} == {"moved", "signed"}
    found = diff(ci.open(tmp_path / "a.pt"), ci.open(tmp_path / "b.pt"), atol=0.01)
    drawn = "\n".join("".join(text for text, _ in line) for line in render.lines(found, columns=200))
    assert drawn.count("   within tolerance") == 2
    assert "2 within tolerance" in drawn


def test_values(tmp_path: Path) -> None:
    a = {"w": torch.ones(1), "epoch": 1, "lr": 0.1, "hp": {"names": ["a"], "only": None, "same": float("nan")}}
    b = {"w": torch.ones(1), "epoch": 1.0, "lr": 0.2, "hp": {"names": ["a"], "same": float("nan")}}
    found = compared(a, b, tmp_path)
    assert [change.name for change in found.values] == ["epoch", "lr", "hp/only"]
    assert found.to_dict()["values"] == [
        {"name": "epoch", "a": 1, "b": 1.0, "a_type": "int", "b_type": "float", "in": "both"},
        {"name": "lr", "a": 0.1, "b": 0.2, "a_type": "float", "b_type": "float", "in": "both"},
        {"name": "hp/only", "a": None, "b": None, "a_type": "NoneType", "b_type": "missing", "in": "a"},
    ]
    import numpy as np

    a["hp"] = {"array": np.arange(600)}
    b["hp"] = {"array": np.arange(600)[::-1].copy()}
    b["epoch"], b["lr"] = 1, 0.1
    assert [change.name for change in compared(a, b, tmp_path).values] == ["hp/array"]
    assert compared(a, a, tmp_path).same


def test_facts_count_only_with_exact(tmp_path: Path) -> None:
    w = torch.randn(3, 2)
    a = OrderedDict(x=w, y=w, p=torch.nn.Parameter(torch.ones(2)))
    b = OrderedDict(p=torch.ones(2), x=w.t().contiguous().t(), y=w.clone())
    found = compared(a, b, tmp_path)
    assert found.same
    assert set(found.facts) == {
        "requires_grad True -> False", "other strides", "another order of keys", "other ties",
    }  # fmt: skip
    assert not compared(a, b, tmp_path, exact=True).same


def test_quick_trusts_checksums_and_says_so(tmp_path: Path, ckpt: Run) -> None:
    state = {"x": torch.arange(1000.0), "y": torch.ones(9)}
    torch.save(state, tmp_path / "a.pt")
    torch.save({**state, "y": torch.zeros(9)}, tmp_path / "b.pt")
    found = diff(ci.open(tmp_path / "a.pt"), ci.open(tmp_path / "b.pt"), quick=True)
    assert (found.compared_by, [c.name for c in found.changed], len(found.identical)) == ("crc32", ["y"], 1)
    done = ckpt("diff", tmp_path / "a.pt", tmp_path / "b.pt", "--quick")
    assert "trusting the checksums" in done.stdout
    assert done.returncode == 1
    # a byte that was flipped after writing: the checksums still agree, and only reading finds it
    data = bytearray((tmp_path / "a.pt").read_bytes())
    with ci.open(tmp_path / "a.pt") as checkpoint:
        place = checkpoint["x"].storage.data.file_range()  # type: ignore[union-attr]
    assert place is not None
    data[place[1] + 77] ^= 1
    (tmp_path / "c.pt").write_bytes(data)
    assert diff(ci.open(tmp_path / "a.pt"), ci.open(tmp_path / "c.pt"), quick=True).same
    found = diff(ci.open(tmp_path / "a.pt"), ci.open(tmp_path / "c.pt"))
    assert found.status == 2
    assert "fails its checksum" in found.problems[0]
    # without checksums the bytes are read
    save_file(state, tmp_path / "a.safetensors")
    found = diff(ci.open(tmp_path / "a.pt"), ci.open(tmp_path / "a.safetensors"), quick=True)
    assert (found.compared_by, found.same) == ("bytes", True)


def test_keys_only_reads_no_values(tmp_path: Path) -> None:
    found = compared(
        {"x": torch.ones(2), "z": torch.ones(1)}, {"x": torch.zeros(2), "y": torch.ones(1)}, tmp_path, keys_only=True
    )
    assert (found.changed, found.renamed, len(found.identical), found.compared_by) == ([], [], 1, "names")


def test_what_cannot_be_read_is_marked_and_the_rest_goes_on(tmp_path: Path, ckpt: Run) -> None:
    state = {f"k{i}": torch.randn(2000) for i in range(5)}
    torch.save(state, tmp_path / "a.pt")
    data = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[: len(data) // 2])
    found = diff(ci.open(tmp_path / "a.pt"), ci.open(tmp_path / "cut.pt"))
    assert found.status == 2
    assert not found.same
    assert len(found.identical) + sum("not compared" in problem for problem in found.problems) == 5
    assert ckpt("diff", tmp_path / "a.pt", tmp_path / "cut.pt").returncode == 2


def test_big_endian_storages_are_read_in_their_order(tmp_path: Path) -> None:
    state = {"x": torch.arange(5, dtype=torch.int32), "h": torch.randn(4).half()}
    torch.save(state, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as old, zipfile.ZipFile(tmp_path / "b.pt", "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("byteorder"):
                data = b"big"
            if "/data/" in name:
                size = 4 if len(data) == 20 else 2
                data = b"".join(data[i : i + size][::-1] for i in range(0, len(data), size))
            new.writestr(name, data)
    assert diff(ci.open(tmp_path / "a.pt"), ci.open(tmp_path / "b.pt")).same


def test_compound_tensors_by_their_parts(tmp_path: Path) -> None:
    dense = torch.randn(4, 4)
    dense[dense < 0] = 0
    sparse = dense.to_sparse()
    scaled = torch.sparse_coo_tensor(sparse.indices(), sparse.values() * 2, sparse.shape, check_invariants=True)
    q = torch.quantize_per_tensor(torch.randn(6), 0.1, 3, torch.quint8)
    other_scale = torch._make_per_tensor_quantized_tensor(q.int_repr(), 0.2, 3)
    found = compared({"s": sparse, "q": q}, {"s": sparse.clone(), "q": q.clone()}, tmp_path)
    assert found.same
    found = compared({"s": sparse, "q": q}, {"s": scaled, "q": other_scale}, tmp_path)
    assert [change.name for change in found.changed] == ["s", "q"]
    first, second = (change.metrics for change in found.changed)
    assert first is not None
    assert first.relative_norm == pytest.approx(1)
    assert second is not None
    assert second.max_abs == pytest.approx((other_scale.dequantize() - q.dequantize()).abs().max().item(), rel=1e-6)


def test_every_fixture_is_the_same_as_itself_and_as_its_copy(fixtures: Path, tmp_path: Path) -> None:
    for path in sorted(fixtures.iterdir()):
        if path.suffix in (".pt", ".pth", ".ckpt", ".safetensors", ".tar") and path.name != "lfs-pointer.pt":
            copy = tmp_path / path.name
            copy.write_bytes(path.read_bytes())
            if path.name == "page.pt":
                continue
            found = diff(ci.open(path), ci.open(copy))
            assert found.same, path.name
            assert len(found.identical) == len(ci.open(path))


def test_json(tmp_path: Path, ckpt: Run) -> None:
    torch.save({"a.w": torch.zeros(2), "gone": torch.ones(3)}, tmp_path / "a.pt")
    torch.save({"a.w": torch.tensor([0.0, math.inf]), "new": torch.ones(4)}, tmp_path / "b.pt")
    done = ckpt("diff", tmp_path / "a.pt", tmp_path / "b.pt", "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert (found["same"], found["added"], found["removed"], found["identical"]) == (False, ["new"], ["gone"], 0)
    (change,) = found["changed"]
    assert (change["key"], change["what"], change["max_abs"], change["cosine"]) == ("a.w", ["values"], "Infinity", None)
    assert change["note"] == "1 Inf appeared"


def test_without_a_difference_torch_is_not_imported(tmp_path: Path) -> None:
    import subprocess
    import sys

    torch.save({"w": torch.randn(100)}, tmp_path / "a.pt")
    torch.save({"w": torch.load(tmp_path / "a.pt")["w"]}, tmp_path / "b.pt")
    code = (
        "import sys; from ckpt_inspect.cli.app import run; status = run(sys.argv[1:]); "
        "sys.exit(status or 'torch' in sys.modules or 'numpy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "diff", str(tmp_path / "a.pt"), str(tmp_path / "b.pt")], check=False
    )
    assert done.returncode == 0


def test_a_file_against_itself_reads_nothing(tmp_path: Path) -> None:
    torch.save(
        {"w": torch.randn(300, 200).t(), "e": torch.ones(1).expand(1 << 40), "n": torch.ones(5)}, tmp_path / "a.pt"
    )
    read: list[int] = []
    a, b = ci.open(tmp_path / "a.pt"), ci.open(tmp_path / "a.pt")
    assert diff(a, b, progress=read.append).same
    assert read == []


# -- what to type next ---------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["module.", "model.module."])
def test_a_prefix_that_keeps_all_names_apart_is_named(prefix: str, tmp_path: Path) -> None:
    plain = {"a.weight": torch.ones(2), "a.bias": torch.ones(3), "b": torch.zeros(1)}
    torch.save(plain, tmp_path / "plain.pt")
    torch.save({prefix + key: tensor + 1 for key, tensor in plain.items()}, tmp_path / "wrapped.pt")
    one, other = ci.open(tmp_path / "plain.pt"), ci.open(tmp_path / "wrapped.pt")
    assert diff(one, other).prefix == prefix
    assert diff(other, one).prefix == prefix
    found = diff(one, other, ignore_prefix=[prefix])
    assert (found.prefix, len(found.changed), found.added) == (None, 3, [])


def test_names_that_have_nothing_in_common_are_not_explained(tmp_path: Path) -> None:
    torch.save({"a.x": torch.ones(2), "a.y": torch.ones(3)}, tmp_path / "a.pt")
    torch.save({"b.u": torch.ones(2) * 2, "b.v": torch.ones(3) * 3}, tmp_path / "b.pt")
    assert diff(ci.open(tmp_path / "a.pt"), ci.open(tmp_path / "b.pt")).prefix is None


# -- nothing is passed off as something else ----------------------------------------------------------


def cut(path: Path, part: float) -> Path:
    data = path.read_bytes()
    shorter = path.with_name("cut" + path.suffix)
    shorter.write_bytes(data[: int(len(data) * part)])
    return shorter


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_tensors_that_are_not_there_are_not_identical(suffix: str, tmp_path: Path, ckpt: Run) -> None:
    tensors = {f"w{n}": torch.full((1000,), float(n)) for n in range(5)}
    (save_file if suffix == ".safetensors" else torch.save)(tensors, tmp_path / f"x{suffix}")
    short = cut(tmp_path / f"x{suffix}", 0.5)
    for one, other in ((short, short), (tmp_path / f"x{suffix}", short)):
        done = ckpt("diff", one, other)
        assert done.returncode == 2
        marks = [line.partition("\t")[0] for line in done.stdout.splitlines()]
        assert marks.count("?") >= 2
        assert f"{5 - marks.count('?')} identical" in done.stdout.splitlines()[-1]
        assert f"{marks.count('?')} not compared" in done.stdout.splitlines()[-1]
    done = ckpt("diff", tmp_path / f"x{suffix}", short, "--frozen", "w4")
    assert "1 of 1 frozen tensor could not be compared" in done.stdout
    assert done.returncode == 2


def test_a_damaged_tensor_that_was_renamed_is_damaged(tmp_path: Path) -> None:
    values = torch.arange(6.0) + 0.5
    torch.save({"w": values, "b": torch.ones(3, 3)}, tmp_path / "a.pt")
    torch.save({"x.w": values, "x.b": torch.ones(3, 3)}, tmp_path / "b.pt")
    data = bytearray((tmp_path / "a.pt").read_bytes())
    data[data.index(values.numpy().tobytes()) + 5] ^= 4
    (tmp_path / "a.pt").write_bytes(data)
    found = diff(ci.open(tmp_path / "a.pt"), ci.open(tmp_path / "b.pt"))
    assert [place.key for place in found.removed] == ["w"]
    assert found.problems == [
        "w: the first file: record data/0 fails its checksum: it was damaged after it was written"
    ]
    assert found.status == 2


MIXED = [
    (torch.tensor([2**53 + 1, 5]), torch.tensor([2**53, 5], dtype=torch.uint64)),
    (torch.tensor([2**53 + 1, 5]), torch.tensor([2.0**53, 5.0], dtype=torch.float64)),
    (torch.tensor([-3, 2**62 + 1, -(2**63), 2**63 - 1, 0]),
     torch.tensor([3, 2**62, 2**63, 2**63 + 7, 2**64 - 1], dtype=torch.uint64)),
    (torch.tensor([2**64 - 1, 2**63, 2**53 + 1, 7], dtype=torch.uint64),
     torch.tensor([2.0**63, 2.0**63, 2.0**53, 7.25], dtype=torch.float64)),
    (torch.tensor([2**53 + 1, 1]), torch.tensor([1.0, 1.0])),
    (torch.tensor([1, 2, 3], dtype=torch.int32), torch.tensor([1.0, 2.0, 3.5], dtype=torch.float16)),
]  # fmt: skip


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("pair", MIXED)
def test_integers_are_exact_beside_floats_and_unsigned_ones(
    pair: tuple[torch.Tensor, torch.Tensor], turned: bool, tmp_path: Path
) -> None:
    x, y = pair[::-1] if turned else pair
    found = compared({"x": x}, {"x": y}, tmp_path).changed[0].metrics
    apart = [abs(Fraction(b) - Fraction(a)) for a, b in zip(x.tolist(), y.tolist(), strict=True)]
    assert found is not None
    assert found.changed == sum(map(bool, apart))
    assert found.max_abs == pytest.approx(float(max(apart)), rel=1e-15)


def test_quick_says_nothing_of_nearness() -> None:
    one = ci.open(FIXTURES / "lenet.pt")
    with pytest.raises(ci.SelectionError, match="checksums tell whether bytes differ, not by how much"):
        diff(one, one, quick=True, atol=1e-3)


def test_a_module_is_the_same_as_its_state_dict(tmp_path: Path) -> None:
    module = nn.BatchNorm1d(2)
    module.register_buffer("table", torch.arange(3.0), persistent=False)
    torch.save(module, tmp_path / "whole.pt")
    torch.save(module.state_dict(), tmp_path / "dict.pt")
    found = diff(ci.open(tmp_path / "dict.pt"), ci.open(tmp_path / "whole.pt"))
    assert found.same
    assert found.facts["not in state_dict(): table"] == 1
    assert diff(ci.open(tmp_path / "whole.pt"), ci.open(tmp_path / "whole.pt")).same


def test_recorded_ties_count_only_with_exact(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    net[1].weight = net[0].weight
    save_model(net, str(tmp_path / "tied.safetensors"))
    save_file({key: value.clone() for key, value in net.state_dict().items()}, tmp_path / "two.safetensors")
    assert diff(ci.open(tmp_path / "tied.safetensors"), ci.open(tmp_path / "two.safetensors")).same


def test_prefixes_that_are_ignored_one_after_the_other(tmp_path: Path) -> None:
    torch.save({"module._orig_mod.w": torch.ones(1)}, tmp_path / "a.pt")
    torch.save({"w": torch.ones(1)}, tmp_path / "b.pt")
    one, other = ci.open(tmp_path / "a.pt"), ci.open(tmp_path / "b.pt")
    assert diff(one, other, ignore_prefix=["module", "_orig_mod."]).same
    with pytest.raises(ci.RuleError, match=r"no key of either side begins with 'other\.'"):
        diff(one, other, ignore_prefix=["module", "other"])


def test_blocks_that_were_swapped_or_moved_on_say_where_their_bytes_stood(tmp_path: Path) -> None:
    a = {f"l.{n}.w": torch.randn(3, 3) for n in range(3)}
    swapped = {"l.0.w": a["l.1.w"], "l.1.w": a["l.0.w"], "l.2.w": a["l.2.w"]}
    notes = {change.place.key: change.note for change in compared(a, swapped, tmp_path).changed}
    assert notes == {"l.0.w": "the bytes that l.1.w had", "l.1.w": "the bytes that l.0.w had"}
    moved = {"l.0.w": torch.randn(3, 3), **{f"l.{n + 1}.w": a[f"l.{n}.w"] for n in range(3)}}
    found = compared(a, moved, tmp_path)
    assert [change.note for change in found.changed] == [None, "the bytes that l.0.w had", "the bytes that l.1.w had"]
    assert list(found.notes.values()) == ["the bytes that l.2.w had"]


def test_another_scale_is_named(tmp_path: Path) -> None:
    x = torch.tensor([0.4, 0.8])
    old, new = (torch.quantize_per_tensor(x, scale, 0, torch.quint8) for scale in (0.1, 0.2))
    (change,) = compared({"x": old}, {"x": new}, tmp_path).changed
    assert change.note is not None
    assert "another scale of quantization" in change.note
    assert "zeros" not in change.note


@pytest.mark.parametrize("whole", [True, False])
def test_a_model_of_the_users_says_nothing_of_gradients_and_attributes(
    whole: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A state_dict has neither, and a model that is only built has no values to compare."""
    from tests.conftest import in_process

    path = FIXTURES / "lenet.pt"
    if not whole:
        path = tmp_path / "weights.pt"
        model = nets().LeNet(classes=10)
        torch.save(model.state_dict(), path)
    spec = f"{FIXTURES / 'nets.py'}:LeNet"
    assert in_process(["diff", str(path), "--model", spec, "--kwargs", '{"classes": 10}', "--exact"]) == 0
    assert capsys.readouterr().out == "# the same: 10 identical in name, shape and dtype\n"


def nets() -> Any:
    import runpy
    from types import SimpleNamespace

    return SimpleNamespace(**runpy.run_path(str(FIXTURES / "nets.py")))


@pytest.mark.parametrize("named", [True, False])
def test_state_of_an_optimizer_names_its_parameter(named: bool, tmp_path: Path) -> None:
    """As the file records it, or with a mark as derived from the weights beside it."""
    from ckpt_inspect.render.diff import lines
    from ckpt_inspect.render.plain import texts

    def saved(steps: int) -> ci.Checkpoint:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
        parameters = model.named_parameters() if named else model.parameters()
        optimizer = torch.optim.Adam(parameters)
        for _ in range(steps):
            model(torch.ones(1, 4)).sum().backward()
            optimizer.step()
        path = tmp_path / f"{steps}.pt"
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
        return ci.open(path)

    found = [text.strip() for text in texts(lines(diff(saved(1), saved(2))))]
    mark = "" if named else "~"
    for index, key in enumerate(["0.weight", "0.bias", "1.weight", "1.bias"]):
        assert f"{index}   of model/{key}{mark}" in found
