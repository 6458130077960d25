"""The inert graph back to a pickle, with the opcodes that CPython's pickler would choose.

Identity in the graph becomes memo references, so sharing and cycles survive; what torch wrote comes out byte for
byte. Iterative, for a file decides how deep its graph is. Rules: ``Modules/_pickle.c``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from struct import pack
from typing import Any

from ..errors import UnsupportedError
from ..model.graph import Blob, Character, Dict, Global, OldBytes, OldStr, Opaque, Persistent, Set

_BATCH = 1000  # items between a MARK and its SETITEMS, APPENDS or ADDITEMS
_CHUNK = 1 << 20


class _After:
    """Work to do when all that was pushed after it is written: an opcode, and perhaps a memo entry for ``node``."""

    __slots__ = ("code", "node", "undo")

    def __init__(self, code: bytes, node: Any = None, undo: bytes = b"") -> None:
        self.code = code
        self.node = node
        self.undo = undo  # instead of ``code``, if the node was written while its own parts were


_APPEND, _APPENDS, _ADDITEMS = _After(b"a"), _After(b"e"), _After(b"\x90")
_SETITEM, _SETITEMS = _After(b"s"), _After(b"u")
_BUILD, _MARK, _BINPERSID = _After(b"b"), _After(b"("), _After(b"Q")


PidOf = Callable[[Persistent], Any]


def write_pickle(
    root: Any,
    protocol: int = 2,
    replaced: Mapping[int, Any] | None = None,
    pid_of: PidOf | None = None,
    script: bool = False,
) -> bytes:
    """Write ``root`` as one pickle.

    Args:
        root: a node or plain value of an inert graph.
        protocol: of the pickle it was read from; 0 and 1 are written as 2, which all their readers know.
        replaced: nodes to write in place of others, by ``id`` of the other; nothing is mutated.
        pid_of: the persistent id to write for a node, asked in the order of writing; None: its own.
        script: write what TorchScript's own unpickler reads (formats 5.2).

    Raises:
        UnsupportedError: the graph holds what this protocol cannot spell.
    """
    writer = _ScriptWriter if script else _Writer
    return writer(max(2, protocol), replaced or {}, pid_of or _own_pid).write(root)


def _own_pid(node: Persistent) -> Any:
    return node.pid


class _Writer:
    __slots__ = ("kept", "memo", "out", "pid_of", "protocol", "replaced", "work")

    def __init__(self, protocol: int, replaced: Mapping[int, Any], pid_of: PidOf) -> None:
        self.protocol = protocol
        self.replaced = replaced
        self.pid_of = pid_of
        self.out = bytearray()
        self.memo: dict[int, int] = {}
        self.kept: list[Any] = []  # keeps what has a memo entry alive, so that no other object gets its id
        self.work: list[Any] = []

    def write(self, root: Any) -> bytes:
        out, work, memo, replaced = self.out, self.work, self.memo, self.replaced
        out += b"\x80" + bytes([self.protocol])
        work.append(root)
        atoms, handlers = self.atoms, self.handlers
        while work:
            item = work.pop()
            atom = atoms.get(type(item))
            if atom is not None:
                atom(self, item)
                continue
            if replaced:
                item = replaced.get(id(item), item)
                atom = _ATOMS.get(type(item))
                if atom is not None:
                    atom(self, item)
                    continue
            index = memo.get(id(item))
            if index is not None:
                self.recall(index)
                continue
            handler = handlers.get(type(item))
            if handler is None:
                raise UnsupportedError(f"a {type(item).__name__} cannot be written into a pickle")
            handler(self, item)
        out += b"."
        return bytes(out)

    @property
    def atoms(self) -> dict[type, _Handler]:
        return _ATOMS

    @property
    def handlers(self) -> dict[type, _Handler]:
        return _HANDLERS

    def recall(self, index: int) -> None:
        self.out += b"h%c" % index if index < 256 else b"j" + pack("<I", index)

    def memoize(self, node: Any) -> None:
        index = len(self.kept)
        self.memo[id(node)] = index
        self.kept.append(node)
        if self.protocol >= 4:
            self.out += b"\x94"
        else:
            self.out += b"q%c" % index if index < 256 else b"r" + pack("<I", index)

    def push(self, items: list[Any]) -> None:
        """Write ``items`` next, in their order."""
        self.work.extend(reversed(items))

    def batches(self, items: list[Any], width: int, one: _After, many: _After) -> None:
        """Items of a reduce: ``width`` values each, in batches; a batch of one needs no mark."""
        plan: list[Any] = []
        step = _BATCH * width
        for start in range(0, len(items), step):
            batch = items[start : start + step]
            plan += [*batch, one] if len(batch) == width else [_MARK, *batch, many]
        self.push(plan)


# -- values without identity ------------------------------------------------------------------------------------


def _after(w: _Writer, item: _After) -> None:
    index = w.memo.get(id(item.node)) if item.node is not None else None
    if index is None:
        w.out += item.code
        if item.node is not None:
            w.memoize(item.node)
    else:  # it holds itself: what its parts found is it, and what was just made goes
        w.out += item.undo
        w.recall(index)


def _none(w: _Writer, _: None) -> None:
    w.out += b"N"


def _bool(w: _Writer, value: bool) -> None:
    w.out += b"\x88" if value else b"\x89"


def _int(w: _Writer, value: int) -> None:
    if 0 <= value < 256:
        w.out += b"K%c" % value
    elif 0 <= value < 65536:
        w.out += b"M" + pack("<H", value)
    elif -(1 << 31) <= value < 1 << 31:
        w.out += b"J" + pack("<i", value)
    else:
        size = (value.bit_length() >> 3) + 1
        data = value.to_bytes(size, "little", signed=True)
        if value < 0 and size > 1 and data[-1] == 0xFF and data[-2] & 0x80:
            data = data[:-1]
        w.out += (b"\x8a%c" % len(data) if len(data) < 256 else b"\x8b" + pack("<i", len(data))) + data


def _float(w: _Writer, value: float) -> None:
    w.out += b"G" + pack(">d", value)


# -- strings and bytes ------------------------------------------------------------------------------------------


def _str(w: _Writer, value: str) -> None:
    data = value.encode("utf-8", "surrogatepass")
    if w.protocol >= 4 and len(data) < 256:
        w.out += b"\x8c%c" % len(data)
    elif len(data) <= 0xFFFFFFFF:
        w.out += b"X" + pack("<I", len(data))
    elif w.protocol >= 4:
        w.out += b"\x8d" + pack("<Q", len(data))
    else:
        raise UnsupportedError("a string of more than 4 GiB needs pickle protocol 4")
    w.out += data
    w.memoize(value)


def _old_string(w: _Writer, value: Any) -> None:
    data = value if isinstance(value, bytes) else value.encode("utf-8")
    w.out += (b"U%c" % len(data) if len(data) < 256 else b"T" + pack("<i", len(data))) + data
    w.memoize(value)


def _bytes(w: _Writer, value: bytes) -> None:
    if w.protocol < 3:  # a protocol without bytes: what CPython writes for them
        made = Opaque("REDUCE", Global("_codecs", "encode"), (value.decode("latin-1"), "latin1"))
        _opaque(w, made if value else Opaque("REDUCE", Global("__builtin__", "bytes"), ()))
        return
    _sized(w, len(value), b"C", b"B", b"\x8e")
    w.out += value
    w.memoize(value)


def _bytearray(w: _Writer, value: bytearray) -> None:
    if w.protocol < 3:
        _opaque(w, Opaque("REDUCE", Global("__builtin__", "bytearray"), (bytes(value),)))
        return
    w.out += b"\x96" + pack("<Q", len(value)) + value
    w.memoize(value)


def _sized(w: _Writer, size: int, tiny: bytes, small: bytes, large: bytes) -> None:
    if size < 256:
        w.out += tiny + bytes([size])
    elif size <= 0xFFFFFFFF:
        w.out += small + pack("<I", size)
    else:
        w.out += large + pack("<Q", size)


def _blob(w: _Writer, node: Blob) -> None:
    if w.protocol < 3 and node.kind not in ("BYTEARRAY8", "BINSTRING"):
        w.push([node.source.read_at(node.offset, node.nbytes)])
        return
    if node.kind == "BYTEARRAY8":
        w.out += b"\x96" + pack("<Q", node.nbytes)
    elif node.kind == "BINSTRING":
        w.out += b"T" + pack("<i", node.nbytes)
    else:
        _sized(w, node.nbytes, b"C", b"B", b"\x8e")
    for offset in range(0, node.nbytes, _CHUNK):
        w.out += node.source.read_at(node.offset + offset, min(_CHUNK, node.nbytes - offset))
    w.memoize(node)


# -- containers -------------------------------------------------------------------------------------------------


def _tuple(w: _Writer, node: tuple[Any, ...]) -> None:
    size = len(node)
    if size == 0:
        w.out += b")"
    elif size <= 3:
        w.work.append(_After(b"\x84\x85\x86\x87"[size : size + 1], node, b"0" * size))
        w.work.extend(reversed(node))
    else:
        w.out += b"("
        w.work.append(_After(b"t", node, b"1"))
        w.work.extend(reversed(node))


def _list(w: _Writer, node: list[Any]) -> None:
    w.out += b"]"
    w.memoize(node)
    if len(node) == 1:
        w.push([node[0], _APPEND])
    else:
        w.push([x for i in range(0, len(node), _BATCH) for x in (_MARK, *node[i : i + _BATCH], _APPENDS)])


def _dict(w: _Writer, node: Dict) -> None:
    pairs = node.pairs
    w.out += b"}"
    w.memoize(node)
    if len(pairs) == 2:
        w.push([*pairs, _SETITEM])
    elif pairs:
        plan: list[Any] = []
        # CPython looks whether there is more only when it has opened the next batch
        for start in range(0, len(pairs) + (len(pairs) % (2 * _BATCH) == 0), 2 * _BATCH):
            plan += [_MARK, *pairs[start : start + 2 * _BATCH], _SETITEMS]
        w.push(plan)


def _set(w: _Writer, node: Set) -> None:
    if w.protocol < 4:  # no opcode for it: what CPython writes
        callee = Global("__builtin__", "frozenset" if node.frozen else "set")
        w.push([callee, ([*node.members],), _After(b"R", node, b"R0")])
        return
    if node.frozen:
        w.push([_MARK, *node.members, _After(b"\x91", node, b"1")])
        return
    w.out += b"\x8f"
    w.memoize(node)
    members = node.members
    w.push([x for i in range(0, len(members), _BATCH) for x in (_MARK, *members[i : i + _BATCH], _ADDITEMS)])


# -- objects ----------------------------------------------------------------------------------------------------


def _global(w: _Writer, node: Global) -> None:
    if w.protocol >= 4:
        w.push([node.module, node.name, _After(b"\x93", node)])
    else:
        w.out += b"c" + _line(node.module) + _line(node.name)
        w.memoize(node)
    w.push([x for state in node.state or () for x in (node, state, _BUILD)][1:])


def _line(text: str) -> bytes:
    if "\n" in text:
        raise UnsupportedError("a global with a newline in its name needs pickle protocol 4")
    return text.encode("utf-8", "surrogateescape") + b"\n"


def _persistent(w: _Writer, node: Persistent) -> None:
    w.push([w.pid_of(node), _BINPERSID])


_CODES = {"REDUCE": b"R", "NEWOBJ": b"\x81", "NEWOBJ_EX": b"\x92"}


def _opaque(w: _Writer, node: Opaque) -> None:
    for op, payload in reversed(node.ops or ()):  # the work is a stack: what is done last is pushed first
        if op == "BUILD":
            w.push([payload, _BUILD])
        elif op == "SETITEMS":
            w.batches(payload, 2, _SETITEM, _SETITEMS)
        elif op == "APPENDS":
            w.batches(payload, 1, _APPEND, _APPENDS)
        else:
            w.push([_MARK, *payload, _ADDITEMS])
    how = node.how
    if how in _CODES:
        code = _CODES[how]
        parts = [node.callee, node.args] if how != "NEWOBJ_EX" else [node.callee, node.args, node.kwargs]
        w.push([*parts, _After(code, node, code + b"0")])
    elif how == "OBJ":
        w.push([_MARK, node.callee, *node.args, _After(b"o", node, b"o0")])
    else:
        code = b"i" + _line(node.callee.module) + _line(node.callee.name)
        w.push([_MARK, *node.args, _After(code, node, code + b"0")])


_Handler = Callable[[_Writer, Any], None]
_ATOMS: dict[type, _Handler] = {_After: _after, type(None): _none, bool: _bool, int: _int, float: _float}
_HANDLERS: dict[type, _Handler] = {
    str: _str, Character: _str, OldStr: _old_string, OldBytes: _old_string, bytes: _bytes, bytearray: _bytearray, Blob: _blob,
    tuple: _tuple, list: _list, Dict: _dict, Set: _set, Global: _global, Persistent: _persistent, Opaque: _opaque,
}  # fmt: skip


# -- TorchScript ------------------------------------------------------------------------------------------------


class _ScriptWriter(_Writer):
    """The dialect of torch's C++ unpickler: objects have a memo entry only when they are whole (formats 5.2)."""

    __slots__ = ()

    @property
    def atoms(self) -> dict[type, _Handler]:
        return _SCRIPT_ATOMS

    @property
    def handlers(self) -> dict[type, _Handler]:
        return _SCRIPT_HANDLERS


def _script_int(w: _Writer, value: int) -> None:
    if -(1 << 31) <= value < 1 << 31:
        _int(w, value)
    elif value.bit_length() > 63:
        raise UnsupportedError("TorchScript has no integers of more than 64 bits")
    else:
        w.out += b"\x8a\x08" + value.to_bytes(8, "little", signed=True)


def _script_list(w: _Writer, node: list[Any]) -> None:
    w.out += b"]"
    w.memoize(node)
    w.push([_MARK, *node, _APPENDS])


def _script_dict(w: _Writer, node: Dict) -> None:
    w.out += b"}"
    w.memoize(node)
    w.push([_MARK, *node.pairs, _SETITEMS])


def _script_persistent(w: _Writer, node: Persistent) -> None:
    w.push([w.pid_of(node), _After(b"Q", node)])


def _script_object(w: _Writer, node: Opaque) -> None:
    if node.how == "REDUCE" and not node.ops:
        w.push([node.callee, node.args, _After(b"R", node)])
        return
    if node.how != "NEWOBJ" or any(op != "BUILD" for op, _ in node.ops or ()):
        raise UnsupportedError(f"TorchScript has no spelling for {node.qualname or 'an object'}")
    w.push([node.callee, node.args, _NEWOBJ, *(x for state in node.states for x in (state, _BUILD)), _After(b"", node)])


def _script_global(w: _Writer, node: Global) -> None:
    w.out += b"c" + _line(node.module) + _line(node.name)
    w.memoize(node)


_NEWOBJ = _After(b"\x81")
_SCRIPT_ATOMS = {**_ATOMS, int: _script_int}
_SCRIPT_HANDLERS: dict[type, _Handler] = {
    str: _str, Character: _str, tuple: _tuple, list: _script_list, Dict: _script_dict, Global: _script_global,
    Persistent: _script_persistent, Opaque: _script_object,
}  # fmt: skip
