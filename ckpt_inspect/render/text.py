"""Words and numbers for people: escaped names, sizes, shapes, styled spans."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

from ..model.spelling import escape as escape
from ..model.tensor import TensorInfo
from ..operations.summary import Counts

# One line of output: (text, style) spans. Styles are the names of ``terminal.STYLES``; "" is plain.
Line = list[tuple[str, str]]


def size(nbytes: int) -> str:
    """Bytes in decimal units: ``48 B``, ``1.3 KB``, ``326 KB``, ``4.0 GB``."""
    if nbytes < 1000:
        return f"{nbytes} B"
    if nbytes >= 1 << 100:
        return "> 1,000,000,000,000 EB"
    value = float(nbytes)
    for unit in ("KB", "MB", "GB", "TB", "PB", "EB"):
        value /= 1000
        if value < 999.5 or unit == "EB":
            return f"{value:.1f} {unit}" if value < 99.95 else f"{value:,.0f} {unit}"
    raise AssertionError


def seconds(value: float) -> str:
    """``1.23 s``, ``35 ms``, ``0.41 ms``."""
    if value >= 1:
        return f"{value:,.2f} s"
    return f"{1000 * value:.0f} ms" if value >= 0.01 else f"{1000 * value:.2g} ms"


def shape(dims: Sequence[int]) -> str:
    """``12×3×3×3``; ``()`` for a scalar."""
    return "×".join(map(str, dims)) or "()"


def plain_shape(dims: Sequence[int]) -> str:
    """``12,3,3,3``; ``()`` for a scalar."""
    return ",".join(map(str, dims)) or "()"


def shorten(text: str, room: int) -> str:
    """Cut in the middle where it is longer than ``room``: both ends of a name tell something."""
    if len(text) <= room:
        return text
    keep = room - 1
    return text[: keep // 2] + "…" + text[len(text) - (keep - keep // 2) :]


def alike(items: Iterable[tuple[str, Any]]) -> Iterator[tuple[list[str], Any]]:
    """Neighbours in one list (``history/0``, ``history/1``, …) of which the same is to be said: three and more."""
    for (_, said), run in groupby(items, lambda item: (_list_of(item[0]), item[1])):
        names = [name for name, _ in run]
        yield from ((part, said) for part in ([names] if len(names) > 2 else [[name] for name in names]))


def _list_of(name: str) -> str:
    """The list that a numbered name is in; any other name is in none but its own."""
    parent, _, last = name.rpartition("/")
    return parent + "/" if last.isdecimal() else name


def span(names: Sequence[str]) -> str:
    """``history/0 … history/299``"""
    ends = [escape(name) or "(root)" for name in (names[0], names[-1])]
    return ends[0] if len(names) == 1 else f"{ends[0]} … {ends[1]}"


def fit(text: str, room: int, right: bool = False) -> str:
    """Padded to ``room`` columns; cut in the middle where it is longer."""
    have = width([(text, "")])
    if have > room:
        return shorten(text, room)
    return " " * (room - have) + text if right else text + " " * (room - have)


def literal(text: str, all_of_it: bool, room: int = 200) -> str:
    """A value as text, whole where ``all_of_it``; else its beginning, and how much is left."""
    shown = escape(text if all_of_it or len(text) <= room else text[:room])
    return shown if all_of_it or len(text) <= room else f"{shown}… {len(text) - room:,} more characters"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def belongs_to(param: tuple[str, str]) -> str:
    """The parameter that a tensor of an optimizer is state of; the ``~`` marks what the file does not name."""
    name, how = param
    return escape(name) + "~" * (how == "derived")


def role(info: TensorInfo) -> str:
    """``parameter``, ``buffer~`` (the ``~`` marks what was inferred), or ``""`` where it is not known."""
    if not info.persistent:
        return "buffer, not persistent" if info.role == "buffer" else "not in state_dict"
    if info.role is None:
        return ""
    return info.role if info.role_from == "recorded" else f"{info.role}~" if info.role_from == "inferred" else info.role


def totals(counts: Counts, roles: bool = True, nbytes: bool = True) -> str:
    """``25 tensors · 81,242 parameters · 9 buffers · 326 KB``, without what is switched off."""
    parts = [plural(counts.tensors, "tensor")]
    if roles and counts.parameters:
        parts.append(plural(counts.parameters, "parameter") + "~" * ("parameter" in counts.inferred))
    if roles and counts.unknown:
        parts.append(plural(counts.unknown, "element") + (" of unknown role" if counts.parameters else ""))
    if roles and counts.buffers:
        parts.append(plural(counts.buffer_tensors, "buffer") + "~" * ("buffer" in counts.inferred))
    if nbytes:
        parts.append(size(counts.nbytes))
    return " · ".join(parts)


def width(line: Line) -> int:
    """Columns that a line takes; East Asian wide characters take two."""
    text = "".join(part for part, _ in line)
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)
