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
        inferred: the roles of which at least one was inferred.
        nbytes: logical bytes, tied ones once.
    """

    tensors: int
    parameters: int
    buffers: int
    unknown: int
    buffer_tensors: int
    inferred: frozenset[str]
    nbytes: int

    @property
    def numel(self) -> int:
        return self.parameters + self.buffers + self.unknown


def add(own: Counts, below: Iterable[tuple[Counts, int]]) -> Counts:
    """The sum of disjoint parts, each so many times; only where no tensor of one is tied to one of another."""
    tensors, parameters, buffers, unknown, buffer_tensors, inferred, nbytes = own
    for part, times in below:
        tensors += part.tensors * times
        parameters += part.parameters * times
        buffers += part.buffers * times
        unknown += part.unknown * times
        buffer_tensors += part.buffer_tensors * times
        inferred |= part.inferred
        nbytes += part.nbytes * times
    return Counts(tensors, parameters, buffers, unknown, buffer_tensors, inferred, nbytes)


def count(infos: Iterable[TensorInfo]) -> Counts:
    """Count tensors."""
    tensors = nbytes = buffers = 0
    elements: dict[str | None, int] = {"parameter": 0, "buffer": 0, None: 0}
    inferred: set[str] = set()
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
        if info.role_from == "inferred" and info.role is not None:
            inferred.add(info.role)
        nbytes += info.nbytes
    parameters, buffer_elements, unknown = elements["parameter"], elements["buffer"], elements[None]
    return Counts(tensors, parameters, buffer_elements, unknown, buffers, frozenset(inferred), nbytes)
