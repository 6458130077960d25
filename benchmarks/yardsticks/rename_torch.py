"""The script that everybody writes: load, put a prefix before every key, save."""

from __future__ import annotations

import sys

import torch

state = torch.load(sys.argv[1], map_location="cpu", mmap=True, weights_only=True)
torch.save({f"module.{key}": tensor for key, tensor in state.items()}, sys.argv[2])
