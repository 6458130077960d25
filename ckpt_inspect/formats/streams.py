"""Every pickle that is in a file, whatever the file is: of all members, listed or not, behind a STOP, inside bytes.

Readers of checkpoints look where the format says; this looks everywhere. Nothing is refused for breaking a rule of its
container: what is hidden there is what is looked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from ..containers.zip import LOCAL, LOCAL_MAGIC, Inflated, ZipRecord, read_archive
from ..containers.zip_check import check_record, content_start
from ..errors import CheckpointError, CorruptError, FileError, LimitError, UnsupportedError
from ..model.graph import Blob, Dict, Pickle, Set
from ..model.source import BytesSource, Source
from ..pickles.limits import DEFAULT, Limits
from ..pickles.machine import read_pickle
from . import plain_pickle, torch_legacy, torch_tar
from .inline import bytes_of, source_of
from .known_names import NO_BUSINESS, classify
from .rebuild import storage_dtype

_DEEPEST = 6  # archives in archives, pickles in pickles
_MOST = 20_000  # pickles of one file
_BEHIND = 64  # pickles one after the other, in what is no legacy stream
_WINDOW = 1 << 20
_NAMES = (".pkl", ".pickle", ".p", ".pt", ".pth", ".bin", ".ckpt", ".npy", ".joblib", ".dat", ".data", ".metadata")
_STORAGE = re.compile(r"(?:^|/)(?:data|constants|traced_inputs|\.data|weights)/[^/]+$")
_NPY = b"\x93NUMPY"


class Found(NamedTuple):
    """One pickle.

    Attributes:
        where: the record, ``""`` for the file itself, with what encloses it: ``data.pkl``, ``a.zip/data.pkl``.
        offset: of its first byte, there.
        pickle: what it says; of one that breaks, as far as it got.
        breaks: how it breaks, None if it reaches STOP.
        note: what is odd about its place, ``""`` if nothing is.
    """

    where: str
    offset: int
    pickle: Pickle
    breaks: CheckpointError | None
    note: str


class Streams:
    """A search for pickles.

    Attributes:
        tricks: what was found that makes programs see different archives, as (place, words).
        unread: what could not be looked into, and why: something may hide there.
        notes: what is odd without being a trick.
    """

    def __init__(self, limits: Limits = DEFAULT) -> None:
        self.limits = limits
        self.tricks: list[tuple[str, str]] = []
        self.unread: list[str] = []
        self.notes: list[str] = []
        self.count = 0
        self._size = 0  # of the file
        self._room = 64 << 20  # bytes that may still be inflated or looked at inside pickles

    def of(
        self, source: Source, where: str = "", depth: int = 0, note: str = "", exact: bool = True
    ) -> Iterator[Found]:
        """Every pickle in ``source``; it is not ``exact`` where more may be in it than belongs to it."""
        if depth > _DEEPEST:
            self.unread.append(f"{where}: nested more than {_DEEPEST} deep")
            return
        self._size = self._size or source.size
        head = source.read_at(0, 4096)
        if head.startswith(LOCAL_MAGIC):
            yield from self._zip(source, where, depth)
            return
        # an archive behind something else, which is looked at too
        if exact and not _STORAGE.search(where) and _ends_as_zip(source):
            yield from self._zip(source, where, depth)
        if torch_tar.matches(head, source):
            yield from self._tar(source, where, depth)
        elif head.startswith(_NPY):
            start = _npy_data(head)
            if b"'O'" in head[:start] or b"|O" in head[:start]:
                yield from self._one_after_the_other(source, start, where, depth, "of an array of objects")
        elif torch_legacy.matches(head, source):
            yield from self._one_after_the_other(source, 0, where, depth, note, len(torch_legacy.PARTS))
        elif _may_be_pickle(head, where):
            yield from self._one_after_the_other(source, 0, where, depth, note)

    # -- pickles ------------------------------------------------------------------------------------------------

    def _one_after_the_other(
        self, source: Source, offset: int, where: str, depth: int, note: str = "", expected: int = 1
    ) -> Iterator[Found]:
        """The pickle at ``offset``, what is nested in it, and those that follow its STOP, beyond the ``expected`` ones."""
        for index in range(_BEHIND):
            found = self._pickle(
                source, offset, where, note if index < expected else "behind the STOP of another pickle"
            )
            if found is None or (index >= expected and not _tells(found)):
                return
            yield found
            yield from self._nested(found, depth)
            if found.breaks is not None:
                return
            offset = found.pickle.end
            if offset >= source.size or not _may_be_pickle(source.read_at(offset, 16), ""):
                return
        self.unread.append(f"{where or 'the file'}: what follows {_BEHIND} pickles, one after the other")

    def _pickle(self, source: Source, offset: int, where: str, note: str) -> Found | None:
        self.count += 1
        if self.count > _MOST:
            raise LimitError(f"more than {_MOST:,} pickles in one file: refused", path=source.path)
        try:
            return Found(where, offset, read_pickle(source, offset, self.limits), None, note)
        except FileError:
            raise
        except CheckpointError as error:
            partial: Pickle | None = error.__dict__.get("partial")
            if partial is None or not plain_pickle.is_certain(error):
                return None
            doubtful = partial.protocol < 2 or _STORAGE.search(where)  # text, or raw numbers
            if doubtful and not any(classify(g.module, g.name) == NO_BUSINESS for g in partial.globals):
                return None  # text that begins like a pickle, as "cat\\ndog\\n" does
            return Found(where, offset, partial, error, note)

    def _nested(self, found: Found, depth: int) -> Iterator[Found]:
        """Pickles in the bytes of a pickle: nested storages, and what is hidden so."""
        for content, owner in _contents(found.pickle):
            inner = source_of(content, "")
            size = content.nbytes if type(content) is Blob else len(content)
            if size < 4 or not _is_inner_pickle(inner.read_at(0, 64)):
                continue
            place = f"{found.where}: bytes {owner}"[:300]
            self._room -= size
            if self._room < 0:
                self.unread.append(f"{place}: there is too much of it")
                return
            yield from self.of(inner, place, depth + 1)

    # -- archives -----------------------------------------------------------------------------------------------

    def _zip(self, source: Source, where: str, depth: int) -> Iterator[Found]:
        inside = f"{where}/" if where else ""
        try:
            archive = read_archive(source, self.limits)
        except FileError:
            raise
        except CheckpointError as error:
            if source.path.endswith(".distcp"):  # archives one after the other, as torch writes them: formats 8
                self.notes.append(
                    f"{where or 'the file'}: one shard of a distributed checkpoint, read from its local headers"
                )
            elif isinstance(error, CorruptError):
                self.tricks.append((where, error.message))
            yield from self._local_members(source, inside, depth, 0, source.size, "")
            return
        if archive.truncated:
            self.notes.append(
                f"{where or 'the file'}: a zip archive without its directory, read from its local headers"
            )
            yield from self._local_members(source, inside, depth, 0, source.size, "")
            return
        position = 0
        for record in sorted(archive.everything, key=lambda record: record.header_offset):
            if record.header_offset > position:
                yield from self._local_members(source, inside, depth, position, record.header_offset, _UNLISTED)
            place = inside + record.name
            self._check(record, place)
            start = content_start(record)
            position = start + record.compressed
            stored = source.slice(start, record.compressed)
            yield from self._member(stored, record.method, record.nbytes, place, depth)
        end = archive.directory_offset
        if end > position:
            yield from self._local_members(source, inside, depth, position, end, _UNLISTED)
        if archive.outside and archive.root.endswith("/"):
            self.notes.append(
                f"{len(archive.outside)} members lie outside {archive.root!r}, {archive.outside[0]!r} among them"
            )
        behind = archive.end_offset + 22
        if behind < source.size and LOCAL_MAGIC in source.read_at(behind, 1 << 16):
            self.tricks.append((where, "another archive follows the end of the archive"))
            yield from self._local_members(source, inside, depth, behind, source.size, "behind the end of the archive")

    def _check(self, record: ZipRecord, place: str) -> None:
        try:
            for why in check_record(record):
                self.notes.append(f"{place}: {why}")
        except CorruptError as error:
            self.tricks.append((place, error.message))
        except UnsupportedError as error:
            self.unread.append(f"{place}: {error.message}")

    def _local_members(
        self, source: Source, inside: str, depth: int, start: int, stop: int, note: str
    ) -> Iterator[Found]:
        """Members found by their local headers between two offsets; flags and checksums are not asked."""
        for offset in _signatures(source, start, stop):
            header = source.read_at(offset, LOCAL.size)
            if len(header) < LOCAL.size:
                return
            _, _, flags, method, _, _, _, compressed, nbytes, name_size, extra_size = LOCAL.unpack(header)
            if method not in (0, 8) or not 0 < name_size <= 1000:
                continue
            name = source.read_at(offset + LOCAL.size, name_size).decode("utf-8", "surrogateescape")
            begin = offset + LOCAL.size + name_size + extra_size
            room = min(stop, source.size) - begin
            if room <= 0:
                continue
            place = inside + name
            length = compressed if 0 < compressed <= room else room
            before = self.count
            stored = source.slice(begin, length)
            yield from self._member(stored, method, nbytes or _WINDOW, place, depth, note, length == compressed)
            if flags & 1 and self.count > before:
                self.tricks.append((place, "it is marked as encrypted and is not, so that scanners pass it by"))
            elif flags & 1:
                self.unread.append(f"{place}: encrypted")

    def _member(
        self, stored: Source, method: int, nbytes: int, place: str, depth: int, note: str = "", exact: bool = True
    ) -> Iterator[Found]:
        """Every pickle in a member, stored or deflated."""
        if method == 0:
            yield from self.of(stored, place, depth + 1, note, exact)
            return
        self._room -= min(nbytes, _WINDOW)
        if self._room < 0:
            self.unread.append(f"{place}: deflated, and there is too much of that")
            return
        limits, most = self.limits, self.limits.inflated + 4 * self._size
        any_found = False
        self.limits = limits.of_deflated(min(nbytes, most))
        for found in self.of(_inflated(stored, min(nbytes, most), place), place, depth + 1, note):
            any_found = True
            yield found
        self.limits = limits
        if nbytes > most and any_found:
            self.unread.append(f"{place}: what follows its first {most:,} bytes, inflated")

    def _tar(self, source: Source, where: str, depth: int) -> Iterator[Found]:
        try:
            members = torch_tar.members(source)
        except CorruptError as error:
            self.unread.append(f"{where or 'the file'}: {error.message}")
            return
        for name, record in members.items():
            place = f"{where}/{name}" if where else name
            if name in ("storages", "tensors"):
                yield from self._tar_entries(record.source, place, depth, name)
            else:
                yield from self.of(record.source, place, depth + 1)

    def _tar_entries(self, source: Source, where: str, depth: int, kind: str) -> Iterator[Found]:
        """Members of the tar of 2016: pickles with raw numbers between them (formats 7)."""
        offset, index = 0, 0
        while offset < source.size:
            found = self._pickle(source, offset, where, "")
            if found is None:
                return
            yield found
            yield from self._nested(found, depth)
            if found.breaks is not None:
                return
            offset, root, index = found.pickle.end, found.pickle.root, index + 1
            if index == 1 or type(root) not in (tuple, list) or len(root) != 3:
                continue
            number = int.from_bytes(source.read_at(offset, 8 if kind == "storages" else 4), "little")
            if kind == "storages":
                dtype = storage_dtype(root[2])
                offset += 8 + number * (dtype.itemsize if dtype is not None else 1)
            else:
                offset += 16 + 16 * number


_UNLISTED = "not in the directory of the archive"


def _ends_as_zip(source: Source) -> bool:
    return b"PK\x05\x06" in source.read_at(max(0, source.size - 65557), 65557)


def _contents(pickle: Pickle) -> Iterator[tuple[Any, str]]:
    """All bytes in a pickle, each once, and what holds them: given to a call, part of a state, or of plain containers."""
    seen: set[int] = set()
    for call in pickle.calls:
        for part in (call.args, call.kwargs):
            yield from ((found, f"given to {call.qualname or 'a call'}") for found in _bytes_below(part, seen))
        if call.ops:
            yield from (
                (found, f"in what {call.qualname or 'an object'} holds") for found in _bytes_below(call.ops, seen)
            )
    yield from ((found, "in a container") for found in _bytes_below(pickle.root, seen))


def _bytes_below(node: Any, seen: set[int]) -> Iterator[Any]:
    """Bytes in plain containers; what calls made is not entered."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if node is None or isinstance(node, (str, int, float)) or id(node) in seen:
            continue
        seen.add(id(node))
        if type(node) in (tuple, list):
            waiting.extend(node)
        elif type(node) is Dict:
            waiting.extend(node.pairs)
        elif type(node) is Set:
            waiting.extend(node.members)
        elif (content := bytes_of(node)) is not None:
            yield content


def _npy_data(head: bytes) -> int:
    """Where the data of an .npy file begin: after magic, version, and a header with its length."""
    wide = head[6:7] != b"\x01"
    length = int.from_bytes(head[8:12] if wide else head[8:10], "little")
    return min((12 if wide else 10) + length, 1 << 20)


def _may_be_pickle(head: bytes, where: str) -> bool:
    """Whether it is worth trying: PROTO of a number that exists; without it, any first opcode of protocols 0 and 1."""
    if head[:1] == b"\x80":
        return head[1:2] <= b"\x05"
    if _STORAGE.search(where):
        return False  # raw numbers
    return head[:1] != b"" and plain_pickle.matches(head, BytesSource(head, ""))


def _is_inner_pickle(head: bytes) -> bool:
    return (head[:1] == b"\x80" and head[1:2] <= b"\x05") or head[:1] in (b"c", b"(", b"i") or head[:4] == LOCAL_MAGIC


def _tells(found: Found) -> bool:
    """Whether bytes behind a pickle are one: they name or call something, or end as one that is not trivial."""
    pickle = found.pickle
    return bool(pickle.globals or pickle.calls) or (found.breaks is None and pickle.end - pickle.start > 2)


def _signatures(source: Source, start: int, stop: int) -> Iterator[int]:
    """Offsets of local header signatures."""
    offset = start
    while offset < stop:
        window = source.read_at(offset, min(_WINDOW, stop - offset) + 3)
        at = window.find(LOCAL_MAGIC)
        while at >= 0 and at < _WINDOW:
            yield offset + at
            at = window.find(LOCAL_MAGIC, at + 4)
        offset += _WINDOW


def _inflated(stored: Source, nbytes: int, place: str) -> Source:
    """The beginning of a deflated member. If it inflates to less than it says, what there is counts."""
    source = Inflated(stored, nbytes, place)
    parts: list[bytes] = []
    try:
        while (have := sum(map(len, parts))) < nbytes:
            parts.append(source.read_at(have, min(_WINDOW, nbytes - have)))
    except CorruptError:
        if not parts and nbytes > 1:
            parts.append(_what_there_is(stored))
    return BytesSource(b"".join(parts), stored.path)


def _what_there_is(stored: Source) -> bytes:
    """What a deflated stretch inflates to before it breaks, within a megabyte."""
    import zlib

    data = stored.read_at(0, _WINDOW)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    found = b""
    for index in range(0, len(data), 64):
        try:
            found += inflater.decompress(data[index : index + 64], _WINDOW - len(found))
        except zlib.error:
            break
        if len(found) >= _WINDOW:
            break
    return found
