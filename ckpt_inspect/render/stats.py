"""Statistics as a table: tab-separated for pipes, aligned for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from ..operations.stats import ModuleStats, Stats, TensorStats, stats_dict
from .diff import number
from .text import Line, escape, fit, plain_shape, plural, shape, width

_NAME = 20  # columns that a name has at least beside a mark
_COLUMNS = ("min", "max", "mean", "std", "norm", "zeros")


def plain(found: Stats, modules: bool = False, path: str | None = None) -> Iterator[str]:
    """Name, dtype, shape, min, max, mean, std, norm, zeros, NaN, Inf, marks; of modules without dtype and shape.

    ``path`` becomes the first column, where there are several files.
    """
    first = [escape(path)] if path is not None else []
    if modules:
        for module in found.modules:
            facts = stats_dict(module.stats)
            cells = [*first, _module_name(found, module), *(_cell(facts[c]) for c in (*_COLUMNS, "nan", "inf"))]
            yield "\t".join(cells) + "\n"
        return
    for row in found.rows:
        cells = [*first, escape(_name(found, row)), row.info.dtype, plain_shape(row.info.shape)]
        if row.stats is not None:
            facts = stats_dict(row.stats)
            cells += [_cell(facts[column]) for column in (*_COLUMNS, "nan", "inf")]
        yield "\t".join([*cells, escape("; ".join([*row.marks, *([row.note] if row.note else [])]))]).rstrip() + "\n"


def _cell(value: float | str | None) -> str:
    return "-" if value is None else f"{value:.9g}" if isinstance(value, float) else str(value)


def _name(found: Stats, row: TensorStats) -> str:
    return row.key if found.checkpoint.selected is not None else row.name


def _module_name(found: Stats, module: ModuleStats) -> str:
    """``(root)`` is what the root holds itself, where there is more in the file."""
    return escape(module.key) or ("(all)" if len(found.checkpoint.sections) == 1 else "(root)")


class _Row(NamedTuple):
    """Cells of the table, what is marked, the section that the row stands under; the module, and its name in that.

    A row of one cell is a heading.
    """

    cells: list[str]
    mark: str = ""
    section: str = ""
    module: str = ""
    leaf: str = ""


def lines(found: Stats, modules: bool = False, columns: int = 80) -> Iterator[Line]:
    """Aligned columns, marks last; a name or a mark that has no room beside the numbers gets a line of its own.

    In saved order the rows stand under the name of their section, so that the keys have the room; where they have none
    all the same, several of one module under its name.
    """
    header = ["name", *([] if modules else ["shape"]), *_COLUMNS]
    grouped = (
        (modules or not found.sorted)
        and found.checkpoint.selected is None
        and any(row.section for row in (found.modules if modules else found.rows))
    )
    table = list(_modules(found, grouped) if modules else _tensors(found, grouped))
    used = [i for i in range(len(header)) if i < len(header) - 1 or any(row.cells[i] not in ("", "0") for row in table)]
    sizes = [max([len(header[i]), *(width([(row.cells[i], "")]) for row in table)]) for i in used]
    room = columns - sum(sizes[1:]) - 2 * (len(used) - 1)
    marks = max((width([(row.mark, "")]) + 2 for row in table if row.mark), default=0)
    sizes[0] = min(sizes[0], room - marks if room - marks >= _NAME else max(8, room))
    if not found.sorted and not modules:
        table = list(_by_module(table, sizes[0]))
    yield [("  ".join(fit(header[i], n, i > 0) for i, n in zip(used, sizes, strict=True)), "dim")]
    section = ""
    for row in table:
        if row.section != section:
            section = row.section
            yield [(escape(section), "section")]
        if len(row.cells) == 1:
            yield [(row.cells[0], "module")]
            continue
        yield from _table_row([row.cells[i] for i in used], sizes, escape(row.mark), columns)


def _by_module(table: list[_Row], room: int) -> Iterator[_Row]:
    """Rows of which one is too long for its column, under their module: neighbours of one."""
    for _, neighbours in groupby(table, lambda row: (row.section, row.module)):
        rows = list(neighbours)
        long = any(width([(row.cells[0], "")]) > room for row in rows)
        if len(rows) == 1 or not rows[0].module or not long:
            yield from rows
            continue
        indent, empty = "  " if rows[0].section else "", "''"
        yield _Row([indent + escape(rows[0].module)], "", rows[0].section)
        yield from (row._replace(cells=[f"{indent}  {escape(row.leaf) or empty}", *row.cells[1:]]) for row in rows)


def _table_row(cells: list[str], sizes: list[int], mark: str, columns: int) -> Iterator[Line]:
    name = cells[0]
    if width([(name, "")]) > sizes[0]:
        yield [(name, "")]
        name = ""
    text = "  ".join(fit(cell, n, i > 0) for i, (cell, n) in enumerate(zip([name, *cells[1:]], sizes, strict=True)))
    if mark and len(text) + 2 + width([(mark, "")]) > columns:
        yield [(text, "")]
        yield [("  └ ", "guide"), (mark, "wrapper")]
    else:
        yield [(text, ""), (f"  {mark}" if mark else "", "wrapper")]


def _modules(found: Stats, grouped: bool) -> Iterator[_Row]:
    for module in found.modules:
        below = grouped and module.section
        name = f"  {escape(module.path) or '(all)'}" if below else _module_name(found, module)
        yield _Row([name, *_numbers(stats_dict(module.stats))], "", module.section if grouped else "")


def _tensors(found: Stats, grouped: bool) -> Iterator[_Row]:
    for row in found.rows:
        name = ("  " if row.section else "") + escape(row.key) if grouped else escape(_name(found, row))
        numbers = _numbers(stats_dict(row.stats)) if row.stats is not None else [""] * len(_COLUMNS)
        mark = "; ".join([*row.marks, *([row.note] if row.note else [])])
        key = row.key if found.checkpoint.selected is not None or grouped else row.name
        pointed = found.checkpoint.sections[row.section].kind == "optimizer"
        module, _, leaf = key.rpartition("/" if pointed else ".")
        yield _Row([name, shape(row.info.shape), *numbers], mark, row.section if grouped else "", module, leaf)


def verdict(found: Stats) -> Iterator[Line]:
    """Where NaN and infinities are, or that there are none."""
    for row in found.bad:
        stats = row.stats
        assert stats is not None
        counts = " and ".join(f"{n:,} {name}" for n, name in ((stats.nan, "NaN"), (stats.inf, "Inf")) if n)
        index = ", ".join(map(str, row.first_bad or ()))
        place = f"[{index}]" if row.info.layout == "strided" else f"value {index} of those stored"
        share = f"{(stats.nan + stats.inf) / stats.count:.2%} of it"
        yield [(escape(_name(found, row)), "bad"), (f"   {counts}, {share}, the first at {place}", "")]
    measured = sum(row.stats is not None and not row.failed for row in found.rows)
    if found.bad:
        yield [(f"{plural(len(found.bad), 'tensor')} of {measured:,} with NaN or Inf", "bad")]
    elif found.finite:
        yield [(f"all finite: {plural(measured, 'tensor')}", "good")]
    else:
        lost = f"; {plural(found.unsure, 'tensor')} damaged or not there" if found.unsure else "; the file is damaged"
        yield [(f"finite as far as could be read: {plural(measured, 'tensor')}{lost}", "bad")]


def _numbers(facts: dict[str, object]) -> list[str]:
    return [_short(facts[column]) for column in _COLUMNS]


def _short(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, str) and value.lstrip("-").isdecimal():  # JSON's own way with large integers
        value = int(value)
    if isinstance(value, int):
        return f"{value:,}" if abs(value) < 10_000_000 else f"{value:.2e}"
    return number(value) if isinstance(value, float) else str(value)
