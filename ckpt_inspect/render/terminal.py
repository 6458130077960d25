"""Lines onto a terminal, by Rich: colours, and the width of the window."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING

from .text import Line, width

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

# Colours of the 16 that every terminal has and its owner chose; nothing that matters is dim.
STYLES = {
    "file": "bold",
    "container": "bold",
    "section": "bold cyan",
    "optimizer": "bold cyan",
    "module": "bold",
    "group": "",
    "guide": "bright_black",
    "dim": "bright_black",
    "class": "blue",
    "args": "blue",
    "wrapper": "bold yellow",
    "repeat": "bold magenta",
    "totals": "",
    "parameter": "green",
    "buffer": "yellow",
    "tensor": "",
    "shape": "",
    "dtype": "cyan",
    "size": "",
    "device": "magenta",
    "role": "",
    "tied": "magenta",
    "value": "",
    "literal": "cyan",
    "label": "bold",
    "good": "green",
    "bad": "bold red",
    "hint": "bold",
    "command": "cyan",
}


def console() -> Console:
    from os import environ

    from rich.console import Console

    colour = None if environ.get("NO_COLOR") else "auto"  # Rich by itself would still print bold
    return Console(
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=True,
        color_system=colour,  # type: ignore[arg-type]
    )


def show(lines: Iterable[Line], to: Console | None = None, narrow: bool = False) -> None:
    """Print lines, each on one row: what is wider than the window is cut with an ellipsis.

    ``narrow`` lets lines that are too wide do without their bytes first: all rows of a table, if one is.
    """
    to = to or console()
    for rows in _tables(lines) if narrow else ([line] for line in lines):
        if narrow and to.is_terminal and any(width(line) > to.width for line in rows):
            rows = [[span for span in line if span[1] != "size"] for line in rows]
        for text in map(_styled, rows):
            if to.is_terminal:
                text.truncate(to.width, overflow="ellipsis")
            to.print(text)


def _tables(lines: Iterable[Line]) -> Iterator[list[Line]]:
    """Neighbours whose columns are aligned: those that show a shape, as far in. Any other line is alone."""
    for key, rows in groupby(lines, _indent_of_row):
        if key is not None:
            yield list(rows)
        else:
            yield from ([line] for line in rows)


def _indent_of_row(line: Line) -> int | None:
    return len(line[0][0]) if any(style == "shape" for _, style in line) else None


def show_wrapped(lines: Iterable[Line], hanging: int, deeper: int = 0) -> None:
    """Print lines, wrapped between words with a hanging indent; those with a command stay whole, to be pasted.

    ``deeper``: by so much more, where rows of their own begin at ``hanging``.
    """
    to = console()
    for line in lines:
        text = _styled(line)
        if any(style == "command" for _, style in line) or not to.is_terminal or width(line) <= to.width:
            to.print(text)
            continue
        label, rest = text[:hanging], text[hanging:]
        for part in rest.wrap(to, max(20, to.width - hanging - deeper)):
            part.rstrip()
            to.print(label + part)
            label = _styled([(" " * (hanging + deeper), "")], keep=True)


def _styled(line: Line, keep: bool = False) -> Text:
    from rich.text import Text

    text = Text(no_wrap=True, overflow="ellipsis", end="")
    for part, style in line:
        text.append(part, STYLES.get(style, "") or None)
    if not keep:
        text.rstrip()
    return text
