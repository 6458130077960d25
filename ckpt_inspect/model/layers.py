"""Which ``nn.Module`` a bare state_dict shows: from names and shapes of the tensors of one module.

A name is the class as torch calls it. Where several classes store such tensors all are named, the likeliest
first: ``LayerNorm|GroupNorm|InstanceNorm``. Arguments are those of torch's repr, as far as shapes tell them:
stride, padding, heads, eps are never printed. Arguments on which the named classes disagree are left out:
``Linear|Embedding`` has them only where its weight is square.

Some names stand for a family that files cannot tell apart, see `FAMILIES`. Three more readings are taken,
since naming every alternative would put one into each line of each tree:

* *Transposed or not.* Without a bias a transposed convolution always fits; with one, if as many channels go
  in as out. An even kernel leaves that open (``Conv2d|ConvTranspose2d``: transposed ones mostly double a
  size), an odd one reads Conv2d, and so does a grouped one with a bias. A bias that fits only one of them
  decides, as do the vectors of a spectral norm.
* *Grouped or not.* A weight stores ``in_channels / groups``; ``64`` is that number. Where a grouped
  convolution is as likely it is ``1*groups`` (depthwise, or one input channel) or ``4*groups`` (ResNeXt).
* *Bilinear* is named beside Conv1d only where the kernel is as wide as the input, or over 256. A lone vector
  of one element is a PReLU's; a lone weight of two or more dimensions is no norm's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

from ckpt_inspect.dtypes import BY_NAME

Shape = tuple[int, ...]
Leaves = Mapping[str, tuple[str, Shape]]
"""The tensors that hang directly on a module: local name -> (dtype as torch names it, shape)."""
Role = Literal["parameter", "buffer"]


class Layer(NamedTuple):
    """What a module looks like.

    Attributes:
        name: the class, or all that fit: ``Linear|Embedding``.
        args: the known constructor facts, as in torch's repr: ``512, 128``; empty when nothing is known.
    """

    name: str
    args: str


_BATCH_NORMS = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm")
_INSTANCE_NORMS = ("InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d")
FAMILIES: dict[str, tuple[str, ...]] = {
    "BatchNorm": (*_BATCH_NORMS, *_INSTANCE_NORMS),  # an InstanceNorm that tracks statistics
    "InstanceNorm": (*_INSTANCE_NORMS, *_BATCH_NORMS),  # a BatchNorm that does not
    "Embedding": ("Embedding", "EmbeddingBag"),
    "Linear": ("Linear", "NonDynamicallyQuantizableLinear", "Conv1D"),  # transformers' Conv1D where in = out
}
"""A printed name that stands for several classes -> all of them."""

_LARGEST = 2**63 - 1  # of a size in torch; Python even refuses to print an int of over 4,300 digits


def infer(leaves: Leaves, children: Sequence[str] = ()) -> Layer | None:
    """Recognise a module by its own tensors and the names of its children; None when nothing known fits.

    A parametrized layer keeps its weight further down. To have it recognised, pass names such as
    ``parametrizations.weight.original1`` among the leaves, and not ``parametrizations`` among the children.
    """
    for _, shape in leaves.values():
        if shape and (max(shape) > _LARGEST or min(shape) < 0):
            return None
    if "total_ops" in leaves:  # thop's counters hang on every module it has profiled
        leaves = {name: leaf for name, leaf in leaves.items() if name not in ("total_ops", "total_params")}
    if children:
        return _parent(leaves, children)
    return _READERS.get(frozenset(leaves), _unusual)(leaves)


def _shape(leaves: Leaves, name: str) -> Shape | None:
    leaf = leaves.get(name)
    return leaf[1] if leaf else None


def _plain(leaves: Leaves) -> Layer | None:
    dtype, weight = leaves["weight"]
    return None if dtype in _PACKED else _weighted(weight, _shape(leaves, "bias"))


def _weighted(weight: Shape, bias: Shape | None, turned: bool | None = None) -> Layer | None:
    """The layer of a weight and a bias; turned: transposed, or not, or not known."""
    rank = len(weight)
    if bias is not None and (rank == 1 or len(bias) != 1):
        return _norm(weight) if bias == weight else None
    if rank == 1:
        return Layer("PReLU" if weight == (1,) else "RMSNorm|LayerNorm|GroupNorm|PReLU", str(weight[0]))
    if rank == 2:
        return _linear(weight, bias)
    return _convolution(weight, bias, turned) if 3 <= rank <= 5 else None


def _norm(shape: Shape) -> Layer | None:
    if len(shape) == 1:
        return Layer("LayerNorm|GroupNorm|InstanceNorm", str(shape[0]))
    return Layer("LayerNorm", str(shape)) if shape else None


def _linear(weight: Shape, bias: Shape | None) -> Layer | None:
    rows, columns = weight
    if bias is None:  # Linear(columns, rows) or Embedding(rows, columns)
        return Layer("Linear|Embedding", f"{columns}, {rows}" if rows == columns else "")
    if bias[0] == rows:
        return Layer("Linear", f"{columns}, {rows}")
    # The Conv1D of transformers, in GPT-2, is a Linear with its weight the other way round
    return Layer("Conv1D", f"nf={columns}, nx={rows}") if bias[0] == columns else None


def _convolution(weight: Shape, bias: Shape | None, turned: bool | None) -> Layer | None:
    first, second, *kernel = weight  # (out, in/groups, …), transposed (in, out/groups, …)
    if turned or (bias and bias[0] != first):
        return _transposed(weight, bias)
    name, size = f"Conv{len(kernel)}d", _kernel_size(kernel)
    args = f"{_per_group(second, first, kernel)}, {first}, {size}"
    if turned is None and not all(k % 2 for k in kernel) and (bias is None or first == second):
        name += f"|ConvTranspose{len(kernel)}d"
        args = args if first == second else size
    if len(kernel) == 1 and (kernel[0] == second or kernel[0] > 256):
        return Layer(f"{name}|Bilinear", "" if bias else "bias=False")
    return Layer(name, args if bias else f"{args}, bias=False")


def _transposed(weight: Shape, bias: Shape | None) -> Layer | None:
    first, second, *kernel = weight
    name, size = f"ConvTranspose{len(kernel)}d", _kernel_size(kernel)
    if not bias:
        return Layer(name, f"{first}, {_per_group(second, first, kernel)}, {size}, bias=False")
    groups = bias[0] // second if second else 1
    if not groups or groups * second != bias[0] or first % groups:
        return None
    return Layer(name, f"{first}, {bias[0]}, {size}" + (f", groups={groups}" if groups > 1 else ""))


def _per_group(channels: int, others: int, kernel: Sequence[int]) -> str:
    """The channels that a weight stores divided by groups; 3 are the colours of an image."""
    depthwise = channels == 1 < others
    grouped = channels not in (0, 3) and others % channels == 0 and others >= 8 * channels and max(kernel) > 1
    return f"{channels}*groups" if depthwise or grouped else str(channels)


def _kernel_size(kernel: Sequence[int]) -> str:
    return f"kernel_size={kernel[0] if len(set(kernel)) == 1 else tuple(kernel)}"


def _weight_norm(leaves: Leaves) -> Layer | None:
    norms, weight = leaves["weight_g"][1], leaves["weight_v"][1]
    # One norm for each index of one dimension; a scalar where there is one for all
    fits = len(norms) == len(weight) and all(g in (1, w) for g, w in zip(norms, weight, strict=True))
    return _weighted(weight, _shape(leaves, "bias")) if fits or not norms else None


def _spectral_norm(leaves: Leaves) -> Layer | None:
    weight, left = leaves["weight_orig"][1], leaves["weight_u"][1]
    if len(weight) < 2 or len(left) != 1 or left[0] not in weight[:2]:
        return None
    # The power iteration takes the weight of a transposed convolution along dimension 1, all others along 0
    turned = None if weight[0] == weight[1] else left[0] == weight[1]
    return _weighted(weight, _shape(leaves, "bias"), turned)


def _pruned(leaves: Leaves) -> Layer | None:
    bias = "bias_orig" if "bias_orig" in leaves else "bias"
    return _weighted(leaves["weight_orig"][1], _shape(leaves, bias))


def _quantize(leaves: Leaves) -> Layer | None:
    name = {(): "QFunctional", (1,): "Quantize"}.get(leaves["scale"][1])
    return Layer(name, "") if name else None


def _batch_norm(leaves: Leaves) -> Layer | None:
    shape = leaves["running_mean"][1]
    shapes = {leaf[1] for name, leaf in leaves.items() if name != "num_batches_tracked"}
    if len(shape) != 1 or len(shapes) != 1:
        return None
    missing = "" if "bias" in leaves else ", bias=False" if "weight" in leaves else ", affine=False"
    # Files from before torch 0.4.1 have no counter; a frozen norm never has one, and all its four are buffers
    frozen = "bias" in leaves and "num_batches_tracked" not in leaves
    return Layer("BatchNorm|FrozenBatchNorm2d" if frozen else "BatchNorm", f"{shape[0]}{missing}")


_GATES = {1: "RNN", 3: "GRU", 4: "LSTM"}


def _recurrent_facts(leaves: Leaves, suffix: str) -> tuple[str, list[str]] | None:
    """Class and facts of the recurrent weights ``weight_ih{suffix}``, ``weight_hh{suffix}``, …"""
    inputs, state = _shape(leaves, f"weight_ih{suffix}"), _shape(leaves, f"weight_hh{suffix}")
    if not inputs or not state or len(inputs) != 2 or len(state) != 2 or inputs[0] != state[0]:
        return None
    rows, hidden = state
    projection, biases = _shape(leaves, f"weight_hr{suffix}"), {f"bias_ih{suffix}", f"bias_hh{suffix}"}
    if projection is not None:
        if len(projection) != 2 or projection[0] != hidden:
            return None
        hidden = projection[1]
    gates, rest = divmod(rows, hidden) if hidden else (0, 0)
    biased = not biases.isdisjoint(leaves)
    if gates not in _GATES or rest or (projection is not None and gates != 4):
        return None
    if biased and any(_shape(leaves, bias) != (rows,) for bias in biases):
        return None
    projected = [] if projection is None else [f"proj_size={projection[0]}"]
    return _GATES[gates], [str(inputs[1]), str(hidden), *projected, *([] if biased else ["bias=False"])]


def _cell(leaves: Leaves) -> Layer | None:
    found = _recurrent_facts(leaves, "")
    return Layer(f"{found[0]}Cell", ", ".join(found[1])) if found else None


def _recurrent(leaves: Leaves) -> Layer | None:
    found = _recurrent_facts(leaves, "_l0")
    layers = 0
    while f"weight_ih_l{layers}" in leaves:
        layers += 1
    directions = ("", "_reverse") if "weight_ih_l0_reverse" in leaves else ("",)
    projected = "weight_hr_l0" in leaves
    each = 2 + projected + 2 * ("bias_ih_l0" in leaves)
    if not found or len(leaves) != layers * len(directions) * each:
        return None  # something is missing, or something else hangs here
    name, facts = found
    width = str(leaves["weight_hh_l0"][1][1] * len(directions))  # what one layer hands to the next
    for layer in range(layers):
        same = name, [width if layer else facts[0], *facts[1:]]
        if any(_recurrent_facts(leaves, f"_l{layer}{direction}") != same for direction in directions):
            return None
    if layers > 1:
        facts.insert(2 + projected, f"num_layers={layers}")
    if len(directions) == 2:
        facts.append("bidirectional=True")
    return Layer(name, ", ".join(facts))


_ATTENTION = frozenset(
    ["in_proj_weight", "in_proj_bias", "q_proj_weight", "k_proj_weight", "v_proj_weight", "bias_k", "bias_v"]
)


def _attention(leaves: Leaves) -> Layer | None:
    names = ["in_proj_weight"] if "in_proj_weight" in leaves else [f"{part}_proj_weight" for part in "qkv"]
    weights = [_shape(leaves, name) or () for name in names]
    if not leaves.keys() <= _ATTENTION or any(len(weight) != 2 for weight in weights):
        return None
    width = weights[0][1]
    rows = [3 * width] if len(weights) == 1 else [width] * 3
    bias = _shape(leaves, "in_proj_bias")
    if [weight[0] for weight in weights] != rows or bias not in (None, (3 * width,)):
        return None
    facts = [str(width), *(f"{part[0]}dim={leaves[part][1][1]}" for part in names[1:])]
    if bias is None:
        facts.append("bias=False")
    if "bias_k" in leaves:
        facts.append("add_bias_kv=True")
    return Layer("MultiheadAttention", ", ".join(facts))


_TRANSFORMER = ["self_attn", "linear1", "linear2", "norm1", "norm2"]
_PARENTS: dict[tuple[frozenset[str], frozenset[str]], str] = {
    (frozenset(), frozenset(_TRANSFORMER)): "TransformerEncoderLayer",
    (frozenset(), frozenset([*_TRANSFORMER, "multihead_attn", "norm3"])): "TransformerDecoderLayer",
    (frozenset(), frozenset(["_packed_params"])): "Embedding",  # quantized
    (frozenset(["scale", "zero_point"]), frozenset(["_packed_params"])): "Linear",  # quantized
    (frozenset(["n_averaged"]), frozenset(["module"])): "AveragedModel",
    (frozenset(["original"]), frozenset("0")): "ParametrizationList",
}


def _parent(leaves: Leaves, children: Sequence[str]) -> Layer | None:
    name = _PARENTS.get((frozenset(leaves), frozenset(children)))
    if not name and not leaves and all(map(_is_index, children)):
        # Modules without tensors leave gaps, and a list of them is seldom made
        name = "Sequential|ModuleList" if _is_range(children) else "Sequential"
    if name:
        return Layer(name, "")
    return _attention(leaves) if list(children) == ["out_proj"] else None


def _is_index(name: str) -> bool:
    return name.isascii() and name.isdigit() and (name[0] != "0" or name == "0")


def _is_range(names: Sequence[str]) -> bool:
    return set(names) == {str(i) for i in range(len(names))}


_READERS: dict[frozenset[str], Callable[[Leaves], Layer | None]] = {
    frozenset(names.split()): reader
    for reader, *spellings in (
        (_plain, "weight", "weight bias"),
        (_plain, "weight scale zero_point", "weight bias scale zero_point"),  # a quantized convolution
        (_batch_norm, "weight bias running_mean running_var num_batches_tracked"),
        (_batch_norm, "weight bias running_mean running_var"),
        (_batch_norm, "weight running_mean running_var num_batches_tracked"),
        (_batch_norm, "running_mean running_var num_batches_tracked", "running_mean running_var"),
        (_weight_norm, "weight_g weight_v", "weight_g weight_v bias"),
        (_spectral_norm, "weight_orig weight_u weight_v", "weight_orig weight_u weight_v bias"),
        (_spectral_norm, "weight_orig weight_u", "weight_orig weight_u bias"),  # torch 0.4
        (_pruned, "weight_orig weight_mask", "weight_orig weight_mask bias"),
        (_pruned, "weight_orig weight_mask bias_orig bias_mask"),
        (_cell, "weight_ih weight_hh", "weight_ih weight_hh bias_ih bias_hh"),
        (_quantize, "scale zero_point"),
        (lambda _: Layer("BCEWithLogitsLoss", ""), "pos_weight", "weight pos_weight"),
        (lambda _: Layer("ParametrizationList", ""), "original0 original1"),
    )
    for names in spellings
}
# Where the parametrizations keep what the older hooks keep beside the weight
_PARAMETRIZED = {
    "parametrizations.weight.original0": "weight_g",
    "parametrizations.weight.original1": "weight_v",
    "parametrizations.weight.original": "weight_orig",
    "parametrizations.weight.0._u": "weight_u",
    "parametrizations.weight.0._v": "weight_v",
}


def _unusual(leaves: Leaves) -> Layer | None:
    if "weight_ih_l0" in leaves:
        return _recurrent(leaves)
    if not _PARAMETRIZED.keys().isdisjoint(leaves):
        leaves = {_PARAMETRIZED.get(name, name): leaf for name, leaf in leaves.items()}
        reader = _READERS.get(frozenset(leaves))
        return reader(leaves) if reader else None
    return Layer("ParameterList", "") if "0" in leaves and _is_range(list(leaves)) else None


_FLOATING = frozenset(row.name for row in BY_NAME.values() if row.kind in ("float", "complex"))
_INTEGER = frozenset(row.name for row in BY_NAME.values() if row.kind in ("int", "bool"))
# A quantizer's own packing, two values to an element and the like: such a shape is not the layer's
_PACKED = _INTEGER | {"float4_e2m1fn_x2", *(row.name for row in BY_NAME.values() if row.kind == "bits")}

_BUFFER_NAMES = """
running_mean running_var num_batches_tracked n_averaged total_ops total_params pos_weight pixel_mean pixel_std
position_ids token_type_ids relative_position_index relative_coords_table
inv_freq original_inv_freq cos_cached sin_cached freqs_cis mask attn_mask causal_mask masked_bias tril triu
min_val max_val fake_quant_enabled observer_enabled
alphas_cumprod alphas_cumprod_prev sqrt_alphas_cumprod sqrt_one_minus_alphas_cumprod
log_one_minus_alphas_cumprod sqrt_recip_alphas_cumprod sqrt_recipm1_alphas_cumprod
posterior_variance posterior_log_variance_clipped posterior_mean_coef1 posterior_mean_coef2
"""
_BUFFERS = frozenset(_BUFFER_NAMES.split())
_PARAMETERS = _ATTENTION | {"original", "original0", "original1"}
_ABSENT: tuple[str, Shape] = ("", ())
_RECURRENT = ("weight_ih", "weight_hh", "weight_hr", "bias_ih", "bias_hh")
# What a hook hangs beside the weight it takes apart: ending -> (ending of the sibling that proves it, role)
_HOOKED: dict[str, tuple[tuple[str, Role], ...]] = {
    "g": (("_v", "parameter"),),
    "v": (("_g", "parameter"), ("_orig", "buffer")),  # of weight_norm; of spectral_norm
    "u": (("_orig", "buffer"),),
    "orig": (("_u", "parameter"), ("_mask", "parameter")),
    "mask": (("_orig", "buffer"),),
}


def role(name: str, dtype: str, leaves: Leaves) -> Role | None:
    """What a tensor is to its module, as far as its name, dtype and siblings tell; None: not known."""
    if name in _BUFFERS:
        return "buffer"
    if name in ("weight", "bias"):
        return _weight_role(name, dtype, leaves)
    if dtype in _FLOATING:
        return "parameter" if name in _PARAMETERS else _sibling_role(name, leaves)
    # Integers are not trained; yet some quantizers make parameters of their packed weights
    return "buffer" if dtype in _INTEGER and ("weight" not in name or name.endswith("_mask")) else None


def _weight_role(name: str, dtype: str, leaves: Leaves) -> Role | None:
    if name == "bias":
        shape = _shape(leaves, name) or ()
        if len(shape) == 4 and shape[:2] == (1, 1) and shape[2] == shape[3]:
            return "buffer"  # so GPT-2 calls its causal mask
        if leaves.get("weight", _ABSENT)[0].startswith("q"):
            return None  # quantized layers keep neither, but pack both into an object
    elif "pos_weight" in leaves:
        return "buffer"  # of BCEWithLogitsLoss
    # In FrozenBatchNorm2d both are buffers, and a BatchNorm of torch < 0.4.1 looks the same
    frozen = "running_mean" in leaves and "num_batches_tracked" not in leaves
    return "parameter" if dtype in _FLOATING and not frozen else None


def _sibling_role(name: str, leaves: Leaves) -> Role | None:
    """The role of a floating tensor with a rarer name."""
    stem, _, ending = name.rpartition("_")
    if ending in _HOOKED and ("weight" in stem or "bias" in stem):
        return next((found for sibling, found in _HOOKED[ending] if stem + sibling in leaves), None)
    if name.startswith(_RECURRENT):
        return "parameter"
    if name in ("_u", "_v"):  # of the parametrization _SpectralNorm
        return "buffer" if "_u" in leaves and "_v" in leaves else None
    if name == "scale":  # beside an integer zero_point it is a quantizer's, and not learnt
        return "buffer" if leaves.get("zero_point", _ABSENT)[0] in _INTEGER else None
    return "buffer" if name == "betas" and "alphas_cumprod" in leaves else None
