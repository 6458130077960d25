"""What is asked of a conversion, and what becomes of the checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from ..formats.following import Followed
from ..model.casts import Losses
from ..model.checkpoint import Checkpoint
from ..model.lost import Lost
from .rename import Change, followed_dict

SHARD = 5_000_000_000


@dataclass(frozen=True)
class Asked:
    """What a conversion is to do; each part may be left out.

    Attributes:
        format: one of ``FORMATS``; None: what the suffix of ``out`` says, else that of the source.
        device: ``NEW`` or ``OLD=NEW``, the last that matches counts.
        dtype: ``DTYPE`` or ``GLOB=DTYPE``, the last that matches counts.
        no_overflow: refuse a cast that makes a finite value infinite.
        weights_only: reduce the object to tensors and plain data.
        slim: storages without what no tensor reaches.
        from_numpy: arrays become tensors.
        drop: patterns of names of sections and entries.
        strip_prefix, rules: as the commands of these names.
        untie: copies instead of recorded ties, where the format has none.
        skip_unsupported: leave out what the format cannot hold.
        max_shard_size: bytes of tensors in a shard.
    """

    format: str | None = None
    device: tuple[str, ...] = ()
    dtype: tuple[str, ...] = ()
    no_overflow: bool = False
    weights_only: bool = False
    slim: bool = False
    from_numpy: bool = False
    drop: tuple[str, ...] = ()
    strip_prefix: bool = False
    rules: tuple[str, ...] = ()
    untie: bool = False
    skip_unsupported: bool = False
    max_shard_size: int = SHARD


class Conversion:
    """A conversion, ready to be written.

    Attributes:
        original: the checkpoint, or the part that was named.
        checkpoint: what it becomes.
        dropped: names of entries that were left out.
        changes: renamings.
        followed: places beside the renamed sections whose names change with theirs.
        devices: (old, new) of the devices that changed.
        dtypes: (old, new) of the dtypes that changed, and how many storages.
        losses: what casting lost, once it was written; None without a cast.
        removed: what the result cannot hold: names and why.
        notes: what was lost or left alone, and what else is to be known.
    """

    def __init__(self, original: Checkpoint) -> None:
        self.original = original
        self.checkpoint = original
        self.dropped: list[str] = []
        self.changes: list[Change] = []
        self.followed: list[Followed] = []
        self.devices: list[tuple[str, str]] = []
        self.dtypes: dict[tuple[str, str], int] = {}
        self.losses: Losses | None = None
        self.removed: list[Lost] = []
        self.notes: list[str] = []

    def to_dict(self, out: str | None, nbytes: int, checked: str | None = None) -> dict[str, Any]:
        """The contract's plan, and what a conversion adds to it."""
        return {
            "schema": "ckpt-inspect/plan/1",
            "command": "convert",
            "renamed": [
                {"section": change.section.pointer, "from": old, "to": new}
                for change in self.changes for old, new in change.keys.renamed
            ],
            "dropped": self.dropped + [c.section.name_of(key) for c in self.changes for key in c.keys.dropped],
            "kept": len(self.checkpoint),
            "rules": list(dict.fromkeys(rule for change in self.changes for rule in change.keys.rules())),
            "out": out,
            "bytes_copied": nbytes,
            "notes": self.notes,
            "followed": followed_dict(self.followed),
            "format": {"from": self.original.format, "to": self.checkpoint.format},
            "devices": [{"from": old, "to": new} for old, new in self.devices],
            "dtypes": [{"from": old, "to": new, "storages": count} for (old, new), count in self.dtypes.items()],
            "losses": _losses(self.losses) if checked is not None else None,
            "removed": [one._asdict() for one in self.removed],
            "before": _to_dict(self.original),
            "after": _to_dict(self.checkpoint),
            "checked": checked,
        }  # fmt: skip


def _losses(losses: Losses | None) -> dict[str, Any] | None:
    if losses is None:
        return None
    return {
        "overflowed": losses.overflowed, "underflowed": losses.underflowed,
        "largest_error": losses.largest[0], "largest_error_in": losses.largest[1] or None,
    }  # fmt: skip


# -- before and after -------------------------------------------------------------------------------------------


class Size(NamedTuple):
    """What the tensors of one dtype in a section take in the file: each storage once, with what no tensor reaches."""

    section: str
    dtype: str
    tensors: int
    nbytes: int


def sizes(checkpoint: Checkpoint) -> list[Size]:
    """Bytes by section and dtype, in the order of the file."""
    found: dict[tuple[str, str], list[int]] = {}
    seen: set[Any] = set()
    for _, section, info in checkpoint.tensors():
        for one in info.components():
            row = found.setdefault((section.pointer, one.dtype), [0, 0])
            row[0] += one is info
            if one.storage is not None and one.storage not in seen:
                seen.add(one.storage)
                row[1] += one.storage.nbytes
    return [Size(section, dtype, *row) for (section, dtype), row in found.items()]


def _to_dict(checkpoint: Checkpoint) -> dict[str, Any]:
    return {"size": checkpoint.size, "sections": [size._asdict() for size in sizes(checkpoint)]}
