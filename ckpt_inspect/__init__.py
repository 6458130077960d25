"""Look into PyTorch checkpoints without importing torch, running their pickle or loading their weights.

>>> import ckpt_inspect as ci
>>> ckpt = ci.open("model.pt")              # doctest: +SKIP
>>> ckpt["conv1.weight"].shape              # doctest: +SKIP
(32, 1, 3, 3)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import (
        CheckpointError,
        CorruptError,
        FileError,
        FormatError,
        LimitError,
        MissingKeyError,
        SelectionError,
        UnsupportedError,
    )
    from .formats import open_checkpoint as open
    from .model.checkpoint import Checkpoint
    from .model.section import Section, Value
    from .model.tensor import TensorInfo
    from .operations.info import info
    from .operations.ls import ls
    from .operations.tree import tree
    from .pickles.limits import Limits

_WHERE = {
    "Checkpoint": "model.checkpoint", "CheckpointError": "errors", "CorruptError": "errors", "FileError": "errors",
    "FormatError": "errors", "LimitError": "errors", "Limits": "pickles.limits", "MissingKeyError": "errors",
    "Section": "model.section", "SelectionError": "errors", "TensorInfo": "model.tensor", "UnsupportedError": "errors",
    "Value": "model.section", "info": "operations.info", "ls": "operations.ls", "open": "formats",
    "tree": "operations.tree",
}  # fmt: skip

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "CorruptError",
    "FileError",
    "FormatError",
    "LimitError",
    "Limits",
    "MissingKeyError",
    "Section",
    "SelectionError",
    "TensorInfo",
    "UnsupportedError",
    "Value",
    "info",
    "ls",
    "open",
    "tree",
]


def __getattr__(name: str) -> Any:
    module = _WHERE.get(name)
    if module is None:
        raise AttributeError(f"module 'ckpt_inspect' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{module}", __name__), "open_checkpoint" if name == "open" else name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
