"""A checkpoint with renamed keys as new bytes: each container in its own format, everything else copied as it lies.

Nothing is written here. A rewrite is a list of files, each a list of pieces for the one copy loop
(``containers.output``), and, where that can be done, the few bytes that change the file in place.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ..containers.copying import Piece, Pieces, size_of
from ..containers.zip import ZipArchive, ZipRecord
from ..containers.zip_writer import appended, rewrite
from ..errors import CorruptError, UnsupportedError
from ..model.checkpoint import Checkpoint
from ..model.graph import Pickle
from ..model.keymap import KeyMap
from ..model.section import Section
from ..model.source import BytesSource
from ..model.storage import Container
from ..model.tensor import TensorInfo
from ..pickles.machine import read_pickle
from ..pickles.writer import write_pickle
from . import recorded
from .following import follow
from .rebuild import storage_keys
from .remedies import refuse_damaged
from .renames import Replacements, entry_keys

Keys = Mapping[str, str | None]


class Edit(NamedTuple):
    """What changes a file in place: bytes to overwrite, bytes to append, and last what makes the appended ones count."""

    overwrite: list[tuple[int, bytes]]
    append: list[bytes]
    last: bytes


class NewFile(NamedTuple):
    """One file of the result.

    Attributes:
        source: path of the file it is made from.
        name: its name within a directory, ``""`` for a checkpoint that is one file.
        pieces: its whole content, for a new file.
        nbytes: its length.
        edit: the same in place, None where that is not possible.
        why_not: then the reason.
    """

    source: str
    name: str
    pieces: Pieces
    nbytes: int
    edit: Edit | None
    why_not: str


def rewritten(checkpoint: Checkpoint) -> list[NewFile]:
    """The files of a checkpoint whose sections were renamed; those of a sharded one with the index last.

    Raises:
        UnsupportedError: a format that is not written in place of itself; the message names the way out.
        CorruptError: the file is damaged: nothing of it is rewritten.
    """
    refuse_damaged(checkpoint)
    if checkpoint.format == "sharded":
        return _sharded(checkpoint)
    writer = _WRITERS.get(checkpoint.format)
    if writer is None:
        raise UnsupportedError(
            f"{checkpoint.format} files are read only", path=checkpoint.path, hint=_WAY_OUT.get(checkpoint.format)
        )
    pickles, texts = checkpoint.containers[0], {s.pointer: s for s in checkpoint.sections.values()}
    return [writer(checkpoint, pickles, texts, "")]


_WAY_OUT = dict.fromkeys(
    ["torch-tar", "torchscript-model-json", "pickle"], "Make it a torch zip first: ckpt convert FILE -o OUT.pt"
)


def _size(pieces: list[Piece]) -> int:
    return sum(map(size_of, pieces))


# -- pickles ----------------------------------------------------------------------------------------------------


def new_pickle(pickle: Pickle, sections: Mapping[str, Section]) -> bytes | None:
    """The pickle of an object with its sections renamed, read back before it is trusted; None if nothing was renamed."""
    if all(section.renamed is None or section.renamed.is_identity() for section in sections.values()):
        return None
    replacements = Replacements()
    for section in sections.values():
        if section.renamed is None or section.renamed.is_identity():
            continue
        if section.kind == "module":
            replacements.nodes[id(section.node)] = section.instead
        else:
            replacements.rename(section, section.renamed.pairs)
    follow(replacements, pickle.root, sections)
    return pickle_with(pickle, replacements.nodes)


def pickle_with(pickle: Pickle, nodes: Mapping[int, Any]) -> bytes:
    """The pickle of the same object with other nodes, read back before it is trusted."""
    data = write_pickle(pickle.root, pickle.protocol, nodes)
    back = read_pickle(BytesSource(data, ""))
    if back.end != len(data) or not storage_keys(back) <= storage_keys(pickle):
        raise CorruptError("the new pickle does not read back as what it was made from: nothing was written")
    return data


# -- torch zip --------------------------------------------------------------------------------------------------


def _torch_zip(checkpoint: Checkpoint, container: Container, sections: Mapping[str, Section], name: str) -> NewFile:
    pickle: Pickle = container.graphs["data.pkl"]
    data = new_pickle(pickle, sections)
    return rewritten_zip(container, {}, name) if data is None else zip_with(container, data, name)


def zip_with(container: Container, data: bytes, name: str = "") -> NewFile:
    """A torch zip with another pickle: storages that it does not name go, the others keep their keys."""
    pickle: Pickle = container.graphs["data.pkl"]
    kept = storage_keys(read_pickle(BytesSource(data, "")))
    dropped = {f"data/{key}" for key in storage_keys(pickle) - kept}
    if dropped:
        dropped.add(".format_version")  # computed offsets would no longer be right (formats 4.4)
    return rewritten_zip(container, {"data.pkl": data}, name, dropped)


def rewritten_zip(
    container: Container, changed: Mapping[str, bytes], name: str = "", dropped: frozenset[str] | set[str] = frozenset()
) -> NewFile:
    """A zip archive with other content in some of its records."""
    archive = archive_of(container)
    alignment = alignment_of(archive)
    layout = rewrite(archive, changed, dropped, alignment)
    edit, why = None, "it is not written yet"
    if archive.source.file_range() is not None and not changed and not dropped:
        edit, why = Edit([], [], b""), ""
    elif archive.source.file_range() is not None:
        append, last = appended(archive, changed, alignment, dropped)
        edit, why = Edit([], append, last), ""
    return NewFile(container.path, name, layout, layout.nbytes, edit, why)


def _torchscript(checkpoint: Checkpoint, container: Container, sections: Mapping[str, Section], name: str) -> NewFile:
    """Its names live in its code: it is copied, as it is or as a conversion made it."""
    return rewritten_zip(container, {}, name)


def archive_of(container: Container) -> ZipArchive:
    record = next(iter(container.records.values()))
    assert isinstance(record, ZipRecord)
    return record.archive


def alignment_of(archive: ZipArchive) -> int:
    record = archive.records.get(".storage_alignment")
    text = record.source.read_at(0, 16).strip() if record is not None else b"64"
    return int(text) if text.isdigit() and 0 < int(text) <= 1 << 16 else 64


# -- legacy stream ----------------------------------------------------------------------------------------------


def _legacy(checkpoint: Checkpoint, container: Container, sections: Mapping[str, Section], name: str) -> NewFile:
    source = container.source
    pickle: Pickle = container.graphs["object"]
    keys: Pickle = container.graphs["storage keys"]
    data = new_pickle(pickle, sections)
    why = "a legacy file has no room for another pickle: its storages would have to move"
    if data is None:
        return NewFile(container.path, name, [source], source.size, None, why)
    kept = storage_keys(read_pickle(BytesSource(data, "")))
    gone = storage_keys(pickle) - kept
    pieces: list[Piece] = [source.slice(0, pickle.start), data]
    if not gone:
        pieces.append(source.slice(pickle.end, source.size - pickle.end))
    else:
        pieces.append(write_pickle([key for key in keys.root if str(key) not in gone], keys.protocol))
        offset = keys.end
        for key in keys.root:
            length = 8 + container.records[str(key)].nbytes
            if str(key) not in gone:
                pieces.append(source.slice(offset, length))
            offset += length
    return NewFile(container.path, name, pieces, _size(pieces), None, why)


# -- safetensors ------------------------------------------------------------------------------------------------


def _safetensors(checkpoint: Checkpoint, container: Container, sections: Mapping[str, Section], name: str) -> NewFile:
    section = sections[""]
    keys: Keys = section.renamed.pairs if section.renamed is not None else {}
    header: dict[str, Any] = container.graphs["header"]
    new: dict[str, Any] = {}
    ranges: list[tuple[int, int]] = []
    dropped = False
    for key, entry in header.items():
        target = key if key == "__metadata__" else keys.get(key, key)
        if target is None:
            dropped = True
            continue
        new[target] = recorded.renamed(entry, keys) if key == "__metadata__" and entry else entry
        if key != "__metadata__":
            ranges.append((entry["data_offsets"][0], entry["data_offsets"][1]))
    source = container.source
    old_length = int.from_bytes(source.read_at(0, 8), "little")
    if section.renamed is None:
        return NewFile(container.path, name, [source], source.size, Edit([], [], b""), "")
    if dropped:
        return _safetensors_without(container, new, ranges, old_length, name)
    text = header_text(new)
    tail = source.slice(8 + old_length, source.size - 8 - old_length)
    pieces: list[Piece] = [len(text).to_bytes(8, "little") + text, tail]
    short = text.rstrip(b" ")
    edit = Edit([(8, short + b" " * (old_length - len(short)))], [], b"") if len(short) <= old_length else None
    why = "" if edit else f"the new header is {len(short) - old_length:,} bytes longer than the room there is for it"
    return NewFile(container.path, name, pieces, _size(pieces), edit, why)


def header_text(header: dict[str, Any]) -> bytes:
    """Compact JSON, padded with spaces so that the data begin at a multiple of 8, as the library writes it."""
    try:
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise UnsupportedError("safetensors cannot hold a key with a lone surrogate") from error
    return text + b" " * (-len(text) % 8)


def _safetensors_without(
    container: Container, header: dict[str, Any], ranges: list[tuple[int, int]], old_length: int, name: str
) -> NewFile:
    """Without the bytes of dropped tensors: the rest moves together, for the format allows no holes."""
    moved: dict[int, int] = {}
    end = 0
    for begin, stop in sorted(ranges):
        moved[begin] = end if stop > begin else moved.get(begin, end)
        end += stop - begin
    new = {
        key: entry if key == "__metadata__" else {**entry, "data_offsets": _shift(entry["data_offsets"], moved)}
        for key, entry in header.items()
    }
    text = header_text(new)
    base = 8 + old_length
    data = [container.source.slice(base + begin, stop - begin) for begin, stop in sorted(ranges)]
    pieces: list[Piece] = [len(text).to_bytes(8, "little") + text, *data]
    return NewFile(
        container.path,
        name,
        pieces,
        _size(pieces),
        None,
        "dropped tensors would leave holes, which safetensors refuses",
    )


def _shift(offsets: list[int], moved: Mapping[int, int]) -> list[int]:
    begin, end = offsets
    return [moved[begin], moved[begin] + end - begin]


# -- shards -----------------------------------------------------------------------------------------------------


def _sharded(checkpoint: Checkpoint) -> list[NewFile]:
    index = checkpoint.containers[0]
    keys: Keys = checkpoint.sections[""].renamed.pairs if checkpoint.sections[""].renamed is not None else {}
    weight_map: dict[str, str] = index.graphs["index"]["weight_map"]
    files: list[NewFile] = []
    folder = os.path.dirname(index.path)
    for shard in checkpoint.parts:
        container = shard.containers[0]
        name = os.path.relpath(container.path, folder or ".")
        here = KeyMap({key: keys.get(key, key) for key in entry_keys(shard.sections[""])})
        section = shard.sections[""] if here.is_identity() else shard.sections[""].with_keys(here)
        files.append(_WRITERS[shard.format](shard, container, {"": section}, name))
    new_map = {new: name for key, name in weight_map.items() if (new := keys.get(key, key)) is not None}
    data = {**index.graphs["index"], "weight_map": new_map}
    metadata = data.get("metadata")
    if isinstance(metadata, dict) and isinstance(metadata.get(recorded.NAME), str):
        ours = recorded.renamed({recorded.NAME: metadata[recorded.NAME]}, keys)
        data["metadata"] = {**metadata, **ours}
    before = [i for shard in checkpoint.parts for key, i in shard.sections[""].tensors.items() if key in weight_map]
    change = tensor_bytes(checkpoint.sections[""].tensors.values()) - tensor_bytes(before)
    files.append(_index_file(index, data, change))
    return files


def index_file(checkpoint: Checkpoint, change: int) -> NewFile:
    """The index of a sharded checkpoint whose tensors have ``change`` bytes more than it says."""
    index = checkpoint.containers[0]
    return _index_file(index, index.graphs["index"], change)


def _index_file(index: Container, data: dict[str, Any], change: int) -> NewFile:
    metadata = data.get("metadata")
    if change and isinstance(metadata, dict) and type(metadata.get("total_size")) is int:
        data = {**data, "metadata": {**metadata, "total_size": metadata["total_size"] + change}}
    old = index.source
    if json.dumps(data) == json.dumps(index.graphs["index"]):  # in the same order
        return NewFile(index.path, os.path.basename(index.path), [old], old.size, Edit([], [], b""), "")
    text = (json.dumps(data, indent=2) + "\n").encode()
    edit = Edit([(0, text[: old.size])], [text[old.size :]] if len(text) > old.size else [], b"")
    if len(text) < old.size:  # JSON may be followed by spaces
        edit = Edit([(0, text.ljust(old.size))], [], b"")
    return NewFile(index.path, os.path.basename(index.path), [text], len(text), edit, "")


def tensor_bytes(infos: Iterable[TensorInfo]) -> int:
    """Bytes of tensors, each view once: what the index of shards says."""
    views = {info.view_of or place: info.nbytes for place, info in enumerate(infos)}
    return sum(views.values())


_WRITERS = {
    "torch-zip": _torch_zip, "torch-legacy": _legacy, "torchscript": _torchscript, "safetensors": _safetensors,
}  # fmt: skip
