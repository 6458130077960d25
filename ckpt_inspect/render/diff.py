"""A difference as lines: one a tensor for pipes, a tree with bars for a terminal."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from math import isfinite, log10
from typing import NamedTuple

from ..operations.difference import Change, Difference, ValueChange
from ..operations.sides import Place
from .text import Line, belongs_to, escape, literal, plain_shape, plural, shape, width

SHOW = ("changed", "added", "removed", "renamed", "values", "identical")
DEFAULT = SHOW[:5]
_MARKS = {"changed": "!", "added": "+", "removed": "-", "identical": "=", "not compared": "?"}
_STYLES = {
    "changed": "wrapper", "added": "good", "removed": "bad", "identical": "dim", "renamed": "class", "not compared": "bad",
}  # fmt: skip
_BAR = 10
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def number(value: float | None) -> str:
    """Three digits: ``0.0312``, ``1.2e-07``, ``31,400``."""
    if value is None:
        return "-"
    if not isfinite(value):
        return str(value)
    if value == 0 or 1e-4 <= abs(value) < 1e5:
        return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"
    return f"{value:.2e}"


def percent(fraction: float) -> str:
    """``100 %`` and ``0 %`` mean all and none."""
    value = 100 * fraction
    if value in (0, 100):
        return f"{value:.0f} %"
    if value < 0.1:
        return "<0.1 %"
    return f"{min(value, 99.9):.1f} %" if value > 10 else f"{value:.2g} %"


# -- for pipes -----------------------------------------------------------------------------------------


def plain(found: Difference, show: Sequence[str]) -> Iterator[str]:
    """Tab-separated, one tensor a line: mark, name, and what there is to say of it."""
    for kind, place, change in _rows(found, show):
        cells = [_MARKS[kind], escape(place.name)]
        if change is not None:
            cells += [_what(change), *_plain_metrics(found, change), escape(change.note or "")]
        else:
            info = (found.b if kind == "added" else found.a).tensors[place]
            cells += [info.dtype, plain_shape(info.shape), escape(_note(found, place))]
        yield "\t".join(cells).rstrip() + "\n"
    if "renamed" in show:
        for old, new in found.renamed:
            yield f">\t{escape(old.name)}\t{escape(new.name)}\n"
    if "values" in show:
        for value in found.values:
            yield f"~\t{escape(value.name)}\t{escape(value.a.text)}\t{escape(value.b.text)}\n"
    for fact, count in found.facts.items():
        yield f"#\t{escape(fact)}\t{count}\n"
    for line in _last(found):
        yield "# " + "".join(text for text, _ in line) + "\n"


def _note(found: Difference, place: Place) -> str:
    return found.notes.get(place) or found.unread.get(place, "")


def _is_close(found: Difference, change: Change) -> bool:
    """Its values lie within a tolerance; of a change that counts for its dtype, only if they differ at all."""
    return found.is_tolerated(change) or (change.close and _has_numbers(change))


def _plain_metrics(found: Difference, change: Change) -> list[str]:
    metrics = change.metrics
    if metrics is None:
        return []
    return [
        f"norm={number(metrics.relative_norm)}",
        f"max={number(metrics.max_abs)}",
        f"mean={number(metrics.mean_abs)}",
        f"changed={metrics.changed_fraction:.6g}",
        f"cosine={'-' if metrics.cosine is None else format(metrics.cosine, '.7g')}",
        *(["within-tolerance"] if _is_close(found, change) else []),
    ]


def _what(change: Change) -> str:
    """``float32 -> bfloat16 12,3``: dtype and shape, with what became of them."""
    a, b = change.a, change.b
    dtype = a.dtype if a.dtype == b.dtype else f"{a.dtype} -> {b.dtype}"
    dims = plain_shape(a.shape) if a.shape == b.shape else f"{plain_shape(a.shape)} -> {plain_shape(b.shape)}"
    return f"{dtype}\t{dims}"


def _rows(found: Difference, show: Sequence[str]) -> Iterator[tuple[str, Place, Change | None]]:
    """Everything but renames, in the order of the first side, then what only the second has."""
    changes = {change.place: change for change in found.changed}
    removed, identical = set(found.removed), set(found.identical)
    for place in found.a.tensors:
        if place in changes and "changed" in show:
            yield "changed", place, changes[place]
        elif place in removed and "removed" in show:
            yield "removed", place, None
        elif place in identical and "identical" in show:
            yield "identical", place, None
        elif place in found.unread:
            yield "not compared", place, None
    if "added" in show:
        for place in found.added:
            yield "added", place, None


# -- for terminals -------------------------------------------------------------------------------------


class _Node:
    """A module: what became of the tensors directly in it, the modules below, and how many of each kind in all."""

    __slots__ = ("children", "counts", "leaves", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.leaves: list[tuple[str, str, Place, Change | None]] = []
        self.children: dict[str, _Node] = {}
        self.counts: dict[str, int] = {}


def lines(found: Difference, show: Sequence[str] = DEFAULT, columns: int = 80) -> Iterator[Line]:
    """A tree of what changed: a subtree of one kind is one line, a changed tensor has a bar for its relative change."""
    yield [(escape(found.a.checkpoint.path), "file"), (" → ", "dim"), (escape(found.b.checkpoint.path), "file")]
    kinds = {*show, "identical"}
    tree = _tree((kind, place, change) for kind, place, change in _rows(found, [*kinds]))
    table = _Table.fitting(tree, columns)
    yield from table.header()
    yield from _below(found, tree, 0, table)
    if "renamed" in show and found.renamed:
        yield from _renamed(found)
    if "values" in show:
        yield from _values(found.values, columns)
    for fact, count in found.facts.items():
        counts = "" if found.exact else "   does not count without --exact"
        yield [("· ", "dim"), (f"{escape(fact.replace('->', '→'))}: {plural(count, 'tensor')}", ""), (counts, "dim")]
    yield from _last(found, columns)


def _tree(rows: Iterator[tuple[str, Place, Change | None]]) -> _Node:
    root = _Node("")
    for kind, place, change in rows:
        *path, last = place.path
        node = root
        node.counts[kind] = node.counts.get(kind, 0) + 1
        for name in path:
            node = node.children.setdefault(name, _Node(name))
            node.counts[kind] = node.counts.get(kind, 0) + 1
        node.leaves.append((kind, last, place, change))
    return root


def _folded(node: _Node) -> str | None:
    """The one kind of everything below, if it can be told in a line."""
    if len(node.counts) == 1 and (kind := next(iter(node.counts))) != "changed":
        return kind
    return None


def _joined(node: _Node) -> tuple[str, _Node]:
    """Modules with nothing but one module in them stand on one line."""
    name = node.name
    while len(node.children) == 1 and not node.leaves and _folded(node) is None:
        (node,) = node.children.values()
        name = f"{name}.{node.name}"
    return name, node


class _Table(NamedTuple):
    """The columns of changed tensors: of the window, the name with its indent, the shape; whether there are numbers."""

    columns: int
    name: int
    shape: int
    measured: bool

    @classmethod
    def fitting(cls, tree: _Node, columns: int) -> _Table:
        changed = list(_changes(tree, 0))
        measured = [change for _, change in changed if _has_numbers(change)]
        dims = max((width([(shape(change.a.shape), "")]) for change in measured), default=0)
        dims = min(max(5, dims), 24)
        room = max(12, columns - dims - _NUMBERS)
        return cls(columns, min(max((size for size, _ in changed), default=0), room), dims, bool(measured))

    def header(self) -> Iterator[Line]:
        if self.measured:
            head = f"  {'':{self.name}}  {'shape':{self.shape}}  {'':{_BAR}}  {'|Δ|/|W|':>8}  {'max |Δ|':>8}  changed"
            yield [(head, "dim")]

    def rows(self, change: Change, name: str, close: bool) -> Iterator[Line]:
        """One line; what has no room on it follows on others. ``close``: within the tolerance."""
        a, b, metrics = change.a, change.b, change.metrics
        line: Line = [("! ", "wrapper"), (name, "")]
        if width(line) > self.name + 2:
            yield line
            line = [("  ", "")]
        line.append((" " * max(0, self.name + 2 - width(line)), ""))
        dims = shape(a.shape) if a.shape == b.shape else f"{shape(a.shape)} → {shape(b.shape)}"
        line.append((f"  {dims:{self.shape}}", "shape"))
        more: Line = [(f"{a.dtype} → {b.dtype}", "dtype")] if a.dtype != b.dtype else []
        if metrics is not None and _has_numbers(change):
            line += [
                (f"  {_bar(metrics.relative_norm)}", "wrapper"),
                (f"  {number(metrics.relative_norm):>8}  {number(metrics.max_abs):>8}", ""),
                (f"  {percent(metrics.changed_fraction):>7}", ""),
            ]
        more += [("within tolerance", "dim")] if close else []
        more += [(escape(change.note), "hint")] if change.note else []
        for text, style in more:
            if width(line) + 3 + width([(text, "")]) > self.columns:
                yield line
                line = [(" " * (self.name + 1), "")]
            line.append((f"   {text}", style))
        yield line


_NUMBERS = 2 + 2 + 2 + _BAR + 2 + 8 + 2 + 8 + 2 + 7  # columns beside name and shape


def _has_numbers(change: Change) -> bool:
    return change.metrics is not None and bool(change.metrics.changed)


def _changes(node: _Node, depth: int) -> Iterator[tuple[int, Change]]:
    """Changed tensors, each with the columns that its indented name takes."""
    for _, name, _, change in node.leaves:
        if change is not None:
            yield 2 * depth + width([(escape(name), "")]), change
    for child in node.children.values():
        if _folded(child) is None:
            yield from _changes(_joined(child)[1], depth + 1)


def _below(found: Difference, node: _Node, depth: int, table: _Table) -> Iterator[Line]:
    indent = "  " * depth
    whole = _folded(node)
    if depth == 0 and whole == "identical":  # of other kinds the names are what is asked for
        yield [
            (f"{_MARKS[whole]} ", _STYLES[whole]),
            (plural(node.counts[whole], "tensor") + f" {whole}", _STYLES[whole]),
        ]
        return
    same = [row for row in node.leaves if row[0] == "identical"]
    for kind, name, place, change in node.leaves:
        if change is not None:
            yield from table.rows(change, indent + escape(name), _is_close(found, change))
        elif kind != "identical":
            info = (found.b if kind == "added" else found.a).tensors[place]
            text = _note(found, place)
            note = f"   {escape(text)}" if text else ""
            yield [
                (f"{_MARKS[kind]} {indent}{escape(name)}", _STYLES[kind]),
                (f"   {shape(info.shape)}   {info.dtype}", ""),
                (note, "dim"),
            ]
    if same:
        names = ", ".join(escape(name) for _, name, _, _ in same[:4]) + (
            f" and {len(same) - 4} more" if len(same) > 4 else ""
        )
        yield [(f"= {indent}{names}   identical", "dim")]
    children = [_joined(child) for child in node.children.values()]
    if all(map(_is_number, node.children)):  # what only one side has stands where it belongs
        children.sort(key=lambda child: int(child[0].partition(".")[0]))
    for kind_of_all, run in groupby(children, lambda child: _folded(child[1])):
        if kind_of_all is not None:
            yield _folded_line(kind_of_all, list(run), indent, table.columns)
            continue
        for name, inner in run:
            param = _param(found, inner)
            yield [
                ("  ", ""),
                (indent + escape(name), "module"),
                (f"   of {belongs_to(param)}" if param else "", "dim"),
            ]
            yield from _below(found, inner, depth + 1, table)


def _param(found: Difference, node: _Node) -> tuple[str, str] | None:
    """The parameter whose state this part of an optimizer is."""
    if not node.leaves or not node.leaves[0][2].pointed:
        return None
    kind, _, place, _ = node.leaves[0]
    return (found.b if kind == "added" else found.a).param(place)


def _folded_line(kind: str, run: list[tuple[str, _Node]], indent: str, columns: int) -> Line:
    """Neighbours of one kind: ``= 0…11.**   144 tensors identical``."""
    count = sum(inner.counts[kind] for _, inner in run)
    tail = f"   {plural(count, 'tensor')} {kind}"
    names = [name for name, _ in run]
    if len(run) > 2 and all(map(_is_number, names)) and _in_sequence([int(name) for name in names]):
        text = f"{names[0]}…{names[-1]}.**"
    else:
        labels = [f"{escape(name)}.{'**' if inner.counts[kind] > 1 else _only_leaf(inner)}" for name, inner in run]
        room = columns - len(indent) - len(tail) - 2
        text = labels[0]
        for index, label in enumerate(labels[1:], 1):
            more = f" and {len(labels) - index} more"
            last = index == len(labels) - 1
            if width([(f"{text}, {label}", "")]) + (0 if last else len(more)) > room:
                text += more
                break
            text += f", {label}"
    return [(f"{_MARKS[kind]} {indent}{text}{tail}", _STYLES[kind])]


def _is_number(name: str) -> bool:
    return name.isdecimal() and len(name) < 10  # longer ones are none that count blocks, and Python minds their digits


def _in_sequence(numbers: list[int]) -> bool:
    return numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def _only_leaf(node: _Node) -> str:
    """The name of the one tensor below a module, as seen from it."""
    if node.leaves:
        return escape(node.leaves[0][1])
    (child,) = node.children.values()
    return f"{escape(child.name)}.{_only_leaf(child)}"


def _bar(value: float | None) -> str:
    """Ten columns for a relative change, on a logarithmic scale: empty at a millionth, full at one."""
    if value is None or value <= 0:
        return " " * _BAR
    filled = max(0.0, min(1.0, 1 + log10(value) / 6)) * _BAR * 8
    whole, part = divmod(round(filled), 8)
    return ("█" * whole + (_EIGHTHS[part] if part else "")).ljust(_BAR)


def _renamed(found: Difference) -> Iterator[Line]:
    from ..model.keymap import KeyMap

    sections: dict[tuple[str, str], dict[str, str | None]] = {}
    for old, new in found.renamed:
        sections.setdefault((old.section, new.section), {})[old.key] = new.key
    for (here, there), pairs in sections.items():
        if here == there:  # what stayed is told apart from what moved
            kept = (place for place in found.a.tensors if place.section == here and place in found.b.tensors)
            pairs.update((place.key, place.key) for place in kept)
        where = (
            ""
            if not here and not there
            else f"   in {escape(here)}"
            if here == there
            else f"   {escape(here)} → {escape(there)}"
        )
        for rule, count in KeyMap(pairs).rule_counts():
            yield [
                ("> ", "class"),
                (escape(rule), "class"),
                (f"   {plural(count, 'tensor')} renamed, same bytes{where}", ""),
            ]


class _Text(NamedTuple):
    room: int

    def of(self, text: str) -> str:
        return literal(text, False, self.room)


def _values(values: Sequence[ValueChange], columns: int) -> Iterator[Line]:
    room = _Text(max(20, columns // 2 - 12))
    shown_values = values if len(values) <= 40 else values[:39]
    for change in shown_values:
        yield [("~ ", "tied"), (f"{escape(change.name)}   ", "value"), (room.of(change.a.text), "literal"),
               (" → ", "dim"), (room.of(change.b.text), "literal")]  # fmt: skip
    if len(values) > len(shown_values):
        yield [(f"~ … and {len(values) - len(shown_values):,} more entries that are no tensors", "dim")]


def _left(found: Difference) -> Callable[[str], str]:
    """A section that is not compared, with the file that alone has it."""
    files = [side.checkpoint for side in (found.a, found.b)]
    names = [escape(file.path) for file in files]
    if names[0] == names[1]:
        names = ["the first", "the second"]

    def text(pointer: str) -> str:
        there = [name for name, file in zip(names, files, strict=True) if pointer in file.sections]
        return (escape(pointer) or "(root)") + (f" (only in {there[0]})" if len(there) == 1 else "")

    return text


def _last(found: Difference, columns: int | None = None) -> Iterator[Line]:
    """What it comes to, and what was not looked at; on a terminal of so many columns none of that is cut."""
    parts: list[tuple[str, int | Callable[[], int]]] = [
        ("changed", len(found.different)),
        ("within tolerance", len(found.changed) - len(found.different)),
        ("added", len(found.added)),
        ("removed", len(found.removed)),
        ("renamed", len(found.renamed)),
        ("not compared", len(found.unread)),
    ]
    counts = [f"{count:,} {name}" for name, count in parts if count]
    if found.values:
        counts.append(plural(len(found.values), "other entry").replace("entrys", "entries") + " changed")
    same = f"{len(found.identical):,} identical"
    by = {"crc32": " (trusting the checksums of the archives)", "names": " in name, shape and dtype"}
    head = "the same: " if found.same else ""
    yield [(f"{head}{' · '.join([*counts, same])}{by.get(found.compared_by, '')}", "totals")]
    if found.frozen is not None:
        chosen, moved, unread = found.frozen
        if moved:
            verdict = f"{len(moved):,} of {plural(len(chosen), 'frozen tensor')} moved"
        elif unread:
            verdict = f"{len(unread):,} of {plural(len(chosen), 'frozen tensor')} could not be compared"
        elif len(chosen) == 1:
            verdict = "the frozen tensor is as it was"
        else:
            verdict = f"all {len(chosen):,} frozen tensors are as they were"
        yield [(verdict, "bad" if moved or unread else "good")]
    if found.unmeasured is not None:
        yield [(found.unmeasured, "hint")]
    if found.prefix is not None:
        yield [("no name is on both sides: to compare without the prefix, ", "hint"),
               (f"--ignore-prefix {escape(shlex.quote(found.prefix))}", "command")]  # fmt: skip
    entries = found.entries_left
    if found.not_compared or entries:
        left = [*map(_left(found), found.not_compared)]
        if entries:
            left.append(plural(entries, "other entry").replace("entrys", "entries"))
        text = "not compared: " + left[0]
        for part in left[1:]:
            if columns is not None and width([(f"{text}, {part},", "")]) > columns:
                yield [(f"{text},", "dim")]
                text = "  " + part
            else:
                text += f", {part}"
        yield [(text, "dim")]
