"""A conversion as lines: what changes, what is lost, and the bytes before and after."""

from __future__ import annotations

from collections.abc import Iterator

from ..formats.beside import ATTRIBUTE
from ..model.checkpoint import Checkpoint
from ..model.lost import listed
from ..operations.conversion import Conversion, sizes
from .plan import change_lines, followed_lines
from .text import Line, alike, escape, plural, size, span


def lines(made: Conversion, command: str | None = None, all_of_it: bool = True) -> Iterator[Line]:
    """The plan of a conversion; ``command`` is shown last, as what is to be typed to do it."""
    before, after = made.original, made.checkpoint
    selected = f"#{before.selected}" if before.selected else ""
    formats = before.format if before.format == after.format else f"{before.format} → {after.format}"
    yield [(escape(before.path + selected), "file"), (f"   convert   {formats}", "")]
    for old, new in made.devices:
        yield [("  device  ", "label"), (f"{escape(old)} → {new}", "device")]
    for (old, new), count in made.dtypes.items():
        yield [("  dtype   ", "label"), (f"{old} → {new}", "dtype"), (f"   {plural(count, 'storage')}", "")]
    for change in made.changes:
        yield from change_lines(change, all_of_it)
    yield from followed_lines(made.followed)
    dropped = made.dropped
    for name in dropped if all_of_it or len(dropped) <= 10 else dropped[:9]:
        yield [("  drop    ", "label"), (escape(name), "bad")]
    if not all_of_it and len(dropped) > 10:
        yield [("          ", ""), (f"… and {len(dropped) - 9:,} more dropped", "dim")]
    yield from _removed(made, all_of_it)
    yield [("  before  ", "label"), *_sizes(before, all_of_it)]
    yield [("  after   ", "label"), *_sizes(after, all_of_it)]
    for note in made.notes:
        yield [("  note    ", "label"), (escape(note), "")]
    if command is not None:
        yield [("  do it   ", "label"), (escape(command), "command")]


def _removed(made: Conversion, all_of_it: bool) -> Iterator[Line]:
    """What the result cannot hold, by reason."""
    by_reason: dict[str, list[str]] = {}
    for name, why in made.removed:
        by_reason.setdefault(why, []).append(name)
    for why, names in by_reason.items():
        text = listed(names, len(names) if all_of_it else 6)
        if why == ATTRIBUTE:  # a module has many, and that it becomes its state_dict is all there is to say
            text, why = (
                f"{plural(len(names), 'attribute')} of modules",
                "state_dict() does not give them; --json names them",
            )
        yield [("  remove  ", "label"), (escape(text), "bad"), (f"   ({escape(why)})", "dim")]


def _sizes(checkpoint: Checkpoint, all_of_it: bool) -> Line:
    by_section: dict[str, list[str]] = {}
    tensors = 0
    for row in sizes(checkpoint):
        by_section.setdefault(row.section, []).append(f"{row.dtype} {size(row.nbytes)}")
        tensors += row.tensors
    found: Line = [(f"{size(checkpoint.size)} · {plural(tensors, 'tensor')}", "totals")]
    rows = [(section, ", ".join(parts)) for section, parts in by_section.items()]
    for names, text in alike(rows) if not all_of_it else (([section], text) for section, text in rows):
        each = " each" if len(names) > 1 else ""
        found += [("   ", ""), (f"{span(names)}: ", "section"), (text + each, "size")]
    return found


def losses(made: Conversion) -> Iterator[Line]:
    """What casting lost, once it is done."""
    found = made.losses
    if found is None or not made.dtypes:
        return
    for what, counts in (("became infinite", found.overflowed), ("became zero", found.underflowed)):
        if counts:
            listed = ", ".join(f"{escape(name)} ({count:,})" for name, count in list(counts.items())[:5])
            more = f" and {len(counts) - 5:,} more tensors" if len(counts) > 5 else ""
            style = "bad" if counts is found.overflowed else ""
            yield [("  lost    ", "label"), (f"{plural(sum(counts.values()), 'value')} {what}: {listed}{more}", style)]
    error, name = found.largest
    yield [("  error   ", "label"), (f"at most {error:.3g}" + (f", in {escape(name)}" if name else ""), "")]
