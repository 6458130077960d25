"""Two checkpoints side by side: which tensor is to be compared with which (design 2, which part)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..errors import KeyCollisionError, RuleError, SelectionError
from ..formats import recorded
from ..model import pointer as pointers
from ..model.checkpoint import Checkpoint
from ..model.section import Section, Value
from ..model.tensor import TensorInfo
from .rules import Rules


class Place(NamedTuple):
    """Where a tensor is: its section, as seen from the part that is compared, and its key there.

    ``pointed``: the key is a pointer itself, as in an optimizer.
    """

    section: str
    key: str
    pointed: bool = False

    @property
    def name(self) -> str:
        """The key, or section and key as one pointer."""
        if not (self.section and self.key):
            return self.section or self.key
        join = pointers.concat if self.pointed else pointers.join
        return join(self.section, self.key)

    @property
    def path(self) -> list[str]:
        """Containers and modules from the outermost to the tensor's own name."""
        head = pointers.split(self.section) if self.section else []
        return [*head, *(pointers.split(self.key) if self.pointed else self.key.split("."))]


class Side(NamedTuple):
    """What is compared of one checkpoint.

    Attributes:
        checkpoint: as given.
        tensors: by place, in saved order; under the names that the comparison uses.
        names: place -> the key as the file has it, where a renaming or a prefix changed it.
        values: leaves that are no tensors, by their name as seen from the part.
        modules: sections that are whole modules: the values there are attributes, which a state_dict does not have.
        left: sections that are not compared.
        transient: tensors of a module that its state_dict leaves out, and the other side cannot have.
    """

    checkpoint: Checkpoint
    tensors: dict[Place, TensorInfo]
    names: dict[Place, str]
    values: dict[str, Value]
    modules: set[str]
    left: list[str]
    transient: list[Place]

    def param(self, place: Place) -> tuple[str, str] | None:
        """The parameter that a tensor of an optimizer is state of, and whether that is ``recorded`` or ``derived``."""
        section = self.checkpoint.sections.get(pointers.concat(self.checkpoint.selected or "", place.section))
        return section.params.get(place.key) if section is not None else None


def sides(
    a: Checkpoint, b: Checkpoint, ignore_prefix: Sequence[str] = (), rules: Rules | None = None
) -> tuple[Side, Side]:
    """What to compare: everything where both sides have the same sections, else the one weights candidate of each.

    Where each has the same several candidates (a training file and a slim copy of it), the sections that both have.

    Args:
        ignore_prefix: whole leading segments that do not count, on either side.
        rules: how the keys of ``a`` are renamed first.

    Raises:
        SelectionError: their sections differ, and one side has not just one weights candidate.
        KeyCollisionError: two keys would meet without the prefix, or under the rules.
        RuleError: no key has the prefix, or a rule matches nothing.
    """
    part_a, part_b = a, b
    if a.selected is None and b.selected is None and a.sections.keys() != b.sections.keys():
        part_a, part_b = _shared(a, b) or (_weights(a), _weights(b))
    elif a.selected is None and b.selected is not None:
        part_a = _weights(a)
    elif b.selected is None and a.selected is not None:
        part_b = _weights(b)
    found = _side(a, part_a, ignore_prefix, rules), _side(b, part_b, ignore_prefix, None)
    for side, part, other in ((found[0], part_a, found[1]), (found[1], part_b, found[0])):
        _add_ties(side, part, other)
    _check_prefixes(ignore_prefix, [name for side in found for name in side.names.values()])
    for side, other in (found, found[::-1]):
        if side.modules and not other.modules:
            _leave_out(side)
    return found


def _check_prefixes(prefixes: Sequence[str], names: list[str]) -> None:
    """Each must be there, once those before it are gone."""
    for prefix in prefixes:
        dotted = prefix.rstrip(".") + "."
        bare = [name.removeprefix(dotted) for name in names]
        if bare == names:
            raise RuleError(f"no key of either side begins with {dotted!r}")
        names = bare


def _leave_out(side: Side) -> None:
    """Tensors of a module that its ``state_dict()`` leaves out, where the other side is a state_dict."""
    transient = [place for place, info in side.tensors.items() if not info.persistent]
    for place in transient:
        del side.tensors[place]
    side.transient.extend(transient)


def leading_prefix(a: Side, b: Side) -> str | None:
    """The leading segments that all keys of one side carry, if without them most keys are those of the other side."""
    for side, other in ((a, b), (b, a)):
        ours, theirs = ([place.key for place in one.tensors if not place.pointed] for one in (side, other))
        shared = _shared_segments(ours)
        for count in range(1, len(shared) + 1):
            prefix = ".".join(shared[:count]) + "."
            found = {key.removeprefix(prefix) for key in ours}.intersection(theirs)
            if 2 * len(found) > min(len(ours), len(theirs)):
                return prefix
    return None


def _shared_segments(keys: list[str]) -> list[str]:
    """The modules that all keys begin with."""
    if not keys:
        return []
    first, last = (key.split(".")[:-1] for key in (min(keys), max(keys)))
    shared = []
    for one, other in zip(first, last, strict=False):
        if one != other:
            break
        shared.append(one)
    return shared if all(key.startswith(".".join(shared)) for key in keys) else []


def _shared(a: Checkpoint, b: Checkpoint) -> tuple[Checkpoint, Checkpoint] | None:
    """The sections that both have, where no single one could be meant and none is in doubt."""
    candidates = a.candidates()
    if len(candidates) < 2 or set(candidates) != set(b.candidates()):
        return None
    return a.of_sections([p for p in a.sections if p in b.sections]), b.of_sections(
        [p for p in b.sections if p in a.sections]
    )


def _weights(checkpoint: Checkpoint) -> Checkpoint:
    """The one weights candidate, as a part."""
    candidates = checkpoint.candidates()
    if len(candidates) == 1:
        return checkpoint.select(candidates[0]) if candidates[0] else checkpoint
    if len(checkpoint.sections) <= 1:
        return checkpoint
    listed = ", ".join(candidates or list(checkpoint.sections)[:8])
    raise SelectionError(
        f"the two have different sections, and here several could be meant: {listed}",
        path=checkpoint.path,
        hint=f"Name one: {checkpoint.path}#{(candidates or list(checkpoint.sections))[0]}",
    )


def _side(whole: Checkpoint, part: Checkpoint, ignored: Sequence[str], rules: Rules | None) -> Side:
    base = part.selected if part.selected is not None else ""
    tensors: dict[Place, TensorInfo] = {}
    names: dict[Place, str] = {}
    for section in part.sections.values():
        keys = list(section.tensors)
        renamed = _renamed(keys, section, rules, whole.path) if len(part.sections) == 1 or _weighty(section) else {}
        for key, info in section.tensors.items():
            place = _place(section, base, _without(renamed.get(key, key), ignored))
            if place in tensors:
                raise KeyCollisionError(
                    f"{names.get(place, place.key)!r} and {key!r} are both {place.key!r} then", path=whole.path
                )
            tensors[place] = info
            names[place] = key
    values = {pointers.relative(value.name, base) if base else value.name: value for value in part.values}
    left = [pointer for pointer in whole.sections if pointer not in part.sections]
    modules = {_place(section, base, "").section for section in part.sections.values() if section.kind == "module"}
    return Side(whole, tensors, names, values, modules, left, [])


def _add_ties(side: Side, part: Checkpoint, other: Side) -> None:
    """Names that a header records as ties of others (the format has none), where the other side has them."""
    if part.format not in ("safetensors", "sharded") or "" not in part.sections:
        return
    by_key = {key: place for place, key in side.names.items()}
    for key, kept in recorded.of(part).ties.items():
        place = Place("", key)
        if kept in by_key and place in other.tensors and place not in side.tensors:
            side.tensors[place] = side.tensors[by_key[kept]]
            side.names[place] = key


def _weighty(section: Section) -> bool:
    return section.kind in ("state_dict", "module")


def _renamed(keys: list[str], section: Section, rules: Rules | None, path: str) -> dict[str, str]:
    if rules is None or not _weighty(section):
        return {}
    keymap = rules.keymap(keys)
    keymap.check(section.pointer)
    return {old: new for old, new in keymap.pairs.items() if new is not None}


def _place(section: Section, base: str, key: str) -> Place:
    """A section at or below the part, and the key; one that holds the part itself gives keys below it."""
    if pointers.is_below(section.pointer, base):
        inside = pointers.relative(section.pointer, base) if section.pointer != base else ""
        return Place(inside, key, section.kind == "optimizer")
    return Place("", pointers.relative(section.name_of(key), base), True)


def _without(key: str, prefixes: Sequence[str]) -> str:
    for prefix in prefixes:
        key = key.removeprefix(prefix.rstrip(".") + ".")
    return key
