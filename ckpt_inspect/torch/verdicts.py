"""Torch's own verdict on a state_dict and a module: ``load_state_dict`` is run, hooks, versions and all."""

from __future__ import annotations

import copy
import re
import sys
import warnings
from collections import OrderedDict
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ..errors import ModelError
from .models import on_meta, said, their_code

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

_MISMATCH = re.compile(
    r"size mismatch for (.*): copying a param with shape torch\.Size\((.*)\) from checkpoint, "
    r"the shape in current model is torch\.Size\((.*)\)\.",
    re.DOTALL,
)
_TORCH_SAYS = "Error(s) in loading state_dict"


class Mismatch(NamedTuple):
    """A key that both have, in two shapes."""

    key: str
    file: tuple[int, ...]
    model: tuple[int, ...]


class Verdict(NamedTuple):
    """What ``module.load_state_dict(state_dict, strict=True)`` does.

    Attributes:
        strict: it succeeds.
        missing, unexpected: torch's own lists.
        mismatched: keys of another shape.
        errors: whatever else torch, or the model, has to say.
        text: the whole error, None if there is none.
    """

    strict: bool
    missing: list[str]
    unexpected: list[str]
    mismatched: list[Mismatch]
    errors: list[str]
    text: str | None


def verdict(
    module: nn.Module, state_dict: OrderedDict[str, Any], fresh: Callable[[], nn.Module] | None = None
) -> Verdict:
    """Load a copy of ``module``, on ``meta``, from ``state_dict``; neither is changed.

    Args:
        module: on any device.
        state_dict: tensors on ``meta``; with real ones nothing is copied either.
        fresh: makes the module anew, on ``meta``, where it cannot be copied.

    Raises:
        NeedsValues: the model reads values of the state_dict, and there are none on ``meta``.
        ModelError: the module cannot be copied.
    """
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        raise NeedsValues("TorchScript copies values")
    try:
        copied = on_meta(module)
    except ModelError:  # it holds a lock, a generator, an open file
        if fresh is None:
            raise
        copied = fresh()
    return _load(copied, state_dict)


def verdict_with_values(module: nn.Module, state_dict: OrderedDict[str, Any]) -> Verdict:
    """As :func:`verdict`, on a copy of the module with all its values, for models whose hooks read them."""
    with their_code(f"{type(module).__name__} cannot be copied"):
        copied = copy.deepcopy(module)
    try:
        return _load(copied, state_dict)
    except NeedsValues as error:
        raise ModelError(f"its load_state_dict fails: {error}") from error


class NeedsValues(Exception):
    """Loading failed in a way of the model's own; the message quotes it."""


def _load(module: nn.Module, state_dict: OrderedDict[str, Any]) -> Verdict:
    lists: list[list[str]] = [[], [], []]
    module.__dict__["_load_from_state_dict"] = _spy(module._load_from_state_dict, lists)
    text = None
    try:
        with warnings.catch_warnings(), redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            module.load_state_dict(with_own_metadata(state_dict), strict=True)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # sys.exit() is one too
        if not (isinstance(error, RuntimeError) and str(error).startswith(_TORCH_SAYS)):
            raise NeedsValues(said(error)) from error
        text = str(error)
    missing, unexpected, sentences = lists
    mismatched, errors = [], []
    for sentence in sentences:
        match = _MISMATCH.fullmatch(sentence)
        if match:
            mismatched.append(Mismatch(match[1], _sizes(match[2]), _sizes(match[3])))
        elif not sentence.startswith(("Missing key(s) in state_dict", "Unexpected key(s) in state_dict")):
            errors.append(" ".join(sentence.split()))
    if text is not None and not any((missing, unexpected, sentences)):
        errors.append(text)
    return Verdict(text is None, list(missing), list(unexpected), mismatched, errors, text)


def _spy(original: Callable[..., Any], lists: list[list[str]]) -> Callable[..., Any]:
    """The same function; the lists that torch gathers its complaints in are noted."""

    def spy(state_dict: Any, prefix: Any, metadata: Any, strict: Any, *gathered: Any) -> Any:
        lists[:] = gathered  # missing keys, unexpected keys, messages
        return original(state_dict, prefix, metadata, strict, *gathered)

    return spy


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.strip("[]").split(",") if size.strip())


def with_own_metadata(state_dict: OrderedDict[str, Any]) -> OrderedDict[str, Any]:
    """A shallow copy whose ``_metadata`` torch may write into: it leaves ``assign_to_params_buffers`` there."""
    copied = OrderedDict(state_dict)
    metadata = getattr(state_dict, "_metadata", None)
    if metadata is not None:
        copied._metadata = OrderedDict(  # type: ignore[attr-defined]
            (path, dict(facts) if isinstance(facts, dict) else facts) for path, facts in metadata.items()
        )
    return copied


def tensors_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """``state_dict()`` of a module: its own tensors, in its order; extra state left out.

    Raises:
        ModelError: its ``state_dict`` fails.
    """
    with their_code("its state_dict() fails"):
        entries = module.state_dict(keep_vars=True)
    return {key: value for key, value in entries.items() if isinstance(value, torch.Tensor)}
