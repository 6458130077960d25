"""What ``torch.load(weights_only=True)`` says of one call: it calls what its table names, and so far as Python lets it.

Facts: ``torch/_weights_only_unpickler.py`` (REDUCE, NEWOBJ, BUILD, SETITEMS, APPENDS) and the constructors themselves. Where a
call is so odd that only making it would tell, the answer is that torch refuses it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ..model.graph import Character, Dict, Global, OldStr, Opaque, Persistent, Set

_FEW = 64  # nodes of a key that are looked at
_SCALARS = frozenset([Character, OldStr, bool, bytes, float, int, str, type(None)])
_DEVICES = (
    "cpu cuda ipu xpu mkldnn opengl opencl ideep hip ve fpga maia xla lazy vulkan mps meta hpu mtia privateuseone"
)
_DEVICE = re.compile(rf"(?:{_DEVICES.replace(' ', '|')})(:(?:0|[1-9][0-9]?))?")
_LAYOUTS = frozenset(f"torch.{name}" for name in ("jagged", "sparse_bsc", "sparse_bsr", "sparse_coo", "sparse_csc",
                                                  "sparse_csr", "strided"))  # fmt: skip
_ENCODINGS = frozenset(["ascii", "latin-1", "latin1", "utf-8", "utf8"])
_OF_STORAGES = frozenset(["_cdata", "_untyped_storage", "dtype"])
_CLASS_IDS = ("module", b"module")


class Budget:
    """What looking at arguments and states may cost in one file: a list can be the argument of a million calls."""

    def __init__(self) -> None:
        self.left = 1_000_000

    def affords(self, values: Any) -> bool:
        for value in values:
            if isinstance(value, str):
                self.left -= 1 + (len(value) >> 10)
            elif (items := _items_of(value)) is not None:
                self.left -= 1 + (len(items) >> 4)
                if self.left >= 0 and not _SCALARS.issuperset(map(type, items)):
                    self.left -= 8 * len(items)
            if self.left < 0:
                return False
        return True


# -- arguments: whether a call with them succeeds -------------------------------------------------------------

Fits = Callable[[Any], bool]


def _any(args: Any) -> bool:
    return True


def _nothing(args: Any) -> bool:
    return not args


def _some(*lengths: int) -> Fits:
    return lambda args: len(args) in lengths


def _hashable(key: Any) -> bool:
    waiting, looked = [key], 0
    while waiting:
        node = waiting.pop()
        looked += 1
        if type(node) in (list, Dict, bytearray) or (type(node) is Set and not node.frozen) or looked > _FEW:
            return False
        if type(node) is Opaque and node.qualname in _UNHASHABLE:
            return False
        if type(node) is tuple:
            waiting += node
    return True


def _is_mapping(node: Any) -> bool:
    return type(node) is Dict or (type(node) is Opaque and node.qualname in _MAPPINGS)


def _is_pairs(node: Any) -> bool:
    """What ``dict.update`` takes."""
    if _is_mapping(node):
        return True
    if type(node) not in (list, tuple):
        return False
    return all(type(pair) in (list, tuple) and len(pair) == 2 and _hashable(pair[0]) for pair in node)


def _items_of(node: Any) -> Any:
    """What iterating gives, of a dictionary its values too; None where that cannot be told, or cannot be done."""
    if type(node) in (list, tuple, bytes, bytearray):
        return node
    if type(node) is Set:
        return node.members
    return node.pairs if type(node) is Dict else None


def _pairs(args: Any) -> bool:
    return not args or (len(args) == 1 and _is_pairs(args[0]))


def _members(args: Any) -> bool:
    if not args or (len(args) == 1 and (_is_mapping(args[0]) or isinstance(args[0], str))):
        return True
    items = _items_of(args[0]) if len(args) == 1 else None
    return items is not None and (_SCALARS.issuperset(map(type, items)) or all(map(_hashable, items)))


def _counts(args: Any) -> bool:
    """Sizes: integers of 64 bits, those of another size too."""
    if not args:
        return True
    if len(args) == 1 and type(args[0]) is Opaque and args[0].qualname == "torch.Size":
        return True
    items = _items_of(args[0]) if len(args) == 1 and type(args[0]) is not Dict else None
    return items is not None and all(type(n) in (int, bool) and -(2**63) <= n < 2**63 for n in items)


def _keywords(args: Any) -> bool:
    return len(args) == 1 and type(args[0]) is Dict and all(isinstance(key, str) for key in args[0].pairs[::2])


def _length(args: Any) -> bool:
    return not args or (len(args) == 1 and type(args[0]) is int and 0 <= args[0] < 2**31)


def _number(args: Any) -> bool:
    return len(args) <= 2 and all(type(n) is float or (type(n) in (int, bool) and n.bit_length() < 1000) for n in args)


def _device(args: Any) -> bool:
    match = _DEVICE.fullmatch(args[0]) if 1 <= len(args) <= 2 and isinstance(args[0], str) else None
    if match is None or len(args) == 1:
        return match is not None
    return match[1] is None and type(args[1]) is int and 0 <= args[1] < 128


def _layout(args: Any) -> bool:
    return len(args) == 1 and isinstance(args[0], str) and args[0] in _LAYOUTS


def _encoded(args: Any) -> bool:
    if not (1 <= len(args) <= 2 and all(isinstance(arg, str) for arg in args)):
        return False
    encoding = args[1] if len(args) == 2 else "utf-8"
    if encoding not in _ENCODINGS:
        return False
    try:
        args[0].encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _bytes(args: Any) -> bool:
    if len(args) == 2:
        return _encoded(args)
    if not args or (type(args[0]) is Opaque and args[0].qualname == "_codecs.encode"):
        return len(args) < 2
    value = args[0]
    if type(value) in (list, tuple):
        return all(type(n) is int and 0 <= n < 256 for n in value)
    return len(args) == 1 and (type(value) in (bytes, bytearray) or (type(value) is int and 0 <= value < 2**31))


# -- state: whether BUILD with it succeeds --------------------------------------------------------------------


def _is_empty(state: Any) -> bool:
    if type(state) is Dict:
        return not state.pairs
    if type(state) is Opaque:
        return state.qualname in _MAPPINGS and not state.args and state.ops is None
    return state is None or (type(state) in (bool, int, tuple, list, str) and not state)


def _ordered_state(call: Opaque, state: Any) -> bool:
    return _is_pairs(state)


def _plain_state(call: Opaque, state: Any) -> bool:
    """An object without attributes takes no state that says anything."""
    return _is_empty(state) or (type(state) is tuple and len(state) == 2 and all(map(_is_empty, state)))


def _attributes(call: Any, state: Any) -> bool:
    if type(state) is tuple and len(state) == 2:
        state, slots = state
        if not _is_empty(slots):
            return False
    return _is_empty(state) or _is_pairs(state)


def _storage_state(call: Any, state: Any) -> bool:
    """Attributes, if they are not those that it consists of."""
    if not _attributes(call, state):
        return False
    if type(state) is tuple and len(state) == 2:
        state = state[0]
    if type(state) in (list, tuple):
        return not any(pair[0] in _OF_STORAGES for pair in state if isinstance(pair[0], str))
    return _is_empty(state) or (
        type(state) is Dict and not any(key in _OF_STORAGES for key in state.pairs[::2] if isinstance(key, str))
    )


def _tensor_state(call: Opaque, state: Any) -> bool:
    """``set_``: a whole view of a storage of its own type, or nothing."""
    if type(state) is not tuple or len(state) not in (0, 4):
        return False
    if not state:
        return True
    pid = state[0].pid if type(state[0]) is Persistent else None
    if type(pid) is not tuple or len(pid) < 2 or type(pid[1]) is not Global:
        return False
    kind = call.qualname.rpartition(".")[2].removesuffix("Tensor") or "Float"
    return pid[1].name in (f"{kind}Storage", "UntypedStorage")


def _parameter_state(call: Opaque, state: Any) -> bool:
    """``Tensor.__setstate__``: (requires_grad, volatile, hooks), or five where the tensor comes first."""
    if type(state) not in (tuple, list) or len(state) not in (3, 5):
        return False
    return type(state[0]) is bool if len(state) == 3 else type(state[0]) is Opaque and type(state[3]) is bool


def _refused(call: Opaque, state: Any) -> bool:
    return False


def _typed_state(call: Opaque, state: Any) -> bool:
    cls = call.args[1] if type(call.args) is tuple and len(call.args) == 4 else None
    is_parameter = type(cls) is Global and cls.qualname == "torch.nn.parameter.Parameter"
    return is_parameter and _parameter_state(call, state)


# -- the table ------------------------------------------------------------------------------------------------


class _Known(NamedTuple):
    """What may be called: with which arguments, whether it is a class that NEWOBJ makes one of, with which state."""

    called: Fits
    new: Fits | None
    state: Callable[[Any, Any], bool]


_LENGTHS = {
    "_rebuild_device_tensor_from_cpu_tensor": (4,), "_rebuild_device_tensor_from_numpy": (4,),
    "_rebuild_meta_tensor_no_storage": (4,), "_rebuild_nested_tensor": (4,), "_rebuild_parameter": (3,),
    "_rebuild_parameter_with_state": (4,), "_rebuild_qtensor": (7,), "_rebuild_sparse_tensor": (2,),
    "_rebuild_tensor": (4,), "_rebuild_tensor_v2": (6, 7), "_rebuild_tensor_v3": (7, 8), "_rebuild_wrapper_subclass": (8,),
}  # fmt: skip
_PARAMETERS = ("_rebuild_parameter", "_rebuild_parameter_with_state")
_TENSOR = _Known(_any, _any, _tensor_state)  # its arguments are looked at where the tensor is read

_KNOWN = {
    "_codecs.encode": _Known(_encoded, None, _refused),
    "builtins.bytearray": _Known(_bytes, _any, _plain_state),
    "builtins.complex": _Known(_number, _number, _plain_state),
    "builtins.set": _Known(_members, _any, _plain_state),
    "collections.Counter": _Known(_members, _any, _attributes),
    "collections.OrderedDict": _Known(_pairs, _any, _ordered_state),
    "torch.Size": _Known(_counts, _counts, _plain_state),
    "torch.Tensor": _TENSOR,
    "torch.device": _Known(_device, _device, _plain_state),
    "torch.distributed._mesh_layout._FlatLayout": _Known(_any, _nothing, _attributes),
    "torch.distributed._mesh_layout._MeshLayout": _Known(_any, _nothing, _attributes),
    "torch.nested._internal.nested_tensor._rebuild_njt": _Known(_keywords, None, _refused),
    "torch.nn.parameter.Parameter": _Known(_any, _any, _parameter_state),
    "torch.serialization._get_layout": _Known(_layout, None, _refused),
    "torch.storage.TypedStorage": _Known(_length, _nothing, _storage_state),
    "torch.storage.UntypedStorage": _Known(_length, _length, _storage_state),
    "torch._tensor._rebuild_from_type_v2": _Known(_some(4), None, _typed_state),
    **{f"torch._utils.{name}": _Known(_some(*lengths), None, _parameter_state if name in _PARAMETERS else _refused)
       for name, lengths in _LENGTHS.items()},
}  # fmt: skip
_MAPPINGS = frozenset(["collections.Counter", "collections.OrderedDict"])
_UNHASHABLE = _MAPPINGS | {"__builtin__.bytearray", "__builtin__.set", "builtins.bytearray", "builtins.set"}

PLAIN: dict[str, tuple[int, ...]] = {
    "collections.OrderedDict": (0,),
    "torch._tensor._rebuild_from_type_v2": (4,),
    **{f"torch._utils.{name}": lengths for name, lengths in _LENGTHS.items()},
}
"""Most calls of a file: with so many arguments, and nothing done to what they give, they need no look here."""


def _is_tensor_class(name: str) -> bool:
    module, _, kind = name.rpartition(".")
    return module in ("torch", "torch.cuda", "torch.cuda.sparse", "torch.sparse") and kind.endswith("Tensor")


def complaints(call: Opaque, name: str, allowed: bool, budget: Budget) -> Iterator[str]:
    """What of a call of ``name``, as Python 3 spells it, stands in the way; ``allowed``: whether the name itself does not."""
    if type(call.callee) is not Global:
        pid = call.callee.pid if type(call.callee) is Persistent else None
        if not (type(pid) is tuple and pid and pid[0] in _CLASS_IDS):
            yield "a call of a computed value"
        return
    known = _KNOWN.get(name) or (_TENSOR if _is_tensor_class(name) else None)
    if allowed:
        fits = None if known is None else known.called if call.how == "REDUCE" else known.new
        if fits is None:
            yield f"a call of {name}" if call.how == "REDUCE" else f"an object made of {name}"
            return
        if type(call.args) not in (tuple, list) or not budget.affords(call.args) or not fits(call.args):
            yield f"the arguments of {name}"
    for op, payload in call.ops or ():
        if op == "BUILD":
            if allowed and not (known is not None and _takes(known.state, call, payload, budget)):
                yield f"the state of {name}"
        elif op != "SETITEMS":
            yield f"items appended to {name}"
        elif name not in _MAPPINGS:
            yield f"items set on {name}"


def _takes(fits: Callable[[Any, Any], bool], target: Any, state: Any, budget: Budget) -> bool:
    return budget.affords((state, *state) if type(state) is tuple and len(state) <= 5 else (state,)) and fits(
        target, state
    )


def patch_complaint(node: Global | Persistent, budget: Budget) -> str | None:
    """What BUILD on a name, or on a storage, is in the way."""
    if type(node) is Global:
        return f"the state of {node.qualname}" if node.state is not None else None
    if all(_takes(_storage_state, node, state, budget) for state in node.state or ()):
        return None
    return "the state of a storage"
