"""A tensor as a NumPy file (format 1.0 of NEP 1), without numpy: ``ckpt show --save``."""

from __future__ import annotations

from collections.abc import Iterator

from ..dtypes import BY_NAME
from ..errors import CorruptError, MissingKeyError, UnsupportedError
from ..formats.damage import damage_of
from ..formats.logical import logical
from ..model.checkpoint import Checkpoint
from ..model.source import Source
from ..model.spelling import shell_path, shell_word
from ..model.tensor import TensorInfo
from .operands import operand
from .show import find, sliced

_CODES = {
    "float64": "<f8", "float32": "<f4", "float16": "<f2", "int64": "<i8", "int32": "<i4", "int16": "<i2", "int8": "|i1",
    "uint64": "<u8", "uint32": "<u4", "uint16": "<u2", "uint8": "|u1", "bool": "|b1", "complex128": "<c16",
    "complex64": "<c8",
}  # fmt: skip
_INTEGERS = {"qint8": "int8", "quint8": "uint8", "qint32": "int32"}


def save_npy(checkpoint: Checkpoint, name: str, out: str, slice: str | None = None, force: bool = False) -> str:
    """Write a tensor, or a slice of it, as a NumPy file; gives the dtype it has there.

    What NumPy lacks (bfloat16, float8) becomes float32, complex32 complex64: every value stays as it is. Quantized
    tensors become the real numbers they stand for, as float32; where their scale is not in the file, their integers.

    Raises:
        UnsupportedError: it is no single array, or no dtype of NumPy holds it.
        CorruptError: its bytes fail their checksum.
        OutputExistsError: ``out`` is there.
    """
    from ..containers.output import keep_read, replace_file
    from .save import paths_of

    keep_read(out, paths_of(checkpoint), "the checkpoint", "--save FILE")
    info = _tensor(checkpoint, name)
    hurt = damage_of([info]).of(info)
    if hurt:
        raise CorruptError(
            f"{name!r} is not written: {hurt[0]}", path=checkpoint.path,
            hint=f"To see what is there: ckpt show {shell_path(checkpoint.path)} {shell_word(name)} --slice ''",
        )  # fmt: skip
    view = sliced(info, slice) if slice is not None else info
    dtype, body = _content(view)
    shape = f"({', '.join(map(str, view.shape))}{',' if len(view.shape) == 1 else ''})"
    header = f"{{'descr': '{_CODES[dtype]}', 'fortran_order': False, 'shape': {shape}, }}"
    header += " " * (-(len(header) + 11) % 64) + "\n"
    head = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode("latin-1")
    replace_file(out, (piece for part in ([head], body) for piece in part), force=force, out="--save FILE")
    return dtype


def _tensor(checkpoint: Checkpoint, name: str) -> TensorInfo:
    try:
        info = find(checkpoint, name)[2]
    except MissingKeyError:
        if any(name in (value.name, value.name.rpartition("/")[2]) for value in checkpoint.values):
            raise UnsupportedError(f"{name!r} is no tensor: a NumPy file holds arrays", path=checkpoint.path) from None
        raise
    if info.layout != "strided":
        parts = ", ".join(part.key for part in info.parts)
        raise UnsupportedError(f"{name!r} is {info.layout}, made of {parts}: a NumPy file holds one dense array")
    return info


def _content(info: TensorInfo) -> tuple[str, Iterator[bytes | Source]]:
    """Its dtype in the file, and the bytes."""
    numbers = operand(info)
    if isinstance(numbers, str):
        raise UnsupportedError(f"{info.key!r}: {numbers}")
    if info.dtype == "float4_e2m1fn_x2":
        raise UnsupportedError(f"{info.key!r}: two values in a byte have no place in a NumPy file")
    dtype = info.dtype if numbers.affine is not None else _INTEGERS.get(info.dtype, info.dtype)
    if dtype in _CODES:
        return dtype, iter([logical(info)])
    from ..torch.operand import widened

    wider = "complex64" if BY_NAME[dtype].kind == "complex" else "float32"
    return wider, widened(numbers, wider)
