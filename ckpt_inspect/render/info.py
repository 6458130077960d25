"""The identity card as lines."""

from __future__ import annotations

from collections.abc import Iterator

from ..formats.weights_only import TORCH
from ..model.section import Value
from ..operations.info import Info, SectionFacts
from . import weights_only
from .text import Line, alike, escape, literal, shorten, size, span, totals

LABEL = 14
_FEW_VALUES = 2  # in one container, that are spelled out on a terminal
_UNREMARKABLE = frozenset({"writer", "version", "root"})


def lines(info: Info, all_of_it: bool = True) -> Iterator[Line]:
    """The card; without ``all_of_it`` long lists are cut and say how much is left."""
    checkpoint = info.checkpoint
    name = checkpoint.path if checkpoint.selected is None else f"{checkpoint.path}#{checkpoint.selected}"
    writer = checkpoint.facts.get("writer")
    yield [
        (escape(name), "file"),
        (
            f"   {checkpoint.format} · {size(checkpoint.size)}" + (f" · {escape(writer)}" if writer else ""),
            "",
        ),
    ]
    yield from _rows("problems", [[(escape(problem), "bad")] for problem in checkpoint.problems], all_of_it)
    for label, text in checkpoint.facts.items():
        if label not in _UNREMARKABLE and (label, text) != ("byteorder", "little"):
            yield from _row(label, escape(text))
    runs = _alike(info.sections)
    shown = runs if all_of_it or len(runs) <= 6 else runs[:5]
    yield from _rows("sections", [line for run in shown for line in _sections(run, all_of_it)], True)
    if len(shown) < len(runs):
        left = len(info.sections) - sum(map(len, shown))
        yield [(" " * LABEL, ""), (f"… and {left:,} more sections", "dim")]
    yield from _rows("values", list(_values(info, all_of_it)), all_of_it, 16)
    yield from _rows("wrappers", [
        [(f"{p.prefix}   ", "wrapper"), (f"{p.found} of {p.of} keys", ""), (f" of {escape(p.section)}" if p.section else "", ""),
         (f"   {p.wrapper}", "")] for p in info.prefixes + info.nested_prefixes
    ], all_of_it)  # fmt: skip
    ties: list[Line] = [_tied(info, names) for names in info.shared]
    ties += [
        [(f"{escape(kept)} ═ {escape(name)}", "tied"), ("   the latter is told in __metadata__ alone", "dim")]
        for name, kept in info.recorded_ties.items()
    ]
    yield from _rows("tied", ties, all_of_it)
    yield from _rows("oversized", [
        [(escape(", ".join(o.names if all_of_it else o.names[:3])), "bad"), (f"   {size(o.used)} used of {size(o.stored)} stored", "")] for o in info.oversized
    ], all_of_it)  # fmt: skip
    yield from _rows(
        "imports", [[(escape(cls), "class"), (f"   ×{n}", "")] for cls, n in info.foreign.items()], all_of_it
    )
    yield from _rows(
        "beside it",
        [[(escape(", ".join(checkpoint.siblings)), "")]] if checkpoint.siblings else [],
        all_of_it,
    )
    yield from _weights_only(info, all_of_it)
    if info.load is not None:
        yield from _row("load", escape(info.load), "command")
    for hint in info.hints:
        yield from _row("hint", escape(hint.message), "hint")
        if hint.command is not None:
            yield [(" " * LABEL, ""), (escape(hint.command), "command")]


def _row(label: str, text: str, style: str = "") -> Iterator[Line]:
    yield [(label.ljust(LABEL - 1) + " ", "label"), (text, style)]


def _rows(label: str, found: list[Line], all_of_it: bool, most: int = 8) -> Iterator[Line]:
    shown = found if all_of_it or len(found) <= most else found[: most - 1]
    for index, row in enumerate(shown):
        yield [((label if index == 0 else "").ljust(LABEL - 1) + " ", "label"), *row]
    if len(shown) < len(found):
        yield [(" " * LABEL, ""), (f"… and {len(found) - len(shown):,} more", "dim")]


def _alike(sections: list[SectionFacts]) -> list[list[SectionFacts]]:
    """Neighbours of which the same is to be said: the records of a history."""
    found = {facts.section.pointer: facts for facts in sections}
    said = ((pointer, _section(facts, True, "")) for pointer, facts in found.items())
    return [[found[pointer] for pointer in names] for names, _ in alike(said)]


def _sections(run: list[SectionFacts], all_of_it: bool) -> list[Line]:
    """A section on three lines; of alike ones each on one, or, where not all is wanted, the first for all."""
    if len(run) == 1:
        return _section(run[0], all_of_it)
    if all_of_it:
        return [_joined(_section(facts, True)) for facts in run]
    first, *others = _section(run[0], False, span([facts.section.pointer for facts in run]))
    return [[*first, (f"   ×{len(run):,}, each", "dim")], *others]


def _joined(lines: list[Line]) -> Line:
    head, *others = lines
    return head + [(f"   {text.strip()}", style) for line in others for text, style in line if text]


def _section(facts: SectionFacts, all_of_it: bool, name: str | None = None) -> list[Line]:
    kind = facts.section.kind
    if facts.cls and kind != "state_dict":
        kind = (
            facts.cls.rpartition(".")[2]
            + ("" if facts.cls_recorded else "~")
            + (f" ({kind})" if kind == "module" else "")
        )
    dtypes = " · ".join(f"{name} {size(n)}" for name, n in sorted(facts.dtypes.items(), key=lambda item: -item[1]))
    devices = " · ".join(
        f"{escape(name)} {size(n)}" if len(facts.devices) > 1 else escape(name) for name, n in facts.devices.items()
    )
    pointer = (escape(facts.section.pointer) or "(root)") if name is None else name
    root = facts.section.modules.get("")
    if root is not None and root.training is not None:
        kind += "   training mode" if root.training else "   eval mode"
    return [
        [(pointer if all_of_it else shorten(pointer, 50), "section"), (f"   {escape(kind)}", "class")],
        [("  " + totals(facts.counts, roles=facts.section.kind != "optimizer"), "")],
        *([[("  " + dtypes, "dtype"), (f"   on {devices}" if devices else "", "device")]] if dtypes else []),
    ]


def _tied(info: Info, names: list[str]) -> Line:
    """Names of one tensor; by their keys where all ties are within one section."""
    for facts in info.sections:
        pointer = facts.section.pointer
        if pointer and all(name.startswith(pointer + "/") for group in info.shared for name in group):
            names = [name[len(pointer) + 1 :] for name in names]
            break
    return [(" ═ ".join(map(escape, names)), "tied")]


def _values(info: Info, all_of_it: bool) -> Iterator[Line]:
    """Plain data; where not all is wanted, containers of more than a few values as their number.

    What modules and optimizers hold is a part of them, which the tree shows.
    """
    parts = {facts.section.pointer for facts in info.sections if facts.section.kind in ("module", "optimizer")}
    lengths = sorted(set(map(len, parts)))
    groups: dict[str, list[Value]] = {}
    for value in info.checkpoint.values:
        if not any(_is_in(value.name, parts, n) for n in lengths):
            groups.setdefault(value.name if all_of_it else _top(value.name, info.checkpoint.selected), []).append(value)
    for name, values in groups.items():
        if all_of_it or len(values) <= _FEW_VALUES:
            yield from (_value(value, all_of_it) for value in values)
        else:
            yield [(escape(name), "value"), (f"   {len(values):,} values", "dim")]


def _is_in(name: str, parts: set[str], length: int) -> bool:
    """Whether a part with a name of that length holds the value: names are long in hostile files, parts few."""
    return name[:length] in parts and (not length or name[length : length + 1] in ("", "/"))


def _top(name: str, selected: str | None) -> str:
    """The container below the root, or below the selected part, that a value is in."""
    start = len(selected) + 1 if selected else 0
    end = name.find("/", start)
    return name if end < 0 else name[:end]


def _value(value: Value, all_of_it: bool) -> Line:
    name = escape(value.name) or "(root)"
    return [(name, "value"), (" = ", "dim"), (literal(value.text, all_of_it), "literal")]


def _weights_only(info: Info, all_of_it: bool) -> Iterator[Line]:
    if info.checkpoint.problems:
        if info.pickled:  # a file without pickles has no such question
            yield from _row("weights_only", f"no, for torch {TORCH}: see problems", "bad")
    elif info.pickled or not info.weights_only.ok:
        yield from _row("weights_only", *weights_only.said(info.weights_only, all_of_it))
