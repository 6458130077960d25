"""An archive without its directory, read from its local headers: what is left of a cut or damaged torch zip.

torch's local headers hold no lengths (formats 1.1): they come from the pickle, and the descriptor behind each record
proves them. Bytes of tensors are stepped over, never searched, as long as that chain holds; where it is broken, what is
found further on counts only with a descriptor whose length and checksum are right. A tensor that holds an archive
fools nobody so.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from struct import unpack
from typing import NamedTuple

from ..model.source import COPY_CHUNK, Source
from .zip import LOCAL, LOCAL_MAGIC

_DESCRIPTOR = b"PK\x07\x08"
_LONGEST_SMALL = 4096  # bytes of a record whose length nothing tells: byteorder, version, …
_ALIGNMENT = 64


class Walked(NamedTuple):
    """A record that was found.

    Attributes:
        name: with the root of the archive.
        start: where its bytes begin.
        nbytes: how many there should be.
        there: how many there are before the file ends.
        crc: as its descriptor has it, None without one.
    """

    name: str
    start: int
    nbytes: int
    there: int
    crc: int | None

    @property
    def whole(self) -> bool:
        return self.there == self.nbytes


class _Header(NamedTuple):
    name: str
    start: int
    flags: int
    method: int
    crc: int
    nbytes: int


def walk(source: Source, root: str, sizes: Mapping[str, int], search: bool = True) -> dict[str, Walked]:
    """Records by their name without the root.

    Args:
        source: the file.
        root: the folder of the archive, with its slash.
        sizes: lengths of the records that are known, in the order in which they are expected.
        search: look further where the chain of headers is broken, which reads the rest of the file.
    """
    found: dict[str, Walked] = {}
    position = 0
    while position < source.size:
        header = _header(source, position, root)
        if header is None:
            predicted = _predicted(source, position, root, sizes, found)
            if predicted is None:
                if not search:
                    break
                position = _next(source, position + _skipped(root, sizes, found), root, sizes, found)
                continue
            record, position = predicted
        else:
            measured, position = _measured(source, header, sizes.get(header.name[len(root) :]))
            if measured is None:
                continue
            record = measured
        found.setdefault(record.name[len(root) :], record)
    return found


def _header(source: Source, position: int, root: str) -> _Header | None:
    raw = source.read_at(position, LOCAL.size)
    if len(raw) < LOCAL.size or raw[:4] != LOCAL_MAGIC:
        return None
    _, _, flags, method, _, _, crc, compressed, nbytes, name_size, extra_size = LOCAL.unpack(raw)
    name = source.read_at(position + LOCAL.size, name_size).decode("utf-8", "surrogateescape")
    start = position + LOCAL.size + name_size + extra_size
    if not name.startswith(root) or method != 0 or flags & 1 or start > source.size or compressed != nbytes:
        return None
    return _Header(name, start, flags, method, crc, nbytes)


def _measured(source: Source, header: _Header, expected: int | None) -> tuple[Walked | None, int]:
    """The record of a header, and where the next header is; None and where to look on where it has no known end."""
    left = source.size - header.start
    if not header.flags & 8:  # its lengths are in its header
        record = Walked(header.name, header.start, header.nbytes, min(header.nbytes, left), header.crc or None)
        return record, header.start + header.nbytes
    if expected is not None:
        described = _described(source, header.start, expected)
        crc, size = described if described is not None else (None, 16)
        return Walked(header.name, header.start, expected, min(expected, left), crc), header.start + expected + size
    small = source.read_at(header.start, _LONGEST_SMALL)
    at = -1
    while (at := small.find(_DESCRIPTOR, at + 1)) >= 0:
        described = _described(source, header.start, at)
        if described is not None and zlib.crc32(small[:at]) == described[0]:
            return Walked(header.name, header.start, at, at, described[0]), header.start + at + described[1]
    return None, header.start


def _described(source: Source, start: int, nbytes: int) -> tuple[int, int] | None:
    """Checksum and length of the descriptor behind a record, if it says ``nbytes`` (4.3.9)."""
    raw = source.read_at(start + nbytes, 24)
    if raw[:4] != _DESCRIPTOR:
        return None
    if len(raw) >= 16:
        crc, compressed, stored = unpack("<III", raw[4:16])
        if compressed == stored == nbytes:
            return crc, 16
    if len(raw) >= 24:
        crc, compressed, stored = unpack("<IQQ", raw[4:24])
        if compressed == stored == nbytes:
            return crc, 24
    return None


def _missing(sizes: Mapping[str, int], found: Mapping[str, Walked]) -> Iterator[tuple[str, int]]:
    return ((name, nbytes) for name, nbytes in sizes.items() if name not in found)


def _predicted(
    source: Source, position: int, root: str, sizes: Mapping[str, int], found: Mapping[str, Walked]
) -> tuple[Walked, int] | None:
    """The record that must begin here, its header destroyed: torch aligns the bytes, and the descriptor proves it."""
    name, nbytes = next(_missing(sizes, found), ("", 0))
    if not name or not nbytes:
        return None
    start = position + LOCAL.size + len((root + name).encode("utf-8", "surrogateescape")) + 4
    start += -start % _ALIGNMENT
    described = _described(source, start, nbytes)
    if described is None or checksum(source, start, nbytes) != described[0]:
        return None
    return Walked(root + name, start, nbytes, nbytes, described[0]), start + nbytes + described[1]


def _skipped(root: str, sizes: Mapping[str, int], found: Mapping[str, Walked]) -> int:
    """How far it is at least to the next header, if the record that must be here is lost."""
    name, nbytes = next(_missing(sizes, found), ("", 0))
    return LOCAL.size + len(root) + len(name) + nbytes if name else 1


def _next(source: Source, position: int, root: str, sizes: Mapping[str, int], found: Mapping[str, Walked]) -> int:
    """Where the next header is that its descriptor proves; the end of the file if there is none."""
    while position < source.size:
        window = source.read_at(position, COPY_CHUNK + 3)
        at = window.find(LOCAL_MAGIC)
        while 0 <= at < COPY_CHUNK:
            header = _header(source, position + at, root)
            if header is not None and header.name[len(root) :] not in found and _proved(source, header, sizes):
                return position + at
            at = window.find(LOCAL_MAGIC, at + 1)
        position += COPY_CHUNK
    return source.size


def _proved(source: Source, header: _Header, sizes: Mapping[str, int]) -> bool:
    record, _ = _measured(source, header, sizes.get(header.name.partition("/")[2]))
    if record is None or record.crc is None or not record.whole:
        return False
    return checksum(source, record.start, record.nbytes) == record.crc


def checksum(source: Source, start: int, nbytes: int) -> int:
    """CRC-32 of a stretch."""
    crc, end = 0, start + nbytes
    while start < end and (chunk := source.read_at(start, min(COPY_CHUNK, end - start))):
        crc = zlib.crc32(chunk, crc)
        start += len(chunk)
    return crc
