"""One compact JSON document, written as it is made."""

from __future__ import annotations

from collections.abc import Iterator
from json import JSONEncoder
from typing import Any

_encode = JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False).encode
_BATCH = 256


def chunks(document: dict[str, Any]) -> Iterator[str]:
    """Pieces of the document and a newline; values that are iterators are written as arrays, piece by piece."""
    yield from _pieces(document)
    yield "\n"


def _pieces(value: Any) -> Iterator[str]:
    if isinstance(value, Iterator):
        yield from _array(value)
    elif isinstance(value, dict) and any(map(_is_lazy, value.values())):
        opening = "{"
        for key, item in value.items():
            yield f"{opening}{_encode(key)}:"
            yield from _pieces(item)
            opening = ","
        yield "}"
    elif isinstance(value, list) and any(map(_is_lazy, value)):
        opening = "["
        for item in value:
            yield opening
            yield from _pieces(item)
            opening = ","
        yield "]"
    else:
        yield _encode(value)


def _is_lazy(value: Any) -> bool:
    """Whether an iterator is in there, at most two containers down: a document, or a list of documents."""
    if isinstance(value, dict):
        return any(isinstance(item, Iterator) for item in value.values())
    return isinstance(value, Iterator) or (isinstance(value, list) and bool(value) and _is_lazy(value[0]))


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
    return "".join(_pieces(document))
