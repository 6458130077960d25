"""The fastest way that torch has to give a module the weights of a file."""

from __future__ import annotations

import sys

import torch
from gpt import Gpt

with torch.device("meta"):
    model = Gpt(sys.argv[1])
model.load_state_dict(torch.load(sys.argv[1], map_location="cpu", mmap=True, weights_only=True), assign=True)
