"""``ckpt show``: one entry of a checkpoint, looked at closely."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

from ..containers.copying import Progress
from ..dtypes import BY_NAME
from ..errors import CheckpointError, MissingKeyError, SelectionError, UnsupportedError
from ..formats.literal import literal
from ..formats.logical import leaves, logical
from ..model import pointer as pointers
from ..model.checkpoint import Checkpoint
from ..model.section import Section, Value
from ..model.source import Source
from ..model.tensor import TensorInfo
from .ls import Row, row_dict
from .operands import numbers_of, operand
from .plain import safe, safe_dict
from .stats import TensorStats, measure, stats_dict

if TYPE_CHECKING:
    from ..torch.statistics import Statistics

SCHEMA = "ckpt-inspect/show/1"
BINS = 40
_python_slice = slice  # the argument of `show` is called so too
_FEW = 8  # values that are listed rather than drawn
_MOST_LISTED = 1_000_000
_SLICE = re.compile(r"\s*(-?\d+)?\s*(:?)\s*(-?\d+)?\s*(?::\s*(\d+))?\s*")


class Where(NamedTuple):
    """A component's bytes: its name (``""`` the tensor itself), storage, record, and the range in the file."""

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
            found["type"] = self.entry.type if self.entry is not None else "container"
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
        if not _other(found, checkpoint, name, all_of_it):
            raise
        if slice is not None:
            raise SelectionError(f"{name!r} is no tensor: it has no slices", path=checkpoint.path) from None
    return found


# -- tensors -------------------------------------------------------------------------------------------


def find(checkpoint: Checkpoint, name: str) -> tuple[str, Section, TensorInfo]:
    """The tensor of this name or key."""
    info = checkpoint[name]
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
        else:
            _measured(found, info, device, progress)
    except (SelectionError, UnsupportedError):
        raise
    except CheckpointError as error:
        found.problems.append(f"{full}: {error.message}")


def _measured(found: Shown, info: TensorInfo, device: str, progress: Progress | None) -> None:
    from ..torch.chunks import check_device, single_threaded
    from ..torch.statistics import histogram

    check_device(device)
    with single_threaded():
        ((found.stats, found.note, failed),) = measure([info], device, progress)
        if failed:
            found.problems.append(f"{found.name}: {found.note}")
        values, stats = numbers_of(info), found.stats
        if stats is not None and values is info and info.numel <= _FEW:
            found.values = _listed(info)
            return
        if stats is None or values is None or stats.low is None or stats.high is None or stats.low == stats.high:
            return
        numbers = operand(values)
        if not isinstance(numbers, str):
            found.histogram = histogram(numbers, BINS, float(stats.low), float(stats.high), device)


def _where(info: TensorInfo) -> Iterator[Where]:
    for leaf in leaves(info):
        storage = leaf.storage
        assert storage is not None
        data = storage.data
        place = data.file_range() if data is not None else None
        itemsize = BY_NAME[leaf.dtype].itemsize if leaf.dtype in BY_NAME else 0
        start = place[1] + leaf.storage_offset * itemsize if place is not None else None
        record = storage.record.name if storage.record is not None else None
        yield Where("" if leaf is info else leaf.key, storage.id, record, start, leaf.nbytes)


def sliced(info: TensorInfo, text: str) -> TensorInfo:
    """A view of a tensor: one index or slice for each of its first dimensions, as in Python, without negative steps.

    Raises:
        SelectionError: malformed, too many, or out of bounds.
    """
    if info.storage is None or info.stride is None:
        raise UnsupportedError(f"{info.key!r} is made of parts: it has no slices")
    offset, shape, stride = info.storage_offset, list(info.shape), list(info.stride)
    dim = 0
    for part in text.strip().strip("[]").split(",") if text.strip() else []:
        match = _SLICE.fullmatch(part)
        if match is None or (not match[2] and (match[1] is None or match[3] is not None or match[4])):
            raise SelectionError(
                f"{part.strip()!r} is no index and no slice", hint="For example: --slice '0,:5,10:20:2'"
            )
        if dim >= len(shape):
            raise SelectionError(f"more indices than the {len(info.shape)} dimensions of {list(info.shape)}")
        n = shape[dim]
        if match[2]:
            step = int(match[4] or 1)
            if not step:
                raise SelectionError("a step of 0")
            begin, end = (None if text is None else int(text) for text in (match[1], match[3]))
            first, last, _ = _python_slice(begin, end, step).indices(n)
            offset += first * stride[dim] if last > first else 0
            shape[dim], stride[dim] = len(range(first, last, step)), stride[dim] * step
            dim += 1
        else:
            index = int(match[1])
            if not -n <= index < n:
                raise SelectionError(f"index {index} is out of bounds: the dimension has {n:,} elements")
            offset += index % n * stride[dim]
            del shape[dim], stride[dim]
    return info._replace(storage_offset=offset, shape=tuple(shape), stride=tuple(stride))


def _listed(view: TensorInfo) -> Any:
    """The values as nested lists of Python numbers."""
    if view.numel > _MOST_LISTED:
        raise SelectionError(
            f"{view.numel:,} values are more than can be listed", hint="Take a smaller --slice, or --save FILE.npy."
        )
    numbers = operand(view)
    if isinstance(numbers, str):
        raise UnsupportedError(numbers)
    from ..torch.metrics import vector

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
    found.text = [f"{pointers.relative(value.name, full)} = {value.text}" for value in inside]
    if tensors:
        found.note = f"{len(tensors):,} tensors below it: ckpt ls '{checkpoint.path}#{full}'"
    return True


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


# -- to a file -----------------------------------------------------------------------------------------


_NUMPY = {
    "float64": "<f8", "float32": "<f4", "float16": "<f2", "int64": "<i8", "int32": "<i4", "int16": "<i2", "int8": "|i1",
    "uint64": "<u8", "uint32": "<u4", "uint16": "<u2", "uint8": "|u1", "bool": "|b1", "complex128": "<c16",
    "complex64": "<c8", "qint8": "|i1", "quint8": "|u1", "qint32": "<i4",
}  # fmt: skip


def save_npy(info: TensorInfo, out: str, force: bool = False) -> str:
    """Write a tensor as a NumPy file (format 1.0 of NEP 1); gives the dtype it has there.

    What NumPy lacks (bfloat16, float8) becomes float32, complex32 complex64: every value stays as it is. Quantized
    tensors are written as their integers.

    Raises:
        UnsupportedError: no dtype of NumPy holds it.
        OutputExistsError: ``out`` is there.
    """
    from ..containers.output import replace_file

    code = _NUMPY.get(info.dtype)
    numbers = operand(info)
    if isinstance(numbers, str):
        raise UnsupportedError(f"{info.key!r}: {numbers}")
    wider = None
    if code is None:
        wider = "complex64" if info.dtype == "complex32" else "float32"
        code = _NUMPY[wider]
    if info.dtype == "float4_e2m1fn_x2":
        raise UnsupportedError(f"{info.key!r}: two values in a byte have no place in a NumPy file")
    shape = f"({', '.join(map(str, info.shape))}{',' if len(info.shape) == 1 else ''})"
    header = f"{{'descr': '{code}', 'fortran_order': False, 'shape': {shape}, }}"
    header += " " * (-(len(header) + 11) % 64) + "\n"
    head = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode("latin-1")
    body: Iterator[bytes | Source] = iter([logical(info)])
    if wider is not None:
        from ..torch.chunks import widened

        body = widened(logical(info), info.dtype, wider)
    replace_file(out, (piece for part in ([head], body) for piece in part), force=force)
    return code
