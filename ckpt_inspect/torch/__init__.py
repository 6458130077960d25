"""Checkpoints as real torch tensors. Importing this imports torch; nothing else of the package does.

>>> import ckpt_inspect.torch as ct
>>> model.load_state_dict(ct.state_dict("model.pt"))  # doctest: +SKIP
<All keys matched successfully>
"""

from __future__ import annotations

from .state_dicts import state_dict
from .tensors import Loader, to_tensor

__all__ = ["Loader", "state_dict", "to_tensor"]
