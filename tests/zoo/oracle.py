"""What torch itself says is in a file, under the names that the contract gives.

``expected(path)`` lists a file's tensors. torch (or safetensors) loads it for real, and the names come from
walking the loaded objects, so the answer shares nothing with the tool's own reading. Devices are the recorded
tags, although everything is loaded on the CPU. Only for files that the zoo wrote: their pickles are run.

Where the contract is silent the oracle takes the nearest reading:

* attribute tensors of a module: dotted on, list items and dict entries too (``anchors.0``, ``tables.low``),
  after the module's children, as the pickle has them;
* an ``Optimizer`` object: as its ``state_dict()``, its parameters under ``param_groups/G/params/N``;
* any other object: a container of its attributes;
* nested tensors have shape ``()``: their real shape is ragged;
* tensors frozen into TorchScript code have no name and no row; ``script_constants`` lists them.
"""

from __future__ import annotations

import json
import math
import pickle
import struct
import tarfile
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import safetensors
import torch
from torch import nn

from . import vanished_modules
from .files import single_process_group

# Safetensors codes and the torch names they stand for; other codes are shown as they are.
SAFETENSORS_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "C64": "complex64",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    "F4": "float4_e2m1fn_x2",
}


class Part(NamedTuple):
    """A component tensor of a compound one; ``part`` is torch's name for it."""

    part: str
    dtype: str
    shape: tuple[int, ...]


class Row(NamedTuple):
    name: str
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...] | None  # None: a layout without strides
    storage_offset: int
    device: str | None
    requires_grad: bool
    storage: str | None  # None: no storage of its own
    role: str | None
    section: str
    key: str
    kind: str
    persistent: bool = True
    layout: str = "strided"
    class_name: str | None = None
    parts: tuple[Part, ...] = ()


class Unanswered(Exception):
    """Torch cannot open this file either."""


def expected(path: Path) -> list[Row]:
    return [row for row, _ in _answer(path)]


def tensors(path: Path) -> dict[str, Any]:
    """The loaded tensors by name, on the CPU."""
    return {row.name: tensor for row, tensor in _answer(path)}


def tie_groups(rows: list[Row]) -> list[set[str]]:
    """The names that are one tensor: same storage, offset, dtype, shape and stride."""
    groups: dict[Any, list[str]] = {}
    for row in rows:
        if row.storage is not None:
            same = (row.storage, row.storage_offset, row.dtype, row.shape, row.stride)
            groups.setdefault(same, []).append(row.name)
    return [set(group) for group in groups.values() if len(group) > 1]


def sections(rows: list[Row]) -> dict[str, str]:
    """The kind of every section that holds a tensor."""
    return {row.section: row.kind for row in rows}


def script_constants(path: Path) -> dict[str, Any]:
    """``CONSTANTS.cN`` of a TorchScript module's ``forward``, by name."""
    with _quiet():
        module = torch.jit.load(str(path), map_location="cpu")
    return dict(module.code_with_constants[1].const_mapping)


def load(path: Path) -> Any:
    """The object in a torch.save file of any age, or a pickle, on the CPU."""
    with _quiet(), vanished_modules():
        return _load(path, lambda storage, tag: storage)


# --- opening ------------------------------------------------------------------------------------------------


def _answer(path: Path) -> list[tuple[Row, Any]]:
    with _quiet(), vanished_modules():
        return list(_open(Path(path)))


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _open(path: Path) -> Iterator[tuple[Row, Any]]:
    if path.is_dir():
        return _open_directory(path)
    head = path.read_bytes()[:16]
    if head.startswith(b"PK"):
        with zipfile.ZipFile(path) as archive:
            records = {name.partition("/")[2] for name in archive.namelist()}
        if "constants.pkl" in records:
            return _script_rows(path)
        if "archive_format" in records:
            return _exported_rows(path)
    if head[8:9] == b"{":
        return _safetensors_rows(path)
    return _torch_rows(path)


def _open_directory(path: Path) -> Iterator[tuple[Row, Any]]:
    indexes = list(path.glob("*.index.json"))
    weights = [file for file in path.iterdir() if file.suffix in (".safetensors", ".bin", ".pt", ".pth")]
    if (path / ".metadata").exists():
        return _distributed_rows(path)
    if indexes:
        return _sharded_rows(indexes[0])
    if len(weights) == 1:
        return _open(weights[0])
    raise Unanswered(f"{path}: no single checkpoint")


def _sharded_rows(index: Path) -> Iterator[tuple[Row, Any]]:
    weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    shards = {
        shard: {row.key: (row, tensor) for row, tensor in _open(index.parent / shard)}
        for shard in sorted(set(weight_map.values()))
    }
    for key, shard in weight_map.items():
        row, tensor = shards[shard][key]
        yield row._replace(storage=f"{shard}:{row.storage}"), tensor


def _distributed_rows(path: Path) -> Iterator[tuple[Row, Any]]:
    """DCP stores no ties and no devices."""
    from torch.distributed.checkpoint import FileSystemReader
    from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
    from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

    state: dict[str, Any] = {}
    _load_state_dict(state, FileSystemReader(path), planner=_EmptyStateDictLoadPlanner(), no_dist=True)
    for row, tensor in _Walk().rows(state):
        yield row._replace(device=None), tensor


def _exported_rows(path: Path) -> Iterator[tuple[Row, Any]]:
    program = torch.export.load(str(path))
    signature = program.graph_signature
    state = OrderedDict(program.state_dict)
    constants = {name: value for name, value in program.constants.items() if name not in state}
    walk = _Walk()
    for name, tensor in (state | constants).items():
        role = "parameter" if name in signature.parameters else "buffer" if name in signature.buffers else None
        persistent = name in state
        yield walk.row(tensor, "", name, "module", role=role, persistent=persistent), tensor


def _safetensors_rows(path: Path) -> Iterator[tuple[Row, Any]]:
    """Shapes and dtypes as stored; contiguous, on no device, each with bytes of its own."""
    with safetensors.safe_open(path, framework="pt") as file:
        stored = file.keys()
        with path.open("rb") as raw:
            (length,) = struct.unpack("<Q", raw.read(8))
            header = json.loads(raw.read(length))
        for name in header:
            if name not in stored:
                continue
            code, shape = header[name]["dtype"], tuple(header[name]["shape"])
            tensor = None if code.startswith("F6_") else file.get_tensor(name)
            dtype = SAFETENSORS_DTYPES.get(code, code)
            stride = tuple(math.prod(shape[n + 1 :]) for n in range(len(shape)))
            row = Row(
                name=_escape(name),
                dtype=dtype,
                shape=shape,
                stride=stride,
                storage_offset=0,
                device=None,
                requires_grad=False,
                storage=name,
                role=None,
                section="",
                key=name,
                kind="state_dict",
            )
            yield row, tensor


# --- torch.save files ---------------------------------------------------------------------------------------


def _torch_rows(path: Path) -> Iterator[tuple[Row, Any]]:
    devices = _Devices()
    with devices.of_rebuilt():
        loaded = _load(path, devices.of_storage)
    yield from _Walk(devices).rows(loaded)


def _load(path: Path, map_location: Any) -> Any:
    head = path.read_bytes()[:16]
    if not (head.startswith(b"PK") or tarfile.is_tarfile(path) or head[2:4] == b"\x8a\x0a" or _is_legacy(path)):
        with path.open("rb") as file:
            try:
                return pickle.load(file)
            except Exception as error:
                raise Unanswered(f"{path}: {error}") from error
    try:
        return torch.load(path, map_location=map_location, weights_only=False)
    except ValueError as error:
        if "process group" not in str(error):
            raise
        with single_process_group():
            return torch.load(path, map_location=map_location, weights_only=False)


def _is_legacy(path: Path) -> bool:
    """A legacy stream of any pickle protocol: the first pickle is the magic number."""
    with path.open("rb") as file:
        try:
            return bool(pickle.load(file) == torch.serialization.MAGIC_NUMBER)
        except Exception:
            return False


class _Devices:
    """The tag of each storage, noted while torch restores it, and the devices in rebuild calls."""

    def __init__(self) -> None:
        self._tags: dict[int, str] = {}
        self._alive: list[Any] = []  # an address means nothing once its owner is gone

    def of_storage(self, storage: Any, tag: str) -> Any:
        self._alive.append(storage)
        self._tags[storage._cdata] = tag
        return storage

    @contextmanager
    def of_rebuilt(self) -> Iterator[None]:
        """Rebuild calls that name a device get the CPU, and their device is noted."""
        position = {
            "_rebuild_device_tensor_from_numpy": 2,
            "_rebuild_xla_tensor": 2,
            "_rebuild_device_tensor_from_cpu_tensor": 2,
            "_rebuild_wrapper_subclass": 6,
        }

        def noting(original: Any, place: int) -> Any:
            def rebuild(*args: Any) -> Any:
                with mock.patch("torch._utils._get_restore_location", return_value="cpu"):
                    tensor = original(*args[:place], "cpu", *args[place + 1 :])
                self._alive.append(tensor)
                self._tags[id(tensor)] = str(args[place])
                if place == 2:  # it has a storage of its own, and may be viewed or wrapped
                    self._tags[tensor.untyped_storage()._cdata] = str(args[place])
                return tensor

            return rebuild

        patches = {name: noting(getattr(torch._utils, name), place) for name, place in position.items()}
        with mock.patch.multiple(torch._utils, **patches):
            yield

    def of(self, tensor: Any) -> str:
        if id(tensor) in self._tags:
            return self._tags[id(tensor)]
        inner = _leading_part(tensor)
        if inner is not tensor:
            return self.of(inner)
        return self._tags.get(_storage_address(tensor) or 0, str(tensor.device))


# --- walking loaded objects ---------------------------------------------------------------------------------


class _Walk:
    """Rows for every tensor in an object, in saved order, under the contract's names."""

    def __init__(self, devices: _Devices | None = None) -> None:
        self._devices = devices or _Devices()
        self._storages: dict[int, str] = {}

    def rows(self, root: Any) -> Iterator[tuple[Row, Any]]:
        if isinstance(root, torch.Tensor):
            yield self.row(root, "", "", "tensor"), root
        else:
            yield from self._container(root, "", ())

    def row(self, tensor: Any, section: str, key: str, kind: str, **facts: Any) -> Row:
        address = _storage_address(tensor)
        storage = None
        if address is not None:
            storage = self._storages.setdefault(address, f"s{len(self._storages)}")
        pointer = key if kind == "optimizer" else _escape(key)
        if type(tensor) is nn.Parameter:
            facts.setdefault("role", "parameter")
        return Row(
            name=_join_pointer(section, pointer),
            dtype=_short(tensor.dtype),
            shape=_shape(tensor),
            stride=_stride(tensor),
            storage_offset=0 if address is None else tensor.storage_offset(),
            device=facts.pop("device", None) or self._devices.of(tensor),
            requires_grad=tensor.requires_grad,
            storage=storage,
            role=facts.pop("role", None),
            section=section,
            key=key,
            kind=kind,
            layout=_short(tensor.layout),
            class_name=_class_name(tensor),
            parts=tuple(Part(name, _short(p.dtype), tuple(p.shape)) for name, p in _parts(tensor)),
            **facts,
        )

    def _container(self, value: Any, pointer: str, above: tuple[int, ...]) -> Iterator[tuple[Row, Any]]:
        if id(value) in above:
            return
        above = (*above, id(value))
        if isinstance(value, nn.Module):
            yield from self._module(value, pointer)
        elif _is_optimizer(value):
            for key, tensor in _optimizer_tensors(value):
                yield self.row(tensor, pointer, key, "optimizer"), tensor
        else:
            kind = "state_dict" if _is_state_dict(value) else "other"
            for key, item in _items(value):
                if isinstance(item, torch.Tensor):
                    yield self.row(item, pointer, key, kind), item
                else:
                    yield from self._container(item, _join(pointer, key), above)

    def _module(self, module: Any, section: str) -> Iterator[tuple[Row, Any]]:
        saved = {
            key: value
            for key, value in _plain_state_dict(module).items()
            if isinstance(value, torch.Tensor) and not isinstance(value, _UNINITIALIZED)
        }
        for key, tensor, role, persistent in _module_tensors(module):
            if (key in saved) is not persistent:
                raise AssertionError(f"{key}: state_dict() and the registries disagree")
            yield self.row(tensor, section, key, "module", role=role, persistent=persistent), tensor


_UNINITIALIZED = (nn.parameter.UninitializedParameter, nn.parameter.UninitializedBuffer)

# What nn.Module keeps for itself, besides the three registries.
_MODULE_OWN = frozenset(vars(nn.Module()))


def _plain_state_dict(module: Any) -> dict[str, Any]:
    """``state_dict()`` without the extra state, which only the class can compute."""
    extra = {
        f"{prefix}.{nn.modules.module._EXTRA_STATE_KEY_SUFFIX}".removeprefix(".")
        for prefix, _ in module.named_modules(remove_duplicate=False)
    }
    saved = module.state_dict(keep_vars=True)
    return {key: value for key, value in saved.items() if key not in extra}


def _module_tensors(module: Any, prefix: str = "") -> Iterator[tuple[str, Any, str | None, bool]]:
    """Key, tensor, role and persistence in saved order: each module's attributes come last."""
    for name, parameter in module._parameters.items():
        if parameter is not None and not isinstance(parameter, _UNINITIALIZED):
            yield prefix + name, parameter, "parameter", True
    for name, buffer in module._buffers.items():
        if buffer is not None and not isinstance(buffer, _UNINITIALIZED):
            yield prefix + name, buffer, "buffer", name not in module._non_persistent_buffers_set
    for name, child in module._modules.items():
        if child is not None:
            yield from _module_tensors(child, f"{prefix}{name}.")
    for name, value in vars(module).items():
        if name not in _MODULE_OWN:
            for key, tensor in _attribute_tensors(value, prefix + name):
                yield key, tensor, None, False


def _attribute_tensors(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, torch.Tensor):
        yield key, value
    elif isinstance(value, dict | list | tuple):
        for name, item in _items(value):
            yield from _attribute_tensors(item, f"{key}.{name}")


def _is_optimizer(value: Any) -> bool:
    if isinstance(value, torch.optim.Optimizer):
        return True
    return isinstance(value, Mapping) and "state" in value and "param_groups" in value


def _optimizer_tensors(optimizer: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(optimizer, torch.optim.Optimizer):
        yield from _pointers(optimizer, "")
        return
    groups = optimizer.param_groups
    number = {id(p): n for n, p in enumerate(p for group in groups for p in group["params"])}
    state = {number[id(p)]: entry for p, entry in optimizer.state.items()}
    yield from _pointers({"state": state, "param_groups": groups}, "")


def _pointers(value: Any, pointer: str) -> Iterator[tuple[str, Any]]:
    for key, item in _items(value):
        below = _join(pointer, key)
        if isinstance(item, torch.Tensor):
            yield below, item
        else:
            yield from _pointers(item, below)


def _is_state_dict(value: Any) -> bool:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        return False
    held = sum(isinstance(item, torch.Tensor) for item in value.values())
    return 2 * held > len(value) or (not value and hasattr(value, "_metadata"))


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """Key and value of anything that can hold tensors; keys as text, those that read alike told apart."""
    if isinstance(value, Mapping):
        texts = {key for key in value if isinstance(key, str)}
        for key, item in value.items():
            yield _key_text(key, texts), item
    elif isinstance(value, list | tuple):
        for n, item in enumerate(value):
            yield str(n), item
    elif not isinstance(value, type):
        yield from getattr(value, "__dict__", {}).items()


def _key_text(key: Any, texts: set[str]) -> str:
    if isinstance(key, str):
        return key
    text = repr(key)
    if text not in texts:
        return text
    return "<None>" if key is None else f"<{type(key).__name__} {text}>"


def _join(pointer: str, key: str) -> str:
    if pointer in ("", "/"):  # a container called "" at the root: "/", for "" is the root itself
        return pointer + _escape(key) or "/"
    return f"{pointer}/{_escape(key)}"


def _join_pointer(section: str, pointer: str) -> str:
    return f"{section.rstrip('/')}/{pointer}" if section else pointer


def _escape(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


# --- facts of one tensor ------------------------------------------------------------------------------------


def _short(thing: Any) -> str:
    return str(thing).removeprefix("torch.")


def _shape(tensor: Any) -> tuple[int, ...]:
    if tensor.is_nested:
        return ()
    return tuple(tensor.shape)


def _stride(tensor: Any) -> tuple[int, ...] | None:
    if tensor.layout is not torch.strided or tensor.is_nested:
        return None
    return tuple(tensor.stride())


def _class_name(tensor: Any) -> str | None:
    cls = type(tensor)
    return None if cls in (torch.Tensor, nn.Parameter) else f"{cls.__module__}.{cls.__qualname__}"


def _storage_address(tensor: Any) -> int | None:
    """The identity of the storage, where the tensor has one of its own in the file."""
    compound = _parts(tensor) and not tensor.is_quantized
    return None if compound or tensor.device.type == "meta" else int(tensor.untyped_storage()._cdata)


def _parts(tensor: Any) -> list[tuple[str, Any]]:
    """The component tensors a compound tensor is saved as."""
    layouts = {
        torch.sparse_coo: ("_indices", "_values"),
        torch.sparse_csr: ("crow_indices", "col_indices", "values"),
        torch.sparse_bsr: ("crow_indices", "col_indices", "values"),
        torch.sparse_csc: ("ccol_indices", "row_indices", "values"),
        torch.sparse_bsc: ("ccol_indices", "row_indices", "values"),
    }
    if tensor.layout in layouts:
        return [(name.lstrip("_"), getattr(tensor, name)()) for name in layouts[tensor.layout]]
    if tensor.layout is torch.jagged:
        return [("values", tensor._values), ("offsets", tensor._offsets)]
    if tensor.is_nested:
        nested = ("values", "_nested_tensor_size", "_nested_tensor_strides", "_nested_tensor_storage_offsets")
        return [(name.removeprefix("_nested_tensor_"), getattr(tensor, name)()) for name in nested]
    if tensor.is_quantized and tensor.qscheme() != torch.per_tensor_affine:
        return [(name, getattr(tensor, f"q_per_channel_{name}")()) for name in ("scales", "zero_points")]
    if torch.utils._python_dispatch.is_traceable_wrapper_subclass(tensor):
        inner = [(name, getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0]]
        return [(name, part) for name, part in inner if isinstance(part, torch.Tensor)]
    return []


def _leading_part(tensor: Any) -> Any:
    """The component whose device is the tensor's, for layouts rebuilt from components."""
    parts = [part for name, part in _parts(tensor) if name.endswith("values")]
    return parts[0] if parts else tensor


# --- TorchScript --------------------------------------------------------------------------------------------


def _script_rows(path: Path) -> Iterator[tuple[Row, Any]]:
    """Names and facts by torch.jit.load, where each tensor was by the tags in ``data.pkl``."""
    module = torch.jit.load(str(path), map_location="cpu")
    recorded = _ScriptPickle.read(path)
    parameters = {key for key, _ in module.named_parameters(remove_duplicate=False)}
    walk = _Walk()
    saved = module.state_dict(keep_vars=True)
    for key, tensor in saved.items():
        role = "parameter" if key in parameters else "buffer"
        device = recorded.device(key.split("."))
        yield walk.row(tensor, "", key, "module", role=role, device=device), tensor
    for key, steps, device in recorded.tensors():
        if key not in saved:
            value: Any = module._c
            for step in steps:
                value = value.getattr(step) if isinstance(value, torch.ScriptObject) else value[step]
            yield walk.row(value, "", key, "module", persistent=False, device=device), value


class _Stub:
    """Any object of a TorchScript pickle: what it was called with, and its attributes."""

    callee = ""

    def __new__(cls, *args: Any) -> _Stub:
        made = super().__new__(cls)
        made.args = args
        return made

    def __init__(self, *args: Any) -> None:
        self.args = args


class _ScriptPickle(pickle.Unpickler):
    """``data.pkl`` of a TorchScript archive read by Python's own pickle, every class a stub."""

    @classmethod
    def read(cls, path: Path) -> _Recorded:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.partition("/")[2] == "data.pkl")
            with archive.open(name) as file:
                return _Recorded(cls(file).load())

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if name == "restore_type_tag" or (name.startswith("build_") and name.endswith("list")):
            return lambda value, *tag: value
        return type(name, (_Stub,), {"callee": name})

    def persistent_load(self, pid: Any) -> Any:
        return pid


class _Recorded:
    """The attribute tree of a TorchScript module as its pickle spells it."""

    def __init__(self, root: Any) -> None:
        self._root = root

    def device(self, steps: list[str]) -> str | None:
        value = self._root
        for step in steps:
            value = vars(value).get(step)
            if value is None:
                return None
        return self._location(value)

    def tensors(self) -> Iterator[tuple[str, list[Any], str | None]]:
        yield from self._below(self._root, [])

    def _below(self, value: Any, steps: list[Any]) -> Iterator[tuple[str, list[Any], str | None]]:
        if isinstance(value, _Stub) and value.callee.startswith("_rebuild"):
            yield ".".join(map(str, steps)), steps, self._location(value)
        elif isinstance(value, dict):
            for key, item in value.items():
                yield from self._below(item, [*steps, key])
        elif isinstance(value, list | tuple):
            for n, item in enumerate(value):
                yield from self._below(item, [*steps, n])
        elif isinstance(value, _Stub):
            yield from self._below({key: item for key, item in vars(value).items() if key != "args"}, steps)

    def _location(self, value: Any) -> str | None:
        """The tag of the first storage in a rebuild call."""
        for arg in getattr(value, "args", ()):
            if isinstance(arg, tuple) and arg[:1] == ("storage",):
                return str(arg[3])
            if isinstance(arg, _Stub) and (found := self._location(arg)):
                return found
        return None
