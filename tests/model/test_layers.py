"""What a bare state_dict shows of its modules. The oracle: real modules of torch and their attributes."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import utils
from torch.nn.utils import parametrizations, prune

from ckpt_inspect.model.layers import FAMILIES, Layer, Leaves, infer, role

few = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

size = st.integers(1, 40)
flag = st.booleans()
kernel = st.integers(1, 5)


def weight_norm(module: Any, name: str = "weight", dim: int | None = 0) -> nn.Module:
    """The older of the two, which most files in the world were written with."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return utils.weight_norm(module, name, dim)


def described(module: nn.Module, *, flat: bool = False) -> tuple[Leaves, list[str]]:
    """What a reader of the state_dict knows of a module; flat: also its parametrizations."""
    leaves, children = {}, []
    for key, tensor in module.state_dict().items():
        first, _, rest = key.partition(".")
        if not isinstance(tensor, torch.Tensor):  # the packed parameters of quantized layers
            children.append(first)
        elif not rest or (flat and first == "parametrizations"):
            leaves[key] = str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)
        else:
            children.append(first)
    return leaves, list(dict.fromkeys(children))


def classes(layer: Layer) -> set[str]:
    names = layer.name.split("|")
    return {member for name in names for member in FAMILIES.get(name, (name,))}


def torch_class(module: nn.Module) -> str:
    """The class as torch calls it; a parametrized one by the class it was."""
    return next(cls.__name__ for cls in type(module).__mro__ if not cls.__name__.startswith("Parametrized"))


POSITIONAL = {
    "Linear": ["in_features", "out_features"],
    "Embedding": ["num_embeddings", "embedding_dim"],
    "EmbeddingBag": ["num_embeddings", "embedding_dim"],
    "LayerNorm": ["normalized_shape"],
    "RMSNorm": ["normalized_shape"],
    "GroupNorm": ["num_channels"],
    "PReLU": ["num_parameters"],
    "MultiheadAttention": ["embed_dim"],
    **dict.fromkeys(["LSTM", "GRU", "RNN"], ("input_size", "hidden_size")),
    **dict.fromkeys(["LSTMCell", "GRUCell", "RNNCell"], ("input_size", "hidden_size")),
    **{f"Conv{n}d": ["in_channels", "out_channels"] for n in (1, 2, 3)},
    **{f"ConvTranspose{n}d": ["in_channels", "out_channels"] for n in (1, 2, 3)},
    **{f"{norm}{n}d": ["num_features"] for norm in ("BatchNorm", "InstanceNorm") for n in (1, 2, 3)},
    "SyncBatchNorm": ["num_features"],
}


def value(module: nn.Module, name: str) -> Any:
    """A constructor argument, from the attribute that came of it."""
    if type(module) is nn.MultiheadAttention:
        name = {"bias": "in_proj_bias", "add_bias_kv": "bias_k"}.get(name, name)
    found = getattr(module, name)
    return found is not None if "bias" in name and not isinstance(found, bool) else found


def contradictions(layer: Layer, module: nn.Module) -> list[str]:
    """The facts in the arguments that the module's attributes do not confirm."""
    groups = getattr(module, "groups", 1)
    scope = {"facts": lambda *args, **kwargs: (args, kwargs), "groups": groups}
    positional, named = eval(f"facts({layer.args})", scope)
    facts = [
        *zip(POSITIONAL[torch_class(module)] if positional else [], positional, strict=True),
        *named.items(),
    ]
    wrong = []
    for name, printed in facts:
        real = value(module, name)
        allowed = {printed, (printed,)}  # LayerNorm's shape
        if name == "kernel_size" and isinstance(printed, int):
            allowed = {(printed,) * len(real)}
        # A plain number of channels on the side that the weight stores divided is that quotient
        stored = "out_channels" if "Transpose" in torch_class(module) else "in_channels"
        if name == stored and "groups" not in layer.args:
            real //= groups
        if real not in allowed:
            wrong.append(f"{name}: printed {printed}, is {real}")
    return wrong


def check(module: nn.Module, *, flat: bool = False) -> Layer:
    layer = infer(*described(module, flat=flat))
    assert layer is not None, "not recognised"
    assert torch_class(module) in classes(layer)
    assert contradictions(layer, module) == []
    return layer


# --- classes and arguments


@few
@given(size, size, flag)
def test_linear(inputs: int, outputs: int, bias: bool) -> None:
    layer = check(nn.Linear(inputs, outputs, bias))
    assert layer.name == ("Linear" if bias else "Linear|Embedding")


@few
@given(size, size, st.sampled_from([nn.Embedding, nn.EmbeddingBag]))
def test_embedding(rows: int, columns: int, cls: Callable[..., nn.Module]) -> None:
    assert check(cls(rows, columns)).name == "Linear|Embedding"


CONVOLUTIONS = {
    1: (nn.Conv1d, nn.ConvTranspose1d),
    2: (nn.Conv2d, nn.ConvTranspose2d),
    3: (nn.Conv3d, nn.ConvTranspose3d),
}


@pytest.mark.parametrize("rank", [1, 2, 3], ids="{}d".format)
@few
@given(st.data())
def test_convolution(rank: int, data: st.DataObject) -> None:
    groups = data.draw(st.sampled_from([1, 1, 2, 4, 8]))
    inputs, outputs = groups * data.draw(st.integers(1, 9)), groups * data.draw(st.integers(1, 9))
    shape = data.draw(st.one_of(kernel.map(lambda k: (k,) * rank), st.tuples(*[kernel] * rank)))
    check(CONVOLUTIONS[rank][0](inputs, outputs, shape, groups=groups, bias=data.draw(flag)))


@pytest.mark.parametrize("rank", [1, 2, 3], ids="{}d".format)
@few
@given(st.data())
def test_transposed_convolution(rank: int, data: st.DataObject) -> None:
    groups = data.draw(st.sampled_from([1, 1, 2, 4]))
    inputs, outputs = groups * data.draw(st.integers(1, 9)), groups * data.draw(st.integers(1, 9))
    shape = data.draw(st.tuples(*[kernel] * rank))
    bias = data.draw(flag)
    module = CONVOLUTIONS[rank][1](inputs, outputs, shape, groups=groups, bias=bias)
    if bias and inputs != outputs:
        layer = check(module)  # the bias tells, and tells groups as well
        assert layer.name == f"ConvTranspose{rank}d"
        assert ("groups=" in layer.args) == (groups > 1)
    elif any(k % 2 == 0 for k in shape) and (groups == 1 or not bias):
        assert "|" in check(module).name
    else:  # as documented: an odd kernel, or grouped channels as many in as out, read as a plain convolution
        layer_or_none = infer(*described(module))
        assert layer_or_none is not None
        assert layer_or_none.name.split("|")[0] == f"Conv{rank}d"


@few
@given(st.integers(2, 20), size, flag)
def test_bilinear_of_two_equal_inputs(inputs: int, outputs: int, bias: bool) -> None:
    layer = check(nn.Bilinear(inputs, inputs, outputs, bias))
    assert "Conv1d" in layer.name.split("|")


@pytest.mark.parametrize("rank", [1, 2, 3], ids="{}d".format)
@few
@given(size, flag, flag)
def test_norm_with_statistics(rank: int, channels: int, affine: bool, bias: bool) -> None:
    for norm in ("BatchNorm", "InstanceNorm"):
        module = getattr(nn, f"{norm}{rank}d")(channels, affine=affine, track_running_stats=True)
        if affine and not bias:
            module.register_parameter("bias", None)  # torch 2.12 has an argument for this
        layer = check(module)
        assert layer.name == "BatchNorm"
        assert ("affine=False" in layer.args) == (not affine)


def test_norms_without_a_counter() -> None:
    leaves = dict(described(nn.BatchNorm2d(12))[0])
    del leaves["num_batches_tracked"]  # as torch < 0.4.1 wrote it, and FrozenBatchNorm2d does
    assert infer(leaves) == Layer("BatchNorm|FrozenBatchNorm2d", "12")
    assert [role(name, "float32", leaves) for name in leaves] == [None, None, "buffer", "buffer"]


@few
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), flag)
def test_layer_norm(shape: list[int], bias: bool) -> None:
    if bias or (len(shape) == 1 and shape != [1]):
        check(nn.LayerNorm(shape, bias=bias))


@few
@given(st.integers(1, 5), st.integers(1, 5))
def test_norms_over_channels(groups: int, per_group: int) -> None:
    channels = groups * per_group
    for module in (
        nn.GroupNorm(groups, channels),
        nn.InstanceNorm2d(channels, affine=True),
        nn.BatchNorm2d(channels, track_running_stats=False),
    ):
        assert check(module) == ("LayerNorm|GroupNorm|InstanceNorm", str(channels))


@few
@given(st.integers(2, 50))
def test_one_vector(channels: int) -> None:
    assert check(nn.RMSNorm(channels)) == check(nn.PReLU(channels))
    assert check(nn.PReLU()) == ("PReLU", "1")


@pytest.mark.parametrize("cls", [nn.LSTM, nn.GRU, nn.RNN])
@few
@given(size, size, st.integers(1, 4), flag, flag, st.integers(0, 5))
@example(4, 4, 1, True, False, 0)
@example(12, 4, 2, True, True, 3)
def test_recurrent(
    cls: type[nn.RNNBase], inputs: int, hidden: int, layers: int, bias: bool, both_ways: bool, projection: int
) -> None:
    facts: dict[str, Any] = {"num_layers": layers, "bias": bias, "bidirectional": both_ways}
    if cls is nn.LSTM and projection < hidden:
        facts["proj_size"] = projection
    module = cls(inputs, hidden, **facts)
    assert repr(module) == f"{cls.__name__}({check(module).args})"


@pytest.mark.parametrize("cls", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
@few
@given(size, size, flag)
def test_recurrent_cell(cls: Any, inputs: int, hidden: int, bias: bool) -> None:
    module = cls(inputs, hidden, bias=bias)
    assert repr(module) == f"{cls.__name__}({check(module).args})"


@pytest.mark.parametrize("missing", ["weight_hh_l0", "weight_hh_l1", "bias_ih_l1_reverse"])
def test_a_recurrent_layer_with_something_missing_is_unknown(missing: str) -> None:
    leaves, _ = described(nn.GRU(3, 4, 2, bidirectional=True))
    assert infer({name: leaf for name, leaf in leaves.items() if name != missing}) is None


@few
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), flag, flag)
@example(2, 4, 8, 8, True, True)
def test_attention(heads: int, width: int, keys: int, values: int, bias: bool, bias_kv: bool) -> None:
    module = nn.MultiheadAttention(heads * width, heads, bias=bias, add_bias_kv=bias_kv, kdim=keys, vdim=values)
    layer = check(module)
    assert layer.name == "MultiheadAttention"
    assert ("kdim" in layer.args) == (module.in_proj_weight is None)
    assert ("add_bias_kv" in layer.args, "bias=False" in layer.args) == (bias_kv, not bias)
    check(nn.MultiheadAttention(heads * width, heads, bias=bias, add_bias_kv=bias_kv))


HOOKABLE: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(3, 4),
    "linear-without-bias": lambda: nn.Linear(3, 4, bias=False),
    "conv1d": lambda: nn.Conv1d(16, 32, 5),
    "conv2d": lambda: nn.Conv2d(3, 8, 3),
    "even-conv2d-without-bias": lambda: nn.Conv2d(6, 8, 4, bias=False),
    "transposed": lambda: nn.ConvTranspose2d(6, 8, 4),
    "transposed-without-bias": lambda: nn.ConvTranspose2d(6, 8, 4, bias=False),
    "transposed-of-equal-channels": lambda: nn.ConvTranspose1d(8, 8, 4),
    "embedding": lambda: nn.Embedding(5, 4),
}
HOOKS: dict[str, Callable[[Any], nn.Module]] = {
    "weight_norm": weight_norm,
    "weight_norm-of-all": lambda module: weight_norm(module, dim=None),
    "weight_norm-of-columns": lambda module: weight_norm(module, dim=1),
    "spectral_norm": utils.spectral_norm,
    "pruned": lambda module: prune.random_unstructured(module, "weight", 0.5),
    "parametrized-weight_norm": parametrizations.weight_norm,
    "parametrized-spectral_norm": parametrizations.spectral_norm,
}


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("layer", HOOKABLE)
def test_a_hooked_weight(layer: str, hook: str) -> None:
    found = check(HOOKS[hook](HOOKABLE[layer]()), flat=True)
    if hook.endswith("spectral_norm") and layer.endswith("-without-bias") and "linear" not in layer:
        assert "|" not in found.name  # its vectors tell


def test_pruned_weight_and_bias() -> None:
    module = prune.random_unstructured(nn.Linear(3, 4), "weight", 0.5)
    assert check(prune.l1_unstructured(module, "bias", 0.5)) == ("Linear", "3, 4")


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (nn.TransformerEncoderLayer(8, 2, 16), "TransformerEncoderLayer"),
        (nn.TransformerDecoderLayer(8, 2, 16), "TransformerDecoderLayer"),
        (nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1)), "Sequential|ModuleList"),
        (nn.ModuleList([nn.Linear(1, 1)]), "Sequential|ModuleList"),
        (nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)), "Sequential"),
        (nn.Sequential(nn.Flatten(), nn.Linear(1, 1)), "Sequential"),
        (nn.ParameterList([torch.ones(1), torch.ones(2, 3)]), "ParameterList"),
        (torch.optim.swa_utils.AveragedModel(nn.Linear(1, 1)), "AveragedModel"),
        (nn.BCEWithLogitsLoss(pos_weight=torch.ones(3)), "BCEWithLogitsLoss"),
        (nn.BCEWithLogitsLoss(torch.ones(3), pos_weight=torch.ones(3)), "BCEWithLogitsLoss"),
        (parametrizations.weight_norm(nn.Linear(2, 3)).parametrizations.weight, "ParametrizationList"),
        (parametrizations.spectral_norm(nn.Linear(2, 3)).parametrizations.weight, "ParametrizationList"),
        (nn.ModuleDict({"a": nn.Linear(1, 1)}), None),
        (nn.ModuleDict({"01": nn.Linear(1, 1)}), None),
        (nn.ModuleDict({"²": nn.Linear(1, 1)}), None),
        (parametrizations.weight_norm(nn.Linear(2, 3)), None),
        (nn.ReLU(), None),
    ],
    ids=lambda value: str(value) if not isinstance(value, nn.Module) else "",
)
def test_containers(module: nn.Module, name: str | None) -> None:
    layer = infer(*described(module))
    assert (layer.name if layer else None) == name


deprecated = pytest.mark.filterwarnings("ignore:(?s).*quantiz.*deprecated")
quantized = torch.ao.nn.quantized
QUANTIZED: dict[str, Callable[[], nn.Module]] = {
    "conv1d": lambda: quantized.Conv1d(16, 4, 3),
    "conv2d": lambda: quantized.Conv2d(3, 4, (3, 5)),
    "transposed": lambda: quantized.ConvTranspose2d(3, 4, 4),
    "linear": lambda: quantized.Linear(3, 4),
    "embedding": lambda: quantized.Embedding(3, 4),
    "embedding-bag": lambda: quantized.EmbeddingBag(3, 4),
    "quantize": lambda: quantized.Quantize(0.1, 3, torch.quint8),
    "functional": quantized.QFunctional,
}


@deprecated
@pytest.mark.parametrize("build", QUANTIZED.values(), ids=QUANTIZED.keys())
def test_quantized(build: Callable[[], nn.Module]) -> None:
    engines = [engine for engine in torch.backends.quantized.supported_engines if engine != "none"]
    if not engines:
        pytest.skip("this torch quantizes nothing")
    module = build()
    layer = infer(*described(module))
    assert layer is not None
    assert torch_class(module) in classes(layer)


@pytest.mark.parametrize(
    ("module", "printed"),
    [
        (nn.Conv2d(3, 12, 3), "Conv2d(3, 12, kernel_size=3)"),
        (nn.Conv2d(3, 64, 7, bias=False), "Conv2d(3, 64, kernel_size=7, bias=False)"),
        (nn.Conv2d(64, 128, 3, bias=False), "Conv2d(64, 128, kernel_size=3, bias=False)"),
        (nn.Conv2d(64, 64, 3), "Conv2d(64, 64, kernel_size=3)"),
        (nn.Conv2d(512, 2048, 1), "Conv2d(512, 2048, kernel_size=1)"),
        (nn.Conv2d(4, 96, 1), "Conv2d(4, 96, kernel_size=1)"),
        (nn.Conv2d(4, 4, (3, 5)), "Conv2d(4, 4, kernel_size=(3, 5))"),
        (nn.Conv2d(3, 768, 16), "Conv2d(3, 768, kernel_size=16)"),
        (nn.Conv2d(1, 32, 3), "Conv2d(1*groups, 32, kernel_size=3)"),
        (nn.Conv2d(32, 32, 3, groups=32), "Conv2d(1*groups, 32, kernel_size=3)"),
        (nn.Conv2d(128, 128, 3, groups=32), "Conv2d(4*groups, 128, kernel_size=3)"),
        (nn.Conv2d(1, 1, 3), "Conv2d(1, 1, kernel_size=3)"),
        (nn.Conv2d(64, 64, 4), "Conv2d|ConvTranspose2d(64, 64, kernel_size=4)"),
        (nn.ConvTranspose2d(100, 512, 4, bias=False), "Conv2d|ConvTranspose2d(kernel_size=4, bias=False)"),
        (nn.ConvTranspose2d(512, 256, 2), "ConvTranspose2d(512, 256, kernel_size=2)"),
        (nn.ConvTranspose2d(8, 4, 3, groups=2), "ConvTranspose2d(8, 4, kernel_size=3, groups=2)"),
        (nn.Bilinear(5, 5, 3), "Conv1d|Bilinear()"),
        (nn.Bilinear(2, 301, 3), "Conv1d|Bilinear()"),
        (nn.Linear(512, 128), "Linear(512, 128)"),
        (nn.Linear(512, 128, bias=False), "Linear|Embedding()"),
        (nn.Linear(512, 512, bias=False), "Linear|Embedding(512, 512)"),
        (nn.BatchNorm2d(12), "BatchNorm(12)"),
        (nn.BatchNorm2d(12, affine=False), "BatchNorm(12, affine=False)"),
        (nn.LayerNorm((3, 4)), "LayerNorm((3, 4))"),
        (nn.LayerNorm(12), "LayerNorm|GroupNorm|InstanceNorm(12)"),
        (nn.RMSNorm(12), "RMSNorm|LayerNorm|GroupNorm|PReLU(12)"),
        (nn.MultiheadAttention(8, 2, kdim=3), "MultiheadAttention(8, kdim=3, vdim=8)"),
        (nn.LSTM(3, 5, 2, bidirectional=True), "LSTM(3, 5, num_layers=2, bidirectional=True)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_it_looks_like(module: nn.Module, printed: str) -> None:
    assert "{}({})".format(*check(module)) == printed


def test_conv1d_of_transformers() -> None:
    turned = {"weight": ("float32", (768, 2304)), "bias": ("float32", (2304,))}
    assert infer(turned) == Layer("Conv1D", "nf=2304, nx=768")


def test_thop_counters_are_overlooked() -> None:
    module = nn.Linear(3, 4)
    module.register_buffer("total_ops", torch.zeros(1, dtype=torch.float64))
    module.register_buffer("total_params", torch.zeros(1, dtype=torch.float64))
    assert check(module) == ("Linear", "3, 4")
    assert disagreements(module) == []


@pytest.mark.parametrize(
    ("leaves", "children"),
    [
        ({}, []),
        ({"weight": ("float32", ())}, []),
        ({"weight": ("float32", (4, 3)), "bias": ("float32", (5,))}, []),
        ({"weight": ("float32", (4, 3)), "bias": ("float32", ())}, []),
        ({"weight": ("float32", (4, 3)), "bias": ("float32", (4,))}, ["lora_A", "lora_B"]),
        ({"weight": ("float32", (4, 3)), "lora_A": ("float32", (2, 3)), "lora_B": ("float32", (4, 2))}, []),
        ({"weight": ("uint8", (6, 1))}, []),
        ({"weight": ("float32", (2,) * 9)}, []),
        ({"cls_token": ("float32", (1, 1, 8))}, ["blocks", "norm"]),
        ({"bias": ("float32", (4,))}, []),
        ({}, ["lora_A", "lora_B", "base_layer"]),
    ],
    ids=[
        "nothing",
        "scalar",
        "misfit",
        "scalar-bias",
        "lora",
        "old-lora",
        "packed",
        "9-d",
        "vit",
        "bias",
        "peft",
    ],
)
def test_unknown(leaves: Leaves, children: list[str]) -> None:
    assert infer(leaves, children) is None


GRU = {"weight_ih": (12, 3), "weight_hh": (12, 4), "bias_ih": (12,), "bias_hh": (12,)}


@pytest.mark.parametrize(
    "shapes",
    [
        {"weight": (-3, -4), "bias": (-3,)},
        {"weight": (2**63, 3), "bias": (2**63,)},
        {"weight": (10**5000, 3), "bias": (10**5000,)},
        {"weight": (6, 4, 3, 3), "bias": (10,)},
        {"weight": (6, 4, 3, 3), "bias": (16,)},
        {"weight": (6, 4, 3, 3), "bias": (0,)},
        {"weight": (4,), "bias": (5,)},
        {"weight": (4,), "bias": (4,), "running_mean": (4,), "running_var": (5,)},
        {"running_mean": (4, 4), "running_var": (4, 4)},
        {"weight_g": (3, 1), "weight_v": (4, 3)},
        {"weight_g": (4,), "weight_v": (4, 3)},
        {"weight_orig": (4, 3), "weight_u": (5,), "weight_v": (3,)},
        {"weight_orig": (4,), "weight_u": (4,), "weight_v": (1,)},
        {**GRU, "weight_ih": (10, 3)},
        {**GRU, "weight_hh": (12, 11)},
        {**GRU, "weight_hh": (12, 0)},
        {**GRU, "weight_hh": (12, 6)},
        {**GRU, "bias_hh": (4,)},
        {f"{name}_l0": shape for name, shape in GRU.items()} | {"weight_hr_l0": (4, 4)},
        {"scale": (7,), "zero_point": (7,)},
    ],
    ids=lambda shapes: "-".join(shapes),
)
def test_shapes_that_no_layer_has(shapes: dict[str, tuple[int, ...]]) -> None:
    assert infer({name: ("float32", shape) for name, shape in shapes.items()}) is None


@pytest.mark.parametrize(
    "shapes",
    [
        {"in_proj_weight": (9, 4)},
        {"in_proj_weight": (12, 4), "in_proj_bias": (4,)},
        {"in_proj_weight": (12, 4), "q_proj_weight": (4, 4), "gate": (4,)},
        {"q_proj_weight": (4, 4), "k_proj_weight": (4, 3)},
        {"q_proj_weight": (4, 5), "k_proj_weight": (4, 3), "v_proj_weight": (4, 3)},
    ],
    ids=lambda shapes: "-".join(shapes),
)
def test_shapes_that_no_attention_has(shapes: dict[str, tuple[int, ...]]) -> None:
    assert infer({name: ("float32", shape) for name, shape in shapes.items()}, ["out_proj"]) is None


# --- roles


def disagreements(model: nn.Module) -> list[str]:
    """The tensors of a model of which `role` says what torch denies."""
    wrong = []
    for path, module in model.named_modules():
        leaves, _ = described(module)
        for name, (dtype, _) in leaves.items():
            found = role(name, dtype, leaves)
            parameter, buffer = name in dict(module.named_parameters()), name in dict(module.named_buffers())
            if (found == "parameter" and not parameter) or (found == "buffer" and parameter and not buffer):
                wrong.append(f"{path}.{name}: {found}")
    return wrong


def unknown(module: nn.Module) -> list[str]:
    leaves, _ = described(module)
    return [name for name, (dtype, _) in leaves.items() if role(name, dtype, leaves) is None]


RECOGNISED: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(2, 3),
    "bilinear": lambda: nn.Bilinear(2, 3, 4),
    "embedding": lambda: nn.Embedding(2, 3),
    "complex-linear": lambda: nn.Linear(2, 3, dtype=torch.complex64),
    "bfloat16-conv": lambda: nn.Conv2d(2, 3, 3, dtype=torch.bfloat16),
    "batch-norm": lambda: nn.BatchNorm1d(3),
    "instance-norm": lambda: nn.InstanceNorm1d(3, affine=True, track_running_stats=True),
    "bare-batch-norm": lambda: nn.BatchNorm1d(3, affine=False),
    "layer-norm": lambda: nn.LayerNorm(3),
    "rms-norm": lambda: nn.RMSNorm(3),
    "prelu": nn.PReLU,
    "lstm": lambda: nn.LSTM(2, 3, 2, proj_size=2, bidirectional=True),
    "gru-cell": lambda: nn.GRUCell(2, 3),
    "attention": lambda: nn.MultiheadAttention(4, 2, add_bias_kv=True),
    "attention-of-others": lambda: nn.MultiheadAttention(4, 2, kdim=3, vdim=5),
    "weight-norm": lambda: weight_norm(nn.Linear(2, 3)),
    "weight-norm-of-lstm": lambda: weight_norm(nn.LSTM(2, 3), "weight_hh_l0"),
    "spectral-norm": lambda: utils.spectral_norm(nn.Linear(2, 3)),
    "spectral-norm-of-attention": lambda: utils.spectral_norm(nn.MultiheadAttention(4, 2), "in_proj_weight"),
    "pruned": lambda: prune.random_unstructured(nn.Linear(2, 3), "weight", 0.5),
    "pruned-bias": lambda: prune.random_unstructured(nn.Linear(2, 3), "bias", 0.5),
    "loss": lambda: nn.BCEWithLogitsLoss(torch.ones(3), pos_weight=torch.ones(3)),
    "averaged": lambda: torch.optim.swa_utils.AveragedModel(nn.Linear(1, 1)),
}


@pytest.mark.parametrize("build", RECOGNISED.values(), ids=RECOGNISED.keys())
def test_roles_of_recognised_layers_are_all_known(build: Callable[[], nn.Module]) -> None:
    module = build()
    assert disagreements(module) == []
    assert unknown(module) == []


class Oddities(nn.Module):  # type: ignore[misc]
    """Buffers and parameters under the names that well-known models give them."""

    def __init__(self) -> None:
        super().__init__()
        for name in (
            "inv_freq",
            "attn_mask",
            "mask",
            "masked_bias",
            "pixel_mean",
            "alphas_cumprod",
            "betas",
            "pe",
        ):
            self.register_buffer(name, torch.ones(3))
        self.register_buffer("bias", torch.ones(5, 5).tril().view(1, 1, 5, 5))
        self.register_buffer("position_ids", torch.arange(5)[None])
        self.register_buffer("relative_position_index", torch.ones(4, 4, dtype=torch.int64))
        self.register_buffer("weight_u", torch.ones(3))
        self.register_buffer("flags", torch.ones(3, dtype=torch.bool))
        self.cls_token = nn.Parameter(torch.ones(1, 1, 3))
        self.weight_v = nn.Parameter(torch.ones(3))
        self.scale = nn.Parameter(torch.ones(3))
        self.weight = nn.Parameter(torch.ones(3, 1, dtype=torch.uint8), requires_grad=False)
        self.qweight = nn.Parameter(torch.ones(3, 1, dtype=torch.int32), requires_grad=False)


class FrozenNorm(nn.Module):  # type: ignore[misc]
    """As in torchvision and the detectors."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.ones(3))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "transformer": lambda: nn.Transformer(8, 2, 1, 1, 8, batch_first=True),
    "adaptive-softmax": lambda: nn.AdaptiveLogSoftmaxWithLoss(64, 20, [3, 9]),
    "parametrized-weight-norm": lambda: parametrizations.weight_norm(nn.Linear(2, 3)),
    "parametrized-spectral-norm": lambda: parametrizations.spectral_norm(nn.Conv2d(2, 3, 3)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(3, 3)),
    "parameter-list": lambda: nn.ParameterList([torch.ones(3)]),
    "frozen-norm": FrozenNorm,
    "oddities": Oddities,
    "fake-quantize": torch.ao.quantization.FakeQuantize,
    "observer": torch.ao.quantization.HistogramObserver,
    "quantized-conv": QUANTIZED["conv2d"],
    "quantized-norm": lambda: quantized.BatchNorm2d(3),
    "quantize": QUANTIZED["quantize"],
}


@deprecated
@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS.keys())
def test_roles_never_contradict_torch(build: Callable[[], nn.Module]) -> None:
    assert disagreements(build()) == []


def test_roles_left_open() -> None:
    assert unknown(Oddities()) == ["cls_token", "weight_v", "scale", "weight", "qweight", "pe", "weight_u"]
    assert role("weight", "float32", {}) == "parameter"  # even where the siblings are not at hand
    assert role("weight", "qint8", {}) is None
    assert role("weight", "no such dtype", {}) is None


# --- whatever the file says

NAMES = [*{name: None for build in (*RECOGNISED.values(), *HOOKABLE.values()) for name in described(build())[0]}]
NAMES += [
    "0",
    "1",
    "scale",
    "zero_point",
    "original",
    "original0",
    "original1",
    "total_ops",
    "",
    "²",
    "\ud800",
]
NAMES += [f"parametrizations.weight.{rest}" for rest in ("original", "original0", "original1", "0._u", "0._v")]
LAYOUTS = [list(described(build())[0]) for build in RECOGNISED.values()]
sizes = st.one_of(st.integers(0, 4), st.sampled_from([-1, 12, 1024, 2**63, 10**5000]))
tensors = st.tuples(
    st.sampled_from(["float32", "bfloat16", "int64", "bool", "qint8", "float4_e2m1fn_x2", "F6_E2M3", "", "x"]),
    st.one_of(st.lists(st.integers(0, 4), max_size=4), st.lists(sizes, max_size=9)).map(tuple),
)
modules = st.one_of(st.lists(st.sampled_from(NAMES), max_size=6, unique=True), st.sampled_from(LAYOUTS)).flatmap(
    lambda names: st.fixed_dictionaries(dict.fromkeys(names, tensors))
)
children_names = st.lists(
    st.sampled_from(["0", "1", "2", "00", "", "²", "9" * 5000, "out_proj", "parametrizations", "module"]),
    max_size=4,
)


@settings(max_examples=400, deadline=None)
@given(modules, children_names)
def test_nothing_raises(leaves: Leaves, children: list[str]) -> None:
    for given_children in ([], children):
        layer = infer(leaves, given_children)
        assert layer is None or (layer.name and isinstance(layer.args, str))
    for name, (dtype, _) in leaves.items():
        assert role(name, dtype, leaves) in ("parameter", "buffer", None)


def test_a_hundred_thousand_names() -> None:
    leaves: Leaves = {str(i): ("float32", (1,)) for i in range(100_000)}
    assert infer(leaves) == Layer("ParameterList", "")
    assert infer({}, list(leaves)) == Layer("Sequential|ModuleList", "")
    assert {role(name, "float32", leaves) for name in leaves} == {None}


def test_it_needs_neither_torch_nor_numpy() -> None:
    heavy = {"torch", "numpy", "dataclasses", "inspect"}
    code = f"import sys, ckpt_inspect.model.layers; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-S", "-c", code], check=False).returncode == 0
