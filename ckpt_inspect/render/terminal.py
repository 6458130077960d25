"""Lines onto a terminal, by Rich: colours, and the width of the window."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from .text import Line, width

if TYPE_CHECKING:
    from rich.console import Console

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
    "bar": "cyan",
}


def console(stderr: bool = False) -> Console:
    from os import environ

    from rich.console import Console

    colour = None if environ.get("NO_COLOR") else "auto"  # Rich by itself would still print bold
    return Console(
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=True,
        stderr=stderr,
        color_system=colour,  # type: ignore[arg-type]
    )


def show(lines: Iterable[Line], to: Console | None = None, cut: bool = True) -> None:
    """Print lines; one that is wider than the window is cut with an ellipsis, or with ``cut`` False left to wrap."""
    from rich.text import Text

    to = to or console()
    for line in lines:
        if cut and to.is_terminal and width(line) > to.width:  # a narrow window can do without the bytes
            line = [span for span in line if span[1] != "size"]
        text = Text(no_wrap=True, overflow="ellipsis", end="")
        for part, style in line:
            text.append(part, STYLES.get(style, "") or None)
        text.rstrip()
        if cut and to.is_terminal:
            text.truncate(to.width, overflow="ellipsis")
        to.print(text)
