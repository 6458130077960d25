"""Zip archives: which of torch's formats one is, and what it is if none."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from ..containers.zip import END, LOCAL_MAGIC, ZipArchive, ZipRecord, read_archive
from ..containers.zip_check import content_start
from ..containers.zip_pickle import newer_state
from ..containers.zip_traces import described, differs_by_damage, entries, is_as_described
from ..errors import CheckpointError, CorruptError, FormatError, LimitError, UnsupportedError
from ..model.checkpoint import Checkpoint
from ..model.graph import Pickle
from ..model.problem import Problem
from ..model.source import BytesSource, Source
from ..model.storage import Container, Record
from ..pickles.limits import DEFAULT, Limits
from ..pickles.machine import read_pickle
from . import official

UNPROVED = "has lost its checksum: nothing proves that it is what was written"
WRONG_IN_DIRECTORY = "its checksum in the directory is damaged: the one behind it is right"
WRONG_CHECKSUM = "fails its checksum: it was damaged after it was written"


def matches(head: bytes, source: Source) -> bool:
    return head.startswith(LOCAL_MAGIC)


def read(source: Source, limits: Limits = DEFAULT) -> Checkpoint:
    """Open a zip archive of any of torch's kinds.

    Raises:
        UnsupportedError: a kind that is known and has an official way.
        FormatError: a zip archive that is no checkpoint.
    """
    try:
        archive = read_archive(source, limits)
    except CorruptError as error:
        if source.path.endswith(".distcp"):  # several archives, one after the other: formats 8
            raise official.distributed(source.path, "one shard of a distributed checkpoint") from error
        if not isinstance(error, LimitError):
            from . import remedies

            error.hint = error.hint or remedies.of_archive(source, limits)
        raise
    names = archive.records
    if "constants.pkl" in names:
        from . import torchscript

        return torchscript.read(source, archive, limits)
    if "model.json" in names:
        from . import model_json

        return model_json.read(source, archive, limits)
    if "data.pkl" in names:
        from . import torch_zip

        return torch_zip.read(source, archive, limits)
    raise _not_a_checkpoint(source, archive)


def open_container(source: Source, archive: ZipArchive, format: str, checkpoint: Checkpoint) -> Container:
    """The container of an archive, its oddities among the problems."""
    container = Container(source.path, format, source)
    container.records.update(archive.records)
    checkpoint.containers.append(container)
    if archive.outside:
        checkpoint.problems.append(
            f"{len(archive.outside)} records lie outside {archive.root[:80]!r}, {archive.outside[0][:80]!r} among them: "
            "torch refuses that"
        )
    checkpoint.problems += complaints(archive)
    container.facts["root"] = archive.root.rstrip("/")
    return container


def complaints(archive: ZipArchive) -> Iterator[Problem]:
    """What makes torch read another archive than is here, though all of it is here."""
    if archive.false_end:
        yield Problem(
            "torch.load does not find the directory: it takes what stands behind the archive for the end record "
            f"(byte {archive.false_end:,})"
        )
    elif archive.end_offset and not archive.in_reach:
        yield too_far(archive.end_offset + END.size)
    newer = newer_state(archive)
    if newer:
        yield Problem(
            f"records of the same archive follow its end, from byte {newer:,} on: the directory of a newer state is lost, "
            "and what is read is the older one"
        )
    for record in archive.everything:
        if record.hollow:
            text = f"record {record.name} is marked as a folder in the directory: torch reads none of its bytes"
            yield Problem(text, record.name)


def too_far(end: int) -> Problem:
    """The problem of an archive that ends there, too far before the end of the file."""
    return Problem(f"torch.load does not find the directory: too many bytes follow the archive, from byte {end:,} on")


def archive_in(container: Container) -> ZipArchive | None:
    """The zip archive that a container is, None if it is none."""
    members = (record.archive for record in container.records.values() if isinstance(record, ZipRecord))
    return next(members, None)


def small(archive: ZipArchive, name: str) -> str | None:
    """The text of a small metadata record, None if it is not there."""
    record = archive.records.get(name)
    if record is None or record.nbytes > 4096:
        return None
    return record.source.read_at(0, record.nbytes).decode("utf-8", "replace").strip()


def content(record: ZipRecord, limits: Limits) -> Source:
    """The bytes of a record that is about to be parsed: deflated ones are inflated, within bounds."""
    if not record.deflated:
        return record.source
    archive = record.archive
    archive.inflated += record.nbytes
    if archive.inflated > limits.inflated + 4 * archive.source.size:
        raise LimitError(f"{record.nbytes:,} bytes deflated to {record.compressed:,}: refused", record=record.name)
    return BytesSource(record.source.read_at(0, record.nbytes), record.source.path)


def pickle_record(archive: ZipArchive, container: Container, name: str, problems: list[str], limits: Limits) -> Pickle:
    """Read the pickle of one record into ``container.graphs``; a wrong checksum is a problem."""
    record = archive.records[name]
    source = None
    try:
        source = content(record, limits)
        pickle = read_pickle(source, 0, limits.of_deflated(source.size) if record.deflated else limits)
    except CheckpointError as error:
        if source is not None and not archive.truncated and record.crc is not None and _crc(source) != record.crc:
            raise CorruptError(  # whatever damage looks like to the machine: a limit that is met, too
                WRONG_CHECKSUM, path=container.path, record=name, hint="Copy or download it again."
            ) from error
        error.record = error.record or name
        error.path = error.path or container.path
        if archive.truncated and isinstance(error, CorruptError) and not isinstance(error, LimitError):
            error.hint = (
                f"The file ends at {archive.source.size:,} bytes, inside its pickle: download or copy it again."
            )
        raise
    container.graphs[name] = pickle
    if archive.truncated:
        proved = _is_proved(archive, record, pickle)
        if not proved:
            why = WRONG_CHECKSUM if proved is not None else UNPROVED
            problems.append(Problem(f"record {name} {why}", name))
    if not archive.truncated:
        crc = _crc(source) if record.crc is not None else None
        if crc is not None and crc != record.crc:
            if descriptor_proves(record, crc):
                problems.append(
                    Problem(f"the checksum of {name} in the directory is damaged: the one behind it is right")
                )
                record.crc = crc
            else:
                problems.append(Problem(f"record {name} {WRONG_CHECKSUM}", name))
        if pickle.notes:
            container.facts[f"{name} oddities"] = "; ".join(pickle.notes)
        if pickle.end != record.nbytes:
            container.facts[f"{name} trailing"] = f"{record.nbytes - pickle.end:,} bytes after STOP"
    return pickle


def descriptor_proves(record: Record, crc: int) -> bool:
    """Whether it is the directory's checksum that was damaged: the descriptor has the right one, and that is close."""
    if not isinstance(record, ZipRecord):
        return False
    found = described(record.archive.source, content_start(record), record.compressed)
    return found is not None and found[0] == crc and differs_by_damage(crc, record.crc or 0)


def _is_proved(archive: ZipArchive, record: ZipRecord, pickle: Pickle) -> bool | None:
    """Whether the pickle of an archive without a directory is what was written; None: nothing tells."""
    if not record.flags & 8:
        return record.crc is None or _crc(record.source) == record.crc
    described = is_as_described(record.source, 0, pickle.end)
    if described:
        return True
    crc = _crc(record.source.slice(0, pickle.end))
    listed = {entry.crc for entry in entries(archive.source) if entry.name == archive.root + record.name}
    return True if crc in listed else described


def _crc(source: Source) -> int:
    crc, offset = 0, 0
    while chunk := source.read_at(offset, 1 << 20):
        crc = zlib.crc32(chunk, crc)
        offset += len(chunk)
    return crc


_PACKAGES = (
    (".data/extern_modules", "a torch.package archive", "Open it with torch.package.PackageImporter(path)."),
    ("bytecode.pkl", "a mobile TorchScript archive without constants", "Open it with torch.jit.mobile."),
)


def _not_a_checkpoint(source: Source, archive: ZipArchive) -> CheckpointError:
    names = archive.records
    if archive.truncated and not names:
        return CorruptError(
            f"a zip archive cut after {source.size:,} bytes: not even its first record is whole",
            path=source.path,
            hint="Download or copy it again.",
        )
    if small(archive, "archive_format") == "pt2" or "models/model.json" in names:
        return UnsupportedError(
            "a torch.export archive (.pt2): a program with its weights",
            path=source.path,
            hint="Load it with torch.export.load(path); its weights are in .state_dict.",
        )
    for name, what, hint in _PACKAGES:
        if name in names:
            return UnsupportedError(what, path=source.path, hint=hint)
    if archive.truncated:
        first = next(iter(names))
        return CorruptError(
            f"a zip archive without its directory, cut after {source.size:,} bytes; it begins with {first[:80]!r}, "
            "not with the pickle, so nothing can be shown",
            path=source.path,
            hint="Download or copy it again.",
        )
    text, next_step = _plain_zip(archive, source.path)
    return FormatError(text, path=source.path, hint=next_step)


def _plain_zip(archive: ZipArchive, path: str) -> tuple[str, str | None]:
    """What it is, and what to type next."""
    everything = [archive.root + name for name in archive.records] + archive.outside
    listed = ", ".join(repr(name[:60]) for name in everything[:4]) + (", …" if len(everything) > 4 else "")
    if everything and all(name.endswith(".npy") for name in everything):
        return "a numpy .npz archive, not a checkpoint", "Open it with numpy.load."
    if "[Content_Types].xml" in everything:
        return "an Office document (zip), not a checkpoint", None
    if "data.pkl" in archive.outside:
        text = "a zip archive with data.pkl at its top, where torch.save writes NAME/data.pkl: torch refuses it"
        return text, official.zipped_again(path)
    pickles = [name for name in everything if name.rpartition("/")[2] == "data.pkl"]
    if pickles:
        text = f"a zip archive around an unpacked checkpoint: {pickles[0][:80]!r} is deeper than torch looks"
        return text, official.zipped_again(path, pickles[0].split("/")[:-1])
    return f"a zip archive, not a checkpoint: it holds {listed or 'nothing'}", None
