"""Opaque objects as Python would have them: class name, fields, children, keys."""

from __future__ import annotations

from typing import Any

from ..model.graph import Dict, Global, Opaque, Set
from .inline import bytes_of
from .values import is_scalar

# Calls that make an object of the class they are given: copyreg's, and pickle's for __reduce_ex__(2).
_MAKERS = frozenset(
    f"{module}.{name}"
    for module in ("copy_reg", "copyreg")
    for name in ("_reconstructor", "__newobj__", "__newobj_ex__")
)


def class_name(node: Opaque) -> str:
    """``module.Class`` of the object, whichever way it is made."""
    name = node.qualname
    if name in _MAKERS and type(node.args) is tuple and node.args:
        cls = node.args[0]
        return cls.qualname if type(cls) is Global else name
    return name


def fields(node: Opaque) -> dict[str, Any]:
    """Attributes that BUILD would set: from a dict, or (dict, slots)."""
    found: dict[str, Any] = {}
    states = node.states
    if len(states) > 1:  # one that is given again replaces what it gave before: the last time counts
        states = list({id(state): state for state in reversed(states)}.values())[::-1]
    for state in states:
        for part in state if _is_dict_and_slots(state) else (state,):
            if type(part) is Dict:
                for key, value in part.items():
                    if isinstance(key, str):
                        found[str(key)] = value
    if not found and node.qualname == "torch.fx.graph_module.reduce_graph_module":
        body = node.args[0] if type(node.args) is tuple and node.args else None
        if type(body) is Dict:
            found = {str(key): value for key, value in body.items() if isinstance(key, str)}
    return found


def _is_dict_and_slots(state: Any) -> bool:
    """Whether a state is the pair of attributes and slots; other pairs are what a ``__getstate__`` made."""
    return type(state) is tuple and len(state) == 2 and all(part is None or type(part) is Dict for part in state)


_MAPPINGS = frozenset(["collections.OrderedDict", "collections.defaultdict"])


def is_mapping(node: Any) -> bool:
    return type(node) is Dict or (type(node) is Opaque and (_has(node, "SETITEMS") or node.qualname in _MAPPINGS))


def _has(node: Opaque, op: str) -> bool:
    return any(kind == op for kind, _ in node.ops or ())


def _is_ordered_dict(node: Opaque) -> bool:
    return node.qualname == "collections.OrderedDict"


def mapping_items(node: Any) -> list[tuple[Any, Any]]:
    """Pairs of a mapping. Python 2 gave an OrderedDict its pairs as an argument."""
    if type(node) is Dict:
        return list(node.items())
    if type(node) is not Opaque:
        return []
    pairs = list(node.items())
    if _is_ordered_dict(node) and type(node.args) is tuple and len(node.args) == 1 and type(node.args[0]) is list:
        first = [tuple(pair) for pair in node.args[0] if type(pair) in (list, tuple) and len(pair) == 2]
        return first + pairs
    return pairs


def children(node: Any) -> tuple[list[tuple[Any, Any]], str]:
    """What is inside a container: (key, value) pairs, and its form.

    The form is ``mapping``, ``sequence``, ``object`` or, for a leaf, ``""``.
    """
    if type(node) is Dict:
        return list(node.items()), "mapping"
    if type(node) in (list, tuple):
        return list(enumerate(node)), "sequence"
    if type(node) is Set:
        return list(enumerate(node.members)), "sequence"
    if type(node) is not Opaque:
        return [], ""
    if is_mapping(node):
        inside = mapping_items(node)
        taken = {key for key, _ in inside if isinstance(key, str)}
        # a dict subclass may carry attributes too; OrderedDict's is _metadata, which is no entry (design 4)
        if not _is_ordered_dict(node):
            inside += [(key, value) for key, value in fields(node).items() if key not in taken and not is_scalar(value)]
        return inside, "mapping"
    if node.qualname == "collections.Counter" and type(node.args) is tuple and len(node.args) == 1:
        return children(node.args[0]) if type(node.args[0]) is Dict else ([], "")
    members = [*node.joined("APPENDS"), *node.joined("ADDITEMS")]
    if members:
        return list(enumerate(members)), "sequence"
    inside = [*fields(node).items()]
    args = node.args if type(node.args) is tuple else ()
    args = (*args, *(s for s in node.states if type(s) is not Dict and not _is_dict_and_slots(s)))
    deep = [
        (f"<argument {index}>", value) for index, value in enumerate(args) if not is_scalar(value) and _enterable(value)
    ]
    return deep + inside, "object" if inside or deep else ""


def _enterable(node: Any) -> bool:
    return type(node) in (list, tuple, Dict, Set, Opaque)


def entries(inside: list[tuple[Any, Any]]) -> tuple[list[tuple[str, Any]], list[str]]:
    """Keys as the contract reads them, each once, with the value that counts; and the keys that stood twice.

    A non-string key reads as its decimal or inert literal, written ``<int 0>`` where another key of the
    container reads the same. Of equal keys (``1``, ``True``, ``1.0`` too) the last value counts, in the
    place of the first, as in a Python dict.
    """
    plain = {key: value for key, value in inside if isinstance(key, str)}
    if len(plain) == len(inside):
        return list(plain.items()), []
    if _is_numbered(inside):
        return [(str(key), value) for key, value in inside], []
    found, twice = _read(inside)
    return [(name, value) for name, _, value in found], twice


def keyed(inside: list[tuple[Any, Any]]) -> list[tuple[str, Any, Any]]:
    """The same with the keys themselves: how each reads, what it is, and its value."""
    plain = {key: value for key, value in inside if isinstance(key, str)}
    if len(plain) == len(inside):
        return [(str(key), key, value) for key, value in plain.items()]
    if _is_numbered(inside):
        return [(str(key), key, value) for key, value in inside]
    return _read(inside)[0]


def _is_numbered(inside: list[tuple[Any, Any]]) -> bool:
    """A sequence, or a mapping that counts like one: no two of its keys can meet."""
    return all(type(key) is int and key == number for number, (key, _) in enumerate(inside))


def _read(inside: list[tuple[Any, Any]]) -> tuple[list[tuple[str, Any, Any]], list[str]]:
    found: dict[tuple[str, str], tuple[str, str, Any, Any]] = {}
    twice: list[str] = []
    for index, (key, value) in enumerate(inside):
        text, kind = key_text(key, index)
        identity = (
            "str" if kind == "str" else "number" if kind in ("int", "bool", "float") else kind,
            _same(key, text),
        )
        if identity in found:
            twice.append(text)
            text, kind, key, _ = found[identity]
        found[identity] = (text, kind, key, value)
    count: dict[str, int] = {}
    for text, *_ in found.values():
        count[text] = count.get(text, 0) + 1
    return [
        (
            text if kind == "str" or count[text] == 1 else f"<{kind} {text}>" if kind != "NoneType" else f"<{text}>",
            key,
            value,
        )
        for text, kind, key, value in found.values()
    ], twice


def _same(key: Any, text: str) -> str:
    """Equal numbers are one key to Python: 1, True and 1.0."""
    if isinstance(key, (bool, int)):
        return str(int(key))
    if isinstance(key, float) and key.is_integer():
        return str(int(key))
    return text


def key_text(key: Any, index: int) -> tuple[str, str]:
    """How a key reads, and the name of its type."""
    if isinstance(key, str):
        return str(key), "str"
    content = bytes_of(key) if type(key) is Opaque else None
    if isinstance(content, bytes):  # protocol 2 spells bytes as a call
        return repr(content), "bytes"
    if is_scalar(key):
        return repr(key), type(key).__name__
    if type(key) is tuple and len(key) <= 32 and all(map(is_scalar, key)):
        return repr(key), "tuple"
    name = class_name(key) if type(key) is Opaque else key.qualname if type(key) is Global else type(key).__name__
    return f"{name.rpartition('.')[2]} {index}", "key"
