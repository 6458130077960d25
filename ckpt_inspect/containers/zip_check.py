"""What can be checked of a zip beyond what is needed to read it: local headers, descriptors, and the bytes between.

torch's reader looks at none of this (formats 1.3): a lie here is read silently, by some other program differently.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import unpack

from ..errors import CorruptError
from .zip import END, LOCAL, ZipArchive, ZipRecord

_DESCRIPTOR = b"PK\x07\x08"
_NO_VALUE = 0xFFFFFFFF


def check_record(record: ZipRecord) -> Iterator[str]:
    """Where a record's local header or descriptor disagrees with the directory, in words.

    Raises:
        CorruptError: the record cannot be found at all.
    """
    start = content_start(record)
    record.source  # noqa: B018 - finds it, and says what is wrong with name, method and place
    source = record.archive.source
    header = source.read_at(record.header_offset, LOCAL.size)
    _, _, flags, _, _, _, crc, compressed, nbytes, name_size, extra_size = LOCAL.unpack(header)
    expected = (record.crc or 0, record.compressed, record.nbytes)
    if flags != record.flags:
        yield f"its local header has flags 0x{flags:04x}, the directory 0x{record.flags:04x}"
    # with bit 3 the true values follow the data (4.4.4); what does not fit 32 bits is in an extra field
    said = zip((crc, compressed, nbytes), expected, strict=True)
    unset = (0, _NO_VALUE) if flags & 8 or record.nbytes == 0 else (_NO_VALUE,)
    if any(value != true and value not in unset for value, true in said) or (crc and crc != expected[0]):
        yield "its local header has another checksum or length than the directory"
    extra = source.read_at(record.header_offset + LOCAL.size + name_size, extra_size)
    if not _sound_extra(extra):
        yield "the extra field of its local header is damaged"
    if flags & 8 and not _descriptor_length(record, start + record.compressed):
        yield "the descriptor behind it has another checksum or length than the directory"


def content_start(record: ZipRecord) -> int:
    """Where the bytes of a record begin, as its local header has it."""
    header = record.archive.source.read_at(record.header_offset, LOCAL.size)
    if len(header) < LOCAL.size:
        return record.header_offset + LOCAL.size
    fields = LOCAL.unpack(header)
    return record.header_offset + LOCAL.size + int(fields[9]) + int(fields[10])


def _sound_extra(extra: bytes) -> bool:
    """4.5.1: tag, length, content; torch's padding has the tag FB and holds Z alone (formats 1.1)."""
    position = 0
    while position + 4 <= len(extra):
        tag, size = unpack("<2sH", extra[position : position + 4])
        content = extra[position + 4 : position + 4 + size]
        padding = bool(content) and not content.strip(b"Z")
        if len(content) < size or (content and padding != (tag == b"FB")):
            return False
        position += 4 + size
    return position == len(extra)


def _descriptor_length(record: ZipRecord, end: int) -> int:
    """Length of the descriptor at ``end`` if it says what the directory says, else 0 (4.3.9)."""
    raw = record.archive.source.read_at(end, 24)
    expected = (record.crc or 0, record.compressed, record.nbytes)
    for layout, size in (("<III", 16), ("<IQQ", 24)):
        if raw[:4] == _DESCRIPTOR and len(raw) >= size and unpack(layout, raw[4:size]) == expected:
            return size
    return 0


def dead_bytes(archive: ZipArchive) -> int:
    """Bytes before the directory that belong to no record; an edit in place leaves some."""
    used = 0
    for record in archive.everything:
        try:
            end = content_start(record) + record.compressed
            used += end - record.header_offset + (_descriptor_length(record, end) if record.flags & 8 else 0)
        except CorruptError:
            return 0
    return max(0, archive.directory_offset - used)


def trailing_bytes(archive: ZipArchive) -> int:
    """Bytes after the end record, a comment among them."""
    return archive.source.size - archive.end_offset - END.size if archive.end_offset else 0
