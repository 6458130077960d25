"""How the command line names a part of a file, and a model: for the commands that are printed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ..model.checkpoint import Checkpoint

if TYPE_CHECKING:
    from ..torch.models import Model


def selected(checkpoint: Checkpoint) -> str:
    """``FILE`` or ``FILE#SECTION``, as it was opened."""
    return checkpoint.path if checkpoint.selected is None else f"{checkpoint.path}#{checkpoint.selected}"


def after_options(*words: str) -> list[str]:
    """Arguments, with what is needed before them where one looks like an option."""
    return ["--", *words] if any(word.startswith("-") for word in words) else list(words)


def model_words(model: Model) -> list[str]:
    """``pkg.mod:Net --kwargs '{"classes": 2}'``"""
    words = [model.spec]
    if model.args:
        words += ["--args", json.dumps(list(model.args))]
    if model.kwargs:
        words += ["--kwargs", json.dumps(model.kwargs)]
    return words


def check_words(checkpoint: Checkpoint, model: Model) -> list[str]:
    """``ckpt check FILE --model SPEC``"""
    return ["ckpt", "check", selected(checkpoint), "--model", *model_words(model)]
