"""What modules a section is rebuilt of: real layers where they are recorded or inferred, containers elsewhere.

Every layer is tried: it is made on ``meta`` and taken only if its own ``state_dict()`` has exactly the keys, shapes and
dtypes that the file has there. No class is looked up by what a file says but in the table below.
"""

from __future__ import annotations

import ast
import inspect
from typing import Any, NamedTuple

import torch
from torch import nn

from ..formats import objects
from ..formats.modules import child_module, is_module, module_fields
from ..formats.values import is_scalar
from ..model.graph import Opaque
from ..model.keytree import KeyNode, key_tree
from ..model.layers import infer
from ..model.section import Section
from ..model.tensor import TensorInfo
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
"""
LAYERS: dict[str, type[nn.Module]] = {name: getattr(nn, name) for name in _LAYERS.split() if hasattr(nn, name)}
_GROUPS = ("Sequential", "ModuleList", "ModuleDict")
_NOT_SAID = {"Conv": "stride, padding, dilation", "Norm": "eps, momentum", "RNN": "dropout, batch_first",
             "LSTM": "dropout, batch_first", "GRU": "dropout, batch_first", "MultiheadAttention": "num_heads",
             "Embedding": "padding_idx"}  # fmt: skip
_MOST_LAYERS = 10_000  # of a recurrent net, which makes its weights in a loop


class Call(NamedTuple):
    """A layer of ``torch.nn`` and what it is made with.

    Attributes:
        name: in ``torch.nn``.
        args, kwargs: of its constructor.
        inferred: names of those that were inferred; ``*`` stands for the class.
        unknown: what the file does not say of it, in words.
        counter: False for a BatchNorm without ``num_batches_tracked``.
    """

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inferred: tuple[str, ...] = ()
    unknown: str = ""
    counter: bool = True

    def make(self) -> nn.Module:
        """The layer, on ``meta``."""
        with torch.device("meta"):
            made = LAYERS[self.name](*self.args, **self.kwargs)
        return made if self.counter else without_counter(made)


class Blueprint:
    """One module to be rebuilt.

    Attributes:
        name: its last segment; ``path``: all of them.
        call: the layer it is; None for a container.
        group: ``Sequential``, ``ModuleList``, ``ModuleDict``, or ``""``.
        cls: class as recorded or inferred, for a container; ``note``: what is to be said of it.
        tensors: its own, by local name; ``held``: names of other values.
        children: by name.
        node: identity of the recorded object, None without one: one object is one module.
        training: as recorded.
    """

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        self.path = path
        self.call: Call | None = None
        self.group = ""
        self.cls = ""
        self.note = ""
        self.tensors: dict[str, TensorInfo] = {}
        self.held: list[str] = []
        self.children: dict[str, Blueprint] = {}
        self.node: int | None = None
        self.training: bool | None = None


def blueprint(section: Section, held: list[str]) -> Blueprint:
    """The modules of a section.

    Args:
        held: keys of entries that are no tensors.
    """
    return _Architect(section, held).root


class _Architect:
    def __init__(self, section: Section, held: list[str]) -> None:
        self.section = section
        self.fields = _recorded_fields(section)
        self.made: dict[str, dict[str, Any] | None] = {}  # by call: what its state_dict() has
        self.before = ""  # the layer with weights that came last: what a BatchNorm follows
        self.root = Blueprint("", "")
        nodes = _by_path(key_tree(section))
        for path in section.modules:  # first: those without tensors have their place too
            self._at(path.split(".") if path else None)
        for key, info in section.items():
            if info.persistent or info.role == "buffer":
                path, _, name = key.rpartition(".") if "." in key else ("", "", key)
                self._at(path.split(".") if "." in key else None).tensors[name] = info
        for key in held:
            path, _, name = key.rpartition(".") if "." in key else ("", "", key)
            self._at(path.split(".") if "." in key else None).held.append(name)
        self._finish(self.root, nodes)

    def _at(self, segments: list[str] | None) -> Blueprint:
        node = self.root
        for segment in segments or ():
            inner = node.children.get(segment)
            if inner is None:
                path = segment if node is self.root else f"{node.path}.{segment}"
                inner = node.children[segment] = Blueprint(segment, path)
            node = inner
        return node

    def _finish(self, plan: Blueprint, nodes: dict[str, KeyNode]) -> None:
        recorded = self.section.modules.get(plan.path)
        found = self.fields.get(plan.path)
        if recorded is not None:
            plan.cls, plan.training = recorded.cls, recorded.training
            plan.node = found[0] if found is not None else None
        call = self._layer(plan, nodes.get(plan.path), found[1] if found is not None else None)
        if call is not None:
            plan.call = call
            plan.children = {}
            if any(info.persistent for info in plan.tensors.values()):
                self.before = call.name
            return
        names = list(plan.children)
        if all(map(str.isdecimal, names)) and names == sorted(names):  # 0, 1, 10, 2: sorted as texts
            plan.children = {name: plan.children[name] for name in sorted(names, key=lambda name: (len(name), name))}
        group = plan.cls.rpartition(".")[2] if _is_torchs(plan.cls) else ""
        if not plan.cls and not plan.tensors and not plan.held:
            inferred = infer({}, list(plan.children))
            group = inferred.name if inferred is not None else ""
        if group in _GROUPS and not plan.tensors and not plan.held:
            plan.group = group
        for child in plan.children.values():
            self._finish(child, nodes)

    def _layer(self, plan: Blueprint, node: KeyNode | None, fields: dict[str, Any] | None) -> Call | None:
        """The layer that a module is, if there is one whose state_dict is exactly what the file has."""
        if plan.held:
            return None
        leaves = {name: (info.dtype, info.shape) for name, info in plan.tensors.items() if info.persistent}
        name = plan.cls.rpartition(".")[2] if _is_torchs(plan.cls) else ""
        if name in LAYERS:
            calls = [_from_fields(name, fields)] if fields is not None else []
            calls.append(_from_text(name, node.args if node is not None else "", recorded=True))
            likely = infer(leaves, list(plan.children)) if leaves else None
            if likely is not None:
                calls.append(_from_text(name, likely.args, recorded=False, known=name))
        elif plan.cls or node is None or node.cls is None or not (leaves or plan.children):
            return None
        else:
            kind = self._kind(node.cls)
            if kind is None:
                plan.note = f"{node.cls}~: its tensors fit several" if "|" in node.cls else f"{node.cls}~"
                return None
            calls = [_from_text(kind, node.args, recorded=False)]
        for call in calls:
            if call is not None and (fitting := self._fitting(call, plan)) is not None:
                return fitting
        if name in LAYERS:
            plan.note = f"recorded as {name}, which has other tensors"
        return None

    def _kind(self, inferred: str) -> str | None:
        """One class for what was inferred; a BatchNorm has the dimensions of the layer before it."""
        if inferred in LAYERS:
            return inferred
        if inferred == "BatchNorm":
            if self.before.startswith("Conv"):
                return f"BatchNorm{self.before[-2]}d"
            return "BatchNorm1d" if self.before == "Linear" else None
        return None

    def _fitting(self, call: Call, plan: Blueprint) -> Call | None:
        """The call with the dtype of the file, if what it makes has just these tensors."""
        wanted = {key: (info.dtype, info.shape) for key, info in _below(plan) if info.persistent}
        floats = {dtype for dtype, _ in wanted.values() if "float" in dtype}
        if len(floats) == 1 and floats != {"float32"} and _takes(call.name, "dtype"):
            call.kwargs["dtype"] = getattr(torch, next(iter(floats)), torch.float32)
        if call.kwargs.get("num_layers", 1) > min(_MOST_LAYERS, len(wanted) + 1):
            return None
        for counter in (True, False) if "Norm" in call.name else (True,):
            tried = call._replace(counter=counter)
            if self._state(tried) == wanted:
                return tried
        return None

    def _state(self, call: Call) -> dict[str, Any] | None:
        key = repr(call)
        if key not in self.made:
            try:
                entries = call.make().state_dict()
                self.made[key] = {
                    name: (str(t.dtype).removeprefix("torch."), tuple(t.shape)) for name, t in entries.items()
                }
            except Exception:  # whatever a constructor says of arguments that a file made up
                self.made[key] = None
        return self.made[key]


def _by_path(root: KeyNode) -> dict[str, KeyNode]:
    return {node.path: node for node in root.walk()}


def _below(plan: Blueprint, prefix: str = "") -> list[tuple[str, TensorInfo]]:
    found = [(prefix + name, info) for name, info in plan.tensors.items()]
    for name, child in plan.children.items():
        found += _below(child, f"{prefix}{name}.")
    return found


def _is_torchs(cls: str) -> bool:
    return cls.startswith(("torch.nn.", "__torch__.torch.nn."))


def _takes(name: str, parameter: str) -> bool:
    return parameter in inspect.signature(LAYERS[name].__init__).parameters


# -- arguments ---------------------------------------------------------------------------------------------------

_MISSING = object()
_ONE_FOR_ALL = frozenset(["kernel_size", "stride", "padding", "dilation", "output_padding", "scale_factor"])


def _recorded_fields(section: Section) -> dict[str, tuple[int, dict[str, Any]]]:
    """Path -> identity and attributes of each object of a whole-module pickle."""
    if type(section.node) is not Opaque or not is_module(section.node):
        return {}
    nodes: dict[str, Any] = {"": section.node}
    for path in section.modules:
        if path:
            parent, _, name = path.rpartition(".")
            above = nodes.get(parent)
            child = child_module(above, name) if above is not None else None
            if type(child) is Opaque:
                nodes[path] = child
    return {path: (id(node), module_fields(node)) for path, node in nodes.items()}


def _from_fields(name: str, fields: dict[str, Any]) -> Call | None:
    """The constructor's arguments from the attributes that a pickled layer has."""
    registered = dict(objects.mapping_items(fields.get("_parameters")))
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for parameter in list(inspect.signature(LAYERS[name].__init__).parameters.values())[1:]:
        value = _argument(name, parameter.name, fields, registered)
        required = parameter.default is inspect.Parameter.empty
        if value is _MISSING:
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
        return _MISSING
    if parameter in fields:
        value = _plain(fields[parameter])
        same = type(value) is tuple and len(set(value)) == 1 and parameter in _ONE_FOR_ALL
        return value[0] if same else value  # (3, 3) was given as 3
    slot = there.get(parameter, parameter)
    if slot in registered and parameter in ("bias", "add_bias_kv"):
        return registered[slot] is not None
    return _MISSING


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
        value = _plain(fields.get(fact, defaults.get(fact)))
        if value is not _MISSING and (fact not in defaults or value != defaults[fact]):
            kwargs[fact] = value
    if name == "RNN" and fields.get("mode") == "RNN_RELU":
        kwargs["nonlinearity"] = "relu"
    return kwargs


def _plain(value: Any) -> Any:
    """Numbers, texts, None, and tuples of them, as Python's own."""
    if isinstance(value, str):
        return str(value)
    if value is None or type(value) in (bool, int, float):
        return value
    if type(value) in (tuple, list) and len(value) < 100 and all(map(is_scalar, value)):
        return tuple(_plain(item) for item in value)
    return _MISSING


def _from_text(name: str, text: str, recorded: bool, known: str = "") -> Call | None:
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
