"""A module run once, with what each part of it gave: shapes, and FLOPs by torch's own counter.

Modules of Python are watched by hooks. Hooks do not work in TorchScript: there the profiler says in which module
each operation ran, and a dispatch mode what it gave and cost.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from ..errors import ModelError
from .forward import evaluating
from .models import said, their_code

_IN_MODULE = re.compile(r"(?:^|\.)([^.()]*)\(([^()]*)\)::")  # layer1(Sequential)::forward.conv1(Conv2d)::forward.


class Part(NamedTuple):
    """One module.

    Attributes:
        path: dotted; ``""`` is the whole.
        cls: its class, without the module that defines it.
        facts: constructor facts as torch prints them.
        outputs: shapes of the tensors it gave when it was last called; None if that is not known.
        parameters: elements of the parameters in it and below, shared ones once.
        flops: of it and all below, over all calls; None if that is not known.
        calls: how often it was called; None if that is not known.
    """

    path: str
    cls: str
    facts: str
    outputs: list[tuple[int, ...]] | None
    parameters: int
    flops: int | None
    calls: int | None


def watch(module: nn.Module, inputs: list[torch.Tensor]) -> tuple[list[Part], str | None]:
    """Run a module once; its parts in order of registration, and why there is no more to say, if so.

    Raises:
        ModelError: its forward fails; it is quoted.
    """
    if isinstance(module, torch.jit.ScriptModule):
        return _watch_script(module, inputs)
    return _watch_eager(module, inputs), None


def _watch_eager(module: nn.Module, inputs: list[torch.Tensor]) -> list[Part]:
    counter = FlopCounterMode(display=False)
    seen: dict[int, list[Any]] = {}  # by identity: calls, FLOPs, shapes, FLOPs when it was entered

    def enter(part: nn.Module, _: Any) -> None:
        seen.setdefault(id(part), [0, 0, None, []])[3].append(counter.get_total_flops())

    def leave(part: nn.Module, _: Any, given: Any) -> None:
        notes = seen[id(part)]
        notes[0] += 1
        notes[1] += counter.get_total_flops() - notes[3].pop()
        notes[2] = [tuple(tensor.shape) for tensor in _tensors(given)]

    with ExitStack() as hooks:
        for part in module.modules():
            hooks.callback(part.register_forward_pre_hook(enter, prepend=True).remove)
            hooks.callback(part.register_forward_hook(leave).remove)
        with their_code("forward fails"), evaluating(module), counter:
            module(*inputs)
    found = []
    for path, part in module.named_modules():
        calls, flops, shapes, _ = seen.get(id(part), (0, 0, None, []))
        found.append(Part(path, type(part).__name__, _facts(part), shapes, _parameters(part), flops, calls))
    return found


def _tensors(given: Any) -> Iterator[torch.Tensor]:
    if isinstance(given, torch.Tensor):
        yield given
    elif isinstance(given, dict):
        for value in given.values():
            yield from _tensors(value)
    elif isinstance(given, (list, tuple)):
        for value in given:
            yield from _tensors(value)


def _facts(module: nn.Module) -> str:
    """``3, 12, kernel_size=3``: of torch's own classes; others may say anything, at any length."""
    from .live import facts_of

    return facts_of(module)


def _parameters(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if not nn.parameter.is_lazy(parameter))


# -- TorchScript -------------------------------------------------------------------------------------------------


class _Ledger(TorchDispatchMode):  # type: ignore[misc]
    """What every operation gave and cost, in the order in which they ran."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[list[tuple[int, ...]], int]] = []
        self.error: Exception | None = None  # of an operation: the interpreter passes on where, and not what

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        try:
            out = func(*args, **(kwargs or {}))
        except Exception as error:
            self.error = error
            raise
        formula = flop_registry.get(func._overloadpacket)
        flops = formula(*args, **(kwargs or {}), out_val=out) if formula is not None else 0
        first = next(_tensors(out), None)  # what follows are indices, saved statistics and the like
        self.rows.append(([] if first is None else [tuple(first.shape)], flops))
        return out


def _watch_script(module: Any, inputs: list[torch.Tensor]) -> tuple[list[Part], str | None]:
    named = dict(module.named_modules())
    ledger, places = _run_script(module, inputs)
    total = sum(flops for _, flops in ledger)
    root = Part("", _script_class(module), "", None, _parameters(module), total, 1)
    if len(named) == 1:
        return [root], "frozen or inlined: one module holds all its code, so there is one row"
    if places is None or len(places) != len(ledger):
        return [root], "the profiler does not say which module each operation ran in"
    flops: dict[str, int] = dict.fromkeys(named, 0)
    shapes: dict[str, list[tuple[int, ...]]] = {}
    for (gave, cost), place in zip(ledger, places, strict=True):
        path = _known(place, named)
        shapes[path] = gave
        while True:
            flops[path] += cost
            if not path:
                break
            path = path.rpartition(".")[0]
    ran = set(shapes)
    rows = []
    for path, part in named.items():
        below = any(other == path or other.startswith(path + ".") for other in ran) if path else True
        gave = shapes.get(path) if _is_leaf(path, named) else None
        rows.append(Part(path, _script_class(part), "", gave, _parameters(part), flops[path], None if below else 0))
    return rows, None


def _is_leaf(path: str, named: dict[str, Any]) -> bool:
    """Whether the last operation in a module is what it gives: it holds no other that could follow."""
    return not any(other.startswith(path + ".") for other in named) if path else False


def _known(place: str, named: dict[str, Any]) -> str:
    while place and place not in named:
        place = place.rpartition(".")[0]
    return place


def _script_class(module: Any) -> str:
    return str(getattr(module, "original_name", type(module).__name__))


def _run_script(module: Any, inputs: list[torch.Tensor]) -> tuple[list[tuple[Any, int]], list[str] | None]:
    """What each operation gave and cost, and the module it ran in."""
    from torch.profiler import ProfilerActivity, profile

    ledger = _Ledger()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        with their_code("forward fails"), torch.jit.optimized_execution(False), _quiet():
            profiler = profile(activities=[ProfilerActivity.CPU], with_modules=True)
            try:
                with profiler, ledger:
                    module(*inputs)
            except Exception as error:
                raise ledger.error or error from None
        return ledger.rows, _places(profiler)


@contextmanager
def _quiet() -> Iterator[None]:
    """What the profiler's library says of itself goes nowhere."""
    try:
        kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    except OSError:
        yield
        return
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _places(profiler: Any) -> list[str] | None:
    """For each operation that came to the dispatch mode, in order, the path of its module; from the trace."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "trace.json")
        try:
            profiler.export_chrome_trace(path)
            with open(path, encoding="utf-8", errors="replace") as file:
                events = json.load(file)["traceEvents"]
        except (OSError, ValueError, KeyError, RuntimeError):
            return None
    found = [event for event in events if event.get("ph") == "X" and event.get("name") == "PythonDispatchMode"]
    found.sort(key=lambda event: event.get("ts", 0))
    return [_path_in(str(event.get("args", {}).get("Module Hierarchy", ""))) for event in found]


def _path_in(hierarchy: str) -> str:
    names = [name for name, _ in _IN_MODULE.findall(hierarchy)]
    return ".".join(name for name in names if name not in ("TOP", "SELF", "CALL_FUNCTION", ""))


def load_script(path: str, device: torch.device) -> Any:
    """A TorchScript archive as a module. Running it runs the code in the file.

    Raises:
        ModelError: torch cannot load it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            module = torch.jit.load(path, map_location=device)
        except Exception as error:
            raise ModelError(f"torch.jit.load fails: {said(error)}", path=path) from error
    if hasattr(module, "eval") and not _is_frozen(module):
        module.eval()
    return module


def _is_frozen(module: Any) -> bool:
    """A frozen module has lost its ``training``, and refuses ``eval()``."""
    return not hasattr(module, "training")
