"""Bytes to a GPU through a few pinned buffers: read ahead by threads while earlier ones are under way.

A copy from pinned memory is several times as fast as one from ordinary memory, and as only these buffers are pinned,
host memory stays bounded whatever the size of the file.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch

from ..errors import CorruptError, FileError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..model.source import Source

LARGE = 8 << 20  # bytes from which on it is worth the while
_CHUNK = 4 << 20
_BUFFERS = 16  # 64 MiB of pinned memory, and as many threads that fill it
_pinned: list[torch.Tensor] = []  # made once: pinning memory takes longer than filling it
_in_use = threading.Lock()  # they are of one stream at a time


def copy_in(host: torch.Tensor, target: torch.Tensor) -> None:
    """Copy bytes of the CPU (mapped ones too) onto a GPU.

    Args:
        host, target: one-dimensional, ``uint8``, of one length.
    """

    def fill(buffer: torch.Tensor, at: int) -> None:
        buffer.copy_(host[at : at + len(buffer)])

    stream(fill, target)


def read_in(source: Source, target: torch.Tensor, name: str) -> None:
    """Read the first bytes of a source onto a GPU.

    Raises:
        CorruptError: there are fewer than ``target`` holds.
    """

    place = source.file_range()
    if place is not None and place[0].fd < 0:
        raise FileError("the checkpoint was closed", path=place[0].path, hint="Make the tensors while it is open.")

    def fill(buffer: torch.Tensor, at: int) -> None:
        view = _view(buffer)
        done = 0
        while done < len(view):
            if place is not None and hasattr(os, "preadv"):
                count = os.preadv(place[0].fd, [view[done:]], place[1] + at + done)
            else:
                piece = source.read_at(at + done, len(view) - done)
                count = len(piece)
                view[done : done + count] = piece
            if not count:
                raise CorruptError(f"cut: {at + done:,} of {len(target):,} bytes are there", record=name)
            done += count

    stream(fill, target)


def stream(fill: Callable[[torch.Tensor, int], None], target: torch.Tensor) -> None:
    """Fill a tensor chunk by chunk; ``fill(buffer, at)`` writes the bytes from ``at`` on into a host buffer."""
    pinned = target.device.type == "cuda"
    with _in_use if pinned else nullcontext():
        _stream(fill, target, _buffers(pinned))


def _stream(fill: Callable[[torch.Tensor, int], None], target: torch.Tensor, buffers: list[torch.Tensor]) -> None:
    pinned = target.device.type == "cuda"
    if len(target) <= _CHUNK:
        part = buffers[0][: len(target)]
        fill(part, 0)
        target.copy_(part)
        return
    free = deque(buffers)
    moving: deque[tuple[torch.Tensor, torch.cuda.Event | None]] = deque()
    filling: deque[tuple[int, torch.Tensor, Future[None]]] = deque()
    at = 0
    with ThreadPoolExecutor(len(buffers)) as threads:
        while at < len(target) or filling:
            while at < len(target) and (free or moving):
                if not free:
                    buffer, event = moving.popleft()
                    if event is not None:
                        event.synchronize()
                    free.append(buffer)
                part = free.popleft()[: len(target) - at]
                filling.append((at, part, threads.submit(fill, part, at)))
                at += len(part)
            start, part, done = filling.popleft()
            done.result()
            target[start : start + len(part)].copy_(part, non_blocking=pinned)
            moving.append((_whole(part, buffers), _mark(target.device) if pinned else None))
    for _, event in moving:
        if event is not None:
            event.synchronize()


def _view(buffer: torch.Tensor) -> memoryview:
    """The memory of a buffer, as Python reads into it."""
    return memoryview((ctypes.c_char * len(buffer)).from_address(buffer.data_ptr())).cast("B")


def _buffers(pinned: bool) -> list[torch.Tensor]:
    if not pinned:
        return [torch.empty(_CHUNK, dtype=torch.uint8) for _ in range(2)]
    if not _pinned:
        _pinned.extend(torch.empty(_CHUNK, dtype=torch.uint8, pin_memory=True) for _ in range(_BUFFERS))
    return _pinned


def _whole(part: torch.Tensor, buffers: list[torch.Tensor]) -> torch.Tensor:
    """The buffer that a part is the beginning of."""
    return next(buffer for buffer in buffers if buffer.data_ptr() == part.data_ptr())


def _mark(device: torch.device) -> torch.cuda.Event:
    """What has happened once the copies so far are done: on the stream of that GPU, which need not be the current one."""
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return event
