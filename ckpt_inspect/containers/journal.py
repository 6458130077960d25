"""Edits in place that can always be undone.

The order of an edit: journal, flush; new bytes, flush (as often as asked); journal removed, flush. Hence:

* A journal that is not whole was never flushed, so the file was not touched yet; or the edit was complete
  and the removal of the journal was cut short. Either way the file is whole, and the journal is ignored.
* With a whole journal the old state can be had, however much of the edit has reached the disk: every byte
  below the old length that may have changed is in it, and what is above is cut off. Undoing only
  writes the same bytes again, so it can be killed and repeated.
* Where there is no journal, the edit has not begun, or all of it has been flushed.

``NAME.ckpt-journal`` is of one file, ``.ckpt-journal`` of several in its directory. Both are made, undone and
removed only by who holds the locks of all files in it; whoever writes one holds its lock too, for until it is
whole it names no files.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ..errors import CheckpointError, CorruptError, FileError, MissingFileError, UnsupportedError
from ..model.source import FileSource, _reason
from ..model.spelling import shell_path
from .copying import (
    Piece,
    Progress,
    check_room,
    check_unchanged,
    confirm,
    set_mode,
    size_of,
    sync,
    sync_directory,
    system_errors,
    write_pieces,
)
from .journal_file import Journal, Member, Range, load, witness, write_journal
from .output import JOURNAL
from .recovery import (
    NEW_FILE,
    OPEN,
    check_changeable,
    check_same,
    claimed,
    examine,
    journals_of,
    lock_or_refuse,
    names_of,
    open_source,
    pending,
    recover,
    settle,
)

__all__ = [
    "FileEdit",
    "InPlaceEdit",
    "Journal",
    "check_changeable",
    "edit",
    "edit_many",
    "examine",
    "open_source",
    "pending",
    "recover",
]


@contextlib.contextmanager
def edit(path: str, *, read: Iterable[FileSource] = ()) -> Iterator[FileEdit]:
    """Change one file in place: tell what is to be done, then ``commit()``. See ``edit_many``.

    Example:
        >>> with edit("run.pt") as file:
        ...     file.append(record)
        ...     file.barrier()
        ...     file.append(directory)
        ...     file.commit()
    """
    with edit_many([path], read=read) as whole:
        yield whole[path]


@contextlib.contextmanager
def edit_many(paths: Sequence[str], *, read: Iterable[FileSource] = ()) -> Iterator[InPlaceEdit]:
    """Change files of one directory in place, together, under one journal; the last one (the index) last.

    Nothing is touched before ``commit()``; without it nothing happens. If anything goes wrong, all files are
    at once as they were. An interrupted edit of any of the files is undone first.

    Args:
        paths: the files: regular, with one link, all in one directory.
        read: what they were read with: refused if they have changed since.

    Raises:
        UnsupportedError: it cannot be done safely here; the reason is named.
        FileError: the system refuses, or another rewrite of one of the files is going on.
        CorruptError: a file changed since it was read.
    """
    directory = os.path.dirname(paths[0])
    if len({os.path.dirname(os.path.abspath(path)) for path in paths}) != 1:
        raise UnsupportedError("not in place: the files lie in several directories", path=paths[-1], hint=NEW_FILE)
    names = {os.path.basename(path) for path in paths}
    journal = paths[0] + JOURNAL if len(paths) == 1 else os.path.join(directory, JOURNAL)
    with contextlib.ExitStack() as stack:
        with system_errors(paths[0], "cannot change it in place"):
            concerned = names.union(*(of for _, of in _concerning(paths)))
            held = stack.enter_context(claimed(directory, concerned))
            _check_read(read, held)
            for file, _ in _concerning(paths):
                settle(file, held)
        yield InPlaceEdit([FileEdit(path, held[os.path.basename(path)]) for path in paths], journal)


def _concerning(paths: Sequence[str]) -> list[tuple[str, set[str]]]:
    """The journals that concern these files, or stand in the way, with the files that each is about."""
    found = {file: names_of(file) for path in paths for file in journals_of(path)}
    names = {os.path.basename(path) for path in paths}
    return [(file, of) for file, of in found.items() if of & names or (not of and len(paths) > 1)]


def _check_read(read: Iterable[FileSource], held: Mapping[str, int]) -> None:
    for source in read:
        check_unchanged(source)
        fd = held.get(os.path.basename(source.path))
        if fd is not None and not os.path.sameopenfile(source.fd, fd):
            raise CorruptError("another file has taken its place since it was read", path=source.path)


class FileEdit:
    """What is to be done to one file, in order."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.status = os.fstat(fd)
        self.length = self.end = self.most = self.status.st_size
        self.whole: InPlaceEdit
        self.fd = fd
        self._steps: list[tuple[int, Sequence[Piece]] | None] = []  # None: a barrier

    def overwrite(self, offset: int, data: Piece) -> None:
        """Write over what is there."""
        if not 0 <= offset <= offset + size_of(data) <= self.end:
            raise ValueError("append what lies behind the end")
        self._write(offset, [data])

    def append(self, *pieces: Piece) -> None:
        """Write at the end."""
        self._write(self.end, pieces)
        self.end += _total(pieces)
        self.most = max(self.most, self.end)

    def truncate(self, length: int) -> None:
        """Let the file end here; what is appended next begins here."""
        if not 0 <= length <= self.end:
            raise ValueError("a file cannot be cut behind its end")
        self.end = length

    def barrier(self) -> None:
        """What was told so far is on the disk before what comes next."""
        self._steps.append(None)

    def commit(self, progress: Progress | None = None) -> int:
        """Do everything told to all files of this edit; gives the number of bytes written."""
        return self.whole.commit(progress)

    def _write(self, offset: int, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            where = None if isinstance(piece, bytes) else piece.file_range()
            if where is not None and os.path.samestat(os.fstat(where[0].fd), self.status):
                raise ValueError("a range of the file that is being changed")
        self._steps.append((offset, pieces))

    def changed(self) -> bool:
        return self.end != self.length or any(self._steps)

    def ranges(self) -> tuple[Range, ...]:
        """What of the old bytes will be gone."""
        gone = [(step[0], step[0] + _total(step[1])) for step in self._steps if step is not None]
        gone.append((self.end, self.length))
        merged: list[list[int]] = []
        for start, end in sorted((start, min(end, self.length)) for start, end in gone):
            if merged and start <= merged[-1][1]:
                merged[-1][1] = max(merged[-1][1], end)
            elif start < end:
                merged.append([start, end])
        return tuple((start, end - start) for start, end in merged)

    def member(self, source: FileSource) -> Member:
        """For the journal. Not every program that writes asks for the lock, so look again."""
        status = self.status
        if source.stamp != (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns):
            raise CorruptError("something else has written to it meanwhile", path=self.path)
        ranges = self.ranges()
        return Member(
            name=os.path.basename(self.path),
            device=status.st_dev,
            inode=status.st_ino,
            length=self.length,
            least=min(self.length, self.end),
            most=self.most,
            ranges=ranges,
            witness=witness(source, self.length, ranges),
        )

    def perform(self, progress: Progress | None) -> int:
        """Blocks are given back at the very end only: until then the way back needs no room."""
        written = 0
        for step in self._steps:
            if step is None:
                sync(self.fd)
            else:
                os.lseek(self.fd, step[0], os.SEEK_SET)
                written += write_pieces(self.fd, step[1], progress)
        sync(self.fd)
        if self.end < os.fstat(self.fd).st_size:
            os.ftruncate(self.fd, self.end)
            sync(self.fd)
        return written


class InPlaceEdit:
    """An edit of one or more files; ``edits[path]`` takes what is to be done to one of them."""

    def __init__(self, files: Sequence[FileEdit], journal: str) -> None:
        self._files = {file.path: file for file in files}
        self._journal = journal
        self._committed = False
        for file in files:
            file.whole = self

    def __getitem__(self, path: str) -> FileEdit:
        return self._files[path]

    def commit(self, progress: Progress | None = None) -> int:
        """Do it: all, or nothing; gives the number of bytes written."""
        if self._committed:
            raise ValueError("an edit is committed once")
        self._committed = True
        files = [file for file in self._files.values() if file.changed()]
        if not files:
            return 0
        with system_errors(files[0].path, "not changed"):
            lock_fd = self._begin(files)
            try:
                written = self._perform(files, progress)
            finally:
                os.close(lock_fd)
            confirm(os.path.dirname(self._journal), files[0].path)
        return written

    def _begin(self, files: Sequence[FileEdit]) -> int:
        """The journal, on the disk. Gives the descriptor that holds its lock."""
        directory = os.path.dirname(self._journal)
        sources = [FileSource(file.path) for file in files]
        members = [file.member(source) for file, source in zip(files, sources, strict=True)]
        old_bytes = sum(nbytes for member in members for _, nbytes in member.ranges)
        check_room(directory, old_bytes + sum(member.most - member.length for member in members))
        fd = self._create()
        try:
            set_mode(fd, files[0].status.st_mode & 0o666, files[0].status)
            write_journal(fd, members, sources)
            sync_directory(directory)
            for source in sources:
                check_unchanged(source)
        except BaseException:
            try:
                os.unlink(self._journal)
            finally:
                os.close(fd)
            raise
        return fd

    def _create(self) -> int:
        try:
            fd = os.open(self._journal, OPEN | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            hint = f"Undo it first: ckpt recover {shell_path(os.path.dirname(self._journal) or '.')}"
            raise FileError("another edit was interrupted here, or goes on", path=self._journal, hint=hint) from None
        try:
            lock_or_refuse(fd, self._journal)
            check_same(os.fstat(fd), self._journal)  # before it was locked it could be taken for a torn one
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _perform(self, files: Sequence[FileEdit], progress: Progress | None) -> int:
        try:
            written = sum(file.perform(progress) for file in files)
            os.unlink(self._journal)
        except BaseException as error:
            try:
                self._undo({os.path.basename(file.path): file.fd for file in files})
            except (OSError, CheckpointError) as failure:
                raise FileError(
                    f"the edit failed ({_said(error)}), and undoing it failed too: {_said(failure)}",
                    path=files[0].path,
                    hint=f"The old bytes are safe in {self._journal}. Then: ckpt recover {shell_path(files[0].path)}",
                ) from error
            raise
        return written

    def _undo(self, fds: Mapping[str, int]) -> None:
        """Everything as it was. Where the journal is gone, the edit is complete, and stays."""
        try:
            journal = load(self._journal)
        except MissingFileError:
            return
        if journal is None:
            raise FileError("the journal cannot be read back", path=self._journal)
        journal.restore(fds)
        os.unlink(self._journal)
        sync_directory(os.path.dirname(self._journal))


def _total(pieces: Iterable[Piece]) -> int:
    return sum(map(size_of, pieces))


def _said(error: BaseException) -> str:
    if isinstance(error, CheckpointError):
        return error.message
    return _reason(error) if isinstance(error, OSError) else type(error).__name__
