"""Formats, recognised by content and never by suffix. A new one is a module and a line in ``FORMATS``."""

from __future__ import annotations

import gc
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import CheckpointError, FileError, MissingFileError
from ..model.checkpoint import Checkpoint
from ..model.source import FileSource, Source
from ..pickles.limits import DEFAULT, Limits
from . import archive, plain_pickle, safetensors, torch_legacy, torch_tar

# Each has matches(head, source) and read(source, limits); the first that matches opens the file.
FORMATS = (archive, torch_legacy, safetensors, torch_tar, plain_pickle)
_HEAD = 4096
NOTE = "edit in place"  # the fact under which it is said that an edit was interrupted
JOURNAL = ".ckpt-journal"  # of containers.journal_file, which is imported when there is one


def open_checkpoint(path: str, section: str | None = None, limits: Limits = DEFAULT) -> Checkpoint:
    """Open a file or directory; ``section`` names a part of it, as ``FILE#SECTION`` does.

    Raises:
        CheckpointError: one of its leaves, which says what the file is and what is wrong.
    """
    if section is None and not os.path.exists(path):
        path, section = split_section(path)
    with _collector_paused():
        checkpoint = _open(path, limits)
    return checkpoint.select(section) if section is not None else checkpoint


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Nothing made while reading is garbage, and the collector would look at all of it again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def split_section(argument: str) -> tuple[str, str | None]:
    """``FILE#SECTION`` at the first ``#`` whose left part exists (design 2)."""
    position = argument.find("#")
    while position > 0:
        if os.path.exists(argument[:position]):
            return argument[:position], argument[position + 1 :]
        position = argument.find("#", position + 1)
    return argument, None


def _open(path: str, limits: Limits) -> Checkpoint:
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError as error:
        raise MissingFileError("there is no such file", path=path, hint=_similar(path)) from error
    except (OSError, ValueError) as error:
        raise FileError(str(getattr(error, "strerror", None) or error).lower(), path=path) from error
    if stat.S_ISDIR(mode):
        from . import directory

        return directory.read(path, lambda name: _open_file(name, limits), limits, open_source)
    return _open_file(path, limits)


def _open_file(path: str, limits: Limits) -> Checkpoint:
    file, source, note = open_source(path)
    try:
        checkpoint = read_source(source, limits)
    except CheckpointError as error:
        error.path = error.path or path
        file.close()
        raise
    if note:
        checkpoint.facts[NOTE] = note
    return checkpoint


def open_source(path: str) -> tuple[FileSource, Source, str]:
    """A file to read, as it was before an edit in place that was interrupted; and a note that says so."""
    file = FileSource(path)
    real = os.path.realpath(path)
    if any(map(os.path.exists, (real + JOURNAL, os.path.join(os.path.dirname(real), JOURNAL)))):
        from ..containers import recovery

        file.close()
        return recovery.open_source(path)
    return file, file, ""


def read_source(source: Source, limits: Limits = DEFAULT) -> Checkpoint:
    """Open bytes of whatever format, a file or one that is not written yet."""
    head = source.read_at(0, _HEAD)
    for format in FORMATS:
        if format.matches(head, source):
            try:
                checkpoint: Checkpoint = format.read(source, limits)
                return checkpoint
            except CheckpointError as error:
                if format is plain_pickle and not plain_pickle.is_certain(error):
                    break  # bytes that only looked like a pickle
                raise
    if source.path.endswith(".json") and b'"weight_map"' in source.read_at(0, 1 << 20):
        from . import sharded

        return sharded.read(source.path, source.path, lambda name: _open_file(name, limits), limits, open_source)
    from .sniff import explain

    raise explain(source, head)


def _similar(path: str) -> str | None:
    """Names like the one that is not there."""
    from difflib import get_close_matches

    from ..model.spelling import shell_path

    folder, name = os.path.split(path)
    try:
        names = os.listdir(folder or ".")
    except OSError:
        return None
    by_stem: dict[str, list[str]] = {}  # a suffix that is the same is no likeness
    for one in names:
        by_stem.setdefault(os.path.splitext(one)[0], []).append(one)
    stems = get_close_matches(os.path.splitext(name)[0], by_stem, n=3, cutoff=0.6)
    close = [one for stem in stems for one in by_stem[stem]][:3]
    return f"Did you mean {' or '.join(shell_path(os.path.join(folder, match)) for match in close)}?" if close else None
