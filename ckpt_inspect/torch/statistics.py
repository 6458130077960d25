"""Numbers of a tensor's values in one pass: float64 sums, exact counts.

``min``, ``max``, ``mean``, ``std`` (of the population) and ``norm`` (L2) are of the finite values; of complex ones, of the
modulus. NaN and infinities are counted and left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import Any

import torch

from ..dtypes import BY_NAME
from .chunks import ELEMENTS, ON_DEVICE, Chunks, pieces, torch_dtype
from .operand import Operand, unsigned_numbers

_LOWEST = torch.iinfo(torch.int64).min


@dataclass(slots=True)
class Statistics:
    """Adds up over the stretches of a tensor, which may come in any order.

    Attributes:
        count, finite, zeros, nan, inf: how many values.
        edge: how many lie at the largest magnitude that the dtype has; None for bool, where that says nothing.
        low, high: the smallest and the largest; exact for integers.
        center: mean. spread: sum of squared distances from it. squares: sum of squares.
        first_bad: index of the first NaN or infinity in row-major order, None without one.
        dead_rows: rows along the first dimension that hold only zeros, in a tensor that has others; None if not counted.
    """

    count: int = 0
    finite: int = 0
    zeros: int = 0
    nan: int = 0
    inf: int = 0
    edge: int | None = None
    low: float | int | None = None
    high: float | int | None = None
    center: float = 0.0
    spread: float = 0.0
    squares: float = 0.0
    first_bad: int | None = None
    dead_rows: int | None = None

    def add(self, other: Statistics) -> None:
        """Take another stretch in; sums of squares by Chan's formula, which loses no digits."""
        total = self.finite + other.finite
        if self.finite and other.finite:
            apart = other.center - self.center
            self.spread += other.spread + apart * apart * self.finite * other.finite / total
            self.center += apart * other.finite / total
        elif other.finite:
            self.center, self.spread = other.center, other.spread
        self.finite = total
        self.count += other.count
        self.zeros += other.zeros
        self.nan += other.nan
        self.inf += other.inf
        self.squares += other.squares
        self.edge = _of_both(self.edge, other.edge, lambda a, b: a + b)
        self.low = _of_both(self.low, other.low, min)
        self.high = _of_both(self.high, other.high, max)
        self.first_bad = _of_both(self.first_bad, other.first_bad, min)

    @property
    def mean(self) -> float | None:
        return self.center if self.finite and isfinite(self.center) else None

    @property
    def std(self) -> float | None:
        """None without finite values, or where their squares overflow."""
        return sqrt(max(0.0, self.spread) / self.finite) if self.finite and isfinite(self.spread) else None

    @property
    def norm(self) -> float | None:
        return sqrt(self.squares) if isfinite(self.squares) else None

    @property
    def constant(self) -> bool:
        """All values finite and equal, and more than one."""
        return self.finite == self.count > 1 and self.low == self.high

    @property
    def all_zero(self) -> bool:
        return self.zeros == self.count > 0


def _of_both(mine: Any, theirs: Any, join: Callable[[Any, Any], Any]) -> Any:
    return theirs if mine is None else mine if theirs is None else join(mine, theirs)


class Reducer:
    """Reduces stretches of a tensor; for one thread.

    Args:
        operand: its row-major bytes and what they are.
        device: where it is computed.
    """

    def __init__(self, operand: Operand, device: str = "cpu") -> None:
        self.elements = ELEMENTS if device == "cpu" else ON_DEVICE
        self.operand = operand
        self._chunks = Chunks(operand.dtype, device, self.elements)

    def run(self, first: int, count: int, row: int = 0, live: torch.Tensor | None = None) -> Statistics:
        """Statistics of elements ``first … first + count``.

        Args:
            row, live: length of a row, and for each row whether it holds anything but zeros: set here.
        """
        found = Statistics()
        for at, n in pieces(count, self.elements):
            x = self._chunks.numbers(self.operand.source, first + at, n)
            if live is not None:
                _mark_live(x != (0 if self.operand.dtype != "uint64" else _LOWEST), first + at, row, live)
            found.add(self._stretch(x, first + at))
        return found

    def _stretch(self, x: torch.Tensor, start: int) -> Statistics:
        dtype, affine = self.operand.dtype, self.operand.affine
        if x.dtype != torch.int64:
            return _of_reals(x, dtype, start)
        if affine is None:
            return _of_integers(x, dtype)
        found = _of_reals(affine.real(x, start), "float64", start)
        found.edge = _at_edge(x, dtype)
        return found


def _mark_live(nonzero: torch.Tensor, first: int, row: int, live: torch.Tensor) -> None:
    """Rows that this stretch touches: whole ones together, the two at its ends apart."""
    if nonzero.dim() != 1 or not row:
        return
    count = nonzero.numel()
    head = min(count, -first % row)
    if head and bool(nonzero[:head].any()):
        live[first // row] = True
    whole = (count - head) // row
    begin = (first + head) // row
    if whole:
        live[begin : begin + whole] |= nonzero[head : head + whole * row].view(whole, row).any(1).to(live.device)
    tail = head + whole * row
    if tail < count and bool(nonzero[tail:].any()):
        live[begin + whole] = True


def _of_reals(x: torch.Tensor, dtype: str, start: int) -> Statistics:
    """Of float64 or complex128, which were ``dtype``."""
    size = x.abs() if x.is_complex() else x
    squares = torch.dot(size, size).item()
    found = Statistics(count=x.numel(), finite=x.numel(), edge=_edge_of_reals(x, dtype))
    if not isfinite(squares):
        bad = ~torch.isfinite(x)
        count = int(bad.sum())
        if count:
            nan = torch.isnan(x)
            found.nan = int(nan.sum())
            found.inf = count - found.nan
            found.first_bad = start + int(bad.nonzero()[0])
            found.finite -= count
            size = size[~bad]
            squares = torch.dot(size, size).item()
    if not found.finite:
        return found
    low, high = torch.aminmax(size)
    found.low, found.high = low.item(), high.item()
    found.zeros = found.finite - int(torch.count_nonzero(size))
    found.center = size.mean().item()
    apart = size - found.center
    found.spread, found.squares = torch.dot(apart, apart).item(), squares
    return found


def _of_integers(x: torch.Tensor, dtype: str) -> Statistics:
    low, high = torch.aminmax(x)
    real = unsigned_numbers(x) if dtype == "uint64" else x.double()
    center = real.mean().item()
    apart = real - center
    shift = -_LOWEST if dtype == "uint64" else 0
    zero = _LOWEST if dtype == "uint64" else 0
    return Statistics(
        count=x.numel(),
        finite=x.numel(),
        zeros=int((x == zero).sum()),
        edge=_at_edge(x, dtype),
        low=int(low) + shift,
        high=int(high) + shift,
        center=center,
        spread=torch.dot(apart, apart).item(),
        squares=torch.dot(real, real).item(),
    )


def _at_edge(x: torch.Tensor, dtype: str) -> int | None:
    """Integers at either end of their range."""
    if BY_NAME[dtype].kind == "bool":
        return None
    name = {"qint8": "int8", "quint8": "uint8", "qint32": "int32", "uint64": "int64"}.get(dtype, dtype)
    limits = torch.iinfo(torch_dtype(name))
    at_edge = x == limits.max
    return int((at_edge | (x == limits.min) if limits.min and dtype != "uint64" else at_edge).sum())


def _edge_of_reals(x: torch.Tensor, dtype: str) -> int | None:
    if dtype == "float4_e2m1fn_x2":
        return int((x.abs() == 6.0).sum())
    name = {"complex128": "float64", "complex64": "float32", "complex32": "float16"}.get(dtype, dtype)
    largest = torch.finfo(torch_dtype(name)).max
    parts = torch.view_as_real(x) if x.is_complex() else x
    return int((parts.abs() == largest).sum())


def histogram(operand: Operand, bins: int, low: float, high: float, device: str = "cpu") -> list[int]:
    """How many finite values lie in each of ``bins`` equal stretches of ``low … high``; of complex ones, the modulus."""
    chunks = Chunks(operand.dtype, device, ELEMENTS if device == "cpu" else ON_DEVICE)
    total = torch.zeros(bins, dtype=torch.int64)
    count = operand.source.size // BY_NAME[operand.dtype].itemsize
    for first, n in pieces(count, chunks.elements):
        x = chunks.numbers(operand.source, first, n)
        if operand.affine is not None:
            x = operand.affine.real(x, first)
        elif x.dtype == torch.int64:
            x = unsigned_numbers(x) if operand.dtype == "uint64" else x.double()
        x = x.abs() if x.is_complex() else x
        x = x[torch.isfinite(x)]
        if isfinite(high - low):
            place = (x - low) / (high - low) * bins
        else:  # the range is larger than the largest number
            place = (x / 2 - low / 2) / (high / 2 - low / 2) * bins
        place = place.long().clamp_(0, bins - 1)
        total += torch.bincount(place.cpu(), minlength=bins)
    return [int(number) for number in total]
