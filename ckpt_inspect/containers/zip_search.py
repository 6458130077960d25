"""Members of zip archives where no directory says that they are: what signatures and deflated bytes tell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..model.source import Source
from .zip import LOCAL_MAGIC

_WINDOW = 1 << 20
_PEEK = 1 << 12  # bytes that are read of a deflated stretch at first


def signatures(source: Source, start: int, stop: int, magic: bytes = LOCAL_MAGIC) -> Iterator[int]:
    """Offsets of local headers, or of another signature, that begin in a stretch."""
    offset = start
    while offset < stop:
        window = source.read_at(offset, min(_WINDOW, stop - offset) + len(magic) - 1)
        at = window.find(magic)
        while 0 <= at < _WINDOW:
            yield offset + at
            at = window.find(magic, at + len(magic))
        offset += _WINDOW


def beginning(stored: Source, most: int) -> tuple[bytes, int]:
    """The beginning of a deflated stretch, and how much of the stretch that took.

    If it inflates to less than it says, or breaks, what there is counts.
    """
    import zlib

    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    parts: list[bytes] = []
    offset, step = 0, _PEEK
    while most > 0 and not inflater.eof and (data := inflater.unconsumed_tail or stored.read_at(offset, step)):
        if not inflater.unconsumed_tail:
            offset, step = offset + len(data), min(16 * step, _WINDOW)
        before = inflater.copy()
        try:
            parts.append(inflater.decompress(data, most))
        except zlib.error:
            parts.append(_up_to_where_it_breaks(before, data, most))
            break
        most -= len(parts[-1])
    return b"".join(parts), offset


def _up_to_where_it_breaks(inflater: Any, data: bytes, most: int) -> bytes:
    import zlib

    found = b""
    for index in range(0, min(len(data), _WINDOW), 64):
        try:
            found += inflater.decompress(data[index : index + 64], most - len(found))
        except zlib.error:
            break
        if len(found) >= most:
            break
    return found
