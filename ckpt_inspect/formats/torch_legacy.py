"""The stream of torch 0.1 to 1.5: five pickles, then each storage with its length (formats 6)."""

from __future__ import annotations

from typing import Any

from ..dtypes import DType
from ..errors import CorruptError, LimitError
from ..model.checkpoint import Checkpoint
from ..model.graph import Pickle
from ..model.problem import Problem
from ..model.source import Source
from ..model.storage import Container, Record, Storage
from ..pickles.limits import DEFAULT, Limits
from ..pickles.machine import read_pickle
from .finish import finish
from .rebuild import Malformed, Rebuilder, Storages
from .sections import Builder

NAME = "torch-legacy"
MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
_MAGIC_PICKLE = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."  # LONG1 of the magic number, STOP
_LONGEST_KEY = 1000
PARTS = ("magic", "protocol", "sys_info", "object", "storage keys")


def matches(head: bytes, source: Source) -> bool:
    # protocols 2 and up begin with PROTO; 4 and up put a FRAME between; 0 and 1 write the number as text
    return _MAGIC_PICKLE in head[:32] or head.startswith(
        (b"L119547037146038801333356L\n.", b"I119547037146038801333356\n.")
    )


def read(source: Source, limits: Limits = DEFAULT) -> Checkpoint:
    checkpoint = Checkpoint(source.path, NAME, source.size)
    container, storages, root = read_stream(source, NAME, checkpoint.problems, limits)
    checkpoint.containers.append(container)
    builder = Builder(Rebuilder(storages, source.path), checkpoint.problems, limits)
    builder.build(root)
    builder.fill(checkpoint)
    checkpoint.facts["writer"] = "torch.save of torch 0.1 to 1.5, or with _use_new_zipfile_serialization=False~"
    checkpoint.facts.update(container.facts)
    return finish(checkpoint)


def read_stream(source: Source, format: str, problems: list[str], limits: Limits) -> tuple[Container, Storages, Pickle]:
    """Read a stream: its container, its storages, and the pickle of the object."""
    container = Container(source.path, format, source)
    storages = _LegacyStorages(container.records, problems)
    pickles: list[Pickle] = []
    offset = 0
    for name in PARTS:
        try:
            pickle = read_pickle(source, offset, limits)
        except CorruptError as error:
            if name != "storage keys":
                error.record, error.path = error.record or name, source.path
                if not isinstance(error, LimitError) and (error.offset or 0) >= source.size - 16:
                    error.hint = (
                        f"The file ends at {source.size:,} bytes, inside its metadata: download or copy it again."
                    )
                raise
            _collect(storages, pickles[3])
            _cut(problems, source, offset, storages)
            return container, storages, pickles[3]
        pickles.append(pickle)
        container.graphs[name] = pickle
        offset = pickle.end
        if name == "magic" and pickle.root != MAGIC:
            raise CorruptError("the magic number is wrong", path=source.path, offset=0)
        if name == "protocol" and pickle.root != PROTOCOL:
            said = str(pickle.root)[:20] if isinstance(pickle.root, (int, str)) else "that is no number"
            raise CorruptError(f"legacy protocol {said}: torch knows {PROTOCOL} alone", path=source.path)
    _collect(storages, pickles[3])
    _locate(container, source, offset, pickles[4], storages, problems)
    return container, storages, pickles[3]


class _LegacyStorages(Storages):
    """Records are found after the pickle was read, by walking the lengths; the keys are pointers as text."""

    def __init__(self, records: dict[str, Record], problems: list[str]) -> None:
        super().__init__(records, "", "little", problems)
        self.views: dict[tuple[str, str], tuple[Storage, Storage, DType, Any]] = {}

    def missing(self, storage: Storage) -> None:
        storage.record = None

    def get(self, node: Any) -> tuple[Storage, DType, Any]:
        known = super().get(node)
        view = node.pid[5] if len(node.pid) > 5 else None
        if view is None:
            return known
        return self._view(known, view)

    def _view(self, known: tuple[Storage, DType, Any], view: Any) -> tuple[Storage, DType, Any]:
        """A storage that is a stretch of another: (view key, offset, size), in elements."""
        root, dtype, cls = known
        if type(view) is not tuple or len(view) != 3 or not isinstance(view[0], (str, int)):
            raise Malformed("a malformed view of a storage")
        key, offset, size = view
        if type(offset) is not int or type(size) is not int or offset < 0 or size < 0:
            raise Malformed("a malformed view of a storage")
        if (offset + size) * dtype.itemsize > root.nbytes:
            raise Malformed("a view that reaches beyond its storage")
        name = (root.id, str(key))
        if len(name[0]) + len(name[1]) > _LONGEST_KEY:
            raise Malformed("a view whose key is no pointer")
        if name not in self.views:
            part = Storage(f"{root.id}/{key}", size * dtype.itemsize, root.location, None, offset * dtype.itemsize)
            self.views[name] = (part, root, dtype, cls)
        return (self.views[name][0], *self.views[name][2:])


def _collect(storages: Storages, pickle: Pickle) -> None:
    """Know every storage before the first is looked for: the lengths in the stream count elements."""
    for node in pickle.persistent:
        if type(node.pid) is tuple and node.pid and node.pid[0] == "storage":
            try:
                storages.get(node)
            except Malformed as error:
                storages.problems.append(f"a storage of the pickle: {error}")
    storages.reached.clear()


def _locate(
    container: Container,
    source: Source,
    offset: int,
    keys: Pickle,
    storages: _LegacyStorages,
    problems: list[str],
) -> None:
    """After the key list: for each key, int64 element count, then raw data (formats 6)."""
    if type(keys.root) is not list:
        problems.append("the list of storage keys is no list")
        return
    for position, key in enumerate(keys.root):
        known = storages.by_key.get(str(key)) if isinstance(key, (str, int)) else None
        if known is None:
            said = repr(str(key)[:40]) if isinstance(key, (str, int)) else "with a key that is no text"
            problems.append(f"storage {said} is in the list, but not in the pickle: what follows cannot be found")
            return
        count = source.read_at(offset, 8)
        storage, dtype, _ = known
        numel = int.from_bytes(count, "little", signed=True)
        start = offset + 8
        if len(count) < 8 or start + storage.nbytes > source.size:
            _cut(problems, source, offset, storages, {str(key) for key in keys.root[:position]})
            return
        if numel * dtype.itemsize != storage.nbytes:
            text = (
                f"storage {str(key)[:40]}: the stream has {numel:,} elements where the pickle needs "
                f"{storage.nbytes // max(dtype.itemsize, 1):,}; what follows cannot be found"
            )
            problems.append(Problem(text, storage.id))
            return
        record = Record(str(key), storage.nbytes, source.slice(start, storage.nbytes))
        container.records[record.name] = record
        storage.record = record
        offset = start + storage.nbytes
    for part, root, _, _ in storages.views.values():
        part.record = root.record
    for key_text, (storage, _, _) in storages.by_key.items():
        if storage.record is None and storage.location != "meta":
            problems.append(Problem(f"storage {key_text[:40]} is missing: {storage.nbytes:,} bytes", storage.id))
    if offset < source.size:
        container.facts["trailing"] = f"{source.size - offset:,} bytes after the last storage"


def _cut(problems: list[str], source: Source, offset: int, storages: Storages, whole: set[str] | None = None) -> None:
    left = [storage for key, (storage, *_) in storages.by_key.items() if key not in (whole or ())]
    needed = offset + sum(storage.nbytes + 8 for storage in left)
    problems.append(
        f"the file is cut: {source.size:,} bytes are there, its metadata needs at least {needed:,}; "
        "names and shapes below are right, not all values are there"
    )
