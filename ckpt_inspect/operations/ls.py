"""``ckpt ls``: every tensor, one row each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import translate
from typing import Any, NamedTuple

from ..errors import RuleError, SelectionError
from ..model.checkpoint import Checkpoint
from ..model.section import Section
from ..model.tensor import TensorInfo
from .plain import safe, safe_dict

SCHEMA = "ckpt-inspect/ls/1"
WHOLE_KEYS = "Patterns are matched against the whole key; * crosses dots: --filter '*.weight'"
_LARGE = 1 << 53


class Row(NamedTuple):
    """One tensor: its name as shown, its section, its key as seen from the selected part."""

    name: str
    section: Section
    key: str
    info: TensorInfo


class Listing:
    """What ``ls`` found: ``rows``, the checkpoint they are of, and whether they were sorted."""

    def __init__(self, checkpoint: Checkpoint, rows: list[Row], sorted: bool = False) -> None:
        self.checkpoint = checkpoint
        self.rows = rows
        self.sorted = sorted

    def document(self) -> dict[str, Any]:
        """The contract's document; its long arrays are iterators, so that it can be written as it is made."""
        return {
            "schema": SCHEMA,
            "path": self.checkpoint.path,
            "format": self.checkpoint.format,
            "tensors": (row_dict(row) for row in self.rows),
            "values": (
                {"name": value.name, "type": value.type, "value": safe(value.value)} for value in self.checkpoint.values
            ),
            "problems": self.checkpoint.problems,
        }

    def to_dict(self) -> dict[str, Any]:
        """The contract's document."""
        return {key: list(value) if isinstance(value, Iterator) else value for key, value in self.document().items()}

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"<ls of {self.checkpoint.path}: {len(self.rows):,} tensors>"


_SORTS = {
    "name": lambda row: row.name,
    "size": lambda row: -row.info.nbytes,
    "dtype": lambda row: row.info.dtype,
    "shape": lambda row: row.info.shape,
    "device": lambda row: row.info.device or "",
}
SORTS = tuple(_SORTS)


def ls(checkpoint: Checkpoint, filter: Sequence[str] = (), sort: str | None = None) -> Listing:
    """List tensors in saved order.

    Args:
        checkpoint: the file, or a selected part.
        filter: shell patterns on the whole key or name; ``*`` crosses dots. Without one, all.
        sort: ``name``, ``size`` (largest first), ``dtype``, ``shape`` or ``device``.
    """
    rows: Iterator[Row] = (
        Row(name, section, checkpoint.key_in_selection(section, info.key), info)
        for name, section, info in checkpoint.tensors()
    )
    if filter:
        matches = pattern(filter)
        rows = (row for row in rows if matches(row.key) or matches(row.name))
    found = list(rows)
    if sort is not None:
        if sort not in _SORTS:
            raise SelectionError(f"cannot sort by {sort!r}", hint=f"Sort by one of: {', '.join(SORTS)}")
        found.sort(key=_SORTS[sort])
    return Listing(checkpoint, found, sort is not None)


def pattern(globs: Sequence[str]) -> Any:
    """One predicate for several shell patterns."""
    import re

    return re.compile("|".join(translate(glob) for glob in globs)).match


def matches_any(checkpoint: Checkpoint, globs: Sequence[str]) -> bool:
    """Whether any tensor's key or name matches."""
    matches = pattern(globs)
    return any(
        matches(checkpoint.key_in_selection(section, info.key)) or matches(name)
        for name, section, info in checkpoint.tensors()
    )


def matches_nothing(globs: Sequence[str], path: str | None = None) -> RuleError:
    """What a check says that would look at nothing: that is no success."""
    return RuleError(f"{no_match(globs)}: nothing would be checked", path=path, hint=WHOLE_KEYS)


def no_match(globs: Sequence[str]) -> str:
    return f"--filter {', '.join(repr(glob) for glob in globs)} matches no tensor"


def row_dict(row: Row) -> dict[str, Any]:
    """One entry of ``tensors`` (design 3)."""
    info = row.info
    storage = info.storage
    param = row.section.params.get(info.key) if row.section.params else None
    nbytes = info.nbytes
    entry: dict[str, Any] = {
        "name": row.name,
        "section": row.section.pointer,
        "key": row.key,
        "dtype": info.dtype,
        "shape": list(info.shape),
        "stride": None if info.stride is None else list(info.stride),
        "storage_offset": info.storage_offset,
        "device": info.device,
        "nbytes": nbytes,
        "storage": storage.id if storage is not None else None,
        "requires_grad": info.requires_grad,
        "role": info.role,
        "role_from": info.role_from,
        "persistent": info.persistent,
        "layout": info.layout,
        "class": info.cls,
        "parts": [_part(part) for part in info.parts] if info.parts else None,
        "param": param[0] if param else None,
        "param_from": param[1] if param else None,
    }
    if nbytes >= _LARGE or max(info.shape, default=0) >= _LARGE or max(info.stride or (), default=0) >= _LARGE:
        return safe_dict(entry)
    return entry


def _part(part: TensorInfo) -> dict[str, Any]:
    return safe_dict(
        {
            "part": part.key,
            "dtype": part.dtype,
            "shape": list(part.shape),
            "stride": None if part.stride is None else list(part.stride),
            "storage_offset": part.storage_offset,
            "storage": part.storage.id if part.storage is not None else None,
            "nbytes": part.nbytes,
        }
    )
