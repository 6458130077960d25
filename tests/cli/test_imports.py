"""What a looking command may import: never torch or numpy, and Rich for a terminal alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import FIXTURES

_PROBE = """
import sys
from ckpt_inspect.cli.app import run
status = run(sys.argv[1:])
# the oldest Typer imports the bare package rich, an empty shell, to see whether it is there
heavy = [name for name in ("torch", "numpy", "rich.console", "safetensors") if name in sys.modules]
print(heavy, file=sys.stderr)
sys.exit(status)
"""


@pytest.mark.parametrize("command", ["info", "tree", "ls", "verify", "scan", "hash"])
@pytest.mark.parametrize(
    "name", ["run.ckpt", "gpt.safetensors", "traced.pt", "legacy.pth", "tar2017.pth.tar", "sharded", "lightning.ckpt"]
)
@pytest.mark.parametrize("option", [[], ["--json"]])
def test_piped_command_imports_nothing_heavy(command: str, name: str, option: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROBE, command, str(FIXTURES / name), *option],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "[]"


def test_works_where_torch_is_not_installed() -> None:
    for command in ("info", "tree", "ls"):
        done = without_torch(command, "run.ckpt")
        assert done.returncode == 0, done.stderr
        assert done.stdout


def without_torch(*arguments: str) -> subprocess.CompletedProcess[str]:
    blocked = "import sys; sys.modules['torch'] = sys.modules['numpy'] = sys.modules['safetensors'] = None\n"
    return subprocess.run(
        [sys.executable, "-c", blocked + _PROBE, *arguments], capture_output=True, text=True, check=False, cwd=FIXTURES
    )


@pytest.mark.parametrize(
    "command",
    ["stats lenet.pt", "stats lenet.pt --check", "show lenet.pt conv1.bias --slice :2", "verify lenet.pt --deep",
     "check lenet.pt --model nets.py:LeNet", "run scripted.pt --input 1,3,32,32", "code lenet.pt",
     "convert run.ckpt --dtype float16 --dry-run", "remap lenet.pt --like nets.py:LeNet --dry-run",
     "tree --model nets.py:LeNet", "diff lenet.pt --model nets.py:LeNet"],
)  # fmt: skip
def test_what_needs_torch_says_so_without_it(command: str) -> None:
    done = without_torch(*command.split())
    assert done.returncode == 2
    assert "this needs torch, which is not installed here" in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout


def test_what_torch_would_only_add_to_is_there_without_it() -> None:
    done = without_torch("diff", "lenet.pt", "tuned.safetensors")
    assert done.returncode == 1, done.stderr
    assert "!\tfc3.bias\tfloat32\t10\n" in done.stdout
    assert "was not measured: torch is not installed here" in done.stdout
    assert without_torch("diff", "lenet.pt", "lenet.pt").returncode == 0
    shown = without_torch("show", "lenet.pt", "conv1.bias")
    assert shown.returncode == 0, shown.stderr
    assert "not measured: torch is not installed here" in shown.stdout


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys; before = set(sys.modules); import ckpt_inspect; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = done.stdout.split()
    assert [name for name in found if name.startswith("ckpt_inspect")] == ["ckpt_inspect"]
    assert not {"torch", "numpy", "rich", "typer", "json", "inspect"} & set(found)


def test_torch_without_numpy_is_enough(tmp_path: Path) -> None:
    """What the README's first command installs: numpy is an extra of the tests."""
    out = str(tmp_path / "half.pt")
    code = "import sys; sys.modules['numpy'] = None; from ckpt_inspect.cli.app import run; sys.exit(run(sys.argv[1:]))"
    for command in (["stats", "lenet.pt", "--check"], ["diff", "lenet.pt", "tuned.safetensors"],
                    ["convert", "run.ckpt", "--dtype", "float16", "-o", out], ["code", "lenet.pt"],
                    ["show", "lenet.pt", "conv1.bias"], ["verify", "--deep", "lenet.pt"],
                    ["check", "lenet.pt", "--model", "nets.py:LeNet"]):  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", code, *command], capture_output=True, text=True, check=False, cwd=FIXTURES
        )
        assert done.stdout
        assert not done.stderr
