"""The module that stands where only names are known: it holds anything under any name."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Container(nn.Module):  # type: ignore[misc]
    """Holds modules, parameters, buffers and other values under whatever names a file gave them; it has no forward.

    ``a`` beside ``a.b``, ``type``, ``forward``, the empty name: ``state_dict()`` gives them back as they were, and
    ``load_state_dict`` takes them.
    """

    def __init__(self, name: str = "Container") -> None:
        super().__init__()
        self._class_name = name
        self._held_values: dict[str, Any] = {}

    def hold(self, name: str, value: Any, persistent: bool = True) -> None:
        """Put a module, parameter, buffer or other value under a name, which torch itself might refuse."""
        if isinstance(value, nn.Module):
            self._modules[name] = value
        elif isinstance(value, nn.Parameter):
            self._parameters[name] = value
        elif isinstance(value, torch.Tensor) and name != "_extra_state":
            self._buffers[name] = value
            if not persistent:
                self._non_persistent_buffers_set.add(name)
        else:
            self._held_values[name] = value

    def __setattr__(self, name: str, value: Any) -> None:
        for registry in (self.__dict__.get("_parameters", {}), self.__dict__.get("_buffers", {})):
            if name in registry and isinstance(value, torch.Tensor):  # what load_state_dict(assign=True) does
                registry[name] = value
                return
        super().__setattr__(name, value)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination.update((prefix + name, value) for name, value in self._held_values.items())

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, strict: bool,
        missing_keys: list[str], unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        for name in self._held_values:
            if prefix + name in state_dict:
                self._held_values[name] = state_dict.pop(prefix + name)
            elif strict:
                missing_keys.append(prefix + name)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _get_name(self) -> str:
        return self._class_name


def without_counter(norm: nn.Module) -> nn.Module:
    """A BatchNorm as files of before torch 0.4.1 have it: without ``num_batches_tracked``, and not asking for it."""
    norm._buffers["num_batches_tracked"] = None
    norm.__dict__["_load_from_state_dict"] = nn.Module._load_from_state_dict.__get__(norm)
    return norm


def accepting(module: nn.Module, others: list[str]) -> nn.Module:
    """The module, which takes no offence at other names of its tensors in a state_dict: safetensors dropped them."""

    def drop(state_dict: Any, *_: Any) -> None:
        for key in others:
            state_dict.pop(key, None)

    if others:
        module._register_load_state_dict_pre_hook(drop)
    return module
