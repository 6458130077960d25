"""What a looking command may import: never torch or numpy, and Rich for a terminal alone."""

from __future__ import annotations

import subprocess
import sys

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


@pytest.mark.parametrize("command", ["info", "tree", "ls", "verify"])
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
    blocked = "import sys; sys.modules['torch'] = sys.modules['numpy'] = sys.modules['safetensors'] = None\n"
    for command in ("info", "tree", "ls"):
        done = subprocess.run(
            [sys.executable, "-c", blocked + _PROBE, command, str(FIXTURES / "run.ckpt")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys; before = set(sys.modules); import ckpt_inspect; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = done.stdout.split()
    assert [name for name in found if name.startswith("ckpt_inspect")] == ["ckpt_inspect"]
    assert not {"torch", "numpy", "rich", "typer", "json", "inspect"} & set(found)
