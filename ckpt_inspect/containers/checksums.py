"""CRC-32 of many stretches of bytes in one pass, on several threads: ``zlib.crc32`` and ``pread`` let others run."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from threading import Lock, Thread
from typing import NamedTuple

from ..errors import CheckpointError, CorruptError
from ..model.source import Source

Outcome = int | CheckpointError

_CHUNK = 1 << 18  # bytes read at a time: they stay in the cache of the processor until they are summed
_STRETCH = 32 << 20  # bytes that one thread takes at a time
_MOST_THREADS = 4
_POLYNOMIAL = 0xEDB88320  # of CRC-32, reflected: the highest power in the lowest bit


class Span(NamedTuple):
    """Bytes of one source to be summed together."""

    source: Source
    nbytes: int


class Sum:
    """The CRC-32 of one span, taken in stretches: in any order, by any thread.

    Attributes:
        stretches: (offset, length) of what one thread takes at a time.
    """

    __slots__ = ("_done", "_span", "stretches")

    def __init__(self, span: Span) -> None:
        self._span = span
        self._done: dict[int, Outcome] = {}
        if span.source.file_range() is None:  # inflated, or looked at through a journal: in order, by one thread
            self.stretches = [(0, span.nbytes)]
        else:
            starts = range(0, max(span.nbytes, 1), _STRETCH)
            self.stretches = [(start, min(_STRETCH, span.nbytes - start)) for start in starts]

    def take(self, offset: int, nbytes: int) -> None:
        """Sum one of the stretches."""
        self._done[offset] = _sum(self._span.source, offset, nbytes)

    @property
    def outcome(self) -> Outcome:
        """Of all stretches, which must have been taken; the first error that reading met."""
        found = 0
        for offset, nbytes in self.stretches:
            this = self._done[offset]
            if isinstance(this, CheckpointError):
                return this
            found = combined(found, this, nbytes) if offset else this
        return found


def checksums(
    spans: Sequence[Span], progress: Callable[[int], None] | None = None, threads: int | None = None
) -> list[Outcome]:
    """The CRC-32 of each span, or the error that reading it met. Memory is bounded by a chunk for each thread.

    Args:
        spans: what to sum; sources of files are summed in stretches, by whichever thread is free.
        progress: called with the number of bytes just summed, by one thread at a time.
        threads: how many; None: as many as there are processors, up to four.
    """
    sums = [Sum(span) for span in spans]
    stretches = [(one, *stretch) for one in sums for stretch in one.stretches]
    waiting = iter(stretches)
    lock = Lock()

    def work() -> None:
        while True:
            with lock:
                stretch = next(waiting, None)
            if stretch is None:
                return
            one, offset, nbytes = stretch
            one.take(offset, nbytes)
            if progress is not None:
                with lock:
                    progress(nbytes)

    total = sum(span.nbytes for span in spans)
    count = min(threads or min(os.cpu_count() or 1, _MOST_THREADS), len(stretches), 1 + total // (1 << 20))
    helpers = [Thread(target=work, daemon=True) for _ in range(count - 1)]
    for helper in helpers:
        helper.start()
    work()
    for helper in helpers:
        helper.join()
    return [one.outcome for one in sums]


def _sum(source: Source, offset: int, nbytes: int) -> Outcome:
    crc, end = 0, offset + nbytes
    try:
        while offset < end:
            chunk = source.read_at(offset, min(_CHUNK, end - offset))
            if not chunk:
                return CorruptError(f"{end - offset:,} bytes are missing", path=source.path)
            crc = zlib.crc32(chunk, crc)
            offset += len(chunk)
    except CheckpointError as error:
        return error
    return crc


def combined(first: int, second: int, nbytes: int) -> int:
    """The CRC-32 of two stretches, one after the other, of which the second has ``nbytes`` bytes.

    A CRC is the remainder of a polynomial over GF(2); ``nbytes`` more bytes multiply the first by x^(8·nbytes).
    """
    return _times(_power(nbytes), first) ^ second


@lru_cache(maxsize=1024)
def _power(nbytes: int) -> int:
    """x^(8·nbytes): the same for all stretches of one length."""
    power, square = 1 << 31, 1 << 23  # x^0 and x^8
    while nbytes:
        if nbytes & 1:
            power = _times(square, power)
        square = _times(square, square)
        nbytes >>= 1
    return power


def _times(a: int, b: int) -> int:
    """The product of two polynomials modulo that of CRC-32."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product
