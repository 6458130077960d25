"""A file that was just written, opened again and compared with what it was to be."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

from ..containers.copying import Progress
from ..errors import CorruptError, FileError
from ..formats import open_checkpoint
from ..model.checkpoint import Checkpoint
from ..model.source import COPY_CHUNK, Source
from ..model.tensor import TensorInfo


def check(made: Checkpoint, path: str, verify: bool = False, progress: Progress | None = None) -> str:
    """Compare the file at ``path`` with ``made``; what was checked, in words.

    Args:
        made: what was to be written.
        path: where it was written to.
        verify: read all bytes of both again, and compare their checksums.
        progress: called with the number of bytes just compared.

    Raises:
        CorruptError: they differ; the tensor is named.
    """
    with _reopened(path) as written:
        if written.problems:
            raise CorruptError(f"it is written, but not as it should be: {written.problems[0]}", path=path)
        there, wanted = list(written.tensors()), list(made.tensors())
        if [_facts(row) for row in there] != [_facts(row) for row in wanted]:
            name = next((w[0] for t, w in zip(there, wanted, strict=False) if _facts(t) != _facts(w)), "their number")
            raise CorruptError(f"what was written is not what was meant: {name} differs", path=path)
        compared = _compare(wanted, there, path, progress) if verify else 0
    found = f"{len(there):,} tensor{'s' if len(there) != 1 else ''}, dtypes, shapes and lengths as they should be"
    return found + (f"; {compared:,} bytes compared with the source" if verify else "")


def _reopened(path: str) -> Checkpoint:
    try:
        return open_checkpoint(path)
    except FileError as error:
        error.message = f"it is written, but cannot be opened to be checked: {error.message}"
        raise


def _facts(row: tuple[str, Any, TensorInfo]) -> tuple[Any, ...]:
    name, _, info = row
    storage = info.storage.nbytes if info.storage is not None else None
    return name, info.dtype, info.shape, info.stride, info.storage_offset, storage, info.device


def _compare(wanted: list[Any], there: list[Any], path: str, progress: Callable[[int], None] | None) -> int:
    """Storages by checksum, each once; how many bytes."""
    seen: set[Any] = set()
    total = 0
    for (name, _, mine), (_, _, theirs) in zip(wanted, there, strict=True):
        for one, other in zip(mine.components(), theirs.components(), strict=True):
            if one.storage is None or one.storage in seen or one.storage.data is None:
                continue
            seen.add(one.storage)
            if (
                other.storage is None
                or other.storage.data is None
                or _crc(one.storage.data) != _crc(other.storage.data)
            ):
                raise CorruptError(f"the bytes of {name} were not written as they should be", path=path)
            total += one.storage.nbytes
            if progress is not None:
                progress(one.storage.nbytes)
    return total


def _crc(source: Source) -> int:
    crc, offset = 0, 0
    while chunk := source.read_at(offset, COPY_CHUNK):
        crc = zlib.crc32(chunk, crc)
        offset += len(chunk)
    return crc
