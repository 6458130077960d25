"""A disk that fails, a file that changes, a process that is killed: an error at worst, and nothing is lost.

The n-th call to the system fails, for every n, in every command that reads, and in ``salvage``, which writes; the other
writers share its machinery (``tests/containers``).
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ckpt_inspect
from ckpt_inspect.cli.app import run
from ckpt_inspect.errors import CheckpointError, CorruptError
from ckpt_inspect.operations.salvage import salvage
from ckpt_inspect.operations.verify import verify, verify_file
from tests.conftest import FIXTURES, in_process
from tests.containers.faults import CHANGING, Calls, Dead, every_call, failing, killed
from tests.hostile.sandbox import unsafe

READING = ["info", "tree", "ls", "verify", "scan"]
FILES = ["tied.pt", "legacy.pth", "tar2017.pth.tar", "sharded", "scripted.pt"]
KILLS = int(os.environ.get("CKPT_KILLS", "6"))


def _few(number: int) -> bool:
    """Every fault at the beginning, where headers are read, and every seventh after."""
    return number < 12 or number % 7 == 0


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("command", READING)
def test_reads_that_fail(command: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for number, fault in enumerate(every_call(failing(errno.EIO), ("pread",))):
        with fault as calls:
            if not _few(number):
                calls.count = 1 << 30  # past the fault: only to learn how many calls there are
            status = run([command, str(FIXTURES / name)])
            assert status in (0, 1, 2)
            if calls.count >= number + 1 and calls.count < 1 << 30:
                assert status != 0 or command == "scan", number
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        if not _few(number):
            break


def _short(calls: Calls, name: str, real: Callable[..., Any], args: Any, options: Any) -> Any:
    data: bytes = real(*args, **options)
    return data[: max(1, len(data) // 2)]


@pytest.mark.parametrize("command", READING)
def test_short_reads_change_nothing(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    run([command, str(FIXTURES / "tied.pt")])
    expected = capsys.readouterr().out
    for fault in every_call(_short, ("pread",)):
        with fault:
            assert run([command, str(FIXTURES / "tied.pt")]) == 0
        assert capsys.readouterr().out == expected


def _cut(tmp_path: Path) -> tuple[Path, bytes]:
    data = (FIXTURES / "run.ckpt").read_bytes()[:50_000]
    path = tmp_path / "cut.ckpt"
    path.write_bytes(data)
    return path, data


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("there", [False, True])
def test_salvage_on_a_failing_disk(code: int, there: bool, tmp_path: Path) -> None:
    path, data = _cut(tmp_path)
    out = tmp_path / "out.ckpt"
    whole = tmp_path / "whole.ckpt"
    salvage(str(path), str(whole))
    for fault in every_call(failing(code), CHANGING):
        if there:
            out.write_bytes(b"old")
        with fault, contextlib.suppress(CheckpointError):
            salvage(str(path), str(out), force=there)
        if out.exists():
            assert out.read_bytes() in (whole.read_bytes(), b"old")
            out.unlink()
        assert path.read_bytes() == data


@pytest.mark.parametrize("when", ["before", "after", "half"])
def test_salvage_killed_at_every_call(when: str, tmp_path: Path) -> None:
    path, data = _cut(tmp_path)
    out, whole = tmp_path / "out.ckpt", tmp_path / "whole.ckpt"
    salvage(str(path), str(whole))
    for fault in every_call(killed(when), CHANGING):
        out.write_bytes(b"old")
        with fault, contextlib.suppress(Dead):
            salvage(str(path), str(out), force=True)
        assert out.read_bytes() in (whole.read_bytes(), b"old")
        assert path.read_bytes() == data


def test_salvage_killed_for_real(tmp_path: Path) -> None:
    path, data = _cut(tmp_path)
    out, whole = tmp_path / "out.ckpt", tmp_path / "whole.ckpt"
    salvage(str(path), str(whole))
    loop = "import sys\nfrom ckpt_inspect.operations.salvage import salvage\nprint(flush=True)\nwhile True: salvage(*sys.argv[1:], force=True)"
    chance = random.Random(1)
    for _ in range(KILLS):
        out.write_bytes(b"old")
        process = subprocess.Popen([sys.executable, "-c", loop, str(path), str(out)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(chance.uniform(0, 0.1))  # a random moment, not a wait for something
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert out.read_bytes() in (whole.read_bytes(), b"old")
        assert path.read_bytes() == data


def test_a_file_that_shrinks_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    data = (FIXTURES / "run.ckpt").read_bytes()
    for length in (0, 1000, 300_000):
        path.write_bytes(data)
        checkpoint = ckpt_inspect.open(path)
        os.truncate(path, length)
        with pytest.raises(CorruptError):
            verify(checkpoint)


def test_a_file_that_is_written_to_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    data = (FIXTURES / "run.ckpt").read_bytes()
    path.write_bytes(data)
    checkpoint = ckpt_inspect.open(path)
    os.utime(path, ns=(1, 1))
    with pytest.raises(CorruptError, match="changed while it was read"):
        verify(checkpoint)
    assert verify_file(str(path)).ok


@pytest.mark.parametrize("command", [*READING, "salvage"])
def test_special_files_are_refused(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert run([command, str(fifo)]) == 2
    assert "a named pipe" in capsys.readouterr().err
    listening = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(listening))
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for path, said in ((listening, "this is a socket"), ("/dev/zero", "a character device"), (loop, "symbolic links")):
        assert run([command, str(path)]) == 2
        assert said in capsys.readouterr().err
    link = tmp_path / "link.pt"
    link.symlink_to(FIXTURES / "lenet.pt")
    assert run([command, str(link)]) == (2 if command == "salvage" else 0)
    capsys.readouterr()


_EVIL = "a\x1b[2J\nb\u202e#c.pt"
_NAMED = [
    ["info", "IN"],
    ["tree", "IN"],
    ["ls", "IN", "IN"],
    ["show", "IN", "slice"],
    ["show", "IN", "slice", "--save", "OUT"],
    ["stats", "IN", "--check"],
    ["diff", "IN", "IN"],
    ["hash", "IN"],
    ["verify", "IN", "--write-sums", "OUT"],
    ["scan", "IN"],
    ["salvage", "IN", "-o", "OUT"],
    ["add-prefix", "IN#model", "x", "-o", "OUT"],
    ["add-prefix", "IN#model", "x", "--dry-run"],
    ["convert", "IN", "--format", "torch-legacy", "-o", "OUT"],
    ["convert", "IN", "--format", "safetensors", "-o", "OUT"],
    ["code", "IN#model"],
    ["recover", "IN"],
]


@pytest.mark.parametrize("arguments", _NAMED, ids=" ".join)
@pytest.mark.parametrize("broken", [False, True])
def test_names_of_files_are_escaped(
    arguments: list[str], broken: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file from a stranger has a name of his choice too."""
    given, out = tmp_path / _EVIL, tmp_path / f"out{_EVIL}"
    given.write_bytes(b"PK" * 9 if broken else (FIXTURES / "tied.pt").read_bytes())
    places = {"IN": str(given), "OUT": str(out)}
    words = [w.replace("IN", places["IN"]) if w.startswith("IN") else places.get(w, w) for w in arguments]
    assert in_process(words) in (0, 1, 2)
    said = capsys.readouterr()
    assert not unsafe([said.out, said.err])
    assert "[2J\n" not in said.out + said.err
