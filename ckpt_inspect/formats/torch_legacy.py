"""The stream of torch 0.1 to 1.5: five pickles, then each storage with its length (formats 6)."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..dtypes import DType
from ..errors import CorruptError, LimitError
from ..model.checkpoint import Checkpoint
from ..model.graph import Pickle
from ..model.lost import listed
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
    if "trailing" in container.facts:
        checkpoint.facts["trailing"] += _unproved(checkpoint, container)
    return finish(checkpoint)


def _unproved(checkpoint: Checkpoint, container: Container) -> str:
    """Whose values are wrong if what follows the last storage was put into it: no length tells."""
    last = next((name for name, record in reversed(container.records.items()) if record.nbytes), None)
    names = [
        name or "the root"
        for name, _, info in checkpoint.tensors()
        if any(part.storage is not None and part.storage.id.partition("/")[0] == last for part in info.components())
    ]
    return f"; if they were put into it, {listed(names)} is wrong: nothing proves where they belong" if names else ""


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
OPEN = "bytes were lost, inserted or cut off, and the lengths leave open whether in it"
UNKNOWN = "where it begins is not known: what lies before it is damaged"
_STRONG = 2  # elements; that there are none or one is what many bytes say by chance


def survey(source: Source, offset: int, needed: list[tuple[int, int]]) -> list[Placed]:
    """Where storages lie in a stream: before the bytes of each stands the number of its elements (formats 6).

    Numbers are all that proves anything. Read from the front they should stand where the lengths before them say, and
    from the end where the lengths behind them say. Where the stream is not as long as it should be, bytes were lost or
    inserted once in one of the storages that have right numbers before them from the front and behind them from the
    end; what is before all of those, or behind, is whole. A number that alone is wrong has hurt no bytes.

    Args:
        offset: of the first.
        needed: bytes and elements of each as the pickle needs them, in the order of the stream.
    """
    starts: list[int] = []
    fits: list[bool | None] = []  # None: the stream ends before
    position = offset
    for nbytes, numel in needed:
        fits.append(_says(source, position, numel))
        starts.append(position + 8)
        position += 8 + nbytes
    shift = source.size - position
    back = len(needed)  # from here on the numbers are right, read from the end
    if shift or not all(fits):
        while back and starts[back - 1] - 8 + shift >= offset:
            if not _says(source, starts[back - 1] - 8 + shift, needed[back - 1][1]):
                break
            back -= 1
    first = _first_wrong(fits, needed, shift, back)
    at_the_front = [
        Placed(start, max(0, min(nbytes, source.size - start)), "", fit is False)
        for start, (nbytes, _), fit in zip(starts, needed, fits, strict=True)
    ]
    contradicted = first < len(needed) and fits[first] is False
    if not contradicted and (back == len(needed) or back - 1 > first):
        return at_the_front  # as it should be, cut, or with something behind it
    low, high = max(0, back - 1), first if contradicted else len(needed) - 1
    why = OPEN
    if contradicted and low <= high:
        high = max(low, first - 1) if back <= first else first
        low = min(low, max(0, first - 1))  # the number itself may be among what is lost, and bytes before it
        why = BROKEN if low == high else OPEN
    elif contradicted:  # damaged in several places
        low, high = max(0, first - 1), back - 1
        while high + 1 < len(needed) and needed[high + 1][1] < _STRONG:
            high += 1
    while low and not (fits[low] and needed[low][1] >= _STRONG):  # nothing proves what is before it
        low -= 1
    found = at_the_front[:low]
    for index in range(low, high + 1):
        nbytes = needed[index][0]
        several = contradicted and why == OPEN and back - 1 > first
        reason = (BROKEN if index < first else UNKNOWN) if several else why
        found.append(Placed(starts[index], 0, reason if nbytes else ""))
    behind = range(high + 1, len(needed))
    return [*found, *(Placed(starts[index] + shift, needed[index][0], "") for index in behind)]


def _says(source: Source, position: int, numel: int) -> bool | None:
    """Whether the number there is ``numel``; None: there is no number."""
    count = source.read_at(position, 8)
    return int.from_bytes(count, "little", signed=True) == numel if len(count) == 8 else None


def _first_wrong(fits: list[bool | None], needed: list[tuple[int, int]], shift: int, back: int) -> int:
    """The first number that is wrong or not there, but for those that alone are wrong: what follows is in its place."""
    found = position = len(fits)
    strong = False  # whether the next number with weight fits, and all before it
    while position:
        position -= 1
        alone = fits[position] is False and (strong or (not shift and back <= position + 1))
        if not fits[position] and not alone:
            found = position
        strong = bool(fits[position]) and (strong or needed[position][1] >= _STRONG)
    return found


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
        count = source.size - offset
        container.facts["trailing"] = f"{count:,} byte{'s' * (count > 1)} after the last storage"


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
