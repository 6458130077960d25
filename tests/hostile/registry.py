"""The list that the attacks register in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

OPENS, CORRUPT, LIMIT, FORMAT, UNSUPPORTED = "", "CorruptError", "LimitError", "FormatError", "UnsupportedError"
ANY = "*"  # it opens, or gives whichever error: what counts is that nothing else happens


class Attack(NamedTuple):
    """One hostile file or directory, and what must come of it.

    Attributes:
        write: makes it in a directory and returns its path.
        error: the class of the error; ``""`` if it opens, ``"*"`` if either will do.
        says: words of the message or hint; of a problem, where it opens.
    """

    write: Callable[[Path], Path]
    error: str
    says: str


ATTACKS: dict[str, Attack] = {}


def add(name: str, make: Callable[[], bytes], error: str = OPENS, says: str = "") -> None:
    """Register a file."""

    def write(directory: Path) -> Path:
        path = directory / "attack.pt"
        path.write_bytes(make())
        return path

    add_path(name, write, error, says)


def add_directory(name: str, fill: Callable[[Path], object], error: str = OPENS, says: str = "") -> None:
    """Register a directory."""

    def write(directory: Path) -> Path:
        path = directory / "attack"
        path.mkdir()
        fill(path)
        return path

    add_path(name, write, error, says)


def add_path(name: str, write: Callable[[Path], Path], error: str, says: str) -> None:
    if name in ATTACKS:
        raise ValueError(f"two attacks called {name!r}")
    ATTACKS[name] = Attack(write, error, says)
