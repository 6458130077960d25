"""``ckpt convert`` as it is typed: plans, statuses, what is refused, and what is left on the disk."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import ckpt_inspect.torch as ct
from ckpt_inspect.errors import UnsupportedError
from tests.conftest import FIXTURES, Run


def test_without_a_target_nothing_is_written(ckpt: Run, tmp_path: Path) -> None:
    path = Path(shutil.copy(FIXTURES / "run.ckpt", tmp_path / "run.ckpt"))
    before = path.read_bytes()
    done = ckpt("convert", path, "--device", "cuda:1")
    assert done.returncode == 2
    assert "cpu → cuda:1" in done.stdout
    assert "nothing was written" in done.stderr
    assert ckpt("convert", path, "--device", "cuda:1", "--dry-run").returncode == 0
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["run.ckpt"]


def test_the_command_at_the_end_of_the_plan_does_it(ckpt: Run, tmp_path: Path) -> None:
    shutil.copy(FIXTURES / "run.ckpt", tmp_path / "run.ckpt")
    plan = ckpt("convert", "run.ckpt#model_state_dict", "--strip-prefix", "--dry-run", cwd=tmp_path).stdout
    words = plan.splitlines()[-1].split("do it")[1].strip().replace("'", "").replace("OUT", "w.safetensors").split()
    assert ckpt(*words[1:], cwd=tmp_path).returncode == 0
    assert "conv2.weight" in load_file(tmp_path / "w.safetensors")


def test_json(ckpt: Run, tmp_path: Path) -> None:
    arguments = [
        "convert",
        "run.ckpt",
        "--dtype",
        "float16",
        "--drop",
        "epoch",
        "--verify",
        "-o",
        tmp_path / "a.pt",
        "--json",
    ]
    document = json.loads(ckpt(*arguments).stdout)
    assert document["schema"] == "ckpt-inspect/plan/1"
    assert document["dropped"] == ["epoch"]
    assert document["dtypes"] == [{"from": "float32", "to": "float16", "storages": 16}]
    assert document["losses"]["overflowed"] == {}
    assert document["after"]["size"] == (tmp_path / "a.pt").stat().st_size < document["before"]["size"]
    assert "compared with the source" in document["checked"]


def test_in_place_and_existing_output(ckpt: Run, tmp_path: Path) -> None:
    path = Path(shutil.copy(FIXTURES / "mnist.ckpt", tmp_path / "mnist.ckpt"))
    assert ckpt("convert", path, "--device", "mps", "--in-place").returncode == 0
    assert set(ckpt("ls", path).stdout.split()) & {"mps"}
    done = ckpt("convert", path, "--device", "cpu", "-o", path)
    assert done.returncode == 2
    assert "--force" in done.stderr
    assert ckpt("convert", path, "--device", "cpu", "-o", path, "--force", "-q").stdout == ""
    assert torch.load(path, weights_only=True)["epoch"] is not None
    done = ckpt("convert", path, "--dtype", "float16", "--in-place")
    assert done.returncode == 2
    assert "not in place" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--device", "gpu"], "Did you mean cuda? Known: cpu, cuda"),
        (["--device", "GPU:1"], "Did you mean cuda? Known: cpu, cuda"),
        (["--dtype", "int8"], "Known: float64, float32"),
        (["--format", "zip"], "There is: torch-zip"),
        (["--max-shard-size", "many"], "no size"),
        (["--drop", "nothing*"], "matches nothing"),
        (["--format", "safetensors"], "Name one: 'run.ckpt#model_state_dict'"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(
    ckpt: Run, tmp_path: Path, arguments: list[str], said: str
) -> None:
    done = ckpt("convert", "run.ckpt", *arguments, "-o", tmp_path / "out.pt")
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == []


def test_damaged_files_are_refused(ckpt: Run, tmp_path: Path) -> None:
    data = bytearray((FIXTURES / "run.ckpt").read_bytes())
    (tmp_path / "cut.ckpt").write_bytes(data[: len(data) // 2])
    done = ckpt("convert", tmp_path / "cut.ckpt", "--device", "cuda", "-o", tmp_path / "out.pt")
    assert done.returncode == 2
    assert "damaged files are not rewritten" in done.stderr
    assert os.listdir(tmp_path) == ["cut.ckpt"]


@pytest.mark.skipif(os.name == "nt", reason="no limits on the size of a file")
@pytest.mark.parametrize("asked", [["--device", "cuda"], ["--dtype", "float64"], ["--format", "torch-legacy"]])
def test_a_full_disk_leaves_nothing(tmp_path: Path, asked: list[str]) -> None:
    code = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (200000, 200000));" \
        "from ckpt_inspect.cli.app import run; sys.exit(run(sys.argv[1:]))"  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code, "convert", str(FIXTURES / "run.ckpt"), *asked, "-o", str(tmp_path / "out.pt")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "cannot write" in done.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="signals are other there")
def test_killed_or_interrupted_nothing_stands_under_the_name(tmp_path: Path) -> None:
    """The copy is stopped at its first byte, by the signal of Ctrl-C and by a kill."""
    code = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # where the tests run in the background it is ignored
from ckpt_inspect.containers import copying
from ckpt_inspect.cli.app import run
copying._Copy._advance = lambda self, count: os.kill(os.getpid(), int(os.environ["WITH"]))
sys.exit(run(sys.argv[1:]))
"""
    for number in (signal.SIGINT, signal.SIGKILL):
        done = subprocess.run(
            [sys.executable, "-c", code, "convert", str(FIXTURES / "run.ckpt"), "--device", "cuda", "-o", str(tmp_path / "out.pt")],
            capture_output=True, check=False, env={**os.environ, "WITH": str(int(number))},
        )  # fmt: skip
        assert done.returncode == (130 if number == signal.SIGINT else -int(number))
        assert not (tmp_path / "out.pt").exists()
        left = os.listdir(tmp_path)
        assert left == [] if number == signal.SIGINT else all(name.startswith(".out.pt.ckpt-tmp-") for name in left)


def test_a_file_that_is_as_asked_is_not_touched(ckpt: Run, tmp_path: Path) -> None:
    path = Path(shutil.copy(FIXTURES / "run.ckpt", tmp_path / "run.ckpt"))
    before, status = path.read_bytes(), path.stat()
    done = ckpt("convert", path, "--device", "cpu", "--in-place")
    assert done.returncode == 0
    assert "nothing is on another device" in done.stdout
    assert "wrote   nothing" in done.stdout
    assert path.read_bytes() == before
    assert path.stat().st_mtime_ns == status.st_mtime_ns


def test_shards_of_safetensors_have_no_entries_to_lose(ckpt: Run, tmp_path: Path) -> None:
    done = ckpt("convert", FIXTURES / "sharded", "-o", tmp_path / "one.safetensors")
    assert done.returncode == 0
    assert "remove" not in done.stdout


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--no-overflow"], "--no-overflow is for casts"),
        (["--untie"], "--untie is for safetensors"),
        (["--max-shard-size", "3MB"], "--max-shard-size is for shards"),
    ],
)
def test_options_that_would_do_nothing_are_refused(ckpt: Run, tmp_path: Path, asked: list[str], said: str) -> None:
    done = ckpt("convert", "run.ckpt", *asked, "-o", tmp_path / "out.pt")
    assert done.returncode == 2
    assert said in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_directory_is_no_file_to_write(ckpt: Run, tmp_path: Path) -> None:
    for force in ([], ["--force"]):
        done = ckpt("convert", "run.ckpt", "--device", "cuda", "-o", tmp_path, *force)
        assert done.returncode == 2
        assert "it is a directory" in done.stderr
        assert f"Name a file in it: -o {tmp_path}" in done.stderr


def test_shards_that_stay_are_copied_as_they_are(ckpt: Run, tmp_path: Path) -> None:
    """The index byte for byte too; and in place nothing is written."""
    folder = Path(shutil.copytree(FIXTURES / "sharded", tmp_path / "sharded"))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert ckpt("convert", folder, "-o", tmp_path / "copy").returncode == 0
    copied = {path.name: path.read_bytes() for path in (tmp_path / "copy").iterdir()}
    assert copied == {name: data for name, data in before.items() if name != "config.json"}
    done = ckpt("convert", folder, "--device", "cuda", "--in-place")
    assert "safetensors stores no devices" in done.stdout
    assert "wrote   nothing" in done.stdout
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("arguments", [["--weights-only", "-o", "OUT.pt"], ["-o", "OUT.safetensors"]])
@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("scripted", [False, True])
def test_packed_weights_are_not_thrown_away(
    ckpt: Run, tmp_path: Path, arguments: list[str], beside: bool, scripted: bool
) -> None:
    module = torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(torch.nn.Linear(4, 4)), {torch.nn.Linear})
    if beside:
        module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), module)
    path = tmp_path / "q.pt"
    torch.jit.script(module).save(path) if scripted else torch.save(module, path)
    if scripted and arguments[0] == "--weights-only":
        arguments = ["--format", "torch-zip", "-o", "OUT.pt"]
    done = ckpt("convert", path, *arguments, cwd=tmp_path)
    assert (done.returncode, os.listdir(tmp_path)) == (2, ["q.pt"])
    assert "packed" in done.stderr
    card = json.loads(ckpt("info", path, "--json").stdout)
    assert "weights-only" not in {hint["code"] for hint in card["hints"]}
    if not scripted:
        assert card["load"] is None
        with pytest.raises(UnsupportedError, match="packed"):
            ct.state_dict(path)


def test_a_conversion_that_leaves_no_tensor_is_refused(ckpt: Run, tmp_path: Path) -> None:
    for name, *globs in (("run.ckpt", "model_state_dict", "optimizer_state_dict"), ("gpt.safetensors", "*")):
        drops = [word for glob in globs for word in ("--drop", glob)]
        done = ckpt("convert", FIXTURES / name, *drops, "-o", tmp_path / "a.pt")
        assert (done.returncode, os.listdir(tmp_path)) == (2, [])
        assert "nothing would be left" in done.stderr


def test_no_hint_where_nothing_would_be_left(ckpt: Run, tmp_path: Path) -> None:
    module = torch.nn.Module()
    module.register_buffer("cache", torch.ones(2), persistent=False)
    torch.save(module, tmp_path / "a.pt")
    card = json.loads(ckpt("info", tmp_path / "a.pt", "--json").stdout)
    assert "weights-only" not in {hint["code"] for hint in card["hints"]}
    assert ckpt("convert", tmp_path / "a.pt", "--weights-only", "-o", tmp_path / "b.pt").returncode == 2


def test_what_is_advised_for_safetensors_keeps_weights(ckpt: Run, tmp_path: Path) -> None:
    weights = torch.nn.Linear(2, 2).state_dict()
    torch.save({"model": weights, "ema": weights, "rng": torch.get_rng_state()}, tmp_path / "a.pt")
    done = ckpt("convert", "a.pt", "-o", "a.safetensors", cwd=tmp_path)
    assert done.returncode == 2
    assert "--drop" not in done.stderr  # the root holds the random state alone
    assert "Name one: 'a.pt#model'" in done.stderr


def test_attributes_of_a_module_are_one_line(ckpt: Run, tmp_path: Path) -> None:
    torch.save(torch.nn.Sequential(*(torch.nn.Conv2d(2, 2, 1) for _ in range(20))), tmp_path / "a.pt")
    done = ckpt("convert", "a.pt", "-o", "a.safetensors", "--dry-run", cwd=tmp_path)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("  remove")]
    removed = json.loads(ckpt("convert", "a.pt", "-o", "a.safetensors", "--json", cwd=tmp_path).stdout)["removed"]
    assert f"{len(removed)} attributes of modules" in line
    assert "0.stride" in {one["name"] for one in removed}


@pytest.mark.parametrize(
    ("name", "out"), [("gpt.safetensors", "a.pt"), ("sharded", "b.pt"), ("tuned.safetensors", "c")]
)
def test_what_becomes_a_torch_file_gets_the_device(ckpt: Run, tmp_path: Path, name: str, out: str) -> None:
    asked = [] if out.endswith(".pt") else ["--format", "torch-legacy"]
    done = ckpt("convert", FIXTURES / name, "--device", "cuda", *asked, "-o", tmp_path / out)
    assert (done.returncode, "there is nothing to change" in done.stdout) == (0, False)
    met = set()

    def here(storage: torch.UntypedStorage, tag: str) -> torch.UntypedStorage:
        met.add(tag)
        return storage

    torch.load(tmp_path / out, map_location=here, weights_only=True)
    assert met == {"cuda:0"}


DIFFERENT = [
    ["convert", "legacy.pth", "--dtype", "float16", "--in-place"],
    ["convert", "legacy.pth", "--device", "cuda", "--in-place"],
    ["convert", "mnist.ckpt", "--dtype", "bfloat16", "--in-place"],
    ["convert", "run.ckpt#model_state_dict", "--in-place"],
    ["convert", "run.ckpt", "--format", "torch-legacy", "--in-place"],
    ["convert", "run.ckpt", "--device", "cuda", "-o", "nowhere/x.pt"],
    ["convert", "run.ckpt", "--device", "cuda", "-o", "sharded"],
    ["convert", "sharded", "--format", "sharded", "-o", "run.ckpt"],
    ["convert", "link.ckpt", "--device", "cuda", "--in-place"],
    ["convert", "one", "--dtype", "float16", "-o", "new"],
    ["add-prefix", "one", "foo", "--in-place"],
    ["add-prefix", "one", "foo", "-o", "new"],
    ["add-prefix", "legacy.pth", "foo", "--in-place"],
    ["add-prefix", "tar2017.pth.tar", "foo", "-o", "new.tar"],
    ["strip-prefix", "link.ckpt", "--in-place"],
    ["strip-prefix", "link.ckpt", "--in-place", "--compact"],
    ["strip-prefix", "run.ckpt", "-o", "nowhere/x.pt"],
]


@pytest.mark.parametrize("arguments", DIFFERENT, ids=" ".join)
def test_a_rehearsal_refuses_what_the_command_refuses(ckpt: Run, tmp_path: Path, arguments: list[str]) -> None:
    for name in ("legacy.pth", "mnist.ckpt", "run.ckpt", "tar2017.pth.tar"):
        shutil.copy(FIXTURES / name, tmp_path / name)
    shutil.copytree(FIXTURES / "sharded", tmp_path / "sharded")
    (tmp_path / "one").mkdir()
    save_file({"w": torch.ones(2)}, tmp_path / "one" / "adapter_model.safetensors")
    (tmp_path / "link.ckpt").symlink_to("run.ckpt")
    before = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}
    rehearsed = ckpt(*arguments, "--dry-run", cwd=tmp_path)
    done = ckpt(*arguments, cwd=tmp_path)
    assert (rehearsed.returncode, rehearsed.stdout) == (2, "")
    if "already" not in done.stderr:
        assert rehearsed.stderr == done.stderr
    assert {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("arguments", [["convert", "run.ckpt", "--device", "cuda"], ["strip-prefix", "run.ckpt"]])
def test_the_line_for_an_existing_file_replaces_it(ckpt: Run, tmp_path: Path, arguments: list[str]) -> None:
    for name in ("run.ckpt", "mnist.ckpt"):
        shutil.copy(FIXTURES / name, tmp_path / name)
    (tmp_path / "link.ckpt").symlink_to("mnist.ckpt")
    done = ckpt(*arguments, "-o", "link.ckpt", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0
    assert "link.ckpt exists already: --force replaces it" in done.stdout
    words = done.stdout.splitlines()[-1].split("do it")[1].split()
    done = ckpt(*words[1:], cwd=tmp_path)
    assert done.returncode == 0
    assert f"the link is replaced, {tmp_path / 'mnist.ckpt'} stays as it is" in done.stdout
    assert not (tmp_path / "link.ckpt").is_symlink()
    assert torch.load(tmp_path / "mnist.ckpt", weights_only=True)["epoch"] is not None
    assert "model_state_dict" in torch.load(tmp_path / "link.ckpt", map_location="cpu", weights_only=True)
