"""A file of a model built otherwise: the arguments that ``check`` prints build it, and nothing is printed that does not."""

from __future__ import annotations

import json
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

import ckpt_inspect as ci
import ckpt_inspect.torch as ct
from ckpt_inspect.operations.check import check
from tests.conftest import in_process

HERE = "tests.operations.test_otherwise"


class Mlp(nn.Module):  # type: ignore[misc]
    def __init__(self, hidden: tuple[int, ...] = (64, 64), classes: int = 10, inputs: int = 20) -> None:
        super().__init__()
        widths = [inputs, *hidden, classes]
        pairs = pairwise(widths)
        self.layers = nn.Sequential(*[part for a, b in pairs for part in (nn.Linear(a, b), nn.ReLU())][:-1])


class Block(nn.Module):  # type: ignore[misc]
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads)
        self.fc = nn.Linear(width, 4 * width)
        self.proj = nn.Linear(4 * width, width)
        self.ln = nn.LayerNorm(width)


class Gpt(nn.Module):  # type: ignore[misc]
    """Four of everything: the depth is not the number of heads."""

    def __init__(self, n_layer: int = 4, heads: int = 4, n_embd: int = 32, vocab: int = 100, block: int = 16) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab, n_embd), nn.Embedding(block, n_embd)
        self.h = nn.ModuleList(Block(n_embd, heads) for _ in range(n_layer))
        self.head = nn.Linear(n_embd, vocab, bias=False)


class Stages(nn.Module):  # type: ignore[misc]
    def __init__(self, layers: list[int] = [2, 2, 2], width: int = 8, classes: int = 5) -> None:  # noqa: B006
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3)
        for index, depth in enumerate(layers):
            blocks = (nn.Sequential(nn.Conv2d(width, width, 3), nn.BatchNorm2d(width)) for _ in range(depth))
            setattr(self, f"layer{index + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(width, classes)


class Row(nn.Module):  # type: ignore[misc]
    """A stem and a head in the same row; three numbers for each block, two of them with tensors."""

    def __init__(self, depth: int = 3, width: int = 8) -> None:
        super().__init__()
        inner = (part for _ in range(depth) for part in (nn.Conv1d(width, width, 3), nn.BatchNorm1d(width), nn.ReLU()))
        self.net = nn.Sequential(nn.Conv1d(1, width, 3), *inner, nn.Conv1d(width, 2, 1))


class Named(nn.Module):  # type: ignore[misc]
    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        for index in range(depth):
            setattr(self, f"conv{index + 1}", nn.Conv2d(3, 3, 3))


class Exits(Named):
    """Whatever it is built with, but as it is by default."""

    def __init__(self, depth: int = 3) -> None:
        if depth != 3:
            raise SystemExit(depth)
        super().__init__(depth)


CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("Mlp", {}, {"classes": 3}),
    ("Mlp", {}, {"hidden": [128, 64, 32]}),
    ("Mlp", {"hidden": [8]}, {"hidden": [8, 8]}),
    ("Mlp", {}, {"hidden": [32], "classes": 3, "inputs": 7}),
    ("Gpt", {}, {"n_layer": 6}),
    ("Gpt", {"heads": 2}, {"heads": 2, "n_layer": 2}),
    ("Gpt", {}, {"n_embd": 64, "n_layer": 6}),
    ("Gpt", {}, {"n_embd": 64, "n_layer": 6, "vocab": 77, "block": 8}),
    ("Stages", {}, {"layers": [3, 4, 1]}),
    ("Stages", {}, {"layers": [3, 4, 1], "width": 16, "classes": 2}),
    ("Row", {}, {"depth": 5}),
    ("Row", {}, {"depth": 1, "width": 16}),
    ("Named", {}, {"depth": 5}),
    ("Named", {}, {"depth": 1}),
]


@pytest.mark.parametrize(("name", "given", "saved"), CASES)
def test_the_arguments_of_the_file(name: str, given: dict[str, Any], saved: dict[str, Any], tmp_path: Path) -> None:
    model = globals()[name]
    torch.save(model(**saved).state_dict(), tmp_path / "w.pt")
    with pytest.raises(RuntimeError):
        model(**given).load_state_dict(torch.load(tmp_path / "w.pt"))
    found = check(ci.open(tmp_path / "w.pt"), ct.Model(f"{HERE}:{name}", (), given))
    assert found.fix is not None
    words = shlex.split(found.fix.command)
    assert json.loads(words[words.index("--kwargs") + 1]) == saved
    model(**saved).load_state_dict(torch.load(tmp_path / "w.pt"), strict=True)
    assert (found.fix.loads, found.fix.matched) == (True, len(model(**saved).state_dict()))
    assert in_process([*words[1:], "-q"]) == 0
    if found.otherwise is not None:
        assert in_process([*shlex.split(found.otherwise.command)[1:], "-q"]) == 0
        out = torch.load(shlex.split(found.otherwise.command)[-1])
        model(**given).load_state_dict(out, strict=found.otherwise.loads)


class Tied(nn.Module):  # type: ignore[misc]
    """A mask of the same size whatever the width, and a head that is the embedding."""

    def __init__(self, layers: int = 4, width: int = 32, vocab: int = 100) -> None:
        super().__init__()
        self.wte, self.head = nn.Embedding(vocab, width), nn.Linear(width, vocab, bias=False)
        self.wte.weight = self.head.weight
        self.h = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(layers))
        for part in self.h:
            part.register_buffer("mask", torch.ones(8, 8))


def test_leftovers_hide_no_arguments_and_masks_are_no_fix(tmp_path: Path) -> None:
    saved = {"layers": 2, "vocab": 50, "width": 24}
    path = tmp_path / "w.pt"
    torch.save({**Tied(**saved).state_dict(), "rotary.inv_freq": torch.ones(4), "total_ops": torch.ones(1)}, path)
    found = check(ci.open(path), ct.Model(f"{HERE}:Tied"))
    assert found.matched == 2  # the masks
    assert found.parameters == 0
    assert found.fix is not None
    words = shlex.split(found.fix.command)
    assert json.loads(words[words.index("--kwargs") + 1]) == saved
    assert (found.fix.loads, found.fix.only_harmless) == (False, True)
    assert not any(Tied(**saved).load_state_dict(torch.load(path), strict=False).missing_keys)
    assert found.otherwise is None
    del found
    found = check(ci.open(path), Tied())  # a live model has no other arguments
    assert found.fix is None


def test_a_name_that_safetensors_dropped_hides_no_arguments(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_model(Tied(layers=6), str(path))
    found = check(ci.open(path), ct.Model(f"{HERE}:Tied"))
    assert found.fix is not None
    words = shlex.split(found.fix.command)
    assert json.loads(words[words.index("--kwargs") + 1]) == {"layers": 6}
    right = ct.Model(f"{HERE}:Tied", (), {"layers": 6})
    assert check(ci.open(path), right).only_ties
    safetensors.torch.load_model(Tied(layers=6), str(path))


@pytest.mark.parametrize("given", [{"width": 16}, {"layers": 2, "vocab": 60}])
@pytest.mark.parametrize("form", ["prefix", "named", "inside"])
def test_a_prefix_hides_no_arguments(
    given: dict[str, Any], form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    state = nn.DataParallel(Tied()).state_dict() if form != "named" else {
        f"net.{key}": value for key, value in Tied().state_dict().items()
    }  # fmt: skip
    torch.save({"epoch": 3, "model": state} if form == "inside" else state, "w.pt")
    found = check(ci.open("w.pt"), ct.Model(f"{HERE}:Tied", (), given))
    assert found.fix is not None
    assert found.fix.loads
    *first, last = found.fix.command.split(" && ")
    for step in first:
        assert in_process([*shlex.split(step)[1:], "-q"]) == 0
    assert in_process([*shlex.split(last)[1:], "-q"]) == 0
    written = torch.load(shlex.split(last)[2])
    Tied().load_state_dict(written["model"] if form == "inside" else written, strict=True)


def test_what_loads_under_no_arguments_is_not_offered(tmp_path: Path) -> None:
    torch.save({**Named(5).state_dict(), "head.weight": torch.ones(3)}, tmp_path / "w.pt")
    found = check(ci.open(tmp_path / "w.pt"), ct.Model(f"{HERE}:Named"))
    assert found.fix is None or "--kwargs" not in found.fix.command
    torch.save(Named(5).state_dict(), tmp_path / "w.pt")
    found = check(ci.open(tmp_path / "w.pt"), ct.Model(f"{HERE}:Exits"))
    assert found.fix is None or "--kwargs" not in found.fix.command


def test_how_many_models_are_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[int] = []
    original = ct.Model.build

    def build(self: ct.Model) -> Any:
        built.append(1)
        return original(self)

    monkeypatch.setattr(ct.Model, "build", build)
    torch.save({f"h.{n}.fc.weight": torch.ones(n + 1, 7) for n in range(40)}, tmp_path / "w.pt")
    assert not check(ci.open(tmp_path / "w.pt"), ct.Model(f"{HERE}:Gpt")).loads
    assert len(built) <= 41
