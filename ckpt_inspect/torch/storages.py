"""Bytes of a checkpoint as torch storages: mapped where they lie in a file as they are, read otherwise."""

from __future__ import annotations

import mmap
import os
import sys

import torch

from ..errors import CorruptError, FileError
from ..model.source import COPY_CHUNK, FileSource, Source
from ..model.storage import Record, Storage
from .streaming import read_in


class Storages:
    """Torch storages on one device, each made once: tensors of one storage share its memory.

    What was made is kept as long as this object lives; mapped bytes take no memory until they are touched.
    """

    def __init__(self, device: torch.device, mapped: bool) -> None:
        self.device = device
        self.mapped = mapped
        self._files: dict[int, tuple[FileSource, torch.UntypedStorage | None]] = {}  # by identity
        self._records: dict[int, tuple[Record, torch.UntypedStorage]] = {}  # by identity
        self._storages: dict[tuple[int, int, int], tuple[object, torch.UntypedStorage]] = {}

    def get(self, storage: Storage, alignment: int) -> torch.UntypedStorage:
        """The bytes of ``storage``; mapped only if they lie at a multiple of ``alignment``.

        Raises:
            CorruptError: the file does not have them all.
        """
        owner = storage.record or storage
        key = id(owner), storage.offset, storage.nbytes
        if key not in self._storages:
            self._storages[key] = owner, self._make(storage, alignment)
        return self._storages[key][1]

    def _make(self, storage: Storage, alignment: int) -> torch.UntypedStorage:
        if storage.nbytes >= 1 << 63:
            raise CorruptError(f"{storage.nbytes:,} bytes: torch counts with 64 bits", record=storage.id)
        if "meta" in (self.device.type, storage.location) or not storage.nbytes:
            device = torch.device("meta") if storage.location == "meta" else self.device
            return torch.empty(storage.nbytes, dtype=torch.uint8, device=device).untyped_storage()
        record = storage.record
        if record is None:
            raise CorruptError(f"the {storage.nbytes:,} bytes of this storage are not in the file", record=storage.id)
        if id(record) not in self._records:
            self._records[id(record)] = record, self._whole(storage, record, alignment)
        whole = self._records[id(record)][1]
        if storage.offset == 0 and storage.nbytes == whole.nbytes():
            return whole
        return whole[storage.offset : storage.offset + storage.nbytes]  # a window, of the years before 1.6

    def _whole(self, storage: Storage, record: Record, alignment: int) -> torch.UntypedStorage:
        """All bytes of a record, in this machine's byte order, on the device."""
        source = record.source
        place = source.file_range()
        native = storage.byteorder == sys.byteorder or storage.word == 1
        made = None
        if place is not None:
            file, start = place
            if start + record.nbytes > file.size:
                raise CorruptError(
                    f"cut: {max(0, file.size - start):,} of {record.nbytes:,} bytes are there",
                    path=file.path, record=storage.id, hint="Download or copy the file again.",
                )  # fmt: skip
            if self.device.type == "cuda" and native:
                return _on_gpu(source, record.nbytes, self.device, storage.id)
            made = self._map(file, start, record.nbytes)
        if made is None:
            made = _read(source, record.nbytes, storage.id)
        elif self.device.type == "cpu" and (not self.mapped or (start + storage.offset) % alignment):
            made = _bytes(made).clone().untyped_storage()
        if storage.byteorder != sys.byteorder and storage.word > 1:
            rows = _bytes(made)[: record.nbytes - record.nbytes % storage.word].view(-1, storage.word)
            made = rows.flip(1).untyped_storage()
        return made if self.device.type == "cpu" else _bytes(made).to(self.device).untyped_storage()

    def _map(self, file: FileSource, start: int, nbytes: int) -> torch.UntypedStorage | None:
        """A stretch of a file: of one mapping of the whole file if the system grants that, else of its own."""
        if file.fd < 0:  # mmap would take -1 for memory that belongs to no file
            raise FileError("the checkpoint was closed", path=file.path, hint="Make the tensors while it is open.")
        if os.fstat(file.fd).st_size < start + nbytes:  # a page that is not there would end the process
            raise CorruptError("the file became shorter after it was opened", path=file.path, offset=start)
        if id(file) not in self._files:
            self._files[id(file)] = file, _mapping(file, 0, file.size)
        whole = self._files[id(file)][1]
        if whole is not None:
            return whole[start : start + nbytes]
        before = start % mmap.ALLOCATIONGRANULARITY
        own = _mapping(file, start - before, before + nbytes)
        return None if own is None else own[before : before + nbytes]


def _mapping(file: FileSource, start: int, nbytes: int) -> torch.UntypedStorage | None:
    """Private and copy-on-write: writing to it never changes the file. None if the system refuses it."""
    try:
        if sys.platform == "win32":
            memory = mmap.mmap(file.fd, nbytes, access=mmap.ACCESS_COPY, offset=start)
        else:  # without a reservation of swap space, where Python knows the flag (3.13)
            flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0)
            memory = mmap.mmap(file.fd, nbytes, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE, offset=start)
    except (OSError, ValueError, OverflowError):
        return None
    return torch.frombuffer(memory, dtype=torch.uint8).untyped_storage()


def _on_gpu(source: Source, nbytes: int, device: torch.device, name: str) -> torch.UntypedStorage:
    """Bytes straight onto a GPU: the file is neither mapped nor held in memory."""
    made = torch.empty(nbytes, dtype=torch.uint8, device=device)
    read_in(source, made, name)
    return made.untyped_storage()


def _read(source: Source, nbytes: int, name: str) -> torch.UntypedStorage:
    """Bytes that lie in no file as they are: deflated, or inside a pickle. A false length allocates nothing."""
    data = bytearray()
    while len(data) < nbytes:
        chunk = source.read_at(len(data), min(COPY_CHUNK, nbytes - len(data)))
        if not chunk:
            raise CorruptError(f"cut: {len(data):,} of {nbytes:,} bytes are there", path=source.path, record=name)
        data += chunk
    return torch.frombuffer(data, dtype=torch.uint8).untyped_storage()


def _bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
