"""A run as a table of modules, totals and outputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..operations.run import Run
from .check import LABEL, forward_lines
from .text import Line, escape, plural, shape, size

if TYPE_CHECKING:
    from ..torch.running import Part

__all__ = ["LABEL", "lines"]

_LEAST = 16  # of a class that is shown in any case
_HEAD = ("module", "class", "output", "parameters", "FLOPs")


def lines(found: Run, columns: int | None = None) -> Iterator[Line]:
    """The table, each module with what is below it; then totals, inputs and outputs.

    With ``columns``, the width of a terminal, facts of classes that are too long for it are cut.
    """
    how = "TorchScript, executed" if found.executed else found.checkpoint.format
    yield [(escape(found.checkpoint.path), "file"), ("   → ", "dim"), (escape(found.name), "class"),
           (f"   {how} · on {found.device} · eval()", "")]  # fmt: skip
    rows = [_HEAD, *(_row(part) for part in found.parts)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    others = sum(widths) - widths[1] + 2 * (len(widths) - 1)
    if columns is not None and others + widths[1] > columns:
        room = max(_LEAST, columns - others)
        rows = [_HEAD, *(_row(part, room) for part in found.parts)]
        widths[1] = max(len(row[1]) for row in rows)
    for index, row in enumerate(rows):
        cells = [
            cell.ljust(width) if n < 3 else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        styles = ["label"] * 5 if index == 0 else ["module", "class", "shape", "", ""]
        yield [(("  " if n else "") + cell, style) for n, (cell, style) in enumerate(zip(cells, styles, strict=True))]
    if found.why is not None:
        yield [("note".ljust(LABEL), "label"), (escape(found.why), "")]
    whole = found.parts[0]
    stored = {info.storage for section in found.checkpoint.sections.values() for info in section.values()}
    nbytes = sum(storage.nbytes for storage in stored if storage is not None)
    yield [
        ("total".ljust(LABEL), "label"),
        (f"{plural(whole.parameters, 'parameter')} · {_flops(whole.flops)} · file {size(nbytes)}", ""),
    ]
    yield from forward_lines(found.forward, found.inputs, found.seed)


def _row(part: Part, room: int | None = None) -> tuple[str, str, str, str, str]:
    depth = part.path.count(".") + 1 if part.path else 0
    name = "  " * max(0, depth - 1) + escape(part.path.rpartition(".")[2]) if part.path else "(all)"
    cls = escape(part.cls) + (f"({escape(part.facts)})" if part.facts else "")
    often = f"  ×{part.calls}" if part.calls is not None and part.calls > 1 else ""
    if room is not None and len(cls) + len(often) > room:
        cls = cls[: room - len(often) - 1] + "…"
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
