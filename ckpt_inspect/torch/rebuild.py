"""A real ``nn.Module`` tree out of what a file says, without the classes of the file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..errors import SelectionError, UnsupportedError
from ..formats import objects
from ..formats.quantized import ONLY_TORCH, quantized_modules
from ..model.graph import Dict, Opaque
from ..model.spelling import as_path, shell_join
from .blueprint import Blueprint, blueprint, is_rebuilt
from .container import Container, accepting
from .state_dicts import choose, dropped_ties, entries_of, opened
from .tensors import Loader

if TYPE_CHECKING:
    import os
    from collections import OrderedDict

    from ..model.checkpoint import Checkpoint
    from ..model.section import Section

_LARGE = 1 << 30  # bytes of an expanded tensor that are not written out
_DEEPEST = 200  # modules in modules: torch loads them by recursion


def build_module(
    source: str | os.PathLike[str] | Checkpoint, *, section: str | None = None,
    device: str | torch.device | None = None, load: bool = True, mmap: bool = True,
) -> nn.Module:  # fmt: skip
    """Modules for the weights of a checkpoint: a whole-module pickle, TorchScript or a bare state_dict.

    Its ``state_dict()`` has exactly the keys, shapes and dtypes of the file, and ``load_state_dict(strict=True)`` of
    the file succeeds, whatever its keys are called. Layers of ``torch.nn`` are real ones where they are recorded, or where
    names and shapes leave no choice; elsewhere stand containers, which have no forward. Recorded layers compute what
    they computed; of inferred ones stride, padding and the like are torch's defaults. ``ckpt code`` prints the source.

    Args:
        source: a file, a directory that is a checkpoint, ``FILE#SECTION``, or a checkpoint that is open.
        section: pointer of the part to take; None takes the one weights candidate.
        device: where the tensors go; None is the CPU.
        load: give it the weights of the file, mapped; False leaves it on ``meta``.
        mmap: False reads everything now, so that the file may be written over.

    Raises:
        UnsupportedError: keys that are no strings, or tensors that are no plain ones; all are listed.
        SelectionError: no part, or several, can be meant.

    >>> import ckpt_inspect.torch as ct, torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.ReLU())
    >>> torch.save(net, "whole.pt")
    >>> again = ct.build_module("whole.pt")
    >>> again
    Sequential(
      (0): Conv2d(1, 4, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
      (1): ReLU()
    )
    >>> x = torch.ones(1, 1, 5, 5)
    >>> torch.equal(again(x), net(x))
    True
    """
    with opened(source) as checkpoint:
        chosen = choose(checkpoint, section)
        loader = Loader(device=device if load else "meta", mmap=mmap)
        plan, entries = draft(checkpoint, chosen, loader)
        frozen = {key for key, info in chosen.items() if chosen.kind == "module" and info.requires_grad is False}
        built = _Builder(entries, frozen).build(plan)
        for key, info in chosen.items() if load else ():
            if not info.persistent and info.role == "buffer":
                _fill(built, key, loader.tensor(info))
        return accepting(built, [key for key, _ in dropped_ties(checkpoint, chosen)])


def draft(checkpoint: Checkpoint, section: Section, loader: Loader) -> tuple[Blueprint, OrderedDict[str, Any]]:
    """What a section is rebuilt of, and its entries.

    Raises:
        UnsupportedError: torch itself cannot hold it.
    """
    refuse_what_torch_cannot_hold(checkpoint, section)
    entries = entries_of(checkpoint, section, loader, ties=False)
    return blueprint(section, [key for key in entries if key not in section.tensors]), entries


def refuse_what_torch_cannot_hold(checkpoint: Checkpoint, section: Section) -> None:
    """
    Raises:
        UnsupportedError: keys that are no strings, compound tensors, tensors of foreign classes; all are listed.
            A frozen module, of which nothing would be left.
        SelectionError: it is neither a state_dict nor a module.
    """
    if section.kind not in ("state_dict", "module"):
        raise SelectionError(
            f"{section.pointer or 'the root'} is neither a state_dict nor a module", path=checkpoint.path
        )
    quantized = quantized_modules(section)
    if section.tensors and not quantized and not any(map(is_rebuilt, section.values())):
        raise UnsupportedError(
            f"its state_dict() is empty: {len(section.tensors):,} tensors are constants or attributes, as freezing leaves them",
            path=checkpoint.path,
            hint=f"See them: {shell_join(['ckpt', 'ls', '--long', as_path(checkpoint.path)])}",
        )
    bad = [f"{path!r}: a quantized module, {cls}" for path, cls in quantized.items()]
    if section.kind == "state_dict" and type(section.node) in (Dict, Opaque):
        inside = objects.children(section.node)[0]
        bad = [f"{key!r}: a key that is no string" for key, _ in inside if not isinstance(key, str)]
    for key, info in section.items():
        if not info.persistent:
            continue
        if info.dtype.startswith("q"):
            bad.append(f"{key!r}: a quantized tensor ({info.dtype})")
        elif info.layout != "strided" or info.parts or info.dtype.startswith("bits"):
            bad.append(f"{key!r}: a compound tensor ({info.layout} {info.dtype})")
        elif info.storage is not None and info.nbytes > max(_LARGE, 16 * info.storage.nbytes):
            bad.append(f"{key!r}: {info.nbytes:,} bytes expanded from {info.storage.nbytes:,}")
        elif info.cls is not None:
            bad.append(f"{key!r}: a tensor of the class {info.cls}")
        if key.count(".") > _DEEPEST:
            bad.append(f"{key[:40]!r}…: a key of {key.count('.') + 1:,} segments")
    if bad:
        listed = "; ".join(bad[:8]) + (f"; and {len(bad) - 8:,} more" if len(bad) > 8 else "")
        if quantized:
            listed += f". {ONLY_TORCH}"
        raise UnsupportedError(
            f"a module cannot hold {listed}",
            path=checkpoint.path,
            hint=f"See them: {shell_join(['ckpt', 'ls', '--long', as_path(checkpoint.path)])}",
        )


class _Builder:
    def __init__(self, entries: OrderedDict[str, Any], frozen: set[str]) -> None:
        self.entries = entries
        self.frozen = frozen
        self.tensors: dict[tuple[Any, ...], Any] = {}  # what is tied in the file is one tensor here
        self.modules: dict[int, nn.Module] = {}  # one object of the file is one here

    def build(self, plan: Blueprint, prefix: str = "") -> nn.Module:
        if plan.node is not None and plan.node in self.modules:
            return self.modules[plan.node]
        made = self._layer(plan, prefix) if plan.call is not None else self._container(plan, prefix)
        if plan.training is not None:
            made.training = plan.training
        if plan.node is not None:
            self.modules[plan.node] = made
        return made

    def _layer(self, plan: Blueprint, prefix: str) -> nn.Module:
        assert plan.call is not None
        made = plan.call.make()
        for part_path, part in made.named_modules():
            inner = f"{prefix}{part_path}." if part_path else prefix
            for registry in (part._parameters, part._buffers):
                for name, mine in registry.items():
                    if mine is not None and inner + name in self.entries:
                        registry[name] = self._tensor(inner + name, isinstance(mine, nn.Parameter))
            mode = plan.modes.get(inner[:-1], plan.training)
            part.training = mode if mode is not None else part.training
        return made

    def _container(self, plan: Blueprint, prefix: str) -> nn.Module:
        made: Any = getattr(nn, plan.group)() if plan.group else Container(plan.cls.rpartition(".")[2] or "Container")
        for name, info in plan.tensors.items():
            if prefix + name in self.entries:
                made.hold(name, self._tensor(prefix + name, info.role == "parameter"))
            else:
                empty = torch.empty(info.shape, dtype=getattr(torch, info.dtype, None), device="meta")
                made.hold(name, empty, persistent=False)
        for name in plan.held:
            made.hold(name, self.entries[prefix + name])
        for name, child in plan.children.items():
            made._modules[name] = self.build(child, f"{prefix}{name}.")
        return made

    def _tensor(self, key: str, parameter: bool) -> torch.Tensor:
        tensor = self.entries[key]
        key_of = _view_of(tensor, key), parameter
        made = self.tensors.get(key_of)
        if made is None:
            plain = tensor.detach()
            if _overlaps(plain):  # nothing could be loaded into it
                plain = plain.contiguous()
            grad = key not in self.frozen and (plain.is_floating_point() or plain.is_complex())
            made = self.tensors[key_of] = nn.Parameter(plain, grad) if parameter else plain
        return made


def _view_of(tensor: torch.Tensor, key: str) -> tuple[Any, ...]:
    """What tied tensors share; of empty ones, nothing."""
    if not tensor.numel():
        return (key,)
    storage = tensor.untyped_storage()._cdata
    return storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype


def _overlaps(tensor: torch.Tensor) -> bool:
    """Whether several elements lie on one place: expanded tensors."""
    return any(size > 1 and step == 0 for size, step in zip(tensor.shape, tensor.stride(), strict=True))


def _fill(module: nn.Module, key: str, tensor: torch.Tensor) -> None:
    """A buffer that is not persistent, if the rebuilt module has it."""
    part: nn.Module | None = module
    *path, name = key.split(".")
    for segment in path:
        part = part._modules.get(segment) if part is not None else None
    if part is not None and name in part._buffers:
        part._buffers[name] = tensor.detach()
