"""A layer of ``torch.nn`` and what it is made with: from recorded attributes, or from the text that a tree shows.

No class is looked up by what a file says but in the table below.
"""

from __future__ import annotations

import ast
import inspect
import warnings
from typing import Any, NamedTuple

import torch
from torch import nn

from ..formats import objects
from ..formats.values import is_scalar
from .container import without_counter

_LAYERS = """
Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d Linear Bilinear Identity Embedding EmbeddingBag
BatchNorm1d BatchNorm2d BatchNorm3d SyncBatchNorm InstanceNorm1d InstanceNorm2d InstanceNorm3d LayerNorm GroupNorm RMSNorm
LocalResponseNorm CrossMapLRN2d RNN LSTM GRU RNNCell LSTMCell GRUCell MultiheadAttention
ReLU ReLU6 LeakyReLU PReLU RReLU ELU SELU CELU GELU SiLU Mish Hardswish Hardsigmoid Hardtanh Hardshrink Softshrink Sigmoid
LogSigmoid Tanh Tanhshrink Softplus Softsign Threshold GLU Softmax Softmax2d LogSoftmax Softmin
MaxPool1d MaxPool2d MaxPool3d MaxUnpool1d MaxUnpool2d MaxUnpool3d AvgPool1d AvgPool2d AvgPool3d LPPool1d LPPool2d
AdaptiveMaxPool1d AdaptiveMaxPool2d AdaptiveMaxPool3d AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d
Dropout Dropout1d Dropout2d Dropout3d AlphaDropout FeatureAlphaDropout
ConstantPad1d ConstantPad2d ConstantPad3d ZeroPad1d ZeroPad2d ZeroPad3d ReflectionPad1d ReflectionPad2d ReflectionPad3d
ReplicationPad1d ReplicationPad2d ReplicationPad3d CircularPad1d CircularPad2d CircularPad3d
Flatten Unflatten Fold Unfold Upsample UpsamplingNearest2d UpsamplingBilinear2d PixelShuffle PixelUnshuffle ChannelShuffle
CosineSimilarity PairwiseDistance CrossEntropyLoss MSELoss L1Loss SmoothL1Loss HuberLoss BCELoss BCEWithLogitsLoss NLLLoss
CTCLoss CosineEmbeddingLoss GaussianNLLLoss HingeEmbeddingLoss KLDivLoss MarginRankingLoss MultiLabelMarginLoss
MultiLabelSoftMarginLoss MultiMarginLoss PoissonNLLLoss SoftMarginLoss TripletMarginLoss
FractionalMaxPool2d FractionalMaxPool3d LPPool3d
TransformerEncoderLayer TransformerDecoderLayer TransformerEncoder TransformerDecoder Transformer AdaptiveLogSoftmaxWithLoss
"""
LAYERS: dict[str, type[nn.Module]] = {name: getattr(nn, name) for name in _LAYERS.split() if hasattr(nn, name)}
_NOT_SAID = {"Conv": "stride, padding, dilation", "Norm": "eps, momentum", "RNN": "dropout, batch_first",
             "LSTM": "dropout, batch_first", "GRU": "dropout, batch_first", "MultiheadAttention": "num_heads",
             "Embedding": "padding_idx"}  # fmt: skip
MISSING = object()
_ONE_FOR_ALL = frozenset(["kernel_size", "stride", "padding", "dilation", "output_padding", "scale_factor"])


class Call(NamedTuple):
    """A layer of ``torch.nn`` and what it is made with.

    Attributes:
        name: in ``torch.nn``.
        args, kwargs: of its constructor; plain values, and calls that make layers.
        inferred: names of those that were inferred; ``*`` stands for the class.
        unknown: what the file does not say of it, in words.
        fits: all classes that fit, where the name of the module decided: ``Linear|Embedding``.
        counter: False for a BatchNorm without ``num_batches_tracked``.
    """

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inferred: tuple[str, ...] = ()
    unknown: str = ""
    fits: str = ""
    counter: bool = True

    def make(self) -> nn.Module:
        """The layer, on ``meta``."""
        args = [value.make() if isinstance(value, Call) else value for value in self.args]
        kwargs = {name: value.make() if isinstance(value, Call) else value for name, value in self.kwargs.items()}
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on arguments that somebody chose long ago
            made = LAYERS[self.name](*args, **kwargs)
        return made if self.counter else without_counter(made)


def from_fields(name: str, fields: dict[str, Any]) -> Call | None:
    """The constructor's arguments from the attributes that a pickled layer has."""
    registered = dict(objects.mapping_items(fields.get("_parameters")))
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for parameter in list(inspect.signature(LAYERS[name].__init__).parameters.values())[1:]:
        value = _argument(name, parameter.name, fields, registered)
        required = parameter.default is inspect.Parameter.empty
        if value is MISSING:
            if required and parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD:
                return None
        elif required:
            args.append(value)
        elif value != parameter.default and parameter.name not in ("device", "dtype"):
            kwargs[parameter.name] = value
    if name in ("RNN", "LSTM", "GRU"):
        args, kwargs = [], _recurrent(name, fields)
    return Call(name, tuple(args), kwargs)


def _argument(name: str, parameter: str, fields: dict[str, Any], registered: dict[Any, Any]) -> Any:
    there = {"bias": "in_proj_bias", "add_bias_kv": "bias_k"} if name == "MultiheadAttention" else {}
    if name == "MultiheadAttention" and parameter in ("kdim", "vdim") and fields.get("_qkv_same_embed_dim") is True:
        return MISSING
    attribute = "norm" if name == "PairwiseDistance" and parameter == "p" else parameter
    if attribute in fields:
        value = plain(fields[attribute])
        same = type(value) is tuple and len(set(value)) == 1 and parameter in _ONE_FOR_ALL
        return value[0] if same else value  # (3, 3) was given as 3
    slot = there.get(parameter, parameter)
    if slot in registered and parameter in ("bias", "add_bias_kv"):
        return registered[slot] is not None
    return MISSING


def _recurrent(name: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Recurrent nets hand all of their arguments on, by no name."""
    kwargs = {}
    defaults = {
        "num_layers": 1,
        "bias": True,
        "batch_first": False,
        "dropout": 0.0,
        "bidirectional": False,
        "proj_size": 0,
    }
    for fact in ("input_size", "hidden_size", *defaults):
        value = plain(fields.get(fact, defaults.get(fact)))
        if value is not MISSING and (fact not in defaults or value != defaults[fact]):
            kwargs[fact] = value
    if name == "RNN" and fields.get("mode") == "RNN_RELU":
        kwargs["nonlinearity"] = "relu"
    return kwargs


def plain(value: Any) -> Any:
    """Numbers, texts, None, and tuples of them, as Python's own."""
    if isinstance(value, str):
        return str(value)
    if value is None or type(value) in (bool, int, float):
        return value
    if type(value) in (tuple, list) and len(value) < 100 and all(map(is_scalar, value)):
        return tuple(plain(item) for item in value)
    return MISSING


def from_text(name: str, text: str, recorded: bool, known: str = "") -> Call | None:
    """``3, 12, kernel_size=3``, as trees show it; ``1*groups`` is read with one group."""
    grouped = "*groups" in text
    try:
        parsed = ast.parse(f"f({text.replace('*groups', '')})", mode="eval").body
        assert isinstance(parsed, ast.Call)
        args = tuple(map(ast.literal_eval, parsed.args))
        kwargs = {str(word.arg): ast.literal_eval(word.value) for word in parsed.keywords}
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    if name == "MultiheadAttention" and "num_heads" not in kwargs:  # not in any shape
        return None
    if recorded:
        silent = not text and len(inspect.signature(LAYERS[name].__init__).parameters) > 1
        return Call(name, args, kwargs, ("...",) if silent else (), "its arguments" if silent else "")
    unknown = next((words for start, words in _NOT_SAID.items() if start in name), "")
    if grouped:
        unknown = f"groups, {unknown}"
    inferred = (*([] if known else ["*"]), *(str(n) for n in range(len(args))), *kwargs)
    return Call(name, args, kwargs, inferred, unknown)


def takes(name: str, parameter: str) -> bool:
    return parameter in inspect.signature(LAYERS[name].__init__).parameters
