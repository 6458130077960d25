"""``stats``, ``show`` and ``hash`` against torch and numpy."""

from __future__ import annotations

import json
import math
import subprocess
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import ckpt_inspect as ci
from ckpt_inspect.operations.hash import hash
from ckpt_inspect.operations.npy import save_npy
from ckpt_inspect.operations.show import show, sliced
from ckpt_inspect.operations.stats import stats
from tests.conftest import FIXTURES, Run, in_process
from tests.operations.test_diff import DTYPES, EIGHTS, INTEGERS, random_tensor, wide
from tests.zoo import files

pytestmark = [
    pytest.mark.filterwarnings("ignore:ComplexHalf support"),
    pytest.mark.filterwarnings("ignore:torch.quantize_per_"),
]


def saved(value: object, where: Path, name: str = "x.pt") -> ci.Checkpoint:
    torch.save(value, where / name)
    return ci.open(where / name)


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    dtype = draw(st.sampled_from(DTYPES))
    made = random_tensor(draw, dtype, draw(st.lists(st.integers(0, 4), max_size=3)))
    if made.dim() > 1 and dtype not in EIGHTS and draw(st.booleans()):
        made = made.transpose(0, 1)
    return made


@settings(max_examples=200, deadline=None)
@given(x=tensors())
def test_stats_agree_with_torch(x: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> None:
    (row,) = stats(saved({"x": x}, tmp_path_factory.getbasetemp())).rows
    found = row.stats
    assert found is not None
    flat = wide(x.contiguous()).flatten()
    finite = torch.isfinite(flat)
    assert (found.count, found.finite) == (x.numel(), int(finite.sum()))
    assert found.nan == int(torch.isnan(flat).sum())
    assert found.inf == x.numel() - found.finite - found.nan
    bad = (~finite).nonzero().flatten()
    assert found.first_bad == (int(bad[0]) if len(bad) else None)
    if len(bad):
        place = np.unravel_index(int(bad[0]), tuple(x.shape)) if x.dim() else ()
        assert row.first_bad == tuple(int(i) for i in place)
    flat = flat[finite]
    assert found.zeros == int((flat == 0).sum())
    if not found.finite:
        assert (found.mean, found.std, found.low, found.norm) == (None, None, None, 0.0)
        return
    size = flat.abs() if x.is_complex() else flat
    if x.dtype in INTEGERS:
        assert (found.low, found.high) == (min(x.flatten().tolist()), max(x.flatten().tolist()))
    else:
        assert found.low == pytest.approx(size.min().item())
        assert found.high == pytest.approx(size.max().item())
    assert found.mean == pytest.approx(size.mean().item(), rel=1e-9, abs=1e-12)
    assert found.std == pytest.approx(size.std(correction=0).item(), rel=1e-6, abs=1e-9)
    assert found.norm == pytest.approx(size.norm().item(), rel=1e-9)
    if not (x.is_floating_point() or x.is_complex()):
        assert found.dead_rows is None  # a row of zeros is an index like any other
    elif x.dim() > 1 and x.shape[0] and not found.all_zero:
        rows = (wide(x.contiguous()).reshape(x.shape[0], -1) != 0).any(1)
        assert found.dead_rows == int((~rows).sum())


def test_stats_over_many_chunks(tmp_path: Path) -> None:
    x = torch.randn(70_000, 300, generator=torch.Generator().manual_seed(1))
    x[65_000:65_010] = 0
    x[-1, -1] = math.nan
    (row,) = stats(saved({"x": x}, tmp_path)).rows
    found = row.stats
    assert found is not None
    good = x[torch.isfinite(x)].double()
    assert found.mean == pytest.approx(good.mean().item(), rel=1e-9)
    assert found.std == pytest.approx(good.std(correction=0).item(), rel=1e-9)
    assert (found.dead_rows, row.first_bad, found.nan) == (10, (69_999, 299), 1)


def test_marks(tmp_path: Path) -> None:
    state = {
        "zeros": torch.zeros(3), "constant": torch.full((3,), 2.0), "nan": torch.tensor([1.0, math.nan, math.inf]),
        "dead": torch.tensor([[0.0, 0.0], [1.0, 2.0]]), "edge": torch.tensor([65504.0, 1.0], dtype=torch.float16),
        "fine": torch.randn(3), "one": torch.tensor(0),
    }  # fmt: skip
    marks = {row.key: row.marks for row in stats(saved(state, tmp_path)).rows}
    assert marks == {
        "zeros": ["all zeros"], "constant": ["constant"], "nan": ["1 NaN", "1 Inf"], "dead": ["1 dead row"],
        "edge": ["1 at the edge of float16"], "fine": [], "one": [],
    }  # fmt: skip


def test_quantized_through_their_scales(tmp_path: Path) -> None:
    x = torch.randn(4, 5)
    q = torch.quantize_per_tensor(x, 0.05, 3, torch.quint8)
    channels = torch.quantize_per_channel(x, torch.rand(5) + 0.01, torch.arange(5), 1, torch.qint8)
    for made, row in zip((q, channels), stats(saved({"q": q, "c": channels}, tmp_path)).rows, strict=True):
        real = made.dequantize().double()
        assert row.stats is not None
        assert row.stats.mean == pytest.approx(real.mean().item(), rel=1e-5)
        assert row.stats.high == pytest.approx(real.max().item(), rel=1e-5)


def test_modules_add_up(tmp_path: Path) -> None:
    state = {"a.b.w": torch.randn(5), "a.b.bias": torch.randn(2), "a.c": torch.randn(3), "n": torch.tensor(4)}
    found = {module.name: module.stats for module in stats(saved(state, tmp_path)).modules}
    both = torch.cat([state["a.b.w"], state["a.b.bias"]]).double()
    assert list(found) == ["", "a", "a.b"]
    assert found["a.b"].std == pytest.approx(both.std(correction=0).item())
    assert (found["a"].count, found[""].count) == (10, 10)


def test_modules_of_different_sections_stay_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = torch.nn.Sequential(OrderedDict(conv=torch.nn.Linear(3, 4), head=torch.nn.Linear(4, 2)))
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    ema = {key: value * 0.5 for key, value in net.state_dict().items()}
    whole = saved({"model": net.state_dict(), "ema": ema, "optimizer": optimizer.state_dict()}, tmp_path)
    found = {module.name: module for module in stats(whole).modules}
    flat = torch.cat([value.detach().flatten().double() for value in net[0].parameters()])
    assert found["model/conv"].stats.count == found["ema/conv"].stats.count == flat.numel()
    assert found["model/conv"].stats.norm == pytest.approx(flat.norm().item())
    assert found["ema/conv"].stats.norm == pytest.approx(flat.norm().item() / 2)
    assert [found[name].section for name in ("model", "ema/head", "optimizer/state/0")] == ["model", "ema", "optimizer"]
    assert in_process(["stats", whole.path, "--modules", "--json"]) == 0
    written = {module["name"]: module for module in json.loads(capsys.readouterr().out)["modules"]}
    assert list(written) == list(found)
    assert written["ema/conv"]["section"] == "ema"
    assert in_process(["stats", f"{whole.path}#ema", "--modules"]) == 0
    assert [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()] == ["(all)", "conv", "head"]
    assert in_process(["stats", whole.path, "--modules"]) == 0
    names = [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()]
    assert names[:4] == ["model", "model/conv", "model/head", "ema"]


def test_check(tmp_path: Path, ckpt: Run) -> None:
    saved({"w": torch.tensor([[1.0, 2.0], [math.nan, math.inf]]), "b": torch.ones(3)}, tmp_path)
    done = ckpt("stats", tmp_path / "x.pt", "--check")
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "w   1 NaN and 1 Inf, 50.00% of it, the first at [1, 0]", "1 tensor of 2 with NaN or Inf",
    ]  # fmt: skip
    assert ckpt("stats", tmp_path / "x.pt").returncode == 0
    assert ckpt("stats", "run.ckpt", "--check", "-q").returncode == 0
    assert json.loads(ckpt("stats", tmp_path / "x.pt", "--json").stdout)["finite"] is False


@pytest.mark.parametrize("name", [n for n in files.names() if files.FORMATS[n] not in (files.DCP, files.PT2)])
def test_every_kind_of_file(name: str, tmp_path: Path) -> None:
    """Nothing but a note or a number for any tensor that torch writes; the same hash twice."""
    path = files.FILES[name](tmp_path)
    found = stats(ci.open(path))
    assert found.problems == [] or all("expands" in problem for problem in found.problems)
    first, second = hash(ci.open(path)), hash(ci.open(path))
    assert first.text == second.text
    assert (first.whole is None) == bool(first.problems)


# -- show ----------------------------------------------------------------------------------------------


SLICES = ["0", "-1", ":2", "1:", "::2", "0,1", ":,1:3", "1:1", "-3:-1,::3", "2,:,0", "0,0,0", ""]


@pytest.mark.parametrize("text", SLICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64])
def test_slices_are_those_of_torch(text: str, dtype: torch.dtype, tmp_path: Path) -> None:
    x = torch.arange(60).reshape(3, 5, 4).to(dtype).transpose(0, 1)[1:]
    found = show(saved({"x": x}, tmp_path), "x", slice=text)
    expected = eval(f"x[{text}]", {"x": x}) if text else x
    assert found.values == expected.tolist()
    assert found.sliced == tuple(expected.shape)


@pytest.mark.parametrize("text", ["5", "0,0,0,0", "x", "::-1", "1.5", "::0", "0 1", ","])
def test_slices_that_are_none(text: str, tmp_path: Path) -> None:
    with pytest.raises(ci.SelectionError):
        sliced(saved({"x": torch.zeros(3, 4, 2)}, tmp_path)["x"], text)


def test_histogram_is_that_of_torch(tmp_path: Path) -> None:
    x = torch.randn(10_000, dtype=torch.float64)
    found = show(saved({"x": x}, tmp_path), "x")
    expected = torch.histc(x, 40, x.min().item(), x.max().item())
    assert sum(found.histogram) == 10_000
    assert max(abs(a - int(b)) for a, b in zip(found.histogram, expected, strict=True)) <= 1


def test_where_the_bytes_lie(tmp_path: Path) -> None:
    base = torch.arange(100.0)
    (tmp_path / "out").mkdir()
    found = show(saved({"x": base[10:20], "y": base[10:20]}, tmp_path), "x")
    (where,) = found.where
    data = (tmp_path / "x.pt").read_bytes()
    assert data[where.start : where.start + where.nbytes] == base[10:20].numpy().tobytes()  # type: ignore[operator]
    assert found.tied == ["y"]


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d != torch.complex32])
def test_npy_is_what_numpy_reads(dtype: torch.dtype, tmp_path: Path) -> None:
    x = (torch.arange(12).reshape(3, 4) % 5).to(dtype).t()
    checkpoint = saved({"x": x, "scalar": x[0, 0].clone()}, tmp_path)
    for name, tensor in (("x", x), ("scalar", x[0, 0])):
        save_npy(checkpoint, name, str(tmp_path / "x.npy"), force=True)
        found = np.load(tmp_path / "x.npy")
        assert found.shape == tuple(tensor.shape)
        assert np.array_equal(found, wide(tensor.contiguous()).numpy().astype(found.dtype))
    with pytest.raises(ci.OutputExistsError):
        save_npy(checkpoint, "x", str(tmp_path / "x.npy"))


class Odd:
    def __init__(self) -> None:
        self.answer = 42
        self.inside = {"list": [1, 2, [3]], "tensor": torch.ones(2)}


def test_other_values_are_printed_inertly(tmp_path: Path) -> None:
    checkpoint = saved({"w": torch.ones(1), "odd": Odd(), "hp": {"lr": 0.1, "names": ["a", "b"]}, "n": 3}, tmp_path)
    assert show(checkpoint, "n").text == ["3"]
    assert show(checkpoint, "hp").text == ["lr = 0.1", "names = ['a', 'b']"]
    assert show(checkpoint, "hp/names").to_dict()["value"] == ["a", "b"]
    with pytest.raises(ci.MissingKeyError):
        show(checkpoint, "nothing")
    with pytest.raises(ci.SelectionError):
        show(checkpoint, "n", slice="0")


def test_an_unknown_object_shows_its_class_and_fields(ckpt: Run, tmp_path: Path) -> None:
    import argparse

    saved({"args": argparse.Namespace(lr=0.1, layers=[1, 2]), "w": torch.ones(1)}, tmp_path)
    done = ckpt("show", tmp_path / "x.pt", "args")
    assert done.returncode == 0
    assert "lr = 0.1" in done.stdout


# -- hash ----------------------------------------------------------------------------------------------


def test_hash_is_independent_of_everything_but_content(tmp_path: Path) -> None:
    w = torch.randn(3, 4)
    state = {"b": w, "a": torch.arange(5), "c": torch.tensor(2.5), "d": w.clone()}
    first = hash(saved(state, tmp_path, "a.pt"))
    shuffled = OrderedDict((key, state[key]) for key in "dcab")
    shuffled["b"] = w.t().contiguous().t()  # other strides
    shuffled["d"] = shuffled["b"]  # tied
    others = [saved(shuffled, tmp_path, "other-name.bin")]
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / "m.safetensors", metadata={"format": "pt"})
    torch.save({"model": state, "epoch": 3}, tmp_path / "run.ckpt")
    others += [ci.open(tmp_path / name) for name in ("old.pth", "m.safetensors", "run.ckpt")]
    others += [ci.open(tmp_path / "run.ckpt", "model")]
    assert {hash(other).text for other in others} == {first.text}


def test_a_conversion_hashes_the_same_ties_too(tmp_path: Path) -> None:
    from ckpt_inspect.operations.diff import diff

    w = torch.randn(4, 3)
    checkpoint = saved({"wte": w, "half": w[:2], "head": w, "t": w.t(), "n": torch.tensor(3)}, tmp_path)
    for name in ("x.safetensors", "shards"):
        kind = "sharded" if name == "shards" else "safetensors"
        ci.save(ci.convert(checkpoint, format=kind), str(tmp_path / name))
        other = ci.open(tmp_path / name)
        assert "head" not in other
        assert hash(other).text == hash(checkpoint).text
        assert diff(checkpoint, other).same
        assert diff(other, checkpoint).same


def test_hash_sees_every_bit_key_dtype_and_shape(tmp_path: Path) -> None:
    state = {"a": torch.zeros(2, 3), "b": torch.zeros(6, dtype=torch.int32)}
    variants: list[Any] = [
        state, {"a": torch.zeros(3, 2), "b": state["b"]}, {"a": state["a"], "c": state["b"]},
        {"a": state["a"], "b": state["b"].float()}, {"a": -state["a"], "b": state["b"]}, {"a": state["a"]},
        {"ab": state["a"], "": state["b"]}, {"x": state},
    ]  # fmt: skip
    texts = [hash(saved(variant, tmp_path)).text for variant in variants]
    assert texts[0] == texts[-1]  # one section below: the same weights
    assert len(set(texts)) == len(variants) - 1
    structures = [hash(saved(variant, tmp_path), structure=True).text for variant in variants]
    assert structures[0] == structures[4]
    assert len(set(structures)) == len(variants) - 2
    assert not set(texts) & set(structures)


def test_hash_is_what_the_documentation_says(tmp_path: Path) -> None:
    import hashlib

    state = {"w": torch.arange(6, dtype=torch.int16).reshape(2, 3), "é": torch.tensor(1.5)}
    parts = {
        "w": hashlib.sha256(b"int16\x002,3\x00" + state["w"].numpy().tobytes()).digest(),
        "é": hashlib.sha256(b"float32\x00\x00" + state["é"].numpy().tobytes()).digest(),
    }
    whole = hashlib.sha256(b"ckpt1\x00" + b"1\x00w" + parts["w"] + b"2\x00" + "é".encode() + parts["é"])
    assert hash(saved(state, tmp_path)).text == f"ckpt1:{whole.hexdigest()}"


def test_git_shows_what_changed(tmp_path: Path, ckpt: Run) -> None:
    """The two lines of configuration of the README, and a pointer of git-lfs in the history."""
    import os
    import sys

    def git(*arguments: str) -> str:
        environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
        name = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(
            ["git", *name, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    git("init", "-q")
    git("config", "diff.ckpt.textconv", f"{sys.executable} -m ckpt_inspect hash --textconv")
    (tmp_path / ".gitattributes").write_text("*.pt diff=ckpt\n")
    (tmp_path / "m.pt").write_bytes((FIXTURES / "lfs-pointer.pt").read_bytes())
    git("add", ".")
    git("commit", "-qm", "pointer")
    for value in (0.0, 1.0):
        torch.save({"a": torch.ones(3), "b": torch.full((2,), value)}, tmp_path / "m.pt")
        git("commit", "-qam", "weights")
    log = git("log", "-p", "--", "m.pt")
    changed = [line.split("\t")[0] for line in log.splitlines() if line[:1] in "+-" and "\t" in line]
    assert changed == ["-b", "+b", "+a", "+b"]
    assert "a git-LFS pointer" in log


# -- on a GPU ------------------------------------------------------------------------------------------


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_computes_the_same(tmp_path: Path) -> None:
    from ckpt_inspect.operations.diff import diff

    generator = torch.Generator().manual_seed(0)
    a = {str(dtype): (torch.randn(100, 70, generator=generator) * 9).abs().to(dtype) for dtype in DTYPES}
    b = {
        key: (value.float() * 1.5).to(value.dtype) if value.dtype.is_floating_point else value
        for key, value in a.items()
    }
    one, other = saved(a, tmp_path, "a.pt"), saved(b, tmp_path, "b.pt")
    for cpu, gpu in zip(stats(one).rows, stats(one, device="cuda").rows, strict=True):
        assert cpu.stats is not None
        assert gpu.stats is not None
        assert gpu.stats.std == pytest.approx(cpu.stats.std, rel=1e-9)
        assert (gpu.stats.low, gpu.stats.high, gpu.stats.zeros) == (cpu.stats.low, cpu.stats.high, cpu.stats.zeros)
    for here, there in zip(diff(one, other).changed, diff(one, other, device="cuda").changed, strict=True):
        assert here.metrics is not None
        assert there.metrics is not None
        assert there.metrics.max_abs == pytest.approx(here.metrics.max_abs, rel=1e-12)
        assert there.metrics.cosine == pytest.approx(here.metrics.cosine, rel=1e-9)
        assert there.metrics.changed == here.metrics.changed


def test_a_device_that_is_not_there(ckpt: Run) -> None:
    done = ckpt("stats", "lenet.pt", "--device", "nonsense")
    assert done.returncode == 2
    assert done.stderr.startswith("ckpt: no device 'nonsense' here")


# -- sparse --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["coo", "csr", "csc", "bsr", "hybrid"])
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.filterwarnings("ignore:Sparse B?CS. tensor support")
@pytest.mark.filterwarnings("ignore:Sparse BSR tensor support")
def test_stats_of_a_sparse_tensor_are_those_of_the_dense_one(layout: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    dense = torch.randn(6, 8) * (torch.rand(6, 8) < 0.3)
    made = {
        "coo": lambda: dense.to_sparse(),
        "csr": lambda: dense.to_sparse_csr(),
        "csc": lambda: dense.to_sparse_csc(),
        "bsr": lambda: dense.to_sparse_bsr((2, 2)),
        "hybrid": lambda: dense.to_sparse(1),
    }[layout]()
    (row,) = stats(saved({"x": made}, tmp_path)).rows
    found = row.stats
    assert found is not None
    assert found.count == dense.numel()
    assert found.zeros == int((dense == 0).sum())
    assert found.low == pytest.approx(dense.min().item())
    assert found.high == pytest.approx(dense.max().item())
    assert found.mean == pytest.approx(dense.double().mean().item())
    assert found.std == pytest.approx(dense.double().std(correction=0).item())
    assert found.norm == pytest.approx(dense.double().norm().item())
    assert row.note is None
    histogram = torch.histc(dense, 40, dense.min().item(), dense.max().item())
    assert sum(show(ci.open(tmp_path / "x.pt"), "x").histogram) == int(histogram.sum())
    assert max(show(ci.open(tmp_path / "x.pt"), "x").histogram) == int(histogram.max())


def test_stats_of_values_that_may_add_up(tmp_path: Path) -> None:
    twice = torch.sparse_coo_tensor(torch.tensor([[0, 0]]), torch.tensor([1.0, -1.0]), (5,), check_invariants=True)
    (row,) = stats(saved({"x": twice}, tmp_path)).rows
    assert row.stats is not None
    assert row.stats.count == 2
    assert row.note is not None
    assert row.note.startswith("not coalesced")


def test_the_first_nan_of_a_sparse_tensor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dense = torch.zeros(4, 4)
    dense[1, 2], dense[3, 3] = 1.0, float("nan")
    torch.save({"x": dense.to_sparse()}, tmp_path / "x.pt")
    assert in_process(["stats", str(tmp_path / "x.pt"), "--check"]) == 1
    assert "1 NaN, 6.25% of it, the first at value 1 of those stored" in capsys.readouterr().out


# -- a check of nothing --------------------------------------------------------------------------------


def test_a_filter_that_matches_nothing_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    lenet = str(FIXTURES / "lenet.pt")
    for command in (["stats", lenet, "--check"], ["stats", lenet], ["diff", lenet, lenet]):
        assert in_process([*command, "--filter", "*.wieght"]) == 2
        said = capsys.readouterr()
        assert "--filter '*.wieght' matches no tensor" in said.err
        assert not said.out
    assert in_process(["diff", str(FIXTURES / "run.ckpt"), str(FIXTURES / "run.ckpt"), "--filter", "epoch"]) == 0


def test_npy_of_quantized_values_is_what_they_stand_for(tmp_path: Path) -> None:
    x = torch.randn(4, 3)
    by_tensor = torch.quantize_per_tensor(x, 0.05, 3, torch.quint8)
    by_channel = torch.quantize_per_channel(x, torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.zeros(4), 0, torch.qint8)
    checkpoint = saved({"t": by_tensor, "c": by_channel}, tmp_path)
    for name, tensor in (("t", by_tensor), ("c", by_channel)):
        assert save_npy(checkpoint, name, str(tmp_path / "x.npy"), force=True) == "float32"
        assert np.allclose(np.load(tmp_path / "x.npy"), tensor.dequantize().numpy(), rtol=1e-6)
    save_npy(checkpoint, "t", str(tmp_path / "x.npy"), slice="1", force=True)
    assert np.allclose(np.load(tmp_path / "x.npy"), by_tensor.dequantize()[1].numpy(), rtol=1e-6)


def test_npy_says_why_not(tmp_path: Path) -> None:
    checkpoint = saved({"s": torch.eye(3).to_sparse(), "n": 3, "w": torch.ones(2)}, tmp_path)
    with pytest.raises(ci.UnsupportedError, match=r"'s' is sparse_coo, made of indices, values"):
        save_npy(checkpoint, "s", str(tmp_path / "x.npy"))
    with pytest.raises(ci.UnsupportedError, match="'n' is no tensor"):
        save_npy(checkpoint, "n", str(tmp_path / "x.npy"))
    with pytest.raises(ci.MissingKeyError):
        save_npy(checkpoint, "nothing", str(tmp_path / "x.npy"))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("text", ["0", "0:2", "1:3,1", ":,1", "1,1", "-1", "::2,::2", ""])
def test_slices_of_tensors_quantized_by_channels(text: str, axis: int, tmp_path: Path) -> None:
    scales, zeros = torch.tensor([0.1, 0.2, 0.5]), torch.tensor([0, 1, 2])
    x = torch.quantize_per_channel(torch.arange(9.0).reshape(3, 3), scales, zeros, axis, torch.qint8)
    checkpoint = saved({"x": x}, tmp_path)
    expected = eval(f"x[{text}]", {"x": x.dequantize()}) if text else x.dequantize()
    found = show(checkpoint, "x", slice=text)
    assert torch.allclose(torch.tensor(found.values), expected)
    assert save_npy(checkpoint, "x", str(tmp_path / "x.npy"), slice=text, force=True) == "float32"
    assert np.allclose(np.load(tmp_path / "x.npy"), expected.numpy())


@pytest.mark.parametrize(
    "x",
    [torch.tensor([2**53, 2**53 + 1] * 10), torch.tensor([1.7e308, -1.7e308] * 10, dtype=torch.float64),
     torch.tensor([0.0, 5e-324] * 10, dtype=torch.float64), torch.tensor([0, 2**64 - 1] * 10, dtype=torch.uint64)],
)  # fmt: skip
def test_histograms_of_extreme_values(x: torch.Tensor, tmp_path: Path) -> None:
    found = show(saved({"x": x}, tmp_path), "x").histogram
    assert found == [] or (found[0], found[-1], sum(found)) == (10, 10, 20)


def test_where_a_view_with_gaps_lies(tmp_path: Path) -> None:
    view, wide_one = torch.arange(10.0)[::2], torch.ones(1).expand(4)
    checkpoint = saved({"v": view, "e": wide_one}, tmp_path)
    data = (tmp_path / "x.pt").read_bytes()
    for name, stored in (("v", torch.arange(9.0)), ("e", torch.ones(1))):
        (where,) = show(checkpoint, name).where
        assert data[where.start : where.start + where.nbytes] == stored.numpy().tobytes()  # type: ignore[operator]


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_quantized_views_of_one_storage_are_not_one_tensor(tmp_path: Path) -> None:
    """The same integers stand for other numbers under another scale."""
    storage = torch.quantize_per_tensor(torch.arange(4.0), 1.0, 0, torch.qint8)._typed_storage()
    one, other = (
        torch._utils._rebuild_qtensor(storage, 0, (4,), (1,), (torch.per_tensor_affine, scale, 0), False, OrderedDict())
        for scale in (1.0, 2.0)
    )
    both, same = saved({"a": one, "b": other}, tmp_path, "both.pt"), saved({"a": one, "b": one}, tmp_path, "same.pt")
    assert {row.key: row.stats.high for row in stats(both).rows if row.stats} == {"a": 3.0, "b": 6.0}
    assert hash(both).whole != hash(same).whole
    assert [change.place.key for change in ci.diff(both, same).changed] == ["b"]


def test_numbers_of_json_are_there_or_null(tmp_path: Path) -> None:
    (row,) = stats(saved({"m": torch.empty(3, device="meta")}, tmp_path)).to_dict()["tensors"]
    assert row["note"] == "on meta: there are no values"
    assert {"min", "max", "mean", "std", "norm", "zeros", "nan", "inf"} <= row.keys()
    assert row["mean"] is None


def test_unsigned_zeros_are_no_edge_and_indices_no_dead_rows(tmp_path: Path) -> None:
    x = torch.tensor([3, 0, 0], dtype=torch.uint64)
    rows = {row.key: row.stats for row in stats(saved({"x": x, "i": torch.tensor([[0], [1], [2]])}, tmp_path)).rows}
    assert rows["x"] is not None
    assert rows["i"] is not None
    assert (rows["x"].edge, rows["i"].dead_rows) == (0, None)


def test_an_object_that_holds_a_tensor_shows_its_class(tmp_path: Path) -> None:
    found = show(saved({"odd": Odd()}, tmp_path), "odd")
    assert found.to_dict()["type"].endswith(".Odd")
    assert any("answer = 42" in line for line in found.text)
    assert any("<tensor odd/inside/tensor: float32 [2]>" in line for line in found.text)


def test_saving_says_so_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "x.npy")
    assert in_process(["show", str(FIXTURES / "lenet.pt"), "conv1.bias", "--save", out, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["name"], said["saved"], said["dtype"]) == ("conv1.bias", out, "float32")


def test_a_scalar_of_two_values_in_a_byte(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = torch.tensor([0x21], dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    torch.save({"pair": pair[0]}, tmp_path / "pair.pt")
    assert in_process(["show", str(tmp_path / "pair.pt"), "pair", "--slice", "", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["values"] == [0.5, 1.0]  # 4 bits each: sign, two of exponent, one more


def test_an_empty_tensor_has_no_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved({"e": torch.zeros(0, 4)}, tmp_path)
    for more in ([], ["--slice", ":"]):
        assert in_process(["show", str(tmp_path / "x.pt"), "e", *more]) == 0
        assert capsys.readouterr().out.splitlines()[-1].split() == ["values", "none"]


def test_numbers_of_complex_tensors_are_of_magnitudes_and_that_is_said(tmp_path: Path, ckpt: Run) -> None:
    x = torch.tensor([3 + 4j, -6 - 8j, 0j])
    torch.save({"z": x, "x": x.real.clone()}, tmp_path / "w.pt")
    rows = {row["name"]: row for row in json.loads(ckpt("stats", tmp_path / "w.pt", "--json").stdout)["tensors"]}
    assert (rows["z"]["min"], rows["z"]["max"], rows["z"]["mean"]) == (0, x.abs().max(), x.abs().mean())
    assert rows["z"]["note"] == "of the magnitudes of complex numbers"
    assert rows["x"]["note"] is None
    assert json.loads(ckpt("show", tmp_path / "w.pt", "z", "--json").stdout)["note"] == rows["z"]["note"]
    assert "of the magnitudes of complex numbers" in ckpt("show", tmp_path / "w.pt", "z").stdout
