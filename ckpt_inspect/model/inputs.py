"""What a model is fed, as it is typed: ``1,3,32,32``, ``1,16:int64:0..999``."""

from __future__ import annotations

from typing import NamedTuple

from ..dtypes import BY_NAME
from ..errors import SelectionError

_EXAMPLE = "For example: --input 1,3,32,32 or --input 1,16:int64:0..999"


class InputSpec(NamedTuple):
    """One input: random numbers of a shape and dtype.

    Attributes:
        shape: in elements.
        dtype: torch's name.
        low, high: bounds, both included; None: standard normal where floating, 0 and 1 where not.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    low: float | int | None = None
    high: float | int | None = None

    def __str__(self) -> str:
        dims = "×".join(map(str, self.shape)) or "()"
        bounds = "" if self.low is None or self.high is None else f" in {self.low:g}…{self.high:g}"
        return f"{dims} {self.dtype}{bounds}"

    def typed(self, dtype: str | None = None) -> str:
        """As it is typed, or as it would be with another dtype and the bounds that it has by itself."""
        shape = ",".join(map(str, self.shape)) or "()"
        if dtype is not None:
            return f"{shape}:{dtype}"
        bounds = "" if self.low is None or self.high is None else f":{self.low}..{self.high}"
        return f"{shape}:{self.dtype}{bounds}" if bounds or self.dtype != "float32" else shape


def parse_input(text: str) -> InputSpec:
    """``SHAPE[:DTYPE[:LOW..HIGH]]``; ``()`` is the shape of a scalar.

    Raises:
        SelectionError: it is not of that form.
    """
    shape, _, rest = text.partition(":")
    dtype, _, bounds = rest.partition(":")
    dims = [] if shape.strip() == "()" else [part.strip() for part in shape.split(",")]
    if not all(part.isascii() and part.isdigit() for part in dims):
        raise SelectionError(f"--input {text}: {shape!r} is no shape", hint=_EXAMPLE)
    dtype = dtype.strip().removeprefix("torch.") or "float32"
    if dtype not in BY_NAME or BY_NAME[dtype].kind not in ("float", "int", "bool", "complex"):
        raise SelectionError(f"--input {text}: {dtype!r} is no dtype that can be fed", hint=_EXAMPLE)
    if not bounds:
        return InputSpec(tuple(map(int, dims)), dtype)
    try:
        low, high = map(_number, bounds.split(".."))
    except ValueError:
        raise SelectionError(f"--input {text}: {bounds!r} is not LOW..HIGH", hint=_EXAMPLE) from None
    if not low <= high:
        raise SelectionError(f"--input {text}: {bounds!r} is empty", hint=_EXAMPLE)
    return InputSpec(tuple(map(int, dims)), dtype, low, high)


def _number(text: str) -> float | int:
    """Whole numbers exactly: no float holds 2⁶³ − 1."""
    try:
        return int(text)
    except ValueError:
        return float(text)
