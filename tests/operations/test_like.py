"""Matching a file with a reference: torch loads what comes out, and nothing is guessed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import ckpt_inspect as ci
from ckpt_inspect.errors import KeyCollisionError
from ckpt_inspect.model.section import Section
from ckpt_inspect.model.tensor import TensorInfo
from ckpt_inspect.model.wrappers import without_wrappers
from ckpt_inspect.operations.like import Matching, like
from ckpt_inspect.operations.like_sides import bare_names
from ckpt_inspect.operations.rules import Rules
from tests.zoo import CifarNet, CifarSeq, Cnn1, cnn3, files

Match = Callable[[Any, Any], Matching]


@pytest.fixture
def match(tmp_path: Path) -> Match:
    def run(state: Any, reference: Any) -> Matching:
        sections = []
        for name, content in (("file.pt", state), ("reference.pt", reference)):
            torch.save(content, tmp_path / name)
            sections.append(ci.open(tmp_path / name).sections[""])
        found = like(*sections)
        check(found, *(section.keys() for section in sections))
        return found

    return run


def check(found: Matching, keys: list[str], others: list[str]) -> None:
    """Every key is spoken of once, and the rules give the map."""
    unclear = [key for names, _ in found.ambiguous for key in names]
    assert sorted([*found.how, *unclear, *found.extra, *(key for key, _ in found.mismatched)]) == sorted(keys)
    given_to = [str(found.keys.pairs[key]) for key in found.how]
    unclear = [key for _, names in found.ambiguous for key in names]
    assert sorted([*given_to, *unclear, *found.missing, *(key for _, key in found.mismatched)]) == sorted(others)
    assert list(found.keys.pairs) == keys
    again = Rules.parse(one.rule for one in found.matches).keymap(keys)
    assert again == found.keys
    assert sum(one.tensors for one in found.matches) == len(found.keys.renamed)


def renamed(state: Any, found: Matching) -> dict[str, Any]:
    found.keys.check()
    return {found.keys.pairs[key]: value for key, value in state.items()}  # type: ignore[misc]


def complete(found: Matching) -> bool:
    return not (found.ambiguous or found.missing or found.extra or found.mismatched or found.collisions)


def seeded(make: Callable[[], Any], seed: int) -> Any:
    torch.manual_seed(seed)
    return make().eval()


def blocks(count: int, seed: int, name: str = "layers", width: int = 4) -> OrderedDict[str, Any]:
    torch.manual_seed(seed)
    return OrderedDict(
        (f"{name}.{index}.{leaf}", value)
        for index in range(count)
        for leaf, value in (
            ("fc1.weight", torch.randn(width, width)),
            ("fc1.bias", torch.zeros(width)),
            ("fc2.weight", torch.randn(width, width)),
            ("fc2.bias", torch.zeros(width)),
            ("norm.weight", torch.ones(width)),
            ("norm.bias", torch.zeros(width)),
        )
    )


@pytest.mark.parametrize(("one", "other"), [(CifarNet, CifarSeq), (CifarSeq, CifarNet)])
def test_cifar(match: Match, one: Any, other: Any) -> None:
    mine, fresh = seeded(one, 0), seeded(other, 1)
    found = match(mine.state_dict(), fresh.state_dict())
    assert complete(found)
    fresh.load_state_dict(renamed(mine.state_dict(), found), strict=True)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(mine(x), fresh(x))
    assert {one.how for one in found.matches} <= {"shape", "order", "shape, order", "order, shape"}


@pytest.mark.parametrize("same", [True, False])
def test_subtree_moved(match: Match, same: bool) -> None:
    inner = blocks(3, 0)
    state = {f"encoder.{key}": value for key, value in inner.items()} | {"head.weight": torch.randn(7, 4)}
    other = inner if same else blocks(3, 1)
    found = match(
        state, {f"backbone.{key}": value for key, value in other.items()} | {"head.weight": torch.randn(7, 4)}
    )
    assert complete(found)
    assert [one.rule for one in found.matches] == ["encoder.** -> backbone.**"]
    assert found.keys.pairs["encoder.layers.1.fc2.bias"] == "backbone.layers.1.fc2.bias"
    assert found.matches[0].parameters == sum(value.numel() for value in inner.values())


def test_layer_inserted_same_weights(match: Match) -> None:
    state, reference = blocks(6, 0), blocks(7, 1)
    for key, value in state.items():
        reference[shift(key)] = value
    found = match(state, reference)
    assert found.keys.pairs == {key: shift(key) for key in state}
    assert {key.split(".")[1] for key in found.missing} == {"3"}
    assert not found.ambiguous
    assert not found.extra
    assert {one.how for one in found.matches} == {"subtree, content"}


def shift(key: str) -> str:
    first, index, *rest = key.split(".")
    return ".".join([first, str(int(index) + (int(index) >= 3)), *rest])


@pytest.mark.parametrize("name", ["layers", "blocks"])
def test_layer_inserted_other_weights(match: Match, name: str) -> None:
    found = match(blocks(6, 0), blocks(7, 1, name))
    assert found.keys.is_identity()
    assert not found.how
    assert not found.missing
    assert len([key for names, _ in found.ambiguous for key in names]) == 36


def test_numbered_siblings_in_order(match: Match) -> None:
    found = match(blocks(12, 0), {f"h.blocks.{key[6:]}": value for key, value in blocks(12, 1, "block").items()})
    assert complete(found)
    assert found.keys.pairs["layers.10.fc2.weight"] == "h.blocks.10.fc2.weight"


def test_indices_shifted_without_content(match: Match) -> None:
    mine = seeded(lambda: nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)), 0)
    other = seeded(lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 8)), 1)
    found = match(mine.state_dict(), other.state_dict())
    assert complete(found)
    assert [found.keys.pairs[f"{index}.weight"] for index in range(3)] == ["0.weight", "2.weight", "3.weight"]


@pytest.mark.parametrize("same", [True, False])
def test_equal_shapes_under_other_names(match: Match, same: bool) -> None:
    torch.manual_seed(0)
    state = {
        f"{name}.{leaf}": torch.randn(*shape) for name in "qkv" for leaf, shape in (("weight", (4, 4)), ("bias", (4,)))
    }
    names = {"q": "query", "k": "key", "v": "value"}
    reference = {names[key[0]] + key[1:]: value if same else torch.randn_like(value) for key, value in state.items()}
    found = match(state, dict(reversed(reference.items())))
    if same:
        assert found.keys.pairs == {key: names[key[0]] + key[1:] for key in state}
    else:
        assert found.keys.is_identity()
        assert [(len(one), len(other)) for one, other in found.ambiguous] == [(6, 6)]


def test_data_parallel(match: Match) -> None:
    model = seeded(Cnn1, 0)
    found = match(nn.DataParallel(model).state_dict(), seeded(Cnn1, 1).state_dict())
    assert complete(found)
    assert [(one.rule, one.how) for one in found.matches] == [("module.** -> **", "names")]
    found = match(model.state_dict(), nn.DataParallel(model).state_dict())
    assert complete(found)


def test_nested_wrappers(match: Match) -> None:
    wrapped = cnn3().state_dict()
    plain = {key.replace("module.", ""): value + 1 for key, value in wrapped.items()}
    found = match(wrapped, plain)
    assert complete(found)
    assert found.keys.pairs["module.stage2.module.0.weight"] == "stage2.0.weight"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtype(match: Match, dtype: torch.dtype) -> None:
    model = seeded(CifarNet, 0)
    found = match(model.to(dtype).state_dict(), seeded(CifarSeq, 1).state_dict())
    assert complete(found)
    assert len(found.recast) == 10
    found = match(model.state_dict(), seeded(CifarNet, 1).state_dict())
    assert complete(found)
    assert set(found.how.values()) == {"names"}


def test_tied(match: Match) -> None:
    torch.manual_seed(0)
    shared = torch.randn(9, 4)
    state = {"embed.weight": shared, "body.weight": torch.randn(4, 4), "head.weight": shared}
    found = match(state, {f"model.{key}": value for key, value in state.items()})
    assert complete(found)
    assert found.keys.pairs == {key: f"model.{key}" for key in state}
    found = match(state, {"tokens.weight": shared, "body.weight": state["body.weight"], "out.weight": shared})
    assert found.ambiguous == [(["embed.weight", "head.weight"], ["tokens.weight", "out.weight"])]


def test_fresh_norms_are_no_evidence(match: Match) -> None:
    state = nn.ModuleDict({"a": nn.BatchNorm2d(3), "b": nn.BatchNorm2d(3)}).state_dict()
    found = match(state, nn.ModuleDict({"c": nn.BatchNorm2d(3), "d": nn.BatchNorm2d(3)}).state_dict())
    assert not found.how
    assert [(len(one), len(other)) for one, other in found.ambiguous] == [(10, 10)]


def test_old_batchnorm_without_counter(match: Match) -> None:
    state = {key: value for key, value in seeded(Cnn1, 0).state_dict().items() if "num_batches" not in key}
    reference = {f"net.{key}": value for key, value in seeded(Cnn1, 1).state_dict().items()}
    found = match(state, reference)
    assert found.missing == ["net.bn1.num_batches_tracked", "net.bn2.num_batches_tracked"]
    assert len(found.how) == 16


def test_weight_and_bias_stay_together(match: Match) -> None:
    state = {"a.weight": torch.randn(4), "a.bias": torch.randn(4), "b.weight": torch.randn(4, 5)}
    found = match(state, {"c.bias": torch.randn(4), "d.weight": torch.randn(4), "e.weight": torch.randn(4, 5)})
    assert found.how == {"b.weight": "shape"}
    assert found.extra == ["a.weight", "a.bias"]


def test_mismatched(match: Match) -> None:
    state = {"body.weight": torch.randn(4, 4), "fc.weight": torch.randn(10, 4), "fc.bias": torch.randn(10)}
    found = match(
        state, {**state, "fc.weight": torch.randn(5, 4), "fc.bias": torch.randn(5), "aux.weight": torch.randn(10, 4)}
    )
    assert found.mismatched == [("fc.weight", "fc.weight"), ("fc.bias", "fc.bias")]
    assert found.missing == ["aux.weight"]


def test_mangled_names(match: Match) -> None:
    model = seeded(Cnn1, 0)
    state = {"ema_" + key.replace(".", "_"): value for key, value in model.state_dict().items()}
    found = match(state, seeded(Cnn1, 1).state_dict())
    assert complete(found)
    seeded(Cnn1, 2).load_state_dict(renamed(state, found), strict=True)


def test_a_wrapper_on_some_keys(match: Match) -> None:
    state = seeded(Cnn1, 0).state_dict()
    half = {f"module.{key}" if i % 2 else key: value for i, (key, value) in enumerate(state.items())}
    assert complete(match(half, seeded(Cnn1, 1).state_dict()))
    found = match(half, {**state, "module.more.weight": torch.ones(1)})  # there it is a module's own name
    assert found.missing == ["module.more.weight"]


def test_many_numbers_take_linear_time() -> None:
    found = like(unread("h", 10_000), unread("h", 10_000, "more"))
    assert len(found.how) == 20_000
    assert found.missing == ["more"]


def unread(name: str, count: int, *more: str) -> Section:
    """Tensors without values: a file on ``meta``, or a model."""
    section = Section("", "state_dict")
    for key in (*(f"{name}.{index}.{leaf}" for index in range(count) for leaf in ("weight", "bias")), *more):
        section.tensors[key] = TensorInfo(key, "float32", (4,), (1,), None, 0, None)
    return section


def test_names_that_would_meet(match: Match) -> None:
    torch.manual_seed(0)
    moved = torch.randn(4, 4)
    found = match({"a.weight": moved, "b.weight": torch.randn(3, 3)}, {"b.weight": moved})
    assert found.collisions
    with pytest.raises(KeyCollisionError):
        found.keys.check()


@pytest.mark.parametrize("name", files.names("torch-zip", "torch-legacy", "safetensors"))
def test_a_file_is_like_itself(tmp_path: Path, name: str) -> None:
    path = files.FILES[name](tmp_path)
    for section in ci.open(path).sections.values():
        if section.kind in ("state_dict", "module"):
            found = like(section, section)
            assert found.keys.is_identity()
            assert complete(found)


def test_deep_keys_cost_little(match: Match) -> None:
    deep = "1." * 20_000
    found = match({deep: torch.ones(2), "a": torch.ones(1)}, {deep + "x": torch.ones(2), "a": torch.ones(1)})
    assert found.extra == [deep]
    assert found.missing == [deep + "x"]


def test_bare_names() -> None:
    keys = ["n_averaged", "module.a._orig_mod.weight", "module.module.b"]
    assert list(bare_names(keys).values()) == ["n_averaged", "a.weight", "module.b"]
    assert [without_wrappers(key) for key in ("module.module.b",)] == ["b"]  # which asks less
    assert list(bare_names(["sa_module.mlp", "module"]).values()) == ["sa_module.mlp", "module"]
    assert list(bare_names(["module.x", "x"]).values()) == ["module.x", "x"]


SEGMENTS = st.lists(st.sampled_from(["a", "b", "c", "0", "1", "2", "weight", "module"]), min_size=1, max_size=4)
KEYS = st.lists(SEGMENTS.map(".".join), min_size=1, max_size=12, unique=True)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_distinct_contents_are_found_whatever_the_names(tmp_path: Path, data: st.DataObject) -> None:
    olds = data.draw(KEYS)
    news = data.draw(st.lists(SEGMENTS.map(".".join), min_size=len(olds), max_size=len(olds), unique=True))
    shapes = [data.draw(st.sampled_from([(2,), (2, 3), (4, 4)])) for _ in olds]
    if sorted(bare_names(olds).values()) == sorted(bare_names(news).values()):
        return  # all names agree: they count, and nothing is read
    torch.manual_seed(0)
    values = [torch.randn(shape) for shape in shapes]
    order = data.draw(st.permutations(range(len(olds))))
    torch.save(dict(zip(olds, values, strict=True)), tmp_path / "a.pt")
    torch.save({news[index]: values[index] for index in order}, tmp_path / "b.pt")
    found = like(ci.open(tmp_path / "a.pt").sections[""], ci.open(tmp_path / "b.pt").sections[""])
    truth = dict(zip(olds, news, strict=True))
    assert {key: found.keys.pairs[key] for key in found.how} == truth
