"""A file of a model that was built otherwise: the arguments with which the model has the file's shapes.

Where a size of the model is one of its arguments, the size that the file has there may be the argument it was built
with; so may counts of numbered siblings, for depths. Such changes are tried one at a time; the one after which most
is alike is kept and the next looked for. A bounded number of models is built, and torch has the last word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import ModelError
from ..model.checkpoint import Checkpoint
from ..model.keymap import KeyMap
from ..model.section import Section
from ..model.spelling import shell_join
from .fix import Fix, find_renaming
from .leftovers import HARMLESS
from .naming import check_words

if TYPE_CHECKING:
    from torch import nn

    from ..torch.models import Model

Change = tuple[int, int]  # of a size or a count: in the model, in the file
Shapes = Mapping[str, tuple[int, ...]]
Siblings = dict[tuple[str, str], dict[str, int]]

_MOST_BUILT = 40
_ON_CPU = 6  # as many, there: they take time and memory
_MOST_EACH = 4  # values of one argument
_NUMBERED = re.compile(r"(.*?)(?:0|[1-9][0-9]{0,5})", re.ASCII)


class Suits(NamedTuple):
    """What torch says of the weights in another module: strict loading succeeds, or only harmless keys differ."""

    strict: bool
    only_harmless: bool


def built_otherwise(
    checkpoint: Checkpoint, section: Section, model: Model, own: Section,
    suits: Callable[[nn.Module, KeyMap], Suits],
) -> Fix | None:  # fmt: skip
    """The command that names other arguments, with which the weights load; None if none is found.

    Where a prefix, or weight norm, hides that most names are the model's, the command that renames comes first.

    Args:
        checkpoint, section: the file, and the weights in it.
        model: as it was named; ``own``: its section.
        suits: torch's verdict on the weights, under other names, and another module.
    """
    renaming = find_renaming(checkpoint, section, own)
    keys = renaming.keys if renaming is not None else KeyMap({})
    climb = _Climb(section.with_keys(keys) if renaming is not None else section)
    module: nn.Module | None = None
    while not climb.is_alike(own):
        step = climb.step(model, own)
        if step is None:
            return None
        model, own, module = step
    if module is None or not any(found := suits(module, keys)):
        return None
    of = sum(info.persistent for info in own.values())
    command = shell_join(check_words(checkpoint, model, None if renaming is None else renaming.out))
    if renaming is not None:
        command = f"{renaming.command} && {command}"
    matched = sum(info.persistent and key in climb.section.tensors for key, info in own.items())
    return Fix(command, matched, of, found.strict, KeyMap({}), found.only_harmless, True)


def _compared(model: Section, file: Section) -> tuple[Shapes, Shapes]:
    """Shapes of both, without harmless keys, and without names of tied tensors that only one has."""
    return _shapes(model, file), _shapes(file, model)


def _shapes(section: Section, other: Section) -> Shapes:
    there = {info.view_of for key, info in section.items() if key in other.tensors and info.view_of is not None}
    return {
        key: info.shape for key, info in section.items()
        if info.persistent and key.rpartition(".")[2] not in HARMLESS
        and (key in other.tensors or info.view_of is None or info.view_of not in there)
    }  # fmt: skip


class _Climb:
    """From one model to another that is more like the file, as long as there is one."""

    def __init__(self, section: Section) -> None:
        self.section = section
        self.left = _MOST_BUILT

    def is_alike(self, model: Section) -> bool:
        shapes, wanted = _compared(model, self.section)
        return shapes == wanted

    def step(self, model: Model, own: Section) -> tuple[Model, Section, nn.Module] | None:
        """The one change after which most is alike; None if none makes more so."""
        shapes, wanted = _compared(own, self.section)
        best, found = _alike(shapes, wanted), None
        for kwargs in _candidates(model, shapes, wanted):
            other = model.with_kwargs(kwargs)
            module = self._build(other)
            if module is not None:
                score = _alike(*_compared(module[1], self.section))
                if score > best:
                    best, found = score, (other, module[1], module[0])
                if score == 1:
                    break
        return found

    def _build(self, model: Model) -> tuple[nn.Module, Section] | None:
        from ..torch.live import section_of

        if self.left <= 0:
            return None
        self.left -= 1
        try:
            module, device, _ = model.build()
            self.left -= _ON_CPU if device == "cpu" else 0
            return module, section_of(module)
        except ModelError:  # whatever a constructor says of arguments that nobody asked for
            return None


def _alike(shapes: Shapes, wanted: Shapes) -> float:
    """How much of two sets of shapes agrees, up to 1; what has a name in common counts by its dimensions."""
    agreeing = 0.0
    for key, shape in shapes.items():
        other = wanted.get(key)
        if other is not None and len(other) == len(shape):
            agreeing += (1 + sum(map(int.__eq__, shape, other))) / (1 + len(shape))
    return 2 * agreeing / (len(shapes) + len(wanted)) if shapes or wanted else 0


def _candidates(model: Model, shapes: Shapes, wanted: Shapes) -> Iterator[dict[str, Any]]:
    """Arguments that differ in one."""
    ours, theirs = _siblings(shapes), _siblings(wanted)
    sizes = {*_sizes(shapes, wanted), *_ends(ours, theirs)}
    counts = {(len(names), len(theirs[place])) for place, names in ours.items() if place in theirs}
    for name, value in model.numbers().items():
        found = dict.fromkeys(chain(_numbers(value, counts), _numbers(value, sizes)))
        yield from ({name: one} for one in [one for one in found if one > 0 and one != value][:_MOST_EACH])
    for name, listed in model.lists().items():
        lists = [one for one in _lists(listed, ours, theirs, dict(sorted(sizes))) if one != listed]
        yield from ({name: one} for one in lists[:_MOST_EACH])


def _numbers(value: int, changes: Iterable[Change]) -> Iterator[int]:
    """What a number would be where it is the model's size, or goes with it: in proportion, or a few apart."""
    for mine, its in sorted(changes, key=lambda change: (abs(change[0] - value), change)):
        if value == mine:
            yield its
        elif value > 0 and mine != its:
            for apart in (0, 1, 2):  # a stem or a head that is counted with the rest
                scaled = (its - apart) * value
                if mine > apart and (mine - apart) % value == 0 and scaled % (mine - apart) == 0:
                    yield scaled // (mine - apart)
            if abs(mine - value) <= 2:
                yield value + its - mine


def _sizes(shapes: Shapes, wanted: Shapes) -> Iterator[Change]:
    for key, shape in shapes.items():
        other = wanted.get(key, ())
        if len(other) == len(shape):
            yield from ((a, b) for a, b in zip(shape, other, strict=True) if a != b)


def _siblings(shapes: Shapes) -> Siblings:
    """Parent and what stands before the number -> the siblings, each with the first dimension of its first tensor."""
    found: Siblings = {}
    for key, shape in shapes.items():
        segments = key.split(".")
        for index, segment in enumerate(segments[:-1]):
            match = _NUMBERED.fullmatch(segment)
            if match is not None:
                place = ".".join(segments[:index]), match[1]
                found.setdefault(place, {}).setdefault(segment, shape[0] if shape else 0)
    return {place: dict(sorted(names.items(), key=lambda one: (len(one[0]), one[0]))) for place, names in found.items()}


def _ends(ours: Siblings, theirs: Siblings) -> Iterator[Change]:
    """Of the last of siblings, which may have another number: the head of a longer or shorter row."""
    for place, names in ours.items():
        mine, its = list(names.values()), list(theirs.get(place, {}).values())
        if its and mine[-1] != its[-1]:
            yield mine[-1], its[-1]


def _lists(listed: list[int], ours: Siblings, theirs: Siblings, sizes: Mapping[int, int]) -> Iterator[list[int]]:
    """What a list of numbers would be: depths of stages, widths of layers."""
    for place, names in ours.items():
        if place not in theirs:
            continue
        if _depths(ours, place) == listed:  # layer1, layer2, … of [3, 4, 6, 3] blocks
            yield _depths(theirs, place)
        mine, its = list(names.values()), list(theirs[place].values())
        for start in range(len(mine) - len(listed) + 1):  # widths of layers, and what stands before and behind them
            behind = len(mine) - start - len(listed)
            if mine[start : start + len(listed)] == listed and start + behind < len(its):
                yield its[start : len(its) - behind]
    yield [sizes.get(value, value) for value in listed]


def _depths(siblings: Siblings, place: tuple[str, str]) -> list[int]:
    """For each of siblings, how many numbered ones are below it, in the first module that holds any."""
    parent = f"{place[0]}." if place[0] else ""
    paths = [parent + name for name in siblings[place]]
    first: dict[str, int] = {}
    for inner, names in siblings.items():
        for path in paths:
            if f"{inner[0]}.".startswith(path + "."):
                first.setdefault(path, len(names))
    return [first.get(path, 0) for path in paths]
