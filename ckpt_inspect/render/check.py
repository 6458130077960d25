"""The verdict on weights and a model as lines."""

from __future__ import annotations

from collections.abc import Iterator

from ..model.section import Section
from ..operations.check import Check, OptimizerFacts
from ..operations.fix import Fix
from .text import Line, escape, plural, shape, size

LABEL = 17
_FEW = 8  # rows of a kind on a terminal; a pipe gets them all


def lines(found: Check, all_of_it: bool = True) -> Iterator[Line]:
    """The report; without ``all_of_it`` long lists are cut and say how much is left."""
    part = f"#{found.section.pointer}" if found.section.pointer else ""
    yield [(escape(found.checkpoint.path + part), "file"), ("   → ", "dim"), (escape(found.name), "class"),
           (f"   {plural(found.of, 'tensor')} · {plural(found.of_parameters, 'parameter')}", "")]  # fmt: skip
    yield from _verdict(found)
    if found.why_cpu is not None:
        nbytes = size(sum(info.nbytes for info in found.model.values()))
        yield _row("built", f"on the CPU, {nbytes}: on meta it says {found.why_cpu}", "dim")
    harmless = found.harmless
    missing = [key for key in found.missing if key not in harmless]
    unexpected = [key for key in found.unexpected if key not in harmless]
    yield from _keys("missing", missing, found.model, all_of_it)
    yield from _keys("unexpected", unexpected, found.section, all_of_it)
    yield from _mismatched(found, all_of_it)
    for error in found.errors:
        yield _row("error", error, "bad")
    yield from _harmless(found, all_of_it)
    for facts in found.optimizers:
        yield _optimizer(facts)
    for label, fix in (("fix", found.fix), ("or", found.otherwise)):
        if fix is not None:
            yield _row(label, _promise(found, fix), "hint")
            yield [(" " * LABEL, ""), (escape(fix.command), "command")]


def _verdict(found: Check) -> Iterator[Line]:
    count = f"{found.matched:,} of {plural(found.of, 'tensor')} match"
    numel = f" · {found.parameters:,} of {plural(found.of_parameters, 'parameter')}"
    if found.loads:
        extra = "" if found.matched == found.of else " (what is absent it makes itself)"
        yield [("loads".ljust(LABEL), "good"), (f"strict=True succeeds: {count}{numel}{extra}", "")]
        return
    after = ""
    if found.fix is not None and found.fix.matched > found.matched and found.fix.keys:
        after = f"; after {found.fix.short}: {found.fix.matched:,} of {found.fix.of:,}"
    yield [("would not load", "bad"), (f"   {count}{after}{numel}", "")]
    if found.only_harmless:
        yield _row("", "only harmless keys differ: strict=False loads all that matters")
    if found.text is None:
        yield _row("", "load_state_dict does not complain, but nothing would be loaded")


def _promise(found: Check, fix: Fix) -> str:
    if fix.loads and not fix.keys:
        return f"the file is of a model built otherwise: {fix.matched:,} of {fix.of:,} tensors match then"
    if fix.loads:
        return f"{fix.matched:,} of {fix.of:,} tensors match then, and strict=True succeeds"
    if fix.matched == found.matched:
        left = fix.of - fix.matched
        return f"strict=False loads {fix.matched:,} of {fix.of:,} tensors then; {left:,} stay as the model makes them"
    return f"{fix.matched:,} of {fix.of:,} tensors match then; strict=True still fails"


def _row(label: str, text: str, style: str = "") -> Line:
    return [(label.ljust(LABEL), "label"), (escape(text), style)]


def _keys(label: str, keys: list[str], section: Section, all_of_it: bool) -> Iterator[Line]:
    """Keys by the module that they hang on."""
    groups: dict[str, list[str]] = {}
    for key in keys:
        path, _, name = key.rpartition(".")
        groups.setdefault(path, []).append(name)
    if keys:
        numel = sum(section[key].numel for key in keys if key in section.tensors)
        where = "the model has them, the file does not" if label == "missing" else "the file has them, the model not"
        yield _row(label, f"{plural(len(keys), 'tensor')} · {plural(numel, 'element')}   {where}")
    shown = list(groups.items())
    for path, names in shown if all_of_it or len(shown) <= _FEW else shown[: _FEW - 1]:
        yield [(" " * LABEL, ""), (f"{escape(path)}." if path else "", "module"), (_joined(names), ""),
               (_class(section, path), "class")]  # fmt: skip
    if not all_of_it and len(shown) > _FEW:
        rest = sum(len(names) for _, names in shown[_FEW - 1 :])
        yield [(" " * LABEL, ""), (f"… and {rest:,} more in {len(shown) - _FEW + 1:,} modules", "dim")]


def _joined(names: list[str]) -> str:
    return escape(names[0]) if len(names) == 1 else "{" + escape(", ".join(names)) + "}"


def _class(section: Section, path: str) -> str:
    module = section.modules.get(path)
    if module is None or not path:
        return ""
    name = module.cls.rpartition(".")[2]
    return f"   {escape(name)}" + (f"({escape(module.args)})" if module.args else "")


def _mismatched(found: Check, all_of_it: bool) -> Iterator[Line]:
    rows = found.mismatched
    if not rows:
        return
    yield _row("mismatched", f"{plural(len(rows), 'tensor')} of another shape; strict=False does not help")
    shown = rows if all_of_it or len(rows) <= _FEW else rows[: _FEW - 1]
    widths = max(len(one.key) for one in shown)
    for one in shown:
        yield [(" " * LABEL, ""), (escape(one.key).ljust(widths), "bad"),
               (f"   {shape(one.file)} in the file, {shape(one.model)} in the model", "shape"),
               (f"   {one.cause}" if one.cause else "", "hint")]  # fmt: skip
    if len(shown) < len(rows):
        yield [(" " * LABEL, ""), (f"… and {len(rows) - len(shown):,} more", "dim")]


def _harmless(found: Check, all_of_it: bool) -> Iterator[Line]:
    """By reason: the keys that share it."""
    reasons: dict[str, list[str]] = {}
    for key, why in found.harmless.items():
        side = "missing" if key in set(found.missing) else "unexpected"
        reasons.setdefault(f"{side}: {why}", []).append(key)
    for why, keys in reasons.items():
        shown = keys if all_of_it or len(keys) <= 4 else keys[:3]
        more = f" and {len(keys) - len(shown):,} more" if len(shown) < len(keys) else ""
        yield _row("harmless", f"{', '.join(shown)}{more}   {why}")


def _optimizer(facts: OptimizerFacts) -> Line:
    groups = " + ".join(map(str, facts.groups))
    what = f"{facts.section}: {plural(len(facts.groups), 'group')} of {groups}"
    if facts.misfit is None:
        return _row("optimizer", f"{what}; fits the model's {plural(facts.parameters, 'parameter tensor')}")
    return _row("optimizer", f"{what}; will not fit: {facts.misfit}", "bad")
