"""Sources that are made of others when they are read: the bytes of a file that is not written yet."""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Any

from .source import BytesSource, FileSource, Source


class Joined:
    """Bytes and other sources, one after the other."""

    __slots__ = ("path", "pieces", "size", "starts")

    def __init__(self, path: str, pieces: Iterable[bytes | Source]) -> None:
        self.path = path
        self.pieces: list[Source] = [BytesSource(p, path) if isinstance(p, bytes) else p for p in pieces]
        self.starts: list[int] = []
        self.size = 0
        for piece in self.pieces:
            self.starts.append(self.size)
            self.size += piece.size

    def read_at(self, offset: int, nbytes: int) -> bytes:
        end = min(offset + nbytes, self.size)
        parts: list[bytes] = []
        index = bisect_right(self.starts, offset) - 1
        while offset < end:
            piece = self.pieces[index]
            inside = offset - self.starts[index]
            data = piece.read_at(inside, min(piece.size - inside, end - offset))
            if len(data) < min(piece.size - inside, end - offset):
                return b"".join([*parts, data])
            parts.append(data)
            offset += len(data)
            index += 1
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def slice(self, offset: int, nbytes: int) -> Source:
        """A stretch; within one piece it is a stretch of that, which the kernel may be able to copy."""
        nbytes = min(nbytes, max(0, self.size - offset))
        index = bisect_right(self.starts, offset) - 1
        while index >= 0 and self.starts[index] <= offset:
            piece, inside = self.pieces[index], offset - self.starts[index]
            if inside + nbytes <= piece.size:
                return piece if not inside and nbytes == piece.size else piece.slice(inside, nbytes)
            index -= 1
        return Joined(self.path, self._between(offset, offset + nbytes))

    def _between(self, start: int, stop: int) -> Iterator[Source]:
        """The pieces of a stretch, the first and the last cut."""
        for piece, begin in zip(self.pieces, self.starts, strict=True):
            first, last = max(start, begin), min(stop, begin + piece.size)
            if first < last:
                yield piece if last - first == piece.size else piece.slice(first - begin, last - first)

    def file_range(self) -> tuple[FileSource, int] | None:
        return self.pieces[0].file_range() if len(self.pieces) == 1 else None


class Summed:
    """A source whose CRC-32 is known once it was read from its beginning to its end."""

    __slots__ = ("_crc", "_end", "source")

    def __init__(self, source: Source) -> None:
        self.source = source
        self._crc = 0
        self._end = 0

    @property
    def size(self) -> int:
        return self.source.size

    @property
    def path(self) -> str:
        return self.source.path

    def read_at(self, offset: int, nbytes: int) -> bytes:
        data = self.source.read_at(offset, nbytes)
        if offset == self._end:
            self._crc = zlib.crc32(data, self._crc)
            self._end += len(data)
        return data

    def slice(self, offset: int, nbytes: int) -> Source:
        return self.source.slice(offset, nbytes)

    def file_range(self) -> None:
        return None

    @property
    def crc(self) -> int:
        """Of all that was read."""
        assert self._end == self.size, "asked for before everything was read"
        return self._crc


def ranges_of(source: Any) -> Iterator[tuple[FileSource, int, int]]:
    """The stretches of files that a source is read from: file, offset, length.

    Of one that is computed, all of what it may read.
    """
    waiting: list[Any] = [source]
    while waiting:
        found = waiting.pop()
        place = found.file_range()
        if place is not None:
            yield *place, found.size
        elif isinstance(found, Joined):
            waiting += found.pieces
        else:
            waiting += [
                part for name in ("parent", "source", "compressed") if (part := getattr(found, name, None)) is not None
            ]
