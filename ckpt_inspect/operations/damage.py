"""Records that fail their checksum, found beside the reading of their tensors: torch never looks, so others must."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

from ..containers.checksums import Span, Sum
from ..containers.copying import CHANGED
from ..containers.streaming import in_order
from ..errors import CheckpointError
from ..formats.archive import WRONG_CHECKSUM
from ..formats.logical import leaves
from ..model.source import FileSource
from ..model.storage import Record
from ..model.tensor import TensorInfo


class Damage:
    """Sums the records of tensors, each once, in tasks that go between others that read the same bytes.

    Formats without checksums do not tell a file that was written to meanwhile; its time of change does.
    """

    def __init__(self) -> None:
        self._sums: dict[int, Sum | CheckpointError] = {}  # by the record's identity

    def tasks(self, info: TensorInfo) -> Iterator[Callable[[], None]]:
        """What is to be run before :meth:`of` can tell of this tensor."""
        for record in _summed_records(info):
            if id(record) in self._sums:
                continue
            try:
                total = self._sums[id(record)] = Sum(Span(record.source, record.nbytes))
            except CheckpointError as error:
                self._sums[id(record)] = error
                continue
            yield from (partial(total.take, offset, nbytes) for offset, nbytes in total.stretches)

    def of(self, info: TensorInfo) -> list[str]:
        """Why the bytes of a tensor are not known to be those that were written: one for each record."""
        found = []
        for record in _summed_records(info):
            total = self._sums.get(id(record))
            outcome = total.outcome if isinstance(total, Sum) else total
            if isinstance(outcome, CheckpointError):
                found.append(f"record {record.name}: {outcome.message}")
            elif outcome is not None and outcome != record.crc:
                found.append(f"record {record.name} {WRONG_CHECKSUM}")
        return found or ([CHANGED] if any(file.changed() for file in _files(info)) else [])


def damage_of(infos: Iterable[TensorInfo]) -> Damage:
    """Sum the records of many tensors, by several threads."""
    found = Damage()
    for _ in in_order(task for info in infos for task in found.tasks(info)):
        pass
    return found


def _files(info: TensorInfo) -> list[FileSource]:
    """The open files that hold its bytes."""
    data = (leaf.storage.data for leaf in leaves(info) if leaf.storage is not None)
    whole = (source.file_range() for source in data if source is not None)
    return list({id(found[0]): found[0] for found in whole if found is not None}.values())


def _summed_records(info: TensorInfo) -> list[Record]:
    """The records that hold its bytes and have a checksum, each once."""
    records = (leaf.storage.record for leaf in leaves(info) if leaf.storage is not None)
    return list({id(record): record for record in records if record is not None and record.crc is not None}.values())
