"""Bytes readable at an offset: a file, a stretch of one, bytes in memory."""

from __future__ import annotations

import os
import stat
from errno import ENXIO
from typing import Protocol

from ..errors import CorruptError, FileError, FormatError, MissingFileError

COPY_CHUNK = 1 << 20


class Source(Protocol):
    """Bytes readable at an offset.

    ``read_at`` gives fewer bytes than asked for only at the end of the source.
    """

    @property
    def size(self) -> int: ...
    @property
    def path(self) -> str: ...
    def read_at(self, offset: int, nbytes: int) -> bytes: ...
    def slice(self, offset: int, nbytes: int) -> Source: ...
    def file_range(self) -> tuple[FileSource, int] | None:
        """The file and the offset in it where this source begins, if it is a stretch of a file."""


class FileSource:
    """An open regular file. Read with ``pread``: mapped pages would count as memory, and can fault."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = -1
        try:
            # O_NONBLOCK: opening a FIFO that nobody writes must not hang.
            self.fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        except FileNotFoundError as error:
            raise MissingFileError("there is no such file", path=path) from error
        except OSError as error:
            if error.errno == ENXIO:  # a socket cannot be opened at all
                raise FormatError("this is a socket, not a regular file", path=path) from error
            raise FileError(_reason(error), path=path) from error
        except ValueError as error:  # a name that this system cannot spell
            raise FileError(str(error), path=path) from error
        try:
            status = os.fstat(self.fd)
            if not stat.S_ISREG(status.st_mode):
                raise FormatError(f"this is {_special(status.st_mode)}, not a regular file", path=path)
        except BaseException:
            os.close(self.fd)
            self.fd = -1
            raise
        self.size = status.st_size
        self.stamp = stamp(status)

    def changed(self) -> bool:
        """Whether it was written to since it was opened."""
        return stamp(os.fstat(self.fd)) != self.stamp

    def read_at(self, offset: int, nbytes: int) -> bytes:
        try:
            data = _pread(self.fd, nbytes, offset)
            while len(data) < nbytes:  # the kernel gives at most 2 GiB at once
                more = _pread(self.fd, nbytes - len(data), offset + len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            raise FileError(f"cannot read: {_reason(error)}", path=self.path, offset=offset) from error
        if len(data) < min(nbytes, self.size - offset):
            raise CorruptError(
                f"the file became shorter while it was read ({self.size:,} bytes when opened)",
                path=self.path,
                offset=offset,
            )
        return data

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill a buffer, which costs less than new bytes each time; fewer than it takes only at the end of the file."""
        done = 0
        try:
            while done < len(buffer) and (count := _preadv(self.fd, [buffer[done:]], offset + done)):
                done += count
        except OSError as error:
            raise FileError(f"cannot read: {_reason(error)}", path=self.path, offset=offset) from error
        return done

    def slice(self, offset: int, nbytes: int) -> Source:
        return Slice(self, offset, nbytes)

    def file_range(self) -> tuple[FileSource, int] | None:
        return self, 0

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __del__(self) -> None:
        self.close()


class Slice:
    """A stretch of another source."""

    __slots__ = ("base", "parent", "size")

    def __init__(self, parent: Source, offset: int, nbytes: int) -> None:
        self.parent = parent
        self.base = offset
        self.size = nbytes

    @property
    def path(self) -> str:
        return self.parent.path

    def read_at(self, offset: int, nbytes: int) -> bytes:
        return self.parent.read_at(self.base + offset, max(0, min(nbytes, self.size - offset)))

    def slice(self, offset: int, nbytes: int) -> Source:
        return Slice(self.parent, self.base + offset, min(nbytes, max(0, self.size - offset)))

    def file_range(self) -> tuple[FileSource, int] | None:
        whole = self.parent.file_range()
        return (whole[0], whole[1] + self.base) if whole else None


class BytesSource:
    """Bytes in memory: an inflated member, bytes inside a pickle."""

    __slots__ = ("data", "path")

    def __init__(self, data: bytes, path: str) -> None:
        self.data = data
        self.path = path

    @property
    def size(self) -> int:
        return len(self.data)

    def read_at(self, offset: int, nbytes: int) -> bytes:
        return self.data[offset : offset + nbytes]

    def slice(self, offset: int, nbytes: int) -> Source:
        return Slice(self, offset, min(nbytes, max(0, self.size - offset)))

    def file_range(self) -> tuple[FileSource, int] | None:
        return None


def stamp(status: os.stat_result) -> tuple[int, int, int, int]:
    """What tells one state of a file from another, as far as the system notes it."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _seek_and_read(fd: int, nbytes: int, offset: int) -> bytes:
    os.lseek(fd, offset, os.SEEK_SET)
    return os.read(fd, nbytes)


_pread = getattr(os, "pread", _seek_and_read)  # Windows has none


def _read_and_copy(fd: int, buffers: list[memoryview], offset: int) -> int:
    data = _pread(fd, len(buffers[0]), offset)
    buffers[0][: len(data)] = data
    return len(data)


_preadv = getattr(os, "preadv", _read_and_copy)  # nor this one


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _special(mode: int) -> str:
    for test, name in (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a character device"),
        (stat.S_ISBLK, "a block device"),
    ):
        if test(mode):
            return name
    return "a special file"
