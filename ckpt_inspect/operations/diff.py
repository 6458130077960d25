"""``ckpt diff``: what changed between two checkpoints (design 3 and 4, Equality)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..containers.copying import Progress
from ..errors import RuleError, SelectionError
from ..formats import recorded
from ..formats.damage import damage_of
from ..formats.equality import same
from ..model.checkpoint import Checkpoint
from ..model.pointer import is_below
from ..model.section import Value
from ..model.tensor import TensorInfo
from .content import compare, stored_nbytes
from .difference import MISSING, Change, Difference, ValueChange
from .ls import matches_nothing, pattern
from .renamed import elsewhere, find
from .rules import Rules
from .sides import Place, Side, leading_prefix, sides


def diff(
    a: Checkpoint,
    b: Checkpoint,
    *,
    keys_only: bool = False,
    quick: bool = False,
    exact: bool = False,
    atol: float = 0.0,
    rtol: float = 0.0,
    filter: Sequence[str] = (),
    frozen: Sequence[str] = (),
    ignore_prefix: Sequence[str] = (),
    rules: Rules | Sequence[str] | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Difference:
    """Compare two checkpoints, or parts of them, of whatever formats.

    *Identical* is byte equality of the logical values and nothing else. Where bytes differ, torch measures how far
    apart the values are (it is imported only then).

    Args:
        a, b: as opened, or selected parts: the old and the new one.
        keys_only: names, shapes and dtypes; no values are read.
        quick: believe the checksums of zip archives, where both have them; nothing is measured.
        exact: device, ``requires_grad``, strides, ties and order count too.
        atol, rtol: values with ``|b - a| <= atol + rtol * |b|`` do not count as changed.
        filter: only keys that match one of these patterns.
        frozen: patterns of tensors that must not have moved by one bit (under another name they may): ``status`` speaks of
            them alone.
        ignore_prefix: leading segments that do not count: ``module``.
        rules: rename the keys of ``a`` first.
        device: where differences are computed.
        progress: called with the number of bytes just read.

    Raises:
        SelectionError: their sections differ, and one side has several that could be meant.
        RuleError: a pattern or rule matches nothing.
        UnsupportedError: there is no such device.
    """
    if keys_only and (quick or frozen or atol or rtol):
        raise SelectionError(
            "without reading values, there is nothing to be said of them", hint="Leave --keys-only out."
        )
    if quick and (atol or rtol):
        raise SelectionError(
            "checksums tell whether bytes differ, not by how much", hint="Leave --quick out, or --atol and --rtol."
        )
    parsed = rules if isinstance(rules, Rules) or rules is None else Rules.parse(rules)
    one, other = sides(a, b, ignore_prefix, parsed)
    found = Difference(one, other)
    found.tolerance, found.exact = bool(atol or rtol), exact
    mine, theirs = _filtered(one, filter), _filtered(other, filter)
    found.removed = [place for place in mine if place not in other.tensors]
    found.added = [place for place in theirs if place not in one.tensors]
    common = [place for place in mine if place in other.tensors]
    theirs = {place: other.tensors[place] for place in [*common, *found.added]}
    pending = _structure(found, common, mine, theirs, keys_only)
    if keys_only:
        found.compared_by = "names"
    else:
        _bytes(found, pending, mine, theirs, quick, progress)
        _renames(found, common, progress)
    found.changed.sort(key=_order(mine))
    if not keys_only and not quick:
        _measure(found, atol, rtol, device, progress)
        _look_elsewhere(found)
    found.problems += [f"{place.name}: not compared: {why}" for place, why in found.unread.items()]
    entries = _values(found, filter)
    if filter and not (mine or theirs or entries):
        raise matches_nothing(filter)
    _unbound_facts(found, mine, theirs, common)
    if found.removed and found.added and not common:
        found.prefix = leading_prefix(one, other)
    if frozen:
        _frozen(found, frozen, mine, theirs)
    return found


def _order(tensors: dict[Place, TensorInfo]) -> Any:
    positions = {place: index for index, place in enumerate(tensors)}
    return lambda change: positions[change.place]


def _filtered(side: Side, filter: Sequence[str]) -> dict[Place, TensorInfo]:
    if not filter:
        return side.tensors
    matches = pattern(filter)
    return {place: info for place, info in side.tensors.items() if matches(place.key) or matches(place.name)}


def _structure(
    found: Difference, common: list[Place], mine: dict[Place, TensorInfo], theirs: dict[Place, TensorInfo],
    keys_only: bool,
) -> list[Place]:  # fmt: skip
    """Changes of shape and dtype; the places that are left, whose bytes decide."""
    pending = []
    for place in common:
        a, b = mine[place], theirs[place]
        what = tuple(name for name, differs in (
            ("shape", a.shape != b.shape), ("dtype", a.dtype != b.dtype)) if differs)  # fmt: skip
        if what:
            found.changed.append(Change(place, a, b, what))
        elif keys_only:
            found.identical.append(place)
        else:
            pending.append(place)
    return pending


def _bytes(
    found: Difference, pending: list[Place], mine: dict[Place, TensorInfo], theirs: dict[Place, TensorInfo],
    quick: bool, progress: Progress | None,
) -> None:  # fmt: skip
    verdicts = compare([(mine[place], theirs[place]) for place in pending], progress, quick)
    for place, verdict in zip(pending, verdicts, strict=True):
        if verdict.error is not None:
            found.unread[place] = verdict.error
        elif verdict.same:
            found.identical.append(place)
        else:
            found.changed.append(Change(place, mine[place], theirs[place], ("values",)))
    if any(verdict.by_crc for verdict in verdicts):
        found.compared_by = "crc32"


def _renames(found: Difference, common: list[Place], progress: Progress | None) -> None:
    """Renames, sought among all tensors: one of the two names may be filtered out."""
    ours, theirs = found.a.tensors, found.b.tensors
    renames = find(
        {place: info for place, info in ours.items() if place not in theirs},
        {place: info for place, info in theirs.items() if place not in ours},
        {place: ours[place] for place in common},
        {place: theirs[place] for place in common},
        progress,
    )
    wanted = {*found.removed, *found.added}
    pairs = ((old, renames.pairs[old]) for old in ours if old in renames.pairs)
    found.renamed = [(old, new) for old, new in pairs if old in wanted or new in wanted]
    gone, come = set(renames.pairs), set(renames.pairs.values())
    found.removed = [place for place in found.removed if place not in gone]
    found.added = [place for place in found.added if place not in come]
    for place in [*found.removed, *found.added]:
        if place in renames.alike:
            count = renames.alike[place]
            found.notes[place] = f"same bytes as {count:,} other{'s' if count > 1 else ''}"


def _measure(found: Difference, atol: float, rtol: float, device: str, progress: Progress | None) -> None:
    """Metrics of what changed, and its nature: reshaped, permuted; and what is damaged of all that is not the same."""
    if found.changed:
        from .measure import measure

        measure(found, atol, rtol, device, progress)
    alone = [(place, found.a.tensors[place], "first") for place in found.removed]
    alone += [(place, found.b.tensors[place], "second") for place in found.added]
    damage = damage_of(info for _, info, _ in alone)
    found.problems += [
        f"{place.name}: the {side} file: {text}" for place, info, side in alone for text in damage.of(info)
    ]


def _look_elsewhere(found: Difference) -> None:
    """Notes on tensors whose bytes stood under another name: blocks that were swapped or moved on by one."""
    there = elsewhere(
        {change.place: change.a for change in found.changed if change.what == ("values",)},
        {change.place: change.b for change in found.changed if change.what == ("values",)}
        | {place: found.b.tensors[place] for place in found.added},
    )
    for index, change in enumerate(found.changed):
        if change.place in there:
            text = f"the bytes that {there[change.place].name} had"
            found.changed[index] = change._replace(note=f"{change.note}; {text}" if change.note else text)
    found.notes |= {place: f"the bytes that {there[place].name} had" for place in found.added if place in there}


def _values(found: Difference, filter: Sequence[str]) -> int:
    """Entries that are no tensors; how many were compared."""
    ours, theirs = _entries(found.a, found.b), _entries(found.b, found.a)
    matches = pattern(filter) if filter else None
    names = [name for name in dict.fromkeys([*ours, *theirs]) if matches is None or matches(name)]
    for name in names:
        one, other = ours.get(name, MISSING), theirs.get(name, MISSING)
        if not _same_value(one, other):
            found.values.append(ValueChange(name, one, other))
    return len(names)


def _entries(side: Side, other: Side) -> dict[str, Value]:
    """The non-tensor entries. A header's metadata has a counterpart only in another header, attributes in a module.

    A model in memory has none to compare.
    """
    if "model" in (side.checkpoint.format, other.checkpoint.format):
        return {}
    headers = all(one.checkpoint.format in ("safetensors", "sharded") for one in (side, other))
    hidden = "__metadata__/ckpt_inspect" if headers else "__metadata__/"
    alone = side.modules - other.modules
    ties = recorded.of(side.checkpoint).ties if headers else {}
    return {
        name: value
        for name, value in side.values.items()
        if not (name.startswith(hidden) and side.checkpoint.format in ("safetensors", "sharded"))
        and name.removeprefix("__metadata__/") not in ties
        and not any(is_below(name, module) for module in alone)
    }


def _same_value(one: Value, other: Value) -> bool:
    if one is MISSING or other is MISSING:
        return one is other
    if one.type != other.type:
        return False
    if one.node is not None or other.node is not None:
        return same(one.node, other.node)
    return repr(one.value) == repr(other.value) and one.text == other.text


def _unbound_facts(
    found: Difference, mine: dict[Place, TensorInfo], theirs: dict[Place, TensorInfo], common: list[Place]
) -> None:
    """Device, requires_grad, strides, ties and order: shown, and counted only with ``exact``."""
    detached = bool(found.a.modules) != bool(found.b.modules)  # state_dict() says of no tensor that it wants a gradient
    pairs = [(mine[place], theirs[place]) for place in common]
    pairs += [(found.a.tensors[old], found.b.tensors[new]) for old, new in found.renamed]
    for a, b in pairs:
        for name, x, y in (
            ("device", a.device, b.device),
            ("requires_grad", None if detached else a.requires_grad, b.requires_grad),
            ("stride", None if a.shape != b.shape else a.stride, b.stride),
        ):
            if x is not None and y is not None and x != y:
                found.facts[f"{name} {_text(x)} -> {_text(y)}" if name != "stride" else "other strides"] += 1
    for side in (found.a, found.b):
        if side.transient:
            found.facts[f"not in state_dict(): {', '.join(place.name for place in side.transient[:3])}"] += len(
                side.transient
            )
    here = set(common)
    order = [[place for place in side.tensors if place in here] for side in (found.a, found.b)]
    if order[0] != order[1]:
        found.facts["another order of keys"] += sum(x != y for x, y in zip(*order, strict=True))
    if not {"safetensors", "sharded"} & {found.a.checkpoint.format, found.b.checkpoint.format}:
        ties = [_ties(side, here) for side in (mine, theirs)]
        if ties[0] != ties[1]:
            found.facts["other ties"] += len(set().union(*(ties[0] ^ ties[1])))


def _text(value: object) -> str:
    return str(value)


def _ties(tensors: dict[Place, TensorInfo], here: set[Place]) -> set[frozenset[Place]]:
    groups: dict[object, set[Place]] = {}
    for place in here:
        view = tensors[place].view_of
        if view is not None:
            groups.setdefault(view, set()).add(place)
    return {frozenset(group) for group in groups.values() if len(group) > 1}


def _frozen(
    found: Difference, globs: Sequence[str], mine: dict[Place, TensorInfo], theirs: dict[Place, TensorInfo]
) -> None:
    places = list(dict.fromkeys([*mine, *theirs]))
    for glob in globs:
        matches = pattern([glob])
        if not any(matches(place.key) or matches(place.name) for place in places):
            raise RuleError(f"--frozen {glob!r} matches no tensor: nothing would be checked")
    matches = pattern(globs)
    chosen = [place for place in places if matches(place.key) or matches(place.name)]
    identical = {*found.identical, *(place for pair in found.renamed for place in pair)}
    unread = [place for place in chosen if place in found.unread]
    found.frozen = chosen, [place for place in chosen if place not in identical and place not in found.unread], unread


def total_bytes(a: Checkpoint, b: Checkpoint) -> int:
    """Bytes that comparing them reads at most, for a progress bar."""
    return sum(stored_nbytes(info) for side in (a, b) for _, _, info in side.tensors())
