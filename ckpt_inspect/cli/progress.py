"""A bar on stderr while something takes long."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_SMALL = 16 << 20  # less than that needs no bar


@contextmanager
def progress(total: int, doing: str = "copied") -> Iterator[Callable[[int], None] | None]:
    """A bar with rate and time left on stderr, if that is a terminal and the work lasts over a second."""
    if not sys.stderr.isatty() or total < _SMALL:
        yield None
        return
    from threading import Lock
    from time import monotonic

    started, done = 0.0, 0
    bar: Any = None
    lock = Lock()

    def advance(count: int) -> None:
        with lock:  # several threads may read
            _advance(count)

    def _advance(count: int) -> None:
        nonlocal bar, done, started
        started = started or monotonic()  # importing torch is not the work
        done += count
        if bar is None and monotonic() - started > 1:
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

            columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
            bar = Progress(*columns, console=Console(stderr=True), transient=True)
            bar.start()
            bar.add_task(doing, total=total)
        if bar is not None:
            bar.update(0, completed=done)

    try:
        yield advance
    finally:
        if bar is not None:
            bar.stop()
