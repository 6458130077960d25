"""An archive without a directory, from one local header to the next: enough to look at it.

torch's local headers hold no lengths (formats 1.1): they come from the pickle, and the descriptor behind each record
proves them.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import NamedTuple

from ..model.source import Source
from .zip import Inflated
from .zip_traces import Header, described, header_at, small_record

ALIGNMENT = 64
BROKEN = "other bytes stand where its checksum should be: bytes of it were lost, inserted or written over"
CHANGED = "its bytes fail their checksum"
TWICE = "two records stand under its name, and nothing tells which is right"


class Walked(NamedTuple):
    """A record that was found.

    Attributes:
        name: with the root of the archive.
        start: where its bytes begin.
        nbytes: how many there should be.
        there: how many there are before the file ends; of one that is broken, none that could be trusted.
        crc: of its content, None where nothing says it; ``walk`` has compared it, ``follow`` has not.
        why: why it is not whole, though there is enough of it; ``""`` if it is.
        inflated: of a deflated one its length then, None if it is stored.
        proof: ``checksum``, ``length`` (archives can be written without checksums), or ``""``: the file ends behind it.
    """

    name: str
    start: int
    nbytes: int
    there: int
    crc: int | None
    why: str = ""
    inflated: int | None = None
    proof: str = "checksum"

    @property
    def whole(self) -> bool:
        return self.there == self.nbytes and not self.why

    def content(self, source: Source) -> Source:
        """Its bytes, inflated."""
        stored = source.slice(self.start, self.there)
        return stored if self.inflated is None else Inflated(stored, self.inflated, self.name)


def follow(source: Source, root: str, sizes: Mapping[str, int]) -> tuple[dict[str, Walked], int]:
    """Records by their name without the root, as far as each leads to the next, and where that chain ends.

    Args:
        source: the file.
        root: the folder of the archive, with its slash.
        sizes: lengths of the records that are known.
    """
    chain = Reader(source, root, sizes)
    found: dict[str, Walked] = {}
    position = 0
    while (item := chain.item(position)) is not None:
        twice = item.name in found and found[item.name].crc != item.crc
        found.setdefault(item.name, chain.walked(item))
        if twice:  # one of the names is damaged
            found[item.name] = found[item.name]._replace(why=TWICE, there=0)
        if item.why == BROKEN or item.end > source.size:
            break
        position = item.end
    return found, position


class Item(NamedTuple):
    """A header and what stands behind it; ``end`` is where the next header should be."""

    name: str
    at: int
    start: int
    nbytes: int
    there: int
    end: int
    crc: int | None  # of the bytes, where it was taken
    proof: str  # as in Walked; "" where nothing proves it
    why: str
    inflated: int | None = None
    aligned: bool = False  # as torch's writer lays it out


class Reader:
    """Makes items of headers, trusting the descriptors' lengths alone."""

    def __init__(self, source: Source, root: str, sizes: Mapping[str, int]) -> None:
        self.source = source
        self.root = root
        self.sizes = sizes

    def item(self, at: int) -> Item | None:
        header = header_at(self.source, at)
        return None if header is None else self.measured(header)

    def measured(self, header: Header) -> Item | None:
        if not header.name.startswith(self.root) or header.start > self.source.size:
            return None
        name = header.name[len(self.root) :]
        expected = self.sizes.get(name)
        told = (
            not header.flags & 8 and header.method in (0, 8) and (header.method or header.compressed == header.nbytes)
        )
        if told and (expected is None or header.nbytes >= expected):
            return None if header.flags & 1 else self._told(header, name)
        if expected is None:
            small = small_record(self.source, header.start)
            if small is None:
                return self.order_record(header.at, header.start) if name == "byteorder" else None
            nbytes, crc, size = small
            proof = "checksum" if crc or not nbytes else "length"
            end = header.start + nbytes + size
            return Item(name, header.at, header.start, nbytes, nbytes, end, crc or None, proof, "")
        return self.stored(name, header.at, header.start, expected)

    def order_record(self, at: int, start: int) -> Item | None:
        """The record byteorder by its descriptor, its content or its header damaged: ``big`` or ``little``."""
        for word in (b"big", b"little"):
            found = described(self.source, start, len(word))
            if found is not None:
                same = zlib.crc32(self.source.read_at(start, len(word))) == found[0] == zlib.crc32(word)
                end = start + len(word) + found[1]
                return Item("byteorder", at, start, len(word), len(word), end, found[0], "checksum" if same else "",
                             "" if same else CHANGED, None, True)  # fmt: skip
        return None

    def _told(self, header: Header, name: str) -> Item:
        """A record whose lengths are in its header."""
        there = min(header.compressed, self.source.size - header.start)
        inflated = header.nbytes if header.method else None
        item = Item(name, header.at, header.start, header.compressed, there, header.start + header.compressed, None, "",
                     "", inflated)  # fmt: skip
        if there < header.compressed:
            return item
        if not header.crc:
            return item._replace(proof="length" if header.nbytes else "checksum")
        return self.compared(item, header.crc)

    def stored(self, name: str, at: int, start: int, nbytes: int) -> Item:
        """A record whose length is known, and whose checksum its descriptor says."""
        if not nbytes and self.source.read_at(start, 4)[:3] != b"PK\x07":  # torch writes none behind an empty one
            return Item(name, at, start, 0, 0, start, None, "checksum", "", None, start % ALIGNMENT == 0)
        found = described(self.source, start, nbytes)
        end = start + nbytes + (found[1] if found is not None else 16)
        item = Item(name, at, start, nbytes, nbytes, end, None, "", "", None, True)
        if found is not None:
            return item._replace(proof="length") if not found[0] else self.compared(item, found[0])
        if end > self.source.size:  # the file ends here: there was no room for a descriptor
            return item._replace(there=min(nbytes, self.source.size - start))
        return item._replace(there=0, why=BROKEN)

    def compared(self, item: Item, crc: int) -> Item:
        """With the checksum that it should have."""
        return item._replace(crc=crc, proof="checksum")

    def walked(self, item: Item) -> Walked:
        name = self.root + item.name
        return Walked(name, item.start, item.nbytes, item.there, item.crc, item.why, item.inflated, item.proof)


def rank_of(item: Item | None) -> int:
    """3 proved by a checksum, 2 by its length, 1 cut off, 0 nothing that can be used."""
    if item is None or item.why:
        return 0
    return {"checksum": 3, "length": 2, "": 1}[item.proof]
