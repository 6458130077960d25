"""The identity card as lines."""

from __future__ import annotations

from collections.abc import Iterator

from ..formats.weights_only import TORCH
from ..model import pointer as pointers
from ..model.section import Value
from ..operations.info import Info, SectionFacts
from .text import Line, escape, shorten, size, totals

_LABEL = 14
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
    for label, text in checkpoint.facts.items():
        if label not in _UNREMARKABLE and (label, text) != ("byteorder", "little"):
            yield from _row(label, escape(text))
    shown = info.sections if all_of_it or len(info.sections) <= 6 else info.sections[:5]
    yield from _rows("sections", [line for facts in shown for line in _section(facts, all_of_it)], True)
    if len(shown) < len(info.sections):
        yield [(" " * _LABEL, ""), (f"… and {len(info.sections) - len(shown):,} more sections", "dim")]
    yield from _rows("values", [_value(value) for value in _notable(info, all_of_it)], all_of_it)
    yield from _rows("wrappers", [
        [(f"{p.prefix}   ", "wrapper"), (f"{p.found} of {p.of} keys", ""), (f" of {escape(p.section)}" if p.section else "", ""),
         (f"   {p.wrapper}", "")] for p in info.prefixes
    ], all_of_it)  # fmt: skip
    yield from _rows("tied", [_tied(info, names) for names in info.shared], all_of_it)
    yield from _rows("oversized", [
        [(escape(", ".join(o.names[:3])), "bad"), (f"   {size(o.used)} used of {size(o.stored)} stored", "")] for o in info.oversized
    ], all_of_it)  # fmt: skip
    yield from _rows(
        "classes", [[(escape(cls), "class"), (f"   ×{n}", "")] for cls, n in info.foreign.items()], all_of_it
    )
    yield from _rows(
        "beside it",
        [[(escape(", ".join(checkpoint.siblings)), "")]] if checkpoint.siblings else [],
        all_of_it,
    )
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
    return [
        [(pointer if all_of_it else shorten(pointer, 50), "section"), (f"   {escape(kind)}", "class")],
        [("  " + totals(facts.counts, roles=facts.section.kind != "optimizer"), "")],
        [("  " + dtypes, "dtype"), (f"   on {devices}" if devices else "", "device")],
    ]


def _tied(info: Info, names: list[str]) -> Line:
    """Names of one tensor; within one section, by their keys."""
    for facts in info.sections:
        pointer = facts.section.pointer
        if pointer and all(name.startswith(pointer + "/") for name in names):
            keys = [escape(name[len(pointer) + 1 :]) for name in names]
            return [
                (" ═ ".join(keys), "tied"),
                (f"   in {escape(pointer)}" if len(info.sections) > 1 else "", "dim"),
            ]
    return [(" ═ ".join(map(escape, names)), "tied")]


def _notable(info: Info, all_of_it: bool) -> list[Value]:
    """Values that say something of the whole: those at the top, and one level down where all are wanted."""
    modules = [facts.section.pointer for facts in info.sections if facts.section.kind == "module"]
    return [
        value for value in info.checkpoint.values
        if value.name.count("/") <= all_of_it and not any(pointers.is_below(value.name, pointer) for pointer in modules)
    ]  # fmt: skip


def _value(value: Value) -> Line:
    return [(escape(value.name), "value"), (" = ", "dim"), (escape(value.text), "literal")]


def _weights_only(info: Info) -> Iterator[Line]:
    if info.checkpoint.format in ("safetensors",):
        return
    found = info.weights_only
    if found.ok:
        yield from _row("weights_only", f"yes: torch {TORCH} loads it with weights_only=True", "good")
    else:
        blocked = ", ".join(found.blocked[:6]) + (
            f" and {len(found.blocked) - 6} more" if len(found.blocked) > 6 else ""
        )
        yield from _row("weights_only", f"no, for torch {TORCH}: {escape(blocked)}", "bad")
