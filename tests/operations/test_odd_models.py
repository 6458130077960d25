"""Models and inputs that misbehave: one clear error with exit status 2, or the right answer; never a traceback."""

from __future__ import annotations

import io
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.conftest import in_process

Said = Callable[..., tuple[int, str, str]]

SOURCE = """
import sys
import threading
from dataclasses import dataclass
import torch
from torch import nn

class Base(nn.Linear):
    def __init__(self):
        super().__init__(3, 2)

class Odd(BaseException):
    pass

class Mute(Exception):
    def __str__(self):
        raise ValueError("no text")

@dataclass
class Out:
    logits: object
    rest: object = None

def forward(function):
    class Net(Base):
        forward = lambda self, x: function(self, x)
    return Net

def fails(error):
    def function(self, x):
        raise error
    return forward(function)

def itself(self, x):
    found = [x]
    found.append(found)
    return found

raises, exits, odd, mute = fails(ValueError("no luck")), fails(SystemExit(3)), fails(Odd("odd")), fails(Mute())
recurses = forward(lambda self, x: self(x))
reads = forward(lambda self, x: input("name? "))
none = forward(lambda self, x: None)
generator = forward(lambda self, x: (one for one in [x]))
on_meta = forward(lambda self, x: {"a": torch.empty(3, device="meta")})
itself = forward(itself)
data = forward(lambda self, x: Out(nn.Linear.forward(self, x), [None, {"b": x}]))
small = forward(lambda self, x: x.to(torch.float8_e4m3fn))
unsigned = forward(lambda self, x: torch.tensor([2**63 + 2**62], dtype=torch.uint64))
empty = forward(lambda self, x: x[:0])
nested = forward(lambda self, x: torch.nested.nested_tensor([x[0], x[1, :1]]))
prints = forward(lambda self, x: (print("hello"), x)[1])

class ExitsOnMeta(Base):
    def __init__(self):
        if torch.empty(1).is_meta:
            sys.exit(4)
        super().__init__()

class NeverBuilt(Base):
    def __init__(self):
        sys.exit(4)

class ExitsInLoading(Base):
    def load_state_dict(self, *args, **kwargs):
        sys.exit(1)

class NoStateDict(Base):
    def state_dict(self, *args, **kwargs):
        raise Odd("no state")

class NoSuper(nn.Module):
    def __init__(self):
        pass

class Locked(Base):
    def __init__(self):
        super().__init__()
        self.lock, self.generator = threading.Lock(), (one for one in range(3))

class Scripted(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.jit.script(nn.Linear(3, 2))

def needs(width):
    return nn.Linear(3, width)
"""


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Said:
    """Run a command on weights of a Linear(3, 2); the exit status, and what was printed."""
    (tmp_path / "odd.py").write_text(SOURCE)
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "w.pt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.setattr("sys.stdin", io.StringIO())

    def run(*words: str) -> tuple[int, str, str]:
        status = in_process([words[0], "w.pt", "--model", *words[1:]])
        done = capsys.readouterr()
        assert "Traceback" not in done.err
        return status, done.out, done.err

    return run


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("raises", "forward fails: ValueError: no luck"),
        ("exits", "forward fails: SystemExit: 3"),
        ("odd", "forward fails: Odd: odd"),
        ("mute", "forward fails: Mute"),
        ("recurses", "forward fails: RecursionError"),
        ("reads", "forward fails: EOFError"),
        ("none", "forward gave a NoneType without any tensor in it"),
        ("generator", "forward gave a generator without any tensor in it"),
        ("on_meta", "forward gave a tensor without values, at a: it is on meta"),
        ("NoSuper", "gave a NoSuper whose super().__init__() was not called"),
        ("NeverBuilt", "odd.py:NeverBuilt cannot be built: SystemExit: 4"),
        ("ExitsInLoading", "load_state_dict fails: SystemExit: 1"),
        ("NoStateDict", "its state_dict() fails: Odd: no state"),
        ("needs", "missing 1 required positional argument: 'width'"),
    ],
)  # fmt: skip
def test_a_model_that_misbehaves_is_quoted(command: str, name: str, message: str, said: Said) -> None:
    status, _, err = said(command, f"odd.py:{name}", "--input", "4,3")
    assert status == 2
    assert message in err


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("data", ["logits   4×2 float32", "rest.1.b   4×3 float32"]),
        ("small", ["4×3 float8_e4m3fn · finite"]),
        ("unsigned", ["1 uint64 · finite · 1.384e+19 … 1.384e+19"]),
        ("empty", ["0×3 float32 · finite"]),
        ("nested", ["0   3 float32 · finite", "1   1 float32 · finite"]),
        ("prints", ["4×3 float32 · finite"]),
        ("ExitsOnMeta", ["4×2 float32 · finite"]),
        ("Locked", ["4×2 float32 · finite"]),
    ],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_odd_outputs_are_shown(command: str, name: str, shown: list[str], said: Said) -> None:
    status, out, _ = said(command, f"odd.py:{name}", "--input", "4,3")
    assert status == 0
    assert all(text in out for text in shown)
    assert "hello" not in out


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_model_with_torchscript_in_it(said: Said, tmp_path: Path) -> None:
    """It copies values when it is loaded: it is given real ones."""
    for key, status in (("inner.weight", 0), ("inner.other", 1)):
        torch.save({key: torch.ones(2, 3), "inner.bias": torch.ones(2)}, tmp_path / "w.pt")
        assert said("check", "odd.py:Scripted")[0] == status
    assert "RecursiveScriptModule" in said("check", "odd.py:Scripted")[1]


def test_a_list_that_holds_itself(said: Said) -> None:
    """Of ``check`` alone: torch's counter of FLOPs walks outputs without end."""
    status, out, _ = said("check", "odd.py:itself", "--input", "4,3")
    assert status == 0
    assert "0   4×3 float32" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--input", "9999999999999,3"], "119,999,999,999,988 bytes are more than there is room for"),
        (["--input", "99999999999999999999999999,3"], "bytes are more than there is room for"),
        (["--input", "4294967296,4294967296,4294967296"], "bytes are more than there is room for"),
        (["--input", "4,3:int8:0..500"], "int8 goes from -128 to 127"),
        (["--input", "4,3:uint8:-5..3"], "uint8 goes from 0 to 255"),
        (["--input", "4,3:bool:0..9"], "bool goes from 0 to 1"),
        (["--input", "4,3:int64:0..1e30"], "int64 goes from -9,223,372,036,854,775,808 to"),
        (["--input", "4,3:int64:0.2..0.7"], "no whole number between the two"),
        (["--input", "4,3:float16:0..1e9"], "float16 goes from -65,504.0 to 65,504.0"),
        (["--input", "4,3:float32:-inf..inf"], "float32 goes from"),
        (["--input", "4,3:float4_e2m1fn_x2"], "torch makes no random numbers of this dtype"),
        (["--input", "4,3:int64:9..1"], "'9..1' is empty"),
        (["--input", "-1,3"], "'-1,3' is no shape"),
        (["--input", "4,3:int3"], "'int3' is no dtype"),
        (["--input", "4,3", "--seed", "18446744073709551616"], "--seed 18446744073709551616 has more than 64 bits"),
        (["--input", "4,3", "--seed", "-99999999999999999999"], "has more than 64 bits"),
        (["--input", "4,3", "--device", "meta"], "tensors on meta have no values"),
        (["--input", "4,3", "--device", "xla"], "xla is not here"),
    ],
)
def test_inputs_that_cannot_be(options: list[str], message: str, said: Said) -> None:
    status, _, err = said("run", "odd.py:Base", *options)
    assert status == 2
    assert message in err


@pytest.mark.parametrize(
    "text", ["0,3", "4,3:float64:-1e308..1e308", "4,3:int64:-9223372036854775808..9223372036854775806"]
)
def test_inputs_at_the_edge(text: str, said: Said) -> None:
    assert said("run", "odd.py:prints", "--input", text)[0] == 0


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("check", ["--against-model", "odd.py:Base"], "--against-model does nothing without --against"),
        ("check", ["--device", "cpu"], "--device does nothing without --load or --input"),
        ("check", ["--seed", "1"], "--seed does nothing without"),
        ("check", ["--against", "w.pt"], "--against does nothing without"),
    ],
)
def test_options_that_would_do_nothing(command: str, options: list[str], message: str, said: Said) -> None:
    status, _, err = said(command, "odd.py:Base", *options)
    assert (status, message in err) == (2, True)


@pytest.mark.parametrize(
    "words",
    [
        ["run", "w.pt", "--input", "4,3"],
        ["tree", "w.pt"],
        ["diff", "w.pt", "w.pt"],
        ["remap", "w.pt", "--rule", "weight -> w", "--dry-run"],
        ["remap", "w.pt", "--like", "w.pt", "--dry-run"],
    ],
)
def test_arguments_of_no_model(words: list[str], said: Said, capsys: pytest.CaptureFixture[str]) -> None:
    assert in_process([*words, "--args", "[3]"]) == 2
    assert "--args does nothing without" in capsys.readouterr().err


def test_hints_are_commands(said: Said, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"a b": nn.Linear(3, 2).state_dict(), "c": nn.Linear(3, 2).state_dict()}, tmp_path / "two.pt")
    for words in (["code", "two.pt"], ["run", "two.pt", "--model", "odd.py:Base", "--input", "4,3"]):
        assert in_process(words) == 2
        assert "Name one: 'two.pt#a b'" in capsys.readouterr().err
    torch.save(torch.ones(3), tmp_path / "lone.pt")
    assert in_process(["code", "lone.pt"]) == 2
    assert "ckpt show lone.pt" in capsys.readouterr().err
    assert said("run", "torch.nn:Linear", "--args", "[3, 5]", "--input", "4,3")[2].endswith(
        "What to do about it: ckpt check w.pt --model torch.nn:Linear --args '[3, 5]'\n"
    )


def test_a_damaged_file_does_not_load(said: Said, tmp_path: Path) -> None:
    """Though the names and shapes in it fit; torch refuses it, and what is printed rescues it."""
    data = (tmp_path / "w.pt").read_bytes()
    (tmp_path / "w.pt").write_bytes(data[: data.rindex(b"PK\x01\x02") - 100])
    with pytest.raises(RuntimeError):
        torch.load(tmp_path / "w.pt")
    status, out, err = said("check", "odd.py:Base")
    assert status == 2
    assert "the file is cut" in err
    assert "would not load" in out
    assert "\nloads" not in out
    status, out, _ = said("check", "odd.py:Base", "--json")
    found = json.loads(out)
    assert (status, found["loads"], len(found["damage"])) == (2, False, 1)
    assert in_process([*shlex.split(found["rescue"])[1:], "-q"]) == 1
    assert torch.load(tmp_path / "w.salvaged.pt").keys() == {"weight", "bias"}
