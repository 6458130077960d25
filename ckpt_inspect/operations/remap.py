"""``ckpt remap``: keys renamed, dropped and kept by rules (design 2, Rules)."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import SelectionError
from ..model.checkpoint import Checkpoint
from ..model.keymap import KeyMap
from ..model.lost import listed
from ..model.pattern import escape as literal
from ..model.section import Section
from ..model.spelling import as_path, shell_join
from .add_prefix import refuse_objects
from .leftovers import HARMLESS
from .like import Matching, like
from .naming import selected
from .rename import Plan, section_keys, target
from .rules import Rules


def remap(
    checkpoint: Checkpoint, rules: Rules | Sequence[str], reverse: bool = False, allow_unused: bool = False
) -> Checkpoint:
    """The checkpoint renamed by rules, as a view; write it with :func:`ckpt_inspect.save`. As :func:`plan`.

    >>> remap(checkpoint, ["layers.{n}.** -> blocks.{n+1}.**"])          # doctest: +SKIP
    """
    parsed = rules if isinstance(rules, Rules) else Rules.parse(rules)
    return plan(checkpoint, parsed, reverse, allow_unused).checkpoint


def plan(checkpoint: Checkpoint, rules: Rules, reverse: bool = False, allow_unused: bool = False) -> Plan:
    """Plan a renaming of the one weights candidate, or of the part that was named, by rules.

    Args:
        checkpoint: the file, or a selected part.
        rules: each key takes the first rule that matches it as it is in the file.
        reverse: the other way round: what these rules would have made is given its old names.
        allow_unused: do not mind a rule that matches nothing.

    Raises:
        SelectionError: several sections could be meant.
        KeyCollisionError: two keys would meet; both are named.
        RuleError: a rule is malformed, matches nothing, or cannot be reversed.
    """
    section = target(checkpoint)
    refuse_objects(section.kind, checkpoint.path)
    found = section_keys(section)
    keys: KeyMap = (
        rules.reverse(found, allow_unused=allow_unused) if reverse else rules.keymap(found, allow_unused=allow_unused)
    )
    return Plan("remap", checkpoint, {section.pointer: keys}, _counted_by_optimizers(checkpoint, section, keys))


def plan_like(
    checkpoint: Checkpoint,
    reference: Checkpoint,
    drop_mismatched: bool = False,
    drop_harmless: bool = False,
    drop: Sequence[str] = (),
) -> Plan:
    """Plan the renaming that gives the weights the names of a reference, as far as that is certain (design 4, Matching).

    Args:
        checkpoint: the file, or a selected part.
        reference: a checkpoint with the wanted names.
        drop_mismatched: leave out keys that the reference has with another shape.
        drop_harmless: leave out known leftovers that the reference does not have (``num_batches_tracked``, …).
        drop: patterns of keys, as the file has them, to leave out.

    Raises:
        SelectionError: several sections could be meant, on either side; or there is nothing to be renamed with certainty.
        KeyCollisionError: two keys would meet; both are named.
    """
    section = target(checkpoint)
    refuse_objects(section.kind, checkpoint.path)
    gone: dict[str, str | None] = {}
    if drop:  # what is left out does not stand in the way of what is matched
        gone = dict.fromkeys(Rules.parse(drop=drop).keymap(section_keys(section)).dropped)
    found = like(section.with_keys(KeyMap(gone)) if gone else section, target(reference))
    pairs = {key: gone.get(key, found.keys.pairs.get(key)) for key in section_keys(section)}
    notes = []
    if drop_mismatched:
        pairs.update((key, None) for key, _ in found.mismatched)
    for key in found.extra if drop_harmless else ():
        reason = HARMLESS.get(key.rpartition(".")[2])
        if reason is not None:
            pairs[key] = None
            notes.append(f"{key} was dropped: {reason}")
    keys = KeyMap(pairs)
    if keys.is_identity():
        notes.append(_nothing_renamed(checkpoint, found, len(keys)))
    made = Plan("remap", checkpoint, {section.pointer: keys}, notes + _counted_by_optimizers(checkpoint, section, keys))
    made.matching = found
    return made


def _nothing_renamed(checkpoint: Checkpoint, found: Matching, of: int) -> str:
    """That the names agree already; if it is for want of an answer that nothing is renamed, that is no success.

    Raises:
        SelectionError: nothing could be mapped, or what could be is there already and the rest fits in several ways.
    """
    if found.how and not found.ambiguous:
        return f"{len(found.how):,} names agree with the reference already: nothing is to be renamed"
    hint = f"See the keys: {shell_join(['ckpt', 'ls', as_path(selected(checkpoint))])}"
    unclear = ""
    if found.ambiguous:
        (ours, *_), (theirs, *_) = first = found.ambiguous[0]
        rule = f"{literal(ours)} -> {literal(theirs)}"
        hint = f"Say what is what, as in: {shell_join(['ckpt', 'remap', as_path(selected(checkpoint)), '--rule', rule, '--dry-run'])}"
        unclear = f", and {listed(first[0])} fit {listed(first[1])} in several ways"
        if len(found.ambiguous) > 1:
            unclear += f" ({len(found.ambiguous) - 1:,} more like this)"
    agree = f"; {len(found.how):,} names agree already" if found.how else ""
    raise SelectionError(f"0 of {of:,} keys could be mapped{agree}{unclear}", path=checkpoint.path, hint=hint)


def _counted_by_optimizers(checkpoint: Checkpoint, renamed: Section, keys: KeyMap) -> list[str]:
    """Say when an optimizer beside still counts parameters that are dropped."""
    if not keys.dropped:
        return []
    gone = {renamed.name_of(key) for key in keys.dropped}
    notes = []
    for pointer, section in (checkpoint.whole or checkpoint).sections.items():
        lost = len({name for name, _ in section.params.values()} & gone) if section.kind == "optimizer" else 0
        if lost:
            held = "a dropped parameter" if lost == 1 else f"{lost:,} dropped parameters"
            notes.append(f"{pointer} still holds the state of {held}; resuming will not fit")
    return notes
