"""One function per way of making a checkpoint, and ``FILES``: name -> writer into a directory.

``FILES["mnist.ckpt"](directory)`` writes the file, or directory, of that name and returns its path. Every
writer is seeded, silent and leaves no trace in torch's global state. ``FORMATS`` says what each one is, in
the words of the contract (``UNSUPPORTED`` and ``FOREIGN`` are no checkpoints of ours); ``ODD`` are those
where torch has an answer but the contract leaves names or storages open; ``DAMAGED`` are cut short or
altered. ``names()`` picks among them.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import enum
import functools
import gzip
import json
import operator
import os
import pathlib
import re
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import safetensors.torch
import torch
from torch import nn

from . import (
    MODELS,
    Cnn1,
    Cnn2,
    DetectionModel,
    DictConfig,
    Discriminator,
    Generator,
    Gpt,
    LeNet,
    MnistNet,
    NamedLeNet,
    Shadow,
    TaggedTensor,
    TwoTensor,
    byhand,
    cnn3,
    example_input,
    vanished_modules,
)
from .byhand import FLOAT_STORAGE, ORDERED_DICT, Call, Global, Pairs, Pid, Raw, floats

ZIP, LEGACY, TAR, SCRIPT, PICKLE = "torch-zip", "torch-legacy", "torch-tar", "torchscript", "pickle"
SAFETENSORS, SHARDED, DCP, PT2 = "safetensors", "sharded", "dcp", "pt2"
UNSUPPORTED, FOREIGN = "unsupported", "foreign"

FILES: dict[str, Callable[[Path], Path]] = {}
FORMATS: dict[str, str] = {}
ODD: set[str] = set()
DAMAGED: set[str] = set()

Save = Callable[..., None]


def saves(
    name: str, form: str = ZIP, *, odd: bool = False, damaged: bool = False, **options: Any
) -> Callable[[Save], Save]:
    """Register the decorated function, with these options, as the writer of ``name``."""

    def register(function: Save) -> Save:
        def write(directory: Path) -> Path:
            path = Path(directory) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with quiet():
                function(path, **options)
            return path

        if name in FILES:
            raise ValueError(f"two writers of {name}")
        FILES[name], FORMATS[name] = write, form
        if odd:
            ODD.add(name)
        if damaged:
            DAMAGED.add(name)
        return function

    return register


def names(*formats: str, odd: bool = False, damaged: bool = False) -> list[str]:
    """The names in ``FILES`` of these formats (default: all that torch can answer for)."""
    wanted = formats or (ZIP, LEGACY, TAR, SCRIPT, PICKLE, SAFETENSORS, SHARDED, DCP, PT2)
    return [
        name
        for name, form in FORMATS.items()
        if form in wanted and (odd or name not in ODD) and (damaged or name not in DAMAGED)
    ]


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings, a fixed seed, the same storage keys, and the caller's random state left alone."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), numbered_storages():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        yield


@contextmanager
def tagged(*devices: str) -> Iterator[None]:
    """While this lasts torch.save tags storages with these devices, in turn; no GPU is needed."""
    seen: dict[int, str] = {}

    def location(stored: Any) -> str:
        return seen.setdefault(stored._cdata, devices[len(seen) % len(devices)])

    if not devices:
        yield
        return
    with mock.patch("torch.serialization.location_tag", location):
        yield


@contextmanager
def numbered_storages() -> Iterator[None]:
    """While this lasts legacy files get the same storage keys every time, instead of addresses."""
    numbers: dict[int, int] = {}
    address = torch._C.StorageBase._cdata

    def number(stored: Any) -> int:
        n = numbers.setdefault(address.__get__(stored), len(numbers))
        return 94000000000000 + n * 7919 % 100003 * 64  # like addresses, these do not come in order

    with mock.patch.object(torch.UntypedStorage, "_cdata", property(number), create=True):
        yield


def models() -> Iterator[tuple[str, Any]]:
    """All but MnistNet, which has files of its own."""
    for name in MODELS:
        if name != "mnist":
            yield name, MODELS[name]


def trained(model: Any, optimizer: Any, steps: int = 1) -> Any:
    """The optimizer after some steps on random gradients."""
    for _ in range(steps):
        for p in model.parameters():
            p.grad = torch.randn_like(p) * 0.01 if p.requires_grad else None
        optimizer.step()
    return optimizer


def renamed(state_dict: Any, rename: Callable[[str], str]) -> Any:
    """A state_dict under other names, its ``_metadata`` following."""
    new = collections.OrderedDict((rename(key), value) for key, value in state_dict.items())
    new._metadata = collections.OrderedDict(  # type: ignore[attr-defined]
        (rename(key + ".")[:-1], value) for key, value in getattr(state_dict, "_metadata", {}).items()
    )
    return new


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


# --- MnistNet, the six ways ---------------------------------------------------------------------------------

DEVICES = {"cuda0": "cuda:0", "cuda1": "cuda:1", "mps": "mps"}


def on_devices(name: str, form: str = ZIP, **options: Any) -> Callable[[Save], Save]:
    """``mnist.pt`` and ``mnist-cuda0.pt``, ``mnist-cuda1.pt``, ``mnist-mps.pt``."""

    def register(function: Save) -> Save:
        stem, dot, suffix = name.rpartition(".")
        saves(name, form, **options)(function)
        for label, device in DEVICES.items():
            saves(f"{stem}-{label}{dot}{suffix}", form, device=device, **options)(function)
        return function

    return register


def devices_of(device: str | None) -> tuple[str, ...]:
    return () if device is None else (device,)


@on_devices("mnist.pt")
@saves("mnist-legacy.pt", LEGACY, legacy=True)
def mnist_module(path: Path, device: str | None = None, legacy: bool = False) -> None:
    with tagged(*devices_of(device)):
        torch.save(MnistNet(), path, _use_new_zipfile_serialization=not legacy)


@on_devices("mnist_para.pth")
@saves("mnist_para-legacy.pth", LEGACY, legacy=True)
@saves("mnist_para-legacy-cuda0.pth", LEGACY, legacy=True, device="cuda:0")
def mnist_state_dict(path: Path, device: str | None = None, legacy: bool = False) -> None:
    with tagged(*devices_of(device)):
        torch.save(MnistNet().state_dict(), path, _use_new_zipfile_serialization=not legacy)


@on_devices("mnist-fresh.ckpt", steps=0)
@saves("mnist.ckpt")
@saves("mnist-groups.ckpt", groups=True)
@saves("mnist-named.ckpt", named=True)
def mnist_ckpt(
    path: Path, steps: int = 1, groups: bool = False, named: bool = False, device: str | None = None
) -> None:
    model = MnistNet()
    layers = ("conv1", "conv2", "fc1", "fc2")
    rates = [{"params": getattr(model, layer).parameters(), "lr": 1e-3 / 2**n} for n, layer in enumerate(layers)]
    parameters = model.named_parameters() if named else rates if groups else model.parameters()
    optimizer = trained(model, torch.optim.Adam(parameters, lr=1e-3), steps)
    checkpoint = {
        "epoch": 10,
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
    }
    with tagged(*devices_of(device)):
        torch.save(checkpoint, path)


@on_devices("tensor.t")
@saves("tensor-legacy.t", LEGACY, legacy=True)
def bare_tensor(path: Path, device: str | None = None, legacy: bool = False) -> None:
    with tagged(*devices_of(device)):
        torch.save(torch.ones(5, 5), path, _use_new_zipfile_serialization=not legacy)


def save_script(path: Path, module: Any, device: str | None = None, mobile: bool = False) -> None:
    """Save a TorchScript module; its device tags, attributes and literals rewritten where one is given."""
    save = module._save_for_lite_interpreter if mobile else module.save
    if device is None:
        save(str(path))
        return
    original = path.with_name(path.name + ".cpu")
    save(str(original))
    retag_script(original, path, device)
    original.unlink()


def retag_script(source: Path, target: Path, device: str) -> None:
    def edit(name: str, data: bytes) -> bytes:
        if name.endswith(".pkl"):
            return data.replace(byhand.opcodes("cpu"), byhand.opcodes(device))
        if name.endswith(".py"):
            return data.replace(b'torch.device("cpu")', f'torch.device("{device}")'.encode())
        return data

    byhand.repack(source, target, edit, root=target.stem)


def script(make: Callable[[], nn.Module]) -> Any:
    """``torch.jit.script`` of a new module.

    Torch knows its builtins by ``id()``, those of objects that are gone too, so now and then it takes a module's list for
    one. Another module then has other lists.
    """
    first = make()
    try:
        return torch.jit.script(first)
    except RuntimeError as error:
        if "builtin cannot be used as a value" not in str(error):
            raise
        return torch.jit.script(make())


@on_devices("traced_model.pt", SCRIPT)
def mnist_traced(path: Path, device: str | None = None) -> None:
    save_script(path, torch.jit.trace(MnistNet().eval(), example_input("mnist")), device)


@on_devices("scripted_model.pt", SCRIPT)
def mnist_scripted(path: Path, device: str | None = None) -> None:
    save_script(path, script(MnistNet), device)


@on_devices("frozen_model.pt", SCRIPT)
def mnist_frozen(path: Path, device: str | None = None) -> None:
    save_script(path, torch.jit.freeze(script(lambda: MnistNet().eval())), device)


@on_devices("mobile_model.ptl", SCRIPT)
def mnist_mobile(path: Path, device: str | None = None) -> None:
    save_script(path, script(MnistNet), device, mobile=True)


@saves("mnist.safetensors", SAFETENSORS)
def mnist_safetensors(path: Path) -> None:
    safetensors.torch.save_file(MnistNet().state_dict(), path)


# --- every other model, four ways: lenet-state_dict.pth lenet-module.pt lenet-legacy.pth lenet.safetensors --


def model_state_dict(path: Path, make: Callable[[], Any], legacy: bool = False) -> None:
    torch.save(make().state_dict(), path, _use_new_zipfile_serialization=not legacy)


def model_module(path: Path, make: Callable[[], Any]) -> None:
    torch.save(make(), path)


def model_safetensors(path: Path, make: Callable[[], Any]) -> None:
    """Tied tensors once, as ``save_model`` does: the dropped names go to ``__metadata__``."""
    safetensors.torch.save_model(make(), str(path))


for _name, _make in models():
    saves(f"{_name}-state_dict.pth", make=_make)(model_state_dict)
    saves(f"{_name}-legacy.pth", LEGACY, make=_make, legacy=True)(model_state_dict)
    if _name not in ("weight-norm", "discriminator"):  # torch refuses to pickle parametrized modules
        saves(f"{_name}-module.pt", make=_make)(model_module)
    if _name != "extra-state":  # safetensors holds tensors only
        saves(f"{_name}.safetensors", SAFETENSORS, make=_make)(model_safetensors)


# --- other whole modules ------------------------------------------------------------------------------------


@saves("compiled-module.pt")
def compiled_module(path: Path) -> None:
    """An OptimizedModule that was never run, so nothing is compiled."""
    torch.save(torch.compile(LeNet(10)), path)


@saves("dataparallel-module.pt")
def data_parallel_module(path: Path) -> None:
    torch.save(nn.DataParallel(LeNet(10)), path)


@saves("averaged-module.pt")
def averaged_module(path: Path) -> None:
    torch.save(torch.optim.swa_utils.AveragedModel(LeNet(10)), path)


@saves("vanished-module.pt")
def vanished_module(path: Path) -> None:
    """``{'epoch', 'model': a module of a class that cannot be imported, 'cfg'}``, like YOLO's files."""
    with vanished_modules():
        config = DictConfig(lr=0.1, names=["a", "b"])
        torch.save({"epoch": -1, "model": DetectionModel().half(), "ema": None, "cfg": config}, path)


@saves("module-in-dict.pt")
def module_in_dict(path: Path) -> None:
    model = LeNet(10)
    optimizer = trained(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    torch.save({"model": model, "optimizer": optimizer.state_dict(), "step": 5}, path)


@saves("modules-in-list.pt")
def modules_in_list(path: Path) -> None:
    torch.save([nn.Linear(2, 3), nn.ReLU(), nn.BatchNorm1d(3)], path)


@saves("lazy-module.pt", odd=True)
def lazy_module(path: Path) -> None:
    """Parameters that have no shape yet."""
    torch.save(nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2)), path)


@saves("quantized-state_dict.pth")
@saves("quantized-module.pt", odd=True, whole=True)
def quantized_dynamic(path: Path, whole: bool = False) -> None:
    """``_packed_params``: a tuple of tensors among the tensors; in a whole module, torchbind objects."""
    model = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 3)), dtype=torch.qint8)
    torch.save(model if whole else model.state_dict(), path)


@saves("object.pt", odd=True)
def foreign_object(path: Path) -> None:
    """Tensors as attributes of an object that is no module."""
    model = nn.Linear(2, 3)
    torch.save({"model": model.state_dict(), "ema": Shadow(model, 0.999)}, path)


# --- TorchScript beyond MnistNet ----------------------------------------------------------------------------


class DeviceModule(nn.Module):  # type: ignore[misc]
    """Devices in an attribute and in the code, besides the tags."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.home = torch.device("cpu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bias = torch.ones([3], device=torch.device("cpu"))
        return self.linear(x.to(self.home)) + bias


class HoldingModule(nn.Module):  # type: ignore[misc]
    """Buffers of both kinds, tensor attributes bare and in containers, ``gelu`` for a newer version."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3, bias=False))
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("mean", torch.rand(3))
        self.register_buffer("grid", torch.arange(3.0), persistent=False)
        self.offset = torch.rand(3)
        self.low = {"a": torch.rand(3)}
        self.anchors = [torch.rand(3), torch.rand(3)]
        self.label = "cpu"
        self.sizes = [1, 2, 3]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.layers(x)) + self.mean + self.grid + self.offset
        x = x + self.low["a"] + self.anchors[0] + len(self.label) + len(self.sizes)
        return torch.nn.functional.gelu(x)


class DtypeModule(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        for name, value in every_dtype(script=True).items():
            self.register_buffer(f"as_{name}", value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class ViewModule(nn.Module):  # type: ignore[misc]
    """Views of one storage, and one buffer under two names."""

    def __init__(self) -> None:
        super().__init__()
        base = torch.arange(24.0).reshape(4, 6)
        self.register_buffer("base", base)
        self.register_buffer("row", base[1])
        self.register_buffer("turned", base.t())
        self.register_buffer("wide", torch.zeros(1, 3).expand(4, 3))
        self.register_buffer("conj", torch.ones(2, dtype=torch.complex64).conj())
        self.register_buffer("sparse", torch.eye(3).to_sparse())
        self.one = nn.Linear(2, 2)
        self.two = nn.Linear(2, 2)
        self.two.weight = self.one.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.one(x))


@saves("devices-script.pt", SCRIPT, make=DeviceModule)
@saves("devices-script-cuda0.pt", SCRIPT, make=DeviceModule, device="cuda:0")
@saves("holding-script.pt", SCRIPT, make=HoldingModule)
@saves("dtypes-script.pt", SCRIPT, make=DtypeModule)
@saves("views-script.pt", SCRIPT, make=ViewModule)
@saves("sequential-script.pt", SCRIPT, make=lambda: nn.Sequential(nn.Linear(2, 3), nn.ReLU()))
@saves("cnn2-script.pt", SCRIPT, make=Cnn2)
@saves("gpt-script.pt", SCRIPT, make=lambda: Gpt(blocks=2))
@saves("named-lenet-script.pt", SCRIPT, make=NamedLeNet)
def scripted(path: Path, make: Callable[[], Any], device: str | None = None) -> None:
    save_script(path, script(make), device)


@saves("extra-files-script.pt", SCRIPT)
def scripted_with_extras(path: Path) -> None:
    extras = {"config.json": '{"classes": 10}', "labels/names.txt": "cat\ndog\n"}
    torch.jit.save(script(lambda: LeNet(10)), str(path), _extra_files=extras)


@saves("lstm-traced.pt", SCRIPT, model="lstm")
@saves("cnn1-traced.pt", SCRIPT, model="cnn1")
@saves("gpt-traced.pt", SCRIPT, model="gpt")
def traced(path: Path, model: str) -> None:
    torch.jit.trace(MODELS[model]().eval(), example_input(model)).save(str(path))


@saves("frozen-norms.pt", SCRIPT)
def frozen_with_norm(path: Path) -> None:
    torch.jit.freeze(torch.jit.trace(Cnn1().eval(), example_input("cnn1"))).save(str(path))


@saves("function-script.pt", SCRIPT)
def scripted_function(path: Path) -> None:
    """Not a module: saved as class ``PlaceholderModule``, with no tensors."""
    torch.jit.trace(lambda x: x * 2, torch.ones(2)).save(str(path))


# --- layouts of dictionaries --------------------------------------------------------------------------------


def small() -> Any:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(4, 3))


def small_state() -> Any:
    return small().state_dict()


for _key in ("state_dict", "model", "net", "ema", "params_ema", "teacher"):
    saves(f"nested-{_key}.pth", keys=(_key,))(
        lambda path, keys: torch.save({key: small_state() for key in keys} | {"epoch": 3}, path)
    )


@saves("nested-several.pth")
def nested_several(path: Path) -> None:
    parts = {key: small_state() for key in ("model", "ema", "teacher")}
    torch.save({**parts, "best": 0.93, "tags": ["a", "b"], "history": {"loss": [1.0, 0.5]}}, path)


@saves("nested-deep.pth")
def nested_deep(path: Path) -> None:
    """Dicts of dicts of state_dicts; one state_dict object held under two names."""
    shared = small_state()
    agents = {"left": {"actor": shared, "critic": small_state()}, "right": {"actor": shared}}
    torch.save({"agents": agents, "round": 7}, path)


@saves("gan.pth")
def gan(path: Path) -> None:
    generator, discriminator = Generator(), Discriminator()
    checkpoint = {
        "generator": generator.state_dict(),
        "discriminator": discriminator.state_dict(),
        "optimizer_G": trained(generator, torch.optim.Adam(generator.parameters())).state_dict(),
        "optimizer_D": trained(discriminator, torch.optim.Adam(discriminator.parameters())).state_dict(),
        "fixed_noise": torch.randn(4, 8, 1, 1),
        "step": 1000,
    }
    torch.save(checkpoint, path)


@saves("rl.pth")
def reinforcement(path: Path) -> None:
    checkpoint = {
        "actors": [small_state(), small_state()],
        "critics": (small_state(), small_state()),
        "alphas": [torch.tensor(0.1), torch.tensor(0.2)],
        "rewards": [1.0, 2.0],
    }
    torch.save(checkpoint, path)


@saves("list.pth", make=lambda: [small_state(), small_state()])
@saves("tuple.pth", make=lambda: (small_state(), {"epoch": 1}, torch.ones(2)))
@saves("tensors.pth", make=lambda: [torch.ones(2), torch.zeros(3, 1), torch.tensor(1)])
@saves("empty-dict.pth", make=dict)
@saves("empty-list.pth", make=list)
@saves("empty-state_dict.pth", make=lambda: nn.Sequential(nn.ReLU(), nn.Dropout()).state_dict())
@saves("empty-nested.pth", make=lambda: {"model": nn.ReLU().state_dict(), "epoch": 0})
@saves("none.pth", make=lambda: None)
@saves("number.pth", make=lambda: 3.5)
@saves("legacy-list.pth", LEGACY, make=lambda: [small_state()], legacy=True)
@saves("legacy-empty.pth", LEGACY, make=dict, legacy=True)
def plain(path: Path, make: Callable[[], Any], legacy: bool = False) -> None:
    torch.save(make(), path, _use_new_zipfile_serialization=not legacy)


class Mode(enum.Enum):
    TRAIN = "train"


Point = collections.namedtuple("Point", "x y")


@saves("values.pth")
@saves("values-legacy.pth", LEGACY, legacy=True)
def plain_values(path: Path, legacy: bool = False) -> None:
    """A value of every sort that people put beside their weights."""
    values = {
        "weight": torch.ones(2),
        "none": None,
        "true": True,
        "int": -7,
        "big": 2**70,
        "float": 0.1,
        "nan": float("nan"),
        "inf": float("-inf"),
        "complex": 1 + 2j,
        "str": "naïve\n\x1b[31m\u202e",
        "bytes": b"\x00\xff",
        "bytearray": bytearray(b"ab"),
        "set": {1, 2, 3},
        "frozenset": frozenset([4]),
        "list": [1, "two", None],
        "tuple": (1, 2),
        "range": range(3),
        "slice": slice(1, 2),
        "dict": {"a": {"b": 1}},
        "ordered": collections.OrderedDict(a=1),
        "default": collections.defaultdict(list, a=[1]),
        "counter": collections.Counter("aab"),
        "point": Point(1, 2),
        "size": torch.Size([2, 3]),
        "device": torch.device("cuda", 0),
        "dtype": torch.float16,
        "layout": torch.strided,
        "np_float64": np.float64(0.5),
        "np_int64": np.int64(3),
        "np_array": np.arange(6, dtype=np.float32).reshape(2, 3),
        "np_strings": np.array(["a", "bc"]),
        "np_objects": np.array([1, "x", None], dtype=object),
        "np_dtype": np.dtype("float16"),
        "path": pathlib.PurePosixPath("/data/x") if os.name == "nt" else pathlib.PosixPath("/data/x"),
        "datetime": datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.UTC),
        "delta": datetime.timedelta(hours=1),
        "decimal": decimal.Decimal("1.10"),
        "namespace": argparse.Namespace(lr=0.1, layers=[1, 2]),
        "enum": Mode.TRAIN,
        "function": operator.add,
        "class": collections.OrderedDict,
        "partial": functools.partial(int, base=2),
        "method": "abc".upper,
    }
    torch.save(values, path, _use_new_zipfile_serialization=not legacy)


@saves("storages.pth", odd=True)
def bare_storages(path: Path) -> None:
    """Storages saved directly: no tensor, only a persistent id."""
    torch.save({"typed": torch.FloatStorage([1.0, 2.0]), "untyped": torch.UntypedStorage(4).fill_(7)}, path)


@saves("keys.pth")
def odd_keys(path: Path) -> None:
    plain = ["a/b", "a~b", "#x", "", " ", "a b", ".", "..", ".a", "a..b"]
    foreign = ["ключ", "重み", "\ud800", "\x1b[0m", "a\nb"]
    state = {key: torch.full((2,), float(n)) for n, key in enumerate(plain + foreign)}
    torch.save(collections.OrderedDict(state), path)


@saves("keys-nested.pth")
def odd_section_keys(path: Path) -> None:
    state = {key: small_state() for key in ("a/b", "a~1b", "")}
    torch.save(state | {"c#d": {"e/f": small_state()}}, path)


@saves("keys-any.pth")
@saves("keys-any-legacy.pth", LEGACY, legacy=True)
def keys_of_any_type(path: Path, legacy: bool = False) -> None:
    """Keys that are no strings beside strings that read the same, and one of each without a twin."""
    keys = [0, "0", None, "None", True, "True", (1, 2), "(1, 2)", 7, 2.5, -3, b"b", (3, "x")]
    tensors = {key: torch.full((2,), float(n)) for n, key in enumerate(keys)}
    torch.save(tensors, path, _use_new_zipfile_serialization=not legacy)


@saves("keys-int.pth")
def int_keys(path: Path) -> None:
    torch.save({"folds": {0: small_state(), 1: small_state()}, "none": {None: small_state()}}, path)


@saves("keys-duplicate.pth", odd=True)
def duplicate_key(path: Path) -> None:
    """A key twice in one dict: torch keeps the last."""
    one, two = (byhand.tensor(byhand.storage(key, 2), (2,), (1,)) for key in "01")
    value = Pairs([("weight", one), ("bias", two), ("weight", two)])
    byhand.write_zip(path, value, {"0": floats(1, 2), "1": floats(3, 4)})


# --- wrappers and training frameworks -----------------------------------------------------------------------


def inside_layers(segment: str) -> Callable[[str], str]:
    """Put a segment after each ``layerN``."""
    return lambda key: re.sub(r"^(layer\d+)\.", rf"\1.{segment}.", key)


def prefixed(prefix: str) -> Callable[[str], str]:
    return lambda key: prefix + key


WRAPPERS: dict[str, Callable[[str], str]] = {
    "dataparallel": prefixed("module."),
    "dataparallel-twice": prefixed("module.module."),
    "compiled": prefixed("_orig_mod."),
    "compiled-in-ddp": prefixed("module._orig_mod."),
    "ddp-in-compiled": prefixed("_orig_mod.module."),
    "lightning-compiled": prefixed("model._orig_mod."),
    "fabric": prefixed("_forward_module."),
    "fsdp": lambda key: "_fsdp_wrapped_module." + inside_layers("_fsdp_wrapped_module")(key),
    "checkpointed": inside_layers("_checkpoint_wrapped_module"),
    "fsdp-checkpointed": inside_layers("_fsdp_wrapped_module._checkpoint_wrapped_module"),
    "partly": lambda key: key if key.startswith("layer3") else "module." + key,
    "module-inside": lambda key: key.replace("layer2.", "layer2.mlp_module.module."),
}

for _name, _rename in WRAPPERS.items():
    saves(f"wrapped-{_name}.pth", rename=_rename)(
        lambda path, rename: torch.save(renamed(NamedLeNet().state_dict(), rename), path)
    )


@saves("averaged.pth")
@saves("averaged-ddp.pth", parallel=True)
def averaged(path: Path, parallel: bool = False) -> None:
    """``n_averaged`` and ``module.``; around DataParallel ``module.module.``."""
    model = nn.DataParallel(LeNet(10)) if parallel else LeNet(10)
    ema = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99), use_buffers=True
    )
    ema.update_parameters(model)
    torch.save({"model": model.state_dict(), "ema": ema.state_dict()}, path)


@saves("cnn3.ckpt")
def cnn3_ckpt(path: Path, frozen: tuple[str, ...] = ()) -> None:
    """The run of the design's sketch: nested DataParallel, Adam after one step."""
    model = cnn3()
    for name, p in model.named_parameters():
        p.requires_grad_(not name.removeprefix("module.").startswith(frozen or ("-",)))
    optimizer = trained(model, torch.optim.Adam(model.parameters(), lr=1e-3))
    checkpoint = {
        "epoch": 10,
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
    }
    torch.save(checkpoint, path)


@saves("lightning.ckpt")
@saves("lightning-weights.ckpt", weights_only=True)
def lightning(path: Path, weights_only: bool = False) -> None:
    """Every key that Lightning writes, and what its users add."""

    def loop() -> dict[str, Any]:
        progress = {"total": {"ready": 8, "completed": 8}, "current": {"ready": 4, "completed": 4}}
        return {"state_dict": {}, "epoch_loop.batch_progress": progress, "epoch_progress": progress}

    model = nn.ModuleDict({"backbone": small(), "head": nn.Linear(3, 2)})
    optimizer = trained(model, torch.optim.AdamW(model.parameters(), lr=1e-3), 2)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10)
    monitor = "ModelCheckpoint{'monitor': 'val/loss', 'mode': 'min', 'every_n_train_steps': 0}"
    checkpoint: dict[str, Any] = {
        "epoch": 4,
        "global_step": 128,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": renamed(model.state_dict(), prefixed("model.")),
        "loops": {f"{name}_loop": loop() for name in ("fit", "validate", "test", "predict")},
    }
    if not weights_only:
        checkpoint |= {
            "callbacks": {
                monitor: {
                    "monitor": "val/loss",
                    "best_model_score": torch.tensor(0.25),
                    "best_k_models": {"/runs/epoch=3.ckpt": torch.tensor(0.25)},
                    "dirpath": "/runs",
                },
                "EarlyStopping{'monitor': 'val/loss'}": {"wait_count": 1, "best_score": torch.tensor(0.25)},
                "WeightAveraging": {"averages": small_state()},
            },
            "optimizer_states": [optimizer.state_dict()],
            "lr_schedulers": [scheduler.state_dict()],
            "MixedPrecision": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 3},
            "native_amp_scaling_state": {"scale": 65536.0},
        }
    checkpoint |= {
        "hparams_name": "hparams",
        "hyper_parameters": {
            "lr": 1e-3,
            "args": argparse.Namespace(depth=3, root=pathlib.PurePosixPath("/")),
        },
        "datamodule_hparams_name": "kwargs",
        "datamodule_hyper_parameters": {"batch_size": 32},
        "MnistDataModule": {"seen": 4096},
        "rng_states": {"torch": torch.get_rng_state()},
    }
    torch.save(checkpoint, path)


@saves("deepspeed.pt")
def deepspeed(path: Path) -> None:
    """``mp_rank_00_model_states.pt`` of ZeRO stage 1."""
    state = small_state()
    shapes = [collections.OrderedDict((name, value.shape) for name, value in state.items())]
    checkpoint = {
        "module": state,
        "buffer_names": ["1.running_mean", "1.running_var", "1.num_batches_tracked"],
        "optimizer": None,
        "param_shapes": shapes,
        "frozen_param_shapes": None,
        "lr_scheduler": {"last_batch_iteration": 9},
        "skipped_steps": 0,
        "global_steps": 10,
        "dp_world_size": 2,
        "ds_config": {"zero_optimization": {"stage": 1}},
        "ds_version": "0.14.0",
    }
    torch.save(checkpoint, path)


@saves("deepspeed-optim.pt")
def deepspeed_optimizer(path: Path) -> None:
    flat = torch.rand(50)
    states = {
        "loss_scaler": None,
        "zero_stage": 1,
        "partition_count": [2],
        "base_optimizer_state": {"state": {0: {"step": 3, "exp_avg": torch.rand(50)}}, "param_groups": [{}]},
        "single_partition_of_fp32_groups": [flat],
    }
    torch.save({"optimizer_state_dict": states, "ds_version": "0.14.0"}, path)


# --- optimizers ---------------------------------------------------------------------------------------------


def decay_groups(model: Any) -> list[dict[str, Any]]:
    """Weights decay, biases and norms do not: the groups reorder the parameters."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]


OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
    "sgd-momentum": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
    "adamw-groups": lambda model: torch.optim.AdamW(decay_groups(model), lr=0.1),
    "adam-amsgrad": lambda model: torch.optim.Adam(model.parameters(), lr=torch.tensor(0.1), amsgrad=True),
    "adafactor": lambda model: torch.optim.Adafactor(model.parameters()),
    "lbfgs": lambda model: torch.optim.LBFGS(model.parameters()),
    "rmsprop": lambda model: torch.optim.RMSprop(model.parameters(), centered=True),
    "named": lambda model: torch.optim.Adam(model.named_parameters()),
}


def step(model: Any, optimizer: Any) -> Any:
    """One step on random gradients, by closure where the optimizer wants one."""
    if isinstance(optimizer, torch.optim.LBFGS):

        def closure() -> Any:
            optimizer.zero_grad()
            loss = sum(p.square().sum() for p in model.parameters())
            loss.backward()
            return loss

        optimizer.step(closure)
        return optimizer
    return trained(model, optimizer)


for _name, _make in OPTIMIZERS.items():

    def _optimizer(path: Path, make: Callable[[Any], Any]) -> None:
        model = small()
        optimizer = step(model, make(model))
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)

    saves(f"optimizer-{_name}.pth", make=_make)(_optimizer)


@saves("optimizer-only.pth")
@saves("optimizer-object.pth", odd=True, whole=True)
def optimizer_alone(path: Path, whole: bool = False) -> None:
    """As state_dict, or the object itself, whose state is keyed by the parameters."""
    model = nn.Linear(3, 2)
    optimizer = trained(model, torch.optim.Adam(model.parameters()))
    torch.save(optimizer if whole else optimizer.state_dict(), path)


@saves("optimizer-object-beside.pth", odd=True)
def optimizer_object_beside(path: Path) -> None:
    model = nn.Linear(3, 2)
    optimizer = trained(model, torch.optim.SGD(model.parameters(), 0.1, 0.9))
    torch.save({"model": model, "optimizer": optimizer}, path)


@saves("optimizer-fsdp.pth")
def optimizer_by_name(path: Path) -> None:
    """FSDP's full optimizer state: keyed by name instead of number."""
    model = small()
    saved = trained(model, torch.optim.Adam(model.parameters())).state_dict()
    named = [name for name, _ in model.named_parameters()]
    state = {named[n]: entry for n, entry in saved["state"].items()}
    groups = [group | {"params": [named[n] for n in group["params"]]} for group in saved["param_groups"]]
    torch.save({"model": model.state_dict(), "optim": {"state": state, "param_groups": groups}}, path)


# --- dtypes -------------------------------------------------------------------------------------------------

# fmt: off
DTYPES = [
    "float64", "float32", "float16", "bfloat16", "complex128", "complex64", "complex32", "int64", "int32",
    "int16", "int8", "uint8", "bool", "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2",
    "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn_x2", "bits8", "bits16",
    "bits1x8", "bits2x4", "bits4x2",
]
# fmt: on
QUANTIZED = ["qint8", "quint8", "qint32", "quint4x2", "quint2x4"]


def of_dtype(name: str) -> Any:
    """Eight elements of a plain dtype, their bytes counting up so that byte order shows."""
    dtype = getattr(torch, name)
    if name == "bool":
        return torch.tensor([True, False] * 4)
    if dtype.is_floating_point and dtype.itemsize > 1:
        return torch.arange(8.0).to(dtype) / 2
    return torch.arange(1, 1 + 8 * dtype.itemsize, dtype=torch.uint8).view(dtype)


def quantized(name: str) -> Any:
    dtype = getattr(torch, name)
    if name in ("quint4x2", "quint2x4"):
        scales, zeros = torch.full((2,), 0.5), torch.zeros(2)
        return torch.quantize_per_channel(torch.arange(8.0).reshape(2, 4) / 4, scales, zeros, 0, dtype)
    return torch.quantize_per_tensor(torch.arange(8.0), 0.5, 2, dtype)


NOT_IN_SCRIPT = {"bits16", "bits1x8", "bits2x4", "bits4x2", "quint8", "qint32", "quint4x2", "quint2x4"}


def every_dtype(script: bool = False) -> dict[str, Any]:
    """One tensor of each dtype that torch can save and load, named for its dtype."""
    skipped = NOT_IN_SCRIPT if script else set()
    made = {name: of_dtype(name) for name in DTYPES} | {name: quantized(name) for name in QUANTIZED}
    return {name: value for name, value in made.items() if name not in skipped}


@saves("dtypes.pth")
def dtypes(path: Path) -> None:
    torch.save(every_dtype(), path)


@saves("dtypes-legacy.pth", LEGACY)
def legacy_dtypes(path: Path) -> None:
    """Only those torch can read back from the old stream."""
    loadable = set(DTYPES[:6] + DTYPES[7:13] + QUANTIZED)
    tensors = {name: value for name, value in every_dtype().items() if name in loadable}
    torch.save(tensors, path, _use_new_zipfile_serialization=False)


SAFE_DTYPES = [*DTYPES[:4], "complex64", *DTYPES[7:22]]


@saves("dtypes.safetensors", SAFETENSORS)
def safetensors_dtypes(path: Path) -> None:
    safetensors.torch.save_file({name: of_dtype(name) for name in SAFE_DTYPES}, path)


def write_safetensors(path: Path, entries: dict[str, Any], data: bytes, pad: bool = True) -> None:
    """A safetensors file by hand, the header in the order given."""
    header = json.dumps(entries, ensure_ascii=False).encode("utf-8")
    header += b" " * (-len(header) % 8 if pad else 0)
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


@saves("handmade.safetensors", SAFETENSORS)
def safetensors_by_hand(path: Path) -> None:
    """Header order unlike data order, metadata, scalars, empty tensors, odd names, nothing aligned."""
    entries = {
        "__metadata__": {"format": "pt", "note": "by hand"},
        "z.weight": {"dtype": "F32", "shape": [2], "data_offsets": [3, 11]},
        "a/b": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
        "scalar": {"dtype": "F64", "shape": [], "data_offsets": [11, 19]},
        "empty": {"dtype": "I64", "shape": [0, 4], "data_offsets": [19, 19]},
        "вес": {"dtype": "BF16", "shape": [1, 1], "data_offsets": [19, 21]},
    }
    write_safetensors(path, entries, bytes(range(21)), pad=False)


@saves("subbyte.safetensors", SAFETENSORS, odd=True)
def safetensors_subbyte(path: Path) -> None:
    """Codes torch has no dtype for."""
    entries = {
        "six": {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [0, 3]},
        "four": {"dtype": "F4", "shape": [2, 4], "data_offsets": [3, 7]},
    }
    write_safetensors(path, entries, bytes(range(8))[:7])


@saves("empty.safetensors", SAFETENSORS, tensors={})
@saves("metadata.safetensors", SAFETENSORS, tensors={"w": (2, 2)}, metadata={"format": "pt", "epoch": "3"})
@saves("order.safetensors", SAFETENSORS, tensors={"b.weight": (2, 2), "a.weight": (1,), "a.x": (0,), "c": ()})
def safetensors_plain(path: Path, tensors: dict[str, tuple[int, ...]], metadata: dict[str, str] | None = None) -> None:
    safetensors.torch.save_file({name: torch.rand(shape) for name, shape in tensors.items()}, path, metadata)


# --- tensor forms -------------------------------------------------------------------------------------------


# fmt: off
FORMS = [
    "contiguous", "base", "row", "column", "slice", "stepped", "transposed", "expanded", "huge",
    "strided", "overlapping", "channels_last", "conj", "neg", "real", "words", "bytes", "coo",
    "coo_uncoalesced", "csr", "csc", "bsr", "bsc", "per_tensor", "per_channel", "nested", "jagged",
    "meta", "parameter", "frozen", "grad", "attributed", "marked", "tagged", "two", "empty", "empty_dims",
    "scalar", "tied", "tied_too", "tied_alias", "tied_not", "left", "right", "oversized",
]
# fmt: on


def forms() -> dict[str, Any]:
    """One tensor of each of ``FORMS``."""
    base = torch.arange(24.0).reshape(4, 6)
    wave = torch.view_as_complex(torch.arange(12.0).reshape(6, 2))
    words = torch.arange(6, dtype=torch.int16).view(torch.uint16).reshape(2, 3)
    attributed = nn.Parameter(torch.ones(2))
    attributed.label, attributed.tensor_model_parallel = "w", True
    marked = torch.ones(2)
    marked.note = "plain tensor with an attribute"
    tagged_tensor = torch.ones(2).as_subclass(TaggedTensor)
    tagged_tensor.canvas = (4, 4)
    table = torch.randint(0, 9, (4, 6)) * (torch.rand(4, 6) < 0.4)
    blocks = torch.eye(4).repeat(1, 2)
    tied = torch.rand(3)
    pair = torch.rand(2, 5)
    ragged = [torch.ones(2, 3), torch.ones(4, 3)]
    scales, zeros = torch.tensor([0.1, 0.2]), torch.tensor([0, 1])
    made = {
        "contiguous": base.clone(),
        "base": base,
        "row": base[1],
        "column": base[:, 2],
        "slice": base[1:3, 2:5],
        "stepped": base[::2, ::3],
        "transposed": base.t(),
        "expanded": torch.ones(1, 3).expand(1000, 3),
        "huge": torch.ones(1).expand(2**40),
        "strided": base.as_strided((2, 2), (7, 1), 3),
        "overlapping": base.as_strided((3, 4), (1, 1)),
        "channels_last": torch.rand(1, 2, 3, 3).contiguous(memory_format=torch.channels_last),
        "conj": wave.conj(),
        "neg": wave.clone().conj().imag,
        "real": wave.clone().real,
        "words": words,
        "bytes": words.view(torch.uint8)[:, :4],
        "coo": table.float().to_sparse(),
        "coo_uncoalesced": torch.sparse_coo_tensor([[0, 0, 1]], [1.0, 2.0, 3.0], (3,)),
        "csr": table.float().to_sparse_csr(),
        "csc": table.float().to_sparse_csc(),
        "bsr": blocks.to_sparse_bsr((2, 2)),
        "bsc": blocks.to_sparse_bsc((2, 2)),
        "per_tensor": torch.quantize_per_tensor(base, 0.1, 3, torch.quint8),
        "per_channel": torch.quantize_per_channel(base[:2], scales, zeros, 0, torch.qint8),
        "nested": torch.nested.nested_tensor(ragged),
        "jagged": torch.nested.nested_tensor(ragged, layout=torch.jagged),
        "meta": torch.empty(3, 4, device="meta"),
        "parameter": nn.Parameter(torch.ones(2)),
        "frozen": nn.Parameter(torch.ones(2), requires_grad=False),
        "grad": torch.ones(2, requires_grad=True),
        "attributed": attributed,
        "marked": marked,
        "tagged": tagged_tensor,
        "two": TwoTensor(torch.ones(2, 3), torch.zeros(2, 3)),
        "empty": torch.empty(0),
        "empty_dims": torch.empty(3, 0, 2),
        "scalar": torch.tensor(2.5),
        "tied": tied,
        "tied_too": tied,
        "tied_alias": tied.view(3),
        "tied_not": tied.view(1, 3),
        "left": pair[0],
        "right": pair[1],
        "oversized": torch.arange(1000.0)[10:12],
    }
    return {name: made[name] for name in FORMS}


@saves("forms.pth")
def tensor_forms(path: Path) -> None:
    torch.save(forms(), path)


for _name in FORMS:

    def _one_form(path: Path, only: str) -> None:
        torch.save({only: forms()[only]}, path)

    saves(f"form-{_name}.pth", only=_name)(_one_form)


@saves("forms-legacy.pth", LEGACY)
def legacy_forms(path: Path) -> None:
    """All that torch can read back: no ``uint16``, nothing whose sizes are needed before the data is read."""
    unreadable = ("words", "bytes", "nested", "per_channel")
    loadable = {name: value for name, value in forms().items() if name not in unreadable}
    torch.save(loadable, path, _use_new_zipfile_serialization=False)


@saves("tied.pth")
@saves("tied-legacy.pth", LEGACY, legacy=True)
def tied_tensors(path: Path, legacy: bool = False) -> None:
    """Tied, neighbouring and oversized; then the tie again in another section."""
    table = torch.rand(6, 4)
    model = collections.OrderedDict(
        [("emb.weight", table), ("head.weight", table), ("q", table[:3]), ("k", table[3:]), ("t", table.t())]
    )
    ema = collections.OrderedDict([("emb.weight", table)])
    state = {"model": model, "ema": ema, "slice": torch.rand(500)[:5]}
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)


def on_device_from_numpy(kind: str, device: str) -> Call:
    """What XLA tensors became before they went through CPU tensors: bytes inside the pickle."""
    array = byhand.dump(np.arange(6, dtype=np.float32).reshape(2, 3), 2)[2:-1]
    return Call(Global("torch._utils", kind), (Raw(array), Global("torch", "float32"), device, False))


@saves("form-device_from_numpy.pth", kind="_rebuild_device_tensor_from_numpy", device="cpu")
@saves("form-device_from_numpy-xla.pth", kind="_rebuild_device_tensor_from_numpy", device="xla:0")
@saves("form-xla.pth", kind="_rebuild_xla_tensor", device="xla:1")
def device_from_numpy(path: Path, kind: str, device: str) -> None:
    byhand.write_zip(path, {"weight": on_device_from_numpy(kind, device)}, {})


@saves("form-device_from_cpu.pth")
def device_from_cpu(path: Path) -> None:
    inner = byhand.tensor(byhand.storage("0", 6), (2, 3), (3, 1))
    made = Call(
        Global("torch._utils", "_rebuild_device_tensor_from_cpu_tensor"),
        (inner, Global("torch", "float32"), "xla:0", True),
    )
    byhand.write_zip(path, {"weight": made}, {"0": floats(*range(6))})


def ancient_tensors() -> dict[str, Any]:
    """Forms of the years before ``_rebuild_tensor_v2``; storage "0" holds six floats, "1" two."""
    zero, one = byhand.storage("0", 6), byhand.storage("1", 2, "cpu", Global("torch.cuda", "FloatStorage"))
    inner = byhand.tensor(one, (2,), (1,))
    args = (zero, 0, (2, 3), (3, 1))
    return {
        "v1": Call(Global("torch._utils", "_rebuild_tensor"), args),
        "built": Call(Global("torch", "FloatTensor"), (), (zero, 2, (2, 2), (2, 1)), new=True),
        "parameter": Call(Global("torch._utils", "_rebuild_parameter"), (inner, True, ORDERED_DICT)),
        "old_parameter": Call(
            Global("torch.nn.parameter", "Parameter"), (inner, False), (True, False, ORDERED_DICT), new=True
        ),
        "python2": byhand.python2("ascii"),
    }


@saves("ancient.pth")
def ancient(path: Path) -> None:
    byhand.write_zip(path, ancient_tensors(), {"0": floats(*range(6)), "1": floats(7, 8)})


@saves("ancient-legacy.pth", LEGACY)
def ancient_legacy(path: Path) -> None:
    def with_view(value: Any) -> Any:
        match value:
            case Pid(("storage", *rest)):
                return Pid(("storage", *rest, None))
            case Call(callee, args, state, new):
                return Call(callee, tuple(map(with_view, args)), with_view(state), new)
            case tuple() if type(value) is tuple:
                return tuple(map(with_view, value))
        return value

    value = {key: with_view(tensor) for key, tensor in ancient_tensors().items()}
    byhand.write_legacy(path, value, {"0": (6, floats(*range(6))), "1": (2, floats(7, 8))})


@saves("legacy-views.pth", LEGACY, odd=True)
def legacy_views(path: Path) -> None:
    """Storages that are windows on another storage (view metadata), as 0.1.9 wrote."""
    whole = byhand.storage("100", 6, "cpu", FLOAT_STORAGE, None)
    window = byhand.storage("100", 6, "cpu", FLOAT_STORAGE, ("101", 2, 3))
    value = {"whole": byhand.tensor(whole, (6,), (1,)), "window": byhand.tensor(window, (3,), (1,))}
    byhand.write_legacy(path, value, {"100": (6, floats(*range(6)))})


@saves("fake-cuda.pth")
def fake_cuda(path: Path) -> None:
    """Fake tensors under skip_data: a hole where the bytes belong, tags of a device never seen."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        state = {"weight": torch.empty(64, 8, device="cuda:1"), "bias": torch.empty(64)}
    with torch.serialization.skip_data(materialize_fake_tensors=True):
        torch.save(state, path)


@saves("mixed-devices.pth")
@saves("mixed-devices-legacy.pth", LEGACY, legacy=True)
def mixed_devices(path: Path, legacy: bool = False) -> None:
    """Storages spread over ``cuda:0``, ``cpu`` and ``mps``; a module and a device object among them."""
    with tagged("cuda:0", "cpu", "mps"):
        value = {"model": NamedLeNet(), "ema": small_state(), "device": torch.device("cuda:0"), "name": "cpu"}
        torch.save(value, path, _use_new_zipfile_serialization=not legacy)


@contextmanager
def single_process_group() -> Iterator[None]:
    import torch.distributed as dist

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


@saves("ddp-module.pt", odd=True)
def ddp_module(path: Path) -> None:
    """Torch itself needs a process group to open it."""
    with single_process_group():
        torch.save(nn.parallel.DistributedDataParallel(LeNet(10)), path)


@saves("dtensor.pth", odd=True)
def dtensor(path: Path) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_tensor

    with single_process_group():
        mesh = init_device_mesh("cpu", (1,))
        torch.save({"weight": distribute_tensor(torch.rand(4, 3), mesh), "bias": torch.rand(4)}, path)


# --- the zip container --------------------------------------------------------------------------------------


def container(path: Path) -> Path:
    """A plain archive to be rewritten: two dtypes, a view, an epoch."""
    table = torch.arange(12.0).reshape(3, 4)
    count = torch.tensor([1, 2**40])
    state = {"model": small_state(), "table": table, "row": table[1], "count": count, "epoch": 3}
    original = path.with_name(path.name + ".original")
    torch.save(state, original)
    return original


def rewrite(path: Path, edit: Any = lambda name, data: data, **options: Any) -> None:
    original = container(path)
    byhand.repack(original, path, edit, **options)
    original.unlink()


def without_optional(name: str, data: bytes) -> bytes | None:
    return data if name in ("data.pkl", "version") or name.startswith("data/") else None


@saves("zip-plain.pth")
@saves("zip-deflated.pth", method=zipfile.ZIP_DEFLATED)
@saves("zip-root.pth", root="odd root (1) – копия")
@saves("zip-minimal.pth", edit=without_optional)
@saves("zip-extra.pth", edit=lambda name, data: data + b"\n" if name == ".data/serialization_id" else data)
def zip_variant(path: Path, **options: Any) -> None:
    rewrite(path, **options)


@saves("zip-no-crc.pth")
def zip_without_crc(path: Path) -> None:
    computed = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"model": small_state()}, path)
    finally:
        torch.serialization.set_crc32_options(computed)


@saves("zip-aligned.pth")
def zip_aligned(path: Path) -> None:
    with torch.utils.serialization.config.patch("save.storage_alignment", 4096):
        torch.save({"model": small_state()}, path)


@saves("zip-buffer.pth")
def zip_from_file_object(path: Path) -> None:
    """Saved through a file object, so its root is ``archive``."""
    with path.open("wb") as f:
        torch.save(small_state(), f)


@saves("zip-spare-record.pth")
def zip_spare_record(path: Path) -> None:
    """A record that torch ignores, inside the root."""
    original = container(path)
    byhand.repack(original, path)
    original.unlink()
    with zipfile.ZipFile(path, "a") as archive:
        root = archive.namelist()[0].partition("/")[0]
        archive.writestr(zipfile.ZipInfo(f"{root}/extra/readme.txt"), b"torch does not look here")


@saves("zip-big-endian.pth")
def zip_big_endian(path: Path) -> None:
    """Storages byte-swapped by element, ``byteorder`` says so."""
    kinds = ["f4", "i8", "f2", "f8", "u1", "c8"]
    arrays: list[Any] = [np.arange(1, 5).astype("<" + kind) for kind in kinds]
    original = path.with_name(path.name + ".original")
    torch.save({kind: torch.from_numpy(array) for kind, array in zip(kinds, arrays, strict=True)}, original)

    def edit(name: str, data: bytes) -> bytes:
        if name.startswith("data/"):
            kind = kinds[int(name.removeprefix("data/"))]
            return bytes(np.frombuffer(data, "<" + kind).astype(">" + kind).tobytes())
        return b"big" if name == "byteorder" else data

    byhand.repack(original, path, edit)
    original.unlink()


for _protocol in range(6):

    def _save_protocol(path: Path, protocol: int, legacy: bool = False) -> None:
        value = {"model": small_state(), "note": "naïve", "data": b"\xff", "big": 2**40, "flags": {1, 2}}
        torch.save(value, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)

    # A text persistent id cannot be read back: torch writes protocol 0 and refuses it.
    saves(f"protocol-{_protocol}.pth", odd=_protocol == 0, protocol=_protocol)(_save_protocol)
    saves(f"protocol-{_protocol}-legacy.pth", LEGACY, odd=_protocol == 0, protocol=_protocol, legacy=True)(
        _save_protocol
    )


# --- older and plainer containers ---------------------------------------------------------------------------


@saves("tar2017.pth.tar", TAR)
@saves("tar-views.pth.tar", TAR, odd=True, windows=True)
def tar_2017(path: Path, windows: bool = False) -> None:
    """Two tensors on one storage, one of them turned; with windows, a storage that is part of another."""
    storages = [
        byhand.TarStorage(11, "cpu", "FloatStorage", 6, floats(*range(6))),
        byhand.TarStorage(12, "cuda:0", "LongStorage", 2, struct.pack("<2q", 5, 6)),
    ]
    tensors = [
        byhand.TarTensor(21, 11, "FloatTensor", (2, 3), (3, 1)),
        byhand.TarTensor(22, 11, "FloatTensor", (3, 2), (1, 3)),
        byhand.TarTensor(23, 12, "LongTensor", (1,), (1,), 1),
        *([byhand.TarTensor(24, 13, "FloatTensor", (2,), (1,))] if windows else []),
    ]
    ids = {"conv.weight": "21", "conv.turned": "22", "count": "23"} | ({"window": "24"} if windows else {})
    state = Pairs([(byhand.python2(key), Pid(number)) for key, number in ids.items()])
    value = {"epoch": 3, "arch": "alexnet", "state_dict": state, "best_prec1": 56.5}
    byhand.write_tar(path, value, storages, tensors, [(13, 11, 2, 3)] if windows else [])


@saves("pickle-2.pkl", PICKLE, protocol=2)
@saves("pickle-4.pkl", PICKLE, protocol=4)
@saves("pickle-5.pkl", PICKLE, protocol=5)
def plain_pickle(path: Path, protocol: int) -> None:
    """``pickle.dump``: each storage a whole legacy stream inside the pickle."""
    path.write_bytes(byhand.dump({"model": small_state(), "epoch": 3, "scalar": torch.tensor(1.5)}, protocol))


@saves("pickle-numpy.pkl", PICKLE)
def numpy_pickle(path: Path) -> None:
    """Weights as numpy arrays, detectron's way: a pickle without a tensor."""
    path.write_bytes(byhand.dump({"model": {"w": np.ones(3)}, "__author__": "x"}, 4))


# --- directories --------------------------------------------------------------------------------------------


def sharded_model() -> Any:
    """Ten parameters in two shards; tied ones in one of them."""
    return LeNet(10).state_dict()


def write_shards(directory: Path, stem: str, suffix: str, save: Save, state: Any) -> None:
    directory.mkdir(exist_ok=True)
    keys = list(state)
    weight_map: dict[str, str] = {}
    for number, part in enumerate((keys[: len(keys) // 2], keys[len(keys) // 2 :]), start=1):
        name = f"{stem}-0000{number}-of-00002.{suffix}"
        save({key: state[key] for key in part}, directory / name)
        weight_map |= dict.fromkeys(part, name)
    total = sum(value.nbytes for value in state.values())
    write_json(
        directory / f"{stem}.{suffix}.index.json",
        {"metadata": {"total_size": total}, "weight_map": weight_map},
    )
    write_json(directory / "config.json", {"architectures": ["LeNet"], "torch_dtype": "float32"})


@saves("sharded-bin", SHARDED)
def sharded_bin(path: Path) -> None:
    write_shards(path, "pytorch_model", "bin", torch.save, sharded_model())


@saves("sharded-safetensors", SHARDED)
def sharded_safetensors(path: Path) -> None:
    write_shards(path, "model", "safetensors", safetensors.torch.save_file, sharded_model())


@saves("sharded-missing", SHARDED, damaged=True)
def sharded_with_a_shard_missing(path: Path) -> None:
    sharded_safetensors(path)
    (path / "model-00002-of-00002.safetensors").unlink()


@saves("one-file", SAFETENSORS)
def directory_with_one_file(path: Path) -> None:
    path.mkdir(exist_ok=True)
    safetensors.torch.save_file(sharded_model(), path / "model.safetensors", {"format": "pt"})
    write_json(path / "config.json", {"architectures": ["LeNet"]})


@saves("two-files", FOREIGN)
def directory_with_two_files(path: Path) -> None:
    """Which of the two is meant, nobody can know."""
    path.mkdir(exist_ok=True)
    torch.save(LeNet(10).state_dict(), path / "best.pt")
    torch.save(LeNet(10).state_dict(), path / "last.pt")
    write_json(path / "config.json", {"architectures": ["LeNet"]})


@saves("no-files", FOREIGN)
def directory_without_weights(path: Path) -> None:
    path.mkdir(exist_ok=True)
    write_json(path / "config.json", {"architectures": ["LeNet"]})


@saves("unzipped", UNSUPPORTED)
def unzipped(path: Path) -> None:
    """An archive that somebody unpacked."""
    original = path.with_name(path.name + ".original")
    torch.save(small_state(), original)
    with zipfile.ZipFile(original) as archive:
        for info in archive.infolist():
            target = path / info.filename.partition("/")[2]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(info))
    original.unlink()


@saves("dcp", DCP)
def distributed_checkpoint(path: Path) -> None:
    import torch.distributed.checkpoint as dcp

    model = small()
    optimizer = trained(model, torch.optim.Adam(model.parameters()))
    state = {"model": model.state_dict(), "optim": optimizer.state_dict(), "epoch": 3, "rates": [0.1, 0.2]}
    dcp.save(state, checkpoint_id=str(path), no_dist=True)


@saves("dcp-flat", DCP)
def distributed_checkpoint_flat(path: Path) -> None:
    import torch.distributed.checkpoint as dcp

    dcp.save(small_state(), checkpoint_id=str(path), no_dist=True)


# --- exports and packages -----------------------------------------------------------------------------------


class ExportedNet(nn.Module):  # type: ignore[misc]
    """Parameters, tied too; buffers of both kinds; a lifted tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(3, 3)
        self.two = nn.Linear(3, 3)
        self.two.weight = self.one.weight
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("mean", torch.rand(3))
        self.register_buffer("grid", torch.arange(3.0), persistent=False)
        self.offset = torch.rand(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.two(self.one(x))) + self.mean + self.grid + self.offset


@saves("exported.pt2", PT2)
def exported(path: Path) -> None:
    torch.export.save(torch.export.export(ExportedNet().eval(), (torch.rand(2, 3),)), path)


@saves("package.pt", UNSUPPORTED)
def package(path: Path) -> None:
    from torch.package import PackageExporter

    with PackageExporter(path) as exporter:
        exporter.extern("**")
        exporter.save_pickle("model", "model.pkl", nn.Sequential(nn.Linear(2, 3)))
        exporter.save_text("notes", "readme.txt", "a package")


@saves("flatbuffer.ptl", UNSUPPORTED)
def flatbuffer(path: Path) -> None:
    from torch.jit._serialization import save_jit_module_to_flatbuffer

    save_jit_module_to_flatbuffer(torch.jit.script(nn.Linear(2, 3)), str(path))


# --- cut short ----------------------------------------------------------------------------------------------


def cut(path: Path, original: str, fraction: float = 0.6) -> None:
    """The first part of another file of the zoo, 60 % of it unless said."""
    with tempfile.TemporaryDirectory() as elsewhere:
        data = FILES[original](Path(elsewhere)).read_bytes()
    path.write_bytes(data[: int(len(data) * fraction)])


CUT = {
    "cnn1-state_dict.pth": 0.6,
    "cnn1-legacy.pth": 0.6,
    "cnn1.safetensors": 0.6,
    "cnn3.ckpt": 0.6,
    "cnn1-traced.pt": 0.6,
    "tar2017.pth.tar": 0.36,  # inside the storages; the rest is tar's padding
    "pickle-2.pkl": 0.6,
}

for _original, _fraction in CUT.items():
    saves(f"truncated-{_original}", FORMATS[_original], damaged=True, original=_original, fraction=_fraction)(cut)


@saves("flipped.pth", damaged=True)
def flipped_byte(path: Path) -> None:
    """One bit of one storage is wrong: torch loads it silently, its checksum tells."""
    torch.save(small_state(), path)
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo(f"{path.stem}/data/0").header_offset
    data = bytearray(path.read_bytes())
    name, extra = struct.unpack_from("<HH", data, start + 26)
    data[start + 30 + name + extra + 5] ^= 1
    path.write_bytes(data)


# --- no checkpoints at all ----------------------------------------------------------------------------------

PAGE = b"""<!DOCTYPE html>
<html><head><title>Google Drive - Virus scan warning</title></head>
<body><p>Google Drive can't scan this file for viruses.</p></body></html>
"""
POINTER = b"""version https://git-lfs.github.com/spec/v1
oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393
size 375042383
"""


def gguf() -> bytes:
    def text(value: bytes) -> bytes:
        return struct.pack("<Q", len(value)) + value

    header = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)
    return header + text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama")


def bytes_of(path: Path, data: Callable[[], bytes]) -> None:
    path.write_bytes(data())


def zipped(members: dict[str, bytes]) -> bytes:
    import io

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


FOREIGNERS: dict[str, Callable[[], bytes]] = {
    "page.pt": lambda: PAGE,
    "lfs-pointer.pt": lambda: POINTER,
    "empty.pt": lambda: b"",
    "one-byte.pt": lambda: b"\x80",
    "zeros.pt": lambda: bytes(4096),
    "model.gguf": gguf,
    "model.h5": lambda: b"\x89HDF\r\n\x1a\n" + bytes(88),
    "model.onnx": lambda: b"\x08\x07\x12\x07pytorch\x1a\x052.1.0:\x07\x0a\x05graph",
    "model.pt.gz": lambda: gzip.compress(b"\x80\x02}q\x00.", mtime=0),
    "image.png": lambda: b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(17),
    "plain.zip": lambda: zipped({"readme.txt": b"hello", "a/b.txt": b"there"}),
    "model.keras": lambda: zipped({"metadata.json": b"{}", "config.json": b"{}", "model.weights.h5": b"\x89HDF"}),
    "text.pt": lambda: b"just some notes\n",
    "code.pt": lambda: b"import torch\nprint(torch.__version__)\n",
    "config.json": lambda: b'{"hidden_size": 768}\n',
    "error.json.pt": lambda: b'{"error": "Repository not found"}\n',
    "access-denied.pt": lambda: b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
    "model.tflite": lambda: b"\x1c\x00\x00\x00TFL3" + bytes(24),
    "archive.7z": lambda: b"7z\xbc\xaf\x27\x1c" + bytes(26),
    "archive.rar": lambda: b"Rar!\x1a\x07\x01\x00" + bytes(24),
    "elf.pt": lambda: b"\x7fELF\x02\x01\x01" + bytes(57),
    "model.pdf": lambda: b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
}

for _name, _data in FOREIGNERS.items():
    saves(_name, FOREIGN, data=_data)(bytes_of)


@saves("arrays.npz", FOREIGN)
def arrays_npz(path: Path) -> None:
    np.savez(path, weight=np.ones(3))


@saves("array.npy", FOREIGN)
def array_npy(path: Path) -> None:
    np.save(path, np.ones(3))


@saves("plain.tar", FOREIGN)
def plain_tar(path: Path) -> None:
    import io
    import tarfile

    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("notes.txt")
        member.size = 5
        tar.addfile(member, io.BytesIO(b"hello"))
