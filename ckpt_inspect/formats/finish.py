"""What is derived once all sections of a checkpoint are known: roles, and whose state an optimizer holds."""

from __future__ import annotations

from ..model.checkpoint import Checkpoint
from . import optimizers
from .roles import infer_roles

_MOST_PAIRS = 20_000  # of an optimizer and a set of weights: whose state it is would not be certain anyway


def finish(checkpoint: Checkpoint) -> Checkpoint:
    """Fill in roles and the parameters of optimizer state; returns the same checkpoint."""
    for section in checkpoint.sections.values():
        if section.kind == "state_dict":
            infer_roles(section)
    found = [section for section in checkpoint.sections.values() if section.kind == "optimizer"]
    weights = [s for s in checkpoint.sections.values() if s.kind in ("state_dict", "module")]
    if len(found) * len(weights) <= _MOST_PAIRS:
        groups = optimizers.all_groups(found, checkpoint.values)
        for optimizer in found:
            optimizers.link(optimizer, groups[optimizer.pointer], weights)
    return checkpoint
