"""Files made by others, where they are at hand: ``../shared/real``, read in place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import ckpt_inspect as ci
from ckpt_inspect.dtypes import BY_SAFETENSORS

REAL = Path(__file__).parent.parent.parent / "shared" / "real"
ORACLE = REAL / "oracle.jsonl"

pytestmark = pytest.mark.skipif(not ORACLE.exists(), reason="the real files are not here")


def rows() -> list[dict[str, Any]]:
    if not ORACLE.exists():
        return []
    return [json.loads(line) for line in ORACLE.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("row", rows(), ids=lambda row: str(row["file"])[-60:])
def test_agrees_with_its_oracle(row: dict[str, Any]) -> None:
    checkpoint = ci.open(REAL / row["file"])
    assert checkpoint.problems == []
    expected = [
        (name, tuple(shape), BY_SAFETENSORS[dtype].name if dtype in BY_SAFETENSORS else dtype.removeprefix("torch."))
        for name, shape, dtype in row["tensors"]
    ]
    found = [(name.replace("/", "."), info.shape, info.dtype) for name, _, info in checkpoint.tensors()]
    if row["source"].startswith("safetensors"):  # its library sorts them
        expected.sort()
        found.sort()
    assert found == expected


def test_whole_module_of_2017_shows_its_source() -> None:
    """Legacy files carry the source of the classes: shown, never run."""
    section = ci.open(REAL / "1jsingh__rl_reacher" / "ppo-reacher.policy").sections[""]
    assert section.cls == "__main__.ActorCritic"
    linear = next(module for module in section.modules.values() if module.cls == "torch.nn.modules.linear.Linear")
    assert "class Linear(Module)" in (linear.source or "")
    assert {info.role for info in section.values() if info.persistent} == {"parameter"}
