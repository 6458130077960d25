"""``ckpt convert``: other devices, dtypes and formats; parts, names and slimmer storages in the same pass (design 2, 4)."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..dtypes import BY_NAME
from ..errors import SelectionError, UnsupportedError
from ..formats import arrays, casting, drafts, named, parts, plain_only, slimming
from ..formats.devices import changed_records, named_in_text
from ..formats.modern import modern
from ..formats.rewrite import NewFile, rewritten, rewritten_zip
from ..model.casts import DtypeMap, Losses
from ..model.checkpoint import Checkpoint
from ..model.devices import DeviceMap
from ..model.source import Source
from . import remap, strip_prefix
from .rename import Change, Plan
from .rules import Rules

FORMATS = ("torch-zip", "torch-legacy", "safetensors", "sharded")
_TORCH_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".th", ".t7", ".tar")
_NAMED = ("safetensors", "sharded")
_KEPT = (*FORMATS, "torchscript")
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
        devices: (old, new) of the devices that changed.
        dtypes: (old, new) of the dtypes that changed, and how many storages.
        losses: what casting lost, once it was written; None without a cast.
        removed: what had no plain form: name and why.
        notes: what was lost or left alone, and what else is to be known.
    """

    def __init__(self, original: Checkpoint) -> None:
        self.original = original
        self.checkpoint = original
        self.dropped: list[str] = []
        self.changes: list[Change] = []
        self.devices: list[tuple[str, str]] = []
        self.dtypes: dict[tuple[str, str], int] = {}
        self.losses: Losses | None = None
        self.removed: list[str] = []
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
            "format": {"from": self.original.format, "to": self.checkpoint.format},
            "devices": [{"from": old, "to": new} for old, new in self.devices],
            "dtypes": [{"from": old, "to": new, "storages": count} for (old, new), count in self.dtypes.items()],
            "losses": _losses(self.losses) if checked is not None else None,
            "removed": self.removed,
            "before": _to_dict(self.original),
            "after": _to_dict(self.checkpoint),
            "checked": checked,
        }  # fmt: skip


def convert(
    checkpoint: Checkpoint,
    *,
    format: str | None = None,
    device: str | Sequence[str] = (),
    dtype: str | Sequence[str] = (),
    no_overflow: bool = False,
    weights_only: bool = False,
    slim: bool = False,
    from_numpy: bool = False,
    drop: str | Sequence[str] = (),
    strip_prefix: bool = False,
    rules: str | Sequence[str] = (),
    untie: bool = False,
    skip_unsupported: bool = False,
    max_shard_size: int = SHARD,
) -> Checkpoint:
    """The checkpoint converted, as a view; write it with :func:`ckpt_inspect.save`. Nothing is read or written yet.

    >>> import ckpt_inspect as ci
    >>> ci.save(ci.convert(ci.open("run.ckpt#model"), device="cpu", format="safetensors"), "model.safetensors")  # doctest: +SKIP
    """
    asked = Asked(
        format=format, device=_several(device), dtype=_several(dtype), no_overflow=no_overflow, weights_only=weights_only,
        slim=slim, from_numpy=from_numpy, drop=_several(drop), strip_prefix=strip_prefix, rules=_several(rules),
        untie=untie, skip_unsupported=skip_unsupported, max_shard_size=max_shard_size,
    )  # fmt: skip
    return plan(checkpoint, asked).checkpoint


def _several(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def target_format(source: str, out: str | None, asked: str | None) -> str:
    """The format to be written: as asked, as the suffix of OUT says, else that of the source.

    Raises:
        SelectionError: a format that is not written here; those that are are named.
    """
    if asked is not None:
        if asked not in FORMATS:
            raise SelectionError(
                f"{asked!r} is no format that is written here", hint=f"There is: {', '.join(FORMATS)}."
            )
        return asked
    suffix = os.path.splitext(out or "")[1].lower()
    if suffix == ".safetensors":
        return "safetensors"
    if source not in _KEPT or (source in _NAMED and suffix in _TORCH_SUFFIXES):
        return "torch-zip"
    return source


def plan(checkpoint: Checkpoint, asked: Asked, out: str | None = None) -> Conversion:
    """Plan a conversion; ``checkpoint`` is a file or a selected part, ``out`` where it is to go.

    Raises:
        SelectionError: something that was named is not there, or several sections could be meant.
        UnsupportedError: the format cannot hold what is in the file.
        CorruptError: the file is damaged.
    """
    steps = _Steps(checkpoint, asked, target_format(checkpoint.format, out, asked.format))
    steps.run()
    return steps.made


class _Steps:
    """One conversion: a few steps, each from checkpoint to checkpoint, none of which writes."""

    def __init__(self, checkpoint: Checkpoint, asked: Asked, target: str) -> None:
        self.made = Conversion(checkpoint)
        self.asked = asked
        self.target = target
        self.now = drafts.settled(checkpoint.whole or checkpoint)
        self.selected = checkpoint.selected or ""

    def run(self) -> None:
        drafts.refuse_damaged(self.now)
        if self.selected:
            self._root()
        if self.asked.from_numpy:
            self._from_numpy()
        if self.asked.weights_only:
            self._weights_only()
        if self.asked.drop:
            self._drop()
        if self.asked.device:
            self._devices()
        if self.asked.dtype:
            self._dtypes()
        if self.asked.slim:
            self._slim()
        if self.asked.strip_prefix or self.asked.rules:
            self._rename()
        self._format()
        self.made.checkpoint = self.now

    def _pickled(self, what: str) -> Checkpoint:
        """The object of a pickle, which named tensors are not."""
        if self.now.format in _NAMED:
            raise UnsupportedError(f"{what}: a {self.now.format} file has named tensors alone", path=self.now.path)
        return self._modern()

    def _modern(self) -> Checkpoint:
        """As a torch zip; what it loses by that is noted."""
        self._note_lost()
        return modern(self.now)

    def _root(self) -> None:
        self.now = parts.rooted(self._pickled("it has no sections"), self.selected)

    def _drop(self) -> None:
        if self.now.format not in _NAMED:
            self.now, self.made.dropped = parts.without(self._modern(), self.asked.drop)
            return
        made = remap.plan(self.now, Rules.parse(drop=self.asked.drop))
        self.made.dropped = [key for change in made.changes for key in change.keys.dropped]
        self.now = drafts.settled(made.checkpoint)

    def _devices(self) -> None:
        devices = DeviceMap(self.asked.device)
        if self.now.format not in ("torchscript", *_NAMED):
            self.now = self._modern()
        if self.now.format == "safetensors":
            self.made.notes.append("safetensors stores no devices: there is nothing to change")
        before = self.now
        self.now = drafts.with_each_file(before, lambda shard: _on_devices(shard, devices))
        devices.check(info.device or "" for _, _, info in before.tensors())
        self.made.devices = [(tag, new) for tag in sorted(devices.met) if (new := devices.new(tag)) is not None]
        texts = named_in_text(before)
        if texts:
            listed = ", ".join(f"{name} = {text!r}" for name, text in texts[:5])
            more = f" and {len(texts) - 5:,} more" if len(texts) > 5 else ""
            self.made.notes.append(f"plain text that reads like a device was left alone: {listed}{more}")

    def _from_numpy(self) -> None:
        self.now, count, left = arrays.as_tensors(self._pickled("no arrays"))
        if not count:
            self.made.notes.append("there are no numpy arrays that torch could have")
        if left:
            self.made.notes.append(f"arrays of {', '.join(left)} were left alone: torch has no such dtype")

    def _weights_only(self) -> None:
        if self.now.format in _NAMED:
            self.made.notes.append(f"{self.now.format} holds tensors alone: there is nothing to remove")
            return
        self.now, self.made.removed, changed = plain_only.reduced(self._modern())
        if self.target == "torchscript":
            self.target = "torch-zip"
        if changed:
            more = f" and {len(changed) - 5:,} more" if len(changed) > 5 else ""
            self.made.notes.append(f"{'; '.join(changed[:5])}{more}")

    def _slim(self) -> None:
        if self.now.format in _NAMED:
            self.made.notes.append(f"a {self.now.format} file carries no bytes that no tensor reaches")
            return
        self._refuse_script("slim")
        self.now, saved = slimming.slim(self._modern())
        self.made.notes.append(
            f"{saved:,} bytes that no tensor reaches are left out" if saved else "it is slim already"
        )

    def _refuse_script(self, what: str) -> None:
        if self.now.format == "torchscript" and self.target == "torchscript":
            raise UnsupportedError(
                f"--{what} is not for TorchScript: its code says what its tensors are",
                path=self.now.path, hint="For its state_dict: --weights-only",
            )  # fmt: skip

    def _dtypes(self) -> None:
        self._refuse_script("dtype")
        from ..torch.casting import Cast

        dtypes = DtypeMap(self.asked.dtype)
        losses = self.made.losses = Losses(self.asked.no_overflow)

        def cast(source: Source, old: str, new: str, name: str) -> Source:
            return Cast(source, old, new, name, losses)

        if self.now.format not in _NAMED:
            self.now = self._modern()
        before = self.now
        found = casting.planned(before, dtypes)
        for old, new, _ in found.storages.values():
            self.made.dtypes[old, new] = self.made.dtypes.get((old, new), 0) + 1
        for info, new in found.on_devices:
            self.made.dtypes[info.dtype, new] = self.made.dtypes.get((info.dtype, new), 0) + 1
        if not self.made.dtypes:
            found.notes.append("every tensor that was meant has that dtype already")
        elif before.format == "torch-zip":
            self.now = casting.cast_zip(before, found, cast)
        elif before.format == "safetensors":
            self.now = drafts.opened(before, casting.cast_safetensors(before, found, cast))
        else:
            self.now = drafts.with_each_file(before, lambda shard: _cast_shard(shard, found, cast))
        self.made.notes += found.notes

    def _rename(self) -> None:
        if self.asked.strip_prefix:
            self._apply(strip_prefix.plan(self.now))
        if self.asked.rules:
            self._apply(remap.plan(self.now, Rules.parse(self.asked.rules)))

    def _apply(self, made: Plan) -> None:
        self.made.changes += made.changes
        self.made.notes += made.notes
        self.now = drafts.settled(made.checkpoint)

    def _format(self) -> None:
        now, target = self.now, self.target
        if target == now.format and target != "sharded":
            return
        if target == "sharded" and now.format == "sharded" and self.asked.max_shard_size == SHARD:
            return
        if target == "torch-zip":
            self.now = self._modern()
        elif target == "torch-legacy":
            now = self._for_legacy(self._modern())
            build, pickle = parts.build_of(now)
            self.now = drafts.opened(now, drafts.joined(now.containers[0].path, build.legacy(pickle.root)))
        else:
            self._named()

    def _for_legacy(self, now: Checkpoint) -> Checkpoint:
        """Without what torch before 1.6 has no storage for; nested tensors it cannot read back either."""
        unfit = {
            name: info.dtype if info.layout == "strided" else info.layout
            for name, _, info in now.tensors()
            if info.layout in ("nested", "jagged")
            or any(not BY_NAME[one.dtype].legacy or one.device == "meta" for one in (info, *info.parts))
        }
        if not unfit:
            return now
        listed = ", ".join(f"{name} ({why})" for name, why in list(unfit.items())[:6])
        more = f" and {len(unfit) - 6:,} more" if len(unfit) > 6 else ""
        if not self.asked.skip_unsupported:
            raise UnsupportedError(
                f"the legacy stream cannot hold {listed}{more}",
                path=now.path,
                hint="Leave them out: --skip-unsupported",
            )
        self.made.notes.append(f"left out, for the legacy stream cannot hold them: {listed}{more}")
        return parts.without(now, [glob.escape(name) for name in unfit])[0]

    def _note_lost(self) -> None:
        """What a state_dict made of named tensors does not have."""
        if self.now.format == "torchscript":
            gone = [info.key for _, _, info in self.now.tensors() if not info.persistent]
            if gone:
                listed = ", ".join(gone[:5]) + (f" and {len(gone) - 5:,} more" if len(gone) > 5 else "")
                self.made.notes.append(f"not in state_dict(), and left out: {listed}")
        elif self.now.format in _NAMED:
            from ..formats import recorded

            foreign = recorded.foreign(self.now)
            if foreign:
                self.made.notes.append(f"__metadata__ has no place in a .pt file: {', '.join(list(foreign)[:5])}")

    def _named(self) -> None:
        now = self.now
        tags = sorted({info.device for _, _, info in now.tensors() if info.device not in (None, "cpu", "meta")})
        found = named.named(now, self.asked.untie, self.asked.skip_unsupported)
        if tags:
            found.notes.append(f"safetensors stores no devices: {', '.join(filter(None, tags))} is not kept")
        ties = found.recorded.ties
        if ties and now.format not in _NAMED:
            listed = ", ".join(f"{key} ═ {kept}" for key, kept in list(ties.items())[:5])
            more = f" and {len(ties) - 5:,} more" if len(ties) > 5 else ""
            found.notes.append(f"tied names are recorded in __metadata__, and come back in a .pt file: {listed}{more}")
        self.made.notes += found.notes
        path = now.containers[0].path
        if self.target == "safetensors":
            metadata = named.metadata_of(found)
            self.now = drafts.opened(now, named.one_file(path, found.tensors, metadata))
        else:
            folder = os.path.dirname(path) or "."
            files = named.shards(folder, found, self.asked.max_shard_size)
            self.now = drafts.opened_directory(now, folder, named.INDEX, files)


def _on_devices(shard: Checkpoint, devices: DeviceMap) -> Any:
    """A file with other devices, None where none changes."""
    container = shard.containers[0]
    if container.format not in ("torch-zip", "torchscript"):
        if container.format == "torch-legacy":
            raise UnsupportedError("a shard of the legacy kind is not rewritten", path=container.path)
        return None
    changed, gone = changed_records(container, devices)
    return rewritten_zip(container, changed, "", gone) if changed else None


def _cast_shard(shard: Checkpoint, found: casting.Plan, cast: casting.Cast) -> Any:
    """One shard with its tensors cast; storages are known in the whole by the name of their shard too."""
    mine = {info.storage.id: found.storages[info.storage.id] for _, _, info in shard.tensors()
            if info.storage is not None and info.storage.id in found.storages}  # fmt: skip
    if not mine:
        return None
    own = casting.Plan(mine, [], [])
    container = shard.containers[0]
    if container.format == "safetensors":
        made: Any = casting.cast_safetensors(shard, own, cast)
        pieces: list[Any] = [made]
        return NewFile(container.path, "", pieces, made.size, None, "its bytes change")
    short = {storage.partition(":")[2]: facts for storage, facts in mine.items()}
    made = casting.cast_zip(modern(shard), casting.Plan(short, [], []), cast)
    (file,) = rewritten(made)
    return file


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
        for one in (info, *info.parts):
            row = found.setdefault((section.pointer, one.dtype), [0, 0])
            row[0] += one is info
            if one.storage is not None and one.storage not in seen:
                seen.add(one.storage)
                row[1] += one.storage.nbytes
    return [Size(section, dtype, *row) for (section, dtype), row in found.items()]


def _to_dict(checkpoint: Checkpoint) -> dict[str, Any]:
    return {"size": checkpoint.size, "sections": [size._asdict() for size in sizes(checkpoint)]}
