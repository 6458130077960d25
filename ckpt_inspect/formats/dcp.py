"""Distributed checkpoints (DCP, formats 8): where their metadata places the items that torch loads one by one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ..model.graph import Pickle
from . import objects


class Item(NamedTuple):
    """A stretch of a file, which is a complete ``torch.save`` file in itself.

    Attributes:
        owner: the metadata that places it.
        file: relative to the metadata's directory, as it says: it may lead outside.
        offset, nbytes: in that file.
    """

    owner: str
    file: str
    offset: int
    nbytes: int


def items_of(pickle: Pickle, owner: str) -> Iterator[Item]:
    """The items that a ``.metadata`` places: ``_StorageInfo`` objects, or whatever carries the same attributes."""
    for call in pickle.calls:
        fields = objects.fields(call) if call.ops else {}
        file, offset, nbytes = (fields.get(name) for name in ("relative_path", "offset", "length"))
        if isinstance(file, str) and type(offset) is int and type(nbytes) is int and min(offset, nbytes) >= 0:
            yield Item(owner, str(file), offset, nbytes)
