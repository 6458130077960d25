"""Conversions of sharded directories that keep their files: the index goes along. Torch reads the shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import ckpt_inspect as ci
from ckpt_inspect.operations.convert import convert
from ckpt_inspect.operations.save import save

from .compare import converted

INDEX = "pytorch_model.bin.index.json"


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two pickled shards: a slice of something large, two views that share memory, and a tie."""
    large, both = torch.randn(1000, 1000), torch.arange(12.0)
    first = {"slice": large[:2, :10], "a.weight": torch.randn(4, 4)}
    second = {"front": both[:8], "back": both[4:], "tied": first["a.weight"] + 1}
    second["again"] = second["tied"]
    return write(tmp_path / "shards", [first, second])


def write(folder: Path, parts: list[dict[str, Any]], **how: Any) -> Path:
    folder.mkdir()
    weight_map = {}
    for number, part in enumerate(parts, 1):
        torch.save(part, folder / f"pytorch_model-{number}.bin", **how)
        weight_map.update(dict.fromkeys(part, f"pytorch_model-{number}.bin"))
    tensors = {id(tensor): tensor for part in parts for tensor in part.values()}.values()
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index))
    return folder


def loaded(folder: Path) -> dict[str, torch.Tensor]:
    index = json.loads((folder / INDEX).read_text())
    files = {name: torch.load(folder / name) for name in sorted(set(index["weight_map"].values()))}
    return {key: files[name][key] for key, name in index["weight_map"].items()}


def total(folder: Path) -> int:
    return int(json.loads((folder / INDEX).read_text())["metadata"]["total_size"])


@pytest.mark.parametrize("old", [False, True])
def test_slim(shards: Path, old: bool, tmp_path: Path) -> None:
    if old:
        parts = [torch.load(path) for path in sorted(shards.glob("*.bin"))]
        shards = write(tmp_path / "old", parts, _use_new_zipfile_serialization=False)
    before = loaded(shards)
    out = converted(shards, tmp_path / "out", slim=True)
    after = loaded(out)
    assert list(after) == list(before)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert after["slice"].untyped_storage().nbytes() == 80
    assert after["again"].data_ptr() == after["tied"].data_ptr()
    assert after["front"].untyped_storage().data_ptr() == after["back"].untyped_storage().data_ptr()
    assert sum(path.stat().st_size for path in out.iterdir()) < 20_000
    assert total(out) == total(shards)


@pytest.mark.parametrize("old", [False, True])
def test_casts_change_the_size_that_the_index_says(shards: Path, old: bool, tmp_path: Path) -> None:
    if old:
        parts = [torch.load(path) for path in sorted(shards.glob("*.bin"))]
        shards = write(tmp_path / "old", parts, _use_new_zipfile_serialization=False)
    before = loaded(shards)
    after = loaded(converted(shards, tmp_path / "out", dtype="bfloat16"))
    assert all(torch.equal(before[key].bfloat16(), after[key]) for key in before)
    assert total(tmp_path / "out") == total(shards) // 2


def test_components_of_compound_tensors_are_cast(tmp_path: Path) -> None:
    shards = write(tmp_path / "shards", [{"w": torch.eye(3).to_sparse()}, {"b": torch.ones(2)}])
    converted(shards, tmp_path / "out", dtype="float16")
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    found = torch.load(tmp_path / "out" / index["weight_map"]["w"])
    assert found["w"].dtype == torch.float16


def test_dropped_tensors_leave_the_size(shards: Path, tmp_path: Path) -> None:
    out = converted(shards, tmp_path / "out", drop=["slice", "again"])
    assert list(loaded(out)) == ["a.weight", "front", "back", "tied"]
    assert total(out) == total(shards) - 80
    renamed = save(ci.remap(ci.open(shards), ["a.weight -> b.weight"]), str(tmp_path / "renamed"))
    assert total(Path(renamed.out)) == total(shards)


def test_safetensors_among_them_are_slim_already(tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    save_file({"a": torch.ones(2)}, folder / "1.safetensors")
    torch.save({"b": torch.ones(1000)[:1]}, folder / "2.bin")
    weight_map = {"a": "1.safetensors", "b": "2.bin"}
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 12}, "weight_map": weight_map}))
    made = convert(ci.open(folder), slim=True)
    save(made, str(tmp_path / "out"))
    assert torch.load(tmp_path / "out" / "2.bin")["b"].untyped_storage().nbytes() == 4
    assert (tmp_path / "out" / "1.safetensors").read_bytes() == (folder / "1.safetensors").read_bytes()
