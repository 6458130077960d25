"""Tensors of two sides that hold the same bytes: read no further than is needed to tell them apart."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from math import prod

from ..model.tensor import TensorInfo
from .leftovers import HARMLESS
from .like_sides import Side, leaf

_LARGEST_READ = 256 << 20
_SAMPLE = 4096
_CHUNK = 1 << 20


def _readable(info: TensorInfo) -> bool:
    """Whether its bytes are in the file, in order, and say something."""
    if info.storage is None or info.layout != "strided" or info.conj or info.neg or info.stride is None:
        return False
    expected = 1
    for size, stride in zip(reversed(info.shape), reversed(info.stride), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return prod(info.shape) > 1 and 0 < info.nbytes <= _LARGEST_READ


def _digest(info: TensorInfo, most: int) -> tuple[str, str] | None:
    """Hash of its first bytes, None if all elements are equal (or, of a sample, if the bytes are not there)."""
    data = info.storage.data if info.storage is not None else None
    if info.storage is None or data is None:
        return None
    size = info.nbytes // prod(info.shape)
    start = info.storage_offset * size
    end = start + info.nbytes
    if not size or end > data.size:
        return None
    stop = min(end, start + most)
    value = hashlib.blake2b(digest_size=20)
    first, constant = data.read_at(start, size), True
    for at in range(start, stop, _CHUNK):
        chunk = data.read_at(at, min(_CHUNK, stop - at))
        constant = constant and chunk == (first * (len(chunk) // size + 1))[: len(chunk)]
        value.update(chunk)
    if constant and stop == end:
        return None
    return ("" if info.storage.word == 1 else info.storage.byteorder), value.hexdigest()


def same_bytes(a: Side, b: Side) -> Iterator[tuple[str, str]]:
    """Names with the same bytes that no other has, on either side."""
    groups = [_grouped(_candidates(side)) for side in (a, b)]
    for most in (_SAMPLE, _LARGEST_READ):
        both = groups[0].keys() & groups[1].keys()
        if most == _SAMPLE:  # one of its kind, and its name agrees: nothing to find out
            both = {kind for kind in both if len(groups[0][kind]) > 1 or groups[0][kind] != groups[1][kind]}
        groups = [_grouped(_digests(side, group, both, most)) for side, group in zip((a, b), groups, strict=True)]
    for kind, names in groups[0].items():
        others = groups[1].get(kind, [])
        if len(names) == len(others) == 1:
            yield names[0], others[0]


def _candidates(side: Side) -> Iterator[tuple[str, object]]:
    for name in side.left:
        info = side.infos[name]
        if leaf(name) not in HARMLESS and _readable(info):
            yield name, (info.dtype, info.shape)


def _digests(side: Side, group: dict[object, list[str]], both: set[object], most: int) -> Iterator[tuple[str, object]]:
    for kind, names in group.items():
        for name in names if kind in both else ():
            digest = _digest(side.infos[name], most)
            if digest is not None:
                yield name, (kind, digest)


def _grouped(named: Iterable[tuple[str, object]]) -> dict[object, list[str]]:
    found: dict[object, list[str]] = defaultdict(list)
    for name, kind in named:
        found[kind].append(name)
    return found
