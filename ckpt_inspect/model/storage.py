"""Records, storages and containers: where the bytes are."""

from __future__ import annotations

from typing import Any

from ..errors import CorruptError
from .source import Source


class Record:
    """A member of a file: a zip entry, a tar member, a stretch of a legacy stream.

    Attributes:
        name: as the format spells it, without the archive's root folder.
        nbytes: length of its content.
        crc: CRC-32 of its content, None where the format has none or the writer left it out.
    """

    __slots__ = ("_source", "crc", "name", "nbytes")

    def __init__(self, name: str, nbytes: int, source: Source | None = None, crc: int | None = None) -> None:
        self.name = name
        self.nbytes = nbytes
        self.crc = crc
        self._source = source

    @property
    def source(self) -> Source:
        """Its bytes, found on first use."""
        if self._source is None:
            self._source = self.locate()
        return self._source

    @property
    def is_located(self) -> bool:
        """Whether something asked for its bytes already."""
        return self._source is not None

    def locate(self) -> Source:
        raise CorruptError("the record has no bytes", record=self.name)

    def __repr__(self) -> str:
        return f"Record({self.name!r}, {self.nbytes:,} bytes)"


class Storage:
    """A run of bytes that tensors are views of. Equal by ``id``.

    Attributes:
        id: opaque, unique in the checkpoint: equal exactly for the same storage.
        nbytes: its length.
        location: the device tag as written (``cpu``, ``cuda:0``), None if the format stores none.
        byteorder: ``little`` or ``big``.
        record: the record that holds it, None if the bytes are missing or were never stored.
        offset: where in the record it begins, in bytes.
        word: bytes that a foreign ``byteorder`` reverses together: an element, half of a complex one; 1 where
            the storage is untyped, which torch writes as it is.
    """

    __slots__ = ("byteorder", "id", "location", "nbytes", "offset", "record", "word")

    def __init__(
        self,
        id: str,
        nbytes: int,
        location: str | None,
        record: Record | None = None,
        offset: int = 0,
        byteorder: str = "little",
        word: int = 1,
    ) -> None:
        self.id = id
        self.nbytes = nbytes
        self.location = location
        self.record = record
        self.offset = offset
        self.byteorder = byteorder
        self.word = word

    @property
    def data(self) -> Source | None:
        """The bytes, None where the file does not have them."""
        return self.record.source.slice(self.offset, self.nbytes) if self.record else None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Storage) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"Storage({self.id!r}, {self.nbytes:,} bytes, {self.location})"


class Container:
    """One file: its members in order, and what its pickles or JSON headers say.

    Attributes:
        path: the file.
        format: one of the names of the contract: ``torch-zip``, ``safetensors``, …
        source: the whole file.
        records: its members, by name, in order.
        graphs: by record name: the :class:`~ckpt_inspect.model.graph.Pickle` or the parsed JSON.
        facts: what the container itself says, in words for a card: version, byte order, root folder.
    """

    __slots__ = ("facts", "format", "graphs", "path", "records", "source")

    def __init__(self, path: str, format: str, source: Source) -> None:
        self.path = path
        self.format = format
        self.source = source
        self.records: dict[str, Record] = {}
        self.graphs: dict[str, Any] = {}
        self.facts: dict[str, str] = {}
