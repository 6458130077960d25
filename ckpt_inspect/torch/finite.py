"""NaN and Inf among the values of a tensor, a stretch at a time."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..dtypes import ITEMSIZE
from ..formats.logical import logical, stored_dtype
from ..model.tensor import TensorInfo

_VALUES = 1 << 21  # at a time: 8 MB of float32


class NotFinite(NamedTuple):
    """How many values of a tensor are no numbers, or infinite; of a complex one, parts."""

    nan: int
    inf: int


def not_finite(info: TensorInfo) -> NotFinite:
    """Count over all values of a floating or complex tensor that has a storage; others have none.

    Raises:
        CorruptError: its bytes are not all there.
        UnsupportedError: a layout or dtype whose values are not plain.
    """
    dtype: torch.dtype | None = getattr(torch, stored_dtype(info), None)
    if dtype is None or not (dtype.is_floating_point or dtype.is_complex) or "float4" in str(dtype):
        return NotFinite(0, 0)
    source, step = logical(info), _VALUES * ITEMSIZE[stored_dtype(info)]
    nan = inf = 0
    for offset in range(0, source.size, step):
        values = torch.frombuffer(bytearray(source.read_at(offset, step)), dtype=dtype)
        if dtype.is_complex:
            values = torch.view_as_real(values)
        values = values.float() if values.element_size() == 1 else values
        if not bool(torch.isfinite(values).all()):
            nan += int(torch.isnan(values).sum())
            inf += int(torch.isinf(values).sum())
    return NotFinite(nan, inf)
