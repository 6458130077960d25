"""Damage is not laundered: bytes whose checksum goes no further are compared with it while they are copied.

From zip to zip a record takes its checksum along, so damage stays to be seen; in a cast, or a format without checksums,
it would become the truth.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from threading import Event, Thread
from typing import Any, NamedTuple

from ..containers.checksums import Outcome, Span, checksums
from ..containers.zip import ZipRecord
from ..containers.zip_writer import Layout, raw_content
from ..errors import CheckpointError, CorruptError
from ..formats import remedies
from ..formats.archive import WRONG_CHECKSUM, archive_in
from ..formats.rewrite import NewFile
from ..model.checkpoint import Checkpoint
from ..model.lost import listed
from ..model.made import ranges_of
from ..model.problem import Problem
from ..model.source import FileSource, Source
from ..model.storage import Container
from .verify import Names


class _Read(NamedTuple):
    """A record of the source that something was read of, and where its bytes lie."""

    start: int
    stop: int
    record: ZipRecord
    container: Container


class Proof:
    """Sums, in a thread of its own, the records whose checksums the files that are being written do not carry on.

    Args:
        files: what is written.
        checkpoint: what it is made of.
    """

    def __init__(self, files: Iterable[NewFile], checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._records = _unproven(files, checkpoint)
        self._spans = [Span(_own_source(read.record), read.record.nbytes) for read in self._records]
        self._outcomes: list[Outcome] = []
        self._error: BaseException | None = None
        self._stop = Event()
        self._thread = Thread(target=self._sum, name="checksums", daemon=True)

    def __enter__(self) -> Proof:
        if self._records:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._records:
            self._thread.join()

    def _sum(self) -> None:
        try:
            self._outcomes = checksums(self._spans, self._go_on, threads=1)
        except BaseException as error:  # raised again where somebody waits for the sums
            self._error = error

    def _go_on(self, _: int) -> None:
        if self._stop.is_set():
            raise _Stopped

    def check(self) -> None:
        """
        Raises:
            CorruptError: a record is damaged; it is named, and the tensors in it.
        """
        if not self._records:
            return
        self._thread.join()
        if self._error is not None:
            raise self._error
        results = zip(self._records, self._outcomes, strict=True)
        damaged = [(read, outcome) for read, outcome in results if outcome != read.record.crc]
        if damaged:
            first = damaged[0][1]
            why = first.message if isinstance(first, CheckpointError) else WRONG_CHECKSUM
            raise _refusal([read for read, _ in damaged], why, self._checkpoint)


class _Stopped(Exception):
    """The copy ended before the sums did."""


def _own_source(record: ZipRecord) -> Source:
    """A deflated record is inflated in order, and the copy is elsewhere in it."""
    return record.locate() if record.deflated else record.source


def _refusal(damaged: list[_Read], why: str, checkpoint: Checkpoint) -> CorruptError:
    names = Names(checkpoint)
    hurt = dict.fromkeys(name for read in damaged for name in names.of_record(read.container, read.record))
    records = [
        f"{read.container.path}:{read.record.name}" if checkpoint.parts else read.record.name for read in damaged
    ]
    others = f", and so do {listed(records[1:])}" if records[1:] else ""
    where = f" → {listed(hurt)}" if hurt else ""
    problems = [Problem(f"record {name} {why}", name) for name in records]
    hint = remedies.of_problems(checkpoint, problems)
    return CorruptError(
        f"{why}{others}{where}; nothing was written", path=checkpoint.path, record=records[0], hint=hint
    )


# -- which records ----------------------------------------------------------------------------------------------


def _unproven(files: Iterable[NewFile], checkpoint: Checkpoint) -> list[_Read]:
    """The records that have a checksum, of which something gets into the files, without that checksum."""
    read = _read_records(checkpoint)
    if not read:
        return []
    storages = {
        id(one.storage.record) for _, _, info in checkpoint.tensors() for one in info.components() if one.storage
    }
    carried: set[int] = set()
    found: dict[int, _Read] = {  # what was parsed: names, code, byte order
        id(one.record): one for reads in read.values() for one in reads if id(one.record) not in storages
    }
    for source, crc in _contents(files):
        for file, start, nbytes in ranges_of(source):
            for one in _within(read.get(file, []), start, start + nbytes):
                if crc and crc == one.record.crc and (start, nbytes) == (one.start, one.stop - one.start):
                    carried.add(id(one.record))
                else:
                    found[id(one.record)] = one
    return [one for key, one in found.items() if key not in carried or key in storages]


def _read_records(checkpoint: Checkpoint) -> dict[FileSource, list[_Read]]:
    """By file, in the order of their places; of what nothing was read, nothing can be in the result."""
    found: dict[FileSource, list[_Read]] = {}
    for container in checkpoint.containers:
        archive = archive_in(container)
        for record in archive.records.values() if archive is not None else ():
            if record.crc is None or not record.is_located:
                continue
            place = raw_content(record).file_range()
            if place is not None:
                read = _Read(place[1], place[1] + record.compressed, record, container)
                found.setdefault(place[0], []).append(read)
    for reads in found.values():
        reads.sort(key=lambda one: one.start)
    return found


def _within(reads: list[_Read], start: int, stop: int) -> Iterator[_Read]:
    index = max(0, bisect_right(reads, start, key=lambda one: one.start) - 1)
    while index < len(reads) and reads[index].start < stop:
        if reads[index].stop > start:
            yield reads[index]
        index += 1


def _contents(files: Iterable[NewFile]) -> Iterator[tuple[Source, int | None]]:
    """Every source that the files are written from, with the checksum that goes with it."""
    for file in files:
        pieces: Any = file.pieces
        if isinstance(pieces, Layout):
            yield from ((e.content, e.crc) for e in pieces.entries if not isinstance(e.content, bytes))
        else:
            yield from ((piece, None) for piece in pieces if not isinstance(piece, bytes))
