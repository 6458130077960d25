"""Whether tensors hold the same bytes, and what bytes they hold; many at once, read by several threads."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from ..containers.copying import Progress
from ..containers.streaming import SPLIT, digest, exactly, first_difference, in_order, same_range, stretches
from ..errors import CheckpointError, FileError
from ..formats.logical import check_expansion, content_key, frame, leaves, logical
from ..model.source import Source
from ..model.tensor import TensorInfo

_BATCH = 8 << 20  # bytes of small tensors that one task takes
_BATCH_COUNT = 256
_SAMPLE = 4096

Pair = tuple[TensorInfo, TensorInfo]


class Verdict(NamedTuple):
    """Of two tensors of one dtype and shape: whether their bytes are the same.

    Attributes:
        same: None where it cannot be told.
        error: then the reason.
        by_crc: nothing was read: the checksums of the archives said so.
    """

    same: bool | None
    error: str | None = None
    by_crc: bool = False


def stored_nbytes(info: TensorInfo) -> int:
    """Bytes that comparing or hashing it reads at most."""
    return sum(leaf.nbytes for leaf in leaves(info))


def by_checksum(a: TensorInfo, b: TensorInfo) -> bool | None:
    """What the recorded checksums say of two tensors of one dtype and shape; None: nothing."""
    if frame(a) != frame(b):
        return None
    found: bool | None = True
    for x, y in zip(leaves(a), leaves(b), strict=True):
        mine, theirs = _crc(x), _crc(y)
        view = x.storage_offset, x.stride
        if mine is None or theirs is None or view != (y.storage_offset, y.stride) or (x.conj, x.neg) != (y.conj, y.neg):
            return None
        if mine != theirs:
            whole = x.storage is not None and x.nbytes == x.storage.nbytes
            found = False if whole else None
            if found is None:
                return None
    return found


def _crc(info: TensorInfo) -> tuple[int, int] | None:
    """Length and CRC-32 of the record that is its storage."""
    storage = info.storage
    record = storage.record if storage is not None else None
    if storage is None or record is None or record.crc is None or storage.offset or storage.byteorder != "little":
        return None
    return (record.nbytes, record.crc) if record.nbytes == storage.nbytes else None


def _sources(a: TensorInfo, b: TensorInfo) -> list[tuple[Source, Source]] | None:
    """Pairs of byte runs that decide; None: they differ whatever the bytes are."""
    if frame(a) != frame(b):
        return None
    found = []
    for x, y in zip(leaves(a), leaves(b), strict=True):
        if x.dtype != y.dtype or x.shape != y.shape:
            return None
        if _repeats(x) and (x.shape, x.stride, x.conj, x.neg) == (y.shape, y.stride, y.conj, y.neg):
            x, y = _once(x), _once(y)
        sources = logical(x), logical(y)  # which are there, or this says so
        if _same_view(x, y):
            continue
        check_expansion(x)
        check_expansion(y)
        found.append(sources)
    return found


def _same_view(x: TensorInfo, y: TensorInfo) -> bool:
    """Whether they are the same view of the same bytes of the same file: then nothing need be read."""
    one, other = x.storage, y.storage
    if one is None or other is None or one.data is None or other.data is None or one.byteorder != other.byteorder:
        return False
    views = [(i.storage_offset, i.shape, i.stride, i.conj, i.neg, i.dtype) for i in (x, y)]
    return views[0] == views[1] and same_range(one.data, other.data)


def _repeats(info: TensorInfo) -> bool:
    return 0 in (info.stride or ()) and info.nbytes > SPLIT


def _once(info: TensorInfo) -> TensorInfo:
    """An expanded tensor without its repetitions."""
    kept = [(n, step) for n, step in zip(info.shape, info.stride or (), strict=True) if step]
    return info._replace(shape=tuple(n for n, _ in kept), stride=tuple(step for _, step in kept))


def compare(pairs: Sequence[Pair], progress: Progress | None = None, quick: bool = False) -> list[Verdict]:
    """Whether the two of each pair, of one dtype and shape, hold the same bytes. Tied tensors are read once.

    Args:
        pairs: what to compare.
        progress: called with the number of bytes just read.
        quick: believe the checksums of the archives, where there are any.
    """
    verdicts: list[Verdict | None] = [None] * len(pairs)
    first: dict[object, int] = {}  # what was compared already
    twins: dict[int, int] = {}
    checks: list[tuple[int, list[tuple[Source, Source]]]] = []
    for index, (a, b) in enumerate(pairs):
        keys = content_key(a), content_key(b)
        known = first.setdefault(keys, index) if None not in keys else index
        if known != index:
            twins[index] = known
            continue
        told = by_checksum(a, b) if quick else None
        if told is not None:
            verdicts[index] = Verdict(told, by_crc=True)
            continue
        try:
            sources = _sources(a, b)
        except CheckpointError as error:
            verdicts[index] = Verdict(None, error.beside(a.key))
            continue
        if sources is None:
            verdicts[index] = Verdict(False)
        else:
            checks.append((index, [(x, y) for x, y in sources if not same_range(x, y)]))
    for done in in_order(_tasks(checks, progress)):
        for index, verdict in done:
            before = verdicts[index]
            if before is None or (before.same and not verdict.same):
                verdicts[index] = verdict
    for index, known in twins.items():
        verdicts[index] = verdicts[known]
    return [verdict or Verdict(True) for verdict in verdicts]


_Runs = list[tuple[Source, Source]]
_Stretch = tuple[int, Source, Source, int, int]


def _tasks(
    checks: Iterable[tuple[int, _Runs]], progress: Progress | None
) -> Iterator[Callable[[], list[tuple[int, Verdict]]]]:
    """Small tensors together, large ones in parts."""
    differ: set[int] = set()
    batch: list[_Stretch] = []
    nbytes = 0
    for index, runs in checks:
        for a, b in runs:
            for offset, length in stretches(a.size):
                batch.append((index, a, b, offset, length))
                nbytes += length
                if nbytes >= _BATCH or len(batch) >= _BATCH_COUNT:
                    yield partial(_check, batch, differ, progress)
                    batch, nbytes = [], 0
    if batch:
        yield partial(_check, batch, differ, progress)


def _check(batch: list[_Stretch], differ: set[int], progress: Progress | None) -> list[tuple[int, Verdict]]:
    found = []
    for index, a, b, offset, length in batch:
        if index in differ:  # of another stretch it is known already
            continue
        try:
            same = first_difference(a, b, offset, length, progress) is None
        except CheckpointError as error:
            found.append((index, Verdict(None, error.message)))
            differ.add(index)
            continue
        if not same:
            differ.add(index)
        found.append((index, Verdict(same)))
    return found


# -- what bytes ----------------------------------------------------------------------------------------


def sample(info: TensorInfo) -> bytes | None:
    """Hash of the first bytes of each component; None if they are not there, or have no such form.

    Raises:
        FileError: the disk does not give them.
    """
    try:
        value = hashlib.sha256(repr((info.dtype, info.shape, frame(info))).encode())
        for leaf in leaves(info):
            check_expansion(leaf)
            source = logical(leaf)
            value.update(exactly(source, 0, min(_SAMPLE, source.size)))
        return value.digest()
    except FileError:
        raise
    except CheckpointError:
        return None


def content(info: TensorInfo, progress: Progress | None = None) -> bytes | None:
    """Hash of all its bytes; as :func:`sample`."""
    try:
        value = hashlib.sha256()
        for leaf in leaves(info):
            check_expansion(leaf)
            digest(logical(leaf), value, progress)
        return value.digest()
    except FileError:
        raise
    except CheckpointError:
        return None


def contents(infos: Sequence[TensorInfo], progress: Progress | None = None) -> list[bytes | None]:
    """:func:`content` of many, by several threads."""
    return list(in_order(partial(content, info, progress) for info in infos))
