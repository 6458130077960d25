"""Checkpoints as real torch tensors. Importing this imports torch; nothing else of the package does.

>>> import ckpt_inspect.torch as ct, torch
>>> torch.save(torch.nn.Linear(3, 2), "linear.pt")  # a whole module, of a class that may be gone tomorrow
>>> torch.nn.Linear(3, 2).load_state_dict(ct.state_dict("linear.pt"))
<All keys matched successfully>
"""

from __future__ import annotations

from .models import Model
from .state_dicts import state_dict
from .tensors import Loader, to_tensor

__all__ = ["Loader", "Model", "state_dict", "to_tensor"]
