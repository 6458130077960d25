"""Checkpoints as real torch tensors and modules. Importing this imports torch; nothing else of the package does.

>>> import ckpt_inspect.torch as ct, torch
>>> torch.save(torch.nn.Linear(3, 2), "linear.pt")  # a whole module, of a class that may be gone tomorrow
>>> torch.nn.Linear(3, 2).load_state_dict(ct.state_dict("linear.pt"))
<All keys matched successfully>
"""

from __future__ import annotations

import warnings as _warnings
from typing import TYPE_CHECKING, Any

from ..errors import TorchMissingError

try:
    with _warnings.catch_warnings():  # torch complains where there is no numpy; nothing here needs it
        _warnings.filterwarnings("ignore", "Failed to initialize NumPy")
        import torch as _torch  # noqa: F401
except ModuleNotFoundError as _error:
    if _error.name != "torch":
        raise
    raise TorchMissingError(
        "this needs torch, which is not installed here",
        hint="pip install torch. What looks at files, compares, renames and converts them does without.",
    ) from _error

from .forward import Comparison, compare_outputs
from .loading import Loaded, load_into, to_device
from .models import Model
from .rebuild import build_module
from .state_dicts import state_dict
from .tensors import Loader, to_tensor

if TYPE_CHECKING:
    from ..operations.check import check_module as check

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


def __getattr__(name: str) -> Any:
    """``check`` is a verb of ``operations``, which are above this package: it is looked up when it is asked for."""
    if name != "check":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ..operations.check import check_module

    globals()[name] = check_module
    return check_module
