"""A module run once, with what each part of it gave: shapes, and FLOPs by torch's own counter.

Modules of Python are watched by hooks; TorchScript, where those do not work, is a matter of ``scripted``.
"""

from __future__ import annotations

import re
from collections import Counter
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from .forward import evaluating, flat
from .live import facts_of
from .models import their_code

_COSTLY = re.compile(
    r"_rnn|rnn_|transformer_encoder|attention|convolution|mm$|\.(_trilinear|mv|addmv|dot|_cdist_forward|_fft_\w+)$"
    r"|^quantized\.(linear|conv)"
)


class Part(NamedTuple):
    """One module.

    Attributes:
        path: dotted; ``""`` is the whole.
        cls: its class, without the module that defines it.
        facts: constructor facts as torch prints them.
        outputs: shapes of the tensors it gave when it was last called; None if that is not known.
        parameters: elements of the parameters in it and below, shared ones once.
        flops: of it and all below, over all calls.
        calls: how often it was called; None if that is not known, or it has no forward that could be.
    """

    path: str
    cls: str
    facts: str
    outputs: list[tuple[int, ...]] | None
    parameters: int
    flops: int
    calls: int | None


def watch(module: nn.Module, inputs: list[torch.Tensor]) -> tuple[list[Part], str | None]:
    """Run a module once; its parts in order of registration, and why there is no more to say, if so.

    Raises:
        ModelError: its forward fails; it is quoted.
    """
    if isinstance(module, torch.jit.ScriptModule):
        from .scripted import watch_script

        return watch_script(module, inputs)
    return _watch_eager(module, inputs)


class Unpriced(TorchDispatchMode):  # type: ignore[misc]
    """Operations that cost something, and that torch's counter has no formula for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func._overloadpacket
        if packet not in flop_registry and _COSTLY.search(str(packet)):
            self.names.add(packet.__name__)
        return func(*args, **(kwargs or {}))

    @property
    def note(self) -> str | None:
        if not self.names:
            return None
        return f"torch's counter has no formula for {', '.join(sorted(self.names))}: what it costs is not in the FLOPs"


class _Watcher:
    """Calls, shapes and FLOPs of modules, by identity.

    What an operation costs counts for every module that is running, and for all that hold one of those: a ModuleList is
    never called, and costs what its children cost.
    """

    def __init__(self, module: nn.Module) -> None:
        self.counter = FlopCounterMode(display=False)
        self.above = _holders(module)
        self.calls: Counter[int] = Counter()
        self.flops: Counter[int] = Counter()
        self.shapes: dict[int, list[tuple[int, ...]]] = {}
        self.running: list[int] = []
        self.counted = 0

    def enter(self, part: nn.Module, _: Any) -> None:
        self._charge()
        self.calls[id(part)] += 1
        self.running.append(id(part))

    def leave(self, part: nn.Module, _: Any, given: Any) -> None:
        self._charge()
        while self.running and self.running.pop() != id(part):
            pass  # its forward failed, and the one that called it went on
        self.shapes[id(part)] = [tuple(tensor.shape) for _, tensor in flat(given)]

    def _charge(self) -> None:
        total = self.counter.get_total_flops()
        if total > self.counted:
            for part in set().union(*(self.above[part] for part in self.running)):
                self.flops[part] += total - self.counted
            self.counted = total


def _holders(module: nn.Module) -> dict[int, set[int]]:
    """Each module -> itself and all that hold it, directly or not."""
    parts = list(module.modules())
    parents: dict[int, list[int]] = {id(part): [] for part in parts}
    for part in parts:
        for child in part.children():
            parents[id(child)].append(id(part))
    found: dict[int, set[int]] = {}
    for part in parts:
        held = found[id(part)] = {id(part)}
        waiting = [id(part)]
        while waiting:
            fresh = [above for above in parents[waiting.pop()] if above not in held]
            held.update(fresh)
            waiting.extend(fresh)
    return found


def _watch_eager(module: nn.Module, inputs: list[torch.Tensor]) -> tuple[list[Part], str | None]:
    watcher, unpriced = _Watcher(module), Unpriced()
    with ExitStack() as hooks:
        for part in module.modules():
            hooks.callback(part.register_forward_pre_hook(watcher.enter, prepend=True).remove)
            hooks.callback(part.register_forward_hook(watcher.leave).remove)
        with their_code("forward fails"), evaluating(module), unpriced, watcher.counter:
            module(*inputs)
    found = []
    for path, part in module.named_modules():
        calls = None if type(part).forward is nn.Module.forward else watcher.calls[id(part)]
        found.append(
            Part(path, type(part).__name__, facts_of(part), watcher.shapes.get(id(part)), count_parameters(part),
                 watcher.flops[id(part)], calls)
        )  # fmt: skip
    return found, unpriced.note


def count_parameters(module: Any) -> int:
    """Elements of its parameters, shared ones once."""
    return sum(parameter.numel() for parameter in module.parameters() if not nn.parameter.is_lazy(parameter))
