"""The journal of an edit in place as bytes: what leads back to the state before.

The layout: ``MAGIC``; the length of the header, 8 bytes, little-endian; the header, JSON; the old bytes of all
ranges in order; SHA-256 of all that.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import CorruptError, UnsupportedError
from ..model.source import COPY_CHUNK, FileSource, Slice, Source
from .copying import Pieces, sync, write_pieces
from .output import JOURNAL

MAGIC = b"ckpt-journal 1\n"
_DIGEST = 32
_HEADER_LIMIT = 64 << 20
_SAMPLES, _SAMPLE = 32, 4096

Range = tuple[int, int]  # offset, number of bytes


class Member(NamedTuple):
    """One file of an edit: its old state, and what the edit may make of it."""

    name: str
    device: int  # not compared: devices are numbered anew when a machine starts
    inode: int
    length: int
    least: int  # the lengths it may have in between
    most: int
    ranges: tuple[Range, ...]  # what is overwritten or cut off, in order
    witness: str  # digest of samples of the other bytes
    at: int = 0  # where its old bytes begin in the journal


class Journal:
    """A whole journal: the way back to the state before an edit."""

    def __init__(self, source: FileSource, members: tuple[Member, ...]) -> None:
        self.source = source
        self.members = {member.name: member for member in members}

    @property
    def path(self) -> str:
        return self.source.path

    def overlay(self, source: FileSource) -> Source:
        """The file as it was before the edit. Stretches that the edit leaves alone stay ranges of the file."""
        member = self.members[os.path.basename(followed(source.path))]
        parts: list[Source] = []
        position, at = 0, member.at
        for offset, nbytes in member.ranges:
            parts += [source.slice(position, offset - position), self.source.slice(at, nbytes)]
            position, at = offset + nbytes, at + nbytes
        parts.append(source.slice(position, member.length - position))
        return Joined(parts, source.path)

    def restore(self, fds: Mapping[str, int]) -> None:
        """Give the files their old bytes and lengths again, and flush them. The locks are the caller's."""
        for member in self.members.values():
            fd, at = fds[member.name], member.at
            for offset, nbytes in member.ranges:
                os.lseek(fd, offset, os.SEEK_SET)
                write_pieces(fd, [self.source.slice(at, nbytes)])
                at += nbytes
            os.ftruncate(fd, member.length)
            sync(fd)

    def misfit(self, path: str, *, moved: bool = False) -> str:
        """Why the file at ``path`` is not what this edit can have left; "" if it is.

        Someone may have saved to the file since: undoing the edit would then destroy what they saved.
        """
        member = self.members[os.path.basename(path)]
        source = FileSource(path)
        try:
            if os.fstat(source.fd).st_ino != member.inode and not moved:
                return "it has been replaced by another file since"
            if not member.least <= source.size <= member.most:
                return "it has been written by something else since: its length does not fit"
            if witness(source, member.length, member.ranges) != member.witness:
                return "it has been written by something else since: its bytes do not fit"
            return ""
        finally:
            source.close()


class Joined:
    """Sources one after the other."""

    __slots__ = ("_parts", "_starts", "path", "size")

    def __init__(self, parts: Iterable[Source], path: str) -> None:
        self._parts = [part for part in parts if part.size]
        self._starts: list[int] = []
        self.path = path
        self.size = 0
        for part in self._parts:
            self._starts.append(self.size)
            self.size += part.size

    def read_at(self, offset: int, nbytes: int) -> bytes:
        found = []
        index = bisect_right(self._starts, offset) - 1
        while 0 <= index < len(self._parts) and nbytes > 0:
            within = offset - self._starts[index]
            wanted = min(nbytes, self._parts[index].size - within)
            data = self._parts[index].read_at(within, wanted)
            found.append(data)
            if len(data) < wanted:
                break
            offset, nbytes, index = offset + wanted, nbytes - wanted, index + 1
        return found[0] if len(found) == 1 else b"".join(found)

    def slice(self, offset: int, nbytes: int) -> Source:
        nbytes = min(nbytes, max(0, self.size - offset))
        index = bisect_right(self._starts, offset) - 1
        if nbytes and offset + nbytes <= self._starts[index] + self._parts[index].size:
            return self._parts[index].slice(offset - self._starts[index], nbytes)
        return Slice(self, offset, nbytes)

    def file_range(self) -> tuple[FileSource, int] | None:
        return self._parts[0].file_range() if len(self._parts) == 1 else None


def witness(source: FileSource, length: int, ranges: Iterable[Range]) -> str:
    """A digest of samples, evenly spread, of what an edit leaves alone; of all of it if that is little."""
    import hashlib

    stretches: list[Source] = []
    position = 0
    for offset, nbytes in ranges:
        stretches.append(source.slice(position, offset - position))
        position = offset + nbytes
    stretches.append(source.slice(position, length - position))
    untouched = Joined(stretches, source.path)
    digest = hashlib.sha256()
    last = max(0, untouched.size - _SAMPLE)
    for sample in range(_SAMPLES):
        digest.update(untouched.read_at(last * sample // (_SAMPLES - 1), _SAMPLE))
    return digest.hexdigest()


def write_journal(fd: int, members: Sequence[Member], sources: Sequence[FileSource]) -> None:
    """Write a journal to a new file, and flush it. ``sources``: the files of the members."""
    write_pieces(fd, _whole(members, sources))
    sync(fd)


def _whole(members: Sequence[Member], sources: Sequence[FileSource]) -> Pieces:
    import hashlib
    import json

    fields = [{key: value for key, value in member._asdict().items() if key != "at"} for member in members]
    header = json.dumps({"files": fields}).encode()
    digest = hashlib.sha256()
    for data in (MAGIC, len(header).to_bytes(8, "little"), header):
        digest.update(data)
        yield data
    for member, source in zip(members, sources, strict=True):
        for start, nbytes in member.ranges:
            for data in _chunks(source, start, start + nbytes):
                digest.update(data)
                yield data
    yield digest.digest()


def _chunks(source: Source, start: int, end: int) -> Iterator[bytes]:
    for offset in range(start, end, COPY_CHUNK):
        wanted = min(COPY_CHUNK, end - offset)
        data = source.read_at(offset, wanted)
        if len(data) != wanted:
            raise CorruptError("it became shorter while it was read", path=source.path)
        yield data


def load(path: str) -> Journal | None:
    """The journal in a file; None if it is not whole.

    Raises:
        FileError: it cannot be read, so nothing is known.
        UnsupportedError: a newer version of this program wrote it.
        CorruptError: it is whole, and says what no edit says.
    """
    import hashlib

    source = FileSource(path)
    start, end = len(MAGIC) + 8, source.size - _DIGEST
    if end < start:
        return None
    head = source.read_at(0, start)
    if head[: len(MAGIC)] != MAGIC:
        if re.match(rb"ckpt-journal [0-9]+\n", head):
            raise UnsupportedError("a newer ckpt-inspect wrote this journal", path=path, hint="Recover with that one.")
        return None
    digest = hashlib.sha256()
    for data in _chunks(source, 0, end):
        digest.update(data)
    if digest.digest() != source.read_at(end, _DIGEST):
        return None
    length = int.from_bytes(head[-8:], "little")
    if length > min(end - start, _HEADER_LIMIT):
        raise CorruptError("the journal's header has an impossible length", path=path)
    try:
        members = _members(
            source.read_at(start, length), os.path.basename(path).removesuffix(JOURNAL), start + length, end
        )
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CorruptError(f"the journal says what no edit says: {error}", path=path) from error
    return Journal(source, members)


def _members(header: bytes, only: str, at: int, end: int) -> tuple[Member, ...]:
    """Every bound is checked, and the names are confined to the directory: a journal may come from a stranger."""
    import json

    members = []
    for fields in json.loads(header)["files"]:
        member = _member(fields, at)
        if only:
            member = member._replace(name=only)  # file and journal may have been renamed together
        at += sum(nbytes for _, nbytes in member.ranges)
        members.append(member)
    names = [member.name for member in members]
    if len(set(names)) != len(names) or (only and len(names) != 1):
        raise ValueError(f"the files are {names}")
    if at != end:
        raise ValueError("the old bytes have another length")
    return tuple(members)


def _member(fields: dict[str, Any], at: int) -> Member:
    name = fields["name"]
    if not isinstance(name, str) or name != os.path.basename(name) or name in ("", ".", "..") or "\0" in name:
        raise ValueError(f"not a plain name: {name!r}")
    length, least, most = (_natural(fields[key]) for key in ("length", "least", "most"))
    ranges = tuple((_natural(offset), _natural(nbytes)) for offset, nbytes in fields["ranges"])
    position = 0
    for offset, nbytes in ranges:
        if offset < position or offset + nbytes > length:
            raise ValueError("the ranges overlap or leave the file")
        position = offset + nbytes
    inode, device = _natural(fields["inode"]), _natural(fields["device"])
    return Member(name, device, inode, length, least, most, ranges, str(fields["witness"]), at)


def _natural(number: object) -> int:
    if type(number) is not int or not 0 <= number < 1 << 64:
        raise ValueError(f"not a size: {number!r}")
    return number


def followed(path: str) -> str:
    """A journal lies beside the file itself, not beside a link to it."""
    return os.path.realpath(path) if os.path.islink(path) else path
