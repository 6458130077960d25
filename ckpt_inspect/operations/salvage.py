"""``ckpt salvage``: from a cut or damaged checkpoint, a valid one of what is whole, and the names of what is not."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from ..containers import output
from ..containers.copying import Piece, size_of
from ..containers.zip_pickle import newer_state
from ..containers.zip_walk import NEWER_LOST
from ..errors import CheckpointError, CorruptError, FormatError, LimitError, SelectionError, UnsupportedError
from ..formats import damaged, open_checkpoint, open_source, salvaging, split_section, torch_zip
from ..formats.archive import WRONG_CHECKSUM, archive_in
from ..formats.remedies import SALVAGED
from ..formats.stock import NAN, ZEROS, Stock, pickle_of, stocks_of
from ..model import pointer as pointers
from ..model.checkpoint import Checkpoint
from ..model.graph import Pickle
from ..model.lost import Lost
from ..model.problem import Problem
from ..model.storage import Container, Record
from ..model.tensor import TensorInfo
from ..pickles.limits import DEFAULT
from .plain import safe
from .verify import Verification, verify, verify_file

SCHEMA = "ckpt-inspect/salvage/1"
FILLS = (ZEROS, NAN)


class Salvage:
    """What can be rescued, ready to be written.

    Attributes:
        path: the damaged file or directory.
        out: where it was written, None if it was not.
        rescued: names of the tensors that are whole, in saved order.
        lost: those that are not.
        fill: what stands in the place of the lost ones; None: they are left out.
        notes: what else is to be known.
        damaged: whether anything was wrong with the file at all.
        nbytes: length of what is written.
    """

    def __init__(self, path: str, fill: str | None) -> None:
        self.path = path
        self.fill = fill
        self.out: str | None = None
        self.rescued: list[str] = []
        self.lost: list[Lost] = []
        self.notes: list[str] = []
        self.damaged = False
        self.nbytes = 0
        self.files: dict[str, list[Piece]] = {}  # by name within a directory, "" for a checkpoint that is one file
        self.archives: dict[str, tuple[str, list[Any]]] = {}  # the same of torch zips: root and records

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "path": self.path,
            "out": self.out,
            "damaged": self.damaged,
            "rescued": self.rescued,
            "lost": [lost._asdict() for lost in self.lost],
            "fill": self.fill,
            "nbytes": safe(self.nbytes),
            "notes": self.notes,
        }

    def __repr__(self) -> str:
        return f"<salvage of {self.path}: {len(self.rescued)} tensors rescued, {len(self.lost)} lost>"


def salvage(path: str, out: str | None = None, *, fill: str | None = None, force: bool = False,
            progress: Any = None) -> Salvage:  # fmt: skip
    """Rescue what is whole of ``path`` and write it to ``out``; without one, only say what that would be.

    Args:
        path: a torch zip, a legacy stream, a safetensors file or a sharded directory.
        out: the new file, or directory for a sharded one.
        fill: ``zeros`` or ``nan`` in the place of what is lost; None: it is left out.
        force: replace ``out`` if it is there.
        progress: called with the number of bytes just written.

    Raises:
        CorruptError: nothing can be rescued; what is in the way is named.
        UnsupportedError: a format of which no part makes sense alone.
        OutputExistsError: ``out`` is there.
    """
    if fill not in (None, *FILLS):
        raise SelectionError(f"nothing is filled with {fill!r}", hint=f"It can be {' or '.join(FILLS)}.")
    if out is not None and os.path.exists(out) and os.path.exists(path) and os.path.samefile(path, out):
        raise SelectionError("the damaged file is not overwritten", path=out, hint="Write to a new file: -o OUT")
    if not os.path.exists(path):
        path, _ = split_section(path)  # the whole file is rescued
    found = Salvage(path, fill)
    with _open(path, found) as checkpoint:
        if checkpoint.format not in SALVAGED:
            raise UnsupportedError(
                f"{checkpoint.format} files are not salvaged: their code and their tensors belong together",
                path=path,
                hint=f"See what is hurt: ckpt verify {path}",
            )
        _plan(found, checkpoint)
        if not found.rescued and (found.lost or found.damaged):
            raise CorruptError("nothing in it is whole", path=path, hint=found.lost[0].why if found.lost else None)
        if out is not None:
            _write(found, checkpoint, out, force, progress)
            unsound = _unsound(out)
            found.notes += unsound
            found.damaged = found.damaged or bool(unsound)
    return found


def _unsound(out: str) -> list[str]:
    """What ``verify`` says against what was written: some damage to a pickle is taken along, for nothing shows it."""
    try:
        whys = [damage.why for damage in verify_file(out).damaged]
    except CheckpointError as error:
        whys = [error.message]
    return [f"what was written is not sound: {whys[0]}"] if whys else []


def _open(path: str, found: Salvage) -> Checkpoint:
    """The checkpoint; a torch zip that its directory does not tell of, by whatever is left of it."""
    try:
        checkpoint = open_checkpoint(path)
    except LimitError:
        raise
    except (CorruptError, FormatError) as error:
        if os.path.isdir(path):
            if isinstance(error, CorruptError):
                error.hint = "Each shard is a checkpoint of its own: ckpt salvage SHARD -o OUT"
            raise
        _, source, _ = open_source(path)
        by_traces = damaged.read(source, DEFAULT, found.notes)
        if by_traces is None:
            raise
        found.notes.insert(0, f"its directory cannot be used ({error.message}): read from its local headers")
        return by_traces
    archive = archive_in(checkpoint.containers[0]) if checkpoint.format == torch_zip.NAME else None
    if archive is None or not (archive.truncated or newer_state(archive)):
        return checkpoint
    notes: list[str] = []
    by_traces = damaged.read(checkpoint.containers[0].source, DEFAULT, notes)
    if by_traces is not None and (archive.truncated or damaged.pickle_at(by_traces)):
        found.notes += notes
        return by_traces
    if not archive.truncated:
        found.notes.append(NEWER_LOST)
    return checkpoint


# -- what there is ----------------------------------------------------------------------------------------------


def _plan(found: Salvage, checkpoint: Checkpoint) -> None:
    checked = verify(checkpoint)
    found.damaged = not checked.ok
    found.notes += [note for note in checked.notes if "record has a checksum" in note or "edit in place" in note]
    if any(part.format in ("torch-legacy", "safetensors") for part in (checkpoint, *checkpoint.parts)):
        found.notes.append("nothing proves the values: this format has no checksums")
    why = {damage.record: damage.why for damage in checked.damaged if damage.record is not None}
    if checkpoint.format == "sharded":
        _plan_shards(found, checkpoint, checked, why)
    else:
        _plan_file(found, checkpoint, "", why)


def _plan_file(found: Salvage, checkpoint: Checkpoint, name: str, why: Mapping[str, str]) -> None:
    container = checkpoint.containers[0]
    pickle = pickle_of(container)
    if pickle is not None and why.get("data.pkl", "").endswith(WRONG_CHECKSUM):
        raise CorruptError(
            "its pickle fails its checksum: which tensor is which cannot be told for certain",
            path=checkpoint.path,
            record="data.pkl",
            hint="If it still loads with torch.load, look at the result with care and save it anew.",
        )
    if pickle is not None and "data.pkl" in why:
        found.notes.append(f"record data.pkl {why['data.pkl']}: which tensor is which is as it says")
    stocks = stocks_of(checkpoint, container, why, found.notes)
    lost, kept = _sort(checkpoint, stocks)
    _note_unproved(found, checkpoint, stocks, set(kept))
    for problem in map(Problem.of, checkpoint.problems):
        if problem.node is not None:  # a tensor that could not even be described
            lost[id(problem.node)] = [Lost(name, problem.partition(": ")[2]) for name in problem.names]
    filling, set_of_kept = found.fill is not None, set(kept)
    found.lost += dict.fromkeys(each for entries in lost.values() for each in entries)
    found.rescued += kept
    if pickle is None:
        section = checkpoint.sections[""]
        whole_keys = {info.key for name, _, info in checkpoint.tensors() if name in set_of_kept}
        tensors = {key: info for key, info in section.items() if filling or key in whole_keys}
        found.files[name] = salvaging.safetensors_pieces(container, tensors, stocks, found.fill)
        return
    gone = {key for key, entries in lost.items() if not filling or any(e.why.startswith("needs ") for e in entries)}
    data = _original(container, pickle) if not gone else salvaging.new_pickle(pickle, gone)
    if checkpoint.format == "torch-legacy":
        found.files[name] = salvaging.legacy_pieces(container, data, stocks, found.fill)
    else:
        whole = {n for n, record in container.records.items() if n not in why and _readable(record)}
        archive = archive_in(container)
        assert archive is not None
        contents = salvaging.zip_contents(container, data, stocks, found.fill, whole)
        found.archives[name] = (archive.root, contents)


def _note_unproved(found: Salvage, checkpoint: Checkpoint, stocks: Mapping[str, Stock], kept: set[str]) -> None:
    """Name the tensors in the one record that ends with the file: its checksum would have stood behind it."""
    names = [
        name
        for name, _, info in checkpoint.tensors()
        if name in kept
        and any(
            part.storage is not None and part.storage.id in stocks and stocks[part.storage.id].unproved
            for part in info.components()
        )
    ]
    if names:
        listed = ", ".join(names[:5]) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")
        found.notes.append(f"the file ends where the checksum of {listed} should be: nothing proves those bytes")


def _original(container: Container, pickle: Pickle) -> bytes:
    """The pickle as it is in the file."""
    record = container.records.get("data.pkl")
    source = record.source if record is not None else container.source
    return source.read_at(pickle.start, pickle.end - pickle.start)


def _readable(record: Record) -> bool:
    try:
        return record.source.size >= record.nbytes
    except CheckpointError:
        return False


def _sort(checkpoint: Checkpoint, stocks: Mapping[str, Stock]) -> tuple[dict[int, list[Lost]], list[str]]:
    """Tensors that are lost, by ``id`` of their node, and the names of those that are whole."""
    lost: dict[int, list[Lost]] = {}
    kept: list[str] = []
    for name, _, info in checkpoint.tensors():
        reason = next(filter(None, (_reason(part, stocks) for part in info.components())), "")
        if reason:
            lost.setdefault(id(info.node), []).append(Lost(name, reason))
        else:
            kept.append(name)
    return lost, kept


def _reason(info: TensorInfo, stocks: Mapping[str, Stock]) -> str:
    """Why a tensor is not whole, ``""`` if it is."""
    storage = info.storage
    if storage is None or storage.location == "meta":
        return ""
    stock = stocks.get(storage.id) or stocks.get(storage.id.partition("/")[0])  # of a view: the storage it is one of
    if stock is None:
        return "its bytes are not in the file"
    end = storage.offset + info.extent
    if end <= stock.there:
        return ""
    return stock.why or f"it needs {end:,} bytes of a storage of {stock.there:,}"


# -- shards -----------------------------------------------------------------------------------------------------


def _plan_shards(found: Salvage, checkpoint: Checkpoint, checked: Verification, why: Mapping[str, str]) -> None:
    index = checkpoint.containers[0]
    folder = os.path.dirname(index.path)
    weight_map: dict[str, str] = index.graphs["index"]["weight_map"]
    placed: dict[str, str] = {}  # key -> the shard that it is in, whole or not
    rescued: dict[str, str] = {}
    nbytes: dict[str, int] = {}
    for shard in checkpoint.parts:
        name = os.path.relpath(shard.containers[0].path, folder or ".").replace(os.sep, "/")
        mine = {r.removeprefix(f"{name}:"): text for r, text in why.items() if r.startswith(f"{name}:")}
        _restore_ids(shard, f"{name}:")
        of_shard = Salvage(shard.path, found.fill)
        try:
            _plan_file(of_shard, shard, name, mine)
        except CorruptError as error:
            of_shard.lost = [Lost(key, error.message) for key in shard.sections[""]]
        found.notes += [note for note in of_shard.notes if note not in found.notes]
        found.lost += of_shard.lost
        found.files.update(of_shard.files)
        found.archives.update(of_shard.archives)
        for key, info in shard.sections[""].items():
            if key not in placed or weight_map.get(key) == name:
                placed[key], nbytes[key] = name, info.nbytes
        for key in map(pointers.unescape, of_shard.rescued):
            if key not in rescued or weight_map.get(key) == name:
                rescued[key] = name
    found.rescued = [pointers.escape(key) for key in rescued]
    found.lost = [lost for lost in found.lost if pointers.unescape(lost.name) not in rescued]
    missing = [key for key in rescued if key not in weight_map]
    if missing:
        found.notes.append(
            f"the index did not name {len(missing):,} tensor{'s' * (len(missing) != 1)} of the shards: it does now"
        )
    reasons = {pointers.unescape(name): damage.why for damage in checked.damaged for name in damage.names}
    found.lost += [Lost(key, reasons.get(key, "its shard is missing")) for key in weight_map if key not in placed]
    written = {*found.files, *found.archives}
    filled = placed if found.fill else {}
    kept = {
        k: (rescued.get(k) or filled[k]) for k in dict.fromkeys([*weight_map, *rescued]) if k in rescued or k in filled
    }
    for name in written - set(kept.values()):  # what is in it is in another shard, or lost
        found.files.pop(name, None)
        found.archives.pop(name, None)
    document = {**index.graphs["index"], "weight_map": kept}
    metadata = document.get("metadata")
    if kept != weight_map and isinstance(metadata, dict) and "total_size" in metadata:
        document["metadata"] = {**metadata, "total_size": sum(nbytes[key] for key in kept)}
    text = json.dumps(document, indent=2) + "\n"
    found.files[os.path.basename(index.path)] = [text.encode()]


def _restore_ids(shard: Checkpoint, prefix: str) -> None:
    """Storages under the names that their own file gives them: the whole has put the shard's name before."""
    for _, _, info in shard.tensors():
        for part in info.components():
            if part.storage is not None:
                part.storage.id = part.storage.id.removeprefix(prefix)


# -- writing ----------------------------------------------------------------------------------------------------


def _write(found: Salvage, checkpoint: Checkpoint, out: str, force: bool, progress: Any) -> None:
    files: dict[str, Iterable[Piece]] = dict(found.files)
    total = sum(size_of(piece) for pieces in found.files.values() for piece in pieces)
    for name, (root, contents) in found.archives.items():
        files[name] = salvaging.zip_pieces(root, contents)
        total += sum(content.nbytes + 256 for content in contents)
    if checkpoint.format == "sharded":
        index = checkpoint.containers[0]
        shards = {name for name in index.graphs["index"]["weight_map"].values() if "/" not in name}
        found.nbytes = output.replace_directory(
            out, files, force=force, replaces=shards, like=index.path, total=total, progress=progress
        )
    else:
        found.nbytes = output.replace_file(
            out, files[""], force=force, like=checkpoint.path, total=total, progress=progress
        )
    found.out = out
