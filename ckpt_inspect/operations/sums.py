"""Checksums kept beside a checkpoint, for formats that have none: every byte of every file is covered.

They find damage, not forgery: CRC-32 is no signature.
"""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

from ..containers.checksums import Span, checksums
from ..errors import CheckpointError, CorruptError, FormatError, SelectionError
from ..model.checkpoint import Checkpoint
from ..model.source import FileSource
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
    from .save import save_text

    made = document(checkpoint, progress)
    save_text(json.dumps(made, indent=0) + "\n", out, "--write-sums SUMS", force=force)
    return sum(len(entry["crc32"]) for entry in made["files"].values())


def match(checkpoint: Checkpoint, path: str) -> list[tuple[str, Container, list[tuple[str, int, int]]]]:
    """Each file of the checkpoint with its sums.

    Raises:
        SelectionError: the sums are of other files.
    """
    known = read(path)
    files = files_of(checkpoint)
    if len(known) == 1 and len(files) == 1:  # renamed meanwhile
        known = dict(zip(files, known.values(), strict=True))
    missing = [name for name in files if name not in known]
    if missing:
        raise SelectionError(f"it has no checksums of {missing[0]}, but of {', '.join(list(known)[:3])}", path=path)
    for name in known:
        if name not in files:
            raise CorruptError(f"the file {name} is missing, of which there are checksums", path=checkpoint.path)
    return [(name, container, known[name]) for name, container in files.items()]
