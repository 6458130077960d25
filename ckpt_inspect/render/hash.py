"""Fingerprints as lines, the hash first: ``sort``, ``uniq`` and ``join`` do the rest."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import CheckpointError
from ..operations.hash import Fingerprint, spelled
from .text import escape, plain_shape


def plain(found: Fingerprint) -> Iterator[str]:
    """The whole, then each section where there are several."""
    checkpoint = found.checkpoint
    part = f"#{checkpoint.selected}" if checkpoint.selected else ""
    yield f"{found.text}  {escape(checkpoint.path)}{escape(part)}\n"
    if len(found.sections) > 1:
        for pointer, value in found.sections.items():
            section = f"#{escape(pointer)}" if pointer else " (root)"
            yield f"{spelled(value, found.structure)}  {escape(checkpoint.path)}{section}\n"


def each(found: Fingerprint, values: bool = False) -> Iterator[str]:
    """One tensor a line, tab-separated: name, dtype, shape, hash; with ``values`` the other entries too."""
    for row in found.tensors:
        name = row.key if found.checkpoint.selected is not None else row.name
        shape = plain_shape(row.info.shape)
        yield f"{escape(name)}\t{row.info.dtype}\t{shape}\t{spelled(row.digest, found.structure)}\n"
    for value in found.checkpoint.values if values else ():
        yield f"{escape(value.name)}\t{escape(value.type)}\t{escape(value.text)}\n"
    for problem in found.checkpoint.problems if values else ():
        yield f"! {escape(problem)}\n"


def not_one(error: CheckpointError) -> str:
    """What is no checkpoint, in one line that does not name the file: git gives it a temporary name."""
    return f"! {escape(error.message)}\n"
