"""The tree as lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby

from ..model import pointer as pointers
from ..model.section import Value
from ..operations.tree import Leaf, Node, Tree
from .text import Line, belongs_to, escape, literal, plural, role, shape, size, totals, width

_TEE, _CORNER, _PIPE, _BLANK = "├── ", "└── ", "│   ", "    "


def lines(tree: Tree, fold: bool = True) -> Iterator[Line]:
    """Lines of the tree; ``fold`` puts alike tensors of a module on one line."""
    yield _file_line(tree)
    yield from _below(tree.root, "", fold)


def _file_line(tree: Tree) -> Line:
    checkpoint, root = tree.checkpoint, tree.root
    facts = f"   {checkpoint.format} · {size(checkpoint.size)}"
    if root.counts is not None and root.counts.tensors:
        alone = len(checkpoint.sections) == 1 and root.section is not None
        facts += " · " + totals(root.counts, roles=alone, nbytes=False)
    line: Line = [(escape(root.name), "file"), (facts, "")]
    return [*line, *_class(root), *([(f"   {escape(root.note)}", "dim")] if root.note else [])]


def _below(node: Node, indent: str, fold: bool) -> Iterator[Line]:
    rows = _leaf_lines([] if node.hidden else node.tensors, fold)
    count = len(rows) + len(node.children)
    for index, row in enumerate(rows):
        yield [(indent + (_CORNER if index == count - 1 else _TEE), "guide"), *row]
    for index, child in enumerate(node.children, len(rows)):
        last = index == count - 1
        yield [(indent + (_CORNER if last else _TEE), "guide"), *_node_line(child, fold)]
        if isinstance(child, Node):
            yield from _below(child, indent + (_BLANK if last else _PIPE), fold)


def _node_line(node: Node | Value, fold: bool) -> Line:
    if isinstance(node, Value):
        name = pointers.unescape(node.name.rpartition("/")[2])
        return [
            (escape(name) or "(root)", "value"),
            (" = ", "dim"),
            (literal(node.text, not fold), "literal"),
            *_type(node),
        ]
    if node.kind == "values":
        return [(node.name, "dim")]
    name = escape(node.name) or "''"
    line: Line = [(name, "wrapper" if node.wrapper else node.kind)]
    if node.repeat > 1:
        line.append((f"   ×{node.repeat}", "repeat"))
    return line + _description(node)


def _type(value: Value) -> Line:
    if value.value is not None or value.type in ("NoneType", "cycle"):
        return []
    return [("   " + escape(value.type), "dim")] if escape(value.type) not in escape(value.text) else []


def _description(node: Node) -> Line:
    line: Line = []
    if node.wrapper:
        line.append((f"   ◂ wrapper: {node.wrapper}", "wrapper"))
    line += _class(node)
    if node.tied_to is not None:
        line.append((f"   ═ tied to {escape(node.tied_to)}", "tied"))
        return line
    summary = _summary(node)
    if summary:
        line += [("   ", "totals"), *_spans(summary)]
    if node.note:
        line.append((f"   {escape(node.note)}", "dim"))
    return line


def _class(node: Node) -> Line:
    if not node.cls:
        return []
    mark = "~" if node.class_from == "inferred" else ""
    short = node.cls.rpartition(".")[2] if node.cls.startswith("torch.") else node.cls
    return [(f"   {escape(short)}{mark}", "class"), (f"({escape(node.args)})" if node.args else "", "args")]


def _summary(node: Node) -> str:
    counts = node.counts
    if counts is None or (not counts.tensors and node.section is None):
        return ""
    if node.kind == "optimizer":
        return totals(counts, roles=False)
    if node.section is not None:
        kind = "" if node.section in ("other", "tensor") else node.section + " · "
        return kind + totals(counts)
    if node.repeat > 1:
        return "each " + totals(counts)
    if node.kind in ("container", "file") or node.hidden:
        return totals(counts)
    if node.children and counts.parameters:
        return plural(counts.parameters, "parameter") + "~" * ("parameter" in counts.inferred)
    return ""


_COUNT, _BYTES = re.compile(r"[\d,]+ tensors? · "), re.compile(r" · [\d.,]+ [KMGTPE]?B$")


def _spans(summary: str) -> Line:
    """A summary whose count of tensors and bytes a narrow window can do without."""
    count, nbytes = _COUNT.search(summary), _BYTES.search(summary)
    start, end = count.span() if count is not None else (0, 0)
    last = nbytes.start() if nbytes is not None and nbytes.start() >= end else len(summary)
    parts = (
        (summary[:start], "totals"),
        (summary[start:end], "size"),
        (summary[end:last], "totals"),
        (summary[last:], "size"),
    )
    return [(text, style) for text, style in parts if text]


def _alike(leaf: Leaf) -> tuple[object, ...]:
    info = leaf.info
    return (
        info.dtype,
        info.shape,
        info.device,
        role(info),
        leaf.tied_to is None or leaf.name,
        info.cls,
        info.layout,
        info.parts,
    )


def _leaf_lines(leaves: list[Leaf], fold: bool) -> list[Line]:
    """Tensors of one module, columns aligned; alike neighbours on one line when folded."""
    groups: list[list[Leaf]] = []
    for _, found in groupby(leaves, _alike if fold else lambda leaf: leaf.name):
        group = list(found)
        groups += [group[i : i + 4] for i in range(0, len(group), 4)]
    names = [", ".join(escape(leaf.label) or "''" for leaf in group) for group in groups]
    shapes = [shape(group[0].info.shape) for group in groups]
    widest = max((width([(name, "")]) for name in names if len(name) <= 40), default=0)
    longest = max(map(len, shapes), default=0)
    broadest = max((len(group[0].info.dtype) for group in groups), default=0)
    return [
        _leaf_line(group, name, text.ljust(longest), widest, broadest)
        for group, name, text in zip(groups, names, shapes, strict=True)
    ]


def _leaf_line(group: list[Leaf], name: str, dims: str, widest: int, broadest: int) -> Line:
    leaf, info = group[0], group[0].info
    kind = role(info)
    if len(group) > 1 and kind:
        kind = kind.replace("parameter", "parameters").replace("buffer", "buffers")
    style = "buffer" if info.role == "buffer" else "parameter" if info.role == "parameter" else "tensor"
    padding = " " * max(0, widest - width([(name, "")]))
    line: Line = [(name + padding, style), (f"   {dims}", "shape"), (f"   {info.dtype:{broadest}}", "dtype")]
    line.append((f"   {size(info.nbytes):>8}", "size"))
    if info.device not in (None, "cpu"):
        line.append((f"   {escape(str(info.device))}", "device"))
    if info.layout != "strided":
        line.append((f"   {info.layout}", "dtype"))
    if info.cls:
        line.append((f"   {escape(info.cls)}", "class"))
    if kind:
        line.append((f"   {kind}", "role"))
    if leaf.tied_to is not None:
        line.append((f"   ═ {escape(leaf.tied_to)}", "tied"))
    if leaf.param is not None:
        line.append((f"   of {belongs_to(leaf.param)}", "tied"))
    return line
