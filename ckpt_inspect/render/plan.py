"""A plan as lines: valid rules by section, what is lost, and the command that does it."""

from __future__ import annotations

from collections.abc import Iterator

from ..formats.following import Followed
from ..operations.like import Matching
from ..operations.rename import Change, Plan
from .text import Line, escape, plural


def lines(plan: Plan, command: str | None = None, all_of_it: bool = True) -> Iterator[Line]:
    """The plan; ``command`` is shown last, as what is to be typed to do it."""
    path = plan.original.path
    yield [(escape(path), "file"), (f"   {plan.command}", "")]
    for change in plan.changes:
        yield from change_lines(change, all_of_it)
    yield from followed_lines(plan.followed)
    if plan.matching is not None:
        yield from _matching(plan.matching, all_of_it)
    for note in plan.notes:
        yield [("  note  ", "label"), (escape(note), "")]
    if command is not None:
        yield [("  do it ", "label"), (escape(command), "command")]


def change_lines(change: Change, all_of_it: bool) -> Iterator[Line]:
    """What happens to the keys of one section."""
    yield [(f"  {escape(change.section.pointer) or '(root)'}", "section")]
    rules = change.keys.rule_counts()
    for rule, count in rules if all_of_it or len(rules) <= 20 else rules[:19]:
        yield [(f"    {escape(rule)}", "command"), (f"   ({plural(count, 'key')})", "")]
    if not all_of_it and len(rules) > 20:
        yield [(f"    … and {len(rules) - 19:,} more rules", "dim")]
    dropped = change.keys.dropped
    for key in dropped if all_of_it or len(dropped) <= 10 else dropped[:9]:
        yield [(f"    drop {escape(key)}", "bad")]
    if not all_of_it and len(dropped) > 10:
        yield [(f"    … and {len(dropped) - 9:,} more dropped", "dim")]
    by_rule = sum(count for _, count in rules) - len(change.keys.renamed)  # exceptions from a wider rule
    if change.keys.kept > by_rule:
        yield [(f"    {plural(change.keys.kept - by_rule, 'key')} kept", "dim")]
    for lost in change.lost_metadata:
        yield [(f"    _metadata: the entry of {lost!r} has no place any more", "dim")]


def followed_lines(found: list[Followed]) -> Iterator[Line]:
    """Places beside the sections that spell their keys."""
    for one in found:
        if one.names:
            yield [
                (f"  {escape(one.place)}", "section"),
                (f"   {plural(one.names, 'name')} follow" + "s" * (one.names == 1), "dim"),
            ]


def _matching(found: Matching, all_of_it: bool) -> Iterator[Line]:
    """How each rule was found, and what was left out because nothing is certain."""
    for match in found.matches:
        yield [("  found ", "label"), (escape(match.rule), "command"),
               (f"   by {match.how}: {plural(match.tensors, 'tensor')}, {plural(match.parameters, 'parameter')}", "")]  # fmt: skip
    for ours, theirs in found.ambiguous:
        yield [("  ambiguous ", "bad"), (f"{_listed(ours, all_of_it)} fit {_listed(theirs, all_of_it)}: left out", "")]
    for name, keys, why in (
        ("missing", found.missing, "the reference has them, the file does not"),
        ("extra", found.extra, "the file has them, the reference does not"),
        ("mismatched", [ours for ours, _ in found.mismatched], "same name, another shape"),
    ):
        if keys:
            yield [(f"  {name} ", "bad"), (f"{len(keys)}: {_listed(keys, all_of_it)}   ({why})", "")]


def _listed(keys: list[str], all_of_it: bool) -> str:
    shown = keys if all_of_it or len(keys) <= 6 else keys[:5]
    left = len(keys) - len(shown)
    return escape(", ".join(shown)) + (f" and {left} more" if left else "")
