"""One table of element types: torch's name, bits, storage class, safetensors code.

Facts: formats of torch 2.13 and safetensors 0.8, each tried (see ``tests/test_zoo.py``).
"""

from __future__ import annotations

from typing import NamedTuple


class DType(NamedTuple):
    """One element type.

    Attributes:
        name: torch's name without ``torch.``; a safetensors code that torch lacks, verbatim.
        bits: bits of one element as torch counts elements (``float4_e2m1fn_x2`` is one byte, two values).
        kind: ``float``, ``complex``, ``int``, ``bool``, ``quantized`` or ``bits``.
        storage: the storage class of pickles, without ``Storage``; the C++ name where only TorchScript has one.
        safetensors: the code in a safetensors header, or None.
        legacy: whether eager ``torch.save`` writes the typed storage (else ``UntypedStorage`` and a dtype).
    """

    name: str
    bits: int
    kind: str
    storage: str | None
    safetensors: str | None
    legacy: bool

    @property
    def itemsize(self) -> int:
        """Bytes of one element; 0 for the packed types smaller than a byte."""
        return self.bits // 8


_ROWS = [
    # name, bits, kind, storage class, safetensors code, typed storage in eager pickles
    DType("float64", 64, "float", "Double", "F64", True),
    DType("float32", 32, "float", "Float", "F32", True),
    DType("float16", 16, "float", "Half", "F16", True),
    DType("bfloat16", 16, "float", "BFloat16", "BF16", True),
    DType("int64", 64, "int", "Long", "I64", True),
    DType("int32", 32, "int", "Int", "I32", True),
    DType("int16", 16, "int", "Short", "I16", True),
    DType("int8", 8, "int", "Char", "I8", True),
    DType("uint8", 8, "int", "Byte", "U8", True),
    DType("bool", 8, "bool", "Bool", "BOOL", True),
    DType("complex128", 128, "complex", "ComplexDouble", None, True),
    DType("complex64", 64, "complex", "ComplexFloat", "C64", True),
    DType("complex32", 32, "complex", "ComplexHalf", None, False),
    DType("uint16", 16, "int", "UInt16", "U16", False),
    DType("uint32", 32, "int", "UInt32", "U32", False),
    DType("uint64", 64, "int", "UInt64", "U64", False),
    DType("float8_e4m3fn", 8, "float", "Float8_e4m3fn", "F8_E4M3", False),
    DType("float8_e5m2", 8, "float", "Float8_e5m2", "F8_E5M2", False),
    DType("float8_e4m3fnuz", 8, "float", "Float8_e4m3fnuz", "F8_E4M3FNUZ", False),
    DType("float8_e5m2fnuz", 8, "float", "Float8_e5m2fnuz", "F8_E5M2FNUZ", False),
    DType("float8_e8m0fnu", 8, "float", "Float8_e8m0fnu", "F8_E8M0", False),
    DType("float4_e2m1fn_x2", 8, "float", "Float4_e2m1fn_x2", "F4", False),
    DType("bits8", 8, "bits", "Bits8", None, False),
    DType("bits16", 16, "bits", "Bits16", None, False),
    DType("bits1x8", 8, "bits", "Bits1x8", None, False),
    DType("bits2x4", 8, "bits", "Bits2x4", None, False),
    DType("bits4x2", 8, "bits", "Bits4x2", None, False),
    DType("qint8", 8, "quantized", "QInt8", None, True),
    DType("quint8", 8, "quantized", "QUInt8", None, True),
    DType("qint32", 32, "quantized", "QInt32", None, True),
    DType("quint4x2", 8, "quantized", "QUInt4x2", None, True),
    DType("quint2x4", 8, "quantized", "QUInt2x4", None, True),
    # safetensors has these, torch does not
    DType("F6_E2M3", 6, "float", None, "F6_E2M3", False),
    DType("F6_E3M2", 6, "float", None, "F6_E3M2", False),
]

BY_NAME: dict[str, DType] = {row.name: row for row in _ROWS}
BY_STORAGE: dict[str, DType] = {f"{row.storage}Storage": row for row in _ROWS if row.storage}
BY_SAFETENSORS: dict[str, DType] = {row.safetensors: row for row in _ROWS if row.safetensors}
ITEMSIZE: dict[str, int] = {row.name: row.itemsize for row in _ROWS}

# How many logical values one stored element holds (torch counts logical values for these in numel()).
PACKED: dict[str, int] = {"quint4x2": 2, "quint2x4": 4}


def nbytes(dtype: str, numel: int) -> int:
    """Bytes that ``numel`` elements of ``dtype`` take when stored without gaps."""
    packed = PACKED.get(dtype)
    if packed is not None:
        return -(-numel // packed)
    return numel * BY_NAME[dtype].bits // 8
