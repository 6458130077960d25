"""Calls that hide behind what other code calls by itself, in what our reader reads otherwise, and where nobody looks.

Each was seen to run a call of its maker's when it was loaded by pickle, torch, numpy or a distributed checkpoint.
"""

from __future__ import annotations

import collections
import functools
import io
import json
import lzma
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ckpt_inspect.cli.app import run
from ckpt_inspect.formats import known_names
from ckpt_inspect.operations.scan import Scan, scan
from tests.hostile import build


def _n(full: str) -> bytes:
    return build.name(*full.rsplit(".", 1))


def _attributes(**values: bytes) -> bytes:
    return build.dict_of(*(part for name, value in values.items() for part in (build.text(name), value)))


def _partial(*args: bytes) -> bytes:
    return build.call(_n("functools.partial"), *args)


def _bytes(content: bytes) -> bytes:
    return b"B" + len(content).to_bytes(4, "little") + content


MAP, GETATTR = _n("builtins.map"), _n("builtins.getattr")
NAMESPACE = _n("argparse.Namespace") + build.EMPTY + build.NEWOBJ
EVIL = build.call(build.name("builtins", "exec"), build.text("x"))
COMPUTED = (
    build.call(_n("builtins.str"), build.text("builtins")) + build.call(_n("builtins.str"), build.text("exec"))
    + b"\x93" + build.tuple_of(build.text("x")) + build.REDUCE
)  # fmt: skip
GELU = _n("torch.nn.functional.gelu")
READS_TEXT = _n("torch.fx.experimental.symbolic_shapes.ShapeEnv") + build.EMPTY + build.NEWOBJ
# Names that are all known, until something calls them.
CALLED: dict[str, bytes] = {
    "a partial of what calls its argument": _partial(MAP, GETATTR, build.list_of(_n("builtins.print"))),
    "a partial whose function BUILD replaces": _partial(_n("builtins.int"))
    + build.tuple_of(GETATTR, build.EMPTY, build.DICT, build.NONE) + build.BUILD,
    "keys that dict calls": build.call(_n("builtins.dict"), build.new(_n("collections.ChainMap"), _attributes(keys=_partial(GELU)))),
    "values that a module calls": build.new(
        _n("torch.nn.modules.container.ModuleList"), _attributes(_modules=NAMESPACE + _attributes(values=GELU) + build.BUILD)),
    "setdefault that an optimizer calls": build.new(
        _n("torch.optim.sgd.SGD"), _attributes(defaults=NAMESPACE + _attributes(setdefault=GELU) + build.BUILD)),
    "what SETITEM calls": build.new(_n("torch.nn.modules.container.ModuleList"), _attributes(_get_abs_string_index=GELU))
    + build.text("k") + build.NONE + build.SETITEM,
    "a state of a storage": build.storage() + _attributes(__setstate__=GELU) + build.BUILD,
    "what str calls": build.call(_n("builtins.str"), build.new(_n("torch.nn.modules.activation.ReLU"), _attributes(extra_repr=GELU))),
    "a method of an object of torch's": build.call(
        MAP, build.call(GETATTR, READS_TEXT, build.text("evaluate_guards_expression")), build.LIST),
    "a class of torch's that map calls": build.call(MAP, _n("torch.fx.graph.Graph"), build.LIST, build.LIST),
    "text that torch's sympy evaluates": build.call(_n("torch.utils._sympy.numbers.S"), build.text("x")),
    "an object of torch's sympy": _n("torch.utils._sympy.functions.FloorDiv") + build.tuple_of(build.text("x")) + build.NEWOBJ,
    "a file that torch's zip opens": build.call(_n("torch.utils._zip.ZipFile"), build.text("x")),
    "a class of a module that torch imported": build.call(
        build.name("torch.nn.parallel.distributed", "logging.FileHandler"), build.text("x")),
    "a module that torch imported": _n("torch.serialization.os"),
    "a file that numpy maps": _n("numpy._core.memmap.memmap") + build.tuple_of(build.text("x")) + build.NEWOBJ,
}  # fmt: skip


@pytest.mark.parametrize("what", CALLED)
def test_what_other_code_calls_has_no_business_there(what: str, tmp_path: Path) -> None:
    for data in (
        build.pickled(CALLED[what]),
        build.checkpoint(build.dict_of(build.text("a"), build.GOOD, build.text("b"), CALLED[what])),
    ):
        path = tmp_path / "file.pt"
        path.write_bytes(data)
        assert scan(str(path)).status == 1


class Plain:
    pass


HONEST = {
    "partials": [functools.partial(torch.nn.LayerNorm, eps=1e-6), functools.partial(torch.nn.functional.gelu),
                 functools.partial(collections.defaultdict, list), functools.partial(max, 1)],
    "modules without arguments": collections.defaultdict(torch.nn.Identity),
    "functions of Python 2": [str.lower, str.split, "a".upper],
    "functions that are called as modules are": [np.array, np.copy, np.select, np.trace, np.linalg.trace],
    "a module with a function": torch.nn.Sequential(torch.nn.ReLU()),
    "an error of JSON": json.JSONDecodeError("x", "y", 0),
    "a dict of a class of one's own": {"keys": Plain(), "values": [Plain]},
}  # fmt: skip


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("what", HONEST)
def test_what_honest_pickles_hold_is_no_finding(what: str, protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    value = HONEST[what]
    if what == "a module with a function":
        value[0].act = torch.nn.functional.gelu
    torch.save({"x": value}, path, pickle_protocol=protocol)
    found = scan(str(path))
    assert found.status == 0, [finding.text for finding in found.no_business]


def test_no_class_of_the_library_is_known_under_a_name_of_torchs() -> None:
    """Whatever torch's modules imported, and would open, start or run something, is not known by their name."""
    import sys

    wrong = []
    for module_name, module in list(sys.modules.items()):
        if module is None or module_name.partition(".")[0] not in ("torch", "numpy"):
            continue
        for name, value in list(vars(module).items()):
            if not issubclass(type(value), type) or value.__module__.partition(".")[0] in ("torch", "numpy"):
                continue
            origin = value.__module__
            judged = known_names.classify(origin, value.__qualname__)
            if judged == known_names.NO_BUSINESS and known_names.classify(module_name, name) == known_names.HARMLESS:
                wrong.append(f"{module_name}.{name} is {origin}.{value.__qualname__}")
    assert wrong == []


# -- what our reader does not read as Python does ---------------------------------------------------------------


def _loaded(content: bytes) -> bytes:
    return build.call(_n("torch.storage._load_from_bytes"), _bytes(content))


def _octal(content: bytes) -> bytes:
    return build.list_of(*(b"I0%o\n" % byte for byte in content))


_ENCODED = build.call(build.name("_codecs", "encode"), build.text("cbuiltins\nexec\n(Vx\ntR."), build.text("cp1252"))
UNREAD: dict[str, Callable[[], bytes]] = {
    "names that calls give": lambda: COMPUTED + b".",
    "names that calls give, in bytes": lambda: build.pickled(_loaded(COMPUTED + b".")),
    "numbers that C reads as octal": lambda: build.pickled(
        build.call(_n("torch.storage._load_from_bytes"), build.call(_n("builtins.bytes"), _octal(EVIL + b".")))
    ),
    "bytes in an encoding that is not followed": lambda: build.pickled(
        _n("models.Wrapper") + build.EMPTY + build.NEWOBJ + build.tuple_of(_ENCODED, build.TRUE) + build.BUILD
    ),
}


def _beside_weights(tmp_path: Path, name: str, data: bytes) -> Scan:
    torch.save({"a": torch.ones(1)}, tmp_path / "model.pt")
    (tmp_path / name).write_bytes(data)
    return scan(str(tmp_path))


@pytest.mark.parametrize("how", UNREAD)
def test_what_our_reader_does_not_follow_is_said(how: str, tmp_path: Path) -> None:
    assert _beside_weights(tmp_path, "opt.pkl", UNREAD[how]()).status == 2


def test_what_was_called_before_a_pickle_breaks_is_found(tmp_path: Path) -> None:
    """Without PROTO and without STOP: Python runs the call, then complains."""
    text = build.call(_n("models.Net"), build.text("x"))
    found = _beside_weights(tmp_path, "opt.pkl", text)
    assert found.status == 2
    assert "would import models.Net and make one" in [finding.text for finding in found.findings]
    (tmp_path / "opt.pkl").write_bytes(b"cat\ndog\n(and so on)\n")
    assert scan(str(tmp_path)).status == 0


# -- places where nobody looks ----------------------------------------------------------------------------------


def _array(type_: bytes, content: bytes) -> bytes:
    header = (b"{'descr': %b, 'fortran_order': False, 'shape': (1,)}" % type_).ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content


@pytest.mark.parametrize("zipped", [False, True])
def test_arrays_whose_type_is_spelled_in_pieces(zipped: bool, tmp_path: Path) -> None:
    data = _array(b"'ob' 'ject'", EVIL + b".")
    with np.load(io.BytesIO(_zip(data)), allow_pickle=True) as archive, pytest.raises(NameError):
        archive["x"]  # the oracle: numpy runs the call, here of a name that is not there
    path = tmp_path / ("a.npz" if zipped else "a.npy")
    path.write_bytes(_zip(data) if zipped else data)
    assert scan(str(path)).status == 1


def _zip(data: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("x.npy", data)
    return made.getvalue()


def test_an_array_behind_an_array(tmp_path: Path) -> None:
    made = io.BytesIO()
    np.save(made, np.arange(4))
    found = _beside_weights(tmp_path, "x.npy", made.getvalue() + _array(b"'|O'", EVIL + b"."))
    assert [finding.where for finding in found.no_business] == ["x.npy"]
    assert _beside_weights(tmp_path, "x.npy", made.getvalue() * 2).status == 0


def test_lzma_of_any_dictionary_is_packed(tmp_path: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA1, "dict_size": 4096}]
    packed = lzma.compress(build.pickled(EVIL), format=lzma.FORMAT_ALONE, filters=filters)
    assert _beside_weights(tmp_path, "x.joblib", packed).status == 2


@pytest.mark.parametrize("file", ["README.md", "__0_0.distcp"])
def test_items_of_a_distributed_checkpoint_are_where_its_metadata_says(file: str, tmp_path: Path) -> None:
    import torch.distributed.checkpoint as dcp

    folder = tmp_path / "dcp"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is not distributed
        dcp.save({"t": torch.ones(3), "o": {"a": 1}}, checkpoint_id=folder)
    assert scan(str(folder)).status == 0
    with (folder / ".metadata").open("rb") as stream:
        metadata = pickle.load(stream)
    before = (folder / file).read_bytes() if (folder / file).exists() else b"# model\n"
    payload = build.MAGIC + build.pickled(build.number(1001)) + build.pickled(build.DICT) + build.pickled(EVIL)
    (folder / file).write_bytes(before + payload)
    for index, place in metadata.storage_data.items():
        if index.fqn.startswith("o"):
            place.relative_path, place.offset, place.length = file, len(before), len(payload)
    with (folder / ".metadata").open("wb") as stream:
        pickle.dump(metadata, stream)
    found = scan(str(folder))
    assert [finding.name for finding in found.no_business] == ["builtins.exec"]
    assert all(finding.where.startswith(f"{file}, byte {len(before):,}") for finding in found.no_business)
    for index, place in metadata.storage_data.items():
        if index.fqn.startswith("o"):
            place.relative_path = "../outside"
    with (folder / ".metadata").open("wb") as stream:
        pickle.dump(metadata, stream)
    assert scan(str(folder)).status == 2


class Saving(torch.nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.w = torch.ones(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save([1, 2], "/tmp/x")
        return x + self.w


class Speaking(torch.nn.Module):  # type: ignore[misc]
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.numel() > 9:
            raise ValueError("call torch.save(x) and torch.from_file() yourself")
        return x


def test_torchscript_that_writes_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``__setstate__`` of TorchScript runs when the archive is loaded."""
    path = tmp_path / "script.pt"
    torch.jit.script(Saving()).save(path)
    assert [finding.name for finding in scan(str(path)).no_business] == ["torch.save"]
    assert run(["scan", str(path)]) == 1
    assert "torch.save of a file that its code names   in code/__torch__" in capsys.readouterr().out
    torch.jit.script(Speaking()).save(path)
    assert scan(str(path)).status == 0
