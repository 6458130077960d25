"""Renaming keys: torch loads the result, and nothing else has changed."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import ckpt_inspect as ci
from ckpt_inspect.model.graph import Pickle
from ckpt_inspect.model.wrappers import nested_prefixes
from ckpt_inspect.operations.add_prefix import add_prefix
from ckpt_inspect.operations.remap import plan as planned
from ckpt_inspect.operations.remap import remap
from ckpt_inspect.operations.rules import Rules
from ckpt_inspect.operations.save import save, save_in_place
from ckpt_inspect.operations.strip_prefix import strip_prefix
from tests.conftest import Run
from tests.zoo import MODELS, example_input, files

REAL = Path(__file__).parent.parent.parent.parent / "shared" / "real"


def write(plan: ci.Checkpoint, out: Path) -> Path:
    save(plan, str(out))
    return out


def pickle_bytes(path: Path) -> bytes:
    container = ci.open(path).containers[0]
    name, graph = next(
        (n, g) for n, g in container.graphs.items() if isinstance(g, Pickle) and n in ("data.pkl", "object")
    )
    source = container.records[name].source if name in container.records else container.source
    return source.read_at(graph.start, graph.end - graph.start)


def plain(model: torch.nn.Module) -> torch.nn.Module:
    """Cnn3 without its two DataParallel wrappers."""
    inner = model.module if isinstance(model, torch.nn.DataParallel) else model
    for name, child in list(inner.named_children()):
        if isinstance(child, torch.nn.DataParallel):
            setattr(inner, name, child.module)
    return inner


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return (
            isinstance(other, torch.Tensor) and one.dtype == other.dtype and one.shape == other.shape
            and one.stride() == other.stride() and one.device == other.device and one.requires_grad == other.requires_grad
            and torch.equal(one, other)
        )  # fmt: skip
    if isinstance(one, dict):
        return type(one) is type(other) and list(one) == list(other) and all(equal(one[k], other[k]) for k in one) and (
            getattr(one, "_metadata", None) == getattr(other, "_metadata", None)
        )  # fmt: skip
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


@pytest.mark.parametrize("in_place", [False, True])
def test_stripped_cnn3_loads_in_every_way(in_place: bool, tmp_path: Path) -> None:
    path = files.FILES["cnn3.ckpt"](tmp_path)
    model = MODELS["cnn3"]()
    model.load_state_dict(torch.load(path, weights_only=True)["model_state_dict"])
    model.eval()
    plan = strip_prefix(ci.open(path), nested=True)
    if in_place:
        save_in_place(plan)
        out = path
    else:
        out = write(plan, tmp_path / "out.ckpt")
    target = plain(MODELS["cnn3"]())
    for options in ({"weights_only": True}, {}, {"mmap": True, "weights_only": True}):
        loaded = torch.load(out, **options)
        assert target.load_state_dict(loaded["model_state_dict"], strict=True)
    target.eval()
    example = example_input("cnn3")
    assert torch.equal(target(example), model.module(example))
    meta = torch.load(out, map_location="meta", weights_only=True)["model_state_dict"]
    with FakeTensorMode():
        fake = torch.load(out, weights_only=True)["model_state_dict"]
    state = torch.load(out, weights_only=True)["model_state_dict"]
    assert list(meta) == list(fake) == list(state)
    assert type(state) is OrderedDict
    assert state["stage1.0.weight"].data_ptr() == state["stage2.0.weight"].data_ptr()
    before = torch.load(files.FILES["cnn3.ckpt"](tmp_path / ".."), weights_only=True)
    assert equal(before["optimizer_state_dict"], torch.load(out, weights_only=True)["optimizer_state_dict"])


@pytest.mark.parametrize("name", ["cnn3-state_dict.pth", "wrapped-dataparallel.pth", "cnn3-legacy.pth"])
def test_strip_and_add_is_byte_equal(name: str, tmp_path: Path) -> None:
    path = files.FILES[name](tmp_path)
    stripped = write(strip_prefix(ci.open(path), times=1), tmp_path / "stripped")
    back = write(add_prefix(ci.open(stripped), "module."), tmp_path / "back")
    assert pickle_bytes(back) == pickle_bytes(path)
    assert equal(torch.load(back, weights_only=True), torch.load(path, weights_only=True))


NAMES = [
    name for name in files.names()
    if files.FORMATS[name] in ("torch-zip", "torch-legacy") and ("state_dict" in name or "keys" in name or "forms" in name)
]  # fmt: skip


@pytest.mark.parametrize(
    "name", [*NAMES, "dtypes.pth", "tied.pth", "lightning.ckpt", "mnist.ckpt", "optimizer-named.pth"]
)
def test_there_and_back_over_the_zoo(name: str, tmp_path: Path) -> None:
    path = files.FILES[name](tmp_path)
    checkpoint = ci.open(path)
    if len(checkpoint.candidates()) != 1:
        pytest.skip("no single set of weights")
    (pointer,) = checkpoint.candidates()
    if pointer not in checkpoint.sections or checkpoint.sections[pointer].kind != "state_dict":
        pytest.skip("not a state_dict")
    if not checkpoint.sections[pointer]:
        pytest.skip("no keys")
    added = write(add_prefix(checkpoint, "a.b"), tmp_path / "added")
    assert all(key.startswith("a.b.") for key in ci.open(added).sections[pointer])
    back = write(strip_prefix(ci.open(f"{added}", section=pointer), ["a.b"]), tmp_path / "back")
    if pickle_protocol(path) == 2:
        assert pickle_bytes(back) == pickle_bytes(path)
    assert [(n, i.shape, i.stride, i.dtype, i.device) for n, _, i in ci.open(back).tensors()] == [
        (n, i.shape, i.stride, i.dtype, i.device) for n, _, i in checkpoint.tensors()
    ]


def pickle_protocol(path: Path) -> int:
    return next(g.protocol for g in ci.open(path).containers[0].graphs.values() if isinstance(g, Pickle))


@pytest.mark.parametrize("name", ["sharded-safetensors", "sharded-bin"])
def test_sharded(name: str, tmp_path: Path) -> None:
    folder = files.FILES[name](tmp_path)
    out = tmp_path / "out"
    save(add_prefix(ci.open(folder), "model"), str(out))
    added = ci.open(out)
    assert added.problems == []
    assert list(added.sections[""]) == [f"model.{key}" for key in ci.open(folder).sections[""]]
    save(strip_prefix(added, ["model"]), str(tmp_path / "back"))
    assert list(ci.open(tmp_path / "back")) == list(ci.open(folder))


def test_safetensors_by_its_own_library(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    path = files.FILES["mnist.safetensors"](tmp_path)
    out = write(add_prefix(ci.open(path), "net"), tmp_path / "out.safetensors")
    before, after = load_file(path), load_file(out)
    assert {f"net.{key}" for key in before} == set(after)
    assert all(torch.equal(before[key], after[f"net.{key}"]) for key in before)


def test_dropped_storages_leave_the_file(tmp_path: Path) -> None:
    torch.save({"small": torch.zeros(4), "big": torch.zeros(1_000_000), "tied": torch.zeros(3)}, tmp_path / "a.pt")
    out = write(remap(ci.open(tmp_path / "a.pt"), Rules.parse([], drop=["big"])), tmp_path / "b.pt")
    assert out.stat().st_size < 10_000
    assert list(torch.load(out, weights_only=True)) == ["small", "tied"]
    for options in ({"mmap": True}, {"map_location": "meta"}):
        assert list(torch.load(out, weights_only=True, **options)) == ["small", "tied"]


def test_dropped_storages_leave_in_place(tmp_path: Path) -> None:
    """Also the first one, from which torch predicts where the others lie."""
    path = tmp_path / "a.pt"
    saved = {name: torch.full((count,), float(count)) for name, count in (("a", 3), ("b", 100), ("c", 7), ("d", 50))}
    torch.save(saved, path)
    save_in_place(remap(ci.open(path), Rules.parse([], drop=["a", "c"])))
    for options in ({}, {"mmap": True}):
        assert equal(torch.load(path, weights_only=True, **options), {name: saved[name] for name in "bd"})
    assert list(torch.load(path, map_location="meta", weights_only=True)) == ["b", "d"]
    assert not [name for name in zipfile.ZipFile(path).namelist() if name.endswith(("data/0", "data/2"))]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["module.sa_module.mlp.weight", "module.fc.weight"], ["sa_module.mlp.weight", "fc.weight"]),
        (["module.module.x", "module.module.y"], ["x", "y"]),
        (["_orig_mod.module.x", "_orig_mod.module.y"], ["x", "y"]),
        (["module._orig_mod.x"], ["x"]),
        (["model._orig_mod.x", "model._orig_mod.y", "head.z"], ["model.x", "model.y", "head.z"]),
        (["n_averaged", "module.x"], ["n_averaged", "x"]),
        (["a._fsdp_wrapped_module.b._checkpoint_wrapped_module.c"], ["a.b.c"]),
    ],
)
def test_wrapper_rules(keys: list[str], expected: list[str], tmp_path: Path) -> None:
    torch.save({key: torch.full((1,), i) for i, key in enumerate(keys)}, tmp_path / "a.pt")
    out = write(strip_prefix(ci.open(tmp_path / "a.pt")), tmp_path / "b.pt")
    loaded = torch.load(out, weights_only=True)
    assert list(loaded) == expected
    assert [int(value) for value in loaded.values()] == list(range(len(keys)))


@pytest.mark.parametrize("keys", [["module"], ["module.x", "y"], ["x", "y"], ["module.x", "module"], ["modules.x"]])
def test_nothing_to_strip(keys: list[str], tmp_path: Path) -> None:
    torch.save({key: torch.zeros(1) for key in keys}, tmp_path / "a.pt")
    with pytest.raises(ci.SelectionError, match="no section carries"):
        strip_prefix(ci.open(tmp_path / "a.pt"))


def test_two_names_that_would_meet(tmp_path: Path) -> None:
    torch.save({"a.x": torch.zeros(1), "b.x": torch.zeros(1)}, tmp_path / "a.pt")
    with pytest.raises(ci.CheckpointError, match=r"a\.x.*b\.x|b\.x.*a\.x") as caught:
        remap(ci.open(tmp_path / "a.pt"), Rules.parse(["a.** -> b.**"]))
    assert type(caught.value).__name__ == "KeyCollisionError"


def test_metadata_follows(tmp_path: Path) -> None:
    model = torch.nn.DataParallel(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)))
    torch.save(model.state_dict(), tmp_path / "a.pt")
    out = write(strip_prefix(ci.open(tmp_path / "a.pt")), tmp_path / "b.pt")
    assert torch.load(out, weights_only=True)._metadata == model.module.state_dict()._metadata


def test_extra_state_is_renamed_with_the_rest(tmp_path: Path) -> None:
    torch.save(
        OrderedDict([("module.w", torch.zeros(1)), ("module._extra_state", {"n": 3}), ("module.v", torch.zeros(1))]),
        tmp_path / "a.pt",
    )
    out = write(strip_prefix(ci.open(tmp_path / "a.pt")), tmp_path / "b.pt")
    assert list(torch.load(out, weights_only=True)) == ["w", "_extra_state", "v"]


def test_kept_counts_what_is_not_renamed(tmp_path: Path) -> None:
    """Extra state is renamed with the rest and is no tensor: it is not subtracted from the tensors."""
    path = tmp_path / "extra.pt"
    torch.save(OrderedDict([("a.w", torch.zeros(1)), ("a._extra_state", {"n": 3}), ("b.w", torch.zeros(1))]), path)
    plan = planned(ci.open(path), Rules.parse(["a.** -> c.**"])).to_dict(None, 0)
    assert (len(plan["renamed"]), plan["kept"]) == (2, 1)


def test_root_wrapper_object_is_replaced_by_its_module(tmp_path: Path) -> None:
    path = files.FILES["dataparallel-module.pt"](tmp_path)
    out = write(strip_prefix(ci.open(path)), tmp_path / "b.pt")
    inner = torch.load(path, weights_only=False).module
    found = torch.load(out, weights_only=False)
    assert type(found) is type(inner)
    assert equal(dict(found.state_dict()), dict(inner.state_dict()))


@pytest.mark.parametrize("name", ["lenet-module.pt", "traced_model.pt", "tar2017.pth.tar"])
def test_what_is_not_renamed_says_why(name: str, tmp_path: Path) -> None:
    with pytest.raises(ci.CheckpointError):
        write(add_prefix(ci.open(files.FILES[name](tmp_path)), "x"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_steps_chain_without_writing(tmp_path: Path) -> None:
    path = files.FILES["wrapped-dataparallel.pth"](tmp_path)
    one = strip_prefix(ci.open(path))
    two = add_prefix(one, "net")
    assert all(key.startswith("net.") and "module" not in key for key in two.sections[""])
    save(two, str(tmp_path / "out.pt"))
    assert list(torch.load(tmp_path / "out.pt", weights_only=True)) == list(two.sections[""])


def test_in_place_appends_little(tmp_path: Path) -> None:
    torch.save({"module.w": torch.zeros(1_000_000), "module.b": torch.zeros(3)}, tmp_path / "a.pt")
    size = (tmp_path / "a.pt").stat().st_size
    save_in_place(strip_prefix(ci.open(tmp_path / "a.pt")))
    assert (tmp_path / "a.pt").stat().st_size - size < 4096
    assert list(torch.load(tmp_path / "a.pt", weights_only=True)) == ["w", "b"]
    assert os.listdir(tmp_path) == ["a.pt"]


def test_damaged_files_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    path = files.FILES["truncated-cnn1-state_dict.pth"](tmp_path)
    with pytest.raises(ci.CorruptError):
        write(add_prefix(ci.open(path), "x"), tmp_path / "out.pt")
    assert not (tmp_path / "out.pt").exists()


@pytest.mark.skipif(not REAL.exists(), reason="the real files are not here")
def test_real_files_there_and_back(tmp_path: Path) -> None:
    tried = 0
    for path in sorted(REAL.glob("*/*")):
        try:
            checkpoint = ci.open(path)
            plan = add_prefix(checkpoint, "zz")
        except ci.CheckpointError:
            continue
        if checkpoint.format not in ("torch-zip", "torch-legacy", "safetensors") or checkpoint.problems:
            continue
        added = write(plan, tmp_path / f"{tried}.a")
        back = write(strip_prefix(ci.open(added), ["zz"]), tmp_path / f"{tried}.b")
        before, after = ci.open(path), ci.open(back)
        assert [(n, i.shape, i.dtype) for n, _, i in before.tensors()] == [
            (n, i.shape, i.dtype) for n, _, i in after.tensors()
        ]
        for (_, _, one), (_, _, other) in zip(before.tensors(), after.tensors(), strict=True):
            if one.storage is not None and one.storage.data is not None and other.storage is not None:
                data = other.storage.data
                assert data is not None
                assert digest(one.storage.data) == digest(data)
        tried += 1
    assert tried > 60


def digest(source: Any) -> str:
    return hashlib.sha256(source.read_at(0, source.size)).hexdigest()


_COUNTING = """
import sys
import ckpt_inspect as ci
def counted():
    lines = open("/proc/self/io").read().split()
    return int(lines[1]), int(lines[3])
import ckpt_inspect.containers.journal, ckpt_inspect.operations.save, ckpt_inspect.operations.strip_prefix
before = counted()
view = ci.strip_prefix(ci.open(sys.argv[1]))
ci.save_in_place(view) if len(sys.argv) == 2 else ci.save(view, sys.argv[2])
after = counted()
print(after[0] - before[0], after[1] - before[1])
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/io"), reason="counts as Linux does")
def test_bytes_read_and_written(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({f"module.w{i}": torch.zeros(1_000_000) for i in range(10)}, path)
    size = path.stat().st_size

    def run(*arguments: Path) -> tuple[int, int]:
        command = [sys.executable, "-c", _COUNTING, *map(str, arguments)]
        read, written = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        return int(read), int(written)

    read, written = run(path, tmp_path / "b.pt")
    assert written <= size + 100_000
    assert read <= size + 2_000_000
    read, written = run(path)
    assert read < 2_000_000
    assert written < 100_000


def test_tables_of_deepspeed_follow_the_module(tmp_path: Path) -> None:
    """zero_to_fp32.py finds the pieces of a parameter by the order and the names of ``param_shapes``."""
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    weights = OrderedDict(("_orig_mod." + key, value) for key, value in net.state_dict().items())
    shapes = [OrderedDict(("_orig_mod." + key, value.shape) for key, value in net.named_parameters())]
    states = {
        "module": weights, "buffer_names": ["_orig_mod." + key for key, _ in net.named_buffers()], "ds_version": "0.16.2",
        "param_shapes": shapes, "frozen_param_shapes": None, "shared_params": {"_orig_mod.0.bias": "_orig_mod.1.bias"},
    }  # fmt: skip
    torch.save(states, tmp_path / "mp_rank_00_model_states.pt")
    ci.save(ci.strip_prefix(ci.open(tmp_path / "mp_rank_00_model_states.pt")), str(tmp_path / "out.pt"))
    found = torch.load(tmp_path / "out.pt", weights_only=True)
    assert list(found["module"]) == list(net.state_dict())
    assert [list(group.items()) for group in found["param_shapes"]] == [
        [(k, v.shape) for k, v in net.named_parameters()]
    ]
    assert found["buffer_names"] == [key for key, _ in net.named_buffers()]
    assert found["shared_params"] == {"0.bias": "1.bias"}
    assert found["frozen_param_shapes"] is None


CHAIN = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))


def typed(command: str, cwd: Path) -> None:
    """Run a command as it was printed."""
    script = f'ckpt() {{ "{sys.executable}" -m ckpt_inspect "$@"; }}; {command}'
    subprocess.run(["bash", "-c", script], cwd=cwd, check=True, capture_output=True)


@pytest.mark.parametrize(
    "rename",
    [
        lambda key: f"model.module.{key}",
        lambda key: f"module.{key}" if key.startswith("0") else key,
        lambda key: f"model.{key}",
    ],
)
def test_what_strip_prefix_advises_does_it(rename: Any, ckpt: Run, tmp_path: Path) -> None:
    torch.save({rename(key): value for key, value in CHAIN.state_dict().items()}, tmp_path / "a.pt")
    done = ckpt("strip-prefix", "a.pt", "-o", "b.pt", cwd=tmp_path)
    assert done.returncode == 2
    typed(done.stderr.splitlines()[-1].partition(": ")[2], tmp_path)
    (out,) = [path for path in tmp_path.iterdir() if path.name != "a.pt"]
    keys = {key.removeprefix("model.") for key in torch.load(out, weights_only=True)}
    assert keys == set(CHAIN.state_dict())


def test_the_way_out_of_names_that_meet_can_be_typed(ckpt: Run, tmp_path: Path) -> None:
    state = {f"_orig_mod.{key}": value for key, value in CHAIN.state_dict().items()}
    torch.save({**state, "0.weight": torch.ones(1)}, tmp_path / "a.pt")
    done = ckpt("strip-prefix", "a.pt", "-o", "b.pt", cwd=tmp_path)
    assert done.returncode == 2
    typed(done.stderr.splitlines()[-1].partition(": ")[2], tmp_path)
    CHAIN.load_state_dict(torch.load(tmp_path / "a.remapped.pt", weights_only=True))


@pytest.mark.parametrize("prefix", ["module._orig_mod.", "averaged", "inside.module."])
def test_the_hint_of_info_does_it_once(prefix: str, tmp_path: Path) -> None:
    """One command for wrappers in wrappers, for several sections too; the counter of AveragedModel goes."""
    if prefix == "averaged":
        state: Any = torch.optim.swa_utils.AveragedModel(CHAIN).state_dict()
    else:
        state = {f"{prefix}{key}": value for key, value in CHAIN.state_dict().items()}
        state = {"model": state, "ema": dict(state)}
    torch.save(state, tmp_path / "a.pt")
    (hint,) = [hint for hint in ci.info(ci.open(tmp_path / "a.pt")).hints if hint.code == "wrapper-prefix"]
    assert hint.command is not None
    if prefix == "averaged":
        assert "every key but n_averaged carries 'module.'" in hint.message
    typed(hint.command.replace(str(tmp_path / "a.pt"), "a.pt"), tmp_path)
    (out,) = [path for path in tmp_path.iterdir() if path.name != "a.pt"]
    found = torch.load(out, weights_only=True)
    found = {key.removeprefix("inside."): value for key, value in found.get("ema", found).items()}
    CHAIN.load_state_dict(found)


def test_wrappers_inside_are_named_as_likely(ckpt: Run, tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.DataParallel(torch.nn.Linear(2, 2)), torch.nn.Linear(2, 2))
    torch.save(model.state_dict(), tmp_path / "a.pt")
    found = ci.info(ci.open(tmp_path / "a.pt")).to_dict()
    assert found["prefixes"] == []
    assert found["nested_prefixes"] == [{"section": "", "prefix": "0.module.", "count": 2, "of": 4}]
    assert "DataParallel/DDP~" in ckpt("info", tmp_path / "a.pt").stdout


def test_keys_of_many_segments_cost_no_square() -> None:
    """The paths in this key, one by one, would be 70 GB."""
    deep = "a" + ".module" * 100_000
    assert nested_prefixes([deep, "b.module.w"]) == [("b.module.", 1, 2)]


def with_averages(tmp_path: Path, copy: str = "ema") -> tuple[Path, Any]:
    """A training checkpoint with two sets of weights under the same names, and an optimizer that was given names."""
    model = torch.nn.DataParallel(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2)))
    optimizer = torch.optim.AdamW(list(model.named_parameters()), lr=0.1)
    model(torch.randn(8, 4)).sum().backward()
    optimizer.step()
    weights = model.state_dict()
    averages = {key: value.clone() + 1 for key, value in weights.items()}
    path = tmp_path / "run.pt"
    torch.save({"model": weights, copy: averages, "optimizer": optimizer.state_dict()}, path)
    return path, model


def names_of(path: Path) -> list[str]:
    names: list[str] = torch.load(path, weights_only=True)["optimizer"]["param_groups"][0]["param_names"]
    return names


@pytest.mark.parametrize("part", ["ema", "model"])
@pytest.mark.parametrize("in_place", [False, True])
def test_names_in_an_optimizer_follow_the_weights_that_it_moves(part: str, in_place: bool, tmp_path: Path) -> None:
    path, model = with_averages(tmp_path)
    wrapped = [name for name, _ in model.named_parameters()]
    plain = [name for name, _ in model.module.named_parameters()]
    plan = planned(ci.open(f"{path}#{part}"), Rules.parse(["module.** -> **"]))
    out = path
    if in_place:
        save_in_place(plan.checkpoint)
    else:
        out = write(plan.checkpoint, tmp_path / "out.pt")
    saved = torch.load(out, weights_only=True)
    assert list(saved[part]) == plain
    assert names_of(out) == (plain if part == "model" else wrapped)
    followed = plan.to_dict(None, 0)["followed"]
    assert followed == ([{"place": "optimizer/param_groups/0/param_names", "names": 4}] if part == "model" else [])


def test_names_in_an_optimizer_that_may_be_of_either_set_stay_unless_both_agree(ckpt: Run, tmp_path: Path) -> None:
    path, model = with_averages(tmp_path, copy="other")
    done = ckpt("remap", f"{path}#other", "--rule", "module.** -> **", "-o", tmp_path / "one.pt")
    assert "optimizer/param_groups/0/param_names: 4 names are in several sections" in done.stdout
    assert names_of(tmp_path / "one.pt") == [name for name, _ in model.named_parameters()]
    done = ckpt("strip-prefix", path, "-o", tmp_path / "both.pt")
    assert "optimizer/param_groups/0/param_names   4 names follow" in done.stdout
    assert names_of(tmp_path / "both.pt") == [name for name, _ in model.module.named_parameters()]


@pytest.mark.parametrize(("part", "said"), [("model", True), ("ema", False)])
def test_state_of_dropped_parameters_is_said_with_two_sets_of_weights(part: str, said: bool, tmp_path: Path) -> None:
    path, _ = with_averages(tmp_path)
    plan = planned(ci.open(f"{path}#{part}"), Rules.parse(drop=["module.1.*"]))
    assert plan.notes == ["optimizer still holds the state of 2 dropped parameters; resuming will not fit"] * said


def saved(tmp_path: Path, name: str, keys: str, size: int = 4) -> Path:
    torch.save({key: torch.randn(size, size) for key in keys.split()}, tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize(
    ("theirs", "size", "said"),
    [("x.weight y.weight", 5, "0 of 2 keys could be mapped"), ("x.weight y.weight", 4, "in several ways")],
)
def test_a_reference_that_says_nothing_is_no_success(
    theirs: str, size: int, said: str, ckpt: Run, tmp_path: Path
) -> None:
    path, reference = saved(tmp_path, "a.pt", "a.weight b.weight"), saved(tmp_path, "b.pt", theirs, size)
    for out in (["--dry-run"], ["-o", tmp_path / "c.pt"]):
        done = ckpt("remap", path, "--like", reference, *out)
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr
        words = shlex.split(done.stderr.splitlines()[-1].partition("ckpt ")[2])
        assert ckpt(*words).returncode == 0
    assert sorted(os.listdir(tmp_path)) == ["a.pt", "b.pt"]


def test_names_that_agree_already_are_said_to(ckpt: Run, tmp_path: Path) -> None:
    path, reference = saved(tmp_path, "a.pt", "a.weight b.weight"), saved(tmp_path, "b.pt", "a.weight b.weight c.bias")
    done = ckpt("remap", path, "--like", reference, "-o", tmp_path / "c.pt")
    assert done.returncode == 0
    assert "2 names agree with the reference already: nothing is to be renamed" in done.stdout


def test_a_plan_counts_each_key_once(ckpt: Run, tmp_path: Path) -> None:
    path = saved(tmp_path, "a.pt", "head.weight " + " ".join(f"layer{n}.weight" for n in range(6)) + " a.b.c")
    rules = ["--rule", "head.** -> head.**", "--rule", "a.** -> a.**", "--rule", "** -> model.**"]
    lines = ckpt("remap", path, *rules, "--dry-run").stdout.splitlines()
    assert sum(int(found[1]) for line in lines if (found := re.search(r"\b(\d+) keys?\b", line))) == 8


@pytest.mark.parametrize("form", ["partial", "pickled", "scripted"])
def test_what_strip_prefix_advises_for_a_part_and_for_objects_does_it(form: str, ckpt: Run, tmp_path: Path) -> None:
    arguments = ["strip-prefix", "a.pt"]
    if form == "partial":
        state = {f"model.{key}": value for key, value in CHAIN.state_dict().items()}
        torch.save({**state, "metric": torch.ones(1)}, tmp_path / "a.pt")
        arguments += ["--prefix", "model"]
    elif form == "pickled":
        torch.save(CHAIN, tmp_path / "a.pt")
    else:
        torch.jit.script(CHAIN).save(tmp_path / "a.pt")
    done = ckpt(*arguments, "-o", "b.pt", cwd=tmp_path)
    assert done.returncode == 2
    assert ("TorchScript of a" in done.stderr) == (form == "scripted")
    typed(done.stderr.splitlines()[-1].partition(": ")[2], tmp_path)
    (out,) = [path for path in tmp_path.iterdir() if path.name != "a.pt"]
    found = torch.load(out, weights_only=True)
    found.pop("metric", None)
    CHAIN.load_state_dict(found)


def test_a_wrapper_on_some_keys_has_its_hint_too(tmp_path: Path) -> None:
    """``_orig_mod`` goes wherever it stands; a ``module`` that leads some keys alone does not."""
    for prefix, hinted in (("net._orig_mod.", True), ("module.", False)):
        state = {f"{prefix}{key}": value for key, value in CHAIN.state_dict().items()}
        torch.save({**state, "metric": torch.ones(1)}, tmp_path / "a.pt")
        hints = [hint for hint in ci.info(ci.open(tmp_path / "a.pt")).hints if hint.code == "wrapper-prefix"]
        assert len(hints) == hinted
        if hinted:
            assert f"{len(state)} of {len(state) + 1} keys carry '_orig_mod.' (torch.compile)" in hints[0].message
            typed((hints[0].command or "").replace(str(tmp_path / "a.pt"), "a.pt"), tmp_path)
            found = torch.load(tmp_path / "a.stripped.pt", weights_only=True)
            assert set(found) == {"metric", *(f"net.{key}" for key in CHAIN.state_dict())}
