"""The same with ckpt_inspect."""

from __future__ import annotations

import sys

import torch
from gpt import Gpt

import ckpt_inspect.torch

with torch.device("meta"):
    model = Gpt(sys.argv[1])
ckpt_inspect.torch.load_into(model, sys.argv[1])
