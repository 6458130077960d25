"""Casts of storages, a block at a time, with what torch's own cast loses counted."""

from __future__ import annotations

import os
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import NamedTuple

import torch

from ..dtypes import BY_NAME
from ..errors import UnsupportedError
from ..model.casts import Losses, is_lossless
from ..model.source import Slice, Source

_BLOCK = 1 << 18  # elements that are cast at once; what a core does with them fits into its cache
_AHEAD = 6  # blocks that may be cast before they are asked for


@cache
def _workers() -> ThreadPoolExecutor:
    """Threads that cast, each by itself: for blocks of this size torch's own threads wait more than they work."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return ThreadPoolExecutor(min(4, usable), "cast", initializer=torch.set_num_threads, initargs=(1,))


class _Made(NamedTuple):
    """A block in its new dtype, and what was lost: values that overflowed, that underflowed, the largest error."""

    data: bytes
    over: int
    under: int
    largest: float


def _bytes(tensor: torch.Tensor) -> bytes:
    """Without numpy, which is no dependency: ``tensor.numpy()`` would need it."""
    flat = tensor.contiguous().view(torch.uint8).flatten()
    buffer = bytearray(flat.numel())
    if buffer:
        torch.frombuffer(buffer, dtype=torch.uint8).copy_(flat)
    return bytes(buffer)


class Cast:
    """The elements of ``source``, which are ``old``, as ``new``. Memory is a few blocks, whatever the length.

    Each block is counted once, however often it is read.

    Args:
        name: of the tensor, for what is said of it.
        losses: where what is lost is counted.
    """

    def __init__(self, source: Source, old: str, new: str, name: str, losses: Losses) -> None:
        self.source = source
        self.name = name
        self.losses = losses
        self.old, self.new = getattr(torch, old), getattr(torch, new)
        self.new_name = new
        self.unit, self.new_unit = BY_NAME[old].itemsize, BY_NAME[new].itemsize
        self.size = source.size // self.unit * self.new_unit
        self._lossless = is_lossless(old, new)
        self._blocks = -(-source.size // (self.unit * _BLOCK))
        self._counted = bytearray(self._blocks)
        self._last: tuple[int, bytes] = (-1, b"")
        self._ahead: dict[int, Future[_Made]] = {}

    @property
    def path(self) -> str:
        return self.source.path

    def read_at(self, offset: int, nbytes: int) -> bytes:
        end = min(offset + nbytes, self.size)
        length = _BLOCK * self.new_unit
        parts = []
        while offset < end:
            index, inside = divmod(offset, length)
            data = self._block(index)
            parts.append(data[inside : inside + end - offset] if inside or end - offset < len(data) else data)
            offset += len(parts[-1])
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def slice(self, offset: int, nbytes: int) -> Source:
        return Slice(self, offset, min(nbytes, max(0, self.size - offset)))

    def file_range(self) -> None:
        return None

    def _block(self, index: int) -> bytes:
        if self._last[0] != index:
            made = self._make(index) if self._blocks == 1 else self._fetch(index)
            if not self._counted[index]:
                self._counted[index] = 1
                self._count(made)
            self._last = index, made.data
        return self._last[1]

    def _fetch(self, index: int) -> _Made:
        """A block from the threads, which go on with those after it when blocks are read in order."""
        if index != self._last[0] + 1:
            self._ahead.clear()
        following = range(index, min(index + (_AHEAD if index == self._last[0] + 1 else 1), self._blocks))
        for one in following:
            if one not in self._ahead:
                self._ahead[one] = _workers().submit(self._make, one)
        return self._ahead.pop(index).result()

    def _make(self, index: int) -> _Made:
        data = self.source.read_at(index * _BLOCK * self.unit, _BLOCK * self.unit)
        old = _tensor(data, self.old)
        new = old.to(self.new)
        lost = (0, 0, 0.0) if self._lossless or self._counted[index] else _lost(old, new)
        return _Made(_bytes(new), *lost)

    def _count(self, made: _Made) -> None:
        losses = self.losses
        if made.over and losses.refuse:
            raise UnsupportedError(
                f"{self.name}: values are too large for {self.new_name}",
                hint="Without --no-overflow they become infinite.",
            )
        for counts, count in ((losses.overflowed, made.over), (losses.underflowed, made.under)):
            if count:
                counts[self.name] = counts.get(self.name, 0) + count
        if made.largest > losses.largest[0]:
            losses.largest = (made.largest, self.name)


def _lost(old: torch.Tensor, new: torch.Tensor) -> tuple[int, int, float]:
    """In as few passes over the block as there can be: they cost more than the cast."""
    wide = old if old.element_size() >= 4 else old.float()
    back = new.to(wide.dtype)
    left = int(torch.count_nonzero(back))
    under = int(torch.count_nonzero(wide)) - left if left < back.numel() else 0
    error = back.sub_(wide)
    low, high = torch.aminmax(error)
    largest = max(float(high), -float(low))
    if largest < float("inf"):
        return 0, under, largest
    error = error.abs_()
    finite = torch.isfinite(error)
    over = int((torch.isfinite(wide) & ~finite).sum())
    return over, under, float(error[finite].max()) if bool(finite.any()) else 0.0


def _tensor(data: bytes, dtype: torch.dtype) -> torch.Tensor:
    return torch.frombuffer(data, dtype=dtype)


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # once for all: the bytes are not writable, and nobody writes to them
    _tensor(b"\0", torch.uint8)
