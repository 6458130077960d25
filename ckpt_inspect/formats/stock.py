"""What there is of each storage of a damaged file, and what stands in the place of what is not."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

from ..containers.copying import Piece
from ..containers.zip_chain import BROKEN, CHANGED, Walked
from ..dtypes import ITEMSIZE
from ..errors import CheckpointError
from ..model.checkpoint import Checkpoint
from ..model.graph import Pickle
from ..model.source import Source
from ..model.storage import Container, Storage
from ..model.tensor import TensorInfo
from . import archive as archives
from . import torch_zip
from .rebuild import Malformed, Storages, is_storage, storage_dtype, storage_key
from .torch_legacy import survey

ZEROS, NAN = "zeros", "nan"

_UNSUMMED = "nothing proves the values: it was written without checksums"

# NaN of each floating type, little-endian; all others are filled with zeros.
_NANS = {
    "float64": bytes.fromhex("000000000000f87f"), "float32": bytes.fromhex("0000c07f"), "float16": bytes.fromhex("007e"),
    "bfloat16": bytes.fromhex("c07f"), "float8_e4m3fn": b"\x7f", "float8_e5m2": b"\x7f", "float8_e4m3fnuz": b"\x80",
    "float8_e5m2fnuz": b"\x80", "float8_e8m0fnu": b"\xff", "complex128": bytes.fromhex("000000000000f87f"),
    "complex64": bytes.fromhex("0000c07f"), "complex32": bytes.fromhex("007e"),
}  # fmt: skip


class Stock(NamedTuple):
    """What there is of one storage.

    Attributes:
        nbytes: how long it should be.
        head: its first bytes, as many as can be trusted; None: none of it.
        why: why not all of it can be.
        dtype: of the tensors in it, which says what it is filled with.
        unproved: whether the file ends where its checksum should be.
    """

    nbytes: int
    head: Source | None
    why: str
    dtype: str
    unproved: bool = False

    @property
    def there(self) -> int:
        return self.head.size if self.head is not None else 0

    def filler(self, fill: str | None) -> str:
        """What stands for what is not there: ``zeros`` where the dtype has no NaN."""
        return NAN if fill == NAN and self.dtype in _NANS else ZEROS

    def pieces(self, fill: str | None, byteorder: str = "little") -> list[Piece]:
        """The storage, with zeros or NaN for what is not there."""
        found: list[Piece] = [self.head] if self.head is not None and self.head.size else []
        missing = self.nbytes - self.there
        pattern = _NANS[self.dtype] if self.filler(fill) == NAN else b"\0"
        if byteorder == "big":
            pattern = pattern[::-1]
        return [*found, Repeated(pattern, self.there, missing)] if missing else found


class Repeated:
    """A source that says the same bytes again and again, as if from the start of the storage it is a part of."""

    __slots__ = ("pattern", "phase", "size")
    path = ""

    def __init__(self, pattern: bytes, phase: int, nbytes: int) -> None:
        self.pattern = pattern
        self.phase = phase
        self.size = nbytes

    def read_at(self, offset: int, nbytes: int) -> bytes:
        nbytes = max(0, min(nbytes, self.size - offset))
        first = (self.phase + offset) % len(self.pattern)
        return (self.pattern * (nbytes // len(self.pattern) + 2))[first : first + nbytes]

    def slice(self, offset: int, nbytes: int) -> Source:
        return Repeated(self.pattern, self.phase + offset, min(nbytes, max(0, self.size - offset)))

    def file_range(self) -> None:
        return None


def stocks_of(
    checkpoint: Checkpoint, container: Container, why: Mapping[str, str], notes: list[str]
) -> dict[str, Stock]:
    """What there is of each storage, by its id; of a legacy view, that of the storage it is a view of.

    Args:
        checkpoint: one file.
        container: that file.
        why: what is wrong with a record or storage, by its name.
        notes: what else is to be known is added to them.
    """
    walked: dict[str, Walked] = {}
    archive = archives.archive_in(container)
    pickle = pickle_of(container)
    storages = _storages(checkpoint, container, pickle if archive is not None else None)
    if archive is not None and pickle is not None and checkpoint.format == torch_zip.NAME:
        known = {storage.id: storage for storage, _ in storages}
        hurt = [name for name, s in known.items() if name in why or (s.record is None and s.location != "meta")]
        if archive.truncated or hurt:
            walked = torch_zip.walk_through(container, archive, pickle, known, notes)
        if not archive.truncated:  # what the directory finds and nothing speaks against is as it says
            walked = {name: walked[name] for name in hurt if name in walked and not _is_less(walked[name], known[name])}
    found: dict[str, Stock] = {}
    for storage, dtype in storages:
        if storage.id not in found and storage.location != "meta":
            found[storage.id] = _stock(dtype, storage, container, walked.get(storage.id), why, notes)
    if checkpoint.format == "torch-legacy":
        found.update(_legacy_stocks(checkpoint, container, found))
    return found


def _is_less(walked: Walked, storage: Storage) -> bool:
    """Whether the headers tell less of a record than the directory, or the same in other words."""
    return bool(walked.why) and (storage.record is None or walked.why in (BROKEN, CHANGED))


def _storages(checkpoint: Checkpoint, container: Container, pickle: Pickle | None) -> list[tuple[Storage, str]]:
    """All storages with the dtype of what is in them: of the tensors, then what the pickle of a zip names beside them.

    torch reads every storage that a pickle names, whether we have understood what it belongs to or not.
    """
    found = [
        (part.storage, part.dtype)
        for _, _, info in checkpoint.tensors()
        for part in info.components()
        if part.storage is not None
    ]
    if pickle is None:
        return found
    ids = {storage.id for storage, _ in found}
    others = Storages(container.records, "data/", "little", [])
    for node in pickle.persistent:
        key = storage_key(node)
        if key is not None and f"data/{key}" not in ids:
            ids.add(f"data/{key}")
            with suppress(Malformed):
                storage, dtype, _ = others.get(node)
                found.append((storage, dtype.name))
    return found


def is_whole(info: TensorInfo) -> bool:
    """Whether the bytes of a tensor are all in the file, as far as lengths tell: of a view its own are enough."""
    return all(_is_there(part, part.storage) for part in info.components() if part.storage is not None)


def _is_there(info: TensorInfo, storage: Storage) -> bool:
    if storage.record is None:
        return storage.location == "meta"
    where = storage.record.source.file_range()
    return where is None or where[1] + storage.offset + info.extent <= where[0].size


def pickle_of(container: Container) -> Pickle | None:
    """The pickle that says which tensor is which, None where a JSON header does."""
    graph = container.graphs.get("data.pkl") or container.graphs.get("object")
    return graph if isinstance(graph, Pickle) else None


def _stock(
    dtype: str,
    storage: Storage,
    container: Container,
    walked: Walked | None,
    why: Mapping[str, str],
    notes: list[str],
) -> Stock:
    nbytes, reason = storage.nbytes, why.get(storage.id, "")
    if walked is not None:
        if walked.why:
            return Stock(nbytes, None, walked.why, dtype)
        unproved = walked.whole and not walked.proof
        if walked.whole and walked.proof == "length" and _UNSUMMED not in notes:
            notes.append(_UNSUMMED)
        content = walked.content(container.source)
        there = content.size if walked.whole or walked.inflated is None else 0  # of a deflated one all or nothing
        return Stock(nbytes, content.slice(0, min(there, nbytes)), _short(min(there, nbytes), nbytes), dtype, unproved)
    record = storage.record
    if record is None:
        return Stock(nbytes, None, reason or "its bytes are not in the file", dtype)
    if reason and "checksum" in reason:
        return Stock(nbytes, None, CHANGED, dtype)
    try:
        source = record.source
    except CheckpointError as error:
        return Stock(nbytes, None, error.message, dtype)
    where = source.file_range()
    there = nbytes if where is None else max(0, min(nbytes, where[0].size - where[1]))
    return Stock(nbytes, source.slice(0, there), _short(there, nbytes), dtype)


def _short(there: int, nbytes: int) -> str:
    return "" if there == nbytes else f"{there:,} of its {nbytes:,} bytes are there"


def _legacy_stocks(checkpoint: Checkpoint, container: Container, known: Mapping[str, Stock]) -> dict[str, Stock]:
    """Storages of a legacy stream one after the other, by the lengths that the pickle needs."""
    keys = container.graphs.get("storage keys")
    pickle = container.graphs["object"]
    if not isinstance(keys, Pickle) or type(keys.root) is not list:
        return {name: stock._replace(head=None, why="the list of storages is cut off") for name, stock in known.items()}
    lengths: dict[str, int] = {}
    types: dict[str, str] = {}
    for node in pickle.persistent:
        dtype = storage_dtype(node.pid[1]) if is_storage(node) else None
        numel = node.pid[4] if dtype is not None else None
        if dtype is not None and type(numel) is int and numel < 1 << 63 and isinstance(node.pid[2], (str, int)):
            lengths.setdefault(str(node.pid[2]), max(0, numel) * dtype.itemsize)
            types.setdefault(str(node.pid[2]), dtype.name)
    listed = [str(key) if isinstance(key, (str, int)) else "" for key in keys.root]
    known_ones = list(itertools.takewhile(lengths.__contains__, listed))  # what follows another cannot be found
    needed = [(lengths[name], lengths[name] // ITEMSIZE[types[name]]) for name in known_ones]
    found: dict[str, Stock] = {}
    for name, (start, there, why, _) in zip(known_ones, survey(container.source, keys.end, needed), strict=True):
        nbytes = lengths[name]
        found[name] = Stock(nbytes, container.source.slice(start, there), why or _short(there, nbytes), types[name])
    return found
