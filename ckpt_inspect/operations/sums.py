"""Checksums kept beside a checkpoint, for formats that have none: every byte of every file is covered.

They find damage, not forgery: CRC-32 is no signature.
"""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

from ..containers.checksums import Span, checksums
from ..containers.zip import LOCAL_MAGIC, ZipArchive, read_archive
from ..errors import CheckpointError, FormatError, SelectionError
from ..formats import sharded
from ..model.checkpoint import Checkpoint
from ..model.source import FileSource
from ..model.spelling import shell_path
from ..model.storage import Container, Record

SCHEMA = "ckpt-inspect/sums/1"
_LARGEST = 1 << 28


class Stretch(NamedTuple):
    """Bytes of one file that are summed together: a record, or what lies between records.

    Attributes:
        name: of the record; ``bytes 0-1234`` for what is none: headers, pickles, padding.
        record: the record, None for what is none.
        span: the bytes.
    """

    name: str
    record: Record | None
    span: Span


def stretches(container: Container) -> list[Stretch]:
    """A file cut into its records and what lies between them, in order; every byte once."""
    source = container.source
    placed: list[tuple[int, int, Record]] = []
    for record in container.records.values():
        try:
            where = record.source.file_range()
        except CheckpointError:
            continue  # it cannot be found: its bytes are among those between
        if where is not None and record.source.size:
            placed.append((where[1], where[1] + record.source.size, record))
    found: list[Stretch] = []
    position = 0
    for start, stop, record in sorted(placed, key=lambda entry: entry[:2]):
        if start < position or stop > source.size:
            continue
        if start > position:
            found.append(_between(container, position, start))
        found.append(Stretch(record.name, record, Span(source.slice(start, stop - start), stop - start)))
        position = stop
    if position < source.size:
        found.append(_between(container, position, source.size))
    return found


def _between(container: Container, start: int, stop: int) -> Stretch:
    return Stretch(f"bytes {start}-{stop}", None, Span(container.source.slice(start, stop - start), stop - start))


def unnamed(path: str) -> tuple[Checkpoint, ZipArchive | None]:
    """A file whose tensors cannot be told, as one container; an archive with its records.

    Raises:
        FileError: it cannot be read.
    """
    source = FileSource(path)
    container = Container(path, "unknown", source)
    try:
        archive = read_archive(source) if source.read_at(0, 4) == LOCAL_MAGIC else None
    except CheckpointError:
        archive = None
    if archive is not None:
        container.records.update(archive.records)
    checkpoint = Checkpoint(path, container.format, source.size)
    checkpoint.containers.append(container)
    return checkpoint, archive


def files_of(checkpoint: Checkpoint) -> dict[str, Container]:
    """Its containers by the name that a file of sums calls them: relative to the checkpoint's directory."""
    folder = checkpoint.path if os.path.isdir(checkpoint.path) else os.path.dirname(checkpoint.path)
    return {os.path.relpath(c.path, folder or ".").replace(os.sep, "/"): c for c in checkpoint.containers}


def document(checkpoint: Checkpoint, progress: Any = None) -> dict[str, Any]:
    """The sums of a checkpoint, as they are written.

    Raises:
        FileError: the file cannot be read.
    """
    files: dict[str, Any] = {}
    for name, container in files_of(checkpoint).items():
        parts = stretches(container)
        sums = checksums([part.span for part in parts], progress)
        for outcome in sums:
            if isinstance(outcome, CheckpointError):
                raise outcome
        files[name] = {
            "size": container.source.size,
            "crc32": [[part.name, part.span.nbytes, f"{crc:08x}"] for part, crc in zip(parts, sums, strict=True)],
        }
    return {"schema": SCHEMA, "files": files}


def read(path: str) -> dict[str, list[tuple[str, int, int]]]:
    """By file: what its stretches are called, their lengths in order, their sums.

    Raises:
        FormatError: it is no file of sums.
    """
    source = FileSource(path)
    try:
        if source.size > _LARGEST:
            raise FormatError(f"{source.size:,} bytes: no file of checksums", path=path)
        data = json.loads(source.read_at(0, source.size))
        if data["schema"] != SCHEMA:
            raise ValueError
        return {
            str(name): [(str(part), _count(nbytes), int(crc, 16)) for part, nbytes, crc in entry["crc32"]]
            for name, entry in data["files"].items()
        }
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise FormatError(
            "no file of checksums",
            path=path,
            hint="Write one while the file is sound: ckpt verify FILE --write-sums SUMS",
        ) from error
    finally:
        source.close()


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError
    return value


def write(checkpoint: Checkpoint, out: str, progress: Any = None, force: bool = False) -> int:
    """Record the checksums of a checkpoint in a new file; how many there are.

    Raises:
        OutputExistsError: ``out`` is there and ``force`` is not given.
        FileError: something cannot be read or written.
    """
    from ..containers.output import keep_read
    from .save import paths_of, save_text

    keep_read(out, paths_of(checkpoint), "the checkpoint", "--write-sums SUMS")  # before all of it is read
    made = document(checkpoint, progress)
    save_text(json.dumps(made, indent=0) + "\n", out, "--write-sums SUMS", checkpoint, force=force)
    return sum(len(entry["crc32"]) for entry in made["files"].values())


class Match(NamedTuple):
    """A file of the checkpoint and the sums that were made of it.

    Attributes:
        name: of the file; ``was``: its name when they were made.
        container: the file; None: it is missing.
        known: what its stretches are called, their lengths in order, their sums.
    """

    name: str
    was: str
    container: Container | None
    known: list[tuple[str, int, int]]


def match(checkpoint: Checkpoint, path: str) -> list[Match]:
    """Each file of the checkpoint with its sums.

    One that could not be opened is there all the same, as bytes without records; ``checkpoint`` closes it.

    Raises:
        SelectionError: the sums are of other files.
    """
    known = read(path)
    files = files_of(checkpoint)
    if len(known) == 1 and len(files) == 1 and known.keys() != files.keys():  # renamed meanwhile, or another file
        ((was, parts),), ((name, container),) = known.items(), files.items()
        if not _is_alike(container, parts):
            size = sum(nbytes for _, nbytes, _ in parts)
            raise SelectionError(
                f"it has the checksums of {was} ({size:,} bytes), not of {name} ({container.source.size:,} bytes)",
                path=path,
                hint=f"Record those of {name} while it is sound: ckpt verify {shell_path(checkpoint.path)} --write-sums SUMS",
            )
        return [Match(name, was, container, parts)]
    missing = [name for name in files if name not in known]
    if missing:
        raise SelectionError(f"it has no checksums of {missing[0]}, but of {', '.join(list(known)[:3])}", path=path)
    found = [Match(name, name, container, known[name]) for name, container in files.items()]
    folder = checkpoint.path if os.path.isdir(checkpoint.path) else os.path.dirname(checkpoint.path)
    indexed = sharded.names(checkpoint)  # a file of sums may name anything: only what the index names is opened
    for name in known:
        if name not in files:
            unopened = _unopened(os.path.join(folder, name)) if name in indexed else None
            if unopened is not None:
                checkpoint.containers.append(unopened)
            found.append(Match(name, name, unopened, known[name]))
    return found


def _unopened(path: str) -> Container | None:
    try:
        return Container(path, "unknown", FileSource(path))
    except CheckpointError:
        return None


def _is_alike(container: Container, known: list[tuple[str, int, int]]) -> bool:
    """Whether the sums may be of this file: it is as long, or half of its records are called so and as long."""
    if container.source.size == sum(nbytes for _, nbytes, _ in known):
        return True
    here = {(part.name, part.span.nbytes) for part in stretches(container) if part.record is not None}
    return bool(here) and 2 * len(here & {(name, nbytes) for name, nbytes, _ in known}) >= len(here)
