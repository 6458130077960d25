"""The stream of torch 0.1 to 1.5: five pickles, then each storage with its length (formats 6)."""

from __future__ import annotations

from bisect import bisect_right
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

    Numbers and the length of the stream are all that proves anything. Where that is not what it should be, bytes were
    lost or inserted at one place, and numbers are right before it, read from the front, and behind it, read from the
    end. All places for which that is so are thought of: what lies before all of them or behind all of them is whole.
    A number that alone is wrong has hurt no bytes.

    Args:
        offset: of the first.
        needed: bytes and elements of each as the pickle needs them, in the order of the stream.
    """
    stream = _Stream(source, offset, needed)
    if stream.shift == 0 and stream.first == len(needed):
        return stream.front
    least, most = stream.places()
    if least > most:
        return stream.damaged_in_several_places()
    gap = max(0, -stream.shift)
    # a number that is wrong read from either end is where it happened, or there were two places, around it
    around = (stream.first - 1, stream.first) if stream.contradicted and stream.back > stream.first else ()
    open_: list[int] = []
    found: list[Placed] = []
    for index, (nbytes, _) in enumerate(needed):
        start = stream.starts[index]
        if not nbytes or (start + nbytes <= least and index not in around):
            found.append(stream.front[index])
        elif start >= most + gap and index not in around:
            found.append(Placed(start + stream.shift, nbytes, ""))
        else:
            open_.append(index)
            found.append(Placed(start, 0, OPEN))
    if not stream.contradicted:
        cut = stream.shift < 0 and (
            stream.back == len(needed) or all(stream.front[index].there < needed[index][0] for index in open_)
        )
        behind = stream.shift > 0 and len(open_) <= 1  # something follows: that it was put into the last is not likely
        if cut or behind:
            return stream.front
    if len(open_) == 1 and stream.contradicted:
        found[open_[0]] = found[open_[0]]._replace(why=BROKEN)
    return found


class _Stream:
    """The numbers of a stream, read from both ends.

    Attributes:
        starts: where the bytes of each storage should begin; ``front``: that as places, each as long as there is.
        shift: bytes that the stream is longer than it should be; below 0: shorter.
        first: the first number that is wrong or not there, read from the front.
        back: from here on all are right, read from the end.
        contradicted: whether a number is wrong, so that the stream is not only cut or followed by something.
    """

    def __init__(self, source: Source, offset: int, needed: list[tuple[int, int]]) -> None:
        self.offset, self.needed, self.size = offset, needed, source.size
        self.starts: list[int] = []
        fits: list[bool | None] = []  # None: the stream ends before
        position = offset
        for nbytes, numel in needed:
            fits.append(_says(source, position, numel))
            self.starts.append(position + 8)
            position += 8 + nbytes
        self.fits = fits
        self.end = position
        self.shift = source.size - position
        self.front = [
            Placed(start, max(0, min(nbytes, source.size - start)), "", fit is False)
            for start, (nbytes, _), fit in zip(self.starts, needed, fits, strict=True)
        ]
        self.back = len(needed)
        if self.shift or not all(fits):
            while self.back and self.starts[self.back - 1] - 8 + self.shift >= offset:
                if not _says(source, self.starts[self.back - 1] - 8 + self.shift, needed[self.back - 1][1]):
                    break
                self.back -= 1
        self.first = self._first_wrong()
        self.contradicted = self.first < len(needed) and fits[self.first] is False

    def _first_wrong(self) -> int:
        """But for numbers that alone are wrong: what follows them is in its place."""
        found = position = len(self.fits)
        firm = False  # whether the next number that proves something is right, and all before it
        while position:
            position -= 1
            fits = self.fits[position]
            alone = fits is False and (firm or (not self.shift and self.back <= position + 1))
            if not fits and not alone:
                found = position
            firm = bool(fits) and (firm or not self._by_chance(position, -self.shift))
        return found

    def places(self) -> tuple[int, int]:
        """The least and the greatest offset, in a sound stream, from which on bytes were lost or before which inserted.

        The least is greater where one place does not explain what there is.
        """
        gap = max(0, -self.shift)
        least, most = self.offset, min(self.end, self.size)
        if self.contradicted:
            most = self.starts[self.first] - 1
        if self.back:
            least = max(least, self.starts[self.back - 1] - 8 - gap + 1)
        firm = (i for i in reversed(range(self.first)) if self.fits[i] and not self._by_chance(i, -self.shift))
        least = max(least, max((self.starts[index] for index in firm), default=0))
        firm = (i for i in range(self.back, len(self.needed)) if not self._by_chance(i, self.shift))
        most = min(most, min((self.starts[index] - 8 - gap for index in firm), default=most))
        return least, most

    def _by_chance(self, index: int, shift: int) -> bool:
        """Whether a number can be right though bytes of another place stand there: ``shift`` further on in a sound
        stream. Another number can say the same, a number can stand among values, and zeros are everywhere."""
        numel = self.needed[index][1]
        if not numel:
            return True
        place = self.starts[index] - 8 + shift
        other = bisect_right(self.starts, place + 8) - 1
        if other < 0 or not shift:
            return False
        if place == self.starts[other] - 8:
            return self.needed[other][1] == numel
        nbytes, count = self.needed[other]
        inside = place - self.starts[other]
        return numel < _STRONG and 0 <= inside < nbytes and nbytes == 8 * count and inside % 8 == 0

    def damaged_in_several_places(self) -> list[Placed]:
        """What is before the first wrong number, or behind the last, each as far as numbers prove it that say much."""
        # where numbers are right from both ends, a stretch is there twice: before it one end proves, behind it the other
        low, high = max(0, min(self.first - 1, self.back)), self.back - 1
        while low and not (self.fits[low] and self.needed[low][1] >= _STRONG):
            low -= 1
        while high + 1 < len(self.needed) and self.needed[high + 1][1] < _STRONG:
            high += 1
        found = self.front[:low]
        for index in range(low, high + 1):
            why = BROKEN if index < self.first else UNKNOWN
            found.append(Placed(self.starts[index], 0, why if self.needed[index][0] else ""))
        behind = range(high + 1, len(self.needed))
        return [*found, *(Placed(self.starts[i] + self.shift, self.needed[i][0], "") for i in behind)]


def _says(source: Source, position: int, numel: int) -> bool | None:
    """Whether the number there is ``numel``; None: there is no number."""
    if position >= source.size:  # a length that a pickle needs may be longer than any file
        return None
    count = source.read_at(position, 8)
    return int.from_bytes(count, "little", signed=True) == numel if len(count) == 8 else None


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
