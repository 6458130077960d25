"""A new file of torch's from a graph: the pickle, its storages in the order it names them, laid out as torch does."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

from ..containers.copying import Piece
from ..containers.zip import ZipRecord
from ..containers.zip_writer import Entry, Layout, known_crc
from ..dtypes import BY_NAME, DType
from ..errors import CorruptError, UnsupportedError
from ..model.graph import Dict, Global, Opaque, Persistent, Pickle
from ..model.source import BytesSource, Source
from ..model.storage import Container, Storage
from ..model.tensor import TensorInfo
from ..pickles.machine import read_pickle
from ..pickles.writer import write_pickle
from .gathered import Swapped
from .rebuild import is_storage, storage_dtype
from .recorded import node_of
from .renames import fresh
from .rewrite import alignment_of, archive_of
from .torch_legacy import MAGIC, PROTOCOL

_OWN = frozenset(
    ["data.pkl", ".format_version", ".storage_alignment", "byteorder", "version", ".data/version",
     ".data/serialization_id"]
)  # fmt: skip


class Content:
    """The bytes of one storage of the new file. Equal by identity: what shares it is tied.

    Attributes:
        source: its bytes, little-endian; None for a storage without any, on ``meta``.
        crc: their CRC-32, if it is known.
    """

    __slots__ = ("crc", "source")

    def __init__(self, source: Source | None, crc: int | None = None) -> None:
        self.source = source
        self.crc = crc

    @property
    def nbytes(self) -> int:
        return self.source.size if self.source is not None else 0


class Stored:
    """What a persistent id says: the class of a storage, how many elements, where; and whose bytes."""

    __slots__ = ("cls", "content", "location", "numel")

    def __init__(self, cls: Any, numel: int, location: Any, content: Content) -> None:
        self.cls = cls
        self.numel = numel
        self.location = location
        self.content = content


class Build:
    """A new object for ``torch.save``'s formats, from graphs and tensors of others.

    Attributes:
        nodes: what is written in place of nodes of the graph, by ``id``.
        stored: what persistent ids of the graph stand for, by ``id``; those of torch's classes alone.
        grads_lost: tensors that required a gradient and are of a dtype for which torch cannot read that back.
    """

    def __init__(self) -> None:
        self.nodes: dict[int, Any] = {}
        self.stored: dict[int, Stored] = {}
        self.grads_lost = 0
        self._contents: dict[int, Content] = {}  # by identity of the record
        self._globals: dict[str, Global] = {}
        self._texts: dict[str, str] = {}
        self._typed: dict[int, DType] = {}  # the dtype that the first name of a content gave it
        self._kept: list[Any] = []

    # -- what there is ----------------------------------------------------------------------------------

    def keep(self, container: Container, pickle: Pickle, prefix: str, byteorder: str = "little") -> None:
        """Storages of a pickle as they are.

        Raises:
            CorruptError: the id of one is not of its form; torch asks only the first of each storage.
        """
        contents: dict[str, Content] = {}
        for node in pickle.persistent:
            if not is_storage(node):
                continue
            _, cls, key, location, numel, *_ = node.pid
            if type(cls) is not Global or type(numel) is not int:
                raise CorruptError(f"the id of storage {str(key)[:40]!r} is not of its form", path=container.path)
            name = str(key)
            if name not in contents:
                record = container.records.get(prefix + name)
                dtype = storage_dtype(cls)
                typed = dtype is not None and "Untyped" not in cls.name
                contents[name] = self._content_of(record, _word(dtype) if typed else 1, byteorder)
            self.stored[id(node)] = Stored(cls, numel, location, contents[name])
        self._kept.append(pickle)

    def _content_of(self, record: Any, word: int, byteorder: str) -> Content:
        if record is None:
            return Content(None)
        known = self._contents.get(id(record))
        if known is None:
            source: Source = record.source
            if byteorder == "big" and word > 1:
                known = Content(Swapped(source, word))
            else:
                known = Content(source, known_crc(record) or None if hasattr(record, "archive") else None)
            self._contents[id(record)] = known
            self._kept.append(record)
        return known

    def content(self, storage: Storage) -> Content:
        """The bytes of the record that a storage lies in; parts of one record share it."""
        return self._content_of(storage.record, storage.word, storage.byteorder)

    # -- what is made -----------------------------------------------------------------------------------

    def name(self, module: str, name: str) -> Global:
        """One node for each name to import."""
        return self._globals.setdefault(f"{module}.{name}", Global(module, name))

    def text(self, text: str) -> str:
        """One object for each text that torch has one for."""
        return self._texts.setdefault(text, fresh(text))

    def storage(self, content: Content, dtype: DType, location: str | None) -> Persistent:
        """A persistent id for ``content``, typed where ``torch.load`` knows such a class."""
        if dtype.legacy:
            cls, numel = self.name("torch", f"{dtype.storage}Storage"), content.nbytes // dtype.itemsize
        else:
            cls, numel = self.name("torch.storage", "UntypedStorage"), content.nbytes
        node = Persistent(None)
        self.stored[id(node)] = Stored(cls, numel, self.text(location or "cpu"), content)
        self._kept.append(node)
        return node

    def hold(self, node: Any) -> None:
        """Keep a node alive, so that no other gets its id."""
        self._kept.append(node)

    def ordered(self, pairs: list[Any] | None = None, metadata: Mapping[str, Any] | None = None) -> Opaque:
        """An ``OrderedDict`` of flat pairs; ``metadata`` becomes its ``_metadata``."""
        node = Opaque("REDUCE", self.name("collections", "OrderedDict"), ())
        node.ops = [("SETITEMS", pairs)] if pairs else []
        if metadata is not None:
            version = fresh("version")
            facts = [
                x for path, entry in metadata.items()
                for x in (fresh(path), Dict([
                    y for k, v in entry.items() for y in (version if k == "version" else fresh(k), node_of(v))
                ]))
            ]  # fmt: skip
            node.ops.append(("BUILD", Dict([self.text("_metadata"), self.ordered(facts)])))
        return node

    def call(self, module: str, name: str, *args: Any) -> Opaque:
        return Opaque("REDUCE", self.name(module, name), args)

    def view(
        self,
        content: Content,
        info: TensorInfo,
        offset: int,
        *,
        requires_grad: bool = False,
        location: str | None = None,
    ) -> Opaque:
        """A rebuild call for a strided tensor on ``content``; ``offset`` in elements."""
        dtype = BY_NAME[info.dtype]
        first = self._typed.setdefault(id(content), dtype)
        typed = dtype.legacy and (first is dtype or not first.legacy)
        if requires_grad and not typed:
            self.grads_lost += 1
            requires_grad = False
        storage = self.storage(content, dtype if typed else BY_NAME["uint16"], location)
        if not typed and dtype.legacy:
            self.stored[id(storage)].numel = content.nbytes
        place = (storage, offset, tuple(info.shape), tuple(info.stride or ()), requires_grad, self.ordered())
        bits = [x for bit, is_set in (("conj", info.conj), ("neg", info.neg)) if is_set for x in (bit, True)]
        extra = (Dict(bits),) if bits else ()
        if typed:
            return self.call("torch._utils", "_rebuild_tensor_v2", *place, *extra)
        return self.call("torch._utils", "_rebuild_tensor_v3", *place, self.name("torch", dtype.name), *extra)

    # -- files ------------------------------------------------------------------------------------------

    def pickle(self, root: Any, legacy: bool = False) -> tuple[bytes, list[tuple[str, Stored]]]:
        """The pickle of ``root``, and its storages, numbered in the order of their names in it."""
        keys: dict[int, str] = {}
        found: list[tuple[str, Stored]] = []
        word = self.text("storage")

        def pid_of(node: Persistent) -> Any:
            stored = self.stored.get(id(node))
            if stored is None:
                return node.pid
            key = keys.get(id(stored.content))
            if key is None:
                key = keys[id(stored.content)] = fresh(str(len(keys)))
                found.append((key, stored))
            pid = (word, stored.cls, key, stored.location, stored.numel)
            return (*pid, None) if legacy else pid

        return write_pickle(root, 2, self.nodes, pid_of), found

    def zip(self, root: Any, like: Container | None = None) -> Layout:
        """The archive that ``torch.save`` would write; of ``like`` it takes the root folder and foreign records."""
        archive = archive_of(like) if like is not None and like.format == "torch-zip" else None
        data, stored = self.pickle(root)
        folder = archive.root if archive is not None else "archive/"
        alignment = alignment_of(archive) if archive is not None else 64
        entries = [
            _entry(folder, "data.pkl", data), _entry(folder, ".format_version", b"1"),
            _entry(folder, ".storage_alignment", b"%d" % alignment), _entry(folder, "byteorder", b"little"),
        ]  # fmt: skip
        for key, one in stored:
            source = one.content.source
            if source is not None:
                entries.append(Entry(f"{folder}data/{key}".encode(), source, source.size, 0, one.content.crc))
        entries.append(_entry(folder, "version", b"3\n"))
        if like is not None and archive is not None:
            entries += [
                Entry(record.raw_name, record.source, record.nbytes, 0, known_crc(record))
                for record in foreign_records(like).values()
            ]
        return Layout(entries, alignment)

    def legacy(self, root: Any) -> list[Piece]:
        """The stream of torch before 1.6 (formats 6).

        Raises:
            UnsupportedError: a storage that those torches cannot load.
        """
        data, stored = self.pickle(root, legacy=True)
        untyped = [key for key, one in stored if "Untyped" in one.cls.name]
        if untyped or any(one.content.source is None for _, one in stored):
            raise UnsupportedError("the legacy stream has no storages without a dtype, and none without bytes")
        types = Dict([x for pair in (("short", 2), ("int", 4), ("long", 4)) for x in pair])
        system = Dict(["protocol_version", PROTOCOL, "little_endian", True, "type_sizes", types])
        pieces: list[Piece] = [b"".join(map(write_pickle, (MAGIC, PROTOCOL, system))), data]
        by_key = {str(key): one for key, one in stored}
        pieces.append(write_pickle(sorted(by_key)))
        for key in sorted(by_key):
            one = by_key[key]
            assert one.content.source is not None
            pieces += [one.numel.to_bytes(8, "little"), one.content.source]
        return pieces


def _word(dtype: DType | None) -> int:
    return dtype.itemsize // (2 if dtype.kind == "complex" else 1) if dtype is not None else 1


def _entry(folder: str, name: str, content: bytes) -> Entry:
    return Entry(f"{folder}{name}".encode("utf-8", "surrogateescape"), content, len(content), 0, zlib.crc32(content))


def foreign_records(container: Container) -> dict[str, ZipRecord]:
    """Records of an archive that torch does not write for itself: somebody put them there."""
    if container.format == "torchscript":
        return {name: record for name, record in archive_of(container).records.items() if name.startswith("extra/")}
    if container.format != "torch-zip":
        return {}
    return {
        name: record for name, record in archive_of(container).records.items()
        if name not in _OWN and not name.startswith("data/")
    }  # fmt: skip


def reread(data: bytes) -> Pickle:
    """A pickle that was just written, as a graph."""
    return read_pickle(BytesSource(data, ""))
