"""What is left of a zip archive that cannot be read by its directory: headers, descriptors, entries, end records, each alone.

What each of them says is evidence, and no more; ``zip_walk`` puts it together.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from struct import unpack
from typing import NamedTuple

from ..errors import CorruptError
from ..model.source import COPY_CHUNK, Source
from .checksums import combined
from .zip import END, END64, ENTRY, ENTRY_MAGIC, LOCAL, LOCAL_MAGIC, LOCATOR64, Inflated, zip64_sizes

DESCRIPTOR_MAGIC = b"PK\x07\x08"
END_MAGIC = b"PK\x05\x06"
_END64_MAGIC, _LOCATOR64_MAGIC = b"PK\x06\x06", b"PK\x06\x07"
_LONGEST_DIRECTORY = 16 << 20  # bytes at the end of a file in which entries of a directory are looked for
_LONGEST_SMALL = 4096  # bytes of a record whose length nothing tells: byteorder, version, …
_LONGEST_NAME = 4096
_MARK = 1 << 14  # bytes between two sums that are kept


class Header(NamedTuple):
    """A local header; ``start`` is where the content begins."""

    at: int
    name: str
    start: int
    flags: int
    method: int
    crc: int
    compressed: int
    nbytes: int


class Entry(NamedTuple):
    """An entry of a directory; ``at`` is where it stands, ``offset`` where it says that the record does."""

    at: int
    name: str
    offset: int
    crc: int
    nbytes: int


class End(NamedTuple):
    """An end record and the directory before it; ``base`` is where that archive begins, if nothing in it is damaged."""

    stop: int
    directory: int
    base: int


def header_at(source: Source, at: int) -> Header | None:
    raw = source.read_at(at, LOCAL.size)
    return header_of(source, at, raw) if raw[:4] == LOCAL_MAGIC else None


def header_of(source: Source, at: int, raw: bytes) -> Header | None:
    """The header at a place, whatever its first four bytes."""
    if len(raw) < LOCAL.size:
        return None
    _, _, flags, method, _, _, crc, compressed, nbytes, name_size, extra_size = LOCAL.unpack(raw)
    if name_size > _LONGEST_NAME:
        return None
    name = source.read_at(at + LOCAL.size, name_size).decode("utf-8", "surrogateescape")
    start = at + LOCAL.size + name_size + extra_size
    if start > source.size:
        return None
    if not flags & 8 and 0xFFFFFFFF in (compressed, nbytes):
        extra = source.read_at(at + LOCAL.size + name_size, extra_size)
        nbytes, compressed, _ = zip64_sizes(extra, nbytes, compressed, 0)
    return Header(at, name, start, flags, method, crc, compressed, nbytes)


def described(source: Source, start: int, nbytes: int) -> tuple[int, int] | None:
    """Checksum and length of the descriptor behind a record, if it says ``nbytes`` (4.3.9)."""
    raw = source.read_at(start + nbytes, 24)
    if raw[:4] != DESCRIPTOR_MAGIC:
        return None
    for layout, size in (("<III", 16), ("<IQQ", 24)):
        if len(raw) >= size:
            crc, compressed, stored = unpack(layout, raw[4:size])
            if compressed == stored == nbytes:
                return crc, size
    return None


def small_record(source: Source, start: int) -> tuple[int, int, int] | None:
    """Length, checksum and descriptor's length of a small record whose length only its descriptor tells."""
    content = source.read_at(start, _LONGEST_SMALL)
    at = -1
    while (at := content.find(DESCRIPTOR_MAGIC, at + 1)) >= 0:
        found = described(source, start, at)
        if found is not None and found[0] in (zlib.crc32(content[:at]), 0):
            return at, *found
    return None


def is_as_described(source: Source, start: int, nbytes: int) -> bool | None:
    """Whether a record whose length only its content tells is what was written, by the descriptor behind it.

    True where archives are written without checksums; None where there is no descriptor.
    """
    behind = source.read_at(start + nbytes, _LONGEST_SMALL)  # it may be longer than what its content tells
    at = -1
    while (at := behind.find(DESCRIPTOR_MAGIC, at + 1)) >= 0:
        found = described(source, start, nbytes + at)
        if found is not None:
            return found[0] in (0, checksum(source, start, nbytes + at))
    return None


def described_anywhere(source: Source, start: int) -> tuple[int, int] | None:
    """Checksum and length of a record by the first descriptor behind it that says how far away it is."""
    position = start
    while position < source.size:
        window = source.read_at(position, COPY_CHUNK + 3)
        at = -1
        while 0 <= (at := window.find(DESCRIPTOR_MAGIC, at + 1)) < COPY_CHUNK:
            found = described(source, start, position + at - start)
            if found is not None:
                return found[0], position + at - start
        position += COPY_CHUNK
    return None


def descriptors(source: Source, position: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Where descriptors of stored records are, and the checksum and the length that they say."""
    while position < stop:
        window = source.read_at(position, min(COPY_CHUNK, stop - position) + 23)
        at = -1
        while 0 <= (at := window.find(DESCRIPTOR_MAGIC, at + 1)) < min(COPY_CHUNK, stop - position):
            for layout, size in (("<III", 16), ("<IQQ", 24)):
                if len(window) >= at + size:
                    crc, compressed, nbytes = unpack(layout, window[at + 4 : at + size])
                    if compressed == nbytes:
                        yield position + at, crc, nbytes
                        break
        position += COPY_CHUNK


def entries(source: Source) -> list[Entry]:
    """All entries of directories at the end of a file, of any archive, however damaged what is around them is."""
    begin = max(0, source.size - _LONGEST_DIRECTORY)
    tail = source.read_at(begin, source.size - begin)
    found: list[Entry] = []
    at = -1
    left = len(tail)  # characters of names: entries that do not lie one in the other have no more
    while left > 0 and (at := tail.find(ENTRY_MAGIC, at + 1)) >= 0 and len(tail) - at >= ENTRY.size:
        entry = _entry(tail, at, begin)
        if entry is not None:
            found.append(entry)
            left -= len(entry.name)
    return found


def _entry(data: bytes, at: int, begin: int) -> Entry | None:
    *_, crc, compressed, nbytes, name_size, extra_size, _, _, _, _, offset = ENTRY.unpack_from(data, at)
    stop = at + ENTRY.size + name_size
    if stop > len(data) or name_size > _LONGEST_NAME:
        return None
    name = data[at + ENTRY.size : stop].decode("utf-8", "surrogateescape")
    if 0xFFFFFFFF in (compressed, nbytes, offset):
        nbytes, _, offset = zip64_sizes(data[stop : stop + extra_size], nbytes, compressed, offset)
    return Entry(begin + at, name, offset, crc, nbytes)


def end_at(source: Source, at: int) -> End | None:
    """The end record at a place, None if no directory stands before it."""
    raw = source.read_at(at, END.size)
    if len(raw) < END.size or raw[:4] != END_MAGIC:
        return None
    *_, nbytes, offset, _ = END.unpack(raw)
    stop = at
    locator = source.read_at(at - LOCATOR64.size, LOCATOR64.size) if at >= LOCATOR64.size + END64.size else b""
    if locator[:4] == _LOCATOR64_MAGIC:
        end64 = source.read_at(at - LOCATOR64.size - END64.size, END64.size)  # whatever the locator says
        if end64[:4] == _END64_MAGIC:
            *_, nbytes, offset = END64.unpack(end64)
            stop = at - LOCATOR64.size - END64.size
    directory = stop - nbytes
    if directory < 0 or not nbytes or source.read_at(directory, 4) != ENTRY_MAGIC:
        return None
    return End(at + END.size, directory, directory - offset)


def end_of_directory(source: Source, directory: int) -> int:
    """Where the archive ends whose directory begins here, 0 if there is none."""
    at = directory
    while source.read_at(at, 4) == ENTRY_MAGIC and len(raw := source.read_at(at, ENTRY.size)) == ENTRY.size:
        *_, name_size, extra_size, comment_size, _, _, _, _ = ENTRY.unpack(raw)
        at += ENTRY.size + name_size + extra_size + comment_size
    behind = source.read_at(at, END64.size + LOCATOR64.size + END.size).find(END_MAGIC)
    end = end_at(source, at + behind) if behind >= 0 and at > directory else None
    return end.stop if end is not None and end.directory == directory else 0


def differs_by_damage(one: int, other: int) -> bool:
    """Whether two checksums are the same but for one byte: that of other content is nowhere near."""
    changed = one ^ other
    return sum(bool(changed >> shift & 0xFF) for shift in (0, 8, 16, 24)) == 1


def checksum(source: Source, start: int, nbytes: int) -> int:
    """CRC-32 of a stretch."""
    crc, end = 0, start + nbytes
    while start < end and (chunk := source.read_at(start, min(COPY_CHUNK, end - start))):
        crc = zlib.crc32(chunk, crc)
        start += len(chunk)
    return crc


class Sums:
    """CRC-32 of stretches of one source: each byte of it is summed once, however many stretches overlap."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._marks = bytearray(4)  # of all bytes before each multiple of _MARK, 32 bits each
        self._inflating = 4 * source.size + (16 << 20)  # what may still be inflated

    def of(self, start: int, nbytes: int) -> int:
        if nbytes <= 2 * _MARK:
            return checksum(self.source, start, nbytes)
        return self._until(start + nbytes) ^ combined(self._until(start), 0, nbytes)

    def inflated(self, stored: Source, nbytes: int, name: str) -> int | None:
        """Of what a deflated stretch holds; None if it does not hold that, or all such stretches hold too much."""
        self._inflating -= nbytes
        if self._inflating < 0:
            return None
        try:
            return checksum(Inflated(stored, nbytes, name), 0, nbytes)
        except CorruptError:
            return None

    def _until(self, stop: int) -> int:
        mark = stop // _MARK
        while len(self._marks) // 4 <= mark:
            start = (len(self._marks) // 4 - 1) * _MARK
            chunk = memoryview(self.source.read_at(start, COPY_CHUNK))
            for at in range(0, len(chunk) - _MARK + 1, _MARK):
                crc = zlib.crc32(chunk[at : at + _MARK], int.from_bytes(self._marks[-4:], "little"))
                self._marks += crc.to_bytes(4, "little")
            if len(chunk) < _MARK:
                raise CorruptError("the file became shorter while it was read", path=self.source.path)
        known = int.from_bytes(self._marks[4 * mark : 4 * mark + 4], "little")
        return zlib.crc32(self.source.read_at(mark * _MARK, stop - mark * _MARK), known)
