"""Real tensors from what a checkpoint says of them: the arithmetic of ``torch._utils``, without the pickle.

Classes that a file names are never imported. What torch itself would refuse (impossible sizes, indices out of
bounds) is refused too, and what it does not check (nested sizes) is checked here.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from ..dtypes import BY_NAME, PACKED
from ..errors import CheckpointError, CorruptError, UnsupportedError
from ..formats.logical import FROM_TYPE, REBUILT_PARAMETER, innermost, stored_dtype
from ..formats.rebuild import pairs_of
from ..model.graph import Global, Opaque
from .storages import Storages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..model.tensor import TensorInfo

_STORAGE = "torch.storage"  # how a storage that was saved without a tensor is called
_JAGGED = "torch.nested._internal.nested_tensor.NestedTensor"
_PARAMETER = "torch.nn.parameter.Parameter"


class Loader:
    """Makes tensors. Those of one storage, made by one loader, share their memory: ties and views stay.

    Where a storage is a byte range of a file it is mapped: made at once, read when touched, and copied page by
    page when written to, so that the file never changes. Do not write over a file while its tensors are in use
    (replacing it by a new one, as this package does, is fine); ``mmap=False`` reads everything now instead.

    Args:
        device: where the tensors go, whatever device the file names; None is the CPU. On ``meta`` nothing is read.
        mmap: map what can be mapped; only on the CPU.

    >>> import ckpt_inspect as ci, ckpt_inspect.torch as ct, torch
    >>> table = torch.rand(6, 4)
    >>> torch.save({"embedding": table, "head": table.t()}, "tied.pt")
    >>> loader = ct.Loader()
    >>> with ci.open("tied.pt") as checkpoint:
    ...     embedding, head = (loader.tensor(info) for _, _, info in checkpoint.tensors())
    >>> embedding.shape, head.shape, embedding.data_ptr() == head.data_ptr()
    (torch.Size([6, 4]), torch.Size([4, 6]), True)
    """

    def __init__(self, *, device: str | torch.device | None = None, mmap: bool = True) -> None:
        self.device = torch.device("cpu" if device is None else device)
        self._mmap = mmap
        self._storages = Storages(self.device, mmap)
        self._host: Loader | None = self if self.device.type == "cpu" else None

    def tensor(self, info: TensorInfo) -> torch.Tensor:
        """The tensor that ``info`` describes; see :func:`to_tensor`."""
        if info.cls not in (None, _STORAGE, _JAGGED) or _is_wrapper(info):
            raise _foreign(info)
        with _without_notes() if _is_noted(info) else nullcontext():
            made = self._make(info)
        with _torch_may_refuse(info):
            if _is_parameter(info.node):
                return torch.nn.Parameter(made, info.requires_grad is not False)
            return made.requires_grad_() if info.requires_grad and not made.requires_grad else made

    def _make(self, info: TensorInfo) -> torch.Tensor:
        call = innermost(info.node)
        if info.layout in _COMPOUND:
            return self._compound(info, call)
        if _is_quantized(info):
            return self._quantized(info, call)
        return self._strided(info)

    def _compound(self, info: TensorInfo, call: Opaque | None) -> torch.Tensor:
        build, count = _COMPOUND[info.layout]
        parts = {part.key: self._part(info, part) for part in info.parts[:count]}  # then come its attributes
        with _torch_may_refuse(info):
            return build(info, call, parts)

    def _part(self, info: TensorInfo, part: TensorInfo) -> torch.Tensor:
        """A component. Those that only say where the values of a nested tensor lie stay on the CPU, as in torch."""
        if info.layout == "nested" and part.key != "buffer":
            self._host = self._host or Loader(mmap=self._mmap)
            return self._host.tensor(part)
        return self.tensor(part)

    def _strided(self, info: TensorInfo) -> torch.Tensor:
        if info.storage is None:
            with _torch_may_refuse(info):
                return torch.empty_strided(info.shape, info.stride or (), dtype=_dtype(info.dtype), device="meta")
        name = stored_dtype(info)
        made = self._view(info, name, partial(torch.empty, (0,)))
        with _torch_may_refuse(info):
            bits = {bit: True for bit, is_set in (("conj", info.conj), ("neg", info.neg)) if is_set}
            if bits:
                torch._utils.set_tensor_metadata(made, bits)
            return made if name == info.dtype else made.to(_dtype(info.dtype))

    def _quantized(self, info: TensorInfo, call: Opaque | None) -> torch.Tensor:
        scheme = call.args[4] if call is not None and call.callee.name == "_rebuild_qtensor" else None
        if type(scheme) is not tuple or len(scheme) not in (3, 4):
            raise UnsupportedError(
                f"{info.key!r} has the numbers of a quantized tensor ({info.dtype}) without its scale",
                hint=f"They are there as integers: to_tensor(info._replace(dtype={_integers(info.dtype)!r})).",
            )
        if len(scheme) == 3:
            _, scale, zero_point = scheme
            return self._view(info, info.dtype, lambda **kind: torch._empty_affine_quantized(
                [0], scale=scale, zero_point=zero_point, **kind))  # fmt: skip
        scales, zero_points = self._scales(info, scheme)
        axis = scheme[3]
        fits = type(axis) is int and 0 <= axis < len(info.shape)
        if not fits or scales.shape != (info.shape[axis],) or scales.shape != zero_points.shape:
            raise CorruptError(f"{info.key!r}: its scales do not fit its shape {info.shape}")
        size = [length if dim == axis else 0 for dim, length in enumerate(info.shape)]
        return self._view(info, info.dtype, lambda **kind: torch._empty_per_channel_affine_quantized(
            size, scales=scales, zero_points=zero_points, axis=axis, **kind))  # fmt: skip

    def _scales(self, info: TensorInfo, scheme: tuple[Any, ...]) -> list[torch.Tensor]:
        """Scales and zero points, tensors of one number for each channel; lists of numbers before torch 1.4."""
        if type(scheme[1]) is list and type(scheme[2]) is list:
            with _torch_may_refuse(info):
                kinds = (torch.float64, torch.int64)
                return [torch.tensor(numbers, dtype=kind, device=self.device)
                        for numbers, kind in zip(scheme[1:3], kinds, strict=True)]  # fmt: skip
        if [part.key for part in info.parts[:2]] != ["scales", "zero_points"]:
            raise CorruptError(f"{info.key!r}: its scales are no tensors")
        return [self.tensor(part) for part in info.parts[:2]]

    def _view(self, info: TensorInfo, name: str, empty: Callable[..., torch.Tensor]) -> torch.Tensor:
        """A view of the storage of ``info``; ``empty`` makes a tensor of the right kind without elements."""
        assert info.storage is not None
        dtype, itemsize = _dtype(name), BY_NAME[name].itemsize
        storage = self._storages.get(info.storage, itemsize)
        extent = (info if info.dtype in PACKED else info._replace(dtype=name)).extent
        if extent > storage.nbytes():
            raise CorruptError(
                f"{info.key!r} needs {extent:,} bytes of a storage of {storage.nbytes():,}",
                record=info.storage.id,
            )
        with _torch_may_refuse(info):
            view = empty(dtype=dtype, device=storage.device)
            return view.set_(storage, info.storage_offset, info.shape, info.stride)


def to_tensor(info: TensorInfo, *, device: str | torch.device | None = None) -> torch.Tensor:
    """The real tensor, bit for bit as the file has it.

    Its dtype, shape, stride and storage offset (in elements), layout, conjugate and negative bits, quantization
    and ``requires_grad`` are those of the file; a recorded ``Parameter`` is one. Attributes and hooks that a file
    hangs on a tensor are left out. Values are mapped where they can be: see :class:`Loader`, which also keeps
    ties between several tensors.

    Args:
        info: from :func:`ckpt_inspect.open`, while the checkpoint is open.
        device: where the tensor goes, whatever device the file names; None is the CPU. A tensor of ``meta``
            stays there.

    Raises:
        UnsupportedError: a tensor subclass, which only its own class can make; a dtype torch does not have.
        CorruptError: bytes are missing, or what the file says of the tensor is impossible.
        FileError: the checkpoint was closed.

    >>> import ckpt_inspect as ci, ckpt_inspect.torch as ct, torch
    >>> torch.save(torch.nn.Conv2d(1, 32, 3), "conv.pt")
    >>> with ci.open("conv.pt") as checkpoint:
    ...     weight = ct.to_tensor(checkpoint["weight"])
    >>> weight.shape, weight.stride(), weight.requires_grad
    (torch.Size([32, 1, 3, 3]), (9, 9, 3, 1), True)
    """
    return Loader(device=device).tensor(info)


# -- what the graph knows and TensorInfo does not -------------------------------------------------------------


def _is_parameter(node: Any) -> bool:
    name = node.qualname if type(node) is Opaque else ""
    if name in FROM_TYPE:
        return type(node.args[1]) is Global and node.args[1].qualname == _PARAMETER
    return name == _PARAMETER or name in REBUILT_PARAMETER


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name, None) if name in BY_NAME else None
    if dtype is None:
        raise UnsupportedError(
            f"torch {torch.__version__} has no dtype {name}",
            hint="Its bytes are there: info.storage.data.read_at(0, n).",
        )
    return dtype


def _integers(dtype: str) -> str:
    return {"qint8": "int8", "qint32": "int32"}.get(dtype, "uint8")


def _is_wrapper(info: TensorInfo) -> bool:
    """Whether it is strided without a storage, and not on ``meta``: a subclass around other tensors."""
    return info.layout not in _COMPOUND and info.storage is None and (info.device != "meta" or bool(info.parts))


def _foreign(info: TensorInfo) -> UnsupportedError:
    name = info.cls or "tensor subclass"
    message = f"{info.key!r} is a {name}: its class is never imported, and nothing else can make one"
    if info.storage is not None:
        return UnsupportedError(message, hint="Its values as a plain tensor: to_tensor(info._replace(cls=None)).")
    names = ", ".join(part.key for part in info.parts)
    return UnsupportedError(message, hint=f"The tensors inside it can be had: to_tensor(part) for info.parts: {names}.")


def _is_quantized(info: TensorInfo) -> bool:
    return info.dtype in BY_NAME and BY_NAME[info.dtype].kind == "quantized"


def _is_noted(info: TensorInfo) -> bool:
    """Whether torch has something to remark: that the kind is new (sparse, nested) or old (quantized)."""
    return info.layout != "strided" or info.dtype == "complex32" or _is_quantized(info)


@contextmanager
def _without_notes() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _torch_may_refuse(info: TensorInfo) -> Iterator[None]:
    """Torch's errors as ours."""
    try:
        yield
    except (CheckpointError, torch.cuda.OutOfMemoryError):
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AssertionError, OverflowError) as error:
        reason = str(error).partition("\n")[0]
        raise CorruptError(f"torch refuses {info.key!r}: {reason}") from error


# -- layouts that are made of parts ---------------------------------------------------------------------------


def _coo(info: TensorInfo, call: Opaque | None, parts: dict[str, torch.Tensor]) -> torch.Tensor:
    # eager: (layout, (indices, values, size[, is_coalesced])); TorchScript leaves that flag out
    data: Any = call.args[1] if call is not None and len(call.args) == 2 else ()
    coalesced = data[3] if len(data) > 3 and type(data[3]) is bool else None
    return torch.sparse_coo_tensor(
        parts["indices"], parts["values"], info.shape, check_invariants=True, is_coalesced=coalesced
    )


def _compressed(info: TensorInfo, call: Opaque | None, parts: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.sparse_compressed_tensor(  # compressed indices, plain indices, values
        *parts.values(), info.shape, layout=getattr(torch, info.layout), check_invariants=True
    )


def _nested(info: TensorInfo, call: Opaque | None, parts: dict[str, torch.Tensor]) -> torch.Tensor:
    buffer, sizes, strides, offsets = (parts[name] for name in ("buffer", "sizes", "strides", "offsets"))
    rows = zip(sizes.tolist(), strides.tolist(), offsets.tolist(), strict=True)
    for size, stride, offset in rows:  # torch takes them as they are
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if min(size, default=0) < 0 or offset < 0 or (0 not in size and not 0 <= last < buffer.numel()):
            raise ValueError("a nested tensor that reaches beyond its buffer")
    return torch._nested_view_from_buffer(buffer, sizes, strides, offsets)


def _jagged(info: TensorInfo, call: Opaque | None, parts: dict[str, torch.Tensor]) -> torch.Tensor:
    from torch.nested._internal.nested_tensor import NestedTensor

    facts = pairs_of(call.args[0]) if call is not None else {}
    values, offsets, lengths = parts["values"], parts["offsets"], parts.get("lengths")
    ragged = facts.get("_ragged_idx", 1)
    _check_offsets(offsets, lengths, values.shape[ragged - 1])
    return NestedTensor(
        values, offsets, lengths=lengths, _ragged_idx=ragged, requires_grad=facts.get("requires_grad") is True
    )


def _check_offsets(offsets: torch.Tensor, lengths: torch.Tensor | None, size: int) -> None:
    if offsets.is_meta:
        return
    starts = offsets.tolist()
    ends = starts[1:] if lengths is None else [a + n for a, n in zip(starts, lengths.tolist(), strict=False)]
    if not starts or any(not 0 <= start <= end <= size for start, end in zip(starts, ends, strict=False)):
        raise ValueError("a jagged tensor that reaches beyond its values")


# By layout: what makes the tensor, and the number of its parts.
_COMPOUND: dict[str, tuple[Callable[[TensorInfo, Opaque | None, dict[str, torch.Tensor]], torch.Tensor], int]] = {
    "sparse_coo": (_coo, 2), "sparse_csr": (_compressed, 3), "sparse_csc": (_compressed, 3),
    "sparse_bsr": (_compressed, 3), "sparse_bsc": (_compressed, 3), "nested": (_nested, 4), "jagged": (_jagged, 3),
}  # fmt: skip
