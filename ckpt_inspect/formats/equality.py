"""Whether two inert values say the same: compared node by node, nothing resolved, nothing hashed."""

from __future__ import annotations

from typing import Any

from ..containers.streaming import first_difference
from ..errors import LimitError
from ..model.graph import Blob, Dict, Global, Opaque, Persistent, Set

_MOST_STEPS = 5_000_000


def same(a: Any, b: Any) -> bool:
    """Equal content: dictionaries in any order, sets of plain values too; NaN is NaN; ``1``, ``1.0``, ``True`` differ.

    Raises:
        LimitError: they hold themselves in so many ways that comparing them would not end.
    """
    waiting: list[tuple[Any, Any]] = [(a, b)]
    seen: set[tuple[int, int]] = set()
    steps = 0
    while waiting:
        one, other = waiting.pop()
        steps += 1
        if steps > _MOST_STEPS:
            raise LimitError("values that hold themselves too often to be compared")
        if one is other:
            continue
        if isinstance(one, (str, bytes, bytearray, int, float)) or one is None:
            if not _plain(one, other):
                return False
            continue
        pair = id(one), id(other)
        if pair in seen:
            continue
        seen.add(pair)
        inside = _inside(one, other)
        if inside is None:
            return False
        waiting += inside
    return True


def _plain(one: Any, other: Any) -> bool:
    if isinstance(one, str):
        return isinstance(other, str) and str(one) == str(other)
    if isinstance(one, (bytes, bytearray)):
        return isinstance(other, (bytes, bytearray)) and bytes(one) == bytes(other)
    if isinstance(one, float):
        return isinstance(other, float) and (one == other or (one != one and other != other))
    return type(one) is type(other) and bool(one == other)


def _inside(one: Any, other: Any) -> list[tuple[Any, Any]] | None:
    """Pairs that must be the same for these two to be; None: they are not."""
    if type(one) is not type(other):
        return None
    if isinstance(one, (tuple, list)):
        return list(zip(one, other, strict=True)) if len(one) == len(other) else None
    if isinstance(one, Dict):
        return _pairs(one.pairs, other.pairs)
    if isinstance(one, Set):
        return _members(one, other)
    if isinstance(one, Global):
        return [] if one.qualname == other.qualname else None
    if isinstance(one, Opaque):
        return _opaque(one, other)
    if isinstance(one, Persistent):
        return _storage(one.pid, other.pid)
    if isinstance(one, Blob):
        return _blob(one, other)
    return None


def _opaque(one: Opaque, other: Opaque) -> list[tuple[Any, Any]] | None:
    mine, theirs = one.ops or [], other.ops or []
    if one.how != other.how or [kind for kind, _ in mine] != [kind for kind, _ in theirs]:
        return None
    found = [(one.callee, other.callee), (one.args, other.args), (one.kwargs, other.kwargs)]
    for (kind, payload), (_, counterpart) in zip(mine, theirs, strict=True):
        inside = _pairs(payload, counterpart) if kind == "SETITEMS" else [(payload, counterpart)]
        if inside is None:
            return None
        found += inside
    return found


def _pairs(one: list[Any], other: list[Any]) -> list[tuple[Any, Any]] | None:
    """Of two flat lists ``key, value, …``: by key where all keys are distinct plain values, else in order."""
    if len(one) != len(other):
        return None
    mine, theirs = _by_key(one), _by_key(other)
    if mine is None or theirs is None:
        return list(zip(one, other, strict=True))
    if mine.keys() != theirs.keys():
        return None
    return [(value, theirs[key]) for key, value in mine.items()]


def _by_key(flat: list[Any]) -> dict[tuple[str, str], Any] | None:
    found = {}
    for key, value in zip(flat[::2], flat[1::2], strict=True):
        if not isinstance(key, (str, int, float)) and key is not None:
            return None
        found["str" if isinstance(key, str) else type(key).__name__, str(key)] = value
    return found if len(found) * 2 == len(flat) else None


def _members(one: Set, other: Set) -> list[tuple[Any, Any]] | None:
    if one.frozen != other.frozen or len(one.members) != len(other.members):
        return None
    both = [sorted(map(repr, members)) for members in (one.members, other.members) if _all_plain(members)]
    if len(both) == 2:
        return [] if both[0] == both[1] else None
    return list(zip(one.members, other.members, strict=True))


def _all_plain(members: list[Any]) -> bool:
    return all(isinstance(member, (str, bytes, int, float)) or member is None for member in members)


def _storage(one: Any, other: Any) -> list[tuple[Any, Any]] | None:
    """Persistent ids. Of storages, what they are, not what they are called or where they were."""
    if type(one) is type(other) is tuple and len(one) == len(other) and len(one) >= 5 and one[0] == "storage":
        return [(one[0], other[0]), (one[1], other[1]), (one[4], other[4])]
    return [(one, other)]


def _blob(one: Blob, other: Blob) -> list[tuple[Any, Any]] | None:
    if one.nbytes != other.nbytes:
        return None
    a, b = one.source.slice(one.offset, one.nbytes), other.source.slice(other.offset, other.nbytes)
    return [] if first_difference(a, b, 0, one.nbytes) is None else None
