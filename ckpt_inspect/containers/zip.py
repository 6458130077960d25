"""The zip container of torch files: the central directory, records, and what is left of a cut one.

Stricter than zipfile and than torch's miniz where those two can see different archives (formats 1.3,
1.4). Field names are those of PKWARE's APPNOTE 6.3.10, sections 4.3.7 to 4.3.16.
"""

from __future__ import annotations

import zlib
from bisect import bisect_right
from struct import Struct
from struct import error as struct_error
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from ..errors import CorruptError, FormatError, LimitError
from ..model.source import COPY_CHUNK, Slice, Source
from ..model.storage import Record
from ..pickles.limits import DEFAULT, Limits

if TYPE_CHECKING:
    from .zip_walk import Found

LOCAL = Struct("<4s5H3I2H")  # 4.3.7 local file header
ENTRY = Struct("<4s6H3I5H2I")  # 4.3.12 central directory header
END = Struct("<4s4H2IH")  # 4.3.16 end of central directory record
END64 = Struct("<4sQ2H2I4Q")  # 4.3.14 zip64 end of central directory record
LOCATOR64 = Struct("<4sIQI")  # 4.3.15 zip64 end of central directory locator

LOCAL_MAGIC = b"PK\x03\x04"
ENTRY_MAGIC = b"PK\x01\x02"
_TAIL, _STEP = 4096, 4093  # miniz looks for the end record in blocks that share three bytes
_END_REACH = 0xFFFF + END.size  # zipfile looks this far back, and miniz begins no block behind that
_END_SEARCH = _TAIL + _STEP * -(-(_END_REACH - _TAIL) // _STEP)
_FOLDER = 0x10  # of the external attributes: the folder bit of DOS
_STORED, _DEFLATED = 0, 8
_NO_VALUE = 0xFFFFFFFF


class ZipRecord(Record):
    """A member as the central directory has it; the local header is read when its bytes are wanted."""

    __slots__ = ("archive", "attributes", "compressed", "flags", "header_offset", "method", "raw_name")

    archive: ZipArchive
    attributes: int  # external ones
    compressed: int
    flags: int
    header_offset: int
    method: int
    raw_name: bytes

    @property
    def deflated(self) -> bool:
        return self.method == _DEFLATED

    @property
    def hollow(self) -> bool:
        """Whether miniz takes a member that has bytes for a folder: it succeeds, and reads none of them."""
        return self.nbytes > 0 and (bool(self.attributes & _FOLDER) or self.raw_name.endswith(b"/"))

    def locate(self) -> Source:
        source = self.archive.source
        header = source.read_at(self.header_offset, LOCAL.size)
        if len(header) < LOCAL.size or header[:4] != LOCAL_MAGIC:
            raise CorruptError("no local header where the directory says", record=self.name, offset=self.header_offset)
        fields = LOCAL.unpack(header)
        method, name_size, extra_size = fields[3], fields[9], fields[10]
        name = source.read_at(self.header_offset + LOCAL.size, name_size)
        if name != self.raw_name:
            raise CorruptError(
                f"its local header says another name: {name.decode('utf-8', 'replace')[:80]!r}",
                record=self.name,
                offset=self.header_offset,
            )
        if method != self.method:
            raise CorruptError(
                f"compression method {method} in the local header, {self.method} in the directory",
                record=self.name,
                offset=self.header_offset,
            )
        start = self.header_offset + LOCAL.size + name_size + extra_size
        if start + self.compressed > self.archive.directory_offset:
            raise CorruptError("the record reaches into the directory", record=self.name, offset=start)
        if start + self.compressed > self.archive.next_header(self.header_offset):
            raise CorruptError("the record reaches into the next one", record=self.name, offset=start)
        stored = source.slice(start, self.compressed)
        return stored if self.method == _STORED else Inflated(stored, self.nbytes, self.name)


class Inflated:
    """A deflated member, inflated as far as it is read and never beyond its declared length."""

    __slots__ = ("_buffer", "_fed", "_inflater", "_lock", "_start", "compressed", "name", "size")

    def __init__(self, compressed: Source, nbytes: int, name: str) -> None:
        self.compressed = compressed
        self.size = nbytes
        self.name = name
        self._lock = Lock()  # what is inflated so far is shared by all readers
        self._rewind()

    def _rewind(self) -> None:
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._fed = 0  # compressed bytes consumed
        self._buffer = b""  # what was inflated and may still be asked for
        self._start = 0  # offset of the buffer in the member

    @property
    def path(self) -> str:
        return self.compressed.path

    def read_at(self, offset: int, nbytes: int) -> bytes:
        with self._lock:
            return self._read(offset, nbytes)

    def _read(self, offset: int, nbytes: int) -> bytes:
        nbytes = max(0, min(nbytes, self.size - offset))
        if offset < self._start:
            self._rewind()
        parts: list[bytes] = []
        wanted = nbytes
        while wanted:
            end = self._start + len(self._buffer)
            if offset < end:
                piece = self._buffer[offset - self._start : offset - self._start + wanted]
                parts.append(piece)
                offset += len(piece)
                wanted -= len(piece)
            else:
                more = self._inflate()  # may fail: what is known stays so
                self._start, self._buffer = end, more
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _inflate(self) -> bytes:
        pending = self._inflater.unconsumed_tail or self.compressed.read_at(self._fed, COPY_CHUNK)
        if not self._inflater.unconsumed_tail:
            self._fed += len(pending)
        try:
            data = self._inflater.decompress(pending, COPY_CHUNK)
        except zlib.error as error:
            raise CorruptError(f"cannot be inflated: {error}", record=self.name) from error
        if not data and (self._inflater.eof or not pending):
            raise CorruptError(f"inflates to less than the {self.size:,} bytes declared", record=self.name)
        return data

    def slice(self, offset: int, nbytes: int) -> Source:
        return Slice(self, offset, min(nbytes, max(0, self.size - offset)))

    def file_range(self) -> None:
        return None


class ZipArchive:
    """Members in the order of the central directory.

    Attributes:
        root: the folder that torch looks in: the text before the first slash of the first entry.
        records: members inside the root, by name without it.
        outside: names of members that are not inside it; torch refuses such a file.
        directory_offset: where the central directory begins; all members lie before it.
        truncated: whether the directory was missing and members were found by their local headers.
        headers: offsets of the local headers, ascending.
        inflated: declared bytes of the deflated members that were read whole so far.
        everything: all members, those outside the root too, in the order of the directory.
        end_offset: where the end record is, 0 without one.
        walked: what a walk through all of the file found, where there was one.
        false_end: where torch looks for the directory instead: what looks like an end record, behind it; 0: nothing does.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.root = ""
        self.records: dict[str, ZipRecord] = {}
        self.outside: list[str] = []
        self.directory_offset = source.size
        self.truncated = False
        self.headers: list[int] = []
        self.inflated = 0
        self.everything: list[ZipRecord] = []
        self.end_offset = 0
        self.false_end = 0
        self.walked: Found | None = None

    @property
    def in_reach(self) -> bool:
        """Whether miniz looks as far back as the end record: it reads block by block, and fails before byte 0."""
        size = self.source.size
        start = max(0, size - _TAIL)
        while start > self.end_offset and size - start < _END_REACH:
            start -= _STEP
        return 0 <= start <= self.end_offset

    def next_header(self, offset: int) -> int:
        """Where the record ends at the latest whose header is at ``offset``."""
        index = bisect_right(self.headers, offset)
        return self.headers[index] if index < len(self.headers) else self.directory_offset


class _Directory(NamedTuple):
    offset: int
    nbytes: int
    entries: int
    end: int
    false_end: int = 0


def read_archive(source: Source, limits: Limits = DEFAULT, *, local: bool = True) -> ZipArchive:
    """Read the directory of a zip archive that begins at byte 0.

    Args:
        local: without a directory, read what local headers tell.

    Raises:
        CorruptError: torch and Python could see different archives in these bytes, or none.
        FormatError: encrypted.
    """
    archive = ZipArchive(source)
    directory = _find_directory(source)
    if directory is None:
        archive.truncated = True
        if local:
            _read_local_headers(archive)
        return archive
    if directory.entries > limits.records:
        raise LimitError(f"an archive of {directory.entries:,} records: refused", offset=directory.offset)
    archive.directory_offset, archive.end_offset = directory.offset, directory.end
    archive.false_end = directory.false_end
    _read_directory(archive, directory)
    return archive


def without_directory(source: Source) -> ZipArchive:
    """The archive as if it had lost its directory, for one whose directory cannot be used."""
    archive = ZipArchive(source)
    archive.truncated = True
    _read_local_headers(archive)
    return archive


_SPLIT = "it says that it is split over several disks: torch refuses that"


def _find_directory(source: Source) -> _Directory | None:
    """Where the central directory is, None if there is no end record: the file was cut."""
    tail_offset = max(0, source.size - _END_SEARCH)
    tail = source.read_at(tail_offset, _END_SEARCH)
    position = len(tail)
    last = 0  # what torch takes, whatever it says
    while (position := tail.rfind(b"PK\x05\x06", 0, position)) >= 0:
        if len(tail) - position < END.size:
            continue
        found = _check_end(source, tail_offset + position, tail[position : position + END.size])
        if found is not None:
            return found._replace(false_end=last)
        last = last or tail_offset + position
    return None


def _check_end(source: Source, end_offset: int, end: bytes) -> _Directory | None:
    _, disk, start_disk, here, count, nbytes, offset, _ = END.unpack(end)
    directory_end = end_offset
    locator = source.read_at(end_offset - LOCATOR64.size, LOCATOR64.size) if end_offset >= LOCATOR64.size else b""
    if locator[:4] == b"PK\x06\x07":
        _, _, end64_offset, disks = LOCATOR64.unpack(locator)
        end64 = source.read_at(end64_offset, END64.size) if end64_offset < source.size else b""
        if len(end64) < END64.size or end64[:4] != b"PK\x06\x06":
            raise CorruptError("no zip64 end record where its locator says", offset=end_offset - LOCATOR64.size)
        _, size64, _, _, disk64, start_disk64, here64, count64, nbytes64, offset64 = END64.unpack(end64)
        if end64_offset + 12 + size64 != end_offset - LOCATOR64.size:  # 4.3.14.1; torch refuses less than 44
            raise CorruptError(
                f"the zip64 end record says {size64:,} bytes: it does not end at its locator", offset=end64_offset
            )
        if disk64 or start_disk64 or disks != 1:
            raise CorruptError(_SPLIT, offset=end64_offset)
        for small, large, unset in (
            (here, here64, 0xFFFF),
            (count, count64, 0xFFFF),
            (nbytes, nbytes64, _NO_VALUE),
            (offset, offset64, _NO_VALUE),
        ):
            if small not in (unset, large):
                raise CorruptError(
                    "the two end records disagree: programs would see different archives", offset=end_offset
                )
        here, count, nbytes, offset = here64, count64, nbytes64, offset64
        directory_end = end64_offset
    if disk or start_disk or here != count:
        raise CorruptError(_SPLIT, offset=end_offset)
    if offset + nbytes > directory_end:
        return None
    if offset + nbytes < directory_end:
        raise CorruptError(
            f"{directory_end - offset - nbytes:,} bytes between the directory and its end record: "
            "programs would see different archives",
            offset=offset + nbytes,
        )
    return _Directory(offset, nbytes, count, end_offset)


def _read_directory(archive: ZipArchive, directory: _Directory) -> None:
    data = archive.source.read_at(directory.offset, directory.nbytes)
    position = 0
    folded: dict[bytes, str] = {}
    unpack = ENTRY.unpack_from
    spans: list[tuple[int, int]] = []
    try:
        for _ in range(directory.entries):
            (magic, _, _, flags, method, _, _, crc, compressed, nbytes,
             name_size, extra_size, comment_size, disk, _, attributes, header_offset) = unpack(data, position)  # fmt: skip
            if disk > 1:  # as miniz has it
                raise CorruptError(_SPLIT, offset=directory.offset + position)
            if magic != b"PK\x01\x02":
                raise CorruptError("not a directory entry", offset=directory.offset + position)
            name_start = position + ENTRY.size
            raw_name = data[name_start : name_start + name_size]
            extra_start = name_start + name_size
            if _NO_VALUE in (compressed, nbytes, header_offset):
                extra = data[extra_start : extra_start + extra_size]
                nbytes, compressed, header_offset = zip64_sizes(extra, nbytes, compressed, header_offset)
            record = ZipRecord("", nbytes)
            record.crc = crc or None  # 0: the writer left it out (formats 1.1)
            record.archive = archive
            record.raw_name = raw_name
            record.flags = flags
            record.attributes = attributes
            record.method = method
            record.compressed = compressed
            record.header_offset = header_offset
            _add(archive, record, folded)
            spans.append((header_offset, header_offset + LOCAL.size + name_size + compressed))
            position = extra_start + extra_size + comment_size
    except struct_error as error:
        raise CorruptError("the directory ends early", offset=directory.offset + position) from error
    if position != directory.nbytes:
        raise CorruptError("the directory holds more than it counts", offset=directory.offset + position)
    _check_spans(archive, spans)


def zip64_sizes(extra: bytes, nbytes: int, compressed: int, header_offset: int) -> tuple[int, int, int]:
    """4.5.3: the zip64 extra holds, in this order, the fields that did not fit."""
    position = 0
    while position + 4 <= len(extra):
        tag, size = (
            int.from_bytes(extra[position : position + 2], "little"),
            int.from_bytes(extra[position + 2 : position + 4], "little"),
        )
        if tag == 1:
            fields = [extra[i : i + 8] for i in range(position + 4, position + 4 + size, 8)]
            values = iter([int.from_bytes(field, "little") for field in fields if len(field) == 8])
            nbytes = next(values, nbytes) if nbytes == _NO_VALUE else nbytes
            compressed = next(values, compressed) if compressed == _NO_VALUE else compressed
            header_offset = next(values, header_offset) if header_offset == _NO_VALUE else header_offset
            break
        position += 4 + size
    return nbytes, compressed, header_offset


def _add(archive: ZipArchive, record: ZipRecord, folded: dict[bytes, str]) -> None:
    name = record.raw_name.decode("utf-8", "surrogateescape")
    twin = folded.setdefault(record.raw_name.lower(), name)  # as miniz: of ASCII letters alone
    if twin is not name:
        how = "twice" if twin == name else f"beside {twin[:80]!r}, which torch takes for the same"
        raise CorruptError(f"the record {name[:80]!r} stands in the directory {how}", record=name)
    if record.flags & 1:
        raise FormatError(
            "an encrypted zip archive", record=name, hint="Decrypt it first; torch cannot read it either."
        )
    if record.method not in (_STORED, _DEFLATED):
        raise CorruptError(f"compression method {record.method}: torch knows 0 and 8 alone", record=name)
    if record.method == _STORED and record.compressed != record.nbytes:
        raise CorruptError("a stored record with two lengths", record=name)
    if record.header_offset + LOCAL.size + len(record.raw_name) + record.compressed > archive.directory_offset:
        raise CorruptError("the record reaches beyond the archive", record=name)
    archive.everything.append(record)
    if len(archive.everything) == 1:
        archive.root, slash, _ = name.partition("/")
        archive.root += slash
    if archive.root.endswith("/") and name.startswith(archive.root):
        record.name = name[len(archive.root) :]
        archive.records[record.name] = record
    else:
        record.name = name
        archive.outside.append(name)


def _check_spans(archive: ZipArchive, spans: list[tuple[int, int]]) -> None:
    """Refuse records that overlap, as far as the directory tells: local headers may be longer than it says."""
    spans.sort()
    archive.headers = [start for start, _ in spans]
    end = 0
    for start, stop in spans:
        if start < end:
            raise CorruptError("two records lie on each other", offset=start)
        end = stop


def _read_local_headers(archive: ZipArchive) -> None:
    """A cut archive: its records as far as local headers tell their lengths, and the first that tells none.

    torch's headers never do (formats 1.1), those of most other programs do.
    """
    source, position = archive.source, 0
    while True:
        header = source.read_at(position, LOCAL.size)
        if len(header) < LOCAL.size or header[:4] != LOCAL_MAGIC:
            return
        _, _, flags, method, _, _, crc, compressed, nbytes, name_size, extra_size = LOCAL.unpack(header)
        raw_name = source.read_at(position + LOCAL.size, name_size)
        start = position + LOCAL.size + name_size + extra_size
        name = raw_name.decode("utf-8", "surrogateescape")
        if not position:
            archive.root, slash, _ = name.partition("/")
            archive.root += slash
        if flags & 1 or start >= source.size or not name.startswith(archive.root):
            return
        told = not flags & 8
        if told and _NO_VALUE in (compressed, nbytes):
            extra = source.read_at(position + LOCAL.size + name_size, extra_size)
            nbytes, compressed, _ = zip64_sizes(extra, nbytes, compressed, 0)
        if not told:
            compressed = nbytes = source.size - start
        if (not told and method != _STORED) or start + compressed > source.size:
            return
        if name != archive.root and not name.endswith("/") and method in (_STORED, _DEFLATED):
            stored = source.slice(start, compressed)
            short = name[len(archive.root) :]
            record = ZipRecord(short, nbytes, stored if method == _STORED else Inflated(stored, nbytes, short))
            record.archive, record.raw_name, record.flags, record.method = archive, raw_name, flags, method
            record.compressed, record.header_offset = compressed, position
            record.crc = (crc or None) if told else None
            archive.records.setdefault(short, record)
        if not told:
            return
        position = start + compressed
