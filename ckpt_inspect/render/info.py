"""The identity card as lines."""

from __future__ import annotations

from collections.abc import Iterator

from ..model.section import Value
from ..operations.info import Info, SectionFacts
from .text import Line, escape, literal, shorten, size, totals

LABEL = 14
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
    shown = info.sections if all_of_it or len(info.sections) <= 6 else info.sections[:5]
    yield from _rows("sections", [line for facts in shown for line in _section(facts, all_of_it)], True)
    if len(shown) < len(info.sections):
        yield [(" " * LABEL, ""), (f"… and {len(info.sections) - len(shown):,} more sections", "dim")]
    yield from _rows("values", [_value(value, all_of_it) for value in _notable(info, all_of_it)], all_of_it)
    yield from _rows("wrappers", [
        [(f"{p.prefix}   ", "wrapper"), (f"{p.found} of {p.of} keys", ""), (f" of {escape(p.section)}" if p.section else "", ""),
         (f"   {p.wrapper}", "")] for p in info.prefixes
    ], all_of_it)  # fmt: skip
    yield from _rows("tied", [_tied(info, names) for names in info.shared], all_of_it)
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


def _rows(label: str, found: list[Line], all_of_it: bool) -> Iterator[Line]:
    shown = found if all_of_it or len(found) <= 8 else found[:7]
    for index, row in enumerate(shown):
        yield [((label if index == 0 else "").ljust(LABEL - 1) + " ", "label"), *row]
    if len(shown) < len(found):
        yield [(" " * LABEL, ""), (f"… and {len(found) - len(shown):,} more", "dim")]


def _section(facts: SectionFacts, all_of_it: bool) -> list[Line]:
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
    pointer = escape(facts.section.pointer) or "(root)"
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


def _notable(info: Info, all_of_it: bool) -> list[Value]:
    """Values that say something of the whole: those at the top, and one level down where all are wanted."""
    modules = {facts.section.pointer for facts in info.sections if facts.section.kind == "module"}
    notable = (value for value in info.checkpoint.values if value.name.count("/") <= all_of_it)
    return [value for value in notable if not _is_in(value.name, modules)]


def _is_in(name: str, containers: set[str]) -> bool:
    """Whether one of the containers is above ``name``, or is it: at most two levels are asked for here."""
    while name and name not in containers:
        name = name.rpartition("/")[0]
    return name in containers


def _value(value: Value, all_of_it: bool) -> Line:
    name = escape(value.name) or "(root)"
    return [(name, "value"), (" = ", "dim"), (literal(value.text, all_of_it), "literal")]


def _weights_only(info: Info, all_of_it: bool) -> Iterator[Line]:
    found = info.weights_only
    torch = found.to_dict()["torch"]
    if info.checkpoint.problems:
        if info.pickled:  # a file without pickles has no such question
            yield from _row("weights_only", f"no, for torch {torch}: see problems", "bad")
    elif not found.ok:
        shown = found.blocked if all_of_it else found.blocked[:6]
        left = len(found.blocked) - len(shown)
        blocked = ", ".join(shown) + (f" and {left} more" if left else "")
        yield from _row("weights_only", f"no, for torch {torch}: {escape(blocked)}", "bad")
    elif info.globals:
        yield from _row("weights_only", f"yes: torch {torch} loads it with weights_only=True", "good")
