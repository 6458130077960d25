"""What salvage carries, refuses and says. The oracles are torch and safetensors, and the undamaged files."""

from __future__ import annotations

import collections
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ckpt_inspect.cli.app import run
from ckpt_inspect.errors import CheckpointError, CorruptError
from ckpt_inspect.formats.torch_legacy import survey
from ckpt_inspect.model.source import BytesSource
from ckpt_inspect.operations.salvage import salvage
from ckpt_inspect.operations.verify import verify_file
from tests.cli.test_golden import on_terminal
from tests.conftest import FIXTURES


class Tagged(list[torch.Tensor]):
    """A list that carries attributes."""


class Holder:
    """An object that keeps a storage, and says so with a call."""

    def __init__(self, storage: Any) -> None:
        self.storage = storage

    def __reduce__(self) -> Any:
        return Holder, (self.storage,)


class Scaled:
    """An object that is made of a tensor."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.half = tensor / 2
        self.tensor = tensor

    def __reduce__(self) -> Any:
        return Scaled, (self.tensor,)


def _numbers(nth: int) -> torch.Tensor:
    return torch.arange(nth * 10, nth * 10 + 5, dtype=torch.float32)


def _hidden() -> dict[str, Any]:
    """Tensors where a state_dict has none, each with other values."""
    tagged = Tagged([_numbers(1)])
    tagged.scale = _numbers(2)  # type: ignore[attr-defined]
    named = collections.OrderedDict(w=_numbers(3))
    named._metadata = {"": {"scale": _numbers(4)}}  # type: ignore[attr-defined]
    hung = torch.nn.Parameter(_numbers(5))
    hung.state = {"k": [_numbers(6)]}
    return {
        "a": torch.arange(100.0), "tagged": tagged, "named": named, "hung": hung, "set": {_numbers(7), _numbers(8)},
        "frozen": frozenset([_numbers(9)]), "keys": {_numbers(10): 1, (1, _numbers(11)): 2},
    }  # fmt: skip


def _values(value: Any) -> list[list[float]]:
    """All values of all tensors, wherever they are, in no order."""
    found: list[list[float]] = []
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, torch.Tensor):
            found.append(item.tolist())
        if isinstance(item, dict):
            waiting += [*item, *item.values()]
        elif isinstance(item, (list, tuple, set, frozenset)):
            waiting += item
        if hasattr(item, "__dict__"):
            waiting.append(vars(item))
    return sorted(found)


def _extents(path: Path) -> dict[str, tuple[int, int]]:
    """Where the bytes of each record of a zip lie, by zipfile."""
    data = path.read_bytes()
    found = {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            at = info.header_offset
            start = at + 30 + int.from_bytes(data[at + 26 : at + 28], "little")
            start += int.from_bytes(data[at + 28 : at + 30], "little")
            found[info.filename.partition("/")[2]] = (start, start + info.file_size)
    return found


def _flip(path: Path, record: str) -> None:
    data = bytearray(path.read_bytes())
    data[_extents(path)[record][0]] ^= 0x55
    path.write_bytes(data)


def _load(path: Path) -> Any:
    return torch.load(path, weights_only=False)


@pytest.mark.parametrize("zipped", [True, False])
def test_every_storage_that_the_pickle_names_is_carried(zipped: bool, tmp_path: Path) -> None:
    path, out = tmp_path / "hidden.pt", tmp_path / "out.pt"
    torch.save(_hidden(), path, _use_new_zipfile_serialization=zipped)
    found = salvage(str(path), str(out))
    assert not found.lost
    assert not found.damaged
    assert _values(_load(out)) == _values(_hidden())
    assert verify_file(str(out)).ok


def test_each_hidden_storage_is_named_when_it_is_hurt(tmp_path: Path) -> None:
    sound, path, out = tmp_path / "hidden.pt", tmp_path / "hurt.pt", tmp_path / "out.pt"
    torch.save(_hidden(), sound)
    assert len(verify_file(str(sound)).damaged) == 0
    records = [name for name in _extents(sound) if name.startswith("data/")]
    names = set()
    for record in records:
        shutil.copy(sound, path)
        _flip(path, record)
        (damage,) = verify_file(str(path)).damaged
        assert damage.names, record
        names.update(damage.names)
        for fill in (None, "zeros"):
            found = salvage(str(path), str(out), fill=fill, force=True)
            assert {lost.name for lost in found.lost} == set(damage.names)
            left = _values(_load(out))
            wrong = [values for values in left if values not in _values(_hidden())]
            if fill:
                assert len(left) == len(_values(_hidden()))
                assert all(set(values) == {0.0} for values in wrong)
            else:
                assert not wrong
    assert {"set/0", "frozen/0", "keys/<keys>/0", "keys/<keys>/1/1", "tagged/<attributes>/scale"} <= names


def test_a_legacy_cut_within_a_hidden_storage_is_lost(tmp_path: Path) -> None:
    path, out = tmp_path / "legacy.pt", tmp_path / "out.pt"
    torch.save({"a": torch.ones(100), "set": {torch.ones(500)}}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for cut in range(len(whole) - 2400, len(whole), 100):
        path.write_bytes(whole[:cut])
        try:
            found = salvage(str(path), str(out), force=True)
        except CorruptError:  # of both something is missing
            continue
        hurt = {name for name, tensor in _by_name(_load(out)).items() if not bool((tensor == 1).all())}
        assert not hurt
        assert {"a", "set/0"} == {*found.rescued, *(lost.name for lost in found.lost)}


def _by_name(content: dict[str, Any]) -> dict[str, torch.Tensor]:
    found = {}
    for key, value in content.items():
        items = [value] if isinstance(value, torch.Tensor) else list(value)
        found.update({f"{key}/{index}": tensor for index, tensor in enumerate(items)})
    return found


def _bytes(holder: Holder) -> bytes:
    return bytes(getattr(holder.storage, "_untyped_storage", holder.storage))


def test_a_storage_of_an_unknown_object_is_carried_and_named(tmp_path: Path) -> None:
    path, out = tmp_path / "held.pt", tmp_path / "out.pt"
    torch.save({"a": torch.ones(3), "held": [Holder(torch.full((4,), 7.0).untyped_storage())]}, path)
    assert not salvage(str(path), str(out)).lost
    assert _bytes(_load(out)["held"][0]) == torch.full((4,), 7.0).numpy().tobytes()
    assert any("held/0" in note for note in verify_file(str(path)).notes)
    hurt = tmp_path / "hurt.pt"
    shutil.copy(path, hurt)
    _flip(hurt, "data/1")
    (damage,) = verify_file(str(hurt)).damaged
    assert "held/0" in damage.why
    found = salvage(str(hurt), str(out), force=True)
    assert [lost.name for lost in found.lost] == ["held/0"]
    assert "filled" in found.lost[0].why
    assert _bytes(_load(out)["held"][0]) == bytes(16)


# -- legacy streams: what the lengths prove ---------------------------------------------------------------------


def _stream(tensors: dict[str, torch.Tensor], path: Path) -> tuple[bytes, dict[str, int]]:
    """A legacy file, and where the bytes of each tensor begin in it."""
    torch.save(tensors, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    return data, {name: data.index(tensor.numpy().tobytes()) for name, tensor in tensors.items() if tensor.numel() > 1}


def _wrong(path: Path, out: Path, tensors: dict[str, torch.Tensor]) -> tuple[set[str], set[str], list[str]]:
    """Of the tensors called whole, those that are not; those called lost; the notes."""
    try:
        found = salvage(str(path), str(out), force=True)
    except CorruptError:
        return set(), set(tensors), []
    left = torch.load(out, weights_only=True)
    wrong = {name for name in found.rescued if left[name].numpy().tobytes() != tensors[name].numpy().tobytes()}
    return wrong, {lost.name for lost in found.lost}, found.notes


@pytest.mark.parametrize("seed", range(12))
def test_lost_bytes_before_counters_of_one(seed: int, tmp_path: Path) -> None:
    """A counter of 1 after its length 1 looks the same eight bytes further on."""
    torch.manual_seed(seed)
    tensors = {"a": torch.randn(64, 8), **{f"n{i}": torch.tensor(1) for i in range(4)}, "z": torch.randn(65)}
    path = tmp_path / "x.pt"
    data, starts = _stream(tensors, path)
    at = starts["a"] + 40 * seed
    path.write_bytes(data[:at] + data[at + 8 :])
    wrong, lost, _ = _wrong(path, tmp_path / "out.pt", tensors)
    assert not wrong
    assert "a" in lost


def test_one_damage_costs_one_tensor(tmp_path: Path) -> None:
    """Where the lengths tell which storage it was, all others are whole."""
    torch.manual_seed(0)
    tensors = {f"w{i}": torch.randn(30 + i, 32) for i in range(6)}
    path = tmp_path / "x.pt"
    data, starts = _stream(tensors, path)
    last = max(starts, key=lambda name: starts[name])
    for name, start in starts.items():
        for changed in (data[: start + 99] + data[start + 112 :], data[: start + 99] + b"?" * 5 + data[start + 99 :]):
            path.write_bytes(changed)
            wrong, lost, notes = _wrong(path, tmp_path / "out.pt", tensors)
            if name == last and len(changed) > len(data):  # torch loads it: the bytes may as well follow
                assert wrong <= {name}
                assert any(f"5 bytes after the last storage; if they were put into it, {name} is" in n for n in notes)
            else:
                assert not wrong
                assert lost == {name}


def _places(data: bytes, parts: list[tuple[int, bytes]]) -> tuple[set[int], set[int]]:
    """Of the storages of a stream, those called whole that are not, and those that are not called whole."""
    placed = survey(BytesSource(data, ""), 0, [(len(content), numel) for numel, content in parts])
    whole = {
        index for index, ((_, content), place) in enumerate(zip(parts, placed, strict=True))
        if not place.why and place.there == len(content)
    }  # fmt: skip
    wrong = {i for i in whole if data[placed[i].start : placed[i].start + placed[i].there] != parts[i][1]}
    return wrong, set(range(len(parts))) - whole


def _parts(chance: random.Random) -> list[tuple[int, bytes]]:
    ones = chance.random() < 0.5
    sizes = [chance.choice([0, 1, 1, 10, 64, 64, 64]) for _ in range(8)]
    return [
        (n, (1 if ones else chance.randrange(300)).to_bytes(8, "little") if n == 1 else chance.randbytes(4 * n))
        for n in sizes
    ]


@pytest.mark.parametrize("seed", range(20))
def test_damage_at_one_place_of_a_stream(seed: int) -> None:
    """Counters and equal layers make numbers right by chance: one stride (264) lost or inserted, eight bytes, any."""
    chance = random.Random(seed)
    for _ in range(50):
        parts = _parts(chance)
        sound = b"".join(numel.to_bytes(8, "little") + content for numel, content in parts)
        at, n = chance.randrange(len(sound)), chance.choice([1, 4, 8, 16, 264, 528, chance.randrange(1, 300)])
        lost = chance.random() < 0.6
        number = len(sound) - len(parts[-1][1]) - 8
        if lost and at < number + 8 and at + n > number:
            continue  # the last number is gone: it looks like a cut
        changed = sound[:at] + sound[at + n :] if lost else sound[:at] + chance.randbytes(n) + sound[at:]
        last = max((index for index, (numel, _) in enumerate(parts) if numel), default=0)
        # what follows the stream may have been put into its last storage: torch loads that
        assert _places(changed, parts)[0] <= (set() if lost else {last})


def test_a_cut_stream_keeps_what_is_there() -> None:
    chance = random.Random(0)
    for _ in range(50):
        parts = [(n, chance.randbytes(4 * n)) for n in chance.choices([2, 10, 64, 64, 100], k=6)]
        sound = b"".join(numel.to_bytes(8, "little") + content for numel, content in parts)
        size = chance.randrange(len(sound))
        ends = list(itertools.accumulate(8 + len(content) for _, content in parts))
        wrong, missing = _places(sound[:size], parts)
        assert not wrong
        gone = {index for index, end in enumerate(ends) if end > size}
        # cut just behind one of several equal layers, one of those before may be what is gone
        assert missing == gone or (size in ends and missing > gone)


# -- shards, refusals, other entries ----------------------------------------------------------------------------


def _sharded(folder: Path, shards: dict[str, dict[str, Any]], suffix: str = "safetensors") -> dict[str, Any]:
    """A sharded checkpoint; the tensors in it."""
    folder.mkdir(parents=True)
    weight_map: dict[str, str] = {}
    every: dict[str, Any] = {}
    for name, content in shards.items():
        (folder / name).parent.mkdir(exist_ok=True)
        if suffix == "safetensors":
            save_file(content, folder / name)
        else:
            torch.save(content, folder / name)
        every |= content
        weight_map |= {key: name for key, value in content.items() if isinstance(value, torch.Tensor)}
    (folder / f"model.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return every


def test_shards_in_directories_below(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    state = _sharded(source, {"sub/x.safetensors": {"a": torch.ones(3)}, "y.safetensors": {"b": torch.zeros(2)}})
    for force in ([], ["--force"]):
        assert run(["salvage", str(source), "-o", str(out), *force]) == 0
        loaded = {**load_file(out / "sub" / "x.safetensors"), **load_file(out / "y.safetensors")}
        assert all(torch.equal(loaded[key], state[key]) for key in state)
        assert verify_file(str(out)).ok
    assert run(["convert", str(source), "--dtype", "float16", "-o", str(tmp_path / "half")]) == 0
    assert load_file(tmp_path / "half" / "sub" / "x.safetensors")["a"].dtype == torch.float16


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_no_file_that_is_read_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in"
    _sharded(source, {"1.safetensors": {"a": torch.ones(30)}, "2.safetensors": {"b": torch.ones(30)}})
    (source / "2.safetensors").write_bytes((source / "2.safetensors").read_bytes()[:-50])
    hub = tmp_path / "hub"
    hub.mkdir()
    for path in source.iterdir():
        (hub / path.name).symlink_to(path)
    index = "model.safetensors.index.json"
    before = _tree(source)
    for given, out in ((source / index, source), (source, source), (hub, source), (hub / index, source)):
        assert run(["salvage", str(given), "-o", str(out), "--force"]) == 2, (given, out)
        assert "is not overwritten" in capsys.readouterr().err
        assert _tree(source) == before
    (source / "2.safetensors").unlink()  # what cannot be opened is safe too
    (source / "2.safetensors").write_bytes(b"no checkpoint")
    assert run(["salvage", str(source / index), "-o", str(source), "--force"]) == 2
    single, part = tmp_path / "one.pt", tmp_path / "part.pt"
    torch.save({"a": torch.ones(3), "b": torch.ones(3)}, single)
    os.link(single, part)
    content = single.read_bytes()
    for name in (str(single), f"{single}#a", str(part)):
        assert run(["salvage", name, "-o", str(single), "--force"]) == 2
        assert single.read_bytes() == content


def test_outputs_beside_a_checkpoint_spare_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, link = tmp_path / "x.safetensors", tmp_path / "link"
    save_file({"a.w": torch.ones(3)}, path)
    link.symlink_to(path)
    before = path.read_bytes()
    for target in (path, link):
        for words in (
            ["verify", str(path), "--write-sums", str(target), "--force"],
            ["show", str(path), "a.w", "--save", str(target), "--force"],
            ["remap", str(path), "--rule", "a.** -> b.**", "--dry-run", "--save-rules", str(target), "--force"],
        ):
            assert run(words) == 2, words
            assert "the checkpoint is not overwritten" in capsys.readouterr().err
            assert path.read_bytes() == before
            assert link.is_symlink()


def test_a_shard_with_a_damaged_directory_is_rescued(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    state = _sharded(source, {"1.bin": {"a": torch.ones(3)}, "2.bin": {"b": torch.arange(4.0)}}, "bin")
    data = bytearray((source / "2.bin").read_bytes())
    data[data.rindex(b"PK\x06\x06")] ^= 1
    (source / "2.bin").write_bytes(data)
    found = salvage(str(source), str(out))
    assert not found.lost
    assert any("2.bin" in note and "local headers" in note for note in found.notes)
    assert torch.equal(torch.load(out / "2.bin")["b"], state["b"])


def test_other_entries_are_worth_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "run.pt", tmp_path / "out.pt"
    torch.save({"epoch": 7, "cfg": {"lr": 0.1}, "w": torch.randn(9)}, path)
    _flip(path, "data/0")
    assert run(["verify", str(path)]) == 1
    assert "ckpt salvage" in capsys.readouterr().out
    assert run(["salvage", str(path), "-o", str(out)]) == 1
    assert torch.load(out) == {"epoch": 7, "cfg": {"lr": 0.1}}
    assert run(["salvage", str(path), "-o", str(out), "--fill", "nan", "--force"]) == 1
    assert torch.load(out)["w"].isnan().all()
    alone = tmp_path / "alone.pt"
    torch.save({"w": torch.randn(9)}, alone)
    _flip(alone, "data/0")
    capsys.readouterr()
    assert run(["verify", str(alone)]) == 1
    assert "ckpt salvage" not in capsys.readouterr().out
    assert run(["salvage", str(alone), "-o", str(out), "--force"]) == 2


def test_entries_of_a_shard_that_is_left_out_are_named(tmp_path: Path) -> None:
    source = tmp_path / "in"
    _sharded(source, {"1.bin": {"a": torch.ones(3)}, "2.bin": {"b": torch.ones(4), "note": "hello"}}, "bin")
    _flip(source / "2.bin", "data/0")
    found = salvage(str(source), str(tmp_path / "out"))
    (note,) = [note for note in found.notes if "left out" in note]
    assert "note" in note
    command = note[note.index("ckpt salvage") :].replace("OUT", str(tmp_path / "part.pt"))
    assert run(command.split()[1:]) == 1
    assert torch.load(tmp_path / "part.pt") == {"note": "hello"}


def test_what_is_made_of_a_lost_tensor_is_said(tmp_path: Path) -> None:
    path, out = tmp_path / "x.pt", tmp_path / "out.pt"
    torch.save({"a": torch.ones(3), "made": Scaled(torch.ones(4))}, path)
    _flip(path, "data/1")
    found = salvage(str(path), str(out))
    assert any("Scaled is made of made/<argument 0>" in note and "--fill zeros" in note for note in found.notes)
    with pytest.raises(TypeError):
        _load(out)
    assert not any("is made of" in note for note in salvage(str(path), str(out), fill="zeros", force=True).notes)
    assert _load(out)["made"].tensor.tolist() == [0.0] * 4


def test_nan_is_said_only_where_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "x.pt", tmp_path / "out.pt"
    torch.save({"a": torch.ones(3), "f": torch.ones(3), "i": torch.ones(3, dtype=torch.int64)}, path)
    _flip(path, "data/1")
    _flip(path, "data/2")
    assert run(["salvage", str(path), "-o", str(out), "--fill", "nan"]) == 1
    left = torch.load(out)
    assert left["f"].isnan().all()
    assert left["i"].tolist() == [0, 0, 0]
    assert "1 of 2 tensors with nan, 1 with zeros" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["-d.pt", "line\nfeed.pt", "it's.pt", "r\udcff.pt", "t\t$x.pt", "spa ce.pt"])
def test_hints_can_be_typed(name: str, tmp_path: Path) -> None:
    torch.save({"a": torch.ones(3), "b": torch.ones(3)}, tmp_path / "x.pt")
    _flip(tmp_path / "x.pt", "data/1")
    (tmp_path / "x.pt").rename(tmp_path / name)
    program = [sys.executable, "-m", "ckpt_inspect"]
    code = Path(__file__).parents[2]
    done = subprocess.run(
        [*program, "verify", "--", name], cwd=tmp_path, capture_output=True, text=True, errors="surrogateescape",
        env={**os.environ, "PYTHONPATH": str(code)},
    )  # fmt: skip
    (hint,) = [line.removeprefix("  hint  ") for line in done.stdout.splitlines() if line.startswith("  hint  ")]
    assert hint.startswith("ckpt salvage ")
    command = hint.replace("ckpt ", f"{sys.executable} -m ckpt_inspect ", 1).replace(" OUT", " out.pt")
    typed = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, env={**os.environ, "PYTHONPATH": str(code)}
    )
    assert typed.returncode == 1, typed.stderr
    assert list(torch.load(tmp_path / "out.pt")) == ["a"]


def test_formats_that_are_not_salvaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, coded in (("tar2017.pth.tar", False), ("scripted.pt", True)):
        assert run(["salvage", str(FIXTURES / name), "--dry-run"]) == 2
        assert ("their code" in capsys.readouterr().err) == coded
    path = tmp_path / "old.pt"
    torch.save({"a": torch.ones(3)}, path, pickle_protocol=0)
    with pytest.raises(AssertionError):
        torch.load(path, weights_only=False)
    assert "protocol 0" in verify_file(str(path)).damaged[0].why
    legacy = tmp_path / "legacy.pt"
    torch.save({"a": torch.ones(3)}, legacy, _use_new_zipfile_serialization=False)
    legacy.write_bytes(legacy.read_bytes() + bytes(8))
    assert any("8 bytes after the last storage" in note for note in salvage(str(legacy)).notes)


def test_words_stay_whole_on_a_terminal(tmp_path: Path) -> None:
    shutil.copy(FIXTURES / "scripted.pt", tmp_path / "scripted.pt")
    said = on_terminal(["salvage", "scripted.pt", "--dry-run"], 80, tmp_path, 2, NO_COLOR="1").splitlines()
    assert "their code and their tensors belong together" in " ".join(line.strip() for line in said)
    assert max(map(len, said)) <= 80, said
    assert [line.startswith("      ") for line in said] == [False] + [True] * (len(said) - 1)
    torch.save({"a": torch.ones(3), "list": [torch.ones(2)] * 9}, tmp_path / "y.pt")
    _flip(tmp_path / "y.pt", "data/1")
    said = on_terminal(["verify", "y.pt"], 80, tmp_path, 1, NO_COLOR="1").splitlines()
    start = next(index for index, line in enumerate(said) if line.startswith("  record data/1"))
    assert said[start + 1].startswith("        ")
    assert "list/0, list/1" in " ".join(line.strip() for line in said[start : start + 4])


def test_an_index_that_names_a_file_nobody_can_spell(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "1.safetensors")
    index = {"weight_map": {"a": "1.safetensors", "b": "\ud800.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    found = salvage(str(tmp_path))
    assert found.rescued == ["a"]
    assert [lost.name for lost in found.lost] == ["b"]


def test_a_legacy_stream_of_storages_longer_than_any_file(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"a": torch.ones(2), "b": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    at = data.index(b"K\x02", data.index(b"storage"))  # BININT1, which becomes LONG1
    for numel in ((1 << 61) - 1, (1 << 63) - 1, 1 << 64, -1):
        path.write_bytes(data[:at] + b"\x8a\x09" + numel.to_bytes(9, "little", signed=True) + data[at + 2 :])
        try:
            found = salvage(str(path))
        except CheckpointError:
            continue
        assert "a" not in found.rescued, numel
