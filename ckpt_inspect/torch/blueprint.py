"""What modules a section is rebuilt of: real layers where they are recorded or inferred, containers elsewhere.

Every layer is tried: it is made on ``meta`` and taken only if its own ``state_dict()`` has exactly the keys, shapes and
dtypes that the file has there. No class is looked up by what a file says but in the table below.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch

from ..formats.modules import child_module, is_module, module_fields
from ..model.graph import Opaque
from ..model.keytree import KeyNode, key_tree
from ..model.layer_names import by_name
from ..model.layers import infer
from ..model.section import ModuleInfo, Section
from ..model.tensor import TensorInfo
from .calls import LAYERS, Call, from_fields, from_text, takes
from .composites import COMPOSITES, Part, composite, same_modules
from .live import section_of

_GROUPS = ("Sequential", "ModuleList", "ModuleDict")
_MOST_LAYERS = 10_000  # of a recurrent net, which makes its weights in a loop


class Blueprint:
    """One module to be rebuilt.

    Attributes:
        name: its last segment; ``path``: all of them.
        call: the layer it is; None for a container.
        group: ``Sequential``, ``ModuleList``, ``ModuleDict``, or ``""``.
        cls: class as recorded or inferred, for a container; ``note``: what is to be said of it.
        tensors: its own, by local name; ``held``: names of other values.
        children: by name.
        node: identity of the recorded object, None without one: one object is one module.
        hooks: recorded ones that change what it computes; they are not made again.
        training: as recorded; ``modes``: likewise, by path, of all in a layer.
    """

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        self.path = path
        self.call: Call | None = None
        self.group = ""
        self.cls = ""
        self.note = ""
        self.tensors: dict[str, TensorInfo] = {}
        self.held: list[str] = []
        self.children: dict[str, Blueprint] = {}
        self.node: int | None = None
        self.hooks: tuple[str, ...] = ()
        self.training: bool | None = None
        self.modes: dict[str, bool | None] = {}


def blueprint(section: Section, held: list[str]) -> Blueprint:
    """The modules of a section.

    Args:
        held: keys of entries that are no tensors.
    """
    return _Architect(section, held).root


def is_rebuilt(info: TensorInfo) -> bool:
    """Whether a module holds it as a parameter or buffer: constants of TorchScript and mere attributes it does not."""
    return info.persistent or info.role == "buffer"


class _Architect:
    def __init__(self, section: Section, held: list[str]) -> None:
        self.section = section
        self.fields = _recorded_fields(section)
        self.places = Counter(node for node, _ in self.fields.values())
        self.made: dict[str, dict[str, Any] | None] = {}  # by call: what its state_dict() has
        self.before = ""  # the layer with weights that came last: what a BatchNorm follows
        self.root = Blueprint("", "")
        nodes = _by_path(key_tree(section))
        for path in section.modules:  # first: those without tensors have their place too
            self._at(path.split(".") if path else None)
        for key, info in section.items():
            if is_rebuilt(info):
                path, _, name = key.rpartition(".") if "." in key else ("", "", key)
                if section.kind != "module":  # in a state_dict all are detached, which says nothing
                    info = info._replace(requires_grad=None)
                self._at(path.split(".") if "." in key else None).tensors[name] = info
        for key in held:
            path, _, name = key.rpartition(".") if "." in key else ("", "", key)
            self._at(path.split(".") if "." in key else None).held.append(name)
        self._finish(self.root, nodes)

    def _at(self, segments: list[str] | None) -> Blueprint:
        node = self.root
        for segment in segments or ():
            inner = node.children.get(segment)
            if inner is None:
                path = segment if node is self.root else f"{node.path}.{segment}"
                inner = node.children[segment] = Blueprint(segment, path)
            node = inner
        return node

    def _finish(self, plan: Blueprint, nodes: dict[str, KeyNode]) -> None:
        recorded = self.section.modules.get(plan.path)
        found = self.fields.get(plan.path)
        if recorded is not None:
            plan.cls, plan.training = recorded.cls, recorded.training
            plan.hooks = tuple(name for name in recorded.hooks if name.startswith("forward"))
            plan.node = found[0] if found is not None else None
        call = self._layer(plan, nodes.get(plan.path), found[1] if found is not None else None)
        if call is not None:
            plan.call = call
            plan.modes = {one.path: self.section.modules[one.path].training for one in _walk(plan)
                          if one.path in self.section.modules}  # fmt: skip
            plan.children = {}
            if any(info.persistent for info in plan.tensors.values()):
                self.before = call.name
            return
        names = list(plan.children)
        if all(map(str.isdecimal, names)) and names == sorted(names):  # 0, 1, 10, 2: sorted as texts
            plan.children = {name: plan.children[name] for name in sorted(names, key=lambda name: (len(name), name))}
        group = plan.cls.rpartition(".")[2] if _is_torchs(plan.cls) else ""
        if not plan.cls and not plan.tensors and not plan.held:
            inferred = infer({}, list(plan.children))
            group = inferred.name if inferred is not None else ""
            if group == "Sequential|ModuleList" and list(plan.children) == [*map(str, range(len(plan.children)))]:
                plan.note, group = f"{group}~", "ModuleList"  # which claims the least: it has no forward
        if group in _GROUPS and not plan.tensors and not plan.held:
            plan.group = group
        for child in plan.children.values():
            self._finish(child, nodes)

    def _layer(self, plan: Blueprint, node: KeyNode | None, fields: dict[str, Any] | None) -> Call | None:
        """The layer that a module is, if there is one whose state_dict is exactly what the file has."""
        if plan.held:
            return None
        leaves = {name: (info.dtype, info.shape) for name, info in plan.tensors.items() if info.persistent}
        name = plan.cls.rpartition(".")[2] if _is_torchs(plan.cls) else ""
        if name in LAYERS:
            calls = [self._recorded(name, plan, fields)] if fields is not None else []
            if name not in COMPOSITES:
                calls.append(from_text(name, node.args if node is not None else "", recorded=True))
            likely = infer(leaves, list(plan.children)) if leaves else None
            if likely is not None:
                calls.append(from_text(name, likely.args, recorded=False, known=name))
        elif plan.cls or node is None or node.cls is None or not (leaves or plan.children):
            return None
        else:
            kind, called = self._kind(node.cls), by_name(node.cls, leaves, plan.path)
            if kind is not None:
                calls = [from_text(kind, node.args, recorded=False)]
            elif called is not None:
                made = from_text(called.name, called.args, recorded=False)
                calls = [made._replace(fits=node.cls)] if made is not None else []
            else:
                plan.note = f"{node.cls}~: its tensors fit several" if "|" in node.cls else f"{node.cls}~"
                return None
        for call in calls:
            if call is not None and (fitting := self._fitting(call, plan)) is not None:
                return fitting
        if name in LAYERS:
            plan.note = f"recorded as {name}, which has other tensors"
        elif node is not None and node.cls is not None:  # it is one, and its arguments are not to be had
            plan.note = f"{node.cls}~"
        return None

    def _recorded(self, name: str, plan: Blueprint, fields: dict[str, Any]) -> Call | None:
        """The call by recorded attributes: its own, or, of a layer that is made of layers, those of its children too."""
        if name not in COMPOSITES:
            return from_fields(name, fields)
        parts, modules, nodes = {}, {}, Counter[int]()
        for one in _walk(plan):
            if one.path not in self.fields:
                return None
            node, attributes = self.fields[one.path]
            inner = one.path if plan is self.root else one.path[len(plan.path) + 1 :]
            modules[inner] = self.section.modules[one.path]
            parts[inner] = Part(modules[inner].cls.rpartition(".")[2], attributes)
            nodes[node] += 1
        call = composite(parts)
        shared = any(self.places[node] != count for node, count in nodes.items())  # with what is elsewhere
        return call if call is not None and not shared and self._made_so(call, modules) else None

    def _made_so(self, call: Call, recorded: dict[str, ModuleInfo]) -> bool:
        try:
            return same_modules(section_of(call.make()).modules, recorded)
        except Exception:  # whatever a constructor says of arguments that a file made up
            return False

    def _kind(self, inferred: str) -> str | None:
        """One class for what was inferred; a BatchNorm has the dimensions of the layer before it."""
        if inferred in LAYERS and inferred not in COMPOSITES:  # their heads and norms are in no shape
            return inferred
        if inferred == "BatchNorm":
            if self.before.startswith("Conv"):
                return f"BatchNorm{self.before[-2]}d"
            return "BatchNorm1d" if self.before == "Linear" else None
        return None

    def _fitting(self, call: Call, plan: Blueprint) -> Call | None:
        """The call with the dtype of the file, if what it makes has just these tensors."""
        wanted = {key: (info.dtype, info.shape) for key, info in _below(plan) if info.persistent}
        floats = {dtype for dtype, _ in wanted.values() if "float" in dtype}
        if len(floats) == 1 and floats != {"float32"}:
            _give_dtype(call, getattr(torch, next(iter(floats)), torch.float32))
        if call.kwargs.get("num_layers", 1) > min(_MOST_LAYERS, len(wanted) + 1):
            return None
        for counter in (True, False) if "Norm" in call.name else (True,):
            tried = call._replace(counter=counter)
            if self._state(tried) == wanted:
                return tried
        return None

    def _state(self, call: Call) -> dict[str, Any] | None:
        key = repr(call)
        if key not in self.made:
            try:
                entries = call.make().state_dict()
                self.made[key] = {
                    name: (str(t.dtype).removeprefix("torch."), tuple(t.shape)) for name, t in entries.items()
                }
            except Exception:  # whatever a constructor says of arguments that a file made up
                self.made[key] = None
        return self.made[key]


def _give_dtype(call: Call, dtype: torch.dtype) -> None:
    if takes(call.name, "dtype"):
        call.kwargs["dtype"] = dtype
    for value in (*call.args, *call.kwargs.values()):
        if isinstance(value, Call):
            _give_dtype(value, dtype)


def _by_path(root: KeyNode) -> dict[str, KeyNode]:
    return {node.path: node for node in root.walk()}


def _walk(plan: Blueprint) -> Iterator[Blueprint]:
    yield plan
    for child in plan.children.values():
        yield from _walk(child)


def _below(plan: Blueprint, prefix: str = "") -> list[tuple[str, TensorInfo]]:
    found = [(prefix + name, info) for name, info in plan.tensors.items()]
    for name, child in plan.children.items():
        found += _below(child, f"{prefix}{name}.")
    return found


def _is_torchs(cls: str) -> bool:
    return cls.startswith(("torch.nn.", "__torch__.torch.nn."))


def _recorded_fields(section: Section) -> dict[str, tuple[int, dict[str, Any]]]:
    """Path -> identity and attributes of each object of a whole-module pickle."""
    if type(section.node) is not Opaque or not is_module(section.node):
        return {}
    nodes: dict[str, Any] = {"": section.node}
    for path in section.modules:
        if path:
            parent, _, name = path.rpartition(".")
            above = nodes.get(parent)
            child = child_module(above, name) if above is not None else None
            if type(child) is Opaque:
                nodes[path] = child
    return {path: (id(node), module_fields(node)) for path, node in nodes.items()}
