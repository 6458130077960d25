"""What is rescued is bit for bit what it was. The oracle is the undamaged file, by torch, safetensors and zipfile."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import ckpt_inspect
from ckpt_inspect.cli.app import run
from ckpt_inspect.containers import zip_build
from ckpt_inspect.errors import CheckpointError, CorruptError, OutputExistsError, SelectionError, UnsupportedError
from ckpt_inspect.operations.salvage import Salvage, salvage
from ckpt_inspect.operations.verify import verify_file
from tests.conftest import FIXTURES
from tests.hostile import build
from tests.zoo import files


def _leaves(value: Any, name: str = "") -> dict[str, torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    named = [(str(key).replace("~", "~0").replace("/", "~1"), item) for key, item in items]
    return {k: v for key, item in named for k, v in _leaves(item, f"{name}/{key}" if name else key).items()}


def _load(path: Path, trusted: bool = False) -> dict[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        return {key.replace("/", "~1"): value for key, value in load_file(path).items()}
    return _leaves(torch.load(path, weights_only=not trusted))


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    def data(tensor: torch.Tensor) -> bytes:
        return tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.dim() else data(tensor.reshape(1))

    return one.dtype == other.dtype and one.shape == other.shape and data(one) == data(other)


def _check(found: Salvage, out: Path, original: dict[str, torch.Tensor], trusted: bool = False) -> None:
    """Every tensor is rescued bit for bit, or named as lost."""
    left = _load(out, trusted)
    lost = {lost.name for lost in found.lost}
    assert set(found.rescued) | lost == set(original)
    assert not set(found.rescued) & lost
    assert set(left) == set(found.rescued) | (lost if found.fill else set())
    for name in found.rescued:
        assert _same(left[name], original[name]), name
    assert verify_file(str(out)).ok


def _extents(path: Path) -> dict[str, tuple[int, int]]:
    """Where the bytes of each record lie, by zipfile."""
    data = path.read_bytes()
    found = {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            at = info.header_offset
            start = (
                at
                + 30
                + int.from_bytes(data[at + 26 : at + 28], "little")
                + int.from_bytes(data[at + 28 : at + 30], "little")
            )
            found[info.filename.partition("/")[2]] = (start, start + info.file_size)
    return found


CUT = ["run.ckpt", "tied.pt", "lightning.ckpt", "legacy.pth", "gpt.safetensors"]


@pytest.mark.parametrize("name", CUT)
def test_a_cut_file_gives_back_what_is_whole(name: str, tmp_path: Path) -> None:
    data = (FIXTURES / name).read_bytes()
    trusted = name == "lightning.ckpt"
    original = _load(FIXTURES / name, trusted)
    path, out = tmp_path / "cut", tmp_path / ("out" + Path(name).suffix)
    chance = random.Random(name)
    rescued = []
    for part in (0.6, 0.99, *(chance.uniform(0.1, 1) for _ in range(10))):
        path.write_bytes(data[: int(part * len(data))])
        try:
            found = salvage(str(path), str(out), force=True)
        except CorruptError:
            continue
        assert found.damaged
        rescued.append((part, len(found.rescued)))
        _check(found, out, original, trusted)
    assert len(rescued) > 3
    assert [count for _, count in sorted(rescued)] == sorted(count for _, count in rescued)


@pytest.mark.parametrize("name", ["tied.pt", "legacy.pth", "gpt.safetensors"])
def test_wherever_it_is_cut(name: str, tmp_path: Path) -> None:
    """Not only between records: nothing else than a CheckpointError, and never more than there is."""
    data = (FIXTURES / name).read_bytes()
    path = tmp_path / name
    counts = []
    for length in range(0, len(data), len(data) // 150):
        path.write_bytes(data[:length])
        try:
            counts.append(len(salvage(str(path)).rescued))
        except CheckpointError:
            counts.append(0)
        with contextlib.suppress(CheckpointError):
            assert not verify_file(str(path)).ok
    assert counts == sorted(counts)
    assert counts[-1] >= counts[len(counts) // 2] > 0


def test_sixty_percent_give_every_tensor_that_lies_within(tmp_path: Path) -> None:
    name = "run.ckpt"
    data = (FIXTURES / name).read_bytes()
    length = int(0.6 * len(data))
    path = tmp_path / name
    path.write_bytes(data[:length])
    found = salvage(str(path))
    sound = ckpt_inspect.open(FIXTURES / name)
    extents = _extents(FIXTURES / name)
    expected = [n for n, _, info in sound.tensors() if info.storage and extents[info.storage.id][1] <= length]
    assert found.rescued == expected
    assert 20 < len(expected) < len(sound)


@pytest.mark.parametrize("fill", ["zeros", "nan"])
@pytest.mark.parametrize("name", CUT)
def test_filled(name: str, fill: str, tmp_path: Path) -> None:
    data = (FIXTURES / name).read_bytes()
    trusted = name == "lightning.ckpt"
    path, out = tmp_path / "cut", tmp_path / ("out" + Path(name).suffix)
    path.write_bytes(data[: int(0.6 * len(data))])
    found = salvage(str(path), str(out), fill=fill)
    original = _load(FIXTURES / name, trusted)
    _check(found, out, original, trusted)
    left = _load(out, trusted)
    assert list(left) == list(original) or name.endswith("safetensors")
    filled = 0
    for lost in found.lost:
        tensor = left[lost.name]
        if fill == "zeros" or not tensor.is_floating_point():
            assert not (tensor != tensor).any()
        elif lost.why.startswith("0 of its") or "not in the file" in lost.why:
            assert torch.isnan(tensor).all(), lost
            filled += tensor.numel()
    assert filled or fill == "zeros" or name in ("lightning.ckpt", "tied.pt")


@pytest.mark.parametrize("name", ["run.ckpt", "tied.pt", "lenet.pt"])
def test_damaged_records_are_left_out(name: str, tmp_path: Path) -> None:
    data = bytearray((FIXTURES / name).read_bytes())
    extents = {
        key: span for key, span in _extents(FIXTURES / name).items() if key.startswith("data/") and span[0] < span[1]
    }
    chance = random.Random(name)
    hit = chance.sample(sorted(extents), min(2, len(extents) - 1))
    for key in hit:
        data[chance.randrange(*extents[key])] ^= 4
    path, out = tmp_path / name, tmp_path / f"out-{name}"
    path.write_bytes(data)
    found = salvage(str(path), str(out))
    original = _leaves(torch.load(FIXTURES / name, weights_only=False)) if name != "lenet.pt" else {}
    sound = ckpt_inspect.open(FIXTURES / name)
    assert {lost.name for lost in found.lost} == {
        n for n, _, info in sound.tensors() if info.storage and info.storage.id in hit
    }
    assert all("checksum" in lost.why for lost in found.lost)
    if name != "lenet.pt":
        _check(found, out, original)


@pytest.mark.parametrize("name", ["run.ckpt", "tied.pt"])
def test_a_destroyed_directory_costs_nothing(name: str, tmp_path: Path) -> None:
    data = bytearray((FIXTURES / name).read_bytes())
    with zipfile.ZipFile(FIXTURES / name) as archive:
        start = archive.start_dir
    path, out = tmp_path / name, tmp_path / "out.pt"
    for damage in (data[:start], data[: start + 20] + b"\xff" * 30 + data[start + 50 :], data[:-40] + bytes(40)):
        path.write_bytes(damage)
        found = salvage(str(path), str(out), force=True)
        assert not found.lost
        assert found.damaged
        _check(found, out, _load(FIXTURES / name))


@pytest.mark.parametrize("name", ["run.ckpt", "tied.pt"])
def test_destroyed_local_headers_cost_nothing_either(name: str, tmp_path: Path) -> None:
    """Where the directory is lost too: the bytes are where torch aligns them, and the descriptor proves it."""
    data = bytearray((FIXTURES / name).read_bytes())
    with zipfile.ZipFile(FIXTURES / name) as archive:
        start = archive.start_dir
        headers = [info.header_offset for info in archive.infolist() if "/data/" in info.filename]
    for at in headers[1::2]:
        data[at : at + 4] = b"\xff" * 4
    path, out = tmp_path / name, tmp_path / "out.pt"
    path.write_bytes(data[:start])
    found = salvage(str(path), str(out))
    assert not found.lost
    _check(found, out, _load(FIXTURES / name))


def test_bytes_that_look_like_an_archive_fool_nobody(tmp_path: Path) -> None:
    """A tensor that holds a whole checkpoint with the same names, and a chain of headers that is broken before it."""
    inner = tmp_path / "model.pt"
    torch.save({"a": torch.full((50,), 7.0), "b": torch.full((60,), 8.0), "c": torch.full((70,), 9.0)}, inner)
    bait = torch.frombuffer(bytearray(inner.read_bytes()), dtype=torch.uint8)
    state = {"a": torch.arange(50.0), "bait": bait, "b": torch.arange(60.0), "c": torch.arange(70.0)}
    torch.save(state, inner)
    data = bytearray(inner.read_bytes())
    with zipfile.ZipFile(inner) as archive:
        start = archive.start_dir
        offsets = {info.filename: info.header_offset for info in archive.infolist()}
    out = tmp_path / "out.pt"
    path = tmp_path / "cut.pt"
    path.write_bytes(data[:start])
    _check(salvage(str(path), str(out)), out, _leaves(state))
    # the header and a byte of the tensor in front of the bait destroyed, then those of the bait itself
    for broken in ("model/data/0", "model/data/1"):
        changed = bytearray(data[:start])
        at = offsets[broken]
        changed[at : at + 4] = bytes(4)
        changed[_extents(inner)[broken.partition("/")[2]][0] + 3] ^= 1
        path.write_bytes(changed)
        found = salvage(str(path), str(out), force=True)
        assert len(found.lost) == 1
        _check(found, out, _leaves(state))


def test_views_within_what_is_there_are_whole(tmp_path: Path) -> None:
    flat = torch.arange(100_000.0)
    state = {
        "first": flat[:1000],
        "tail": flat[99_000:],
        "every": flat[::2],
        "middle": flat[40_000:50_000].view(100, 100).t(),
    }
    path, out = tmp_path / "a.pt", tmp_path / "out.pt"
    torch.save(state, path)
    extents = _extents(path)
    path.write_bytes(path.read_bytes()[: extents["data/0"][0] + 4 * 60_000])
    found = salvage(str(path), str(out))
    assert found.rescued == ["first", "middle"]
    _check(found, out, state)


def test_a_parameter_of_a_module_becomes_none(tmp_path: Path) -> None:
    path, out = tmp_path / "a.pt", tmp_path / "out.pt"
    torch.save(torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(4, 4)), path)
    start, _ = _extents(path)["data/2"]
    data = bytearray(path.read_bytes())
    data[start] ^= 1
    path.write_bytes(data)
    found = salvage(str(path), str(out))
    assert [lost.name for lost in found.lost] == ["1.weight"]
    model = torch.load(out, weights_only=False)
    assert model[1].weight is None
    assert model[0].weight.shape == (3, 3)


def test_ties_survive(tmp_path: Path) -> None:
    path, out = tmp_path / "tied.pt", tmp_path / "out.pt"
    data = (FIXTURES / "tied.pt").read_bytes()
    path.write_bytes(data[:-100])
    salvage(str(path), str(out))
    before, after = _load(FIXTURES / "tied.pt"), _load(out)
    pairs = [
        (a, b) for a in before for b in before if before[a].data_ptr() == before[b].data_ptr() and before[a].numel()
    ]
    assert pairs
    assert all(after[a].data_ptr() == after[b].data_ptr() for a, b in pairs)


def test_a_length_of_a_legacy_stream_may_be_wrong(tmp_path: Path) -> None:
    data = bytearray((FIXTURES / "legacy.pth").read_bytes())
    sound = ckpt_inspect.open(FIXTURES / "legacy.pth")
    records = [record.source.file_range() for record in sound.containers[0].records.values()]
    at = sorted(where[1] for where in records if where)[3] - 8
    data[at] ^= 0x55
    path, out = tmp_path / "legacy.pth", tmp_path / "out.pth"
    path.write_bytes(data)
    with pytest.raises(RuntimeError):
        torch.load(path, weights_only=True)
    found = salvage(str(path), str(out))
    _check(found, out, _load(FIXTURES / "legacy.pth"))
    assert not found.lost


def test_a_key_that_expands_without_end(tmp_path: Path) -> None:
    """The list of storages may hold anything: what is no key is not spelled out."""
    bomb = build.tower(build.text("k" * 50), 60, b"\x86")
    path = tmp_path / "a.pth"
    tensors = build.dict_of(build.text("w"), build.GOOD)
    path.write_bytes(build.legacy(tensors, keys=build.pickled(build.list_of(build.text("0"), bomb))))
    assert salvage(str(path)).rescued == ["w"]
    path.write_bytes(build.legacy(tensors, keys=build.pickled(build.list_of(bomb, build.text("0")))))
    with pytest.raises(CheckpointError):
        salvage(str(path))
    odd = build.tuple_of(build.text("storage"), build.FLOATS, bomb, build.text("cpu"), build.number(4)) + build.PID
    path.write_bytes(build.checkpoint(build.dict_of(build.text("w"), build.GOOD, build.text("x"), odd)))
    assert salvage(str(path)).rescued == ["w"]


def test_shards(tmp_path: Path) -> None:
    folder, out = tmp_path / "sharded", tmp_path / "out"
    shutil.copytree(FIXTURES / "sharded", folder)
    shards = sorted(folder.glob("*.safetensors"))
    original = {k: v for shard in shards for k, v in load_file(shard).items()}
    data = shards[0].read_bytes()
    shards[0].write_bytes(data[: len(data) // 2])
    found = salvage(str(folder), str(out))
    left = {k: v for shard in sorted(out.glob("*.safetensors")) for k, v in load_file(shard).items()}
    assert set(left) == set(found.rescued)
    assert all(_same(left[k], original[k]) for k in left)
    assert {lost.name for lost in found.lost} == set(original) - set(left)
    index = json.loads(next(out.glob("*.index.json")).read_text())
    assert set(index["weight_map"]) == set(left)
    assert verify_file(str(out)).ok
    shards[0].unlink()
    found = salvage(str(folder), str(out), force=True)
    assert {lost.why for lost in found.lost} == {next(iter({lost.why for lost in found.lost}))}
    assert "missing" in found.lost[0].why
    assert verify_file(str(out)).ok


def _shards(folder: Path, **shards: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A directory of shards as given, whose index says the last of them for a key that is in several."""
    folder.mkdir()
    for name, tensors in shards.items():
        save_file(tensors, folder / f"{name}.safetensors")
    keys = {key: f"{name}.safetensors" for name, tensors in shards.items() for key in tensors}
    state = {key: tensor for tensors in shards.values() for key, tensor in tensors.items()}
    total = sum(tensor.nbytes for tensor in state.values())
    index = {"metadata": {"total_size": total}, "weight_map": keys}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return state


def _index_of(folder: Path) -> Any:
    return json.loads((folder / "model.safetensors.index.json").read_text())


def test_a_tensor_in_two_shards_counts_once(tmp_path: Path) -> None:
    same = torch.arange(4.0)
    state = _shards(tmp_path / "in", one={"a": torch.ones(3), "twice": same}, two={"b": torch.zeros(5), "twice": same})
    found = salvage(str(tmp_path / "in"), str(tmp_path / "out"))
    assert sorted(found.rescued) == sorted(state)
    assert not found.lost
    assert _index_of(tmp_path / "out") == _index_of(tmp_path / "in")
    (tmp_path / "in" / "two.safetensors").unlink()  # what it had twice is in the other
    found = salvage(str(tmp_path / "in"), str(tmp_path / "second"))
    assert sorted(found.rescued) == ["a", "twice"]
    assert [lost.name for lost in found.lost] == ["b"]
    index = _index_of(tmp_path / "second")
    assert index == {"metadata": {"total_size": 28}, "weight_map": dict.fromkeys(["twice", "a"], "one.safetensors")}
    assert verify_file(str(tmp_path / "second")).ok


def test_the_index_follows_the_shards(tmp_path: Path) -> None:
    _shards(
        tmp_path / "in", one={"a": torch.ones(3), "c": torch.ones(2), "d": torch.ones(1)}, two={"b": torch.zeros(5)}
    )
    index = _index_of(tmp_path / "in")
    index["weight_map"]["c"] = "two.safetensors"
    del index["weight_map"]["a"]
    (tmp_path / "in" / "model.safetensors.index.json").write_text(json.dumps(index))
    found = salvage(str(tmp_path / "in"), str(tmp_path / "out"))
    assert sorted(found.rescued) == ["a", "b", "c", "d"]
    assert _index_of(tmp_path / "out")["weight_map"] == {
        "c": "one.safetensors", "d": "one.safetensors", "b": "two.safetensors", "a": "one.safetensors",
    }  # fmt: skip
    assert verify_file(str(tmp_path / "out")).ok
    (tmp_path / "in" / "model.safetensors.index.json").write_text('{"weight_map": {')
    with pytest.raises(CheckpointError) as caught:
        salvage(str(tmp_path / "in"))
    assert "ckpt salvage SHARD -o OUT" in str(caught.value.hint)


def test_a_name_that_is_no_text_is_left_behind(tmp_path: Path) -> None:
    path, out = tmp_path / "a.pt", tmp_path / "out.pt"
    state = _numbered(3, 10)
    torch.save(state, path)
    data = bytearray(path.read_bytes())
    data[data.find(b"a/version") + 2] ^= 0x80
    path.write_bytes(data)
    _check(salvage(str(path), str(out)), out, state)
    with zipfile.ZipFile(out) as archive:
        assert archive.testzip() is None


def test_a_result_that_is_not_sound_is_said(tmp_path: Path) -> None:
    """A bit of a pickle without a checksum may be taken along: then the result does not pass ``verify`` either."""
    path, out = tmp_path / "a.pth", tmp_path / "out.pth"
    torch.save({"a": torch.ones(2, 3), "b": torch.ones(4)}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    container = ckpt_inspect.open(path).containers[0]
    start, end = container.graphs["object"].start, container.graphs["storage keys"].end
    said = 0
    for at in range(start, end):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        with contextlib.suppress(CheckpointError):
            found = salvage(str(path), str(out), fill="nan", force=True)
            unsound = any("not sound" in note for note in found.notes)
            try:
                assert verify_file(str(out)).ok == (not unsound)
            except CheckpointError:
                assert unsound
            said += unsound
    assert said > 3


def test_a_file_without_tensors_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"a": 1}, path)
    found = salvage(str(path), str(tmp_path / "out.pt"))
    assert not found.damaged
    assert torch.load(tmp_path / "out.pt") == {"a": 1}


def test_keys_with_slashes(tmp_path: Path) -> None:
    path, out = tmp_path / "a.safetensors", tmp_path / "out.safetensors"
    state = {"a/b": torch.arange(4.0), "a~b": torch.arange(5.0), "z": torch.arange(500.0)}
    save_file(state, path)
    header = int.from_bytes(path.read_bytes()[:8], "little")
    path.write_bytes(path.read_bytes()[: 8 + header + 36])
    found = salvage(str(path), str(out))
    assert set(load_file(out)) == {"a/b", "a~b"}
    assert [lost.name for lost in found.lost] == ["z"]


def test_filled_types(tmp_path: Path) -> None:
    dtypes = [
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.float8_e5m2,
        torch.float8_e4m3fn,
        torch.complex64,
        torch.int64,
        torch.bool,
    ]
    state = {str(dtype): torch.zeros(8).to(dtype) for dtype in dtypes}
    for name in ("a.pt", "a.safetensors"):
        path, out = tmp_path / name, tmp_path / f"out-{name}"
        if name == "a.pt":
            torch.save({"first": torch.ones(4), **state}, path)
            data = path.read_bytes()[: _extents(path)["data/1"][0] - 3]
        else:
            save_file({"first": torch.ones(4, dtype=torch.float64), **state}, path)
            header = int.from_bytes(path.read_bytes()[:8], "little")
            data = path.read_bytes()[: 8 + header + 8 * 8 + 4 * 8]
        path.write_bytes(data)
        found = salvage(str(path), str(out), fill="nan")
        left = _load(out)
        for lost in found.lost:
            tensor = left[lost.name]
            if tensor.is_floating_point() or tensor.is_complex():
                assert torch.isnan(tensor.to(torch.complex64)).all(), lost
            else:
                assert not tensor.any()


@pytest.mark.parametrize("name", ["form-coo.pth", "storages.pth", "ancient.pth", "nested-ema.pth", "optimizer-sgd-momentum.pth", "zip-deflated.pth", "legacy-views.pth", "values-legacy.pth"])  # fmt: skip
def test_every_layout_can_be_cut(name: str, tmp_path: Path) -> None:
    whole = files.FILES[name](tmp_path)
    data = whole.read_bytes()
    path, out = tmp_path / "cut.pt", tmp_path / "out.pt"
    rescued = 0
    for part in (0.5, 0.7, 0.9, 0.97):
        path.write_bytes(data[: int(part * len(data))])
        try:
            found = salvage(str(path), str(out), force=True)
        except CheckpointError:
            continue
        rescued += len(found.rescued)
        torch.load(out, weights_only=False)
        assert verify_file(str(out)).ok
    assert rescued or name in ("zip-deflated.pth", "legacy-views.pth", "values-legacy.pth")


def test_a_sound_file_is_copied(tmp_path: Path) -> None:
    out = tmp_path / "out.pt"
    found = salvage(str(FIXTURES / "run.ckpt"), str(out))
    assert not found.damaged
    assert not found.lost
    _check(found, out, _load(FIXTURES / "run.ckpt"))


def test_a_part_is_rescued_with_the_whole(tmp_path: Path) -> None:
    out = tmp_path / "out.pt"
    found = salvage(f"{FIXTURES / 'run.ckpt'}#model_state_dict", str(out))
    _check(found, out, _load(FIXTURES / "run.ckpt"))


def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError):
        salvage(str(FIXTURES / "traced.pt"))
    with pytest.raises(SelectionError):
        salvage(str(FIXTURES / "run.ckpt"), fill="ones")
    path = tmp_path / "a.pt"
    shutil.copy(FIXTURES / "tied.pt", path)
    with pytest.raises(SelectionError):
        salvage(str(path), str(path), force=True)
    with pytest.raises(OutputExistsError):
        salvage(str(FIXTURES / "tied.pt"), str(path))
    data = bytearray(path.read_bytes())
    data[_extents(path)["data.pkl"][1] - 1] ^= 0  # the pickle whole
    start, end = _extents(path)["data.pkl"]
    data[data.find(b"slice", start, end)] ^= 1  # a name in the pickle changed
    path.write_bytes(data)
    with pytest.raises(CorruptError, match="cannot be told"):
        salvage(str(path))
    path.write_bytes(data[:300])
    with pytest.raises(CorruptError):
        salvage(str(path))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "cut.ckpt", tmp_path / "out.ckpt"
    data = (FIXTURES / "run.ckpt").read_bytes()
    path.write_bytes(data[: int(0.6 * len(data))])
    assert run(["salvage", str(path)]) == 2
    assert "nothing was written" in capsys.readouterr().err
    assert run(["salvage", str(path), "--dry-run"]) == 1
    assert "50 of 61 tensors whole" in capsys.readouterr().out
    assert not out.exists()
    assert run(["salvage", str(path), "-o", str(out), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert list(document) == ["schema", "path", "out", "damaged", "rescued", "lost", "fill", "nbytes", "notes"]
    assert document["nbytes"] == out.stat().st_size
    assert run(["salvage", str(path), "-o", str(out)]) == 2
    assert "--force" in capsys.readouterr().err
    assert run(["salvage", str(FIXTURES / "run.ckpt"), "-o", str(out), "--force"]) == 0
    assert "nothing is damaged" in capsys.readouterr().out


# -- bytes lost, inserted, written over -------------------------------------------------------------------------


def _hurt(data: bytes, how: str, chance: random.Random, first: int, last: int, most: int = 4096) -> bytes:
    """``data`` with one stretch between two offsets gone, doubled, or written over."""
    at, count = chance.randrange(first, last), min(most, chance.choice([1, 4, 16, 512, 4096]))
    if how == "lost":
        return data[:at] + data[at + count :]
    if how == "inserted":
        return data[:at] + chance.randbytes(count) + data[at:]
    if how == "twice":
        return data[: at + count] + data[at:]
    over = data[:at] + (bytes(count) if how == "zeros" else chance.randbytes(count)) + data[at + count :]
    return over[: len(data)]


def _numbered(count: int, length: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    return {f"t{n}": torch.randn(length + n, generator=generator) for n in range(count)}


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("how", ["lost", "inserted", "twice", "zeros", "noise"])
def test_no_tensor_of_a_zip_comes_back_with_other_bytes(how: str, cut: bool, tmp_path: Path) -> None:
    """Wherever it is hurt, with the directory or without: a checksum proves what is called whole."""
    path, out = tmp_path / "a.pt", tmp_path / "out.pt"
    state = _numbered(8, 300)
    torch.save(state, path)
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        directory = archive.start_dir
    first = _extents(path)["data/0"][0]
    chance = random.Random(f"{how} {cut}")
    for _ in range(60):
        hurt = _hurt(data, how, chance, first, directory)
        path.write_bytes(hurt[: directory + len(hurt) - len(data)] if cut else hurt)
        found = salvage(str(path), str(out), force=True)
        _check(found, out, state)
        assert len(found.lost) <= 5  # 4,096 bytes reach over four


@pytest.mark.parametrize("how", ["lost", "inserted", "twice"])
def test_no_tensor_of_a_legacy_stream_comes_back_with_other_bytes(how: str, tmp_path: Path) -> None:
    """There are no checksums, but the lengths before the storages do not fit any more."""
    path, out = tmp_path / "a.pth", tmp_path / "out.pth"
    state = _numbered(8, 300)
    torch.save(state, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    sound = ckpt_inspect.open(path)
    starts = sorted(place[1] for r in sound.containers[0].records.values() if (place := r.source.file_range()))
    chance = random.Random(how)
    for _ in range(60):
        path.write_bytes(_hurt(data, how, chance, starts[0], starts[-1] - 8))
        found = salvage(str(path), str(out), force=True)
        assert found.lost or how == "twice"  # behind the last storage nothing is hurt
        _check(found, out, state)
        whole = verify_file(str(path))
        assert {name for hurt in whole.damaged for name in hurt.names} == {lost.name for lost in found.lost}


def test_the_rest_of_a_legacy_stream_written_over_with_zeros(tmp_path: Path) -> None:
    """A download into a file that was made as long as it is to be."""
    path, out = tmp_path / "a.pth", tmp_path / "out.pth"
    state = {**_numbered(6, 300), "empty": torch.empty(0), "also": torch.empty(0, 3)}
    torch.save(state, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    for half in range(len(data) // 3, len(data) - 2000, 997):
        path.write_bytes(data[:half] + bytes(len(data) - half))
        found = salvage(str(path), str(out), force=True)
        _check(found, out, state)


def _swap_of_names(data: bytes) -> bytes:
    """The pickle says ``a`` where it said ``b``."""
    one, other = data.find(b"X\x01\0\0\0a") + 5, data.find(b"X\x01\0\0\0b") + 5
    changed = bytearray(data)
    changed[one], changed[other] = changed[other], changed[one]
    return bytes(changed)


def test_a_pickle_that_was_changed_is_not_believed_without_a_directory(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"a": torch.ones(3), "b": torch.zeros(3)}, path)
    with zipfile.ZipFile(path) as archive:
        start = archive.start_dir
    data = path.read_bytes()
    for cut in (data[:start], data[:-22]):
        path.write_bytes(_swap_of_names(cut))
        with pytest.raises(CorruptError, match="its pickle fails its checksum"):
            salvage(str(path))
        assert not verify_file(str(path)).ok
    descriptor = data.find(b"PK\x07\x08")
    path.write_bytes(data[:descriptor] + bytes(4) + data[descriptor + 4 : start])  # nothing is known to be wrong
    found = salvage(str(path))
    assert set(found.rescued) == {"a", "b"}
    assert any("nothing proves" in note for note in found.notes)


def test_an_older_checkpoint_inside_a_tensor_gives_nothing(tmp_path: Path) -> None:
    """Its tensors have the names and lengths of those that are lost, and right checksums."""
    path, out = tmp_path / "a.pt", tmp_path / "out.pt"
    torch.save({"a": torch.randn(8), "blob": torch.zeros(64, dtype=torch.uint8), "c": torch.randn(8)}, path)
    blob = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
    state = {"a": torch.randn(8), "blob": blob, "c": torch.randn(8), "d": torch.randn(100)}
    torch.save(state, path)
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        directory = archive.start_dir
        a, b = (archive.infolist()[index].header_offset for index in (4, 5))
    for nbytes in (30, b + 40 - a, 512):
        for end in (directory, len(data)):
            path.write_bytes((data[:a] + bytes(nbytes) + data[a + nbytes :])[:end])
            found = salvage(str(path), str(out), force=True)
            assert {"c", "d"} <= set(found.rescued)
            _check(found, out, state)


@pytest.mark.parametrize("options", [["-D"], ["-D", "-0"], ["-0"]], ids=" ".join)
def test_archives_of_other_programs_can_be_cut(options: list[str], tmp_path: Path) -> None:
    """Their local headers have lengths; members are deflated, folders stand before them, the pickle need not be the first."""
    state = _numbered(8, 300)
    torch.save(state, tmp_path / "a.pt")
    path, out = tmp_path / "b.pt", tmp_path / "out.pt"
    compression = zipfile.ZIP_STORED if "-0" in options else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(tmp_path / "a.pt") as old, zipfile.ZipFile(path, "w", compression) as new:
        if "-D" not in options:
            new.mkdir("a")
            new.mkdir("a/data")
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    data, extents = path.read_bytes(), _extents(path)
    for share in (0.5, 0.8, 1.0):
        length = int(share * (len(data) - 700))
        path.write_bytes(data[:length])
        found = salvage(str(path), str(out), force=True)
        _check(found, out, state)
        if compression == zipfile.ZIP_STORED:
            assert {lost.name for lost in found.lost} == {f"t{n}" for n in range(8) if extents[f"data/{n}"][1] > length}
        assert found.rescued


def test_elements_smaller_than_a_byte_can_be_cut(tmp_path: Path) -> None:
    """An element of six bits has no item size: its tensor is whole only if its bytes are."""
    path, out = tmp_path / "f6.safetensors", tmp_path / "out.safetensors"
    header = {
        name: {"dtype": "F6_E3M2", "shape": [2000], "data_offsets": [at, at + 1500]}
        for name, at in (("a", 0), ("b", 1500))
    }
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(range(250)) * 12)
    path.write_bytes(path.read_bytes()[:-300])
    found = salvage(str(path), str(out))
    assert found.rescued == ["a"]
    assert [lost.name for lost in found.lost] == ["b"]
    with ckpt_inspect.open(out) as checkpoint:
        storage = checkpoint.sections[""]["a"].storage
        assert storage is not None
        assert storage.data is not None
        assert storage.data.read_at(0, 2000) == bytes(range(250)) * 6


def test_archives_without_checksums_can_be_cut(tmp_path: Path) -> None:
    path, out = tmp_path / "a.pt", tmp_path / "out.pt"
    state = _numbered(4, 300)
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state, path)
    finally:
        torch.serialization.set_crc32_options(True)
    data = path.read_bytes()
    path.write_bytes(data[:-30])
    found = salvage(str(path), str(out))
    assert len(found.rescued) == 4
    assert "written without checksums" in found.notes[0]
    _check(found, out, state)


@pytest.mark.parametrize(("suffix", "other"), [(".pt", ".safetensors"), (".safetensors", ".pt")])
def test_another_format_takes_two_steps(
    suffix: str, other: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    state = {f"l{i}.weight": torch.randn(8, 8) for i in range(8)}
    whole, cut, out = Path(f"w{suffix}"), Path(f"cut{suffix}"), Path(f"y{other}")
    torch.save(state, whole) if suffix == ".pt" else save_file(state, whole)
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert run(["salvage", str(cut), "-o", str(out)]) == 2
    said, hint = capsys.readouterr().err.splitlines()
    assert "salvage keeps the format" in said
    assert not out.exists()
    first, second = hint.partition("steps: ")[2].split("; ")
    assert run(first.split()[1:]) == 1
    assert run(second.split()[1:]) == 0
    left = _load(out)
    assert left
    assert all(_same(value, state[name]) for name, value in left.items())


# -- which bytes are which record: evidence that is damaged, and evidence of another file ---------------------------


def _layers(count: int, seed: int = 0, length: int = 1024) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {f"layers.{n}.weight": torch.randn(length, generator=generator) for n in range(count)}


def _saved(state: Any, path: Path) -> tuple[bytes, dict[str, int], dict[str, tuple[int, int]]]:
    """The bytes of a checkpoint; where its headers begin, and its contents, by zipfile."""
    torch.save(state, path)
    with zipfile.ZipFile(path) as archive:
        headers = {info.filename.partition("/")[2]: info.header_offset for info in archive.infolist()}
    return path.read_bytes(), headers, _extents(path)


def _entry(data: bytes, name: str) -> int:
    """Where the last directory entry of a record stands."""
    at = data.rindex(f"/{name}".encode())
    return data.rindex(b"PK\x01\x02", 0, at)


def _flip(data: bytes, at: int, mask: int = 1) -> bytes:
    return data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]


def _zero(data: bytes, at: int, count: int) -> bytes:
    return data[:at] + bytes(count) + data[at + count :]


def _lost(found: Salvage) -> set[str]:
    return {lost.name for lost in found.lost}


@pytest.mark.parametrize("tail", [10, 900])
def test_a_record_without_a_header_gets_the_name_that_is_due_at_its_place(tail: int, tmp_path: Path) -> None:
    path, out = tmp_path / "a.pt", tmp_path / "out.pt"
    state = _layers(6)
    data, headers, _ = _saved(state, path)
    path.write_bytes(_zero(_zero(data, headers["data/1"], 2048), headers["data/3"], 4)[:-tail])
    found = salvage(str(path), str(out))
    assert _lost(found) == {"layers.1.weight"}
    _check(found, out, state)
    whole = headers["data/2"] + 4 - headers["data/1"]  # one hole from one header into the next
    path.write_bytes(_zero(data, headers["data/1"], whole)[:-tail])
    found = salvage(str(path), str(out), force=True)
    assert _lost(found) == {"layers.1.weight"}
    _check(found, out, state)


@pytest.mark.parametrize("tail", [0, 30, 500, 3000])
@pytest.mark.parametrize(("record", "mask"), [("data/0", 1), ("data/1", 2), ("data/2", 1)])
def test_a_damaged_name_in_a_local_header_moves_no_values(record: str, mask: int, tail: int, tmp_path: Path) -> None:
    path, out = tmp_path / "a.pt", tmp_path / "out.pt"
    state = _layers(4, length=256)
    data, headers, _ = _saved(state, path)
    path.write_bytes(_flip(data, headers[record] + 30 + len(f"a/{record}") - 1, mask)[: len(data) - tail])
    found = salvage(str(path), str(out))
    _check(found, out, state)
    assert found.lost == [] or tail == 3000
    assert any("name" in note and "damaged" in note for note in found.notes) or tail == 3000


def test_two_checkpoints_are_never_mixed(tmp_path: Path) -> None:
    """A download that was started again, and a file that was saved over and cut: what is given is of one of them."""
    path, out = tmp_path / "a.pt", tmp_path / "out.pt"
    old, new = _layers(6, 1), _layers(6, 2)
    first, _, _ = _saved(old, path)
    second, headers, _ = _saved(new, path)
    half = len(first) // 2
    for cut in (0, 10, 900, 8000):
        path.write_bytes(first[:half] + second[: len(second) - cut])
        found = salvage(str(path), str(out), force=True)
        _check(found, out, new)
        assert len(found.rescued) >= 4
        assert any(f"{half:,}" in note for note in found.notes)
    path.write_bytes(first[:-9000] + second[: headers["data/2"]])
    found = salvage(str(path), str(out), force=True)
    _check(found, out, old)
    path.write_bytes(first + second)
    found = salvage(str(path), str(out), force=True)
    _check(found, out, old)
    assert not found.lost
    assert any(f"tail -c +{len(first) + 1}" in note for note in found.notes)
    for cut in (0, 10, 100):
        path.write_bytes((first[:half] + second[half:])[: len(second) - cut])
        found = salvage(str(path), str(out), force=True)
        _check(found, out, new)
        assert len(found.rescued) >= 2


def _edited(path: Path, state: dict[str, torch.Tensor]) -> tuple[bytes, int]:
    """A file whose names were changed in place, and how long it was before."""
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, path)
    before = path.stat().st_size
    assert run(["strip-prefix", str(path), "--in-place"]) == 0
    return path.read_bytes(), before


def test_a_cut_end_does_not_undo_an_edit_in_place(tmp_path: Path) -> None:
    path, out = tmp_path / "a.pt", tmp_path / "out.pt"
    state = _layers(5, length=300)
    data, before = _edited(path, state)
    for damaged in (
        data[:-10],
        data[:-30],
        _flip(data, data.rindex(b"PK\x05\x06")),
        _flip(data, data.rindex(b"PK\x06\x06")),
    ):
        path.write_bytes(damaged)
        assert not verify_file(str(path)).ok
        found = salvage(str(path), str(out), force=True)
        _check(found, out, state)
        assert not found.lost
        assert any("newer" in note for note in found.notes)
    path.write_bytes(_zero(data, data.rindex(b"data.pkl", 0, before + 100) + 40, 200))  # the new pickle itself
    assert not verify_file(str(path)).ok
    path.write_bytes(data[: before + 150])  # cut within it
    assert not verify_file(str(path)).ok
    found = salvage(str(path), str(out), force=True)
    assert found.rescued == [f"module.{name}" for name in state]
    assert any("older" in note for note in found.notes)


@pytest.mark.parametrize("behind", [b"", b"\0", bytes(3000), bytes(70_000)], ids=len)
@pytest.mark.parametrize("edit", [False, True])
def test_a_lost_byte_costs_one_tensor_whatever_follows_the_archive(behind: bytes, edit: bool, tmp_path: Path) -> None:
    path, out = tmp_path / "a.pt", tmp_path / "out.pt"
    state = _layers(6)
    data = _edited(path, state)[0] if edit else _saved(state, path)[0]
    at = _extents(path)["data/0"][0] + 100
    path.write_bytes(data[:at] + data[at + 1 :] + behind)
    found = salvage(str(path), str(out))
    assert _lost(found) == {"layers.0.weight"}
    _check(found, out, state)


def test_any_bit_of_the_first_header_and_of_the_directory_costs_nothing(tmp_path: Path) -> None:
    """What the directory, a header and a descriptor say each is enough where the others are damaged."""
    path, out = tmp_path / "a.pt", tmp_path / "out.pt"
    state = {"w": torch.randn(16, 16), "v": torch.randn(9), "n": torch.tensor(3)}
    data, _, _ = _saved(state, path)
    with zipfile.ZipFile(path) as archive:
        directory = archive.start_dir
    chance = random.Random(0)
    for at in (*range(64), *range(directory, len(data))):
        path.write_bytes(_flip(data, at, 1 << chance.randrange(8)))
        found = salvage(str(path), str(out), force=True)
        assert not found.lost, at
        _check(found, out, state)


def test_a_damaged_start_says_what_to_type(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a b.pt"
    data, _, _ = _saved(_layers(2), path)
    path.write_bytes(_flip(data, 1))
    assert run(["ls", str(path)]) == 2
    assert f"ckpt salvage '{path}' -o OUT" in capsys.readouterr().err


def test_a_directory_of_which_only_a_checksum_is_damaged(tmp_path: Path) -> None:
    """The descriptor proves the bytes; but not where the directory is another file's."""
    path, out = tmp_path / "a.pt", tmp_path / "out.pt"
    state = _layers(3)
    data, _, _ = _saved(state, path)
    for record in ("data.pkl", "data/1", "byteorder", "version"):
        path.write_bytes(_flip(data, _entry(data, record) + 17, 0x40))
        assert not verify_file(str(path)).ok
        found = salvage(str(path), str(out), force=True)
        assert not found.lost, record
        _check(found, out, state)
    at = _entry(data, "data/1") + 16
    path.write_bytes(data[:at] + b"\1\2\3\4" + data[at + 4 :])
    found = salvage(str(path), str(out), force=True)
    assert _lost(found) == {"layers.1.weight"}
    assert "directory" in found.lost[0].why or "checksum" in found.lost[0].why


def test_many_false_headers_cost_no_more_than_their_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of 2,000 headers in a tensor could begin the next record, whose own is destroyed: its bytes are summed once."""
    import zlib

    path = tmp_path / "q.pt"
    header = b"PK\x03\x04" + bytes(2) + b"\x08\x08" + bytes(18) + (8).to_bytes(2, "little") + bytes(2) + b"q/data/1"
    fakes = torch.frombuffer(bytearray(header * 2000), dtype=torch.uint8)
    state = {"a": fakes, "b": torch.arange(1 << 18), "c": torch.ones(9)}
    data, headers, extents = _saved(state, path)
    hurt = _zero(_zero(data, extents["data/0"][1], 4), headers["data/1"], 4)
    hurt = _flip(hurt, _entry(hurt, "data/0") + 16)
    path.write_bytes(hurt[:-22])
    summed, crc32 = 0, zlib.crc32

    def counted(chunk: bytes, value: int = 0) -> int:
        nonlocal summed
        summed += len(chunk)
        return crc32(chunk, value)

    monkeypatch.setattr(zlib, "crc32", counted)
    found = salvage(str(path))
    assert {"b", "c"} <= set(found.rescued)
    assert summed < 60 * len(data)  # each candidate anew would be 2,000 times


def _big_endian(path: Path, last: bool = False) -> dict[str, torch.Tensor]:
    """A checkpoint as a big-endian machine writes it; ``byteorder`` may be the last record, as of torch's C++."""
    state = {"a": torch.arange(100.0), "b": torch.arange(200.0)}
    torch.save(state, path)
    with zipfile.ZipFile(path) as archive:
        contents = {info.filename.partition("/")[2]: archive.read(info) for info in archive.infolist()}
    contents["byteorder"] = b"big"
    names = ["data.pkl", "byteorder", "data/0", "data/1", "version"]
    if last:
        names.append(names.pop(1))
    for name in ("data/0", "data/1"):
        words = contents[name]
        contents[name] = b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4))
    pieces = zip_build.build("archive/", [zip_build.Content(name, [contents[name]]) for name in names])
    path.write_bytes(b"".join(p if isinstance(p, bytes) else p.read_at(0, p.size) for p in pieces))
    assert all(map(torch.equal, torch.load(path).values(), state.values()))
    return state


def test_the_byte_order_is_known_where_its_record_is_damaged(tmp_path: Path) -> None:
    path, out = tmp_path / "be.pt", tmp_path / "out.pt"
    state = _big_endian(path)
    data, extents = path.read_bytes(), _extents(path)
    at = extents["byteorder"][0]
    header = data.rindex(b"PK\x03\x04", 0, at)
    directory = data.index(b"PK\x01\x02")
    for hurt in (_zero(data, header, 4), _flip(data, at), _zero(data, at, 3), data):
        for end in (len(data), len(data) - 30, directory):
            path.write_bytes(hurt[:end])
            found = salvage(str(path), str(out), force=True)
            assert not found.lost
            _check(found, out, state)
    state = _big_endian(path, last=True)
    path.write_bytes(path.read_bytes()[: _extents(path)["byteorder"][0] - 40])
    assert any("byteorder" in note for note in salvage(str(path)).notes)  # nothing is left that tells


@pytest.mark.parametrize(
    "record", [".format_version", ".storage_alignment", "byteorder", "version", "data/0", "data/4"]
)
def test_a_damaged_header_of_a_small_record_costs_nothing(record: str, tmp_path: Path) -> None:
    path, out = tmp_path / "a.pt", tmp_path / "out.pt"
    state = _numbered(6, 50)
    data, headers, _ = _saved(state, path)
    directory = data.index(b"PK\x01\x02")
    for end in (len(data) - 22, directory):
        path.write_bytes(_flip(data, headers[record])[:end])
        found = salvage(str(path), str(out), force=True)
        assert not found.lost
        _check(found, out, state)


@pytest.mark.parametrize("count", [3000, 4096])
def test_a_doubled_block_costs_nothing_where_the_second_copy_is_whole(count: int, tmp_path: Path) -> None:
    path, out = tmp_path / "a.pt", tmp_path / "out.pt"
    state = _layers(6)
    data, _, extents = _saved(state, path)
    at = extents["data/1"][0] + 2000
    path.write_bytes(data[:at] + data[at - count :])
    found = salvage(str(path), str(out))
    assert not found.lost
    _check(found, out, state)


def test_an_empty_tensor_needs_no_checksum(tmp_path: Path) -> None:
    path, out = tmp_path / "a.pt", tmp_path / "out.pt"
    state = {"a": torch.randn(100), "e": torch.empty(0)}
    data, headers, _ = _saved(state, path)
    for hurt in (data[:-10], _zero(data, headers["data/1"], 4)[:-900]):
        path.write_bytes(hurt)
        found = salvage(str(path), str(out), force=True)
        assert found.notes == []
        assert not found.lost
        _check(found, out, state)


def test_what_follows_an_archive_is_not_called_a_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    data, _, _ = _saved(_layers(2), path)
    path.write_bytes(data + bytes(70_000))
    assert [damage.why for damage in verify_file(str(path)).damaged] == [
        f"torch.load does not find the directory: too many bytes follow the archive, from byte {len(data):,} on"
    ]
    with pytest.raises(RuntimeError):
        torch.load(path)


def test_an_archive_with_zip64_lengths_in_its_headers_can_be_cut(tmp_path: Path) -> None:
    path, out = tmp_path / "b.pt", tmp_path / "out.pt"
    state = _numbered(8, 300)
    torch.save(state, tmp_path / "a.pt")
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / "a.pt") as old, zipfile.ZipFile(path, "w", compression) as new:
            for info in old.infolist():
                with new.open(info.filename, "w", force_zip64=True) as member:
                    member.write(old.read(info))
        data = path.read_bytes()
        for cut in (10, 1500, 5000):
            path.write_bytes(data[:-cut])
            found = salvage(str(path), str(out), force=True)
            _check(found, out, state)
            assert len(found.rescued) >= 3


def test_a_checkpoint_in_a_tensor_is_never_taken_for_the_one_around_it(tmp_path: Path) -> None:
    """Whole or cut, beside damage of every kind."""
    path, out = tmp_path / "a.pt", tmp_path / "out.pt"
    chance = random.Random("inner")
    for _ in range(100):
        older = {f"t{n}": torch.randn(chance.choice([5, 300])) for n in range(5)}
        torch.save(older, path)
        raw = path.read_bytes()[: chance.choice([1 << 30, 4000, 2500])]
        state: dict[str, torch.Tensor] = {name: torch.randn(tensor.shape) for name, tensor in older.items()}
        state["t2"] = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
        data, headers, _ = _saved(state, path)
        for _ in range(chance.choice([1, 2])):
            how = chance.choice(["lost", "inserted", "twice", "zeros", "noise"])
            data = _hurt(data, how, chance, headers["data/0"], len(data), most=64)  # its beginning is not lost
        path.write_bytes(data[: len(data) - chance.choice([0, 10, 500, 1500])])
        with contextlib.suppress(CorruptError):
            _check(salvage(str(path), str(out), force=True), out, state)
