"""Sources that are made of others read as the bytes they will be."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from ckpt_inspect.containers.copying import write_pieces
from ckpt_inspect.model.made import Joined, Summed, ranges_of
from ckpt_inspect.model.source import FileSource

PIECES = st.lists(st.binary(max_size=9), max_size=6)
PLACE = st.integers(0, 60)


@given(PIECES, PLACE, PLACE)
@settings(deadline=None)
def test_joined_reads_and_slices_as_the_whole(pieces: list[bytes], offset: int, nbytes: int) -> None:
    whole, joined = b"".join(pieces), Joined("x", pieces)
    assert joined.size == len(whole)
    assert joined.read_at(offset, nbytes) == whole[offset : offset + nbytes]
    part = joined.slice(offset, nbytes)
    assert part.read_at(0, part.size) == whole[offset : offset + nbytes]
    assert part.slice(1, 3).read_at(0, 9) == whole[offset : offset + nbytes][1:4]


def test_a_file_of_files_is_copied_piece_by_piece(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(os.urandom(300_000))
    file = FileSource(str(tmp_path / "a"))
    summed = Summed(file.slice(7, 200_001))
    joined = Joined("x", [b"head", file.slice(5, 150_000), summed, b"", Joined("y", [b"tail", file.slice(0, 3)])])
    with open(tmp_path / "b", "wb") as out:
        write_pieces(out.fileno(), [joined, joined.slice(2, 160_000)])
    data = (tmp_path / "a").read_bytes()
    whole = b"head" + data[5:150_005] + data[7:200_008] + b"tail" + data[:3]
    assert (tmp_path / "b").read_bytes() == whole + whole[2:160_002]
    assert summed.crc == zlib.crc32(data[7:200_008])
    assert set(ranges_of(joined)) == {(file, 5, 150_000), (file, 7, 200_001), (file, 0, 3)}
    assert list(ranges_of(joined.slice(2, 9))) == [(file, 5, 7)]
