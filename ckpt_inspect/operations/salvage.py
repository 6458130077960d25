"""``ckpt salvage``: from a cut or damaged checkpoint, a valid one of what is whole, and the names of what is not."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..containers import output
from ..containers.copying import Piece, size_of
from ..containers.zip_pickle import newer_state
from ..containers.zip_walk import NEWER_LOST
from ..errors import CheckpointError, CorruptError, FormatError, LimitError, SelectionError, UnsupportedError
from ..formats import damaged, objects, open_checkpoint, open_source, salvaging, sharded, split_section, torch_zip
from ..formats.archive import WRONG_CHECKSUM, archive_in
from ..formats.hidden import hidden
from ..formats.rebuild import is_rebuild
from ..formats.remedies import COPY_AGAIN, SALVAGED, gives_entries
from ..formats.stock import NAN, ZEROS, Stock, pickle_of, stocks_of
from ..model import pointer as pointers
from ..model.checkpoint import Checkpoint
from ..model.graph import Pickle
from ..model.lost import Lost, listed
from ..model.problem import Problem
from ..model.spelling import shell_path
from ..model.storage import Container, Record
from ..model.tensor import TensorInfo
from ..pickles.limits import DEFAULT
from .plain import safe
from .save import paths_of
from .verify import Verification, verify, verify_file

SCHEMA = "ckpt-inspect/salvage/1"
FILLS = (ZEROS, NAN)


class Salvage:
    """What can be rescued, ready to be written.

    Attributes:
        path: the damaged file or directory.
        out: where it was written, None if it was not.
        rescued: names of the tensors that are whole, in saved order.
        lost: those that are not; ``zeroed``: how many of them zeros are put for where NaN were asked for.
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
        self.zeroed = 0
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
    if not os.path.exists(path):
        path, _ = split_section(path)  # the whole file is rescued
    found = Salvage(path, fill)
    with _open(path, found) as checkpoint:
        if checkpoint.format not in SALVAGED:
            coded = checkpoint.format.startswith("torchscript")
            raise UnsupportedError(
                f"{checkpoint.format} files are not salvaged: "
                + (
                    "their code and their tensors belong together" if coded else f"it is done for {', '.join(SALVAGED)}"
                ),
                path=path,
                hint=f"See what is hurt: ckpt verify {shell_path(path)}",
            )
        if out is not None:
            output.keep_read(out, [path, *paths_of(checkpoint)], f"the damaged {_kind(checkpoint)}")
        _plan(found, checkpoint)
        if not found.rescued and (found.lost or found.damaged) and not gives_entries(checkpoint):
            why = f": {found.lost[0].why}" if found.lost else ""
            raise CorruptError(f"nothing in it is whole{why}", path=path, hint=COPY_AGAIN)
        if out is not None:
            _write(found, checkpoint, out, force, progress)
            unsound = _unsound(out)
            found.notes += unsound
            found.damaged = found.damaged or bool(unsound)
    return found


def _kind(checkpoint: Checkpoint) -> str:
    return "checkpoint" if checkpoint.format == "sharded" else "file"


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


# Parts of the notes of ``verify`` that are to be known of what is rescued, too.
_TAKEN = ("checksum: written", "edit in place", "trailing")


def _plan(found: Salvage, checkpoint: Checkpoint) -> None:
    checked = verify(checkpoint)
    found.damaged = not checked.ok
    found.notes += [note for note in checked.notes if any(part in note for part in _TAKEN)]
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
    found.zeroed += _zeroed(checkpoint, stocks, found.fill, {entry.name for each in lost.values() for entry in each})
    found.lost += dict.fromkeys(each for entries in lost.values() for each in entries)
    found.rescued += kept
    if pickle is None:
        section = checkpoint.sections[""]
        whole_keys = {info.key for name, _, info in checkpoint.tensors() if name in set_of_kept}
        tensors = {key: info for key, info in section.items() if filling or key in whole_keys}
        found.files[name] = salvaging.safetensors_pieces(container, tensors, stocks, found.fill)
        return
    gone = {key for key, entries in lost.items() if not filling or any(e.why.startswith("needs ") for e in entries)}
    _note_arguments(found, pickle, gone, lost)
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
        found.notes.append(
            f"the file ends where the checksum of {listed(names, 5)} should be: nothing proves those bytes"
        )


def _zeroed(checkpoint: Checkpoint, stocks: Mapping[str, Stock], fill: str | None, lost: set[str]) -> int:
    """How many of the tensors that are filled have a dtype without NaN."""
    count = 0
    for name, _, info in checkpoint.tensors() if fill == NAN else ():
        used = [stocks.get(part.storage.id) for part in info.components() if part.storage is not None]
        count += name in lost and any(stock is not None and stock.filler(fill) == ZEROS for stock in used)
    return count


def _note_arguments(found: Salvage, pickle: Pickle, gone: set[int], lost: Mapping[int, list[Lost]]) -> None:
    """Name what an object is made of: it gets None instead, and may not bear it."""
    for call in pickle.calls if gone else ():
        args = call.args if type(call.args) is tuple else ()
        names = [entry.name for arg in args if id(arg) in gone for entry in lost[id(arg)]]
        if names and not is_rebuild(call):
            found.notes.append(
                f"{objects.class_name(call)} is made of {listed(names)} and gets None instead: it may refuse to be "
                "loaded; with --fill zeros it gets a tensor"
            )


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
    for node, hurt in _hidden(checkpoint, stocks):
        lost.setdefault(node, []).append(hurt)
    return lost, kept


def _hidden(checkpoint: Checkpoint, stocks: Mapping[str, Stock]) -> Iterator[tuple[int, Lost]]:
    """What is hurt beside the tensors that have names: ``id`` of its node, 0 where no part of it can be taken out."""
    pickle = pickle_of(checkpoint.containers[0])
    hurt = {name.rpartition("/")[2]: stock for name, stock in stocks.items() if stock.there < stock.nbytes}
    if pickle is None or not hurt:
        return
    known = {id(info.node) for _, _, info in checkpoint.tensors()}
    for found in hidden(pickle, hurt, known):
        why = hurt[found.key].why
        if found.understood:
            yield id(found.node), Lost(found.name, why)
        else:
            text = f"{why}; an object that is not understood needs storage {found.key}: it is filled"
            yield 0, Lost(found.name, text)


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
    entries: dict[str, tuple[str, list[str]]] = {}  # of each shard: its path, and its entries that are no tensors
    for name, shard, mine, notes in _shards(checkpoint, folder, why):
        of_shard = Salvage(shard.path, found.fill)
        found.notes += notes
        inside = shard.sections[""].tensors if "" in shard.sections else {}
        try:
            _plan_file(of_shard, shard, name, mine)
            entries[name] = shard.path, [value.name for value in shard.values]
        except CorruptError as error:
            of_shard.lost = [Lost(pointers.escape(key), error.message) for key in inside]
        found.notes += [note for note in of_shard.notes if note not in found.notes]
        found.lost += of_shard.lost
        found.zeroed += of_shard.zeroed
        found.files.update(of_shard.files)
        found.archives.update(of_shard.archives)
        for key, info in inside.items():
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
    for name in sorted(written - set(kept.values())):  # what is in it is in another shard, or lost
        found.files.pop(name, None)
        found.archives.pop(name, None)
        path, left = entries.get(name, ("", []))
        if left:
            found.notes.append(
                f"shard {name} is left out, for no tensor in it is whole, and with it {listed(left)}: "
                f"ckpt salvage {shell_path(path)} -o OUT"
            )
    document = {**index.graphs["index"], "weight_map": kept}
    metadata = document.get("metadata")
    if kept != weight_map and isinstance(metadata, dict) and "total_size" in metadata:
        document["metadata"] = {**metadata, "total_size": sum(nbytes[key] for key in kept)}
    text = json.dumps(document, indent=2) + "\n"
    found.files[os.path.basename(index.path)] = [text.encode()]


def _shards(
    checkpoint: Checkpoint, folder: str, why: Mapping[str, str]
) -> Iterator[tuple[str, Checkpoint, dict[str, str], list[str]]]:
    """Each shard with its name, what is wrong with its records, and notes; those too that only salvage can open."""
    opened: list[str] = []
    for shard in checkpoint.parts:
        path = shard.containers[0].path
        opened.append(_real(path))
        name = os.path.relpath(path, folder or ".").replace(os.sep, "/")
        _restore_ids(shard, f"{name}:")
        yield name, shard, {r.removeprefix(f"{name}:"): t for r, t in why.items() if r.startswith(f"{name}:")}, []
    for name in sorted(sharded.names(checkpoint)):
        path = os.path.join(folder, name)
        if _real(path) in opened:
            continue
        alone = Salvage(path, None)
        try:
            shard = _open(path, alone)
        except CheckpointError:
            continue  # that is said already
        checkpoint.containers += shard.containers  # they are closed with the others
        opened.append(_real(path))
        if shard.format in SALVAGED:
            damaged = verify(shard).damaged
            notes = [f"shard {name}: {note}" for note in alone.notes]
            yield name, shard, {d.record: d.why for d in damaged if d.record is not None}, notes


def _real(path: str) -> str:
    try:
        return os.path.realpath(path)
    except ValueError:  # a name that this system cannot spell
        return path


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
        shards = sharded.names(checkpoint)
        found.nbytes = output.replace_directory(
            out, files, force=force, replaces=shards, like=index.path, total=total, progress=progress
        )
    else:
        found.nbytes = output.replace_file(
            out, files[""], force=force, like=checkpoint.path, total=total, progress=progress
        )
    found.out = out
