"""A model of the user's where a checkpoint is expected: ``remap --like``, ``tree --model``, ``diff --model``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..model.checkpoint import Checkpoint
from ..model.spec import is_spec

if TYPE_CHECKING:
    from torch import nn

    from ..torch.models import Model

__all__ = ["is_spec", "live"]


def live(model: Model | nn.Module) -> Checkpoint:
    """A model as a checkpoint of one section: modules, parameters, buffers, ties; no values.

    Raises:
        ModelError: it cannot be built; it is quoted.
    """
    from ..torch.live import checkpoint_of
    from ..torch.models import Model

    if isinstance(model, Model):
        return checkpoint_of(model.build().module, model.spec)
    return checkpoint_of(model, type(model).__name__)
