"""A run as a table of modules, totals and outputs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..operations.run import Run
from .check import LABEL, forward_lines
from .text import Line, escape, plural, shape, shorten, size

if TYPE_CHECKING:
    from ..torch.running import Part

__all__ = ["LABEL", "lines"]

_LEAST = 16  # of a class that is shown in any case
_HEAD = ("module", "class", "output", "parameters", "FLOPs")


def lines(found: Run, columns: int | None = None) -> Iterator[Line]:
    """The table, each module with what is below it; then totals, inputs and outputs.

    With ``columns``, the width of a terminal, facts of classes that are too long for it go on below.
    """
    how = "TorchScript, executed" if found.executed else found.checkpoint.format
    yield [(escape(found.checkpoint.path), "file"), ("   → ", "dim"), (escape(found.name), "class"),
           (f"   {how} · on {found.device} · eval()", "")]  # fmt: skip
    rows = [_HEAD, *(_row(part) for part in found.parts)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    room = widths[1]
    if columns is not None:
        room = max(_LEAST, min(room, columns - sum(widths) + room - 2 * (len(widths) - 1)))
    parted = [_parted(row[1], room, (columns or 0) - widths[0] - 4) for row in rows]
    widths[1] = max(len(first) for first, *_ in parted)
    for index, ((name, _, *others), (cls, *below)) in enumerate(zip(rows, parted, strict=True)):
        cells = [
            cell.ljust(width) if n < 3 else cell.rjust(width)
            for n, (cell, width) in enumerate(zip((name, cls, *others), widths, strict=True))
        ]
        styles = ["label"] * 5 if index == 0 else ["module", "class", "shape", "", ""]
        yield [(("  " if n else "") + cell, style) for n, (cell, style) in enumerate(zip(cells, styles, strict=True))]
        yield from ([(" " * (widths[0] + 4), ""), (more, "class")] for more in below)
    if found.why is not None:
        yield [("note".ljust(LABEL), "label"), (escape(found.why), "")]
    whole = found.parts[0]
    yield [
        ("total".ljust(LABEL), "label"),
        (f"{plural(whole.parameters, 'parameter')} · {_flops(whole.flops)} · file {size(found.checkpoint.size)}", ""),
    ]
    yield from forward_lines(found.forward, found.inputs, found.seed)


def _parted(cls: str, room: int, below: int) -> list[str]:
    """A class with its facts in so many columns; what has no room there is parted between facts, for lines below."""
    if len(cls) <= room:
        return [cls]
    lines = [""]
    for piece in re.split(r"(?<=[(,]) ?", cls):
        text = f"{lines[-1]} {piece}" if lines[-1] and lines[-1][-1] != "(" else lines[-1] + piece
        if len(text) <= (room if len(lines) == 1 else below) or lines == [""]:
            lines[-1] = text
        else:
            lines.append(piece)
    return [shorten(line, max(_LEAST, room if index == 0 else below)) for index, line in enumerate(lines)]


def _row(part: Part) -> tuple[str, str, str, str, str]:
    depth = part.path.count(".") + 1 if part.path else 0
    name = "  " * max(0, depth - 1) + escape(part.path.rpartition(".")[2]) if part.path else "(all)"
    cls = escape(part.cls) + (f"({escape(part.facts)})" if part.facts else "")
    often = f"  ×{part.calls}" if part.calls is not None and part.calls > 1 else ""
    cls += often
    given = "not called" if part.calls == 0 else " ".join(map(shape, part.outputs)) if part.outputs else ""
    return name, cls, given, f"{part.parameters:,}" if part.parameters else "", f"{part.flops:,}" if part.flops else ""


def _flops(count: int) -> str:
    """``1.23 GFLOPs``."""
    value, units = float(count), ["FLOPs", "kFLOPs", "MFLOPs", "GFLOPs", "TFLOPs", "PFLOPs"]
    for unit in units[:-1]:
        if value < 999.5:
            return f"{count:,} {unit}" if unit == "FLOPs" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} {units[-1]}"
