"""``ckpt run`` and what else shows a live model: FLOPs against torch's own counter, shapes against hooks of our own."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import ckpt_inspect as ci
import ckpt_inspect.torch as ct
from ckpt_inspect.model.inputs import InputSpec
from ckpt_inspect.operations.live import live
from ckpt_inspect.operations.run import run
from ckpt_inspect.render import plain
from ckpt_inspect.render import run as render
from ckpt_inspect.torch.forward import make_inputs
from tests import zoo
from tests.conftest import FIXTURES, Run, in_process
from tests.zoo import INPUTS, MODELS, files


def spec_of(name: str) -> InputSpec:
    shape, vocabulary = INPUTS[name]
    return InputSpec(shape) if vocabulary is None else InputSpec(shape, "int64", 0, vocabulary - 1)


def counted(model: nn.Module, name: str) -> tuple[int, dict[str, Any]]:
    """FLOPs and output shapes, by torch's counter and plain hooks."""
    shapes: dict[str, Any] = {}
    for path, part in model.named_modules():
        part.register_forward_hook(
            lambda _, __, out, path=path: shapes.update({path: tuple(out.shape)})
            if isinstance(out, torch.Tensor) else None
        )  # fmt: skip
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(zoo.example_input(name))
    return counter.get_total_flops(), shapes


@pytest.mark.parametrize("name", ["norm", "named-lenet", "cnn2", "gpt", "lstm"])
def test_models_against_torchs_counter(name: str, tmp_path: Path) -> None:
    with files.quiet():
        model = MODELS[name]()
        torch.save({"epoch": 1, "state_dict": model.state_dict()}, tmp_path / "w.pt")
        factory = ct.Model(f"tests.zoo:{type(model).__name__}")
        found = run(ci.open(tmp_path / "w.pt"), [spec_of(name)], factory)
        flops, shapes = counted(model, name)
    assert found.ok
    assert found.parts[0].flops == flops
    assert found.parts[0].parameters == sum(p.numel() for p in model.parameters())
    assert [part.path for part in found.parts] == [path for path, _ in model.named_modules()]
    for part in found.parts:
        if part.path in shapes:
            assert part.outputs == [shapes[part.path]]
            assert part.calls == 1


class Lists(nn.Module):  # type: ignore[misc]
    """Lists in lists, one layer that is called twice, one that is not, one whose weight is used without a call."""

    def __init__(self) -> None:
        super().__init__()
        self.groups = nn.ModuleList(nn.ModuleList([nn.Linear(4, 4), nn.Conv1d(1, 1, 3, padding=1)]) for _ in range(2))
        self.named = nn.ModuleDict({"used": nn.Linear(4, 4), "left": nn.Linear(4, 4)})
        self.again = self.named["used"]
        self.borrowed = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for group in self.groups:
            for layer in group:
                x = layer(x)
        return self.again(self.named["used"](x)) @ self.borrowed.weight


def rows_of(module: nn.Module, path: Path) -> dict[str, Any]:
    torch.save(module.state_dict(), path / "lists.pt")
    found = run(ci.open(path / "lists.pt"), [InputSpec((1, 1, 4))], ct.Model("tests.operations.test_run:Lists"))
    return {part.path: part for part in found.parts}


def test_what_is_never_called_costs_what_its_children_cost(tmp_path: Path) -> None:
    rows = rows_of(Lists(), tmp_path)
    with FlopCounterMode(display=False) as counter:
        Lists()(torch.ones(1, 1, 4))
    linear, conv = 2 * 4 * 4, 2 * 3 * 4
    assert {path: part.flops for path, part in rows.items() if "." not in path} == {
        "": counter.get_total_flops(), "groups": 2 * (linear + conv), "named": 2 * linear, "borrowed": 0,
    }  # fmt: skip
    assert rows[""].flops == 2 * (linear + conv) + 2 * linear + linear  # the last is of the matrix product itself
    assert (rows["groups.1"].flops, rows["groups.1.0"].flops) == (linear + conv, linear)
    assert (rows["groups"].calls, rows["named.used"].calls, rows["named.left"].calls) == (None, 2, 0)


def test_the_table_fits_the_terminal(tmp_path: Path) -> None:
    """Facts of classes go on below; nothing is cut."""
    torch.save(Lists().state_dict(), tmp_path / "w.pt")
    found = run(ci.open(tmp_path / "w.pt"), [InputSpec((1, 1, 4))], ct.Model("tests.operations.test_run:Lists"))
    wide, narrow = ([*plain.texts(render.lines(found, columns))] for columns in (None, 60))
    rows = narrow[1 : next(n for n, line in enumerate(narrow) if line.startswith("total"))]
    assert max(map(len, wide)) > 61  # with its newline
    assert max(map(len, rows)) <= 61
    assert not any("…" in row for row in rows)
    whole = next(part for part in found.parts if part.cls == "Conv1d")
    place = next(n for n, row in enumerate(rows) if "Conv1d(" in row)
    said = rows[place][10:].split("  ")[0] + " " + rows[place + 1].strip()
    assert said.replace("( ", "(") == f"Conv1d({whole.facts})"
    assert "Linear(4, 4)  ×2" in "".join(rows)


def test_size_and_times_are_those_of_other_commands(tmp_path: Path) -> None:
    from ckpt_inspect.render.text import seconds, size

    torch.save(Lists().state_dict(), tmp_path / "w.pt")
    found = run(ci.open(tmp_path / "w.pt"), [InputSpec((1, 1, 4))], ct.Model("tests.operations.test_run:Lists"))
    text = "".join(plain.texts(render.lines(found)))
    assert f"file {size((tmp_path / 'w.pt').stat().st_size)}" in text
    assert "0.000 s" not in text
    assert [seconds(value) for value in (12.3456, 1, 0.0354, 0.00041, 0)] == [
        "12.35 s", "1.00 s", "35 ms", "0.41 ms", "0 ms",
    ]  # fmt: skip


def test_lists_in_torchscript(tmp_path: Path) -> None:
    """The profiler names neither the lists nor which of two equal numbers it means."""
    module = Lists().eval()
    expected = rows_of(module, tmp_path)
    with files.quiet():
        torch.jit.script(module).save(str(tmp_path / "s.pt"))
        found = run(ci.open(tmp_path / "s.pt"), [InputSpec((1, 1, 4))])
    rows = {part.path: part for part in found.parts}
    for path, part in expected.items():
        if path not in ("named", "named.used"):  # the layer called twice has two rows there
            assert rows[path].flops == part.flops, path
            assert not path.startswith("groups.") or rows[path].outputs == part.outputs
    assert rows["named.used"].flops + rows["again"].flops == expected["named.used"].flops
    assert found.why is None


def test_what_torchs_counter_does_not_count_is_said(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.LSTM(4, 8)), tmp_path / "m.pt")
    found = run(ci.open(tmp_path / "m.pt"), [InputSpec((3, 2, 4))])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        nn.LSTM(4, 8)(torch.ones(3, 2, 4))
    assert found.parts[0].flops == counter.get_total_flops()
    assert counter.get_total_flops() or "no formula for mkldnn_rnn_layer" in (found.why or "")


@pytest.mark.parametrize(("name", "how"), [("named-lenet", "script"), ("cnn1", "trace"), ("gpt", "trace")])
def test_torchscript_rows_are_those_of_the_model(name: str, how: str, tmp_path: Path) -> None:
    with files.quiet():
        model = MODELS[name]().eval()
        made = torch.jit.script(model) if how == "script" else torch.jit.trace(model, zoo.example_input(name))
        made.save(str(tmp_path / "s.pt"))
        found = run(ci.open(tmp_path / "s.pt"), [spec_of(name)])
        flops, shapes = counted(model, name)
    assert found.executed
    assert found.parts[0].flops == flops
    assert [part.path for part in found.parts] == [path for path, _ in model.named_modules()]
    assert [part.cls for part in found.parts] == [type(part).__name__ for _, part in model.named_modules()]
    leaves = [part for part in found.parts if part.outputs and part.path]
    assert leaves
    for part in leaves:
        assert part.outputs is not None
        assert part.outputs[0] == shapes[part.path] or part.cls in ("LayerNorm", "Linear", "Embedding")


def test_a_frozen_archive_gives_one_row_and_says_why(tmp_path: Path) -> None:
    found = run(ci.open(files.FILES["frozen_model.pt"](tmp_path)), [spec_of("mnist")])
    assert len(found.parts) == 1
    assert "one row" in (found.why or "")
    assert found.parts[0].flops == counted(zoo.MnistNet(), "mnist")[0]


def test_not_finite_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = zoo.Cnn1().state_dict()
    state["fc2.bias"][3] = float("nan")
    torch.save(state, tmp_path / "w.pt")
    monkeypatch.chdir(tmp_path)
    words = ["w.pt", "--model", "tests.zoo:Cnn1", "--input", "1,3,20,20", "-q"]
    assert in_process(["run", *words]) == 1
    assert in_process(["check", *words]) == 1
    assert in_process(["check", *words[:3], "-q"]) == 0


def test_a_whole_module_of_torchs_layers_needs_no_model(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)).eval()
    torch.save(model, tmp_path / "m.pt")
    found = run(ci.open(tmp_path / "m.pt"), [InputSpec((1, 1, 4, 4))])
    assert not found.executed
    (x,) = make_inputs([InputSpec((1, 1, 4, 4))], 0, torch.device("cpu"))
    assert torch.equal(found.forward.tensors[""], model(x))
    torch.save(nn.ModuleList(model), tmp_path / "l.pt")
    with pytest.raises(ci.SelectionError, match="no code that could be run"):
        run(ci.open(tmp_path / "l.pt"), [InputSpec((1, 1, 4, 4))])


def test_layers_that_are_made_of_layers_need_no_model_either(tmp_path: Path) -> None:
    model = nn.Sequential(nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 2)).eval()
    model[0].layers[1].register_forward_hook(print)
    torch.save(model, tmp_path / "m.pt")
    found = run(ci.open(tmp_path / "m.pt"), [InputSpec((1, 3, 4))])
    (x,) = make_inputs([InputSpec((1, 3, 4))], 0, torch.device("cpu"))
    with torch.no_grad():
        assert torch.equal(found.forward.tensors[""], model(x))
    assert "hooks that the file records are not run: of 0.layers.1" in (found.why or "")


def test_weights_need_a_model_and_a_script_needs_none(capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (["run", "lenet.pt", "--input", "1,3,32,32"], "holds weights, and no code that could be run"),
        (["run", "scripted.pt"], "nothing to feed it"),
        (["run", "scripted.pt", "--input", "1,4,32,32"], "forward fails: RuntimeError: Given groups=1, weight of size"),
        (["run", "scripted.pt", "--input", "1,3,32,32", "--device", "cuda:77"], "cuda:77 was asked for"),
        (["run", "scripted.pt", "--input", "1,3,32,32", "--device", "gpu"], "no device"),
        (["check", "scripted.pt", "--model", f"{FIXTURES / 'scripted.pt'}:Net"], "scripted.pt is no Python code"),
    ):
        words[1] = str(FIXTURES / words[1])
        assert in_process(words) == 2
        assert message in capsys.readouterr().err


def test_a_forward_of_the_wrong_shape_is_quoted_with_its_line(ckpt: Run) -> None:
    done = ckpt("run", "run.ckpt", "--model", "nets.py:Cnn", "--input", "1,3,20,20")
    assert done.returncode == 2  # its keys do not fit
    assert "Missing key(s) in state_dict" in done.stderr
    done = ckpt("check", "lenet.pt", "--model", "nets.py:LeNet", "--args", "[10]", "--input", "1,3,31,31")
    assert done.returncode == 2
    assert "mat1 and mat2 shapes cannot be multiplied" in done.stderr
    assert "nets.py, line 38: return self.fc3(" in done.stderr
    assert "Traceback" not in done.stderr


def test_json_of_run(ckpt: Run) -> None:
    done = ckpt("run", "scripted.pt", "--input", "2,3,32,32", "--json")
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    found = json.loads(done.stdout)
    assert found["schema"] == "ckpt-inspect/run/1"
    assert found["executed"] is True
    assert found["modules"][1]["outputs"] == [[2, 6, 28, 28]]
    assert found["outputs"][0]["shape"] == [2, 10]


def test_against_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(zoo.CifarNet().state_dict(), "net.pt")
    torch.save(zoo.CifarNet().state_dict(), "other.pt")
    like = ["remap", "net.pt", "--like", "tests.zoo:CifarSeq", "-o", "seq.pt", "-q"]
    assert in_process(like) == 0
    words = ["check", "net.pt", "--model", "tests.zoo:CifarNet", "--input", "2,3,32,32", "--json", "--against"]
    for other, status, equal in (("net.pt", 0, True), ("other.pt", 1, False), ("seq.pt", 0, True)):
        more = ["--against-model", "tests.zoo:CifarSeq"] if other == "seq.pt" else []
        assert in_process([*words, other, *more]) == status
        assert json.loads(capsys.readouterr().out)["against"]["equal"] is equal


@pytest.mark.parametrize("name", ["mnist", "cnn2", "gpt", "norms", "attributes"])
def test_a_live_model_in_the_tree(name: str) -> None:
    with files.quiet():
        model = MODELS[name]()
    checkpoint = live(model)
    section = checkpoint.sections[""]
    kept = model.state_dict()
    assert [key for key, info in section.items() if info.persistent] == list(kept)
    buffers = dict(model.named_buffers(remove_duplicate=False))
    assert {key for key, info in section.items() if not info.persistent} == set(buffers) - set(kept)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    assert {key for key, info in section.items() if info.role == "parameter"} == set(parameters)
    tied = {frozenset(names) for names in checkpoint.tied()}
    groups: dict[int, set[str]] = {}
    for key, tensor in {**parameters, **buffers}.items():
        groups.setdefault(id(tensor), set()).add(key)
    assert tied == {frozenset(names) for names in groups.values() if len(names) > 1}
    assert ci.tree(checkpoint).to_dict()["root"]["numel"] > 0


def test_tree_of_a_model_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert in_process(["tree", "--model", "tests.zoo:NormNet"]) == 0
    assert "relu1   SELU" in capsys.readouterr().out
    assert in_process(["tree"]) == 2
    assert in_process(["tree", "x.pt", "--model", "tests.zoo:NormNet"]) == 2


def test_diff_with_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["diff", str(FIXTURES / "mnist.ckpt"), "--json", "--model", "tests.zoo:MnistNet", "--args"]
    assert in_process([*words, "[2, 8]"]) == 0
    assert json.loads(capsys.readouterr().out)["compared_by"] == "names"
    assert in_process([*words, "[2, 9]"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [change["key"] for change in found["changed"]] == ["fc1.weight", "fc1.bias", "fc2.weight"]
    torch.save(zoo.AttributeNet().state_dict(), tmp_path / "w.pt")  # it has a buffer that is not persistent
    assert in_process(["diff", str(tmp_path / "w.pt"), "--model", "tests.zoo:AttributeNet", "-q"]) == 0
    assert in_process(["diff", str(tmp_path / "w.pt")]) == 2


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_check_on_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(zoo.Cnn1().state_dict(), tmp_path / "w.pt")
    words = ["check", str(tmp_path / "w.pt"), "--model", "tests.zoo:Cnn1", "--device", "cuda", "--input", "1,3,20,20"]
    assert in_process([*words, "--against", str(tmp_path / "w.pt"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["loaded"]["device"].startswith("cuda")
    assert found["against"]["equal"] is True
    assert found["forward"]["peak_bytes"] > 0


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_script_on_a_gpu(tmp_path: Path) -> None:
    """Its modules and FLOPs are those that it has on the CPU."""
    with files.quiet():
        torch.jit.script(zoo.Cnn1().eval()).save(str(tmp_path / "s.pt"))
        rows = [
            [(part.path, part.flops) for part in run(ci.open(tmp_path / "s.pt"), [spec_of("cnn1")], None, device).parts]
            for device in ("cpu", "cuda")
        ]
    assert rows[0] == rows[1]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_run_on_a_gpu(tmp_path: Path) -> None:
    torch.save(zoo.Cnn1().state_dict(), tmp_path / "w.pt")
    found = run(ci.open(tmp_path / "w.pt"), [spec_of("cnn1")], ct.Model("tests.zoo:Cnn1"), "cuda")
    assert found.device == "cuda"
    assert found.ok
    assert found.parts[0].flops == counted(zoo.Cnn1(), "cnn1")[0]


def test_a_model_that_takes_indices_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "worded.py").write_text(
        "import torch\nfrom torch import nn\nclass Words(nn.Embedding):\n    def __init__(self):\n"
        "        super().__init__(9, 4)\nclass Picks(nn.Linear):\n    def __init__(self):\n"
        "        super().__init__(4, 9)\n    def forward(self, i):\n        return self.weight[i]\n"
    )
    torch.save(nn.Embedding(9, 4).state_dict(), "w.pt")
    torch.save(nn.Linear(4, 9).state_dict(), "p.pt")
    for command, file, name in (("run", "w.pt", "Words"), ("check", "w.pt", "Words"), ("run", "p.pt", "Picks")):
        assert in_process([command, file, "--model", f"worded.py:{name}", "--input", "1,8"]) == 2
        hint = capsys.readouterr().err.splitlines()[-1]
        words = shlex.split(hint.partition("for indices: ")[2])
        assert words[-1] == "1,8:int64"
        assert in_process(words[1:]) == 0
        capsys.readouterr()
