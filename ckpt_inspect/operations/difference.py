"""What ``diff`` found."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from ..model.checkpoint import is_inside
from ..model.section import Value
from ..model.tensor import TensorInfo
from .plain import safe, safe_dict
from .sides import Place, Side

if TYPE_CHECKING:
    from ..torch.metrics import Metrics

SCHEMA = "ckpt-inspect/diff/1"
MISSING = Value("", "missing", None, "(not there)")


class Change(NamedTuple):
    """A tensor that both sides have under this name, and that is not the same.

    Attributes:
        place: section and key.
        a, b: the two tensors.
        what: ``shape``, ``dtype``, ``values``; with ``exact`` also ``device``, ``requires_grad``, ``stride``.
        metrics: how far they are apart; None where that was not measured or makes no sense.
        close: all pairs lie within the tolerance.
        note: what else is to be known.
    """

    place: Place
    a: TensorInfo
    b: TensorInfo
    what: tuple[str, ...]
    metrics: Metrics | None = None
    close: bool = False
    note: str | None = None

    @property
    def name(self) -> str:
        return self.place.name


class ValueChange(NamedTuple):
    """A non-tensor entry that differs; :data:`MISSING` on the side that lacks it."""

    name: str
    a: Value
    b: Value


class Difference:
    """What :func:`diff` found.

    Attributes:
        a, b: the two sides.
        added, removed: tensors that only one side has; ``notes`` says of some what they are like.
        renamed: place in a, place in b: the same bytes under another name.
        changed: in the order of ``a``.
        identical: places of tensors with the same bytes on both sides.
        values: non-tensor entries that differ.
        facts: what does not count without ``exact``: ``device cuda:0 -> cpu`` and how many tensors it is true of.
        frozen: places that matched ``frozen``, those of them that moved, and those that could not be compared; None
            without.
        compared_by: ``bytes``, ``crc32``, or ``names`` where no values were read.
        problems: what could not be read, in words.
        unread: places of tensors that could not be compared, and why.
        unmeasured: why nothing was measured of what changed, None if it was.
        prefix: where no name is on both sides, the leading segments that keep them apart.
        tolerance: whether one was given.
    """

    def __init__(self, a: Side, b: Side) -> None:
        self.a = a
        self.b = b
        self.added: list[Place] = []
        self.removed: list[Place] = []
        self.renamed: list[tuple[Place, Place]] = []
        self.changed: list[Change] = []
        self.identical: list[Place] = []
        self.values: list[ValueChange] = []
        self.notes: dict[Place, str] = {}
        self.facts: Counter[str] = Counter()
        self.frozen: tuple[list[Place], list[Place], list[Place]] | None = None
        self.compared_by = "bytes"
        self.problems: list[str] = [
            f"{side.checkpoint.path}: {problem}" for side in (a, b) for problem in side.checkpoint.problems
        ]
        self.unread: dict[Place, str] = {}
        self.unmeasured: str | None = None
        self.prefix: str | None = None
        self.tolerance = False
        self.exact = False

    @property
    def different(self) -> list[Change]:
        """Changes that count: not those within a tolerance that was given."""
        return [change for change in self.changed if not self.is_tolerated(change)]

    def is_tolerated(self, change: Change) -> bool:
        """It does not count: nothing but values differs, and those lie within the tolerance that was given."""
        return self.tolerance and change.close and change.what == ("values",)

    @property
    def same(self) -> bool:
        """Design 4: keys, dtypes, shapes, values and non-tensor entries agree."""
        found = self.added or self.removed or self.renamed or self.different or self.values or self.problems
        return not found and not (self.exact and self.facts)

    @property
    def status(self) -> int:
        """Exit status: 2 for what could not be read, 1 for differences (of the frozen ones alone, if there are)."""
        if self.problems:
            return 2
        if self.frozen is not None:
            return int(bool(self.frozen[1]))
        return int(not self.same)

    @property
    def not_compared(self) -> list[str]:
        """Sections of either side that were left out."""
        return list(dict.fromkeys(self.a.left + self.b.left))

    @property
    def entries_left(self) -> int:
        """How many entries that are no tensors were left out, outside the sections that were."""
        names: set[str] = set()
        for side in (self.a, self.b):
            compared = {id(value) for value in side.values.values()}
            sections = set(side.left)
            left = (value.name for value in side.checkpoint.values if id(value) not in compared)
            names.update(name for name in left if not is_inside(name, sections))
        return len(names)

    def to_dict(self) -> dict[str, Any]:
        """The contract's document."""
        found: dict[str, Any] = {
            "schema": SCHEMA,
            "same": self.same,
            "added": [place.name for place in self.added],
            "removed": [place.name for place in self.removed],
            "renamed": [{"from": old.name, "to": new.name} for old, new in self.renamed],
            "changed": [_change_dict(change) for change in self.changed],
            "identical": len(self.identical),
            "compared_by": self.compared_by,
            "not_compared": self.not_compared,
            "values": [
                {
                    "name": change.name,
                    "a": _plain(change.a),
                    "b": _plain(change.b),
                    "a_type": change.a.type,
                    "b_type": change.b.type,
                    "in": _where(change),
                }
                for change in self.values
            ],
            "notes": {place.name: note for place, note in self.notes.items()},
            "facts": dict(self.facts),
            "unread": {place.name: why for place, why in self.unread.items()},
            "unmeasured": self.unmeasured,
            "prefix": self.prefix,
            "problems": self.problems,
        }
        if self.frozen is not None:
            chosen, moved, unread = ([place.name for place in places] for places in self.frozen)
            found["frozen"] = {"of": len(chosen), "moved": moved, "unread": unread}
        return found

    def __repr__(self) -> str:
        return (
            f"<diff: {len(self.changed):,} changed, {len(self.added):,} added, {len(self.removed):,} removed, "
            f"{len(self.renamed):,} renamed, {len(self.identical):,} identical>"
        )


def _change_dict(change: Change) -> dict[str, Any]:
    metrics = change.metrics
    return {
        "section": change.place.section,
        "key": change.place.key,
        "what": list(change.what),
        "a": _facts(change.a),
        "b": _facts(change.b),
        **safe_dict(
            {
                "max_abs": metrics.max_abs if metrics else None,
                "max_rel": metrics.max_rel if metrics else None,
                "mean_abs": metrics.mean_abs if metrics else None,
                "relative_norm": metrics.relative_norm if metrics else None,
                "changed_fraction": metrics.changed_fraction if metrics else None,
                "cosine": metrics.cosine if metrics else None,
                "close": change.close,
                "note": change.note,
            }
        ),
    }


def _facts(info: TensorInfo) -> dict[str, Any]:
    return {
        "dtype": info.dtype,
        "shape": safe(list(info.shape)),
        "device": info.device,
        "requires_grad": info.requires_grad,
    }


def _plain(value: Value) -> Any:
    """Plain data as it is; of other objects, how a person would write them."""
    plain = value.value is not None or value.type in ("NoneType", MISSING.type)
    return safe(value.value) if plain else safe(value.text)


def _where(change: ValueChange) -> str:
    return "b" if change.a is MISSING else "a" if change.b is MISSING else "both"
