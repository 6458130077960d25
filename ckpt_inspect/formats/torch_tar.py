"""The tar of torch 0.1 of 2016 and 2017: members ``sys_info``, ``pickle``, ``tensors``, ``storages`` (formats 7)."""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Any, NamedTuple

from ..dtypes import DType
from ..errors import CorruptError, FormatError, LimitError
from ..model.checkpoint import Checkpoint
from ..model.graph import Persistent
from ..model.problem import Problem
from ..model.source import Source
from ..model.storage import Container, Record, Storage
from ..model.tensor import TensorInfo
from ..pickles.limits import DEFAULT, Limits
from ..pickles.machine import read_pickle
from .finish import finish
from .rebuild import Malformed, Rebuilder, Storages, storage_dtype
from .sections import Builder

NAME = "torch-tar"
_BLOCK = 512
_MOST = 10_000  # entries; torch wrote four
_WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, directories, FIFOs, whatever size they claim
_OF_GNU = (b"L", b"K", b"S")
RENAMING = (b"1", b"2", b"x", b"g", b"X", *_OF_GNU)  # what makes other names of files, or their bytes of pieces
_NO_FILES = (*_WITHOUT_DATA, *RENAMING)
_i32 = Struct("<i").unpack
_i64 = Struct("<q").unpack


class Entry(NamedTuple):
    """One entry of a tar, of whatever type."""

    name: str
    kind: bytes
    record: Record
    offset: int
    sound: bool  # whether the checksum of its header is right

    @property
    def is_file(self) -> bool:
        """As Python's tarfile has it: types that nobody knows are files."""
        return self.kind not in _NO_FILES and not (self.kind == b"\0" and self.name.endswith("/"))


def matches(head: bytes, source: Source) -> bool:
    return head[257:262] == b"ustar" or _is_header(head[:_BLOCK])


def _is_header(header: bytes) -> bool:
    """Whether a header's checksum is right: what came before POSIX has no magic number, and Python reads it too."""
    text = header[148:156].split(b"\0")[0].strip(b" ")
    if len(header) < _BLOCK or not text.isdigit() or text.translate(None, b"01234567"):
        return False
    rest = header[:148] + b" " * 8 + header[156:]
    return int(text, 8) in (sum(rest), sum(byte - 256 if byte > 127 else byte for byte in rest))


def entries(source: Source, ends: list[str] | None = None) -> Iterator[Entry]:
    """Entries of an uncompressed tar in order (POSIX ustar: name at 0, octal size at 124, type at 156, prefix at 345).

    Raises:
        CorruptError: a header without a size; or there are more entries than anybody writes.
    """
    offset = 0
    for _ in range(_MOST):
        header = source.read_at(offset, _BLOCK)
        if len(header) < _BLOCK or ((not header[0] or offset) and not _is_header(header) and not _says_size(header)):
            if any(header) and ends is not None:
                ends.append(f"the tar header at byte {offset:,} is none: torch finds no member from there on")
            return  # where tarfile stops too
        name, prefix = (
            field.split(b"\0")[0].decode("utf-8", "surrogateescape") for field in (header[:100], header[345:500])
        )
        kind = header[156:157]
        entry = Entry(
            f"{prefix}/{name}" if prefix and kind not in _OF_GNU else name,
            kind,
            Record("", 0),
            offset,
            _is_header(header),
        )
        nbytes = _size(header, source, offset) if entry.kind not in _WITHOUT_DATA else 0
        if entry.kind == b"\0" and not entry.is_file:  # a directory, as it was written once
            nbytes = 0
        offset += _BLOCK
        there = max(0, min(nbytes, source.size - offset))
        yield entry._replace(record=Record(entry.name, nbytes, source.slice(offset, there)))
        offset += -(-nbytes // _BLOCK) * _BLOCK
    if len(source.read_at(offset, _BLOCK)) == _BLOCK:
        raise LimitError(f"a tar of more than {_MOST:,} entries: refused", path=source.path, offset=offset)


def _says_size(header: bytes) -> bool:
    text = header[124:136].strip(b" \0")
    return text.isdigit() and not text.translate(None, b"01234567")


def _size(header: bytes, source: Source, offset: int) -> int:
    if _says_size(header):
        return int(header[124:136].strip(b" \0"), 8)
    wide = int.from_bytes(header[125:136], "big")  # GNU's way to write what octal digits have no room for
    if header[124] != 0x80 or wide > source.size:
        raise CorruptError("a tar header without a size", path=source.path, offset=offset)
    return wide


def members(source: Source, problems: list[str] | None = None, ends: list[str] | None = None) -> dict[str, Record]:
    """Files of a tar by name. Of two with the same name the last counts, as for tarfile.

    Args:
        source: the archive.
        problems: gets what is damaged.
        ends: gets where the walk ended for a header that is none: what should follow is lost, if anything should.
    """
    exact: dict[str, Record] = {}
    dotted: dict[str, Record] = {}
    problems = [] if problems is None else problems
    for entry in entries(source, ends):
        name = entry.name
        if not entry.sound:
            what = f"the tar header of {name[:80]!r} fails its checksum: torch finds no member from there on"
            problems.append(Problem(f"{what} (byte {entry.offset:,})"))
        if entry.is_file:
            record = entry.record
            short = name.removeprefix("./")
            (exact if short == name else dotted)[short] = record
            if (there := record.source.size) < record.nbytes:
                problems.append(Problem(f"record {name} is cut: {there:,} of {record.nbytes:,} bytes are there", short))
    return {**dotted, **exact}


def read(source: Source, limits: Limits = DEFAULT) -> Checkpoint:
    damage: list[str] = []
    ends: list[str] = []
    records = members(source, damage, ends)
    if not {"pickle", "storages"} <= records.keys():
        if damage or ends:
            raise CorruptError((damage or ends)[0], path=source.path)
        listed = ", ".join(list(records)[:4])
        raise FormatError(
            f"a tar archive, not a checkpoint: it holds {listed or 'nothing'}",
            path=source.path,
            hint="Unpack it with tar -xf and open what is inside.",
        )
    checkpoint = Checkpoint(source.path, NAME, source.size)
    checkpoint.problems += damage
    container = Container(source.path, NAME, source)
    container.records.update(records)
    checkpoint.containers.append(container)
    storages = _TarStorages(container, checkpoint.problems)
    storages.read(records["storages"], limits)
    tensors = _tensors(records["tensors"], storages, limits) if "tensors" in records else {}
    if not tensors:
        checkpoint.problems.append(
            "there is no member 'tensors', which torch 0.1 always wrote: torch cannot load this file"
        )
    try:
        pickle = read_pickle(records["pickle"].source, 0, limits)
    except CorruptError as error:
        error.record, error.path = "pickle", source.path
        raise
    container.graphs["pickle"] = pickle
    builder = Builder(_TarRebuilder(storages, source.path, tensors), checkpoint.problems, limits)
    builder.build(pickle)
    builder.fill(checkpoint)
    checkpoint.facts["writer"] = "torch.save of torch 0.1, 2016 or 2017~"
    return finish(checkpoint)


class _TarStorages(Storages):
    """Storages by key, read one after the other from the member ``storages``."""

    def __init__(self, container: Container, problems: list[str]) -> None:
        super().__init__(container.records, "", "little", problems)

    def read(self, record: Record, limits: Limits) -> None:
        # pickle(count); per storage pickle((key, location, class)), int64 numel, data; then pickle(views)
        source = record.source
        first = read_pickle(source, 0, limits)
        count, offset = first.root, first.end
        if type(count) is not int or count < 0:
            raise CorruptError("the number of storages is no number", record="storages", path=source.path)
        for _ in range(count):
            entry = read_pickle(source, offset, limits)
            root = entry.root
            if type(root) not in (tuple, list) or len(root) != 3:
                raise CorruptError("a malformed storage entry", record="storages", offset=offset, path=source.path)
            key, location, cls = root
            dtype = storage_dtype(cls)
            raw = source.read_at(entry.end, 8)
            numel = _i64(raw)[0] if len(raw) == 8 else -1
            if dtype is None or numel < 0 or not isinstance(location, str) or not _is_key(key):
                raise CorruptError("a malformed storage entry", record="storages", offset=offset, path=source.path)
            nbytes = numel * dtype.itemsize
            start = entry.end + 8
            name = f"storages/{key}"
            storage = Storage(name, nbytes, str(location))
            self.by_key[str(key)] = (storage, dtype, cls)
            if start + nbytes > source.size:
                text = f"storage {key} is cut: {max(0, source.size - start):,} of {nbytes:,} bytes are there"
                self.problems.append(Problem(f"{text}; what follows cannot be found", name))
                return
            storage.record = Record(name, nbytes, source.slice(start, nbytes))
            offset = start + nbytes
        self._views(source, offset, limits)

    def _views(self, source: Source, offset: int, limits: Limits) -> None:
        """Storages that are stretches of another: (target key, root key, offset, numel)."""
        if offset >= source.size:
            return
        views = read_pickle(source, offset, limits).root
        for view in views if type(views) is list else ():
            if type(view) is not tuple or len(view) != 4 or not _is_key(view[0]) or not _is_key(view[1]):
                continue
            target, root, start, numel = view
            if str(root) in self.by_key and type(start) is int and type(numel) is int and start >= 0 and numel >= 0:
                whole, dtype, cls = self.by_key[str(root)]
                size = dtype.itemsize
                begin = whole.offset + start * size
                part = Storage(f"storages/{target}", numel * size, whole.location, whole.record, begin)
                if (start + numel) * size <= whole.nbytes:
                    self.by_key[str(target)] = (part, dtype, cls)

    def get(self, node: Any) -> tuple[Storage, DType, Any]:
        pid = node.pid if type(node) is Persistent else node
        if type(pid) is tuple and len(pid) > 2 and pid[0] == "storage":  # what TorchSharp-like writers put there
            pid = pid[2]
        known = self.by_key.get(str(pid)) if isinstance(pid, (str, int)) else None
        if known is None:
            raise Malformed("a storage that the tar does not hold")
        return known


def _is_key(key: Any) -> bool:
    return type(key) is int or (isinstance(key, str) and len(key) < 1000)


def _tensors(record: Record, storages: _TarStorages, limits: Limits) -> dict[str, TensorInfo]:
    # pickle(count); per tensor pickle((key, storage key, class)), int32 ndim, 4 bytes of padding,
    # ndim int64 sizes, ndim int64 strides, int64 offset
    source = record.source
    first = read_pickle(source, 0, limits)
    count, offset = first.root, first.end
    found: dict[str, TensorInfo] = {}
    for _ in range(count if type(count) is int else 0):
        entry = read_pickle(source, offset, limits)
        root = entry.root
        raw = source.read_at(entry.end, 8)
        ndim = _i32(raw[:4])[0] if len(raw) == 8 else -1
        if type(root) not in (tuple, list) or len(root) != 3 or not _is_key(root[0]) or not 0 <= ndim <= 1024:
            raise CorruptError("a malformed tensor entry", record="tensors", offset=offset, path=source.path)
        body = source.read_at(entry.end + 8, 16 * ndim + 8)
        if len(body) < 16 * ndim + 8:
            raise CorruptError("the list of tensors ends early", record="tensors", offset=entry.end, path=source.path)
        numbers = Struct(f"<{2 * ndim + 1}q").unpack(body)
        try:
            node = Persistent(root[1])
            info = Rebuilder(storages).strided(node, numbers[-1], numbers[:ndim], numbers[ndim:-1])
            found[str(root[0])] = info
        except Malformed as error:
            storages.problems.append(f"tensor {root[0]}: {error}")
        offset = entry.end + 8 + len(body)
    return found


class _TarRebuilder(Rebuilder):
    """Tensors are persistent ids of their own here, by key."""

    def __init__(self, storages: Storages, path: str, tensors: dict[str, TensorInfo]) -> None:
        super().__init__(storages, path)
        self.tensors = tensors

    def decode(self, node: Any) -> TensorInfo | None:
        if type(node) is Persistent and isinstance(node.pid, (str, int)):
            info = self.tensors.get(str(node.pid))
            if info is not None:
                return info._replace(node=node)
            if str(node.pid) not in self.storages.by_key:
                raise Malformed(f"tensor {str(node.pid)[:40]!r}, which the tar does not hold")
        return super().decode(node)
