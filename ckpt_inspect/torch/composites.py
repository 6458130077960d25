"""Layers of ``torch.nn`` that are made of layers: their arguments stand in the attributes of their children.

A call that is found here is taken only if what it makes has, module by module, the classes and facts that the file
records: a child that was exchanged or changed afterwards is seen, and then a container stands there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..formats import objects
from ..model.graph import Global
from ..model.section import ModuleInfo
from .calls import LAYERS, MISSING, Call, from_fields, plain


class Part(NamedTuple):
    """A recorded module: its class as torch calls it, and its attributes."""

    cls: str
    fields: Mapping[str, Any]


Parts = Mapping[str, Part]
"""By path below the layer; ``""`` is the layer itself."""

_ACTIVATIONS = {"torch.nn.functional.relu": "relu", "torch.nn.functional.gelu": "gelu", "torch._C._nn.gelu": "gelu"}


def composite(parts: Parts) -> Call | None:
    """The call that makes such a layer; None for another one, or where its attributes do not tell."""
    try:
        read = _READERS.get(parts[""].cls)
        return read(parts) if read is not None else None
    except KeyError:  # an attribute or a child that is not there
        return None


def same_modules(made: Mapping[str, ModuleInfo], recorded: Mapping[str, ModuleInfo]) -> bool:
    """Whether two layers have the same classes with the same facts, module by module."""
    return made.keys() == recorded.keys() and all(
        (_short(info.cls), info.args) == (_short(recorded[path].cls), recorded[path].args)
        for path, info in made.items()
    )


def _short(cls: str) -> str:
    return cls.rpartition(".")[2] if cls.startswith("torch.nn.") else cls


def _layer(parts: Parts) -> Call | None:
    """TransformerEncoderLayer, TransformerDecoderLayer."""
    attention, linear = parts["self_attn"].fields, parts["linear1"].fields
    bias = dict(objects.mapping_items(linear["_parameters"]))["bias"]
    given = {
        "dim_feedforward": (linear["out_features"], 2048),
        "dropout": (parts["dropout1"].fields["p"], 0.1),
        "activation": (_activation(parts), "relu"),
        "layer_norm_eps": (parts["norm1"].fields["eps"], 1e-5),
        "batch_first": (attention["batch_first"], False),
        "norm_first": (parts[""].fields["norm_first"], False),
        "bias": (bias is not None, True),
    }
    return _call(parts, (attention["embed_dim"], attention["num_heads"]), given)


def _stack(parts: Parts) -> Call | None:
    """TransformerEncoder, TransformerDecoder: one layer, several times, and a norm."""
    layers: dict[str, dict[str, Part]] = {}
    for path, part in parts.items():
        if path.startswith("layers."):
            name, _, inner = path[len("layers.") :].partition(".")
            layers.setdefault(name, {})[inner] = part
    made = [composite(layer) for layer in layers.values()]
    if not made or made[0] is None or any(repr(one) != repr(made[0]) for one in made):
        return None
    given: dict[str, tuple[Any, Any]] = {"norm": (_plain_layer(parts["norm"]) if "norm" in parts else None, None)}
    if parts[""].cls == "TransformerEncoder":
        fields = parts[""].fields
        given |= {fact: (fields.get(fact, True), True) for fact in ("enable_nested_tensor", "mask_check")}
    return _call(parts, (made[0], len(made)), given)


def _transformer(parts: Parts) -> Call | None:
    encoder, decoder = (composite(_below(parts, path)) for path in ("encoder", "decoder"))
    if encoder is None or decoder is None:
        return None
    layer: Call = encoder.args[0]
    given: dict[str, tuple[Any, Any]] = {
        "num_encoder_layers": (encoder.args[1], 6),
        "num_decoder_layers": (decoder.args[1], 6),
    }
    return _call(parts, layer.args, given | {fact: (value, MISSING) for fact, value in layer.kwargs.items()})


def _adaptive_softmax(parts: Parts) -> Call | None:
    fields = parts[""].fields
    cutoffs = plain(fields["cutoffs"])
    if type(cutoffs) is not tuple:
        return None
    given = {"div_value": (fields["div_value"], 4.0), "head_bias": (fields["head_bias"], False)}
    return _call(parts, (fields["in_features"], fields["n_classes"], cutoffs[:-1]), given)


_READERS: dict[str, Callable[[Parts], Call | None]] = {
    "TransformerEncoderLayer": _layer,
    "TransformerDecoderLayer": _layer,
    "TransformerEncoder": _stack,
    "TransformerDecoder": _stack,
    "Transformer": _transformer,
    "AdaptiveLogSoftmaxWithLoss": _adaptive_softmax,
}


COMPOSITES = frozenset(_READERS)


def _call(parts: Parts, args: tuple[Any, ...], given: Mapping[str, tuple[Any, Any]]) -> Call | None:
    """With those arguments that differ from their defaults; None where a value is no plain one."""
    kwargs = {fact: _value(value) for fact, (value, usual) in given.items()}
    kwargs = {fact: value for fact, value in kwargs.items() if value is MISSING or value != given[fact][1]}
    values = tuple(map(_value, args))
    return None if MISSING in (*values, *kwargs.values()) else Call(parts[""].cls, values, kwargs)


def _value(value: Any) -> Any:
    return value if isinstance(value, Call) else plain(value)


def _below(parts: Parts, path: str) -> Parts:
    inner = {part[len(path) + 1 :]: fields for part, fields in parts.items() if part.startswith(path + ".")}
    return {"": parts[path], **inner}


def _activation(parts: Parts) -> Any:
    """``relu``, ``gelu``, or the layer that it is; another function is no plain value."""
    if "activation" in parts:
        return _plain_layer(parts["activation"])
    function = parts[""].fields["activation"]
    return _ACTIVATIONS.get(function.qualname, function) if isinstance(function, Global) else function


def _plain_layer(part: Part) -> Any:
    """The call of a layer without layers in it; MISSING if it is none."""
    return (from_fields(part.cls, dict(part.fields)) if part.cls in LAYERS else None) or MISSING
