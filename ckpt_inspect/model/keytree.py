"""The tree of dotted keys: modules with their tensors, classes recorded or inferred, and equal blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from . import layers
from .section import ModuleInfo, Section
from .tensor import TensorInfo

_MAX_SEGMENTS = 64  # deeper keys keep their rest as one segment


class KeyNode:
    """A module: what hangs on it directly, and its children.

    Attributes:
        name: last segment of its path; ``""`` for the root.
        path: dotted path within the section.
        tensors: (local name, info), in saved order.
        children: by name, in saved order.
        cls, args: class and constructor facts, None and ``""`` if neither recorded nor inferred.
        class_from: ``recorded``, ``inferred`` or None.
        recorded: the recorded module, None for a bare state_dict.
    """

    __slots__ = ("args", "children", "class_from", "cls", "name", "path", "recorded", "shape_id", "tensors")

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        self.path = path
        self.tensors: list[tuple[str, TensorInfo]] = []
        self.children: dict[str, KeyNode] = {}
        self.cls: str | None = None
        self.args = ""
        self.class_from: str | None = None
        self.recorded: ModuleInfo | None = None
        self.shape_id = -1

    def child(self, name: str) -> KeyNode:
        node = self.children.get(name)
        if node is None:
            node = self.children[name] = KeyNode(name, f"{self.path}.{name}" if self.path else name)
        return node

    def walk(self) -> Iterator[KeyNode]:
        """This node and all below it."""
        yield self
        for child in self.children.values():
            yield from child.walk()

    def all_tensors(self) -> Iterator[TensorInfo]:
        for node in self.walk():
            for _, info in node.tensors:
                yield info


def key_tree(section: Section) -> KeyNode:
    """The tree of a state_dict or module section, its classes filled in."""
    root = KeyNode("", "")
    for path, module in section.modules.items():
        node = _at(root, path)
        node.recorded = module
        node.cls, node.args, node.class_from = (
            module.cls or None,
            module.args,
            "recorded" if module.cls else None,
        )
    for key, info in section.tensors.items():
        path, dot, name = key.rpartition(".")
        node = root.child("") if dot and not path else _at(root, path)  # of ".x" the module has no name
        node.tensors.append((name, info))
    shapes: dict[tuple[object, ...], int] = {}
    _finish(root, shapes)
    return root


def _at(root: KeyNode, path: str) -> KeyNode:
    node = root
    if path:
        for segment in path.split(".", _MAX_SEGMENTS):
            node = node.child(segment)
    return node


def _finish(node: KeyNode, shapes: dict[tuple[object, ...], int]) -> None:
    """Infer the class, then number the node's form: equal numbers are equal subtrees."""
    for child in node.children.values():
        _finish(child, shapes)
    names = list(node.children)
    if len(names) > 10 and all(map(str.isdecimal, names)) and names == sorted(names):
        # sorted by name as safetensors does, 10 before 2: the order of nothing; numbered blocks fold in theirs
        node.children = {name: node.children[name] for name in sorted(names, key=lambda name: (len(name), name))}
    if node.cls is None:
        leaves = {name: (info.dtype, info.shape) for name, info in node.tensors}
        below = list(node.children)
        if "parametrizations" in node.children:  # the tensors moved there; the layer is what it was
            inside = node.children["parametrizations"]
            below.remove("parametrizations")
            leaves |= {
                info.key[len(node.path) + 1 if node.path else 0 :]: (info.dtype, info.shape)
                for info in inside.all_tensors()
            }
        layer = layers.infer(leaves, below) if leaves or below else None
        if layer is not None:
            node.cls, node.args, node.class_from = layer.name, layer.args, "inferred"
    form = (
        node.cls,
        node.args,
        tuple((name, info.dtype, info.shape, info.role, info.device) for name, info in node.tensors),
        tuple((child.name, child.shape_id) for child in node.children.values()),
    )
    node.shape_id = shapes.setdefault(form, len(shapes))


class Block(NamedTuple):
    """Equal consecutive children: ``0…11``; of one node where it stands alone."""

    nodes: list[KeyNode]

    @property
    def label(self) -> str:
        first, last = self.nodes[0].name, self.nodes[-1].name
        return first if len(self.nodes) == 1 else f"{first}…{last}"


def blocks(node: KeyNode, fold: bool = True, apart: Callable[[KeyNode], object] = lambda _: None) -> list[Block]:
    """Children in order, equal consecutive numbered ones joined where that saves lines.

    ``apart`` says what else must be equal for two children to be joined; what it gives must be hashable.
    """
    runs: list[list[KeyNode]] = []
    for child in node.children.values():
        last = runs[-1][-1] if runs else None
        equal = last is not None and last.shape_id == child.shape_id and _follows(last.name, child.name)
        if last is not None and fold and equal and apart(last) == apart(child):
            runs[-1].append(child)
        else:
            runs.append([child])
    found: list[Block] = []
    for run in runs:
        if len(run) > 1 and (len(run) - 1) * sum(1 + len(n.tensors) for n in run[0].walk()) >= 4:
            found.append(Block(run))
        else:
            found.extend(Block([single]) for single in run)
    return found


def _follows(name: str, following: str) -> bool:
    return (
        name.isdecimal()
        and following.isdecimal()
        and len(name) < 10
        and len(following) < 10
        and int(following) == int(name) + 1
    )
