"""Writing torch's zip: the layout of ``torch.save`` byte for byte, so that computed offsets stay right (formats 1.1, 4.4).

Nothing is written here: an archive becomes a list of pieces, bytes and ranges of the old file, for the one copy loop.
"""

from __future__ import annotations

import zlib
from collections.abc import Container, Iterator, Mapping
from struct import pack
from typing import NamedTuple

from ..model.made import Joined, Summed
from ..model.source import BytesSource, Source
from .copying import Piece, size_of
from .zip import END, END64, ENTRY, LOCAL, LOCATOR64, ZipArchive, ZipRecord

_FLAGS_DATA, _FLAGS_EMPTY = 0x0808, 0x0800  # UTF-8 names; sizes in a descriptor after the data, if there are data
_LIMIT32 = 0xFFFFFFFF


class _Member(NamedTuple):
    """A member of the new archive, placed."""

    name: bytes
    flags: int
    method: int
    crc: int
    compressed: int
    nbytes: int
    offset: int


class Entry(NamedTuple):
    """A member to be written.

    Attributes:
        name: with the root of the archive.
        content: its bytes as they are to lie there, deflated ones deflated.
        nbytes: their number when inflated.
        method: 0 stored, 8 deflated.
        crc: of the inflated bytes; None: found while they are copied.
    """

    name: bytes
    content: Piece
    nbytes: int
    method: int = 0
    crc: int | None = None


class Layout:
    """An archive laid out as torch's writer does; its pieces are made as they are taken, any number of times.

    Args:
        entries: in their order.
        alignment: of every record's data, in bytes (the record ``.storage_alignment``).
    """

    def __init__(self, entries: list[Entry], alignment: int = 64) -> None:
        self.entries = entries
        self.alignment = alignment
        self.nbytes = sum(map(size_of, self.draft()))

    def __iter__(self) -> Iterator[Piece]:
        """The pieces; each is to be read whole before the next is taken, for its checksum follows it."""
        return self._pieces(True)

    def draft(self) -> Iterator[Piece]:
        """The same without reading anything: checksums that are not known are 0."""
        return self._pieces(False)

    def _pieces(self, summing: bool) -> Iterator[Piece]:
        position = 0
        members: list[_Member] = []
        for entry in self.entries:
            compressed = size_of(entry.content)
            flags = _FLAGS_DATA if compressed else _FLAGS_EMPTY
            crc = entry.crc if entry.crc is not None or compressed else 0
            member = _Member(entry.name, flags, entry.method, crc or 0, compressed, entry.nbytes, position)
            header = _local_header(member, self.alignment)
            yield header
            if compressed and crc is None and summing:
                summed = Summed(_as_source(entry.content))
                yield summed
                member = member._replace(crc=summed.crc)
            elif compressed:
                yield entry.content
            descriptor = _descriptor(member) if member.flags & 8 else b""
            if descriptor:
                yield descriptor
            members.append(member)
            position += len(header) + compressed + len(descriptor)
        yield directory(members, position)


def _as_source(piece: Piece) -> Source:
    return BytesSource(piece, "") if isinstance(piece, bytes) else piece


def rewrite(
    archive: ZipArchive, replaced: Mapping[str, bytes], dropped: Container[str] = (), alignment: int = 64
) -> Layout:
    """A new archive: same root, same order, records copied but for ``replaced`` and ``dropped``.

    Args:
        archive: the archive to copy from; its records must be whole.
        replaced: new content by record name, stored.
        dropped: names of records to leave out.
        alignment: of every record's data, in bytes.
    """
    entries = []
    for name, record in archive.records.items():
        content = replaced.get(name)
        if name in dropped:
            continue
        if content is not None:
            entries.append(Entry(record.raw_name, content, len(content), 0, zlib.crc32(content)))
        else:
            entries.append(Entry(record.raw_name, raw_content(record), record.nbytes, record.method, known_crc(record)))
    return Layout(entries, alignment)


def known_crc(record: ZipRecord) -> int | None:
    """The checksum as the directory has it: 0 where the writer left it out; None in an archive not written yet."""
    if record.crc is None and not record.deflated and isinstance(record.archive.source, Joined):
        return None
    return record.crc or 0


def appended(
    archive: ZipArchive, replaced: Mapping[str, bytes], alignment: int = 64, dropped: Container[str] = ()
) -> tuple[list[bytes], bytes]:
    """What to append to the file so that ``replaced`` counts: the new records, then directory and end (formats 4.1).

    The old records of those names and the old directory become dead bytes. One entry for each name, in the old order.
    """
    position = archive.source.size
    pieces: list[bytes] = []
    placed: dict[str, _Member] = {}
    for name, content in replaced.items():
        member = _placed(archive.records[name], content, position)
        piece = _local_header(member, alignment) + content + (_descriptor(member) if content else b"")
        placed[name] = member
        pieces.append(piece)
        position += len(piece)
    members = [placed.get(name) or _kept(record) for name, record in archive.records.items() if name not in dropped]
    return pieces, directory(members, position)


def raw_content(record: ZipRecord) -> Source:
    """The bytes of a record as they lie in the file, deflated ones as they are."""
    source = record.source
    return getattr(source, "compressed", source)


def _placed(record: ZipRecord, content: bytes, position: int) -> _Member:
    size = len(content)
    flags = _FLAGS_DATA if size else _FLAGS_EMPTY
    return _Member(record.raw_name, flags, 0, zlib.crc32(content), size, size, position)


def _kept(record: ZipRecord) -> _Member:
    return _Member(
        record.raw_name, record.flags, record.method, record.crc or 0, record.compressed, record.nbytes,
        record.header_offset,
    )  # fmt: skip


def _zip64(member: _Member) -> bytes:
    """miniz writes what does not fit 32 bits, in this order; the local header has the offset too (formats 1.1)."""
    fields = []
    if member.nbytes >= _LIMIT32:
        fields.append(member.nbytes)
    if member.compressed >= _LIMIT32:
        fields.append(member.compressed)
    if member.offset >= _LIMIT32:
        fields.append(member.offset)
    return pack(f"<HH{len(fields)}Q", 1, 8 * len(fields), *fields) if fields else b""


def _local_header(member: _Member, alignment: int) -> bytes:
    """Header, zip64 extra, and an ``FB`` extra of as many ``Z`` as bring the data to a multiple of ``alignment``."""
    extra = _zip64(member)
    start = member.offset + LOCAL.size + len(member.name) + len(extra) + 4
    padding = -start % alignment
    extra += b"FB" + pack("<H", padding) + b"Z" * padding
    return LOCAL.pack(
        b"PK\x03\x04", _needed(member), member.flags, member.method, 0, 0, 0, 0, 0, len(member.name), len(extra)
    ) + member.name + extra  # fmt: skip


def _needed(member: _Member) -> int:
    return 20 if member.method else 0  # 4.4.3: 2.0 for deflate


def _descriptor(member: _Member) -> bytes:
    wide = member.nbytes >= _LIMIT32 or member.offset >= _LIMIT32
    return b"PK\x07\x08" + pack("<IQQ" if wide else "<III", member.crc, member.compressed, member.nbytes)


def directory(members: list[_Member], offset: int) -> bytes:
    """Central directory, zip64 end, its locator and the end record: always all four, as torch's writer."""
    entries = []
    for m in members:
        extra = _zip64(m)
        entries.append(
            ENTRY.pack(
                b"PK\x01\x02", 0, _needed(m), m.flags, m.method, 0, 0, m.crc, min(m.compressed, _LIMIT32), min(m.nbytes, _LIMIT32),
                len(m.name), len(extra), 0, 0, 0, 0, min(m.offset, _LIMIT32),
            ) + m.name + extra
        )  # fmt: skip
    table = b"".join(entries)
    count, end = len(members), offset + len(table)
    few = min(count, 0xFFFF)
    return b"".join(
        [
            table,
            END64.pack(b"PK\x06\x06", END64.size - 12, 0x031E, 0x002D, 0, 0, count, count, len(table), offset),
            LOCATOR64.pack(b"PK\x06\x07", 0, end, 1),
            END.pack(b"PK\x05\x06", 0, 0, few, few, min(len(table), _LIMIT32), min(offset, _LIMIT32), 0),
        ]
    )
