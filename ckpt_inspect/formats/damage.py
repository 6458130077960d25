"""Records that fail their checksum, found beside the reading of their tensors: torch never looks, so others must."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from threading import Event, Thread

from ..containers.checksums import Span, Sum
from ..containers.copying import CHANGED, Progress
from ..containers.streaming import in_order
from ..containers.zip import ZipRecord
from ..errors import CheckpointError, CorruptError
from ..model.checkpoint import Checkpoint
from ..model.lost import listed
from ..model.problem import Problem
from ..model.section import Section
from ..model.source import FileSource, Source
from ..model.storage import Record
from ..model.tensor import TensorInfo
from .archive import WRONG_CHECKSUM
from .logical import leaves


class Damage:
    """Sums the records of tensors, each once, in tasks that go between others that read the same bytes.

    Formats without checksums do not tell a file that was written to meanwhile; its time of change does.
    """

    def __init__(self) -> None:
        self._sums: dict[int, Sum | CheckpointError] = {}  # by the record's identity

    def tasks(self, info: TensorInfo) -> Iterator[Callable[[], None]]:
        """What is to be run before :meth:`of` can tell of this tensor."""
        for record in _summed_records(info):
            yield from self.sum(record)

    def sum(self, record: Record) -> Iterator[partial[None]]:
        """What is to be run before :meth:`verdict` can tell of a record; nothing where it was begun already."""
        if id(record) in self._sums:
            return
        try:
            total = self._sums[id(record)] = Sum(Span(own_source(record), record.nbytes))
        except CheckpointError as error:
            self._sums[id(record)] = error
            return
        yield from (partial(total.take, offset, nbytes) for offset, nbytes in total.stretches)

    def verdict(self, record: Record) -> str | None:
        """What is wrong with a record, None if nothing is."""
        total = self._sums.get(id(record))
        outcome = total.outcome if isinstance(total, Sum) else total
        if isinstance(outcome, CheckpointError):
            return f"record {record.name}: {outcome.message}"
        return f"record {record.name} {WRONG_CHECKSUM}" if outcome is not None and outcome != record.crc else None

    def found(self, info: TensorInfo) -> list[tuple[str | None, str]]:
        """Why the bytes of a tensor are not known to be those that were written, with the record that it is about."""
        rows: list[tuple[str | None, str]] = [
            (record.name, why) for record in _summed_records(info) if (why := self.verdict(record)) is not None
        ]
        return rows or ([(None, CHANGED)] if any(file.changed() for file in _files(info)) else [])

    def of(self, info: TensorInfo) -> list[str]:
        """The same in words alone."""
        return [why for _, why in self.found(info)]


def damage_of(infos: Iterable[TensorInfo]) -> Damage:
    """Sum the records of many tensors, by several threads."""
    found = Damage()
    for _ in in_order(task for info in infos for task in found.tasks(info)):
        pass
    return found


class Beside:
    """Sums the records of tensors in a thread of its own while something else loads them.

    Args:
        checkpoint: the file.
        section: the part whose tensors are loaded; None: all of it, and the records that hold no tensor too.
        progress: called with the number of bytes just summed.
    """

    def __init__(
        self, checkpoint: Checkpoint, section: Section | None = None, progress: Progress | None = None
    ) -> None:
        self._progress = progress
        self._names: dict[str, TensorInfo] = (
            {section.name_of(key): info for key, info in section.items() if info.persistent}
            if section is not None
            else {name: info for name, _, info in checkpoint.tensors()}
        )
        every = [] if section is not None else [r for c in checkpoint.containers for r in c.records.values()]
        self._others = [record for record in every if record.crc is not None]
        self._damage = Damage()
        self._error: BaseException | None = None
        self._stop = Event()
        self._thread = Thread(target=self._sum, name="checksums", daemon=True)

    def __enter__(self) -> Beside:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sum(self) -> None:
        records = chain(*map(_summed_records, self._names.values()), self._others)
        try:
            for nbytes in in_order(partial(_ran, task) for record in records for task in self._damage.sum(record)):
                if self._stop.is_set():
                    return
                if self._progress is not None:
                    self._progress(nbytes)
        except BaseException as error:  # raised again where somebody waits for the sums
            self._error = error

    def problems(self) -> list[Problem]:
        """Waits for the sums: one problem for each record that is damaged, with the tensors in it.

        Raises:
            CorruptError: the file was written to meanwhile. What is mapped of it must not be touched: a page that is no
                longer there would end the process.
        """
        self._thread.join()
        files = {id(file): file for info in self._names.values() for file in _files(info)}
        changed = next((file for file in files.values() if file.changed()), None)
        if changed is not None:
            raise CorruptError(
                CHANGED, path=changed.path, hint="Copy or download it again, or wait until it is written."
            )
        if self._error is not None:
            raise self._error
        hurt: dict[tuple[str | None, str], list[str]] = {}
        for name, info in self._names.items():
            for record, why in self._damage.found(info):
                hurt.setdefault((record, why), []).append(name)
        for one in self._others:
            if (said := self._damage.verdict(one)) and (one.name, said) not in hurt:
                hurt[one.name, said] = []
        return [
            Problem(why + (f" → {listed(names)}" if names else ""), place, names)
            for (place, why), names in hurt.items()
        ]


def _ran(task: partial[None]) -> int:
    task()
    nbytes: int = task.args[1]
    return nbytes


def own_source(record: Record) -> Source:
    """A deflated record is inflated in order, and somebody else is elsewhere in it."""
    return record.locate() if isinstance(record, ZipRecord) and record.deflated else record.source


def _files(info: TensorInfo) -> list[FileSource]:
    """The open files that hold its bytes."""
    data = (leaf.storage.data for leaf in leaves(info) if leaf.storage is not None)
    whole = (source.file_range() for source in data if source is not None)
    return list({id(found[0]): found[0] for found in whole if found is not None}.values())


def _summed_records(info: TensorInfo) -> list[Record]:
    """The records that hold its bytes and have a checksum, each once."""
    records = (leaf.storage.record for leaf in leaves(info) if leaf.storage is not None)
    return list({id(record): record for record in records if record is not None and record.crc is not None}.values())
