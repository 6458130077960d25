"""The logical values of a tensor as bytes: its elements in row-major order, little-endian, however they lie in the file.

Views are read through their strides, byte order, lazy conjugation and negation are applied. A tensor whose elements
lie that way already is a plain stretch of its file. No torch: elements are moved, never computed with.
"""

from __future__ import annotations

import struct
import threading
from array import array
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from ..dtypes import BY_NAME, PACKED
from ..errors import CorruptError, LimitError, UnsupportedError
from ..model.graph import Global, Opaque
from ..model.source import BytesSource, FileSource, Slice, Source
from ..model.tensor import TensorInfo
from . import numpy_values

REBUILT_PARAMETER = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
FROM_TYPE = ("torch._tensor._rebuild_from_type_v2", "torch.tensor._rebuild_from_type_v2")
_FROM_NUMPY = ("torch._utils._rebuild_device_tensor_from_numpy", "torch._utils._rebuild_xla_tensor")

_LARGEST_EXPANSION = 8 << 30
_BLOCK = 32 << 20  # what is gathered at a time where dimensions are turned
_SPAN = 8 << 20  # a stretch up to this length is read at once and gathered in memory
_CODES: dict[int, Literal["B", "H", "I", "Q"]] = {1: "B", 2: "H", 4: "I", 8: "Q"}


def innermost(node: Any) -> Opaque | None:
    """The call that makes the tensor itself, inside those that make it a parameter or give it attributes."""
    for _ in range(32):
        name = node.qualname if type(node) is Opaque else ""
        if name in REBUILT_PARAMETER:
            node = node.args[0]
        elif name in FROM_TYPE:
            node = Opaque("REDUCE", node.args[0], node.args[2])
        else:
            break
    return node if type(node) is Opaque and type(node.callee) is Global else None


def stored_dtype(info: TensorInfo) -> str:
    """The dtype of the bytes: tensors that went through numpy became what numpy has (bfloat16: float32).

    Raises:
        UnsupportedError: a numpy dtype that torch cannot read.
    """
    call = innermost(info.node) if type(info.node) is Opaque else None
    made = numpy_values.array(call.args[0]) if call is not None and call.qualname in _FROM_NUMPY else None
    if made is None:
        return info.dtype
    if made.dtype not in BY_NAME or (made.code[0] == ">" and BY_NAME[made.dtype].itemsize > 1):
        raise UnsupportedError(f"{info.key!r} is a numpy array of {made.code}, which torch cannot read")
    return made.dtype


def leaves(info: TensorInfo) -> list[TensorInfo]:
    """The tensors that hold its bytes: itself, then its components, those inside them too. Of ``meta``, none."""
    found = [info] if info.storage is not None and info.stride is not None else []
    for part in info.parts:
        found += [
            leaf._replace(key=f"{part.key}.{leaf.key}" if leaf is not part else part.key) for leaf in leaves(part)
        ]
    return found


def frame(info: TensorInfo) -> tuple[Any, ...]:
    """What two tensors share, beside dtype and shape, when their bytes can be compared one by one."""
    parts = tuple((part.key, part.dtype, part.shape, frame(part)) for part in info.parts)
    return info.layout, info.storage is None, scheme(info), parts


class Scheme(NamedTuple):
    """How the integers of a quantized tensor become real numbers; of one by channels, which dimension those are."""

    name: str
    scale: float | None
    zero_point: int | None
    axis: int | None


def scheme(info: TensorInfo) -> Scheme | None:
    """The recorded quantization, None where there is none (safetensors and packed TorchScript have just integers)."""
    if info.dtype not in BY_NAME or BY_NAME[info.dtype].kind != "quantized":
        return None
    call = innermost(info.node)
    given = call.args[4] if call is not None and type(call.args) is tuple and len(call.args) > 4 else None
    if type(given) is not tuple or len(given) not in (3, 4) or type(given[0]) is not Global:
        return None
    if len(given) == 4:
        return Scheme(given[0].name, None, None, given[3] if type(given[3]) is int else None)
    numbers = isinstance(given[1], float) and isinstance(given[2], int)
    return Scheme(given[0].name, given[1], given[2], None) if numbers else None


def content_key(info: TensorInfo) -> tuple[Any, ...] | None:
    """What two tensors share whose values are the same because they are the same bytes, read alike. None: not known."""
    view = info.view_of
    if view is None or info.dtype not in BY_NAME or BY_NAME[info.dtype].kind != "quantized":
        return view
    return view, scheme(info), tuple(part.view_of for part in info.parts)


def check_expansion(info: TensorInfo) -> None:
    """Refuse an expanded tensor whose values would take hours to go through.

    Raises:
        LimitError: it repeats few stored bytes more than a file could hold.
    """
    stored = info.storage.nbytes if info.storage is not None else info.nbytes
    if info.nbytes > max(_LARGEST_EXPANSION, 64 * stored):
        raise LimitError(f"{info.key!r} expands {stored:,} stored bytes to {info.nbytes:,}: its values are not read")


def logical(info: TensorInfo) -> Source:
    """The row-major little-endian bytes of a tensor that has a storage.

    ``numel * itemsize`` bytes; where they are a stretch of a file, ``file_range()`` says so.

    Raises:
        CorruptError: the file does not have them all.
        UnsupportedError: it has no bytes (``meta``), or is made of parts: ask those.
    """
    if info.storage is None or info.stride is None:
        raise UnsupportedError(f"{info.key!r} has no bytes of its own: it is on meta, or made of parts")
    dtype = stored_dtype(info)
    packed, itemsize = PACKED.get(dtype, 1), BY_NAME[dtype].itemsize
    if 0 in info.shape:
        return BytesSource(b"", "")
    data = info.storage.data
    if data is None:
        raise CorruptError(f"{info.key!r}: its bytes are not in the file", record=info.storage.id)
    dims = _joined([(n, step) for n, step in zip(info.shape, info.stride, strict=True) if n != 1])
    if packed > 1 or not itemsize:
        return _packed(info, data, dims, packed)
    last = info.storage_offset + sum((n - 1) * step for n, step in dims)
    if (last + 1) * itemsize > data.size or (last + 1) * itemsize > info.storage.nbytes:
        raise CorruptError(
            f"{info.key!r} needs {(last + 1) * itemsize:,} bytes of a storage of {min(data.size, info.storage.nbytes):,}",
            path=data.path, record=info.storage.id,
        )  # fmt: skip
    _check_there(info, data)
    if info.storage.byteorder != "little" and info.storage.word > 1:
        data = Swapped(data, info.storage.word)
    start = info.storage_offset * itemsize
    found: Source
    if dtype != info.dtype:
        found = _narrowed(info, dtype, data, start, dims)
    elif not dims:
        found = data.slice(start, itemsize)
    elif dims == [(dims[0][0], 1)]:
        found = data.slice(start, dims[0][0] * itemsize)
    else:
        found = Gathered(data, start, itemsize, [(n, step * itemsize) for n, step in dims])
    mask = _sign_mask(info)
    return Flipped(found, mask) if mask else found


def _check_there(info: TensorInfo, data: Source) -> None:
    """A record of a cut file may be declared longer than the file is."""
    place = data.file_range()
    if place is not None and place[1] + data.size > place[0].size:
        there = max(0, place[0].size - place[1])
        raise CorruptError(
            f"{info.key!r}: the file is cut, {there:,} of the {data.size:,} bytes of its storage are there",
            path=data.path, record=info.storage.id if info.storage else None,
        )  # fmt: skip


def _narrowed(info: TensorInfo, dtype: str, data: Source, start: int, dims: list[tuple[int, int]]) -> Source:
    """bfloat16 that went through numpy as float32: the upper half of each number, for the lower is zero."""
    if (info.dtype, dtype) != ("bfloat16", "float32"):
        raise UnsupportedError(f"{info.key!r} is {info.dtype}, and was stored as {dtype}")
    return Gathered(data, start + 2, 2, [(n, step * 4) for n, step in dims])


def _packed(info: TensorInfo, data: Source, dims: list[tuple[int, int]], packed: int) -> Source:
    """Elements smaller than a byte: only where they lie in order and begin with a byte."""
    if len(dims) > 1 or (dims and dims[0][1] != 1) or info.storage_offset % packed:
        raise UnsupportedError(f"{info.key!r}: a view of {info.dtype} that begins within a byte or skips elements")
    start = BY_NAME[info.dtype].bits * info.storage_offset // (8 * packed)
    if start + info.nbytes > data.size:
        raise CorruptError(f"{info.key!r} needs {info.nbytes:,} bytes, {data.size - start:,} are there")
    _check_there(info, data)
    return data.slice(start, info.nbytes)


def _joined(dims: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same elements in the same order with as few dimensions as can be: (length, step)."""
    found: list[tuple[int, int]] = []
    for n, step in dims:
        if found and found[-1][1] == n * step:
            found[-1] = (found[-1][0] * n, step)
        else:
            found.append((n, step))
    return found


def _sign_mask(info: TensorInfo) -> bytes:
    """Of one element, the bits that the lazy conjugate and negative bits flip; ``b""`` for none."""
    if not (info.conj or info.neg):
        return b""
    row = BY_NAME[info.dtype]
    if row.kind not in ("float", "complex"):
        raise UnsupportedError(f"{info.key!r}: a lazily negated tensor of {info.dtype}")
    parts = 2 if row.kind == "complex" else 1
    half = row.itemsize // parts
    flipped, kept = bytes(half - 1) + b"\x80", bytes(half)
    if parts == 1:
        return flipped if info.neg else b""
    imaginary = info.conj != info.neg  # both: the imaginary part is flipped twice
    return (flipped if info.neg else kept) + (flipped if imaginary else kept)


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
