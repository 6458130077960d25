"""One entry as lines: facts, where its bytes lie, numbers, a histogram, values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..operations.show import Shown
from ..operations.stats import stats_dict
from .diff import number
from .text import Line, belongs_to, escape, literal, role, shape, size

_EIGHTHS = "▁▂▃▄▅▆▇█"
_LABEL = 12
_SCREENS = 10  # lines of a terminal that one value may fill
_MOST = 1000  # values that are listed on a terminal


def lines(found: Shown, columns: int | None = None) -> Iterator[Line]:
    """The entry, on a terminal of so many columns; without them, values are listed whole, a row a line."""
    yield [(escape(found.name) or "(root)", "file")]
    if found.row is None:
        yield from _entry(found, columns)
        return
    yield from _facts(found)
    if found.sliced is not None:
        yield _labelled("slice", f"shape {shape(found.sliced)}")
        if found.note:
            yield _labelled("values", escape(found.note))
        if 0 in found.sliced:
            yield _labelled("values", "none")
        else:
            yield from _values(found.values, columns)
        return
    yield from _numbers(found)
    if found.values is not None and found.row.info.numel:
        yield from _values(found.values, columns)


def _labelled(label: str, text: str, style: str = "") -> Line:
    return [(f"{label:{_LABEL}}", "label"), (text, style)]


def _facts(found: Shown) -> Iterator[Line]:
    assert found.row is not None
    info = found.row.info
    facts = [shape(info.shape), info.dtype, size(info.nbytes)]
    facts += [escape(info.device)] if info.device is not None else []
    facts += [role(info)] if role(info) else []
    facts += ["requires_grad"] if info.requires_grad else []
    facts += [info.layout] if info.layout != "strided" else []
    facts += [escape(info.cls)] if info.cls else []
    yield _labelled("tensor", " · ".join(facts))
    if found.row.section.pointer:
        yield _labelled("section", escape(found.row.section.pointer))
    if info.stride is not None:
        bits = [name for name, on in (("conjugate", info.conj), ("negative", info.neg)) if on]
        view = f"stride {shape(info.stride)} · offset {info.storage_offset:,}" + "".join(f" · {bit}" for bit in bits)
        stored = info.storage.nbytes if info.storage is not None else info.nbytes
        whole = f" · {size(info.nbytes)} of a storage of {size(stored)}" if stored != info.nbytes else ""
        yield _labelled("view", view + whole)
    for where in found.where:
        name = f"{escape(where.part)}: " if where.part else ""
        record = f"record {escape(where.record)}" if where.record is not None else f"storage {escape(where.storage)}"
        place = (
            f", bytes {where.start:,} … {where.start + where.nbytes:,} of the file" if where.start is not None else ""
        )
        yield _labelled("where", f"{name}{record}{place}")
    if found.tied:
        yield _labelled("tied", "═ " + ", ".join(map(escape, found.tied)), "tied")
    params = found.row.section.params.get(info.key)
    if params is not None:
        yield _labelled("state of", belongs_to(params), "tied")


def _numbers(found: Shown) -> Iterator[Line]:
    if found.note:
        yield _labelled("values", escape(found.note))
    if found.stats is None:
        return
    if not found.row or not found.row.info.numel:
        yield _labelled("values", "none")
        return
    facts = stats_dict(found.stats)
    shown = [
        f"{name} {_text(facts[name])}" for name in ("min", "max", "mean", "std", "norm") if facts[name] is not None
    ]
    yield _labelled("values", " · ".join(shown) or "none")
    if found.stats.zeros and found.stats.count > 1:
        yield _labelled("", f"{found.stats.zeros:,} of {found.stats.count:,} are zero")
    if found.marks:
        yield _labelled("", " · ".join(found.marks), "wrapper")
    if found.histogram:
        yield from _histogram(found)


def _text(value: Any) -> str:
    return number(value) if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _histogram(found: Shown) -> Iterator[Line]:
    """Three rows of bars, and the two ends below."""
    counts = found.histogram
    most = max(counts) or 1
    heights = [0 if not count else max(1, round(count / most * 24)) for count in counts]
    for level in (16, 8, 0):
        bars = "".join(" " if h <= level else _EIGHTHS[min(7, h - level - 1)] for h in heights)
        yield [(" " * _LABEL, ""), (bars.rstrip(), "parameter")]
    assert found.stats is not None
    low, high = _text(found.stats.low), _text(found.stats.high)
    gap = " " * max(1, len(counts) - len(low) - len(high))
    yield [(" " * _LABEL, ""), (f"{low}{gap}{high}", "dim")]


def _values(values: Any, columns: int | None) -> Iterator[Line]:
    """One innermost row a line, columns aligned; a row that is wider than the window goes on below."""
    rows = list(_rows(values, ()))
    shown: list[tuple[tuple[int, ...], list[str]]] = []
    count = 0
    for index, row in rows:
        count += len(row)
        if count > _MOST and columns is not None and shown:
            break
        shown.append((index, [_value(cell) for cell in row[: _MOST if columns is not None else None]]))
    room = max((len(cell) for _, cells in shown for cell in cells), default=0)
    margin = max([_LABEL, *(len(_place(index, None)) + 1 for index, _ in shown)])
    width = (
        max(1, (columns - margin + 1) // (room + 1)) if columns is not None else max(1, *(len(c) for _, c in shown), 1)
    )
    for index, cells in shown:
        for start in range(0, max(1, len(cells)), width):
            label = _place(index, start if len(cells) > width else None)
            text = " ".join(cell.rjust(room) for cell in cells[start : start + width])
            yield [(f"{label:{margin}}", "dim"), (text, "literal")]
    if sum(len(cells) for _, cells in shown) < sum(len(row) for _, row in rows):
        yield [("… piped, all values are listed", "dim")]


def _place(index: tuple[int, ...], start: int | None) -> str:
    """``[0, 1]``; of the part of a row that begins at ``start``, ``[0, 1, 8:]``."""
    if not index and start is None:
        return ""
    return f"[{', '.join([*map(str, index), *([f'{start}:'] if start is not None else [])])}]"


def _rows(values: Any, index: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], list[Any]]]:
    if not isinstance(values, list):
        yield index, [values]
    elif not values or not isinstance(values[0], list):
        yield index, values
    else:
        for i, inner in enumerate(values):
            yield from _rows(inner, (*index, i))


def _value(value: Any) -> str:
    if isinstance(value, complex):
        return f"{value.real:.7g}{value.imag:+.7g}j"
    return f"{value:.7g}" if isinstance(value, float) else str(value)


def _entry(found: Shown, columns: int | None) -> Iterator[Line]:
    kind = found.entry.type if found.entry is not None else found.cls
    if kind is not None:
        yield _labelled("type", escape(kind))
    room = None if columns is None else _SCREENS * columns
    for line in found.text:
        yield [(literal(line, room is None, room or 0), "literal")]
    if found.note:
        yield [(escape(found.note), "hint")]
