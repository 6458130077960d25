"""Stretches of a tensor's values as torch tensors, one after the other, in a buffer that is used again and again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..dtypes import BY_NAME
from ..errors import CorruptError, UnsupportedError
from ..model.source import Source

ELEMENTS = 1 << 17  # of a chunk: what is computed from it fits into the cache of a core
ON_DEVICE = 1 << 24  # an accelerator wants more at once

# torch warns of complex32, and quantized tensors are their integers here
_READ_AS = {
    "qint8": "int8", "quint8": "uint8", "qint32": "int32", "float4_e2m1fn_x2": "uint8", "complex32": "float16",
}  # fmt: skip
_FP4 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]  # OCP MX 1.0, 5.3.3


def torch_dtype(name: str) -> Any:
    """Torch's dtype of this name.

    Raises:
        UnsupportedError: this torch has none.
    """
    dtype = getattr(torch, name, None) if name in BY_NAME else None
    if not isinstance(dtype, torch.dtype):
        raise UnsupportedError(f"torch {torch.__version__} has no dtype {name}")
    return dtype


class Chunks:
    """Reads elements of one dtype into a buffer of its own; for one thread.

    Args:
        dtype: torch's name.
        device: where the tensors go.
        elements: the most that is read at once.
    """

    def __init__(self, dtype: str, device: str = "cpu", elements: int = ELEMENTS) -> None:
        self.itemsize = BY_NAME[dtype].itemsize
        if dtype not in _READ_AS and BY_NAME[dtype].kind in ("bits", "quantized"):
            raise UnsupportedError(f"{dtype} has no numbers to compute with")
        self.half_complex = dtype == "complex32"
        self.packed = dtype == "float4_e2m1fn_x2"
        self.dtype = torch_dtype(_READ_AS.get(dtype, dtype))
        self.device = torch.device(device)
        self.elements = elements
        self._buffer = bytearray(elements * self.itemsize)
        self._tensor = torch.frombuffer(self._buffer, dtype=torch.uint8)
        self._view = memoryview(self._buffer)

    def read(self, source: Source, first: int, count: int) -> torch.Tensor:
        """Elements ``first … first + count`` of row-major little-endian bytes; good until the next call."""
        offset, nbytes = first * self.itemsize, count * self.itemsize
        place = source.file_range()
        got = 0
        if place is not None and hasattr(os, "preadv"):
            file, start = place
            while got < nbytes:
                some = os.preadv(file.fd, [self._view[got:nbytes]], start + offset + got)
                if not some:
                    break
                got += some
        else:
            data = source.read_at(offset, nbytes)
            got = len(data)
            self._view[:got] = data
        if got < nbytes:
            raise CorruptError(f"cut: {nbytes - got:,} bytes are missing", path=source.path)
        found = self._tensor[:nbytes].view(self.dtype)
        return found if self.device.type == "cpu" else found.to(self.device)

    def numbers(self, source: Source, first: int, count: int) -> torch.Tensor:
        """The same as float64, complex128 or int64 where that is exact; uint64 as int64 less 2⁶³."""
        found = self.read(source, first, count)
        if self.packed:
            table = torch.tensor(_FP4, dtype=torch.float64, device=found.device)
            return torch.stack([table[(found & 15).long()], table[(found >> 4).long()]], -1).flatten()
        if found.dtype == torch.uint64:
            return found.view(torch.int64) ^ torch.iinfo(torch.int64).min
        if self.half_complex:
            return found.double().view(torch.complex128)
        if found.is_complex():
            return found.to(torch.complex128)
        if found.is_floating_point():
            return found.double() if self.itemsize > 1 else found.float().double()
        return found.long()


def pieces(count: int, elements: int) -> Iterator[tuple[int, int]]:
    """(first, count) of chunks."""
    for first in range(0, count, elements):
        yield first, min(elements, count - first)


@contextmanager
def single_threaded() -> Iterator[None]:
    """Torch's own threads off while ours each compute a stretch: they would be in each other's way."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_device(name: str) -> None:
    """
    Raises:
        UnsupportedError: there is no such device here.
    """
    try:
        torch.empty(1, device=name).add_(1)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise UnsupportedError(f"no device {name!r} here: {reason}", hint="Use --device cpu.") from error
