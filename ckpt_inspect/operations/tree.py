"""``ckpt tree``: the checkpoint as one tree of containers, modules, tensors and values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..formats.optimizers import Group, all_groups, class_of
from ..model import pointer as pointers
from ..model.checkpoint import Checkpoint
from ..model.keytree import KeyNode, blocks, key_tree
from ..model.section import ModuleInfo, Section, Value
from ..model.tensor import TensorInfo
from ..model.wrappers import wrapper_name
from .ls import pattern
from .plain import safe
from .summary import Counts, add, count

SCHEMA = "ckpt-inspect/tree/1"


class Node:
    """One line of the tree and what is below it.

    Attributes:
        kind: ``file``, ``container``, ``section``, ``module``, ``optimizer``, ``group``, or ``values`` for a fold of those.
        name: as shown; ``0…11`` for a fold.
        cls, args, class_from: class, constructor facts, ``recorded`` or ``inferred``.
        children: nodes and plain values below; ``tensors``: the names and infos that hang on it, in saved order.
        counts: totals of everything below.
        repeat: how many equal blocks this stands for.
        note: what else is to be said: a wrapper, a tie, what was folded.
        section: kind of the section that begins here.
    """

    __slots__ = ("args", "children", "class_from", "cls", "counts", "hidden", "kind", "name", "note", "repeat",
                 "section", "tensors", "tied_to", "wrapper")  # fmt: skip

    def __init__(self, kind: str, name: str) -> None:
        self.kind = kind
        self.name = name
        self.cls: str | None = None
        self.args = ""
        self.class_from: str | None = None
        self.children: list[Node | Value] = []
        self.tensors: list[Leaf] = []
        self.counts: Counts | None = None
        self.repeat = 1
        self.note = ""
        self.section: str | None = None
        self.wrapper: str | None = None
        self.tied_to: str | None = None
        self.hidden = 0

    def nodes(self) -> Iterator[Node]:
        """The children that are no plain values."""
        return (child for child in self.children if isinstance(child, Node))

    def to_dict(self) -> dict[str, Any]:
        counts = self.counts or count(leaf.info for leaf in self.tensors)
        return {
            "name": self.name,
            "class": self.cls,
            "class_from": self.class_from,
            "children": [child.to_dict() for child in self.nodes() if child.kind not in ("values", "group")],
            "tensors": [leaf.to_dict() for leaf in self.tensors],
            "numel": safe(counts.numel),
            "nbytes": safe(counts.nbytes),
        }


class Leaf:
    """A tensor in the tree: its local name, its full name, and the name it is tied to."""

    __slots__ = ("info", "label", "name", "param", "tied_to")

    def __init__(
        self, label: str, name: str, info: TensorInfo, tied_to: str | None, param: tuple[str, str] | None = None
    ) -> None:
        self.label = label
        self.name = name
        self.info = info
        self.tied_to = tied_to
        self.param = param

    def to_dict(self) -> dict[str, Any]:
        info = self.info
        return {
            "name": self.name, "key": info.key, "dtype": info.dtype, "shape": safe(list(info.shape)),
            "nbytes": safe(info.nbytes), "device": info.device, "role": info.role, "role_from": info.role_from,
            "persistent": info.persistent, "tied_to": self.tied_to,
        }  # fmt: skip


class Tree:
    """What ``tree`` made: ``root`` and the checkpoint it is of."""

    def __init__(self, checkpoint: Checkpoint, root: Node) -> None:
        self.checkpoint = checkpoint
        self.root = root

    def __repr__(self) -> str:
        return f"<tree of {self.checkpoint.path}: {len(self.root.children)} children>"

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "path": self.checkpoint.path,
            "format": self.checkpoint.format,
            "root": self.root.to_dict(),
            "problems": self.checkpoint.problems,
        }


def tree(checkpoint: Checkpoint, depth: int | None = None, filter: Sequence[str] = (), fold: bool = True) -> Tree:
    """Build the tree.

    Args:
        checkpoint: the file, or a selected part.
        depth: levels of modules below a section that are shown; None: all.
        filter: shell patterns on keys and names; without one, all.
        fold: join equal blocks, put alike tensors on one line, show a tied module once.
    """
    return Tree(checkpoint, _Builder(checkpoint, depth, filter, fold).build())


class _Builder:
    def __init__(self, checkpoint: Checkpoint, depth: int | None, filter: Sequence[str], fold: bool) -> None:
        self.checkpoint = checkpoint
        self.groups = all_groups(checkpoint.sections.values(), checkpoint.values)
        self.depth = depth
        self.matches = pattern(filter) if filter else None
        self.fold = fold
        self.tied: dict[str, str] = {}
        for first, *others in checkpoint.tied():
            self.tied.update(dict.fromkeys(others, first))
        self.first = set(self.tied.values())

    def build(self) -> Node:
        selected = self.checkpoint.selected
        name = self.checkpoint.path.rstrip("/").rpartition("/")[2] or self.checkpoint.path
        root = Node("file", name if selected is None else f"{name}#{selected}")
        nodes: dict[str, Node] = {selected or "": root}
        for section in self.checkpoint.sections.values():
            self._section(self._container(nodes, section.pointer), section)
        optimizers = {s.pointer for s in self.checkpoint.sections.values() if s.kind == "optimizer"}
        if self.matches is None:
            for value in self.checkpoint.values:
                if value.name not in optimizers and optimizers.isdisjoint(pointers.ancestors(value.name)):
                    self._value(nodes, value)
        self._sort(nodes)
        if self.matches is not None:
            _prune(root)
        if self.fold:
            _fold_values(root, 0)
        self._count(nodes, root)
        return root

    def _count(self, nodes: dict[str, Node], root: Node) -> None:
        """What is in containers that are no sections."""
        inside: dict[str, list[Section]] = {pointer: [] for pointer in nodes}
        for name, section in self.checkpoint.sections.items():
            for pointer in (name, *pointers.ancestors(name)):
                if pointer in inside and nodes[pointer] is not root:
                    inside[pointer].append(section)
        for pointer, node in nodes.items():
            if node.counts is None or node is root:
                sections = self.checkpoint.sections.values() if node is root else inside[pointer]
                node.counts = count(info for section in sections for info in section.tensors.values())

    def _container(self, nodes: dict[str, Node], pointer: str) -> Node:
        """The node of a container, made with those above it."""
        missing = []
        while pointer not in nodes:
            missing.append(pointer)
            pointer = pointer.rpartition("/")[0]
            if pointer == "" and pointer not in nodes:
                nodes[""] = next(iter(nodes.values()))
        node = nodes[pointer]
        for inner in reversed(missing):
            child = Node("container", pointers.unescape(inner.rpartition("/")[2]))
            node.children.append(child)
            nodes[inner] = node = child
        return node

    def _sort(self, nodes: dict[str, Node]) -> None:
        """Containers and values as they were saved."""
        order = self.checkpoint.order
        place = {id(node): order.get(pointer, -1) for pointer, node in nodes.items()}
        for node in nodes.values():
            if any(type(child) is Value or id(child) in place for child in node.children):
                node.children.sort(key=lambda c: order.get(c.name, -1) if type(c) is Value else place.get(id(c), -1))

    def _value(self, nodes: dict[str, Node], value: Value) -> None:
        node = self._container(nodes, value.name.rpartition("/")[0])
        if node.section != "module":  # attributes of modules are in `ls --json`; the class line shows those that matter
            node.children.append(value)

    def _section(self, node: Node, section: Section) -> None:
        node.section = section.kind
        if section.kind in ("state_dict", "module"):
            root = key_tree(section)
            leads = _leading(section)
            self._module(node, root, section, self.depth, leads)
            if node.kind == "container":
                node.kind = "section"
            if section.kind == "state_dict" and node.class_from == "inferred":
                node.cls = node.class_from = None  # the container is a state_dict, whatever its keys look like
        elif section.kind == "optimizer":
            self._optimizer(node, section)
        else:
            node.tensors = self._leaves(section, list(section.tensors.items()))
        node.counts = count(section.tensors.values())

    def _leaves(self, section: Section, found: list[tuple[str, TensorInfo]]) -> list[Leaf]:
        leaves = []
        for label, info in found:
            name = section.name_of(info.key)
            if self.matches is None or self.matches(info.key) or self.matches(name):
                tied = self.tied.get(name)
                if tied is not None and section.pointer and tied.startswith(section.pointer + "/"):
                    tied = tied[len(section.pointer) + 1 :]
                leaves.append(Leaf(label, name, info, tied, section.params.get(info.key)))
        return leaves

    def _module(self, node: Node, source: KeyNode, section: Section, depth: int | None, leads: frozenset[str]) -> None:
        node.cls, node.args, node.class_from = source.cls, source.args, source.class_from
        if source.recorded is not None:
            node.note = _module_note(source.recorded, node)
        node.tensors = self._leaves(section, source.tensors)
        if depth is not None and depth <= 0:
            node.hidden = len(source.children) + len(node.tensors)
            node.tensors = []
            node.counts = count(source.all_tensors())
            return
        for block in blocks(source, self.fold and self.matches is None, lambda child: self._ties(child, section)):
            first = block.nodes[0]
            child = Node("module", block.label)
            child.repeat = len(block.nodes)
            child.wrapper = wrapper_name(first.name, first.path in leads)
            node.children.append(child)
            child.tied_to = self._tied_module(first, section) if self.fold else None
            if child.tied_to is not None:
                child.cls, child.args, child.class_from = first.cls, first.args, first.class_from
                child.counts = count(first.all_tensors())
            else:
                self._module(child, first, section, None if depth is None else depth - 1, leads)
        if self.tied:
            node.counts = count(source.all_tensors())
        else:
            own = count(info for _, info in source.tensors)
            node.counts = add(own, [(child.counts, child.repeat) for child in node.nodes() if child.counts])

    def _ties(self, source: KeyNode, section: Section) -> object:
        """What sets a block apart from an equal one: whose second name it is, or that some of its tensors are tied."""
        if not self.tied:
            return None
        twin = self._tied_module(source, section)
        if twin is not None:
            return twin
        names = [section.name_of(info.key) for info in source.all_tensors()]
        return source.path if any(name in self.tied or name in self.first for name in names) else None

    def _tied_module(self, source: KeyNode, section: Section) -> str | None:
        """The module that ``source`` is a second name of: each of its tensors is tied to the one there."""
        twin: str | None = None
        for info in source.all_tensors():
            tied = self.tied.get(section.name_of(info.key))
            inner = info.key[len(source.path) :]
            if tied is None or not tied.endswith(pointers.escape(inner)):
                return None
            path = tied[: len(tied) - len(pointers.escape(inner))]
            if twin not in (None, path):
                return None
            twin = path
        if twin is not None and section.pointer:
            twin = twin.removeprefix(section.pointer + "/")
        return twin

    def _optimizer(self, node: Node, section: Section) -> None:
        groups = self.groups[section.pointer]
        name, recorded = class_of(section, groups)
        node.kind = "optimizer"
        node.cls, node.class_from = name, None if name is None else "recorded" if recorded else "inferred"
        total = sum(len(group.indices) for group in groups)
        with_state = {key.split("/")[1] for key in section.tensors if key.startswith("state/")}
        node.note = f"state of {len(with_state)} of {total} parameters"
        names = {key.split("/")[1]: pointers.split(name)[-1] for key, (name, _) in section.params.items()}
        for number, group in enumerate(groups):
            child = Node("group", f"group {number}")
            facts = [f"{key}={value}" for key, value in group.settings.items() if value not in (None, False)]
            count_of = f"{len(group.indices)} parameter{'s' * (len(group.indices) != 1)}{_of(group, names)}"
            child.note = " · ".join([count_of, *facts])
            node.children.append(child)
        node.tensors = self._leaves(section, [(key, info) for key, info in section.tensors.items()])
        if self.fold and self.matches is None:
            node.hidden = len(node.tensors)


def _module_note(module: ModuleInfo, node: Node) -> str:
    """Hooks that are set; of a whole module also its mode."""
    notes = ["hooks: " + ", ".join(module.hooks)] if module.hooks else []
    if node.section is not None and module.training is not None:
        notes.append("training mode" if module.training else "eval mode")
    return " · ".join(notes)


def _of(group: Group, names: dict[str, str]) -> str:
    """Whose group it is: all names of a small one, the first and last of a large one."""
    found = [names[str(index)] for index in group.indices if str(index) in names]
    if not found or len(found) < len(group.indices):
        return ""
    return ": " + (", ".join(found) if len(found) <= 2 else f"{found[0]} … {found[-1]}")


def _leading(section: Section) -> frozenset[str]:
    """Paths of ``module`` segments that lead every key: those are wrappers, others are names."""
    paths: set[str] = set()
    keys = [key.split(".") for key in section.tensors if key != "n_averaged"]
    depth = 0
    while keys and all(len(segments) > depth + 1 for segments in keys):
        first = keys[0][depth]
        if wrapper_name(first) is None or any(segments[depth] != first for segments in keys):
            break
        depth += 1
        paths.add(".".join(keys[0][:depth]))
    return frozenset(paths)


def _prune(node: Node) -> bool:
    """Leave out what the filter did not match; whether anything is left."""
    node.children = [child for child in node.nodes() if _prune(child)]
    return bool(node.children or node.tensors)


_MANY, _SHOWN = 50, 20  # lines of plain values in one container, of which so many are shown when there are more


def _fold_values(node: Node, level: int) -> int:
    """Deep containers of nothing but plain values become one line; how many values there are below, -1 with tensors.

    Of a vocabulary, of thousands of records, the first few tell what it is.
    """
    inside = [_fold_values(child, level + 1) if isinstance(child, Node) else 1 for child in node.children]
    plain = [number for number, values in enumerate(inside) if values >= 0]
    if len(plain) > _MANY:
        more = Node("values", f"… {sum(inside[number] for number in plain[_SHOWN:]):,} more values (--no-fold)")
        left_out = set(plain[_SHOWN:])
        node.children = [child for number, child in enumerate(node.children) if number not in left_out] + [more]
    if node.kind != "container" or node.tensors or node.section is not None or len(plain) < len(inside):
        return -1
    below = sum(inside)
    if below > 2 and level > 1:
        node.children = []
        node.note = f"{below:,} values"
    return below
