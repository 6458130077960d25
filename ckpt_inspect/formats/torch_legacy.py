"""The stream of torch 0.1 to 1.5: five pickles, then each storage with its length (formats 6)."""

from __future__ import annotations

from typing import Any, NamedTuple

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


class Placed(NamedTuple):
    """Where a storage lies, how many of its bytes can be trusted, and why that is not all of them."""

    start: int
    there: int
    why: str
    length_is_wrong: bool = False


BROKEN = "bytes of it were lost, inserted or written over: what follows is not where it should be"
UNKNOWN = "where it begins is not known: what lies before it is damaged"


def survey(source: Source, offset: int, needed: list[tuple[int, int]]) -> list[Placed]:
    """Where storages lie in a stream: before the bytes of each stands the number of its elements (formats 6).

    Where the numbers do not fit any more, bytes were lost, inserted or written over in the storage before; those at the
    end of the stream are found from there. A number that alone is wrong has hurt no bytes.

    Args:
        offset: of the first.
        needed: bytes and elements of each as the pickle needs them, in the order of the stream.
    """
    starts: list[int] = []
    fits: list[bool | None] = []
    for nbytes, numel in needed:
        count = source.read_at(offset, 8)
        fits.append(None if len(count) < 8 else int.from_bytes(count, "little", signed=True) == numel)
        starts.append(offset + 8)
        offset += 8 + nbytes
    telling = [index for index, (_, numel) in enumerate(needed) if numel]  # a length of 0 is what zeros say too
    broken = None
    for index, following in zip(telling, [*telling[1:], None], strict=False):
        alone = offset == source.size if following is None else fits[following] is True
        if fits[index] is False and not alone:
            broken = index
            break
    end = len(needed) if broken is None else broken
    found = [
        Placed(start, max(0, min(nbytes, source.size - start)), "", fit is False)
        for start, (nbytes, _), fit in zip(starts[:end], needed, fits, strict=False)
    ]
    if broken is None:
        # bytes that follow may have been put in before: then the last storages end with the file
        behind = _from_the_end(source, needed, starts[0]) if needed and offset < source.size else []
        return [*found[: len(found) - len(behind)], *behind]
    last = max((index for index in telling if index < broken), default=None)
    if last is not None:
        found[last] = found[last]._replace(there=0, why=BROKEN)
    behind = _from_the_end(source, needed[broken:], starts[broken])
    missing = len(needed) - broken - len(behind)
    return [*found, *[Placed(0, 0, UNKNOWN)] * missing, *behind]


def _from_the_end(source: Source, needed: list[tuple[int, int]], least: int) -> list[Placed]:
    """The last storages of a stream, as many as the numbers before them prove."""
    found: list[Placed] = []
    proved, position = 0, source.size
    for nbytes, numel in reversed(needed):
        position -= nbytes
        if position < least - 8:
            break
        if int.from_bytes(source.read_at(position - 8, 8), "little", signed=True) != numel:
            break
        found.append(Placed(position, nbytes, ""))
        proved = len(found) if numel else proved
        position -= 8
    return found[:proved][::-1]


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
    listed: list[tuple[Storage, DType]] = []
    for key in keys.root:
        known = storages.by_key.get(str(key)) if isinstance(key, (str, int)) else None
        if known is None:
            said = repr(str(key)[:40]) if isinstance(key, (str, int)) else "with a key that is no text"
            problems.append(f"storage {said} is in the list, but not in the pickle: what follows cannot be found")
            break
        listed.append(known[:2])
    placed = survey(source, offset, [(s.nbytes, s.nbytes // max(dtype.itemsize, 1)) for s, dtype in listed])
    whole: set[str] = set()
    for (storage, dtype), place in zip(listed, placed, strict=True):
        if place.why:
            problems.append(Problem(f"storage {storage.id[:40]}: {place.why}", storage.id))
            continue
        offset = place.start + storage.nbytes
        if place.there < storage.nbytes or place.start > source.size:
            storage.record = Record(storage.id, storage.nbytes, source.slice(place.start, storage.nbytes))
            _cut(problems, source, place.start - 8, storages, whole)
            break
        if place.length_is_wrong:
            numel = int.from_bytes(source.read_at(place.start - 8, 8), "little", signed=True)
            text = (
                f"storage {storage.id[:40]}: the stream has {numel:,} elements where the pickle needs "
                f"{storage.nbytes // max(dtype.itemsize, 1):,}: torch refuses that, its bytes are there"
            )
            problems.append(Problem(text, storage.id))
        whole.add(storage.id)
        storage.record = container.records[storage.id] = Record(
            storage.id, storage.nbytes, source.slice(place.start, storage.nbytes)
        )
    if len(listed) < len(keys.root) or len(whole) < len(listed):
        _views(storages)
        return
    _views(storages)
    for key_text, (storage, _, _) in storages.by_key.items():
        if storage.record is None and storage.location != "meta":
            problems.append(Problem(f"storage {key_text[:40]} is missing: {storage.nbytes:,} bytes", storage.id))
    if offset < source.size:
        container.facts["trailing"] = f"{source.size - offset:,} bytes after the last storage"


def _views(storages: _LegacyStorages) -> None:
    for part, root, _, _ in storages.views.values():
        part.record = root.record


def _cut(problems: list[str], source: Source, offset: int, storages: Storages, whole: set[str] | None = None) -> None:
    left = [storage for key, (storage, *_) in storages.by_key.items() if key not in (whole or ())]
    needed = offset + sum(storage.nbytes + 8 for storage in left)
    problems.append(
        f"the file is cut: {source.size:,} bytes are there, its metadata needs at least {needed:,}; "
        "names and shapes below are right, not all values are there"
    )
