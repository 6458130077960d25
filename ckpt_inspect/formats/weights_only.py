"""What ``torch.load(weights_only=True)`` would say, from a table of one torch version, without torch.

Facts: ``torch/_weights_only_unpickler.py`` of the version named here; a test compares the table with the
installed torch and the verdict with what torch does.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..model.graph import Global, Opaque, Persistent, Pickle

TORCH = "2.13.0"

_ELEMENTS = ["BFloat16", "Bool", "Byte", "Char", "Double", "Float", "Half", "Int", "Long", "Short"]
_SPARSE = ["BFloat16", "Byte", "Char", "Double", "Float", "Half", "Int", "Long", "Short"]
_DTYPES = [
    "bfloat16",
    "bits16",
    "bits1x8",
    "bits2x4",
    "bits4x2",
    "bits8",
    "bool",
    "complex128",
    "complex32",
    "complex64",
    "float16",
    "float32",
    "float4_e2m1fn_x2",
    "float64",
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
    "int1",
    "int16",
    "int2",
    "int3",
    "int32",
    "int4",
    "int5",
    "int6",
    "int64",
    "int7",
    "int8",
    "qint32",
    "qint8",
    "quint2x4",
    "quint4x2",
    "quint8",
    "uint1",
    "uint16",
    "uint2",
    "uint3",
    "uint32",
    "uint4",
    "uint5",
    "uint6",
    "uint64",
    "uint7",
    "uint8",
]
_UTILS = [
    "_rebuild_device_tensor_from_cpu_tensor",
    "_rebuild_device_tensor_from_numpy",
    "_rebuild_meta_tensor_no_storage",
    "_rebuild_nested_tensor",
    "_rebuild_parameter",
    "_rebuild_parameter_with_state",
    "_rebuild_qtensor",
    "_rebuild_sparse_tensor",
    "_rebuild_tensor",
    "_rebuild_tensor_v2",
    "_rebuild_tensor_v3",
    "_rebuild_wrapper_subclass",
]
_SCHEMES = [
    "channel_affine",
    "channel_affine_float_qparams",
    "channel_symmetric",
    "tensor_affine",
    "tensor_symmetric",
]

ALLOWED: frozenset[str] = frozenset(
    [
        "_codecs.encode", "builtins.bytearray", "builtins.complex", "builtins.set", "collections.Counter",
        "collections.OrderedDict", "torch.Size", "torch.Tensor", "torch._tensor._rebuild_from_type_v2", "torch.device",
        "torch.nn.parameter.Parameter", "torch.serialization._get_layout", "torch.storage.TypedStorage",
        "torch.storage.UntypedStorage",
        *(f"{module}.Complex{kind}Storage" for module in ("torch", "torch.cuda") for kind in ("Double", "Float")),
        *(f"torch.{kind}Storage" for kind in ("QInt32", "QInt8", "QUInt2x4", "QUInt4x2", "QUInt8")),
        *(f"{module}.{kind}{what}" for module in ("torch", "torch.cuda") for kind in _ELEMENTS
          for what in ("Storage", "Tensor")),
        *(f"{module}.{kind}Tensor" for module in ("torch.sparse", "torch.cuda.sparse") for kind in _SPARSE),
        *(f"torch._utils.{name}" for name in _UTILS),
        *(f"torch.{name}" for name in _DTYPES),
        *(f"torch.per_{name}" for name in _SCHEMES),
    ]
)  # fmt: skip

# Python 2 names that the unpickler maps before it looks (``_compat_pickle``), as far as they are allowed then.
_RENAMED = {
    "__builtin__.bytearray": "builtins.bytearray", "__builtin__.complex": "builtins.complex",
    "__builtin__.set": "builtins.set", "UserDict.UserDict": "collections.UserDict",
}  # fmt: skip


class Verdict(NamedTuple):
    """``ok``, and what stands in the way: globals by name, then opcodes and constructs in words."""

    ok: bool
    blocked: list[str]

    def to_dict(self) -> dict[str, Any]:
        return {"ok": self.ok, "blocked": self.blocked, "torch": TORCH}


def modern(qualname: str) -> str:
    """A global as Python 3 names it."""
    return _RENAMED.get(qualname, qualname)


def verdict(pickles: list[Pickle], reason: str | None = None) -> Verdict:
    """Whether all ``pickles`` of a file would pass; ``reason``: why the container itself would not."""
    blocked: dict[str, None] = {} if reason is None else {reason: None}
    for pickle in pickles:
        for node in pickle.globals:
            if modern(node.qualname) not in ALLOWED:
                blocked[node.qualname] = None
        for name, _ in pickle.refused:
            blocked[f"opcode {name}"] = None
        for persistent in pickle.persistent:
            pid = persistent.pid
            if not (type(pid) is int or (type(pid) is tuple and (not pid or pid[0] == "storage"))):
                blocked["persistent id of a class" if type(pid) is tuple else "persistent id that is no storage"] = None
        for call in pickle.calls:
            if call.ops is not None or call.how != "REDUCE":
                _check_call(call, blocked)
    return Verdict(not blocked, list(blocked))


def _check_call(call: Opaque, blocked: dict[str, None]) -> None:
    name = modern(call.qualname)
    if type(call.callee) not in (Global, Persistent):
        blocked["a call of a computed value"] = None
    for op, _ in call.ops or ():
        if op == "SETITEMS" and name not in ("collections.OrderedDict", "collections.Counter"):
            blocked[f"items set on {name or 'an object'}"] = None
        elif op in ("APPENDS", "ADDITEMS"):
            blocked[f"items appended to {name or 'an object'}"] = None
