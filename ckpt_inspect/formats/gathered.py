"""Sources computed from others without torch: elements picked by strides, words turned round, bits flipped."""

from __future__ import annotations

import struct
import threading
from array import array
from collections.abc import Iterator
from typing import Literal, NamedTuple

from ..errors import CorruptError
from ..model.source import FileSource, Slice, Source

_BLOCK = 32 << 20  # what is gathered at a time where dimensions are turned
_SPAN = 8 << 20  # a stretch up to this length is read at once and gathered in memory
_CODES: dict[int, Literal["B", "H", "I", "Q"]] = {1: "B", 2: "H", 4: "I", 8: "Q"}


class _Derived:
    """A source computed from another."""

    __slots__ = ("parent", "size")

    parent: Source
    size: int

    @property
    def path(self) -> str:
        return self.parent.path

    def file_range(self) -> tuple[FileSource, int] | None:
        return None

    def read_at(self, offset: int, nbytes: int) -> bytes:
        raise NotImplementedError

    def slice(self, offset: int, nbytes: int) -> Source:
        return Slice(self, offset, min(nbytes, max(0, self.size - offset)))

    def whole(self, offset: int, nbytes: int, unit: int) -> tuple[int, int, int]:
        """The stretch asked for, widened to whole units: its first byte, its length, and what is too much in front."""
        offset = min(offset, self.size)
        nbytes = max(0, min(nbytes, self.size - offset))
        before = offset % unit
        return offset - before, min(self.size - (offset - before), -(-(before + nbytes) // unit) * unit), before


class Swapped(_Derived):
    """Words in the other byte order. A rest shorter than a word stays as it is."""

    __slots__ = ("word",)

    def __init__(self, parent: Source, word: int) -> None:
        self.parent, self.size, self.word = parent, parent.size, word

    def read_at(self, offset: int, nbytes: int) -> bytes:
        start, length, before = self.whole(offset, nbytes, self.word)
        data = self.parent.read_at(start, length)
        rest = len(data) % self.word
        words, tail = data[: len(data) - rest], data[len(data) - rest :]
        if self.word in _CODES:
            numbers = array(_CODES[self.word], words)
            numbers.byteswap()
            words = numbers.tobytes()
        else:
            turned = bytearray(len(words))
            for i in range(self.word):
                turned[i :: self.word] = words[self.word - 1 - i :: self.word]
            words = bytes(turned)
        end = before + max(0, min(nbytes, self.size - offset))
        return (words + tail)[before:end]


class Flipped(_Derived):
    """Elements with some of their bits flipped, those of ``mask``: what torch's lazy bits stand for."""

    __slots__ = ("mask",)

    def __init__(self, parent: Source, mask: bytes) -> None:
        self.parent, self.size, self.mask = parent, parent.size, mask

    def read_at(self, offset: int, nbytes: int) -> bytes:
        start, length, before = self.whole(offset, nbytes, len(self.mask))
        data = self.parent.read_at(start, length)
        mask = self.mask * (len(data) // len(self.mask))
        turned = int.from_bytes(data, "little") ^ int.from_bytes(mask, "little")
        return turned.to_bytes(len(data), "little")[before : before + max(0, min(nbytes, self.size - offset))]


class _Dim(NamedTuple):
    """One dimension of a block: its length, and the step in bytes in the source and in the output."""

    n: int
    step: int
    out: int


class _Blocks(threading.local):
    """The two large blocks that a thread gathered last: it may read two tensors in turn."""

    def __init__(self) -> None:
        self.kept: list[tuple[Gathered, int, bytes]] = []


_gathered = _Blocks()


class Gathered(_Derived):
    """Elements picked by strides, in row-major order. Memory is bounded by what is asked for, 8 MiB, and two blocks.

    Where neighbours in the output lie far apart in the file, as in a transposed matrix, large blocks are gathered at a
    time: each goes through all of the file.

    Args:
        parent: the storage.
        start: byte offset of the first element.
        itemsize: bytes of one element.
        dims: (length, step in bytes), none of length 1, the outermost first.
    """

    __slots__ = ("_kept", "_turned", "dims", "itemsize", "start")

    def __init__(self, parent: Source, start: int, itemsize: int, dims: list[tuple[int, int]]) -> None:
        self.parent, self.start, self.itemsize, self.dims = parent, start, itemsize, dims
        self.size = itemsize
        for n, _ in dims:
            self.size *= n
        self._kept: tuple[int, bytes] | None = None
        steps = [step for _, step in dims]
        self._turned = self.size > _SPAN and steps != sorted(steps, reverse=True)

    def read_at(self, offset: int, nbytes: int) -> bytes:
        if not self._turned:
            return self._gather(offset, nbytes)
        end, parts = min(offset + nbytes, self.size), []
        while offset < end:
            index, within = divmod(offset, _BLOCK)
            parts.append(self._block(index)[within : within + end - offset])
            offset += len(parts[-1])
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _block(self, index: int) -> bytes:
        for source, number, data in _gathered.kept:
            if source is self and number == index:
                return data
        data = self._gather(index * _BLOCK, min(_BLOCK, self.size - index * _BLOCK))
        _gathered.kept = [*(one for one in _gathered.kept if one[0] is not self), (self, index, data)][-2:]
        return data

    def _gather(self, offset: int, nbytes: int) -> bytes:
        start, length, before = self.whole(offset, nbytes, self.itemsize)
        out = bytearray(length)
        at = 0
        for base, block in _blocks(self.dims, start // self.itemsize, length // self.itemsize):
            dims, step = [], self.itemsize
            for n, stride in reversed(block):
                if n > 1:
                    dims.append(_Dim(n, stride, step))
                step *= n
            self._fill(out, at, self.start + base, dims)
            at += step
        wanted = max(0, min(nbytes, self.size - offset))
        return bytes(out) if not before and wanted == length else bytes(out[before : before + wanted])

    def _fill(self, out: bytearray, at: int, base: int, dims: list[_Dim]) -> None:
        """Copy one block; along its widest steps piece by piece, until a piece fits into memory."""
        span = self.itemsize + sum((dim.n - 1) * dim.step for dim in dims)
        if span <= _SPAN or not dims:
            _copy(self._read(base, span), out, at, dims, self.itemsize)
            return
        widest = max(dims, key=lambda dim: dim.step)
        rest = [dim for dim in dims if dim is not widest]
        fits = max(1, (_SPAN - span + (widest.n - 1) * widest.step) // widest.step + 1) if widest.step else 1
        fits = fits if fits * self.itemsize * 64 > widest.step else 1  # else mostly gaps would be read
        for i in range(0, widest.n, fits):
            n = min(fits, widest.n - i)
            inner = [*rest, _Dim(n, widest.step, widest.out)] if n > 1 else rest
            self._fill(out, at + i * widest.out, base + i * widest.step, inner)

    def _read(self, base: int, span: int) -> bytes:
        """A stretch of the storage. The last large one is kept: the next rows of a transposed matrix lie in it too."""
        kept = self._kept
        if kept is not None and kept[0] <= base and base + span <= kept[0] + len(kept[1]):
            return (
                kept[1][base - kept[0] : base - kept[0] + span] if (base, span) != (kept[0], len(kept[1])) else kept[1]
            )
        whole = self.itemsize + sum((n - 1) * step for n, step in self.dims)
        if whole <= _SPAN:
            base, span, asked = self.start, whole, (base, span)
            data = self._exactly(base, span)
            self._kept = (base, data)
            return data[asked[0] - base : asked[0] - base + asked[1]]
        return self._exactly(base, span)

    def _exactly(self, base: int, span: int) -> bytes:
        data = self.parent.read_at(base, span)
        if len(data) < span:
            raise CorruptError(f"cut: {len(data):,} of {span:,} bytes are there", path=self.path, offset=base)
        return data


def _blocks(dims: list[tuple[int, int]], first: int, count: int) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """The elements ``first … first + count`` as blocks in order: (offset of the block in bytes, its dimensions)."""
    if not count:
        return
    if len(dims) <= 1:
        step = dims[0][1] if dims else 0
        yield first * step, [(count, step)]
        return
    (_, step), inner = dims[0], dims[1:]
    row = 1
    for n, _ in inner:
        row *= n
    index, within = divmod(first, row)
    if within:
        head = min(count, row - within)
        for base, block in _blocks(inner, within, head):
            yield index * step + base, block
        index, count = index + 1, count - head
    if count >= row:
        yield index * step, [(count // row, step), *inner]
        index, count = index + count // row, count % row
    if count:
        for base, block in _blocks(inner, 0, count):
            yield index * step + base, block


def _copy(data: bytes, out: bytearray, at: int, dims: list[_Dim], itemsize: int) -> None:
    """Copy elements in memory from steps to steps: the longest dimension by slices, the others one by one."""
    width = itemsize if itemsize in _CODES else 8 if itemsize % 8 == 0 else 1
    run = next((dim for dim in dims if dim.step == dim.out == itemsize), None)
    if run is not None:  # contiguous on both sides: moved as one piece
        rest = [dim for dim in dims if dim is not run]
        nbytes = run.n * itemsize
        for source, target in _places(rest, 0, at):
            out[target : target + nbytes] = data[source : source + nbytes]
        return
    if not dims:
        out[at : at + itemsize] = data[:itemsize]
        return
    longest = max(dims, key=lambda dim: dim.n)
    rest = [dim for dim in dims if dim is not longest]
    if itemsize // width > 1:
        rest.append(_Dim(itemsize // width, width, width))
    count, step, jump = longest.n, longest.step // width, longest.out // width
    with memoryview(data) as raw, memoryview(out) as target_raw:
        usable = len(data) // width * width
        source_view, target_view = raw[:usable].cast(_CODES[width]), target_raw.cast(_CODES[width])
        for source, target in _places(rest, 0, at):
            s, t = source // width, target // width
            if step:
                target_view[t : t + (count - 1) * jump + 1 : jump] = source_view[s : s + (count - 1) * step + 1 : step]
            else:  # an expanded dimension: one element, many times
                one = struct.pack(_CODES[width], source_view[s])
                target_view[t : t + (count - 1) * jump + 1 : jump] = memoryview(one * count).cast(_CODES[width])
        source_view.release()
        target_view.release()


def _places(dims: list[_Dim], source: int, target: int) -> Iterator[tuple[int, int]]:
    """Every combination of steps along the dimensions."""
    if not dims:
        yield source, target
        return
    dim, rest = dims[0], dims[1:]
    for i in range(dim.n):
        yield from _places(rest, source + i * dim.step, target + i * dim.out)
