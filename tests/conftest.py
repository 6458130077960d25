"""What all tests share: the shipped fixtures, and the command line run as a user runs it."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("no deadline", deadline=None)  # no test asserts a time
settings.load_profile("no deadline")

FIXTURES = Path(__file__).parent.parent / "fixtures"

Run = Callable[..., subprocess.CompletedProcess[str]]


def in_process(arguments: list[str]) -> int:
    """``ckpt ARGS`` in this process, for what imports torch: in another that would take seconds. The exit status."""
    import gc
    import signal

    from ckpt_inspect.cli.app import run

    handler = signal.getsignal(signal.SIGPIPE)
    try:
        return run(arguments)
    finally:
        gc.enable()
        signal.signal(signal.SIGPIPE, handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--overwrite", action="store_true", help="write the golden outputs anew")


@pytest.fixture(autouse=True)
def _open_files() -> Iterator[None]:
    """Checkpoints that tests leave open are closed when they are collected: that must be in time."""
    yield
    if os.path.isdir("/proc/self/fd") and len(os.listdir("/proc/self/fd")) > 300:
        gc.collect()


@pytest.fixture(scope="session")
def fixtures() -> Path:
    return FIXTURES


@pytest.fixture
def ckpt(tmp_path: Path) -> Run:
    """``ckpt ARGS``, piped, in the folder of the fixtures; gives exit status, stdout and stderr."""

    def run(*arguments: str | Path, cwd: Path = FIXTURES, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ckpt_inspect", *map(str, arguments)],
            capture_output=True,
            text=True,
            encoding="utf-8",
            cwd=cwd,
            env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
            timeout=120,
            check=False,
        )

    return run
