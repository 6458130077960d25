"""``ckpt verify``: every check that can be made without running anything, named in the user's terms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ..containers.checksums import Span, checksums
from ..containers.copying import check_unchanged
from ..containers.zip import ZipArchive, ZipRecord
from ..containers.zip_check import check_record, dead_bytes, trailing_bytes
from ..errors import CheckpointError, CorruptError, FileError, FormatError, LimitError, UnsupportedError
from ..formats import remedies, sharded
from ..formats.archive import WRONG_CHECKSUM, WRONG_IN_DIRECTORY, archive_in, complaints, descriptor_proves
from ..formats.hidden import hidden
from ..formats.stock import is_whole
from ..model.checkpoint import Checkpoint
from ..model.graph import Pickle
from ..model.problem import Problem
from ..model.storage import Container, Record
from ..model.tensor import TensorInfo
from .plain import safe
from .sums import files_of, match, stretches, unnamed

SCHEMA = "ckpt-inspect/verify/1"

Progress = Callable[[int], None]
UNSUMMED = (
    "this format has no checksums: structure and lengths were checked, a changed value would not be seen; "
    "--write-sums SUMS records checksums, --sums SUMS compares"
)


class Damage(NamedTuple):
    """One thing that is wrong.

    Attributes:
        record: the member of the archive, or storage, None where it is the file itself.
        why: what is wrong with it.
        names: the tensors that are hurt; tied ones each.
    """

    record: str | None
    why: str
    names: list[str]


class Verification:
    """What ``verify`` found.

    Attributes:
        path, format: of the file; format is None where it could not be opened.
        damaged: what is wrong, the file itself first.
        notes: what is odd or could not be checked, but is no damage.
        checked_bytes: bytes that were compared with a checksum.
        compared: how many records, or stretches of a file of sums, those are.
        tensors: how many the file has; ``hurt``: how many of them are named as damaged.
        tied: for each tensor that is tied to an earlier one, the name of that one.
        hints: what to do about the damage, in words or as a command.
    """

    def __init__(self, path: str, format: str | None) -> None:
        self.path = path
        self.format = format
        self.damaged: list[Damage] = []
        self.notes: list[str] = []
        self.checked_bytes = 0
        self.compared = 0
        self.tensors = 0
        self.tied: dict[str, str] = {}
        self.hints: list[str] = []
        self._places: dict[str, int] = {}  # of the finding about a record, among all

    @property
    def ok(self) -> bool:
        return not self.damaged

    @property
    def hurt(self) -> int:
        return len({name for damage in self.damaged for name in damage.names})

    def add(self, record: str | None, why: str, names: list[str]) -> None:
        """Add a finding; several about one record become one."""
        index = self._places.get(record) if record is not None else None
        if index is None:
            if record is not None:
                self._places[record] = len(self.damaged)
            self.damaged.append(Damage(record, why, names))
            return
        known = self.damaged[index]
        if why not in known.why:
            both = list(dict.fromkeys([*known.names, *names]))
            self.damaged[index] = Damage(record, f"{known.why}; {why}", both)

    def to_dict(self) -> dict[str, Any]:
        """The contract's document."""
        return {
            "schema": SCHEMA,
            "path": self.path,
            "ok": self.ok,
            "checked_bytes": safe(self.checked_bytes),
            "damaged": [damage._asdict() for damage in self.damaged],
            "notes": self.notes,
        }

    def __repr__(self) -> str:
        return f"<verification of {self.path}: {'ok' if self.ok else f'{len(self.damaged)} damaged'}>"


class Names:
    """Which tensors lie in a record, and which all records of a file hold."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.by_record: dict[int, list[str]] = {}
        self.by_storage: dict[str, list[str]] = {}
        self.all: list[str] = []
        for name, _, info in checkpoint.tensors():
            self.all.append(name)
            for part in info.components():
                if part.storage is not None:
                    _note(self.by_storage, part.storage.id, name)
                    if part.storage.record is not None:
                        _note(self.by_record, id(part.storage.record), name)
        self.by_file: dict[str, list[str]] = {}  # of shards that could not be opened
        unopened = sharded.names(checkpoint) - files_of(checkpoint).keys()
        for problem in map(Problem.of, checkpoint.problems):
            if problem.record in unopened:
                self.by_file[str(problem.record)] = list(problem.names)
        self.by_label: dict[str, list[str]] = {}  # what says what others mean, as problems call it
        self.in_container: dict[int, list[str]] = {}
        for part_of in checkpoint.parts:
            for container in part_of.containers:
                keys = {key for section in part_of.sections.values() for key in section.tensors}
                self.in_container[id(container)] = [name for name in self.all if name in keys]
        for name, container in files_of(checkpoint).items():
            label = f"{name}:" if container.path != checkpoint.path else ""
            hurt = self.of_container(container)
            self.by_label.update((label + record, hurt) for record in {*container.graphs, *_SAY_WHAT_OTHERS_MEAN})

    def of_container(self, container: Container) -> list[str]:
        return self.in_container.get(id(container), self.all)

    def of_record(self, container: Container, record: Record | None) -> list[str]:
        """Tensors that a damaged record hurts: those in it; all, where it says what the others mean."""
        if record is None or record.name in container.graphs or record.name in _SAY_WHAT_OTHERS_MEAN:
            return self.of_container(container)
        return self.by_record.get(id(record), [])

    def of_stretch(self, container: Container, file: str, label: str, part: str) -> list[str]:
        """Tensors in a stretch of a file of sums: a record, that may be missing here, or what lies between records."""
        if file in self.by_file:
            return self.by_file[file]
        record = container.records.get(part)
        if record is not None or part in container.graphs or part in _SAY_WHAT_OTHERS_MEAN:
            return self.of_record(container, record)
        if part.startswith(_BEGINNING) and archive_in(container) is None:  # its header, its pickles
            return self.of_container(container)
        return self.by_storage.get(label + part, [])

    def of_problem(self, problem: Problem) -> list[str]:
        record = problem.record or ""
        hurt = [*problem.names, *self.by_storage.get(record, ()), *self.by_label.get(record, ())]
        return list(dict.fromkeys(hurt))


_BEGINNING = "bytes 0-"
_SAY_WHAT_OTHERS_MEAN = frozenset(["byteorder", "tensors", "storages", "pickle", "model.json"])


def _note(table: dict[Any, list[str]], key: Any, name: str) -> None:
    names = table.setdefault(key, [])
    if not names or names[-1] != name:
        names.append(name)


def verify_file(path: str, section: str | None = None, *, sums: str | None = None, deep: bool = False,
                progress: Progress | None = None) -> Verification:  # fmt: skip
    """Open a file and verify it; a file that breaks the rules of its format so that it cannot be opened is damaged.

    Raises:
        CheckpointError: it is no checkpoint, cannot be read, or is refused (``LimitError``).
    """
    from ..formats import open_checkpoint

    try:
        checkpoint = open_checkpoint(path, section)
    except LimitError:
        raise
    except (CorruptError, UnsupportedError, FormatError) as error:
        if isinstance(error, FormatError) and sums is None:
            raise
        found = _unopened(path, error, sums, deep, progress)
        if found is None:
            raise
        return found
    with checkpoint:
        return verify(checkpoint, sums=sums, deep=deep, progress=progress)


def _unopened(
    path: str, error: CheckpointError, sums: str | None, deep: bool, progress: Progress | None
) -> Verification | None:
    """A file whose tensors cannot be named; the records of an archive can be checked all the same, and any with sums.

    None for a format that is known and is no archive: nothing can be said of it.
    """
    found = Verification(path, None)
    if isinstance(error, (CorruptError, FormatError)):
        if error.hint:
            found.hints.append(error.hint)
        where = f" (byte {error.offset:,})" if error.offset is not None else ""
        found.add(error.record, f"{error.message}{where}", [])
    else:
        what = "its bytes are compared" if sums is not None else "its records are checked"
        found.notes.append(f"{error.message}: {what}, its tensors are not named")
    if deep:
        found.notes.append("--deep: no values were looked at, for its tensors cannot be told")
    try:
        nameless, archive = unnamed(path)
    except CheckpointError:
        if sums is not None:
            raise error from None
        return found if found.damaged else None
    with nameless:
        if archive is not None:
            found.format = "zip"
            for problem in complaints(archive):
                found.add(problem.record, _about(problem), [])
            _check_archive(found, Names(nameless), "", nameless.containers[0], archive, progress)
        if sums is not None:
            _compare(found, Names(nameless), nameless, sums, progress)
    return found if found.damaged or archive is not None or sums is not None else None


def verify(
    checkpoint: Checkpoint, *, sums: str | None = None, deep: bool = False, progress: Progress | None = None
) -> Verification:
    """Check everything about an open checkpoint but the meaning of its values; all its files are read once.

    Args:
        checkpoint: the whole of it is checked, a selected part too.
        sums: a file of checksums that ``write_sums`` made, to compare with.
        deep: look at the values too, with torch: NaN and Inf are findings.
        progress: called with the number of bytes just read.

    Raises:
        CorruptError: the file was written to meanwhile.
        SelectionError: ``sums`` are of another file.
    """
    checkpoint = checkpoint.whole or checkpoint
    if deep:
        from ..torch import finite  # noqa: F401 - without torch that is said before all bytes are read
    found = Verification(checkpoint.path, checkpoint.format)
    names = Names(checkpoint)
    for group in checkpoint.tied():
        found.tied.update(dict.fromkeys(group[1:], group[0]))
    _add_problems(found, names, checkpoint)
    files = files_of(checkpoint)
    for name, container in files.items():
        label = f"{name}:" if container.path != checkpoint.path and len(files) > 1 else ""
        archive = archive_in(container)
        if archive is not None:
            _check_archive(found, names, label, container, archive, progress)
        elif sums is None:
            _check_readable(found, names, label, container, progress)
    if not found.ok:
        found.hints.append(_hint(checkpoint, found))
    if sums is not None:
        before = list(found.damaged)
        _compare(found, names, checkpoint, sums, progress)
        if found.damaged != before:
            found.hints.append(
                f"{remedies.COPY_AGAIN} What {sums} alone tells of, ckpt salvage would take for whole."
                if checkpoint.format in remedies.SALVAGED
                else remedies.COPY_AGAIN
            )
    if deep:
        before = list(found.damaged)
        _check_values(found, checkpoint)
        if found.damaged != before:
            found.hints.append(
                "NaN and Inf were saved, not damaged: go back to an earlier checkpoint, or reset what is named"
            )
    _say_where(found, checkpoint)
    for container in checkpoint.containers:
        whole = container.source.file_range()
        if whole is not None:
            check_unchanged(whole[0])
    found.tensors = len({*names.all, *(name for damage in found.damaged for name in damage.names)})
    found.notes += [f"{label}: {text}" for label, text in checkpoint.facts.items() if label.endswith(_NOTABLE)]
    return found


def _say_where(found: Verification, checkpoint: Checkpoint) -> None:
    """Of storages that no tensor is known to use: what needs them."""
    known = {id(info.node) for _, _, info in checkpoint.tensors()}
    for name, container in files_of(checkpoint).items():
        label = f"{name}:" if container.path != checkpoint.path else ""
        nameless = {
            damage.record.removeprefix(label).rpartition("/")[2]: index
            for index, damage in enumerate(found.damaged)
            if damage.record is not None and not damage.names and damage.record.startswith(label)
        }
        for pickle in (graph for graph in container.graphs.values() if isinstance(graph, Pickle) and nameless):
            for place in hidden(pickle, nameless, known):
                damage = found.damaged[nameless[place.key]]
                said = f" (in {place.name or 'the root'}, an object that is not understood)"
                if not damage.why.endswith(said):
                    found.damaged[nameless[place.key]] = damage._replace(why=damage.why + said)


_NOTABLE = ("oddities", "trailing", "edit in place")


def _add_problems(found: Verification, names: Names, checkpoint: Checkpoint) -> None:
    """What reading the structure met already."""
    cut, summed = [], _summed(checkpoint)
    if any("file is cut" in problem for problem in checkpoint.problems):
        cut = [name for name, _, info in checkpoint.tensors() if not is_whole(info)]
    for text in checkpoint.problems:
        problem = Problem.of(text)
        if problem.endswith(WRONG_CHECKSUM) and str(problem.record).rpartition(":")[2] in summed:
            continue  # the checksums of all records come below
        if not problem.damage:
            found.notes.append(problem)
            continue
        found.add(problem.record, _about(problem), cut if "file is cut" in problem else names.of_problem(problem))


def _about(problem: Problem) -> str:
    """Its words without the names of its record, shard and tensors, which are said beside them."""
    shard, _, record = (problem.record or "").rpartition(":")
    text: str = problem
    for place in (
        f"shard {shard}: ",
        f"shard {record}: ",
        f"shard {record} ",
        f"record {record} ",
        f"storage {record}: ",
    ):
        text = text.removeprefix(place)
    text = text.removesuffix(f" ({', '.join(problem.names)})")
    return text.removeprefix(f"{problem.names[0]}: ") if len(problem.names) == 1 else text


def _hint(checkpoint: Checkpoint, found: Verification) -> str:
    """What helps where the file itself tells of its damage."""
    lost = {name for damage in found.damaged if not _says_what_others_mean(damage) for name in damage.names}
    if all(name in lost for name, _, _ in checkpoint.tensors()) and not remedies.gives_entries(checkpoint):
        return f"{remedies.COPY_AGAIN} Nothing in it is whole." if lost else remedies.COPY_AGAIN
    if any(remedies.pickle_is_damaged(checkpoint, damage.record, damage.why) for damage in found.damaged):
        return f"{remedies.COPY_AGAIN} Without its pickle it cannot be told which tensor is which."
    return remedies.salvage(checkpoint.path) if checkpoint.format in remedies.SALVAGED else remedies.COPY_AGAIN


def _says_what_others_mean(damage: Damage) -> bool:
    """Whether a record is hurt without which no tensor can be read, but whose bytes can be done without."""
    return damage.record is not None and damage.record.rpartition(":")[2] in _SAY_WHAT_OTHERS_MEAN


def _summed(checkpoint: Checkpoint) -> set[str]:
    """Records whose checksums are compared anyway; of an archive without a directory, the pickle's is not."""
    members = (item for container in checkpoint.containers for item in container.records.items())
    return {name for name, record in members if record.crc is not None}


def _check_archive(
    found: Verification, names: Names, label: str, container: Container, archive: ZipArchive, progress: Progress | None
) -> None:
    """Checksums of all members, their local headers and descriptors, and what lies between them."""
    if archive.truncated:
        _check_summed(found, names, label, container, progress)
        return
    members: list[ZipRecord] = []
    for record in archive.everything:
        try:
            for why in check_record(record):
                found.add(label + record.name, why, [])
            members.append(record)
        except CheckpointError as error:
            found.add(label + record.name, error.message, names.of_record(container, record))
    spans = [Span(record.source, record.nbytes) for record in members]
    unsummed = 0
    for record, outcome in zip(members, checksums(spans, progress), strict=True):
        if isinstance(outcome, CheckpointError):
            found.add(label + record.name, outcome.message, names.of_record(container, record))
        elif record.crc is None:
            unsummed += record.nbytes > 0
        else:
            found.checked_bytes += record.nbytes
            found.compared += 1
            if outcome != record.crc and descriptor_proves(record, outcome):
                found.add(label + record.name, WRONG_IN_DIRECTORY, [])
            elif outcome != record.crc:
                found.add(label + record.name, WRONG_CHECKSUM, names.of_record(container, record))
    if unsummed:
        said = f"{unsummed:,} records have no" if unsummed > 1 else "1 record has no"
        which = "no record has a" if unsummed == sum(r.nbytes > 0 for r in members) else said
        found.notes.append(
            f"{label}{which} checksum: written with torch.serialization.set_crc32_options(False) or skip_data(); "
            "a changed value there would not be seen"
        )
    for count, what in (
        (dead_bytes(archive), "belong to no record: edits in place leave some behind"),
        (0 if archive.false_end else trailing_bytes(archive), "follow the archive"),
    ):
        if count:
            found.notes.append(f"{label}{count:,} bytes {what}")


def _check_summed(
    found: Verification, names: Names, label: str, container: Container, progress: Progress | None
) -> None:
    """What is left of a cut archive, against the checksums in the descriptors."""
    records = [record for record in container.records.values() if record.crc is not None]
    for record, outcome in zip(records, checksums([Span(r.source, r.nbytes) for r in records], progress), strict=True):
        found.checked_bytes += record.nbytes
        found.compared += 1
        if outcome != record.crc:
            why = outcome.message if isinstance(outcome, CheckpointError) else WRONG_CHECKSUM
            found.add(label + record.name, why, names.of_record(container, record))


def _check_readable(
    found: Verification, names: Names, label: str, container: Container, progress: Progress | None
) -> None:
    """Without checksums: whether the disk gives all bytes."""
    parts = stretches(container)
    for part, outcome in zip(parts, checksums([part.span for part in parts], progress), strict=True):
        if isinstance(outcome, CheckpointError):
            found.add(label + part.name, outcome.message, names.of_record(container, part.record))
    if container.format != "index" and UNSUMMED not in found.notes:
        found.notes.append(UNSUMMED)


def _check_values(found: Verification, checkpoint: Checkpoint) -> None:
    """NaN and Inf in floating tensors; tied ones are looked at once and named each."""
    from ..torch.finite import not_finite

    views: dict[object, list[tuple[str, TensorInfo]]] = {}
    for name, _, info in checkpoint.tensors():
        for part in info.components():
            if part.storage is not None and part.storage.record is not None:
                views.setdefault(part.view_of, []).append((name, part))
    skipped = 0
    for same in views.values():
        try:
            counted = not_finite(same[0][1])
        except FileError:  # the disk does not give them
            raise
        except CheckpointError:  # not there, which is said already, or a dtype without plain values
            skipped += 1
            continue
        if counted.nan or counted.inf:
            parts = [f"{n:,} {what}" for n, what in ((counted.nan, "NaN"), (counted.inf, "Inf")) if n]
            why = f"{' and '.join(parts)} among {same[0][1].numel:,} values"
            found.add(None, why, list(dict.fromkeys(name for name, _ in same)))
    if skipped:
        found.notes.append(f"the values of {skipped:,} tensors were not looked at")


def _compare(found: Verification, names: Names, checkpoint: Checkpoint, path: str, progress: Progress | None) -> None:
    """Every byte against a file of checksums, in the stretches that it names."""
    many = len(checkpoint.containers) > 1
    for name, was, container, known in match(checkpoint, path):
        if was != name:
            found.notes.append(f"{path} was recorded of a file named {was}")
        if container is None:
            if name not in names.by_file:  # else that is said already
                found.add(name, "is missing, though there are checksums of it", [])
            continue
        label = f"{name}:" if many else ""
        size = sum(nbytes for _, nbytes, _ in known)
        if size != container.source.size:
            found.add(None, f"{name} has {container.source.size:,} bytes, its checksums were made of {size:,}", [])
        spans, offset = [], 0
        for _, nbytes, _ in known:
            there = max(0, min(nbytes, container.source.size - offset))
            spans.append(Span(container.source.slice(offset, there), there))
            offset += nbytes
        for (part, nbytes, crc), outcome in zip(known, checksums(spans, progress), strict=True):
            hurt = names.of_stretch(container, name, label, part)
            if isinstance(outcome, CheckpointError):
                found.add(label + part, outcome.message, hurt)
                continue
            found.checked_bytes += nbytes
            found.compared += 1
            if outcome != crc:
                found.add(label + part, f"differs from its checksum in {path}", hurt)
