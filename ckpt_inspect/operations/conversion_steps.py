"""The steps of a conversion, each from checkpoint to checkpoint; none of them writes."""

from __future__ import annotations

import glob
import os

from ..dtypes import BY_NAME
from ..errors import UnsupportedError
from ..formats import (
    arrays,
    beside,
    casting,
    devices,
    drafts,
    named,
    parts,
    plain_only,
    quantized,
    recorded,
    remedies,
    slimming,
)
from ..formats.building import foreign_records
from ..formats.modern import modern, sources
from ..model.casts import DtypeMap, Losses
from ..model.checkpoint import Checkpoint
from ..model.devices import DeviceMap
from ..model.lost import Lost, listed
from ..model.source import Source
from ..model.spelling import as_path, shell_join
from . import remap, strip_prefix
from .conversion import SHARD, Asked, Conversion
from .rename import Plan
from .rules import Rules

NAMED = ("safetensors", "sharded")  # formats of tensors under names, without an object around them


class Steps:
    """One conversion: a few steps, each from checkpoint to checkpoint, none of which writes."""

    def __init__(self, checkpoint: Checkpoint, asked: Asked, target: str) -> None:
        self.made = Conversion(checkpoint)
        self.asked = asked
        self.target = target
        self.now = drafts.settled(checkpoint.whole or checkpoint)
        self.selected = checkpoint.selected or ""

    def run(self) -> None:
        remedies.refuse_damaged(self.now)
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
        self._refuse_empty()
        self.made.checkpoint = self.now

    def _refuse_empty(self) -> None:
        """A file without a tensor is not what was asked for, whatever left them out."""
        had = len(self.made.original)
        if had and not len(self.now):
            raise UnsupportedError(
                f"nothing would be left of its {had:,} tensor{'s' if had > 1 else ''}: "
                f"{listed(f'{name} ({why})' for name, why in self.made.removed) or ', '.join(self.made.dropped[:5])}",
                path=self.made.original.path,
                hint=f"See them: {shell_join(['ckpt', 'ls', '--long', as_path(self.made.original.path)])}",
            )

    def _pickled(self, what: str) -> Checkpoint:
        """The object of a pickle, which named tensors are not."""
        if self.now.format in NAMED:
            raise UnsupportedError(f"{what}: a {self.now.format} file has named tensors alone", path=self.now.path)
        return self._modern()

    def _modern(self) -> Checkpoint:
        """As a torch zip; what it loses by that is noted."""
        self._note_lost()
        return modern(self.now)

    def _root(self) -> None:
        self.now = parts.rooted(self._pickled("it has no sections"), self.selected)
        if self.made.original.origin is None:
            self.now.origin = self.made.original

    def _drop(self) -> None:
        if self.now.format not in NAMED:
            self.now, self.made.dropped = parts.without(self._modern(), self.asked.drop)
            return
        made = remap.plan(self.now, Rules.parse(drop=self.asked.drop))
        self.made.dropped = [key for change in made.changes for key in change.keys.dropped]
        self.now = drafts.settled(made.checkpoint)

    def _devices(self) -> None:
        tags = DeviceMap(self.asked.device)
        without = NAMED if self.target in NAMED else ()  # what becomes a torch zip gets devices with that
        if self.now.format not in ("torchscript", *without):
            self.now = self._modern()
        if all(part.format == "safetensors" for part in self.now.parts or [self.now]):
            self.made.notes.append("safetensors stores no devices: there is nothing to change")
            return
        before = self.now
        self.now = devices.moved(before, tags)
        tags.check(info.device or "" for _, _, info in before.tensors())
        self.made.devices = [(tag, new) for tag in sorted(tags.met) if (new := tags.new(tag)) is not None]
        if not self.made.devices:
            self.made.notes.append("nothing is on another device")
        texts = devices.named_in_text(before)
        if texts:
            names = listed(f"{name} = {text!r}" for name, text in texts)
            self.made.notes.append(f"plain text that reads like a device was left alone: {names}")

    def _from_numpy(self) -> None:
        self.now, count, left = arrays.as_tensors(self._pickled("no arrays"))
        if not count:
            self.made.notes.append("there are no numpy arrays that torch could have")
        if left:
            self.made.notes.append(f"arrays of {', '.join(left)} were left alone: torch has no such dtype")

    def _weights_only(self) -> None:
        if self.now.format in NAMED:
            self.made.notes.append(f"{self.now.format} holds tensors alone: there is nothing to remove")
            return
        quantized.refuse_packed(self.now)
        before = self._modern()
        self.now, gone, changed = plain_only.reduced(before)
        self.made.removed += [*gone, *beside.attributes(before)]
        if self.target == "torchscript":
            self.target = "torch-zip"
        if changed:
            self.made.notes.append(listed(changed))

    def _slim(self) -> None:
        if self.now.format == "safetensors":
            self.made.notes.append("a safetensors file carries no bytes that no tensor reaches")
            return
        self._refuse_script("slim")
        self.now, saved = slimming.slim(self.now if self.now.format == "sharded" else self._modern())
        self.made.notes.append(
            f"{saved:,} bytes that no tensor reaches are left out" if saved else "it is slim already"
        )

    def _refuse_script(self, what: str) -> None:
        if self.now.format == "torchscript" and self.target == "torchscript":
            raise UnsupportedError(
                f"--{what} is not for TorchScript: its code may spell dtypes, and reach past a view",
                path=self.now.path, hint=f"For its state_dict: --weights-only --{what} …",
            )  # fmt: skip

    def _dtypes(self) -> None:
        self._refuse_script("dtype")
        from ..torch.casting import Cast

        dtypes = DtypeMap(self.asked.dtype)
        losses = self.made.losses = Losses(self.asked.no_overflow)

        def cast(source: Source, old: str, new: str, name: str) -> Source:
            return Cast(source, old, new, name, losses)

        if self.now.format not in NAMED:
            self.now = self._modern()
        before = self.now
        found = casting.planned(before, dtypes)
        for old, new, _ in found.storages.values():
            self.made.dtypes[old, new] = self.made.dtypes.get((old, new), 0) + 1
        for info, new in found.on_devices:
            self.made.dtypes[info.dtype, new] = self.made.dtypes.get((info.dtype, new), 0) + 1
        if not self.made.dtypes:
            found.notes.append("every tensor that was meant has that dtype already")
        else:
            self.now = casting.applied(before, found, cast)
        self.made.notes += found.notes

    def _rename(self) -> None:
        if self.asked.strip_prefix:
            self._apply(strip_prefix.plan(self.now))
        if self.asked.rules:
            self._apply(remap.plan(self.now, Rules.parse(self.asked.rules)))

    def _apply(self, made: Plan) -> None:
        self.made.changes += made.changes
        self.made.followed += made.followed
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
            self._note_records()
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
            or any(not BY_NAME[one.dtype].legacy or one.device == "meta" for one in info.components())
        }
        if not unfit:
            return now
        if not self.asked.skip_unsupported:
            raise UnsupportedError(
                f"the legacy stream cannot hold {listed(f'{name} ({why})' for name, why in unfit.items())}",
                path=now.path, hint="Leave them out: --skip-unsupported",
            )  # fmt: skip
        self.made.removed += [Lost(name, f"{why}, which the legacy stream cannot hold") for name, why in unfit.items()]
        return parts.without(now, [glob.escape(name) for name in unfit])[0]

    def _note_lost(self) -> None:
        """What a torch zip made of another format does not have."""
        now, removed = self.now, self.made.removed
        if now.format in ("torchscript", "torchscript-model-json"):
            quantized.refuse_packed(now)
            removed += [Lost(name, "not in state_dict()") for name, _, info in now.tensors() if not info.persistent]
            removed += beside.attributes(now)
            self._note_records()
        elif now.format in NAMED:
            removed += [Lost(f"__metadata__/{key}", "no place in a .pt file") for key in recorded.foreign(now)]
            removed += [Lost(key, "told in __metadata__ alone") for key in recorded.of(now).values]
            self._note_values()
        removed += [Lost(f"source of {name}", "no place in a torch zip") for name in sources(now)]

    def _note_records(self) -> None:
        """Records of an archive that the target has no place for."""
        found = foreign_records(self.now.containers[0])
        self.made.removed += [Lost(f"record {name}", f"no place in {self.target}") for name in found]

    def _note_values(self) -> None:
        """Entries of pickled shards that are no tensors."""
        for shard in self.now.parts:
            if shard.format != "safetensors":
                why = "an entry of a shard that is no tensor"
                self.made.removed += [Lost(value.name, why) for value in shard.values]

    def _named(self) -> None:
        now = self.now
        tags = sorted({info.device for _, _, info in now.tensors() if info.device not in (None, "cpu", "meta")})
        quantized.refuse_packed(now)
        found = named.named(now, self.asked.untie, self.asked.skip_unsupported)
        if tags:
            found.notes.append(f"safetensors stores no devices: {', '.join(filter(None, tags))} is not kept")
        ties = found.recorded.ties
        if ties and now.format not in NAMED:
            names = listed((f"{key} ═ {kept}" for key, kept in ties.items()), 5)
            found.notes.append(f"tied names are recorded in __metadata__, and come back in a .pt file: {names}")
        self.made.notes += found.notes
        self.made.removed += found.lost
        self._note_records()
        self._note_values()
        path = now.containers[0].path
        if self.target == "safetensors":
            metadata = named.metadata_of(found)
            self.now = drafts.opened(now, named.one_file(path, found.tensors, metadata))
        else:
            folder = os.path.dirname(path) or "."
            files = named.shards(folder, found, self.asked.max_shard_size)
            self.now = drafts.opened_directory(now, folder, named.INDEX, files)
