"""Look into PyTorch checkpoints without importing torch, running their pickle or loading their weights.

>>> import ckpt_inspect as ci
>>> ckpt = ci.open("model.pt")              # doctest: +SKIP
>>> ckpt["conv1.weight"].shape              # doctest: +SKIP
(32, 1, 3, 3)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from os import PathLike

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
    "Value": "model.section", "info": "operations.info", "ls": "operations.ls",
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


def open(path: str | PathLike[str], section: str | None = None, *, limits: Limits | None = None) -> Checkpoint:
    """Open a checkpoint file or directory, whatever its format and suffix.

    Args:
        path: the file, or a directory that is a checkpoint; ``FILE#SECTION`` names a part.
        section: a part of it, as a JSON Pointer without its leading slash.
        limits: bounds on what is read, see :class:`Limits`.

    Raises:
        CheckpointError: one of its leaves; the message says what the file is and what is wrong.
    """
    from os import fspath

    from .formats import open_checkpoint
    from .model.checkpoint import Checkpoint
    from .pickles.limits import DEFAULT

    Checkpoint.html = staticmethod(_html)
    return open_checkpoint(fspath(path), section, limits or DEFAULT)


def _html(checkpoint: Checkpoint) -> str:
    from .operations.tree import tree
    from .render.html import page
    from .render.tree import lines

    return page(lines(tree(checkpoint)))


def __getattr__(name: str) -> Any:
    module = _WHERE.get(name)
    if module is None:
        raise AttributeError(f"module 'ckpt_inspect' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{module}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
