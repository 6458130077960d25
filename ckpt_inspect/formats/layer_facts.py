"""Constructor facts of standard layers, as torch's own ``extra_repr`` puts them, from recorded attributes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from . import objects
from .values import is_scalar

_CONV = (("in_channels", "out_channels"), (("kernel_size", None), ("stride", 1), ("padding", 0), ("dilation", 1),
         ("output_padding", 0), ("groups", 1), ("padding_mode", "zeros")))  # fmt: skip
_NORM = (
    ("num_features",),
    (("eps", 1e-5), ("momentum", 0.1), ("affine", True), ("track_running_stats", True)),
)
_POOL = ((), (("kernel_size", None), ("stride", None), ("padding", 0), ("dilation", 1)))
_RNN = (("input_size", "hidden_size"), (("proj_size", 0), ("num_layers", 1), ("bias", True), ("batch_first", False),
        ("dropout", 0.0), ("bidirectional", False)))  # fmt: skip
_SLOPE = ((), (("negative_slope", 0.01), ("inplace", False)))
_DROP = ((), (("p", None), ("inplace", False)))
_ADAPTIVE = ((), (("output_size", None),))

# class of torch.nn -> (facts given by position, facts given by name with the default that is not worth saying)
_FACTS: dict[str, tuple[tuple[str, ...], tuple[tuple[str, Any], ...]]] = {
    **dict.fromkeys((f"{kind}{n}d" for kind in ("Conv", "ConvTranspose") for n in (1, 2, 3)), _CONV),
    **dict.fromkeys((f"{kind}{n}d" for kind in ("BatchNorm", "InstanceNorm") for n in (1, 2, 3)), _NORM),
    **dict.fromkeys(("BatchNorm", "SyncBatchNorm"), _NORM),
    **dict.fromkeys((f"{kind}{n}d" for kind in ("MaxPool", "AvgPool") for n in (1, 2, 3)), _POOL),
    **dict.fromkeys((f"Adaptive{kind}Pool{n}d" for kind in ("Max", "Avg") for n in (1, 2, 3)), _ADAPTIVE),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _RNN),
    **dict.fromkeys(("LSTMCell", "GRUCell", "RNNCell"), (("input_size", "hidden_size"), (("bias", True),))),
    **dict.fromkeys(("Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout"), _DROP),
    **dict.fromkeys(("ReLU", "ReLU6", "SELU", "SiLU", "Mish", "Hardswish"), ((), (("inplace", False),))),
    "Linear": (("in_features", "out_features"), (("bias", True),)),
    "Bilinear": (("in1_features", "in2_features", "out_features"), (("bias", True),)),
    "Embedding": (("num_embeddings", "embedding_dim"), (("padding_idx", None), ("max_norm", None))),
    "EmbeddingBag": (("num_embeddings", "embedding_dim"), (("padding_idx", None), ("mode", "mean"))),
    "LayerNorm": (("normalized_shape",), (("eps", 1e-5), ("elementwise_affine", True))),
    "RMSNorm": (("normalized_shape",), (("eps", None), ("elementwise_affine", True))),
    "GroupNorm": (("num_groups", "num_channels"), (("eps", 1e-5), ("affine", True))),
    "MultiheadAttention": (
        (),
        (("embed_dim", None), ("num_heads", None), ("dropout", 0.0), ("batch_first", False)),
    ),
    "PReLU": ((), (("num_parameters", None),)),
    "LeakyReLU": _SLOPE,
    "ELU": ((), (("alpha", 1.0), ("inplace", False))),
    "GELU": ((), (("approximate", "none"),)),
    "Softmax": ((), (("dim", None),)),
    "LogSoftmax": ((), (("dim", None),)),
    "Flatten": ((), (("start_dim", 1), ("end_dim", -1))),
    "Upsample": ((), (("size", None), ("scale_factor", None), ("mode", "nearest"))),
    "PixelShuffle": (("upscale_factor",), ()),
    "ZeroPad2d": (("padding",), ()),
}


def describe(cls: str, get: Callable[[str], str | None], bias: bool | None = None) -> str:
    """``1, 32, kernel_size=3`` for a class of ``torch.nn``; ``get`` gives the text of one fact, None if unknown.

    ``bias=False`` is said where it is known and the class does not list it as a fact.
    """
    module, _, name = cls.rpartition(".")
    if not module.startswith("torch.") or name not in _FACTS:
        return ""
    positional, named = _FACTS[name]
    found = [text for fact in positional if (text := get(fact)) is not None]
    for fact, default in named:
        text = get(fact)
        if text is not None and text != _text(default) and not (fact == "stride" and text == get("kernel_size")):
            found.append(f"{fact}={text}")
    if bias is False and name.startswith(("Conv", "Linear", "Bilinear")):
        found.append("bias=False")
    return ", ".join(found)


def from_attributes(cls: str, fields: Mapping[str, Any]) -> str:
    """Facts from the attributes of a pickled module."""
    registered = {
        name: value for name, value in objects.mapping_items(fields.get("_parameters")) if isinstance(name, str)
    }
    bias = registered["bias"] is not None if "bias" in registered else None
    return describe(cls, lambda fact: text_of(fields, fact), bias)


def text_of(fields: Mapping[str, Any], fact: str) -> str | None:
    """A fact as torch would write it, None where it is not there or no plain data."""
    return _text(fields[fact]) if fact in fields else None


def _text(value: Any) -> str | None:
    if type(value) in (list, tuple) and value:
        items = [_text(item) if is_scalar(item) else None for item in value]
        if None in items:
            return None
        # (3, 3) is written as the 3 it was given as
        return (
            items[0]
            if len(set(items)) == 1 and all(type(item) is int for item in value)
            else f"({', '.join(map(str, items))})"
        )
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    return repr(str(value)) if isinstance(value, str) and len(value) < 40 else None
