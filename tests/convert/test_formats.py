"""Other formats, devices and parts: torch and safetensors read every step, and find what was there before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import ckpt_inspect as ci
import ckpt_inspect.torch as ct
from ckpt_inspect.operations.conversion import Asked
from ckpt_inspect.operations.convert import convert, plan
from ckpt_inspect.operations.save import save, save_in_place
from ckpt_inspect.operations.verify import verify
from tests.conftest import FIXTURES
from tests.zoo import files, oracle

from .compare import bits, converted, parts, same

# Forms of tensors, of archives and of objects; the same again under other names adds nothing here.
_KINDS = (
    "form", "dtypes", "tied", "keys", "zip-", "legacy", "pickle-", "tar", "ancient", "mixed", "storages", "values",
    "vanished", "lazy", "quantized", "dtensor", "ddp", "fake", "lightning", "averaged", "odd", "tensor.t", "modules",
)  # fmt: skip
PICKLED = [
    name for name in files.names("torch-zip", "torch-legacy", "torch-tar", "pickle") if name.startswith(_KINDS)
]  # fmt: skip
REAL = Path(__file__).parent.parent.parent.parent / "shared" / "real"


def made(name: str, folder: Path) -> Path:
    return files.FILES[name](folder)


@pytest.mark.parametrize("name", PICKLED)
def test_there_and_back_over_legacy_and_another_device(name: str, tmp_path: Path) -> None:
    path = made(name, tmp_path)
    zipped = converted(path, tmp_path / "zip.pt", format="torch-zip")
    same(path, zipped)
    moved = converted(zipped, tmp_path / "moved.pt", device="cuda:1")
    assert {row.device for row in oracle.expected(moved)} <= {"cuda:1", "meta", None}
    same(path, converted(moved, tmp_path / "back.pt", device="cpu"), devices=False)
    try:
        old = converted(path, tmp_path / "old.pth", format="torch-legacy")
    except ci.UnsupportedError:  # which dtypes and layouts: test_what_is_refused_is_named
        return
    assert ci.open(old).format == "torch-legacy"
    same(path, converted(old, tmp_path / "new.pt", format="torch-zip"))


def recorded(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        found: dict[str, Any] = json.loads(file.metadata()["ckpt_inspect"])
    return found


def of_one_section(name: str, folder: Path) -> Path | None:
    path = made(name, folder)
    sections = [section for section in ci.open(path).sections.values() if section.tensors]
    return path if len(sections) == 1 and sections[0].kind != "optimizer" else None


@pytest.mark.parametrize("name", [name for name in PICKLED if not name.startswith(("forms", "form-huge"))])
def test_there_and_back_over_safetensors(name: str, tmp_path: Path) -> None:
    path = of_one_section(name, tmp_path)
    if path is None:
        with pytest.raises(ci.CheckpointError):
            converted(tmp_path / name, tmp_path / "no.safetensors")
        return
    rows = {row.name: row for row in oracle.expected(path) if row.persistent}
    asked: dict[str, Any] = {"format": "safetensors", "skip_unsupported": True}
    try:
        out = converted(path, tmp_path / "out.safetensors", **asked)
    except ci.UnsupportedError:
        with pytest.raises(ci.UnsupportedError, match="nothing would be left"):
            converted(path, tmp_path / "out.safetensors", **asked)
        with pytest.raises((ValueError, RuntimeError, KeyError, NotImplementedError)):
            save_file({row.key: oracle.tensors(path)[row.name] for row in rows.values()}, tmp_path / "no.safetensors")
        return
    load_file(out)
    kept = {info.key for _, _, info in ci.open(out).tensors()} | set(recorded(out).get("ties", ()))
    back = converted(out, tmp_path / "back.pt")
    bare = {row.key if row.kind != "tensor" else "tensor": row for row in rows.values()}
    wanted = [key for key in bare if key in kept]
    found = {row.key if row.kind != "tensor" else "tensor": row for row in oracle.expected(back)}
    assert list(found) == wanted
    before, after = oracle.tensors(path), oracle.tensors(back)
    for key in wanted:
        old, new = bare[key], found[key]
        assert (new.dtype, new.shape) == (old.dtype, old.shape)
        if old.kind == "state_dict":
            assert new.requires_grad == old.requires_grad
        if isinstance(before[old.name], torch.Tensor):
            assert [bits(part) for part in parts(before[old.name])] == [bits(part) for part in parts(after[new.name])]
    groups = [{row.key for row in rows.values() if row.name in group} for group in oracle.tie_groups([*rows.values()])]
    assert [group for group in groups if group <= set(wanted)] == [
        {row.key for row in found.values() if row.name in group} for group in oracle.tie_groups([*found.values()])
    ]  # fmt: skip


def test_metadata_and_entries_come_back(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    state = model.state_dict()
    state["0._extra_state"] = {"scale": [1, 2.5, None], "name": "x"}
    torch.save(state, tmp_path / "a.pt")
    back = converted(converted(tmp_path / "a.pt", tmp_path / "a.safetensors"), tmp_path / "b.pt")
    loaded = torch.load(back, weights_only=True)
    assert list(loaded) == list(state)
    assert loaded._metadata == state._metadata
    assert loaded["0._extra_state"] == state["0._extra_state"]
    model.load_state_dict({key: value for key, value in loaded.items() if key != "0._extra_state"})


def test_renaming_a_safetensors_file_renames_its_ties(tmp_path: Path) -> None:
    table = torch.rand(4, 2)
    torch.save({"module.wte": table, "module.b": torch.ones(1), "module.head": table}, tmp_path / "a.pt")
    out = converted(tmp_path / "a.pt", tmp_path / "a.safetensors")
    save(ci.strip_prefix(ci.open(out)), str(tmp_path / "b.safetensors"))
    loaded = torch.load(converted(tmp_path / "b.safetensors", tmp_path / "b.pt"), weights_only=True)
    assert list(loaded) == ["wte", "b", "head"]
    assert loaded["wte"].data_ptr() == loaded["head"].data_ptr()


def test_untie_writes_copies(tmp_path: Path) -> None:
    table = torch.rand(4, 2)
    torch.save({"wte": table, "head": table}, tmp_path / "a.pt")
    out = converted(tmp_path / "a.pt", tmp_path / "a.safetensors", untie=True)
    assert sorted(load_file(out)) == ["head", "wte"]
    loaded = torch.load(converted(out, tmp_path / "b.pt"), weights_only=True)
    assert loaded["wte"].data_ptr() != loaded["head"].data_ptr()


def test_ties_that_safetensors_save_model_dropped_come_back(tmp_path: Path) -> None:
    loaded = torch.load(converted(FIXTURES / "gpt.safetensors", tmp_path / "gpt.pt"), weights_only=True)
    assert loaded["wte.weight"].data_ptr() == loaded["lm_head.weight"].data_ptr()


@pytest.mark.parametrize("most", [1, 4000, 10**9])
def test_shards_and_back(most: int, tmp_path: Path) -> None:
    state = {f"layer.{i}.weight": torch.rand(30, 30) for i in range(5)}
    state["tied"] = state["layer.1.weight"]
    torch.save(state, tmp_path / "a.pt")
    folder = converted(tmp_path / "a.pt", tmp_path / "shards", format="sharded", max_shard_size=most)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 5 * 3600
    found: dict[str, Any] = {}
    for name in set(index["weight_map"].values()):
        shard = load_file(folder / name)
        assert {index["weight_map"][key] for key in shard} == {name}
        assert len(shard) == 1 or sum(tensor.nbytes for tensor in shard.values()) <= most
        found |= shard
    assert all(torch.equal(state[key], tensor) for key, tensor in found.items())
    loaded = torch.load(converted(folder, tmp_path / "b.pt"), weights_only=True)
    assert list(loaded) == list(state)
    assert loaded["tied"].data_ptr() == loaded["layer.1.weight"].data_ptr()
    renamed = save(ci.remap(ci.open(folder), ["layer.** -> block.**"]), str(tmp_path / "renamed"))
    again = torch.load(converted(Path(renamed.out), tmp_path / "c.pt"), weights_only=True)
    assert again["tied"].data_ptr() == again["block.1.weight"].data_ptr()


def test_a_part_becomes_the_root(tmp_path: Path) -> None:
    save(convert(ci.open(FIXTURES / "run.ckpt", "model_state_dict"), strip_prefix=True), str(tmp_path / "w.pt"))
    state = torch.load(tmp_path / "w.pt", weights_only=True, mmap=True)
    whole = torch.load(FIXTURES / "run.ckpt", weights_only=True)["model_state_dict"]
    assert [f"module.{key}" for key in state] == list(whole)
    assert type(state) is type(whole)
    assert (tmp_path / "w.pt").stat().st_size < 0.5 * (FIXTURES / "run.ckpt").stat().st_size
    assert state["stage1.0.weight"].data_ptr() == state["stage2.module.0.weight"].data_ptr()


def test_drop_leaves_the_rest_alone(tmp_path: Path) -> None:
    out = converted(FIXTURES / "run.ckpt", tmp_path / "a.pt", drop=["optimizer*", "*num_batches_tracked"])
    loaded = torch.load(out, weights_only=True)
    assert list(loaded) == ["epoch", "model_state_dict"]
    assert not any(key.endswith("num_batches_tracked") for key in loaded["model_state_dict"])
    with pytest.raises(ci.SelectionError, match="matches nothing"):
        convert(ci.open(FIXTURES / "run.ckpt"), drop="nothing")


def test_in_place_changes_the_tags_alone(tmp_path: Path) -> None:
    path = Path(shutil.copy(FIXTURES / "run.ckpt", tmp_path / "run.ckpt"))
    size = path.stat().st_size
    save_in_place(convert(ci.open(path), device="cuda:3", strip_prefix=True))
    assert {row.device for row in oracle.expected(path)} == {"cuda:3"}
    save_in_place(convert(ci.open(path), device="cuda:3=cpu"))
    assert {row.device for row in oracle.expected(path)} == {"cpu"}
    assert path.stat().st_size < size + 40_000
    loaded = torch.load(path, weights_only=True, mmap=True)["model_state_dict"]
    assert torch.equal(
        loaded["conv2.weight"], torch.load(FIXTURES / "run.ckpt")["model_state_dict"]["module.conv2.weight"]
    )
    with pytest.raises(ci.UnsupportedError, match="tensor bytes would change"):
        save_in_place(convert(ci.open(path), dtype="float16"))
    with pytest.raises(ci.UnsupportedError, match="a part would take the place of the whole file"):
        save_in_place(convert(ci.open(f"{path}#model_state_dict"), device="mps"))


@pytest.mark.parametrize("dropped", ["optimizer_state_dict", "model_state_dict", "epoch"])
def test_entries_leave_in_place(dropped: str, tmp_path: Path) -> None:
    """No byte of the others moves; torch finds them in every way, those that predict where they lie too."""
    path = Path(shutil.copy(FIXTURES / "run.ckpt", tmp_path / "run.ckpt"))
    before = path.read_bytes()
    wanted = torch.load(path, weights_only=True)
    del wanted[dropped]
    save_in_place(convert(ci.open(path), drop=dropped))
    assert path.read_bytes().startswith(before)
    for options in ({}, {"mmap": True}):
        found = torch.load(path, weights_only=True, **options)
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    meta = torch.load(path, weights_only=True, map_location="meta")
    assert list(meta) == list(wanted)
    assert verify(ci.open(path)).to_dict()["ok"]


@pytest.mark.parametrize("asked", ["gpu", "cuda:x", "meta", "cdua:0"])
def test_unknown_devices_name_the_known_ones(asked: str) -> None:
    with pytest.raises(ci.SelectionError) as caught:
        convert(ci.open(FIXTURES / "run.ckpt"), device=asked)
    assert "Known: cpu, cuda" in (caught.value.hint or "")


def test_a_device_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ci.SelectionError, match="nothing is on 'cuda:7'"):
        convert(ci.open(FIXTURES / "run.ckpt"), device="cuda:7=cpu")


def test_mixed_devices_one_by_one(tmp_path: Path) -> None:
    path = made("mixed-devices.pth", tmp_path)
    before = {row.device for row in oracle.expected(path)}
    one = next(device for device in before if device and device.startswith("cuda"))
    out = converted(path, tmp_path / "out.pt", device=f"{one}=mps")
    assert {row.device for row in oracle.expected(out)} == (before - {one}) | {"mps"}


def test_what_is_refused_is_named(tmp_path: Path) -> None:
    torch.save(
        {"a": torch.ones(2), "c": torch.ones(2, dtype=torch.complex128), "s": torch.eye(2).to_sparse()},
        tmp_path / "a.pt",
    )
    with pytest.raises(ci.UnsupportedError, match=r"c \(complex128\), s \(sparse_coo\)"):
        convert(ci.open(tmp_path / "a.pt"), format="safetensors")
    out = converted(tmp_path / "a.pt", tmp_path / "a.safetensors", skip_unsupported=True)
    assert list(load_file(out)) == ["a"]
    torch.save({"a": torch.ones(2), "f": torch.ones(2).to(torch.float8_e5m2)}, tmp_path / "b.pt")
    with pytest.raises(ci.UnsupportedError, match=r"f \(float8_e5m2\)"):
        convert(ci.open(tmp_path / "b.pt"), format="torch-legacy")
    old = converted(tmp_path / "b.pt", tmp_path / "b.pth", format="torch-legacy", skip_unsupported=True)
    assert list(torch.load(old, weights_only=True)) == ["a"]


def test_a_view_of_a_conversion_can_be_renamed_and_converted_again(tmp_path: Path) -> None:
    view = convert(ci.open(FIXTURES / "run.ckpt", "model_state_dict"), device="cuda:2")
    assert {info.device for _, _, info in view.tensors()} == {"cuda:2"}
    stripped = ci.strip_prefix(view)
    save(convert(stripped, format="safetensors"), str(tmp_path / "a.safetensors"))
    assert "conv2.weight" in load_file(tmp_path / "a.safetensors")
    assert torch.equal(
        ct.to_tensor(stripped["conv2.bias"]),
        ct.to_tensor(ci.open(FIXTURES / "run.ckpt")["model_state_dict/module.conv2.bias"]),
    )


def test_safetensors_of_the_library_keeps_its_metadata(tmp_path: Path) -> None:
    save_file({"b": torch.ones(3), "a": torch.zeros(2, 2)}, tmp_path / "a.safetensors", metadata={"who": "me"})
    loaded = torch.load(converted(tmp_path / "a.safetensors", tmp_path / "a.pt"), weights_only=True)
    assert {key: tuple(tensor.shape) for key, tensor in loaded.items()} == {"b": (3,), "a": (2, 2)}


def real_files() -> list[str]:
    oracle_file = REAL / "oracle.jsonl"
    if not oracle_file.exists():
        return []
    rows = [json.loads(line) for line in oracle_file.read_text(encoding="utf-8").splitlines()]
    return [row["file"] for row in rows if (REAL / row["file"]).stat().st_size < 100_000]


def loaded(path: Path) -> dict[str, Any]:
    """Tensors by name, as bits; files of strangers, so by the safe loaders alone."""
    if path.name.endswith(".safetensors"):
        return {key: bits(tensor) for key, tensor in load_file(path).items()}
    found: dict[str, Any] = {}
    waiting: list[tuple[str, Any]] = [("", torch.load(path, weights_only=True, map_location="cpu"))]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, torch.Tensor):
            found[name] = bits(value), value.requires_grad
        elif isinstance(value, (dict, list, tuple)):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            waiting += [(f"{name}/{key}", item) for key, item in items]
    return found


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", real_files(), ids=lambda name: str(name)[-50:])
def test_real_files_in_other_formats(name: str, tmp_path: Path) -> None:
    """Every tensor that torch or safetensors finds in the file is in what it becomes, bit for bit."""
    path = REAL / name
    if name.endswith(".safetensors"):
        back = converted(converted(path, tmp_path / "a.pt"), tmp_path / "b.safetensors")
        assert loaded(back) == loaded(path)
        return
    zipped = converted(path, tmp_path / "zip.pt", format="torch-zip")
    assert loaded(zipped) == loaded(path)
    old = converted(zipped, tmp_path / "old.pt", format="torch-legacy")
    assert loaded(old) == loaded(path)
    try:
        named = converted(path, tmp_path / "a.safetensors")
    except (ci.SelectionError, ci.UnsupportedError):
        return
    values = sorted(bits for bits, _ in loaded(converted(named, tmp_path / "b.pt")).values())
    assert values == sorted(bits for bits, _ in loaded(path).values())


def test_devices_in_objects_and_configurations(tmp_path: Path) -> None:
    """``torch.device`` objects follow; plain text is the program's own, and is pointed out."""
    state = {
        "where": torch.device("cuda", 1),
        "kind": torch.device("cuda"),
        "text": "cuda:1",
        "cpu": torch.device("cpu"),
    }
    torch.save({**state, "weight": torch.ones(2)}, tmp_path / "a.pt")
    made = plan(ci.open(tmp_path / "a.pt"), Asked(device=("cuda=cpu",)))
    save(made.checkpoint, str(tmp_path / "b.pt"))
    loaded = torch.load(tmp_path / "b.pt", weights_only=True)
    cpu = torch.device("cpu")
    assert (loaded["where"], loaded["kind"], loaded["cpu"], loaded["text"]) == (cpu, cpu, cpu, "cuda:1")
    assert any("text = 'cuda:1'" in note for note in made.notes)
    save(convert(ci.open(tmp_path / "b.pt"), device="cuda:3"), str(tmp_path / "c.pt"))
    again = torch.load(tmp_path / "c.pt", weights_only=True, map_location="cpu")
    assert again["where"] == torch.device("cuda", 3)


def test_dtensor_mesh_follows(tmp_path: Path) -> None:
    path = made("dtensor.pth", tmp_path)
    save(convert(ci.open(path), device="cuda:0"), str(tmp_path / "out.pt"))
    pickle = ci.open(tmp_path / "out.pt").containers[0].graphs["data.pkl"]
    meshes = [call for call in pickle.calls if call.qualname.endswith(".DeviceMesh")]
    kinds = [value for call in meshes for state in call.states for key, value in state.items() if key == "_device_type"]
    assert meshes
    assert set(kinds) == {"cuda"}


def test_the_format_of_the_metadata_is_no_tied_tensor(tmp_path: Path) -> None:
    save_file({"pt": torch.ones(2), "b": torch.ones(1)}, tmp_path / "a.safetensors", metadata={"format": "pt"})
    assert sorted(torch.load(converted(tmp_path / "a.safetensors", tmp_path / "a.pt"), weights_only=True)) == [
        "b",
        "pt",
    ]
    renamed = save(ci.remap(ci.open(tmp_path / "a.safetensors"), ["pt -> x"]), str(tmp_path / "b.safetensors"))
    with safe_open(renamed.out, "pt") as file:
        assert file.metadata()["format"] == "pt"


def test_the_library_restores_what_is_recorded(tmp_path: Path) -> None:
    model: Any = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    model.add_module("again", model[0])
    torch.save(model.state_dict(), tmp_path / "a.pt")
    state: Any = ct.state_dict(converted(tmp_path / "a.pt", tmp_path / "a.safetensors"))
    assert list(state) == list(model.state_dict())
    assert state._metadata == model.state_dict()._metadata
    assert state["0.weight"].data_ptr() == state["again.weight"].data_ptr()


def test_keys_that_are_no_text_are_said(tmp_path: Path) -> None:
    from ckpt_inspect.operations.conversion import Asked
    from ckpt_inspect.operations.convert import plan

    torch.save({0: torch.ones(2), "a": torch.zeros(2), None: torch.ones(1)}, tmp_path / "x.pt")
    made = plan(ci.open(tmp_path / "x.pt"), Asked(format="safetensors"))
    assert any(note.endswith("come back in a .pt file: 0, None") for note in made.notes)
