"""What was rescued as lines: what is lost is named, with the reason."""

from __future__ import annotations

from collections.abc import Iterator

from ..operations.salvage import Salvage
from .text import Line, escape, plural, size

LABEL = 10
_FEW = 12


def lines(found: Salvage, all_of_it: bool = True) -> Iterator[Line]:
    """The report; without ``all_of_it`` a long list of losses is cut and says how much is left."""
    total = len(found.rescued) + len(found.lost)
    yield [
        (escape(found.path), "file"),
        (f"   {len(found.rescued):,} of {plural(total, 'tensor')} whole", "good" if not found.lost else ""),
    ]
    shown = found.lost if all_of_it or len(found.lost) <= _FEW else found.lost[: _FEW - 1]
    for lost in shown:
        yield [("  lost    ", "label"), (escape(lost.name or "(root)"), "bad"), (f"   {escape(lost.why)}", "")]
    if len(shown) < len(found.lost):
        yield [(" " * LABEL, ""), (f"… and {len(found.lost) - len(shown):,} more; piped, all are listed", "dim")]
    if found.lost and found.fill is not None:
        yield [
            ("  filled  ", "label"),
            (f"{_filled(found)}: they are not the file's", ""),
        ]
    for note in found.notes:
        yield [("  note    ", "label"), (escape(note), "")]
    if not found.damaged and not found.lost:
        yield [("  note    ", "label"), ("nothing is damaged", "good")]
    if found.out is not None:
        yield [("  wrote   ", "good"), (f"{escape(found.out)}   {size(found.nbytes)}", "")]


def _filled(found: Salvage) -> str:
    count = plural(len(found.lost), "tensor")
    if not found.zeroed or found.fill is None:
        return f"{count} with {found.fill}"
    left = len(found.lost) - found.zeroed
    without = "for the dtype has no NaN" if found.zeroed == 1 else "for their dtypes have no NaN"
    return (
        f"{left:,} of {count} with {found.fill}, {found.zeroed:,} with zeros, {without}"
        if left > 0
        else f"{count} with zeros, {without}"
    )
