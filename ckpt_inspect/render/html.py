"""Lines as HTML, for notebooks."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from .text import Line

_COLOURS = {
    "file": "font-weight:bold",
    "container": "font-weight:bold",
    "section": "font-weight:bold;color:#0b7285",
    "optimizer": "font-weight:bold;color:#0b7285",
    "module": "font-weight:bold",
    "guide": "color:#999",
    "dim": "color:#777",
    "class": "color:#1c6dd0",
    "args": "color:#1c6dd0",
    "wrapper": "font-weight:bold;color:#b08800",
    "repeat": "font-weight:bold;color:#a333c8",
    "parameter": "color:#22863a",
    "buffer": "color:#b08800",
    "dtype": "color:#0b7285",
    "device": "color:#a333c8",
    "tied": "color:#a333c8",
    "literal": "color:#0b7285",
    "bad": "font-weight:bold;color:#c00",
    "label": "font-weight:bold",
}


def page(lines: Iterable[Line]) -> str:
    """A ``<pre>`` with inline styles: notebooks strip style sheets."""
    rows = []
    for line in lines:
        spans = []
        for part, style in line:
            css = _COLOURS.get(style)
            spans.append(f'<span style="{css}">{escape(part)}</span>' if css else escape(part))
        rows.append("".join(spans))
    return '<pre style="line-height:1.25">' + "\n".join(rows) + "</pre>"
