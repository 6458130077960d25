"""A model of the user's where a checkpoint is expected: ``remap --like``, ``tree --model``, ``diff --model``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..model.checkpoint import Checkpoint
from ..model.spec import is_spec

if TYPE_CHECKING:
    from torch import nn

    from ..torch.models import Model

__all__ = ["is_spec", "live"]


def live(model: Model | nn.Module, transient: bool = True) -> Checkpoint:
    """A model as a checkpoint of one section: modules, parameters, buffers, ties; no values.

    Without ``transient``, as its ``state_dict()`` has it: without the buffers that are not persistent.

    Raises:
        ModelError: it cannot be built; it is quoted.
    """
    from ..torch.live import checkpoint_of
    from ..torch.models import Model

    found = (
        checkpoint_of(model.build().module, model.spec)
        if isinstance(model, Model)
        else checkpoint_of(model, type(model).__name__)
    )
    section = found.sections[""]
    section.tensors = {key: info for key, info in section.items() if transient or info.persistent}
    return found
