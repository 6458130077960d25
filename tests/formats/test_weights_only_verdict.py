"""The verdict on calls, states and ids that no ``torch.save`` writes, against what torch says in a process of its own.

A process of its own, for what a test has imported (``torch.distributed.tensor``) decides what torch loads.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import ckpt_inspect as ci
import ckpt_inspect.torch as ct
from ckpt_inspect.formats.weights_only import _ADDED, _LATER, verdict
from ckpt_inspect.model.source import BytesSource
from ckpt_inspect.pickles.machine import read_pickle
from tests.conftest import in_process
from tests.formats.test_weights_only import the_same_torch
from tests.hostile import build
from tests.hostile.build import BUILD, DICT, EMPTY, FALSE, NEWOBJ, NONE, ORDERED, PID, REDUCE, TRUE

ODD = b"U\x01\xff"  # SHORT_BINSTRING


def known(qualname: str) -> bytes:
    module, _, name = qualname.rpartition(".")
    return build.name(module, name)


def call(qualname: str, *args: bytes) -> bytes:
    return build.call(known(qualname), *args)


def made(qualname: str, *args: bytes) -> bytes:
    return known(qualname) + build.tuple_of(*args) + NEWOBJ


def given(value: bytes, state: bytes) -> bytes:
    return value + state + BUILD


text, number, tuple_of, list_of = build.text, build.number, build.tuple_of, build.list_of
STATE = build.dict_of(text("a"), number(1))
STORED = build.storage()
TENSOR = build.tensor()
PARAMETER = call("torch._utils._rebuild_parameter", TENSOR, TRUE, ORDERED)
VIEW = tuple_of(STORED, number(0), tuple_of(number(4)), tuple_of(number(1)))
HALVES = build.storage(kind=build.name("torch", "HalfStorage"), numel=8)
PLAIN_CALLS = {
    "OrderedDict": call("collections.OrderedDict"), "Counter": call("collections.Counter"),
    "set": call("builtins.set", list_of()), "Size": call("torch.Size", list_of(number(1))),
    "device": call("torch.device", text("cpu")), "complex": call("builtins.complex", number(1), number(2)),
    "bytearray": call("builtins.bytearray"), "bytes": call("_codecs.encode", text("a"), text("latin1")),
    "layout": call("torch.serialization._get_layout", text("torch.strided")), "storage": STORED,
    "untyped": call("torch.storage.UntypedStorage"), "typed": call("torch.storage.TypedStorage"),
    "tensor": TENSOR, "parameter": PARAMETER, "empty tensor": call("torch.FloatTensor"),
    "new parameter": made("torch.nn.parameter.Parameter", TENSOR),
}  # fmt: skip
STATES = {
    "a dict": STATE, "an empty dict": DICT, "None": NONE, "()": EMPTY, "pairs": list_of(tuple_of(text("a"), number(1))),
    "an OrderedDict": ORDERED, "two": tuple_of(STATE, NONE), "a view": VIEW, "three": tuple_of(TRUE, FALSE, ORDERED),
    "a number": number(1), "text": text("ab"),
}  # fmt: skip
CALLED = [
    "torch.float32", "torch.FloatStorage", "torch.per_tensor_affine", "torch.storage.UntypedStorage", "torch.Tensor",
    "torch.storage.TypedStorage", "torch.FloatTensor", "torch.HalfTensor", "torch.sparse.FloatTensor", "torch.Size",
    "torch.device", "builtins.set", "builtins.complex", "builtins.bytearray", "_codecs.encode", "collections.Counter",
    "collections.OrderedDict", "torch.serialization._get_layout", "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2", "torch._tensor._rebuild_from_type_v2", "torch.uint4", "torch.QUInt8Storage",
    "torch.nested._internal.nested_tensor.NestedTensor", "torch.nested._internal.nested_tensor._rebuild_njt",
    "__builtin__.set", "os.system",
]  # fmt: skip
CASES = {
    **{f"{name} given {state}": given(value, payload)
       for name, value in PLAIN_CALLS.items() for state, payload in STATES.items()},
    **{f"{name} called": call(name) for name in CALLED},
    **{f"{name} made": made(name) for name in CALLED},
    **{f"{name} as a value": known(name) for name in CALLED},
    **{f"{name} changed": given(known(name), DICT) for name in CALLED},
    **{f"{name} of a number": call(name, number(3)) for name in CALLED if "Tensor" not in name},
    "a result called": ORDERED + EMPTY + REDUCE, "a tensor called": TENSOR + EMPTY + REDUCE,
    "a storage called": STORED + EMPTY + REDUCE, "a result made": ORDERED + EMPTY + NEWOBJ,
    "arguments in a list": known("collections.OrderedDict") + list_of() + REDUCE,
    "arguments that are None": known("collections.OrderedDict") + NONE + REDUCE,
    "an OrderedDict of pairs": call("collections.OrderedDict", list_of(tuple_of(text("a"), number(1)))),
    "an OrderedDict of a dict": call("collections.OrderedDict", STATE),
    "an OrderedDict of two": call("collections.OrderedDict", STATE, STATE),
    "an OrderedDict of triples": call("collections.OrderedDict", list_of(tuple_of(text("a"), text("b"), text("c")))),
    "an OrderedDict of lists as keys": call("collections.OrderedDict", list_of(tuple_of(list_of(), number(1)))),
    "a Counter of text": call("collections.Counter", text("abc")),
    "a set of lists": call("builtins.set", list_of(list_of())), "a set of sets": call("builtins.set", list_of(b"\x8f")),
    "a set of tuples": call("builtins.set", list_of(tuple_of(number(1)))),
    "a set of tuples of lists": call("builtins.set", list_of(tuple_of(list_of()))),
    "a Size of text": call("torch.Size", text("a")), "a Size of None": call("torch.Size", list_of(NONE)),
    "a Size of a Size": call("torch.Size", PLAIN_CALLS["Size"]),
    "a device nobody knows": call("torch.device", text("foo")), "device cuda:1": call("torch.device", text("cuda:1")),
    "device cuda, 1": call("torch.device", text("cuda"), number(1)), "device cuda:": call("torch.device", text("cuda:")),
    "device cuda:0, 1": call("torch.device", text("cuda:0"), number(1)),
    "device cuda, -1": call("torch.device", text("cuda"), number(-1)),
    "a layout nobody knows": call("torch.serialization._get_layout", text("strided")),
    "bytes beyond latin1": call("_codecs.encode", text("\u20ac"), text("latin1")),
    "bytes in an unknown encoding": call("_codecs.encode", text("a"), text("klingon")),
    "a bytearray of text": call("builtins.bytearray", text("a")),
    "a bytearray of encoded text": call("builtins.bytearray", text("a"), text("latin-1")),
    "a bytearray of numbers": call("builtins.bytearray", list_of(number(1), number(2))),
    "a bytearray of large numbers": call("builtins.bytearray", list_of(number(256))),
    "an infinite complex": call("builtins.complex", b"G\x7f\xf0" + bytes(6), b"G\x7f\xf8" + bytes(6)),
    "a complex of text": call("builtins.complex", text("x")),
    "a tensor of old": given(made("torch.FloatTensor"), VIEW), "a tensor of old, called": given(call("torch.FloatTensor"), VIEW),
    "an untyped tensor of old": given(made("torch.Tensor"), VIEW),
    "an empty tensor of old": given(made("torch.FloatTensor"), EMPTY),
    "a tensor of another type": given(made("torch.HalfTensor"), VIEW),
    "a tensor of old without a view": given(made("torch.FloatTensor"), tuple_of(STORED, number(0))),
    "too few arguments": call("torch._utils._rebuild_tensor_v2", STORED, number(0), EMPTY, EMPTY, FALSE),
    "too many arguments": call("torch._utils._rebuild_parameter", TENSOR, TRUE, ORDERED, ORDERED),
    "a function made": made("torch._utils._rebuild_tensor", STORED, number(0), tuple_of(number(4)), tuple_of(number(1))),
    "attributes": call("torch._tensor._rebuild_from_type_v2", known("torch._utils._rebuild_tensor"), known("torch.Tensor"),
                       VIEW, STATE),
    "an id that is a number": number(3) + PID, "an empty id": EMPTY + PID, "an id that is text": text("a") + PID,
    "a short id": tuple_of(text("storage"), build.FLOATS, text("0")) + PID,
    "a long id": tuple_of(text("storage"), build.FLOATS, text("0"), text("cpu"), number(4), NONE) + PID,
    "an id of no class": tuple_of(text("storage"), text("torch"), text("0"), text("cpu"), number(4)) + PID,
    "an id of a dtype": tuple_of(text("storage"), known("torch.float32"), text("0"), text("cpu"), number(4)) + PID,
    "an id of another kind": tuple_of(text("module"), known("collections.OrderedDict"), text("0"), text("cpu")) + PID,
    "items of a set": call("builtins.set") + text("a") + number(1) + build.SETITEM,
    "items of a Counter": call("collections.Counter") + text("a") + number(1) + build.SETITEM,
    "text of Python 2 that is no UTF-8": ODD, "text of Python 2": b"U\x01a",
    "items appended": ORDERED + number(1) + build.APPEND,
}  # fmt: skip

LOAD = """
import json, sys, warnings
for name in sys.argv[2:]:
    __import__(name)
import torch
from torch._weights_only_unpickler import _get_user_allowed_globals
warnings.simplefilter("ignore")
said = {"": sorted(_get_user_allowed_globals())}
for path in json.load(open(sys.argv[1])):
    try:
        torch.load(path, map_location="cpu", weights_only=True)
        said[path] = None
    except Exception as error:
        said[path] = f"{type(error).__name__}: {error}"
print(json.dumps(said))
"""


def torch_says(folder: Path, paths: list[Path], *imports: str) -> dict[str, Any]:
    listed = folder / "paths.json"
    listed.write_text(json.dumps([str(path) for path in paths]))
    command = [sys.executable, "-c", LOAD, str(listed), *imports]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    said: dict[str, Any] = json.loads(found.stdout)
    return said


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str | None]]:
    """For each case the file, and what torch complains of."""
    folder = tmp_path_factory.mktemp("cases")
    paths = {}
    for number_, (name, body) in enumerate(CASES.items()):
        paths[name] = folder / f"{number_}.pt"
        paths[name].write_bytes(build.checkpoint(body))
    says = torch_says(folder, list(paths.values()))
    return {name: (path, says[str(path)]) for name, path in paths.items()}


# Where torch could be told to load it, and the tool does not look that closely: never the other way round.
STRICTER = {
    f"{name} given {state}" for name in ("tensor", "empty tensor", "parameter")
    for state in ("a view", "()", "an empty dict", "an OrderedDict")
} - {"empty tensor given a view", "empty tensor given ()"}  # fmt: skip


@the_same_torch
@pytest.mark.parametrize("name", CASES)
def test_verdict_on_odd_pickles(name: str, said: dict[str, tuple[Path, str | None]]) -> None:
    path, complaint = said[name]
    found = ci.info(ci.open(str(path))).weights_only
    assert found.ok is not bool(found.blocked)
    if name in STRICTER:
        assert not found.ok
    else:
        assert found.ok is (complaint is None), (found.blocked, complaint)


@the_same_torch
def test_yes_is_never_said_of_what_torch_refuses_in_the_legacy_stream(tmp_path: Path) -> None:
    ids = {
        "six": build.storage("0", 4, build.FLOATS, "cpu", NONE), "five": STORED, "a number": number(3) + PID, "none": EMPTY + PID,
    }  # fmt: skip
    paths = {}
    for name, stored in ids.items():
        paths[name] = tmp_path / f"{name}.pt"
        paths[name].write_bytes(build.legacy(build.tensor(stored)))
    says = torch_says(tmp_path, list(paths.values()))
    for name, path in paths.items():
        assert ci.info(ci.open(str(path))).weights_only.ok is (says[str(path)] is None), (name, says[str(path)])
    assert says[str(paths["six"])] is None


@the_same_torch
def test_the_verdict_says_what_to_import(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, names = tmp_path / "jagged.pt", tmp_path / "names.pt"
    value = torch.nested.nested_tensor([torch.ones(1), torch.ones(2)], layout=torch.jagged)
    torch.save({"a": value}, path)
    later = sorted(set(_LATER) - {"torch._dynamo.decorators._DimRange"})
    names.write_bytes(build.checkpoint(list_of(*map(known, later))))
    fresh = torch_says(tmp_path, [path, names])
    assert frozenset(fresh[""]) == _ADDED
    assert fresh[str(path)] is not None
    assert fresh[str(names)] is not None
    for file, module in ((names, "torch.distributed.tensor"), (path, "torch._dynamo")):
        says = torch_says(tmp_path, [file], module)
        assert says[str(file)] is None
        assert set(says[""]) <= _ADDED | _LATER.keys()
        found = ci.info(ci.open(str(file))).weights_only
        assert (found.ok, found.once) == (False, [module])
        for command in ("info", "scan"):
            in_process([command, str(file)])
            assert f"; yes once {module} is imported" in capsys.readouterr().out


def test_what_many_calls_share_is_not_looked_at_for_each() -> None:
    """Twenty thousand sets of one list of twenty thousand tuples: four hundred million tuples, were they all looked at."""
    many = 20_000
    shared = list_of(tuple_of(number(1)) + build.put(0), *[build.get(0)] * many) + build.put(1)
    first = known("builtins.set") + build.put(2) + build.get(1) + b"\x85" + REDUCE
    more = (build.get(2) + build.get(1) + b"\x85" + REDUCE) * many
    pickle = read_pickle(BytesSource(build.pickled(list_of(shared, first, more)), ""))
    assert verdict([pickle]).blocked == ["the arguments of builtins.set"]


@the_same_torch
def test_large_plain_values_are_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "large.pt"
    torch.save({"seen": set(range(200_000)), "raw": bytes(3_000_000), "pairs": {(i, "a") for i in range(20_000)}}, path)
    assert torch_says(tmp_path, [path])[str(path)] is None
    assert ci.info(ci.open(str(path))).weights_only.ok


def test_an_empty_tensor_of_old_is_a_tensor(tmp_path: Path) -> None:
    path = tmp_path / "empty.pt"
    pairs = {"half": "torch.HalfTensor", "float": "torch.Tensor", "byte": "torch.ByteTensor"}
    path.write_bytes(build.checkpoint(build.dict_of(*(part for k, v in pairs.items() for part in (text(k), call(v))))))
    loaded = torch.load(path, weights_only=True)
    with ci.open(str(path)) as checkpoint:
        assert not checkpoint.problems
        tensors = ct.state_dict(checkpoint)
    assert tensors.keys() == loaded.keys()
    for key, wanted in loaded.items():
        assert (tensors[key].dtype, tensors[key].shape) == (wanted.dtype, wanted.shape)
    out = tmp_path / "out.safetensors"
    assert in_process(["convert", str(path), "-o", str(out)]) == 0
    assert in_process(["diff", str(path), str(out)]) == 0
    assert in_process(["verify", str(path)]) == 0
