"""What of a tensor is computed with: its numbers, read in stretches; for diff, stats and show."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from ..dtypes import BY_NAME
from ..formats.logical import check_expansion, leaves, logical, scheme
from ..model.tensor import TensorInfo

if TYPE_CHECKING:
    from ..torch.operand import Affine, Operand


def operand(info: TensorInfo) -> Operand | str:
    """The numbers of a tensor with bytes of its own; else why there are none, in words.

    Raises:
        CheckpointError: its bytes cannot be read.
    """
    from ..torch.operand import Operand

    reason = no_numbers(info.dtype)
    if reason is not None:
        return reason
    if info.storage is None or info.stride is None or (info.device == "meta" and info.storage.record is None):
        return "on meta: there are no values"
    check_expansion(info)
    return Operand(logical(info), info.dtype, _affine(info))


def no_numbers(dtype: str) -> str | None:
    """Why values of this dtype cannot be computed with; None if they can."""
    row = BY_NAME.get(dtype)
    if row is None or row.kind == "bits" or row.itemsize == 0 or dtype in ("quint4x2", "quint2x4"):
        return f"{dtype} has no numbers to compute with"
    return None


def _affine(info: TensorInfo) -> Affine | None:
    """How its integers become real numbers; scales of channels are components of their own."""
    from ..torch.operand import Affine, Operand, vector

    found = scheme(info)
    if found is None:
        return None
    if found.scale is not None and found.zero_point is not None:
        return Affine(found.scale, found.zero_point)
    parts = [part for part in info.parts if part.key in ("scales", "zero_points")]
    if len(parts) != 2 or found.axis is None or any(no_numbers(part.dtype) for part in parts):
        return None
    if all(part.shape == () for part in parts):  # one channel, picked by its index
        inner = max(1, info.numel)
    elif 0 <= found.axis < len(info.shape) and all(part.shape == (info.shape[found.axis],) for part in parts):
        inner = prod(info.shape[found.axis + 1 :])
    else:
        return None
    scales, zero_points = (vector(Operand(logical(part), part.dtype)) for part in parts)
    return Affine(scales, zero_points, inner)


def unstored_zeros(info: TensorInfo) -> int:
    """Elements of a sparse tensor that are zero because they are not stored; 0 for all other layouts."""
    values = numbers_of(info) if info.layout.startswith("sparse_") else None
    return max(0, info.numel - values.numel) if values is not None else 0


def numbers_of(info: TensorInfo) -> TensorInfo | None:
    """The component that holds the values: of a compound tensor its ``values`` or ``buffer``; None: there is not one."""
    if info.layout == "strided" and info.storage is not None:
        return info
    found = [leaf for leaf in leaves(info) if leaf.key.rpartition(".")[2] in ("values", "buffer")]
    return found[0] if len(found) == 1 else None
