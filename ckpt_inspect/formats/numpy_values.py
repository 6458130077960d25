"""numpy arrays and scalars inside pickles, as data: ``_reconstruct``, ``scalar`` and ``_frombuffer``."""

from __future__ import annotations

from math import prod
from struct import Struct
from struct import error as struct_error
from typing import Any, NamedTuple

from ..model.graph import Opaque
from .inline import bytes_of

_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")
_MAX_VALUES = 1024  # longer arrays are described, not listed
_MAX_RANK = 64  # numpy's own
_LARGEST = 2**63 - 1

# numpy's kind and size -> (name, struct code)
_TYPES = {
    "b1": ("bool", "?"), "i1": ("int8", "b"), "i2": ("int16", "h"), "i4": ("int32", "i"), "i8": ("int64", "q"),
    "u1": ("uint8", "B"), "u2": ("uint16", "H"), "u4": ("uint32", "I"), "u8": ("uint64", "Q"),
    "f2": ("float16", "e"), "f4": ("float32", "f"), "f8": ("float64", "d"),
    "c8": ("complex64", "2f"), "c16": ("complex128", "2d"),
}  # fmt: skip

_KINDS = {"M": "datetime64", "m": "timedelta64", "U": "str_", "S": "bytes_", "V": "void", "O": "object"}


class NumpyArray(NamedTuple):
    """An array as its pickle states it. ``stride`` in elements; ``data`` None for object arrays."""

    dtype: str
    code: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    data: Any

    @property
    def numel(self) -> int:
        return prod(self.shape)


def _dtype(node: Any) -> tuple[str, str] | None:
    """Name and code (``<f8``) of a ``numpy.dtype('f8', False, True)`` with its byte order in BUILD."""
    if type(node) is not Opaque or node.qualname not in ("numpy.dtype", "numpy.dtypes.dtype"):
        return None
    code = node.args[0] if type(node.args) is tuple and node.args else None
    if not isinstance(code, str) or len(code) > 32 or len(node.ops or ()) > 1:
        return None
    order = "<"
    for state in node.states:
        if type(state) is tuple and len(state) > 1 and state[1] in ("<", ">", "|"):
            order = state[1]
    return _name(str(code)), (">" if order == ">" else "<") + str(code)


def _name(code: str) -> str:
    """numpy's name of a type; ``f16`` is no float16, but has 16 bytes."""
    if code in _TYPES:
        return _TYPES[code][0]
    kind, size = code[:1], code[1:]
    if kind in ("f", "c") and size.isdecimal():
        return f"{'float' if kind == 'f' else 'complex'}{8 * int(size)}"
    return _KINDS.get(kind, code)


def dtype(node: Any) -> str | None:
    """Name of the dtype that ``node`` would make, None if it is none."""
    known = _dtype(node)
    return known[0] if known else None


def array(node: Any) -> NumpyArray | None:
    """The array that ``node`` would make, None if it is none."""
    if type(node) is not Opaque:
        return None
    callee = node.callee
    module, name = getattr(callee, "module", ""), getattr(callee, "name", "")
    if module in _MULTIARRAY and name == "_reconstruct":
        return _from_state(node)
    if module in _NUMERIC and name == "_frombuffer" and type(node.args) is tuple and len(node.args) in (4, 5):
        buffer, dtype, shape, order, *axes = node.args
        found = _make(shape, dtype, order == "F", buffer)
        return _transposed(found, axes) if order == "K" else found
    return None


def _transposed(found: NumpyArray | None, axes: list[Any]) -> NumpyArray | None:
    """Since numpy 2.3 order ``K`` comes with the order of the axes."""
    order = axes[0] if axes else None
    if found is None or type(order) is not tuple or any(type(axis) is not int for axis in order):
        return None
    if sorted(order) != list(range(len(found.shape))):
        return None
    shape, stride = (tuple(part[axis] for axis in order) for part in (found.shape, found.stride))
    return found._replace(shape=shape, stride=stride)


def _from_state(node: Opaque) -> NumpyArray | None:
    # BUILD: version, shape, dtype, is_fortran, bytes (or a list, for objects)
    states = node.states
    if len(states) != 1 or type(states[0]) is not tuple or len(states[0]) not in (4, 5):
        return None
    shape, dtype, fortran, data = states[0][-4:]
    return _make(shape, dtype, fortran is True, data)


def _make(shape: Any, dtype: Any, fortran: bool, data: Any) -> NumpyArray | None:
    known = _dtype(dtype)
    if known is None or type(shape) is not tuple or len(shape) > _MAX_RANK:
        return None
    if any(type(n) is not int or not 0 <= n <= _LARGEST for n in shape) or prod(filter(None, shape)) > _LARGEST:
        return None
    stride: list[int] = []
    step = 1
    for length in shape if fortran else reversed(shape):
        stride.append(step)
        step *= length
    content = bytes_of(data)
    return NumpyArray(known[0], known[1], shape, tuple(stride if fortran else reversed(stride)), content)


def scalar(node: Any) -> tuple[str, Any] | None:
    """Type name and value of a numpy scalar, None if ``node`` is none."""
    if (
        type(node) is not Opaque
        or getattr(node.callee, "module", "") not in _MULTIARRAY
        or node.callee.name != "scalar"
    ):
        return None
    if type(node.args) is not tuple or not 1 <= len(node.args) <= 2:
        return None
    known = _dtype(node.args[0])
    if known is None:
        return None
    data = bytes_of(node.args[1]) if len(node.args) == 2 else b""
    unpacked = _unpack(known[1], data, 1)
    return f"numpy.{known[0]}", unpacked[0] if unpacked else None


def listed(found: NumpyArray) -> Any:
    """The values as nested lists, None if there are too many or they are no numbers."""
    if prod(filter(None, found.shape)) > _MAX_VALUES or not isinstance(found.data, (bytes, bytearray)):
        return None  # (1000, 1000, 0) is a million empty lists
    flat = _unpack(found.code, bytes(found.data), found.numel)
    if flat is None:
        return None

    def nest(depth: int, offset: int) -> Any:
        if depth == len(found.shape):
            return flat[offset]
        return [nest(depth + 1, offset + i * found.stride[depth]) for i in range(found.shape[depth])]

    return nest(0, 0) if len(found.shape) <= 32 else None


def _unpack(code: str, data: Any, count: int) -> list[Any] | None:
    known = _TYPES.get(code[1:])
    if known is None or not isinstance(data, (bytes, bytearray)):
        return None
    try:
        numbers = Struct(code[0] + known[1] * count).unpack(data) if len(known[1]) == 1 else None
        if numbers is None:
            flat = Struct(f"{code[0]}{2 * count}{known[1][1]}").unpack(data)
            numbers = tuple(complex(re, im) for re, im in zip(flat[::2], flat[1::2], strict=True))
    except struct_error:
        return None
    return [str(number) if isinstance(number, complex) else number for number in numbers]


def describe(found: NumpyArray) -> str:
    """``float64 array (3, 4)``."""
    shape = ", ".join(map(str, found.shape)) + ("," if len(found.shape) == 1 else "")
    return f"{found.dtype} array ({shape})"
