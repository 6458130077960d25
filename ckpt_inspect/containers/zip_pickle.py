"""Where the pickle of a torch zip is whose directory or first header is damaged, or whose newest state has lost its end.

Nothing is taken for it that a checksum does not prove, behind it or in what is left of a directory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from ..model.source import COPY_CHUNK, Source
from .zip import ENTRY_MAGIC, LOCAL, LOCAL_MAGIC, ZipArchive, ZipRecord
from .zip_traces import (
    END_MAGIC,
    Entry,
    Sums,
    described_anywhere,
    end_at,
    entries,
    header_at,
    header_of,
)

_NAME = "data.pkl"
_OTHER_KINDS = ("constants.pkl", "model.json", ".data/extern_modules")  # not of torch.save
_ALIGNMENT = 64
_TAIL = 1 << 17
_MOST_BACK = 64 << 20  # bytes before a directory in which its pickle is looked for
_NEAR = 4096
_MOST_BEFORE = 1 << 16  # bytes of a directory before the entry of the pickle, and of what else an edit appended
_MOST_ENTRIES = 16  # of one pickle


class Place(NamedTuple):
    """Where a pickle is: the root of its archive, its header, its bytes."""

    root: str
    at: int
    start: int


def find_pickle(source: Source) -> Place | None:
    """The pickle of the newest state of an archive that begins at byte 0; None if none is proved."""
    listed = entries(source)
    root = _root(source, listed)
    mine = [entry for entry in listed if entry.name.startswith(root)]
    if not root or any(entry.name[len(root) :] in _OTHER_KINDS for entry in mine):
        return None
    sums = Sums(source)
    newer = _before_directory(source, root, sums)
    if newer is not None:
        return newer
    pickles = [entry for entry in reversed(mine) if entry.name == root + _NAME and entry.crc]
    for entry in pickles[:_MOST_ENTRIES]:
        for at, start in _places(source, root, entry):
            if start + entry.nbytes <= source.size and sums.of(start, entry.nbytes) == entry.crc:
                return Place(root, at, start)
    for start in _starts(source, root, 0):
        found = described_anywhere(source, start)
        if found is not None and sums.of(start, found[1]) == found[0]:
            return Place(root, 0, start)
    return None


def _before_directory(source: Source, root: str, sums: Sums) -> Place | None:
    """A pickle that an edit in place has appended: a directory follows it whose entries are of records before it."""
    name = (root + _NAME).encode("utf-8", "surrogateescape")
    begin = max(0, source.size - _MOST_BACK)
    tail = source.read_at(begin, source.size - begin)
    at = len(tail)
    for _ in range(_MOST_ENTRIES):
        at = tail.rfind(name, 0, at)
        if at < 0 or begin + at <= LOCAL.size:
            return None
        header = header_at(source, begin + at - LOCAL.size)
        found = described_anywhere(source, header.start) if header is not None else None
        if header is None or found is None or sums.of(header.start, found[1]) != found[0]:
            continue
        end = header.start + found[1] + 16
        behind = source.read_at(end, _NEAR)
        first = behind.find(ENTRY_MAGIC)
        if first >= 0 and LOCAL_MAGIC not in behind[:first]:
            listed = entries(source.slice(end, _NEAR))
            moved = next((header.at - entry.offset for entry in listed if entry.name == root + _NAME), 0)
            others = [entry for entry in listed if entry.name.startswith(root) and entry.name != root + _NAME]
            right = sum(_is_there(source, entry, (0, moved)) for entry in others)
            if right and 2 * right >= len(others):
                return Place(root, header.at, header.start)
    return None


def _is_there(source: Source, entry: Entry, moves: tuple[int, ...]) -> bool:
    """Whether the record of an entry is where that says, or as far from there as others are."""
    headers = (header_at(source, entry.offset + move) for move in moves if entry.offset + move >= 0)
    return any(header is not None and header.name == entry.name for header in headers)


def has_newer(source: Source, place: Place) -> bool:
    """Whether a directory tells of a newer pickle, which is right before it."""
    return any(
        entry.name == place.root + _NAME and entry.offset > place.at
        and 0 <= entry.at - entry.offset - entry.nbytes < _MOST_BEFORE
        for entry in entries(source)
    )  # fmt: skip


def archive_of(source: Source, place: Place) -> ZipArchive:
    """The archive as if it had no directory, with that pickle."""
    archive = ZipArchive(source)
    archive.truncated = True
    archive.root = place.root
    nbytes = source.size - place.start
    record = ZipRecord(_NAME, nbytes, source.slice(place.start, nbytes))
    record.archive, record.raw_name = archive, (place.root + _NAME).encode("utf-8", "surrogateescape")
    record.flags, record.method, record.compressed, record.header_offset = 8, 0, nbytes, place.at
    archive.records[_NAME] = record
    return archive


def appended_archive(source: Source) -> int:
    """Where the archive begins that ends the file, 0 if it is the one that begins it."""
    begin = max(0, source.size - _TAIL)
    tail = source.read_at(begin, _TAIL)
    at = tail.rfind(END_MAGIC)
    end = end_at(source, begin + at) if at >= 0 else None
    header = header_at(source, end.base) if end is not None and end.base > 0 else None
    return end.base if end is not None and header is not None and header.name.endswith("/" + _NAME) else 0


def newer_state(archive: ZipArchive) -> int:
    """Where records of the same archive follow its end, 0 if none do: the end of a newer state is lost."""
    source, end = archive.source, archive.end_offset
    if not end:
        return 0
    comment = int.from_bytes(source.read_at(end + 20, 2), "little")
    header = header_at(source, end + 22 + comment)
    return header.at if header is not None and archive.root and header.name.startswith(archive.root) else 0


def _root(source: Source, listed: list[Entry]) -> str:
    """The folder of the archive: that of its first record, unless that name stands alone."""
    raw = source.read_at(0, LOCAL.size)
    first = header_of(source, 0, raw)
    names = [entry.name for entry in listed]
    if first is not None:
        names.append(first.name)
    window = source.read_at(0, COPY_CHUNK)
    at = 0
    while (at := window.find(LOCAL_MAGIC, at + 1)) >= 0 and len(names) < len(listed) + 1000:
        header = header_at(source, at)
        if header is not None:
            names.append(header.name)
    votes = Counter(name.partition("/")[0] + "/" for name in names if "/" in name)
    own = first.name.partition("/")[0] + "/" if first is not None and "/" in first.name else ""
    if (own and votes[own] > 1) or not votes:
        return own
    return votes.most_common(1)[0][0]


def _places(source: Source, root: str, entry: Entry) -> Iterator[tuple[int, int]]:
    """Where the pickle may be that an entry tells of: where it says, or, if bytes were lost, before the directory."""
    for start in _starts(source, root, entry.offset):
        yield entry.offset, start
    if not entry.offset:
        return
    name = (root + _NAME).encode("utf-8", "surrogateescape")
    begin = max(0, entry.at - min(2 * entry.nbytes + COPY_CHUNK, _MOST_BACK))
    window = source.read_at(begin, entry.at - begin)
    at = len(window)
    for _ in range(_MOST_ENTRIES):
        at = window.rfind(name, 0, at)
        header = header_at(source, begin + at - LOCAL.size) if at >= 0 and begin + at >= LOCAL.size else None
        if at < 0:
            return
        if header is not None and header.at != entry.offset:
            yield header.at, header.start


def _starts(source: Source, root: str, at: int) -> Iterator[int]:
    """Where the content of the pickle may begin whose header is here: as that says, or as torch aligns it."""
    header = header_of(source, at, source.read_at(at, LOCAL.size))
    if header is not None:
        yield header.start
    start = at + LOCAL.size + len((root + _NAME).encode("utf-8", "surrogateescape")) + 4
    yield start + -start % _ALIGNMENT
