"""Tensors that only changed their name: the same bytes, one-to-one (design 4, Equality).

Blocks that were just initialised share their bytes with each other: those are no renames, unless a subtree that was
renamed for certain predicts them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from ..containers.copying import Progress
from ..formats.logical import frame
from ..model.tensor import TensorInfo
from .content import contents, sample
from .sides import Place

Tensors = Mapping[Place, TensorInfo]


class Renames(NamedTuple):
    """What was found.

    Attributes:
        pairs: place in a -> place in b.
        alike: of tensors that were left, how many others of the other side hold the same bytes.
    """

    pairs: dict[Place, Place]
    alike: dict[Place, int]


def find(
    removed: Tensors, added: Tensors, kept_a: Tensors, kept_b: Tensors, progress: Progress | None = None
) -> Renames:
    """Match tensors that only one side has with those that only the other has.

    Args:
        removed, added: by place, of the first and of the second side.
        kept_a, kept_b: tensors whose place both sides have: their bytes are nobody else's.
    """
    kinds = {_kind(info) for info in removed.values()} & {_kind(info) for info in added.values()}
    groups = _by_bytes(
        [{place: info for place, info in side.items() if _kind(info) in kinds} for side in (removed, added)], progress
    )
    kept = _kept(groups, (removed, added), (kept_a, kept_b), kinds, progress)
    pairs: dict[Place, Place] = {}
    unsure: list[tuple[list[Place], list[Place]]] = []
    for value, (ours, theirs) in groups.items():
        if len(ours) == len(theirs) == 1 and value not in kept:
            pairs[ours[0]] = theirs[0]
        else:
            unsure.append((ours, theirs))
    _predicted(pairs, unsure)
    taken = set(pairs.values())
    alike: dict[Place, int] = {}
    for ours, theirs in groups.values():
        for mine, others in ((ours, theirs), (theirs, ours)):
            left = [place for place in mine if place not in pairs and place not in taken]
            alike.update(dict.fromkeys(left, len(others)))
    return Renames(pairs, alike)


def _kind(info: TensorInfo) -> tuple[object, ...]:
    return info.dtype, info.shape, info.layout


_Groups = dict[bytes, tuple[list[Place], list[Place]]]


def _by_bytes(sides: list[dict[Place, TensorInfo]], progress: Progress | None) -> _Groups:
    """Places of both sides by the bytes they hold; of one side alone, they are left out."""
    groups = _grouped(sides, [[sample(info) for info in side.values()] for side in sides])
    left = [
        {place: sides[i][place] for both in groups.values() for place in both[i] if sides[i][place].nbytes}
        for i in (0, 1)
    ]
    return _grouped(left, [contents(list(side.values()), progress) for side in left])


def _grouped(sides: list[dict[Place, TensorInfo]], values: list[list[bytes | None]]) -> _Groups:
    groups: _Groups = defaultdict(lambda: ([], []))
    for i, side in enumerate(sides):
        for (place, info), value in zip(side.items(), values[i], strict=True):
            if value is not None:
                groups[value + repr((_kind(info), frame(info))).encode()][i].append(place)
    return {value: both for value, both in groups.items() if both[0] and both[1]}


def _kept(
    groups: _Groups, sides: tuple[Tensors, Tensors], kept: tuple[Tensors, Tensors], kinds: set[tuple[object, ...]],
    progress: Progress | None,
) -> set[bytes]:  # fmt: skip
    """Bytes that a tensor which kept its name holds as well, tied ones apart: those are the same tensor."""
    found: set[bytes] = set()
    for i in (0, 1):
        mine: dict[object, set[bytes]] = defaultdict(set)
        views = set()
        for full, both in groups.items():
            for place in both[i]:
                info = sides[i][place]
                views.add(info.view_of)
                mine[sample(info)].add(full)
        others = [info for info in kept[i].values() if _kind(info) in kinds and info.view_of not in views]
        others = [info for info in others if sample(info) in mine]
        for info, value in zip(others, contents(others, progress), strict=True):
            if value is not None:
                found.add(value + repr((_kind(info), frame(info))).encode())
    return found & groups.keys()


def _predicted(pairs: dict[Place, Place], unsure: list[tuple[list[Place], list[Place]]]) -> None:
    """Renames that a renamed subtree predicts: ``a.norm`` went to ``b.norm`` if all else below ``a`` went to ``b``."""
    moved: dict[Place, set[Place]] = defaultdict(set)
    for old, new in pairs.items():
        for before, after in _heads(old, new):
            moved[before].add(after)
    taken = set(pairs.values())
    for ours, theirs in unsure:
        free = {place for place in theirs if place not in taken}
        for place in ours:
            target = _target(place, moved)
            if target in free:
                pairs[place] = target
                free.discard(target)
                taken.add(target)


def _heads(old: Place, new: Place) -> list[tuple[Place, Place]]:
    """Modules that hold both, as far up as the names below them agree."""
    mine, theirs = old.key.split("."), new.key.split(".")
    found: list[tuple[Place, Place]] = []
    while mine and theirs and mine[-1] == theirs[-1]:
        mine, theirs = mine[:-1], theirs[:-1]
        found.append((Place(old.section, ".".join(mine)), Place(new.section, ".".join(theirs))))
    return found


def _target(place: Place, moved: Mapping[Place, set[Place]]) -> Place | None:
    """Where the innermost module that moved in one piece would have taken it."""
    head, rest = place.key, ""
    while head:
        head, _, last = head.rpartition(".")
        rest = f"{last}.{rest}" if rest else last
        targets = moved.get(Place(place.section, head), set())
        if len(targets) == 1:
            module = next(iter(targets))
            return Place(module.section, f"{module.key}.{rest}" if module.key else rest, place.pointed)
    return None


def elsewhere(before: Tensors, after: Tensors) -> dict[Place, Place]:
    """Of tensors in ``after``, the one other place in ``before`` that held their bytes."""
    groups = _by_bytes([dict(before), dict(after)], None)
    return {
        new: old
        for ours, theirs in groups.values()
        if len(ours) == len(theirs) == 1
        for old, new in [(ours[0], theirs[0])]
        if old != new
    }
