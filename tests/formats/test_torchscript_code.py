"""Torch is the oracle: what it saves is read here, what it loads must agree.

No ``from __future__ import annotations``: ``torch.jit.script`` resolves the annotations of attributes.
"""

import enum
import io
import pickletools
import re
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ckpt_inspect.errors import CorruptError
from ckpt_inspect.formats.torchscript_code import Code, layer_args, original_name, parse

REAL = Path(__file__).parents[2].parent / "shared" / "real" / "LaurentMazare__tch-rs"


# What torch saves ---------------------------------------------------------------------------------------


class Color(enum.Enum):
    RED = "deep red"
    BLUE = "blue"


class Pair(NamedTuple):
    left: Tensor
    right: int


class Table:
    def __init__(self, size: int) -> None:
        self.size = size

    def half(self) -> int:
        return self.size // 2


@torch.jit.interface
class Layer(nn.Module):  # type: ignore[misc]
    def forward(self, x: Tensor) -> Tensor:
        pass


class Block(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


class Zoo(nn.Module):  # type: ignore[misc]
    """One of everything that prints in a way of its own."""

    __constants__ = ("double", "flag", "nothing", "odd", "unicode", "words")
    layer: Layer

    def __init__(self) -> None:
        super().__init__()
        self.pair = nn.ModuleDict({"with space": nn.Conv2d(1, 4, 3), "plain": nn.Conv2d(1, 4, 3, padding="same")})
        self.steps = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.body = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU())
        self.rows = nn.ParameterList([nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4))])
        self.layer = Block()
        self.weight = nn.Parameter(torch.ones(4))
        self.register_parameter("missing", None)
        self.register_buffer("kept", torch.ones(4))
        self.register_buffer("fleeting", torch.ones(4), persistent=False)
        self.register_buffer("absent", None)
        self.attribute = torch.ones(4)
        self.color = Color.RED
        self.double, self.flag, self.nothing = 0.1, True, None
        self.odd, self.unicode, self.words = 'a"\\\n\t(\x1b', "é", ["[", "#"]

    def forward(self, x: Tensor, sizes: dict[str, list[int]], color: Color = Color.BLUE) -> tuple[Tensor, Pair]:
        for key, conv in self.pair.items():
            if key == "plain":
                x = conv(x)
        for step in self.steps:
            x = step(x)
        for row in self.rows:
            x = x + row
        if self.color == color:
            x = x + Table(8).half()
        print('class torch.device("cuda:8") #', self.odd, self.unicode, self.words, self.double, self.nothing)
        x = self.layer.forward(self.body(x)) + self.weight + self.kept + self.fleeting + self.attribute
        return x, Pair(x, 1)


class Small(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.Sequential(nn.BatchNorm2d(2), nn.ReLU())
        self.fc = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.conv(x)).mean((2, 3)))


class Devices(nn.Module):  # type: ignore[misc]
    def forward(self, x: Tensor) -> Tensor:
        # torch.device("cuda:9")
        y = x.to("cuda:0") + torch.ones(1, device=torch.device("cuda"))
        print('torch.device("cuda:8")', y)
        return y + torch.zeros(1, device="cuda:1")


def scale(x: Tensor) -> Tensor:
    return x * torch.ones(2)


def hook(self: Any, input: tuple[Tensor]) -> None:
    return None


def hooked() -> nn.Module:
    block = Block()
    hook.__annotations__ = {"input": tuple[Tensor], "return": None}
    block.register_forward_pre_hook(hook)
    return block


def again(module: Any) -> Any:
    stream = io.BytesIO()
    torch.jit.save(module, stream)
    stream.seek(0)
    return torch.jit.load(stream)


def traced() -> Any:
    return torch.jit.trace(Small().eval(), torch.ones(1, 1, 5, 5))


def quantized() -> Any:
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    return torch.jit.script(torch.ao.quantization.quantize_dynamic(model, {nn.Linear}))


MODULES: dict[str, Callable[[], Any]] = {
    "zoo": lambda: torch.jit.script(Zoo()),
    "saved again": lambda: again(torch.jit.script(Zoo())),
    "small": lambda: torch.jit.script(Small()),
    "traced": traced,
    "frozen": lambda: torch.jit.freeze(torch.jit.script(Small().eval())),
    "function": lambda: torch.jit.script(scale),
    "traced function": lambda: torch.jit.trace(scale, torch.ones(2)),
    "transformer": lambda: torch.jit.script(nn.TransformerEncoderLayer(8, 2)),
    "lstm": lambda: torch.jit.script(nn.LSTM(2, 3)),
}


def archive(module: Any, path: Path) -> dict[str, bytes]:
    torch.jit.save(module, str(path))
    return records(path)


def records(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as file:
        return {name.partition("/")[2]: file.read(name) for name in file.namelist()}


def read(members: dict[str, bytes]) -> Code:
    return parse(members.items())


def root_name(members: dict[str, bytes]) -> str:
    """The class of the first object in ``data.pkl``."""
    opcodes = pickletools.genops(members["data.pkl"])
    return next(str(arg) for opcode, arg, _ in opcodes if opcode.name == "GLOBAL").replace(" ", ".")


def check_tree(code: Code, module: Any, name: str) -> int:
    """Compare a loaded module and all below it with the classes that annotations lead to."""
    waiting, seen = [(module, name)], 0
    while waiting:
        module, name = waiting.pop()
        declared = code.classes[name]
        seen += 1
        for names, registered in (
            (declared.parameters, dict(module.named_parameters(recurse=False))),
            (declared.buffers, dict(module.named_buffers(recurse=False))),
        ):
            assert [name for name in names if getattr(module, name) is not None] == list(registered)
            assert set(names) <= set(declared.attributes)
        assert original_name(name).endswith(module.original_name)
        children = [(child, declared.attributes[key]) for key, child in module.named_children()]
        waiting += [(child, name) for child, name in children if "Interface" not in code.classes[name].kind]
    return seen


@pytest.mark.parametrize("kind", MODULES)
def test_classes_parameters_and_buffers_are_those_of_torch(kind: str, tmp_path: Path) -> None:
    members = archive(MODULES[kind](), tmp_path / "model.pt")
    code = read(members)
    module = torch.jit.load(tmp_path / "model.pt")
    layers = sum(1 for _ in module.modules())
    interfaces = 2 if kind in ("zoo", "saved again") else 0  # Block and what is below it
    assert check_tree(code, module, root_name(members)) == layers - interfaces
    assert code.problems == ()


@pytest.mark.filterwarnings("ignore:Lite Interpreter is deprecated")
def test_the_lite_interpreter_has_the_same_code(tmp_path: Path) -> None:
    module = torch.jit.script(Small())
    (tmp_path / "lite.ptl").write_bytes(module._save_to_buffer_for_lite_interpreter())
    members = records(tmp_path / "lite.ptl")
    assert "bytecode.pkl" in members
    assert check_tree(read(members), module, root_name(members)) == 6


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated", "ignore:torch.quantize_per_tensor")
def test_a_quantized_layer_and_its_packed_parameters() -> None:
    stream = io.BytesIO()
    torch.jit.save(quantized(), stream)
    code = read(records_of(stream))
    names = {original_name(name): declared for name, declared in code.classes.items()}
    linear = names["torch.ao.nn.quantized.dynamic.modules.linear.Linear"]
    assert linear.attributes["scale"] == "float"
    packed = names["torch.ao.nn.quantized.modules.linear.LinearPackedParams"]
    assert packed.attributes["_packed_params"] == "__torch__.torch.classes.quantized.LinearPackedParamsBase"
    assert code.problems == ()


def records_of(stream: io.BytesIO) -> dict[str, bytes]:
    with zipfile.ZipFile(stream) as file:
        return {name.partition("/")[2]: file.read(name) for name in file.namelist()}


@cache
def zoo() -> dict[str, bytes]:
    stream = io.BytesIO()
    torch.jit.save(torch.jit.script(Zoo()), stream)
    return records_of(stream)


def named(code: Code, name: str) -> Any:
    found = [declared for declared in code.classes.values() if original_name(declared.name).endswith(f".{name}")]
    assert len(found) == 1
    return found[0]


def test_every_kind_of_class() -> None:
    code = read(zoo())
    kinds = {original_name(name).rpartition(".")[2]: declared.kind for name, declared in code.classes.items()}
    expected = {
        "Zoo": "Module",
        "Pair": "NamedTuple",
        "Color": "Enum",
        "Layer": "ModuleInterface",
        "Table": "",
    }
    assert expected.items() <= kinds.items()
    assert named(code, "Pair").attributes == {"left": "Tensor", "right": "int"}
    assert named(code, "Color").constants == {"RED": '"deep red"', "BLUE": '"blue"'}
    assert named(code, "Color").attributes == {}
    assert named(code, "Table").methods == ("__init__", "half")
    assert named(code, "Layer").methods == ("forward",)


def test_lists_of_names_include_what_is_none_or_not_persistent() -> None:
    declared = named(read(zoo()), "Zoo")
    assert declared.parameters == ("weight", "missing")
    assert declared.buffers == ("kept", "fleeting", "absent")
    assert declared.lists_buffers
    assert declared.attributes["attribute"] == "Tensor"
    assert declared.attributes["missing"] == "NoneType"


def test_names_that_are_no_identifiers_keep_their_order() -> None:
    code = read(zoo())
    attributes = named(code, "ModuleDict").attributes
    assert list(attributes) == ["training", "_is_full_backward_hook", "with space", "plain"]
    assert original_name(attributes["with space"]) == "torch.nn.modules.conv.Conv2d"
    assert named(code, "ParameterList").parameters == ("0", "1")
    assert list(named(code, "ParameterList").attributes)[:2] == ["0", "1"]


def test_constants_are_the_source_of_their_values() -> None:
    constants = named(read(zoo()), "Zoo").constants
    assert float(constants.pop("double")) == 0.1
    assert re.fullmatch(r"CONSTANTS\.c\d", constants.pop("unicode"))
    assert constants == {
        "flag": "True",
        "nothing": "None",
        "odd": r'"a\"\\\n\t(\033"',
        "words": '("[", "#")',
    }


def test_hooks_are_methods(tmp_path: Path) -> None:
    code = read(archive(torch.jit.script(hooked()), tmp_path / "model.pt"))
    assert named(code, "Block").methods == ("forward", "hook")
    assert code.problems == ()


# Constants and devices ----------------------------------------------------------------------------------


def test_freezing_moves_everything_into_constants(tmp_path: Path) -> None:
    members = archive(MODULES["frozen"](), tmp_path / "model.pt")
    code = read(members)
    name = root_name(members)
    assert code.classes[name].attributes == {}
    stored = [member for member in members if member.startswith("constants/")]
    assert code.constants_used == dict.fromkeys(range(len(stored)), (f"{name}.forward",))


def test_constants_of_attributes_and_functions() -> None:
    name = root_name(zoo())
    assert read(zoo()).constants_used == {0: (f"{name}.unicode",), 1: (f"{name}.forward",)}  # é, twice
    text = b"def f(x: Tensor) -> Tensor:\n  return foo(CONSTANTS.c2, CONSTANTS.c2, bar.CONSTANTS.c3)\n"
    assert parse([("code/__torch__/m.py", text)]).constants_used == {2: ("__torch__.m.f",)}


def test_changing_the_devices_at_their_offsets_makes_the_code_run(tmp_path: Path) -> None:
    members = archive(torch.jit.script(Devices()), tmp_path / "model.pt")
    devices = read(members).devices
    assert sorted(device for _, device, _ in devices) == ["cuda", "cuda:0", "cuda:1"]
    for record, device, offset in sorted(devices, key=lambda found: -found[2]):
        text = members[record]
        literal = f'"{device}"'.encode()
        assert text[offset : offset + len(literal)] == literal
        members[record] = text[:offset] + b'"cpu"' + text[offset + len(literal) :]
    assert load(members)(torch.ones(1)).tolist() == [2.0]


def load(members: dict[str, bytes]) -> Any:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name, data in members.items():
            if not name.endswith(".debug_pkl"):
                file.writestr(f"model/{name}", data)
    stream.seek(0)
    return torch.jit.load(stream)


@pytest.mark.parametrize(
    ("text", "devices"),
    [
        ('x = torch.device("cuda:0")', ["cuda:0"]),
        ("x = torch . device ( 'cuda' , 5)", ["cuda"]),
        ('x = f(torch.device(\n  "cuda"))', ["cuda"]),
        ('x = "torch.device(\\"cuda\\")"', []),
        ("x = 'torch.device(\"cuda\")'", []),
        ('x = """\ntorch.device("cuda")\n"""', []),
        ('# torch.device("cuda")', []),
        ('x = atorch.device("cuda")', []),
        ('x = ops.torch.device("cuda")', []),
        ('x = torch.devices("cuda")', []),
        ('x = torch.device(name, "cuda")', []),
        ('x = [torch.device("c\\165da"), torch.device("cpu")]', ["cuda", "cpu"]),
    ],
)
def test_devices_are_code_and_nothing_else(text: str, devices: list[str]) -> None:
    code = parse([("code/__torch__.py", f"def f():\n  {text}\n".encode())])
    assert [device for _, device, _ in code.devices] == devices
    assert code.problems == ()


# Odd names and odd spellings ----------------------------------------------------------------------------

NAMES = ["0", "a b", "a-b", "a'b", "a#b", "é", "日本", "a\tb", "a\rb", "a(b", "a: int", "a] = b"]
REFUSED = ['a"b', '"', "a\\qb", "a\\", 'a"#', 'a"(b', 'a] = ["x", ]']


def odd(kind: str, name: str) -> nn.Module:
    module = Block()
    if kind == "parameter":
        module.register_parameter(name, nn.Parameter(torch.ones(1)))
    elif kind == "buffer":
        module.register_buffer(name, torch.ones(1))
    elif kind == "module":
        module.add_module(name, nn.ReLU())
    else:
        setattr(module, name, 1)
    return module


@pytest.mark.parametrize("kind", ["parameter", "buffer", "module", "attribute"])
@pytest.mark.parametrize("name", NAMES + REFUSED)
def test_names_are_read_as_they_were_saved(kind: str, name: str, tmp_path: Path) -> None:
    """Torch prints names without escaping them, so that it cannot load all that it saves."""
    members = archive(torch.jit.script(odd(kind, name)), tmp_path / "model.pt")
    code = read(members)
    declared = code.classes[root_name(members)]
    assert name in declared.attributes
    assert declared.parameters == ((name,) if kind == "parameter" else ())
    assert declared.buffers == ((name,) if kind == "buffer" else ())
    assert "fc" in declared.attributes
    assert declared.methods == ("forward",)
    if name in REFUSED:
        assert [type(problem) for problem in code.problems] == [CorruptError]
        with pytest.raises(RuntimeError):
            torch.jit.load(tmp_path / "model.pt")
    else:
        assert code.problems == ()
        torch.jit.load(tmp_path / "model.pt")


def test_a_name_with_a_line_break_costs_no_other_class(tmp_path: Path) -> None:
    code = read(archive(torch.jit.script(odd("parameter", "a\nb")), tmp_path / "model.pt"))
    assert named(code, "Block").methods == ("forward",)
    assert named(code, "Linear").parameters == ("weight", "bias")
    assert "string is not closed" in str(code.problems[0])
    assert code.problems[0].record is not None
    with pytest.raises(RuntimeError):
        torch.jit.load(tmp_path / "model.pt")


SPELLINGS: dict[str, Callable[[bytes], bytes]] = {
    "line ends": lambda text: text.replace(b"\n", b"\r\n"),
    "blank lines": lambda text: text.replace(b"\n", b"\n \n\n"),
    "comments": lambda text: text.replace(b"\n", b"  # it's \"(\n# [\n"),
    "wider": lambda text: re.sub(rb"(?m)^((?:  )+)", rb"\1\1", text),
    "tabs": lambda text: text.replace(b"  ", b"\t\t"),
    "octal": lambda text: re.sub(rb'"weight"', rb'"\\167eigh\\t"'.replace(rb"\t", rb"\164"), text),
    "single quotes": lambda text: text.replace(b'["weight", "bias", ]', b"['weight', 'bias']"),
    "triple quotes": lambda text: text.replace(b'["weight", ', b'["""weight""", '),
    "several lines": lambda text: text.replace(b'["weight", ', b'[\n"weight",\n# it\'s\n'),
    "brackets": lambda text: text.replace(b"Optional[Tensor]\n", b"Optional[\nTensor]\n"),
    "joints": lambda text: text.replace(b" : ", b" : \\\n"),
    "close": lambda text: text.replace(b" : ", b":"),
    "subscripts": lambda text: text.replace(b"  weight : ", b"  __annotations__ [ 'weight' ]="),
    "heads": lambda text: text.replace(b"(Module):", b" ( Module ) :"),
    "old version": lambda text: b"op_version_set = 1\nimport __torch__.nothing\n" + text,
    "docstrings": lambda text: re.sub(
        rb"(?m)^(  def [^)]*\) -> \w+:\n)", rb'\1    """\n  x : int\nclass A:\n"""\n', text
    ),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_other_spellings_that_torch_loads_read_the_same(spelling: str, tmp_path: Path) -> None:
    members = archive(torch.jit.script(Small()), tmp_path / "model.pt")
    expected = read(members).classes
    for name, text in members.items():
        if name.startswith("code/") and name.endswith(".py"):
            members[name] = SPELLINGS[spelling](text)
    code = read(members)
    assert check_tree(code, load(members), root_name(members)) == 6
    assert code.problems == ()
    for name, declared in expected.items():
        annotations = {key: text.replace(" ", "") for key, text in code.classes[name].attributes.items()}
        assert code.classes[name]._replace(attributes=annotations) == declared


def test_before_torch_1_6_buffers_were_not_listed() -> None:
    text = b'class A(Module):\n  __parameters__ = ["w", ]\n  w : Tensor\n  running_mean : Tensor\n'
    declared = parse([("code/__torch__.py", text)]).classes["__torch__.A"]
    assert (declared.parameters, declared.buffers, declared.lists_buffers) == (("w",), (), False)
    assert list(declared.attributes) == ["w", "running_mean"]


def test_only_declarations_of_the_class_itself_count() -> None:
    text = (
        b"class A(Module):\n"
        b"  x : List[\nint]\n"
        b"  def f(self: A,\n  x: Tensor) -> Tensor:\n"
        b"    class B:\n      y : int\n"
        b"    z : Tensor = x\n"
        b"def g(x: Tensor) -> Tensor:\n  w : int = 1\n  return x\n"
        b"class C:\n    a : int\n    def f(self) -> int: return 3\n    b : int\n  c : int\n"
    )
    classes = parse([("code/__torch__.py", text)]).classes
    assert list(classes) == ["__torch__.A", "__torch__.C"]
    assert classes["__torch__.A"].attributes == {"x": "List[ int]"}
    assert classes["__torch__.A"].methods == ("f",)
    assert classes["__torch__.C"].attributes == {"a": "int", "b": "int"}


def test_other_records_are_passed_over() -> None:
    text = b"class A:\n  x : int\n"
    names = ["data.pkl", "code/__torch__.py.debug_pkl", "extra/code/a.py", "code/__torch__/a/b.py"]
    assert list(parse((name, text) for name in names).classes) == ["__torch__.a.b.A"]


@pytest.mark.parametrize(
    ("qualified", "original"),
    [
        ("__torch__.Net", "Net"),
        ("__torch__.torch.nn.modules.conv.___torch_mangle_0.Conv2d", "torch.nn.modules.conv.Conv2d"),
        ("__torch__.___torch_mangle_12.Net", "Net"),
        ("__torch__.a.___torch_mangle_1.___torch_mangle_2.B", "a.B"),
        ("__torch__.a.___torch_mangle_1x.B", "a.___torch_mangle_1x.B"),
        ("foo.Net", "foo.Net"),
        ("", ""),
    ],
)
def test_original_names(qualified: str, original: str) -> None:
    assert original_name(qualified) == original


# Layers -------------------------------------------------------------------------------------------------

LAYERS = {
    "Linear": ["3, 4"],
    "Conv1d": ["1, 2, kernel_size=3", "2, 2, kernel_size=3, padding=1, groups=2"],
    "Conv2d": [
        "1, 32, kernel_size=3",
        "1, 2, kernel_size=(3, 5), stride=2, padding=(1, 2), dilation=2, padding_mode='reflect'",
        "1, 2, kernel_size=3, padding='same'",
    ],
    "ConvTranspose2d": ["4, 8, kernel_size=3, stride=2, padding=1, output_padding=1, dilation=2, groups=2"],
    "BatchNorm2d": ["3", "3, eps=0.001, momentum=None, affine=False, track_running_stats=False"],
    "InstanceNorm1d": ["3", "3, affine=True"],
    "LayerNorm": ["5", "(5, 5)", "5, eps=1e-06, elementwise_affine=False"],
    "RMSNorm": ["4", "4, eps=1e-06"],
    "GroupNorm": ["2, 4"],
    "Embedding": ["5, 6", "5, 6, padding_idx=2, max_norm=2.0"],
    "EmbeddingBag": ["5, 6", "5, 6, padding_idx=1, mode='sum'"],
    "LSTM": ["3, 4", "3, 4, num_layers=2, batch_first=True, dropout=0.1, bidirectional=True"],
    "GRU": ["3, 4, bias=False"],
    "RNNCell": ["2, 3", "2, 3, nonlinearity='relu'"],
    "MaxPool2d": [
        "kernel_size=2",
        "kernel_size=3, stride=2, padding=1",
        "kernel_size=(2, 3), ceil_mode=True",
    ],
    "AvgPool1d": ["kernel_size=3", "kernel_size=3, stride=2, padding=1"],
    "AdaptiveAvgPool2d": ["1", "(7, 5)"],
    "Dropout": ["p=0.5", "p=0.3, inplace=True"],
    "LeakyReLU": ["", "negative_slope=0.2"],
    "GELU": ["", "approximate='tanh'"],
    "Softmax": ["dim=-1"],
    "Upsample": ["scale_factor=2.0", "size=4, mode='bilinear', align_corners=True"],
    "Tanh": [""],
}


@pytest.mark.parametrize(("layer", "args"), [(layer, args) for layer, many in LAYERS.items() for args in many])
def test_recorded_arguments_make_the_same_layer(layer: str, args: str) -> None:
    stream = io.BytesIO()
    torch.jit.save(torch.jit.script(eval(f"nn.{layer}({args})")), stream)
    assert layer_args(named(read(records_of(stream)), layer)) == args


def test_nothing_is_said_of_layers_that_recorded_nothing(tmp_path: Path) -> None:
    code = read(archive(traced(), tmp_path / "model.pt"))
    assert [layer_args(declared) for declared in code.classes.values()] == [""] * 6


def test_arguments_are_only_shown_where_they_are_what_they_seem() -> None:
    body = b"(Module):\n  in_features : Final[int] = 3\n"

    def shown(record: str, text: bytes) -> str:
        (declared,) = parse([(record, text)]).classes.values()
        return layer_args(declared)

    assert shown("code/__torch__/mine.py", b"class Linear" + body) == ""
    assert shown("code/__torch__/torch/nn/modules/linear.py", b"class Linear" + body) == "3"
    assert shown("code/__torch__/torch/nn/modules/linear.py", b"class Mine" + body) == ""
    holed = b"class Linear(Module):\n  out_features : Final[int] = 3\n"
    assert shown("code/__torch__/torch/nn/modules/linear.py", holed) == "out_features=3"
    for value in (b"f(3)", b"(1, (2, 3))", b'"\x1b"', b"1" * 99, b"CONSTANTS.c0", b"3 ; 4", b"\xff", b""):
        odd_value = b"class Linear(Module):\n  in_features : Final[int] = " + value + b"\n"
        assert shown("code/__torch__/torch/nn/modules/linear.py", odd_value) == ""


# Files of others ----------------------------------------------------------------------------------------

real = pytest.mark.skipif(not REAL.is_dir(), reason="files made by others are not at hand")


@real
def test_a_real_model_reads_like_torch_loads_it() -> None:
    path = REAL / "foo9.pt"
    members = records(path)
    code = read(members)
    module = torch.jit.load(path, map_location="cpu")
    assert check_tree(code, module, root_name(members)) == sum(1 for _ in module.modules())
    linear = code.classes["__torch__.torch.nn.modules.linear.Linear"]
    assert layer_args(linear) == "512, 192"
    assert code.problems == ()


@real
@pytest.mark.parametrize("name", ["foo@2022-03-12-4759d17.pt", "foo@2022-12-27-ae7b294.pt"])
def test_real_models_with_a_buffer(name: str) -> None:
    (declared,) = read(records(REAL / name)).classes.values()
    assert (declared.name, declared.buffers, declared.parameters) == ("__torch__.Foo", ("value",), ())


@real
def test_real_code_of_other_shapes() -> None:
    classes = read(records(REAL / "foo6.pt")).classes
    assert [declared.kind for declared in classes.values()] == ["Module", ""]
    assert classes["__torch__.TorchScriptClass"].attributes == {"x": "Tensor"}
    early = read(records(REAL / "foo1.pt"))  # of the time of model.json: functions, no classes
    assert early.classes == {}
    assert early.devices == (("code/foo1.py", "cpu", 121),)
    assert early.constants_used == {0: ("foo1.forward",)}


# Hostile code -------------------------------------------------------------------------------------------


@cache
def corpus() -> list[tuple[str, bytes]]:
    return [(name, data) for name, data in zoo().items() if name.startswith("code/") and name.endswith(".py")]


def check_anything(data: bytes) -> None:
    code = parse([("code/__torch__/m.py", data)])
    for name, declared in code.classes.items():
        assert declared.name == name
        assert name.startswith("__torch__.m.")
        assert isinstance(layer_args(declared._replace(name=f"torch.nn.modules.{name}")), str)
        assert isinstance(original_name(name), str)
    for _, device, offset in code.devices:
        assert data[offset : offset + 1] in (b'"', b"'")
        assert isinstance(device, str)
    for problem in code.problems:
        assert problem.record == "code/__torch__/m.py"
        assert problem.offset is not None
        assert 0 <= problem.offset <= len(data)


@given(st.binary(max_size=300))
def test_any_bytes_can_be_read(data: bytes) -> None:
    check_anything(data)


PIECES = [
    *(b"\n", b"\n  ", b"\n    ", b"\r\n", b" ", b"\\", b"\\\n", b"#", b"\xff", b"\0", b"\xc3", b"1", b"a"),
    *(b'"', b"'", b'"""', b"'''", b"[", b"]", b"(", b")", b"{", b"}", b":", b" : ", b"=", b" = ", b", "),
    *(
        b"class A",
        b"class A(Module):\n  ",
        b"class Conv2d(Enum):\n  ",
        b"def f(",
        b"def ",
        b"class ",
        b"Final[int]",
    ),
    *(
        b"__parameters__ = [",
        b'__buffers__ = ["a", ]',
        b"__annotations__",
        b'__annotations__["',
        b'"] = Tensor',
    ),
    *(
        b'torch.device("cuda")',
        b"torch.device(",
        b"CONSTANTS.c1",
        b"CONSTANTS.c",
        b"kernel_size : Final[int] = ",
    ),
]


@given(st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join))
def test_any_order_of_pieces_can_be_read(data: bytes) -> None:
    check_anything(data)


@settings(max_examples=200)
@given(st.data())
def test_damaged_code_can_be_read(data: st.DataObject) -> None:
    _, text = data.draw(st.sampled_from(corpus()))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 20)))
        text = text[:start] + data.draw(st.sampled_from(PIECES) | st.binary(max_size=4)) + text[end:]
    check_anything(text)


@pytest.mark.parametrize(
    "piece",
    [
        *PIECES,
        b'\\"""x\n ',
        b"\"'\\",
        b'"x\\\n',
        b"_",
        b'"a", ',
        b'  __parameters__ = ["a"b", ]\n',
        b"# \n",
        b"= ",
    ],
)
@pytest.mark.parametrize("start", [b"", b"class A(Module):\n", b"class A(Module):\n  __parameters__ = [", b'x = """'])
def test_repetition_takes_no_stack_and_linear_time(start: bytes, piece: bytes) -> None:
    """No time is measured: a loop that reads bytes twice would take minutes here."""
    check_anything(start + piece * 20_000)


def test_names_cannot_multiply() -> None:
    """Each class repeats the path of its record, each constant used the name of its class."""
    code = parse([("code/" + "a/" * 5_000 + "a.py", b"class A:\n  x : int\n" * 5_000)])
    assert code.classes == {}
    assert "too long" in str(code.problems[0])
    code = parse([("code/a.py", b"class " + b"A" * 100_000 + b":\n" + b"  x : CONSTANTS.c1\n" * 5_000)])
    assert code.classes == {}
    assert "no declaration of a class" in str(code.problems[0])
    code = parse([("code/a.py", b"def " + b"f" * 100_000 + b"():\n" + b"  CONSTANTS.c1\n" * 5_000)])
    assert [len(owners) for owners in code.constants_used.values()] == [1]


def test_one_problem_for_each_record() -> None:
    text = b'class A(Module):\n  x : "\n  y : "\nclass B(Module):\n  z : int\n'
    code = parse([("code/a.py", text), ("code/b.py", b"class C:\n  x : int\n"), ("code/c.py", text)])
    assert [(problem.record, problem.offset) for problem in code.problems] == [
        ("code/a.py", 23),
        ("code/c.py", 23),
    ]
    assert list(code.classes) == ["a.A", "a.B", "b.C", "c.A", "c.B"]
    assert code.classes["a.B"].attributes == {"z": "int"}
