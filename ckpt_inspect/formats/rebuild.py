"""One table that turns rebuild calls into tensors (formats 2.2, 2.3, 3; ``torch/_utils.py``).

Nothing is called: the arguments are read where they lie, checked against the storage, and described.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from ..dtypes import BY_NAME, BY_STORAGE, ITEMSIZE, PACKED, DType
from ..model.graph import Dict, Global, Opaque, Persistent, Pickle, Set
from ..model.problem import Problem
from ..model.storage import Record, Storage
from ..model.tensor import TensorInfo
from . import numpy_values, objects
from .inline import source_of

if TYPE_CHECKING:
    from collections.abc import Callable

INLINE = "inline/"  # how storages are called whose bytes lie inside the pickle
_UNTYPED = DType("uint8", 8, "int", None, None, False)
_DEEPEST, _MOST_INSIDE = 16, 1000  # tensors inside tensors
_HOLDERS = frozenset([Opaque, Persistent, Dict, Set, list, tuple])


class Malformed(Exception):
    """A rebuild call whose arguments are not of its form; caught where the tensor has a name."""


def storage_dtype(cls: Any) -> DType | None:
    """The element type of a storage class; only its name counts, whatever its module (formats 3)."""
    if type(cls) is not Global:
        return None
    if cls.name in ("UntypedStorage", "_UntypedStorage"):
        return _UNTYPED
    return BY_STORAGE.get(cls.name)


def is_storage(node: Any) -> bool:
    """Whether a persistent id is a storage's, of the right length at least."""
    return type(node) is Persistent and type(node.pid) is tuple and len(node.pid) >= 5 and node.pid[0] == "storage"


def storage_key(node: Any) -> str | None:
    """The key of the storage that a persistent id names; None for one of anything else, or with a key that is none."""
    key = node.pid[2] if is_storage(node) else None
    return str(key) if isinstance(key, str) or (type(key) is int and key.bit_length() <= _MOST_BITS) else None


_MOST_BITS = 128  # as text, larger numbers cost more than the pickle that spells them


def storage_keys(pickle: Pickle) -> set[str]:
    """Keys of all storages that a pickle names; what is no text or number is none."""
    return {key for node in pickle.persistent if (key := storage_key(node)) is not None}


class Storages:
    """Storages by the key of their persistent id. The first id of a key decides, as in torch."""

    def __init__(self, records: dict[str, Record], prefix: str, byteorder: str, problems: list[str]) -> None:
        self.records = records
        self.prefix = prefix
        self.byteorder = byteorder
        self.problems = problems
        self.by_key: dict[str, tuple[Storage, DType, Any]] = {}  # with the class node that decided
        self.inline = 0
        self.reached: set[str] = set()  # keys that a tensor was found for

    def get(self, node: Any) -> tuple[Storage, DType, Any]:
        if not is_storage(node):
            if type(node) is Persistent and isinstance(node.pid, str):  # PERSID, of protocol 0, knows text alone
                raise Malformed("saved with pickle protocol 0, which has no storages: torch cannot load it")
            raise Malformed("not a storage")
        pid = node.pid
        key = pid[2]
        if type(key) is not str:
            key = str(key) if type(key) is int or isinstance(key, str) else None
        if key is not None:
            self.reached.add(key)
        known = self.by_key.get(key) if key is not None else None
        if known is not None:
            if pid[1] is not known[2]:  # the same global node in all honest files: no look-up for each tensor
                self._compare(key, known, pid)
            return known
        if key is None:
            raise Malformed("a storage key that is no text")
        return self._add(key, pid)

    def _add(self, key: str, pid: tuple[Any, ...]) -> tuple[Storage, DType, Any]:
        dtype = storage_dtype(pid[1])
        location, numel = pid[3], pid[4]
        if isinstance(location, bytes):
            location = location.decode("latin-1")
        if dtype is None or not isinstance(location, str) or type(numel) is not int or not 0 <= numel <= _LARGEST:
            raise Malformed("a malformed storage id")
        nbytes = numel * dtype.itemsize
        name = self.prefix + key
        record = self.records.get(name)
        word = 1 if dtype is _UNTYPED else dtype.itemsize // (2 if dtype.kind == "complex" else 1)
        storage = Storage(name, nbytes, location, record, 0, self.byteorder, word)
        if record is None:
            self.missing(storage)
        elif record.nbytes != nbytes:
            text = f"record {name} has {record.nbytes:,} bytes where the pickle needs {nbytes:,}: damaged or rewritten"
            self.problems.append(Problem(text, name))
            if record.nbytes < nbytes:
                storage.record = None
        known = (storage, dtype, pid[1])
        self.by_key[key] = known
        return known

    def missing(self, storage: Storage) -> None:
        """What to say when a storage has no record."""
        if storage.location != "meta":
            self.problems.append(Problem(f"record {storage.id} is missing: {storage.nbytes:,} bytes", storage.id))

    def _compare(self, key: str, known: tuple[Storage, DType, Any], pid: tuple[Any, ...]) -> None:
        dtype = storage_dtype(pid[1])
        if dtype is None or type(pid[4]) is not int:
            raise Malformed("a malformed storage id")
        if dtype is known[1]:
            return
        if not (dtype.bits == 8 and known[1].bits == 8):  # untyped and byte views of one storage are usual
            text = f"storage {key} is called {known[1].name} and {dtype.name}; torch takes the first"
            if text not in self.problems:
                self.problems.append(Problem(text, known[0].id, damage=False))

    def add_inline(self, data: Any, path: str, location: str) -> Storage:
        """A storage whose bytes lie inside the pickle."""
        name = f"{INLINE}{self.inline}"
        self.inline += 1
        source = source_of(data, path)
        return Storage(name, source.size, location, Record(name, source.size, source))


class Rebuilder:
    """Decodes rebuild calls of one pickle into :class:`TensorInfo` without a key."""

    def __init__(self, storages: Storages, path: str = "") -> None:
        self.storages = storages
        self.path = path
        self._handlers: dict[int, Callable[[Rebuilder, Opaque], TensorInfo] | None] = {}  # by identity of the callee
        self._nested = 0
        self.looked = 0  # what hangs on the tensor that is decoded
        self._inside = 0  # tensors that were found in the one that is decoded: sixteen levels of sixteen are too many

    def decode(self, node: Any) -> TensorInfo | None:
        """The tensor that ``node`` would rebuild, None if it is no tensor.

        Raises:
            Malformed: it is one of torch's rebuild calls, with arguments that are not of its form.
        """
        if type(node) is not Opaque:
            if type(node) is Persistent and type(node.pid) is tuple and node.pid and node.pid[0] == "storage":
                return self._bare_storage(node)
            return None
        callee = node.callee
        if id(callee) in self._handlers:
            handler = self._handlers[id(callee)]
        else:
            handler = None
            if type(callee) is Global:
                handler = _HANDLERS.get((callee.module, callee.name))
                if handler is None and callee.name.endswith("Tensor") and callee.module in ("torch", "torch.cuda"):
                    handler = _ancient_tensor
            self._handlers[id(callee)] = handler
        if handler is None:
            return None
        if not self._nested:
            self._inside = self.looked = 0
        else:
            self._inside += 1
        if self._nested > _DEEPEST or self._inside > _MOST_INSIDE:
            raise Malformed("tensors inside tensors inside tensors")
        self._nested += 1
        try:
            return handler(self, node)
        except (IndexError, ValueError, TypeError, AttributeError) as error:
            raise Malformed(f"malformed arguments of {node.qualname}") from error
        finally:
            self._nested -= 1

    def need(self, node: Any) -> TensorInfo:
        info = self.decode(node)
        if info is None:
            raise Malformed("not a tensor where one is needed")
        return info

    def attached(self, attributes: dict[str, Any]) -> list[TensorInfo]:
        """The tensors among attributes, those in containers and objects too: ``quant_state.absmax``."""
        found: list[TensorInfo] = []
        waiting = [*attributes.items()][::-1]
        seen: set[int] = set()
        while waiting:
            name, value = waiting.pop()
            if type(value) not in _HOLDERS or id(value) in seen:
                continue
            seen.add(id(value))
            part = self.decode(value)
            if part is not None:
                found.append(part.with_key(name))
            elif self.looked < _MOST_INSIDE:  # what is further on stays unreached, and that is said
                inside = objects.entries(objects.children(value)[0])[0]
                below = [(f"{name}.{key}", child) for key, child in reversed(inside)]
                self.looked += 1 + len(below) + (sum(len(inner) for inner, _ in below) >> 4)
                waiting += below
        return found

    def strided(
        self, storage_node: Any, offset: Any, size: Any, stride: Any, dtype: DType | None = None,
        requires_grad: Any = None, hints: Any = None, node: Any = None,
    ) -> TensorInfo:  # fmt: skip
        """A view of a storage, its bounds checked with Python's integers (formats 2.3, Bounds on load)."""
        storage, storage_type, _ = self.storages.get(storage_node)
        element = dtype or storage_type
        shape, steps = counted(dims(size)), dims(stride)
        if type(offset) is not int or not 0 <= offset <= _LARGEST or len(shape) != len(steps):
            raise Malformed("an impossible view")
        last = offset
        empty = False
        for length, step in zip(shape, steps, strict=True):
            if not length:
                empty = True
            last += (length - 1) * step
        name = element.name
        if not empty and name in PACKED:
            last //= PACKED[name]
        if not empty and (last + 1) * element.itemsize > storage.nbytes:
            raise Malformed(
                f"needs {(last + 1) * element.itemsize:,} bytes of storage {storage.id}, which has {storage.nbytes:,}"
            )
        conj = neg = False
        if hints is not None:
            conj, neg = _flag(hints, "conj"), _flag(hints, "neg")
        return TensorInfo(
            "", name, shape, steps, storage, offset, storage.location, "strided", conj, neg,
            requires_grad if type(requires_grad) is bool else None, None, (), node,
        )  # fmt: skip

    def _bare_storage(self, node: Persistent) -> TensorInfo:
        storage, dtype, _ = self.storages.get(node)
        numel = storage.nbytes // dtype.itemsize
        return TensorInfo(
            "", dtype.name, (numel,), (1,), storage, 0, storage.location, cls="torch.storage", node=node
        )  # fmt: skip


def dims(value: Any) -> tuple[int, ...]:
    """A size or stride: a tuple or list of non-negative ints, or ``torch.Size`` of one."""
    if type(value) is Opaque and value.callee.name == "Size":
        value = value.args[0]
    if type(value) is Opaque and value.callee.name == "build_intlist":  # TorchScript
        value = value.args[0]
    result = tuple(value)
    for item in result:
        if type(item) is not int or not 0 <= item <= _LARGEST:
            raise Malformed("a dimension that is no count")
    return result


_LARGEST = 2**63 - 1  # torch counts with 64 bits


def counted(shape: tuple[int, ...]) -> tuple[int, ...]:
    """``shape``, if its elements can be counted as torch counts them."""
    if 0 not in shape and prod(shape) > _LARGEST:
        raise Malformed("more elements than 64 bits can count")
    return shape


def pairs_of(node: Any) -> dict[str, Any]:
    """The string-keyed pairs of a mapping node, last one wins; {} for anything else."""
    if type(node) is Opaque and node.callee.name == "restore_type_tag":  # TorchScript
        node = node.args[0]
    if type(node) in (Dict, Opaque):
        return {str(key): value for key, value in node.items() if isinstance(key, str)}
    return {}


def _flag(hints: Any, name: str) -> bool:
    return pairs_of(hints).get(name) is True


def dtype_of(node: Any) -> DType:
    if type(node) is Global and node.module == "torch" and node.name in BY_NAME:
        return BY_NAME[node.name]
    raise Malformed("an unknown dtype")


def device_text(node: Any) -> str:
    """A device as text: a plain string, or ``torch.device(type[, index])``."""
    if isinstance(node, str):
        return node
    if type(node) is Opaque and node.qualname == "torch.device" and node.args:
        kind, *index = node.args
        if isinstance(kind, str):
            return f"{kind}:{index[0]}" if index and type(index[0]) is int else str(kind)
    raise Malformed("an unknown device")


# -- the calls of formats 2.3, each with its argument tuple ----------------------------------------------


def _tensor_v2(r: Rebuilder, node: Opaque) -> TensorInfo:
    # storage, offset, size, stride, requires_grad, hooks [, metadata]
    args = node.args
    return r.strided(args[0], args[1], args[2], args[3], None, args[4], args[6] if len(args) > 6 else None, node)


def _tensor_v3(r: Rebuilder, node: Opaque) -> TensorInfo:
    # storage, offset, size, stride, requires_grad, hooks, dtype [, metadata]
    args = node.args
    metadata = args[7] if len(args) > 7 else None
    return r.strided(args[0], args[1], args[2], args[3], dtype_of(args[6]), args[4], metadata, node)


def _tensor(r: Rebuilder, node: Opaque) -> TensorInfo:
    storage, offset, size, stride = node.args
    return r.strided(storage, offset, size, stride, node=node)


def _ancient_tensor(r: Rebuilder, node: Opaque) -> TensorInfo:
    # torch.FloatTensor NEWOBJ or REDUCE, BUILD (storage, offset, size, stride); without that, or with (), an empty one
    if not node.args and all(type(state) is tuple and not state for state in node.states):
        return _empty_tensor(r, node)
    (state,) = node.states
    storage, offset, size, stride = state
    return r.strided(storage, offset, size, stride, node=node)


def _empty_tensor(r: Rebuilder, node: Opaque) -> TensorInfo:
    kind = node.callee.name.removesuffix("Tensor") or "Float"  # torch.Tensor is of the default dtype
    dtype = BY_STORAGE.get(f"{kind}Storage")
    if dtype is None:
        raise Malformed("a tensor of an unknown type")
    location = "cuda:0" if node.callee.module == "torch.cuda" else "cpu"
    storage = r.storages.add_inline(b"", r.path, location)
    return TensorInfo("", dtype.name, (0,), (1,), storage, 0, location, node=node)


def _parameter(r: Rebuilder, node: Opaque) -> TensorInfo:
    # tensor, requires_grad, hooks [, state]
    info = r.need(node.args[0])
    grad = node.args[1]
    info = info._replace(requires_grad=grad if type(grad) is bool else None, role="parameter",
                         role_from="recorded", node=node)  # fmt: skip
    return _with_state(r, info, node.args[3]) if len(node.args) > 3 else info


def _ancient_parameter(r: Rebuilder, node: Opaque) -> TensorInfo:
    # Parameter(tensor[, requires_grad]); torch 0.1 to 0.3 then BUILD (requires_grad, volatile, hooks), which
    # counts, or the tensor comes first in BUILD
    state = next((part for part in node.states if type(part) is tuple), ())
    info = r.need(node.args[0] if node.args else state[0])
    grad = next((part for part in (*state, *node.args) if type(part) is bool), True)
    return info._replace(requires_grad=grad, role="parameter", role_from="recorded", node=node)


def _ancient_variable(r: Rebuilder, node: Opaque) -> TensorInfo:
    return _ancient_parameter(r, node)._replace(role=None, role_from=None)


def _from_type(r: Rebuilder, node: Opaque) -> TensorInfo:
    # function, class, its args, state: tensors with attributes, and subclasses
    function, cls, args, state = node.args
    inner = Opaque("REDUCE", function, args)
    name = cls.qualname if type(cls) is Global else None
    if type(function) is Global and function.name == "_rebuild_wrapper_subclass":
        return _wrapper(r, node, args, state, name)
    if type(function) is Global and function.name == "_rebuild_njt":
        return _jagged(r, node, args, name)
    info = r.need(inner)._replace(node=node)
    if name == "torch.nn.parameter.Parameter":
        info = info._replace(role="parameter", role_from="recorded")
    elif name not in ("torch.Tensor", "torch._tensor.Tensor"):
        info = info._replace(cls=name)
    return _with_state(r, info, state)


def attributes_in(state: Any) -> dict[str, Any]:
    """Attributes from the state of a tensor: a dict, or (dict, slots)."""
    if type(state) is tuple and len(state) == 2:
        return {**pairs_of(state[0]), **pairs_of(state[1])}
    return pairs_of(state)


def _with_state(r: Rebuilder, info: TensorInfo, state: Any) -> TensorInfo:
    """Tensors that hang on a tensor as attributes become its parts."""
    parts = r.attached(attributes_in(state))
    return info._replace(parts=(*info.parts, *parts)) if parts else info


def _compound(
    node: Opaque, dtype: str, shape: tuple[int, ...], layout: str, named: list[tuple[str, TensorInfo]],
    cls: str | None = None, requires_grad: Any = None,
) -> TensorInfo:  # fmt: skip
    parts = tuple(part._replace(key=name) for name, part in named)
    device = parts[0].device if parts else None
    return TensorInfo(
        "", dtype, shape, None, None, 0, device, layout, False, False,
        requires_grad if type(requires_grad) is bool else None, cls, parts, node,
    )  # fmt: skip


def _wrapper(r: Rebuilder, node: Opaque, args: Any, state: Any, cls: str | None) -> TensorInfo:
    # class, dtype, size, stride, offset, layout, device, requires_grad; inner tensors are in the outer state
    dtype, shape = dtype_of(args[1]).name, dims(args[2])
    named = [(part.key, part) for part in r.attached(attributes_in(state))]
    info = _compound(node, dtype, shape, "strided", named, cls, args[7])
    return info._replace(device=device_text(args[6]), stride=dims(args[3]))


def _jagged(r: Rebuilder, node: Opaque, args: Any, cls: str | None) -> TensorInfo:
    # one dict: _values, _offsets, _lengths, …; torch has a symbol for the ragged dimension, the shape here is that of
    # the values
    inner = pairs_of(args[0])
    named = [(name, part) for name, value in inner.items() if (part := r.decode(value))]
    for name, value in inner.items():  # _metadata_cache: lengths as tensors of no elements
        if type(value) is Dict:
            named += [(f"{name}.{key}", part) for key, item in pairs_of(value).items() if (part := r.decode(item))]
    if not named:
        raise Malformed("a nested tensor without values")
    values = dict(named).get("values") or dict(named).get("_values") or named[0][1]
    return _compound(node, values.dtype, values.shape, "jagged", named, cls, inner.get("requires_grad"))


def _qtensor(r: Rebuilder, node: Opaque) -> TensorInfo:
    # storage, offset, size, stride, qparams, requires_grad, hooks
    storage, offset, size, stride, qparams, grad, *_ = node.args
    info = r.strided(storage, offset, size, stride, None, grad, None, node)
    if type(qparams) is tuple and len(qparams) == 4:  # per channel: scales and zero points are tensors
        parts = [part._replace(key=name) for name, value in (("scales", qparams[1]), ("zero_points", qparams[2]))
                 if (part := r.decode(value))]  # fmt: skip
        info = info._replace(parts=tuple(parts))
    return info


_COMPRESSED = {
    "sparse_csr": ("crow_indices", "col_indices"), "sparse_csc": ("ccol_indices", "row_indices"),
    "sparse_bsr": ("crow_indices", "col_indices"), "sparse_bsc": ("ccol_indices", "row_indices"),
}  # fmt: skip


def _sparse(r: Rebuilder, node: Opaque) -> TensorInfo:
    if type(node.args[0]) is int:
        return _sparse_script(r, node)
    layout_node, data = node.args
    layout = layout_node.args[0].removeprefix("torch.") if type(layout_node) is Opaque else ""
    if layout == "sparse_coo":  # indices, values, size [, is_coalesced]
        indices, values = r.need(data[0]), r.need(data[1])
        return _compound(node, values.dtype, dims(data[2]), layout, [("indices", indices), ("values", values)])
    if layout not in _COMPRESSED:
        raise Malformed("an unknown sparse layout")
    names = (*_COMPRESSED[layout], "values")
    found = [r.need(item) for item in data[:3]]
    return _compound(node, found[2].dtype, dims(data[3]), layout, list(zip(names, found, strict=True)))


def _sparse_script(r: Rebuilder, node: Opaque) -> TensorInfo:
    # TorchScript (formats 5.2): layout number, size, requires_grad, indices, values [, …], hooks
    layout = {1: "sparse_coo", 2: "sparse_csr"}.get(node.args[0])
    tensors = [info for value in node.args[3:] if (info := r.decode(value))]
    names = ("indices", "values") if layout == "sparse_coo" else ("crow_indices", "col_indices", "values")
    if layout is None or len(tensors) != len(names):
        raise Malformed("an unknown sparse layout")
    named = list(zip(names, tensors, strict=True))
    return _compound(node, tensors[-1].dtype, dims(node.args[1]), layout, named, requires_grad=node.args[2])


def _nested(r: Rebuilder, node: Opaque) -> TensorInfo:
    # buffer, sizes, strides, offsets; the outer size is the number of rows of sizes
    names = ("buffer", "sizes", "strides", "offsets")
    found = [r.need(item) for item in node.args]
    count = found[1].shape[0] if found[1].shape else 0
    return _compound(node, found[0].dtype, (count,), "nested", list(zip(names, found, strict=True)))


def _meta(r: Rebuilder, node: Opaque) -> TensorInfo:
    # dtype, size, stride, requires_grad; there is no storage
    dtype, size, stride, grad = node.args
    return TensorInfo(
        "", dtype_of(dtype).name, counted(dims(size)), dims(stride), None, 0, "meta", "strided", False, False,
        grad if type(grad) is bool else None, None, (), node,
    )  # fmt: skip


def _device_from_cpu(r: Rebuilder, node: Opaque) -> TensorInfo:
    # CPU tensor, dtype, device string, requires_grad
    tensor, dtype, device, grad = node.args
    return r.need(tensor)._replace(
        dtype=dtype_of(dtype).name, device=device_text(device), requires_grad=grad is True, node=node
    )


def _device_from_numpy(r: Rebuilder, node: Opaque) -> TensorInfo:
    # numpy array, dtype, device string, requires_grad; the bytes lie inside the pickle
    array, dtype, device, grad = node.args
    found = numpy_values.array(array)
    if found is None or found.data is None:
        raise Malformed("not a numpy array")
    where = device_text(device)
    storage = r.storages.add_inline(found.data, r.path, where)
    element = dtype_of(dtype)
    if found.numel * ITEMSIZE[element.name] > storage.nbytes:
        raise Malformed("a numpy array shorter than its shape")
    return TensorInfo(
        "", element.name, found.shape, found.stride, storage, 0, where, "strided", False, False,
        grad is True, None, (), node,
    )  # fmt: skip


_UTILS = "torch._utils"
_HANDLERS: dict[tuple[str, str], Callable[[Rebuilder, Opaque], TensorInfo]] = {
    (_UTILS, "_rebuild_tensor_v2"): _tensor_v2,
    (_UTILS, "_rebuild_tensor_v3"): _tensor_v3,
    (_UTILS, "_rebuild_tensor"): _tensor,
    (_UTILS, "_rebuild_parameter"): _parameter,
    (_UTILS, "_rebuild_parameter_with_state"): _parameter,
    ("torch.nn.parameter", "Parameter"): _ancient_parameter,
    ("torch.autograd.variable", "Variable"): _ancient_variable,
    ("torch._tensor", "_rebuild_from_type_v2"): _from_type,
    ("torch.tensor", "_rebuild_from_type_v2"): _from_type,
    (_UTILS, "_rebuild_qtensor"): _qtensor,
    (_UTILS, "_rebuild_sparse_tensor"): _sparse,
    (_UTILS, "_rebuild_sparse_csr_tensor"): _sparse,
    (_UTILS, "_rebuild_nested_tensor"): _nested,
    (_UTILS, "_rebuild_meta_tensor_no_storage"): _meta,
    (_UTILS, "_rebuild_device_tensor_from_cpu_tensor"): _device_from_cpu,
    (_UTILS, "_rebuild_device_tensor_from_numpy"): _device_from_numpy,
    (_UTILS, "_rebuild_xla_tensor"): _device_from_numpy,
}


def is_rebuild(node: Any) -> bool:
    """Whether ``node`` is one of the calls of the table."""
    return type(node) is Opaque and type(node.callee) is Global and (node.callee.module, node.callee.name) in _HANDLERS
