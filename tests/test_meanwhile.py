"""A file that changes while it is read, and who reads while a file is written: the old, the new, or a clear error.

Nothing waits for a moment: the change is made at the n-th read, and the reader reads between any two calls of the writer.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ckpt_inspect
from ckpt_inspect.errors import CheckpointError
from ckpt_inspect.operations.hash import hash as content_hash
from tests.conftest import FIXTURES, in_process
from tests.containers.faults import CHANGING, Act, Calls, every_call
from tests.test_command_faults import READING, TIMED, WRITERS, Bench, _copy, _few, _state

# -- a file that changes while it is read -----------------------------------------------------------------------


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _emptied(path: Path) -> None:
    os.truncate(path, 0)


def _written_over(path: Path) -> None:
    """Every byte of its second half changes, as a writer that begins anew would do."""
    data = path.read_bytes()
    with open(path, "r+b") as file:
        file.seek(len(data) // 2)
        file.write(bytes(byte ^ 0x55 for byte in data[len(data) // 2 :]))


def _replaced(path: Path) -> None:
    """Another file under the same name; what is open stays what it was."""
    other = path.with_name("other")
    other.write_bytes(path.read_bytes()[:-100] + b"x" * 100)
    other.rename(path)


def _removed(path: Path) -> None:
    path.unlink()


CHANGES: list[Callable[[Path], None]] = [_cut, _emptied, _written_over, _replaced, _removed]


def _meanwhile(folder: Path, change: Callable[[Path], None]) -> Act:
    def act(calls: Calls, name: str, real: Callable[..., Any], args: Any, options: Any) -> Any:
        for path in _files(folder):
            change(path)
        return real(*args, **options)

    return act


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("name", READING)
def test_a_file_that_changes_while_it_is_read(
    name: str,
    change: Callable[[Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "read"
    monkeypatch.chdir(tmp_path)

    def anew() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for word in READING[name]:
            file = FIXTURES / word.partition("#")[0]
            if file.suffix != ".py" and file.exists():
                _copy(file, folder / file.name)

    arguments = [f"read/{word}" if (FIXTURES / word.partition("#")[0]).exists() else word for word in READING[name]]
    anew()
    expected = in_process(arguments), capsys.readouterr().out
    for number, fault in enumerate(every_call(_meanwhile(folder, change), ("pread",)), 1):
        anew()
        with fault as calls:
            if not _few(number, 7):
                calls.count = 1 << 30
            status = in_process(arguments)
            met = number <= calls.count < 1 << 30
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        same = status == expected[0] and (name in TIMED or said.out == expected[1])
        refused = status != 0 and (said.err or said.out != expected[1])
        afterwards = met and (in_process(arguments), *capsys.readouterr()) == (
            status,
            *said,
        )  # all of it was the new file
        assert same or (met and (refused or afterwards)), (number, status, said)


# -- who reads while a file is written --------------------------------------------------------------------------


def _content(path: Path) -> Any:
    """What a reader makes of it: its keys and the hash of its content, or the error."""
    try:
        with ckpt_inspect.open(path) as checkpoint:
            return [name for name, _, _ in checkpoint.tensors()], content_hash(checkpoint).to_dict()
    except CheckpointError as error:
        return error


@pytest.mark.parametrize("name", WRITERS)
def test_a_reader_between_the_calls_of_a_writer(name: str, tmp_path: Path) -> None:
    bench = Bench(WRITERS[name], tmp_path, True)
    seen: list[Any] = []

    def look() -> None:
        if bench.in_place:
            seen.append(_content(bench.out))
        else:
            assert _state(bench.out) in (bench.old, bench.new)

    def act(calls: Calls, called: str, real: Callable[..., Any], args: Any, options: Any) -> Any:
        look()
        done = real(*args, **options)
        look()
        return done

    old = _content(bench.out) if bench.in_place else None
    for _, fault in enumerate(every_call(act, CHANGING), 1):
        bench.reset()
        with fault:
            in_process(bench.arguments)
        assert _state(bench.out) == bench.new
    new = _content(bench.out) if bench.in_place else None
    assert all(found in (old, new) for found in seen)
