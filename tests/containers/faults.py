"""Faults where the code meets the system: the n-th call fails, is cut short, or is the last one of a killed process.

And a machine that loses power: from a record of the calls, the states that the disk may be in afterwards, where
nothing counts but what was flushed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ckpt_inspect.model import source

RECORDED = ("open", "write", "copy_file_range", "fsync", "ftruncate", "link", "unlink", "rename", "replace")
CHANGING = (*RECORDED, "mkdir", "rmdir", "fchmod")
READS = ("pread", "preadv")
ALL = (*CHANGING, *READS, "lseek")


class Dead(BaseException):
    """The process was killed: whatever it would have done now does not happen."""


class Calls:
    """How many there were, and whether the process is dead."""

    def __init__(self) -> None:
        self.count = 0
        self.dead = False


Act = Callable[[Calls, str, Callable[..., Any], Any, Any], Any]


@contextlib.contextmanager
def faulty(nth: int, act: Act, counted: tuple[str, ...] = ALL) -> Iterator[Calls]:
    """The ``nth`` call of the counted functions of ``os`` is ``act``'s."""
    calls = Calls()
    real = {name: getattr(_home(name), _inner(name)) for name in ALL}

    def wrapped(name: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            calls.count += name in counted
            if calls.dead:
                raise Dead
            if calls.count == nth and name in counted:
                return act(calls, name, real[name], args, options)
            return real[name](*args, **options)

        return call

    for name in ALL:
        setattr(_home(name), _inner(name), wrapped(name))
    try:
        yield calls
    finally:
        for name, function in real.items():
            setattr(_home(name), _inner(name), function)


def _home(name: str) -> Any:
    return source if name in READS else os


def _inner(name: str) -> str:
    return f"_{name}" if name in READS else name


def every_call(act: Act, counted: tuple[str, ...] = ALL) -> Iterator[contextlib.AbstractContextManager[Calls]]:
    """One context for every call there is; ends after one in which the fault was not met any more."""
    nth = 0
    met: list[Calls] = []

    @contextlib.contextmanager
    def one() -> Iterator[Calls]:
        with faulty(nth, act, counted) as calls:
            met.append(calls)
            yield calls

    while not met or met[-1].count >= nth:
        nth += 1
        yield one()
    assert nth > 2, "the fault was never met"


def failing(code: int) -> Act:
    def act(calls: Calls, name: str, real: Callable[..., Any], args: Any, options: Any) -> Any:
        raise OSError(code, os.strerror(code))

    return act


def interrupting(calls: Calls, name: str, real: Callable[..., Any], args: Any, options: Any) -> Any:
    """Control-C: Python raises it when the call is done."""
    real(*args, **options)
    raise KeyboardInterrupt


def short(calls: Calls, name: str, real: Callable[..., Any], args: Any, options: Any) -> Any:
    if name == "write":
        return real(args[0], args[1][: max(1, len(args[1]) // 2)])
    if name == "copy_file_range":
        return real(args[0], args[1], max(1, args[2] // 2), *args[3:])
    return real(*args, **options)


def eintr(calls: Calls, name: str, real: Callable[..., Any], args: Any, options: Any) -> Any:
    if name in ("write", "copy_file_range", "fsync"):
        raise InterruptedError(errno.EINTR, "interrupted")
    return real(*args, **options)


def killed(when: str) -> Act:
    """Before the call, after it, or when half of what it writes is written."""

    def act(calls: Calls, name: str, real: Callable[..., Any], args: Any, options: Any) -> Any:
        calls.dead = True
        if when == "after":
            real(*args, **options)
        elif when == "half" and name in ("write", "copy_file_range"):
            short(calls, name, real, args, options)
        raise Dead

    return act


def dying(code: int) -> Act:
    """From this call on the disk is gone: everything that changes something fails."""

    def act(calls: Calls, name: str, real: Callable[..., Any], args: Any, options: Any) -> Any:
        for other in CHANGING:
            setattr(os, other, lambda *args, **options: failing(code)(calls, "", real, (), {}))
        raise OSError(code, os.strerror(code))

    return act


# --- Loss of power ---------------------------------------------------------------------------------------------


class Call(NamedTuple):
    """What reached the system. ``file`` is an inode number; names are relative to the directory."""

    kind: str  # write, truncate, flush, create, link, rename, unlink, flush names
    file: int = 0
    offset: int = 0
    data: bytes = b""
    name: str = ""
    other: str = ""


class Recorder:
    """Records what is done in one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = str(directory)
        self.calls: list[Call] = []
        self.names = {path.name: path.stat().st_ino for path in directory.iterdir()}
        self.contents = {path.stat().st_ino: path.read_bytes() for path in directory.iterdir()}

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        names = RECORDED
        real = {name: getattr(os, name) for name in names}

        def note(kind: str, **fields: Any) -> None:
            self.calls.append(Call(kind, **fields))

        def opened(path: Any, flags: int, mode: int = 0o777, **options: Any) -> int:
            new = flags & os.O_CREAT and not os.path.lexists(path)
            fd: int = real["open"](path, flags, mode, **options)
            if new:
                note("create", file=os.fstat(fd).st_ino, name=os.path.basename(path))
            return fd

        def write(fd: int, data: Any) -> int:
            offset = os.lseek(fd, 0, os.SEEK_CUR)
            count: int = real["write"](fd, data)
            note("write", file=os.fstat(fd).st_ino, offset=offset, data=bytes(data[:count]))
            return count

        def refuse(*args: Any) -> int:
            raise OSError(errno.ENOSYS, "no such call")

        def ftruncate(fd: int, length: int) -> None:
            real["ftruncate"](fd, length)
            note("truncate", file=os.fstat(fd).st_ino, offset=length)

        def fsync(fd: int) -> None:
            real["fsync"](fd)
            status = os.fstat(fd)
            note("flush names" if stat.S_ISDIR(status.st_mode) else "flush", file=status.st_ino)

        def two(kind: str, function: str) -> Callable[[Any, Any], None]:
            def call(one: Any, other: Any) -> None:
                real[function](one, other)
                note(kind, name=os.path.basename(one), other=os.path.basename(other))

            return call

        def unlink(path: Any, **options: Any) -> None:
            real["unlink"](path, **options)
            note("unlink", name=os.path.basename(path))

        fakes = [opened, write, refuse, fsync, ftruncate]
        fakes += [two("link", "link"), unlink, two("rename", "rename"), two("rename", "replace")]
        for name, fake in zip(names, fakes, strict=True):
            setattr(os, name, fake)
        try:
            yield
        finally:
            for name, function in real.items():
                setattr(os, name, function)

    def state_after(self, calls: int, chance: random.Random) -> dict[str, bytes]:
        """One state of the disk if the power goes after so many calls.

        What was flushed is there. Of the rest each write and each name may be there or not, in any order
        of reaching the disk, and a write may be there in part.
        """
        done = self.calls[:calls]
        flushed_names = max((i for i, call in enumerate(done) if call.kind == "flush names"), default=-1)
        flushed = {call.file: i for i, call in enumerate(done) if call.kind == "flush"}
        names, contents = dict(self.names), {file: bytearray(data) for file, data in self.contents.items()}
        for i, call in enumerate(done):
            if call.kind in ("write", "truncate"):
                contents.setdefault(call.file, bytearray())
                if i < flushed.get(call.file, -1):
                    _apply(contents[call.file], call, len(call.data))
                elif chance.random() < 0.6:
                    part = len(call.data) if chance.random() < 0.5 else chance.randint(0, len(call.data))
                    _apply(contents[call.file], call, part)
            elif i < flushed_names or chance.random() < 0.6:
                _rename(names, call)
        return {name: bytes(contents.get(file, b"")) for name, file in names.items()}


def _apply(content: bytearray, call: Call, nbytes: int) -> None:
    if call.kind == "truncate":
        del content[call.offset :]
        content.extend(bytes(call.offset - len(content)))
        return
    content.extend(bytes(max(0, call.offset + nbytes - len(content))))
    content[call.offset : call.offset + nbytes] = call.data[:nbytes]


def _rename(names: dict[str, int], call: Call) -> None:
    if call.kind == "create":
        names[call.name] = call.file
    elif call.kind in ("link", "rename") and call.name in names:
        names[call.other] = names[call.name]
        if call.kind == "rename":
            del names[call.name]
    elif call.kind == "unlink":
        names.pop(call.name, None)
