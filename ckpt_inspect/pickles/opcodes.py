"""What each opcode of protocols 0 to 5 does to the machine: one small function each, in a table of 256.

The opcodes are those of Python's ``pickletools``; where engines differ, formats 13 says which way this one goes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING, Any

from ..model.graph import Character, Dict, Global, OldBytes, OldStr, Opaque, Persistent, Set

if TYPE_CHECKING:
    from .machine import Machine

    Handler = Callable[[Machine], None]

_u16 = Struct("<H").unpack_from
_i32 = Struct("<i").unpack_from
_u32 = Struct("<I").unpack_from
_u64 = Struct("<Q").unpack_from
_f64 = Struct(">d").unpack_from


class Stop(Exception):
    """The pickle has ended."""


# -- opcodes: plain values ------------------------------------------------------------------------------


def _proto(m: Machine) -> None:
    version = m.data[m.pos]
    m.pos += 1
    if version > 5:
        m.fail(f"pickle protocol {version} does not exist")
    if m.base + m.pos - 2 == m.pickle.start:
        m.pickle.protocol = version


def _stop(m: Machine) -> None:
    m.pickle.root = m.stack.pop()
    raise Stop


_OCTAL = re.compile(rb"\s*[+-]?0+[0-9]+\s*")


def _int(m: Machine) -> None:
    m.refuse("INT")
    text = m.line()
    if text in (b"00", b"01"):
        m.stack.append(text == b"01")
    elif _OCTAL.fullmatch(text) and text.strip(b"0 +-\t"):  # to C; to Python's own reader a decimal
        m.differ("a number spelled oddly: with a zero before it")
    else:
        m.stack.append(_decimal(m, text))


def _long(m: Machine) -> None:
    m.refuse("LONG")
    m.stack.append(_decimal(m, m.line().removesuffix(b"L")))


# What C's strtol and strtod might take for a number: octal, hexadecimal, whatever follows a zero byte.
_NUMBER = re.compile(rb"\s*[+-]?(?:\.?[0-9]|inf|nan)[0-9a-z_.+-]*\s*(?:\0.*)?", re.DOTALL | re.IGNORECASE)


def _decimal(m: Machine, text: bytes) -> int:
    if len(text) > 2.4 * m.limits.integer:
        what = f"an integer of {len(text):,} digits"
        m.limit(what) if _NUMBER.fullmatch(text) else m.fail(what)
    try:
        return int(text, 10)
    except ValueError as error:
        if _NUMBER.fullmatch(text):
            m.differ(f"a number spelled oddly: {str(error)[:100]}")
        raise


def _binint(m: Machine) -> None:
    m.stack.append(_i32(m.data, m.pos)[0])
    m.pos += 4


def _binint1(m: Machine) -> None:
    m.stack.append(m.data[m.pos])
    m.pos += 1


def _binint2(m: Machine) -> None:
    m.stack.append(_u16(m.data, m.pos)[0])
    m.pos += 2


def _long1(m: Machine) -> None:
    nbytes = m.data[m.pos]
    m.pos += 1
    m.stack.append(int.from_bytes(m.take(nbytes), "little", signed=True))


def _long4(m: Machine) -> None:
    m.refuse("LONG4")
    nbytes = _i32(m.data, m.pos)[0]
    m.pos += 4
    if nbytes < 0:
        m.fail("an integer of negative length")
    m.expect(nbytes)
    if nbytes > m.limits.integer:
        m.limit(f"an integer of {nbytes:,} bytes")
    m.stack.append(int.from_bytes(m.take(nbytes), "little", signed=True))


def _float(m: Machine) -> None:
    m.refuse("FLOAT")
    text = m.line()
    number = _NUMBER.fullmatch(text)
    if len(text) > 1024:
        m.differ("a number of more than 1,024 digits") if number else m.fail("no number")
    if number and b"\0" in text:
        m.differ("a number spelled oddly")
    m.stack.append(float(text))


def _binfloat(m: Machine) -> None:
    m.stack.append(_f64(m.data, m.pos)[0])
    m.pos += 8


def _none(m: Machine) -> None:
    m.stack.append(None)


def _true(m: Machine) -> None:
    m.stack.append(True)


def _false(m: Machine) -> None:
    m.stack.append(False)


# -- opcodes: strings and bytes -------------------------------------------------------------------------


def _old_string(raw: bytes) -> Any:
    try:
        return OldStr(raw, "utf-8")
    except UnicodeDecodeError:
        return OldBytes(raw)


def _string(m: Machine) -> None:
    m.refuse("STRING")
    text = m.line()
    if len(text) < 2 or text[:1] != text[-1:] or text[:1] not in (b"'", b'"'):
        m.fail("a STRING without quotes")
    m.stack.append(_old_string(_unescaped(text[1:-1])))


def _unescaped(text: bytes) -> bytes:
    if b"\\" not in text:
        return text
    from codecs import escape_decode  # the codec that pickle uses for this opcode
    from warnings import catch_warnings

    with catch_warnings(action="ignore"):  # it warns of backslashes that escape nothing
        return escape_decode(text)[0]


def _binstring(m: Machine) -> None:
    m.refuse("BINSTRING")
    nbytes = _i32(m.data, m.pos)[0]
    m.pos += 4
    if nbytes < 0:
        m.fail("a string of negative length")
    value = m.blob(nbytes, "BINSTRING")
    m.stack.append(_old_string(value) if type(value) is bytes else value)


def _short_binstring(m: Machine) -> None:
    nbytes = m.data[m.pos]
    m.pos += 1
    text = _old_string(m.take(nbytes))
    if type(text) is OldBytes:
        m.refuse("SHORT_BINSTRING that is no UTF-8")
    m.stack.append(text)


def _unicode(m: Machine) -> None:
    m.refuse("UNICODE")
    text = m.line().decode("raw-unicode-escape")
    m.stack.append(text if len(text) != 1 else Character(text))


def _binunicode(m: Machine) -> None:
    nbytes = _u32(m.data, m.pos)[0]
    start = m.pos + 4
    m.pos = end = start + nbytes
    if end > len(m.data):
        m.pos = start
        data = m.take(nbytes)
    else:
        data = m.data[start:end]
    text = data.decode("utf-8", "surrogatepass")
    m.stack.append(text if nbytes > 2 or len(text) != 1 else Character(text))


def _binunicode8(m: Machine) -> None:
    m.refuse("BINUNICODE8")
    nbytes = _u64(m.data, m.pos)[0]
    m.pos += 8
    text = m.take(nbytes).decode("utf-8", "surrogatepass")
    m.stack.append(text if len(text) != 1 else Character(text))


def _short_binunicode(m: Machine) -> None:
    m.refuse("SHORT_BINUNICODE")
    nbytes = m.data[m.pos]
    m.pos += 1
    text = m.take(nbytes).decode("utf-8", "surrogatepass")
    m.stack.append(text if len(text) != 1 else Character(text))


def _short_binbytes(m: Machine) -> None:
    m.refuse("SHORT_BINBYTES")
    nbytes = m.data[m.pos]
    m.pos += 1
    m.stack.append(m.take(nbytes))


def _binbytes(m: Machine) -> None:
    m.refuse("BINBYTES")
    nbytes = _u32(m.data, m.pos)[0]
    m.pos += 4
    m.stack.append(m.blob(nbytes, "BINBYTES"))


def _binbytes8(m: Machine) -> None:
    m.refuse("BINBYTES8")
    nbytes = _u64(m.data, m.pos)[0]
    m.pos += 8
    m.stack.append(m.blob(nbytes, "BINBYTES8"))


def _bytearray8(m: Machine) -> None:
    m.refuse("BYTEARRAY8")
    nbytes = _u64(m.data, m.pos)[0]
    m.pos += 8
    value = m.blob(nbytes, "BYTEARRAY8")
    m.stack.append(bytearray(value) if type(value) is bytes else value)


# -- opcodes: containers --------------------------------------------------------------------------------


def _mark(m: Machine) -> None:
    m.marks.append(m.stack)
    m.stack = []


def _empty_tuple(m: Machine) -> None:
    m.stack.append(())


def _tuple(m: Machine) -> None:
    items = m.pop_mark()
    m.made += 1
    m.stack.append(tuple(items))


def _tuple1(m: Machine) -> None:
    m.made += 1
    m.stack[-1] = (m.stack[-1],)


def _tuple2(m: Machine) -> None:
    m.made += 1
    last = m.stack.pop()
    m.stack[-1] = (m.stack[-1], last)


def _tuple3(m: Machine) -> None:
    m.made += 1
    last = m.stack.pop()
    middle = m.stack.pop()
    m.stack[-1] = (m.stack[-1], middle, last)


def _empty_list(m: Machine) -> None:
    m.made += 1
    m.stack.append([])


def _list(m: Machine) -> None:
    m.refuse("LIST")
    items = m.pop_mark()
    m.made += 1
    m.stack.append(items)


def _append(m: Machine) -> None:
    value = m.stack.pop()
    _extend(m, m.stack[-1], [value], "APPENDS")


def _appends(m: Machine) -> None:
    items = m.pop_mark()
    _extend(m, m.stack[-1], items, "APPENDS")


def _extend(m: Machine, target: Any, items: list[Any], op: str) -> None:
    if type(target) is list:
        target.extend(items)
    elif type(target) is Opaque:
        _done_to(target, op, items)
    else:
        m.differ(f"{op} on {_kind(target)}")


def _done_to(target: Opaque, op: str, payload: list[Any]) -> None:
    if target.ops is None:
        target.ops = [(op, payload)]
    elif target.ops[-1][0] == op:
        target.ops[-1][1].extend(payload)
    else:
        target.ops.append((op, payload))


def _empty_dict(m: Machine) -> None:
    m.made += 1
    m.stack.append(Dict([]))


def _dict(m: Machine) -> None:
    m.refuse("DICT")
    items = m.pop_mark()
    if len(items) % 2:
        m.fail("a dictionary with a key and no value")
    m.made += 1
    m.stack.append(Dict(items))


def _setitem(m: Machine) -> None:
    value = m.stack.pop()
    key = m.stack.pop()
    _set_items(m, m.stack[-1], [key, value])


def _setitems(m: Machine) -> None:
    items = m.pop_mark()
    if len(items) % 2:
        m.fail("a dictionary with a key and no value")
    _set_items(m, m.stack[-1], items)


def _set_items(m: Machine, target: Any, items: list[Any]) -> None:
    if type(target) is Dict:
        target.pairs.extend(items)
    elif type(target) is Opaque:
        _done_to(target, "SETITEMS", items)
    else:
        m.differ(f"SETITEMS on {_kind(target)}")


def _empty_set(m: Machine) -> None:
    m.made += 1
    m.stack.append(Set([], False))


def _additems(m: Machine) -> None:
    m.refuse("ADDITEMS")
    items = m.pop_mark()
    target = m.stack[-1]
    if type(target) is Set and not target.frozen:
        target.members.extend(items)
    elif type(target) is Opaque:
        _done_to(target, "ADDITEMS", items)
    else:
        m.differ(f"ADDITEMS on {_kind(target)}")


def _frozenset(m: Machine) -> None:
    m.refuse("FROZENSET")
    items = m.pop_mark()
    m.made += 1
    m.stack.append(Set(items, True))


# -- opcodes: objects -----------------------------------------------------------------------------------


_NAME = re.compile(r"[\w.<>]*")


def _named(m: Machine, module: str, name: str) -> Global:
    if len(module) + len(name) > m.limits.name:
        what = f"a name of {len(module) + len(name):,} characters"
        m.limit(what) if _NAME.fullmatch(module + name) else m.fail(what)  # no other can be imported
    node = Global(module, name)
    m.pickle.globals.append(node)
    return node


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _global(m: Machine) -> None:
    module = m.line()
    name = m.line()
    m.stack.append(_named(m, _text(module), _text(name)))


def _stack_global(m: Machine) -> None:
    m.refuse("STACK_GLOBAL")
    name = m.stack.pop()
    module = m.stack.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        what = "STACK_GLOBAL needs two strings"
        m.differ(what) if Opaque in (type(name), type(module)) else m.fail(what)  # a call may give one
    m.stack.append(_named(m, module, name))


def _reduce(m: Machine) -> None:
    stack = m.stack
    args = stack.pop()
    node = Opaque("REDUCE", stack[-1], args)
    m.made += 1
    m.pickle.calls.append(node)
    stack[-1] = node


def _newobj(m: Machine) -> None:
    args = m.stack.pop()
    callee = m.stack.pop()
    m.build("NEWOBJ", callee, args)


def _newobj_ex(m: Machine) -> None:
    m.refuse("NEWOBJ_EX")
    kwargs = m.stack.pop()
    args = m.stack.pop()
    callee = m.stack.pop()
    m.build("NEWOBJ_EX", callee, args, kwargs)


def _inst(m: Machine) -> None:
    m.refuse("INST")
    module = m.line()
    name = m.line()
    args = tuple(m.pop_mark())
    m.build("INST", _named(m, _text(module), _text(name)), args)


def _obj(m: Machine) -> None:
    m.refuse("OBJ")
    items = m.pop_mark()
    m.build("OBJ", items[0], tuple(items[1:]))


def _build(m: Machine) -> None:
    state = m.stack.pop()
    target = m.stack[-1]
    if type(target) is Opaque:
        if target.ops is None:
            target.ops = [("BUILD", state)]
        else:
            target.ops.append(("BUILD", state))
    elif type(target) in (Global, Persistent):  # a real machine would patch the class or module
        if target.state is None:
            target.state = []
        target.state.append(state)
    else:
        m.differ(f"BUILD on {_kind(target)}")


def _kind(value: Any) -> str:
    return f"a {type(value).__name__.lower()}" if value is not None else "None"


def _persid(m: Machine) -> None:
    m.refuse("PERSID")
    _persist(m, _text(m.line()))


def _binpersid(m: Machine) -> None:
    _persist(m, m.stack.pop())


def _persist(m: Machine, pid: Any) -> None:
    node = Persistent(pid)
    m.made += 1
    m.pickle.persistent.append(node)
    m.stack.append(node)


# -- opcodes: memo and stack ----------------------------------------------------------------------------


def _recall(m: Machine, index: int) -> None:
    try:
        m.stack.append(m.memo[index])
    except KeyError:
        m.fail(f"memo entry {index} was never stored")


def _get(m: Machine) -> None:
    m.refuse("GET")
    _recall(m, _index(m))


def _binget(m: Machine) -> None:
    index = m.data[m.pos]
    m.pos += 1
    try:
        m.stack.append(m.memo[index])
    except KeyError:
        m.fail(f"memo entry {index} was never stored")


def _long_binget(m: Machine) -> None:
    index = _u32(m.data, m.pos)[0]
    m.pos += 4
    try:
        m.stack.append(m.memo[index])
    except KeyError:
        m.fail(f"memo entry {index} was never stored")


def _put(m: Machine) -> None:
    m.refuse("PUT")
    m.memo[_index(m)] = m.stack[-1]


def _index(m: Machine) -> int:
    """A memo index as text, bounded like those of LONG_BINPUT: longer ones could be made to collide in the memo."""
    index = _decimal(m, m.line())
    if not 0 <= index < 1 << 32:
        m.fail("a negative memo index") if index < 0 else m.differ("a memo index beyond 32 bits")
    return index


def _binput(m: Machine) -> None:
    m.memo[m.data[m.pos]] = m.stack[-1]
    m.pos += 1


def _long_binput(m: Machine) -> None:
    m.memo[_u32(m.data, m.pos)[0]] = m.stack[-1]
    m.pos += 4


def _memoize(m: Machine) -> None:
    m.refuse("MEMOIZE")
    m.memo[len(m.memo)] = m.stack[-1]


def _pop(m: Machine) -> None:
    m.refuse("POP")
    if m.stack:
        m.stack.pop()
    else:
        m.pop_mark()


def _pop_mark(m: Machine) -> None:
    m.refuse("POP_MARK")
    m.pop_mark()


def _dup(m: Machine) -> None:
    m.refuse("DUP")
    m.stack.append(m.stack[-1])


def _frame(m: Machine) -> None:
    m.refuse("FRAME")
    nbytes = _u64(m.data, m.pos)[0]
    m.pos += 8
    if nbytes > m.source.size - m.base - m.pos:
        m.early(f"a frame of {nbytes:,} bytes reaches beyond the end")


def _extension(m: Machine) -> None:
    m.fail("an extension code: it means something only to the process that wrote it")


def _buffer(m: Machine) -> None:
    m.fail("an out-of-band buffer: it was never in the file")


def _unknown(m: Machine) -> None:
    code = m.data[m.pos - 1]
    m.pos -= 1
    m.fail(f"0x{code:02x} is no pickle opcode")


_OPCODES: dict[bytes, Handler] = {
    b"\x80": _proto, b".": _stop, b"I": _int, b"L": _long, b"J": _binint, b"K": _binint1, b"M": _binint2,
    b"\x8a": _long1, b"\x8b": _long4, b"F": _float, b"G": _binfloat, b"N": _none, b"\x88": _true,
    b"\x89": _false, b"S": _string, b"T": _binstring, b"U": _short_binstring, b"V": _unicode,
    b"X": _binunicode, b"\x8d": _binunicode8, b"\x8c": _short_binunicode, b"C": _short_binbytes,
    b"B": _binbytes, b"\x8e": _binbytes8, b"\x96": _bytearray8, b"(": _mark, b")": _empty_tuple,
    b"t": _tuple, b"\x85": _tuple1, b"\x86": _tuple2, b"\x87": _tuple3, b"]": _empty_list, b"l": _list,
    b"a": _append, b"e": _appends, b"}": _empty_dict, b"d": _dict, b"s": _setitem, b"u": _setitems,
    b"\x8f": _empty_set, b"\x90": _additems, b"\x91": _frozenset, b"c": _global, b"\x93": _stack_global,
    b"R": _reduce, b"\x81": _newobj, b"\x92": _newobj_ex, b"i": _inst, b"o": _obj, b"b": _build,
    b"P": _persid, b"Q": _binpersid, b"g": _get, b"h": _binget, b"j": _long_binget, b"p": _put,
    b"q": _binput, b"r": _long_binput, b"\x94": _memoize, b"0": _pop, b"1": _pop_mark, b"2": _dup,
    b"\x95": _frame, b"\x82": _extension, b"\x83": _extension, b"\x84": _extension, b"\x97": _buffer,
    b"\x98": _buffer,
}  # fmt: skip

TABLE: list[Handler] = [_OPCODES.get(bytes([code]), _unknown) for code in range(256)]
