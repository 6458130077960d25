"""Leaves that are no tensors: type, value and text, against numpy and Python themselves."""

from __future__ import annotations

import datetime
import json
import math
import pathlib
import re
import tempfile
from collections import Counter, OrderedDict, defaultdict, deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import ckpt_inspect as ci
from ckpt_inspect.operations.plain import safe

PROTOCOLS = [2, 3, 4, 5]


def values_of(value: Any, protocol: int = 2) -> dict[str, ci.Value]:
    """What is found where ``value`` was put under the key ``it``, by the rest of the name."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "it.pt")
        torch.save({"it": value, "tensor": torch.ones(1)}, path, pickle_protocol=protocol)
        checkpoint = ci.open(str(path))
        assert checkpoint.problems == []
        document = ci.ls(checkpoint).to_dict()
        in_json = json.dumps([*document["values"]], allow_nan=False)
        assert [row["name"] for row in json.loads(in_json)] == [found.name for found in checkpoint.values]
    return {found.name.removeprefix("it").removeprefix("/"): found for found in checkpoint.values}


def value_of(value: Any, protocol: int = 2) -> ci.Value:
    found = values_of(value, protocol)
    assert list(found) == [""], found
    return found[""]


def same(found: Any, expected: Any) -> bool:
    """Equal in type and bits: NaN is NaN, 1 is not True."""
    if type(found) is not type(expected):
        return False
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(expected, float):
        return (
            math.isnan(found)
            if math.isnan(expected)
            else found == expected and math.copysign(1, found) == math.copysign(1, expected)
        )
    return bool(found == expected)


# -- numpy -------------------------------------------------------------------------------------------------

NUMBERS = [*"?bBhHiIlLqQefdFD"]
ORDERS: list[Any] = ["<", ">", "="]


def plain(value: Any) -> Any:
    """numpy's own list of an array, complex numbers as text."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, complex) else value


@st.composite
def arrays(draw: Any) -> Any:
    """Any numeric dtype in any byte order; any shape; C, Fortran, transposed and strided."""
    dtype = np.dtype(draw(st.sampled_from(NUMBERS))).newbyteorder(draw(st.sampled_from(ORDERS)))
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    raw = draw(st.binary(min_size=dtype.itemsize * 16, max_size=dtype.itemsize * 16))
    if dtype.kind == "b":
        raw = bytes(byte & 1 for byte in raw)
    array = np.resize(np.frombuffer(raw, dtype=dtype), shape).astype(dtype)
    how = draw(st.sampled_from(["C", "F", "T", "axes", "step", "flip"]))
    if how == "F":
        array = np.asfortranarray(array)
    elif how == "T":
        array = array.T
    elif how == "axes":
        array = array.transpose(draw(st.permutations(range(array.ndim))))
    elif how == "step" and array.ndim:
        array = array[::2]
    elif how == "flip" and array.ndim:
        array = array[::-1]
    return array


@pytest.mark.filterwarnings("ignore:invalid value encountered")
@settings(max_examples=250, deadline=None)
@given(arrays(), st.sampled_from(PROTOCOLS))
@example(np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2), 5)  # numpy 2.3 and later: order K
def test_arrays(array: Any, protocol: int) -> None:
    found = value_of(array, protocol)
    assert found.type == "numpy.ndarray"
    assert same(found.value, plain(array.tolist()))
    assert found.text == f"{array.dtype.newbyteorder('=').name} array {array.shape}"


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("code", NUMBERS)
@pytest.mark.parametrize("order", ORDERS)
def test_scalars(code: str, order: Any, protocol: int) -> None:
    dtype = np.dtype(code).newbyteorder(order)
    for raw in (bytes(dtype.itemsize), b"\1" * dtype.itemsize, b"\xff" * dtype.itemsize):
        if dtype.kind == "b":
            raw = raw[:1] and bytes([raw[0] & 1])
        scalar = np.frombuffer(raw, dtype)[0]
        found = value_of(scalar, protocol)
        assert found.type == f"numpy.{dtype.newbyteorder('=').name}"
        assert same(found.value, plain(scalar.item()))
        assert found.text == str(found.value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("value", "name"),
    [
        (np.longdouble(1.5), np.dtype("g").name),
        (np.clongdouble(1.5), np.dtype("G").name),
        (np.datetime64("2024-01-02"), "datetime64"),
        (np.timedelta64(5, "s"), "timedelta64"),
        (np.str_("abc"), "str_"),
        (np.bytes_(b"abc"), "bytes_"),
        (np.void(b"abc"), "void"),
        (np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")])[0], "void"),
    ],
)
def test_types_without_a_plain_value(value: Any, name: str, protocol: int) -> None:
    """Not 16 bytes taken for 16 bits: the type is numpy's own name, and no value is made up."""
    found = value_of(value, protocol)
    assert (found.type, found.value, found.text) == (f"numpy.{name}", None, f"<numpy.{name}>")
    if value.dtype.names is None:
        listed = value_of(np.array([value, value]), protocol)
        assert (listed.type, listed.value, listed.text) == ("numpy.ndarray", None, f"{name} array (2,)")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_other_arrays(protocol: int) -> None:
    long = value_of(np.ones((2, 600), dtype=np.float32), protocol)
    assert (long.value, long.text) == (None, "float32 array (2, 600)")
    assert value_of(np.array([None, 1], dtype=object), protocol).text == "object array (2,)"
    assert value_of(np.array(3, dtype=np.int16), protocol)[1:4] == ("numpy.ndarray", 3, "int16 array ()")
    assert value_of(np.zeros((0, 3)), protocol).value == []
    assert value_of(np.zeros((2, 0)), protocol).value == [[], []]
    dtype = value_of(np.dtype(">f4"), protocol)
    assert (dtype.type, dtype.value) == ("numpy.dtype", "float32")


# -- torch and the standard library ------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("value", "type_", "plain_value", "text"),
    [
        (torch.Size([2, 3]), "torch.Size", [2, 3], "torch.Size([2, 3])"),
        (torch.Size([]), "torch.Size", [], "torch.Size([])"),
        (torch.device("cuda", 1), "torch.device", "cuda:1", "cuda:1"),
        (torch.device("cpu"), "torch.device", "cpu", "cpu"),
        (torch.bfloat16, "torch.dtype", "bfloat16", "torch.bfloat16"),
        (torch.float8_e4m3fn, "torch.dtype", "float8_e4m3fn", "torch.float8_e4m3fn"),
        (torch.sparse_csr, "torch.layout", "torch.sparse_csr", "torch.sparse_csr"),
        (torch.nn.Linear, "global", "torch.nn.modules.linear.Linear", "torch.nn.modules.linear.Linear"),
        (len, "global", "builtins.len", "builtins.len"),
        (int, "global", "builtins.int", "builtins.int"),
        (range(3), "builtins.range", None, "<builtins.range>"),
        (OrderedDict(), "collections.OrderedDict", {}, "{}"),
        (Counter(), "collections.Counter", {}, "{}"),
        (deque(), "collections.deque", None, "<collections.deque>"),
        ({}, "dict", {}, "{}"),
        (set(), "set", [], "set()"),
        (frozenset(), "frozenset", [], "frozenset()"),
        ({"a"}, "set", ["a"], "{'a'}"),
        (frozenset([1.5]), "frozenset", [1.5], "{1.5}"),
        ({(1, 2)}, "set", None, "{(1, 2)}"),
        (datetime.date(1, 2, 3), "datetime.date", "0001-02-03", "0001-02-03"),
        (1.5 - 2j, "complex", "(1.5-2j)", "(1.5-2j)"),
        (complex("nan"), "complex", "(nan+0j)", "(nan+0j)"),
    ],
)
def test_known_classes(value: Any, type_: str, plain_value: Any, text: str, protocol: int) -> None:
    assert value_of(value, protocol)[1:4] == (type_, plain_value, text)


@pytest.mark.parametrize("name", sorted(name for name, value in vars(torch).items() if isinstance(value, torch.dtype)))
def test_every_dtype_of_torch(name: str) -> None:
    dtype = getattr(torch, name)
    found = value_of(dtype)
    if re.fullmatch("u?int[1-7]", str(dtype).removeprefix("torch.")):  # names without values: no tensor can have them
        assert found.text == str(dtype)
    else:
        assert found[1:4] == ("torch.dtype", str(dtype).removeprefix("torch."), str(dtype))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "path", ["", ".", "/", "a", "/a", "a/b", "/a/b", "..", "a b", "C:\\", "C:\\a\\b", "\\\\host\\share\\x"]
)
@pytest.mark.parametrize("cls", [pathlib.PurePosixPath, pathlib.PureWindowsPath, type(Path())])
def test_paths(path: str, cls: Any, protocol: int) -> None:
    found = value_of(cls(path), protocol)
    assert (found.value, found.text) == (str(cls(path)), repr(str(cls(path))))
    assert found.type.rpartition(".")[2] == cls.__name__


@settings(max_examples=60, deadline=None)
@given(st.datetimes(), st.sampled_from(PROTOCOLS), st.none() | st.integers(-1439, 1439))
def test_datetimes(value: datetime.datetime, protocol: int, minutes: int | None) -> None:
    if minutes is not None:
        value = value.replace(tzinfo=datetime.timezone(datetime.timedelta(minutes=minutes)))
    found = value_of(value, protocol)
    assert found[1:4] == ("datetime.datetime", str(value), str(value))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=40), st.sampled_from(PROTOCOLS), st.booleans())
def test_bytes(value: bytes, protocol: int, array: bool) -> None:
    """Told apart from ``bytearray`` in every protocol."""
    found = value_of(bytearray(value) if array else value, protocol)
    assert found[1:4] == ("bytearray" if array else "bytes", None, repr(value))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", [bytes, bytearray])
@pytest.mark.parametrize("length", [(1 << 14) - 1, 1 << 14])
def test_long_bytes(length: int, kind: type, protocol: int) -> None:
    found = value_of(kind(length), protocol)
    assert (found.type, found.value) == (kind.__name__, None)
    assert found.text in (repr(bytes(length)), f"{length:,} bytes")  # those that stay in the file are not read


# -- plain data --------------------------------------------------------------------------------------------

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.builds(lambda n, bits: n << bits, st.integers(-3, 3), st.integers(0, 8000)),
    st.floats(),
    st.text(st.integers(0, 0x10FFFF).map(chr), max_size=8),
    st.text(min_size=190, max_size=210),
)


@settings(max_examples=150, deadline=None)
@given(SCALARS, st.sampled_from(PROTOCOLS))
def test_plain_scalars(value: Any, protocol: int) -> None:
    found = value_of(value, protocol)
    assert found.type == type(value).__name__
    assert same(found.value, value)
    if isinstance(value, str):
        assert found.text == repr(value)
    else:  # Python itself refuses to print very long integers in decimal
        assert found.text == (hex(value) if type(value) is int and abs(value) >= 1 << 256 else repr(value))


@settings(max_examples=100, deadline=None)
@given(st.lists(SCALARS, max_size=12), st.sampled_from([list, tuple, set, frozenset]), st.sampled_from(PROTOCOLS))
def test_plain_sequences(items: list[Any], kind: Any, protocol: int) -> None:
    value = kind(items)
    found = value_of(value, protocol)
    assert found.type == kind.__name__
    assert sorted(map(repr, found.value)) == sorted(map(repr, value))
    if kind in (list, tuple):
        assert same(found.value, list(value))
        if len(items) <= 8 and not any(isinstance(item, (int, str)) for item in items):
            assert found.text == repr(value)


def test_containers_are_entered() -> None:
    nested = {
        "list": [1, [2, b"x"]],
        "dict": {1: "a", None: "b", (1, 2): "c"},
        "default": defaultdict(list, k=[1.5]),
        "counter": Counter("aab"),
        "deque": deque([1, 2]),
        "ordered": OrderedDict(k=torch.Size([1])),
    }
    found = {name: value.text for name, value in values_of(nested).items()}
    assert found == {
        "list/0": "1", "list/1/0": "2", "list/1/1": "b'x'",
        "dict/1": "'a'", "dict/None": "'b'", "dict/(1, 2)": "'c'",
        "default/k": "[1.5]", "counter/a": "2", "counter/b": "1", "deque/0": "1", "deque/1": "2",
        "ordered/k": "torch.Size([1])",
    }  # fmt: skip


# -- JSON --------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    st.recursive(
        SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    )
)
def test_safe(value: Any) -> None:
    """Strict JSON, and every value can be told from it again."""
    again = json.loads(json.dumps(safe(value), allow_nan=False))
    assert again == expected(value)


def expected(value: Any) -> Any:
    if isinstance(value, list):
        return [expected(item) for item in value]
    if isinstance(value, dict):
        return {key: expected(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if type(value) is int and abs(value) > 2**53:
        return str(value)
    return value
