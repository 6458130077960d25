"""Edits in place: done or undone, at whatever call the process, the disk or the power fails."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckpt_inspect.containers import journal_file, recovery
from ckpt_inspect.containers.journal import (
    FileEdit,
    Journal,
    edit,
    edit_many,
    examine,
    open_source,
    pending,
    recover,
)
from ckpt_inspect.containers.journal_file import MAGIC, Joined, load
from ckpt_inspect.containers.output import JOURNAL, replace_file
from ckpt_inspect.errors import CheckpointError, CorruptError, FileError, MissingFileError, UnsupportedError
from ckpt_inspect.model.source import BytesSource, FileSource, Source

from . import victim
from .faults import CHANGING, Dead, Recorder, dying, eintr, every_call, failing, faulty, interrupting, killed, short
from .test_output import KILLS, ROOT, file_limit, generations, refused, unprivileged

OLD = random.Random("old").randbytes(300_000)
NEW = b"N" * 2000 + OLD[2000:100_000] + b"M" * 5000 + OLD[105_000:290_000] + b"record" * 100 + b"end"
SHARDS = ("model-1", "model-2", "model.index")


def change(file: FileEdit) -> None:
    """From OLD to NEW: every kind of step."""
    file.overwrite(100_000, b"M" * 5000)
    file.overwrite(0, b"N" * 2000)
    file.truncate(290_000)
    file.append(b"record" * 50, BytesSource(b"record" * 50, "memory"))
    file.barrier()
    file.append(b"end")


def changed(path: Path | str) -> None:
    with edit(str(path)) as file:
        change(file)
        file.commit()


def several(place: Path) -> list[str]:
    return [str(place / name) for name in SHARDS]


def changed_many(place: Path) -> None:
    paths = several(place)
    with edit_many(paths) as whole:
        for path in paths:
            change(whole[path])
        whole.commit()


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


def everything(source: Source) -> bytes:
    return source.read_at(0, source.size)


def seen(path: Path | str) -> bytes:
    """What a looking command sees."""
    _, source, _ = open_source(str(path))
    assert source.size == len(everything(source))
    return everything(source)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file alone in a directory."""
    place = tmp_path / "place"
    place.mkdir()
    path = place / "run.pt"
    path.write_bytes(OLD)
    return path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory of files that belong together."""
    place = tmp_path / "place"
    place.mkdir()
    for name in SHARDS:
        (place / name).write_bytes(OLD)
    return place


def interrupted(path: Path, when: str = "before", call: str = "ftruncate") -> None:
    """An edit killed when it calls this for the first time; by then much is written."""
    path.write_bytes(OLD)
    with contextlib.suppress(Dead), faulty(1, killed(when), (call,)):
        changed(path)
    assert path.with_name(path.name + JOURNAL).exists()


# --- Edits that are done ---------------------------------------------------------------------------------------


def test_an_edit(path: Path) -> None:
    path.chmod(0o640)
    before = path.stat()
    advances: list[int] = []
    with edit(str(path), read=[FileSource(str(path))]) as file:
        change(file)
        assert path.read_bytes() == OLD
        assert file.commit(advances.append) == 7603 == sum(advances)
        assert path.read_bytes() == NEW
    after = path.stat()
    assert (after.st_ino, after.st_mode, after.st_nlink) == (before.st_ino, before.st_mode, 1)
    assert names(path.parent) == ["run.pt"]
    assert examine(str(path)) == (None, "")
    assert recover(str(path)) == f"{path}: no edit of it was interrupted"


def test_relative_paths(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    changed("run.pt")
    assert path.read_bytes() == NEW
    interrupted(Path("run.pt"))
    assert seen("run.pt") == OLD
    recover(".")
    assert path.read_bytes() == OLD


def test_an_edit_without_commit_or_steps_touches_nothing(path: Path) -> None:
    before = path.stat()
    with edit(str(path)) as file:
        change(file)
    with edit(str(path)) as file:
        file.barrier()
        assert file.commit() == 0
        with pytest.raises(ValueError, match="once"):
            file.commit()
    with contextlib.suppress(ZeroDivisionError), edit(str(path)) as file:
        change(file)
        raise ZeroDivisionError
    assert path.read_bytes() == OLD
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert names(path.parent) == ["run.pt"]


Steps = list[tuple[str, int, bytes]]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["overwrite", "append", "truncate", "barrier"]),
        st.integers(0, 400),
        st.binary(max_size=300),
    ),
    max_size=8,
)


def clamped(steps: Steps, length: int) -> Steps:
    """The same within the file."""
    result = []
    for kind, offset, data in steps:
        offset = min(offset, length)
        if kind == "overwrite":
            data = data[: length - offset]
        elif kind == "append":
            length += len(data)
        elif kind == "truncate":
            length = offset
        result.append((kind, offset, data))
    return result


def modelled(steps: Steps, content: bytes) -> bytes:
    model = bytearray(content)
    for kind, offset, data in steps:
        if kind == "overwrite":
            model[offset : offset + len(data)] = data
        elif kind == "append":
            model += data
        elif kind == "truncate":
            del model[offset:]
    return bytes(model)


def done(path: Path, steps: Steps) -> None:
    with edit(str(path)) as file:
        for kind, offset, data in steps:
            if kind == "overwrite":
                file.overwrite(offset, data)
            elif kind == "append":
                file.append(data[:100], BytesSource(data[100:], "memory"))
            elif kind == "truncate":
                file.truncate(offset)
            else:
                file.barrier()
        file.commit()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, size=st.integers(0, 500), nth=st.integers(1, 40), when=st.sampled_from(["before", "half", "after"]))
def test_any_steps_are_done_or_undone(path: Path, steps: Steps, size: int, nth: int, when: str) -> None:
    old = OLD[:size]
    path.write_bytes(old)
    steps = clamped(steps, size)
    new = modelled(steps, old)
    with contextlib.suppress(Dead), faulty(nth, killed(when)):
        done(path, steps)
    if pending(str(path)) is not None:
        assert seen(path) == old
    assert seen(path) in (old, new)
    recover(str(path))
    assert path.read_bytes() in (old, new)
    if path.read_bytes() == old:
        done(path, steps)
    assert path.read_bytes() == new
    assert names(path.parent) == ["run.pt"]


def test_what_cannot_be_meant_is_refused(path: Path) -> None:
    with edit(str(path)) as file:
        attempts: list[Callable[[], None]] = [
            lambda: file.overwrite(len(OLD), b"x"),
            lambda: file.overwrite(-1, b"x"),
            lambda: file.truncate(len(OLD) + 1),
            lambda: file.append(FileSource(str(path)).slice(0, 5)),
        ]
        for wrong in attempts:
            with pytest.raises(ValueError, match=r"behind|end|being changed"):
                wrong()


# --- Refused ---------------------------------------------------------------------------------------------------


def test_links_are_refused_with_the_target_named(path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to(path.name)
    with pytest.raises(UnsupportedError, match=f"a symbolic link to {path}") as caught:
        changed(link)
    assert f"Name {path} itself" in str(caught.value)
    link.unlink()
    os.link(path, link)
    with pytest.raises(UnsupportedError, match=r"2 names \(hard links\)") as caught:
        changed(path)
    assert "-o OUT" in str(caught.value)
    assert path.read_bytes() == OLD


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnsupportedError, match="a named pipe"):
        changed(tmp_path / "pipe")
    with pytest.raises(UnsupportedError, match="a directory"):
        changed(tmp_path)
    with pytest.raises(MissingFileError):
        changed(tmp_path / "nothing")
    with pytest.raises(MissingFileError):
        recover(str(tmp_path / "nothing"))


def test_read_only_is_refused_for_root_too(path: Path) -> None:
    path.chmod(0o444)
    with pytest.raises(FileError, match="marked read-only"):
        changed(path)
    assert path.read_bytes() == OLD


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a file of someone else's")
@pytest.mark.parametrize("whose", ["the file", "the directory"])
def test_permission_denied(whose: str) -> None:
    with unprivileged() as place:
        path = place / "run.pt"
        with as_root():
            path.write_bytes(OLD)
            path.chmod(0o644 if whose == "the file" else 0o666)
            place.chmod(0o777 if whose == "the file" else 0o755)
        with pytest.raises(FileError, match="permission denied") as caught:
            changed(path)
        assert caught.value.path == str(path)
        assert path.read_bytes() == OLD
        assert names(place) == ["run.pt"]


@contextlib.contextmanager
def as_root() -> Iterator[None]:
    someone = os.geteuid()
    os.seteuid(0)
    try:
        yield
    finally:
        os.seteuid(someone)


def test_no_locks_no_edit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    monkeypatch.setattr(fcntl, "flock", refused(errno.ENOLCK))
    with pytest.raises(UnsupportedError, match="no file locks here"):
        changed(path)
    monkeypatch.setitem(sys.modules, "fcntl", None)  # as on Windows
    with pytest.raises(UnsupportedError, match="this system has no file locks"):
        changed(path)
    replace_file(str(path), [b"new"], force=True)
    assert names(path.parent) == ["run.pt"]


def test_a_file_that_changed_since_it_was_read_is_refused(path: Path) -> None:
    read = FileSource(str(path))
    os.utime(path, ns=(1, 1))
    with pytest.raises(CorruptError, match="changed while it was read"), edit(str(path), read=[read]):
        pass
    read = FileSource(str(path))
    path.rename(path.with_name("moved"))
    path.write_bytes(OLD)
    with pytest.raises(CorruptError, match="another file has taken its place"), edit(str(path), read=[read]):
        pass
    with edit(str(path)) as file:
        change(file)
        os.utime(path, ns=(2, 2))
        with pytest.raises(CorruptError, match="something else has written to it"):
            file.commit()
    assert path.read_bytes() == OLD


def test_what_writes_without_asking_for_the_lock_is_noticed(path: Path) -> None:
    def write(calls: Any, name: str, real: Callable[..., Any], args: Any, options: Any) -> Any:
        os.utime(path, ns=(1, 1))
        return real(*args, **options)

    with faulty(1, write, ("fsync",)), pytest.raises(CorruptError, match="changed while it was read"):
        changed(path)
    assert path.read_bytes() == OLD
    assert names(path.parent) == ["run.pt"]


def test_a_file_replaced_before_it_is_locked_is_noticed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(fd: int) -> None:
        path.with_name("new").write_bytes(OLD)
        path.with_name("new").replace(path)

    monkeypatch.setattr(recovery, "lock", slow)
    with pytest.raises(FileError, match="another file has just taken its place"):
        changed(path)
    assert path.read_bytes() == OLD


def test_too_little_room_is_seen_before_anything_is_written(path: Path) -> None:
    class Huge(BytesSource):
        size = 1 << 60

    before = path.stat().st_mtime_ns
    with edit(str(path)) as file:
        file.append(Huge(b"", "huge"))
        with pytest.raises(FileError, match="not enough room"):
            file.commit()
    assert path.stat().st_mtime_ns == before
    assert names(path.parent) == ["run.pt"]


def in_child(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Another process, which says when it is there and goes on when it is told."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


HOLD = """
import sys
from ckpt_inspect.containers.journal import edit_many
with edit_many(sys.argv[1:]) as whole:
    def ask(nbytes):
        print("half way", flush=True)
        input()
    for path in sys.argv[1:]:
        whole[path].overwrite(0, b"first")
        whole[path].barrier()
        whole[path].append(b"last")
    whole.commit(ask)
"""


def test_a_second_rewrite_is_refused_and_readers_see_the_old_state(place: Path) -> None:
    paths = several(place)
    child = in_child(HOLD, *paths)
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stdout.readline() == "half way\n"
    assert Path(paths[0]).read_bytes() == b"first" + OLD[5:]
    for path in paths:
        with pytest.raises(FileError, match="another rewrite of it is going on"):
            changed(path)
        with pytest.raises(FileError, match="another rewrite of it is going on"):
            replace_file(path, [b"new"], force=True)
        with pytest.raises(FileError, match="another rewrite of it is going on"):
            recover(path)
        assert seen(path) == OLD
    with pytest.raises(FileError, match="another rewrite of it is going on"):
        changed_many(place)
    with pytest.raises(FileError, match="another rewrite of it is going on"):
        recover(str(place))
    other = place / "other"
    other.write_bytes(OLD)
    changed(other)
    readers = [open_source(path)[:2] for path in paths]
    child.communicate("\n" * 20)
    assert child.returncode == 0
    for path, (_, source) in zip(paths, readers, strict=True):
        assert everything(source) == OLD
        assert Path(path).read_bytes() == b"first" + OLD[5:] + b"last"
    assert names(place) == [*SHARDS, "other"]


# --- Undone ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", [short, eintr], ids=["short", "EINTR"])
def test_short_and_interrupted_calls_are_continued(path: Path, act: Any) -> None:
    for fault in every_call(act):
        path.write_bytes(OLD)
        with fault:
            changed(path)
        assert path.read_bytes() == NEW


@pytest.mark.parametrize(
    "act",
    [failing(errno.EIO), failing(errno.ENOSPC), interrupting, dying(errno.EIO)],
    ids=["EIO", "ENOSPC", "Control-C", "dead disk"],
)
def test_an_error_at_any_call(path: Path, act: Any) -> None:
    """Undone at once; on a disk that takes nothing any more, as soon as it does."""
    dead_disk = "dying" in act.__qualname__
    journal = path.with_name(path.name + JOURNAL)
    kept = 0
    for fault in every_call(act):
        path.write_bytes(OLD)
        with fault:
            error = raised(lambda: changed(path))
        if dead_disk:
            touched = path.read_bytes() not in (OLD, NEW)
            assert not touched or "ckpt recover" in str(error)
            assert seen(path) in (OLD, NEW)
            recover(str(path))
            kept += touched
        elif journal.exists():  # Control-C the moment it was made
            assert isinstance(error, KeyboardInterrupt)
            assert journal.read_bytes() == b""
            recover(str(path))
        assert path.read_bytes() in (OLD, NEW)
        assert names(path.parent) == ["run.pt"]
    assert bool(kept) == dead_disk
    assert path.read_bytes() == NEW


def raised(action: Callable[[], object]) -> BaseException | None:
    try:
        action()
    except (CheckpointError, KeyboardInterrupt) as error:
        return error
    return None


def test_errors_while_undoing(path: Path) -> None:
    """The first error makes it undo; the second hits the undoing; recover goes on from there."""
    kept = 0
    for fault in every_call(failing(errno.EIO)):
        path.write_bytes(OLD)
        with contextlib.suppress(CheckpointError), fault, edit(str(path)) as file:
            change(file)
            with faulty(1, failing(errno.EIO), ("ftruncate",)):
                file.commit()
        kept += pending(str(path)) is not None
        assert seen(path) == OLD
        recover(str(path))
        assert path.read_bytes() == OLD
        assert names(path.parent) == ["run.pt"]
    assert kept


@pytest.mark.parametrize("limit", [0, 1, 5000, 200_000, 290_001, 290_600, 300_000, 300_001, 500_000])
def test_a_file_that_may_not_grow(path: Path, limit: int) -> None:
    """Where it may not even be as long as it is, the old bytes behind the limit must wait."""
    with edit(str(path)) as file, file_limit(limit):
        change(file)
        file.append(OLD)
        error = raised(file.commit)
    assert "file too large" in str(error)
    assert seen(path) == OLD
    if "ckpt recover" in str(error):
        assert limit < len(OLD)
        recover(str(path))
    assert path.read_bytes() == OLD
    assert names(path.parent) == ["run.pt"]


@pytest.mark.parametrize("when", ["before", "half", "after"])
def test_killed_at_any_call(path: Path, when: str) -> None:
    states = set()
    for fault in every_call(killed(when), CHANGING):
        path.write_bytes(OLD)
        with contextlib.suppress(Dead), fault:
            changed(path)
        journal, note = examine(str(path))
        touched = path.read_bytes() not in (OLD, NEW)
        states.add((touched, note[:13]))
        if touched:
            assert journal is not None
        if journal is not None:
            assert seen(path) == OLD
            assert "ckpt recover" in note
        assert seen(path) in (OLD, NEW)
        expected = seen(path)
        recover(str(path))
        assert path.read_bytes() == expected
        assert names(path.parent) == ["run.pt"]
        assert recover(str(path)).endswith("no edit of it was interrupted")
    assert {touched for touched, _ in states} == {True, False}


@pytest.mark.parametrize("when", ["before", "half", "after"])
def test_recover_killed_at_any_call(path: Path, when: str) -> None:
    for call in ("write", "ftruncate", "unlink"):
        for fault in every_call(killed(when), CHANGING):
            interrupted(path, call="ftruncate" if call == "write" else call)
            with contextlib.suppress(Dead), fault:
                recover(str(path))
            assert seen(path) == OLD
            recover(str(path))
            assert path.read_bytes() == OLD
            assert names(path.parent) == ["run.pt"]


def test_the_next_edit_undoes_an_interrupted_one_first(path: Path) -> None:
    interrupted(path)
    _, source, _ = open_source(str(path))
    assert everything(source) == OLD
    file_source, _, _ = open_source(str(path))
    with edit(str(path), read=[file_source]) as file:  # planned from the old state, seen through the journal
        file.append(b"more")
        file.commit()
    assert path.read_bytes() == OLD + b"more"
    assert names(path.parent) == ["run.pt"]


def test_links_lead_to_the_journal(path: Path, tmp_path: Path) -> None:
    interrupted(path)
    link = tmp_path / "link"
    link.symlink_to(path)
    assert seen(link) == OLD
    recover(str(link))
    assert path.read_bytes() == OLD


def test_a_second_link_is_no_hindrance_to_undoing(path: Path) -> None:
    interrupted(path)
    os.link(path, path.with_name("backup"))
    recover(str(path))
    assert path.read_bytes() == OLD


def test_loss_of_power_at_any_call(path: Path) -> None:
    recorder = Recorder(path.parent)
    with recorder.recording():
        changed(path)
    journal = path.with_name(path.name + JOURNAL)
    chance = random.Random(2)
    undone = 0
    for calls in range(len(recorder.calls) + 1):
        for _ in range(40):
            state = recorder.state_after(calls, chance)
            path.write_bytes(state.pop(path.name))  # the same inode
            journal.unlink(missing_ok=True)
            if state:
                journal.write_bytes(state.pop(journal.name))
            assert not state
            expected = seen(path)
            assert expected in ((OLD, NEW) if calls < len(recorder.calls) else (NEW,))
            undone += "as it was before" in recover(str(path))
            assert path.read_bytes() == expected
    assert undone > 100


def test_loss_of_power_while_undoing(path: Path) -> None:
    interrupted(path)
    journal = path.with_name(path.name + JOURNAL)
    recorder = Recorder(path.parent)
    with recorder.recording():
        recover(str(path))
    chance = random.Random(2)
    for calls in range(len(recorder.calls) + 1):
        for _ in range(40):
            state = recorder.state_after(calls, chance)
            path.write_bytes(state.pop(path.name))
            journal.unlink(missing_ok=True)
            if state:
                assert calls < len(recorder.calls)
                journal.write_bytes(state.pop(journal.name))
            assert seen(path) == OLD
            recover(str(path))
            assert path.read_bytes() == OLD


def test_the_order_of_an_edit(path: Path) -> None:
    """Everything of one line is on the disk before anything of the next."""
    recorder = Recorder(path.parent)
    file, journal = path.stat().st_ino, 0
    with recorder.recording():
        changed(path)
    kinds: list[str] = []
    for call in recorder.calls:
        if call.kind == "create":
            journal = call.file
        which = {file: " file", journal: " journal"}.get(call.file, "") if call.kind != "create" else " journal"
        if not kinds or kinds[-1] != call.kind + which:
            kinds.append(call.kind + which)
    assert kinds == [
        *("create journal", "write journal", "flush journal", "flush names"),
        *("write file", "flush file"),  # what is appended before the barrier
        *("write file", "flush file", "truncate file", "flush file"),
        *("unlink", "flush names"),
    ]


# --- Several files ---------------------------------------------------------------------------------------------


def test_several_files_together_the_index_last(place: Path) -> None:
    paths = several(place)
    order = []

    def look(_: int) -> None:
        order.append([Path(path).read_bytes() == NEW for path in paths])
        assert [seen(path) for path in paths] == [OLD] * 3

    with edit_many(paths) as whole:
        for path in reversed(paths):
            change(whole[path])
        whole.commit(look)
    assert order[-1] == [True, True, False] or order[-1] == [True, True, True]
    assert [True, False, True] not in order
    assert [Path(path).read_bytes() for path in paths] == [NEW] * 3
    assert names(place) == list(SHARDS)


@pytest.mark.parametrize("act", [killed("before"), killed("half"), failing(errno.EIO), interrupting], ids=list("bhec"))
def test_several_files_and_a_fault_at_any_call(place: Path, act: Any) -> None:
    paths = several(place)
    for number, fault in enumerate(every_call(act, CHANGING)):
        for path in paths:
            Path(path).write_bytes(OLD)
        with contextlib.suppress(Dead, CheckpointError, KeyboardInterrupt), fault:
            changed_many(place)
        assert {seen(path) for path in paths} in ({OLD}, {NEW})
        recover((str(place), *paths)[number % 4])
        assert {Path(path).read_bytes() for path in paths} in ({OLD}, {NEW})
        if "killed" not in act.__qualname__ or number % 4 == 0:
            assert names(place) == list(SHARDS)


def interrupted_many(place: Path) -> None:
    for path in several(place):
        Path(path).write_bytes(OLD)
    with contextlib.suppress(Dead), faulty(2, killed("before"), ("ftruncate",)):
        changed_many(place)
    assert names(place) == [JOURNAL, *SHARDS]


def test_an_edit_of_one_undoes_an_interrupted_one_of_all(place: Path) -> None:
    interrupted_many(place)
    path = place / SHARDS[1]
    changed(path)
    assert [Path(path).read_bytes() for path in several(place)] == [OLD, NEW, OLD]
    assert names(place) == list(SHARDS)


def test_an_edit_of_all_undoes_an_interrupted_one_of_one(place: Path) -> None:
    interrupted(place / SHARDS[0])
    changed_many(place)
    assert {Path(path).read_bytes() for path in several(place)} == {NEW}
    assert names(place) == list(SHARDS)


def test_another_interrupted_edit_in_the_directory_is_left_alone(place: Path) -> None:
    interrupted_many(place)
    others = [str(place / "other-1"), str(place / "other-2")]
    for path in others:
        Path(path).write_bytes(OLD)
    assert pending(others[0]) is None
    changed(others[0])
    with edit_many(others) as whole:
        whole[others[1]].append(b"x")
        with pytest.raises(FileError, match="another edit was interrupted here") as caught:
            whole.commit()
    assert f"ckpt recover {place}" in str(caught.value)
    recover(str(place))
    assert [Path(path).read_bytes() for path in (*several(place), *others)] == [OLD, OLD, OLD, NEW, OLD]


def test_an_unfinished_journal_of_several(place: Path) -> None:
    (place / JOURNAL).write_bytes(MAGIC)
    changed(place / SHARDS[0])
    assert (place / JOURNAL).exists()
    assert "never finished" in examine(str(place / SHARDS[0]))[1]
    with edit_many(several(place)) as whole:
        whole[several(place)[1]].append(b"x")
        whole.commit()
    assert names(place) == list(SHARDS)


def test_an_unfinished_journal_may_be_one_in_the_making(place: Path) -> None:
    """It names no files yet, so that their locks do not protect it; its own does."""
    (place / JOURNAL).touch()
    code = (
        "import fcntl, sys; f = open(sys.argv[1], 'r+b'); fcntl.flock(f, fcntl.LOCK_EX); print('', flush=True); input()"
    )
    child = in_child(code, str(place / JOURNAL))
    assert child.stdout is not None
    child.stdout.readline()
    for attempt in (lambda: changed_many(place), lambda: recover(str(place))):
        with pytest.raises(FileError, match="going on"):
            attempt()
    assert (place / JOURNAL).exists()
    child.communicate("\n")
    changed_many(place)
    assert names(place) == list(SHARDS)


def test_files_of_several_directories_are_refused(place: Path, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(OLD)
    paths = [str(tmp_path / "other"), *several(place)]
    with pytest.raises(UnsupportedError, match="several directories"), edit_many(paths):
        pass


# --- The journal itself ----------------------------------------------------------------------------------------


def test_a_journal_torn_at_any_byte_was_never_begun(path: Path) -> None:
    path.write_bytes(OLD[:3000])
    journal = path.with_name(path.name + JOURNAL)
    with contextlib.suppress(Dead), faulty(1, killed("before"), ("lseek",)), edit(str(path)) as file:
        file.overwrite(100, b"x" * 500)
        file.commit()
    whole = journal.read_bytes()
    assert pending(str(path)) is not None
    for cut in range(len(whole)):
        for torn in (whole[:cut], whole[:cut] + bytes(len(whole) - cut)):
            journal.write_bytes(torn)
            if torn == whole:
                continue
            found, note = examine(str(path))
            assert found is None
            assert note == f"{journal} was never finished, so the file is whole: it is ignored"
        if cut % 50 == 0:
            assert seen(path) == OLD[:3000]
            assert "never finished, so nothing had been touched; removed" in recover(str(path))
            assert not journal.exists()
            journal.write_bytes(torn)
            changed_again = path.read_bytes()
            with edit(str(path)) as file:
                file.append(b"")
            assert path.read_bytes() == changed_again
            assert not journal.exists()


def test_every_changed_byte_of_a_journal_is_noticed(path: Path) -> None:
    interrupted(path)
    journal = path.with_name(path.name + JOURNAL)
    whole = journal.read_bytes()
    chance = random.Random(3)
    for at in {*range(700), *(chance.randrange(len(whole)) for _ in range(300)), *range(len(whole) - 40, len(whole))}:
        changed_byte = bytearray(whole)
        changed_byte[at] ^= 1 << chance.randrange(8)
        journal.write_bytes(changed_byte)
        with contextlib.suppress(UnsupportedError):  # "ckpt-journal 9"
            assert load(str(journal)) is None


def test_a_journal_of_a_newer_version_is_not_taken_for_a_torn_one(path: Path) -> None:
    interrupted(path)
    journal = path.with_name(path.name + JOURNAL)
    journal.write_bytes(journal.read_bytes().replace(b"ckpt-journal 1", b"ckpt-journal 2", 1))
    for attempt in (seen, changed, recover):
        with pytest.raises(UnsupportedError, match="a newer ckpt-inspect"):
            attempt(str(path))


def test_a_journal_that_cannot_be_read_is_not_taken_for_a_torn_one(path: Path) -> None:
    interrupted(path)
    with pytest.raises(FileError, match="input/output error"), faulty(1, failing(errno.EIO), ("pread",)):
        examine(str(path))


def forged(journal: Path, files: Any, old: bytes = b"", header: bytes | None = None) -> None:
    header = json.dumps({"files": files}).encode() if header is None else header
    data = MAGIC + len(header).to_bytes(8, "little") + header + old
    journal.write_bytes(data + hashlib.sha256(data).digest())


def entry(path: Path, **changes: Any) -> dict[str, Any]:
    status = path.stat()
    ranges = changes.get("ranges", [[0, 4]])
    with contextlib.suppress(Exception):
        changes.setdefault("witness", journal_file.witness(FileSource(str(path)), status.st_size, ranges))
    size = status.st_size
    fields = {"name": path.name, "device": 0, "inode": status.st_ino, "length": size, "least": size, "most": size}
    return {**fields, "ranges": ranges, "witness": "", **changes}


def test_a_forged_journal_of_the_right_form_is_believed(place: Path) -> None:
    """So that the next test refuses for the reason it means."""
    forged(place / JOURNAL, [entry(place / SHARDS[0])], b"evil")
    recover(str(place))
    assert (place / SHARDS[0]).read_bytes() == b"evil" + OLD[4:]


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "../victim"}, {"name": "/etc/passwd"}, {"name": "a/../victim"}, {"name": ".."}, {"name": ""},
        {"name": 5}, {"name": "a\0"}, {"length": -1}, {"length": 2.5}, {"length": True}, {"length": 1 << 64},
        {"ranges": [[0, 2], [1, 2]]}, {"ranges": [[2, 2], [0, 2]]}, {"ranges": [[299_999, 4]]}, {"ranges": [[0, -4]]},
        {"ranges": [[0, 3]]}, {"ranges": [[0, 5]]}, {"ranges": [[0]]}, {"ranges": 7}, {"ranges": None},
        {"inode": "x"},
    ],
    ids=str,
)  # fmt: skip
def test_a_forged_journal_is_refused(place: Path, changes: dict[str, Any]) -> None:
    (place.parent / "victim").write_bytes(OLD)
    forged(place / JOURNAL, [entry(place / SHARDS[0], **changes)], b"evil")
    for attempt in (seen, changed, recover):
        with pytest.raises(CorruptError, match="what no edit says"):
            attempt(str(place / SHARDS[0]))
    assert (place / SHARDS[0]).read_bytes() == OLD
    assert (place.parent / "victim").read_bytes() == OLD


@pytest.mark.parametrize(
    "header",
    [b"", b"{}", b"[]", b"null", b'{"files": 3}', b'{"files": [3]}', b"[" * 100_000, b"\xff", b'{"files": [{}]}'],
    ids=range(9),
)
def test_a_header_that_is_none(place: Path, header: bytes) -> None:
    forged(place / JOURNAL, [], header=header)
    with pytest.raises(CorruptError, match="what no edit says"):
        load(str(place / JOURNAL))


def test_two_entries_for_one_file_or_two_files_for_one_name(place: Path) -> None:
    one = entry(place / SHARDS[0])
    forged(place / JOURNAL, [one, one], b"evilevil")
    with pytest.raises(CorruptError):
        recover(str(place))
    forged(place / (SHARDS[0] + JOURNAL), [one, entry(place / SHARDS[1])], b"evilevil")
    (place / JOURNAL).unlink()
    with pytest.raises(CorruptError):
        recover(str(place))


def test_a_header_longer_than_the_journal(place: Path) -> None:
    data = MAGIC + (1 << 60).to_bytes(8, "little")
    (place / JOURNAL).write_bytes(data + hashlib.sha256(data).digest())
    with pytest.raises(CorruptError, match="impossible length"):
        load(str(place / JOURNAL))


def test_a_journal_leads_through_no_link(place: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(OLD)
    (place / "link").symlink_to(secret)
    forged(place / JOURNAL, [entry(secret, name="link")], b"evil")
    with pytest.raises(UnsupportedError, match="symbolic link"):
        recover(str(place))
    assert secret.read_bytes() == OLD
    forged(tmp_path / "journal", [entry(place / SHARDS[0])], b"evil")
    (place / JOURNAL).unlink()
    (place / JOURNAL).symlink_to(tmp_path / "journal")
    with pytest.raises(FileError):
        recover(str(place))
    assert (place / SHARDS[0]).read_bytes() == OLD


# --- Written by something else since ---------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["shorter", "longer", "other bytes", "few other bytes at the end", "another file"])
def test_what_something_else_has_saved_since_is_never_undone(path: Path, how: str) -> None:
    path.write_bytes(OLD)
    with contextlib.suppress(Dead), faulty(1, killed("before"), ("unlink",)), edit(str(path)) as file:
        file.overwrite(0, b"N" * 100)
        file.append(b"more")
        file.commit()
    data = {
        "shorter": OLD[:-1],
        "longer": path.read_bytes() + b"more",
        "other bytes": random.Random(5).randbytes(len(OLD)),
        "few other bytes at the end": OLD[:-10] + bytes(10),
        "another file": path.read_bytes(),
    }[how]
    if how == "another file":
        path.rename(path.with_name("old"))
    path.write_bytes(data)
    journal, note = examine(str(path))
    assert journal is None
    assert "is ignored: it has been" in note
    assert seen(path) == data
    for attempt in (recover, changed):
        with pytest.raises(UnsupportedError, match="not undone: it has been") as caught:
            attempt(str(path))
        assert f"remove {path}{JOURNAL}" in str(caught.value)
    assert path.read_bytes() == data
    os.unlink(f"{path}{JOURNAL}")
    assert examine(str(path)) == (None, "")


def test_a_copy_of_the_interrupted_pair_can_be_undone(path: Path, tmp_path: Path) -> None:
    interrupted(path)
    copy = tmp_path / "copy.pt"
    shutil.copy(path, copy)
    shutil.copy(f"{path}{JOURNAL}", f"{copy}{JOURNAL}")
    with pytest.raises(UnsupportedError, match="replaced by another file"):
        recover(str(copy))
    recover(str(copy), moved=True)
    assert copy.read_bytes() == OLD
    assert names(tmp_path) == ["copy.pt", "place"]


def test_both_renamed_together(path: Path) -> None:
    interrupted(path)
    other = path.with_name("other.pt")
    path.rename(other)
    os.rename(f"{path}{JOURNAL}", f"{other}{JOURNAL}")
    assert seen(other) == OLD
    recover(str(other))
    assert other.read_bytes() == OLD


# --- Reading through a journal ---------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.lists(st.integers(0, 1000), max_size=6),
    reads=st.lists(st.tuples(st.integers(0, 1100), st.integers(0, 1100)), min_size=1, max_size=10),
)
def test_joined_sources_read_as_one(path: Path, cuts: list[int], reads: list[tuple[int, int]]) -> None:
    file = FileSource(str(path))
    cuts = [0, *sorted(cuts), 1000]
    parts: list[Source] = []
    for number, (start, end) in enumerate(itertools.pairwise(cuts)):
        parts.append(file.slice(start, end - start) if number % 2 else BytesSource(OLD[start:end], "memory"))
    joined = Joined(parts, "joined")
    assert joined.size == 1000
    for offset, nbytes in reads:
        assert joined.read_at(offset, nbytes) == OLD[:1000][offset : offset + nbytes]
        part = joined.slice(offset, nbytes)
        assert everything(part) == OLD[:1000][offset : offset + nbytes]
        where = part.file_range()
        if where is not None:
            assert where[0].read_at(where[1], part.size) == everything(part)


def test_what_the_edit_leaves_alone_stays_a_range_of_the_file(path: Path) -> None:
    interrupted(path)
    file, source, _ = open_source(str(path))
    assert source.slice(150_000, 1000).file_range() == (file, 150_000)
    assert everything(source.slice(99_000, 10_000)) == OLD[99_000:109_000]
    assert source.file_range() is None
    journal = pending(str(path))
    assert isinstance(journal, Journal)
    assert journal.path == f"{path}{JOURNAL}"


def test_a_file_that_only_grew_is_one_range(path: Path) -> None:
    with contextlib.suppress(Dead), faulty(1, killed("before"), ("unlink",)), edit(str(path)) as file:
        file.append(b"more")
        file.commit()
    _, source, _ = open_source(str(path))
    where = source.file_range()
    assert where is not None
    assert (where[1], source.size) == (0, len(OLD))


# --- Killed for good, and a full disk --------------------------------------------------------------------------


def test_an_edit_and_sigkill(path: Path) -> None:
    path.write_bytes(victim.content(0))
    for complete in generations("edit", str(path), KILLS):
        old_or_new = (victim.content(complete), victim.content(complete + 1))
        assert seen(path) in old_or_new
        recover(str(path))
        assert path.read_bytes() in old_or_new
        assert names(path.parent) == ["run.pt"]


def test_edits_of_several_files_and_sigkill(tmp_path: Path) -> None:
    for name in ("shard-1", "shard-2"):
        (tmp_path / name).write_bytes(victim.content(0))
    for complete in generations("edit-many", str(tmp_path), max(5, KILLS // 4)):
        recover(str(tmp_path))
        one, two = (path.read_bytes() for path in sorted(tmp_path.iterdir()))
        assert one == two
        assert one in (victim.content(complete), victim.content(complete + 1))


FULL = """
import os, sys
from ckpt_inspect.containers.journal import edit
from ckpt_inspect.containers.output import replace_file
from ckpt_inspect.containers.copying import check_room
from ckpt_inspect.containers import journal, output
from ckpt_inspect.errors import FileError
place = sys.argv[1]
journal.check_room = output.check_room = lambda *_: None  # others fill the disk meanwhile
old = os.urandom(600_000)
path = os.path.join(place, "run.pt")
open(path, "wb").write(old)
def rewrite_in_place():
    with edit(path) as file:
        file.overwrite(0, b"x" * 100_000)
        file.truncate(500_000)
        file.append(bytes(2_000_000))
        file.commit()
def rewrite():
    replace_file(path, [bytes(2_000_000)], force=True)
for attempt in (rewrite_in_place, rewrite):
    try:
        attempt()
    except FileError as error:
        assert "no space left on device" in str(error), error
        assert "undoing" not in str(error), error
    else:
        raise AssertionError("there was room")
    assert open(path, "rb").read() == old
    assert os.listdir(place) == ["run.pt"]
print("whole")
"""


def test_a_full_disk(tmp_path: Path) -> None:
    script = 'mount -t tmpfs -o size=2m none "$0" && exec "$@"'
    result = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, str(tmp_path), sys.executable, "-c", FULL, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode and "Traceback" not in result.stderr:
        pytest.skip(f"no small disk here: {result.stderr.strip()}")
    assert (result.stdout, result.stderr) == ("whole\n", "")
