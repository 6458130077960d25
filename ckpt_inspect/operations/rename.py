"""Renaming as a view: sections under other names, nothing written; and the plan that says so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import SelectionError
from ..formats.following import Followed, followed
from ..formats.renames import entry_keys
from ..model.checkpoint import Checkpoint
from ..model.keymap import KeyMap
from ..model.metadata import map_paths
from ..model.section import Section, Value

if TYPE_CHECKING:
    from .like import Matching

SCHEMA = "ckpt-inspect/plan/1"


class Change(NamedTuple):
    """What happens to one section."""

    section: Section
    keys: KeyMap
    lost_metadata: list[str]


class Plan:
    """A renaming, ready to be written.

    Attributes:
        checkpoint: the view under the new names.
        original: what it is a view of.
        command: the command that made it.
        changes: one for each section that changes.
        followed: places beside them whose names change with theirs.
        notes: what was left alone and why, and what else is to be known.
        matching: how a reference was matched, for a plan made from one.
    """

    def __init__(self, command: str, original: Checkpoint, maps: Mapping[str, KeyMap], notes: list[str]) -> None:
        self.command = command
        self.original = original
        self.notes = list(notes)
        self.matching: Matching | None = None
        self.changes = [
            Change(original.sections[pointer], keys, _lost(original.sections[pointer], keys))
            for pointer, keys in maps.items()
        ]
        self.checkpoint = view(original.whole or original, maps)  # a part is renamed, the file is written whole
        self.followed = followed(self.checkpoint)
        self.notes += undecided(self.followed)

    def to_dict(self, out: str | None, bytes_copied: int) -> dict[str, Any]:
        """The contract's document."""
        return {
            "schema": SCHEMA,
            "command": self.command,
            "renamed": [
                {"section": change.section.pointer, "from": old, "to": new}
                for change in self.changes
                for old, new in change.keys.renamed
            ],
            "dropped": [change.section.name_of(key) for change in self.changes for key in change.keys.dropped],
            "kept": self._kept(),
            "rules": list(dict.fromkeys(rule for change in self.changes for rule in change.keys.rules())),
            "out": out,
            "bytes_copied": bytes_copied,
            "notes": self.notes,
            "followed": followed_dict(self.followed),
            **(_matching_dict(self.matching) if self.matching is not None else {}),
        }

    def _kept(self) -> int:
        """Keys that stay as they are: of sections that change, of entries without tensors too."""
        changed = {change.section.pointer: change.keys for change in self.changes}
        return sum(
            changed[pointer].kept if pointer in changed else len(section)
            for pointer, section in self.original.sections.items()
        )


def followed_dict(found: list[Followed]) -> list[dict[str, Any]]:
    return [{"place": one.place, "names": one.names} for one in found if one.names]


def undecided(found: list[Followed]) -> list[str]:
    """Names that no one can say whose they are, and that are left as they are."""
    return [
        f"{one.place}: {one.undecided:,} names are in several sections, and were left as they are"
        for one in found if one.undecided
    ]  # fmt: skip


def _matching_dict(found: Matching) -> dict[str, Any]:
    return {
        "matches": [match._asdict() for match in found.matches],
        "ambiguous": [{"file": ours, "reference": theirs} for ours, theirs in found.ambiguous],
        "missing": found.missing,
        "extra": found.extra,
        "mismatched": [{"file": ours, "reference": theirs} for ours, theirs in found.mismatched],
    }


def _lost(section: Section, keys: KeyMap) -> list[str]:
    """Module paths whose entry of ``_metadata`` goes and would not come back as it was: a wrapper's is made anew."""
    if section.metadata is None:
        return []
    gone = {key.rpartition(".")[0] for key in keys.dropped}
    lost = map_paths(list(section.metadata), keys.pairs).lost
    return [path for path in lost if path not in gone and section.metadata[path] != {"version": 1}]


def view(checkpoint: Checkpoint, maps: Mapping[str, KeyMap]) -> Checkpoint:
    """The checkpoint with sections under other names; graphs and files are shared with the original."""
    renamed = Checkpoint(checkpoint.path, checkpoint.format, checkpoint.size)
    renamed.containers, renamed.problems, renamed.facts = checkpoint.containers, checkpoint.problems, checkpoint.facts
    renamed.siblings, renamed.order, renamed.parts = checkpoint.siblings, checkpoint.order, checkpoint.parts
    renamed.origin = checkpoint.origin
    for pointer, section in checkpoint.sections.items():
        renamed.sections[pointer] = section.with_keys(maps[pointer]) if pointer in maps else section
    renamed.values = [_value(value, checkpoint, maps) for value in checkpoint.values]
    return renamed


def _value(value: Value, checkpoint: Checkpoint, maps: Mapping[str, KeyMap]) -> Value:
    """Other entries of a renamed section, ``_extra_state`` and the like, have its keys too."""
    for pointer, keys in maps.items():
        section = checkpoint.sections[pointer]
        for old, new in keys.renamed if not section.tensors.keys() >= keys.pairs.keys() else ():
            if value.name == section.name_of(old):
                return value._replace(name=section.name_of(new))
    return value


def target(checkpoint: Checkpoint) -> Section:
    """The one section that a renaming is about: the one weights candidate, or the part that was named.

    Raises:
        SelectionError: there is none, or several; they are listed.
    """
    found = [section for section in checkpoint.sections.values() if section.kind in ("state_dict", "module")]
    if checkpoint.selected is None:
        pointers = checkpoint.candidates()
        found = [checkpoint.sections[pointer] for pointer in pointers if pointer in checkpoint.sections]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(section.pointer or "(root)" for section in found[:8])
    raise SelectionError(
        f"several sections could be meant: {listed}" if found else "there is no state_dict to rename",
        path=checkpoint.path,
        hint=f"Name one: {checkpoint.path}#{found[0].pointer}" if found else None,
    )


def section_keys(section: Section) -> list[str]:
    """All keys of a section that a renaming maps."""
    return entry_keys(section)
