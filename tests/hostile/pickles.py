"""Attacks of the pickle itself, each in a zip that torch.save could have written."""

# fmt: off: one attack a line
from __future__ import annotations

import struct

from .build import (
    APPEND,
    APPENDS,
    BUILD,
    DICT,
    DUP,
    EMPTY,
    FALSE,
    FLOATS,
    GOOD,
    LIST,
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
    TRUE,
    call,
    checkpoint,
    dict_of,
    get,
    keep,
    list_of,
    module,
    name,
    new,
    number,
    pickled,
    put,
    repeated,
    sizes,
    storage,
    tensor,
    text,
    tower,
    tuple_of,
)
from .registry import ANY, CORRUPT, LIMIT, OPENS, add

ONE, TWO, THREE = b"\x85", b"\x86", b"\x87"  # TUPLE1, TUPLE2, TUPLE3
UTILS = "torch._utils"
DANGEROUS = "\x1b[2J\x1b]0;x\x07\u202ea\u2066b\u200f\u2028\x85\x9b31m\x00\x7f\r\n\ud800\u061c\ufeff\U000e0041"


def beside(*value: bytes) -> bytes:
    """A tensor and a value of the attacker's."""
    return checkpoint(dict_of(text("weight"), GOOD, text("x"), *value))


# -- values that cannot be hashed, compared, printed or walked, in every place that is looked at -------------

SELF = get(7)
BOMB = tower(number(1), 100, TWO)
ODD_VALUES = {
    "bomb": BOMB,
    "deep tuple": number(1) + ONE * 50_000,
    "recursive list": LIST + put(7) + SELF + APPEND,
    "huge int": number(1 << 8000),
    "surrogate": text(b"\xed\xa0\x80"),
    "dict": DICT,
    "call": call(name("os", "system"), text("x")),
    "storage": storage(),
    "None": NONE,
}


def places(odd: bytes) -> dict[str, bytes]:
    """The root of a pickle for each place in which a value can be."""
    typed = name("torch._tensor", "_rebuild_from_type_v2")
    view = tuple_of(storage(), number(0), sizes(4), sizes(1), FALSE, ORDERED)
    layout = name("torch.serialization", "_get_layout")
    quantized = storage(kind=name("torch", "QInt32Storage"))
    float32, scalar = name("torch", "float32"), name("numpy.core.multiarray", "scalar")
    array = call(name("numpy.core.multiarray", "_reconstruct"), name("numpy", "ndarray"), sizes(0), text("b"))
    f4 = call(name("numpy", "dtype"), text("f4"))
    state = dict_of(number(0), dict_of(text("exp_avg"), GOOD))
    registries = text("_parameters"), DICT, text("_buffers"), DICT, text("_modules"), DICT

    def shown(*value: bytes) -> bytes:
        return dict_of(text("weight"), GOOD, text("x"), *value)

    def metadata(found: bytes) -> bytes:
        return ORDERED + MARK + text("w") + GOOD + SETITEMS + dict_of(text("_metadata"), found) + BUILD

    return {
        "the root": odd,
        "a value": shown(odd),
        "a key": dict_of(text("weight"), GOOD, odd, NONE),
        "the key of a tensor": dict_of(odd, GOOD),
        "a member of a set": shown(SET + MARK + odd + b"\x90"),
        "a member of a frozenset": shown(MARK + odd + b"\x91"),
        "the argument of a set": shown(call(name("builtins", "set"), odd)),
        "an argument": shown(call(name("m", "f"), odd)),
        "the arguments": shown(name("m", "f") + odd + REDUCE),
        "a callee": shown(odd + EMPTY + REDUCE),
        "a class": shown(odd + EMPTY + NEWOBJ),
        "the arguments of NEWOBJ_EX": shown(name("m", "C") + odd + odd + b"\x92"),
        "a state": shown(new(name("m", "C"), odd)),
        "the state of a state_dict": shown(ORDERED + odd + BUILD),
        "_metadata": metadata(odd),
        "an entry of _metadata": metadata(ORDERED + MARK + odd + odd + text("") + odd + SETITEMS),
        "a persistent id": shown(odd + PID),
        "the one field of a persistent id": shown(tuple_of(odd) + PID),
        "the class of a storage": tensor(storage(kind=odd)),
        "the key of a storage": shown(tensor(storage(key=odd))),
        "the device of a storage": tensor(storage(device=odd)),
        "the length of a storage": tensor(storage(numel=odd)),
        "a sixth field of a storage": tensor(storage("0", 4, FLOATS, "cpu", odd)),
        "a storage": shown(tensor(odd)),
        "an offset": tensor(offset=odd),
        "a size": tensor(size=odd),
        "a dimension": tensor(size=tuple_of(odd)),
        "a torch.Size": tensor(size=call(name("torch", "Size"), odd)),
        "a stride": tensor(stride=odd),
        "a step": tensor(stride=tuple_of(odd)),
        "requires_grad": call(REBUILD, storage(), number(0), sizes(4), sizes(1), odd, ORDERED),
        "hooks": call(REBUILD, storage(), number(0), sizes(4), sizes(1), FALSE, odd),
        "the flags of a tensor": tensor(None, sizes(4), sizes(1), number(0), odd),
        "the arguments of a tensor": REBUILD + odd + REDUCE,
        "a dtype": call(
            name(UTILS, "_rebuild_tensor_v3"), storage(), number(0), sizes(4), sizes(1), FALSE, ORDERED, odd
        ),
        "a parameter": call(name(UTILS, "_rebuild_parameter"), odd, TRUE, ORDERED),
        "the state of a parameter": call(name(UTILS, "_rebuild_parameter_with_state"), GOOD, TRUE, ORDERED, odd),
        "the class of a tensor": call(typed, REBUILD, odd, view, DICT),
        "the function of a tensor": call(typed, odd, name("torch", "Tensor"), EMPTY, DICT),
        "an attribute of a tensor": call(typed, REBUILD, name("torch", "Tensor"), view, dict_of(text("a"), odd)),
        "a layout": call(name(UTILS, "_rebuild_sparse_tensor"), odd, tuple_of(GOOD, GOOD, sizes(4))),
        "the name of a layout": call(
            name(UTILS, "_rebuild_sparse_tensor"), call(layout, odd), tuple_of(GOOD, GOOD, sizes(4))
        ),
        "the parts of a sparse tensor": call(
            name(UTILS, "_rebuild_sparse_tensor"), call(layout, text("torch.sparse_coo")), odd
        ),
        "a quantizer": call(
            name(UTILS, "_rebuild_qtensor"), quantized, number(0), sizes(4), sizes(1), odd, FALSE, ORDERED
        ),
        "a scale": call(
            name(UTILS, "_rebuild_qtensor"),
            quantized,
            number(0),
            sizes(4),
            sizes(1),
            tuple_of(NONE, odd, GOOD, NONE),
            FALSE,
            ORDERED,
        ),
        "a nested tensor": call(name(UTILS, "_rebuild_nested_tensor"), GOOD, odd, GOOD, GOOD),
        "a meta tensor": call(name(UTILS, "_rebuild_meta_tensor_no_storage"), float32, odd, odd, FALSE),
        "a numpy array as a tensor": call(
            name(UTILS, "_rebuild_device_tensor_from_numpy"), odd, float32, text("xla:0"), FALSE
        ),
        "a device": call(name(UTILS, "_rebuild_device_tensor_from_cpu_tensor"), GOOD, float32, odd, FALSE),
        "a wrapper": call(typed, name(UTILS, "_rebuild_wrapper_subclass"), name("m", "C"), odd, DICT),
        "a jagged tensor": call(
            typed, name("torch.nested._internal.nested_tensor", "_rebuild_njt"), name("m", "C"), tuple_of(odd), DICT
        ),
        "an ancient tensor": new(name("torch", "FloatTensor"), odd),
        "an ancient Parameter": call(name("torch.nn.parameter", "Parameter"), odd),
        "parameters": module(parameters=odd),
        "the parameter of a module": module(parameters=dict_of(text("w"), odd)),
        "the name of a parameter": module(parameters=dict_of(odd, GOOD)),
        "modules": module(modules=odd),
        "a child": module(modules=dict_of(text("c"), odd)),
        "the name of a child": module(modules=dict_of(odd, module(parameters=dict_of(text("w"), GOOD)))),
        "a buffer": module(buffers=dict_of(text("b"), odd)),
        "the names of transient buffers": module(
            buffers=dict_of(text("b"), GOOD), more=text("_non_persistent_buffers_set") + odd
        ),
        "an attribute": module(more=text("x") + odd),
        "known attributes": module(more=text("training") + odd + text("_forward_hooks") + odd),
        "a fact of a layer": new(
            name("torch.nn.modules.linear", "Linear"), dict_of(*registries, text("in_features"), odd)
        ),
        "the child of a compiled module": call(name("torch._dynamo.eval_frame", "OptimizedModule"), odd),
        "param_groups": dict_of(text("state"), DICT, text("param_groups"), odd),
        "a group": dict_of(text("state"), state, text("param_groups"), list_of(odd)),
        "what a group holds": dict_of(
            text("state"),
            state,
            text("param_groups"),
            list_of(dict_of(text("lr"), odd, text("params"), odd, text("param_names"), odd)),
        ),
        "a number of a parameter": dict_of(
            text("m"),
            dict_of(text("w"), GOOD),
            text("o"),
            dict_of(
                text("state"),
                state,
                text("param_groups"),
                list_of(dict_of(text("params"), list_of(odd), text("param_names"), list_of(odd))),
            ),
        ),
        "the state of an optimizer": dict_of(text("state"), odd, text("param_groups"), LIST),
        "the key of a state": dict_of(
            text("state"),
            dict_of(odd, dict_of(text("exp_avg"), GOOD)),
            text("param_groups"),
            list_of(dict_of(text("params"), list_of(number(0)), text("param_names"), list_of(text("w")))),
        ),
        "the arguments of a numpy.dtype": shown(call(scalar, name("numpy", "dtype") + odd + REDUCE, text("abcd"))),
        "a code of numpy": shown(call(scalar, call(name("numpy", "dtype"), odd), text("abcd"))),
        "a number of numpy": shown(call(scalar, f4, odd)),
        "an array": shown(array + odd + BUILD),
        "the shape of an array": shown(array + tuple_of(number(1), odd, f4, FALSE, text("abcd")) + BUILD),
        "a dimension of an array": shown(array + tuple_of(number(1), tuple_of(odd), f4, FALSE, text("abcd")) + BUILD),
        "what is encoded": shown(call(name("_codecs", "encode"), odd, text("latin1"))),
        "an encoding": shown(call(name("_codecs", "encode"), text("x"), odd)),
        "bytes": shown(call(name("builtins", "bytes"), odd)),
        "a date": shown(call(name("datetime", "datetime"), odd)),
        "a time zone": shown(
            call(
                name("datetime", "datetime"),
                b"C\x0a" + bytes(10),
                call(name("datetime", "timezone"), call(name("datetime", "timedelta"), odd, odd, odd)),
            )
        ),
        "a complex number": shown(call(name("builtins", "complex"), odd, odd)),
        "a torch.device": shown(call(name("torch", "device"), odd, odd)),
        "a path": shown(call(name("pathlib", "PosixPath"), odd, odd)),
        "a counter": shown(call(name("collections", "Counter"), odd)),
        "pairs of an OrderedDict": call(name("collections", "OrderedDict"), odd),
        "what copyreg makes": shown(call(name("copyreg", "_reconstructor"), odd, odd, odd)),
        "a graph module": shown(call(name("torch.fx.graph_module", "reduce_graph_module"), odd)),
    }


for kind, odd in ODD_VALUES.items():
    for place, body in places(odd).items():
        add(f"{kind} as {place}", lambda body=body: checkpoint(body), ANY)

# -- sharing: a few bytes that stand for more leaves than there are atoms ------------------------------------

BOTH = keep(9, TWO)  # the pair that `tower` makes; the joins below hold it twice
JOINS = {
    "tuples": TWO,
    "lists": BOTH + LIST + get(9) + APPEND,
    "dicts": BOTH + dict_of(text("a"), get(9), text("b"), get(9)),
    "objects": BOTH + new(name("m", "C"), dict_of(text("a"), get(9), text("b"), get(9))),
    "calls": BOTH + name("m", "f") + get(9) + REDUCE,
    "frozensets": BOTH + MARK + get(9) + get(9) + b"\x91",
}
for kind, join in JOINS.items():
    for leaf, code in {"number": number(1), "tensor": GOOD, "list": list_of(number(1))}.items():
        add(
            f"bomb of {kind} over a {leaf}",
            lambda code=code, join=join: beside(tower(code, 90, join)),
            OPENS if kind == "frozensets" else LIMIT,
        )
CHILDREN = keep(9) + POP + module(modules=dict_of(text("a"), get(9), text("b"), get(9)))
add(
    "bomb of modules",
    lambda: checkpoint(tower(module(parameters=dict_of(text("w"), GOOD)), 60, CHILDREN)),
    LIMIT,
    "expand without end",
)
WITH_STATE = call(
    name(UTILS, "_rebuild_parameter_with_state"),
    get(9),
    TRUE,
    ORDERED,
    dict_of(*(text(f"{i}") + get(9) for i in range(16))),
)
add(
    "bomb of tensors as attributes",
    lambda: checkpoint(dict_of(text("w"), tower(GOOD, 60, keep(9) + POP + WITH_STATE))),
    LIMIT,
)

# -- depth and cycles ----------------------------------------------------------------------------------------

for kind, (start, end) in {
    "tuples": (b"", ONE),
    "lists": (LIST, APPEND),
    "dicts": (DICT + text("k"), SETITEM),
    "objects": (name("m", "C") + EMPTY + NEWOBJ, BUILD),
    "calls": (name("m", "f"), ONE + REDUCE),
    "calls of bytes": (name("builtins", "bytes"), ONE + REDUCE),
    "calls of encode": (name("_codecs", "encode"), text("latin1") + TWO + REDUCE),
    "ordered dicts": (ORDERED + text("k"), SETITEM),
    "parameters": (name(UTILS, "_rebuild_parameter"), TRUE + ORDERED + THREE + REDUCE),
    "frozensets": (MARK, b"\x91"),
    "persistent ids": (b"", PID),
    "marks": (MARK, b"t"),
}.items():
    for depth in (150, 1000, 20_000 if start else 1_000_000):
        add(f"{depth:,} {kind} one in the other", lambda a=start, b=end, n=depth: beside(a * n + NONE + b * n), ANY)
CHILD = module(modules=dict_of(text("c"), text("HERE"))).split(text("HERE"))
for depth in (150, 1000, 10_000):
    add(
        f"{depth:,} modules one in the other",
        lambda n=depth: checkpoint(CHILD[0] * n + module(parameters=dict_of(text("w"), GOOD)) + CHILD[1] * n),
        OPENS if depth < 200 else LIMIT,
    )
CYCLES = {
    "a list": LIST + put(7) + SELF + APPEND,
    "a dict": DICT + put(7) + text("k") + SELF + SETITEM,
    "a tuple": LIST + put(7) + SELF + ONE + APPEND,
    "a state": name("m", "C") + EMPTY + NEWOBJ + put(7) + dict_of(text("me"), SELF) + BUILD,
    "a state that is the object": name("m", "C") + EMPTY + NEWOBJ + put(7) + SELF + BUILD,
    "an item": ORDERED + put(7) + text("k") + SELF + SETITEM,
    "_metadata": ORDERED + put(7) + text("w") + GOOD + SETITEM + dict_of(text("_metadata"), SELF) + BUILD,
    "an argument": LIST + put(7) + name("m", "f") + SELF + ONE + REDUCE + APPEND,
    "a frozenset": LIST + put(7) + MARK + SELF + b"\x91" + APPEND,
    "a key": DICT + put(7) + SELF + NONE + SETITEM,
    "param_groups": DICT
    + put(7)
    + MARK
    + text("state")
    + SELF
    + text("param_groups")
    + LIST
    + SELF
    + APPEND
    + SETITEMS,
    "bytes": LIST + put(7) + name("builtins", "bytes") + SELF + ONE + REDUCE + APPEND,
}
for kind, code in CYCLES.items():
    add(f"a cycle through {kind}", lambda code=code: checkpoint(dict_of(text("weight"), GOOD, text("x"), code)))
ITSELF = dict_of(
    text("_parameters"), dict_of(text("w"), GOOD), text("_buffers"), DICT, text("_modules"), dict_of(text("c"), SELF)
)
add(
    "a module that holds itself",
    lambda: checkpoint(name("m", "M") + EMPTY + NEWOBJ + put(7) + ITSELF + BUILD),
    OPENS,
    "holds itself",
)

# -- the same again and again: what is cheap once must be cheap each time ------------------------------------

MANY = 20_000
LONG = text("a" * 100_000)
NUMBERS = number(1) * MANY
ARRAY = call(name("numpy.core.multiarray", "_reconstruct"), name("numpy", "ndarray"), sizes(0), text("b"))
BYTES = b"B" + struct.pack("<I", 1000) + bytes(1000)


def hung(value: bytes) -> bytes:
    """A parameter on which something hangs as an attribute."""
    return call(name(UTILS, "_rebuild_parameter_with_state"), GOOD, TRUE, ORDERED, dict_of(text("k" * 200) + value))


LONG_VALUES = {
    "a long text": LONG,
    "a long text of Python 2": b"T" + struct.pack("<i", 10_000) + b"a" * 10_000,
    "long encoded bytes": call(name("_codecs", "encode"), LONG, text("latin1")),
    "a long bytearray": call(name("builtins", "bytearray"), LONG),
    "a list of numbers": list_of(NUMBERS),
    "a tuple of long texts": keep(4, LONG) + MARK + get(4) * MANY + b"t",
    "a tuple of huge numbers": keep(4, number(1 << 8000)) + MARK + get(4) * MANY + b"t",
    "a set of numbers": call(name("builtins", "set"), list_of(NUMBERS)),
    "an EMPTY_SET of numbers": SET + MARK + NUMBERS + b"\x90",
    "a torch.Size": call(name("torch", "Size"), MARK + NUMBERS + b"t"),
    "a torch.device": keep(4, LONG) + call(name("torch", "device"), get(4) * 5000),
    "a path": keep(4, LONG) + call(name("pathlib", "PosixPath"), get(4) * 5000),
    "an object of scalars": new(name("m", "C"), dict_of((text("k") + NONE) * MANY)),
    "an object of many states": name("m", "C") + EMPTY + NEWOBJ + (NONE + BUILD) * MANY,
    "an object of one state many times": keep(4, dict_of((text("k") + NONE) * 5000))
    + name("m", "C")
    + EMPTY
    + NEWOBJ
    + (get(4) + BUILD) * MANY,
    "a state_dict of metadata": ORDERED
    + dict_of(text("_metadata"), ORDERED + MARK + (text("") + NONE) * MANY + SETITEMS)
    + BUILD,
    "a call of many arguments": name("m", "f") + MARK + NUMBERS + b"t" + REDUCE,
    "an OrderedDict of pairs": call(name("collections", "OrderedDict"), list_of(sizes(1, 2) * MANY)),
    "a tensor of many dimensions": tensor(size=MARK + NUMBERS + b"t", stride=MARK + NUMBERS + b"t"),
    "a tensor of listed dimensions": tensor(size=list_of(NUMBERS), stride=list_of(NUMBERS)),
    "a tensor of many flags": tensor(None, sizes(4), sizes(1), number(0), dict_of((text("k") + NONE) * MANY)),
    "a tensor of a long class": call(
        name("torch._tensor", "_rebuild_from_type_v2"),
        REBUILD,
        name("m", "C" * 900),
        tuple_of(storage(), number(0), sizes(4), sizes(1), FALSE, ORDERED),
        DICT,
    ),
    "a tensor that does not fit": tensor(storage(key="k" * 100_000), sizes(1000)),
    "a tensor of attributes": call(
        name(UTILS, "_rebuild_parameter_with_state"), GOOD, TRUE, ORDERED, dict_of((text("k") + NONE) * MANY)
    ),
    "a tensor of a list": hung(list_of(NUMBERS)),
    "a tensor of a dict of a long name": hung(dict_of(LONG, dict_of(LONG, GOOD))),
    "a tensor of an object of tensors": keep(4, GOOD)
    + hung(new(name("m", "C"), dict_of(*(text(f"{i}") + get(4) for i in range(5000))))),
    "a tensor of a tower of lists": hung(LIST + MARK + LIST * 900 + APPEND * 899 + APPENDS),
    "tensors of one list": keep(4, list_of(NUMBERS)) + list_of(hung(get(4)) * 5000),
    "a tensor of tensors": keep(4, GOOD)
    + call(
        name(UTILS, "_rebuild_parameter_with_state"),
        get(4),
        TRUE,
        ORDERED,
        dict_of(*(text(f"{i}") + get(4) for i in range(5000))),
    ),
    "a tensor of bytes inside": call(
        name(UTILS, "_rebuild_device_tensor_from_numpy"),
        ARRAY
        + tuple_of(
            number(1),
            sizes(1),
            call(name("numpy", "dtype"), text("u1")),
            FALSE,
            call(name("_codecs", "encode"), LONG, text("latin1")),
        )
        + BUILD,
        name("torch", "uint8"),
        text("xla:0"),
        FALSE,
    ),
    "a storage of a long key": storage(key="k" * 100_000),
    "a storage on a long device": tensor(storage(device="k" * 100_000)),
    "a module of parameters": keep(4, GOOD) + module(parameters=dict_of(*(text(f"{i}") + get(4) for i in range(5000)))),
    "a module of attributes": module(more=b"".join(text(f"a{i}") + NONE for i in range(5000))),
    "a module of one parameter many times": keep(4, GOOD) + module(parameters=dict_of((text("w") + get(4)) * MANY)),
    "a module of hooks": keep(4, dict_of((text("k") + NONE) * MANY))
    + module(more=b"".join(text(f"_{i}_hooks") + get(4) for i in range(20))),
    "a module of transient names": module(
        more=text("_non_persistent_buffers_set") + call(name("builtins", "set"), list_of(text("a") * MANY))
    ),
    "an array": ARRAY
    + tuple_of(number(1), sizes(1000), call(name("numpy", "dtype"), text("u1")), FALSE, BYTES)
    + BUILD,
    "an array of a dtype of states": ARRAY
    + tuple_of(number(1), sizes(1), call(name("numpy", "dtype"), text("u1")) + (NONE + BUILD) * MANY, FALSE, text("a"))
    + BUILD,
    "a dict of dicts": keep(4, DICT) + dict_of(*(text(f"{i}") + get(4) for i in range(5000))),
    "a list of dicts": keep(4, DICT) + list_of(get(4) * MANY),
    "an optimizer": dict_of(text("state"), DICT, text("param_groups"), LIST),
    "an empty state_dict": ORDERED + dict_of(text("_metadata"), ORDERED) + BUILD,
    "a layer of a long fact": new(
        name("torch.nn.modules.linear", "Linear"),
        dict_of(
            text("_parameters"),
            DICT,
            text("_buffers"),
            DICT,
            text("_modules"),
            DICT,
            text("in_features"),
            MARK + NUMBERS + b"t",
        ),
    ),
    "a long name": name("m", "C" * 900),
    "a persistent id of long text": tuple_of(LONG) + PID,
}
K = keep(8, text("k"))
REGISTRIES = b"".join(
    keep(12 + i, text(registry)) for i, registry in enumerate(("_parameters", "_buffers", "_modules"))
)
MODULE = (
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
for kind, code in LONG_VALUES.items():
    add(f"{kind}, 20,000 times", lambda code=code: checkpoint(keep(3, code) + repeated(get(3), MANY)), ANY)
    add(f"{kind}, as 20,000 keys", lambda code=code: beside(keep(3, code) + dict_of((get(3) + NONE) * MANY)), ANY)
    add(
        f"{kind}, in 10,000 dicts",
        lambda code=code: checkpoint(K + keep(3, code) + repeated(DICT + get(8) + get(3) + SETITEM, 10_000)),
        ANY,
    )
    add(
        f"{kind}, in 5,000 modules",
        lambda code=code: checkpoint(
            K + keep(3, code) + keep(10, DICT) + keep(11, name("m", "M")) + REGISTRIES + repeated(MODULE, 5000)
        ),
        ANY,
    )
for kind, key in {"long keys": "k" * 5000, "short keys": "k", "dotted keys": "a." * 2000}.items():

    def below(body: bytes, key: str = key) -> bytes:
        return keep(6, GOOD) + DICT + text(key) + put(5) + (DICT + get(5)) * 180 + body + SETITEM * 181

    add(
        f"a list below 180 levels of {kind}",
        lambda below=below: checkpoint(below(list_of(sizes(1) * 5000, dict_of(text("w"), GOOD)))),
        ANY,
    )
    add(
        f"state_dicts below 180 levels of {kind}",
        lambda below=below: checkpoint(below(repeated(DICT + get(5) + get(6) + SETITEM, 5000))),
        ANY,
    )
    add(
        f"a state_dict below 180 levels of {kind}",
        lambda below=below: checkpoint(below(dict_of(*(text(f"{i}") + get(6) for i in range(5000))))),
        ANY,
    )
    PATH = module(modules=dict_of(get(5), text("HERE"))).split(text("HERE"))
    add(
        f"a module below 180 modules of {kind}",
        lambda key=key, path=PATH: checkpoint(
            keep(5, text(key))
            + keep(6, GOOD)
            + path[0] * 180
            + module(parameters=dict_of(*(text(f"{i}") + get(6) for i in range(5000))))
            + path[1] * 180
        ),
        ANY,
    )
STATE, GROUPS = keep(4, text("state")), keep(5, text("param_groups"))
WEIGHTS = keep(6, GOOD) + dict_of(*(text(f"w{i}") + get(6) for i in range(2000)))
PARAMS = keep(3, text("params"))
add(
    "optimizers and values",
    lambda: checkpoint(
        STATE
        + GROUPS
        + dict_of(
            text("a"),
            repeated(DICT + MARK + get(4) + DICT + get(5) + LIST + SETITEMS, MANY),
            text("b"),
            repeated(DICT + NONE + NONE + SETITEM, MANY),
        )
    ),
    ANY,
)
add(
    "an optimizer of many groups",
    lambda: checkpoint(
        PARAMS
        + dict_of(
            text("m"),
            WEIGHTS,
            text("o"),
            dict_of(
                text("state"),
                DICT,
                text("param_groups"),
                list_of((DICT + get(3) + list_of(number(0)) + SETITEM) * 1000, (DICT + get(3) + LIST + SETITEM) * 5000),
            ),
        )
    ),
    ANY,
)
add(
    "an optimizer of long groups",
    lambda: checkpoint(
        PARAMS
        + dict_of(
            text("m"),
            WEIGHTS,
            text("o"),
            dict_of(
                text("state"),
                DICT,
                text("param_groups"),
                list_of((DICT + get(3) + list_of(*map(number, range(100))) + SETITEM) * 10),
            ),
        )
    ),
    ANY,
)
add(
    "optimizers and state_dicts",
    lambda: checkpoint(
        PARAMS
        + STATE
        + GROUPS
        + K
        + keep(6, GOOD)
        + dict_of(
            text("m"),
            repeated(DICT + get(8) + get(6) + SETITEM, MANY),
            text("o"),
            repeated(
                DICT
                + MARK
                + get(4)
                + DICT
                + get(5)
                + LIST
                + DICT
                + get(3)
                + list_of(number(0))
                + SETITEM
                + APPEND
                + SETITEMS,
                5000,
            ),
        )
    ),
    ANY,
)
add(
    "a long name of a parameter for many states",
    lambda: checkpoint(
        dict_of(
            text("m"),
            dict_of(LONG, GOOD),
            text("o"),
            dict_of(
                text("state"),
                dict_of(number(0), keep(6, GOOD) + dict_of(*(text(f"{i}") + get(6) for i in range(MANY)))),
                text("param_groups"),
                list_of(dict_of(text("params"), list_of(number(0)))),
            ),
        )
    ),
    ANY,
)
add(
    "storages of two types",
    lambda: checkpoint(
        keep(3, text("storage"))
        + keep(4, FLOATS)
        + keep(5, name("torch", "LongStorage"))
        + keep(6, text("cpu"))
        + list_of(
            *(
                MARK + get(3) + get(kind) + text(f"{i}") + get(6) + number(4) + b"t" + PID
                for i in range(MANY // 2)
                for kind in (4, 5)
            )
        )
    ),
)
add("BUILD of one class", lambda: beside(name("m", "C") + (NONE + BUILD) * 300_000))
add(
    "paths of _metadata that share facts",
    lambda: checkpoint(
        keep(3, dict_of(*(text(f"{i}") + NONE for i in range(5000))))
        + ORDERED
        + text("w")
        + GOOD
        + SETITEM
        + dict_of(text("_metadata"), ORDERED + MARK + b"".join(text(f"{i}") + get(3) for i in range(5000)) + SETITEMS)
        + BUILD
    ),
    ANY,
)
for kind, code in {
    "None": NONE,
    "empty dicts": DICT,
    "empty sets": SET,
    "empty lists": LIST,
    "calls": NONE + NONE + REDUCE,
    "names": name("m", "C"),
    "persistent ids": NONE + PID,
    "short texts": b"U\x01a",
}.items():
    add(f"700 KB of {kind}", lambda code=code: beside(list_of(DICT, code * (700_000 // len(code)))), ANY)
for kind, code in {
    "marks": MARK,
    "MEMOIZE": MEMOIZE,
    "DUP": DUP,
    "PID": PID,
    "DUP and REDUCE": DUP + REDUCE,
    "TUPLE1": ONE,
}.items():
    add(f"700 KB of {kind} in a row", lambda code=code: beside(NONE + code * (700_000 // len(code))), ANY)
add("names that differ", lambda: beside(list_of(*(name("m", f"C{i}") for i in range(60_000)))))
add(
    "keys that collide as numbers", lambda: beside(dict_of(*(number(k * (2**61 - 1)) + NONE for k in range(1, 30_000))))
)
add(
    "memo indices that collide",
    lambda: beside(NONE + b"".join(b"p%d\n" % (k * (2**61 - 1)) for k in range(1, 30_000))),
    CORRUPT,
    "memo index",
)

# -- opcodes ---------------------------------------------------------------------------------------------

for opcode, code in {
    "BINUNICODE": b"X\xff\xff\xff\xff",
    "BINUNICODE8": b"\x8d" + b"\xff" * 8,
    "BINBYTES": b"B\xff\xff\xff\xff",
    "BINBYTES8": b"\x8e" + b"\xff" * 8,
    "BYTEARRAY8": b"\x96" + b"\xff" * 8,
    "BINSTRING": b"T\xff\xff\xff\x7f",
    "negative BINSTRING": b"T\xff\xff\xff\xff",
    "SHORT_BINSTRING": b"U\xff",
    "SHORT_BINBYTES": b"C\xff",
    "SHORT_BINUNICODE": b"\x8c\xff",
    "LONG1": b"\x8a\xff",
    "negative LONG4": b"\x8b\xff\xff\xff\xff",
    "FRAME": b"\x95" + b"\xff" * 8,
    "INT": b"I" + b"9" * 50_000,
    "LONG": b"L" + b"9" * 50_000,
    "FLOAT": b"F" + b"9" * 50_000,
    "GLOBAL": b"c" + b"a" * 50_000,
    "STRING": b"S'" + b"a" * 50_000,
}.items():
    add(f"{opcode} longer than the file", lambda code=code: beside(code), CORRUPT)
    add(
        f"{opcode} longer than a plain pickle", lambda code=code: pickled(list_of(name("a", "b"), code)), CORRUPT, "a.b"
    )
add("LONG4 of a gigabyte", lambda: checkpoint(dict_of(text("a"), b"\x8b\xff\xff\xff\x7f")), CORRUPT)
for label, code in {
    "LONG4 of 700 KB": b"\x8b" + struct.pack("<i", 700_000) + b"\x7f" * 700_000,
    "LONG of 700,000 digits": b"L" + b"9" * 700_000 + b"L\n",
    "INT of 5,000 digits": b"I" + b"9" * 5000 + b"\n",
    "a name of 700,000 characters": name(b"a" * 700_000, "b"),
    "an INST of 5,000 characters": MARK + b"im\n" + b"a" * 5000 + b"\n",
    "a STACK_GLOBAL of 700,000 characters": text("m") + text("a" * 700_000) + b"\x93",
}.items():
    add(label, lambda code=code: beside(code), LIMIT)
for label, code in {
    "FLOAT of 700,000 digits": b"F" + b"9" * 700_000 + b"\n",
    "INT of no number": b"I" + b"x" * 2000 + b"\n",
    "FLOAT of no number": b"F" + b"x" * 1000 + b"\n",
    "LONG of nothing": b"L\n",
    "GET of text": b"gx\n",
    "GET of a huge index": b"g" + b"9" * 2000 + b"\n",
    "PUT of a negative index": NONE + b"p-1\n",
    "GET of nothing": b"g77\n",
    "BINGET of nothing": b"h\x4d",
    "LONG_BINGET of nothing": b"j\xff\xff\xff\xff",
    "EXT1": b"\x82\x01",
    "EXT2": b"\x83\x01\x00",
    "EXT4": b"\x84\x01\0\0\0",
    "NEXT_BUFFER": b"\x97",
    "READONLY_BUFFER": NONE + b"\x98",
    "an unknown opcode": b"\xff",
    "a NUL": b"\0",
    "STRING without quotes": b"Sabc\n",
    "STRING of one quote": b"S'\n",
    "STRING of half an escape": b"S'\\x4'\n",
    "UNICODE beyond Unicode": b"V\\U7fffffff\n",
    "BINUNICODE of no UTF-8": b"X\x02\0\0\0\xff\xfe",
    "odd SETITEMS": DICT + MARK + NONE + SETITEMS,
    "odd DICT": MARK + NONE + b"d",
    "SETITEMS on a list": LIST + MARK + NONE + NONE + SETITEMS,
    "SETITEM on None": NONE + NONE + NONE + SETITEM,
    "APPEND to a tuple": EMPTY + NONE + APPEND,
    "APPENDS to text": text("a") + MARK + APPENDS,
    "ADDITEMS to a frozenset": MARK + b"\x91" + MARK + NONE + b"\x90",
    "BUILD on a dict": DICT + NONE + BUILD,
    "BUILD on a list": LIST + NONE + BUILD,
    "BUILD on text": text("a") + NONE + BUILD,
    "BUILD on None": NONE + NONE + BUILD,
    "POP of nothing": POP * 50,
    "OBJ of nothing": MARK + b"o",
    "TUPLE3 of one": MARK + NONE + THREE,
    "DUP of nothing": MARK + DUP,
    "MEMOIZE of nothing": MARK + MEMOIZE,
    "LONG_BINPUT of nothing": MARK + put(1),
    "STACK_GLOBAL of numbers": number(1) + number(2) + b"\x93",
    "PROTO 6 in the middle": b"\x80\x06",
    "a name without its second line": b"cabc",
    "two POP_MARK": b"1" * 3,
}.items():
    add(label, lambda code=code: beside(code), CORRUPT)
for label, code in {
    "LONG_BINPUT at the last index": NONE + put(2**32 - 1) + POP + get(2**32 - 1),
    "PROTO in the middle": PROTO + NONE,
    "POP of a mark": MARK + POP + NONE,
    "INST": MARK + NONE + b"ios\nsystem\n",
    "OBJ": MARK + name("os", "system") + text("echo") + b"o",
    "NEWOBJ_EX": name("os", "system") + tuple_of(text("echo")) + DICT + b"\x92",
    "NEWOBJ_EX of nothing much": NONE + NONE + NONE + b"\x92",
    "REDUCE of text": text("f") + EMPTY + REDUCE,
    "REDUCE of a storage": storage() + EMPTY + REDUCE,
    "BUILD on a class": name("os", "path") + dict_of(text("sep"), text("x")) + BUILD,
    "BUILD on a storage": storage() + DICT + BUILD,
    "everything on an object": new(name("m", "C"), NONE)
    + NONE
    + APPEND
    + NONE
    + NONE
    + SETITEM
    + MARK
    + NONE
    + b"\x90"
    + NONE
    + BUILD,
    "STACK_GLOBAL from the memo": keep(4, text("system")) + text("os") + get(4) + b"\x93",
    "STACK_GLOBAL after DUP": text("os") + DUP + b"\x93",
    "STRING with a surrogate": b"S'\\xed\\xa0\\x80'\n",
    "STRING with a useless backslash": b"S'\\q'\n",
    "UNICODE with a surrogate": b"V\\ud800\n",
    "PERSID": b"Pabc\n",
    "a name of controls": name("\x1b[31mos", "sys\ttem\u202e"),
    "a name of no UTF-8": name(b"\xff\xfe", b"\x80"),
    "a dotted name": name("os.path", "join.__globals__"),
    "an empty name": name("", ""),
    "a name of spaces": name("o s", "sys tem"),
    "an infinite key": dict_of(b"G\x7f\xf0" + bytes(6), GOOD, b"G\x7f\xf8" + bytes(6), GOOD),
    "a date of month 77": call(name("datetime", "datetime"), b"C\x0a" + b"\x7f\x7f\x4d" + b"\x7f" * 7),
}.items():
    add(label, lambda code=code: beside(code))
add("more than one value at STOP", lambda: checkpoint(NONE * 5 + dict_of(text("w"), GOOD)))
add("a second pickle after STOP", lambda: checkpoint(dict_of(text("w"), GOOD) + b"." + name("os", "system")))
add("a key three times", lambda: checkpoint(dict_of((text("k") + GOOD) * 3)), OPENS, "stands twice")
add(
    "keys that are one to Python",
    lambda: checkpoint(dict_of(number(1), GOOD, TRUE, GOOD, b"G\x3f\xf0" + bytes(6), GOOD)),
    OPENS,
    "stands twice",
)
add(
    "keys that read alike",
    lambda: checkpoint(
        dict_of(number(1), GOOD, text("1"), GOOD, text("<int 1>"), GOOD, NONE, GOOD, text("None"), GOOD)
    ),
)
CLASS = DANGEROUS.replace("\n", "")
add(
    "controls in every text",
    lambda: checkpoint(
        dict_of(
            text(DANGEROUS),
            dict_of(text(DANGEROUS), tensor(storage(device=DANGEROUS)), text(DANGEROUS + "."), text(DANGEROUS)),
            text("o"),
            dict_of(
                text("state"),
                dict_of(number(0), dict_of(text(DANGEROUS), GOOD)),
                text("param_groups"),
                list_of(
                    dict_of(
                        text(DANGEROUS),
                        text(DANGEROUS),
                        text("params"),
                        list_of(text(DANGEROUS)),
                        text("param_names"),
                        list_of(text(DANGEROUS)),
                    )
                ),
            ),
            text("c"),
            new(name(CLASS, CLASS), NONE),
            text("b"),
            b"B\x04\0\0\0\x1b[2J",
            text("s"),
            tensor(storage(key=DANGEROUS)),
            text("m"),
            module(parameters=dict_of(text(DANGEROUS), GOOD), more=text(f"_{DANGEROUS}_hooks") + dict_of(NONE, NONE)),
            text("v"),
            call(name("torch", "device"), text(DANGEROUS)),
            text("p"),
            call(name("pathlib", "PosixPath"), text(DANGEROUS)),
            text("n"),
            call(name("numpy.core.multiarray", "scalar"), call(name("numpy", "dtype"), text("\x1b[2J")), text("x")),
            text("u"),
            call(name("uuid", "UUID"), text(DANGEROUS)),
            text("l"),
            call(name("torch.serialization", "_get_layout"), text(DANGEROUS)),
            text("t"),
            call(
                name("torch._tensor", "_rebuild_from_type_v2"),
                REBUILD,
                name(CLASS, CLASS),
                tuple_of(storage(), number(0), sizes(4), sizes(1), FALSE, ORDERED),
                DICT,
            ),
        )
    ),
)

# -- storages and tensors --------------------------------------------------------------------------------

STORAGES = {
    "of no bytes": storage(numel=0),
    "of -1": storage(numel=-1),
    "of 2**70": storage(numel=2**70),
    "of 2**8000": storage(numel=2**8000),
    "of True": storage(numel=TRUE),
    "of 0.0": storage(numel=b"G" + bytes(8)),
    "with a key of ..": storage("../../etc/passwd"),
    "with an absolute key": storage("/etc/passwd"),
    "with the key of another record": storage("../data.pkl"),
    "with a key of 0": storage(number(0)),
    "with a key of -1": storage(number(-1)),
    "with a key of Python 2": storage(b"U\x010"),
    "with an empty key": storage(""),
    "with a key of NUL": storage("\0"),
    "on a device of bytes": storage(device=b"C\x03cpu"),
    "with a class of text": storage(kind=text("FloatStorage")),
    "of another module": storage(kind=name("os", "FloatStorage")),
    "of an unknown class": storage(kind=name("torch", "WhatStorage")),
    "of three fields": tuple_of(text("storage"), FLOATS, text("0")) + PID,
    "of another kind": tuple_of(text("module"), FLOATS, text("0"), text("cpu"), number(4)) + PID,
    "in a list": list_of(text("storage"), FLOATS, text("0"), text("cpu"), number(4)) + PID,
    "of text": text("0") + PID,
    "of too many elements": storage(numel=5),
    "of too few elements": storage(numel=3),
}
for label, code in STORAGES.items():
    add(f"a storage {label}", lambda code=code: checkpoint(dict_of(text("a"), tensor(code), text("b"), code)))
add(
    "conflicting persistent ids",
    lambda: checkpoint(dict_of(text("a"), GOOD, text("b"), tensor(storage(kind=name("torch", "LongStorage"))))),
    OPENS,
    "the first",
)
HUGE = keep(3, number(2**8000))
for label, (size, stride, offset) in {
    "a size beyond": (sizes(5), sizes(1), 0),
    "a stride beyond": (sizes(4), sizes(2), 0),
    "an offset beyond": (sizes(4), sizes(1), 1),
    "a negative stride": (sizes(4), sizes(-1), 3),
    "a negative size": (sizes(-4), sizes(1), 0),
    "a negative offset": (sizes(1), sizes(1), -1),
    "two ranks": (sizes(2, 2), sizes(1), 0),
    "a size of 2**62": (sizes(2**62), sizes(0), 0),
    "a size of 2**8000": (sizes(2**8000), sizes(0), 0),
    "twenty sizes of 2**62": (sizes(*[2**62] * 20), sizes(*[0] * 20), 0),
    "many sizes of 1": (MARK + number(1) * 100_000 + b"t", MARK + number(1) * 100_000 + b"t", 0),
    "huge sizes and a 0": (HUGE + MARK + get(3) * MANY + number(0) + b"t", MARK + number(0) * (MANY + 1) + b"t", 0),
    "a 0 and huge sizes": (HUGE + MARK + number(0) + get(3) * MANY + b"t", MARK + get(3) * (MANY + 1) + b"t", 0),
    "a size of 0 and a huge stride": (sizes(0), sizes(2**8000), 0),
    "a size of 1 and a huge stride": (sizes(1), sizes(2**8000), 0),
    "a size of 0 and a huge offset": (sizes(0), sizes(1), 2**8000),
    "sizes of True": (tuple_of(TRUE), tuple_of(TRUE), 0),
    "sizes of 0.0": (tuple_of(b"G" + bytes(8)), sizes(1), 0),
}.items():
    meta = name(UTILS, "_rebuild_meta_tensor_no_storage"), name("torch", "float64")
    add(f"a tensor of {label}", lambda a=size, b=stride, c=offset: beside(tensor(None, a, b, number(c))), ANY)
    add(f"a meta tensor of {label}", lambda a=size, b=stride, meta=meta: beside(call(*meta, a, b, FALSE)), ANY)
    add(
        f"an array of {label}",
        lambda a=size: beside(
            ARRAY + tuple_of(number(1), a, call(name("numpy", "dtype"), text("f8")), FALSE, b"C\0") + BUILD
        ),
        ANY,
    )
for label, size in {
    "a billion empty rows": sizes(10**9, 0),
    "a million rows of rows": sizes(1000, 1000, 0),
    "2**60 numbers": sizes(2**60),
}.items():
    add(
        f"an array of {label}",
        lambda a=size: beside(
            ARRAY + tuple_of(number(1), a, call(name("numpy", "dtype"), text("f8")), FALSE, b"C\0") + BUILD
        ),
    )
