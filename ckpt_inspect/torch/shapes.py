"""Tensors without values, for verdicts: of the right shape and dtype, on ``meta``."""

from __future__ import annotations

import torch

from ..model.tensor import TensorInfo
from .tensors import Loader


class Shapes(Loader):
    """Gives tensors on ``meta``. Compound ones, which torch cannot make there, are real; a foreign class is left out."""

    def __init__(self) -> None:
        super().__init__(device="meta")
        self._real = Loader()

    def tensor(self, info: TensorInfo) -> torch.Tensor:
        if info.layout != "strided" or info.dtype.startswith("q"):
            return self._real.tensor(info)
        if info.cls is not None or info.parts:
            return torch.empty(info.shape, dtype=getattr(torch, info.dtype, None), device="meta")
        return super().tensor(info)
