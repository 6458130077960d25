"""Makes real objects of an inert graph, and compares objects by shape: only for pickles that the tests made."""

from __future__ import annotations

import _compat_pickle
import importlib
import struct
from collections import defaultdict, deque
from typing import Any

from ckpt_inspect.model.graph import Blob, Character, Dict, Global, Opaque, Persistent, Pickle, Set


class Interpreter:
    """Does what the pickle said. Containers are known before they are filled, so that cycles close."""

    def __init__(self, pickle: Pickle) -> None:
        self.pickle = pickle
        self.made: dict[int, Any] = {}  # by identity of the node, which the pickle keeps alive

    def run(self) -> Any:
        return self.value(self.pickle.root)

    def value(self, node: Any) -> Any:
        if id(node) in self.made:
            return self.made[id(node)]
        kind = type(node)
        if kind in (list, Dict) or (kind is Set and not node.frozen):
            return self._container(node)
        if kind is tuple:
            return self._once(node, tuple([self.value(item) for item in node]))
        if kind is Set:
            return self._once(node, frozenset([self.value(item) for item in node.members]))
        if kind is Global:
            return self._once(node, self._resolve(node.module, node.name))
        if kind is Persistent:
            return ("persistent", self.value(node.pid))
        if kind is Blob:
            data = node.source.read_at(node.offset, node.nbytes)
            return self._once(node, bytearray(data) if node.kind == "BYTEARRAY8" else data)
        if kind is Opaque:
            return self._object(node)
        if kind is Character:
            return str(node)
        return node

    def _once(self, node: Any, value: Any) -> Any:
        """Immutable things are whole only after their parts, which may lead back to them."""
        return self.made.setdefault(id(node), value)

    def _container(self, node: Any) -> Any:
        found: Any
        if type(node) is list:
            found = self.made[id(node)] = []
            found.extend([self.value(item) for item in node])
        elif type(node) is Dict:
            found = self.made[id(node)] = {}
            for key, value in node.items():
                found[self.value(key)] = self.value(value)
        else:
            found = self.made[id(node)] = set()
            found.update([self.value(item) for item in node.members])
        return found

    def _resolve(self, module: str, name: str) -> Any:
        if self.pickle.protocol < 3:
            module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
            module = _compat_pickle.IMPORT_MAPPING.get(module, module)
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        return found

    def _object(self, node: Opaque) -> Any:
        callee, args = self.value(node.callee), self.value(node.args)
        if id(node) in self.made:
            return self.made[id(node)]
        if node.how in ("NEWOBJ", "NEWOBJ_EX"):
            kwargs = self.value(node.kwargs) if node.how == "NEWOBJ_EX" else {}
            found = callee.__new__(callee, *args, **kwargs)
        elif node.how == "REDUCE" or args:
            found = callee(*args)
        else:  # OBJ and INST without arguments do not call __init__
            found = callee.__new__(callee)
        self.made[id(node)] = found
        for op, payload in node.ops or ():
            self._do(found, op, payload)
        return found

    def _do(self, found: Any, op: str, payload: Any) -> None:
        if op == "BUILD":
            set_state(found, self.value(payload))
            return
        values = [self.value(item) for item in payload]
        if op == "SETITEMS":
            for key, value in zip(values[::2], values[1::2], strict=True):
                found[key] = value
        elif op == "APPENDS":
            found.extend(values)
        else:
            found.update(values)


def set_state(found: Any, state: Any) -> None:
    """BUILD, as pickle does it."""
    setter = getattr(found, "__setstate__", None)
    if setter is not None:
        setter(state)
        return
    slots = None
    if isinstance(state, tuple) and len(state) == 2:
        state, slots = state
    if state:
        found.__dict__.update(state)
    for name, value in (slots or {}).items():
        setattr(found, name, value)


def difference(left: Any, right: Any) -> str | None:
    """Where two values differ in type, content or sharing; None where they do not. Cycles are followed once."""
    forth: dict[int, int] = {}
    back: dict[int, int] = {}
    waiting = [(left, right, "root")]
    while waiting:
        a, b, where = waiting.pop()
        if type(a) is not type(b):
            return f"{where}: {type(a)} is {type(b)}"
        inside = parts(a)
        if inside is None:
            if plain(a) != plain(b):
                return f"{where}: {a!r} is {b!r}"
            continue
        if id(a) in forth or id(b) in back:
            if forth.get(id(a)) != id(b) or back.get(id(b)) != id(a):
                return f"{where}: what was shared is not, or the other way round"
            continue
        forth[id(a)], back[id(b)] = id(b), id(a)
        other = parts(b) or []
        if len(inside) != len(other):
            return f"{where}: {len(inside)} parts are {len(other)}"
        waiting += [(x, y, f"{where}.{n}") for n, (x, y) in enumerate(zip(inside, other, strict=True))]
    return None


def parts(value: Any) -> list[Any] | None:
    """What a compound value holds, in order; None for a plain one."""
    found: list[Any] = []
    if isinstance(value, type):
        return None
    if isinstance(value, dict):
        found += [part for item in value.items() for part in item]
    elif isinstance(value, (list, tuple, deque)):
        found += value
    if isinstance(value, defaultdict):
        found.append(value.default_factory)
    if isinstance(value, deque):
        found.append(value.maxlen)
    if hasattr(value, "compared"):  # the classes of the tests say what they hold
        found += value.compared()
    elif not isinstance(value, (dict, list, tuple, deque)):
        return None
    return found


def plain(value: Any) -> Any:
    """Something that is equal exactly where two plain values are, in type and bits too."""
    if isinstance(value, float):  # protocol 0 has one NaN only
        return type(value), struct.pack("<d", value) if value == value else "nan"
    if isinstance(value, complex):
        return type(value), plain(value.real), plain(value.imag)
    if isinstance(value, (set, frozenset)):
        return type(value), sorted(map(repr, map(plain, value)))
    if isinstance(value, tuple):  # inside sets
        return type(value), [plain(item) for item in value]
    return type(value), value
