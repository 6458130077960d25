"""The documentation says what is true: its commands are run, its output is compared."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ckpt_inspect.commands import COMMANDS
from tests.cli.test_golden import on_terminal

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def examples() -> list[tuple[str, str]]:
    found = []
    for block in blocks("console"):
        for command, output in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
            found.append((command, output))
    return found


def shell(command: str) -> str:
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, check=False,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "NO_COLOR": "1"},
    )  # fmt: skip
    return done.stdout + done.stderr


@pytest.mark.parametrize(("command", "output"), examples(), ids=[command for command, _ in examples()])
def test_readme_example(command: str, output: str, request: pytest.FixtureRequest) -> None:
    if "|" in command or "page.pt" in command:
        found = shell(command)
        if "jq" in command and "not found" in found:
            pytest.skip("jq is not installed")
    else:
        found = on_terminal(shlex.split(command)[1:], 110, cwd=ROOT, NO_COLOR="1")
    if request.config.getoption("--overwrite"):
        path = ROOT / "README.md"
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace(f"$ {command}\n{output}", f"$ {command}\n{found}"), encoding="utf-8")
        return
    assert found == output


def test_ci_runs_the_commands_of_the_readme() -> None:
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(commands) == 3
    for command in commands:
        assert command in ci


def test_python_examples_run(tmp_path: Path) -> None:
    code = "\n".join(blocks("python"))
    (tmp_path / "fixtures").symlink_to(ROOT / "fixtures")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_command_is_documented() -> None:
    for command in COMMANDS:
        assert any(line.startswith("### ") and f"`ckpt {command} " in line for line in README.splitlines()), command
        assert (ROOT / "ckpt_inspect" / "cli" / f"{command.replace('-', '_')}.py").exists()


def test_contributing_shows_the_test_command() -> None:
    assert blocks("sh")[1].strip() in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_nothing_private_is_named() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split(
        "\n"
    )
    for name in tracked:
        if name.endswith((".py", ".md", ".toml", ".txt", "run")):
            text = (ROOT / name).read_text(encoding="utf-8")
            for word in ("/tmp/" + "venv", "/work" + "/", "farm" + "-bench"):
                assert word not in text, name
