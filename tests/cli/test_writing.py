"""The commands that write, seen from outside: plans, exit statuses, what is refused, what is left on the disk."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.conftest import FIXTURES, Run, in_process


@pytest.fixture
def run_ckpt(tmp_path: Path) -> Path:
    return Path(shutil.copy(FIXTURES / "run.ckpt", tmp_path / "run.ckpt"))


def test_without_a_target_the_plan_is_printed_and_nothing_written(ckpt: Run, run_ckpt: Path) -> None:
    before = run_ckpt.read_bytes()
    done = ckpt("strip-prefix", run_ckpt)
    assert done.returncode == 2
    assert "module.** -> **   (25 keys)" in done.stdout
    assert "-o OUT" in done.stderr
    assert run_ckpt.read_bytes() == before
    assert ckpt("strip-prefix", run_ckpt, "--dry-run").returncode == 0
    assert os.listdir(run_ckpt.parent) == ["run.ckpt"]


def test_the_command_at_the_end_of_the_plan_does_it(ckpt: Run, run_ckpt: Path) -> None:
    plan = ckpt("strip-prefix", "run.ckpt", "--nested", "--dry-run", cwd=run_ckpt.parent).stdout
    command = plan.splitlines()[-1].split("do it ")[1].replace("OUT", "out.ckpt").split()
    assert command[0] == "ckpt"
    assert ckpt(*command[1:], cwd=run_ckpt.parent).returncode == 0
    assert "stage2.0.weight" in torch.load(run_ckpt.parent / "out.ckpt", weights_only=True)["model_state_dict"]


def test_every_printed_rule_is_valid(ckpt: Run, run_ckpt: Path) -> None:
    plan = json.loads(ckpt("strip-prefix", run_ckpt, "--nested", "--dry-run", "--json").stdout)
    assert list(plan)[:8] == ["schema", "command", "renamed", "dropped", "kept", "rules", "out", "bytes_copied"]
    rules = [word for rule in plan["rules"] for word in ("--rule", rule)]
    again = json.loads(ckpt("remap", run_ckpt, *rules, "--dry-run", "--json").stdout)
    assert again["renamed"] == plan["renamed"]


def test_existing_output_needs_force(ckpt: Run, run_ckpt: Path) -> None:
    out = run_ckpt.parent / "out.ckpt"
    out.write_bytes(b"precious")
    done = ckpt("strip-prefix", run_ckpt, "-o", out)
    assert done.returncode == 2
    assert "--force" in done.stderr
    assert out.read_bytes() == b"precious"
    assert ckpt("strip-prefix", run_ckpt, "-o", out, "--force").returncode == 0
    assert torch.load(out, weights_only=True)["epoch"] == 10


def test_output_over_the_source(ckpt: Run, run_ckpt: Path) -> None:
    assert ckpt("strip-prefix", run_ckpt, "-o", run_ckpt, "--force").returncode == 0
    assert "conv2.weight" in torch.load(run_ckpt, weights_only=True)["model_state_dict"]


def test_in_place_and_compact(ckpt: Run, run_ckpt: Path) -> None:
    size = run_ckpt.stat().st_size
    for _ in range(3):
        assert ckpt("add-prefix", run_ckpt, "a", "--in-place").returncode == 0
        assert ckpt("strip-prefix", run_ckpt, "--prefix", "a", "--in-place").returncode == 0
    assert run_ckpt.stat().st_size > size
    assert ckpt("strip-prefix", run_ckpt, "--in-place", "--compact").returncode == 0
    assert run_ckpt.stat().st_size <= size
    assert ckpt("info", run_ckpt).returncode == 0
    assert os.listdir(run_ckpt.parent) == ["run.ckpt"]


def test_in_place_is_refused_for_links_and_legacy(ckpt: Run, run_ckpt: Path) -> None:
    link = run_ckpt.parent / "link.ckpt"
    link.symlink_to(run_ckpt)
    done = ckpt("strip-prefix", link, "--in-place")
    assert done.returncode == 2
    assert "run.ckpt" in done.stderr
    link.unlink()
    os.link(run_ckpt, link)
    assert ckpt("strip-prefix", run_ckpt, "--in-place").returncode == 2
    legacy = shutil.copy(FIXTURES / "legacy.pth", run_ckpt.parent / "legacy.pth")
    done = ckpt("strip-prefix", legacy, "--in-place")
    assert done.returncode == 2
    assert "-o OUT" in done.stderr


def test_safetensors_in_place_in_the_room_of_its_header(ckpt: Run, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    path = shutil.copy(FIXTURES / "gpt.safetensors", tmp_path / "gpt.safetensors")
    before = load_file(path)
    done = ckpt("add-prefix", path, "transformer", "--in-place")
    assert done.returncode == 2
    assert "longer than the room" in done.stderr
    assert ckpt("remap", path, "--rule", "h.** -> b.**", "--in-place").returncode == 0
    after = load_file(path)
    assert {key.replace("h.", "b.", 1) if key.startswith("h.") else key for key in before} == set(after)


def test_sharded_in_place(ckpt: Run, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(FIXTURES / "sharded", tmp_path / "sharded"))
    before = ckpt("ls", folder).stdout
    assert ckpt("remap", folder, "--rule", "conv{n}.** -> c{n}.**", "--in-place").returncode == 0
    after = ckpt("ls", folder)
    assert after.returncode == 0
    assert after.stdout == "".join(
        line.replace("conv", "c", 1) if line.startswith("conv") else line for line in before.splitlines(keepends=True)
    )


def test_rules_files_there_and_back(ckpt: Run, run_ckpt: Path) -> None:
    folder = run_ckpt.parent
    (folder / "rules.toml").write_text('rules = ["module.stage{n}.** -> s.{n-1}.**"]  # a comment\n')
    done = ckpt(
        "remap",
        run_ckpt,
        "--rules",
        folder / "rules.toml",
        "-o",
        folder / "a.ckpt",
        "--save-rules",
        folder / "map.toml",
    )
    assert done.returncode == 0, done.stderr
    assert (
        ckpt(
            "remap", folder / "a.ckpt", "--rules", folder / "map.toml", "--reverse", "-o", folder / "b.ckpt"
        ).returncode
        == 0
    )
    assert ckpt("ls", folder / "b.ckpt").stdout == ckpt("ls", run_ckpt).stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["remap"], "no rules"),
        (["remap", "--rule", "nothing.** -> x.**", "--dry-run"], "nothing.**"),
        (["remap", "--rule", "a -> b -> c", "--dry-run"], "->"),
        (["remap", "--rule", "module.fc1.* -> module.fc2.*", "--dry-run"], "module.fc2.weight"),
        (["strip-prefix", "--prefix", "nothing", "--dry-run"], "nothing."),
        (["strip-prefix", "--in-place", "-o", "x.ckpt"], "different things"),
        (["strip-prefix", "--compact"], "--in-place"),
    ],
)
def test_errors(ckpt: Run, run_ckpt: Path, arguments: list[str], words: str) -> None:
    before = run_ckpt.read_bytes()
    done = ckpt(arguments[0], run_ckpt, *arguments[1:])
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert run_ckpt.read_bytes() == before


def test_interrupted_edit_is_seen_through_and_undone(ckpt: Run, run_ckpt: Path) -> None:
    """The writer is killed between its two flushes, by a debugger's breakpoint made of a signal handler."""
    import subprocess
    import sys

    listing = ckpt("ls", run_ckpt).stdout
    before = run_ckpt.read_bytes()
    code = (
        "import os, signal, sys\n"
        "import ckpt_inspect as ci\n"
        "from ckpt_inspect.containers import copying\n"
        "from ckpt_inspect.containers import journal\n"
        "calls = 0\n"
        "real = os.fsync\n"
        "def fsync(fd):\n"
        "    global calls\n"
        "    calls += 1\n"
        "    real(fd)\n"
        "    if calls == 3:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "os.fsync = fsync\n"
        "ci.save_in_place(ci.strip_prefix(ci.open(sys.argv[1])))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run_ckpt)], check=False, capture_output=True)
    assert done.returncode == -9, done.stderr
    seen = ckpt("ls", run_ckpt)
    assert seen.returncode == 0
    assert seen.stdout == listing
    if run_ckpt.read_bytes() != before:
        assert "ckpt recover" in seen.stderr
    assert ckpt("recover", run_ckpt).returncode == 0
    assert run_ckpt.read_bytes() == before
    assert os.listdir(run_ckpt.parent) == ["run.ckpt"]


def test_like_works_the_rules_out(ckpt: Run, tmp_path: Path) -> None:
    from tests.zoo import MODELS

    torch.save(MODELS["cifar"]().state_dict(), tmp_path / "named.pt")
    torch.save(MODELS["cifar-seq"]().state_dict(), tmp_path / "numbered.pt")
    done = ckpt("remap", "named.pt", "--like", "numbered.pt", "-o", "out.pt", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "conv{n}.** -> model1.{2*n-2}.**" in done.stdout
    MODELS["cifar-seq"]().load_state_dict(torch.load(tmp_path / "out.pt", weights_only=True), strict=True)
    back = ckpt("remap", "out.pt", "--like", "named.pt", "--dry-run", "--json", cwd=tmp_path)
    found = json.loads(back.stdout)
    assert {pair["from"]: pair["to"] for pair in found["renamed"]}["model1.8.bias"] == "linear2.bias"
    assert found["matches"]
    assert ckpt("remap", "named.pt", "--like", "numbered.pt", "--rule", "a -> b", cwd=tmp_path).returncode == 2
    dropped = ckpt(
        "remap", "named.pt", "--like", "numbered.pt", "--drop", "linear2.*", "--dry-run", "--json", cwd=tmp_path
    )
    assert json.loads(dropped.stdout)["dropped"] == ["linear2.weight", "linear2.bias"]


_COUNT = """
import sys
from ckpt_inspect.cli.app import run

def io():
    return {line.split(":")[0]: int(line.split()[1]) for line in open("/proc/self/io")}

run(["add-prefix", sys.argv[1], "warm", "--in-place", "-q"])  # imports what it needs
before = io()
status = run(sys.argv[2:])
after = io()
print(status, after["rchar"] - before["rchar"], after["wchar"] - before["wchar"])
"""


def counted(tmp_path: Path, *arguments: str) -> tuple[int, int]:
    """Bytes that a command read and wrote, by the system's own count."""
    torch.save({"w": torch.zeros(2)}, tmp_path / "warm.pt")
    command = [sys.executable, "-c", _COUNT, str(tmp_path / "warm.pt"), *arguments, "-q"]
    status, read, written = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert status == 0
    return read, written


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the system does not count")
def test_bytes_read_and_written(tmp_path: Path) -> None:
    """In place, the tensors are not touched, whatever their size; a new file is written once."""
    costs = {}
    for name, numel in (("small.pt", 1000), ("large.pt", 3_000_000)):
        path = tmp_path / name
        torch.save({f"layer{i}.weight": torch.rand(numel) for i in range(4)}, path)
        size = path.stat().st_size
        read, written = counted(tmp_path, "add-prefix", str(path), "module", "-o", str(tmp_path / f"new-{name}"))
        new = (tmp_path / f"new-{name}").stat().st_size
        assert new <= written < new + 10_000
        assert read < size + 100_000
        costs[name] = counted(tmp_path, "add-prefix", str(path), "module", "--in-place")
    assert costs["large.pt"][0] <= costs["small.pt"][0] + 100_000  # the end record is sought in the last 64 KiB
    assert costs["large.pt"][1] <= costs["small.pt"][1] + 1000
    assert max(costs["large.pt"]) < 500_000  # modules that are imported are among it


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[list[str]], int]]:
    """Runs ``ckpt`` in a directory of somebody else's, where nothing may be written."""
    with tempfile.TemporaryDirectory() as name:  # pytest's own directories are closed to others
        folder, root = Path(name), os.geteuid() == 0
        shutil.copy(FIXTURES / "run.ckpt", folder / "run.ckpt")
        monkeypatch.chdir(folder)

        def run(arguments: list[str]) -> int:
            (folder / "run.ckpt").chmod(0o644)
            assert in_process(arguments) == 0  # what it imports lies where only this user may read
            for made in set(os.listdir(folder)) - {"run.ckpt"}:
                (folder / made).unlink()
            (folder / "run.ckpt").chmod(0o444)
            folder.chmod(0o555)
            if root:
                os.seteuid(65534)
            try:
                return in_process(arguments)
            finally:
                if root:
                    os.seteuid(0)
                folder.chmod(0o755)

        yield run


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="users of POSIX")
@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["verify", "run.ckpt", "--write-sums", "x"], "--write-sums SUMS"),
        (["show", "run.ckpt", "model_state_dict/module.fc2.bias", "--save", "x.npy"], "--save FILE"),
        (["remap", "run.ckpt", "--rule", "module.** -> **", "--save-rules", "x", "--dry-run"], "--save-rules FILE"),
        (["strip-prefix", "run.ckpt", "-o", "x.ckpt"], "-o OUT"),
    ],
)
def test_another_place_is_named_as_the_command_names_it(
    arguments: list[str], option: str, foreign: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert foreign(arguments) == 2
    assert capsys.readouterr().err.splitlines()[-1].strip() == f"Write to a place that is yours: {option}"


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="users of POSIX")
def test_only_the_owner_is_told_to_change_the_mode(
    ckpt: Run, run_ckpt: Path, foreign: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    run_ckpt.chmod(0o444)
    said = ckpt("strip-prefix", run_ckpt, "--in-place").stderr
    command, _, rest = said.splitlines()[-1].strip().partition(", or ")
    assert rest == "write to a new file: -o OUT"
    subprocess.run(shlex.split(command), check=True)
    assert ckpt("strip-prefix", run_ckpt, "--in-place").returncode == 0
    if os.geteuid() == 0:
        assert foreign(["add-prefix", "run.ckpt", "x", "--in-place"]) == 2
        said = capsys.readouterr().err
        assert "read-only" in said
        assert said.splitlines()[-1].strip() == "Write to a new file: -o OUT"
