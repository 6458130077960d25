"""What ``torch.save`` has written since torch 1.6: a zip with ``data.pkl`` and ``data/N`` (formats 1, 2)."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

from ..containers.zip import ZipArchive, without_directory
from ..containers.zip_chain import Walked, follow
from ..containers.zip_pickle import archive_of, find_pickle
from ..containers.zip_traces import checksum, end_of_directory, entries
from ..containers.zip_walk import walk
from ..errors import CheckpointError
from ..model.checkpoint import Checkpoint
from ..model.graph import Pickle
from ..model.problem import Problem
from ..model.source import BytesSource, Source
from ..model.storage import Container, Record, Storage
from ..pickles.limits import Limits
from . import archive as archives
from .finish import finish
from .rebuild import Rebuilder, Storages
from .sections import Builder

NAME = "torch-zip"
ORDERS = ("little", "big")


class CutStorages(Storages):
    """Storages of a file that lost its directory: only their sizes are known, from the pickle."""

    def missing(self, storage: Storage) -> None:
        storage.record = None


def read(source: Source, archive: ZipArchive, limits: Limits) -> Checkpoint:
    checkpoint = Checkpoint(source.path, NAME, source.size)
    container = archives.open_container(source, archive, NAME, checkpoint)
    pickle = archives.pickle_record(archive, container, "data.pkl", checkpoint.problems, limits)
    order = "little"
    if not archive.truncated:
        order = _byteorder(archive, checkpoint)
        _version(archive, checkpoint)
    make = CutStorages if archive.truncated else Storages
    records: dict[str, Record] = {} if archive.truncated else container.records
    storages = make(records, "data/", order, checkpoint.problems)
    builder = Builder(Rebuilder(storages, source.path), checkpoint.problems, limits)
    builder.build(pickle)
    builder.fill(checkpoint)
    if archive.truncated:
        known = {storage.id: storage for storage, *_ in storages.by_key.values()}
        found, end = follow_headers(container, archive, pickle, known)
        _cut(checkpoint, source, pickle.end + sum(storage.nbytes for storage in known.values()),
             all(name in found and found[name].whole for name in known), end)  # fmt: skip
    checkpoint.facts["writer"] = _writer(archive)
    checkpoint.facts.update(container.facts)
    return finish(checkpoint)


def read_damaged(source: Source, limits: Limits) -> Checkpoint | None:
    """A torch zip whose directory cannot be used, by the newest of its pickles that is proved; None: there is none."""
    place = find_pickle(source)
    archive = archive_of(source, place) if place is not None else without_directory(source)
    if "data.pkl" not in archive.records:
        return None
    try:
        return read(source, archive, limits)
    except CheckpointError:
        return None


def storages_of(checkpoint: Checkpoint) -> dict[str, Storage]:
    """Storages of all tensors, by their id."""
    parts = (part.storage for _, _, info in checkpoint.tensors() for part in info.components())
    return {storage.id: storage for storage in parts if storage is not None}


def follow_headers(
    container: Container, archive: ZipArchive, pickle: Pickle, known: Mapping[str, Storage]
) -> tuple[dict[str, Walked], int]:
    """Find the records of an archive without a directory as far as each leads to the next: no bytes of tensors are read.

    Returns:
        What was found, and where that ends.
    """
    found, end = follow(archive.source, archive.root, _sizes(pickle, known))
    _place(container, archive, found, known)
    order = container.records.get("byteorder")
    if order is not None and order.source.read_at(0, 8) == b"big":
        _set_order(known, "big")
    return found, end


def walk_through(
    container: Container, archive: ZipArchive, pickle: Pickle, known: Mapping[str, Storage], notes: list[str]
) -> dict[str, Walked]:
    """Find the records of an archive by whatever is left of it; all of the file is read, once.

    Storages get theirs; one with which the file ends, as it was: some of its views may be whole.
    """
    if archive.walked is None:
        record = archive.records["data.pkl"]
        nbytes = pickle.end if archive.truncated else record.nbytes
        place = record.header_offset, checksum(record.source, 0, nbytes)
        archive.walked = walk(archive.source, archive.root, {**_sizes(pickle, known), "data.pkl": nbytes}, place)
    found = archive.walked.records
    notes += [note for note in archive.walked.notes if note not in notes]
    if archive.truncated:
        for name in set(container.records) - {"data.pkl"}:  # as each led to the next: less was looked at
            del container.records[name]
        for storage in known.values():
            storage.record = None
        _place(container, archive, found, known)
        _find_order(container, archive, found, known, notes)
    return found


def _sizes(pickle: Pickle, known: Mapping[str, Storage]) -> dict[str, int]:
    stored = {name: storage.nbytes for name, storage in known.items() if storage.location != "meta"}
    return {"data.pkl": pickle.end, **stored}


def _place(
    container: Container, archive: ZipArchive, found: Mapping[str, Walked], known: Mapping[str, Storage]
) -> None:
    for name, walked in found.items():
        if walked.whole and name != "data.pkl":
            source = walked.content(archive.source)
            container.records[name] = Record(name, source.size, source, walked.crc)
            if name in known:
                known[name].record = container.records[name]
        elif name in known and walked.there and not walked.why and walked.inflated is None:
            known[name].record = Record(name, walked.nbytes, archive.source.slice(walked.start, walked.nbytes))


def _find_order(
    container: Container, archive: ZipArchive, found: Mapping[str, Walked], known: Mapping[str, Storage],
    notes: list[str],
) -> None:  # fmt: skip
    """The byte order, from the record, or, where that is damaged, from its length and its checksums."""
    record = container.records.get("byteorder")
    order = record.source.read_at(0, 8).decode("latin-1") if record is not None else ""
    if order not in ORDERS:
        listed = [e for e in entries(archive.source) if e.name.startswith(archive.root)]
        said = {order_of(e.crc) for e in listed if e.name == f"{archive.root}byteorder"} - {""}
        lengths = {found["byteorder"].nbytes} if "byteorder" in found else set()
        said |= {name for name in ORDERS if len(name) in lengths}
        if len(said) == 1:
            order = said.pop()
        elif (
            "byteorder" in found
            or len(said) > 1
            or not {f"{archive.root}{n}" for n in known} <= {e.name for e in listed}
        ):
            text = "record byteorder is lost, or was never there: values are taken to be little-endian"
            notes += [text] if text not in notes else []
    if order in ORDERS:
        container.records["byteorder"] = Record("byteorder", len(order), BytesSource(order.encode(), container.path))
        _set_order(known, order)


def _set_order(known: Mapping[str, Storage], order: str) -> None:
    for storage in known.values():
        storage.byteorder = order


def order_of(crc: int | None) -> str:
    """The byte order whose name has this checksum, ``""`` if none has."""
    return next((name for name in ORDERS if zlib.crc32(name.encode()) == crc), "")


def _byteorder(archive: ZipArchive, checkpoint: Checkpoint) -> str:
    text = archives.small(archive, "byteorder")
    if text is None:
        return "little"
    if text not in ORDERS:
        checkpoint.problems.append(
            Problem(f"record byteorder says {text[:40]!r}: torch accepts little and big alone", "byteorder")
        )
        return order_of(archive.records["byteorder"].crc) or "little"
    checkpoint.facts["byteorder"] = text
    return text


def _version(archive: ZipArchive, checkpoint: Checkpoint) -> None:
    text = archives.small(archive, ".data/version") or archives.small(archive, "version")
    if text is None:
        checkpoint.problems.append(Problem("record version is missing: torch.load refuses the file", "version"))
        return
    digits = text[: len(text) - len(text.lstrip("0123456789"))]  # stoull's leniency: formats 1.2
    if not digits or not 1 <= int(digits[:9]) <= 10:
        checkpoint.problems.append(Problem(f"record version says {text[:40]!r}: torch 2.13 reads 1 to 10", "version"))
    checkpoint.facts["version"] = text[:40]


def _cut(checkpoint: Checkpoint, source: Source, needed: int, whole: bool, end: int) -> None:
    behind = end_of_directory(source, end) if whole else 0
    if behind:
        checkpoint.problems.append(archives.too_far(behind))
        return
    if whole:
        problem = (
            f"the file is cut: {source.size:,} bytes are there, the directory at its end is not; all values are there"
        )
    elif source.size > needed:  # the padding between records and the directory are not counted
        problem = f"the file is cut: {source.size:,} bytes are there, the directory at its end is not"
    else:
        problem = f"the file is cut: {source.size:,} bytes are there, its metadata needs at least {needed:,}"
    if not problem.endswith("there"):
        problem += "; names and shapes below are right, not all values are there"
    checkpoint.problems.append(problem)


def _writer(archive: ZipArchive) -> str:
    """What the optional records tell of the writer (formats 1.2); inferred, hence the ``~``."""
    if archive.truncated:
        return "torch.save"
    if ".format_version" in archive.records:
        return "torch.save of torch ≥ 2.7~"
    if ".data/serialization_id" in archive.records:
        return "torch.save of torch 2.1 to 2.6~"
    if "byteorder" in archive.records:
        return "torch.save of torch 2.0 to 2.1~"
    return "torch.save of torch 1.4 to 2.0~"
