"""A torch zip made of bytes from anywhere, in the layout of ``torch.save``; checksums are found while it is copied."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..errors import CorruptError
from ..model.source import COPY_CHUNK
from .copying import CHANGED, Piece, size_of
from .zip_writer import _FLAGS_DATA, _FLAGS_EMPTY, _descriptor, _local_header, _Member, directory


class Content(NamedTuple):
    """A record to be written: its name without the root, and its bytes in pieces."""

    name: str
    pieces: Sequence[Piece]

    @property
    def nbytes(self) -> int:
        return sum(map(size_of, self.pieces))


def build(root: str, contents: Sequence[Content], alignment: int = 64) -> Iterator[Piece]:
    """The pieces of an archive; each is to be written before the next is taken."""
    position = 0
    members: list[_Member] = []
    for content in contents:
        name = (root + content.name).encode("utf-8", "surrogateescape")
        nbytes = content.nbytes
        member = _Member(name, _FLAGS_DATA if nbytes else _FLAGS_EMPTY, 0, 0, nbytes, nbytes, position)
        header = _local_header(member, alignment)
        yield header
        crc = 0
        for chunk in _chunks(content):
            crc = zlib.crc32(chunk, crc)
            yield chunk
        member = member._replace(crc=crc)
        descriptor = _descriptor(member) if nbytes else b""
        yield descriptor
        members.append(member)
        position += len(header) + nbytes + len(descriptor)
    yield directory(members, position)


def _chunks(content: Content) -> Iterator[bytes]:
    for piece in content.pieces:
        if isinstance(piece, bytes):
            yield piece
            continue
        for offset in range(0, piece.size, COPY_CHUNK):
            wanted = min(COPY_CHUNK, piece.size - offset)
            chunk = piece.read_at(offset, wanted)
            if len(chunk) != wanted:
                raise CorruptError(CHANGED, path=piece.path, record=content.name)
            yield chunk
