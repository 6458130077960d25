"""An archive without its directory, read from its local headers: what is left of a cut or damaged torch zip.

torch's local headers hold no lengths (formats 1.1): they come from the pickle, and the descriptor behind each record
proves them. Bytes of tensors are stepped over, never searched, as long as that chain holds. Where other bytes stand in the
place of a descriptor, bytes were lost, inserted or written over: that record is not whole, and what is found further on counts
only with a checksum that is right. A tensor that holds an archive fools nobody so.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from struct import unpack
from typing import NamedTuple

from ..errors import CorruptError
from ..model.source import COPY_CHUNK, Source
from .zip import END, END64, ENTRY, ENTRY_MAGIC, LOCAL, LOCAL_MAGIC, LOCATOR64, Inflated

_DESCRIPTOR = b"PK\x07\x08"
_LONGEST_DIRECTORY = 16 << 20  # bytes at the end of a file in which entries of a directory are looked for
_LONGEST_END = END64.size + LOCATOR64.size + END.size  # bytes behind the entries of a directory
_LONGEST_SMALL = 4096  # bytes of a record whose length nothing tells: byteorder, version, …
_ALIGNMENT = 64


class Walked(NamedTuple):
    """A record that was found.

    Attributes:
        name: with the root of the archive.
        start: where its bytes begin.
        nbytes: how many there should be.
        there: how many there are before the file ends; of one that is broken, none that could be trusted.
        crc: of its content, None where nothing says it.
        why: why it is not whole, though there is enough of it; ``""`` if it is.
        inflated: of a deflated one its length then, None if it is stored.
        proof: ``checksum``, ``length`` (archives can be written without checksums), or ``""``: the file ends behind it.
    """

    name: str
    start: int
    nbytes: int
    there: int
    crc: int | None
    why: str = ""
    inflated: int | None = None
    proof: str = "checksum"

    @property
    def whole(self) -> bool:
        return self.there == self.nbytes and not self.why

    def content(self, source: Source) -> Source:
        """Its bytes, inflated."""
        stored = source.slice(self.start, self.there)
        return stored if self.inflated is None else Inflated(stored, self.inflated, self.name)


BROKEN = "other bytes stand where its checksum should be: bytes of it were lost, inserted or written over"


class _Header(NamedTuple):
    name: str
    start: int
    flags: int
    method: int
    crc: int
    compressed: int
    nbytes: int


def walk(source: Source, root: str, sizes: Mapping[str, int], search: bool = True) -> dict[str, Walked]:
    """Records by their name without the root.

    Args:
        source: the file.
        root: the folder of the archive, with its slash.
        sizes: lengths of the records that are known, in the order in which they are expected.
        search: look further where the chain of headers is broken, which reads the rest of the file.
    """
    return _Walk(source, root, sizes).run(search)


class _Walk:
    """One way through the local headers of a file."""

    def __init__(self, source: Source, root: str, sizes: Mapping[str, int]) -> None:
        self.source = source
        self.root = root
        self.sizes = sizes
        self.found: dict[str, Walked] = {}
        self._inner: set[int] = set()  # headers of archives inside tensors

    @cached_property
    def checksums(self) -> dict[str, int]:
        return listed_checksums(self.source, self.root)

    def run(self, search: bool) -> dict[str, Walked]:
        position = 0
        while position < self.source.size:
            header = self._header(position)
            if header is None:
                predicted = self._predicted(position)
                if predicted is not None:
                    record, position = predicted
                    self.found.setdefault(record.name[len(self.root) :], record)
                    continue
                if not search:
                    break
                position = self._next(position + self._skipped())
                continue
            record_, after = self._measured(header)
            if record_ is None:
                position = self._next(header.start) if search else self.source.size
                continue
            self.found.setdefault(record_.name[len(self.root) :], record_)
            position = after
            if record_.why == BROKEN:
                position = self._behind(header, record_) if search else self.source.size
        return self.found

    def _header(self, position: int) -> _Header | None:
        raw = self.source.read_at(position, LOCAL.size)
        if len(raw) < LOCAL.size or raw[:4] != LOCAL_MAGIC:
            return None
        _, _, flags, method, _, _, crc, compressed, nbytes, name_size, extra_size = LOCAL.unpack(raw)
        name = self.source.read_at(position + LOCAL.size, name_size).decode("utf-8", "surrogateescape")
        start = position + LOCAL.size + name_size + extra_size
        if not name.startswith(self.root) or flags & 1 or start > self.source.size:
            return None
        if method not in (0, 8) or (method == 0 and compressed != nbytes) or (method == 8 and flags & 8):
            return None
        return _Header(name, start, flags, method, crc, compressed, nbytes)

    def _measured(self, header: _Header) -> tuple[Walked | None, int]:
        """The record of a header, and where the next header is; None where it has no known end."""
        source, name = self.source, header.name[len(self.root) :]
        left = source.size - header.start
        if not header.flags & 8:  # its lengths are in its header
            inflated = header.nbytes if header.method == 8 else None
            there = min(header.compressed, left)
            proof = "checksum" if header.crc else "length"
            record = Walked(
                header.name, header.start, header.compressed, there, header.crc or None, "", inflated, proof
            )
            return record, header.start + header.compressed
        expected = self.sizes.get(name)
        if expected is None:
            return self._small(header)
        end = header.start + expected
        described = _described(source, header.start, expected)
        if described is not None:
            crc, size = described
            proof = "checksum" if crc else "length"
            return Walked(header.name, header.start, expected, expected, crc or None, "", None, proof), end + size
        listed = self.checksums.get(name)
        if listed is not None and left >= expected and checksum(source, header.start, expected) == listed:
            return Walked(header.name, header.start, expected, expected, listed), end + 16
        if end + 16 > source.size:  # the file ends here: there was no room for a descriptor
            return Walked(header.name, header.start, expected, min(expected, left), None, "", None, ""), end + 16
        return Walked(header.name, header.start, expected, 0, None, BROKEN, None, ""), end

    def _small(self, header: _Header) -> tuple[Walked | None, int]:
        """A record whose length nothing tells: byteorder, version, …; its descriptor is looked for."""
        small = self.source.read_at(header.start, _LONGEST_SMALL)
        at = -1
        while (at := small.find(_DESCRIPTOR, at + 1)) >= 0:
            described = _described(self.source, header.start, at)
            if described is not None and described[0] in (zlib.crc32(small[:at]), 0):
                crc, size = described
                proof = "checksum" if crc or not at else "length"
                return Walked(header.name, header.start, at, at, crc or None, "", None, proof), header.start + at + size
        return None, header.start

    def _predicted(self, position: int) -> tuple[Walked, int] | None:
        """The record that must begin here, its header destroyed: torch aligns the bytes, and the descriptor proves it."""
        name, nbytes = next(self._missing(), ("", 0))
        if not name or not nbytes:
            return None
        start = position + LOCAL.size + len((self.root + name).encode("utf-8", "surrogateescape")) + 4
        start += -start % _ALIGNMENT
        described = _described(self.source, start, nbytes)
        if described is None or checksum(self.source, start, nbytes) != described[0]:
            return None
        return Walked(self.root + name, start, nbytes, nbytes, described[0]), start + nbytes + described[1]

    def _missing(self) -> Iterator[tuple[str, int]]:
        return ((name, nbytes) for name, nbytes in self.sizes.items() if name not in self.found)

    def _skipped(self) -> int:
        """How far it is at least to the next header, if the record that must be here is lost."""
        name, nbytes = next(self._missing(), ("", 0))
        return LOCAL.size + len(self.root) + len(name) + nbytes if name else 1

    def _behind(self, header: _Header, record: Walked) -> int:
        """Where to go on behind a record that is broken: the next header may have come nearer, or moved away.

        One that lies where bytes of the record should be may belong to an archive inside the tensor: its chain must lead
        to what was found behind, or to the end of the file.
        """
        end = header.start + record.nbytes
        target = self._next(end)
        expected = next(self._missing(), ("", 0))[0]
        found = self._header(target) if target < self.source.size else None
        if found is not None and found.name[len(self.root) :] == expected:
            return target
        for position in self._proved(header.start, target):
            if self._leads(position, target):
                return position
        return target

    def _leads(self, position: int, target: int) -> bool:
        """Whether one record follows another from here to ``target``, or to the end of the file."""
        while position < min(target, self.source.size):
            header = self._header(position)
            if header is None:
                return self._ends_the_file(position)
            record, position = self._measured(header)
            if record is None or record.why:
                return False
        return position == target or position >= self.source.size

    def _is_within(self, position: int) -> bool:
        """Whether the records from here on are those of an archive inside a tensor: its directory ends no file."""
        seen = []
        within = False
        while position < self.source.size:
            if position in self._inner:
                within = True
                break
            seen.append(position)
            header = self._header(position)
            if header is None:
                within = self.source.read_at(position, 4) == ENTRY_MAGIC and not self._ends_the_file(position)
                break
            record, position = self._measured(header)
            if record is None or record.why or not record.proof:  # of an archive inside a tensor the lengths are others
                position = self._end_by_descriptor(header.start)
        if within:
            self._inner.update(seen)
        return within

    def _end_by_descriptor(self, start: int) -> int:
        """Behind the first descriptor that says how far it is from ``start``; the end of the file if there is none."""
        position = start
        while position < self.source.size:
            window = self.source.read_at(position, COPY_CHUNK + 3)
            at = window.find(_DESCRIPTOR)
            while 0 <= at < COPY_CHUNK:
                described = _described(self.source, start, position + at - start)
                if described is not None:
                    return position + at + described[1]
                at = window.find(_DESCRIPTOR, at + 1)
            position += COPY_CHUNK
        return self.source.size

    def _ends_the_file(self, position: int) -> bool:
        """Whether what begins here is the directory that ends the file, or is cut off."""
        if self.source.read_at(position, 4) != ENTRY_MAGIC:
            return False
        while self.source.read_at(position, 4) == ENTRY_MAGIC:
            entry = self.source.read_at(position, ENTRY.size)
            if len(entry) < ENTRY.size:
                return True
            *_, name_size, extra_size, comment_size, _, _, _, _ = ENTRY.unpack(entry)
            position += ENTRY.size + name_size + extra_size + comment_size
        return self.source.size - position <= _LONGEST_END

    def _next(self, position: int) -> int:
        """Where the next header is that a checksum proves; the end of the file if there is none."""
        found = self._proved(position, self.source.size)
        return next((at for at in found if not self._is_within(at)), self.source.size)

    def _proved(self, position: int, stop: int) -> Iterator[int]:
        """Headers of records that are still missing, and whose checksums are right."""
        while position < stop:
            window = self.source.read_at(position, COPY_CHUNK + 3)
            at = window.find(LOCAL_MAGIC)
            while 0 <= at < min(COPY_CHUNK, stop - position):
                header = self._header(position + at)
                if header is not None and header.name[len(self.root) :] not in self.found and self._is_proved(header):
                    yield position + at
                at = window.find(LOCAL_MAGIC, at + 1)
            position += COPY_CHUNK

    def _is_proved(self, header: _Header) -> bool:
        record, _ = self._measured(header)
        if record is None or not record.whole:
            return False
        if record.crc is None:  # an archive without checksums: a descriptor with the right lengths must do
            return record.proof == "length" and all(other.proof != "checksum" for other in self.found.values())
        return crc_of(self.source, record) == record.crc


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


def is_as_described(source: Source, start: int, nbytes: int) -> bool | None:
    """Whether a record whose length only its content tells is what was written, by the descriptor behind it.

    True where archives are written without checksums; None where there is no descriptor.
    """
    behind = source.read_at(start + nbytes, _LONGEST_SMALL)  # it may be longer than what its content tells
    at = -1
    while (at := behind.find(_DESCRIPTOR, at + 1)) >= 0:
        described = _described(source, start, nbytes + at)
        if described is not None:
            return described[0] in (0, checksum(source, start, nbytes + at))
    return None


def listed_checksums(source: Source, root: str) -> dict[str, int]:
    """Checksums that the entries of a directory say, one that cannot be used as a whole; what they say twice is left out."""
    start = max(0, source.size - _LONGEST_DIRECTORY)
    tail = source.read_at(start, source.size - start)
    found: dict[str, int | None] = {}
    at = -1
    while (at := tail.find(ENTRY_MAGIC, at + 1)) >= 0:
        if len(tail) - at < ENTRY.size:
            break
        _, _, _, _, _, _, _, crc, _, _, name_size, *_ = ENTRY.unpack_from(tail, at)
        name = tail[at + ENTRY.size : at + ENTRY.size + name_size].decode("utf-8", "surrogateescape")
        if name.startswith(root) and crc:
            short = name[len(root) :]
            found[short] = crc if short not in found or found[short] == crc else None
    return {name: crc for name, crc in found.items() if crc is not None}


def crc_of(source: Source, record: Walked) -> int:
    """CRC-32 of what a record holds; of a deflated one that does not inflate, one that nothing has."""
    if record.inflated is None:
        return checksum(source, record.start, record.nbytes)
    try:
        return checksum(record.content(source), 0, record.inflated)
    except CorruptError:
        return -1


def checksum(source: Source, start: int, nbytes: int) -> int:
    """CRC-32 of a stretch."""
    crc, end = 0, start + nbytes
    while start < end and (chunk := source.read_at(start, min(COPY_CHUNK, end - start))):
        crc = zlib.crc32(chunk, crc)
        start += len(chunk)
    return crc
