"""What a result does not have that its source has, and how many names are told in a sentence."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Lost(NamedTuple):
    """A tensor or another entry that was left behind, and why."""

    name: str
    why: str


def listed(names: Iterable[str], most: int = 6) -> str:
    """The first names, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - most:,} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more
