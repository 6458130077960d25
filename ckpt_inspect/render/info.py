"""The identity card as lines."""

from __future__ import annotations

from collections.abc import Iterator

from ..formats.weights_only import TORCH
from ..model.section import Value
from ..operations.info import Info, SectionFacts
from .text import Line, escape, plural, size, totals

_LABEL = 14


def lines(info: Info, all_of_it: bool = True) -> Iterator[Line]:
    """The card; without ``all_of_it`` long lists are cut and say how much is left."""
    checkpoint = info.checkpoint
    name = checkpoint.path if checkpoint.selected is None else f"{checkpoint.path}#{checkpoint.selected}"
    yield [(escape(name), "file"), (f"   {checkpoint.format} · {size(checkpoint.size)}", "")]
    for label, text in checkpoint.facts.items():
        yield from _row(label, escape(text))
    yield from _rows("sections", [_section(facts) for facts in info.sections], all_of_it)
    yield from _rows("values", [_value(value) for value in _notable(checkpoint.values, all_of_it)], all_of_it)
    yield from _rows("wrappers", [
        [(f"{p.prefix}   ", "wrapper"), (f"{p.count} of {p.of} keys", ""), (f" of {escape(p.section)}" if p.section else "", ""),
         (f"   {p.wrapper}", "")] for p in info.prefixes
    ], all_of_it)  # fmt: skip
    yield from _rows("tied", [[(" ═ ".join(map(escape, names)), "tied")] for names in info.shared], all_of_it)
    yield from _rows("oversized", [
        [(escape(", ".join(o.names[:3])), "bad"), (f"   {size(o.used)} used of {size(o.stored)} stored", "")] for o in info.oversized
    ], all_of_it)  # fmt: skip
    yield from _rows("classes", [[(escape(cls), "class"), (f"   ×{n}", "")] for cls, n in info.foreign.items()], all_of_it)
    yield from _rows("beside it", [[(escape(", ".join(checkpoint.siblings)), "")]] if checkpoint.siblings else [], all_of_it)
    yield from _weights_only(info)
    if info.load is not None:
        yield from _row("load", escape(info.load), "command")
    for hint in info.hints:
        yield from _row("hint", escape(hint.message), "hint")
        if hint.command is not None:
            yield [(" " * _LABEL, ""), (escape(hint.command), "command")]


def _row(label: str, text: str, style: str = "") -> Iterator[Line]:
    yield [(label.ljust(_LABEL - 1) + " ", "label"), (text, style)]


def _rows(label: str, found: list[Line], all_of_it: bool) -> Iterator[Line]:
    shown = found if all_of_it or len(found) <= 8 else found[:7]
    for index, row in enumerate(shown):
        yield [((label if index == 0 else "").ljust(_LABEL - 1) + " ", "label"), *row]
    if len(shown) < len(found):
        yield [(" " * _LABEL, ""), (f"… and {len(found) - len(shown):,} more", "dim")]


def _section(facts: SectionFacts) -> Line:
    kind = facts.section.kind
    if facts.cls:
        kind = facts.cls.rpartition(".")[2] + ("" if facts.cls_recorded else "~") if kind != "state_dict" else kind
    dtypes = ", ".join(dtype for dtype, _ in sorted(facts.dtypes.items(), key=lambda item: -item[1]))
    devices = ", ".join(facts.devices)
    line: Line = [(escape(facts.section.pointer) or "(root)", "section"), (f"   {escape(kind)}", "class")]
    if facts.section.kind == "module" and facts.cls:
        line.append(("   module", ""))
    line.append((f"   {totals(facts.counts)}", ""))
    if facts.counts.buffers:
        line.append((f"   {plural(facts.counts.buffers, 'buffer element')}", "buffer"))
    return [*line, (f"   {dtypes}", "dtype"), (f"   {escape(devices)}" if devices else "", "device")]


def _notable(values: list[Value], all_of_it: bool) -> list[Value]:
    """Values that say something of the whole: those at the top, and all where all are wanted."""
    return [value for value in values if value.name.count("/") == 0 or (all_of_it and value.name.count("/") == 1)]


def _value(value: Value) -> Line:
    return [(escape(value.name), "value"), (" = ", "dim"), (escape(value.text), "literal")]


def _weights_only(info: Info) -> Iterator[Line]:
    if info.checkpoint.format in ("safetensors",):
        return
    found = info.weights_only
    if found.ok:
        yield from _row("weights_only", f"yes: torch {TORCH} loads it with weights_only=True", "good")
    else:
        blocked = ", ".join(found.blocked[:6]) + (f" and {len(found.blocked) - 6} more" if len(found.blocked) > 6 else "")
        yield from _row("weights_only", f"no, for torch {TORCH}: {escape(blocked)}", "bad")
