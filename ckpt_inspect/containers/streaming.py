"""Bytes read in chunks by several threads: compared, hashed, handed on. Memory is a few chunks for each thread.

Reading and hashing leave the interpreter's lock, so two threads use two cores. Ranges of one file are read with
``pread``: mapped pages would count as memory.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from ..errors import CorruptError
from ..model.source import FileSource, Source
from .copying import Progress

CHUNK = 1 << 20  # two of them fit into the cache of a core
SPLIT = 64 << 20  # longer stretches are divided among the threads
_AHEAD = 64  # tasks that may be done before their turn

Result = TypeVar("Result")


def threads() -> int:
    """How many threads pay: as many as cores that this process may use, at most eight."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, usable))


def in_order(tasks: Iterable[Callable[[], Result]], workers: int | None = None) -> Iterator[Result]:
    """Run tasks in threads; their results in the order of the tasks, each as soon as it and those before are there.

    An exception of a task is raised in its turn; then, and when the caller stops, no further task is begun.
    """
    count = workers or threads()
    waiting = iter(tasks)
    if count == 1:
        yield from (task() for task in waiting)
        return
    done: deque[_Outcome] = deque()
    room = threading.Semaphore(_AHEAD)
    change = threading.Condition()
    state = {"stopped": False, "left": count}

    def work() -> None:
        try:
            while True:
                room.acquire()
                with change:
                    task = None if state["stopped"] else next(waiting, None)
                    if task is None:
                        return
                    outcome = _Outcome()
                    done.append(outcome)
                    change.notify()
                outcome.run(task)
                with change:
                    change.notify()
        finally:
            room.release()  # for the next one that waits only to be told that there is nothing left
            with change:
                state["left"] -= 1
                change.notify()

    pool = [threading.Thread(target=work, daemon=True) for _ in range(count)]
    try:
        for thread in pool:
            thread.start()
        while True:
            with change:
                change.wait_for(lambda: (done and done[0].ready) or (not done and not state["left"]))
                if not done:
                    return
                outcome = done.popleft()
            room.release()
            yield outcome.value()
    finally:
        state["stopped"] = True
        for _ in pool:
            room.release()
        for thread in pool:
            if thread.is_alive():
                thread.join()


class _Outcome:
    """What a task gave."""

    __slots__ = ("error", "ready", "result")

    def __init__(self) -> None:
        self.ready = False
        self.error: BaseException | None = None
        self.result: Any = None

    def run(self, task: Callable[[], Any]) -> None:
        try:
            self.result = task()
        except BaseException as error:
            self.error = error
        self.ready = True

    def value(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.result


def stretches(nbytes: int, unit: int = SPLIT) -> Iterator[tuple[int, int]]:
    """(offset, length) of the parts that several threads can work on."""
    for offset in range(0, nbytes, unit):
        yield offset, min(unit, nbytes - offset)


def exactly(source: Source, offset: int, nbytes: int) -> bytes:
    """Bytes that must be there.

    Raises:
        CorruptError: fewer are.
    """
    data = source.read_at(offset, nbytes)
    if len(data) != nbytes:
        raise CorruptError(f"cut: {nbytes - len(data):,} bytes are missing", path=source.path)
    return data


def same_range(a: Source, b: Source) -> bool:
    """Whether both are the same stretch of the same unchanged file: then nothing need be read."""
    if a.size != b.size:
        return False
    here, there = a.file_range(), b.file_range()
    return here is not None and there is not None and here[1] == there[1] and here[0].stamp == there[0].stamp


class _Buffers(threading.local):
    """Two chunks for each thread, used again and again: fresh memory would cost more than the comparison."""

    def __init__(self) -> None:
        self.one = bytearray(CHUNK)
        self.other = bytearray(CHUNK)


_buffers = _Buffers()


def first_difference(a: Source, b: Source, start: int, nbytes: int, progress: Progress | None = None) -> int | None:
    """Offset of the first chunk in ``start … start + nbytes`` that differs; None if all bytes are equal."""
    end = start + nbytes
    here, there = a.file_range(), b.file_range()
    plain = here is not None and there is not None and hasattr(os, "preadv")
    for offset in range(start, end, CHUNK):
        length = min(CHUNK, end - offset)
        if plain and here is not None and there is not None and length == CHUNK and _filled(here, there, offset):
            same = _buffers.one == _buffers.other
        else:
            same = exactly(a, offset, length) == exactly(b, offset, length)
        if not same:
            return offset
        if progress is not None:
            progress(2 * length)
    return None


def _filled(here: tuple[FileSource, int], there: tuple[FileSource, int], offset: int) -> bool:
    """Read a chunk of each into the buffers; False if one of them came short, which ``exactly`` explains."""
    for (file, base), buffer in ((here, _buffers.one), (there, _buffers.other)):
        try:
            if os.preadv(file.fd, [buffer], base + offset) != CHUNK:
                return False
        except OSError:
            return False
    return True


def digest(source: Source, value: hashlib._Hash, progress: Progress | None = None) -> bytes:
    """Feed all bytes of a source to a hash; its digest."""
    for offset in range(0, source.size, CHUNK):
        length = min(CHUNK, source.size - offset)
        value.update(exactly(source, offset, length))
        if progress is not None:
            progress(length)
    return value.digest()
