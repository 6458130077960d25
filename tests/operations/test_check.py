"""``ckpt check``: its verdict is torch's, and the command it prints, when it is run, makes ``strict=True`` succeed."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

import ckpt_inspect as ci
import ckpt_inspect.torch as ct
from ckpt_inspect.commands import COMMANDS
from ckpt_inspect.operations.check import Check, check
from tests import zoo
from tests.conftest import FIXTURES, Run, in_process
from tests.zoo import MODELS, files

ROOT = Path(__file__).parent.parent.parent


def torch_says(model: nn.Module, state_dict: Any) -> str | None:
    """Torch's own error, None if it loads."""
    try:
        model.load_state_dict(state_dict, strict=True)
    except RuntimeError as error:
        return str(error)
    return None


def agrees(found: Check, model: nn.Module, state_dict: Any) -> None:
    """The verdict against torch's own, on the real module with the real values."""
    said = torch_says(model, state_dict)
    assert found.text == said
    assert found.loads == (said is None)
    keys = torch.nn.Module.load_state_dict  # the lists, where no shape is in their way
    if not found.mismatched:
        missing, unexpected = keys(model, state_dict, strict=False)
        assert (found.missing, found.unexpected) == (list(missing), list(unexpected))
    assert all(f"size mismatch for {one.key}: " in (said or "") for one in found.mismatched)


def run(command: str) -> int:
    """Run a command as it was printed, in this process: importing torch again takes seconds."""
    status = 0
    for step in command.split(" && "):
        words = shlex.split(step)
        if words[:2] == ["python", "-c"]:
            exec(compile(words[2], "fix", "exec"), {})
        else:
            assert words[0] == "ckpt"
            status = in_process(words[1:])
    return status


def weights_of(path: Path) -> Any:
    """What torch and safetensors give of a file, the part that is weights."""
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    loaded = torch.load(path, weights_only=True)
    return loaded.get("model", loaded)


def fixed(found: Check, model: nn.Module) -> None:
    """Run the fix as it was printed; the new file loads with ``strict=True``."""
    assert found.fix is not None
    assert found.fix.loads
    assert found.fix.matched == found.fix.of == found.of
    assert run(found.fix.command) == 0
    assert COMMANDS.keys() >= {word.split(" ")[0] for word in found.fix.command.split("ckpt ")[1:] if "-o" in word}
    out = Path(shlex.split(found.fix.command)[-1].rpartition('torch.save(s, "')[2].removesuffix('")'))
    assert torch_says(model, weights_of(out)) is None
    assert check(ci.open(out), model).loads


@pytest.mark.parametrize("name", MODELS)
def test_right_checkpoint_of_every_model(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    found = check(ci.open(tmp_path / "weights.pt"), model)
    agrees(found, MODELS[name](), model.state_dict())
    assert found.loads
    assert found.fix is None
    assert found.matched == found.of == sum(info.persistent for info in found.model.values())
    assert found.to_dict()["missing"] == found.to_dict()["unexpected"] == found.to_dict()["mismatched"] == []


@pytest.mark.parametrize("name", ["mnist", "norm", "lenet", "named-lenet", "cifar", "cifar-seq", "cnn1", "cnn2"])
@pytest.mark.parametrize("form", ["module", "script", "safetensors", "nested"])
def test_other_forms_of_the_right_checkpoint(name: str, form: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pt")
    with files.quiet():
        if form == "module":
            torch.save(model, path)
        elif form == "script":
            torch.jit.script(model).save(str(path)) if name != "cnn2" else files.save_script(
                path, torch.jit.script(model)
            )
        elif form == "safetensors":
            safetensors.torch.save_model(model, str(path))
        else:
            torch.save({"epoch": 3, "model": model.state_dict()}, path)
    found = check(ci.open(path), model)
    if form == "safetensors" and name == "cnn2":  # what is tied is written once
        assert not found.loads
        assert found.only_harmless
        fixed(found, model)
    else:
        assert found.loads


def wrapped(*prefixes: str) -> Callable[[Any], Any]:
    def wrap(state: Any) -> Any:
        for prefix in prefixes:
            state = files.renamed(state, lambda key, prefix=prefix: f"{prefix}.{key}" if key else prefix)  # type: ignore[misc]
        return state

    return wrap


def averaged(state: Any) -> Any:
    made = wrapped("module")(state)
    return OrderedDict([("n_averaged", torch.tensor(3)), *made.items()])


def shifted(state: Any) -> Any:
    """Blocks counted from 1, as after a block was put before them."""
    return files.renamed(state, lambda key: ".".join(str(int(s) + 1) if s.isdigit() else s for s in key.split(".")))


def renamed(state: Any) -> Any:
    return files.renamed(state, lambda key: key.replace("fc", "classifier_").replace("conv", "convolution_"))


def inside(state: Any) -> Any:
    """One part of a larger model."""
    larger = OrderedDict((f"student.backbone.{key}", value) for key, value in state.items())
    larger.update((f"teacher.backbone.{key}", value + 1) for key, value in state.items())
    larger["student.head.weight"] = torch.ones(3, 3)
    return larger


def counted(state: Any) -> Any:
    """After thop's ``profile``."""
    return OrderedDict([*state.items(), ("total_ops", torch.zeros(1)), ("conv1.total_params", torch.zeros(1))])


def half_wrapped(state: Any) -> Any:
    """Every second key carries ``module.``"""
    keys = list(state)[1::2]
    return OrderedDict((f"module.{key}" if key in keys else key, value) for key, value in state.items())


def with_averages(state: Any) -> Any:
    """As MMCV's EMAHook registers them."""
    made = OrderedDict(state)
    made.update(("ema_" + key.replace(".", "_"), value * 1) for key, value in state.items())
    return made


WRONG: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "dataparallel": ("mnist", wrapped("module")),
    "compiled": ("mnist", wrapped("_orig_mod")),
    "compiled-in-ddp": ("cnn1", wrapped("_orig_mod", "module")),
    "lightning": ("cifar", wrapped("model")),
    "lightning-compiled": ("cifar", wrapped("_orig_mod", "model")),
    "in-the-middle": ("named-lenet", lambda state: files.renamed(state, files.inside_layers("_orig_mod"))),
    "ema": ("cnn1", averaged),
    "shifted": ("gpt", shifted),
    "shifted-sequential": ("cifar-seq", shifted),
    "renamed": ("cnn1", renamed),
    "part-of-a-larger-one": ("cifar", inside),
    "leftovers": ("cnn1", counted),
    "half-wrapped": ("cnn1", half_wrapped),
    "averages-beside": ("cifar", with_averages),
}


@pytest.mark.parametrize("container", ["plain", "nested", "safetensors"])
@pytest.mark.parametrize("case", WRONG)
def test_the_fix_when_run_makes_it_load(case: str, container: str, tmp_path: Path) -> None:
    name, change = WRONG[case]
    model = MODELS[name]()
    state = change(model.state_dict())
    if container == "safetensors":
        path = tmp_path / "w.safetensors"
        safetensors.torch.save_file({key: value.clone() for key, value in state.items()}, path)
        state = safetensors.torch.load_file(path)
    else:
        path = tmp_path / "w.pt"
        torch.save(state if container == "plain" else {"epoch": 1, "model": state}, path)
    found = check(ci.open(path), model)
    if container != "safetensors":  # its library sorts them
        agrees(found, MODELS[name](), state)
    assert not found.loads
    fixed(found, model)


def test_leftovers_are_dropped_with_one_glob(tmp_path: Path) -> None:
    model = MODELS["cifar"]()
    torch.save(with_averages(model.state_dict()), tmp_path / "w.pt")
    found = check(ci.open(tmp_path / "w.pt"), model)
    assert found.fix is not None
    assert found.fix.command.count("--drop") == 1
    card = ci.info(ci.open(tmp_path / "w.pt"))
    assert card.sections[0].counts.unknown == 0
    (hint,) = [hint for hint in card.hints if hint.code == "averages"]
    assert hint.command is not None
    assert "--drop 'ema_*'" in hint.command
    assert run(hint.command) == 0
    MODELS["cifar"]().load_state_dict(torch.load(tmp_path / "w.remapped.pt", weights_only=True))


def test_wrapped_model_and_plain_file(tmp_path: Path) -> None:
    plain, model = MODELS["cnn1"](), nn.DataParallel(MODELS["cnn1"]())
    torch.save(plain.state_dict(), tmp_path / "w.pt")
    found = check(ci.open(tmp_path / "w.pt"), model)
    agrees(found, nn.DataParallel(MODELS["cnn1"]()), plain.state_dict())
    assert found.matched == 0
    assert found.fix is not None
    assert found.fix.short == "ckpt add-prefix"
    fixed(found, model)


@pytest.mark.parametrize(("one", "other"), [("cifar", "cifar-seq"), ("cifar-seq", "cifar")])
def test_attribute_style_and_sequential_style(one: str, other: str, tmp_path: Path) -> None:
    source, model = MODELS[one]().eval(), MODELS[other]().eval()
    torch.save(source.state_dict(), tmp_path / "w.pt")
    fixed(check(ci.open(tmp_path / "w.pt"), model), model)
    x = zoo.example_input(one)
    assert torch.equal(model(x), source(x))


def test_nested_wrappers_and_ties_to_a_plain_model(tmp_path: Path) -> None:
    source, model = zoo.cnn3().eval(), zoo.Cnn1().eval()
    torch.save(source.state_dict(), tmp_path / "w.pt")
    found = check(ci.open(tmp_path / "w.pt"), model)
    assert (found.matched, found.of) == (0, 18)
    fixed(found, model)
    x = zoo.example_input("cnn1")
    assert torch.equal(model(x), source.module(x))


def test_another_head_says_so_and_how_the_file_was_built(tmp_path: Path) -> None:
    torch.save(zoo.LeNet(10).state_dict(), tmp_path / "w.pt")
    found = check(ci.open(tmp_path / "w.pt"), ct.Model("tests.zoo:LeNet", [2]))
    agrees(found, zoo.LeNet(2), torch.load(tmp_path / "w.pt"))
    assert [(one.key, one.file, one.model) for one in found.mismatched] == [
        ("fc3.weight", (10, 84), (2, 84)), ("fc3.bias", (10,), (2,)),
    ]  # fmt: skip
    assert {one.cause for one in found.mismatched} == {"another head: 10 in the file, 2 in the model"}
    assert (found.matched, found.of) == (8, 10)
    assert found.fix is not None
    assert found.otherwise is not None
    assert found.fix.loads
    assert run(found.fix.command) == 0
    assert run(found.otherwise.command) == 0
    out = torch.load(shlex.split(found.otherwise.command)[-1])
    missing, unexpected = zoo.LeNet(2).load_state_dict(out, strict=False)
    assert (missing, unexpected) == (["fc3.weight", "fc3.bias"], [])


class Layouts(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.point = nn.Conv1d(8, 5, 1)
        self.volume = nn.Conv3d(2, 4, 3)
        self.wte = nn.Embedding(7, 4)
        self.pos_embed = nn.Parameter(torch.zeros(1, 9, 4))
        self.mix = nn.Linear(6, 4)
        self.lm_head = nn.Linear(4, 7, bias=False)
        self.norm = nn.LayerNorm(4)


@pytest.mark.parametrize(
    ("key", "change", "cause"),
    [
        ("stem.weight", lambda w: w[:, :1], "input channels: 1 in the file, 3 in the model"),
        ("point.weight", lambda w: w[..., 0], "Linear in the file, Conv1d in the model: only dimensions of 1 differ"),
        ("volume.weight", lambda w: w.permute(2, 3, 4, 1, 0), "permuted, by one of 6"),
        ("wte.weight", lambda w: torch.ones(9, 4), "vocabulary size: 9 in the file, 7 in the model"),
        ("pos_embed", lambda w: torch.ones(1, 17, 4), "position embedding: 17 in the file, 9 in the model"),
        ("mix.weight", lambda w: w.t(), "transposed (as Conv1D of GPT-2 keeps it)"),
        ("mix.weight", lambda w: w.reshape(3, 8), "the same 24 numbers in another arrangement"),
        ("lm_head.weight", lambda w: torch.ones(9, 4), "another head: 9 in the file, 7 in the model"),
        ("norm.bias", lambda w: torch.ones(5), "another number of channels: 5 in the file, 4 in the model"),
    ],
)
def test_causes(key: str, change: Callable[[Any], Any], cause: str, tmp_path: Path) -> None:
    state = Layouts().state_dict()
    state[key] = change(state[key]).contiguous()
    torch.save(state, tmp_path / "w.pt")
    found = check(ci.open(tmp_path / "w.pt"), Layouts())
    agrees(found, Layouts(), state)
    assert [one.key for one in found.mismatched] == [key]
    assert (found.mismatched[0].cause or "").startswith(cause)


def test_leftovers_and_ties_are_apart_from_what_is_wrong(tmp_path: Path) -> None:
    model = zoo.Gpt()
    state = model.state_dict()
    del state["wte.weight"]
    state["rotary.inv_freq"] = torch.ones(4)
    torch.save(state, tmp_path / "w.pt")
    found = check(ci.open(tmp_path / "w.pt"), model)
    agrees(found, zoo.Gpt(), state)
    assert not found.loads
    assert found.only_harmless
    assert found.harmless["wte.weight"] == "tied to lm_head.weight in the model, and that is there"
    assert "rotary" in found.harmless["rotary.inv_freq"]


@pytest.mark.parametrize("recorded", [True, False])
def test_a_tied_absence_in_safetensors(recorded: bool, tmp_path: Path) -> None:
    model = zoo.Gpt()
    if recorded:
        safetensors.torch.save_model(model, str(tmp_path / "w.safetensors"))
    else:  # as the hub has them
        state = {key: value for key, value in model.state_dict().items() if key != "lm_head.weight"}
        safetensors.torch.save_file(state, tmp_path / "w.safetensors", metadata={"format": "pt"})
    found = check(ci.open(tmp_path / "w.safetensors"), model)
    assert (found.missing, found.unexpected) == (["wte.weight" if recorded else "lm_head.weight"], [])
    assert found.only_harmless
    fixed(found, zoo.Gpt())


def test_a_tied_absence_is_loaded_and_run_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``load_into`` ties again what the file has once; ``strict=True`` would not, so the exit status stays 1."""
    model = zoo.Gpt().eval()
    safetensors.torch.save_model(model, str(tmp_path / "w.safetensors"))
    torch.save(model.state_dict(), tmp_path / "w.pt")
    words = ["w.safetensors", "--model", "tests.zoo:Gpt", "--input", "1,4:int64:0..9", "--against", "w.pt", "--json"]
    monkeypatch.chdir(tmp_path)
    assert in_process(["check", *words]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["loads"], found["against"]["equal"]) == (False, True)


def test_a_tied_absence_under_a_wrapper(tmp_path: Path) -> None:
    """Two steps: the first leaves nothing but what does no harm, and says so; the second is as without a wrapper."""
    state = {f"module.{key}": value for key, value in zoo.Gpt().state_dict().items() if key != "lm_head.weight"}
    torch.save(state, tmp_path / "w.pt")
    found = check(ci.open(tmp_path / "w.pt"), zoo.Gpt())
    assert found.fix is not None
    assert (found.fix.loads, found.fix.only_harmless) == (False, True)
    assert run(found.fix.command) == 0
    fixed(check(ci.open(tmp_path / "w.stripped.pt"), zoo.Gpt()), zoo.Gpt())


@pytest.mark.parametrize("form", ["module", "script"])
def test_names_that_are_in_code(form: str, tmp_path: Path) -> None:
    """A pickled module and TorchScript cannot be renamed: the fix makes a state_dict first."""
    source = zoo.CifarNet()
    if form == "module":
        torch.save(source, tmp_path / "w.pt")
    else:
        with files.quiet():
            torch.jit.script(source).save(str(tmp_path / "w.pt"))
    fixed(check(ci.open(tmp_path / "w.pt"), zoo.CifarSeq()), zoo.CifarSeq())


def test_a_missing_module_is_no_leftover(tmp_path: Path) -> None:
    state = zoo.Cnn1().state_dict()
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        del state[f"bn1.{name}"]
    torch.save(state, tmp_path / "w.pt")
    assert check(ci.open(tmp_path / "w.pt"), zoo.Cnn1()).harmless == {}


def test_weight_norm_of_both_kinds(tmp_path: Path) -> None:
    with files.quiet():
        new = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 3, 3)))
        old = nn.Sequential(nn.utils.weight_norm(nn.Conv1d(2, 3, 3)))
        torch.save(new.state_dict(), tmp_path / "new.pt")
        torch.save(old.state_dict(), tmp_path / "old.pt")
        assert check(ci.open(tmp_path / "old.pt"), new).loads  # its hook takes the older names
        found = check(ci.open(tmp_path / "new.pt"), old)
        agrees(found, old, new.state_dict())
    assert set(found.harmless) == {*found.missing, *found.unexpected}
    assert not found.only_harmless  # strict=False would leave these weights as the model makes them
    fixed(found, old)


def test_weight_norm_without_a_path_and_of_other_parameters(tmp_path: Path) -> None:
    with files.quiet():
        lstm = nn.LSTM(3, 2)
        for name in ("weight_ih_l0", "weight_hh_l0"):
            nn.utils.parametrizations.weight_norm(lstm, name)
        old = nn.LSTM(3, 2)
        for name in ("weight_ih_l0", "weight_hh_l0"):
            nn.utils.weight_norm(old, name)
        pairs = [
            (nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), nn.utils.weight_norm(nn.Linear(3, 4))),
            (lstm, old),
        ]
        for number, (new, model) in enumerate(pairs):
            path = tmp_path / f"{number}.pt"
            torch.save(new.state_dict(), path)
            assert torch_says(model, new.state_dict()) is not None
            fixed(check(ci.open(path), model), model)


def test_what_loads_in_part_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = zoo.cnn3()
    state = model.state_dict()
    gone = [key for key in state if key.endswith("running_mean")]
    torch.save({key: value for key, value in state.items() if key not in gone}, tmp_path / "w.pt")
    found = check(ci.open(tmp_path / "w.pt"), zoo.cnn3())
    assert found.fix is None
    assert found.loads_partly
    in_process(["check", str(tmp_path / "w.pt"), "--model", "tests.zoo:cnn3"])
    said = capsys.readouterr().out
    whole = sum(one.numel() for one in model.parameters())
    assert (
        f"strict=False loads {len(state) - len(gone)} of {len(state)} tensors, {whole:,} of {whole:,} parameters"
        in said
    )
    fresh = zoo.cnn3()
    exec(said.split("command")[-1].splitlines()[-1].strip(), {"ckpt_inspect": ci, "model": fresh})
    assert all(torch.equal(fresh.state_dict()[key], value) for key, value in state.items() if key not in gone)


def test_optimizers_beside_the_weights(tmp_path: Path) -> None:
    for model, misfit in ((zoo.MnistNet(), None), (zoo.LeNet(10), "8 parameters, the model has 10")):
        found = check(ci.open(files.FILES["mnist.ckpt"](tmp_path)), model)
        (facts,) = found.optimizers
        assert (facts.section, facts.groups) == ("optimizer_state_dict", [8])
        assert (facts.misfit is None) if misfit is None else misfit in (facts.misfit or "")


def test_a_file_of_another_model_has_no_fix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A few counters and biases of the same name and shape are no reason to rename anything."""
    torch.save(zoo.cnn3().state_dict(), tmp_path / "w.pt")
    assert in_process(["check", str(tmp_path / "w.pt"), "--model", "tests.zoo:NormNet"]) == 1
    assert "none found among the names and arguments that were tried" in capsys.readouterr().out
    assert check(ci.open(tmp_path / "w.pt"), zoo.NormNet()).fix is None


def test_nothing_matched_is_never_a_success(tmp_path: Path) -> None:
    class Tolerant(nn.Linear):  # type: ignore[misc]
        def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
            return super().load_state_dict(state_dict, strict=False, assign=assign)

    torch.save({"other": torch.ones(2)}, tmp_path / "w.pt")
    found = check(ci.open(tmp_path / "w.pt"), Tolerant(2, 3))
    assert found.text is None
    assert not found.loads


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = MODELS["cnn1"]()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch.save(MODELS["cnn1"]().state_dict(), tmp_path / "w.pt")
    assert check(ci.open(tmp_path / "w.pt"), model).loads
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_huge_model_takes_no_memory(tmp_path: Path) -> None:
    """70 billion parameters, of the file and of the model."""
    with torch.device("meta"):
        huge = nn.Sequential(*(nn.Linear(65536, 65536) for _ in range(16)))
    with torch.serialization.skip_data():
        state = OrderedDict((key, torch.empty(1).expand(value.shape)) for key, value in huge.state_dict().items())
        torch.save(state, tmp_path / "huge.pt")
    found = check(ci.open(tmp_path / "huge.pt"), huge)
    assert found.loads
    assert found.of_numel == 16 * (65536 * 65536 + 65536)


SOURCES = {
    "syntax.py": "from torch import nn\nclass Net(nn.Module:\n    pass\n",
    "missing.py": "import torch\nimport no_such_package_at_all\n",
    "raises.py": "from torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n        raise ValueError('no luck')\n",
    "noise.py": "from torch import nn\nprint('hello')\nclass Net(nn.Linear):\n    def __init__(self):\n        print('made')\n        super().__init__(2, 3)\n",
    "item.py": "import torch\nfrom torch import nn\nclass Net(nn.Linear):\n    def __init__(self):\n        super().__init__(2, int(torch.linspace(0, 3, 2)[1].item()))\n",
    "notmodule.py": "def net():\n    return 3\nNet = 4\n",
    "exits.py": "raise SystemExit('stop')\n",
}


@pytest.mark.parametrize(
    ("spec", "options", "message", "hint"),
    [
        (
            "syntax.py:Net",
            [],
            "syntax.py:Net cannot be imported: SyntaxError",
            "syntax.py, line 2: class Net(nn.Module:",
        ),
        ("missing.py:Net", [], "No module named 'no_such_package_at_all'", "missing.py, line 2: import no_such"),
        (
            "raises.py:Net",
            [],
            "raises.py:Net cannot be built: ValueError: no luck",
            "line 4: raise ValueError('no luck')",
        ),
        ("noise.py:Nett", [], "there is no Nett in noise", "Did you mean noise.py:Net?"),
        ("noise.py:Model", [], "there is no Model in ", "There is: noise.py:Net"),
        ("noise.py:Net", ["--kwargs", '{"depth": 3}'], "unexpected keyword argument 'depth'", "It takes Net()"),
        ("noise.py:Net", ["--kwargs", "{depth: 3}"], "--kwargs is not JSON", "For example: --kwargs"),
        ("noise.py:Net", ["--args", "{}"], "--args must be an array of JSON", "For example: --args"),
        ("notmodule.py:net", [], "gave a int, not a torch.nn.Module", "Name a class"),
        ("notmodule.py:Net", [], "notmodule.py:Net is a int, not a model", None),
        ("exits.py:Net", [], "cannot be imported: SystemExit: stop", None),
        ("nowhere.py:Net", [], "there is no such file of Python code", "There is: exits.py, item.py, missing.py"),
        ("nois.py:Net", [], "there is no such file of Python code", "Did you mean noise.py:Net?"),
        (
            "w.pt/nets.py:Net",
            [],
            "there is no such file of Python code",
            "Name it as seen from here: path/to/file.py:Net",
        ),
        ("no.such.mod:Net", [], "No module named 'no'", "name its file: path/to/file.py:Net"),
        ("raise:Net", [], "No module named 'raise'", "Did you mean raises.py:Net?"),
        ("noise.py", [], "'noise.py' is no model: name it", "There is: noise.py:Net"),
        ("noise", [], "'noise' is no model: name it", "There is: noise:Net"),
        ("nets.Net", [], "is no model: name it pkg.mod:Net", "For example: nets:Net"),
        ("w.pt", [], "w.pt is no Python code: a model is needed here", "ckpt run w.pt"),
    ],
)
def test_a_model_that_fails_is_quoted(
    spec: str, options: list[str], message: str, hint: str | None, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for name, source in SOURCES.items():
        (tmp_path / name).write_text(source)
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "w.pt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert in_process(["check", "w.pt", "--model", spec, *options]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert hint is None or hint in said
    assert "Traceback" not in said


def test_what_the_model_prints_is_not_in_the_way(tmp_path: Path, ckpt: Run) -> None:
    (tmp_path / "noise.py").write_text(SOURCES["noise.py"])
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "w.pt")
    done = ckpt("check", "w.pt", "--model", "noise.py:Net", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["loads"] is True
    assert "hello" in done.stderr


def test_a_model_that_reads_values_is_built_on_the_cpu_and_that_is_said(tmp_path: Path, ckpt: Run) -> None:
    (tmp_path / "item.py").write_text(SOURCES["item.py"])
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "w.pt")
    done = ckpt("check", "w.pt", "--model", "item:Net", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "on the CPU, 36 B" in done.stdout
    assert "meta" in done.stdout


def test_the_current_directory_comes_last(tmp_path: Path, ckpt: Run) -> None:
    (tmp_path / "net.py").write_text("from torch import nn\nNet = lambda: nn.Linear(2, 3)\n")
    (tmp_path / "safetensors.py").write_text("raise AssertionError('a file that lies about was imported')\n")
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "w.pt")
    command = (
        "import sys; sys.path.pop(0); import ckpt_inspect.cli.app as a, safetensors; sys.exit(a.run(sys.argv[1:]))"
    )
    words = [sys.executable, "-c", command, "check", "w.pt", "--model", "net:Net"]
    environment = {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr


def test_several_sets_of_weights_are_scored(tmp_path: Path, ckpt: Run) -> None:
    weights = {"generator": nn.Linear(3, 2).state_dict(), "critic": nn.Linear(2, 3).state_dict()}
    torch.save(weights, tmp_path / "gan.pt")
    (tmp_path / "net.py").write_text("from torch import nn\nNet = lambda: nn.Linear(2, 3)\n")
    done = ckpt("check", "gan.pt", "--model", "net.py:Net", cwd=tmp_path)
    assert done.returncode == 2
    assert "critic: 2 of 2 tensors match" in done.stderr
    assert "'gan.pt#critic'" in done.stderr
    assert ckpt("check", "gan.pt#critic", "--model", "net.py:Net", cwd=tmp_path).returncode == 0


def test_json_is_the_contract(ckpt: Run) -> None:
    done = ckpt("check", "run.ckpt", "--model", "nets.py:Cnn", "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    contract = "schema loads matched of of_file matched_numel of_numel missing unexpected mismatched harmless fix"
    assert list(found)[:12] == contract.split()
    assert (found["loads"], found["matched"], found["of"], found["of_file"]) == (False, 0, 18, 25)
    assert found["fix"]["command"].startswith("ckpt remap run.ckpt ")
    assert (found["fix"]["matched"], found["fix"]["of"]) == (18, 18)


def test_fixtures_are_not_written_to() -> None:
    assert not list(FIXTURES.glob("run.*.ckpt"))


@pytest.mark.parametrize(
    "name", ["form-coo.pth", "form-csr.pth", "form-nested.pth", "form-per_tensor.pth", "form-tagged.pth"]
)
def test_tensors_that_are_not_plain(name: str, tmp_path: Path) -> None:
    path = files.FILES[name](tmp_path)
    found = check(ci.open(path), nn.Linear(2, 2))
    assert not found.loads
    assert found.unexpected == [info.key for _, _, info in ci.open(path).tensors()]
    assert found.missing == ["weight", "bias"]
