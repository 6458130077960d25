"""The script that everybody writes: load, cast what is floating, save."""

from __future__ import annotations

import sys

import torch

state = torch.load(sys.argv[1], map_location="cpu", mmap=True, weights_only=True)
torch.save({key: t.bfloat16() if t.is_floating_point() else t for key, t in state.items()}, sys.argv[2])
