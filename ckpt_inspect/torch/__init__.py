"""Checkpoints as real torch tensors and modules. Importing this imports torch; nothing else of the package does.

>>> import ckpt_inspect.torch as ct, torch
>>> torch.save(torch.nn.Linear(3, 2), "linear.pt")  # a whole module, of a class that may be gone tomorrow
>>> torch.nn.Linear(3, 2).load_state_dict(ct.state_dict("linear.pt"))
<All keys matched successfully>
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from .forward import Comparison, compare_outputs
from .loading import Loaded, load_into, to_device
from .models import Model
from .rebuild import build_module
from .state_dicts import opened, state_dict
from .tensors import Loader, to_tensor

if TYPE_CHECKING:
    from torch import nn

    from ..model.checkpoint import Checkpoint

__all__ = [
    "Comparison",
    "Loaded",
    "Loader",
    "Model",
    "build_module",
    "check",
    "compare_outputs",
    "load_into",
    "state_dict",
    "to_device",
    "to_tensor",
]


def check(module: nn.Module | Model, source: str | os.PathLike[str] | Checkpoint, *, section: str | None = None) -> Any:
    """Would ``module.load_state_dict(…, strict=True)`` succeed with the weights of a checkpoint? And if not, why not?

    The verdict is torch's own, run on a copy of the module without values; nothing is loaded and nothing is changed.

    Args:
        module: a module, on any device, or a :class:`Model`.
        source: a file, a directory that is a checkpoint, ``FILE#SECTION``, or a checkpoint that is open.
        section: pointer of the weights; None takes the one weights candidate.

    Returns:
        an object with ``loads``, ``matched``, ``of``, ``missing``, ``unexpected``, ``mismatched`` (with causes),
        ``harmless``, ``fix`` (with ``command``), as ``ckpt check --json`` has them.

    Raises:
        SelectionError: several sets of weights could be meant; they are listed.
        ModelError: the module cannot be copied, or its own hooks fail.

    >>> import ckpt_inspect.torch as ct, torch
    >>> torch.save(torch.nn.DataParallel(torch.nn.Linear(3, 2)).state_dict(), "parallel.pt")
    >>> found = ct.check(torch.nn.Linear(3, 2), "parallel.pt")
    >>> found.loads, found.matched, found.missing
    (False, 0, ['weight', 'bias'])
    >>> found.fix.command
    'ckpt strip-prefix parallel.pt -o parallel.stripped.pt'
    """
    from importlib import import_module

    verb = import_module("ckpt_inspect.operations.check").check  # above this layer: the front door of a command
    with opened(source) as checkpoint:
        return verb(checkpoint, module, section)
