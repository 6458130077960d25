"""Every file of the zoo, opened without torch, against what torch itself says."""

from __future__ import annotations

from pathlib import Path

import pytest

import ckpt_inspect as ci
from tests.zoo import files, oracle


def _layout(text: str) -> str:
    return text.removeprefix("torch.")


OPENED = [name for name in files.names() if files.FORMATS[name] not in ("dcp", "pt2")]


@pytest.mark.parametrize("name", OPENED)
def test_agrees_with_torch(name: str, tmp_path: Path) -> None:
    path = files.FILES[name](tmp_path)
    expected = oracle.expected(path)
    checkpoint = ci.open(str(path))
    assert checkpoint.format == files.FORMATS[name]
    assert checkpoint.problems == []
    # tensors frozen into TorchScript code have no name in torch
    found = {name: info for name, _, info in checkpoint.tensors() if not name.startswith("CONSTANTS.")}
    assert sorted(found) == sorted(row.name for row in expected)
    for row in expected:
        info = found[row.name]
        assert info.dtype == row.dtype, row.name
        if info.layout in ("nested", "jagged") or (
            info.dtype == "float4_e2m1fn_x2" and checkpoint.format == "safetensors"
        ):
            continue  # ragged shapes have no ints; of F4 the oracle gives twice torch's shape
        assert info.shape == row.shape, row.name
        if row.stride is not None:
            assert info.stride == row.stride, row.name
            assert info.storage_offset == row.storage_offset or info.storage is None, row.name
        if row.device is not None:
            assert info.device == row.device, row.name
        assert info.persistent == row.persistent, row.name
        if row.role is not None and info.role_from == "recorded":
            assert info.role == row.role, row.name
        assert _layout(row.layout) == info.layout, row.name
    for pointer, kind in oracle.sections(expected).items():
        assert checkpoint.sections[pointer].kind == kind, pointer
    assert {frozenset(group) for group in checkpoint.tied() if not group[0].startswith("CONSTANTS.")} == {
        frozenset(group) for group in oracle.tie_groups(expected)
    }
    for pointer, section in checkpoint.sections.items():
        order = [row.key for row in expected if row.section == pointer and row.persistent]
        assert [key for key, info in section.tensors.items() if info.persistent] == order, pointer
