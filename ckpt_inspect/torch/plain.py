"""Plain data out of the inert graph: what ``torch.load`` would give, for the few classes that only hold data."""

from __future__ import annotations

import io
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import torch

from ..dtypes import BY_NAME
from ..formats import objects
from ..formats.inline import bytes_of
from ..formats.rebuild import is_rebuild
from ..model.graph import Blob, Dict, Global, Opaque, Persistent, Set

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_DEPTH = 100
_MAX_KEY = 1 << 63  # integers beyond can be made to collide in a hash table (formats 13)


class NotPlain(Exception):
    """Something in it is no plain data."""


class Plain:
    """Turns nodes into Python values; what is shared in the graph is shared in the values.

    Args:
        tensor: makes the tensor of a node that rebuilds one.
    """

    def __init__(self, tensor: Callable[[Any], torch.Tensor]) -> None:
        self._tensor = tensor
        self._made: dict[int, Any] = {}  # by identity
        self._open: set[int] = set()

    def value(self, node: Any) -> Any:
        """The value of ``node``.

        Raises:
            NotPlain: it is, or holds, an object of a class that is not in the table below, or itself.
        """
        if node is None or isinstance(node, (bool, int, float)):
            return node
        if isinstance(node, (str, bytes, bytearray)):
            return _exact(node)
        if id(node) not in self._made:
            if id(node) in self._open or len(self._open) > _MAX_DEPTH:
                raise NotPlain
            self._open.add(id(node))
            try:
                self._made[id(node)] = self._make(node)
            finally:
                self._open.discard(id(node))
        return self._made[id(node)]

    def _make(self, node: Any) -> Any:
        kind = type(node)
        if kind is Persistent or is_rebuild(node):
            return self._tensor(node)
        if kind in (list, tuple):
            return kind(map(self.value, node))
        if kind is Dict:
            return self._pairs(node.items())
        if kind is Set:
            return (frozenset if node.frozen else set)(map(self._key, node.members))
        if kind is Blob:
            return node.source.read_at(node.offset, node.nbytes)
        if kind is Global and node.module == "torch" and node.name in BY_NAME:
            return getattr(torch, node.name, None)
        if kind is Opaque:
            return self._object(node)
        raise NotPlain

    def _pairs(self, pairs: Any) -> dict[Any, Any]:
        return {self._key(key): self.value(value) for key, value in pairs}

    def _key(self, node: Any) -> Any:
        """A key or member: never anything whose hash a file could make slow."""
        if type(node) is tuple and len(node) <= 32 and not any(type(item) is tuple for item in node):
            return tuple(map(self._key, node))
        if isinstance(node, (str, bytes)):
            return _exact(node)
        if node is None or isinstance(node, float) or (isinstance(node, int) and abs(node) < _MAX_KEY):
            return node
        raise NotPlain

    def _object(self, node: Opaque) -> Any:
        name = node.qualname.replace("__builtin__.", "builtins.")
        args = node.args if type(node.args) is tuple else ()
        if name == "collections.OrderedDict" and len(args) <= 1:
            return OrderedDict(self._pairs(objects.mapping_items(node)))
        if name == "_io.BytesIO" and not args and len(node.states) == 1:
            return self._buffer(node.states[0])
        if node.ops:
            raise NotPlain
        if name in ("builtins.set", "builtins.frozenset") and len(args) <= 1:
            members = args[0] if args and type(args[0]) in (list, tuple) else []
            return (set if name == "builtins.set" else frozenset)(map(self._key, members))
        if name in ("torch.Size", "torch.device", "builtins.complex"):
            return self._call({"Size": torch.Size, "device": torch.device, "complex": complex}[node.callee.name], args)
        if name == "_codecs.encode" and (data := bytes_of(node)) is not None:
            return data
        if name in ("builtins.bytes", "builtins.bytearray"):
            return self._call(bytes if name == "builtins.bytes" else bytearray, args)
        raise NotPlain

    def _call(self, cls: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        values = [self.value(arg) for arg in args]
        if cls in (bytes, bytearray) and values and isinstance(values[0], int):  # that many zeros
            raise NotPlain
        try:
            return cls(*values)
        except (ValueError, TypeError, RuntimeError, OverflowError, LookupError) as error:
            raise NotPlain from error

    def _buffer(self, state: Any) -> io.BytesIO:
        """What TransformerEngine keeps its extra state in; the state is (content, position, attributes)."""
        if type(state) is not tuple or len(state) != 3 or type(state[1]) is not int or state[2] is not None:
            raise NotPlain
        content = self.value(state[0])
        if not isinstance(content, bytes) or state[1] < 0:
            raise NotPlain
        buffer = io.BytesIO(content)
        buffer.seek(state[1])
        return buffer


def _exact(node: str | bytes | bytearray) -> Any:
    """Python's own type: texts of Python 2 are marked in the graph."""
    if isinstance(node, str):
        return str(node)
    return bytearray(node) if isinstance(node, bytearray) else bytes(node)
