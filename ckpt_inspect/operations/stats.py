"""``ckpt stats``: numbers for each tensor and each module, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from threading import local
from typing import TYPE_CHECKING, Any, NamedTuple

from ..containers.copying import Progress
from ..containers.streaming import SPLIT, in_order, stretches
from ..dtypes import BY_NAME
from ..errors import CheckpointError, SelectionError
from ..formats.compound import is_coalesced
from ..formats.damage import Damage
from ..formats.logical import content_key
from ..model import pointer as pointers
from ..model.checkpoint import Checkpoint
from ..model.problem import Problem
from ..model.tensor import TensorInfo
from .ls import matches_nothing, pattern
from .operands import numbers_of, operand, unstored_zeros
from .plain import safe_dict

if TYPE_CHECKING:
    from ..torch.operand import Operand
    from ..torch.statistics import Statistics

SCHEMA = "ckpt-inspect/stats/1"
_NUMBERS = ("count", "min", "max", "mean", "std", "norm", "zeros", "nan", "inf", "at_edge", "dead_rows", "constant")
SORTS = ("name", "size", "mean", "std", "norm", "min", "max", "zeros", "nan")
_ROWS = 1 << 22  # more rows than that are not told apart


class TensorStats(NamedTuple):
    """One tensor.

    Attributes:
        name, key: in the file, and as seen from the part.
        section: pointer of its section.
        info: what is known of it without values.
        stats: None where there are no numbers.
        note: why there are none, or what else is to be known.
        failed: its bytes are damaged, or could not be read.
    """

    name: str
    key: str
    section: str
    info: TensorInfo
    stats: Statistics | None
    note: str | None
    failed: bool = False

    @property
    def first_bad(self) -> tuple[int, ...] | None:
        """Index of the first NaN or infinity, one number for each dimension; flat in a component."""
        flat = self.stats.first_bad if self.stats is not None else None
        if flat is None or self.info.layout != "strided" or flat >= self.info.numel:
            return None if flat is None else (flat,)
        index: list[int] = []
        for n in reversed(self.info.shape):
            flat, place = divmod(flat, n)
            index.insert(0, place)
        return tuple(index)

    @property
    def marks(self) -> list[str]:
        """What deserves a second look."""
        stats = self.stats
        if stats is None or not stats.count:
            return []
        found = [f"{stats.nan:,} NaN"] if stats.nan else []
        found += [f"{stats.inf:,} Inf"] if stats.inf else []
        if stats.all_zero and stats.count > 1:
            found.append("all zeros")
        elif stats.constant:
            found.append("constant")
        if stats.dead_rows:
            found.append(f"{stats.dead_rows:,} dead row{'s' if stats.dead_rows > 1 else ''}")
        row = BY_NAME[self.info.dtype]
        if stats.edge and (row.kind != "int" or row.itemsize > 1):  # bytes are full of zeros and 255
            found.append(f"{stats.edge:,} at the edge of {self.info.dtype}")
        return found


class ModuleStats(NamedTuple):
    """The floating values below one module, of one section: of its weights and of their moving average apart.

    Attributes:
        name: in the file: section and path joined.
        key: as seen from the part.
        section: pointer of its section.
        path: within the section; ``""`` is all of it.
        stats: the numbers.
    """

    name: str
    key: str
    section: str
    path: str
    stats: Statistics


class Stats:
    """What :func:`stats` found: ``rows`` by tensor, ``modules`` section by section, ``problems``, and whether it was sorted."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.rows: list[TensorStats] = []
        self.modules: list[ModuleStats] = []
        self.problems: list[str] = []
        self.sorted = False

    @property
    def bad(self) -> list[TensorStats]:
        """Tensors with NaN or infinities."""
        return [row for row in self.rows if row.stats is not None and (row.stats.nan or row.stats.inf)]

    @property
    def unsure(self) -> int:
        """Tensors whose values are not those that were saved, or not there."""
        lost = {name for problem in self.checkpoint.problems for name in Problem.of(problem).names}
        return len({row.name for row in self.rows if row.failed} | (lost - {row.name for row in self.rows}))

    @property
    def finite(self) -> bool | None:
        """Whether all values are; None where some could not be read, and the others are."""
        if self.bad:
            return False
        damaged = any(Problem.of(problem).damage for problem in [*self.checkpoint.problems, *self.problems])
        return None if damaged else True

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "path": self.checkpoint.path,
            "tensors": [
                {
                    "name": row.name, "dtype": row.info.dtype, "shape": list(row.info.shape),
                    **(stats_dict(row.stats) if row.stats is not None else dict.fromkeys(_NUMBERS)), "first_bad": None if row.first_bad is None else list(row.first_bad), "marks": row.marks, "note": row.note,
                }
                for row in self.rows
            ],
            "modules": [{"name": m.name, "section": m.section, **stats_dict(m.stats)} for m in self.modules],
            "finite": self.finite,
            "problems": [*self.checkpoint.problems, *self.problems],
        }  # fmt: skip

    def __repr__(self) -> str:
        return f"<stats of {self.checkpoint.path}: {len(self.rows):,} tensors, {len(self.bad):,} with NaN or Inf>"


def stats_dict(found: Statistics) -> dict[str, Any]:
    """The numbers as JSON has them."""
    return safe_dict(
        {
            "count": found.count, "min": found.low, "max": found.high, "mean": found.mean, "std": found.std,
            "norm": found.norm, "zeros": found.zeros, "nan": found.nan, "inf": found.inf, "at_edge": found.edge,
            "dead_rows": found.dead_rows, "constant": found.constant,
        }
    )  # fmt: skip


def stats(
    checkpoint: Checkpoint,
    filter: Sequence[str] = (),
    sort: str | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Stats:
    """Measure the values of tensors: one pass, in chunks, by torch.

    Args:
        checkpoint: the file, or a selected part.
        filter: shell patterns on the whole key or name; without one, all.
        sort: ``name``, or the largest first by ``size mean std norm min max zeros nan``.
        device: where it is computed.
        progress: called with the number of bytes just read.

    Raises:
        SelectionError: it cannot be sorted by that.
        RuleError: the patterns match no tensor.
        UnsupportedError: there is no such device.
    """
    from ..torch.chunks import check_device, single_threaded

    if sort is not None and sort not in SORTS:
        raise SelectionError(f"cannot sort by {sort!r}", hint=f"Sort by one of: {', '.join(SORTS)}")
    check_device(device)
    rows = [
        (name, checkpoint.key_in_selection(section, info.key), section.pointer, info)
        for name, section, info in checkpoint.tensors()
    ]
    if filter:
        matches = pattern(filter)
        rows = [row for row in rows if matches(row[1]) or matches(row[0])]
        if not rows:
            raise matches_nothing(filter, checkpoint.path)
    found = Stats(checkpoint)
    with single_threaded():
        measured = measure([row[-1] for row in rows], device, progress)
    for (name, key, section, info), (numbers, note, failed) in zip(rows, measured, strict=True):
        if failed:
            found.problems.append(f"{name}: {note}")
        found.rows.append(TensorStats(name, key, section, info, numbers, note, failed))
    found.modules = _modules(checkpoint, found.rows)
    if sort is not None:
        found.sorted = True
        found.rows.sort(key=lambda row: _order(row, sort))
    return found


def measure(
    infos: Sequence[TensorInfo], device: str = "cpu", progress: Progress | None = None
) -> list[tuple[Statistics | None, str | None, bool]]:
    """(numbers, note, whether its bytes are damaged or cannot be read) of each. Tied tensors are read once."""
    results: list[tuple[Statistics | None, str | None, bool]] = [(None, None, False)] * len(infos)
    first: dict[object, int] = {}
    twins: dict[int, int] = {}
    work = _Work(device, progress)
    for index, info in enumerate(infos):
        known = first.setdefault(content_key(info) or index, index)
        if known != index:
            twins[index] = known
    damage = Damage()
    for done in in_order(work.tasks(infos, twins, damage), 1 if device != "cpu" else None):
        if done is None:
            continue
        index, part = done
        numbers, _, _ = results[index]
        if isinstance(part, tuple):
            results[index] = (None, *part)
        elif numbers is not None:
            numbers.add(part)
        elif not results[index][2]:
            results[index] = (part, None, False)
    for index, rows in work.live.items():
        numbers = results[index][0]
        if numbers is not None and not numbers.all_zero:
            numbers.dead_rows = int((~rows).sum())
    for index, info in enumerate(infos):
        if info.layout.startswith("sparse_") and index not in twins:
            results[index] = _with_zeros(info, *results[index])
        if info.dtype in BY_NAME and BY_NAME[info.dtype].kind == "complex" and index not in twins:
            results[index] = _of_magnitudes(*results[index])
    for index, (numbers, _, failed) in enumerate(results):
        hurt = damage.of(infos[index]) if index not in twins and not failed else ()
        if hurt:
            results[index] = numbers, "; ".join(hurt), True
    for index, known in twins.items():
        results[index] = results[known]
    return results


class _Work:
    """Stretches of tensors as tasks; each thread has buffers of its own."""

    def __init__(self, device: str, progress: Progress | None) -> None:
        self.device, self.progress = device, progress
        self.live: dict[int, Any] = {}  # by tensor: which rows hold something
        self._own = local()

    def tasks(
        self, infos: Sequence[TensorInfo], twins: dict[int, int], damage: Damage
    ) -> Iterator[Callable[[], tuple[int, Statistics | tuple[str, bool]] | None]]:
        from torch import zeros

        from ..torch.statistics import Statistics

        for index, info in enumerate(infos):
            if index in twins:
                continue
            values = numbers_of(info)
            try:
                found = operand(values) if values is not None else _without_values(info)
            except CheckpointError as error:
                yield partial(_said, index, error.beside(info.key), True)
                continue
            if isinstance(found, str):
                yield partial(_said, index, found, False)
                continue
            count = found.source.size // BY_NAME[found.dtype].itemsize
            row = 0
            if (
                len(info.shape) > 1
                and values is info
                and info.shape[0] <= _ROWS
                and info.numel
                and found.affine is None
                and BY_NAME[found.dtype].kind in ("float", "complex")  # a row of zeros is an index like any other
            ):
                row = count // info.shape[0]
                self.live[index] = zeros(info.shape[0], dtype=bool)
            if not count:
                yield partial(lambda index: (index, Statistics()), index)
            for start, length in stretches(count, SPLIT // BY_NAME[found.dtype].itemsize):
                yield partial(self._run, index, found, start, length, row)
            yield from damage.tasks(info)  # while its bytes are in the system's cache

    def _run(
        self, index: int, found: Operand, start: int, count: int, row: int
    ) -> tuple[int, Statistics | tuple[str, bool]]:
        from ..torch.statistics import Reducer

        try:
            reducers = self._own.__dict__.setdefault("reducers", {})
            reducer = reducers.get(found.dtype)
            if reducer is None:
                reducer = reducers[found.dtype] = Reducer(found, self.device)
            reducer.operand = found
            numbers: Statistics = reducer.run(start, count, row, self.live.get(index) if row else None)
        except CheckpointError as error:
            return index, (error.message, True)
        if self.progress is not None:
            self.progress(count * BY_NAME[found.dtype].itemsize)
        return index, numbers


def _without_values(info: TensorInfo) -> str:
    if not info.parts:
        return "on meta: there are no values" if info.device == "meta" else f"{info.layout}: there are no values"
    return f"{info.layout}: it is made of {len(info.parts)} parts"


def _with_zeros(
    info: TensorInfo, numbers: Statistics | None, note: str | None, failed: bool
) -> tuple[Statistics | None, str | None, bool]:
    """Numbers of a whole sparse tensor, out of those of the values it stores."""
    from ..torch.statistics import Statistics

    if numbers is None:
        return numbers, note, failed
    if info.layout == "sparse_coo" and not is_coalesced(info):
        return numbers, "not coalesced: numbers of the stored values, some of which may add up", failed
    zeros = unstored_zeros(info)
    if zeros:
        numbers.add(Statistics(count=zeros, finite=zeros, zeros=zeros, low=0, high=0))
    return numbers, note, failed


def _of_magnitudes(
    numbers: Statistics | None, note: str | None, failed: bool
) -> tuple[Statistics | None, str | None, bool]:
    """What is smallest and largest of complex numbers is their magnitude, and that has to be said."""
    if numbers is None or not numbers.count:
        return numbers, note, failed
    return numbers, "; ".join(filter(None, [note, "of the magnitudes of complex numbers"])), failed


def _said(index: int, note: str, failed: bool) -> tuple[int, tuple[str, bool]]:
    return index, (note, failed)


def _modules(checkpoint: Checkpoint, rows: Sequence[TensorStats]) -> list[ModuleStats]:
    """For each module, all floating values below it."""
    from ..torch.statistics import Statistics

    found: dict[str, dict[str, Statistics]] = {}  # by section, by path
    for row in rows:
        if row.stats is None or BY_NAME[row.info.dtype].kind not in ("float", "complex"):
            continue
        inside = found.setdefault(row.section, {})
        # Keys of an optimizer are pointers: what a parameter's state is, stands below it.
        place, _, key = (
            row.info.key.rpartition("/")
            if checkpoint.sections[row.section].kind == "optimizer"
            else ("", "", row.info.key)
        )
        path = key
        while path:
            path = path.rpartition(".")[0]
            inside.setdefault(pointers.concat(place, path), Statistics()).add(row.stats)
    modules = []
    for pointer, inside in found.items():
        section = checkpoint.sections[pointer]
        for path, numbers in sorted(inside.items()):
            numbers.first_bad = numbers.dead_rows = numbers.edge = None
            name = section.name_of(path) if path else pointer
            key = path if checkpoint.selected == pointer else pointers.relative(name, checkpoint.selected or "")
            modules.append(ModuleStats(name, key, pointer, path, numbers))
    return modules


def _order(row: TensorStats, sort: str) -> Any:
    if sort == "name":
        return (row.name,)
    if sort == "size":
        return (-row.info.nbytes,)
    value = stats_dict(row.stats).get(sort) if row.stats is not None else None
    number = getattr(row.stats, {"min": "low", "max": "high"}.get(sort, sort), None) if value is not None else None
    return (number is None, -(number or 0))
