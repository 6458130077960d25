"""Every pickle that is in a file, whatever the file is: of all members, listed or not, behind a STOP, inside bytes.

Readers of checkpoints look where the format says; this looks everywhere. Nothing is refused for breaking a rule of its
container: what is hidden there is what is looked for. No first byte is trusted to say that something is no pickle: the
machine tries, and where it stops but Python's might go on (:func:`may_go_on`), that is said.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from ..containers.zip import LOCAL, LOCAL_MAGIC, ZipRecord, read_archive
from ..containers.zip_check import check_record, content_start
from ..containers.zip_search import beginning, signatures
from ..errors import CheckpointError, CorruptError, FileError, LimitError, UnsupportedError
from ..model.graph import Global, Pickle
from ..model.source import BytesSource, Slice, Source
from ..pickles.limits import DEFAULT, Limits
from ..pickles.machine import ends_early, may_go_on, read_pickle
from . import plain_pickle, safetensors, torch_legacy, torch_tar, torchscript_code
from .inline import contents, source_of
from .known_names import NO_BUSINESS, classify
from .rebuild import storage_dtype

_DEEPEST = 6  # archives in archives, pickles in pickles
_MOST = 20_000  # pickles of one file
_BEHIND = 64  # pickles one after the other, in what is no legacy stream
_WINDOW = 1 << 20
_PEEK = 1 << 12  # of every deflated member, whatever the others took
_SMALLEST = 6  # no pickle that names something is shorter
_PARSED = (8 << 20, 8)  # bytes that are parsed in all: so many, and as many times the file's size
# What is where a pickle is looked for: whatever it is; bytes that nobody is known to load, where only what names
# forbidden things is one; numbers, among which a text that says so is an accident.
_ANYTHING, _BYTES, _NUMBERS = range(3)
# Members that torch writes raw numbers into.
_STORAGE = re.compile(
    r"(?:^|/)(?:data|constants|traced_inputs|\.data|weights)/(?:\d+|\d+\.storage|weight_\d+|tensor_\d+)$"
)
# Members with code that is in no pickle.
_CODE = (
    (
        re.compile(r"(?:^|/)(?:models/.+|serialized_exported_program)\.json$"),
        "a program of torch.export: torch.export.load evaluates expressions in it, which are not looked into",
    ),
    (
        re.compile(r"(?:^|/)\.data/extern_modules$"),
        "a torch.package archive: importing from it runs its Python code, which is not looked into",
    ),
    (re.compile(r"\.(?:so|dll|dylib|pyd)$"), "compiled code, which is not looked into"),
)
_NPY = b"\x93NUMPY"
_OBJECTS = re.compile(rb"""O|object|\\|['"]\s*[a-z]*['"]|#""", re.IGNORECASE)  # however it is spelled, in pieces too
_SCRIPT = re.compile(r"(?:^|/)code/.+\.py$")
# What readers of pickles unpack by themselves (joblib, pandas), and what a person would.
_PACKED = (
    (b"\x1f\x8b", "gzip-compressed"), (b"BZh", "bzip2-compressed"), (b"\xfd7zXZ\0", "xz-compressed"),
    (b"\x5d\0", "lzma-compressed"), (b"\x28\xb5\x2f\xfd", "zstd-compressed"), (b"\x04\x22\x4d\x18", "lz4-compressed"),
    (b"\x78\x01", "zlib-compressed"), (b"\x78\x5e", "zlib-compressed"), (b"\x78\x9c", "zlib-compressed"),
    (b"\x78\xda", "zlib-compressed"), (b"ZF", "compressed by an old joblib"), (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
)  # fmt: skip


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
        acts: what TorchScript code calls that writes or maps files, as (place, name).
    """

    def __init__(self, limits: Limits = DEFAULT) -> None:
        self.limits = limits
        self.tricks: list[tuple[str, str]] = []
        self.unread: list[str] = []
        self.notes: list[str] = []
        self.acts: list[tuple[str, str]] = []
        self.count = 0
        self._size = 0  # of the file
        self._parsed = 0  # bytes that were parsed so far
        self._inflated = 0  # bytes that were inflated so far
        self._cut = False  # whether what is looked at is only the beginning of something
        self._full = False
        self._walked: dict[tuple[int, int], int] = {}  # where archives begin, by root and offset: where they end
        self._searched: dict[int, list[tuple[int, int]]] = {}  # by root, ascending: where local headers are looked for
        self._roots: dict[int, Source] = {}

    def of(
        self,
        source: Source,
        where: str = "",
        depth: int = 0,
        note: str = "",
        exact: bool = True,
        kind: int = _ANYTHING,
    ) -> Iterator[Found]:
        """Every pickle in ``source``. It is not ``exact`` where more may be in it than belongs to it."""
        if depth > _DEEPEST:
            self.unread.append(f"{where}: nested more than {_DEEPEST} deep")
            return
        self._size = self._size or source.size
        head = source.read_at(0, 4096)
        if head.startswith(LOCAL_MAGIC):
            yield from self._zip(source, where, depth)
            return
        before = self.count
        # an archive behind something else, which is looked at too
        if exact and not kind and _ends_as_zip(source):
            yield from self._zip(source, where, depth)
        if not kind and torch_tar.matches(head, source):
            yield from self._tar(source, where, depth)
        if head.startswith(_NPY):
            for offset in signatures(source, 0, source.size, _NPY):  # numpy.save writes one behind the other
                yield from self._npy(source, offset, where, depth)
        else:
            named = False
            for found in self._one_after_the_other(source, 0, where, depth, note, kind):
                named = named or bool(found.pickle.globals or found.pickle.calls)
                yield found
            if named and not kind and safetensors.matches(head, source):
                self.tricks.append((where, "it is a safetensors file, and a pickle too"))
        packed = next((what for magic, what in _PACKED if head.startswith(magic)), None)
        if packed is not None and not kind and self.count == before:
            self.unread.append(f"{where or 'the file'}: {packed}, which is not unpacked")

    def _npy(self, source: Source, offset: int, where: str, depth: int) -> Iterator[Found]:
        """The pickle of an array of objects; of other arrays numpy unpickles nothing."""
        head = source.read_at(offset, 12)
        wide = head[6:7] != b"\x01"
        length = (12 if wide else 10) + int.from_bytes(head[8:12] if wide else head[8:10], "little")
        if length > _WINDOW:
            self.unread.append(f"{where or 'the file'}: an array with a header of {length:,} bytes")
            return
        objects = _OBJECTS.search(source.read_at(offset + 10, length - 10)) is not None
        yield from self._one_after_the_other(
            source, offset + length, where, depth, "of an array of objects", _ANYTHING if objects else _NUMBERS
        )

    # -- pickles ------------------------------------------------------------------------------------------------

    def _one_after_the_other(
        self, source: Source, offset: int, where: str, depth: int, note: str = "", kind: int = _ANYTHING
    ) -> Iterator[Found]:
        """The pickle at ``offset``, what is nested in it, and those that follow its STOP."""
        expected = 1
        for index in range(_BEHIND):
            found = self._pickle(source, offset, where, note if index < expected else _BEHIND_STOP, kind)
            if found is None:
                return
            if index == 0 and found.pickle.root == torch_legacy.MAGIC:  # however the number is spelled
                expected = len(torch_legacy.PARTS)
            if _tells(found) or (index < expected and found.pickle.protocol):
                self._count(source)
                yield found
                yield from self._nested(found, depth)
            if found.breaks is not None:
                return
            offset = found.pickle.end
            if offset >= source.size:
                return
            if index + 1 >= expected > 1:
                kind = _BYTES  # behind the parts of a legacy stream lie its storages
        self.unread.append(f"{where or 'the file'}: what follows {_BEHIND} pickles, one after the other")

    def _pickle(self, source: Source, offset: int, where: str, note: str, kind: int = _ANYTHING) -> Found | None:
        """The pickle at ``offset``, None if there certainly is none.

        One that breaks is one if Python's machine might go on, or if PROTO or forbidden names say so; not so text that
        begins like a pickle, as "cat\\ndog\\n" does, and of raw numbers only what names such things.
        """
        if self._parsed > _PARSED[0] + _PARSED[1] * self._size:
            if not self._full:  # once: what comes after it goes unread too
                self._full = True
                self.unread.append(f"{where or 'the file'}, and what comes after it: there is too much to look into")
            return None
        if kind == _NUMBERS and not _has_protocol(source, offset):
            return None
        limits = self.limits if not kind else self.limits._replace(string=min(self.limits.string, _WINDOW))
        try:
            pickle = read_pickle(source, offset, limits)
        except FileError:
            raise
        except CheckpointError as error:
            partial: Pickle | None = error.__dict__.get("partial")
            reached = error.__dict__.get("reached", offset)
            self._parsed += max(_LEAST, (error.offset or offset) - offset, reached - offset - _PEEK)
            if partial is None:
                return None
            is_one = _is_bad(partial) or (not kind and self._might_run(error, partial))
            return Found(where, offset, partial, error, note) if is_one else None
        self._parsed += max(_LEAST, pickle.end - offset)
        if kind and not _is_bad(pickle) and not _has_protocol(source, offset):
            return None
        return Found(where, offset, pickle, None, note)

    def _count(self, source: Source) -> None:
        self.count += 1
        if self.count > _MOST:
            raise LimitError(f"more than {_MOST:,} pickles in one file: refused", path=source.path)

    def _might_run(self, error: CheckpointError, partial: Pickle) -> bool:
        if may_go_on(error) or (self._cut and ends_early(error)):
            return True
        if any(type(call.callee) is Global and _is_name(call.callee) for call in partial.calls):
            return True  # what it called before it broke was called
        return partial.protocol >= 2 and plain_pickle.is_certain(error)

    def _nested(self, found: Found, depth: int) -> Iterator[Found]:
        """Pickles in the bytes of a pickle: nested storages, and what is hidden so."""
        for content, owner, loaded in contents(found.pickle):
            place = (f"{found.where}: bytes {owner}" if found.where else f"bytes {owner}")[:300]
            if content is None:
                self.unread.append(f"{place}: how they are made is not followed")
                continue
            inner = source_of(content, "")
            if loaded or (inner.size >= _SMALLEST and _may_begin(inner.read_at(0, 64))):
                kind = _ANYTHING if loaded or _has_protocol(inner, 0) else _BYTES
                yield from self.of(inner, place, depth + 1, kind=kind)

    # -- archives -----------------------------------------------------------------------------------------------

    def _zip(self, source: Source, where: str, depth: int) -> Iterator[Found]:
        inside = f"{where}/" if where else ""
        root, start = self._place(source)
        if self._walked.get((root, start), -1) >= start + source.size:
            return  # another header leads to it too
        self._walked[root, start] = start + source.size
        try:
            archive = read_archive(source, self.limits, local=False)
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

    def _place(self, source: Source) -> tuple[int, int]:
        """What a source is a stretch of, and where it begins there."""
        base = 0
        while type(source) is Slice:
            base += source.base
            source = source.parent
        self._roots[id(source)] = source  # while it lives, its identity is nobody else's
        return id(source), base

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
        root, base = self._place(source)
        first, last = base + start, base + min(stop, source.size)
        searched = self._searched.setdefault(root, [])
        at = bisect_right(searched, (first, self._size + last))
        if at and last <= searched[at - 1][1]:
            return  # the search around it finds them all: each archive in an archive in … would be looked at anew
        searched.insert(at, (first, last))
        for offset in signatures(source, start, stop):
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
            yield from self._member(stored, method, nbytes or _UNKNOWN, place, depth, note, length == compressed)
            if flags & 1 and self.count > before:
                self.tricks.append((place, "it is marked as encrypted and is not, so that scanners pass it by"))
            elif flags & 1:
                self.unread.append(f"{place}: encrypted")

    def _member(
        self,
        stored: Source,
        method: int,
        nbytes: int,
        place: str,
        depth: int,
        note: str = "",
        exact: bool = True,
    ) -> Iterator[Found]:
        """Every pickle in a member, stored or deflated."""
        self.unread += [f"{place}: {what}" for name, what in _CODE if name.search(place)]
        kind = _NUMBERS if _STORAGE.search(place) else _ANYTHING
        if method == 0:
            self._script(stored, place)
            yield from self.of(stored, place, depth + 1, note, exact, kind)
            return
        # All members together inflate to so much, of so much; of what is more, the beginning says whether it is a pickle.
        left = self.limits.inflated + 4 * self._size - self._inflated
        most = min(nbytes, max(left, _PEEK))
        content, fed = beginning(stored, most)
        self._inflated += max(len(content), fed)
        known = BytesSource(content, stored.path)
        self._script(known, place)
        limits, cut, before = self.limits, self._cut, self.count
        self.limits, self._cut = limits.of_deflated(known.size), cut or known.size >= most < nbytes
        yield from self.of(known, place, depth + 1, note, kind=kind)
        if self._cut and not cut and self.count > before:
            self.unread.append(f"{place}: what follows its first {known.size:,} bytes, inflated")
        self.limits, self._cut = limits, cut

    def _script(self, source: Source, place: str) -> None:
        if _SCRIPT.search(place):
            self.acts += [(place, name) for name in torchscript_code.acts(source)]

    def _tar(self, source: Source, where: str, depth: int) -> Iterator[Found]:
        said: set[bytes] = set()
        try:
            for entry in torch_tar.entries(source):
                place = f"{where}/{entry.name}" if where else entry.name
                if entry.kind in torch_tar.RENAMING and entry.kind not in said:
                    said.add(entry.kind)
                    self.unread.append(
                        f"{place}: a tar entry of type {entry.kind!r}, which gives others names or bytes"
                    )
                name = entry.name.removeprefix("./")
                if not entry.is_file:
                    continue
                if name in ("storages", "tensors"):
                    yield from self._tar_entries(entry.record.source, place, depth, name)
                else:
                    yield from self.of(entry.record.source, place, depth + 1)
        except CorruptError as error:
            self.unread.append(f"{where or 'the file'}: {error.message}")

    def _tar_entries(self, source: Source, where: str, depth: int, kind: str) -> Iterator[Found]:
        """Members of the tar of 2016: pickles with raw numbers between them (formats 7)."""
        offset, index = 0, 0
        while offset < source.size:
            found = self._pickle(source, offset, where, "")
            if found is None:
                self.unread.append(f"{where}: what follows byte {offset:,}, where a pickle should be")
                return
            self._count(source)
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
_BEHIND_STOP = "behind the STOP of another pickle"
_UNKNOWN = 1 << 62  # bytes
_LEAST = 32  # what a try costs, in bytes parsed


def _ends_as_zip(source: Source) -> bool:
    return b"PK\x05\x06" in source.read_at(max(0, source.size - 65557), 65557)


_IDENTIFIERS = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*").fullmatch


def _is_name(node: Global) -> bool:
    return _IDENTIFIERS(node.module) is not None and _IDENTIFIERS(node.name) is not None


def _is_bad(pickle: Pickle) -> bool:
    return any(classify(node.module, node.name) == NO_BUSINESS for node in pickle.globals)


def _has_protocol(source: Source, offset: int) -> bool:
    head = source.read_at(offset, 2)
    return head[:1] == b"\x80" and head[1:] <= b"\x05"


def _may_begin(head: bytes) -> bool:
    """Whether bytes that nobody is known to load are worth a look: the first is one of a pickle, and short ones name something."""
    if not plain_pickle.matches(head, BytesSource(head, "")):
        return head.startswith(LOCAL_MAGIC)
    return len(head) == 64 or any(code in head for code in (b"c", b"i", b"\x93", b"\x82", b"\x83", b"\x84"))


def _tells(found: Found) -> bool:
    """Whether bytes behind a pickle are one: they name or call something, or end as one that is not trivial."""
    pickle = found.pickle
    return bool(pickle.globals or pickle.calls or found.breaks) or pickle.end - pickle.start > 2
