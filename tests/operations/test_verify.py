"""What is damaged is found and named. Oracles: zipfile for the records, torch for the tensors that change."""

from __future__ import annotations

import json
import random
import re
import shutil
import struct
import tarfile
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ckpt_inspect as ci
from ckpt_inspect.cli.app import run
from ckpt_inspect.containers.checksums import Span, checksums, combined
from ckpt_inspect.model.source import BytesSource, FileSource
from ckpt_inspect.operations.verify import Verification, verify_file
from tests.conftest import FIXTURES

ZIPS = ["lenet.pt", "lightning.ckpt", "mnist.ckpt", "run.ckpt", "tied.pt", "scripted.pt", "traced.pt"]
PLAIN = ["gpt.safetensors", "legacy.pth", "tar2017.pth.tar"]


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_two_sums_make_one(first: bytes, second: bytes) -> None:
    assert combined(zlib.crc32(first), zlib.crc32(second), len(second)) == zlib.crc32(first + second)


def test_a_long_file_is_summed_in_stretches(tmp_path: Path) -> None:
    path = tmp_path / "long"
    block = random.Random(0).randbytes(1 << 20)
    path.write_bytes(block * 70 + b"end")
    source = FileSource(str(path))
    seen: list[int] = []
    spans = [Span(source, source.size), Span(source.slice(5, 40 << 20), 40 << 20), Span(BytesSource(b"x", ""), 1)]
    expected = [zlib.crc32(data) for data in (path.read_bytes(), path.read_bytes()[5 : 5 + (40 << 20)], b"x")]
    assert checksums(spans, seen.append, threads=3) == expected
    assert sum(seen) == sum(span.nbytes for span in spans)


@pytest.mark.parametrize("name", [*ZIPS, *PLAIN, "sharded"])
def test_fixtures_are_sound(name: str) -> None:
    found = verify_file(str(FIXTURES / name))
    assert found.ok, found.damaged
    assert found.tensors > 0


def _flipped(data: bytes, at: int, chance: random.Random) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1 << chance.randrange(8)
    return bytes(changed)


@pytest.mark.parametrize("name", ZIPS)
def test_a_flipped_byte_in_any_record_is_found(name: str, tmp_path: Path) -> None:
    data = (FIXTURES / name).read_bytes()
    path = tmp_path / name
    chance = random.Random(name)
    with zipfile.ZipFile(FIXTURES / name) as archive:
        places = [
            (info, info.header_offset + 30 + int.from_bytes(data[info.header_offset + 26 :][:2], "little")
             + int.from_bytes(data[info.header_offset + 28 :][:2], "little"))
            for info in archive.infolist() if info.compress_size
        ]  # fmt: skip
    for info, start in places:
        path.write_bytes(_flipped(data, start + chance.randrange(info.compress_size), chance))
        found = verify_file(str(path))
        record = info.filename.partition("/")[2]
        assert record in {damage.record for damage in found.damaged}, (record, found.damaged)
        if record.startswith("data/"):
            (damage,) = found.damaged
            assert damage.names
        if record == "data.pkl" and found.tensors:
            assert found.hurt == found.tensors


def _leaves(value: Any, name: str = "") -> dict[str, torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    named = [(str(key).replace("~", "~0").replace("/", "~1"), item) for key, item in items]
    return {k: v for key, item in named for k, v in _leaves(item, f"{name}/{key}" if name else key).items()}


@pytest.mark.parametrize("name", ["run.ckpt", "tied.pt", "lightning.ckpt"])
def test_the_names_are_those_that_torch_reads_differently(name: str, tmp_path: Path) -> None:
    data = (FIXTURES / name).read_bytes()
    path = tmp_path / name
    chance = random.Random(1)
    before = _leaves(torch.load(FIXTURES / name, weights_only=False))
    sound = verify_file(str(FIXTURES / name))
    with zipfile.ZipFile(FIXTURES / name) as archive:
        storages = [info for info in archive.infolist() if "/data/" in info.filename and info.file_size]
    for info in storages[::3]:
        start = data.find(archive_content(name, info), info.header_offset)
        path.write_bytes(_flipped(data, start + chance.randrange(info.file_size), chance))
        after = _leaves(torch.load(path, weights_only=False))
        changed = {k for k in before if before[k].numpy(force=True).tobytes() != after[k].numpy(force=True).tobytes()}
        (damage,) = verify_file(str(path)).damaged
        assert changed <= set(damage.names)
        assert sound.tensors >= len(damage.names)


def archive_content(name: str, info: zipfile.ZipInfo) -> bytes:
    with zipfile.ZipFile(FIXTURES / name) as archive:
        return archive.read(info)


@pytest.mark.parametrize("name", ["lenet.pt", "tied.pt"])
def test_a_flipped_byte_anywhere_before_the_directory_is_seen(name: str, tmp_path: Path) -> None:
    """Local headers, padding and descriptors too, which no reader looks at; only times and versions say nothing."""
    data = (FIXTURES / name).read_bytes()
    path = tmp_path / name
    with zipfile.ZipFile(FIXTURES / name) as archive:
        headers = [info.header_offset for info in archive.infolist()]
        end = archive.start_dir
    silent = {at + offset for at in headers for offset in (4, 5, 10, 11, 12, 13)}  # version needed, time and date
    for at in range(0, end, 113):
        if at in silent:
            continue
        path.write_bytes(_flipped(data, at, random.Random(at)))
        assert not verify_file(str(path)).ok, at


@pytest.mark.parametrize("name", PLAIN)
def test_sums_see_any_flipped_byte(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / name
    shutil.copy(FIXTURES / name, path)
    data = path.read_bytes()
    sums = tmp_path / "sums.json"
    assert run(["verify", str(path), "--write-sums", str(sums)]) == 0
    sound = verify_file(str(path), sums=str(sums))
    assert sound.ok
    assert sound.checked_bytes == len(data)
    for at in range(0, len(data), len(data) // 60):
        path.write_bytes(_flipped(data, at, random.Random(at)))
        found = verify_file(str(path), sums=str(sums))
        assert not found.ok, at
        if name == "gpt.safetensors" and at > 20_000:
            names = {name for damage in found.damaged for name in damage.names}
            assert names == _reads_differently(FIXTURES / name, path)
    path.write_bytes(data[:-1])
    assert not verify_file(str(path), sums=str(sums)).ok
    capsys.readouterr()


def _reads_differently(one: Path, other: Path) -> set[str]:
    from safetensors.torch import load_file

    before, after = load_file(one), load_file(other)
    return {k for k in before if before[k].numpy().tobytes() != after[k].numpy().tobytes()}


def test_sums_of_shards_name_the_shard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "sharded"
    shutil.copytree(FIXTURES / "sharded", folder)
    sums = str(tmp_path / "sums.json")
    assert run(["verify", str(folder), "--write-sums", sums]) == 0
    shard = sorted(path for path in folder.iterdir() if path.suffix == ".safetensors")[-1]
    data = shard.read_bytes()
    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    (damage,) = verify_file(str(folder), sums=sums).damaged
    assert damage.record is not None
    assert damage.record.startswith(shard.name)
    assert len(damage.names) == 1
    shard.unlink()
    found = verify_file(str(folder))
    assert [damage.record for damage in found.damaged] == [shard.name]
    assert damage.names[0] in found.damaged[0].names
    capsys.readouterr()


def test_checksums_switched_off_are_said_and_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "unsummed.pt"
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.arange(9.0)}, path)
    finally:
        torch.serialization.set_crc32_options(True)
    found = verify_file(str(path))
    assert found.ok
    assert any("no record has a checksum" in note for note in found.notes)
    assert found.checked_bytes == 0


def test_cut_files_name_what_is_not_there(tmp_path: Path) -> None:
    for name in ("gpt.safetensors", "legacy.pth"):
        data = (FIXTURES / name).read_bytes()
        path = tmp_path / name
        path.write_bytes(data[: int(len(data) * 0.6)])
        found = verify_file(str(path))
        assert not found.ok
        assert 0 < found.hurt < found.tensors


def test_an_edit_in_place_leaves_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.ckpt"
    shutil.copy(FIXTURES / "run.ckpt", path)
    assert run(["strip-prefix", str(path), "--in-place"]) == 0
    found = verify_file(str(path))
    assert found.ok
    assert any("belong to no record" in note for note in found.notes)
    capsys.readouterr()


def test_archives_that_are_no_checkpoints_are_checked_too(tmp_path: Path) -> None:
    path = tmp_path / "program.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(torch.nn.Linear(3, 2), (torch.ones(1, 3),)), path)
    assert verify_file(str(path)).ok
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        (info,) = [info for info in archive.infolist() if info.filename.endswith("models/model.json")]
    path.write_bytes(_flipped(data, info.header_offset + 400, random.Random(0)))
    assert any((damage.record or "").endswith("models/model.json") for damage in verify_file(str(path)).damaged)


def _verify(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = run(["verify", *arguments])
    out = capsys.readouterr()
    return status, out.out, out.err


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = (FIXTURES / "tied.pt").read_bytes()
    bad = tmp_path / "bad.pt"
    content = archive_content("tied.pt", zipfile.ZipFile(FIXTURES / "tied.pt").getinfo("tied/data/0"))
    bad.write_bytes(_flipped(data, data.find(content), random.Random(0)))
    good = str(FIXTURES / "lenet.pt")
    assert _verify(capsys, good)[0] == 0
    status, out, _ = _verify(capsys, str(bad))
    assert status == 1
    assert "record data/0 fails its checksum" in out
    assert "(tied)" in out
    status, out, _ = _verify(capsys, str(bad), good)
    assert status == 1
    assert out.splitlines()[-1] == "2 files · 1 ok · 1 damaged"
    status, out, err = _verify(capsys, good, str(FIXTURES / "page.pt"), "--json")
    assert status == 2
    assert [document["schema"] for document in json.loads(out)["files"]] == [
        "ckpt-inspect/verify/1",
        "ckpt-inspect/error/1",
    ]
    assert "HTML" in json.loads(err)["error"]["message"]
    document = json.loads(_verify(capsys, str(bad), "--json")[1])
    assert list(document) == ["schema", "path", "ok", "checked_bytes", "damaged", "notes"]
    assert document["damaged"][0]["record"] == "data/0"
    assert _verify(capsys, str(bad), "--write-sums", str(tmp_path / "sums"))[0] == 2
    assert not (tmp_path / "sums").exists()


def test_deep_finds_what_is_no_number(tmp_path: Path) -> None:
    bad = torch.ones(3_000_000)
    bad[2_500_000], bad[7] = float("nan"), float("-inf")
    state: dict[str, Any] = {"good": torch.ones(5), "bad": bad, "tied": bad, "view": bad[:8], "whole": torch.arange(3)}
    for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.float8_e5m2, torch.complex64):
        state[str(dtype)] = torch.tensor([1.0, float("nan")]).to(dtype)
    path = tmp_path / "a.pt"
    torch.save(state, path)
    assert verify_file(str(path)).ok
    found = verify_file(str(path), deep=True)
    said = {tuple(damage.names): damage.why for damage in found.damaged}
    assert said.pop(("bad", "tied")) == "1 NaN and 1 Inf among 3,000,000 values"
    assert said.pop(("view",)) == "1 Inf among 8 values"
    assert {names[0] for names in said} == {str(dtype) for dtype in (
        torch.float16, torch.bfloat16, torch.float64, torch.float8_e5m2, torch.complex64)}  # fmt: skip
    for name in (*ZIPS, *PLAIN, "sharded"):
        assert verify_file(str(FIXTURES / name), deep=True).ok


def test_repr_says_what_it_is() -> None:
    assert repr(Verification("a.pt", "torch-zip")) == "<verification of a.pt: ok>"


def _saved(path: Path) -> dict[str, bytes]:
    torch.manual_seed(0)
    state = {"a": torch.randn(3), "b": torch.arange(4)}
    torch.save(state, path)
    return {key: value.numpy().tobytes() for key, value in state.items()}


def _scripted(path: Path) -> dict[str, bytes]:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.jit.script(torch.nn.Linear(2, 1))
        torch.jit.save(model, path)
    return {key: value.numpy().tobytes() for key, value in model.state_dict().items()}


def _loaded(path: Path, save: Any) -> dict[str, bytes]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = torch.load(path) if save is _saved else torch.jit.load(path).state_dict()
    return {key: value.numpy().tobytes() for key, value in state.items()}


@pytest.mark.parametrize("save", [_saved, _scripted])
def test_what_is_called_whole_is_loaded_as_it_was(save: Any, tmp_path: Path) -> None:
    """Any bit of the directory or the end records: it is found, or torch loads the same."""
    path = tmp_path / "flipped.pt"
    expected = save(path)
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        start = archive.start_dir
    entries = [match.start() for match in re.finditer(b"PK\x01\x02", data)]
    names = {at + 46 + n for at in entries for n in range(int.from_bytes(data[at + 28 : at + 30], "little"))}
    attributes = {8 * (at + 38) + bit for at in entries for bit in range(8)}
    places = [8 * at + bit for at in range(start, len(data)) for bit in range(8) if at not in names or bit == at % 8]
    if save is _scripted:  # the same fields: a part of them is enough
        places = sorted({*places[::5], *attributes})
    for at, bit in (divmod(place, 8) for place in places):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])
        try:
            ok = verify_file(str(path)).ok
        except ci.CheckpointError:
            ok = False
        if ok:
            assert _loaded(path, save) == expected, (at - start, bit)


def test_what_torch_takes_for_a_folder_is_hurt(tmp_path: Path) -> None:
    """One bit of the external attributes: torch gives memory that nobody wrote to, and no error."""
    path = tmp_path / "folder.pt"
    expected = _saved(path)
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        start = archive.start_dir
    for record, hurt in (("data/1", ["b"]), ("data.pkl", ["a", "b"])):
        at = data.index(b"folder/" + record.encode(), start) - 46 + 38
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        if record == "data/1":  # of data.pkl torch would parse such memory
            assert _loaded(path, _saved) != expected
        (damage,) = verify_file(str(path)).damaged
        assert (damage.record, damage.names) == (record, hurt)
        assert "is marked as a folder" in damage.why
        assert run(["info", "-q", str(path)]) == 2


_END = b"PK\x05\x06"


@pytest.mark.parametrize("behind", [
    _END + struct.pack("<4H2IH", 0, 0, 9, 9, 500, 1 << 30, 0), _END + b"\xff" * 18, _END + bytes(18),
    _END + struct.pack("<4H2IH", 1, 1, 9, 9, 500, 100, 0), _END + b"\xff" * 18 + bytes(60), _END + bytes(10),
    b"", bytes(1), bytes(61_376), bytes(62_000), bytes(65_000), bytes(65_469), bytes(65_510), bytes(65_535),
    bytes(65_600), bytes(69_562), bytes(69_563), bytes(80_000),
])  # fmt: skip
@pytest.mark.parametrize("numel", [3, 2000, 100_000])
def test_torch_finds_the_directory_of_what_is_called_sound(behind: bytes, numel: int, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"a": torch.arange(numel)}, path)
    path.write_bytes(path.read_bytes() + behind)
    try:
        loads = torch.load(path)["a"].numel() == numel
    except Exception:  # torch's are of several classes
        loads = False
    found = verify_file(str(path))
    assert found.ok == loads, (found.damaged, found.notes)
    if "does not find" in str(found.damaged):
        assert run(["info", "-q", str(path)]) == 2


def test_a_tar_header_that_torch_refuses_is_damage(tmp_path: Path) -> None:
    """Python's tarfile takes a header with a wrong checksum for the end of the archive."""
    data = (FIXTURES / "tar2017.pth.tar").read_bytes()
    path = tmp_path / "tar.pth"
    with tarfile.open(FIXTURES / "tar2017.pth.tar") as archive:
        headers = [member.offset for member in archive.getmembers()]
    for at in (place for header in headers for place in range(header, header + 512, 5)):
        path.write_bytes(_flipped(data, at, random.Random(at)))
        try:
            torch.load(path, map_location="cpu", weights_only=False)
        except Exception:  # torch's are of several classes
            assert run(["verify", "-q", str(path)]) in (1, 2), at
        else:
            assert verify_file(str(path)).ok, at
    path.write_bytes(_flipped(data, headers[1] + 136, random.Random(0)))
    assert any("fails its checksum: torch finds no member" in damage.why for damage in verify_file(str(path)).damaged)


def _place(name: str, data: bytes, record: str, within: int) -> int:
    """Where a byte of a record is in a fixture that is an archive."""
    info = zipfile.ZipFile(FIXTURES / name).getinfo(record)
    start = (
        info.header_offset + 30 + sum(int.from_bytes(data[info.header_offset + n :][:2], "little") for n in (26, 28))
    )
    return start + within


def test_a_damaged_pickle_that_meets_a_limit_is_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the damage looks like to the machine, the record fails its checksum, and salvage is no way out."""
    path = tmp_path / "a.pt"
    torch.save({"count": 0x010203040506, "a": torch.ones(2)}, path)
    data = path.read_bytes()
    at = data.index(b"\x8a\x06" + bytes([6, 5, 4, 3, 2, 1]))  # LONG1
    path.write_bytes(data[:at] + b"\x8b" + data[at + 1 :])  # LONG4: a length of four bytes
    status, out, _ = _verify(capsys, str(path))
    assert status == 1
    assert "record data.pkl fails its checksum" in out
    assert "salvage" not in out
    assert "Copy or download it again" in out
    for command in ("info", "ls"):
        assert run([command, str(path)]) == 2
        said = capsys.readouterr().err
        assert "record data.pkl: fails its checksum" in said
        assert "salvage" not in said


def test_no_hint_leads_where_nothing_helps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is said to do is done here: salvage where it is named, and not named where it refuses."""
    data = (FIXTURES / "run.ckpt").read_bytes()
    with zipfile.ZipFile(FIXTURES / "run.ckpt") as archive:
        start = archive.start_dir
    pickle = _place("run.ckpt", data, "run/data.pkl", 40)
    flipped = {
        at: data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :] for at in (start, start + 20, start + 24, pickle)
    }
    cases = [*flipped.values(), data[: start - 3000], data.replace(b"\n", b"\r\n"), data[: pickle + 60]]
    led = 0
    for number, damaged in enumerate(cases):
        path = tmp_path / f"{number}.ckpt"
        path.write_bytes(damaged)
        said = []
        for words in (["verify"], ["info"], ["convert", "-o", str(tmp_path / "a.safetensors")]):
            assert run([words[0], str(path), *words[1:]]) == (1 if words == ["verify"] else 2)
            both = capsys.readouterr()
            said.append(both.out + both.err)
        salvaged = run(["salvage", str(path), "-o", str(tmp_path / "out.ckpt"), "--force"])
        capsys.readouterr()
        assert {f"ckpt salvage {path} -o OUT" in text for text in said} == {salvaged == 1}, (number, said)
        led += salvaged == 1
        if salvaged != 1:
            assert all("again" in text for text in said), said
        assert all(("binary mode" in text) == (damaged == cases[5]) for text in said), said
    assert led == 4


def test_salvage_is_not_named_for_what_it_cannot_see(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, sums = tmp_path / "a.safetensors", tmp_path / "sums"
    shutil.copy(FIXTURES / "gpt.safetensors", path)
    assert run(["verify", str(path), "--write-sums", str(sums)]) == 0
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    hints = verify_file(str(path), sums=str(sums)).hints
    assert hints == [f"Copy or download it again. What {sums} alone tells of, ckpt salvage would take for whole."]
    path.write_bytes(data[:-9])
    assert verify_file(str(path)).hints == [f"ckpt salvage {path} -o OUT"]
    torch.save({"bad": torch.tensor([float("nan")])}, tmp_path / "nan.pt")
    (hint,) = verify_file(str(tmp_path / "nan.pt"), deep=True).hints
    assert "reset" in hint
    assert "salvage" not in hint
    capsys.readouterr()


def test_sums_of_another_file_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sums = tmp_path / "sums"
    renamed = tmp_path / "renamed.safetensors"
    shutil.copy(FIXTURES / "gpt.safetensors", renamed)
    assert _verify(capsys, str(FIXTURES / "gpt.safetensors"), "--write-sums", str(sums))[0] == 0
    status, out, err = _verify(capsys, str(FIXTURES / "lenet.pt"), "--sums", str(sums))
    assert (status, out) == (2, "")
    assert "it has the checksums of gpt.safetensors" in err
    found = verify_file(str(renamed), sums=str(sums))
    assert found.ok
    assert f"{sums} was recorded of a file named gpt.safetensors" in found.notes
    renamed.write_bytes(renamed.read_bytes()[:-9])
    assert not verify_file(str(renamed), sums=str(sums)).ok


def test_what_an_index_says_is_compared_with_its_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "sharded"
    shutil.copytree(FIXTURES / "sharded", folder)
    (index,) = folder.glob("*.index.json")
    sound = json.loads(index.read_text())
    index.write_text(json.dumps({**sound, "metadata": {"total_size": 1}}))
    found = verify_file(str(folder))
    assert found.ok
    assert any("total_size says 1 bytes" in note for note in found.notes)
    first, *others = sound["weight_map"]
    index.write_text(json.dumps({**sound, "weight_map": {key: sound["weight_map"][key] for key in others}}))
    (damage,) = verify_file(str(folder)).damaged
    assert damage.names == [first]
    assert "which the index does not name: it is there" in damage.why
    index.write_text(json.dumps(sound))
    shard = sorted(path for path in folder.iterdir() if path.suffix == ".safetensors")[-1]
    data = shard.read_bytes()
    shard.unlink()
    (line,) = [line for line in _verify(capsys, str(folder))[1].splitlines() if "is missing" in line]
    assert line.startswith(f"  record {shard.name} is missing: ")
    names = [key for key, name in sound["weight_map"].items() if name == shard.name]
    assert all(line.count(key) == 1 for key in names if not any(key in other for other in names if other != key))
    shard.write_bytes(data[: -len(data) // 3])
    for command in ("stats", "hash"):
        run([command, str(folder)])
        said = capsys.readouterr().err
        cut = [line for line in said.splitlines() if "of its storage are there" in line]
        assert cut
        assert all(line.count(line.split(": ")[2]) == 1 for line in cut), cut


def test_shards_are_read_without_their_index(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import load_file

    folder, out = tmp_path / "sharded", tmp_path / "out"
    shutil.copytree(FIXTURES / "sharded", folder)
    (index,) = folder.glob("*.index.json")
    index.write_text(index.read_text()[:-40])
    status, said, _ = _verify(capsys, str(folder))
    assert status == 1
    assert "the index is not JSON" in said
    assert f"ckpt salvage {folder} -o OUT" in said
    assert run(["salvage", str(folder), "-o", str(out)]) == 1
    assert verify_file(str(out)).ok
    expected = {key: file.name for file in folder.glob("*.safetensors") for key in load_file(file)}
    assert json.loads((out / index.name).read_text())["weight_map"] == expected
    for file in folder.glob("*.safetensors"):
        file.unlink()
    assert run(["info", str(folder)]) == 2
    assert "the index is not JSON" in capsys.readouterr().err


def test_a_view_is_whole_whose_own_bytes_are_there(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    base = torch.arange(100_000.0)
    whole, cut = tmp_path / "whole.pt", tmp_path / "cut.pt"
    torch.save({"head": base[:10], "tail": base[-10:], "none": base[:0]}, whole)
    cut.write_bytes(whole.read_bytes()[:200_000])
    found = verify_file(str(cut))
    assert [damage.names for damage in found.damaged] == [["tail"]]
    assert ci.salvage(str(cut)).rescued == ["head", "none"]
    shards = tmp_path / "sharded"
    shards.mkdir()
    shutil.copy(cut, shards / "a-00001-of-00002.bin")
    save_file({"other": torch.ones(3)}, shards / "a-00002-of-00002.safetensors")
    places = dict.fromkeys(["head", "tail", "none"], "a-00001-of-00002.bin") | {"other": "a-00002-of-00002.safetensors"}
    (shards / "a.bin.index.json").write_text(json.dumps({"weight_map": places}))
    assert [damage.names for damage in verify_file(str(shards)).damaged] == [["tail"]]


@pytest.mark.parametrize("legacy", [False, True])
def test_a_view_is_read_whose_own_bytes_are_there(
    legacy: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``stats``, ``hash`` and ``show`` give it, and name the one that is cut off."""
    base = torch.arange(100_000.0)
    path = tmp_path / "cut.pt"
    torch.save({"head": base[:10], "tail": base[-10:]}, path, _use_new_zipfile_serialization=not legacy)
    path.write_bytes(path.read_bytes()[:200_000])
    assert run(["stats", str(path), "--json"]) == 2
    said = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in said["tensors"]}
    assert (rows["head"]["min"], rows["head"]["max"]) == (0, 9)
    assert rows["tail"]["max"] is None
    assert run(["show", str(path), "head"]) == 2
    assert "4.5" in capsys.readouterr().out  # the mean
    found = verify_file(str(path))
    assert {name for damage in found.damaged for name in damage.names} == {"tail"}


def test_a_damaged_checksum_in_the_directory_hurts_no_tensor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The descriptor behind the record has the right one: torch, which asks neither, loads what was saved."""
    path = tmp_path / "a.pt"
    state = {"a": torch.arange(9.0), "b": torch.ones(3)}
    torch.save(state, path)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        (info,) = [info for info in archive.infolist() if info.filename.endswith("data/0")]
    crc = info.CRC.to_bytes(4, "little")
    at = data.rindex(crc)
    data[at + 1] ^= 4
    path.write_bytes(data)
    found = verify_file(str(path))
    assert not found.ok
    assert found.hurt == 0
    assert "the one behind it is right" in found.damaged[0].why
    assert torch.equal(torch.load(path, weights_only=True)["a"], state["a"])
    data[data.index(crc)] ^= 1  # and the descriptor's: nothing proves it any more
    path.write_bytes(data)
    assert verify_file(str(path)).damaged[-1].names == ["a"]
    capsys.readouterr()


def test_a_call_of_a_value_is_damage(tmp_path: Path) -> None:
    """A memo index with a flipped bit: the pickle calls a text, and torch fails."""
    path = tmp_path / "legacy.pt"
    state = {"a": torch.ones(3), "b": torch.zeros(2)}
    torch.save(state, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    called = 0
    for at in (match.start() for match in re.finditer(b"h", data)):  # BINGET
        for bit in range(5):
            path.write_bytes(data[: at + 1] + bytes([data[at + 1] ^ 1 << bit]) + data[at + 2 :])
            try:
                torch.load(path, weights_only=False)
            except TypeError as error:
                if re.search(r"'(str|dict|tuple|list|int)' object is not callable", str(error)):
                    called += 1
                    found = verify_file(str(path))
                    assert any("which cannot be called" in damage.why for damage in found.damaged), found.damaged
            except Exception:
                continue
    assert called


def test_a_missing_record_that_a_set_needs_is_damage(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.pt", tmp_path / "x.pt"
    torch.save({"a": torch.ones(100), "s": {torch.ones(3)}, "k": {torch.ones(4): 1}}, whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
        for info in source.infolist():
            if not info.filename.endswith(("data/1", "data/2")):
                target.writestr(info.filename, source.read(info))
    with pytest.raises(RuntimeError):
        torch.load(path, weights_only=False)
    found = verify_file(str(path))
    assert {damage.record: damage.names for damage in found.damaged} == {
        "data/1": ["s/0"], "data/2": ["k/<keys>/0"],
    }  # fmt: skip


def _sums(path: Path, sums: Path) -> None:
    assert run(["verify", str(path), "--write-sums", str(sums), "--quiet", "--force"]) == 0


def test_sums_of_what_has_no_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A torch.export archive, a torch.package, a file whose first bytes are damaged."""
    path, sums, other = tmp_path / "m.pt2", tmp_path / "sums", tmp_path / "other"
    torch.export.save(torch.export.export(torch.nn.Linear(2, 3), (torch.ones(1, 2),)), path)
    _sums(path, sums)
    _sums(FIXTURES / "lenet.pt", other)
    assert run(["verify", str(path), "--sums", str(sums), "--deep"]) == 0
    assert "--deep: no values were looked at" in capsys.readouterr().out
    assert run(["verify", str(path), "--sums", str(tmp_path / "none")]) == 2
    assert run(["verify", str(path), "--sums", str(other)]) == 2
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        info = archive.infolist()[0]
    path.write_bytes(data[: info.header_offset + 10] + b"\xff" + data[info.header_offset + 11 :])  # its time
    assert verify_file(str(path)).ok
    assert not verify_file(str(path), sums=str(sums)).ok
    plain = tmp_path / "x.safetensors"
    shutil.copy(FIXTURES / "gpt.safetensors", plain)
    _sums(plain, sums)
    plain.write_bytes(b"\xff" * 8 + plain.read_bytes()[8:])
    found = verify_file(str(plain), sums=str(sums))
    assert any(str(damage.record).startswith("bytes 0-") for damage in found.damaged)
    assert run(["verify", str(plain)]) == 2


def test_sums_name_the_tensors_that_are_hurt(tmp_path: Path) -> None:
    """Padding hurts none, a record that is not there its own, a header all."""
    path, sums = tmp_path / "x.pt", tmp_path / "sums"
    tensors = {f"t{n}": torch.full((500,), float(n)) for n in range(8)}
    torch.save(tensors, path)
    _sums(path, sums)
    data = path.read_bytes()
    at = data.index(tensors["t3"].numpy().tobytes()) - 2
    path.write_bytes(_flipped(data, at, random.Random(0)))
    assert verify_file(str(path), sums=str(sums)).hurt == 0
    end = data.index(tensors["t5"].numpy().tobytes()) + 1000
    path.write_bytes(data[:end])
    found = verify_file(str(path), sums=str(sums))
    assert {name for damage in found.damaged for name in damage.names} == {"t5", "t6", "t7"}
    plain = tmp_path / "gpt.safetensors"
    shutil.copy(FIXTURES / "gpt.safetensors", plain)
    _sums(plain, sums)
    data = plain.read_bytes()
    plain.write_bytes(data.replace(b'"__metadata__":{"', b'"__metadata__":{"x', 1)[: len(data)])
    found = verify_file(str(plain), sums=str(sums))
    assert found.hurt == found.tensors


def test_sums_where_a_shard_is_missing_or_cannot_be_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, sums = tmp_path / "sharded", tmp_path / "sums"
    shutil.copytree(FIXTURES / "sharded", folder)
    _sums(folder, sums)
    first, *_, last = sorted(path for path in folder.iterdir() if path.suffix == ".safetensors")
    data = last.read_bytes()
    last.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    content = first.read_bytes()
    lost = set(_tensors(first))
    for damaged in (None, b"\xff" * 8 + content[8:]):
        first.unlink()
        if damaged is not None:
            first.write_bytes(damaged)
        assert run(["verify", str(folder), "--sums", str(sums)]) == 1
        out = capsys.readouterr().out
        assert (f"{first.name} is missing" in out) == (damaged is None)
        found = verify_file(str(folder), sums=str(sums))
        names = {name for damage in found.damaged for name in damage.names}
        assert lost < names
        assert len(names - lost) == 1
        first.touch()


def _tensors(path: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(path, "pt") as opened:
        return list(opened.keys())


def test_how_counts_are_worded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.pt"
    tensors = {"a": torch.ones(3), "b": torch.ones(3)}
    torch.save(tensors, path)
    data = path.read_bytes()
    at = data.index(torch.ones(3).numpy().tobytes())
    path.write_bytes(_flipped(data, at, random.Random(0)))
    assert run(["verify", str(path)]) == 1
    assert "1 of 2 tensors, 1 is whole" in capsys.readouterr().out
