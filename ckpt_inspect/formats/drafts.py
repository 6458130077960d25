"""Checkpoints that are not written yet: bytes that will be, opened by the ordinary reader.

A conversion is a checkpoint over such bytes, so it can be looked at, renamed and converted again; saving copies
them. What the reader refuses is never written.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..containers.copying import Piece
from ..containers.zip_writer import Layout, appended
from ..errors import CorruptError, MissingFileError, UnsupportedError
from ..model.checkpoint import Checkpoint
from ..model.made import Joined
from ..model.source import Source
from ..pickles.limits import DEFAULT
from . import read_source
from .rewrite import Edit, NewFile, alignment_of, archive_of, index_file, rewritten, tensor_bytes


def opened(origin: Checkpoint, source: Source) -> Checkpoint:
    """The checkpoint that ``source`` will be as a file.

    Raises:
        CorruptError: it would not be sound; then nothing is written.
    """
    return _sound(read_source(source), origin)


def joined(path: str, pieces: Layout | Iterable[Piece]) -> Joined:
    """Pieces of a file that is to be, as a source."""
    return Joined(path, pieces.draft() if isinstance(pieces, Layout) else pieces)


def opened_directory(origin: Checkpoint, folder: str, index: str, files: Mapping[str, Source]) -> Checkpoint:
    """The sharded checkpoint that a directory of these files will be; ``index`` is the name of its index."""
    from . import sharded

    def source_of(path: str) -> Source:
        name = os.path.relpath(path, folder).replace(os.sep, "/")
        if name not in files:
            raise MissingFileError("there is no such shard", path=path)
        return files[name]

    def open_source(path: str) -> tuple[None, Source, str]:
        return None, source_of(path), ""

    made = sharded.read(
        os.path.join(folder, index), folder, lambda path: read_source(source_of(path)), DEFAULT, open_source
    )
    return _sound(made, origin)


def _sound(made: Checkpoint, origin: Checkpoint) -> Checkpoint:
    if made.problems:
        raise CorruptError(f"the result would be damaged: {made.problems[0]}", path=origin.path)
    made.origin = origin.origin or origin
    return made


def settled(checkpoint: Checkpoint) -> Checkpoint:
    """A renamed view as a draft: names as a file would have them; any other checkpoint as it is."""
    if all(section.renamed is None for section in checkpoint.sections.values()):
        return checkpoint
    return _read_back(checkpoint, rewritten(checkpoint))


def with_each_file(checkpoint: Checkpoint, change: Callable[[Checkpoint], NewFile | None]) -> Checkpoint:
    """A checkpoint with some of its files changed; ``change`` gives None for one that stays."""
    shards = checkpoint.parts or [checkpoint]
    changed = [change(shard) for shard in shards]
    if all(file is None for file in changed):
        return checkpoint
    if not checkpoint.parts:
        (file,) = changed
        return _read_back(checkpoint, [file] if file is not None else [])
    files = {file.name: file for file in rewritten(checkpoint)}
    for shard, file in zip(shards, changed, strict=True):
        if file is not None:
            name = next(name for name, old in files.items() if old.source == shard.containers[0].path)
            files[name] = file._replace(name=name)
    made = _read_back(checkpoint, list(files.values()))
    new, old = (tensor_bytes(one.sections[""].tensors.values()) for one in (made, checkpoint))
    if new == old:
        return made
    return _read_back(checkpoint, [*list(files.values())[:-1], index_file(made, new - old)])


def file_of(shard: Checkpoint) -> NewFile:
    """A shard that was made anew, as one of the files to be written."""
    (file,) = rewritten(shard)
    return file


def _read_back(checkpoint: Checkpoint, files: list[NewFile]) -> Checkpoint:
    if checkpoint.format != "sharded":
        return opened(checkpoint, joined(files[0].source, files[0].pieces))
    index = checkpoint.containers[0].path
    folder = os.path.dirname(index)
    sources: dict[str, Source] = {
        file.name.replace(os.sep, "/"): joined(os.path.join(folder, file.name), file.pieces) for file in files
    }
    return opened_directory(checkpoint, folder, os.path.basename(index), sources)


# -- in place ---------------------------------------------------------------------------------------------------


def edits(made: Checkpoint) -> list[NewFile]:
    """What turns the files of a draft's origin into the draft, in place.

    Raises:
        UnsupportedError: more changes than metadata.
    """
    origin = made.origin
    assert origin is not None
    if origin.selected:
        raise UnsupportedError(
            "not in place: a part would take the place of the whole file", path=origin.path, hint=_NEW
        )
    olds, news = ([part.containers[0] for part in (whole.parts or [whole])] for whole in (origin.whole or origin, made))
    if (origin.whole or origin).format != made.format or len(olds) != len(news):
        raise UnsupportedError("not in place: another format is another file", path=origin.path, hint=_NEW)
    found = []
    for old, new in zip(olds, news, strict=True):
        if old.format != new.format or old.format not in ("torch-zip", "torchscript"):
            raise UnsupportedError(f"not in place: a {old.format} file has no room for it", path=old.path, hint=_NEW)
        edit = _zip_edit(old, new)
        if edit is not None:
            found.append(NewFile(old.path, os.path.basename(old.path), [], 0, edit, ""))
    return found


_NEW = "Write a new file instead: -o OUT"


def _zip_edit(old: Any, new: Any) -> Edit | None:
    before, after = archive_of(old), archive_of(new)
    known = {_place(record.source) for record in before.records.values() if record.nbytes} - {None}
    changed: dict[str, bytes] = {}
    for name, record in after.records.items():
        if name not in before.records:
            raise UnsupportedError(f"not in place: record {name} would be new", path=old.path, hint=_NEW)
        there, here = _place(before.records[name].source), _place(record.source)
        if there is None or there != here:
            if name.startswith(("data/", "constants/")):
                why = "storages would get other numbers" if here in known else "tensor bytes would change"
                raise UnsupportedError(f"not in place: {why}", path=old.path, hint=_NEW)
            changed[name] = record.source.read_at(0, record.nbytes)
    dropped = before.records.keys() - after.records.keys()
    if not changed and not dropped:
        return None
    append, last = appended(before, changed, alignment_of(before), dropped)
    return Edit([], append, last)


def _place(source: Source) -> tuple[int, int, int] | None:
    """Where bytes lie in a file; of deflated ones, where those do."""
    raw: Source = getattr(source, "compressed", source)
    whole = raw.file_range()
    return (id(whole[0]), whole[1], raw.size) if whole is not None else None
