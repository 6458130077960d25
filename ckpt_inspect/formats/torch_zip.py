"""What ``torch.save`` has written since torch 1.6: a zip with ``data.pkl`` and ``data/N`` (formats 1, 2)."""

from __future__ import annotations

from collections.abc import Mapping

from ..containers.zip import ZipArchive
from ..containers.zip_walk import Walked, walk
from ..model.checkpoint import Checkpoint
from ..model.graph import Pickle
from ..model.problem import Problem
from ..model.source import Source
from ..model.storage import Container, Record, Storage
from ..pickles.limits import Limits
from . import archive as archives
from .finish import finish
from .rebuild import Rebuilder, Storages
from .sections import Builder

NAME = "torch-zip"


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
        found = locate(container, archive, pickle, known, search=False)
        _cut(checkpoint, source, pickle.end + sum(storage.nbytes for storage in known.values()),
             all(name in found and found[name].whole for name in known))  # fmt: skip
    checkpoint.facts["writer"] = _writer(archive)
    checkpoint.facts.update(container.facts)
    return finish(checkpoint)


def locate(
    container: Container, archive: ZipArchive, pickle: Pickle, known: Mapping[str, Storage], search: bool
) -> dict[str, Walked]:
    """Find the records of an archive without a directory by their local headers.

    Storages get theirs; one with which the file ends, as it was: some of its views may be whole.
    """
    sizes = {"data.pkl": pickle.end, **{name: storage.nbytes for name, storage in known.items()}}
    found = walk(archive.source, archive.root, sizes, search)
    for name, walked in found.items():
        if walked.whole and name != "data.pkl":
            source = walked.content(archive.source)
            container.records[name] = Record(name, source.size, source, walked.crc)
            if name in known:
                known[name].record = container.records[name]
        elif name in known and walked.there and not walked.why and walked.inflated is None:
            known[name].record = Record(name, walked.nbytes, archive.source.slice(walked.start, walked.nbytes))
    order = container.records.get("byteorder")
    if order is not None and order.source.read_at(0, 8) == b"big":
        for storage in known.values():
            storage.byteorder = "big"
    return found


def _byteorder(archive: ZipArchive, checkpoint: Checkpoint) -> str:
    text = archives.small(archive, "byteorder")
    if text is None:
        return "little"
    if text not in ("little", "big"):
        checkpoint.problems.append(
            Problem(f"record byteorder says {text[:40]!r}: torch accepts little and big alone", "byteorder")
        )
        return "little"
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


def _cut(checkpoint: Checkpoint, source: Source, needed: int, whole: bool) -> None:
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
