"""Moving averages of weights that lie among the weights: ``ema_conv1_weight`` beside ``conv1.weight`` (MMCV's EMAHook)."""

from __future__ import annotations

from collections.abc import Mapping

from .tensor import TensorInfo

EMA = "ema_"


def averages(tensors: Mapping[str, TensorInfo]) -> dict[str, str]:
    """Key -> the key that it is the average of: dots turned to underscores, of the same shape."""
    mine = [key for key in tensors if key.startswith(EMA) and "." not in key]
    if not mine:
        return {}
    plain = {EMA + key.replace(".", "_"): key for key in tensors if not key.startswith(EMA)}
    return {key: plain[key] for key in mine if key in plain and tensors[plain[key]].shape == tensors[key].shape}
