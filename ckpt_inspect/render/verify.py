"""What was verified as lines: one for a sound file, one more for each thing that is damaged."""

from __future__ import annotations

from collections.abc import Iterator

from ..operations.verify import Damage, Verification
from .text import Line, escape, plural, size

LABEL = 8
_FEW = 6


def lines(found: Verification, all_of_it: bool = True) -> Iterator[Line]:
    """The verdict; without ``all_of_it`` long lists of names are cut and say how much is left."""
    verdict = ("ok", "good") if found.ok else ("damaged", "bad")
    yield [(escape(found.path), "file"), ("   ", ""), verdict, (f"   {_checked(found)}", "")]
    for damage in found.damaged:
        yield _damage(found, damage, all_of_it)
    for note in found.notes:
        yield [("  note  ", "label"), (escape(note), "")]
    if not found.ok:
        left = found.tensors - found.hurt
        if found.tensors:
            yield [
                ("  hurt  ", "label"),
                (
                    f"{found.hurt:,} of {plural(found.tensors, 'tensor')}, {left:,} {'is' if left == 1 else 'are'} whole",
                    "",
                ),
            ]
        for hint in dict.fromkeys(found.hints):
            yield [("  hint  ", "label"), (escape(hint), "command" if hint.startswith("ckpt ") else "")]


def _checked(found: Verification) -> str:
    parts = [found.format or "it cannot be opened"]
    if found.tensors:
        parts.append(plural(found.tensors, "tensor"))
    if found.compared:
        parts.append(f"{plural(found.compared, 'checksum')} over {size(found.checked_bytes)}")
    return " · ".join(parts)


def _damage(found: Verification, damage: Damage, all_of_it: bool) -> Line:
    where = f"record {damage.record} " if damage.record is not None else ""
    line: Line = [("  ", ""), (escape(where), "section"), (escape(damage.why), "bad")]
    if damage.names:
        if len(damage.names) == found.tensors > _FEW:
            return [*line, (" → ", "guide"), (f"all {found.tensors:,} tensors", "tensor")]
        shown = damage.names if all_of_it or len(damage.names) <= _FEW else damage.names[: _FEW - 1]
        listed = ", ".join(_name(found, name, damage.names) for name in shown)
        left = len(damage.names) - len(shown)
        line += [(" → ", "guide"), (listed + (f" and {left:,} more" if left else ""), "tensor")]
    return line


def _name(found: Verification, name: str, names: list[str]) -> str:
    return escape(name or "(root)") + (" (tied)" if found.tied.get(name) in names else "")


def summary(done: int, damaged: int, failed: int) -> Line:
    """The last line over several files."""
    parts = [plural(done, "file"), f"{done - damaged - failed:,} ok"]
    parts += [f"{count:,} {what}" for count, what in ((damaged, "damaged"), (failed, "not verified")) if count]
    return [(" · ".join(parts), "bad" if damaged or failed else "good")]
