"""Every attack of formats 1.3, 1.4 and 13 that we know of, and the ones found since: a name, bytes, what must come of it.

``ATTACKS[name].write(directory)`` makes the file, or directory, and returns its path.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from .build import (
    APPEND,
    APPENDS,
    BUILD,
    DICT,
    DUP,
    EMPTY,
    FALSE,
    FLOATS,
    LIST,
    MAGIC,
    MARK,
    MEMOIZE,
    NEWOBJ,
    NONE,
    ORDERED,
    PID,
    POP,
    PROTO,
    REBUILD,
    REDUCE,
    SET,
    SETITEM,
    SETITEMS,
    STOP,
    TRUE,
    Member,
    archive,
    call,
    checkpoint,
    dict_of,
    entry,
    get,
    legacy,
    list_of,
    members,
    module,
    name,
    nested,
    new,
    number,
    pickled,
    put,
    safetensors,
    script,
    sizes,
    storage,
    tar,
    tar_storages,
    tar_tensors,
    tensor,
    text,
    tower,
    tuple_of,
)

CORRUPT, LIMIT, FORMAT, UNSUPPORTED, OPENS = "CorruptError", "LimitError", "FormatError", "UnsupportedError", ""


class Attack(NamedTuple):
    """What is written, the error that must come of it (``""``: it opens), and words of the message or of a problem."""

    write: Callable[[Path], Path]
    error: str
    says: str


ATTACKS: dict[str, Attack] = {}


def add(name: str, make: Callable[[], bytes], error: str = OPENS, says: str = "", file: str = "attack.pt") -> None:
    def write(directory: Path) -> Path:
        path = directory / file
        path.write_bytes(make())
        return path

    add_path(name, write, error, says)


def add_path(name: str, write: Callable[[Path], Path], error: str = OPENS, says: str = "") -> None:
    if name in ATTACKS:
        raise ValueError(f"two attacks called {name!r}")
    ATTACKS[name] = Attack(write, error, says)


GOOD = tensor()  # so that a file has something to show
PAIR, TRIPLE = b"\x86", b"\x87"


def beside(*value: bytes) -> bytes:
    """A checkpoint with a tensor and a value of the attacker's."""
    return checkpoint(dict_of(text("weight"), GOOD, text("x"), b"".join(value)))


# -- sharing: a few bytes that stand for more leaves than there are atoms ---------------------------------

LEAVES = {"number": number(1), "tensor": GOOD, "list": list_of(number(1)), "dict": dict_of(text("k"), number(1))}
JOINS = {
    "tuples": PAIR,
    "lists": PAIR + put(9) + POP + LIST + get(9) + APPEND,
    "dicts": PAIR + put(9) + POP + DICT + MARK + text("a") + get(9) + text("b") + get(9) + SETITEMS,
    "objects": PAIR + put(9) + POP + new(name("m", "C"), dict_of(text("a"), get(9), text("b"), get(9))),
    "calls": PAIR + put(9) + POP + name("m", "f") + get(9) + REDUCE,
    "sets": PAIR + put(9) + POP + MARK + get(9) + get(9) + b"\x91",
}
for leaf, leaf_code in LEAVES.items():
    for join, join_code in JOINS.items():
        add(
            f"bomb of {join} over a {leaf}",
            lambda a=leaf_code, b=join_code: beside(tower(a, 150, b)),
            LIMIT,
            "expand without end",
        )
BOMB = tower(number(1), 150, PAIR)
DEEP = number(1) + b"\x85" * 100_000
for kind, code in {"bomb": BOMB, "deep tuple": DEEP, "recursive list": LIST + put(5) + get(5) + APPEND,
                   "huge int": number(1 << 8000), "surrogate": text(b"\xed\xa0\x80"), "list": LIST, "dict": DICT,
                   "set": SET, "global": name("os", "system"), "call": call(name("os", "system"), text("x")),
                   "pid": storage(), "NaN": b"G\x7f\xf8" + bytes(6), "bytes": b"B\x02\0\0\0ab", "None": NONE}.items():  # fmt: skip
    places: dict[str, bytes] = {
        "a root": code,
        "a value": dict_of(text("weight"), GOOD, text("x"), code),
        "a key": dict_of(text("weight"), GOOD, code, number(1)),
        "a key of a tensor": dict_of(code, GOOD),
        "a set item": dict_of(text("weight"), GOOD, text("x"), SET + MARK + code + b"\x90"),
        "a frozenset item": dict_of(text("weight"), GOOD, text("x"), MARK + code + b"\x91"),
        "the argument of a set": dict_of(text("weight"), GOOD, text("x"), name("builtins", "set") + code + b"\x85R"),
        "an argument of a call": dict_of(text("x"), call(name("m", "f"), code)),
        "all arguments of a call": dict_of(text("x"), name("m", "f") + code + REDUCE),
        "a callee": dict_of(text("x"), code + EMPTY + REDUCE),
        "a callee of NEWOBJ": dict_of(text("x"), code + EMPTY + NEWOBJ),
        "arguments of NEWOBJ_EX": dict_of(text("x"), name("m", "C") + code + code + b"\x92"),
        "a state": dict_of(text("x"), new(name("m", "C"), code)),
        "a state of a state_dict": dict_of(text("x"), ORDERED + code + BUILD),
        "its own _metadata": ORDERED + MARK + text("w") + GOOD + SETITEMS + dict_of(text("_metadata"), code) + BUILD,
        "an entry of _metadata": ORDERED + MARK + text("w") + GOOD + SETITEMS
        + dict_of(text("_metadata"), ORDERED + MARK + code + code + text("") + code + SETITEMS) + BUILD,
        "a persistent id": dict_of(text("x"), code + PID),
        "a persistent id of one": dict_of(text("x"), tuple_of(code) + PID),
        "a storage class": tensor(storage(kind=code)),
        "a storage key": tensor(storage(key=code)),
        "a storage device": tensor(storage(device=code)),
        "a storage numel": tensor(storage(numel=code)),
        "a sixth of a storage": tensor(storage("0", 4, FLOATS, "cpu", code)),
        "a storage": tensor(code),
        "an offset": tensor(offset=code),
        "a size": tensor(size=code),
        "one size": tensor(size=tuple_of(code)),
        "a torch.Size": tensor(size=call(name("torch", "Size"), code)),
        "a stride": tensor(stride=code),
        "one stride": tensor(stride=tuple_of(code)),
        "requires_grad": call(REBUILD, storage(), number(0), sizes(4), sizes(1), code, ORDERED),
        "hooks": call(REBUILD, storage(), number(0), sizes(4), sizes(1), FALSE, code),
        "tensor metadata": tensor(None, sizes(4), sizes(1), number(0), code),
        "all arguments of a tensor": REBUILD + code + REDUCE,
        "a v3 dtype": call(name("torch._utils", "_rebuild_tensor_v3"), storage(), number(0), sizes(4), sizes(1), FALSE, ORDERED, code),
        "a parameter": call(name("torch._utils", "_rebuild_parameter"), code, TRUE, ORDERED),
        "a parameter's state": call(name("torch._utils", "_rebuild_parameter_with_state"), GOOD, TRUE, ORDERED, code),
        "a tensor's class": call(name("torch._tensor", "_rebuild_from_type_v2"), REBUILD, code,
                                 tuple_of(storage(), number(0), sizes(4), sizes(1), FALSE, ORDERED), DICT),
        "a tensor's function": call(name("torch._tensor", "_rebuild_from_type_v2"), code, name("torch", "Tensor"), EMPTY, DICT),
        "a tensor's state": call(name("torch._tensor", "_rebuild_from_type_v2"), REBUILD, name("torch", "Tensor"),
                                 tuple_of(storage(), number(0), sizes(4), sizes(1), FALSE, ORDERED), dict_of(text("a"), code)),
        "a layout": call(name("torch._utils", "_rebuild_sparse_tensor"), code, tuple_of(GOOD, GOOD, sizes(4))),
        "a sparse tensor": call(name("torch._utils", "_rebuild_sparse_tensor"),
                                call(name("torch.serialization", "_get_layout"), text("torch.sparse_coo")), code),
        "a name of a layout": call(name("torch._utils", "_rebuild_sparse_tensor"),
                                   call(name("torch.serialization", "_get_layout"), code), tuple_of(GOOD, GOOD, sizes(4))),
        "quantizer": call(name("torch._utils", "_rebuild_qtensor"), storage(kind=name("torch", "QInt32Storage")), number(0), sizes(4),
                          sizes(1), code, FALSE, ORDERED),
        "a scale": call(name("torch._utils", "_rebuild_qtensor"), storage(kind=name("torch", "QInt32Storage")), number(0), sizes(4),
                        sizes(1), tuple_of(name("torch", "per_channel_affine"), code, GOOD, number(0)), FALSE, ORDERED),
        "a nested tensor": call(name("torch._utils", "_rebuild_nested_tensor"), GOOD, code, GOOD, GOOD),
        "a meta tensor": call(name("torch._utils", "_rebuild_meta_tensor_no_storage"), name("torch", "float32"), code, code, FALSE),
        "a numpy array": call(name("torch._utils", "_rebuild_device_tensor_from_numpy"), code, name("torch", "float32"), text("xla:0"), FALSE),
        "a device": call(name("torch._utils", "_rebuild_device_tensor_from_cpu_tensor"), GOOD, name("torch", "float32"), code, FALSE),
        "a wrapper": call(name("torch._tensor", "_rebuild_from_type_v2"), name("torch._utils", "_rebuild_wrapper_subclass"), name("m", "C"),
                          code, DICT),
        "a jagged tensor": call(name("torch._tensor", "_rebuild_from_type_v2"),
                                name("torch.nested._internal.nested_tensor", "_rebuild_njt"), name("m", "C"), tuple_of(code), DICT),
        "an ancient tensor": new(name("torch", "FloatTensor"), code),
        "an ancient Parameter": name("torch.nn.parameter", "Parameter") + code + b"\x85R",
        "parameters of a module": module(parameters=code),
        "a parameter of a module": module(parameters=dict_of(text("w"), code)),
        "a name of a parameter": module(parameters=dict_of(code, GOOD)),
        "modules of a module": module(modules=code),
        "a child of a module": module(modules=dict_of(text("c"), code)),
        "a name of a child": module(modules=dict_of(code, module(parameters=dict_of(text("w"), GOOD)))),
        "buffers of a module": module(buffers=dict_of(text("b"), code)),
        "names of transient buffers": module(buffers=dict_of(text("b"), GOOD),
                                             more=text("_non_persistent_buffers_set") + call(name("builtins", "set"), code)),
        "an attribute of a module": module(more=text("x") + code),
        "a known attribute of a module": module(more=text("training") + code + text("_forward_hooks") + code),
        "a fact of a layer": new(name("torch.nn.modules.linear", "Linear"), dict_of(
            text("_parameters"), DICT, text("_buffers"), DICT, text("_modules"), DICT, text("in_features"), code, text("out_features"), code)),
        "param_groups": dict_of(text("state"), DICT, text("param_groups"), code),
        "a param_group": dict_of(text("state"), dict_of(number(0), dict_of(text("exp_avg"), GOOD)), text("param_groups"), list_of(code)),
        "params of a group": dict_of(text("state"), dict_of(number(0), dict_of(text("exp_avg"), GOOD)), text("param_groups"),
                                     list_of(dict_of(text("lr"), code, text("params"), code, text("param_names"), code))),
        "one of the params": dict_of(text("m"), dict_of(text("w"), GOOD), text("state"),
                                     dict_of(number(0), dict_of(text("exp_avg"), GOOD)), text("param_groups"),
                                     list_of(dict_of(text("params"), list_of(code), text("param_names"), list_of(code)))),
        "state of an optimizer": dict_of(text("state"), code, text("param_groups"), LIST),
        "a parameter's number": dict_of(text("state"), dict_of(code, dict_of(text("exp_avg"), GOOD)), text("param_groups"), list_of(
            dict_of(text("params"), list_of(number(0)), text("param_names"), list_of(text("w"))))),
        "arguments of numpy.dtype": dict_of(text("w"), GOOD, text("x"), call(
            name("numpy.core.multiarray", "scalar"), name("numpy", "dtype") + code + REDUCE, text("abcd"))),
        "a numpy.dtype": dict_of(text("w"), GOOD, text("x"), call(name("numpy.core.multiarray", "scalar"),
                                                                  call(name("numpy", "dtype"), code), text("abcd"))),
        "bytes of a numpy scalar": dict_of(text("w"), GOOD, text("x"), call(
            name("numpy.core.multiarray", "scalar"), call(name("numpy", "dtype"), text("f4")), code)),
        "a state of a numpy array": dict_of(text("w"), GOOD, text("x"), call(
            name("numpy.core.multiarray", "_reconstruct"), name("numpy", "ndarray"), sizes(0), text("b")) + code + BUILD),
        "a shape of a numpy array": dict_of(text("w"), GOOD, text("x"), call(
            name("numpy.core.multiarray", "_reconstruct"), name("numpy", "ndarray"), sizes(0), text("b"))
            + tuple_of(number(1), code, call(name("numpy", "dtype"), text("f4")), FALSE, text("abcd")) + BUILD),
        "a dimension of a numpy array": dict_of(text("w"), GOOD, text("x"), call(
            name("numpy.core.multiarray", "_reconstruct"), name("numpy", "ndarray"), sizes(0), text("b"))
            + tuple_of(number(1), tuple_of(code), call(name("numpy", "dtype"), text("f4")), FALSE, text("abcd")) + BUILD),
        "what _codecs encodes": dict_of(text("w"), GOOD, text("x"), call(name("_codecs", "encode"), code, text("latin1"))),
        "an encoding": dict_of(text("w"), GOOD, text("x"), call(name("_codecs", "encode"), text("x"), code)),
        "bytes": dict_of(text("w"), GOOD, text("x"), call(name("builtins", "bytes"), code)),
        "a datetime": dict_of(text("w"), GOOD, text("x"), call(name("datetime", "datetime"), code)),
        "a complex": dict_of(text("w"), GOOD, text("x"), call(name("builtins", "complex"), code, code)),
        "a torch.device": dict_of(text("w"), GOOD, text("x"), call(name("torch", "device"), code, code)),
        "a path": dict_of(text("w"), GOOD, text("x"), call(name("pathlib", "PosixPath"), code, code)),
        "pairs of an OrderedDict": name("collections", "OrderedDict") + code + b"\x85R",
        "a class for copyreg": dict_of(text("w"), GOOD, text("x"), call(name("copyreg", "_reconstructor"), code, code, code)),
        "a graph module": dict_of(text("w"), GOOD, text("x"), call(name("torch.fx.graph_module", "reduce_graph_module"), code)),
    }  # fmt: skip
    for place, body in places.items():
        add(f"{kind} as {place}", lambda body=body: checkpoint(body), "*")


# -- depth, cycles ---------------------------------------------------------------------------------------

for kind, (open_, close) in {
    "tuples": (b"", b"\x85"),
    "lists": (LIST, APPEND),
    "dicts": (DICT + text("k"), SETITEM),
    "objects": (name("m", "C") + EMPTY + NEWOBJ, BUILD),
    "calls": (name("m", "f"), b"\x85R"),
    "bytes": (name("builtins", "bytes"), b"\x85R"),
    "codecs": (name("_codecs", "encode"), text("latin1") + PAIR + REDUCE),
    "ordered dicts": (ORDERED + text("k"), SETITEM),
    "parameters": (name("torch._utils", "_rebuild_parameter"), TRUE + ORDERED + TRIPLE + REDUCE),
    "frozensets": (MARK, b"\x91"),
    "persistent ids": (b"", PID),
    "marks": (MARK, b"t"),
}.items():
    for depth in (150, 500, 100_000 if open_ else 1_000_000):
        body = open_ * depth + NONE + close * depth
        add(f"{depth:,} nested {kind}", lambda body=body: beside(body), "*")
for depth in (150, 500, 20_000):
    inner = module(parameters=dict_of(text("w"), GOOD))
    head, tail = module(modules=dict_of(text("c"), text("HERE"))).split(text("HERE"))
    add(f"{depth:,} nested modules", lambda d=depth, a=head, b=inner, c=tail: checkpoint(a * d + b + c * d),
        OPENS if depth < 200 else LIMIT, "" if depth < 200 else "nested")  # fmt: skip
SELF = get(7)
for kind, code in {
    "list": LIST + put(7) + SELF + APPEND,
    "dict": DICT + put(7) + text("k") + SELF + SETITEM,
    "tuple by a list": LIST + put(7) + SELF + b"\x85" + APPEND,
    "state": name("m", "C") + EMPTY + NEWOBJ + put(7) + dict_of(text("me"), SELF) + BUILD,
    "state itself": name("m", "C") + EMPTY + NEWOBJ + put(7) + SELF + BUILD,
    "items": ORDERED + put(7) + text("k") + SELF + SETITEM,
    "metadata": ORDERED + put(7) + MARK + text("w") + GOOD + SETITEMS + dict_of(text("_metadata"), SELF) + BUILD,
    "metadata entry": ORDERED + put(7) + MARK + text("w") + GOOD + SETITEMS
    + dict_of(text("_metadata"), ORDERED + text("") + SELF + SETITEM) + BUILD,
    "argument": LIST + put(7) + name("m", "f") + SELF + b"\x85R" + APPEND,
    "set": LIST + put(7) + MARK + SELF + b"\x91" + APPEND,
    "key": DICT + put(7) + SELF + NONE + SETITEM,
    "param_groups": DICT + put(7) + MARK + text("state") + SELF + text("param_groups") + LIST + SELF + APPEND + SETITEMS,
    "bytes": LIST + put(7) + name("builtins", "bytes") + SELF + b"\x85R" + APPEND,
}.items():  # fmt: skip
    add(f"cycle through a {kind}", lambda code=code: checkpoint(code))
    add(
        f"cycle through a {kind}, in TorchScript",
        lambda code=code: script(new(name("__torch__", "M"), dict_of(text("x"), code))),
    )
MODULE_STATE = dict_of(text("_parameters"), dict_of(text("w"), GOOD), text("_buffers"), DICT, text("_modules"),
                       dict_of(text("c"), get(7)))  # fmt: skip
add(
    "module that holds itself",
    lambda: checkpoint(name("m", "M") + EMPTY + NEWOBJ + put(7) + MODULE_STATE + BUILD),
    OPENS,
    "holds itself",
)
add("modules bomb", lambda: checkpoint(
    tower(module(parameters=dict_of(text("w"), GOOD)), 60, PAIR + put(9) + POP + module(modules=dict_of(
        text("a"), get(9) , text("b"), get(9))))), "*")  # fmt: skip
SHARED_MODULES = tower(module(parameters=dict_of(text("w"), GOOD)), 60, put(9) + POP + POP + module(
    modules=dict_of(text("a"), get(9), text("b"), get(9))))  # fmt: skip
add("modules that hold each other twice", lambda: checkpoint(SHARED_MODULES), LIMIT, "expand without end")
add("scripted modules that hold each other twice", lambda: script(tower(
    new(name("__torch__", "M"), dict_of(text("w"), GOOD)), 60,
    put(9) + POP + POP + new(name("__torch__", "M"), dict_of(text("a"), get(9), text("b"), get(9)))),
    code=b"class M(Module):\n  __parameters__ = []\n"), LIMIT, "expand without end")  # fmt: skip
add("scripted objects that hold each other twice", lambda: script(new(name("__torch__", "M"), dict_of(text("x"), tower(
    number(1), 60, put(9) + POP + POP + list_of(get(9), get(9)))))), LIMIT, "expand without end")  # fmt: skip
add(
    "scripted build_tensorlist 100,000 deep",
    lambda: script(
        new(
            name("__torch__", "M"),
            dict_of(text("x"), name("torch.jit._pickle", "build_tensorlist") * 100_000 + LIST + b"\x85R" * 100_000),
        )
    ),
)
for calls in ("_rebuild_parameter_with_state", "_rebuild_from_type_v2"):
    join = put(9) + POP + POP + (
        call(name("torch._utils", calls), get(9), TRUE, ORDERED, dict_of(text("a"), get(9), text("b"), get(9)))
        if calls == "_rebuild_parameter_with_state" else
        call(name("torch._tensor", calls), REBUILD, name("m", "C"), tuple_of(storage(), number(0), sizes(4), sizes(1), FALSE, ORDERED),
             dict_of(*(text(f"{i}") + get(9) for i in range(16))))
    )  # fmt: skip
    add(
        f"bomb of tensors as attributes, {calls}",
        lambda join=join: checkpoint(dict_of(text("w"), tower(GOOD, 60, join))),
        "*",
    )


# -- the same again and again: what is cheap once must be cheap each time --------------------------------


def often(value: bytes, count: int, key: bytes = b"") -> bytes:
    """A list of one object by its memo; with a key, a dict that has it under one key."""
    return value + put(3) + POP + LIST + MARK + (key + get(3)) * count + APPENDS


LONG_TEXT = text("a" * 400_000)
MANY = 100_000
for kind, code in {
    "a long string": LONG_TEXT,
    "long Python 2 text": b"T" + struct.pack("<i", 400_000) + b"a" * 400_000,
    "long latin1 bytes": call(name("_codecs", "encode"), LONG_TEXT, text("latin1")),
    "bytes of long text": call(name("builtins", "bytearray"), LONG_TEXT),
    "a list of numbers": list_of(number(1) * MANY),
    "a tuple of texts": MARK + LONG_TEXT + put(4) + get(4) * 50_000 + b"t",
    "a set of numbers": call(name("builtins", "set"), list_of(number(1) * MANY)),
    "an EMPTY_SET of numbers": SET + MARK + number(1) * MANY + b"\x90",
    "a torch.Size": call(name("torch", "Size"), MARK + number(1) * MANY + b"t"),
    "a torch.device": call(name("torch", "device"), *[LONG_TEXT + put(4), *[get(4)] * 5000]),
    "a path": call(name("pathlib", "PosixPath"), *[LONG_TEXT + put(4), *[get(4)] * 5000]),
    "an object of scalars": new(name("m", "C"), dict_of(*[text("k") + NONE] * 50_000)),
    "an object with many states": name("m", "C") + EMPTY + NEWOBJ + (NONE + BUILD) * MANY,
    "an object with one state many times": name("m", "C") + EMPTY + NEWOBJ + dict_of(*[text("k") + NONE] * 10_000) + put(4) + BUILD
    + (get(4) + BUILD) * MANY,
    "a state_dict of metadata": ORDERED + dict_of(text("_metadata"), ORDERED + MARK + (text("") + NONE) * 50_000 + SETITEMS) + BUILD,
    "a call with many arguments": name("m", "f") + MARK + number(1) * MANY + b"tR",
    "an OrderedDict of pairs": call(name("collections", "OrderedDict"), list_of(*[sizes(1, 2)] * 40_000)),
    "a tensor of a million dimensions": tensor(size=MARK + number(1) * 200_000 + b"t", stride=MARK + number(1) * 200_000 + b"t"),
    "a tensor with listed dimensions": tensor(size=LIST + MARK + number(1) * 200_000 + b"e", stride=LIST + MARK + number(1) * 200_000 + b"e"),
    "a tensor with hints": tensor(None, sizes(4), sizes(1), number(0), dict_of(*[text("k") + NONE] * 50_000)),
    "a tensor of a long name": call(name("torch._tensor", "_rebuild_from_type_v2"), REBUILD, name("m", "C" * 900),
                                    tuple_of(storage(), number(0), sizes(4), sizes(1), FALSE, ORDERED), DICT),
    "a tensor that does not fit": tensor(storage(key="k" * 400_000), sizes(1000)),
    "a tensor with attributes": call(name("torch._utils", "_rebuild_parameter_with_state"), GOOD, TRUE, ORDERED,
                                     dict_of(*[text("k") + NONE] * 50_000)),
    "a tensor with tensors": call(name("torch._utils", "_rebuild_parameter_with_state"), GOOD, TRUE, ORDERED,
                                  GOOD + put(4) + POP + DICT + MARK + b"".join(text(str(i)) + get(4) for i in range(5000)) + SETITEMS),
    "a storage of a long key": storage(key="k" * 400_000),
    "a storage on a long device": tensor(storage(device="k" * 400_000)),
    "a module of parameters": GOOD + put(4) + POP + module(parameters=DICT + MARK + b"".join(text(str(i)) + get(4) for i in range(20_000)) + SETITEMS),
    "a module of attributes": module(more=b"".join(text(f"a{i}") + NONE for i in range(20_000))),
    "a numpy array": call(name("numpy.core.multiarray", "_reconstruct"), name("numpy", "ndarray"), sizes(0), text("b")) + tuple_of(
        number(1), sizes(1000), call(name("numpy", "dtype"), text("u1")), FALSE, b"B" + struct.pack("<I", 1000) + bytes(1000)) + BUILD,
    "a numpy array of a dtype with states": call(name("numpy.core.multiarray", "_reconstruct"), name("numpy", "ndarray"), sizes(0), text("b"))
    + tuple_of(number(1), sizes(1), call(name("numpy", "dtype"), text("u1")) + (NONE + BUILD) * MANY, FALSE, text("a")) + BUILD,
    "a dict of dicts": DICT + put(4) + POP + dict_of(*[text(str(i)) + get(4) for i in range(20_000)]),
    "a list of dicts": DICT + put(4) + POP + list_of(get(4) * 20_000),
    "an optimizer": dict_of(text("state"), DICT, text("param_groups"), LIST),
    "an empty state_dict": ORDERED + dict_of(text("_metadata"), ORDERED) + BUILD,
    "a layer of a long fact": new(name("torch.nn.modules.linear", "Linear"), dict_of(
        text("_parameters"), DICT, text("_buffers"), DICT, text("_modules"), DICT, text("in_features"), MARK + number(1) * MANY + b"t")),
    "a GLOBAL": name("m", "C" * 900),
    "a persistent id": tuple_of(LONG_TEXT) + PID,
}.items():  # fmt: skip
    add(f"{kind}, 100,000 times", lambda code=code: checkpoint(often(code, MANY)), "*")
    add(
        f"{kind}, as 50,000 keys",
        lambda code=code: beside(code + put(3) + POP + DICT + MARK + (get(3) + NONE) * 50_000 + SETITEMS),
        "*",
    )
    add(
        f"{kind}, in 20,000 state_dicts",
        lambda code=code: checkpoint(
            text("k")
            + put(8)
            + POP
            + code
            + put(3)
            + POP
            + LIST
            + MARK
            + (DICT + get(8) + get(3) + SETITEM) * 20_000
            + APPENDS
        ),
        "*",
    )
    add(
        f"{kind}, in 20,000 modules",
        lambda code=code: checkpoint(
            text("k")
            + put(8)
            + POP
            + code
            + put(3)
            + POP
            + DICT
            + put(10)
            + POP
            + name("m", "M")
            + put(11)
            + POP
            + b"".join(text(t) + put(12 + i) + POP for i, t in enumerate(("_parameters", "_buffers", "_modules")))
            + LIST
            + MARK
            + (
                get(11)
                + EMPTY
                + NEWOBJ
                + DICT
                + MARK
                + b"".join(get(12 + i) + get(10) for i in range(3))
                + get(8)
                + get(3)
                + SETITEMS
                + BUILD
            )
            * 20_000
            + APPENDS
        ),
        "*",
    )
for kind, key in {"long keys": "k" * 5000, "short keys": "k", "dotted keys": "a." * 2000}.items():
    nest = DICT + text(key) + put(5) + (DICT + get(5)) * 180
    body = nest + list_of(*[sizes(1)] * 20_000, DICT + text("w") + GOOD + SETITEM) + SETITEM * 181
    add(f"{kind} on each of 180 levels", lambda body=body: checkpoint(body), "*")
    body = (
        nest + GOOD + put(6) + POP + LIST + MARK + (DICT + get(5) + get(6) + SETITEM) * 20_000 + APPENDS + SETITEM * 181
    )
    add(f"20,000 state_dicts below 180 levels of {kind}", lambda body=body: checkpoint(body), "*")
    body = (
        nest
        + GOOD
        + put(6)
        + POP
        + DICT
        + MARK
        + b"".join(text(str(i)) + get(6) for i in range(40_000))
        + SETITEMS
        + SETITEM * 181
    )
    add(f"a state_dict of 40,000 below 180 levels of {kind}", lambda body=body: checkpoint(body), "*")
    deep = module(modules=dict_of(get(5), text("HERE"))).split(text("HERE"))
    body = (
        text(key)
        + put(5)
        + POP
        + deep[0] * 180
        + GOOD
        + put(6)
        + POP
        + module(parameters=DICT + MARK + b"".join(text(str(i)) + get(6) for i in range(20_000)) + SETITEMS)
        + deep[1] * 180
    )
    add(f"a module of 20,000 below 180 modules of {kind}", lambda body=body: checkpoint(body), "*")
add("20,000 optimizers with 20,000 values", lambda: checkpoint(
    dict_of(text("state"), DICT, text("param_groups"), LIST) + put(3) + POP + text("state") + put(4) + POP + text("param_groups") + put(5) + POP
    + dict_of(text("a"), LIST + MARK + (DICT + MARK + get(4) + DICT + get(5) + LIST + SETITEMS) * 20_000 + APPENDS,
              text("b"), LIST + MARK + (DICT + NONE + NONE + SETITEM) * 20_000 + APPENDS)), "*")  # fmt: skip
add(
    "an optimizer with 20,000 groups",
    lambda: checkpoint(
        dict_of(
            text("m"),
            GOOD + put(4) + POP + DICT + MARK + b"".join(text(f"w{i}") + get(4) for i in range(5_000)) + SETITEMS,
            text("o"),
            dict_of(
                text("state"),
                DICT,
                text("param_groups"),
                text("params")
                + put(3)
                + POP
                + LIST
                + MARK
                + (DICT + get(3) + list_of(number(0)) + SETITEM) * 2_000
                + (DICT + get(3) + LIST + SETITEM) * 20_000
                + APPENDS,
            ),
        )
    ),
    "*",
)
add(
    "an optimizer with 40 groups of 100",
    lambda: checkpoint(
        dict_of(
            text("m"),
            GOOD + put(4) + POP + DICT + MARK + b"".join(text(f"w{i}") + get(4) for i in range(5_000)) + SETITEMS,
            text("o"),
            dict_of(
                text("state"),
                DICT,
                text("param_groups"),
                text("params")
                + put(3)
                + POP
                + LIST
                + MARK
                + (DICT + get(3) + list_of(*[number(i) for i in range(100)]) + SETITEM) * 40
                + APPENDS,
            ),
        )
    ),
    "*",
)
add(
    "an optimizer and 20,000 state_dicts",
    lambda: checkpoint(
        dict_of(
            text("m"),
            GOOD
            + put(4)
            + POP
            + text("w")
            + put(5)
            + POP
            + LIST
            + MARK
            + (DICT + get(5) + get(4) + SETITEM) * 20_000
            + APPENDS,
            text("o"),
            text("params")
            + put(3)
            + POP
            + text("state")
            + put(6)
            + POP
            + text("param_groups")
            + put(7)
            + POP
            + LIST
            + MARK
            + (
                DICT
                + MARK
                + get(6)
                + DICT
                + get(7)
                + LIST
                + DICT
                + get(3)
                + list_of(number(0))
                + SETITEM
                + APPEND
                + SETITEMS
            )
            * 5_000
            + APPENDS,
        )
    ),
    "*",
)
add(
    "20,000 storages of two types",
    lambda: checkpoint(
        text("storage")
        + put(3)
        + POP
        + FLOATS
        + put(4)
        + POP
        + name("torch", "LongStorage")
        + put(5)
        + POP
        + text("cpu")
        + put(6)
        + POP
        + LIST
        + MARK
        + b"".join(
            (MARK + get(3) + get(kind) + text(str(i)) + get(6) + number(4) + b"t" + PID)
            for i in range(10_000)
            for kind in (4, 5)
        )
        + APPENDS
    ),
    "*",
)
add(
    "one state_dict as 60,000 entries of a list of lists",
    lambda: checkpoint(
        dict_of(text("w"), GOOD)
        + put(3)
        + POP
        + often(LIST + MARK + get(3) * 300 + APPENDS, 1)
        + put(4)
        + POP
        + LIST
        + MARK
        + get(4) * 60_000
        + APPENDS
    ),
    "*",
)
add("BUILD of one class 300,000 times", lambda: beside(name("m", "C") + (NONE + BUILD) * 300_000))
add(
    "metadata of 20,000 paths that share 20,000 facts",
    lambda: checkpoint(
        dict_of(*[text(str(i)) + NONE for i in range(20_000)])
        + put(3)
        + POP
        + ORDERED
        + MARK
        + text("w")
        + GOOD
        + SETITEMS
        + dict_of(text("_metadata"), ORDERED + MARK + b"".join(text(str(i)) + get(3) for i in range(20_000)) + SETITEMS)
        + BUILD
    ),
    "*",
)
add("a megabyte of None beside a dict", lambda: beside(list_of(DICT, NONE * 900_000)), "*")
add("a megabyte of empty dicts", lambda: beside(list_of(DICT * 900_000)), "*")
add("a megabyte of empty sets", lambda: beside(list_of(SET * 900_000)), "*")
add("a megabyte of marks", lambda: beside(MARK * 900_000), CORRUPT)
add("a megabyte of MEMOIZE", lambda: beside(NONE + MEMOIZE * 900_000))
add("a megabyte of calls", lambda: beside(NONE + (DUP + REDUCE) * 450_000), "*")
add("a megabyte of persistent ids", lambda: beside(NONE + PID * 900_000), "*")
add("a megabyte of short strings", lambda: beside(list_of(b"U\x01a" * 300_000), "*")) if False else None
add("a megabyte of names", lambda: beside(list_of(*[name("m", "C")] * 180_000)), "*")
add("a megabyte of distinct names", lambda: beside(list_of(*[name("m", f"C{i}") for i in range(90_000)])), "*")
add(
    "a megabyte of tensors",
    lambda: checkpoint(
        GOOD + put(3) + POP + DICT + MARK + b"".join(text(str(i)) + get(3) for i in range(80_000)) + SETITEMS
    ),
    "*",
)
add(
    "a megabyte of storages",
    lambda: checkpoint(
        text("storage")
        + put(3)
        + POP
        + FLOATS
        + put(4)
        + POP
        + text("cpu")
        + put(6)
        + POP
        + LIST
        + MARK
        + b"".join((MARK + get(3) + get(4) + text(str(i)) + get(6) + number(4) + b"t" + PID) for i in range(40_000))
        + APPENDS
    ),
    "*",
)
add(
    "keys that collide as numbers",
    lambda: beside(dict_of(*[number(k * (2**61 - 1)) + NONE for k in range(1, 40_000)])),
    "*",
)
add(
    "memo indices that collide",
    lambda: beside(NONE + b"".join(b"p%d\n" % (k * (2**61 - 1)) for k in range(1, 30_000))),
    CORRUPT,
    "memo index",
)


# -- opcodes ---------------------------------------------------------------------------------------------

BIG = 1 << 62
for opcode, length in {
    "BINUNICODE": b"X\xff\xff\xff\xff", "BINUNICODE8": b"\x8d" + b"\xff" * 8, "BINBYTES": b"B\xff\xff\xff\xff",
    "BINBYTES8": b"\x8e" + b"\xff" * 8, "BYTEARRAY8": b"\x96" + b"\xff" * 8, "BINSTRING": b"T\xff\xff\xff\x7f",
    "negative BINSTRING": b"T\xff\xff\xff\xff", "SHORT_BINSTRING": b"U\xff", "SHORT_BINBYTES": b"C\xff",
    "SHORT_BINUNICODE": b"\x8c\xff", "LONG1": b"\x8a\xff", "LONG4": b"\x8b\xff\xff\xff\x7f", "negative LONG4": b"\x8b\xff\xff\xff\xff",
    "FRAME": b"\x95" + b"\xff" * 8, "INT": b"I" + b"9" * 100_000, "LONG": b"L" + b"9" * 100_000, "FLOAT": b"F" + b"9" * 100_000,
    "GLOBAL": b"c" + b"a" * 100_000, "STRING": b"S'" + b"a" * 100_000,
}.items():  # fmt: skip
    add(f"{opcode} longer than the file", lambda code=length: beside(code), CORRUPT)
    add(f"{opcode} longer than a plain pickle", lambda code=length: pickled(list_of(name("a", "b"), code)), CORRUPT)
for label, body in {
    "LONG4 of a megabyte": b"\x8b" + struct.pack("<i", 900_000) + b"\x7f" * 900_000,
    "LONG with 900,000 digits": b"L" + b"9" * 900_000 + b"L\n",
    "INT with 5,000 digits": b"I" + b"9" * 5000 + b"\n",
    "FLOAT with 900,000 digits": b"F" + b"9" * 900_000 + b"\n",
    "INT that is no number": b"I" + b"x" * 2000 + b"\n",
    "FLOAT that is no number": b"F" + b"x" * 1000 + b"\n",
    "LONG that is no number": b"L\n",
    "GET of text": b"gx\n",
    "GET of a huge index": b"g" + b"9" * 2000 + b"\n",
    "PUT of a negative index": NONE + b"p-1\n",
    "GET of nothing": b"g77\n",
    "BINGET of nothing": b"h\x4d",
    "LONG_BINGET of nothing": b"j\xff\xff\xff\xff",
    "EXT1": b"\x82\x01", "EXT2": b"\x83\x01\x00", "EXT4": b"\x84\x01\0\0\0", "EXT4 negative": b"\x84\xff\xff\xff\xff",
    "NEXT_BUFFER": b"\x97", "READONLY_BUFFER": NONE + b"\x98", "an unknown opcode": b"\xff", "opcode 0": b"\0",
    "STRING without quotes": b"Sabc\n", "STRING with one quote": b"S'\n", "STRING with a bad escape": b"S'\\x4'\n",
    "UNICODE beyond Unicode": b"V\\U7fffffff\n", "BINUNICODE that is no UTF-8": b"X\x02\0\0\0\xff\xfe",
    "odd SETITEMS": DICT + MARK + NONE + SETITEMS, "odd DICT": MARK + NONE + b"d", "SETITEMS on a list": LIST + MARK + NONE + NONE + SETITEMS,
    "SETITEM on None": NONE + NONE + NONE + SETITEM, "APPEND on a tuple": EMPTY + NONE + APPEND, "APPENDS on text": text("a") + MARK + APPENDS,
    "ADDITEMS on a frozenset": MARK + b"\x91" + MARK + NONE + b"\x90", "BUILD on a dict": DICT + NONE + BUILD, "BUILD on a list": LIST + NONE + BUILD,
    "BUILD on text": text("a") + NONE + BUILD, "BUILD on None": NONE + NONE + BUILD, "POP of nothing": POP * 50, "POP_MARK of nothing": b"1",
    "OBJ of nothing": MARK + b"o", "REDUCE of nothing": POP * 20 + REDUCE, "TUPLE3 of nothing": MARK + NONE + b"\x87", "DUP of nothing": MARK + DUP,
    "MEMOIZE of nothing": MARK + MEMOIZE, "PUT of nothing": MARK + put(1), "STACK_GLOBAL of numbers": number(1) + number(2) + b"\x93",
    "PROTO 6 in the middle": b"\x80\x06", "a name of a megabyte": b"c" + b"a" * 900_000 + b"\nb\n", "a module of 900 names": b"im\n" + b"a" * 5000 + b"\n",
    "a name without its second line": b"cabc",
}.items():  # fmt: skip
    add(f"{label}", lambda body=body: beside(body), "*")
for label, body in {
    "LONG_BINPUT at the last index": NONE + put(2**32 - 1) + POP + get(2**32 - 1),
    "PROTO in the middle": PROTO + NONE,
    "POP of marks": MARK + POP + NONE,
    "INST": MARK + NONE + b"ios\nsystem\n",
    "OBJ": MARK + name("os", "system") + text("echo") + b"o",
    "NEWOBJ_EX": name("os", "system") + tuple_of(text("echo")) + DICT + b"\x92",
    "NEWOBJ_EX of nonsense": NONE + NONE + NONE + b"\x92",
    "REDUCE of text": text("f") + EMPTY + REDUCE,
    "REDUCE of a persistent object": storage() + EMPTY + REDUCE,
    "BUILD on a class": name("os", "path") + dict_of(text("sep"), text("x")) + BUILD,
    "BUILD on a storage": storage() + DICT + BUILD,
    "APPEND to an object": new(name("m", "C"), NONE) + NONE + APPEND,
    "every operation on an object": new(name("m", "C"), NONE) + NONE + APPEND + NONE + NONE + SETITEM + MARK + NONE + b"\x90" + NONE + BUILD,
    "STACK_GLOBAL from the memo": text("system") + put(4) + POP + text("os") + get(4) + b"\x93",
    "STACK_GLOBAL after DUP": text("os") + DUP + b"\x93",
    "STRING with surrogates": b"S'\\xed\\xa0\\x80'\n", "UNICODE with a surrogate": b"V\\ud800\n", "PERSID": b"Pabc\n",
    "a name with controls": name("\x1b[31mos", "sys\ttem\u202e"), "a name that is no UTF-8": name(b"\xff\xfe", b"\x80"),
    "a dotted name": name("os.path", "join.__globals__"), "an empty name": name("", ""), "a name with spaces": name("o s", "sys tem"),
    "duplicate keys": dict_of(*[text("k") + GOOD] * 3),
    "keys that are one to Python": dict_of(number(1), GOOD, TRUE, GOOD, b"G\x3f\xf0" + bytes(6), GOOD),
    "keys that read alike": dict_of(number(1), GOOD, text("1"), GOOD, text("<int 1>"), GOOD, NONE, GOOD, text("None"), GOOD),
    "an infinite key": dict_of(b"G\x7f\xf0" + bytes(6), GOOD, b"G\x7f\xf8" + bytes(6), GOOD),
    "a datetime of month 77": call(name("datetime", "datetime"), call(name("_codecs", "encode"), text("\x7f\x7f\x4d\x7f\x7f\x7f\x7f\x7f\x7f\x7f"), text("latin1"))),
}.items():  # fmt: skip
    add(f"{label}", lambda body=body: beside(body))
DANGEROUS = "\x1b[2J\x1b]0;x\x07\u202ea\u2066b\u200f\u2028\x85\x9b31m\x00\x7f\r\n\ud800\u061c\ufeff\U000e0041"
add("a terminal attack in each text", lambda: checkpoint(dict_of(
    text(DANGEROUS), dict_of(text(DANGEROUS), tensor(storage(device=DANGEROUS)), text(DANGEROUS + "."), text(DANGEROUS)),
    text("o"), dict_of(text("state"), dict_of(number(0), dict_of(text(DANGEROUS), GOOD)), text("param_groups"), list_of(
        dict_of(text(DANGEROUS), text(DANGEROUS), text("params"), list_of(text(DANGEROUS)), text("param_names"), list_of(text(DANGEROUS))))),
    text("c"), new(name(DANGEROUS.replace("\n", ""), DANGEROUS.replace("\n", "")), NONE),
    text("m"), module(parameters=dict_of(text(DANGEROUS), GOOD), more=text("_forward_hooks") + dict_of(number(0), NONE)),
    text("v"), call(name("torch", "device"), text(DANGEROUS)), text("b"), b"B\x04\0\0\0\x1b[2J", text("p"), call(name("pathlib", "PosixPath"), text(DANGEROUS)),
    text("n"), call(name("numpy.core.multiarray", "scalar"), call(name("numpy", "dtype"), text("\x1b[2J")), text("x")), text("s"), tensor(storage(key=DANGEROUS)),
)))  # fmt: skip
add(
    "a terminal attack in the metadata of safetensors",
    lambda: safetensors({"__metadata__": {DANGEROUS: DANGEROUS, "format": DANGEROUS}, DANGEROUS: entry()}),
)
add(
    "a terminal attack in the names of a zip",
    lambda: archive([Member(b"\x1b[2J/data.pkl\x1b\x9b"), Member("\u202e/x".encode()), Member(b"\xff\xfe")]),
    FORMAT,
)
add("a terminal attack in a title", lambda: b"<html><title>\x1b[2J\xe2\x80\xae</title>", FORMAT)
add(
    "a terminal attack in TorchScript",
    lambda: script(
        new(name("__torch__", DANGEROUS.replace("\n", "")), dict_of(text(DANGEROUS), GOOD, text("x"), text(DANGEROUS))),
        code=b'class \x1b[2J(Module):\n  x : torch.device("\x1b[2J\xe2\x80\xae")\n',
    ),
)
for label, stored in {
    "a storage of no bytes": storage(numel=0), "a negative numel": storage(numel=-1), "a numel of 2**70": storage(numel=2**70),
    "a numel of 2**8000": storage(numel=2**8000), "a boolean numel": storage(numel=TRUE), "a float numel": storage(numel=b"G" + bytes(8)),
    "a key with ..": storage("../../etc/passwd"), "an absolute key": storage("/etc/passwd"), "a key of another record": storage("../data.pkl"),
    "an integer key": storage(number(0)), "a negative key": storage(number(-1)), "a Python 2 key": storage(b"U\x010"), "an empty key": storage(""),
    "a key of NUL": storage("\0"), "a device of bytes": storage(device=b"C\x03cpu"), "a class of text": storage(kind=text("FloatStorage")),
    "a class from elsewhere": storage(kind=name("os", "FloatStorage")), "an unknown class": storage(kind=name("torch", "WhatStorage")),
    "three fields": tuple_of(text("storage"), FLOATS, text("0")) + PID, "another kind": tuple_of(text("module"), FLOATS, text("0"), text("cpu"), number(4)) + PID,
    "a list for a pid": list_of(text("storage"), FLOATS, text("0"), text("cpu"), number(4)) + PID, "text for a pid": text("0") + PID,
    "too many elements": storage(numel=5), "too few elements": storage(numel=3),
}.items():  # fmt: skip
    add(
        f"{label} in a persistent id",
        lambda stored=stored: checkpoint(dict_of(text("a"), tensor(stored), text("b"), stored)),
    )
    add(
        f"{label} in a legacy stream",
        lambda stored=stored: legacy(dict_of(text("a"), tensor(stored), text("b"), stored)),
    )
add(
    "conflicting persistent ids",
    lambda: checkpoint(dict_of(text("a"), GOOD, text("b"), tensor(storage(kind=name("torch", "LongStorage"))))),
    OPENS,
    "first",
)
for label, (size, stride, offset) in {
    "a size beyond": (sizes(5), sizes(1), 0), "a stride beyond": (sizes(4), sizes(2), 0), "an offset beyond": (sizes(4), sizes(1), 1),
    "a negative stride": (sizes(4), sizes(-1), 3), "a negative size": (sizes(-4), sizes(1), 0), "a negative offset": (sizes(1), sizes(1), -1),
    "two ranks": (sizes(2, 2), sizes(1), 0), "a huge size of stride 0": (sizes(2**62), sizes(0), 0), "a size of 2**8000 of stride 0": (sizes(2**8000), sizes(0), 0),
    "twenty sizes of 2**62 of stride 0": (sizes(*[2**62] * 20), sizes(*[0] * 20), 0), "a million sizes of 1": (MARK + number(1) * 400_000 + b"t", MARK + number(1) * 400_000 + b"t", 0),
    "100,000 huge sizes and a 0": (number(2**8000) + put(3) + POP + MARK + get(3) * 100_000 + number(0) + b"t", MARK + number(0) * 100_001 + b"t", 0),
    "a 0 and 100,000 huge sizes": (number(2**8000) + put(3) + POP + MARK + number(0) + get(3) * 100_000 + b"t", MARK + get(3) * 100_001 + b"t", 0),
    "a huge stride of size 0": (sizes(0), sizes(2**8000), 0), "a huge stride of size 1": (sizes(1), sizes(2**8000), 0),
    "a huge offset of size 0": (sizes(0), sizes(1), 2**8000), "boolean sizes": (tuple_of(TRUE), tuple_of(TRUE), 0), "a size of floats": (tuple_of(b"G" + bytes(8)), sizes(1), 0),
}.items():  # fmt: skip
    add(
        f"a tensor with {label}",
        lambda a=size, b=stride, c=offset: checkpoint(
            dict_of(text("w"), GOOD, text("x"), tensor(None, a, b, number(c)))
        ),
        "*",
    )
    add(f"a meta tensor with {label}", lambda a=size, b=stride: checkpoint(dict_of(text("w"), GOOD, text("x"), call(
        name("torch._utils", "_rebuild_meta_tensor_no_storage"), name("torch", "float64"), a, b, FALSE))), "*")  # fmt: skip
    add(f"a numpy array with {label}", lambda a=size: beside(call(name("numpy.core.multiarray", "_reconstruct"), name("numpy", "ndarray"), sizes(0), text("b"))
        + tuple_of(number(1), a, call(name("numpy", "dtype"), text("f8")), FALSE, b"C\0") + BUILD), "*")  # fmt: skip
for label, shape in {
    "a billion empty rows": sizes(10**9, 0),
    "a million empty rows of rows": sizes(1000, 1000, 0),
    "2**60 dimensions": sizes(2**60),
}.items():
    add(f"a numpy array of {label}", lambda shape=shape: beside(call(name("numpy.core.multiarray", "_reconstruct"), name("numpy", "ndarray"), sizes(0), text("b"))
        + tuple_of(number(1), shape, call(name("numpy", "dtype"), text("f8")), FALSE, b"C\0") + BUILD))  # fmt: skip

# -- zip -------------------------------------------------------------------------------------------------

PLAIN = pickled(dict_of(text("weight"), GOOD))
BASE = members(PLAIN)


def zipped(label: str, *more: Member, error: str = OPENS, says: str = "", **lies: object) -> None:
    add(f"zip: {label}", lambda: archive([*BASE, *more], **lies), error, says)  # type: ignore[arg-type]


zipped("nothing wrong")
zipped("a name twice", Member(b"a/data.pkl", pickled(NONE)), error=CORRUPT, says="twice")
zipped("a name in another case", Member(b"a/DATA.PKL", pickled(NONE)), error=CORRUPT, says="same")
zipped("another root", Member(b"b/x"), error=OPENS, says="outside")
zipped("a prefix", prefix=b"#!/bin/sh\n", error="*")
zipped("trailing bytes", comment=b"x" * 1000)
zipped("a comment with an end record", comment=b"PK\x05\x06" + bytes(18), error="*")
zipped("a comment with half an end record", comment=b"PK\x05\x06" + bytes(10))
zipped("66,000 trailing bytes", comment=b"", error="*", between=b"")
zipped("a gap before the end record", between=b"x" * 10, error=CORRUPT)
zipped("more entries counted than there are", count=9, error=CORRUPT)
zipped("fewer entries counted than there are", count=2, error=CORRUPT)
zipped("no entries counted", count=0, error=CORRUPT)
zipped("a directory too long", directory_size=60_000, error="*")
zipped("a directory elsewhere", shift=1, error="*")
zipped("a directory 4 GB on", shift=0xFFFFFFF0 - 600, error="*")
zipped("two disks", disk=1, error=FORMAT)
zipped("a true zip64 end record", end64=(-1, -1, -1))
zipped("a zip64 count of 2**62", end64=(BIG, -1, -1), error=CORRUPT)
zipped("a zip64 size of 2**62", end64=(-1, BIG, -1), error=CORRUPT)
zipped("a zip64 offset of 2**62", end64=(-1, -1, BIG), error=CORRUPT)
zipped("a zip64 end record of another directory", end64=(0, 0, -1), error=CORRUPT)
zipped("an encrypted record", Member(b"a/x", b"x", flags=1), error=FORMAT, says="encrypted")
zipped("method 12", Member(b"a/x", b"x", method=12), error=CORRUPT, says="method")
zipped("a record beyond the end", Member(b"a/x", b"x", says_offset=10**9), error=CORRUPT)
zipped("a record in the directory", Member(b"a/x", b"x", says_compressed=100, says_size=100), error=CORRUPT)
zipped("a record on another", Member(b"a/x", b"x", says_offset=0), error=CORRUPT)
zipped("a record of two lengths", Member(b"a/x", b"x", says_size=2), error=CORRUPT)
zipped("a zip64 record of 2**62", Member(b"a/x", b"x", says_size=0xFFFFFFFF, says_compressed=0xFFFFFFFF, extra=struct.pack("<HHQQ", 1, 16, BIG, BIG)),
       error=CORRUPT)  # fmt: skip
zipped(
    "a zip64 record without its extra",
    Member(b"a/x", b"x", says_size=0xFFFFFFFF, says_compressed=0xFFFFFFFF),
    error=CORRUPT,
)
zipped("a zip64 extra that is cut", Member(b"a/x", b"x", says_size=0xFFFFFFFF, extra=b"\1\0\xff\xff\1"), error=CORRUPT)
for label, leaf in {"NUL": b"a/x\0y", "backslashes": b"a\\..\\x", "..": b"a/../../x", "a root of ..": b"../x", "an absolute name": b"/x",
                    "an empty name": b"", "only a root": b"a/", "a long name": b"a/" + b"x" * 60_000}.items():  # fmt: skip
    add(f"zip: {label} in a name", lambda leaf=leaf: archive([*BASE, Member(leaf, b"x")]))
    add(f"zip: {label} in the first name", lambda leaf=leaf: archive([Member(leaf, b"x"), *BASE]), "*")
    add(
        f"zip: {label} in each name",
        lambda leaf=leaf: archive([Member(leaf + b"%d" % i, b"x") for i in range(5)]),
        FORMAT,
    )
for label, lie in {"another name": {"local_name": b"a/data.pkx"}, "another length of name": {"local_name": b"a"}, "another method": {"local_method": 8},
                   "no magic": {"local_magic": b"PK\x03\x05"}, "a shifted start": {"local_extra": b"x" * 5}}.items():  # fmt: skip
    good = label == "a shifted start"
    add(
        f"zip: {label} in the local header",
        lambda lie=lie: archive([BASE[0]._replace(**lie), *BASE[1:]]),
        OPENS if good else CORRUPT,
    )
    add(
        f"zip: {label} in the local header of a storage",
        lambda lie=lie: archive([*BASE[:2], BASE[2]._replace(**lie), *BASE[3:]]),
    )
    add(
        f"zip: {label} in the local header of the version",
        lambda lie=lie: archive([*BASE[:-1], BASE[-1]._replace(**lie)]),
        OPENS if good else CORRUPT,
    )
add(
    "zip: a local header that reaches over the next record",
    lambda: archive([BASE[0], Member(b"a/data/9", b"12345678", says_offset=None), *BASE[1:]]).replace(
        b"\x08\0\0\0\x08\0\0\0\x08\0\0\0a/data/9", b"\x08\0\0\0\x08\0\0\0\x08\0\x40\0a/data/9", 1
    ),
)
add("zip: a wrong checksum", lambda: archive([BASE[0]._replace(crc=1), *BASE[1:]]), OPENS, "checksum")
add("zip: no checksum", lambda: archive([BASE[0]._replace(crc=0), *BASE[1:]]))
add("zip: version of nonsense", lambda: archive([*BASE[:-1], Member(b"a/version", b"9" * 4000)]), OPENS, "version")
add(
    "zip: byteorder of nonsense",
    lambda: archive([BASE[0], Member(b"a/byteorder", b"\x1b[2J"), *BASE[2:]]),
    OPENS,
    "byteorder",
)
add("zip: a megabyte of byteorder", lambda: archive([BASE[0], Member(b"a/byteorder", b"x" * 900_000), *BASE[2:]]))
add("zip: 15,000 records", lambda: archive([*BASE, *[Member(b"a/%d" % i) for i in range(15_000)]]))
add("zip: 70,002 records", lambda: archive([*BASE, *[Member(b"a/%d" % i) for i in range(70_002)]], end64=(-1, -1, -1)))
add("zip: only a directory", lambda: archive([Member(b"a/data.pkl", listed=True)]), CORRUPT)
add("zip: nothing", lambda: archive([]), FORMAT)
add("zip: an end record of nothing but zeros", lambda: b"PK\x03\x04" + bytes(100) + b"PK\x05\x06" + bytes(18), FORMAT)
add(
    "zip: 16,000 end records", lambda: b"PK\x03\x04" + (b"PK\x05\x06" + bytes(12) + b"\xff\xff\xff\x7f\0\0") * 3000, "*"
)
for size in (1_000_000, 100_000_000, 900_000_000):
    add(
        f"deflated data.pkl of {size:,} bytes",
        lambda size=size: archive(members(PROTO + (NONE + POP) * (size // 2) + DICT + STOP, deflate=True)),
        LIMIT if size > 10**7 else OPENS,
    )
for kind, step in {
    "empty dicts": DICT,
    "marks": MARK,
    "memo entries": NONE + MEMOIZE,
    "calls": NONE + NONE + REDUCE,
    "strings": b"U\x01a",
}.items():
    add(
        f"deflated data.pkl of {kind}",
        lambda step=step: archive(members(PROTO + step * (3_000_000 // len(step)) + DICT + STOP, deflate=True)),
        LIMIT,
    )
add(
    "deflated code of 900 MB",
    lambda: script(new(name("__torch__", "M"), DICT), code=b"#" * 900_000_000, deflate=True),
    LIMIT,
)
add("deflated code of 100 files", lambda: archive(members(pickled(new(name("__torch__", "M"), DICT)), Member(b"a/constants.pkl", pickled(EMPTY)),
    *[Member(b"a/code/%d.py" % i, b"#" * 1_000_000, True) for i in range(100)])), LIMIT)  # fmt: skip
add(
    "deflated model.json of 90 MB",
    lambda: archive([Member(b"a/model.json", b"[" + b"[]," * 30_000_000 + b"[]]", True)]),
    LIMIT,
)
add(
    "deflated byteorder of 900 MB",
    lambda: archive([BASE[0], Member(b"a/byteorder", bytes(900_000_000), True), *BASE[2:]]),
)
add(
    "a deflated member that is longer than declared",
    lambda: archive([BASE[0]._replace(deflate=True, says_size=20), *BASE[1:]]),
    CORRUPT,
)
add(
    "a deflated member that is shorter than declared",
    lambda: archive([BASE[0]._replace(deflate=True, says_size=10_000), *BASE[1:]]),
    CORRUPT,
)
add("a deflated member that is none", lambda: archive([BASE[0]._replace(method=8), *BASE[1:]]), CORRUPT)
WHOLE = archive(BASE, end64=(-1, -1, -1))
for at in sorted(
    {0, 1, 4, 29, 30, 31, 40, *(WHOLE.find(b"PK", i) + j for i in range(0, len(WHOLE) - 30, 40) for j in (0, 2, 30))}
):
    add(f"zip: cut at byte {at}", lambda at=at: WHOLE[:at], "*")

# -- TorchScript -----------------------------------------------------------------------------------------

CLASS = b'class M(Module):\n  __parameters__ = ["w", ]\n  w : Tensor\n'
SCRIPTED = new(name("__torch__", "M"), dict_of(text("w"), GOOD))
add("TorchScript: nothing wrong", lambda: script(SCRIPTED, code=CLASS))
for label, code in {
    "10 MB in one line": CLASS + b"  x : " + b"a" * 10_000_000, "10 MB of one string": CLASS + b'  x : "' + b"a" * 10_000_000,
    "open brackets": CLASS + b"(" * 300_000, "open quotes": CLASS + b'"' * 300_000, "newlines": b"\n" * 300_000, "NUL": bytes(300_000),
    "backslashes": b"\\" * 300_000, "no UTF-8": CLASS + b"  \xff : \xfe\n", "a million names": b"class M(Module):\n  __parameters__ = [" + b'"w", ' * 150_000 + b"]\n",
    "an endless name": b"class " + b"M" * 900_000 + b"(Module):\n", "many classes": b"".join(b"class C%d(Module):\n  x : int\n" % i for i in range(20_000)),
    "a class in itself": CLASS * 1000, "constants": CLASS + b"".join(b"  def f%d(self):\n    CONSTANTS.c%d\n" % (i, i) for i in range(20_000)),
}.items():  # fmt: skip
    add(f"TorchScript code: {label}", lambda code=code: script(SCRIPTED, code=code), "*")
    add(f"TorchScript code: {label}, deflated", lambda code=code: script(SCRIPTED, code=code, deflate=True), "*")
for label, value in {"a bomb": BOMB, "depth": DEEP, "a number": number(1), "text": text("x"), "None": NONE, "a list": LIST, "a call": call(name("os", "system"), text("x")),
                     "a tensor": GOOD, "a huge int": number(2**8000), "a global": name("os", "system")}.items():  # fmt: skip
    add(f"TorchScript: {label} as root", lambda value=value: script(value, code=CLASS), "*")
    add(
        f"TorchScript: {label} as state",
        lambda value=value: script(new(name("__torch__", "M"), value), code=CLASS),
        "*",
    )
    add(
        f"TorchScript: {label} as parameter",
        lambda value=value: script(new(name("__torch__", "M"), dict_of(text("w"), value)), code=CLASS),
        "*",
    )
    add(
        f"TorchScript: {label} as name",
        lambda value=value: script(new(name("__torch__", "M"), dict_of(value, GOOD)), code=CLASS),
        "*",
    )
    add(
        f"TorchScript: {label} as constants",
        lambda value=value: archive(members(pickled(SCRIPTED), Member(b"a/constants.pkl", pickled(value)))),
        "*",
    )
    add(
        f"TorchScript: {label} in a typed list",
        lambda value=value: script(
            new(
                name("__torch__", "M"),
                dict_of(
                    text("x"),
                    call(name("torch.jit._pickle", "build_tensorlist"), value),
                    text("y"),
                    call(name("torch.jit._pickle", "restore_type_tag"), value, text("T")),
                ),
            )
        ),
        "*",
    )
for kind, code in {"a long string": LONG_TEXT, "a list of numbers": list_of(number(1) * MANY), "a tensor": GOOD, "an object": new(name("m", "C"), dict_of(*[text("k") + NONE] * 50_000)),
                   "a module": SCRIPTED}.items():  # fmt: skip
    add(
        f"TorchScript: {kind}, 50,000 times",
        lambda code=code: script(
            code
            + put(3)
            + POP
            + new(name("__torch__", "M"), dict_of(text("x"), LIST + MARK + get(3) * 50_000 + APPENDS)),
            code=CLASS,
        ),
        "*",
    )
    add(
        f"TorchScript: {kind}, as 20,000 attributes",
        lambda code=code: script(
            code
            + put(3)
            + POP
            + new(
                name("__torch__", "M"), DICT + MARK + b"".join(text(f"a{i}") + get(3) for i in range(20_000)) + SETITEMS
            ),
            code=CLASS,
        ),
        "*",
    )
add("TorchScript: 180 modules with a key of 5,000", lambda: script((new(name("__torch__", "M"), dict_of(text("k" * 5000), text("HERE"))).split(text("HERE"))[0] * 180)
    + GOOD + put(3) + POP + new(name("__torch__", "M"), DICT + MARK + b"".join(text(str(i)) + get(3) for i in range(3000)) + SETITEMS)
    + new(name("__torch__", "M"), dict_of(text("k" * 5000), text("HERE"))).split(text("HERE"))[1] * 180, code=CLASS), "*")  # fmt: skip


def model_json(model: object, **records: bytes) -> bytes:
    raw = model if isinstance(model, bytes) else json.dumps(model).encode()
    return archive(
        [
            Member(b"a/model.json", raw),
            Member(b"a/tensors/0", bytes(16)),
            *[Member(b"a/" + k.encode(), v) for k, v in records.items()],
        ]
    )


JSON_TENSOR = {
    "dims": ["4"],
    "strides": ["1"],
    "offset": "0",
    "dataType": "FLOAT",
    "device": "cpu",
    "data": {"key": "tensors/0"},
}
JSON_ROOT = {"name": "M", "parameters": [{"name": "w", "tensorId": "0"}]}
add(
    "model.json: nothing wrong",
    lambda: model_json({"protoVersion": 3, "mainModule": JSON_ROOT, "tensors": [JSON_TENSOR]}),
)
for label, field in {"a list": [], "an object": {}, "None": None, "a huge number": 10**4000, "a huge text": "9" * 5000, "nonsense": "x" * 900_000, "NaN": float("nan"),
                     "a float": 1.5, "a boolean": True, "negative": -1, "deep": json.loads("[" * 400 + "]" * 400), "surrogates": DANGEROUS}.items():  # fmt: skip
    for place in (*JSON_TENSOR, "key"):
        lie = JSON_TENSOR | ({place: field} if place != "key" else {"data": {"key": field}})
        add(
            f"model.json: {label} as {place}",
            lambda lie=lie: model_json({"mainModule": JSON_ROOT, "tensors": [lie]}),
            "*",
        )
    for place in ("dims", "strides"):
        add(
            f"model.json: {label} in {place}",
            lambda place=place, field=field: model_json(
                {"mainModule": JSON_ROOT, "tensors": [JSON_TENSOR | {place: [field]}]}
            ),
            "*",
        )
    for place in ("protoVersion", "producerName", "producerVersion", "mainModule", "tensors"):
        add(
            f"model.json: {label} as {place}",
            lambda place=place, field=field: model_json(
                {"mainModule": JSON_ROOT, "tensors": [JSON_TENSOR], "producerVersion": "1"} | {place: field}
            ),
            "*",
        )
    for place in ("name", "parameters", "submodules"):
        add(
            f"model.json: {label} as {place} of the module",
            lambda place=place, field=field: model_json(
                {"mainModule": JSON_ROOT | {place: field}, "tensors": [JSON_TENSOR]}
            ),
            "*",
        )
    for place in ("name", "tensorId", "isBuffer"):
        add(
            f"model.json: {label} as {place} of a parameter",
            lambda place=place, field=field: model_json(
                {
                    "mainModule": {"parameters": [{"name": "w", "tensorId": 0} | {place: field}]},
                    "tensors": [JSON_TENSOR],
                }
            ),
            "*",
        )
for depth in range(300, 1200, 20):  # where the parser gives up is not where repr does
    for place in ("protoVersion", "producerName", "name", "dims"):
        raw = json.dumps(
            {"mainModule": JSON_ROOT, "tensors": [JSON_TENSOR], "producerVersion": "1"} | {place: "HERE"}
        ).replace('"HERE"', "[" * depth + "]" * depth)
        add(f"model.json: {depth} deep as {place}", lambda raw=raw: model_json(raw.encode()), "*")
add("model.json: 100,000 brackets", lambda: model_json(b"[" * 100_000), CORRUPT)
add(
    "model.json: 47,000 dimensions of 2**63",
    lambda: model_json(
        {"tensors": [JSON_TENSOR | {"dims": ["9000000000000000000"] * 30_000, "strides": ["0"] * 30_000}]}
    ),
    OPENS,
    "malformed",
)
add(
    "model.json: 30,000 dimensions and a 0",
    lambda: model_json(
        {"tensors": [JSON_TENSOR | {"dims": ["9000000000000000000"] * 30_000 + ["0"], "strides": ["0"] * 30_001}]}
    ),
    OPENS,
    "malformed",
)


def deep_model(levels: int, name: str, children: int) -> object:
    node: object = {"submodules": [{"name": "a"}] * children}
    for _ in range(levels):
        node = {"submodules": [{"name": name} | node]}  # type: ignore[operator]
    return {"mainModule": node, "tensors": []}


add(
    "model.json: 20,000 modules below 150 of 3,000 characters",
    lambda: model_json(deep_model(150, "k" * 3000, 20_000)),
    LIMIT,
    "characters",
)

# -- the legacy stream, the tar, plain pickles -----------------------------------------------------------

LEGACY = dict_of(text("weight"), GOOD)
add("legacy: nothing wrong", lambda: legacy(LEGACY))
for label, value in {"a bomb": BOMB, "depth": DEEP, "a cycle": LIST + put(7) + SELF + APPEND, "text": text("x" * 5000), "a huge int": number(2**8000), "None": NONE,
                     "a set": SET + MARK + BOMB + b"\x90", "a call": call(name("os", "system"), text("x")), "controls": text(DANGEROUS)}.items():  # fmt: skip
    add(
        f"legacy: {label} as magic number",
        lambda value=value: MAGIC[:-1] + POP + value + STOP + legacy(LEGACY)[len(MAGIC) :],
        CORRUPT,
    )
    add(
        f"legacy: {label} as protocol",
        lambda value=value: MAGIC + pickled(value) + pickled(NONE) + pickled(LEGACY) + pickled(LIST),
        CORRUPT,
    )
    add(
        f"legacy: {label} as sys_info",
        lambda value=value: (
            MAGIC
            + pickled(number(1001))
            + pickled(value)
            + pickled(LEGACY)
            + pickled(list_of(text("0")))
            + struct.pack("<q", 4)
            + bytes(16)
        ),
    )
    add(f"legacy: {label} as keys", lambda value=value: legacy(LEGACY, keys=pickled(value)), "*")
    add(f"legacy: {label} as a key", lambda value=value: legacy(LEGACY, keys=pickled(list_of(value))), "*")
    for field in range(3):
        view = [text("1"), number(0), number(4)]
        view[field] = value
        add(
            f"legacy: {label} as field {field} of a view",
            lambda view=view: legacy(dict_of(text("w"), tensor(storage("0", 4, FLOATS, "cpu", tuple_of(*view))))),
            "*",
        )
for count in (-1, 0, 3, 5, 2**62, -(2**63)):
    add(f"legacy: a count of {count}", lambda count=count: legacy(LEGACY, data=struct.pack("<q", count) + bytes(16)))
for label, keys in {"no keys": LIST, "another key": list_of(text("7")), "a key twice": list_of(text("0"), text("0")), "a key as a number": list_of(number(0)),
                    "a key a million times": text("0") + put(3) + POP + LIST + MARK + get(3) * 400_000 + APPENDS}.items():  # fmt: skip
    add(f"legacy: {label}", lambda keys=keys: legacy(LEGACY, keys=pickled(keys)))
    add(
        f"legacy: {label}, and no bytes",
        lambda keys=keys: legacy(
            dict_of(text("w"), tensor(storage(numel=0), sizes(0))), keys=pickled(keys), data=bytes(8)
        ),
    )
for label, view in {"beyond": (text("1"), number(0), number(5)), "far beyond": (text("1"), number(2**62), number(2**62)), "of itself": (text("0"), number(0), number(4)),
                    "negative": (text("1"), number(-1), number(1)), "short": (text("1"),)}.items():  # fmt: skip
    add(
        f"legacy: a view {label}",
        lambda view=view: legacy(dict_of(text("w"), tensor(storage("0", 4, FLOATS, "cpu", tuple_of(*view)), sizes(1)))),
    )
add(
    "legacy: views of long keys",
    lambda: legacy(
        text("k" * 300_000)
        + put(3)
        + POP
        + LIST
        + MARK
        + b"".join(
            tuple_of(
                text("storage"), FLOATS, get(3), text("cpu"), number(4), tuple_of(text(str(i)), number(0), number(1))
            )
            + PID
            for i in range(8_000)
        )
        + APPENDS
    ),
    "*",
)
add(
    "legacy: module sources",
    lambda: legacy(
        dict_of(
            text("w"),
            GOOD,
            text("m"),
            tuple_of(text("module"), name("__main__", "Net"), text(DANGEROUS), text(DANGEROUS))
            + PID
            + EMPTY
            + NEWOBJ
            + DICT
            + BUILD,
        )
    ),
)
STREAM = legacy(LEGACY)
for at in sorted(
    {
        *range(len(MAGIC) - 2, len(STREAM), 37),
        len(STREAM) - 1,
        len(STREAM) - 16,
        len(STREAM) - 17,
        len(STREAM) - 24,
        len(STREAM) - 25,
    }
):
    add(f"legacy: cut at byte {at}", lambda at=at: STREAM[:at], "*")

FLOAT = name("torch", "FloatStorage")
TAR_STORAGES = tar_storages((number(1), FLOAT, 4, bytes(16)))
TAR_TENSORS = tar_tensors((number(2), number(1), (4,), (1,), 0))
TAR_OBJECT = pickled(dict_of(text("w"), text("2") + PID))


def tarred(stored: bytes = TAR_STORAGES, tensors: bytes | None = TAR_TENSORS, **lies: bytes) -> bytes:
    rest = [] if tensors is None else [(b"tensors", tensors)]
    return tar([(b"sys_info", pickled(DICT)), (b"pickle", TAR_OBJECT), *rest, (b"storages", stored)], **lies)  # type: ignore[arg-type]


add("tar: nothing wrong", lambda: tarred())
for label, field in {"negative": b"-0000000001", "octal garbage": b"99999999999", "no digits": b"", "base 256": b"\x80" + b"\xff" * 10, "huge": b"77777777777",
                     "with spaces": b"  7 7 7", "twelve digits": b"777777777777"}.items():  # fmt: skip
    add(f"tar: {label} as size", lambda field=field: tarred(size=field), "*")
for label, value in {"a bomb": BOMB, "depth": DEEP, "a cycle": LIST + put(7) + SELF + APPEND, "text": text("x" * 5000), "a huge int": number(2**8000), "None": NONE, "a call": call(name("os", "system"), text("x")),
                     "controls": text(DANGEROUS), "-1": number(-1), "2**70": number(2**70)}.items():  # fmt: skip
    add(f"tar: {label} as number of storages", lambda value=value: tarred(tar_storages(count=value)), "*")
    add(f"tar: {label} as number of tensors", lambda value=value: tarred(TAR_STORAGES, tar_tensors(count=value)), "*")
    add(
        f"tar: {label} as key of a storage", lambda value=value: tarred(tar_storages((value, FLOAT, 4, bytes(16)))), "*"
    )
    add(
        f"tar: {label} as class of a storage",
        lambda value=value: tarred(tar_storages((number(1), value, 4, bytes(16)))),
        "*",
    )
    add(
        f"tar: {label} as key of a tensor",
        lambda value=value: tarred(TAR_STORAGES, tar_tensors((value, number(1), (4,), (1,), 0))),
        "*",
    )
    add(
        f"tar: {label} as storage of a tensor",
        lambda value=value: tarred(TAR_STORAGES, tar_tensors((number(2), value, (4,), (1,), 0))),
        "*",
    )
    add(
        f"tar: {label} as views",
        lambda value=value: tarred(tar_storages((number(1), FLOAT, 4, bytes(16)), views=value)),
        "*",
    )
    for field in range(4):
        view = [number(3), number(1), number(0), number(4)]
        view[field] = value
        add(
            f"tar: {label} as field {field} of a view",
            lambda view=view: tarred(tar_storages((number(1), FLOAT, 4, bytes(16)), views=list_of(tuple_of(*view)))),
            "*",
        )
for numel in (-1, 5, 2**62, -(2**63), 2**63 - 1):
    add(
        f"tar: a storage of {numel} elements",
        lambda numel=numel: tarred(tar_storages((number(1), FLOAT, numel, bytes(16)), (number(5), FLOAT, 1, bytes(4)))),
        "*",
    )
for label, (size, stride, offset) in {"negative sizes": ((-4,), (1,), 0), "huge sizes": ((2**62,) * 3, (2**62,) * 3, 0), "a negative offset": ((4,), (1,), -5),
                                      "huge strides of 0": ((2**62,) * 1000, (0,) * 1000, 0), "sizes with a 0": ((2**62,) * 1000 + (0,), (0,) * 1001, 0)}.items():  # fmt: skip
    add(
        f"tar: {label}",
        lambda a=size, b=stride, c=offset: tarred(TAR_STORAGES, tar_tensors((number(2), number(1), a, b, c))),
    )
add(
    "tar: 2,000,000,000 dimensions",
    lambda: tarred(
        TAR_STORAGES,
        tar_tensors((number(2), number(1), (4,), (1,), 0)).replace(
            struct.pack("<i4x", 1), struct.pack("<i4x", 2 * 10**9)
        ),
    ),
    CORRUPT,
)
add("tar: 30,000 storages", lambda: tarred(tar_storages(*[(number(i), FLOAT, 0, b"") for i in range(30_000)])), "*")
add(
    "tar: members twice",
    lambda: tar([(b"pickle", TAR_OBJECT), (b"storages", TAR_STORAGES), (b"pickle", pickled(NONE))] * 3),
    "*",
)
add("tar: links to itself", lambda: tarred(kind=b"2"), FORMAT)
add("tar: 1,000 empty members of one name", lambda: tar([(b"x", b"")] * 1000), FORMAT)
add("tar: 20,000 members", lambda: tar([(b"%d" % i, b"") for i in range(1000)]), FORMAT)
add("tar: names of controls", lambda: tar([(DANGEROUS.encode("utf-8", "surrogatepass")[:90], b"")]), FORMAT)
TARRED = tarred()
for at in range(0, len(TARRED), 300):
    add(f"tar: cut at byte {at}", lambda at=at: TARRED[:at], "*")

SMALL = legacy(storage())
add("plain: nothing wrong", lambda: pickled(dict_of(text("w"), tensor(nested(SMALL)))))
for depth in (2, 100, 1000):
    stream = SMALL
    for _ in range(depth):
        stream = legacy(tensor(nested(stream))) if depth == 2 else legacy(nested(stream))
    add(f"plain: {depth} nested streams", lambda stream=stream: pickled(dict_of(text("w"), tensor(nested(stream)))))
for label, stream in {"nothing": b"", "nonsense": b"x" * 1000, "a bomb": legacy(BOMB), "no storage": legacy(NONE), "a tensor": legacy(GOOD), "half": SMALL[: len(SMALL) // 2],
                      "a storage that is cut": SMALL[:-8], "a megabyte": legacy(list_of(NONE * 800_000)), "a zip": archive(BASE)}.items():  # fmt: skip
    add(
        f"plain: {label} as nested stream",
        lambda stream=stream: pickled(dict_of(text("w"), tensor(nested(stream)), text("v"), GOOD)),
    )
    add(
        f"plain: {label} as nested stream of 20,000",
        lambda stream=stream: pickled(
            b"B"
            + struct.pack("<I", len(stream))
            + stream
            + put(3)
            + POP
            + name("torch.storage", "_load_from_bytes")
            + put(4)
            + POP
            + LIST
            + MARK
            + b"".join(
                call(REBUILD, get(4) + get(3) + b"\x85R", number(0), sizes(4), sizes(1), FALSE, NONE)
                for i in range(8_000)
            )
            + APPENDS
        ),
        "*",
    )
    add(
        f"plain: one call with {label}, of 8,000 tensors",
        lambda stream=stream: pickled(
            nested(stream)
            + put(3)
            + POP
            + LIST
            + MARK
            + call(REBUILD, get(3), number(0), sizes(4), sizes(1), FALSE, NONE) * 8_000
            + APPENDS
        ),
        "*",
    )
add("plain: what it would import", lambda: pickled(call(name("os", "system"), text("echo"))), FORMAT, "os.system")
add("plain: a pickle that breaks", lambda: pickled(name("os", "system"))[:-1] + b"\xff", CORRUPT, "os.system")
add("plain: 100,000 names", lambda: pickled(list_of(*[name("m", f"C{i}") for i in range(80_000)])), FORMAT)
for protocol in range(256):
    add(
        f"plain: protocol {protocol}",
        lambda protocol=protocol: b"\x80" + bytes([protocol]) + name("os", "system") + STOP,
        FORMAT,
    )
for first in range(0, 256, 5):
    add(f"one byte {first}", lambda first=first: bytes([first]), FORMAT)
    add(f"4,096 bytes {first}", lambda first=first: bytes([first]) * 4096, "*")
add("no bytes", lambda: b"", FORMAT, "empty")

# -- safetensors -----------------------------------------------------------------------------------------

add("safetensors: nothing wrong", lambda: safetensors({"a": entry()}))
for length in (0, 1, 7, 10**8 + 1, 2**62, 2**64 - 1):
    add(
        f"safetensors: a header of {length} bytes",
        lambda length=length: safetensors({"a": entry()}, length=length),
        "*",
    )
for label, raw in {
    "100,000 brackets": b'{"a":' + b"[" * 100_000, "100,000 braces": b'{"a":' * 100_000, "126 brackets": b'{"a":' + b"[" * 126 + b"]" * 126 + b"}", "no JSON": b"{x}",
    "only a brace": b"{", "a list": b"[]", "spaces": b" " * 100_000 + b"{}", "NUL": b"{}" + bytes(8), "a BOM": b"\xef\xbb\xbf{}", "no UTF-8": b'{"\xff":1}', "UTF-16": "{}".encode("utf-16"),
    "a key twice": b'{"a":1,"a":2}', "metadata twice": b'{"__metadata__":{},"__metadata__":{}}', "NaN": b'{"a":NaN}', "Infinity": b'{"a":-Infinity}',
    "5,000 digits": b'{"a":' + b"9" * 5000 + b"}", "a lone surrogate": b'{"\\ud800":1}', "a comma too many": b'{"a":1,}', "metadata of numbers": b'{"__metadata__":{"a":1}}',
    "metadata of lists": b'{"__metadata__":[]}', "deep metadata": b'{"__metadata__":{"a":' + b"[" * 900 + b"]" * 900 + b"}}", "300,000 numbers": b'{"a":[' + b"1," * 300_000 + b"1]}",
    "300,000 lists": b'{"a":[' + b"[]," * 300_000 + b"[]]}", "300,000 objects": b'{"a":[' + b"{}," * 300_000 + b"{}]}", "a text of 900,000": b'{"' + b"a" * 900_000 + b'":1}',
}.items():  # fmt: skip
    add(
        f"safetensors: {label} as header",
        lambda raw=raw: safetensors(raw),
        CORRUPT if raw[:1] not in b" \xef\xff" else "*",
    )
for label, lie in {
    "an unknown dtype": entry(dtype="F33"), "a dtype of a list": entry(dtype=[]), "a dtype of None": entry(dtype=None), "a long dtype": entry(dtype="x" * 100_000), "a boolean size": entry(shape=[True]),
    "a float size": entry(shape=[4.0]), "a negative size": entry(shape=[-4]), "a size of 1e400": entry(shape=[4], offsets=[0, 16]) | {"shape": ["1e400"]}, "a text size": entry(shape=["4"]),
    "a size of 2**64": entry(shape=[2**64]), "sizes that overflow": entry(shape=[2**40, 2**40]), "offsets that overflow": entry(offsets=[0, 2**64]), "one offset": entry(offsets=[0]),
    "three offsets": entry(offsets=[0, 8, 16]), "offsets backwards": entry(offsets=[16, 0]), "negative offsets": entry(offsets=[-16, 0]), "boolean offsets": entry(offsets=[False, 16]),
    "another length": entry(offsets=[0, 12]), "no shape": {"dtype": "F32", "data_offsets": [0, 16]}, "text": "x", "None": None, "a list": [], "a number": 1, "F4 of odd shape": entry([3], [0, 1], "F4"),
    "F6 of odd bits": entry([1], [0, 1], "F6_E2M3"),
}.items():  # fmt: skip
    add(f"safetensors: {label}", lambda lie=lie: safetensors({"a": lie}), CORRUPT)
for label, header, says in (
    ("data beyond the end", {"a": entry((2**40,), (0, 2**42))}, "cut"), ("a hole", {"a": entry((1,), (12, 16))}, "hole"), ("an overlap", {"a": entry(), "b": entry()}, "overlap"),
    ("trailing bytes", {"a": entry((1,), (0, 4))}, "after the last"), ("an unknown field", {"a": entry(x=1)}, ""), ("nothing", {}, ""),
    ("sizes of 0 and of 2**63", {"a": entry([0, *[2**63] * 20_000], (0, 0))}, ""), ("200,000 sizes of 1", {"a": entry([1] * 200_000, (0, 4))}, ""),
    ("a 0 and 300,000 nines", {"a": entry([0, *[9] * 300_000], (0, 0))}, ""), ("30,000 empty tensors", {f"{i}": entry((0,), (0, 0)) for i in range(12_000)}, ""),
    ("a key of a million dots", {"." * 900_000: entry()}, ""), ("keys of 64 dots", {"a." * 60 + f"{i}": entry((0,), (0, 0)) for i in range(4_000)}, ""),
    ("odd keys", {"": entry((0,), (0, 0)), "/": entry((0,), (0, 0)), "~1": entry((0,), (0, 0)), ".": entry((0,), (0, 0)), "\0": entry((0,), (0, 0))}, ""),
    ("layers that are none", {f"{i}.{n}": entry(s, (0, 0)) for i, s in enumerate([(0,), (0, 0), (0, 0, 0), (0, 0, 0, 0), (0,) * 5, (0,) * 6, (0, 2**40)]) for n in (
        "weight", "bias", "running_mean", "running_var", "num_batches_tracked", "weight_g", "weight_v", "weight_orig", "weight_u", "in_proj_weight", "weight_ih_l0", "weight_hh_l0")}, ""),
):  # fmt: skip
    add(f"safetensors: {label}", lambda header=header: safetensors(header), OPENS, says)
for depth in range(300, 1200, 20):
    for place in ("dtype", "shape", "x"):
        raw = json.dumps({"a": entry() | {place: "HERE"}}).replace('"HERE"', "[" * depth + "]" * depth).encode()
        add(f"safetensors: {depth} deep as {place}", lambda raw=raw: safetensors(raw), CORRUPT)

# -- directories and indexes -----------------------------------------------------------------------------

SHARD = safetensors({"a": entry()})


def index(
    label: str,
    weight_map: object,
    error: str = OPENS,
    says: str = "",
    prepare: Callable[[Path], object] | None = None,
    raw: bytes | None = None,
) -> None:
    def write(directory: Path) -> Path:
        folder = directory / "checkpoint"
        folder.mkdir()
        (folder / "good.safetensors").write_bytes(SHARD)
        if prepare is not None:
            prepare(folder)
        (folder / "model.safetensors.index.json").write_bytes(raw or json.dumps({"weight_map": weight_map}).encode())
        return folder

    add_path(f"index: {label}", write, error, says)
    add_path(
        f"index: {label}, by its name", lambda directory: write(directory) / "model.safetensors.index.json", error, says
    )


index("nothing wrong", {"a": "good.safetensors"})
for name_ in ("../x", "/etc/passwd", "a/../../x", "a\\..\\x", "x\0y", "", ".", "./good.safetensors", "a//x", "a/"):
    index(f"{name_!r} as a shard", {"a": name_}, CORRUPT, "outside")
index("itself as a shard", {"a": "model.safetensors.index.json"}, CORRUPT, "index as a shard")
index(
    "another index as a shard",
    {"a": "other.json"},
    CORRUPT,
    "index as a shard",
    lambda f: (f / "other.json").write_text('{"weight_map":{"a":"other.json"}}'),
)
index(
    "itself by a link",
    {"a": "link.safetensors"},
    OPENS,
    "shard",
    lambda f: (f / "link.safetensors").symlink_to("model.safetensors.index.json"),
)
index("a directory as a shard", {"a": "d.safetensors"}, OPENS, "directory", lambda f: (f / "d.safetensors").mkdir())
index("a pipe as a shard", {"a": "p.safetensors"}, OPENS, "pipe", lambda f: os.mkfifo(f / "p.safetensors"))
index(
    "a pipe by a link",
    {"a": "l.safetensors"},
    OPENS,
    "pipe",
    lambda f: (os.mkfifo(f / "p"), (f / "l.safetensors").symlink_to("p")),
)
index(
    "a link to itself",
    {"a": "l.safetensors"},
    OPENS,
    "shard",
    lambda f: (f / "l.safetensors").symlink_to("l.safetensors"),
)
index(
    "a link to nowhere", {"a": "l.safetensors"}, OPENS, "missing", lambda f: (f / "l.safetensors").symlink_to("nowhere")
)
index(
    "links to one file",
    {"a": "good.safetensors", "b": "l.safetensors"},
    OPENS,
    "same file",
    lambda f: (f / "l.safetensors").symlink_to("good.safetensors"),
)
index("a name of a thousand characters", {"a": "x" * 1000}, OPENS, "shard")
index("a name of surrogates", {"a": "\ud800.safetensors"}, OPENS, "shard")
index("a name of controls", {"a": DANGEROUS.replace("\0", "")}, OPENS, "shard")
index("20,000 missing shards", {f"k{i}": f"s{i}" for i in range(20_000)}, OPENS, "missing")
index("a key of another shard", {"b": "good.safetensors"}, OPENS, "not in shard")
index("a list as weight_map", [], FORMAT)
index("objects in weight_map", {"a": {}}, CORRUPT)
index("numbers in weight_map", {"a": 1}, CORRUPT)
index("100,000 brackets", None, CORRUPT, "", None, b'{"weight_map":' + b"[" * 100_000)
index("no JSON", None, CORRUPT, "", None, b'{"weight_map"')
index("a hostile shard", {"a": "bad.pt"}, OPENS, "shard", lambda f: (f / "bad.pt").write_bytes(beside(BOMB)))
index(
    "a checkpoint that is no state_dict as a shard",
    {"a": "x.pt"},
    OPENS,
    "not in shard",
    lambda f: (f / "x.pt").write_bytes(checkpoint(dict_of(text("m"), LEGACY))),
)


def directory(label: str, prepare: Callable[[Path], object], error: str) -> None:
    def write(parent: Path) -> Path:
        folder = parent / "checkpoint"
        folder.mkdir()
        prepare(folder)
        return folder

    add_path(f"directory: {label}", write, error)


directory("nothing", lambda f: None, FORMAT)
directory("a pipe as its index", lambda f: os.mkfifo(f / "x.index.json"), FORMAT)
directory("a directory as its index", lambda f: (f / "x.index.json").mkdir(), FORMAT)
directory("a link to itself as its weights", lambda f: (f / "x.pt").symlink_to("x.pt"), FORMAT)
directory("a pipe as its weights", lambda f: os.mkfifo(f / "x.pt"), FORMAT)
directory(
    "names of controls",
    lambda f: [
        (f / DANGEROUS.replace("\0", "").replace("\ud800", "")).mkdir(),
        os.mkdir(os.fsencode(f) + b"/\xff\x1b[2J"),
    ],
    FORMAT,
)
directory("weights of a hostile name", lambda f: (f / "$(touch x);\x1b[2J'.pt").write_bytes(beside(BOMB)), LIMIT)


def names() -> Iterator[str]:
    yield from ATTACKS
