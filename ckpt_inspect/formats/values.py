"""Leaves that are no tensors: their type, their value where it is plain data, and how a person writes it."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..dtypes import BY_NAME
from ..model.graph import Blob, Dict, Global, Opaque, Persistent, Set
from . import numpy_values
from .inline import bytes_of


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


def length(node: Any) -> int:
    """How long a value is, roughly, as text or list: what showing it once more costs."""
    if isinstance(node, (str, bytes, bytearray)):
        return len(node) >> 2
    if type(node) in (list, tuple):
        return len(node) + sum(_text_length(item) for item in node)
    if type(node) is Set:
        return len(node.members)
    if type(node) is Opaque and type(node.args) is tuple:
        return sum(_part_length(part) for part in node.args[:16]) + len(node.args)
    return 0


def _text_length(node: Any) -> int:
    if isinstance(node, (str, bytes, bytearray)):
        return len(node) >> 2
    return node.bit_length() >> 6 if isinstance(node, int) else 0


_DEEPEST, _MOST = 5, 20_000


def extent(node: Any) -> int:
    """How much there is in a value, down to a few levels: what looking at it once more costs, at most 20,000.

    Each thing counts, texts a quarter of their length, so that it is a few times less than the pickle spells.
    """
    total = 0
    waiting = [(node, 0)]
    while waiting and total < _MOST:
        item, depth = waiting.pop()
        total += 1 + _text_length(item)
        if depth < _DEEPEST:
            inside = _inside(item)
            total += len(inside) if depth == _DEEPEST - 1 else 0
            waiting += [(child, depth + 1) for child in inside[:_MOST]]
    return min(total, _MOST)


def _inside(node: Any) -> list[Any]:
    if type(node) in (list, tuple):
        return list(node)
    if type(node) is Dict:
        return node.pairs
    if type(node) is Set:
        return node.members
    if type(node) is Opaque:
        return [node.args, *([payload for _, payload in node.ops] if node.ops else ())]
    return [node.pid] if type(node) is Persistent else []


def _part_length(node: Any, inside: bool = True) -> int:
    """Of an argument; one call inside it is looked into: bytes are spelled as a call."""
    if inside and type(node) is Opaque and type(node.args) is tuple:
        return sum(_part_length(part, False) for part in node.args[:4])
    if type(node) is Dict:
        return len(node.pairs)
    return len(node) if isinstance(node, (str, bytes, list, tuple)) else 0


def leaf(node: Any) -> Leaf:
    """Describe a value that is not entered further."""
    if isinstance(node, (str, bytes, bytearray, Blob)) or node is None or isinstance(node, (bool, int, float)):
        return _scalar(node)
    if type(node) in (list, tuple):
        if not is_leaf(node):
            return Leaf(type(node).__name__, None, "(…)" if type(node) is tuple else "[…]")
        if not node:  # texts of our own are shared: there can be a million
            return Leaf(type(node).__name__, [], "()" if type(node) is tuple else "[]")
        parts = [_scalar(item) for item in node]
        brackets = "()" if type(node) is tuple else "[]"
        inner = ", ".join(part.text for part in parts)
        comma = "," if brackets == "()" and len(parts) == 1 else ""
        return Leaf(type(node).__name__, [part.value for part in parts], f"{brackets[0]}{inner}{comma}{brackets[1]}")
    if type(node) is Dict:
        return Leaf("dict", {} if not node.pairs else None, "{}" if not node.pairs else "{…}")
    if type(node) is Set:
        return _set(node.members, "frozenset" if node.frozen else "set")
    if type(node) is Global:
        if node.module == "torch" and node.name in BY_NAME:
            return Leaf("torch.dtype", node.name, f"torch.{node.name}")
        name = _python3(node)
        return Leaf("global", name, name)
    if type(node) is Opaque:
        return known(node) or leaf_of_unknown(node)
    if type(node) is Persistent:
        return Leaf("persistent id", None, "a persistent id")
    return Leaf(type(node).__name__, None, type(node).__name__)


def _scalar(node: Any) -> Leaf:
    if isinstance(node, str):
        return Leaf("str", str(node), repr(str(node)))
    if isinstance(node, (bytes, bytearray)):
        return Leaf("bytes" if isinstance(node, bytes) else "bytearray", None, repr(bytes(node)))
    if type(node) is Blob:
        kind = "bytearray" if node.kind == "BYTEARRAY8" else "bytes"
        return Leaf(kind, None, f"{node.nbytes:,} bytes")
    if node is None:
        return Leaf("NoneType", None, "None")
    if isinstance(node, int) and not isinstance(node, bool) and node.bit_length() > 256:
        return Leaf("int", node, hex(node))
    return Leaf(type(node).__name__, node, repr(node))


def _set(members: list[Any], kind: str) -> Leaf:
    if not members:
        return Leaf(kind, [], f"{kind}()")
    parts = [
        leaf(item) if is_scalar(item) or (type(item) is tuple and is_leaf(item)) else leaf_of_unknown(item)
        for item in members
    ]
    plain = all(is_scalar(item) for item in members)
    text = ", ".join(part.text for part in parts)
    return Leaf(kind, [part.value for part in parts] if plain else None, f"{{{text}}}")


def leaf_of_unknown(node: Any) -> Leaf:
    """An object that is not looked into: its class alone."""
    if type(node) is Opaque:
        name = _python3(node.callee) if type(node.callee) is Global else node.qualname
    else:
        name = type(node).__name__.lower()
    return Leaf(name or "object", None, f"<{name or 'object'}>")


def _python3(node: Global) -> str:
    """Protocols 0 to 2 name what is built in as Python 2 did: ``__builtin__.xrange``."""
    if node.module != "__builtin__":
        return node.qualname
    from _compat_pickle import NAME_MAPPING  # pickle's own table

    return ".".join(NAME_MAPPING.get((node.module, node.name), ("builtins", node.name)))


def known(node: Opaque) -> Leaf | None:
    """The value of an object whose class is known here, None for any other and for one that is filled."""
    found = numpy_values.scalar(node)
    if found is not None:
        return Leaf(found[0], found[1], f"{found[1]}" if found[1] is not None else f"<{found[0]}>")
    dtype = numpy_values.dtype(node)
    if dtype is not None:
        return Leaf("numpy.dtype", dtype, dtype)
    array = numpy_values.array(node)
    if array is not None:
        return Leaf("numpy.ndarray", numpy_values.listed(array), numpy_values.describe(array))
    content = bytes_of(node)
    if content is not None:
        return _scalar(content)._replace(type="bytearray" if node.qualname.endswith(".bytearray") else "bytes")
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
    if name.startswith("pathlib.") and name.endswith("Path") and all(isinstance(arg, str) for arg in args):
        from pathlib import PurePosixPath, PureWindowsPath  # pure: they look at nothing

        text = str((PureWindowsPath if "Windows" in name else PurePosixPath)(*map(str, args)))
        return Leaf(name, text, repr(text))
    if name in ("torch.serialization._get_layout",) and args and isinstance(args[0], str):
        return Leaf("torch.layout", str(args[0]), str(args[0]))
    if name in ("datetime.datetime", "datetime.date") and args:
        zone = _zone(args[1]) if len(args) > 1 else ""
        return _date(name, bytes_of(args[0]), zone) if zone is not None else None
    if name in ("collections.OrderedDict", "collections.Counter", "builtins.dict") and all(map(_is_empty, args)):
        return Leaf(name.removeprefix("builtins."), {}, "{}")
    if name == "collections.defaultdict" and len(args) <= 1:
        return Leaf(name, {}, "{}")
    if name == "uuid.UUID" and len(args) == 1 and isinstance(args[0], str):
        return Leaf(name, str(args[0]), str(args[0]))
    return None


def _is_empty(node: Any) -> bool:
    return not node.pairs if type(node) is Dict else not node


def _zone(node: Any) -> str | None:
    """``+02:00`` of a ``timezone(timedelta(days, seconds, microseconds))``; None for other zones."""
    (delta, *_) = _arguments(node, "datetime.timezone") or (None,)
    numbers = _arguments(delta, "datetime.timedelta")
    if len(numbers) != 3 or any(type(n) is not int for n in numbers) or numbers[2]:
        return None
    minutes, seconds = divmod(numbers[0] * 86400 + numbers[1], 60)
    if seconds or abs(minutes) >= 1440:
        return None
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"


def _arguments(node: Any, name: str) -> tuple[Any, ...]:
    return node.args if type(node) is Opaque and node.qualname == name and type(node.args) is tuple else ()


def _date(name: str, packed: Any, zone: str) -> Leaf | None:
    """The ten (or four) bytes of datetime's pickle: year, month, day, hour, minute, second, microsecond."""
    if not isinstance(packed, bytes) or len(packed) not in (4, 10):
        return None
    year = packed[0] * 256 + packed[1]
    text = f"{year:04}-{packed[2] & 0x7F:02}-{packed[3]:02}"
    if len(packed) == 10:
        text += f" {packed[4]:02}:{packed[5]:02}:{packed[6]:02}"
        if micro := int.from_bytes(packed[7:], "big"):
            text += f".{micro:06}"
        text += zone
    return Leaf(name, text, text)
