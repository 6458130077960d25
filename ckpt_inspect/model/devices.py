"""Location tags as torch writes them, and what becomes of each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from ..errors import SelectionError

KNOWN = ("cpu", "cuda", "mps", "xpu", "hpu", "mtia", "privateuseone")
_WITHOUT_INDEX = ("cpu", "mps")
_SAID = {"gpu": "cuda", "nvidia": "cuda", "rocm": "cuda", "hip": "cuda", "metal": "mps", "gaudi": "hpu"}
_TAG = re.compile(r"([a-z][a-z0-9_]{0,31})(?::(\d{1,4}))?")
_LOOKS = re.compile(r"(?:cuda|mps|xpu|hpu|mtia|xla|privateuseone)(?::\d{1,4})?")


def normal(tag: str) -> str:
    """A tag as torch writes it: ``cuda`` is ``cuda:0``, ``cpu:N`` is ``cpu`` (design 4).

    Raises:
        SelectionError: no tag can be written for it; those that can are named.
    """
    match = _TAG.fullmatch(tag)
    if match is None or match[1] not in KNOWN:
        kind = tag.partition(":")[0].lower()
        close = [_SAID[kind]] if kind in _SAID else get_close_matches(kind, KNOWN, n=1)
        meant = f"Did you mean {close[0]}? " if close and close[0] != tag else ""
        if tag == "meta":
            meant = "Tensors on meta have no values: nothing can be moved there. "
        raise SelectionError(
            f"{tag!r} is no device that a file can name", hint=f"{meant}Known: {', '.join(KNOWN)}; with :N for one."
        )
    kind, index = match[1], match[2]
    return kind if kind in _WITHOUT_INDEX else f"{kind}:{int(index or 0)}"


def looks_like_one(text: str) -> bool:
    """Whether a plain string in a configuration is the name of a device other than the CPU."""
    return _LOOKS.fullmatch(text) is not None


class DeviceMap:
    """Which device becomes which.

    Args:
        asked: ``NEW`` for all, ``OLD=NEW`` for one; OLD without an index is all devices of its kind. The last that
            matches counts.
    """

    def __init__(self, asked: Sequence[str]) -> None:
        self.pairs: list[tuple[str | None, str]] = []
        for text in asked:
            old, equals, new = text.rpartition("=")
            self.pairs.append((old if equals else None, normal(new)))
        self.met: set[str] = set()

    def __call__(self, tag: str) -> str | None:
        """What ``tag`` becomes; None: it stays. Tensors on ``meta`` have no bytes and stay."""
        if tag != "meta":
            self.met.add(tag)
        return self.new(tag)

    def new(self, tag: str) -> str | None:
        """The same, without noting that ``tag`` is in the file."""
        if tag == "meta":
            return None
        for old, new in reversed(self.pairs):
            if old is None or old == tag or _same(old, tag):
                return new if new != tag else None
        return None

    def check(self, present: Iterable[str]) -> None:
        """
        Raises:
            SelectionError: a device that was named is not in the file; those that are there are listed.
        """
        found = {tag for tag in present if tag} | self.met
        for old, _ in self.pairs:
            if old is not None and not any(old == tag or _same(old, tag) for tag in found):
                listed = ", ".join(sorted(found)) or "no device"
                raise SelectionError(f"nothing is on {old!r}", hint=f"There is: {listed}.")


def _same(old: str, tag: str) -> bool:
    """Whether ``old`` means ``tag``: all of its kind without an index, else that index, where none is 0."""
    kind, _, index = tag.partition(":")
    wanted, colon, number = old.partition(":")
    return kind == wanted and (not colon or number == (index or "0"))
