"""The verdict on weights and a model as lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..model.inputs import InputSpec
from ..model.section import Section
from ..operations.check import Check, OptimizerFacts
from ..operations.fix import Fix
from ..operations.leftovers import is_renamed
from ..operations.trial import Trial
from .text import Line, escape, plural, seconds, shape, size

if TYPE_CHECKING:
    from ..torch.forward import Comparison, Forward, Output

LABEL = 17
_FEW = 8  # rows of a kind on a terminal; a pipe gets them all


def lines(found: Check, all_of_it: bool = True) -> Iterator[Line]:
    """The report; without ``all_of_it`` long lists are cut and say how much is left."""
    part = f"#{found.section.pointer}" if found.section.pointer else ""
    yield [(escape(found.checkpoint.path + part), "file"), ("   → ", "dim"), (escape(found.name), "class"),
           (f"   {plural(found.of, 'tensor')} · {plural(found.of_parameters, 'parameter')}", "")]  # fmt: skip
    yield from _verdict(found)
    if found.rescue is not None:
        yield _row("rescue", "the file is damaged: what is whole in it, and what is not is named", "hint")
        yield [(" " * LABEL, ""), (escape(found.rescue), "command")]
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
    if found.trial is not None:
        yield from _trial(found.trial)
    if found.fix is None and found.text is not None:
        yield _row("fix", "none found among the names and arguments that were tried")
        if found.loads_partly:
            yield _row("or", _partly(found, found.of), "hint")
            yield [(" " * LABEL, ""), (escape(_load_line(found)), "command")]
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
        if found.trial is None:
            sums = " and compares their checksums" if _has_checksums(found.section) else ""
            yield _row("values", f"not read: --load reads them{sums}", "dim")
        return
    after = ""
    if found.damage and found.text is None:
        yield [("would not load", "bad"), (f"   the file is damaged; its names and shapes fit: {count}{numel}", "")]
        return
    if found.fix is not None and found.fix.matched > found.matched and found.fix.keys:
        after = f"; after {found.fix.short}: {found.fix.matched:,} of {found.fix.of:,}"
    yield [("would not load", "bad"), (f"   {count}{numel}{after}", "")]
    if found.only_harmless:
        yield _row("", "only harmless keys differ: strict=False loads all that matters")
    if found.text is None:
        yield _row("", "load_state_dict does not complain, but nothing would be loaded")


def _has_checksums(section: Section) -> bool:
    records = (info.storage.record for info in section.values() if info.storage is not None)
    return any(record is not None and record.crc is not None for record in records)


def _promise(found: Check, fix: Fix) -> str:
    if fix.built:
        count = f"the file is of a model built otherwise: {fix.matched:,} of {fix.of:,} tensors match then"
        return count if fix.loads else f"{count}, and only harmless keys differ"
    if fix.loads and found.only_ties:
        return "a state_dict with the tied names in it, for strict=True; ckpt_inspect.torch.load_into takes the file as it is"
    if fix.loads:
        return f"{fix.matched:,} of {fix.of:,} tensors match then, and strict=True succeeds"
    if fix.only_harmless:
        count = f"{fix.matched:,} of {fix.of:,} tensors match then"
        return f"{count}, and only harmless keys differ: strict=False loads all that matters"
    if fix.matched == found.matched:
        return _partly(found, fix.of, " then")
    return f"{fix.matched:,} of {fix.of:,} tensors match then; strict=True still fails"


def _partly(found: Check, of: int, then: str = "") -> str:
    left = of - found.matched
    stay = "1 stays as the model makes it" if left == 1 else f"{left:,} stay as the model makes them"
    numel = f"{found.parameters:,} of {plural(found.of_parameters, 'parameter')}"
    return f"strict=False loads {found.matched:,} of {of:,} tensors{then}, {numel}" + (f"; {stay}" if left else "")


def _load_line(found: Check) -> str:
    """Python, since the file needs no change."""
    part = f"{found.checkpoint.path}#{found.section.pointer}" if found.section.pointer else found.checkpoint.path
    return f"ckpt_inspect.torch.load_into(model, {part!r}, strict=False)"


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
    missing = set(found.missing)
    for key, why in found.harmless.items():
        side = "missing" if key in missing else "unexpected"
        reasons.setdefault(f"{side}: {why}", []).append(key)
    for why, keys in reasons.items():
        shown = keys if all_of_it or len(keys) <= 4 else keys[:3]
        more = f" and {len(keys) - len(shown):,} more" if len(shown) < len(keys) else ""
        label = "other names" if is_renamed(keys[0]) else "harmless"
        yield _row(label, f"{', '.join(shown)}{more}   {why}")


def _optimizer(facts: OptimizerFacts) -> Line:
    groups = " + ".join(map(str, facts.groups))
    what = f"{facts.section}: {plural(len(facts.groups), 'group')} of {groups}"
    if facts.misfit is None:
        return _row("optimizer", f"{what}; fits the model's {plural(facts.parameters, 'parameter tensor')}")
    return _row("optimizer", f"{what}; will not fit: {facts.misfit}", "bad")


def _trial(trial: Trial) -> Iterator[Line]:
    loaded = trial.loaded
    how = f"{plural(loaded.matched, 'tensor')} · {size(loaded.nbytes)} on {loaded.device} in {seconds(trial.seconds)}"
    cast = f" · {len(loaded.recast):,} cast to the model's dtype" if loaded.recast else ""
    yield _row("loaded", how + cast)
    if trial.forward is not None:
        yield from forward_lines(trial.forward, trial.inputs, trial.seed)
    if trial.comparison is not None and trial.against is not None:
        yield _comparison(trial.comparison, trial.against)
        if trial.other_damage:
            yield _row("", "that file is damaged, and so the comparison proves nothing", "bad")


def forward_lines(forward: Forward, inputs: Sequence[InputSpec], seed: int) -> Iterator[Line]:
    """What went in and what came out."""
    for one in inputs:
        yield _row("input", f"{one}   seed {seed}")
    for output in forward.outputs:
        name = f"{output.path}   " if output.path else ""
        bounds = "" if output.low is None else f" · {output.low:.4g} … {output.high:.4g}"
        yield [("output".ljust(LABEL), "label"), (escape(name), ""), (f"{shape(output.shape)} {output.dtype}", "shape"),
               (" · finite", "good") if output.finite else (f" · {_not_finite(output)}", "bad"), (bounds, "")]  # fmt: skip
    peak = f" · peak memory {size(forward.peak)}" if forward.peak is not None else ""
    yield _row("ran", f"in {seconds(forward.seconds)}{peak}")


def _not_finite(output: Output) -> str:
    kinds = ((output.nans, "NaN"), (output.infinities, "infinite"))
    return " and ".join(f"{count:,} {name}" for count, name in kinds if count)


def _comparison(found: Comparison, path: str) -> Line:
    if found.why is not None:
        return _row("against", f"{path}: differs: {found.why}", "bad")
    if found.equal:
        return _row("against", f"{path}: equal, bit for bit", "good")
    far = f"max |Δ| {found.max_abs:.3g}, relative {found.max_rel:.3g}"
    return _row("against", f"{path}: {'close' if found.close else 'differs'}: {far}", "good" if found.close else "bad")
