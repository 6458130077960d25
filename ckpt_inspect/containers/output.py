"""New files and directories, which appear whole or not at all.

A new file is written under a temporary name beside its target, flushed and renamed, and the directory
is flushed: at every moment the final name holds the old file or the new one, each of them whole.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

from ..errors import FileError, MissingFileError, OutputExistsError, SelectionError, UnsupportedError
from ..model.source import _special
from ..model.spelling import shell_path
from .copying import (
    Piece,
    Pieces,
    Progress,
    check_room,
    check_unchanged,
    confirm,
    lock,
    set_mode,
    size_of,
    sync,
    sync_directory,
    system_errors,
    write_pieces,
)

__all__ = [
    "JOURNAL",
    "Piece",
    "Pieces",
    "Progress",
    "check_directory",
    "check_file",
    "check_unchanged",
    "keep_read",
    "leftovers",
    "put_back",
    "replace_directory",
    "replace_file",
    "write_pieces",
]

JOURNAL = ".ckpt-journal"  # what an edit in place adds to a file's name, see journal.py
_BINARY = getattr(os, "O_BINARY", 0)

Check: TypeAlias = Callable[[], None]


def replace_file(
    path: str,
    pieces: Pieces,
    *,
    force: bool,
    like: str | None = None,
    total: int | None = None,
    flush: bool = True,
    progress: Progress | None = None,
    check: Check | None = None,
    out: str = "-o OUT",
) -> int:
    """Write a new file, which appears under its name whole or not at all; gives its size.

    An existing file is replaced with ``force``, and may be one of the sources. Of a symbolic link the
    *link* is replaced, never the file it points to: others rely on that one (a hub cache names it by its
    hash), and so nothing but a link is lost.

    Args:
        path: the target.
        pieces: its contents, as for ``write_pieces``.
        force: replace an existing file; it keeps its mode and owner.
        like: a new file gets the mode of this one.
        total: how many bytes there will be, to check the room first; known for a sequence.
        flush: False leaves the flushing to the system.
        progress: called with the number of bytes just written.
        check: called when all is written; if it raises, nothing gets the name.
        out: how the command line names the target, for what is to be typed.
    """
    parent = _parent(path)
    with system_errors(path, "cannot write", out), _claimed_file(path, force, out) as existing:
        check_room(parent, _total(pieces) if total is None else total, out)
        mode = existing.st_mode if existing is not None else _mode(like)
        temporary = _beside(path, "tmp")
        try:
            written = _write_new(temporary, pieces, mode, existing, flush, progress)
            if check is not None:
                check()
            _publish(temporary, path, force)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        if flush:
            confirm(parent, path)
        return written


def keep_read(out: str, read: Iterable[str], what: str, option: str = "-o OUT") -> None:
    """Refuse a target that would replace one of the files that are read, whatever names lead there.

    Raises:
        SelectionError: it is one of them, or a directory that one of them lies in; ``what`` says what they are.
    """
    if not os.path.exists(out):
        return
    inside = os.path.join(os.path.realpath(out), "") if os.path.isdir(out) else None
    for path in read:
        if not os.path.exists(path):
            continue
        if os.path.samefile(path, out) or (inside is not None and os.path.realpath(path).startswith(inside)):
            held = "" if os.path.samefile(path, out) else f", and {path} lies in it"
            raise SelectionError(f"{what} is not overwritten{held}", path=out, hint=f"Write to a new name: {option}")


def _parent(path: str) -> str:
    parent = os.path.dirname(path) or "."
    if not os.path.isdir(parent):
        raise MissingFileError("there is no such directory", path=parent, hint=f"mkdir -p {shell_path(parent)}")
    return parent


@contextlib.contextmanager
def _claimed_file(path: str, force: bool, out: str) -> Iterator[os.stat_result | None]:
    """The target, checked; one that is there is locked, so that no second rewrite of it can run."""
    status, final = _replaceable_file(path, force, out)
    link = status is not None and stat.S_ISLNK(status.st_mode)
    with _locked(path) if final is not None and not link else contextlib.nullcontext():
        _refuse_pending(path, status)
        yield final


def _replaceable_file(path: str, force: bool, out: str) -> tuple[os.stat_result | None, os.stat_result | None]:
    """What is there under this name, and the file that it leads to, where they may be replaced."""
    status = _existing(path)
    link = status is not None and stat.S_ISLNK(status.st_mode)
    if status is not None and stat.S_ISDIR(status.st_mode):
        option, _, word = out.partition(" ")
        hint = f"Name a file in it: {option} {os.path.join(path, word)}"
        raise UnsupportedError("it is a directory, not a file to be replaced", path=path, hint=hint)
    if status is not None and not force:
        which = f" (a symbolic link to {os.readlink(path)}; the link would be replaced)" if link else ""
        raise OutputExistsError(f"it exists already{which}", path=path, hint="Replace it with --force")
    final = _existing(path, follow=True)
    if final is not None and not stat.S_ISREG(final.st_mode):
        raise UnsupportedError(f"it is {_special(final.st_mode)}, not a file to be replaced", path=path)
    return status, final


def _refuse_pending(path: str, status: os.stat_result | None) -> None:
    for journal in (path + JOURNAL, os.path.join(os.path.dirname(path), JOURNAL)):
        # It must not outlive the file it belongs to: it would be taken for one of the new file.
        if os.path.lexists(journal) and (status is not None or journal == path + JOURNAL):
            hint = (
                f"ckpt recover {shell_path(path)}"
                if status is not None
                else f"If that file is gone, remove {shell_path(journal)}"
            )
            raise UnsupportedError(f"an edit in place was interrupted: {journal}", path=path, hint=hint)


def check_file(path: str, nbytes: int, *, force: bool) -> None:
    """Refuse what ``replace_file`` would refuse before its first byte; nothing is written or locked."""
    parent = _parent(path)
    with system_errors(path, "cannot write"):
        status, _ = _replaceable_file(path, force, "-o OUT")
        _refuse_pending(path, status)
        check_room(parent, nbytes)
        _check_allowed(parent)


def _check_allowed(parent: str) -> None:
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    """Hold the lock of an existing target, where it can be read and there are locks."""
    fd = -1
    try:
        try:
            fd = os.open(path, os.O_RDONLY | _BINARY)
            lock(fd)
        except BlockingIOError:
            raise FileError(
                "another rewrite of it is going on", path=path, hint="Try again when that one is done."
            ) from None
        except OSError:
            pass
        yield
    finally:
        if fd >= 0:
            os.close(fd)


def _existing(path: str, follow: bool = False) -> os.stat_result | None:
    try:
        return os.stat(path, follow_symlinks=follow)
    except FileNotFoundError:
        return None


def _mode(like: str | None) -> int | None:
    return None if like is None else os.stat(like).st_mode


def _total(pieces: Pieces) -> int | None:
    return sum(map(size_of, pieces)) if isinstance(pieces, Sequence) else None


def _write_new(
    path: str,
    pieces: Pieces,
    mode: int | None,
    owner: os.stat_result | None,
    flush: bool,
    progress: Progress | None,
) -> int:
    """A file that was not there before; nobody else reads it before it has its mode."""
    private = 0o666 if mode is None else 0o600
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, private)
    try:
        with contextlib.suppress(OSError):
            lock(fd)  # says that this run is alive, see leftovers
        written = write_pieces(fd, pieces, progress)
        set_mode(fd, mode, owner)
        if flush:
            sync(fd)
    finally:
        os.close(fd)
    return written


def _publish(temporary: str, path: str, force: bool) -> None:
    """Rename; without force never over a file that has appeared meanwhile."""
    if not force:
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise OutputExistsError("it has appeared meanwhile", path=path, hint="Replace it with --force") from None
        except OSError:  # no hard links here
            if os.path.lexists(path):
                raise OutputExistsError("it exists already", path=path, hint="Replace it with --force") from None
        else:
            _discard(temporary)
            return
    os.replace(temporary, path)


def _discard(temporary: str) -> None:
    """Take away the second name of what is published: that it fails is no failure to write."""
    for _ in range(2):
        with contextlib.suppress(OSError):
            os.unlink(temporary)
            return


# --- A new directory -------------------------------------------------------------------------------------------


def replace_directory(
    path: str,
    files: Mapping[str, Pieces],
    *,
    force: bool,
    replaces: Collection[str] = (),
    like: str | None = None,
    total: int | None = None,
    progress: Progress | None = None,
    check: Check | None = None,
) -> int:
    """Write a new directory of files, which appears whole or not at all; gives the number of bytes.

    An existing directory is replaced with ``force`` as one: the old one is moved aside and removed last.
    If it holds anything but ``files`` and ``replaces``, that would be lost, and it is refused.

    Args:
        path: the target.
        files: what is to be in it, by name; ``part/name`` is in a directory of it.
        force: replace an existing directory.
        replaces: names in an existing directory that may go.
        like: the files get the mode of this one.
        total: how many bytes there will be, to check the room first.
        progress: called with the number of bytes just written.
        check: called when all is written; if it raises, nothing gets the name.
    """
    path = path.rstrip(os.sep) or path
    parent = _parent(path)
    with system_errors(path, "cannot write"), _claimed_directory(path, {*files, *replaces}, force) as existing:
        if total is None:
            totals = [_total(pieces) for pieces in files.values()]
            total = None if None in totals else sum(filter(None, totals))
        check_room(parent, total)
        temporary, aside = _beside(path, "tmp"), _beside(path, "old")
        try:
            written = _write_directory(temporary, files, _mode(like), existing, progress)
            if check is not None:
                check()
            if existing is None:
                _publish_directory(temporary, path)
            else:
                _swap(temporary, path, aside)
        except BaseException:
            _remove(temporary)
            raise
        try:
            confirm(parent, path)
        except FileError as error:
            if existing is not None:  # neither is known to be on the disk
                error.hint = f"What was there before is kept: {aside}"
            raise
        if existing is not None and not _remove(aside):
            raise FileError(f"the new directory is in place, but the old one could not be removed: {aside}", path=path)
        return written


@contextlib.contextmanager
def _claimed_directory(path: str, known: Collection[str], force: bool) -> Iterator[os.stat_result | None]:
    status = _replaceable_directory(path, force)
    if status is None:
        yield None
        return
    with _locked(path):
        _refuse_others(path, known)
        yield status


def _replaceable_directory(path: str, force: bool) -> os.stat_result | None:
    status = _existing(path)
    if status is None:
        return None
    if not stat.S_ISDIR(status.st_mode):
        what = f"a symbolic link to {os.readlink(path)}" if stat.S_ISLNK(status.st_mode) else "a file"
        raise UnsupportedError(f"it is {what}, not a directory to be replaced", path=path)
    if not force:
        raise OutputExistsError("it exists already", path=path, hint="Replace it with --force")
    return status


def _refuse_others(path: str, known: Collection[str]) -> None:
    others = sorted(_others(path, "", known))
    if others:
        named = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
        raise UnsupportedError(
            f"it holds what is no part of the checkpoint and would be lost: {named}",
            path=path,
            hint="Write to a new directory: -o OUT",
        )


def check_directory(path: str, known: Collection[str], nbytes: int, *, force: bool) -> None:
    """Refuse what ``replace_directory`` would refuse before its first byte; nothing is written or locked."""
    path = path.rstrip(os.sep) or path
    parent = _parent(path)
    with system_errors(path, "cannot write"):
        status = _replaceable_directory(path, force)
        if status is not None:
            _refuse_others(path, known)
        check_room(parent, nbytes)
        _check_allowed(parent)


def _others(path: str, below: str, known: Collection[str]) -> Iterator[str]:
    """What is in a directory beside the files ``known``; directories that hold none of those as a whole."""
    with os.scandir(os.path.join(path, below)) as entries:
        for entry in entries:
            name = below + entry.name
            if entry.is_dir(follow_symlinks=False) and any(one.startswith(f"{name}/") for one in known):
                yield from _others(path, f"{name}/", known)
            elif name not in known or entry.is_dir(follow_symlinks=False):
                yield name


def _write_directory(
    path: str,
    files: Mapping[str, Pieces],
    mode: int | None,
    existing: os.stat_result | None,
    progress: Progress | None,
) -> int:
    os.mkdir(path, 0o777 if existing is None else 0o700)
    fd = os.open(path, os.O_RDONLY) if os.name != "nt" else -1
    try:
        with contextlib.suppress(OSError):
            lock(fd)
        written = 0
        made: dict[str, None] = {}
        for name, pieces in files.items():
            _make_above(path, name, existing, made)
            written += _write_new(os.path.join(path, name), pieces, mode, existing, True, progress)
        if existing is not None and fd >= 0:
            set_mode(fd, existing.st_mode, existing)
        for directory in reversed([path, *made]):
            sync_directory(directory)
        return written
    finally:
        if fd >= 0:
            os.close(fd)


def _make_above(path: str, name: str, existing: os.stat_result | None, made: dict[str, None]) -> None:
    """The directories that ``name`` is in, below ``path``, which is new: nothing in it can be a link."""
    parts = name.split("/")
    if any(part in ("", ".", "..") or part != os.path.basename(part) for part in parts):
        raise ValueError(f"not a name of a file in it: {name!r}")
    for part in parts[:-1]:
        path = os.path.join(path, part)
        if path not in made:
            os.mkdir(path, 0o777 if existing is None else stat.S_IMODE(existing.st_mode) | 0o700)
            made[path] = None


def _publish_directory(temporary: str, path: str) -> None:
    try:
        os.rename(temporary, path)
    except OSError as error:
        if os.path.lexists(path):
            raise OutputExistsError("it has appeared meanwhile", path=path, hint="Replace it with --force") from error
        raise


def _swap(new: str, path: str, aside: str) -> None:
    """``new`` becomes ``path``, and what was there becomes ``aside``; in one step where the system can."""
    if _exchange(new, path):
        try:
            os.rename(new, aside)
        except BaseException:
            _exchange(new, path)
            raise
        return
    try:
        os.rename(path, aside)
        os.rename(new, path)
    except BaseException:
        if os.path.lexists(aside) and not os.path.lexists(path):
            os.rename(aside, path)
        raise


def _exchange(one: str, other: str) -> bool:
    """renameat2(2) with RENAME_EXCHANGE: there is no moment at which either name is missing."""
    if sys.platform != "linux":
        return False
    import ctypes

    at_cwd, exchange = -100, 2
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):
        return False
    return bool(renameat2(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), exchange) == 0)


def _remove(directory: str) -> bool:
    import shutil

    shutil.rmtree(directory, ignore_errors=True)
    return not os.path.lexists(directory)


# --- What a killed run leaves ----------------------------------------------------------------------------------


def _beside(path: str, kind: str) -> str:
    directory, name = os.path.split(path)
    return os.path.join(directory, f"{_prefix(name)}{kind}-{os.getpid()}-{os.urandom(8).hex()}")


def _prefix(name: str) -> str:
    """A name has at most 255 bytes."""
    return f".{os.fsencode(name)[:200].decode('utf-8', 'ignore')}.ckpt-"


def leftovers(path: str) -> list[str]:
    """The temporary files and directories that killed runs have left beside ``path``; not those of living runs."""
    directory, name = os.path.split(path.rstrip(os.sep))
    ours = re.compile(re.escape(_prefix(name)) + r"(tmp|old)-[0-9]+-[0-9a-f]{16}")
    try:
        names = os.listdir(directory or ".")
    except OSError:
        return []
    found = [os.path.join(directory, found) for found in sorted(names) if ours.fullmatch(found)]
    return [stray for stray in found if not _alive(stray)]


def put_back(path: str) -> bool:
    """Give a directory its name back, if a run was killed after moving it aside and before the new one had it."""
    aside = [stray for stray in leftovers(path) if ".ckpt-old-" in os.path.basename(stray)]
    if os.path.lexists(path) or len(aside) != 1:
        return False
    with system_errors(path, "cannot move it back", ""):
        os.rename(aside[0], path)
        sync_directory(os.path.dirname(path))
    return True


def _alive(temporary: str) -> bool:
    try:
        fd = os.open(temporary, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return False
    try:
        lock(fd)
    except BlockingIOError:
        return True
    except OSError:
        pass
    finally:
        os.close(fd)
    return False
