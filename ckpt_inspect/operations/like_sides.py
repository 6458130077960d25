"""One side of a matching: its tensors by bare name, the tree of those that are not settled, rows of numbered siblings."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from ..dtypes import BY_NAME
from ..model.section import Section
from ..model.tensor import TensorInfo
from ..model.wrappers import strip_wrappers
from .leftovers import HARMLESS

_DEEPEST = 64  # segments; deeper keys, which only attackers write, are matched by nothing but their names
_NUMBERED = re.compile(r"([^0-9]*)([0-9]{1,18})", re.ASCII)


def bare_names(keys: Iterable[str]) -> dict[str, str]:
    """Key -> the key without wrapper segments (design 4, nested ones too); as they are, if two would meet."""
    names = dict(zip(keys, strip_wrappers(list(keys), nested=True), strict=True))
    return names if len(set(names.values())) == len(names) else {key: key for key in names}


class Node:
    """A module of the tree of what is left: a form, equal for equal subtrees, and the names below it."""

    __slots__ = ("children", "form", "leaves", "path", "size")

    def __init__(self, path: str) -> None:
        self.path = path
        self.leaves: list[str] = []
        self.children: dict[str, Node] = {}
        self.form = self.size = 0


class Side:
    """The tensors of one side by bare name, and which are not settled yet."""

    def __init__(self, section: Section) -> None:
        real = [key for key, info in section.tensors.items() if info.persistent and key.count(".") < _DEEPEST]
        self.deep = {key for key, info in section.tensors.items() if info.persistent and key.count(".") >= _DEEPEST}
        self.names = bare_names(real)
        self.keys = {name: key for key, name in self.names.items()}
        self.infos: dict[str, TensorInfo] = {name: section.tensors[key] for name, key in self.keys.items()}
        self.left = dict.fromkeys(self.infos)
        self.loose = False
        self.numbers: dict[tuple[str, str, Any], int] = {}

    def ready(self, loose: bool) -> None:
        """Note the numbers of siblings that are left: below one parent, alike but for the number.

        As one hash for each set of them: sets of thousands would be compared thousands of times.
        """
        self.loose = loose
        self.numbers = defaultdict(int)
        for name in self.left:
            for before, number, after in numbers_in(name):
                self.numbers[before, after, self.kind(name)] ^= hash(number)

    def kind(self, name: str) -> tuple[object, ...]:
        """What tensors must share to be taken for each other."""
        info = self.infos[name]
        dtype = BY_NAME[info.dtype].kind if self.loose and info.dtype in BY_NAME else info.dtype
        return dtype, info.shape, info.layout

    def settle(self, name: str) -> None:
        del self.left[name]
        for before, number, after in numbers_in(name):
            self.numbers[before, after, self.kind(name)] ^= hash(number)

    def forms(self, ids: dict[object, int], blocked: set[str]) -> dict[int, list[Node]]:
        """Nodes of the tree of what is left, by their form, in saved order. Known leftovers are no part of a form."""
        root = Node("")
        nodes = {"": root}
        for name in self.left:
            if name in blocked or leaf(name) in HARMLESS:
                continue
            _node(nodes, name.rpartition(".")[0] if "." in name else "").leaves.append(name)
        found: dict[int, list[Node]] = defaultdict(list)
        for node in reversed(list(nodes.values())):  # children were made after their parents
            leaves = sorted((leaf(name), self.kind(name)) for name in node.leaves)
            below = sorted((name, child.form) for name, child in node.children.items())
            node.form = ids.setdefault((tuple(leaves), tuple(below)), len(ids))
            node.size = len(leaves) + sum(child.size for child in node.children.values())
        for node in nodes.values():
            if node.size:
                found[node.form].append(node)
        return found


def _node(nodes: dict[str, Node], path: str) -> Node:
    missing = []
    while path not in nodes:
        missing.append(path)
        path = path.rpartition(".")[0]
    node = nodes[path]
    for path in reversed(missing):
        parent, node = node, Node(path)
        nodes[path] = parent.children[leaf(path)] = node
    return node


def names_below(node: Node) -> Iterator[str]:
    stack = [node]
    while stack:
        node = stack.pop()
        yield from node.leaves
        stack.extend(node.children.values())


def leaf(name: str) -> str:
    return name.rpartition(".")[2]


def numbers_in(name: str) -> Iterator[tuple[str, str, str]]:
    """Each number among the segments: what stands before it, the number, what stands after."""
    start = 0
    for segment in name.split("."):
        if segment.isdecimal():
            yield name[:start], segment, name[start + len(segment) :]
        start += len(segment) + 1


def joined(path: str, rest: str) -> str:
    return f"{path}.{rest}" if path else rest


def splits(name: str) -> Iterator[tuple[str, str]]:
    """Every module that holds the tensor, the innermost first, and the name below it; ``""`` is the root."""
    at = name.rfind(".")
    while at >= 0:
        yield name[:at], name[at + 1 :]
        at = name.rfind(".", 0, at)
    yield "", name


def modules_left(side: Side, blocked: set[str]) -> dict[object, list[list[str]]]:
    modules: dict[str, list[str]] = defaultdict(list)
    for name in side.left:
        if name not in blocked:
            modules[name.rpartition(".")[0]].append(name)
    found: dict[object, list[list[str]]] = defaultdict(list)
    for names in modules.values():
        form = tuple(sorted((leaf(name), side.kind(name)) for name in names if leaf(name) not in HARMLESS))
        if form:
            found[form].append(names)
    return found


class Siblings(NamedTuple):
    """Nodes that differ in one number, in its order."""

    nodes: list[Node]
    numbers: list[int]
    before: str
    stem: str


def in_order(nodes: list[Node]) -> Siblings | None:
    """Nodes whose paths differ in one number: ``layers.3.fc``, ``conv2``. None: there is no order between them."""
    paths = [node.path.split(".") for node in nodes]
    if len({len(path) for path in paths}) != 1:
        return None
    at = [index for index, segments in enumerate(zip(*paths, strict=True)) if len(set(segments)) > 1]
    if len(at) != 1:
        return None
    found = [_NUMBERED.fullmatch(path[at[0]]) for path in paths]
    parts = [(match[1], int(match[2])) for match in found if match]
    stems = {stem for stem, _ in parts}
    numbers = [number for _, number in parts]
    if len(parts) < len(paths) or len(stems) != 1 or len(set(numbers)) < len(numbers):
        return None
    stem = stems.pop()
    order = sorted(range(len(nodes)), key=numbers.__getitem__)
    if stem and order != list(range(len(nodes))):  # in a name, a number counts only where it goes with what was saved
        return None
    before = "".join(segment + "." for segment in paths[0][: at[0]])
    return Siblings([nodes[index] for index in order], [numbers[index] for index in order], before, stem)
