"""The n-th call to the system fails, in every command, as typed: the old state or the new one, and a clear line.

``CKPT_FAULTS=all`` makes every single call fail in every way, which takes minutes; ``CKPT_KILLS`` says how often each
writer is killed for real.
"""

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
from typing import Any, NamedTuple

import pytest

from tests.conftest import FIXTURES, in_process
from tests.containers.faults import CHANGING, Act, Calls, Dead, eintr, every_call, failing, killed, short

ALL = os.environ.get("CKPT_FAULTS") == "all"
KILLS = int(os.environ.get("CKPT_KILLS", "2"))
NETS = f"{FIXTURES / 'nets.py'}:LeNet"
LENET = ["--model", NETS, "--kwargs", '{"classes": 10}']


def _few(number: int, step: int = 5) -> bool:
    """Every fault at the beginning, where headers are read, and some of those after."""
    return ALL or number < 4 or number % step == 0


def _said(capsys: pytest.CaptureFixture[str]) -> str:
    """What is on stderr, which is no traceback."""
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


# -- reading ----------------------------------------------------------------------------------------------------

READING: dict[str, list[str]] = {
    "info": ["info", "tied.pt"],
    "tree": ["tree", "tied.pt"],
    "ls": ["ls", "tied.pt"],
    "ls sharded": ["ls", "sharded"],
    "show": ["show", "tied.pt", "slice"],
    "stats": ["stats", "tied.pt"],
    "diff": ["diff", "tied.pt", "legacy.pth"],
    "diff values": ["diff", "lenet.pt", "tuned.safetensors"],
    "hash": ["hash", "gpt.safetensors"],
    "verify": ["verify", "tied.pt"],
    "verify deep": ["verify", "tar2017.pth.tar", "--deep"],
    "scan": ["scan", "tied.pt"],
    "scan legacy": ["scan", "legacy.pth"],
    "check": ["check", "lenet.pt", *LENET],
    "check load": ["check", "lenet.pt", *LENET, "--load", "--input", "1,3,32,32"],
    "run": ["run", "lenet.pt", *LENET, "--input", "1,3,32,32"],
    "code": ["code", "lenet.pt"],
    "dry run": ["strip-prefix", "mnist.ckpt", "--prefix", "conv1", "--dry-run"],
    "remap like": ["remap", "lenet.pt", "--like", "tuned.safetensors", "--dry-run"],
    "convert": ["convert", "tied.pt#model", "--format", "safetensors", "--dry-run"],
}
TIMED = ("check load", "run")  # their output says how long it took


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FIXTURES)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("code", [errno.EIO, errno.EINTR])
@pytest.mark.parametrize("name", READING)
def test_a_read_that_fails_is_said(name: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    status = in_process(READING[name])
    expected = status, capsys.readouterr().out
    for number, fault in enumerate(every_call(failing(code), ("pread",)), 1):
        with fault as calls:
            if not _few(number, 7):
                calls.count = 1 << 30  # past the fault: only to learn how many calls there are
            status = in_process(READING[name])
            met = number <= calls.count < 1 << 30
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        if met:
            assert status != 0, (number, said)
            assert os.strerror(code).lower() in (said.err + said.out).lower(), (number, said)
        elif calls.count < 1 << 30:
            assert status == expected[0]
            assert name in TIMED or said.out == expected[1]


def _short_read(calls: Calls, name: str, real: Any, args: Any, options: Any) -> Any:
    data: bytes = real(*args, **options)
    return data[: max(1, len(data) // 2)]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", READING)
def test_short_reads_change_nothing(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    expected = in_process(READING[name]), capsys.readouterr().out
    for number, fault in enumerate(every_call(_short_read, ("pread",)), 1):
        with fault as calls:
            if not _few(number, 25):
                calls.count = 1 << 30
            status = in_process(READING[name])
        out = capsys.readouterr().out
        assert status == expected[0]
        assert name in TIMED or out == expected[1]


# -- writing ----------------------------------------------------------------------------------------------------


class Writer(NamedTuple):
    """A command that writes: what it is given, and where it writes to (``OUT``), which may be its own input."""

    file: str
    arguments: list[str]
    out: str = "OUT"


_CAST = ["--dtype", "bfloat16"]
WRITERS: dict[str, Writer] = {
    "strip-prefix": Writer("run.ckpt", ["strip-prefix", "IN", "-o", "OUT"]),
    "add-prefix": Writer("mnist.ckpt", ["add-prefix", "IN", "p", "-o", "OUT"]),
    "remap": Writer("mnist.ckpt", ["remap", "IN", "--rule", "conv{n}.* -> c{n}.*", "-o", "OUT"]),
    "remap safetensors": Writer("tuned.safetensors", ["remap", "IN", "--rule", "fc{n}.* -> f{n}.*", "-o", "OUT"]),
    "save rules": Writer("mnist.ckpt", ["remap", "IN", "--rule", "fc1.* -> f.*", "--save-rules", "OUT", "--dry-run"]),
    "convert zip": Writer("legacy.pth", ["convert", "IN", "--format", "torch-zip", "-o", "OUT"]),
    "convert legacy": Writer("tied.pt", ["convert", "IN", "--format", "torch-legacy", "-o", "OUT"]),
    "convert safetensors": Writer(
        "lenet.pt", ["convert", "IN", "--weights-only", "--format", "safetensors", "-o", "OUT"]
    ),
    "convert sharded": Writer(
        "gpt.safetensors", ["convert", "IN", "--format", "sharded", "--max-shard-size", "20KB", "-o", "OUT"]
    ),
    "convert dtype": Writer("mnist.ckpt", ["convert", "IN", *_CAST, "-o", "OUT"]),
    "salvage": Writer("run.ckpt", ["salvage", "IN", "-o", "OUT"]),
    "salvage sharded": Writer("sharded", ["salvage", "IN", "-o", "OUT"]),
    "write sums": Writer("gpt.safetensors", ["verify", "IN", "--write-sums", "OUT"]),
    "show save": Writer("mnist.ckpt", ["show", "IN", "conv1.weight", "--save", "OUT"]),
    "strip-prefix in place": Writer("run.ckpt", ["strip-prefix", "IN", "--in-place"], "IN"),
    "add-prefix in place": Writer("mnist.ckpt", ["add-prefix", "IN", "a", "--in-place"], "IN"),
    "remap safetensors in place": Writer(
        "gpt.safetensors", ["remap", "IN", "--rule", "wpe.* -> w.*", "--in-place"], "IN"
    ),
    "add-prefix compact": Writer("mnist.ckpt", ["add-prefix", "IN", "a", "--in-place", "--compact"], "IN"),
    "remap in place": Writer("sharded", ["remap", "IN", "--rule", "conv1.* -> c.*", "--in-place"], "IN"),
    "convert in place": Writer("traced.pt", ["convert", "IN", "--device", "cuda:0", "--in-place"], "IN"),
}


def _state(path: Path) -> Any:
    """What is at a path: bytes, those of all files of a directory, or None."""
    if path.is_dir():
        return {entry.name: _state(entry) for entry in sorted(path.iterdir())}
    return path.read_bytes() if path.exists() else None


class Bench:
    """A folder with the input of a writer, and an old OUT where that is asked for."""

    def __init__(self, writer: Writer, folder: Path, there: bool) -> None:
        self.folder = folder
        self.source = FIXTURES / writer.file
        self.given = folder / writer.file
        self.in_place = writer.out == "IN"
        self.out = self.given if self.in_place else folder / "out"
        self.old_out: str | None = None
        places = {"IN": str(self.given), "OUT": str(self.out)}
        self.arguments = [places.get(word, word) for word in writer.arguments]
        self.reset()
        assert in_process(self.arguments) in (0, 1)
        self.new = _state(self.out)
        if there and not self.in_place:
            self.arguments.append("--force")
            self.old_out = "sharded" if self.out.is_dir() else "lfs-pointer.pt"
        self.reset()
        self.input, self.old = _state(self.given), _state(self.out)
        assert self.new not in (None, self.old)

    def reset(self) -> None:
        for entry in self.folder.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        _copy(self.source, self.given)
        if self.old_out is not None:
            _copy(FIXTURES / self.old_out, self.out)
            if self.out.is_dir():  # what is no part of a checkpoint would not be written over
                (self.out / "config.json").unlink()
                index = next(self.out.glob("*.index.json"))
                index.write_text(index.read_text().replace("total_size", "size"))  # not what salvage makes of it

    def check(self, status: int | None, said: str = "") -> None:
        """The old state or the new one; a process that was not killed (``status`` None) leaves nothing beside it."""
        if status is None and self.in_place:
            assert in_process(["recover", str(self.given)]) in (0, 2)
        found = _state(self.out)
        if status is None:
            assert found in (self.old, self.new)
        else:
            there = any(words in said for words in ("it is written, but ", "the new directory is in place, but "))
            written = there or (status == 1 and "salvage" in self.arguments)
            assert written or (status, found) in ((0, self.new), (2, self.old)), (status, said)
            assert found == self.new or not there
            beside = {entry.name for entry in self.folder.iterdir()} - {self.given.name, self.out.name}
            assert all(there and name in said for name in beside), "left beside, and not said"
        if status == 2:
            assert "ckpt: " in said
        assert self.in_place or _state(self.given) == self.input


def _copy(source: Path, target: Path) -> None:
    (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)


@pytest.mark.parametrize(
    ("act", "there"),
    [(failing(errno.ENOSPC), True), (failing(errno.EIO), False), (eintr, False), (short, True)],
    ids=["no space", "EIO", "EINTR", "short"],
)
@pytest.mark.parametrize("name", WRITERS)
def test_a_write_that_fails_changes_nothing(
    name: str, act: Act, there: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(WRITERS[name], tmp_path, there)
    capsys.readouterr()
    for number, fault in enumerate(every_call(act, CHANGING), 1):
        bench.reset()
        with fault as calls:
            if not _few(number, 7):
                calls.count = 1 << 30
            status = in_process(bench.arguments)
        bench.check(status, _said(capsys))


@pytest.mark.parametrize("when", ["before", "half", "after"])
@pytest.mark.parametrize("name", WRITERS)
def test_a_writer_that_is_killed_changes_all_or_nothing(name: str, when: str, tmp_path: Path) -> None:
    bench = Bench(WRITERS[name], tmp_path, True)
    for number, fault in enumerate(every_call(killed(when), CHANGING), 1):
        bench.reset()
        with fault as calls, contextlib.suppress(Dead):
            if not _few(number, 7):
                calls.count = 1 << 30
            in_process(bench.arguments)
        bench.check(None)


_LOOP = """
import sys
from ckpt_inspect.cli.app import run
print(flush=True)
sys.exit(run(sys.argv[1:]))
"""


@pytest.mark.parametrize("name", WRITERS)
def test_a_writer_that_is_killed_for_real(name: str, tmp_path: Path) -> None:
    bench = Bench(WRITERS[name], tmp_path, True)
    chance = random.Random(name)
    for _ in range(KILLS):
        bench.reset()
        with subprocess.Popen([sys.executable, "-c", _LOOP, *bench.arguments], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(chance.uniform(0, 0.3))  # a random moment, not a wait for something
            process.send_signal(signal.SIGKILL)
        bench.check(None)
