"""How far two tensors are apart: in float64, or exactly for integers; one pass, in chunks.

Of pairs (x, y), x from the first tensor and y from the second:

* ``max_abs``, ``mean_abs``: |y - x|; of complex numbers the modulus.
* ``max_rel``: |y - x| / |x| where x is not zero; None where no x is.
* ``relative_norm``: ‖y - x‖ / ‖x‖; ``cosine``: <x, y> / (‖x‖ ‖y‖), of complex numbers its real part.
* ``changed``: how many pairs are neither equal nor both NaN; ``beyond``: how many of them lie beyond the tolerance,
  ``atol + rtol * |y|``, as ``torch.isclose(x, y)`` has it.

Pairs with a NaN on one side are changed and count in nothing else; equal infinities differ by zero.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import inf, isfinite, sqrt

import torch

from ..errors import UnsupportedError
from .chunks import ELEMENTS, ON_DEVICE, Chunks, pieces
from .operand import Operand, halves, unsigned_numbers

_SPARE_BITS = 1 << 62
_LOWEST = torch.iinfo(torch.int64).min
_EXACT = 1 << 53


@dataclass(slots=True)
class Metrics:
    """Sums over pairs of elements; adds up over the stretches of a tensor."""

    count: int = 0
    changed: int = 0
    beyond: int = 0
    compared: int = 0  # pairs without a NaN
    sum_abs: float | int = 0
    max_abs: float | int = 0
    max_rel: float | None = None
    xx: float = 0.0
    yy: float = 0.0
    xy: float = 0.0
    dd: float = 0.0
    nan_appeared: int = 0
    nan_vanished: int = 0
    inf_appeared: int = 0
    inf_vanished: int = 0

    def add(self, other: Metrics) -> None:
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if field.name in ("max_abs", "max_rel"):
                setattr(self, field.name, theirs if mine is None else mine if theirs is None else max(mine, theirs))
            else:
                setattr(self, field.name, mine + theirs)

    @property
    def mean_abs(self) -> float | None:
        return self.sum_abs / self.compared if self.compared else None

    @property
    def changed_fraction(self) -> float:
        return self.changed / self.count if self.count else 0.0

    @property
    def relative_norm(self) -> float | None:
        """None where a norm is zero or not finite."""
        if not (isfinite(self.dd) and isfinite(self.xx)) or not self.xx:
            return None
        return sqrt(self.dd) / sqrt(self.xx)

    @property
    def cosine(self) -> float | None:
        """None where a norm is zero or not finite."""
        norm = sqrt(self.xx) * sqrt(self.yy) if isfinite(self.xx) and isfinite(self.yy) else 0.0
        return max(-1.0, min(1.0, self.xy / norm)) if norm and isfinite(self.xy) else None


class Comparer:
    """Compares stretches of two tensors; for one thread.

    Args:
        x, y: of the same number of elements.
        atol, rtol: the tolerance.
        device: where it is computed.
    """

    def __init__(self, x: Operand, y: Operand, atol: float = 0.0, rtol: float = 0.0, device: str = "cpu") -> None:
        elements = ELEMENTS if device == "cpu" else ON_DEVICE
        self.x, self.y, self.atol, self.rtol = x, y, atol, rtol
        self._x, self._y = Chunks(x.dtype, device, elements), Chunks(y.dtype, device, elements)
        if self._x.packed != self._y.packed:
            raise UnsupportedError(f"{x.dtype} and {y.dtype} do not pair element by element")
        self.elements = elements
        self._unsigned = (x.dtype == "uint64") + (y.dtype == "uint64")

    def run(self, first: int, count: int) -> Metrics:
        """Metrics of elements ``first … first + count``."""
        found = Metrics()
        for at, n in pieces(count, self.elements):
            x = self._numbers(self._x, self.x, first + at, n)
            y = self._numbers(self._y, self.y, first + at, n)
            if x.dtype == y.dtype == torch.int64 and self._unsigned != 1:
                found.add(_integers(x, y, self.atol, self.rtol, self._unsigned == 2))
            elif torch.int64 in (x.dtype, y.dtype) and not (x.is_complex() or y.is_complex()):
                self._add_mixed(found, x, y)
            else:
                found.add(self._as_reals(x, y))
        return found

    def _as_reals(self, x: torch.Tensor, y: torch.Tensor) -> Metrics:
        return _reals(self._real(x, self.x.dtype), self._real(y, self.y.dtype), self.atol, self.rtol)

    def _add_mixed(self, found: Metrics, x: torch.Tensor, y: torch.Tensor) -> None:
        """Integers beside other integers or floats: those that float64 would round are compared as integers."""
        unsigned = "uint64" in (self.x.dtype, self.y.dtype)
        whole_x, there_x = _as_integers(x, self.x.dtype, unsigned)
        whole_y, there_y = _as_integers(y, self.y.dtype, unsigned)
        exactly = there_x & there_y & (_large(x, self.x.dtype) | _large(y, self.y.dtype))
        if bool(exactly.any()):
            found.add(_integers(whole_x[exactly], whole_y[exactly], self.atol, self.rtol, unsigned))
        if not bool(exactly.all()):
            found.add(self._as_reals(x[~exactly], y[~exactly]))

    @staticmethod
    def _numbers(chunks: Chunks, operand: Operand, first: int, count: int) -> torch.Tensor:
        found = chunks.numbers(operand.source, first, count)
        if operand.affine is not None:
            found = operand.affine.real(found, first)
        return found

    @staticmethod
    def _real(numbers: torch.Tensor, dtype: str) -> torch.Tensor:
        if dtype == "uint64":
            return unsigned_numbers(numbers)
        return numbers if numbers.is_complex() else numbers.double()


def _large(numbers: torch.Tensor, dtype: str) -> torch.Tensor:
    """Integers that float64 may not hold."""
    if numbers.dtype != torch.int64:
        return torch.zeros_like(numbers, dtype=torch.bool)
    if dtype == "uint64":  # less 2⁶³
        return numbers > _LOWEST + _EXACT
    return (numbers > _EXACT) | (numbers < -_EXACT)


def _as_integers(numbers: torch.Tensor, dtype: str, unsigned: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """As int64, or where ``unsigned`` as uint64 less 2⁶³; and which of them are integers that fit."""
    if numbers.dtype == torch.int64:
        if dtype == "uint64" or not unsigned:
            return numbers, torch.ones_like(numbers, dtype=torch.bool)
        return numbers ^ _LOWEST, numbers >= 0
    low, high = (0.0, 2.0**64) if unsigned else (-(2.0**63), 2.0**63)
    fits = (numbers >= low) & (numbers < high) & (numbers == numbers.trunc())
    whole = torch.where(fits, numbers, 0.0)
    if not unsigned:
        return whole.long(), fits
    upper = whole >= 2.0**63
    return torch.where(upper, (whole - 2.0**63).long(), torch.where(upper, 0.0, whole).long() ^ _LOWEST), fits


def _reals(x: torch.Tensor, y: torch.Tensor, atol: float, rtol: float) -> Metrics:
    """Both float64 or complex128."""
    if x.is_complex() or y.is_complex():
        x, y = x.to(torch.complex128), y.to(torch.complex128)
        flat_x, flat_y = torch.view_as_real(x).flatten(), torch.view_as_real(y).flatten()
    else:
        flat_x, flat_y = x, y
    difference = y - x
    flat = torch.view_as_real(difference).flatten() if difference.is_complex() else difference
    dd = torch.dot(flat, flat).item()
    xx, yy = torch.dot(flat_x, flat_x).item(), torch.dot(flat_y, flat_y).item()
    if not (isfinite(dd) and isfinite(xx) and isfinite(yy)):
        return _with_oddities(x, y, atol, rtol)
    size = difference.abs() if difference.is_complex() else difference.abs_()
    return Metrics(
        count=x.numel(),
        changed=int(torch.count_nonzero(size)),
        beyond=_beyond(size, y, atol, rtol),
        compared=x.numel(),
        sum_abs=size.sum().item(),
        max_abs=size.max().item(),
        max_rel=_max_rel(size, x),
        xx=xx,
        yy=yy,
        xy=torch.dot(flat_x, flat_y).item(),
        dd=dd,
    )


def _max_rel(size: torch.Tensor, x: torch.Tensor) -> float | None:
    base = x.abs()
    zero = base == 0
    zeros = int(torch.count_nonzero(zero))
    if zeros == x.numel():
        return None
    if zeros:
        base.masked_fill_(zero, inf)
    return float(torch.div(size, base, out=base).max().item())


def _beyond(size: torch.Tensor, y: torch.Tensor, atol: float, rtol: float) -> int:
    if not (atol or rtol):
        return int(torch.count_nonzero(size))
    return int(torch.count_nonzero(size > y.abs().mul_(rtol).add_(atol)))


def _with_oddities(x: torch.Tensor, y: torch.Tensor, atol: float, rtol: float) -> Metrics:
    """A chunk with NaN, infinities, or numbers whose squares overflow."""
    nan_x, nan_y = x.isnan(), y.isnan()
    either = nan_x | nan_y
    found = Metrics(
        count=x.numel(),
        changed=int((nan_x != nan_y).sum()),
        beyond=int((nan_x != nan_y).sum()),
        nan_appeared=int((nan_y & ~nan_x).sum()),
        nan_vanished=int((nan_x & ~nan_y).sum()),
        inf_appeared=int((y.isinf() & ~x.isinf()).sum()),
        inf_vanished=int((x.isinf() & ~y.isinf()).sum()),
        compared=int((~either).sum()),
    )
    x, y = x[~either], y[~either]
    if not found.compared:
        return found
    size = torch.where(x == y, 0.0, (y - x).abs().nan_to_num_(nan=inf, posinf=inf))
    found.changed += int(torch.count_nonzero(size))
    # an infinity is close to nothing but itself
    tolerance = torch.where(y.isinf(), 0.0, y.abs() * rtol + atol)
    found.beyond += int(torch.count_nonzero(size > tolerance))
    found.sum_abs, found.max_abs = size.sum().item(), size.max().item()
    base = x.abs()
    there = base != 0
    if bool(there.any()):
        found.max_rel = (size[there] / base[there]).nan_to_num_(nan=inf, posinf=inf).max().item()
    x, y = (torch.view_as_real(v).flatten() if v.is_complex() else v for v in (x, y))
    found.xx, found.yy = torch.dot(x, x).item(), torch.dot(y, y).item()
    found.xy, found.dd = torch.dot(x, y).nan_to_num().item(), (size * size).sum().item()
    return found


def _integers(x: torch.Tensor, y: torch.Tensor, atol: float, rtol: float, unsigned: bool) -> Metrics:
    """Both int64; of uint64 (less 2⁶³) the differences are the same, and only norms see the shift."""
    low = min(int(x.min()), int(y.min()))
    high = max(int(x.max()), int(y.max()))
    if high - low < _SPARE_BITS:
        size = (y - x).abs_()
        total, largest = _exact_sum(size), int(size.max())
    else:  # the difference may not fit: its magnitude as two halves
        larger, smaller = torch.maximum(x, y), torch.minimum(x, y)
        wrapped = larger - smaller  # modulo 2⁶⁴, that is the magnitude
        upper, lower = (wrapped >> 32) & 0xFFFFFFFF, wrapped & 0xFFFFFFFF
        total = (int(upper.sum()) << 32) + int(lower.sum())
        most = int(upper.max())
        largest = (most << 32) + int(lower[upper == most].max())
        size = halves(wrapped)
    if unsigned:
        real_x, real_y = unsigned_numbers(x), unsigned_numbers(y)
    else:
        real_x, real_y = x.double(), y.double()
    magnitudes = size.double()
    return Metrics(
        count=x.numel(),
        changed=int(torch.count_nonzero(x != y)),
        beyond=_beyond(magnitudes, real_y, atol, rtol),
        compared=x.numel(),
        sum_abs=total,
        max_abs=largest,
        max_rel=_max_rel(magnitudes, real_x),
        xx=torch.dot(real_x, real_x).item(),
        yy=torch.dot(real_y, real_y).item(),
        xy=torch.dot(real_x, real_y).item(),
        dd=torch.dot(magnitudes, magnitudes).item(),
    )


def _exact_sum(values: torch.Tensor) -> int:
    """Of non-negative int64: the sum of a chunk could overflow, those of its halves cannot."""
    return (int((values >> 32).sum()) << 32) + int((values & 0xFFFFFFFF).sum())
