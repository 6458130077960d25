"""Lines as bare text, for pipes and files: nothing cut, nothing coloured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .text import Line


def texts(lines: Iterable[Line]) -> Iterator[str]:
    for line in lines:
        yield "".join(part for part, _ in line).rstrip() + "\n"
