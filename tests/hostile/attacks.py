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
