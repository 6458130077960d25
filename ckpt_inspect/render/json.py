"""One compact JSON document, written as it is made."""

from __future__ import annotations

from collections.abc import Iterator
from json import JSONEncoder
from typing import Any

_encode = JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False).encode
_BATCH = 256


def chunks(document: dict[str, Any]) -> Iterator[str]:
    """Pieces of the document and a newline; values that are iterators are written as arrays, piece by piece."""
    opening = "{"
    for key, value in document.items():
        yield f"{opening}{_encode(key)}:"
        opening = ","
        if isinstance(value, Iterator):
            yield from _array(value)
        elif isinstance(value, dict) and any(isinstance(item, Iterator) for item in value.values()):
            yield "".join(chunks(value)).rstrip("\n")
        else:
            yield _encode(value)
    yield "}\n" if document else "{}\n"


def _array(items: Iterator[Any]) -> Iterator[str]:
    batch: list[Any] = []
    opening = "["
    for item in items:
        batch.append(item)
        if len(batch) == _BATCH:
            yield opening + _encode(batch)[1:-1]
            opening = ","
            batch = []
    if batch:
        yield opening + _encode(batch)[1:-1]
        opening = ","
    yield "[]" if opening == "[" else "]"


def dumps(document: dict[str, Any]) -> str:
    return "".join(chunks(document)).rstrip("\n")
