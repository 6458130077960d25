"""TorchScript of 2018 and 2019: ``model.json`` beside ``tensors/N`` (formats 5.7; ``import_legacy.cpp``)."""

from __future__ import annotations

import json
from typing import Any

from ..containers.zip import ZipArchive
from ..dtypes import BY_NAME
from ..errors import CorruptError, LimitError
from ..model.checkpoint import Checkpoint
from ..model.problem import Problem
from ..model.section import ModuleInfo, Section
from ..model.source import Source
from ..model.storage import Container, Storage
from ..model.tensor import TensorInfo
from ..pickles.limits import Limits
from . import archive as archives
from .finish import finish

NAME = "torchscript-model-json"
_LONGEST_PATH = 1000

# caffe2::TensorProto::DataType, as protobuf's JSON spells it
_TYPES = {
    "FLOAT": "float32", "INT32": "int32", "BYTE": "uint8", "BOOL": "bool", "UINT8": "uint8", "INT8": "int8",
    "UINT16": "uint16", "INT16": "int16", "INT64": "int64", "FLOAT16": "float16", "DOUBLE": "float64",
}  # fmt: skip


def read(source: Source, archive: ZipArchive, limits: Limits) -> Checkpoint:
    checkpoint = Checkpoint(source.path, NAME, source.size)
    container = archives.open_container(source, archive, NAME, checkpoint)
    model = _load(archive, source, limits)
    container.graphs["model.json"] = model
    tensors = [_tensor(container, entry, index, checkpoint) for index, entry in enumerate(_list(model, "tensors"))]
    section = Section("", "module")
    used = _modules(section, model.get("mainModule"), tensors, limits)
    for index, info in enumerate(tensors):
        if info is not None and index not in used:  # constants of the code and tensors of attributes.pkl
            section.tensors[f"tensors/{index}"] = info._replace(key=f"tensors/{index}", persistent=False)
    checkpoint.sections[""] = section
    version = model.get("producerVersion")
    checkpoint.facts["writer"] = f"torch.jit.save of 2018 or 2019 (protocol {_word(model.get('protoVersion'))})"
    if isinstance(version, str):
        checkpoint.facts["producer"] = f"{_word(model.get('producerName'))} {_word(version)}"
    return finish(checkpoint)


def _word(value: Any) -> str:
    return str(value)[:40] if isinstance(value, (str, int)) else "?"


def _load(archive: ZipArchive, source: Source, limits: Limits) -> dict[str, Any]:
    record = archive.records["model.json"]
    if record.nbytes > limits.header:
        raise LimitError(f"a model.json of {record.nbytes:,} bytes: refused", path=source.path, record="model.json")
    content = archives.content(record, limits)
    try:
        model = json.loads(content.read_at(0, content.size))
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"not JSON: {error}", path=source.path, record="model.json") from error
    if not isinstance(model, dict):
        raise CorruptError("no JSON object", path=source.path, record="model.json")
    return model


def _list(node: Any, name: str) -> list[Any]:
    found = node.get(name) if isinstance(node, dict) else None
    return found if isinstance(found, list) else []


def _number(value: Any) -> int:
    """protobuf's JSON writes int64 as text."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 20:
        return int(value)
    if type(value) is int and 0 <= value < 2**63:
        return value
    raise ValueError


def _shape(dims: list[Any]) -> tuple[int, ...]:
    numel = 1
    for n in (shape := tuple(map(_number, dims))):
        numel *= max(n, 1)
        if numel >= 2**63:
            raise ValueError
    return shape


def _tensor(container: Container, entry: Any, index: int, checkpoint: Checkpoint) -> TensorInfo | None:
    try:
        dtype = BY_NAME[_TYPES[entry["dataType"]]]
        shape = _shape(_list(entry, "dims"))
        stride = tuple(map(_number, _list(entry, "strides")))
        offset = _number(entry.get("offset", 0))
        name, device = entry["data"]["key"], entry.get("device", "cpu")
        record = container.records.get(name)
        if len(shape) != len(stride) or not isinstance(device, str) or not isinstance(name, str):
            raise ValueError
    except (KeyError, TypeError, ValueError, AttributeError):
        checkpoint.problems.append(f"tensor {index} of model.json is malformed")
        return None
    needed = (offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True)) + 1) * dtype.itemsize
    if record is None:
        checkpoint.problems.append(Problem(f"record {name[:80]} is missing", name))
    elif 0 not in shape and needed > record.nbytes:
        checkpoint.problems.append(Problem(f"tensor {index} of model.json reaches beyond record {name[:80]}", name))
        return None
    storage = Storage(name, record.nbytes if record else max(0, needed), device, record)
    grad = entry.get("requiresGrad")
    return TensorInfo("", dtype.name, shape, stride, storage, offset, device,
                      requires_grad=grad if type(grad) is bool else None)  # fmt: skip


def _modules(section: Section, root: Any, tensors: list[TensorInfo | None], limits: Limits) -> set[int]:
    """Parameters and buffers of the module tree; the indices of the tensors they are."""
    used: set[int] = set()
    waiting: list[tuple[str, Any, int]] = [("", root, 0)]
    while waiting:
        path, module, depth = waiting.pop()
        if not isinstance(module, dict) or depth > limits.depth:
            continue
        if len(path) > _LONGEST_PATH:  # each module below repeats it
            raise LimitError(f"a module whose path has {len(path):,} characters: refused", record="model.json")
        own = module.get("name")
        section.modules[path] = ModuleInfo(own if path == "" and isinstance(own, str) else "")
        found = sorted(_list(module, "parameters"), key=lambda p: bool(isinstance(p, dict) and p.get("isBuffer")))
        for parameter in found:
            name = parameter.get("name") if isinstance(parameter, dict) else None
            try:
                index = _number(parameter.get("tensorId", 0)) if isinstance(name, str) else len(tensors)
            except ValueError:
                continue
            info = tensors[index] if index < len(tensors) else None
            if info is not None:
                key = f"{path}.{name}" if path else str(name)
                role = "buffer" if parameter.get("isBuffer") is True else "parameter"
                section.tensors[key] = info._replace(key=key, role=role, role_from="recorded")
                used.add(index)
        for child in reversed(_list(module, "submodules")):
            name = child.get("name") if isinstance(child, dict) else None
            if isinstance(name, str):
                waiting.append((f"{path}.{name}" if path else name, child, depth + 1))
    return used
