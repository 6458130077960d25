"""A model whose state_dict has the keys and shapes of a file of the benchmarks."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from torch import nn

sys.path.append(str(Path(__file__).resolve().parent.parent))

from files import gpt_shapes, gpt_width


class Gpt(nn.Module):  # type: ignore[misc]
    """GPT-2 without its forward: 400 tensors, as wide as the size of the file says."""

    def __init__(self, path: str) -> None:
        super().__init__()
        for key, shape in gpt_shapes(400, gpt_width(400, os.path.getsize(path))):
            part: nn.Module = self
            *segments, name = key.split(".")
            for segment in segments:
                if segment not in part._modules:
                    part.add_module(segment, nn.Module())
                part = part.get_submodule(segment)
            part.register_parameter(name, nn.Parameter(torch.empty(shape)))
