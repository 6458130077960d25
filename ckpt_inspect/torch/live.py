"""A live module as a checkpoint shows one: the same section, the same tree; no values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..formats import layer_facts
from ..model.checkpoint import Checkpoint
from ..model.section import ModuleInfo, Section
from ..model.storage import Storage
from ..model.tensor import TensorInfo
from .verdicts import tensors_of

if TYPE_CHECKING:
    from collections.abc import Iterator


def checkpoint_of(module: nn.Module, name: str) -> Checkpoint:
    """A checkpoint of one section that is the module; ``name`` stands where the path of a file would."""
    checkpoint = Checkpoint(name, "model", 0)
    section = section_of(module)
    checkpoint.sections[""] = section
    stored = {info.storage.id: info.storage.nbytes for info in section.values() if info.storage is not None}
    checkpoint.size = sum(stored.values())
    return checkpoint


def section_of(module: nn.Module) -> Section:
    """Modules, parameters and buffers of a module, those that are not persistent too, as a section.

    Tensors that are tied have one storage; it has no bytes that could be read.
    """
    section = Section("", "module", _class(module))
    for path, part in _modules(module):
        section.modules[path] = ModuleInfo(_class(part), facts_of(part), part.training, tuple(_hooks(part)))
    for key, tensor in tensors_of(module).items():
        section.tensors[key] = _info(key, tensor, _role(tensor))
    for key, tensor in _transient(module, section):
        section.tensors[key] = _info(key, tensor, "buffer", persistent=False)
    return section


def _modules(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module at each of its places, in order of registration; one that holds itself, once."""
    waiting: list[tuple[str, nn.Module, frozenset[int]]] = [("", module, frozenset())]
    while waiting:
        path, part, above = waiting.pop()
        yield path, part
        inside = above | {id(part)}
        below = [
            (f"{path}.{name}" if path else name, child, inside)
            for name, child in part._modules.items()
            if child is not None and id(child) not in inside
        ]
        waiting.extend(reversed(below))


def _transient(module: nn.Module, section: Section) -> Iterator[tuple[str, torch.Tensor]]:
    for path, part in _modules(module):
        for name, tensor in part._buffers.items():
            key = f"{path}.{name}" if path else name
            if name in part._non_persistent_buffers_set and tensor is not None and key not in section.tensors:
                yield key, tensor


def _class(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def facts_of(module: nn.Module) -> str:
    """Constructor facts of a class of torch's, as the tree of a file shows them; of others none."""
    bias = module._parameters["bias"] is not None if "bias" in module._parameters else None
    return layer_facts.describe(_class(module), lambda fact: layer_facts.text_of(vars(module), fact), bias)


def _hooks(module: nn.Module) -> Iterator[str]:
    for name, value in vars(module).items():
        if name.endswith("_hooks") and isinstance(value, dict) and value:
            yield name.strip("_")


def _role(tensor: torch.Tensor) -> str:
    return "parameter" if isinstance(tensor, nn.Parameter) else "buffer"


def _info(key: str, tensor: torch.Tensor, role: str, persistent: bool = True) -> TensorInfo:
    plain: Any = tensor
    shape: tuple[int, ...] = () if nn.parameter.is_lazy(plain) else tuple(tensor.shape)
    strided = tensor.layout == torch.strided and not nn.parameter.is_lazy(plain)
    storage = None
    if strided and type(tensor) in (torch.Tensor, nn.Parameter) and not tensor.is_quantized:
        held = tensor.untyped_storage()
        storage = Storage(f"model/{held._cdata}", held.nbytes(), str(tensor.device))
    device = None if tensor.is_meta else str(tensor.device)  # built without values, it is nowhere
    return TensorInfo(
        key, str(tensor.dtype).removeprefix("torch."), shape, tuple(tensor.stride()) if strided else None,
        storage, tensor.storage_offset() if strided else 0, device,
        layout=str(tensor.layout).removeprefix("torch."), requires_grad=tensor.requires_grad,
        role=role, role_from="recorded", persistent=persistent,
    )  # fmt: skip
