"""The flat table: tab-separated for programs, aligned columns for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from ..operations.ls import Listing, Row
from ..operations.summary import count
from .text import Line, belongs_to, escape, fit, plain_shape, role, shape, size, totals, width


def columns(row: Row, long: bool) -> list[str]:
    """Name, dtype, shape, bytes, device, role; ``-`` where something is not known."""
    info = row.info
    mark = "~" if info.role_from == "inferred" else ""
    found = [
        escape(shown_name(row)),
        info.dtype,
        plain_shape(info.shape),
        str(info.nbytes),
        escape(info.device) if info.device is not None else "-",
        f"{info.role}{mark}" if info.role else "-",
    ]
    if long:
        param = row.section.params.get(info.key)
        found += [
            plain_shape(info.stride) if info.stride is not None else "-",
            str(info.storage_offset),
            escape(info.storage.id) if info.storage is not None else "-",
            {True: "grad", False: "no-grad", None: "-"}[info.requires_grad],
            "-" if info.persistent else "not-persistent",
            info.layout + (f" {escape(info.cls)}" if info.cls else ""),
            belongs_to(param) if param else "-",
        ]
    return found


def shown_name(row: Row) -> str:
    """The whole name, or in a selected part the name below it."""
    return row.name if row.key == row.info.key else row.key


def plain(listing: Listing, long: bool = False, path: str | None = None) -> Iterator[str]:
    """Tab-separated lines without a header; ``path`` becomes the first column where there are several files."""
    first = [escape(path)] if path is not None else []
    selected = listing.checkpoint.selected is not None
    for row in listing.rows:
        cells = columns(row, long)
        if selected:
            cells[0] = escape(row.key)
        yield "\t".join(first + cells) + "\n"


_HEADER = ["name", "shape", "dtype", "size", "device", "role"]
_LONG = ["stride", "offset", "storage", "grad", "persistent", "layout", "parameter"]
_DTYPE, _DEVICE = 2, 4
_STYLES = ["", "shape", "dtype", "size", "device", "role", "dim", "dim", "dim", "dim", "dim", "dim", "tied"]


def lines(listing: Listing, long: bool = False, columns_of_terminal: int = 80) -> Iterator[Line]:
    """Aligned columns with a header and a line of totals.

    In saved order the rows stand under the name of their section, so that the keys have the room. Where names need more,
    a column that says the same of all tensors becomes part of the totals; a name that is longer still has a line of its own.
    """
    grouped = (
        not listing.sorted and listing.checkpoint.selected is None and any(r.section.pointer for r in listing.rows)
    )
    table = [_cells(row, long, grouped or listing.checkpoint.selected is not None) for row in listing.rows]
    header = _HEADER + (_LONG if long else [])
    used = [i for i in range(len(header)) if i < 4 or any(cells[i] not in ("", "-") for cells in table)]
    sizes = {i: max([len(header[i]), *(width([(cells[i], "")]) for cells in table)]) for i in used}
    sizes[0] += 2 * grouped
    said = []
    for i in (_DEVICE, _DTYPE):
        if _room(sizes, columns_of_terminal) < sizes[0] and i in sizes and len({cells[i] for cells in table}) == 1:
            said.append(f"all {'on ' * (i == _DEVICE)}{table[0][i]}")
            del sizes[i]
    sizes[0] = max(12, min(sizes[0], _room(sizes, columns_of_terminal)))
    yield [("  ".join(fit(header[i], n, i == 3) for i, n in sizes.items()), "dim")]
    section = None
    for row, cells in zip(listing.rows, table, strict=True):
        if grouped and row.section is not section:
            section = row.section
            yield [(escape(section.pointer) or "(root)", "section"), (f"   {section.kind}", "dim")]
        yield from _table_row(row, cells, sizes, "  " if grouped else "")
    yield [(" · ".join([totals(count(row.info for row in listing.rows)), *said]), "totals")]


def _room(sizes: dict[int, int], columns: int) -> int:
    """What the other columns leave to the names."""
    return columns - sum(n for i, n in sizes.items() if i) - 2 * (len(sizes) - 1)


def _table_row(row: Row, cells: list[str], sizes: dict[int, int], indent: str) -> Iterator[Line]:
    last = [*sizes][-1]
    kind = "buffer" if row.info.role == "buffer" else "parameter" if row.info.role else "tensor"
    name = indent + cells[0]
    if width([(name, "")]) > sizes[0]:
        yield [(name, kind)]
        name = ""
    line: Line = []
    for i, n in sizes.items():
        gap = "" if i == last else "  "
        line.append((fit(cells[i] if i else name, n, i == 3) + gap, _STYLES[i] or kind))
    yield line


def _cells(row: Row, long: bool, by_key: bool) -> list[str]:
    found = columns(row, long)
    info = row.info
    name = escape(row.key) if by_key else found[0]
    return [name, shape(info.shape), info.dtype, size(info.nbytes), found[4], role(info), *found[6:]]
