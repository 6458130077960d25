"""Damage is not laundered: what a conversion makes of a damaged file is right, or shows the damage, or is refused.

The oracles are zipfile, which knows whether a record fails its checksum, and torch, which reads the sound file.
"""

from __future__ import annotations

import random
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import ckpt_inspect as ci
from ckpt_inspect.errors import CheckpointError
from ckpt_inspect.operations.convert import convert
from ckpt_inspect.operations.save import save, save_in_place
from tests.conftest import FIXTURES, Run
from tests.hostile import build
from tests.zoo import files

from .compare import values

TARGETS: dict[str, dict[str, Any]] = {
    "safetensors": {"format": "safetensors"},
    "legacy": {"format": "torch-legacy"},
    "sharded": {"format": "sharded", "max_shard_size": 20_000},
    "dtype": {"dtype": "float16"},
    "slim": {"slim": True},
    "device": {"device": "cuda:1"},
    "plain": {"weights_only": True},
    "names": {"rules": "** -> p.**"},
    "zip": {"format": "torch-zip"},
}
SOURCES = [("lenet.pt", None), ("tied.pt", None), ("traced.pt", None), ("run.ckpt", "model_state_dict")]
FLOW = [
    (source, target)
    for source in SOURCES for target in TARGETS
    if not (source[0] == "tied.pt" and target in ("safetensors", "sharded", "names"))  # several sections
    and not (source[0] == "traced.pt" and target in ("dtype", "slim", "names"))  # refused
    and not (source[0] == "lenet.pt" and target == "names")  # a whole module
    and not (source[1] and target not in ("safetensors", "names", "zip"))  # no other code than for the rest
]  # fmt: skip


def flipped(path: Path, out: Path) -> Iterator[str]:
    """``out`` with one bit of each record flipped, one after the other; gives the record."""
    data = path.read_bytes()
    chance = random.Random(path.name)
    with zipfile.ZipFile(path) as archive:
        infos = [info for info in archive.infolist() if info.compress_size]
    for info in infos:
        names = sum(int.from_bytes(data[info.header_offset + at :][:2], "little") for at in (26, 28))
        changed = bytearray(data)
        changed[info.header_offset + 30 + names + chance.randrange(info.compress_size)] ^= 1 << chance.randrange(8)
        out.write_bytes(changed)
        yield info.filename.partition("/")[2]


def shows_damage(out: Path) -> bool:
    """Whether a checksum in what was written is wrong."""
    if not zipfile.is_zipfile(out):
        return False
    with zipfile.ZipFile(out) as archive:
        return archive.testzip() is not None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("source", "target"), FLOW, ids=lambda value: value if isinstance(value, str) else value[0])
def test_a_flipped_bit_in_any_record(source: tuple[str, str | None], target: str, tmp_path: Path) -> None:
    name, section = source
    bad, out, sound = tmp_path / name, tmp_path / "out.pt", tmp_path / "sound.pt"
    save(convert(ci.open(FIXTURES / name, section), **TARGETS[target]), str(sound))
    whole = ci.open(FIXTURES / name)
    refused = 0
    for record in flipped(FIXTURES / name, bad):
        error = refusal(bad, section, target, out)
        if error is not None:
            refused += 1
            assert not out.exists()
            if record.startswith("data/"):
                assert error.record == record
                hurt = [n for n, _, i in whole.tensors() if i.storage is not None and i.storage.id == record]
                assert any(name in error.message for name in hurt)
                assert "ckpt verify" in (error.hint or "")
            continue
        assert shows_damage(out) or values(out) == values(sound), record
        remove(out)
    assert refused


def refusal(path: Path, section: str | None, target: str, out: Path) -> ci.CorruptError | None:
    """The error that a conversion ends with, if it does."""
    try:
        save(convert(ci.open(path, section), **TARGETS[target]), str(out))
    except ci.CorruptError as error:
        return error
    return None


def remove(out: Path) -> None:
    if out.is_dir():
        for path in out.iterdir():
            path.unlink()
        out.rmdir()
    else:
        out.unlink()


def test_as_it_is_typed(ckpt: Run, tmp_path: Path) -> None:
    bad = tmp_path / "lenet.pt"
    next(record for record in flipped(FIXTURES / "lenet.pt", bad) if record == "data/4")
    for asked in (["--format", "safetensors"], ["--dtype", "bfloat16", "--verify"], ["--format", "sharded"]):
        done = ckpt("convert", bad, *asked, "-o", tmp_path / "out")
        assert done.returncode == 2
        assert "record data/4: fails its checksum" in done.stderr
        assert "fc1.weight; nothing was written" in done.stderr
        assert f"ckpt salvage {bad} -o OUT" in done.stderr
        assert f"ckpt verify {bad}" in done.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["lenet.pt"]


@pytest.mark.parametrize("target", ["safetensors", "legacy", "dtype"])
def test_checksums_that_were_switched_off_are_no_damage(target: str, tmp_path: Path) -> None:
    path = files.FILES["zip-no-crc.pth"](tmp_path)
    save(convert(ci.open(path, "model"), **TARGETS[target]), str(tmp_path / "out"))
    assert [f"model/{name}" for name in values(tmp_path / "out")] == [n for n in values(path) if n.startswith("model/")]


@pytest.mark.parametrize("target", ["safetensors", "legacy", "dtype", "device"])
def test_deflated_records(target: str, tmp_path: Path) -> None:
    """They are inflated in order, by the copy and by the sums, each at its own place."""
    torch.manual_seed(0)
    state = {f"w{i}": torch.randint(0, 3, (700_000,)).float() for i in range(2)}
    torch.save(state, tmp_path / "stored.pt")
    path, out = tmp_path / "deflated.pt", tmp_path / "out"
    with zipfile.ZipFile(tmp_path / "stored.pt") as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    save(convert(ci.open(path), **TARGETS[target]), str(out))
    if target != "dtype":
        assert values(out) == values(path)
    out.unlink()
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = next(info for info in archive.infolist() if info.filename.endswith("data/1"))
    data[info.header_offset + 60 + info.compress_size // 2] ^= 16
    path.write_bytes(data)
    error = refusal(path, None, target, out)
    if error is not None:
        assert error.record == "data/1"
        assert not out.exists()
    else:
        assert target == "device"
        with pytest.raises((RuntimeError, zipfile.BadZipFile)):
            torch.load(out, map_location="cpu")


def test_one_shard_of_several(tmp_path: Path) -> None:
    folder = files.FILES["sharded-bin"](tmp_path)
    shard = sorted(path for path in folder.iterdir() if path.suffix == ".bin")[-1]
    sound = shard.read_bytes()
    kept = tmp_path / "kept.bin"
    kept.write_bytes(sound)
    record = next(record for record in flipped(kept, shard) if record.startswith("data/"))
    with pytest.raises(ci.CorruptError) as caught:
        save(convert(ci.open(folder), format="safetensors"), str(tmp_path / "out.safetensors"))
    assert shard.name in str(caught.value)
    assert caught.value.record is not None
    assert caught.value.record.endswith(record)
    assert not (tmp_path / "out.safetensors").exists()


def test_a_part_is_not_refused_for_damage_elsewhere(tmp_path: Path) -> None:
    bad = tmp_path / "run.ckpt"
    whole = ci.open(FIXTURES / "run.ckpt")
    elsewhere = next(iter(whole.sections["optimizer_state_dict"].tensors.values())).storage
    assert elsewhere is not None
    next(record for record in flipped(FIXTURES / "run.ckpt", bad) if record == elsewhere.id)
    save(convert(ci.open(bad, "model_state_dict"), format="safetensors"), str(tmp_path / "out.safetensors"))
    with pytest.raises(ci.CorruptError):
        save(convert(ci.open(bad), format="torch-legacy"), str(tmp_path / "out.pth"))
    save_in_place(convert(ci.open(bad), device="cuda:1"))  # takes the checksum along
    assert shows_damage(bad)


warnings.filterwarnings("ignore", message=".*TypedStorage is deprecated")


@pytest.mark.parametrize("what", ["class", "count"])
@pytest.mark.parametrize("target", ["legacy", "slim", "dtype", "sharded"])
def test_the_id_of_a_storage_that_stands_again_and_is_not_of_its_form(what: str, target: str, tmp_path: Path) -> None:
    """torch asks the first id of each storage alone."""
    odd = build.storage(kind=build.text("x")) if what == "class" else build.storage(numel=build.FLOATS)
    path, out = tmp_path / "a.pt", tmp_path / "out"
    path.write_bytes(build.checkpoint(build.dict_of(build.text("w"), build.GOOD, build.text("v"), build.tensor(odd))))
    with ci.open(path) as checkpoint, pytest.raises(CheckpointError):
        save(convert(checkpoint, **TARGETS[target]), str(out))
    assert not out.exists()
