"""Which parameter a piece of optimizer state belongs to: torch's own objects say whether the answer is right."""

from __future__ import annotations

import copy
import inspect
import itertools
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

import ckpt_inspect as ci
from ckpt_inspect.formats.optimizers import class_of, groups_of
from ckpt_inspect.model.checkpoint import Checkpoint
from tests.zoo import MnistNet, files

# -- models and optimizers ---------------------------------------------------------------------------------

LAYERS: list[Callable[[], Any]] = [
    lambda: nn.Linear(2, 2),
    lambda: nn.Linear(2, 3),
    lambda: nn.Linear(3, 2, bias=False),
    lambda: nn.BatchNorm1d(2),
    lambda: nn.LayerNorm(3),
    lambda: nn.Embedding(3, 2),
    lambda: nn.Conv1d(2, 3, 1),
    lambda: nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)),
]
OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "SGD": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    "Adam": torch.optim.Adam,
    "AdamAmsgrad": lambda p: torch.optim.Adam(p, amsgrad=True),
    "AdamW": torch.optim.AdamW,
    "RMSprop": lambda p: torch.optim.RMSprop(p, momentum=0.9, centered=True),
    "Adagrad": torch.optim.Adagrad,
    "Adadelta": torch.optim.Adadelta,
    "Adamax": torch.optim.Adamax,
    "NAdam": torch.optim.NAdam,
    "RAdam": torch.optim.RAdam,
    "Rprop": torch.optim.Rprop,
    "ASGD": torch.optim.ASGD,
    "Adafactor": torch.optim.Adafactor,
}


@st.composite
def models(draw: Any, most: int = 4) -> Any:
    """A few layers of few sizes, so that shapes repeat; sometimes with tied weights."""
    model = nn.Sequential(
        *[LAYERS[n]() for n in draw(st.lists(st.integers(0, len(LAYERS) - 1), min_size=1, max_size=most))]
    )
    linear = [layer for layer in model if type(layer) is nn.Linear]
    if len(linear) > 1 and linear[0].weight.shape == linear[-1].weight.shape and draw(st.booleans()):
        linear[-1].weight = linear[0].weight
    return model


def stepped(optimizer: Any, parameters: list[Any]) -> Any:
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer


def saved(**content: Any) -> Checkpoint:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run.ckpt")
        torch.save({name: value.state_dict() for name, value in content.items()}, path)
        return ci.open(str(path))


def claims(checkpoint: Checkpoint, optimizer: str = "optimizer") -> Iterator[tuple[int, str, str]]:
    """(number of the parameter in the optimizer, name of the parameter, how it is known)."""
    section = checkpoint.sections[optimizer]
    assert section.kind == "optimizer"
    assert section.params.keys() <= section.tensors.keys()
    for key, (name, known) in section.params.items():
        yield int(key.split("/")[1]), name, known


def numbered(optimizer: Any) -> list[Any]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def names_of(parameter: Any, **models: Any) -> set[str]:
    return {
        f"{section}/{name}"
        for section, model in models.items()
        for name, found in model.named_parameters(remove_duplicate=False)
        if found is parameter
    }


def right(checkpoint: Checkpoint, optimizer: Any, **models: Any) -> set[int]:
    """Every claim is true; the numbers of the parameters that were named."""
    order = numbered(optimizer)
    found = set()
    for number, name, _ in claims(checkpoint):
        assert name in names_of(order[number], **models)
        found.add(number)
    return found


def with_state(optimizer: Any) -> set[int]:
    """Numbers of the parameters whose state holds tensors."""
    state = optimizer.state_dict()["state"]
    return {number for number, values in state.items() if any(isinstance(v, torch.Tensor) for v in values.values())}


# -- whatever people do, what is said is true --------------------------------------------------------------


def alignments(groups: list[list[Any]], parameters: list[Any], known: set[int]) -> int:
    """In how many ways the parameters, in order, can be dealt onto the groups so that the known shapes fit."""
    wanted = [[tuple(p.shape) if id(p) in known else None for p in group] for group in groups]
    count = 0
    for choice in itertools.product(range(-1, len(groups)), repeat=len(parameters)):
        dealt: list[list[Any]] = [[] for _ in groups]
        for group, parameter in zip(choice, parameters, strict=True):
            if group >= 0:
                dealt[group].append(tuple(parameter.shape))
        fits = all(
            len(have) == len(want) and all(w in (None, h) for w, h in zip(want, have, strict=True))
            for want, have in zip(wanted, dealt, strict=True)
        )
        count += fits
    return count


@settings(max_examples=150, deadline=None)
@given(models(3), st.sampled_from(["SGD", "Adam", "RMSprop"]), st.data())
def test_named_where_exactly_one_alignment_fits(model: Any, name: str, data: Any) -> None:
    """Any partition onto groups, in order within a group; some parameters left out, some never stepped."""
    parameters = list(model.parameters())
    assume(len(parameters) <= 7)
    count = data.draw(st.integers(1, 3))
    where = [data.draw(st.integers(-1 if count < 3 else 0, count - 1)) for _ in parameters]
    groups = [[p for p, group in zip(parameters, where, strict=True) if group == n] for n in range(count)]
    groups = [group for group in groups if group]
    assume(groups)
    moved = [p for group in groups for p in group if data.draw(st.integers(0, 9))]
    optimizer = OPTIMIZERS[name]([{"params": group, "lr": 0.1 / n} for n, group in enumerate(groups, 1)])
    checkpoint = saved(model=model, optimizer=stepped(optimizer, moved))
    found = right(checkpoint, optimizer, model=model)
    ways = alignments(groups, parameters, {id(p) for p in moved})
    assert found == (with_state(optimizer) if ways == 1 else set())


@pytest.mark.parametrize("name", OPTIMIZERS)
@settings(max_examples=12, deadline=None)
@given(model=models())
def test_all_parameters_in_one_group(name: str, model: Any) -> None:
    optimizer = OPTIMIZERS[name](model.parameters())
    checkpoint = saved(model=model, optimizer=stepped(optimizer, list(model.parameters())))
    assert right(checkpoint, optimizer, model=model) == with_state(optimizer) == set(range(len(numbered(optimizer))))
    assert {known for _, _, known in claims(checkpoint)} == {"derived"}
    parameters = {f"model/{key}" for key, _ in model.named_parameters(remove_duplicate=False)}
    for full, section, info in checkpoint.tensors():
        if section.kind == "state_dict":
            assert (info.role == "parameter") is (full in parameters)
            assert info.role_from == ("optimizer" if full in parameters else "inferred")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_before_the_first_step(name: str) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    optimizer = OPTIMIZERS[name](model.parameters())
    checkpoint = saved(model=model, optimizer=optimizer)
    assert right(checkpoint, optimizer, model=model) == with_state(optimizer)


@settings(max_examples=60, deadline=None)
@given(st.permutations(range(6)), st.booleans())
def test_another_order_within_a_group(order: list[int], groups: bool) -> None:
    """Shapes that all differ tell that this is not the order of the model."""
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(4, 5), nn.Linear(6, 7))
    parameters = [list(model.parameters())[n] for n in order]
    chosen = [{"params": parameters[:2]}, {"params": parameters[2:]}] if groups else parameters
    optimizer = torch.optim.Adam(chosen)
    checkpoint = saved(model=model, optimizer=stepped(optimizer, parameters))
    found = right(checkpoint, optimizer, model=model)
    if list(order) == sorted(order):
        assert found == set(range(6))


def test_frozen_parameters() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4), nn.Linear(4, 2))
    model[1].requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    for chosen in (trained, list(model.parameters())):  # left out, or in but never stepped
        optimizer = torch.optim.Adam(chosen)
        checkpoint = saved(model=model, optimizer=stepped(optimizer, trained))
        assert right(checkpoint, optimizer, model=model) == with_state(optimizer) != set()


def test_buffers_that_look_like_parameters() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model.register_buffer("anchor", torch.rand(2))
    model[0].bias.requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad])
    checkpoint = saved(model=model, optimizer=stepped(optimizer, numbered(optimizer)))
    right(checkpoint, optimizer, model=model)
    tied = nn.Linear(2, 2)
    tied.register_buffer("anchor", tied.weight.detach())  # the parameter's own storage
    optimizer = torch.optim.Adam(tied.parameters())
    checkpoint = saved(model=tied, optimizer=stepped(optimizer, numbered(optimizer)))
    assert right(checkpoint, optimizer, model=tied) == {0, 1}


# -- several models, several optimizers --------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(models(), models(), st.booleans(), st.booleans())
def test_two_models_of_perhaps_one_shape(one: Any, other: Any, same: bool, named: bool) -> None:
    """Where both have the same shapes and keys nothing tells which of them an optimizer moves."""
    if same:
        other = copy.deepcopy(one)
    for section, model in {"generator": one, "discriminator": other}.items():
        optimizer = torch.optim.Adam(model.named_parameters() if named else model.parameters())
        checkpoint = saved(generator=one, discriminator=other, optimizer=stepped(optimizer, numbered(optimizer)))
        for number, name, known in claims(checkpoint):
            assert known == ("recorded" if named else "derived")
            assert name in names_of(numbered(optimizer)[number], **{section: model})


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("copies", [("ema",), ("ema_model", "best_model"), ("teacher",), ("swa_state",)])
def test_averaged_copies_are_not_what_was_moved(copies: tuple[str, ...], named: bool) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3))
    optimizer = torch.optim.Adam(model.named_parameters() if named else model.parameters())
    stepped(optimizer, numbered(optimizer))
    others = {name: copy.deepcopy(model) for name in copies}
    for content in ({**others, "model": model}, {"model": model, **others}):
        checkpoint = saved(**content, optimizer=optimizer)
        assert right(checkpoint, optimizer, model=model) == {0, 1, 2, 3}


# -- by name -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "known"), [("mnist.ckpt", "derived"), ("mnist-groups.ckpt", "derived"), ("mnist-named.ckpt", "recorded")]
)
def test_the_teaching_model(name: str, known: str, tmp_path: Path) -> None:
    checkpoint = ci.open(str(files.FILES[name](tmp_path)))
    keys = [key for key, _ in MnistNet().named_parameters()]
    found = list(claims(checkpoint, "optimizer_state_dict"))
    assert {(number, full) for number, full, _ in found} == {
        (n, f"model_state_dict/{key}") for n, key in enumerate(keys)
    }
    assert {how for _, _, how in found} == {known}
    assert len(found) == 3 * len(keys)  # step, exp_avg, exp_avg_sq


@settings(max_examples=25, deadline=None)
@given(models(), st.data())
def test_recorded_names(model: Any, data: Any) -> None:
    """Any order, any groups: the names are in the file."""
    named = data.draw(st.permutations(list(model.named_parameters())))
    at = data.draw(st.integers(0, len(named)))
    groups = [{"params": part} for part in (named[:at], named[at:]) if part]
    optimizer = torch.optim.Adam(groups)
    checkpoint = saved(model=model, optimizer=stepped(optimizer, [p for _, p in named]))
    assert right(checkpoint, optimizer, model=model) == set(range(len(named)))
    assert {known for _, _, known in claims(checkpoint)} == {"recorded"}


def test_recorded_names_without_their_model(tmp_path: Path) -> None:
    model = nn.Linear(2, 3)
    optimizer = torch.optim.Adam(model.named_parameters())
    checkpoint = saved(optimizer=stepped(optimizer, numbered(optimizer)))
    assert list(claims(checkpoint)) == []  # a name of the file is a section and a key


def test_state_of_no_parameter() -> None:
    """LBFGS keeps the state of all its parameters under the first."""
    model = nn.Linear(2, 1)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = model(torch.ones(4, 2)).pow(2).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    checkpoint = saved(model=model, optimizer=optimizer)
    assert with_state(optimizer) == {0}
    assert list(claims(checkpoint)) == []


# -- classes -----------------------------------------------------------------------------------------------

CLASSES = {
    name: cls
    for name, cls in vars(torch.optim).items()
    if isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer) and cls is not torch.optim.Optimizer
}
FLAGS = [
    "amsgrad",
    "nesterov",
    "maximize",
    "foreach",
    "capturable",
    "differentiable",
    "centered",
    "decoupled_weight_decay",
]


@pytest.mark.parametrize("name", CLASSES)
@settings(max_examples=8, deadline=None)
@given(st.dictionaries(st.sampled_from(FLAGS), st.booleans(), max_size=2))
def test_class(name: str, flags: dict[str, bool]) -> None:
    known = inspect.signature(CLASSES[name]).parameters
    options = {flag: value for flag, value in flags.items() if flag in known}
    if options.get("nesterov") and name == "SGD":
        options |= {"momentum": 0.9, "dampening": 0}  # type: ignore[dict-item]
    assume(not (options.get("foreach") and options.get("differentiable")))
    assume(name != "Adam" or not options.get("decoupled_weight_decay"))  # that is AdamW in all but the name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = CLASSES[name]([nn.Parameter(torch.ones(2, 2))], **options)
    checkpoint = saved(optimizer=optimizer)
    section = checkpoint.sections["optimizer"]
    found, recorded = class_of(section, groups_of(section, checkpoint.values))
    assert found is not None
    assert name in found.split("|")
    assert not recorded
    assert len(found.split("|")) <= 2


@pytest.mark.parametrize("name", sorted(files.FILES.keys() & {f"optimizer-{n.lower()}.pth" for n in CLASSES}))
def test_class_in_the_zoo(name: str, tmp_path: Path) -> None:
    checkpoint = ci.open(str(files.FILES[name](tmp_path)))
    facts = next(facts for facts in ci.info(checkpoint).sections if facts.section.kind == "optimizer")
    assert facts.cls is not None
    assert name[len("optimizer-") : -len(".pth")] in facts.cls.lower().split("|")
