"""TorchScript run once: the profiler says in which module each operation ran, a dispatch mode what it gave and cost."""

from __future__ import annotations

import json
import os
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import flop_registry

from ..errors import ModelError
from .forward import flat
from .models import said, their_code
from .running import Part, Unpriced, count_parameters

_IN_MODULE = re.compile(r"(?:^|\.)([^.()]*)\(([^()]*)\)::")  # layer1(Sequential)::forward.conv1(Conv2d)::forward.


class _Entry(NamedTuple):
    """One operation: shapes of what it gave, what it cost, the storages of what it took."""

    shapes: list[tuple[int, ...]]
    flops: int
    storages: list[int]


class _Ledger(Unpriced):
    """What every operation gave and cost, in the order in which they ran."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[_Entry] = []
        self.error: Exception | None = None  # of an operation: the interpreter passes on where, and not what

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        try:
            out = super().__torch_dispatch__(func, types, args, kwargs)
        except Exception as error:
            self.error = error
            raise
        formula = flop_registry.get(func._overloadpacket)
        flops = formula(*args, **(kwargs or {}), out_val=out) if formula is not None else 0
        shapes = [tuple(tensor.shape) for _, tensor in flat(out)]
        storages = [_storage(tensor) for _, tensor in flat(args)]
        self.rows.append(_Entry(shapes[:1], flops, storages))  # what follows are indices, saved statistics and the like
        return out


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else 0


def watch_script(module: Any, inputs: list[torch.Tensor]) -> tuple[list[Part], str | None]:
    """As ``running.watch``. How often a module was called is not known: in some no operation runs."""
    named = dict(module.named_modules())
    ledger, hierarchies = _run_script(module, inputs)
    rows = ledger.rows
    total = sum(entry.flops for entry in rows)
    root = Part("", _class(module), "", None, count_parameters(module), total, None)
    if len(named) == 1:
        return [root], _joined("frozen or inlined: one module holds all its code, so there is one row", ledger.note)
    if hierarchies is None or len(hierarchies) != len(rows):
        return [root], _joined("the profiler does not say which module each operation ran in", ledger.note)
    flops: dict[str, int] = dict.fromkeys(named, 0)
    shapes: dict[str, list[tuple[int, ...]]] = {}
    places = _Places(named)
    for entry, hierarchy in zip(rows, hierarchies, strict=True):
        path = places.of(hierarchy, entry)
        shapes[path] = entry.shapes
        for held in {path[:end] for end in _ends(path)}:
            flops[held] += entry.flops
    found = []
    for path, part in named.items():
        leaf = path and not any(part.children())  # the last operation in it is what it gives
        gave = shapes.get(path) if leaf else None
        found.append(Part(path, _class(part), "", gave, count_parameters(part), flops[path], None))
    return found, _joined(places.note, ledger.note)


def _joined(*notes: str | None) -> str | None:
    return "; ".join(note for note in notes if note is not None) or None


def _ends(path: str) -> Iterator[int]:
    """Where the paths of a module and of all that hold it end."""
    yield 0
    yield from (at for at, letter in enumerate(path) if letter == ".")
    yield len(path)


class _Places:
    """Which module an operation ran in, out of the profiler's hierarchy.

    That leaves out containers without a forward: ``layers.0`` of a ModuleList is ``0(Block)`` in it. Where several
    modules can be meant, the one whose weights the operation takes is, or else the one that the operation before ran in.
    """

    def __init__(self, named: dict[str, Any]) -> None:
        self.classes = {path: _class(part) for path, part in named.items()}
        self.inside: dict[str, list[str]] = {}  # module -> modules in it, and in its containers without a forward
        for path, part in reversed(named.items()):
            below = [f"{path}.{name}" if path else name for name, _ in part.named_children()]
            below = [one for one in below if one in named]  # a shared module has its place elsewhere
            hollow = [one for one in below if not named[one]._c._has_method("forward")]
            self.inside[path] = below + [inner for one in hollow for inner in self.inside.get(one, [])]
        self.owners: dict[int, str] = {}
        for path, part in named.items():
            for tensor in (*part.parameters(recurse=False), *part.buffers(recurse=False)):
                self.owners.setdefault(_storage(tensor), path)
        self.last = ""
        self.open = 0  # operations that cost something, and whose module is not certain

    @property
    def note(self) -> str | None:
        if not self.open:
            return None
        return f"{self.open:,} operations ran in one of several modules of one name; they count for what holds them all"

    def of(self, hierarchy: str, entry: _Entry) -> str:
        """The module of one operation; of several that can be meant, what holds them all."""
        paths = self._candidates(hierarchy)
        if len(paths) > 1:
            owners = [self.owners[storage] for storage in entry.storages if storage and storage in self.owners]
            for others in (owners, [self.last]):
                held = [path for path in paths if any(_holds(path, other) for other in others)]
                paths = held or paths
        self.open += len(paths) > 1 and entry.flops > 0
        self.last = _common(paths)
        return self.last

    def _candidates(self, hierarchy: str) -> list[str]:
        paths = [""]
        for name, cls in _IN_MODULE.findall(hierarchy):
            if name not in ("TOP", "SELF", "CALL_FUNCTION", ""):
                found = [
                    inner for path in paths for inner in self.inside[path]
                    if inner.rpartition(".")[2] == name and self.classes[inner] == cls
                ]  # fmt: skip
                paths = found or paths
        return paths


def _holds(path: str, other: str) -> bool:
    return not path or other == path or other.startswith(path + ".")


def _common(paths: list[str]) -> str:
    first, *others = paths
    while not all(_holds(first, other) for other in others):
        first = first.rpartition(".")[0]
    return first


def _class(module: Any) -> str:
    return str(getattr(module, "original_name", type(module).__name__))


def _run_script(module: Any, inputs: list[torch.Tensor]) -> tuple[_Ledger, list[str] | None]:
    """What each operation gave and cost, and the modules it ran in."""
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
        return ledger, _hierarchies(profiler)


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


def _hierarchies(profiler: Any) -> list[str] | None:
    """For each operation that came to the dispatch mode, in order, the modules that it ran in; from the trace."""
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
    return [str(event.get("args", {}).get("Module Hierarchy", "")) for event in found]


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
