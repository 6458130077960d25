"""What interrupted edits in place have left: the old state through a journal, undoing, and the locks all that needs."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator, Mapping

from ..errors import CorruptError, FileError, MissingFileError, UnsupportedError
from ..model.source import FileSource, Source, _reason, _special
from ..model.spelling import shell_path
from .copying import check_unchanged, lock, sync_directory, system_errors
from .journal_file import Journal, followed, load
from .output import JOURNAL, put_back

OPEN = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
NEW_FILE = "Write to a new file: -o OUT"


# --- Looking ---------------------------------------------------------------------------------------------------


def open_source(path: str) -> tuple[FileSource, Source, str]:
    """A file open for reading: the file, its content as it is or as it was before an edit, and a note about that."""
    for _ in range(3):
        file = FileSource(path)
        journal, note = examine(path)  # not before the file is open: an edit may begin in between
        if journal is not None:
            return file, journal.overlay(file), note
        with contextlib.suppress(CorruptError):
            check_unchanged(file)
            break
    return file, file, note  # something writes to it all the time; whoever reads it will see


def pending(path: str) -> Journal | None:
    """The journal through which a file is to be read, because an edit of it goes on or was interrupted."""
    return examine(path)[0]


def examine(path: str) -> tuple[Journal | None, str]:
    """As ``pending``, with a sentence about what was found; "" if there is no journal."""
    path = followed(path)
    note = ""
    for file in journals_of(path):
        try:
            journal = load(file)
        except MissingFileError:
            continue  # that edit has just been completed
        if journal is None:
            note = f"{file} was never finished, so the file is whole: it is ignored"
        elif os.path.basename(path) in journal.members:
            reason = journal.misfit(path)
            if not reason:
                return journal, (
                    "an edit in place was interrupted, or goes on: this is the file as it was before; "
                    f"undo it with: ckpt recover {shell_path(path)}"
                )
            note = f"{file} is ignored: {reason}"
    return None, note


def journals_of(path: str) -> list[str]:
    """The journals there are that may concern a file; of a directory, all that lie in it."""
    if os.path.isdir(path):
        return [os.path.join(path, name) for name in sorted(os.listdir(path)) if name.endswith(JOURNAL)]
    beside = (path + JOURNAL, os.path.join(os.path.dirname(path), JOURNAL))
    return [journal for journal in beside if os.path.lexists(journal)]


# --- Undoing ---------------------------------------------------------------------------------------------------


def recover(path: str, *, moved: bool = False) -> str:
    """Undo interrupted edits of a file, or of all files in a directory; says what was done.

    It may be killed and repeated at any time.

    Args:
        path: the file, a link to it, or a directory.
        moved: undo it also in a copy of the interrupted file; its other bytes are compared all the same.

    Raises:
        FileError: the edit is still going on.
        UnsupportedError: something else has written to the file since; undoing would destroy that.
    """
    path = followed(path)
    with system_errors(path, "cannot undo the edit", ""):
        if put_back(path):
            return f"{path}: moved back to where it was before an interrupted replacement"
        os.lstat(path)
        done = []
        for file in journals_of(path):
            with claimed(os.path.dirname(file), names_of(file), undo=True) as held:
                done.append(settle(file, held, moved))
        return "\n".join(filter(None, done)) or f"{path}: no edit of it was interrupted"


def names_of(file: str) -> set[str]:
    """The files that a journal is about: their locks are needed to touch it."""
    try:
        journal = load(file)
    except MissingFileError:
        return set()
    if journal is not None:
        return set(journal.members)
    name = os.path.basename(file).removesuffix(JOURNAL)
    return {name} if name else set()


def settle(file: str, held: Mapping[str, int], moved: bool = False) -> str:
    """Under the locks: undo what a journal tells, or drop one that was never finished; says what was done."""
    directory = os.path.dirname(file)
    try:
        fd = os.open(file, OPEN)
    except FileNotFoundError:
        return ""  # someone else has settled it
    try:
        lock_or_refuse(fd, file)
        journal = load(file)
        if journal is None:
            done = f"{file}: never finished, so nothing had been touched; removed"
        else:
            if not journal.members.keys() <= held.keys():
                raise FileError("another rewrite has come in between", path=file, hint="Try again.")
            for name in journal.members:
                reason = journal.misfit(os.path.join(directory, name), moved=moved)
                if reason:
                    hint = f"If the file is as you want it, remove {file}"
                    raise UnsupportedError(f"not undone: {reason}", path=os.path.join(directory, name), hint=hint)
            journal.restore(held)
            done = "\n".join(f"{os.path.join(directory, name)}: as it was before" for name in journal.members)
        os.unlink(file)
        sync_directory(directory)
        return done
    finally:
        os.close(fd)


# --- The locks -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def claimed(directory: str, names: Iterable[str], *, undo: bool = False) -> Iterator[dict[str, int]]:
    """The files open and locked, by name. To undo, a second link made since is no hindrance."""
    held: dict[str, int] = {}
    try:
        for name in sorted(set(names)):
            held[name] = _open_locked(os.path.join(directory, name), undo)
        yield held
    finally:
        for fd in held.values():
            os.close(fd)


def check_changeable(path: str) -> None:
    """Refuse what an edit in place would refuse before its first byte; nothing is written or locked."""
    with system_errors(path, "cannot change it in place", "-o OUT"):
        _check_kind(path, os.lstat(path), False)
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _open_locked(path: str, undo: bool) -> int:
    with system_errors(path, "cannot change it in place", "" if undo else "-o OUT"):
        _check_kind(path, os.lstat(path), undo)
        fd = os.open(path, OPEN)
        try:
            lock_or_refuse(fd, path)
            status = os.fstat(fd)
            _check_kind(path, status, undo)
            check_same(status, path)
        except BaseException:
            os.close(fd)
            raise
        return fd


def lock_or_refuse(fd: int, path: str) -> None:
    try:
        lock(fd)
    except BlockingIOError:
        raise FileError(
            "another rewrite of it is going on", path=path, hint="Try again when that one is done."
        ) from None
    except OSError as error:
        reason = _reason(error)
        raise UnsupportedError(f"not in place: no file locks here ({reason})", path=path, hint=NEW_FILE) from error


def check_same(status: os.stat_result, path: str) -> None:
    if not os.path.samestat(status, os.lstat(path)):
        raise FileError("another file has just taken its place", path=path, hint="Try again.")


def _check_kind(path: str, status: os.stat_result, undo: bool) -> None:
    if stat.S_ISLNK(status.st_mode):
        target = os.path.realpath(path)
        raise UnsupportedError(
            f"not in place: it is a symbolic link to {target}, and others may rely on that file",
            path=path,
            hint=f"Name {target} itself, or write to a new file: -o OUT",
        )
    if not stat.S_ISREG(status.st_mode):
        raise UnsupportedError(f"not in place: it is {_special(status.st_mode)}, not a regular file", path=path)
    if status.st_nlink > 1 and not undo:
        raise UnsupportedError(
            f"not in place: it has {status.st_nlink} names (hard links), and all of them would change",
            path=path,
            hint=NEW_FILE,
        )
    if not status.st_mode & 0o222:  # root would be let through
        # Nobody else may change the mode.
        mine = getattr(os, "geteuid", int)() in (0, status.st_uid)
        hint = f"chmod u+w {shell_path(path)}, or write to a new file: -o OUT" if mine else NEW_FILE
        raise FileError("not in place: it is marked read-only", path=path, hint=hint)
