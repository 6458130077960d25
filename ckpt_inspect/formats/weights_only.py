"""What ``torch.load(weights_only=True)`` would say, from a table of one torch version, without torch.

Facts: ``torch/_weights_only_unpickler.py`` of the version named here; a test compares the table with the
installed torch and the verdict with what torch does.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from ..model.graph import Global, Pickle
from .weights_only_calls import PLAIN, Budget, complaints, patch_complaint

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

# What ``import torch`` adds to that table, and what a module adds when it is imported.
_ADDED = frozenset(
    [
        "torch.distributed._mesh_layout._FlatLayout", "torch.distributed._mesh_layout._MeshLayout",
        "torch.nested._internal.nested_tensor.NestedTensor", "torch.nested._internal.nested_tensor._rebuild_njt",
    ]
)  # fmt: skip
_DTENSOR = "torch.distributed.tensor"
_LATER = {
    "torch._dynamo.decorators._DimRange": "torch._dynamo",
    "torch.distributed.device_mesh.DeviceMesh": _DTENSOR,
    **{f"{_DTENSOR}.{name}": _DTENSOR for name in (
        "DTensor", "_dtensor_spec.DTensorSpec", "_dtensor_spec.ShardOrderEntry", "_dtensor_spec.TensorMeta",
        "placement_types.Partial", "placement_types.Replicate", "placement_types.Shard", "placement_types._StridedShard",
    )},
}  # fmt: skip

# Python 2 names that the unpickler maps before it looks (``_compat_pickle``), as far as they are allowed then.
_RENAMED = {
    "__builtin__.bytearray": "builtins.bytearray", "__builtin__.complex": "builtins.complex",
    "__builtin__.set": "builtins.set", "UserDict.UserDict": "collections.UserDict",
}  # fmt: skip


class Verdict(NamedTuple):
    """``ok``, and what stands in the way: globals by name, then opcodes and constructs in words."""

    ok: bool
    blocked: list[str]

    @property
    def once(self) -> list[str]:
        """The modules after whose import torch would load it; none if it does anyway, or never does."""
        modules = {_LATER.get(name, "") for name in self.blocked}
        return [] if "" in modules else sorted(modules)

    def to_dict(self) -> dict[str, Any]:
        return {"ok": self.ok, "blocked": self.blocked, "torch": TORCH}


def modern(qualname: str) -> str:
    """A global as Python 3 names it."""
    return _RENAMED.get(qualname, qualname)


def verdict(pickles: list[Pickle], reason: str | None = None, lengths: Collection[int] = (5, 6)) -> Verdict:
    """Whether all ``pickles`` of a file would pass.

    ``reason``: why the container itself would not; ``lengths``: of a storage's id: 5 in a zip, 6 in the legacy stream.
    """
    blocked: dict[str, None] = {} if reason is None else {reason: None}
    budget = Budget()
    for pickle in pickles:
        plain: dict[int, tuple[int, ...]] = {}  # by callee
        classes: set[int] = set()  # of storages
        for node in pickle.globals:
            name = modern(node.qualname)
            if name not in ALLOWED and name not in _ADDED:
                blocked[node.qualname] = None
            elif node.state is not None:
                blocked[str(patch_complaint(node, budget))] = None
            elif name in PLAIN:
                plain[id(node)] = PLAIN[name]
            elif name.endswith("Storage") and name != "torch.storage.TypedStorage":
                classes.add(id(node))
        for name, _ in pickle.refused:
            blocked[f"opcode {name}"] = None
        for persistent in pickle.persistent:
            pid = persistent.pid
            if not (type(pid) is tuple and len(pid) in lengths and pid[0] == "storage" and id(pid[1]) in classes):
                _check_id(pid, blocked)
            if persistent.state is not None and (text := patch_complaint(persistent, budget)) is not None:
                blocked[text] = None
        for call in [
            call for call in pickle.calls  # there are hundreds of thousands of them, nearly all as torch writes them
            if call.ops is not None or call.how != "REDUCE" or type(call.args) is not tuple
            or len(call.args) not in plain.get(id(call.callee), ())
        ]:  # fmt: skip
            name = modern(call.qualname)
            blocked.update(dict.fromkeys(complaints(call, name, name in ALLOWED or name in _ADDED, budget)))
    return Verdict(not blocked, list(blocked))


def _check_id(pid: Any, blocked: dict[str, None]) -> None:
    if type(pid) is tuple and len(pid) > 1 and pid[0] == "storage" and type(pid[1]) is Global:
        if modern(pid[1].qualname) not in ALLOWED:
            return  # which is said
        blocked["a malformed storage id"] = None
    else:
        is_class = type(pid) is tuple and len(pid) > 0 and pid[0] != "storage"
        blocked["persistent id of a class" if is_class else "persistent id that is no storage"] = None
