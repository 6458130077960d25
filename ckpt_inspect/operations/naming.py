"""How the command line names a part of a file, and a model: for the commands that are printed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..model.checkpoint import Checkpoint
from ..model.keymap import KeyMap
from ..model.section import Section
from ..model.spelling import as_path

if TYPE_CHECKING:
    from ..torch.models import Model

FEW = 6  # rules and globs that are spelled out


def selected(checkpoint: Checkpoint) -> str:
    """``FILE`` or ``FILE#SECTION``, as it was opened."""
    return checkpoint.path if checkpoint.selected is None else f"{checkpoint.path}#{checkpoint.selected}"


def after_options(*words: str) -> list[str]:
    """Arguments, with what is needed before them where one looks like an option."""
    return ["--", *words] if any(word.startswith("-") for word in words) else list(words)


def argument(checkpoint: Checkpoint, section: Section) -> str:
    """FILE, or FILE#SECTION where that needs to be said."""
    whole = checkpoint.whole or checkpoint
    if whole.candidates() == [section.pointer]:
        return as_path(checkpoint.path)
    return as_path(f"{checkpoint.path}#{section.pointer}")


def beside(path: str, word: str) -> str:
    """A name for a new file beside this one, that is not there yet: ``run.stripped.ckpt``."""
    path = as_path(path)
    stem, dot, suffix = path.rstrip("/").rpartition(".")
    if not dot or "/" in suffix:
        stem, suffix = path.rstrip("/"), ""
    end = f".{suffix}" if suffix else ""
    name, number = f"{stem}.{word}{end}", 2
    while os.path.exists(name):
        name, number = f"{stem}.{word}-{number}{end}", number + 1
    return name


def options(name: str, values: Iterable[str]) -> list[str]:
    return [word for value in values for word in (name, value)]


def remap_words(checkpoint: Checkpoint, section: Section, keys: KeyMap) -> list[str] | None:
    """``ckpt remap FILE --rule … --drop … -o OUT``; None where that would be more than is typed."""
    rules, drops = keys.rules(), keys.drops()
    if len(rules) + len(drops) > FEW:
        return None
    how = [*options("--rule", rules), *options("--drop", drops)]
    return ["ckpt", "remap", argument(checkpoint, section), *how, "-o", beside(checkpoint.path, "remapped")]


def model_words(model: Model) -> list[str]:
    """``pkg.mod:Net --kwargs '{"classes": 2}'``"""
    words = [model.spec]
    if model.args:
        words += ["--args", json.dumps(list(model.args))]
    if model.kwargs:
        words += ["--kwargs", json.dumps(model.kwargs)]
    return words


def check_words(checkpoint: Checkpoint, model: Model, path: str | None = None) -> list[str]:
    """``ckpt check FILE --model SPEC``; ``path`` is of a file with the same parts."""
    file = selected(checkpoint)
    if path is not None:
        file = path if checkpoint.selected is None else f"{path}#{checkpoint.selected}"
    return ["ckpt", "check", as_path(file), "--model", *model_words(model)]
