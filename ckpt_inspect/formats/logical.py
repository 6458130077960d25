"""The logical values of a tensor as bytes: its elements in row-major order, little-endian, however they lie in the file.

Views are read through their strides, byte order, lazy conjugation and negation are applied. A tensor whose elements
lie that way already is a plain stretch of its file. No torch: elements are moved, never computed with.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..dtypes import BY_NAME, PACKED
from ..errors import CorruptError, LimitError, UnsupportedError
from ..model.graph import Global, Opaque
from ..model.source import BytesSource, Source
from ..model.tensor import TensorInfo
from . import numpy_values
from .gathered import Flipped, Gathered, Swapped
from .rebuild import attributes_in

REBUILT_PARAMETER = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
FROM_TYPE = ("torch._tensor._rebuild_from_type_v2", "torch.tensor._rebuild_from_type_v2")
_FROM_NUMPY = ("torch._utils._rebuild_device_tensor_from_numpy", "torch._utils._rebuild_xla_tensor")

_LARGEST_EXPANSION = 8 << 30


def innermost(node: Any) -> Opaque | None:
    """The call that makes the tensor itself, inside those that make it a parameter or give it attributes."""
    made = _made_by(node)
    return made[-1] if made and type(made[-1].callee) is Global else None


def _made_by(node: Any) -> list[Opaque]:
    """The calls that make a tensor, from the outermost to the innermost."""
    found: list[Opaque] = []
    while type(node) is Opaque and len(found) < 33:
        found.append(node)
        name = node.qualname
        if name in REBUILT_PARAMETER:
            node = node.args[0]
        elif name in FROM_TYPE:
            node = Opaque("REDUCE", node.args[0], node.args[2])
        else:
            break
    return found


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


def attributes_of(info: TensorInfo) -> dict[str, Any]:
    """What hangs on a tensor: the attributes that the calls which make it are given."""
    found: dict[str, Any] = {}
    for node in _made_by(info.node):
        if node.qualname in (*REBUILT_PARAMETER, *FROM_TYPE) and len(node.args) > 3:
            found = {**attributes_in(node.args[3]), **found}
    return found


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
    _check_there(info, data, (last + 1) * itemsize)
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


def _check_there(info: TensorInfo, data: Source, end: int) -> None:
    """A record of a cut file may be declared longer than the file is; ``end`` of its bytes are needed."""
    place = data.file_range()
    if place is not None and place[1] + end > place[0].size:
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
    _check_there(info, data, start + info.nbytes)
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
