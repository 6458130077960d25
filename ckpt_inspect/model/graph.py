"""The inert graph: what a pickle says, without doing any of it.

Plain values are Python's own (``None bool int float str bytes bytearray tuple list``); everything
that could act is one of the nodes below. Nodes compare and hash by identity; nothing a file made is
ever hashed or compared, for both can be made to take forever (formats 13).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .source import Source


class Node:
    """Base of everything in a graph that is not a plain value."""

    __slots__ = ()


class Global(Node):
    """A name that a real unpickler would import. Never resolved here.

    ``state`` is what BUILD did to it (None: nothing): a class or a module can be patched that way.
    """

    __slots__ = ("module", "name", "state")

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name
        self.state: list[Any] | None = None

    @property
    def qualname(self) -> str:
        return f"{self.module}.{self.name}"

    def __repr__(self) -> str:
        return f"<global {self.qualname}>"


class Persistent(Node):
    """What BINPERSID or PERSID stands for; in torch files a storage, or a class of the user's."""

    __slots__ = ("pid", "state")

    def __init__(self, pid: Any) -> None:
        self.pid = pid
        self.state: list[Any] | None = None


class Dict(Node):
    """A dictionary as the flat list ``key, value, key, value …``: odd and duplicate keys survive."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: list[Any]) -> None:
        self.pairs = pairs

    def items(self) -> Iterator[tuple[Any, Any]]:
        pairs = self.pairs
        return zip(pairs[::2], pairs[1::2], strict=True)


class Set(Node):
    """A set or frozenset, unhashed, in the order of the file."""

    __slots__ = ("frozen", "members")

    def __init__(self, members: list[Any], frozen: bool) -> None:
        self.members = members
        self.frozen = frozen


class Opaque(Node):
    """An object that remembers how it was to be built.

    Attributes:
        how: the opcode: ``REDUCE``, ``NEWOBJ``, ``NEWOBJ_EX``, ``OBJ`` or ``INST``.
        callee: what would be called: mostly a :class:`Global`; a persistent class or any odd value too.
        args: what it would be called with, mostly a tuple.
        kwargs: only for ``NEWOBJ_EX``.
        ops: what was done to it then, in order: ``("SETITEMS", [k, v, …])``, ``("APPENDS", […])``,
            ``("ADDITEMS", […])``, ``("BUILD", state)``; neighbours of one kind are joined.
    """

    __slots__ = ("args", "callee", "how", "kwargs", "ops")

    def __init__(self, how: str, callee: Any, args: Any, kwargs: Any = None) -> None:
        self.how = how
        self.callee = callee
        self.args = args
        self.kwargs = kwargs
        self.ops: list[tuple[str, Any]] | None = None

    @property
    def qualname(self) -> str:
        """``module.Class`` of what would be called, ``""`` if that is not a plain name."""
        callee = self.callee
        if type(callee) is Persistent:  # legacy files: ('module', class, source file, source)
            pid = callee.pid
            callee = pid[1] if type(pid) is tuple and len(pid) > 1 else None
        return callee.qualname if type(callee) is Global else ""

    def joined(self, kind: str) -> list[Any]:
        """All payloads of one kind of list-like op (``SETITEMS``, ``APPENDS``, ``ADDITEMS``) in one list."""
        found = [payload for op, payload in self.ops or () if op == kind]
        return found[0] if len(found) == 1 else [value for payload in found for value in payload]

    def items(self) -> Iterator[tuple[Any, Any]]:
        """Pairs that SETITEM(S) gave it."""
        pairs = self.joined("SETITEMS")
        return zip(pairs[::2], pairs[1::2], strict=True)

    @property
    def states(self) -> list[Any]:
        """What BUILD gave it, mostly one."""
        return [payload for op, payload in self.ops or () if op == "BUILD"]

    def __repr__(self) -> str:
        return f"<{self.how.lower()} {self.qualname or '?'}>"


class Blob(Node):
    """Bytes left where they are in the file: long ``bytes`` inside a pickle, read when asked for.

    ``kind`` is the opcode that held them, which tells ``bytes`` from ``bytearray`` and Python 2's ``str``.
    """

    __slots__ = ("kind", "nbytes", "offset", "source")

    def __init__(self, source: Source, offset: int, nbytes: int, kind: str) -> None:
        self.source = source
        self.offset = offset
        self.nbytes = nbytes
        self.kind = kind


class Character(str):
    """One character that is an object of its own. Python has one object for each Latin-1 character, which would tie
    together what the file keeps apart: a storage called ``0`` and a module called ``0``."""

    __slots__ = ()


class OldStr(str):
    """Text that Python 2 pickled as a byte string (BINSTRING): written back so."""

    __slots__ = ()


class OldBytes(bytes):
    """A Python 2 byte string that is not UTF-8."""

    __slots__ = ()


class Pickle:
    """One pickle, read.

    Attributes:
        root: the value on top of the stack at STOP.
        protocol: of PROTO, 0 without one (protocols 0 and 1 write none).
        start, end: byte offsets in the source: first opcode, and past STOP.
        globals: every name, in order of appearance.
        calls: every object that would be built by a call, in order, reachable from the root or not.
        persistent: every persistent id, in order: in torch files, the storages.
        refused: opcodes that ``weights_only=True`` refuses: (name, offset), the first of each name.
        notes: oddities that no honest writer makes, in words.
    """

    __slots__ = ("calls", "end", "globals", "notes", "persistent", "protocol", "refused", "root", "start")

    def __init__(self, start: int) -> None:
        self.root: Any = None
        self.protocol = 0
        self.start = start
        self.end = start
        self.globals: list[Global] = []
        self.calls: list[Opaque] = []
        self.persistent: list[Persistent] = []
        self.refused: list[tuple[str, int]] = []
        self.notes: list[str] = []
