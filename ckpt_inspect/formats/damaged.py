"""A torch zip that its directory does not tell of: by the newest pickle that is proved; of several in one file, one."""

from __future__ import annotations

from ..containers.zip import LOCAL_MAGIC, ZipArchive
from ..containers.zip_pickle import Place, appended_archive, has_newer
from ..containers.zip_traces import header_at
from ..containers.zip_walk import NEWER_LOST
from ..errors import CheckpointError
from ..model.checkpoint import Checkpoint
from ..model.source import Source
from ..model.spelling import shell_path
from ..pickles.limits import Limits
from . import archive as archives
from . import torch_zip
from .stock import pickle_of

_HEAD = 4096
_MOST_COPIES = 4  # the last ones


def read(source: Source, limits: Limits, notes: list[str]) -> Checkpoint | None:
    """The checkpoint that is whole, or more of it than of others in the same file; no two are mixed.

    Args:
        source: the file.
        limits: as for any file.
        notes: what is to be known is added to them.
    """
    if source.read_at(0, 4) != LOCAL_MAGIC and b"/data.pkl" not in source.read_at(0, _HEAD):
        return None
    checkpoint = torch_zip.read_damaged(source, limits)
    said: list[str] = []
    most, copies = 0, {appended_archive(source)} - {0}
    if checkpoint is not None:
        archive = _archive(checkpoint)
        most = _count(checkpoint, said)
        if archive.walked is not None:
            places = [place for place, count in archive.walked.copies if count or place in copies]
            copies = set(places[-_MOST_COPIES:])
        at = pickle_at(checkpoint)
        if at and _begins(source):
            said.append(
                "a newer state follows the archive, and its directory is damaged: names are those of the newer one"
            )
        elif NEWER_LOST not in said and has_newer(source, Place(archive.root, at, 0)):
            said.append(NEWER_LOST)
    chosen, best = 0, checkpoint
    for place in sorted(copies, reverse=True):
        other, count, words = _copy(source.slice(place, source.size - place), limits)
        if other is not None and count > most:
            chosen, best, most, said = place, other, count, words
    notes += said
    for place in sorted(copies):
        if place != chosen:
            notes.append(
                f"another archive begins at byte {place:,}, of which no more is whole; "
                f"to see it: tail -c +{place + 1} {shell_path(source.path)} > OUT"
            )
    if chosen:
        notes.append(f"a second archive begins at byte {chosen:,}, of which more is whole: it is taken, not the first")
    return best


def pickle_at(checkpoint: Checkpoint) -> int:
    """Where the header of its pickle is."""
    record = _archive(checkpoint).records["data.pkl"]
    offset: int = record.header_offset
    return offset


def _copy(source: Source, limits: Limits) -> tuple[Checkpoint | None, int, list[str]]:
    """An archive behind another one, how many of its storages are whole, and what is to be known of it."""
    notes: list[str] = []
    try:
        found: Checkpoint | None = archives.read(source, limits)
    except CheckpointError:
        found = torch_zip.read_damaged(source, limits)
    if found is None or found.format != torch_zip.NAME:
        return None, 0, notes
    return found, _count(found, notes), notes


def _count(checkpoint: Checkpoint, notes: list[str]) -> int:
    """How many storages are whole that are not empty."""
    container = checkpoint.containers[0]
    archive, pickle = _archive(checkpoint), pickle_of(container)
    known = {name: s for name, s in torch_zip.storages_of(checkpoint).items() if s.nbytes and s.location != "meta"}
    if pickle is None:
        return 0
    walked = torch_zip.walk_through(container, archive, pickle, torch_zip.storages_of(checkpoint), notes)
    return sum(name in walked and walked[name].whole for name in known)


def _archive(checkpoint: Checkpoint) -> ZipArchive:
    archive = archives.archive_in(checkpoint.containers[0])
    assert archive is not None
    return archive


def _begins(source: Source) -> bool:
    """Whether the first record is a pickle, too."""
    header = header_at(source, 0)
    return header is not None and header.name.endswith("/data.pkl")
