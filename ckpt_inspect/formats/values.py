"""Leaves that are no tensors: their type, their value where it is plain data, and how a person writes it."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..dtypes import BY_NAME
from ..model.graph import Blob, Dict, Global, Opaque, Persistent, Set
from . import numpy_values
from .inline import bytes_of

_TEXT = 200  # characters of one value a person is shown


class Leaf(NamedTuple):
    """Type, plain value (None if it is not plain data), and text."""

    type: str
    value: Any
    text: str


_SCALARS = (type(None), bool, int, float, str, bytes, bytearray)


def is_scalar(node: Any) -> bool:
    return isinstance(node, _SCALARS)


def is_leaf(node: Any) -> bool:
    """Whether ``node`` is one value of the contract: no container that is to be entered."""
    if type(node) in (list, tuple):
        return all(isinstance(item, _SCALARS) for item in node)
    if type(node) is Dict:
        return not node.pairs
    return True


def leaf(node: Any) -> Leaf:
    """Describe a value that is not entered further."""
    if isinstance(node, (str, bytes, bytearray, Blob)) or node is None or isinstance(node, (bool, int, float)):
        return _scalar(node)
    if type(node) in (list, tuple):
        parts = [_scalar(item) for item in node]
        brackets = "()" if type(node) is tuple else "[]"
        inner = ", ".join(part.text for part in parts[:8]) + (f", … {len(parts):,} in all" if len(parts) > 8 else "")
        comma = "," if brackets == "()" and len(parts) == 1 else ""
        return Leaf(type(node).__name__, [part.value for part in parts], f"{brackets[0]}{inner}{comma}{brackets[1]}")
    if type(node) is Dict:
        return Leaf("dict", {} if not node.pairs else None, "{}" if not node.pairs else "{…}")
    if type(node) is Set:
        return _set(node.members, "frozenset" if node.frozen else "set")
    if type(node) is Global:
        if node.module == "torch" and node.name in BY_NAME:
            return Leaf("torch.dtype", node.name, f"torch.{node.name}")
        return Leaf("global", node.qualname, node.qualname)
    if type(node) is Opaque:
        return known(node) or leaf_of_unknown(node)
    if type(node) is Persistent:
        return Leaf("persistent id", None, "a persistent id")
    return Leaf(type(node).__name__, None, type(node).__name__)


def _scalar(node: Any) -> Leaf:
    if isinstance(node, str):
        text = repr(str(node[:_TEXT])) + ("…" if len(node) > _TEXT else "")
        return Leaf("str", str(node), text)
    if isinstance(node, (bytes, bytearray)):
        short = bytes(node[:24])
        return Leaf("bytes" if isinstance(node, bytes) else "bytearray", None,
                    repr(short) + (f"… {len(node):,} bytes" if len(node) > 24 else ""))  # fmt: skip
    if type(node) is Blob:
        kind = "bytearray" if node.kind == "BYTEARRAY8" else "bytes"
        return Leaf(kind, None, f"{node.nbytes:,} bytes")
    if node is None:
        return Leaf("NoneType", None, "None")
    if isinstance(node, int) and not isinstance(node, bool) and node.bit_length() > 256:
        return Leaf("int", node, hex(node)[:40] + "…")
    return Leaf(type(node).__name__, node, repr(node))


def _set(members: list[Any], kind: str) -> Leaf:
    parts = [_scalar(item) if is_scalar(item) else leaf_of_unknown(item) for item in members]
    plain = all(is_scalar(item) for item in members)
    text = ", ".join(part.text for part in parts[:8]) + (f", … {len(parts):,} in all" if len(parts) > 8 else "")
    return Leaf(kind, [part.value for part in parts] if plain else None, f"{{{text}}}")


def leaf_of_unknown(node: Any) -> Leaf:
    """An object that is not looked into: its class alone."""
    name = node.qualname if type(node) is Opaque else type(node).__name__.lower()
    return Leaf(name or "object", None, f"<{name or 'object'}>")


def known(node: Opaque) -> Leaf | None:
    """The value of an object whose class is known here, None for any other and for one that is filled."""
    found = numpy_values.scalar(node)
    if found is not None:
        return Leaf(found[0], found[1], f"{found[1]}")
    array = numpy_values.array(node)
    if array is not None:
        return Leaf("numpy.ndarray", numpy_values.listed(array), numpy_values.describe(array))
    content = bytes_of(node)
    if content is not None:
        return _scalar(content)
    args = node.args if type(node.args) is tuple else ()
    name = node.qualname.replace("__builtin__.", "builtins.")
    if name in ("builtins.set", "builtins.frozenset") and len(args) <= 1:
        members = args[0] if args and type(args[0]) in (list, tuple) else []
        return _set(list(members), name.removeprefix("builtins."))
    return _by_arguments(name, args) if node.ops is None or name.startswith("datetime.") else None


def _by_arguments(name: str, args: tuple[Any, ...]) -> Leaf | None:
    """Classes of the standard library and torch whose arguments are their value."""
    if name == "torch.Size" and len(args) == 1 and type(args[0]) is tuple and all(map(is_scalar, args[0])):
        return Leaf("torch.Size", list(args[0]), f"torch.Size({list(args[0])})")
    if name == "torch.device" and args and all(map(is_scalar, args)):
        text = ":".join(str(arg) for arg in args)
        return Leaf("torch.device", text, text)
    if name == "builtins.complex" and len(args) == 2 and all(isinstance(arg, (int, float)) for arg in args):
        try:
            text = str(complex(*args))
        except OverflowError:
            return None
        return Leaf("complex", text, text)
    if name.startswith("pathlib.") and args and all(isinstance(arg, str) for arg in args):
        text = "/".join(str(arg).rstrip("/") for arg in args) or "/"
        return Leaf(name, text, repr(text))
    if name in ("torch.serialization._get_layout",) and args and isinstance(args[0], str):
        return Leaf("torch.layout", str(args[0]), str(args[0]))
    if name in ("datetime.datetime", "datetime.date") and args:
        return _date(name, bytes_of(args[0]))
    if name in ("collections.OrderedDict", "builtins.dict") and not any(args):
        return Leaf(name.removeprefix("builtins."), {}, "{}")
    if name == "uuid.UUID" and len(args) == 1 and isinstance(args[0], str):
        return Leaf(name, str(args[0]), str(args[0]))
    return None


def _date(name: str, packed: Any) -> Leaf | None:
    """The ten (or four) bytes of datetime's pickle: year, month, day, hour, minute, second, microsecond."""
    if not isinstance(packed, bytes) or len(packed) not in (4, 10):
        return None
    year = packed[0] * 256 + packed[1]
    text = f"{year:04}-{packed[2] & 0x7F:02}-{packed[3]:02}"
    if len(packed) == 10:
        text += f" {packed[4]:02}:{packed[5]:02}:{packed[6]:02}"
        if micro := int.from_bytes(packed[7:], "big"):
            text += f".{micro:06}"
    return Leaf(name, text, text)
