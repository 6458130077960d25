"""The inert machine against CPython's own pickle: same values, same sharing, same opcodes; its limits and errors."""

from __future__ import annotations

import datetime
import decimal
import enum
import functools
import io
import operator
import pathlib
import pickle
import pickletools
import re
import struct
import uuid
from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ckpt_inspect.errors import CorruptError, LimitError
from ckpt_inspect.model.graph import Blob, Dict, OldBytes, OldStr, Opaque, Pickle
from ckpt_inspect.model.source import BytesSource
from ckpt_inspect.pickles.limits import DEFAULT, Limits
from ckpt_inspect.pickles.machine import read_pickle
from tests.pickles.interpreter import Interpreter, difference

quick = settings(max_examples=40, deadline=None)
WINDOW = 1 << 18
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def read(data: bytes, start: int = 0, limits: Limits = DEFAULT) -> Pickle:
    return read_pickle(BytesSource(data, "test.pkl"), start, limits)


def complaint(data: bytes) -> CorruptError | None:
    try:
        read(data)
    except CorruptError as error:
        return error
    return None


def understood(data: bytes) -> Any:
    """The real objects that our graph of ``data`` stands for."""
    found = read(data)
    assert found.end == len(data)
    assert found.notes == []
    return Interpreter(found).run()


def pickled(value: Any, protocol: int) -> list[bytes]:
    """By the C pickler and by the Python one."""
    buffer = io.BytesIO()
    pickle._Pickler(buffer, protocol).dump(value)
    return [pickle.dumps(value, protocol), buffer.getvalue()]


def agrees(value: Any, protocol: int) -> None:
    for data in pickled(value, protocol):
        assert difference(value, understood(data)) is None


# -- what people pickle ------------------------------------------------------------------------------------


def attributes(value: Any) -> list[Any]:
    return [part for item in vars(value).items() for part in item]


class Plain:
    """Attributes in ``__dict__``; hashed by identity."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)

    def compared(self) -> list[Any]:
        return attributes(self)


class Slotted:
    __slots__ = ("left", "right")

    def __init__(self, left: Any, right: Any) -> None:
        self.left, self.right = left, right

    def compared(self) -> list[Any]:
        return [self.left, self.right]


class Both(Slotted):
    """Slots of the base, and a ``__dict__``: the state is a pair."""

    def compared(self) -> list[Any]:
        return [*super().compared(), *attributes(self)]


class Reducing(Plain):
    def __reduce__(self) -> Any:
        return Reducing, (), vars(self)


class Calling:
    """``__reduce__`` with everything: arguments, state, list items, dict items."""

    def __init__(self, first: Any) -> None:
        self.first, self.items, self.table = first, [], {}  # type: ignore[var-annotated]

    def extend(self, items: list[Any]) -> None:
        self.items.extend(items)

    def append(self, item: Any) -> None:
        self.items.append(item)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.table[key] = value

    def __reduce__(self) -> Any:
        return Calling, (self.first,), {"first": self.first}, iter(self.items), iter(self.table.items())

    def compared(self) -> list[Any]:
        return [self.first, self.items, self.table]


class Stateful(Plain):
    """A state that is no dictionary."""

    def __getstate__(self) -> Any:
        return [*vars(self).items()]

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state)


class Keyword:
    """``__new__`` with keywords: NEWOBJ_EX from protocol 4 on."""

    size: Any

    def __new__(cls, *, size: Any) -> Keyword:
        made = super().__new__(cls)
        made.size = size
        return made

    def __getnewargs_ex__(self) -> Any:
        return (), {"size": self.size}

    def compared(self) -> list[Any]:
        return [self.size]


class Positional:
    """``__new__`` with arguments: NEWOBJ."""

    size: Any

    def __new__(cls, size: Any) -> Positional:
        made = super().__new__(cls)
        made.size = size
        return made

    def __getnewargs__(self) -> Any:
        return (self.size,)

    def compared(self) -> list[Any]:
        return [self.size]


class Row(list):  # type: ignore[type-arg]
    """A list with attributes."""

    def compared(self) -> list[Any]:
        return attributes(self)


class Table(dict):  # type: ignore[type-arg]
    """A dictionary with attributes."""

    def compared(self) -> list[Any]:
        return attributes(self)


class Text(str):
    pass


class Number(int):
    pass


class Pair(NamedTuple):
    first: Any
    second: Any


class Colour(enum.Enum):
    RED = "red"
    GREEN = (0, 1)


class Bits(enum.IntFlag):
    LOW = 1
    HIGH = 8


class Outer:
    class Inner(Plain):
        """Its name has a dot: STACK_GLOBAL from protocol 4 on, ``getattr`` before."""


EDGES = (0, 8, 16, 31, 32, 63, 2039, 2040, 8000)  # bits where the opcode changes
ints = st.one_of(
    st.integers(),
    st.builds(lambda bits, n: (1 << bits) * n, st.sampled_from(EDGES), st.integers(-2, 2)),
    st.builds(lambda bits, n: (1 << bits) + n, st.sampled_from(EDGES), st.integers(-2, 2)),
)
texts = st.one_of(
    st.text(max_size=6), st.text(st.integers(0, 0x10FFFF).map(chr), max_size=4), st.sampled_from("\n\\\0")
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    ints,
    st.floats(),
    texts,
    st.binary(max_size=5),
    st.complex_numbers(),
    st.sampled_from([Colour.RED, Colour.GREEN, Bits.LOW | Bits.HIGH, Plain, Outer.Inner, len, str.upper, range(3)]),
    st.sampled_from([..., NotImplemented, type(None), operator.itemgetter]),
    st.datetimes().map(lambda t: t.replace(fold=0)),
    st.dates(),
    st.timedeltas(),
    st.builds(pathlib.PurePosixPath, st.text("ab/.", max_size=5)),
    texts.map(Text),
    st.integers().map(Number),
    st.uuids(),
    st.decimals(allow_nan=False),
)


@st.composite  # a function of its own: hypothesis prints strategies whole
def hashable_leaves(draw: Any) -> Any:
    return draw(LEAVES)


@st.composite
def leaves(draw: Any) -> Any:
    return draw(st.one_of(LEAVES, st.binary(max_size=5).map(bytearray)))


@st.composite
def keys(draw: Any) -> Any:
    return draw(
        st.recursive(
            hashable_leaves(), lambda inner: st.one_of(st.tuples(inner, inner), st.frozensets(inner)), max_leaves=4
        )
    )


def grown(inner: Any) -> Any:
    some = st.lists(inner, max_size=4)
    return st.one_of(
        some,
        some.map(tuple),
        some.map(deque),
        some.map(Row),
        some.map(lambda items: deque(items, 2)),
        st.dictionaries(keys(), inner, max_size=4),
        st.dictionaries(keys(), inner, max_size=3).map(OrderedDict),
        st.dictionaries(keys(), inner, max_size=3).map(lambda d: defaultdict(list, d)),
        st.dictionaries(keys(), inner, max_size=3).map(Table),
        st.dictionaries(keys(), st.integers(), max_size=3).map(Counter),
        st.sets(keys(), max_size=4),
        st.frozensets(keys(), max_size=4),
        st.builds(Pair, inner, inner),
        st.builds(Plain, x=inner, y=inner),
        st.builds(Reducing, x=inner),
        st.builds(Stateful, x=inner),
        st.builds(Keyword, size=inner),
        st.builds(Positional, inner),
        st.builds(Outer.Inner, z=inner),
    )


values = st.recursive(leaves(), grown, max_leaves=10)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@quick
@given(values)
@example([0, 1, True, 1.0, -0.0, float("nan"), float("inf"), "", b"", (), [], {}, set(), frozenset(), bytearray()])
@example({1: "a", "1": "b", b"1": "c", (1, (2,)): "d", None: "e", frozenset([1, frozenset()]): "f"})
@example([datetime.datetime(2024, 2, 29, 1, 2, 3, 4, datetime.UTC), decimal.Decimal("1.50"), uuid.UUID(int=7)])
@example(functools.partial(max, 1))
@example("\ud800\udc00 \U0001f525 \\u0041 \x1a")
@example(list(range(3000)))
@example({str(n): (n, [n]) for n in range(1500)})
def test_values_come_out_as_they_went_in(protocol: int, value: Any) -> None:
    if isinstance(value, functools.partial):  # compares by identity
        (data, _) = pickled(value, protocol)
        made = understood(data)
        assert (made.func, made.args, made.keywords) == (value.func, value.args, value.keywords)
    else:
        agrees(value, protocol)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@settings(max_examples=20, deadline=None)
@given(values, values)
def test_objects_with_every_kind_of_state(protocol: int, first: Any, second: Any) -> None:
    called = Calling(first)
    called.extend([second, first])
    called[1] = second
    agrees([called, called], protocol)
    if protocol >= 2:  # copyreg refuses slots before
        both = Both(first, second)
        both.extra = [first]  # type: ignore[attr-defined]
        agrees([Slotted(first, second), both, both], protocol)


MUTABLE: list[Any] = [list, dict, Plain, Stateful, Reducing, OrderedDict, deque, functools.partial(defaultdict, list)]


@st.composite
def tangles(draw: Any, makers: list[Any]) -> Any:
    """Containers that hold each other, themselves too, directly and through tuples."""
    nodes = [make() for make in draw(st.lists(st.sampled_from(makers), min_size=1, max_size=7))]
    index = st.integers(0, len(nodes) - 1)
    shared = [(nodes[draw(index)], nodes[draw(index)]) for _ in range(2)]
    one = st.one_of(
        leaves(), index.map(nodes.__getitem__), st.sampled_from(shared), st.builds(lambda n: (1, nodes[n]), index)
    )
    for node in nodes:
        content = draw(st.lists(one, max_size=4))
        if isinstance(node, (list, deque)):
            node.extend(content)
        elif isinstance(node, dict):
            node.update(enumerate(content))
        else:
            vars(node).update({f"at{n}": item for n, item in enumerate(content)})
    return draw(st.one_of(st.just(nodes), st.just(nodes[0]), st.just(shared[0])))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@quick
@given(st.data())
def test_sharing_and_cycles(protocol: int, data: Any) -> None:
    # before protocol 2 a list with attributes is copied by copyreg, which a cycle defeats
    agrees(data.draw(tangles([*MUTABLE, Row, Table] if protocol >= 2 else MUTABLE)), protocol)


@pytest.mark.parametrize("protocol", [4, 5])
def test_a_set_that_holds_who_holds_it(protocol: int) -> None:
    owner = Plain()
    owner.members = {owner}  # type: ignore[attr-defined]
    for data in pickled(owner, protocol):
        made = understood(data)
        assert made.members == {made}


# -- opcodes -----------------------------------------------------------------------------------------------

_DICT = b"ccollections\nOrderedDict\n"
OPCODES: dict[str, bytes] = {  # a whole pickle for each
    "INT": b"(lI-17\naI01\naI00\na.",
    "BININT": b"J\xfe\xff\xff\xff.",
    "BININT1": b"K\xff.",
    "BININT2": b"M\x01\xff.",
    "LONG": b"(lL-123456789012345678901L\naL5\na.",
    "LONG1": b"\x8a\x02\x00\xff.",
    "LONG4": b"\x8b\x03\x00\x00\x00\x01\x02\xff.",
    "STRING": b"(lS'a\\x41\\n'\naS\"it's\"\na.",
    "BINSTRING": b"T\x03\x00\x00\x00abc.",
    "SHORT_BINSTRING": b"U\x03abc.",
    "BINBYTES": b"B\x02\x00\x00\x00\xff\x00.",
    "SHORT_BINBYTES": b"C\x02\xff\x00.",
    "BINBYTES8": b"\x8e\x02\0\0\0\0\0\0\0\xff\x00.",
    "BYTEARRAY8": b"\x96\x02\0\0\0\0\0\0\0\xff\x00.",
    "NEXT_BUFFER": b"\x97.",
    "READONLY_BUFFER": b"\x97\x98.",
    "NONE": b"N.",
    "NEWTRUE": b"\x88.",
    "NEWFALSE": b"\x89.",
    "UNICODE": b"Va\\u00e9\xe9\\ud800\n.",
    "SHORT_BINUNICODE": b"\x8c\x02\xc3\xa9.",
    "BINUNICODE": b"X\x03\0\0\0\xed\xa0\x80.",
    "BINUNICODE8": b"\x8d\x02\0\0\0\0\0\0\0\xc3\xa9.",
    "FLOAT": b"F-1.5e3\n.",
    "BINFLOAT": b"G\x3f\xf8\0\0\0\0\0\0.",
    "EMPTY_LIST": b"].",
    "APPEND": b"]K\x01a.",
    "APPENDS": b"](K\x01K\x02e.",
    "LIST": b"(K\x01K\x02l.",
    "EMPTY_TUPLE": b").",
    "TUPLE": b"(K\x01K\x02K\x03K\x04t.",
    "TUPLE1": b"K\x01\x85.",
    "TUPLE2": b"K\x01K\x02\x86.",
    "TUPLE3": b"K\x01K\x02K\x03\x87.",
    "EMPTY_DICT": b"}.",
    "DICT": b"(K\x01K\x02K\x03K\x04d.",
    "SETITEM": b"}K\x01K\x02s.",
    "SETITEMS": b"}(K\x01K\x02K\x03K\x04u.",
    "EMPTY_SET": b"\x8f.",
    "ADDITEMS": b"\x8f(K\x01K\x02\x90.",
    "FROZENSET": b"(K\x01K\x02\x91.",
    "POP": b"K\x01K\x020.",
    "DUP": b"]2\x86.",
    "MARK": b"(t.",
    "POP_MARK": b"K\x01(K\x02K\x031.",
    "GET": b"(lp7\ng7\na.",
    "BINGET": b"]q\x07h\x07\x86.",
    "LONG_BINGET": b"]r\x07\x01\0\0j\x07\x01\0\0\x86.",
    "PUT": b"(lp123456\ng123456\na.",
    "BINPUT": b"]q\xffh\xff\x86.",
    "LONG_BINPUT": b"]r\xff\xff\xff\xffj\xff\xff\xff\xff\x86.",
    "MEMOIZE": b"]\x94}\x94h\x00h\x01\x87.",
    "EXT1": b"\x82\x01.",
    "EXT2": b"\x83\x01\x00.",
    "EXT4": b"\x84\x01\0\0\0.",
    "GLOBAL": _DICT + b".",
    "STACK_GLOBAL": b"\x80\x04\x8c\x0bcollections\x8c\x0bOrderedDict\x93.",
    "REDUCE": _DICT + b")R.",
    "BUILD": _DICT + b")R}X\x01\0\0\0aK\x01sb.",
    "INST": b"(](K\x01K\x02\x86eicollections\nOrderedDict\n.",
    "OBJ": b"(" + _DICT + b"](K\x01K\x02\x86eo.",
    "NEWOBJ": _DICT + b")\x81K\x01K\x02s.",
    "NEWOBJ_EX": _DICT + b")}\x92.",
    "PROTO": b"\x80\x05N.",
    "STOP": b"N.",
    "FRAME": b"\x95\x02\0\0\0\0\0\0\0N..",
    "PERSID": b"Psome text\n.",
    "BINPERSID": b"K\x01K\x02\x86Q.",
}
NEVER = {"EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER"}  # they mean nothing outside the writing process
CODES = {op.name: ord(op.code) for op in pickletools.opcodes}


class Real(pickle._Unpickler):
    def persistent_load(self, pid: Any) -> Any:
        return ("persistent", pid)


def really(data: bytes, **options: Any) -> Any:
    return Real(io.BytesIO(data), **options).load()


def test_every_opcode_has_its_case() -> None:
    assert OPCODES.keys() == CODES.keys()
    for name, data in OPCODES.items():
        assert CODES[name] in data, name


@pytest.mark.parametrize("name", sorted(OPCODES))
def test_opcode(name: str) -> None:
    data = OPCODES[name]
    if name in NEVER:
        with pytest.raises(CorruptError) as caught:
            read(data)
        assert caught.value.offset == 1
        return
    made = Interpreter(read(data)).run()
    expected = really(data, encoding="utf-8")
    if isinstance(made, OldStr):
        made = str(made)
    if name == "STRING":
        made = [str(item) for item in made]
    assert difference(expected, made) is None
    assert getattr(expected, "__dict__", None) == getattr(made, "__dict__", None)


@pytest.mark.parametrize("code", sorted(set(range(256)) - set(CODES.values())))
def test_what_is_no_opcode(code: int) -> None:
    with pytest.raises(CorruptError, match=f"0x{code:02x} is no pickle opcode") as caught:
        read(b"]N" + bytes([code]) + b".")
    assert caught.value.offset == 2


def _weights_only_knows(code: int) -> bool:
    from torch._weights_only_unpickler import Unpickler

    try:
        Unpickler(io.BytesIO(bytes([code]) + bytes(16))).load()
    except Exception as error:
        return str(error) != f"Unsupported operand {code}"
    return True


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_refused_is_what_weights_only_refuses() -> None:
    for name, data in OPCODES.items():
        try:
            refused = name in [opcode for opcode, _ in read(data).refused]
        except CorruptError:
            refused = name in NEVER
        assert refused is not _weights_only_knows(CODES[name]), name


def test_every_bit_of_a_float() -> None:
    for raw in (b"\x7f\xf8\0\0\0\0\0\1", b"\xff\xf8\0\0\0\0\0\0", b"\x80" + bytes(7), bytes(7) + b"\1"):
        assert struct.pack(">d", read(b"G" + raw + b".").root) == raw


def test_refused_says_where() -> None:
    found = read(b"\x80\x04]\x94(I1\nI2\n\x8c\x01ae.")
    assert found.refused == [("MEMOIZE", 3), ("INT", 5), ("SHORT_BINUNICODE", 11)]


# programs of opcodes that call nothing: where CPython gets through, so do we, with the same result

_STEPS = [
    b"N",
    b"\x88",
    b"K\x01",
    b"J\xff\xff\xff\xff",
    b"G\x3f\xf8\0\0\0\0\0\0",
    b"X\x01\0\0\0a",
    b"C\x01b",
    b"(",
    b"(",
    b")",
    b"]",
    b"}",
    b"\x8f",
    b"t",
    b"l",
    b"d",
    b"\x91",
    b"a",
    b"e",
    b"s",
    b"u",
    b"\x90",
    b"0",
    b"1",
    b"2",
    b"\x85",
    b"\x86",
    b"\x87",
    b"q\x00",
    b"q\x01",
    b"h\x00",
    b"h\x01",
    b"\x94",
    b"p1\n",
    b"g1\n",
    b"\x96\x01\0\0\0\0\0\0\0c",
    b"I01\n",
    b"\x80\x03",
]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(_STEPS), max_size=16).map(b"".join))
@example(b"]q\x00(h\x00K\x01e")
@example(b"(K\x01((lt")
def test_programs_of_opcodes(steps: bytes) -> None:
    data = steps + b"."
    error = complaint(data)
    try:
        expected = pickle.loads(data)
        also = really(data)
    except Exception:
        assert error is None or (error.offset is not None and 0 <= error.offset <= len(data))
        return
    if difference(expected, also) is not None:
        return  # C and Python see different things: POP of a mark
    if error is not None:  # Python assigns to indices of lists, appends to bytearrays, adds nothing to anything
        assert re.fullmatch(r"(SETITEMS|APPENDS|ADDITEMS) on (a \w+|None)", error.message), error.message
        return
    assert difference(expected, Interpreter(read(data)).run()) is None


# -- offsets and truncation --------------------------------------------------------------------------------

EVERYTHING = {
    "none": None,
    "ints": [0, 300, 70000, -5, 2**40, 2**3000],
    "float": 1.5,
    "text": "aé\ud800",
    "bytes": b"\0\xff",
    "array": bytearray(b"ab"),
    "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
    "sets": [{1, 2}, frozenset([3])],
    "object": Plain(a=1),
    "keyword": Keyword(size=2),
    "row": Row([1, 2]),
    "inner": Outer.Inner(z=1),
    "bool": [True, False],
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_cut_at_every_byte(protocol: int) -> None:
    start = 5
    for data in pickled(EVERYTHING, protocol):
        for cut in range(len(data)):
            with pytest.raises(CorruptError) as caught:
                read(bytes(start) + data[:cut], start)
            assert not isinstance(caught.value, LimitError)
            assert caught.value.offset is not None
            assert start <= caught.value.offset <= start + cut
            assert "end" in caught.value.message, (cut, caught.value.message)


@pytest.mark.parametrize(
    ("data", "offset", "message"),
    [
        (b"", 0, "ends without STOP"),
        (b"N", 1, "ends without STOP"),
        (b".", 1, "the stack is empty"),
        (b"]a.", 2, "the stack is empty"),
        (b"NR", 2, "the stack is empty"),
        (b"Ke", 2, "ends without STOP"),
        (b"K", 1, "ends early"),
        (b"J\0\0", 1, "ends early"),
        (b"NG\0\0", 2, "ends early"),
        (b"X\0\0", 1, "ends early"),
        (b"X\xff\xff\xff\xffab.", 5, "4,294,967,295 bytes is announced, 3 bytes are left"),
        (b"C\x09ab.", 2, "ends early"),
        (b"\x8e" + b"\xff" * 8 + b"ab.", 9, "ends early"),
        (b"\x96" + b"\xff" * 8 + b"ab.", 9, "ends early"),
        (b"\x8d" + b"\xff" * 8 + b"ab.", 9, "ends early"),
        (b"\x8b\xff\xff\xff\xff.", 5, "negative length"),
        (b"T\xff\xff\xff\xff.", 5, "negative length"),
        (b"Iseven\n.", 7, "malformed"),
        (b"I1", 1, "ends inside a line"),
        (b"Fone\n.", 5, "malformed"),
        (b"Sabc\n.", 5, "without quotes"),
        (b"X\x01\0\0\0\xff.", 6, "malformed"),
        (b"Nh\x05.", 3, "memo entry 5"),
        (b"Ng5\n.", 4, "memo entry 5"),
        (b"Nj\x05\0\0\0.", 6, "memo entry 5"),
        (b"Np-1\n.", 5, "negative memo"),
        (b"Nt.", 2, "no mark"),
        (b"(K\x01d.", 4, "a key and no value"),
        (b"}(K\x01u.", 5, "a key and no value"),
        (b"NNa.", 3, "APPENDS on None"),
        (b"NNNs.", 4, "SETITEMS on None"),
        (b"](K\x01\x90.", 5, "ADDITEMS on a list"),
        (b"NNb.", 3, "BUILD on None"),
        (b"NN\x93.", 3, "two strings"),
        (b"\x80\x06N.", 2, "protocol 6"),
        (b"\x95\xff\0\0\0\0\0\0\0N.", 9, "beyond the end"),
        (b"(o.", 2, "the stack is empty"),
    ],
)
@pytest.mark.parametrize("start", [0, 1000])
def test_errors_say_where(data: bytes, offset: int, message: str, start: int) -> None:
    with pytest.raises(CorruptError, match=message) as caught:
        read(bytes(start) + data, start)
    assert caught.value.offset == start + offset


def test_what_was_read_before_it_broke() -> None:
    with pytest.raises(CorruptError) as caught:
        read(b"cos\nsystem\nX\x02\0\0\0ls\x85R\xff")
    partial: Pickle = caught.value.__dict__["partial"]
    assert [node.qualname for node in partial.globals] == ["os.system"]
    assert [call.args for call in partial.calls] == [("ls",)]


def test_bytes_after_stop_are_not_read() -> None:
    found = read(b"..N.junk", 2)
    assert (found.start, found.end, found.root) == (2, 4, None)
    assert read(b"NN.").notes == ["values are left on the stack at STOP"]


def test_backslashes_that_escape_nothing() -> None:
    assert read(b"S'\\z'\n.").root == "\\z"  # Python warns of these; looking is silent


# -- the window --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", [str, bytes])
def test_every_byte_at_the_edge_of_the_window(protocol: int, kind: type) -> None:
    small = pickle.dumps(EVERYTHING, protocol)
    for back in range(protocol, len(small), 5 if kind is str else 11):
        filler = "x" * (WINDOW - back)
        value = [filler if kind is str else filler.encode(), EVERYTHING]
        assert difference(value, understood(pickle.dumps(value, protocol))) is None


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("size", [WINDOW - 1, WINDOW, 3 * WINDOW + 1, 5 * WINDOW])
def test_values_longer_than_the_window(protocol: int, size: int) -> None:
    value = ["é" * size, "x" * size, b"\xe9" * size, bytearray(size), Plain(text="\n\\" * (size // 2)), "end"]
    assert difference(value, understood(pickle.dumps(value, protocol))) is None


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_many_windows(protocol: int) -> None:
    value = [(f"layer{n}.weight", n * 1.5, [n] * (n % 7), " " * (n % 90)) for n in range(6_000)]
    data = pickle.dumps(value, protocol)
    assert len(data) > WINDOW
    assert difference(value, understood(data)) is None


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_long_bytes_stay_where_they_are(protocol: int) -> None:
    content = bytes(range(256)) * 80
    for value in (content, bytearray(content)):
        data = pickle.dumps([value, value, b"short"], protocol)
        blob, again, short = read(data).root
        if protocol < 5 and type(value) is bytearray:  # a call of bytearray
            blob, again = blob.args[0], again.args[0]
        assert isinstance(blob, Blob)
        assert blob is again
        assert data[blob.offset : blob.offset + blob.nbytes] == content
        assert short == b"short"


# -- limits ------------------------------------------------------------------------------------------------


def _repeated(step: bytes, end: bytes = b"N.") -> bytes:
    """More than a window of one step, since counts are looked at when the window moves."""
    return b"]" + step * (WINDOW // len(step)) + end


@pytest.mark.parametrize(
    ("limits", "data", "what"),
    [
        (Limits(objects=1000), _repeated(b"]0"), "1,000 objects"),
        (Limits(objects=1000), _repeated(b"K\x01\x850"), "1,000 objects"),
        (Limits(objects=1000), _repeated(b"NQ0"), "1,000 objects"),
        (Limits(objects=1000), _repeated(b"NNR0"), "1,000 objects"),
        (Limits(memo=1000), _repeated(b"\x94"), "1,000 memo entries"),
        (Limits(stack=1000), _repeated(b"N"), "1,000 values on the stack"),
        (Limits(stack=1000), _repeated(b"("), "1,000 values on the stack"),
        (Limits(integer=16), b"\x8b\x11\0\0\0" + bytes(17) + b".", "17 bytes"),
        (Limits(integer=16), b"I" + b"1" * 40 + b"\n.", "40 digits"),
        (Limits(integer=16), b"L" + b"1" * 40 + b"L\n.", "40 digits"),
        (Limits(), b"L" + b"1" * 5000 + b"L\n.", "5,000 digits"),
        (Limits(string=WINDOW), b"X\1\0\x08\0" + bytes(2 * WINDOW + 1) + b".", "524,289 bytes"),
        (Limits(string=WINDOW), b"V" + b"a" * (5 * WINDOW) + b"\n.", "a line"),
    ],
)
def test_limits(limits: Limits, data: bytes, what: str) -> None:
    with pytest.raises(LimitError, match=what) as caught:
        read(data, limits=limits)
    assert caught.value.offset is not None
    if "5,000" not in what:
        read(data)  # without the limit it is read


def test_no_length_is_believed() -> None:
    """A gigabyte is announced and nothing is there: refused before it is asked for."""

    class Counting(BytesSource):
        asked = 0

        def read_at(self, offset: int, nbytes: int) -> bytes:
            Counting.asked = max(Counting.asked, nbytes)
            return super().read_at(offset, nbytes)

    for opcode in (
        b"X\0\0\0\x40",
        b"B\0\0\0\x40",
        b"T\0\0\0\x40",
        b"\x8d\0\0\0\x40\0\0\0\0",
        b"\x96\0\0\0\x40\0\0\0\0",
    ):
        with pytest.raises(CorruptError, match="ends early"):
            read_pickle(Counting(opcode + b"abc.", "test.pkl"))
    assert Counting.asked <= WINDOW + 32


# -- Python 2 ----------------------------------------------------------------------------------------------


@quick
@given(st.binary(max_size=300))
@example(b"")
@example("é".encode())
@example(b"\xe9")
@example(b"'\"\\\n")
def test_byte_strings_of_python_2(raw: bytes) -> None:
    quoted = repr(raw)[1:].encode()
    size = len(raw).to_bytes(4, "little")
    spelled = [b"S" + quoted + b"\n.", b"T" + size + raw + b"."]
    if len(raw) < 256:
        spelled.append(b"U" + bytes([len(raw)]) + raw + b".")
    for data in spelled:
        found = read(data).root
        assert pickle.loads(data, encoding="bytes") == raw
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            assert type(found) is OldBytes
            assert found == raw
        else:
            assert type(found) is OldStr
            assert found == text


def test_a_long_byte_string_of_python_2() -> None:
    blob = read(b"T\0\0\1\0" + b"a" * 65536 + b".").root
    assert (type(blob), blob.kind, blob.nbytes) == (Blob, "BINSTRING", 65536)


def test_objects_of_python_2() -> None:
    """What Python 2.7 wrote for an instance of an old class, an OrderedDict and a set, protocol 2."""
    instance = b"(c__main__\nOld\noq\x00}q\x01U\x01aK\x01sb."
    found = read(b"\x80\x02" + instance).root
    assert type(found) is Opaque
    assert (found.how, found.qualname, found.args) == ("OBJ", "__main__.Old", ())
    assert [list(state.items()) for state in found.states] == [[("a", 1)]]
    ordered = b"\x80\x02ccollections\nOrderedDict\nq\x00]q\x01]q\x02(U\x01aq\x03K\x01ea\x85q\x04Rq\x05."
    assert Interpreter(read(ordered)).run() == pickle.loads(ordered) == {"a": 1}
    group = b"\x80\x02c__builtin__\nset\nq\x00]q\x01(K\x01K\x02e\x85q\x02Rq\x03."
    assert Interpreter(read(group)).run() == pickle.loads(group) == {1, 2}


def test_equal_strings_stay_apart() -> None:
    """A storage called 0 and a module called 0 are two objects, unless the pickle says that they are one."""
    for text in ("0", "é", "name", "\U0001f525"):
        raw = text.encode()
        size = bytes([len(raw)])
        for opcode in (b"\x8c" + size, b"X" + size + bytes(3), b"\x8d" + size + bytes(7)):
            step = opcode + raw
            one, other, same = read(step + b"\x94" + step + b"h\x00\x87.").root
            assert one is same
            assert one is not other


# -- what may not be hashed --------------------------------------------------------------------------------


def test_keys_are_neither_hashed_nor_compared() -> None:
    """A key that takes forever to hash, a key that cannot be hashed, and one key three times."""
    deep = b")" + b"2\x86" * 60
    found = read(b"}(" + deep + b"N]NK\x01NI01\nNG\x3f\xf0\0\0\0\0\0\0Nu.").root
    assert type(found) is Dict
    kinds = [type(key) for key, _ in found.items()]
    assert kinds == [tuple, list, int, bool, float]
