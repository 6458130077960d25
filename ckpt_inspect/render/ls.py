"""The flat table: tab-separated for programs, aligned columns for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from ..operations.ls import Listing, Row
from ..operations.summary import count
from .text import Line, escape, plain_shape, role, shape, shorten, size, totals, width


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
            escape(param[0]) if param else "-",
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
_STYLES = ["", "shape", "dtype", "size", "device", "role", "dim", "dim", "dim", "dim", "dim", "dim", "tied"]


def lines(listing: Listing, long: bool = False, columns_of_terminal: int = 80) -> Iterator[Line]:
    """Aligned columns with a header and a line of totals; the name gives way where there is no room.

    In saved order the rows stand under the name of their section, so that the keys have the room.
    """
    grouped = (
        not listing.sorted and listing.checkpoint.selected is None and any(r.section.pointer for r in listing.rows)
    )
    table = [_cells(row, long, grouped or listing.checkpoint.selected is not None) for row in listing.rows]
    header = _HEADER + (_LONG if long else [])
    used = [i for i in range(len(header)) if i < 4 or any(cells[i] not in ("", "-") for cells in table)]
    sizes = [max([len(header[i]), *(width([(cells[i], "")]) for cells in table)]) for i in used]
    sizes[0] += 2 * grouped
    room = columns_of_terminal - sum(sizes[1:]) - 2 * (len(used) - 1)
    sizes[0] = max(12, min(sizes[0], room))
    yield [("  ".join(_fit(header[i], n, i == 3) for i, n in zip(used, sizes, strict=True)), "dim")]
    section = None
    for row, cells in zip(listing.rows, table, strict=True):
        if grouped and row.section is not section:
            section = row.section
            yield [(escape(section.pointer) or "(root)", "section"), (f"   {section.kind}", "dim")]
        yield _table_row(row, cells, used, sizes, "  " if grouped else "")
    yield [(totals(count(row.info for row in listing.rows)), "totals")]


def _table_row(row: Row, cells: list[str], used: list[int], sizes: list[int], indent: str) -> Line:
    line: Line = [(indent, "")]
    for i, n in zip(used, sizes, strict=True):
        style = _STYLES[i] or ("buffer" if row.info.role == "buffer" else "parameter" if row.info.role else "tensor")
        gap = "" if i == used[-1] else "  "
        line.append((_fit(cells[i], n - (len(indent) if i == 0 else 0), i == 3) + gap, style))
    return line


def _cells(row: Row, long: bool, by_key: bool) -> list[str]:
    found = columns(row, long)
    info = row.info
    name = escape(row.key) if by_key else found[0]
    return [name, shape(info.shape), info.dtype, size(info.nbytes), found[4], role(info), *found[6:]]


def _fit(text: str, room: int, right: bool = False) -> str:
    """Padded to ``room``; cut in the middle where it is longer, for both ends of a key tell something."""
    have = width([(text, "")])
    if have <= room:
        return " " * (room - have) + text if right else text + " " * (room - have)
    return shorten(text, room)
