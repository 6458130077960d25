"""The zip container against ``zipfile`` and torch: the same members, sizes, checksums and bytes."""

from __future__ import annotations

import contextlib
import io
import random
import struct
import zipfile
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ckpt_inspect.containers.zip import Inflated, ZipArchive, ZipRecord, read_archive
from ckpt_inspect.errors import CorruptError, FormatError, LimitError
from ckpt_inspect.model.source import BytesSource, Slice, Source
from ckpt_inspect.pickles.limits import Limits

STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED


def opened(data: bytes, limits: Limits | None = None) -> ZipArchive:
    source = BytesSource(data, "test.zip")
    return read_archive(source, limits) if limits else read_archive(source)


def made(members: list[tuple[str, bytes]], method: int = STORED, comment: bytes = b"", stream: bool = False) -> bytes:
    """By zipfile; into a stream it writes data descriptors."""
    buffer: Any = Unseekable() if stream else io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.comment = comment
        for name, data in members:
            archive.writestr(name, data)
    return bytes(buffer.getvalue())


class Unseekable(io.BytesIO):
    def seekable(self) -> bool:
        return False

    def tell(self) -> int:
        raise io.UnsupportedOperation

    seek = tell  # type: ignore[assignment]


@contextlib.contextmanager
def tiny_zip64(limit: int = 50) -> Iterator[None]:
    """zipfile takes whatever is larger than ``limit`` for something that needs 64 bits."""
    with mock.patch.multiple(zipfile, ZIP64_LIMIT=limit, ZIP_FILECOUNT_LIMIT=2):
        yield


def agrees(data: bytes, seed: int = 0) -> ZipArchive:
    """Everything zipfile says of the archive, we say too."""
    archive = opened(data)
    assert not archive.truncated
    with zipfile.ZipFile(io.BytesIO(data)) as oracle:
        infos = oracle.infolist()
        names = [info.filename for info in infos]
        inside = {name.partition("/")[0] for name in names if "/" in name}
        assert archive.root == ("" if not names else names[0].partition("/")[0] + "/" * ("/" in names[0]))
        if len(inside) == 1 and all("/" in name for name in names):
            assert archive.outside == []
            assert [archive.root + name for name in archive.records] == names
        for info in infos:
            record = archive.records.get(info.filename.removeprefix(archive.root))
            if record is not None and archive.root + record.name == info.filename:
                content = oracle.read(info)
                assert (record.nbytes, record.compressed) == (info.file_size, info.compress_size)
                assert (record.header_offset, record.method) == (info.header_offset, info.compress_type)
                assert record.crc == (info.CRC or None)
                reads(record.source, content, random.Random(seed))
    return archive


def reads(source: Source, content: bytes, rng: random.Random) -> None:
    """Pieces in any order, beyond the end too, and slices of slices, are what a file would give."""
    assert source.size == len(content)
    assert source.read_at(0, len(content)) == content
    for _ in range(6):
        offset, nbytes = rng.randint(0, len(content) + 3), rng.randint(0, len(content) + 3)
        assert source.read_at(offset, nbytes) == content[offset : offset + nbytes]
        part = source.slice(offset, nbytes)
        there = content[offset : offset + nbytes]
        assert part.size == len(there)
        assert part.read_at(1, nbytes) == there[1:]
        assert part.slice(2, 5).read_at(1, 9) == there[2:7][1:]
        assert part.slice(2, 5).size == len(there[2:7])


folded = st.text(st.characters(exclude_characters="\0\\", exclude_categories=["Cs"]), min_size=1, max_size=8)
contents = st.one_of(
    st.binary(max_size=40), st.builds(lambda byte, n: byte * n, st.binary(max_size=2), st.integers(0, 500))
)
members = st.lists(st.tuples(folded, contents), max_size=6, unique_by=lambda pair: pair[0].encode().lower())


@settings(max_examples=120, deadline=None)
@given(
    members, st.sampled_from([STORED, DEFLATED]), st.binary(max_size=40), st.booleans(), st.booleans(), st.booleans()
)
@example([("data.pkl", b""), ("data/0", b"abc")], STORED, b"", False, False, False)
def test_what_zipfile_writes(
    members: list[tuple[str, bytes]], method: int, comment: bytes, stream: bool, large: bool, rooted: bool
) -> None:
    if rooted:
        members = [(f"root/{name}", data) for name, data in members]
    with tiny_zip64() if large else contextlib.nullcontext():
        data = made(members, method, comment.replace(b"PK", b""), stream)
    agrees(data)


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(st.text(st.characters(codec="ascii"), max_size=5), st.integers(0, 70), max_size=4), st.booleans()
)
def test_what_torch_writes(sizes: dict[str, int], script: bool) -> None:
    buffer = io.BytesIO()
    if script:
        module = torch.jit.script(torch.nn.Linear(2, 3))
        torch.jit.save(module, buffer, _extra_files={f"extra{n}": "x" * size for n, size in enumerate(sizes.values())})
    else:
        torch.save({key: torch.arange(size) for key, size in sizes.items()}, buffer)
    archive = agrees(buffer.getvalue())
    assert archive.root == "archive/"
    reader = torch._C.PyTorchFileReader(io.BytesIO(buffer.getvalue()))
    assert list(archive.records) == reader.get_all_records()
    for name, record in archive.records.items():
        assert record.source.read_at(0, record.nbytes) == reader.get_record(name)
        if record.method == STORED:
            assert record.source.read_at(0, 1 << 30) == archive.source.read_at(
                reader.get_record_offset(name), record.nbytes
            )


def test_names_that_differ_beyond_ascii_are_two_names() -> None:
    names = ["É", "é", "k", "\N{KELVIN SIGN}"]
    data = made([("r/version", b"3"), *[(f"r/{name}", name.encode()) for name in names]])
    reader = torch._C.PyTorchFileReader(io.BytesIO(data))
    for name, record in opened(data).records.items():
        assert record.source.read_at(0, 9) == reader.get_record(name)


def test_comments_and_extra_fields_of_members() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for n in range(3):
            info = zipfile.ZipInfo(f"r/{n}")
            info.comment, info.extra = b"a comment", struct.pack("<HH5s", 0x7075, 5, b"extra")
            with archive.open(info, "w", force_zip64=n == 1) as member:
                member.write(bytes([n]) * 100)
    agrees(buffer.getvalue())


def test_many_members() -> None:
    """More than 65,535: the count is in the zip64 end record alone."""
    data = made([(f"r/data/{n}", b"") for n in range(66_000)])
    records = opened(data).records
    assert list(records) == [f"data/{n}" for n in range(66_000)]
    with pytest.raises(LimitError, match="66,000 records"):
        opened(data, Limits(records=65_999))


def test_offsets_beyond_four_gigabytes() -> None:
    """A sparse archive: a directory whose one entry has all three of its numbers in the zip64 extra field."""
    size, start = 5 << 30, 6 << 30
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 45, 0, 0, 0, 0, 0, 0xFFFFFFFF, 0xFFFFFFFF, 3, 0) + b"r/0"
    extra = struct.pack("<HH4s", 0x7075, 4, b"more") + struct.pack("<HH3Q", 1, 24, size, size, start)
    entry = struct.pack(
        "<4s6H3I5H2I", b"PK\1\2", 45, 45, 0, 0, 0, 0, 0, *[0xFFFFFFFF] * 2, 3, len(extra), 0, 0, 0, 0, 0xFFFFFFFF
    )
    directory, at = entry + b"r/0" + extra, start + len(local) + size
    end64 = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, len(directory), at)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, at + len(directory), 1)
    end = struct.pack("<4s4HIIH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    source = Sparse({start: local, at: directory + end64 + locator + end}, at + len(directory) + 56 + 20 + 22)
    with zipfile.ZipFile(source) as oracle:
        info = oracle.getinfo("r/0")
        assert (info.file_size, info.header_offset) == (size, start)
    record = read_archive(source).records["0"]
    assert (record.nbytes, record.compressed, record.header_offset) == (size, size, start)
    assert record.source.size == size
    assert record.source.read_at(size - 3, 10) == bytes(3)


class Sparse(io.RawIOBase):
    """Zeros, and a few pieces: a file for zipfile and a source for us."""

    path = "sparse.zip"

    def __init__(self, pieces: dict[int, bytes], size: int) -> None:
        self.pieces, self.size, self.at = pieces, size, 0

    def read_at(self, offset: int, nbytes: int) -> bytes:
        found = bytearray(max(0, min(nbytes, self.size - offset)))
        for start, piece in self.pieces.items():
            for n, byte in enumerate(piece):
                if 0 <= start + n - offset < len(found):
                    found[start + n - offset] = byte
        return bytes(found)

    def slice(self, offset: int, nbytes: int) -> Source:
        return Slice(self, offset, nbytes)

    def file_range(self) -> None:
        return None

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = offset + (0, self.at, self.size)[whence]
        return self.at

    def read(self, nbytes: int = -1) -> bytes:
        data = self.read_at(self.at, self.size - self.at if nbytes < 0 else nbytes)
        self.at += len(data)
        return data

    def seekable(self) -> bool:
        return True


@pytest.mark.parametrize("content", [bytes(3_500_000), random.Random(0).randbytes(2_500_000), b""])
def test_long_deflated_members(content: bytes) -> None:
    """Longer than what is inflated at a time, in either direction; read in order and out of it."""
    data = made([("r/data.pkl", content)], DEFLATED)
    source = opened(data).records["data.pkl"].source
    assert isinstance(source, Inflated)
    reads(source, content, random.Random(1))
    offset, pieces = 0, []
    while piece := source.read_at(offset, 700_001):
        pieces.append(piece)
        offset += len(piece)
    assert b"".join(pieces) == content


def _record(data: bytes, method: int, nbytes: int) -> ZipRecord:
    """The record of an archive whose one deflated member declares another length."""
    directory = data.index(b"PK\1\2")
    changed = data[: directory + 24] + struct.pack("<I", nbytes) + data[directory + 28 :]
    return opened(changed).records["a"]


def test_deflated_members_that_lie() -> None:
    content = random.Random(2).randbytes(1000)
    data = made([("r/a", content)], DEFLATED)
    longer = _record(data, DEFLATED, 1001).source
    for _ in range(2):  # the second answer is the first
        with pytest.raises(CorruptError, match="less than the 1,001 bytes declared"):
            longer.read_at(0, 1001)
    assert longer.read_at(0, 1000) == content
    shorter = _record(data, DEFLATED, 10).source  # never beyond the declared length
    assert shorter.read_at(0, 1000) == content[:10]


def test_damage_stays_damage() -> None:
    """A member that breaks in its second part fails again and again, and its first part is still right."""
    content = random.Random(3).randbytes(3_000_000)
    data = bytearray(made([("r/a", content)], DEFLATED))
    middle = len(data) // 2 & ~0xFFFF
    data[middle : middle + 200_000] = b"\xff" * 200_000
    source = opened(bytes(data)).records["a"].source
    for _ in range(3):
        with pytest.raises(CorruptError, match=r"inflate"):
            source.read_at(0, len(content))
        with pytest.raises(CorruptError, match=r"inflate"):
            source.read_at(2_000_000, 10)
    assert source.read_at(5, 1000) == content[5:1005]


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        (lambda entry: entry[:8] + b"\1\0" + entry[10:], FormatError, "encrypted"),
        (lambda entry: entry[:10] + b"\x0c\0" + entry[12:], CorruptError, "method 12"),
        (lambda entry: entry[:24] + b"\xff" + entry[25:], CorruptError, "two lengths"),
        (lambda entry: entry[:42] + b"\xff" + entry[43:], CorruptError, "beyond the archive"),
    ],
)
def test_policy(edit: Any, error: type[Exception], message: str) -> None:
    data = made([("r/a", b"some bytes")])
    directory = data.index(b"PK\1\2")
    with pytest.raises(error, match=message):
        opened(data[:directory] + edit(data[directory:]))


def test_a_cut_archive_shows_its_first_member() -> None:
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(100)}, buffer)
    whole = opened(buffer.getvalue())
    archive = opened(buffer.getvalue()[:1000])
    assert archive.truncated
    assert (archive.root, list(archive.records)) == (whole.root, ["data.pkl"])
    record = whole.records["data.pkl"]
    assert archive.records["data.pkl"].source.read_at(0, record.nbytes) == record.source.read_at(0, record.nbytes)
