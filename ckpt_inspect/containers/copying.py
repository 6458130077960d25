"""The one copy loop of the project, and what the system says and promises while one writes."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from ..errors import CheckpointError, CorruptError, FileError, MissingFileError
from ..model.made import Joined, ranges_of
from ..model.source import COPY_CHUNK, FileSource, Source, _reason

Piece: TypeAlias = bytes | Source
Pieces: TypeAlias = Iterable[Piece]
Progress: TypeAlias = Callable[[int], None]

_KERNEL_CHUNK = 16 << 20
_BUFFER = 1 << 21
_PAGE = 1 << 16  # or more than one
_SMALL = 1 << 16  # a piece up to this size is gathered with its neighbours into one write
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
CHANGED = "it changed while it was read"
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_DIRECTORY_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.ENOTSUP)


def _kernel_copies() -> bool:
    return hasattr(os, "copy_file_range")


def write_pieces(out_fd: int, pieces: Pieces, progress: Progress | None = None) -> int:
    """Write the pieces one after the other where ``out_fd`` stands; gives the number of bytes.

    Ranges of files are copied in the kernel where it can, else through one buffer. Memory is bounded by a chunk,
    whatever the pieces.

    Args:
        out_fd: a descriptor open for writing.
        pieces: bytes, or sources; taken one at a time.
        progress: called with the number of bytes just written.

    Raises:
        CorruptError: a source is shorter than it says, or its file has changed since it was opened.
        OSError: the output refused, as the system says it; ``system_errors`` adds the path.
    """
    copy = _Copy(out_fd, progress)
    for piece in pieces:
        copy.add(piece)
    copy.flush()
    for file in copy.files:
        check_unchanged(file)
    return copy.total


class _Copy:
    """One run of the copy loop."""

    def __init__(self, fd: int, progress: Progress | None) -> None:
        self.fd = fd
        self.progress = progress
        self.total = 0
        self.files: dict[FileSource, None] = {}  # by identity, in order
        self._small: list[bytes] = []
        self._gathered = 0
        self._begun = 0
        self._kernel = _kernel_copies()
        self._buffer = memoryview(b"")

    def add(self, piece: Piece) -> None:
        if isinstance(piece, bytes):
            if len(piece) <= _SMALL:
                self._gather(piece)
            else:
                self.flush()
                self._write(piece)
            return
        if isinstance(piece, Joined):  # each as it can be copied best
            for part in piece.pieces:
                self.add(part)
            return
        where = piece.file_range()
        for file, _, _ in ranges_of(piece):
            if file not in self.files:
                check_unchanged(file)
                self.files[file] = None
        if piece.size <= _SMALL:
            self._gather(_exactly(piece, 0, piece.size))
            return
        self.flush()
        if where is not None:
            done = self._in_kernel(*where, piece.size)
            self._through_buffer(where[0], where[1] + done, piece.size - done)
            return
        for start in range(0, piece.size, COPY_CHUNK):
            self._write(_exactly(piece, start, min(COPY_CHUNK, piece.size - start)))

    def flush(self) -> None:
        if self._gathered:
            data = b"".join(self._small)
            self._small.clear()
            self._gathered = 0
            self._write(data)

    def _gather(self, data: bytes) -> None:
        self._small.append(data)
        self._gathered += len(data)
        if self._gathered >= COPY_CHUNK:
            self.flush()

    def _through_buffer(self, file: FileSource, offset: int, nbytes: int) -> None:
        if nbytes and not self._buffer:
            self._buffer = memoryview(bytearray(_BUFFER))
        end = offset + nbytes
        while offset < end:
            part = self._buffer[: min(_BUFFER, end - offset)]
            _check_whole(file.read_into(offset, part), len(part), file.path)
            self._write(part)
            offset += len(part)

    def _write(self, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        while rest:
            try:
                count = os.write(self.fd, rest[:_KERNEL_CHUNK])
            except InterruptedError:
                continue
            if count == 0:
                raise OSError(errno.EIO, "the system takes no more bytes")
            rest = rest[count:]
            self._advance(count)

    def _in_kernel(self, file: FileSource, offset: int, nbytes: int) -> int:
        """Copies what the kernel is willing to copy.

        Whatever it refuses (another file system, no such call, an error of either side), the plain loop
        goes on from there and meets the true error where it belongs. Zero bytes: the file ended, or one
        of the file systems that answer so instead of refusing.
        """
        done = 0
        while done < nbytes and self._kernel:
            try:
                count = os.copy_file_range(file.fd, self.fd, min(_KERNEL_CHUNK, nbytes - done), offset + done)
            except InterruptedError:
                continue
            except OSError:
                count = 0
            self._kernel = count > 0
            done += count
            self._advance(count)
        return done

    def _advance(self, count: int) -> None:
        self.total += count
        if self.total - self._begun >= _KERNEL_CHUNK:
            self._begin_flush()
        if self.progress is not None and count:
            self.progress(count)

    def _begin_flush(self) -> None:
        """Let the disk begin with what is written, so that the flush at the end finds little to do (Linux).

        Not with the last page, which is still to be written to.
        """
        nbytes, self._begun = self.total - self._begun, self.total
        if hasattr(os, "posix_fadvise"):
            with contextlib.suppress(OSError):
                end = os.lseek(self.fd, 0, os.SEEK_CUR)
                start = (end - nbytes) // _PAGE * _PAGE
                os.posix_fadvise(self.fd, start, end // _PAGE * _PAGE - start, os.POSIX_FADV_DONTNEED)


def _exactly(source: Source, offset: int, nbytes: int) -> bytes:
    data = source.read_at(offset, nbytes)
    _check_whole(len(data), nbytes, source.path)
    return data


def _check_whole(there: int, nbytes: int, path: str) -> None:
    if there != nbytes:
        raise CorruptError(f"{CHANGED}, or is shorter than it says: {nbytes - there:,} bytes are missing", path=path)


def size_of(piece: Piece) -> int:
    return len(piece) if isinstance(piece, bytes) else piece.size


def check_unchanged(source: FileSource) -> None:
    """Raises CorruptError if the file was written to since it was opened."""
    if source.changed():
        raise CorruptError(CHANGED, path=source.path, hint="Try again when nothing writes to it.")


# --- What the system says and promises -------------------------------------------------------------------------


@contextlib.contextmanager
def system_errors(path: str, doing: str, out: str = "-o OUT") -> Iterator[None]:
    """What the system refuses becomes a FileError that names the path and the way out.

    ``out`` is how the command line names another place; ``""`` if there is no other.
    """
    try:
        yield
    except CheckpointError:
        raise
    except OSError as error:
        hint = None
        if error.errno in _NO_ROOM:
            hint = _make_room(out)
        elif error.errno in _NOT_ALLOWED and out:
            hint = f"Write to a place that is yours: {out}"
        kind = MissingFileError if isinstance(error, FileNotFoundError) else FileError
        raise kind(f"{doing}: {_reason(error)}", path=path, hint=hint) from error


def _make_room(out: str) -> str:
    return f"Free some room, or write to another disk: {out}" if out else "Free some room."


def sync(fd: int) -> None:
    """Flush a file to the disk, as far as the system promises."""
    if sys.platform == "darwin":  # fsync(2) stops at the cache of the drive there
        import fcntl

        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
            return
    while True:
        try:
            os.fsync(fd)
            return
        except InterruptedError:
            continue


def sync_directory(path: str) -> None:
    """Flush the names in a directory, where the system has such a thing."""
    if os.name == "nt":
        return
    fd = os.open(path or ".", os.O_RDONLY)
    try:
        sync(fd)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_SYNC:
            raise
    finally:
        os.close(fd)


def confirm(directory: str, path: str) -> None:
    """The last step of writing ``path``: its name, or that of a journal that is gone, on the disk.

    Raises:
        FileError: the system refuses; all is done by then, and only a loss of power could undo it.
    """
    with system_errors(path, "it is written, but the disk does not confirm it"):
        sync_directory(directory)


def lock(fd: int) -> None:
    """Take the exclusive lock of an open file without waiting; it ends when ``fd`` is closed.

    Raises:
        BlockingIOError: it is taken.
        OSError: there are no locks here.
    """
    try:
        import fcntl
    except ImportError:
        raise OSError(errno.ENOSYS, "this system has no file locks") from None
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def check_room(directory: str, nbytes: int | None, out: str = "-o OUT") -> None:
    """Raises FileError if ``nbytes`` more do not fit, and says how many are missing."""
    if nbytes is None:
        return
    import shutil

    usage = shutil.disk_usage(directory or ".")
    missing = nbytes - usage.free
    if missing > 0 and usage.total > 0:  # file systems without a size say 0
        raise FileError(
            f"not enough room: {nbytes:,} bytes are to be written, {missing:,} more than are free",
            path=directory or ".",
            hint=_make_room(out),
        )


def set_mode(fd: int, mode: int | None, owner: os.stat_result | None = None) -> None:
    """Give a new file the mode and, where the system lets us, the owner of another."""
    if not hasattr(os, "fchmod"):
        return
    if owner is not None and hasattr(os, "fchown"):
        with contextlib.suppress(OSError):
            os.fchown(fd, owner.st_uid, owner.st_gid)
    if mode is not None:
        with contextlib.suppress(PermissionError):  # file systems without modes
            os.fchmod(fd, mode & 0o777)
