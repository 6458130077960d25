"""How far apart tensors are that are not the same; the one part of ``diff`` that needs torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import permutations
from threading import local
from typing import TYPE_CHECKING, Any

from ..containers.copying import Progress
from ..containers.streaming import SPLIT, exactly, first_difference, in_order, stretches
from ..dtypes import BY_NAME
from ..errors import CheckpointError, FileError, TorchMissingError
from ..formats.damage import Damage, damage_of
from ..formats.logical import frame, leaves, logical, scheme
from ..model.tensor import TensorInfo
from .operands import operand

if TYPE_CHECKING:
    from ..torch.metrics import Metrics
    from ..torch.operand import Operand
    from .difference import Change, Difference

_MOST_DIMS = 5  # permutations of more are not tried
_PROBE = 4096


def measure(found: Difference, atol: float, rtol: float, device: str, progress: Progress | None) -> None:
    """Put metrics and notes to the changes; what cannot be read goes to the problems.

    Raises:
        UnsupportedError: there is no such device.
    """
    measured = _Measured()
    try:
        measured.run(found.changed, atol, rtol, device, progress)
    except TorchMissingError:
        found.unmeasured = "how far apart they are was not measured: torch is not installed here"
    damage = damage_of(info for change in found.changed for info in (change.a, change.b))
    changes, found.changed = found.changed, []
    for index, change in enumerate(changes):
        if index in measured.failed:
            found.unread[change.place] = measured.failed[index]
            continue
        hurt = _hurt(change, damage)
        found.problems += [f"{change.name}: {text}" for text in hurt]
        found.changed.append(_judged(change, measured.metrics.get(index), measured.operands.get(index), hurt))


class _Measured:
    """By place among the changes: metrics, why there are none, and what was computed with."""

    def __init__(self) -> None:
        self.metrics: dict[int, Metrics] = {}
        self.failed: dict[int, str] = {}
        self.operands: dict[int, tuple[Operand, Operand] | str] = {}

    def run(self, changes: list[Change], atol: float, rtol: float, device: str, progress: Progress | None) -> None:
        from ..torch.chunks import check_device, single_threaded

        check_device(device)
        with single_threaded():
            tasks = _Work(atol, rtol, device, progress).tasks(changes, self.operands)
            for index, part in in_order(tasks, 1 if device != "cpu" else None):
                if isinstance(part, str):
                    self.failed[index] = part
                elif index in self.metrics:
                    self.metrics[index].add(part)
                else:
                    self.metrics[index] = part


class _Work:
    """Tasks that measure stretches of tensors; each thread has buffers of its own."""

    def __init__(self, atol: float, rtol: float, device: str, progress: Progress | None) -> None:
        self.atol, self.rtol, self.device, self.progress = atol, rtol, device, progress
        self._own = local()

    def tasks(
        self, changes: list[Change], operands: dict[int, Any]
    ) -> Iterator[Callable[[], tuple[int, Metrics | str]]]:
        for index, change in enumerate(changes):
            if change.a.shape != change.b.shape:
                continue
            try:
                pair = _operands(change.a, change.b)
            except CheckpointError as error:
                yield partial(_failed, index, error.beside(change.a.key))
                continue
            operands[index] = pair
            if isinstance(pair, str):
                continue
            itemsize = BY_NAME[pair[0].dtype].itemsize
            count = pair[0].source.size // itemsize
            for first, length in stretches(count, SPLIT // itemsize):
                yield partial(self._run, index, pair, first, length)

    def _run(self, index: int, pair: tuple[Operand, Operand], first: int, count: int) -> tuple[int, Metrics | str]:
        from ..torch.metrics import Comparer

        x, y = pair
        try:
            comparers = self._own.__dict__.setdefault("comparers", {})
            kind = x.dtype, y.dtype
            comparer = comparers.get(kind)
            if comparer is None:
                comparer = comparers[kind] = Comparer(x, y, self.atol, self.rtol, self.device)
            comparer.x, comparer.y = x, y
            found: Metrics = comparer.run(first, count)
        except CheckpointError as error:
            return index, error.message
        if self.progress is not None:
            self.progress(2 * count * BY_NAME[x.dtype].itemsize)
        return index, found


def _failed(index: int, reason: str) -> tuple[int, str]:
    return index, reason


def _operands(a: TensorInfo, b: TensorInfo) -> tuple[Operand, Operand] | str:
    """What is compared element by element, or why that makes no sense, in words."""
    x, y, note = _values_of(a, b)
    if note:
        return note
    if x is None or y is None:
        return "values that cannot be paired"
    if (x.dtype == "float4_e2m1fn_x2") != (y.dtype == "float4_e2m1fn_x2"):
        return f"{x.dtype} and {y.dtype} do not pair element by element"
    one, other = operand(x), operand(y)
    if isinstance(one, str) or isinstance(other, str):
        return one if isinstance(one, str) else str(other)
    return one, other


def _values_of(a: TensorInfo, b: TensorInfo) -> tuple[TensorInfo | None, TensorInfo | None, str]:
    """The component of each that holds the values; else why they cannot be paired."""
    if a.layout != b.layout:
        return None, None, f"layout {a.layout} became {b.layout}"
    ours, theirs = leaves(a), leaves(b)
    if a.layout == "strided" and [part.shape for part in a.parts] == [part.shape for part in b.parts]:
        return (ours[0], theirs[0], "") if ours and theirs else (None, None, "on meta: there are no values")
    if [leaf.key for leaf in ours] != [leaf.key for leaf in theirs]:
        return None, None, "made of other parts"
    differ = [
        (x, y) for x, y in zip(ours, theirs, strict=True)
        if x.dtype != y.dtype or x.shape != y.shape or not _equal(x, y)
    ]  # fmt: skip
    names = ", ".join("its integers" if x is ours[0] and a.storage is not None else x.key for x, _ in differ)
    if len(differ) == 1 and differ[0][0].shape == differ[0][1].shape and differ[0][0].dtype == differ[0][1].dtype:
        x, y = differ[0]
        if x.key.endswith("values") or x.key == "buffer":
            return x, y, ""
    if not differ and frame(a) != frame(b):
        return None, None, "another scale of quantization, the same integers"
    return None, None, f"in {names}" if names else "nothing but what it is made of"


def _equal(x: TensorInfo, y: TensorInfo) -> bool:
    one, other = logical(x), logical(y)
    return one.size == other.size and first_difference(one, other, 0, one.size) is None


def _judged(
    change: Change, metrics: Metrics | None, operands: tuple[Operand, Operand] | str | None, hurt: list[str]
) -> Change:
    notes = [operands] if isinstance(operands, str) else []
    what = change.what
    if metrics is not None:
        notes += _oddities(metrics)
        if "dtype" in what and metrics.changed:
            what = (*what, "values")
        scales = scheme(change.a) != scheme(change.b)
        notes += ["another scale of quantization"] if scales else []
        if metrics.changed == 0 and "dtype" not in what and not scales:
            notes.append("equal values in other bytes: signs of zeros, or payloads of NaN")
    moved = _moved(change)
    notes += [moved] if moved else []
    notes += hurt
    close = metrics is not None and metrics.beyond == 0 and "shape" not in what
    return change._replace(what=what, metrics=metrics, close=close, note="; ".join(notes) or None)


def _oddities(metrics: Metrics) -> list[str]:
    return [
        f"{count:,} {name} {'appeared' if appeared else 'vanished'}"
        for count, name, appeared in (
            (metrics.nan_appeared, "NaN", True),
            (metrics.nan_vanished, "NaN", False),
            (metrics.inf_appeared, "Inf", True),
            (metrics.inf_vanished, "Inf", False),
        )
        if count
    ]


def _moved(change: Change) -> str | None:
    """Whether the same values stand in another shape or with other dimensions first."""
    a, b = change.a, change.b
    if a.dtype != b.dtype or a.numel != b.numel or a.parts or b.parts or a.stride is None or b.stride is None:
        return None
    if a.numel < 2:
        return None
    try:
        if a.shape != b.shape and _equal(a, b):
            return "the same values, reshaped"
        if len(a.shape) == len(b.shape) <= _MOST_DIMS:
            return _permuted(a, b)
    except FileError:
        raise
    except CheckpointError:
        return None
    return None


def _permuted(a: TensorInfo, b: TensorInfo) -> str | None:
    target = logical(b)
    probe = exactly(target, 0, min(_PROBE, target.size))
    strides = a.stride or ()
    for order in permutations(range(len(a.shape))):
        if tuple(a.shape[i] for i in order) != b.shape or list(order) == sorted(order):
            continue
        turned = a._replace(shape=b.shape, stride=tuple(strides[i] for i in order))
        source = logical(turned)
        if exactly(source, 0, len(probe)) == probe and first_difference(source, target, 0, target.size) is None:
            return f"the same values, permuted: permute({', '.join(map(str, order))})"
    return None


def _hurt(change: Change, damage: Damage) -> list[str]:
    sides = ("first", change.a), ("second", change.b)
    return [f"the {side} file: {text}" for side, info in sides for text in damage.of(info)]
