"""Counts over several tensors: tied ones once, parameters apart from buffers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from ..model.tensor import TensorInfo


class Counts(NamedTuple):
    """Totals of a part of a checkpoint.

    Attributes:
        tensors: entries, tied ones each.
        parameters, buffers, unknown: elements by role, tied ones once.
        buffer_tensors: how many tensors are buffers, tied ones once.
        inferred: whether any of the roles was inferred.
        nbytes: logical bytes, tied ones once.
    """

    tensors: int
    parameters: int
    buffers: int
    unknown: int
    buffer_tensors: int
    inferred: bool
    nbytes: int

    @property
    def numel(self) -> int:
        return self.parameters + self.buffers + self.unknown


def count(infos: Iterable[TensorInfo]) -> Counts:
    """Count tensors."""
    tensors = nbytes = buffers = 0
    elements: dict[str | None, int] = {"parameter": 0, "buffer": 0, None: 0}
    inferred = False
    seen: set[Any] = set()
    for info in infos:
        tensors += 1
        view = info.view_of
        if view is not None:
            if view in seen:
                continue
            seen.add(view)
        elements[info.role] += info.numel
        buffers += info.role == "buffer"
        inferred = inferred or info.role_from == "inferred"
        nbytes += info.nbytes
    return Counts(tensors, elements["parameter"], elements["buffer"], elements[None], buffers, inferred, nbytes)
