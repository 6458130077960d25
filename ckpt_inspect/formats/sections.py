"""From the inert graph of a pickle to sections and values (the definitions of design 3).

The walk is iterative, goes by identity, and is bounded by the size of the graph: shared structure that
expands without end is refused (formats 13).
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from ..errors import LimitError
from ..model import pointer as pointers
from ..model.checkpoint import Checkpoint
from ..model.graph import Dict, Global, Opaque, Persistent, Pickle
from ..model.problem import Problem
from ..model.section import Section, Value
from ..model.storage import Storage
from ..model.tensor import TensorInfo
from ..pickles.limits import DEFAULT, Limits
from . import modules, objects, values
from .hidden import hidden
from .rebuild import INLINE, Malformed, Rebuilder, storage_key, storage_keys


def walk_budget(pickle: Pickle) -> int:
    """What a walk may spend: one for a place, and for what is long there its length.

    All that a pickle spells is at most as long as the pickle. Only what is shared costs more, and an honest file
    shares an object among a few names; it is no tower of them, and not one long text in a hundred thousand places.
    """
    return min(100_000 + 4 * (pickle.end - pickle.start), _MOST_PLACES)


_MOST_PLACES = 200_000_000


_SHARED = frozenset([Opaque, Persistent, Dict, list])  # kinds of nodes that cost something to look at


class _Place(NamedTuple):
    """A container that waits to be entered."""

    node: Any
    pointer: str
    depth: int
    chain: Any  # identities of the containers around it, as a linked list
    owner: Section | None  # the optimizer it is part of
    sorted_in: bool = True  # False: an entry of an optimizer that nobody has looked at yet


_VALUES: dict[type, str] = {
    Dict: "a dictionary", list: "a list", tuple: "a tuple", str: "a text", bytes: "bytes", bool: "True or False",
    int: "a number", float: "a number", type(None): "None",
}  # fmt: skip


class Builder:
    """Collects the sections and values of one pickle."""

    def __init__(self, rebuilder: Rebuilder, problems: list[str], limits: Limits = DEFAULT) -> None:
        self.rebuilder = rebuilder
        self.problems = problems
        self.limits = limits
        self.sections: dict[str, Section] = {}
        self.values: list[Value] = []
        self.order: dict[str, int] = {}
        self.budget = 0
        self._waiting: list[_Place] = []
        self._seen: set[int] = set()  # by identity: what was placed once
        self._extents: dict[int, int] = {}

    def build(self, pickle: Pickle) -> None:
        """Walk everything that the root of ``pickle`` holds."""
        self.budget = walk_budget(pickle)
        self.place(pickle.root, "", 0, None, None, self._root_section)
        while self._waiting:
            place = self._waiting.pop()
            if place.sorted_in:
                self._enter(place)
            elif place.owner is not None:
                key = pointers.relative(place.pointer, place.owner.pointer)
                self.place(
                    place.node,
                    place.pointer,
                    place.depth,
                    place.chain,
                    place.owner,
                    partial(_keep, place.owner, key),
                )

        self._meshes(pickle)
        self._unreached(pickle)
        self._uncallable(pickle)

    def _uncallable(self, pickle: Pickle) -> None:
        """Calls of values: no pickler writes them, and no unpickler gets past them; a flipped bit makes them."""
        odd = (call for call in pickle.calls if type(call.callee) is not Global)
        calls = [call for call in odd if isinstance(call.callee, tuple(_VALUES))]
        if calls:
            what = next(what for kind, what in _VALUES.items() if isinstance(calls[0].callee, kind))
            self.problems.append(
                Problem(f"the pickle calls {what}, which cannot be called: torch cannot load it", node=calls[0])
            )

    def _meshes(self, pickle: Pickle) -> None:
        """The ranks in the mesh of a DTensor are a tensor too: no weights, but known."""
        for call in pickle.calls:
            if call.qualname.endswith(".DeviceMesh"):
                for name, value in objects.fields(call).items():
                    self.tensor(value, name)

    def _unreached(self, pickle: Pickle) -> None:
        """Find what no container holds as an entry; say which storages belong to objects that nobody here understands."""
        storages = self.rebuilder.storages
        lost = storage_keys(pickle) - storages.reached
        if not lost:
            return
        told = bool(self.problems)  # a problem that was told may explain it
        places: dict[str, str] = {}
        for found in hidden(pickle, lost):
            self.spend(found.name, len(found.name) >> 2)
            info = self.tensor(found.node, found.name) if found.understood else None
            if info is None:
                places.setdefault(found.key, found.name)
                continue
            pointer, key = pointers.parted(found.name)
            section = self.sections.get(pointer) or self._section(pointer, "other", None)
            section.tensors.setdefault(key, info.with_key(key))
        lost -= storages.reached
        for node in pickle.persistent:  # torch reads them all, whatever becomes of them
            if storage_key(node) in lost:
                with suppress(Malformed):
                    storages.get(node)
        storages.reached -= lost
        if lost and not told:
            listed = ", ".join(sorted(lost)[:5]) + (", …" if len(lost) > 5 else "")
            said = f"{len(lost):,} storages belong" if len(lost) > 1 else "1 storage belongs"
            text = f"{said} to objects that are not understood: {listed}"
            inside = [
                place or "the root" for place in dict.fromkeys(places[key] for key in sorted(lost) if key in places)
            ]
            text += f" (in {', '.join(inside[:5])}{', …' if len(inside) > 5 else ''})" if inside else ""
            self.problems.append(Problem(text, damage=False))

    def fill(self, checkpoint: Checkpoint) -> None:
        checkpoint.sections, checkpoint.values, checkpoint.order = self.sections, self.values, self.order

    def _root_section(self, info: TensorInfo) -> None:
        section = Section("", "tensor", node=info.node)
        section.tensors[""] = info
        self.sections[""] = section

    def tensor(self, node: Any, name: str) -> TensorInfo | None:
        """The tensor that ``node`` is, None if it is none or is malformed: that is a problem then."""
        try:
            info = self.rebuilder.decode(node)
        except Malformed as error:
            problem = f"{name or 'the root'}: {error}"
            self.spend(name, 16 + (len(problem) >> 2))
            self.problems.append(Problem(problem, names=(name,), node=node))
            return None
        if info is not None:
            self.spend(
                name,
                8 * len(info.parts)
                + self.rebuilder.looked
                + (_storage_length(info.storage) if info.storage is not None else 0),
            )
        return info

    def place(self, node: Any, pointer: str, depth: int, chain: Any, owner: Section | None, keep: Any) -> str:
        """Sort one node in: ``tensor`` (given to ``keep``), ``value`` (listed) or ``container`` (entered later)."""
        self.spend(pointer, values.length(node) + self.again(node))
        if type(node) is Opaque or type(node) is Persistent:
            info = self.tensor(node, pointer)
            if info is not None:
                keep(info)
                return "tensor"
        self.order[pointer] = len(self.order)
        if not self.is_container(node):
            leaf = values.leaf(node)
            self.values.append(Value(pointer, leaf.type, leaf.value, leaf.text, node))
            return "value"
        if depth >= self.limits.depth:
            raise LimitError(f"containers nested more than {self.limits.depth} deep at {pointer[:80]!r}: refused")
        link = chain
        while link is not None:
            if link[0] is node:
                self.values.append(Value(pointer, "cycle", None, "… (itself)"))
                return "value"
            link = link[1]
        self._waiting.append(_Place(node, pointer, depth, (node, chain), owner))
        return "container"

    def again(self, node: Any) -> int:
        """What it costs to look at a node that was placed before: the first time the pickle paid for it."""
        identity = id(node)
        if identity not in self._seen:
            if type(node) in _SHARED:
                self._seen.add(identity)
            return 0
        if identity not in self._extents:
            self._extents[identity] = values.extent(node)
        return self._extents[identity]

    def spend(self, pointer: str, length: int = 0) -> None:
        """Pay for one place: its name, and the length of what is there."""
        self.budget -= 1 + (len(pointer) >> 6) + length
        if self.budget < 0:
            raise LimitError(f"shared containers expand without end (at {pointer[:80]!r}): refused")

    def is_container(self, node: Any) -> bool:
        if type(node) is Opaque:
            if _is_metadata_only(node):
                return True
            return values.known(node) is None and bool(objects.children(node)[1])
        return not values.is_leaf(node)

    def _enter(self, place: _Place) -> None:
        node, pointer, depth, chain, owner, _ = place
        if modules.is_module(node):
            section = modules.read_module(self, node, pointer)
            if section.tensors or section.modules:
                self.sections[pointer] = section
            return
        inside, shape = objects.children(node)
        for key, _ in inside:
            if type(key) is not str or len(key) > 256:
                self.spend("", values.length(key))
        found, twice = objects.entries(inside)
        all_text = shape == "mapping" and all(isinstance(key, str) for key, _ in inside)
        del inside  # there can be a million
        for key in twice[:10]:
            text = f"the key {pointers.join(pointer, key)!r} stands twice; the last one counts"
            hint = "torch.save of what torch.load gives has each key once."
            self.problems.append(Problem(text, damage=False, hint=hint))
        if owner is None and _is_optimizer(shape, dict(found) if len(found) < 64 else {}):
            owner = self._section(pointer, "optimizer", node)
        if owner is not None and owner.kind == "optimizer":
            self._enter_optimizer(place._replace(owner=owner), found)
            return
        first = len(self._waiting)
        tensors: dict[str, TensorInfo] = {}
        for key, value in found:
            self.place(value, pointers.join(pointer, key), depth + 1, chain, None, partial(tensors.__setitem__, key))
        self._waiting[first:] = reversed(self._waiting[first:])
        if tensors:
            kind = "state_dict" if all_text and 2 * len(tensors) > len(found) else "other"
        elif type(node) is Opaque and _is_metadata_only(node):
            kind = "state_dict"
        else:
            return
        section = self._section(pointer, kind, node)
        section.metadata = _metadata(node)
        for key, info in tensors.items():
            section.tensors[key] = info.with_key(key)

    def _enter_optimizer(self, place: _Place, found: list[tuple[str, Any]]) -> None:
        """Everything below an optimizer is one section, in the order of a walk that goes deep first."""
        for key, value in reversed(found):
            pointer = pointers.join(place.pointer, key)
            self._waiting.append(_Place(value, pointer, place.depth + 1, place.chain, place.owner, False))

    def _section(self, pointer: str, kind: str, node: Any) -> Section:
        cls = objects.class_name(node) if type(node) is Opaque else None
        section = Section(pointer, kind, cls, node)
        self.sections[pointer] = section
        return section


def _storage_length(storage: Storage) -> int:
    """Its name; bytes that lie inside the pickle are read with the tensor."""
    return (len(storage.id) >> 3) + (storage.nbytes >> 3 if storage.id.startswith(INLINE) else 0)


def _keep(section: Section, key: str, info: TensorInfo) -> None:
    section.tensors[key] = info.with_key(key)


def _is_optimizer(shape: str, found: dict[str, Any]) -> bool:
    """``state`` and ``param_groups``, of the form that ``Optimizer.state_dict()`` gives them."""
    if shape not in ("mapping", "object") or not {"state", "param_groups"} <= found.keys():
        return False
    groups = found["param_groups"]
    return type(groups) in (list, tuple) and (type(found["state"]) is Dict or objects.is_mapping(found["state"]))


def _is_metadata_only(node: Opaque) -> bool:
    """An empty OrderedDict with ``_metadata``: the state_dict of a module without parameters."""
    return objects.is_mapping(node) and "_metadata" in objects.fields(node) and not objects.mapping_items(node)


def _metadata(node: Any) -> dict[str, Any] | None:
    """``_metadata`` as plain data: module path -> {'version': n}."""
    if type(node) is not Opaque:
        return None
    table = objects.fields(node).get("_metadata")
    if not objects.is_mapping(table):
        return None
    made: dict[int, dict[str, Any]] = {}  # by identity: a file can say the same facts of every path
    found: dict[str, Any] = {}
    for path, facts in objects.mapping_items(table):
        if not isinstance(path, str):
            continue
        if id(facts) not in made:
            items = objects.mapping_items(facts)
            made[id(facts)] = {str(k): v for k, v in items if isinstance(k, str) and values.is_scalar(v)}
        found[str(path)] = made[id(facts)]
    return found
