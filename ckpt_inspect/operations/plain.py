"""Plain data as the JSON contract wants it (design 3)."""

from __future__ import annotations

from math import isfinite
from typing import Any

_LARGE = 1 << 53


def safe(value: Any) -> Any:
    """``value`` with non-finite numbers and integers beyond 2⁵³ as strings."""
    if isinstance(value, bool) or value is None or type(value) is str:
        return value
    if isinstance(value, int):
        return value if -_LARGE <= value <= _LARGE else str(value)
    if isinstance(value, float):
        if isfinite(value):
            return value
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, complex):
        return [safe(value.real), safe(value.imag)]
    if isinstance(value, dict):
        return {str(key): safe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [safe(item) for item in value]
    return str(value)


def safe_dict(entry: dict[str, Any]) -> dict[str, Any]:
    """:func:`safe` of each value of a JSON object."""
    return {key: safe(value) for key, value in entry.items()}
