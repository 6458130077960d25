"""The numbers of one tensor, as they are computed with: its row-major bytes, what they are, and a scale."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ..dtypes import BY_NAME
from ..model.source import Source
from .chunks import Chunks, pieces, torch_dtype


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """How integers of a quantized tensor become real numbers: ``(q - zero_point) * scale``.

    Attributes:
        scale, zero_point: one number, or one for each channel.
        inner: how many elements in row-major order a channel has before the next one comes; 0: there are none.
    """

    scale: float | torch.Tensor
    zero_point: int | torch.Tensor
    inner: int = 0

    def real(self, integers: torch.Tensor, first: int) -> torch.Tensor:
        """float64; ``integers`` are elements ``first`` and following."""
        if not self.inner or not isinstance(self.scale, torch.Tensor) or not isinstance(self.zero_point, torch.Tensor):
            return (integers - self.zero_point).double().mul_(self.scale)
        places = torch.arange(first, first + integers.numel()) // self.inner % len(self.scale)
        scale, zero_point = (one[places].to(integers.device) for one in (self.scale, self.zero_point))
        return (integers - zero_point).double() * scale


@dataclass(frozen=True, slots=True)
class Operand:
    """One of the two tensors: its row-major bytes and what they are."""

    source: Source
    dtype: str
    affine: Affine | None = None


def vector(operand: Operand) -> torch.Tensor:
    """All values of a small tensor, in memory of their own."""
    count = operand.source.size // BY_NAME[operand.dtype].itemsize
    return Chunks(operand.dtype, elements=max(1, count)).numbers(operand.source, 0, count).clone()


def widened(operand: Operand, dtype: str) -> Iterator[bytes]:
    """Row-major bytes of all values in a dtype that holds them: float32 of bfloat16, real numbers of quantized ones."""
    chunks = Chunks(operand.dtype)
    count = operand.source.size // chunks.itemsize
    for first, n in pieces(count, chunks.elements):
        numbers = chunks.numbers(operand.source, first, n)
        if operand.affine is not None:
            numbers = operand.affine.real(numbers, first)
        buffer = bytearray(n * BY_NAME[dtype].itemsize)
        torch.frombuffer(buffer, dtype=torch_dtype(dtype)).copy_(numbers)
        yield bytes(buffer)


def unsigned_numbers(shifted: torch.Tensor) -> torch.Tensor:
    """uint64 as :meth:`Chunks.numbers` gives it, as float64, each rounded once."""
    return halves(shifted ^ torch.iinfo(torch.int64).min)


def halves(bits: torch.Tensor) -> torch.Tensor:
    """The bits of uint64 in int64, as float64."""
    return ((bits >> 32) & 0xFFFFFFFF).double() * 2.0**32 + (bits & 0xFFFFFFFF).double()
