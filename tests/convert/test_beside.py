"""What stands beside the tensors: it comes back, or it is named as lost. Torch reads both ends."""

from __future__ import annotations

import json
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

import ckpt_inspect as ci
from ckpt_inspect.operations.conversion import Asked, Conversion
from ckpt_inspect.operations.convert import plan
from ckpt_inspect.operations.save import save
from tests.conftest import FIXTURES, Run
from tests.zoo import files

from .compare import converted

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
NUMBER = st.none() | st.booleans() | st.integers(-(2**52), 2**52) | st.floats(allow_nan=False, allow_infinity=False)
KEY = TEXT | NUMBER | st.binary(max_size=3) | st.lists(NUMBER | TEXT, max_size=3).map(tuple)
PLAIN = st.recursive(
    NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


def planned(path: Path, **asked: Any) -> Conversion:
    return plan(ci.open(path), Asked(**asked))


def removed(made: Conversion) -> list[str]:
    return [name for name, _ in made.removed]


@given(st.dictionaries(KEY.filter(lambda key: key != "__metadata__"), PLAIN | st.just(...), min_size=1, max_size=6))
@settings(deadline=None, max_examples=25)
def test_keys_and_plain_entries_come_back(tmp_path_factory: pytest.TempPathFactory, state: dict[Any, Any]) -> None:
    """Types too: ``1`` is not ``'1'``, and both may stand in one file."""
    folder = tmp_path_factory.mktemp("keys")
    state = {key: torch.ones(2) if value is ... else value for key, value in state.items()}
    state["a tensor"] = torch.zeros(3)
    torch.save(state, folder / "a.pt")
    back = converted(converted(folder / "a.pt", folder / "b.safetensors"), folder / "c.pt")
    back = torch.load(back, weights_only=False)  # torch's safe loader has no bytes of protocol 2
    assert [(type(key), key) for key in back] == [(type(key), key) for key in state]
    for (_, old), (_, new) in zip(state.items(), back.items(), strict=True):
        assert torch.equal(old, new) if isinstance(old, torch.Tensor) else repr(old) == repr(new)


def test_everything_that_is_lost_is_named(ckpt: Run, tmp_path: Path) -> None:
    state = {
        "w": torch.ones(2), "tuple": (1, 2), "set": {1}, "bytes": b"x", "nan": float("nan"), "big": 1 << 70,
        "dtype": torch.float32, "half\ud800": 1, "kept": [1, {"x": None}], "inside": {"a": 1, "b": (1,)},
        "empty": OrderedDict(),
    }  # fmt: skip
    torch.save(state, tmp_path / "a.pt")
    lost = {"tuple", "set", "bytes", "nan", "big", "dtype", "half\ud800", "inside/b", "empty"}
    made = planned(tmp_path / "a.pt", format="safetensors")
    assert set(removed(made)) == lost
    assert len(removed(made)) == len(lost)
    out = tmp_path / "out.safetensors"
    document = json.loads(ckpt("convert", tmp_path / "a.pt", "-o", out, "--json").stdout)
    assert {row["name"] for row in document["removed"]} == lost
    text = ckpt("convert", tmp_path / "a.pt", "-o", out, "--force").stdout
    lines = [line for line in text.splitlines() if line.startswith("  remove")]
    assert all(any(name.replace("\ud800", "\\ud800") in line for line in lines) for name in lost)
    assert list(torch.load(converted(out, tmp_path / "b.pt"))) == ["w", "kept"]


def test_values_around_the_section_stay_in_the_metadata_and_that_is_said(tmp_path: Path) -> None:
    torch.save({"model": {"w": torch.ones(2)}, "epoch": 3, "": {"x": 1, "y": {1}}}, tmp_path / "a.pt")
    made = planned(tmp_path / "a.pt", format="safetensors")
    assert removed(made) == ["/y"]
    assert "kept as text in __metadata__, where it stays: epoch, /x" in made.notes
    save(made.checkpoint, str(tmp_path / "a.safetensors"))
    assert removed(planned(tmp_path / "a.safetensors", format="torch-zip")) == ["epoch", "/x"]


def test_a_list_is_said_to_become_names(tmp_path: Path) -> None:
    torch.save([torch.ones(1), torch.ones(2)], tmp_path / "a.pt")
    made = planned(tmp_path / "a.pt", format="safetensors")
    assert any("a list becomes names" in note for note in made.notes)


@pytest.mark.parametrize("asked", [{"format": "safetensors"}, {"weights_only": True}])
def test_attributes_of_modules(asked: dict[str, Any], tmp_path: Path) -> None:
    made = planned(FIXTURES / "lenet.pt", **asked)
    assert {"conv1.kernel_size", "fc3.in_features", "training"} <= set(removed(made))
    assert "training" in removed(planned(FIXTURES / "traced.pt", **asked))


@pytest.mark.parametrize("format", ["safetensors", "torch-legacy", "sharded"])
def test_records_that_somebody_added(format: str, tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt", "a") as archive:
        archive.writestr("a/notes.txt", "mine")
    assert removed(planned(tmp_path / "a.pt", format=format)) == ["record notes.txt"]
    assert removed(planned(tmp_path / "a.pt", dtype=("float16",))) == []
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), tmp_path / "b.pt", {"labels": "x"})
    assert "record extra/labels" in removed(planned(tmp_path / "b.pt", format=format))


def test_metadata_of_others_goes_along(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors", metadata={"who": "me", "format": "pt"})
    shards = converted(tmp_path / "a.safetensors", tmp_path / "shards", format="sharded")
    with safe_open(converted(shards, tmp_path / "b.safetensors"), "pt") as file:
        assert file.metadata()["who"] == "me"
    assert removed(planned(tmp_path / "a.safetensors", format="torch-zip")) == ["__metadata__/who"]


def test_entries_of_pickled_shards(tmp_path: Path) -> None:
    folder = files.FILES["sharded-bin"](tmp_path)
    shard = sorted(path for path in folder.iterdir() if path.suffix == ".bin")[0]
    torch.save({**torch.load(shard), "version": 3}, shard)
    for format in ("torch-zip", "safetensors"):
        assert removed(planned(folder, format=format)) == ["version"]


def test_source_code_in_a_legacy_stream(tmp_path: Path) -> None:
    made = planned(files.FILES["mnist-legacy.pt"](tmp_path), format="torch-zip")
    assert any(name.startswith("source of ") for name in removed(made))


def test_several_sections_say_what_can_be_typed(ckpt: Run, tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2), "c": torch.ones(2), "sub": {"b": torch.ones(1)}}, tmp_path / "a.pt")
    out = tmp_path / "o.safetensors"
    done = ckpt("convert", "a.pt", "-o", out, cwd=tmp_path)
    assert "Name one: 'a.pt#sub'; or leave the others out: --drop sub" in done.stderr
    assert ckpt("convert", "a.pt#sub", "-o", out, cwd=tmp_path).returncode == 0
    assert ckpt("convert", "a.pt", "--drop", "sub", "-o", out, "--force", cwd=tmp_path).returncode == 0
