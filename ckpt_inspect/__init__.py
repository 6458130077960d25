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
        KeyCollisionError,
        LimitError,
        MissingKeyError,
        ModelError,
        OutputExistsError,
        RuleError,
        SelectionError,
        UnsupportedError,
    )
    from .model.checkpoint import Checkpoint
    from .model.keymap import KeyMap
    from .model.section import Section, Value
    from .model.tensor import TensorInfo
    from .operations.add_prefix import add_prefix
    from .operations.convert import convert
    from .operations.diff import diff
    from .operations.hash import hash
    from .operations.info import info
    from .operations.ls import ls
    from .operations.remap import remap
    from .operations.salvage import salvage
    from .operations.save import save, save_in_place
    from .operations.scan import scan
    from .operations.show import show
    from .operations.stats import stats
    from .operations.strip_prefix import strip_prefix
    from .operations.tree import tree
    from .operations.verify import verify
    from .pickles.limits import Limits

_WHERE = {
    "Checkpoint": "model.checkpoint",
    "CheckpointError": "errors",
    "CorruptError": "errors",
    "FileError": "errors",
    "FormatError": "errors",
    "KeyCollisionError": "errors",
    "KeyMap": "model.keymap",
    "LimitError": "errors",
    "Limits": "pickles.limits",
    "MissingKeyError": "errors",
    "ModelError": "errors",
    "OutputExistsError": "errors",
    "RuleError": "errors",
    "Section": "model.section",
    "SelectionError": "errors",
    "TensorInfo": "model.tensor",
    "UnsupportedError": "errors",
    "Value": "model.section",
    "add_prefix": "operations.add_prefix",
    "convert": "operations.convert",
    "diff": "operations.diff",
    "hash": "operations.hash",
    "info": "operations.info",
    "ls": "operations.ls",
    "remap": "operations.remap",
    "salvage": "operations.salvage",
    "save": "operations.save",
    "save_in_place": "operations.save",
    "scan": "operations.scan",
    "show": "operations.show",
    "stats": "operations.stats",
    "strip_prefix": "operations.strip_prefix",
    "tree": "operations.tree",
    "verify": "operations.verify",
}

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "CorruptError",
    "FileError",
    "FormatError",
    "KeyCollisionError",
    "KeyMap",
    "LimitError",
    "Limits",
    "MissingKeyError",
    "ModelError",
    "OutputExistsError",
    "RuleError",
    "Section",
    "SelectionError",
    "TensorInfo",
    "UnsupportedError",
    "Value",
    "add_prefix",
    "convert",
    "diff",
    "hash",
    "info",
    "ls",
    "open",
    "remap",
    "salvage",
    "save",
    "save_in_place",
    "scan",
    "show",
    "stats",
    "strip_prefix",
    "tree",
    "verify",
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
