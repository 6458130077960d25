"""Writing a checkpoint view: to a new file or directory, or in place under a journal (design 4)."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from ..containers import journal, output
from ..errors import CheckpointError, UnsupportedError
from ..formats import drafts, open_checkpoint, sharded
from ..formats.rewrite import NewFile, rewritten
from ..model.checkpoint import Checkpoint
from ..model.spelling import shell_path
from .proven import Proof
from .sums import files_of


class Written(NamedTuple):
    """What was written: where, and how many bytes of old and of new content."""

    out: str
    nbytes: int


def save(checkpoint: Checkpoint, out: str, *, force: bool = False, progress: Any = None) -> Written:
    """Write a checkpoint, as renamed, to a new file, or to a new directory for a sharded one.

    Tensor bytes are copied as they lie. The file is complete under its name or not there.

    Raises:
        OutputExistsError: ``out`` is there and ``force`` is not given.
        UnsupportedError: the format is read only.
        CorruptError: the file is damaged, or changed while it was read. Records whose checksums go no further (casts,
            formats without them) are compared with them first.
    """
    files = rewritten(checkpoint)
    _refuse_bare(checkpoint, out)
    total = sum(file.nbytes for file in files)
    origin = checkpoint.origin or checkpoint
    origin = origin.whole or origin
    like = origin.containers[0].path
    with Proof(files, origin) as proof:
        if checkpoint.format == "sharded":
            contents = {file.name: file.pieces for file in files}
            output.replace_directory(
                out, contents, force=force, replaces=_shards_in(out), like=like, total=total, progress=progress,
                check=proof.check,
            )  # fmt: skip
        else:
            (file,) = files
            output.replace_file(
                out, file.pieces, force=force, like=like, total=total, progress=progress, check=proof.check
            )
    return Written(out, total)


def _shards_in(folder: str) -> list[str]:
    """The files of a sharded checkpoint that is there: they may go when another takes its place."""
    try:
        with open_checkpoint(folder) as old:
            return list(files_of(old))
    except CheckpointError:
        return []


def paths_of(checkpoint: Checkpoint) -> list[str]:
    """All files that a checkpoint is made of, those that could not be opened too."""
    whole = checkpoint.origin or checkpoint
    whole = whole.whole or whole
    found = [container.path for container in whole.containers]
    folder = os.path.dirname(found[0]) if found else ""
    return [*found, *(os.path.join(folder, name) for name in sharded.names(whole))]


def save_in_place(checkpoint: Checkpoint) -> Written:
    """Change the file itself: a few bytes, under a journal and a lock, undone if interrupted.

    Raises:
        UnsupportedError: it cannot be done safely here; the reason is named.
    """
    origin = checkpoint.origin
    files = _edits(checkpoint)
    if not files:
        return Written(checkpoint.path, 0)
    containers = (origin.whole or origin if origin is not None else checkpoint).containers
    read = [whole[0] for c in containers if (whole := c.source.file_range()) is not None]
    with journal.edit_many([file.source for file in files], read=read) as edits:
        for file in files:
            _apply(edits[file.source], file)
        edits.commit()
    return Written(checkpoint.path, sum(_edited(file) for file in files))


def save_compact(checkpoint: Checkpoint, *, progress: Any = None) -> Written:
    """Write the file itself anew, whole or not at all, without the bytes that edits left dead.

    Raises:
        UnsupportedError: the file has other names, which would keep what it was.
    """
    if checkpoint.format != "sharded":
        journal.check_changeable(checkpoint.path)
    return save(checkpoint, checkpoint.path, force=True, progress=progress)


def rehearse(checkpoint: Checkpoint, out: str | None, *, in_place: bool = False, compact: bool = False) -> None:
    """Refuse what writing would refuse, as far as that can be told without writing; that OUT is there is not refused.

    Raises:
        CheckpointError: as :func:`save` and :func:`save_in_place`.
    """
    if in_place and not compact:
        for file in _edits(checkpoint):
            journal.check_changeable(file.source)
        return
    files = rewritten(checkpoint)
    if in_place and checkpoint.format != "sharded":
        journal.check_changeable(checkpoint.path)
    target = checkpoint.path if in_place else out
    if target is None:
        return
    total = sum(file.nbytes for file in files)
    if checkpoint.format == "sharded":
        known = {*(file.name for file in files), *_shards_in(target)}
        output.check_directory(target, known, total, force=True)
    else:
        _refuse_bare(checkpoint, target)
        output.check_file(target, total, force=True)


def _refuse_bare(checkpoint: Checkpoint, out: str) -> None:
    """What comes out of a directory of one file is that file: under the name of a directory nobody would look for it."""
    origin = checkpoint.origin or checkpoint
    origin = origin.whole or origin
    if checkpoint.format != "sharded" and os.path.isdir(origin.path) and not os.path.splitext(out)[1]:
        inside = os.path.join(out, os.path.basename(origin.containers[0].path))
        there = "" if os.path.isdir(out) else f"mkdir {shell_path(out)}, then "
        raise UnsupportedError(
            f"{origin.path} holds one file: one file is written, not a directory",
            path=out, hint=f"Name the file: {there}-o {shell_path(inside)}",
        )  # fmt: skip


def _edits(checkpoint: Checkpoint) -> list[NewFile]:
    """The files that an edit in place would change.

    Raises:
        UnsupportedError: one of them cannot be changed in place; the reason is named.
    """
    files = rewritten(checkpoint) if checkpoint.origin is None else drafts.edits(drafts.settled(checkpoint))
    for file in files:
        if file.edit is None:
            raise UnsupportedError(
                f"not in place: {file.why_not}", path=file.source, hint="Write a new file instead: -o OUT"
            )
    return [file for file in files if _edited(file)]


def _apply(edit: journal.FileEdit, file: NewFile) -> None:
    plan = file.edit
    assert plan is not None
    for offset, data in plan.overwrite:
        edit.overwrite(offset, data)
    if plan.append:
        edit.append(*plan.append)
    if plan.last:
        edit.barrier()  # the end record makes the rest count: it comes when that is on the disk
        edit.append(plan.last)


def _edited(file: NewFile) -> int:
    plan = file.edit
    assert plan is not None
    return sum(len(data) for _, data in plan.overwrite) + sum(map(len, plan.append)) + len(plan.last)


def save_text(text: str, out: str, option: str, read: Checkpoint, *, force: bool = False) -> None:
    """Write a small text file whole or not at all; ``option`` is how the command line names it.

    Raises:
        SelectionError: it is a file of the checkpoint ``read``.
    """
    output.keep_read(out, paths_of(read), "the checkpoint", option)
    output.replace_file(out, [text.encode("utf-8", "surrogateescape")], force=force, out=option)


def recover(path: str) -> str:
    """Undo an edit in place that was interrupted; what was found and done, in a sentence.

    Raises:
        FileError: another process edits the file right now.
    """
    return journal.recover(path)
