"""A disk that fails, a process that is interrupted or killed during a conversion: OUT is old or new, each of them whole."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import ckpt_inspect as ci
from ckpt_inspect.operations.convert import convert
from ckpt_inspect.operations.save import save
from tests.conftest import FIXTURES, Run
from tests.containers.faults import CHANGING, Dead, every_call, failing, interrupting, killed

KILLS = int(os.environ.get("CKPT_KILLS", "3"))
TARGETS: dict[str, dict[str, Any]] = {
    "zip": {"device": "cuda:1"},
    "legacy": {"format": "torch-legacy"},
    "safetensors": {"format": "safetensors"},
    "sharded": {"format": "sharded", "max_shard_size": 20_000},
    "dtype": {"dtype": "bfloat16"},
}
SOURCE = FIXTURES / "lenet.pt"


def content(out: Path) -> Any:
    """Of a file its bytes, of a directory those of its files, None if there is none."""
    if out.is_dir():
        return {path.name: path.read_bytes() for path in out.iterdir()}
    return out.read_bytes() if out.exists() else None


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def written(target: str, out: Path, force: bool = False) -> None:
    save(convert(ci.open(SOURCE), **TARGETS[target]), str(out), force=force)


@pytest.fixture(params=list(TARGETS))
def target(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize(
    "act", [failing(errno.ENOSPC), failing(errno.EIO), interrupting], ids=["full disk", "EIO", "Control-C"]
)
def test_an_error_at_any_call(target: str, act: Any, tmp_path: Path) -> None:
    out, before = tmp_path / "place" / "out", SOURCE.read_bytes()
    written(target, tmp_path / "whole")
    out.parent.mkdir()
    for fault in every_call(act, CHANGING):
        with contextlib.suppress(ci.CheckpointError, KeyboardInterrupt), fault:
            written(target, out)
        assert content(out) in (None, content(tmp_path / "whole"))
        remove(out)
        assert not list(out.parent.iterdir())
    assert SOURCE.read_bytes() == before


@pytest.mark.parametrize("when", ["before", "half", "after"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # its threads die with the process
def test_killed_at_any_call(target: str, when: str, tmp_path: Path) -> None:
    out = tmp_path / "place" / "out"
    written(target, tmp_path / "whole")
    out.parent.mkdir()
    for fault in every_call(killed(when), CHANGING):
        with contextlib.suppress(Dead), fault:
            written(target, out)
        assert content(out) in (None, content(tmp_path / "whole"))
        for path in out.parent.iterdir():
            assert path == out or path.name.startswith(".out.ckpt-tmp-")
            remove(path)


LOOP = """
import sys, ckpt_inspect as ci
from tests.convert.test_faults import TARGETS
from ckpt_inspect.operations.convert import convert
from ckpt_inspect.operations.save import save
def once(): save(convert(ci.open(sys.argv[2]), **TARGETS[sys.argv[1]]), sys.argv[3], force=True)
once()
print(flush=True)
while True: once()
"""


@pytest.mark.skipif(os.name == "nt", reason="signals are other there")
def test_killed_for_real(target: str, tmp_path: Path) -> None:
    """At random moments; the old one is there until the new one is."""
    out, source = tmp_path / "place" / "out", Path(shutil.copy(SOURCE, tmp_path / "lenet.pt"))
    out.parent.mkdir()
    save(convert(ci.open(source), **TARGETS[target]), str(tmp_path / "whole"))
    chance = random.Random(target)
    for _ in range(KILLS):
        process = subprocess.Popen(
            [sys.executable, "-c", LOOP, target, str(source), str(out)], stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(chance.uniform(0, 0.1))  # a random moment, not a wait for something
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert content(out) == content(tmp_path / "whole")
    assert source.read_bytes() == SOURCE.read_bytes()


def test_no_room_is_said_before_anything_is_written(ckpt: Run, tmp_path: Path) -> None:
    """A few bytes that are views of petabytes, which safetensors would have to write."""
    source, place = tmp_path / "a.pt", tmp_path / "place"
    place.mkdir()
    views = {f"w{i}": torch.zeros(1).expand(2**30 + i) for i in range(3000)}
    torch.save(views, source)
    done = ckpt("convert", source, "-o", place / "out.safetensors")
    assert done.returncode == 2
    assert "not enough room: 12,8" in done.stderr
    assert not list(place.iterdir())
