"""What hangs on tensors as attributes, in containers and objects too: found, kept, never a weight. The oracle is torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import ckpt_inspect as ci
from ckpt_inspect.cli.app import run


class QuantState:
    """As bitsandbytes hangs one on each of its parameters."""

    def __init__(self) -> None:
        self.absmax = torch.rand(3)
        self.code = torch.arange(4.0)
        self.shape = (2, 2)


def _made() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    sparse = torch.rand(4, 4)
    sparse.mask = torch.eye(4).to_sparse()
    dict_and_list = torch.nn.Parameter(torch.rand(2, 2))
    dict_and_list.extra = {"a": [torch.rand(3).to_sparse(), torch.rand(2)], "n": 3}
    quantized = torch.nn.Parameter(torch.zeros(2, dtype=torch.uint8), requires_grad=False)
    quantized.quant_state = QuantState()
    return {"module.p": sparse, "module.q": dict_and_list, "module.w": quantized, "module.plain": torch.rand(2)}


def _attributes(state: dict[str, Any], prefix: str = "") -> dict[str, torch.Tensor]:
    p, q, w = (state[prefix + name] for name in "pqw")
    found = {"p.mask": p.mask, "q.extra.a.0": q.extra["a"][0], "q.extra.a.1": q.extra["a"][1]}
    return found | {"w.absmax": w.quant_state.absmax, "w.code": w.quant_state.code}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "attributes.pt"
    torch.save(_made(), found)
    return found


def test_all_of_them_are_found(path: Path) -> None:
    made = _made()
    with ci.open(path) as checkpoint:
        assert checkpoint.problems == []
        named = {info.key: [part.key for part in info.parts] for _, _, info in checkpoint.tensors()}
        stored = {part.storage.id for _, _, info in checkpoint.tensors() for part in info.components() if part.storage}
    assert named == {
        "module.p": ["mask"],
        "module.q": ["extra.a.0", "extra.a.1"],
        "module.w": ["quant_state.absmax", "quant_state.code"],
        "module.plain": [],
    }
    # four values, two sparse ones of two storages each, three plain ones
    assert len(stored) == len(made) + 2 * 2 + 3


@pytest.mark.parametrize("legacy", [False, True])
def test_renaming_keeps_them(legacy: bool, path: Path, tmp_path: Path) -> None:
    if legacy:
        torch.save(_made(), path, _use_new_zipfile_serialization=False)
    out = tmp_path / "out.pt"
    assert run(["strip-prefix", str(path), "-o", str(out), "-q"]) == 0
    before = _attributes(torch.load(path, weights_only=False), "module.")
    after = _attributes(torch.load(out, weights_only=False))
    for name, tensor in before.items():
        assert torch.equal(tensor.to_dense(), after[name].to_dense()), name


def test_a_cast_leaves_them_as_torch_does(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``Module.to`` sets ``param.data`` and nothing else."""
    out = tmp_path / "out.pt"
    assert run(["convert", str(path), "-o", str(out), "--dtype", "bfloat16"]) == 0
    assert "attributes of tensors were left alone: module.p, module.q" in capsys.readouterr().out
    before, after = torch.load(path, weights_only=False), torch.load(out, weights_only=False)
    assert {key: tensor.dtype for key, tensor in after.items()} == {
        "module.p": torch.bfloat16, "module.q": torch.bfloat16, "module.w": torch.uint8, "module.plain": torch.bfloat16,
    }  # fmt: skip
    for name, tensor in _attributes(before, "module.").items():
        other = _attributes(after, "module.")[name]
        assert tensor.dtype == other.dtype
        assert torch.equal(tensor.to_dense(), other.to_dense())


def test_safetensors_has_no_place_for_them(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import load_file

    out = tmp_path / "out.safetensors"
    assert run(["convert", str(path), "-o", str(out)]) == 0
    said = capsys.readouterr().out
    assert "attributes of tensors are left behind: module.p.mask, module.q.extra, module.w.quant_state" in said
    assert {key: tensor.shape for key, tensor in load_file(out).items()} == {k: t.shape for k, t in _made().items()}


def test_a_change_in_one_is_a_change(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pt"
    state = torch.load(path, weights_only=False)
    state["module.w"].quant_state.absmax[1] += 1
    torch.save(state, other)
    assert run(["diff", str(path), str(path), "-q"]) == 0
    assert run(["diff", str(path), str(other), "-q"]) == 1
