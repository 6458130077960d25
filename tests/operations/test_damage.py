"""A flipped bit in the values: every command that reads them says so, and never passes them off as what was saved."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import ckpt_inspect as ci
import ckpt_inspect.torch as ct
from ckpt_inspect.formats.damage import damage_of
from tests.conftest import FIXTURES, Run, in_process

VALUES = torch.arange(6.0) + 0.5


def flipped(where: Path) -> Path:
    """A file whose tensors ``a``, ``tied`` and ``part`` lie in a record with one flipped bit; ``b`` is whole."""
    path = where / "flipped.pt"
    torch.save({"a": VALUES, "tied": VALUES, "part": VALUES[4:], "b": torch.ones(3, 4)}, path)
    data = bytearray(path.read_bytes())
    data[data.index(VALUES.numpy().tobytes()) + 5] ^= 4
    path.write_bytes(data)
    return path


def test_stats_marks_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(flipped(tmp_path))
    assert in_process(["stats", path, "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    notes = {row["name"]: row["note"] for row in found["tensors"]}
    assert [name for name, note in notes.items() if note and "data/0 fails its checksum" in note] == [
        "a",
        "tied",
        "part",
    ]
    assert len(found["problems"]) == 3
    assert found["finite"] is None
    assert in_process(["stats", path, "--check"]) == 2
    assert in_process(["stats", path, "--check", "--filter", "b"]) == 0


@pytest.mark.parametrize("options", [(), ("--slice", ":2")])
def test_show_says_it(options: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(flipped(tmp_path))
    assert in_process(["show", path, "part", *options]) == 2
    said = capsys.readouterr()
    assert "part: record data/0 fails its checksum" in said.err
    assert "5.5" in said.out  # what is there is shown
    assert in_process(["show", path, "b", *options]) == 0


def test_show_does_not_save_it(tmp_path: Path, ckpt: Run) -> None:
    path = flipped(tmp_path)
    done = ckpt("show", path, "a", "--save", tmp_path / "a.npy")
    assert done.returncode == 2
    assert "data/0 fails its checksum" in done.stderr
    assert not (tmp_path / "a.npy").exists()


def test_hash_has_no_fingerprint_of_it(tmp_path: Path, ckpt: Run) -> None:
    path = flipped(tmp_path)
    done = ckpt("hash", path, "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["hash"]) == (2, None)
    assert {row["name"] for row in found["tensors"] if row["hash"] is None} == {"a", "tied", "part"}
    assert ckpt("hash", path, "--structure").returncode == 0


def test_diff_names_the_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, good = flipped(tmp_path), tmp_path / "good.pt"
    torch.save({"a": VALUES, "tied": VALUES, "part": VALUES[4:], "b": torch.ones(3, 4)}, good)
    assert in_process(["diff", str(good), str(path), "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert {row["key"] for row in found["changed"] if "the second file: record data/0" in row["note"]} == {"a", "tied"}


def test_every_record_is_summed_once_however_it_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stretches of large records add up to the checksum that the archive has."""
    from ckpt_inspect.containers import checksums

    monkeypatch.setattr(checksums, "_STRETCH", 1000)
    path = tmp_path / "x.pt"
    torch.save({"w": torch.randn(5001), "b": torch.randn(1)}, path)
    with ci.open(path) as opened:
        infos = [info for _, _, info in opened.tensors()]
        assert [damage_of(infos).of(info) for info in infos] == [[], []]


def test_checksums_that_are_switched_off_are_no_damage(tmp_path: Path, ckpt: Run) -> None:
    from torch.serialization import set_crc32_options

    path = tmp_path / "x.pt"
    set_crc32_options(False)
    try:
        torch.save({"a": VALUES}, path)
    finally:
        set_crc32_options(True)
    assert ckpt("hash", path).returncode == 0
    assert in_process(["stats", str(path)]) == 0


def test_what_is_left_of_a_file_is_not_all_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({f"w{n}": torch.full((1000,), float(n)) for n in range(5)}, tmp_path / "x.pt")
    data = (tmp_path / "x.pt").read_bytes()
    (tmp_path / "x.pt").write_bytes(data[: len(data) // 2])
    path = str(tmp_path / "x.pt")
    assert in_process(["stats", path, "--check"]) == 2
    assert capsys.readouterr().out.startswith(
        "finite as far as could be read: 2 tensors; 3 tensors damaged or not there"
    )
    assert in_process(["stats", path, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["finite"] is None
    assert in_process(["hash", path]) == 2
    assert capsys.readouterr().out.startswith("-  ")


def test_a_missing_shard_leaves_no_fingerprint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(FIXTURES / "sharded", whole)
    last = max(whole.glob("*.safetensors"))
    index = json.loads(next(whole.glob("*.index.json")).read_text())
    name = next(key for key, file in index["weight_map"].items() if file == last.name)
    last.unlink()
    assert in_process(["hash", str(whole), "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert found["hash"] is None
    assert all(row["hash"] is not None for row in found["tensors"])
    assert in_process(["show", str(whole), name]) == 2
    assert last.name in capsys.readouterr().err
    assert in_process(["stats", str(whole), "--check"]) == 2
    assert "finite as far as could be read" in capsys.readouterr().out


class Net(nn.Module):  # type: ignore[misc]
    """What :func:`flipped` holds, in a model."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(6))
        self.tied = self.a
        self.part = nn.Parameter(torch.zeros(2))
        self.b = nn.Parameter(torch.zeros(3, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.b.T + self.a.sum()


SPEC = ("--model", f"{__file__}:Net")
HURT = "record data/0 fails its checksum: it was damaged after it was written → a, tied, part"


@pytest.mark.parametrize("compressed", [False, True])
def test_check_and_run_read_what_they_load(
    compressed: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = flipped(tmp_path)
    Net().load_state_dict(torch.load(path))  # torch says nothing
    whole = tmp_path / "whole.pt"
    torch.save(Net().state_dict(), whole)
    if compressed:
        deflate(whole)
    assert in_process(["check", str(path), *SPEC, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["loads"]
    for options in (["--load"], ["--input", "1,4"]):
        assert in_process(["check", str(path), *SPEC, *options, "--json"]) == 2
        said = capsys.readouterr()
        found = json.loads(said.out)
        assert found["damage"] == [HURT]
        assert not found["loads"]
        assert "ckpt salvage" in found["rescue"]
        assert HURT in said.err
    assert in_process(["check", str(whole), *SPEC, "--load"]) == 0
    assert in_process(["check", str(whole), *SPEC, "--input", "1,4", "--against", str(path), "--json"]) == 2
    said = capsys.readouterr()
    assert json.loads(said.out.splitlines()[-1])["against"]["damage"] == [HURT]
    assert HURT in said.err
    assert in_process(["run", str(path), *SPEC, "--input", "1,4", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["problems"] == [HURT]


def deflate(path: Path) -> None:
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name, data in members.items():
            new.writestr(name, data)


def test_run_reads_torchscript_that_it_executes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = nn.Linear(4, 3)
    path = tmp_path / "script.pt"
    torch.jit.script(module).save(str(path))
    assert in_process(["run", str(path), "--input", "1,4", "--json"]) == 0
    data = bytearray(path.read_bytes())
    data[data.index(module.weight.detach().numpy().tobytes()) + 5] ^= 4
    path.write_bytes(data)
    capsys.readouterr()
    assert in_process(["run", str(path), "--input", "1,4", "--json"]) == 2
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert problem.startswith("record ")
    assert problem.endswith("→ weight")


def test_load_into_refuses_it_where_it_is_asked_to(tmp_path: Path) -> None:
    path = flipped(tmp_path)
    net = Net()
    with pytest.raises(ci.CorruptError, match="→ a, tied, part") as caught:
        ct.load_into(net, path, verify=True)
    assert caught.value.record == "data/0"
    assert not net.a.any()  # it is as it was
    torch.save(Net().state_dict(), path)
    assert ct.load_into(net, path, verify=True).matched == 4


@pytest.mark.parametrize("format", ["pt", "safetensors"])
def test_what_became_shorter_is_refused_before_it_is_touched(format: str, tmp_path: Path) -> None:
    path = tmp_path / f"w.{format}"
    state = {"b": torch.ones(3, 4)}
    save_file(state, path) if format == "safetensors" else torch.save(state, path)
    holder = nn.Module()
    holder.b = nn.Parameter(torch.zeros(3, 4))
    with ci.open(path) as checkpoint:
        os.truncate(path, path.stat().st_size - 8)
        with pytest.raises(ci.CorruptError, match="it changed while it was read"):
            ct.load_into(holder, checkpoint, verify=True)
    assert not holder.b.any()
