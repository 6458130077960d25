"""``ckpt show``: one entry of a checkpoint, looked at closely."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from difflib import get_close_matches
from itertools import islice
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

from ..containers.copying import Progress
from ..dtypes import BY_NAME, PACKED
from ..errors import CheckpointError, CorruptError, MissingKeyError, SelectionError, TorchMissingError, UnsupportedError
from ..formats.damage import damage_of
from ..formats.literal import literal
from ..formats.logical import innermost, leaves, scheme
from ..formats.objects import class_name, is_mapping
from ..formats.parts import node_at
from ..model import pointer as pointers
from ..model.checkpoint import Checkpoint
from ..model.graph import Opaque, Pickle
from ..model.problem import Problem
from ..model.section import Section, Value
from ..model.spelling import as_path, quoted, shell_join, shell_path, unescape
from ..model.tensor import TensorInfo
from .ls import Row, row_dict
from .naming import after_options, selected
from .operands import numbers_of, operand
from .plain import safe, safe_dict
from .stats import TensorStats, measure, stats_dict

if TYPE_CHECKING:
    from ..torch.statistics import Statistics

SCHEMA = "ckpt-inspect/show/1"
BINS = 40
_python_slice = slice  # the argument of `show` is called so too
_FEW = 8  # values that are listed rather than drawn
_MOST_KNOWN = 20_000  # names that a misspelled one is compared with
_MOST_LISTED = 1_000_000
_SLICE = re.compile(r"\s*(-?\d+)?\s*(:?)\s*(-?\d+)?\s*(?::\s*(\d+))?\s*")


class Where(NamedTuple):
    """A component's bytes: its name (``""`` the tensor itself), storage, record, and the range in the file.

    The range reaches from its first element to its last: of a view with gaps it holds others too.
    """

    part: str
    storage: str
    record: str | None
    start: int | None
    nbytes: int


class Shown:
    """What :func:`show` found: a tensor, or any other entry.

    Attributes:
        name: in the file.
        row: of a tensor, what ``ls`` says.
        where: where its bytes lie.
        tied: other names of the same tensor.
        stats: numbers; None where there are none, and ``note`` says why.
        histogram: counts of finite values in equal stretches from the smallest to the largest.
        values: nested lists of the slice that was asked for.
        sliced: shape of that slice.
        entry: of another entry, its leaf; None for a container.
        cls: of a container that is an object of some class, that class.
        text: lines that print it.
    """

    def __init__(self, checkpoint: Checkpoint, name: str) -> None:
        self.checkpoint = checkpoint
        self.name = name
        self.row: Row | None = None
        self.where: list[Where] = []
        self.tied: list[str] = []
        self.stats: Statistics | None = None
        self.note: str | None = None
        self.histogram: list[int] = []
        self.values: Any = None
        self.sliced: tuple[int, ...] | None = None
        self.entry: Value | None = None
        self.cls: str | None = None
        self.text: list[str] = []
        self.problems: list[str] = []

    @property
    def marks(self) -> list[str]:
        row = self.row
        return (
            TensorStats(self.name, row.key, row.section.pointer, row.info, self.stats, None).marks
            if row is not None
            else []
        )

    def to_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = {"schema": SCHEMA, "path": self.checkpoint.path, "name": self.name}
        if self.row is not None:
            found["tensor"] = row_dict(self.row)
            found["where"] = [safe_dict(where._asdict()) for where in self.where]
            found["tied"] = self.tied
            found["stats"] = stats_dict(self.stats) if self.stats is not None else None
            found["histogram"] = self.histogram
            found["values"] = safe(self.values)
        else:
            found["type"] = self.entry.type if self.entry is not None else self.cls or "container"
            found["value"] = safe(self.entry.value) if self.entry is not None else None
            found["text"] = "\n".join(self.text)
        found["note"] = self.note
        found["problems"] = [*self.checkpoint.problems, *self.problems]
        return found


def show(
    checkpoint: Checkpoint,
    name: str,
    slice: str | None = None,
    device: str = "cpu",
    all_of_it: bool = False,
    progress: Progress | None = None,
) -> Shown:
    """Look at one entry.

    Args:
        checkpoint: the file, or a selected part.
        name: of a tensor, of another entry, or of a container.
        slice: of a tensor, what to list: ``0,:5``, as in Python; then nothing is measured.
        device: where statistics are computed.
        all_of_it: do not stop after 2,000 lines of a value.
        progress: called with the number of bytes just read.

    Raises:
        MissingKeyError: there is no such entry; close matches are named.
        SelectionError: the slice does not fit the shape.
    """
    found = Shown(checkpoint, name)
    try:
        _tensor(found, checkpoint, name, slice, device, progress)
    except MissingKeyError:
        lost = [problem for problem in checkpoint.problems if name in Problem.of(problem).names]
        if lost:
            raise CorruptError(f"{name!r} cannot be shown: {lost[0]}", path=checkpoint.path) from None
        meant = unescape(name)
        if not _other(found, checkpoint, name, all_of_it) and (
            meant is None or not _other(found, checkpoint, meant, all_of_it)
        ):
            raise _unknown(checkpoint, name) from None
        if slice is not None:
            raise SelectionError(f"{name!r} is no tensor: it has no slices", path=checkpoint.path) from None
    return found


def _unknown(checkpoint: Checkpoint, name: str) -> MissingKeyError:
    """That there is no such entry: it is a module, it is spelled otherwise, or it is to be looked for."""
    if count := checkpoint.module(name):
        message = f"{name!r} is no entry but a module of {count:,} tensor{'s' if count > 1 else ''}"
        return MissingKeyError(message, path=checkpoint.path, hint=checkpoint.look_at_module(name))
    known: dict[str, None] = {}
    for full, _, info in islice(checkpoint.tensors(), _MOST_KNOWN):
        known[full] = known[info.key] = None
    for value in islice(checkpoint.values, _MOST_KNOWN):
        known.update(dict.fromkeys([value.name, *filter(None, pointers.ancestors(value.name))]))
    close = get_close_matches(name, known, n=3, cutoff=0.5) or [key for key in known if name in key][:3]
    hint = f"Did you mean {' or '.join(map(quoted, close))}?" if close else None
    hint = hint or f"See what there is: {shell_join(['ckpt', 'tree', *after_options(selected(checkpoint))])}"
    return MissingKeyError(f"no entry is called {name!r}", path=checkpoint.path, hint=hint)


# -- tensors -------------------------------------------------------------------------------------------


def find(checkpoint: Checkpoint, name: str) -> tuple[str, Section, TensorInfo]:
    """The tensor of this name or key; where none is called so, of the one that is printed so."""
    try:
        info = checkpoint[name]
    except MissingKeyError:
        meant = unescape(name)
        if meant is None or meant not in checkpoint:
            raise
        info = checkpoint[meant]
    except SelectionError as error:
        key = next(full for full, _, info in checkpoint.tensors() if info.key == name)
        error.hint = (
            f"Name one of them: {shell_join(['ckpt', 'show', as_path(selected(checkpoint)), *after_options(key)])}"
        )
        raise
    return next(row for row in checkpoint.tensors() if row[2] is info)


def _tensor(
    found: Shown, checkpoint: Checkpoint, name: str, slice: str | None, device: str, progress: Progress | None
) -> None:
    full, section, info = find(checkpoint, name)
    found.name = full
    found.row = Row(full, section, checkpoint.key_in_selection(section, info.key), info)
    found.where = list(_where(info))
    found.tied = [other for group in checkpoint.tied() if full in group for other in group if other != full]
    try:
        if slice is not None:
            view = sliced(info, slice)
            found.sliced, found.values = view.shape, _listed(view)
            found.problems += [f"{full}: {text}" for text in damage_of([info]).of(info)]
        else:
            _measured(found, info, device, progress)
    except TorchMissingError:
        if slice is not None:
            raise
        found.note = "not measured: torch is not installed here"
        found.problems += [f"{full}: {text}" for text in damage_of([info]).of(info)]
    except (SelectionError, UnsupportedError):
        raise
    except CheckpointError as error:
        found.problems.append(f"{full}: {error.beside(info.key)}")


def _measured(found: Shown, info: TensorInfo, device: str, progress: Progress | None) -> None:
    from ..torch.chunks import check_device, single_threaded
    from ..torch.statistics import histogram

    check_device(device)
    with single_threaded():
        ((found.stats, found.note, failed),) = measure([info], device, progress)
        if failed:
            found.problems.append(f"{found.name}: {found.note}")
            found.note = None if found.stats is not None else found.note  # of damaged bytes, on stderr alone
        values, stats = numbers_of(info), found.stats
        if stats is not None and values is info and info.numel <= _FEW:
            found.values = _listed(info)
            return
        if stats is None or values is None or stats.low is None or stats.high is None:
            return
        low, high = float(stats.low), float(stats.high)
        if low == high:
            return
        numbers = operand(values)
        if not isinstance(numbers, str):
            found.histogram = histogram(numbers, BINS, low, high, device)
            zeros = stats.count - sum(found.histogram) - stats.nan - stats.inf
            if zeros > 0:  # those that a sparse tensor does not store
                found.histogram[min(BINS - 1, int((0 - low) / (high - low) * BINS))] += zeros


def _where(info: TensorInfo) -> Iterator[Where]:
    for leaf in leaves(info):
        storage = leaf.storage
        assert storage is not None
        data = storage.data
        place = data.file_range() if data is not None else None
        itemsize = BY_NAME[leaf.dtype].itemsize if leaf.dtype in BY_NAME else 0
        start = place[1] + leaf.storage_offset * itemsize if place is not None else None
        record = storage.record.name if storage.record is not None else None
        span = leaf.nbytes
        if itemsize and leaf.numel and leaf.dtype not in PACKED:
            last = sum((n - 1) * step for n, step in zip(leaf.shape, leaf.stride or (), strict=True))
            span = (last + 1) * itemsize
        yield Where("" if leaf is info else leaf.key, storage.id, record, start, span)


def sliced(info: TensorInfo, text: str) -> TensorInfo:
    """A view of a tensor: one index or slice for each of its first dimensions, as in Python, without negative steps.

    Raises:
        SelectionError: malformed, too many, or out of bounds.
        UnsupportedError: it has no values of its own.
    """
    if info.storage is None or info.stride is None:
        why = f"made of {len(info.parts)} parts: it has no slices" if info.parts else "on meta: it has no values"
        raise UnsupportedError(f"{info.key!r} is {why}")
    picks = list(_picks(info, text))
    offset = info.storage_offset + sum(
        pick.first * step for pick, step in zip(picks, info.stride, strict=True) if pick.n
    )
    kept = [(pick.n, step * pick.step) for pick, step in zip(picks, info.stride, strict=True) if pick.step]
    shape, stride = tuple(n for n, _ in kept), tuple(step for _, step in kept)
    view = info._replace(storage_offset=offset, shape=shape, stride=stride)
    found = scheme(info)
    if found is None or found.axis is None or not 0 <= found.axis < len(picks):
        return view
    if any(part.stride is None or part.shape != (info.shape[found.axis],) for part in info.parts):
        return view
    return _with_channels(view, picks[found.axis], sum(pick.step > 0 for pick in picks[: found.axis]))


class _Pick(NamedTuple):
    """Of one dimension: the first element, how many, and their step; a step of 0 takes the dimension away."""

    first: int
    n: int
    step: int


def _picks(info: TensorInfo, text: str) -> Iterator[_Pick]:
    given = text.strip().strip("[]").split(",") if text.strip() else []
    for dim, part in enumerate(given):
        match = _SLICE.fullmatch(part)
        if match is None or (not match[2] and (match[1] is None or match[3] is not None or match[4])):
            raise SelectionError(
                f"{part.strip()!r} is no index and no slice", hint="For example: --slice '0,:5,10:20:2'"
            )
        if dim >= len(info.shape):
            raise SelectionError(f"more indices than the {len(info.shape)} dimensions of {list(info.shape)}")
        n = info.shape[dim]
        if match[2]:
            step = int(match[4] or 1)
            if not step:
                raise SelectionError("a step of 0")
            begin, end = (None if text is None else int(text) for text in (match[1], match[3]))
            first, last, _ = _python_slice(begin, end, step).indices(n)
            yield _Pick(first, len(range(first, last, step)), step)
        else:
            index = int(match[1])
            if not -n <= index < n:
                raise SelectionError(f"index {index} is out of bounds: the dimension has {n:,} elements")
            yield _Pick(index % n, 1, 0)
    yield from (_Pick(0, n, 1) for n in info.shape[len(given) :])


def _with_channels(view: TensorInfo, pick: _Pick, axis: int) -> TensorInfo:
    """The view of a tensor quantized by channels, with the scales of those it shows."""
    parts = []
    for part in view.parts:
        (step,) = part.stride or (1,)
        kept = ((pick.n,), (step * pick.step,)) if pick.step else ((), ())
        parts.append(
            part._replace(storage_offset=part.storage_offset + pick.first * step, shape=kept[0], stride=kept[1])
        )
    call = innermost(view.node)
    assert call is not None
    name, scales, zero_points, _ = call.args[4]
    node = Opaque(call.how, call.callee, (*call.args[:4], (name, scales, zero_points, axis), *call.args[5:]))
    return view._replace(parts=tuple(parts), node=node)


def _listed(view: TensorInfo) -> Any:
    """The values as nested lists of Python numbers."""
    if view.numel > _MOST_LISTED:
        raise SelectionError(
            f"{view.numel:,} values are more than can be listed", hint="Take a smaller --slice, or --save FILE.npy."
        )
    numbers = operand(view)
    if isinstance(numbers, str):
        raise UnsupportedError(numbers)
    from ..torch.operand import vector

    made = vector(numbers)
    if numbers.affine is not None:
        made = numbers.affine.real(made, 0)
    shape = (*view.shape[:-1], -1) if view.dtype == "float4_e2m1fn_x2" else view.shape  # two in a byte, in a scalar too
    if view.dtype == "bool":
        made = made.bool()
    if view.dtype == "uint64":
        flat = [int(number) + (1 << 63) for number in made.tolist()]
        return _nested(flat, view.shape)
    return made.reshape(shape).tolist() if 0 not in view.shape else _nested([], view.shape)


def _nested(flat: list[Any], shape: tuple[int, ...]) -> Any:
    if not shape:
        return flat[0]
    if len(shape) == 1:
        return flat
    row = prod(shape[1:])
    return [_nested(flat[i * row : (i + 1) * row], shape[1:]) for i in range(shape[0])]


# -- other entries -------------------------------------------------------------------------------------


def _other(found: Shown, checkpoint: Checkpoint, name: str, all_of_it: bool) -> bool:
    """A value, or a container of values and tensors."""
    base = checkpoint.selected or ""
    for value in checkpoint.values:
        if name in (value.name, pointers.relative(value.name, base) if base else None):
            found.name, found.entry = value.name, value
            node = value.node if value.node is not None else value.value
            plain = value.node is None
            found.text = [value.text] if plain else list(literal(node, _describer(checkpoint), all_of_it))
            return True
    full = pointers.concat(base, name) if base and not pointers.is_below(name, base) else name
    inside = [value for value in checkpoint.values if pointers.is_below(value.name, full)]
    tensors = [row for row, _, _ in checkpoint.tensors() if pointers.is_below(row, full)]
    if not inside and not tensors:
        return False
    found.name = full
    node = _object_at(checkpoint, full)
    if node is not None:
        found.cls = class_name(node)
        found.text = list(literal(node, _describer(checkpoint), all_of_it))
    else:
        found.text = [f"{pointers.relative(value.name, full)} = {value.text}" for value in inside]
    if tensors:
        count = f"{len(tensors):,} tensor{'s' if len(tensors) > 1 else ''} below it"
        found.note = f"{count}: ckpt ls {shell_path(f'{checkpoint.path}#{full}')}"
    return True


def _object_at(checkpoint: Checkpoint, pointer: str) -> Opaque | None:
    """The object of some class that a pointer names; None for plain containers, and outside pickles."""
    for graph in checkpoint.containers[0].graphs.values() if len(checkpoint.containers) == 1 else ():
        if type(graph) is Pickle:
            with suppress(MissingKeyError):
                node = node_at(graph.root, pointer)
                return node if type(node) is Opaque and not is_mapping(node) else None
    return None


def _describer(checkpoint: Checkpoint) -> Callable[[Any], str | None]:
    """What a node is called that is one of the checkpoint's tensors."""
    names = {id(info.node): (name, info) for name, _, info in checkpoint.tensors() if info.node is not None}

    def describe(node: Any) -> str | None:
        known = names.get(id(node))
        if known is None:
            return None
        name, info = known
        return f"<tensor {name}: {info.dtype} {list(info.shape)}>"

    return describe
