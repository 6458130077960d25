"""The copy loop against plain concatenation; new files and directories whole or not at all, whatever happens."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckpt_inspect.containers import copying, output
from ckpt_inspect.containers.copying import Piece, system_errors, write_pieces
from ckpt_inspect.containers.journal import recover
from ckpt_inspect.containers.output import JOURNAL, leftovers, put_back, replace_directory, replace_file
from ckpt_inspect.errors import (
    CheckpointError,
    CorruptError,
    FileError,
    MissingFileError,
    OutputExistsError,
    UnsupportedError,
)
from ckpt_inspect.model import source as model_source
from ckpt_inspect.model.source import BytesSource, FileSource, Slice, Source

from . import victim
from .faults import CHANGING, Dead, Recorder, dying, eintr, every_call, failing, interrupting, killed, short

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("CKPT_KILLS", "20"))
DATA = random.Random(4).randbytes(300_000)


# --- The copy loop ---------------------------------------------------------------------------------------------


class Opaque:
    """A source that is no range of a file, as an inflated member."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)
        self.path = "opaque"

    def read_at(self, offset: int, nbytes: int) -> bytes:
        return self.data[offset : offset + nbytes]

    def slice(self, offset: int, nbytes: int) -> Source:
        return Slice(self, offset, nbytes)

    def file_range(self) -> None:
        return None


def refused(code: int) -> Callable[..., int]:
    def copy_file_range(*args: Any) -> int:
        raise OSError(code, os.strerror(code))

    return copy_file_range


def hesitant(*args: Any) -> int:
    """Copies a little each time."""
    return REAL_COPY(args[0], args[1], min(args[2], 1000), *args[3:])


REAL_COPY: Callable[..., int] = os.copy_file_range
KERNELS: dict[str, Callable[..., int] | None] = {
    "kernel": REAL_COPY,
    "a little": hesitant,
    "zero": lambda *args: 0,
    "none": None,
    "buffer": REAL_COPY,
    "a buffer filled by hand": REAL_COPY,
    **{errno.errorcode[code]: refused(code) for code in (errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.ENOTSUP)},
}


@pytest.fixture(params=list(KERNELS))
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    function = KERNELS[request.param]
    if "buffer" in request.param:
        monkeypatch.setattr(copying, "_kernel_copies", lambda: False)
    monkeypatch.setattr(copying, "_BUFFER", 70_001)
    if request.param == "a buffer filled by hand":
        monkeypatch.setattr(model_source, "_preadv", model_source._read_and_copy)
    if function is None:
        monkeypatch.delattr(os, "copy_file_range")
    else:
        monkeypatch.setattr(os, "copy_file_range", function)


@pytest.fixture(params=["kernel", "buffer"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "_kernel_copies", lambda: request.param == "kernel")


@pytest.fixture
def source(tmp_path: Path) -> FileSource:
    path = tmp_path / "source"
    path.write_bytes(DATA)
    return FileSource(str(path))


Plan = list[tuple[str, int, int]]
PLANS = st.lists(
    st.tuples(
        st.sampled_from(["bytes", "whole", "range", "range of range", "memory", "opaque", "end"]),
        st.integers(0, len(DATA)),
        st.one_of(st.integers(0, 50), st.integers(0, len(DATA))),
    ),
    max_size=8,
)


def made(plan: Plan, source: FileSource) -> Iterator[tuple[Piece, bytes]]:
    for kind, offset, nbytes in plan:
        data = DATA[offset : offset + nbytes]
        third = len(data) // 3
        stretch = source.slice(offset, len(data))
        pieces: dict[str, tuple[Piece, bytes]] = {
            "bytes": (data, data),
            "whole": (source, DATA),
            "range": (stretch, data),
            "range of range": (stretch.slice(third, len(data)), data[third:]),
            "memory": (BytesSource(data, "memory"), data),
            "opaque": (Opaque(data).slice(1, max(0, len(data) - 1)), data[1:]),
            "end": (source.slice(len(DATA), 0), b""),
        }
        yield pieces[kind]


@pytest.mark.parametrize("sizes", [None, (7000, 100, 900)], ids=["chunks as they are", "small chunks"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=PLANS)
def test_pieces_are_their_concatenation(
    kernel: None, source: FileSource, tmp_path: Path, sizes: tuple[int, int, int] | None, plan: Plan
) -> None:
    both = list(made(plan, source))
    expected = b"".join(data for _, data in both)
    advances: list[int] = []
    with pytest.MonkeyPatch.context() as patch, open(tmp_path / "out", "wb", buffering=0) as out:
        for name, size in zip(("_KERNEL_CHUNK", "_SMALL", "COPY_CHUNK"), sizes or (), strict=bool(sizes)):
            patch.setattr(copying, name, size)
        out.write(b"before")
        assert write_pieces(out.fileno(), (piece for piece, _ in both), advances.append) == len(expected)
    assert (tmp_path / "out").read_bytes() == b"before" + expected
    assert sum(advances) == len(expected)
    assert 0 not in advances


@pytest.mark.parametrize("act", [short, eintr], ids=["short", "EINTR"])
def test_short_and_interrupted_calls_are_continued(
    both_ways: None, source: FileSource, tmp_path: Path, act: Any
) -> None:
    plan: list[Piece] = [DATA, source.slice(5, 200_000), b"small", Opaque(DATA), source.slice(0, 10)]
    expected = DATA + DATA[5:200_005] + b"small" + DATA + DATA[:10]
    for fault in every_call(act):
        with fault:
            assert replace_file(str(tmp_path / "out"), plan, force=True) == len(expected)
        assert (tmp_path / "out").read_bytes() == expected


@pytest.mark.parametrize("when", ["before", "while"])
@pytest.mark.parametrize("how", ["written", "cut", "longer"])
def test_a_source_that_changes_is_noticed(
    kernel: None, source: FileSource, tmp_path: Path, when: str, how: str
) -> None:
    def change(_: int = 0) -> None:
        if how == "cut":
            os.truncate(source.path, 1000)
        else:
            with open(source.path, "r+b") as file:
                file.seek(len(DATA) if how == "longer" else 100)
                file.write(b"new")
        os.utime(source.path, ns=(1, 1))  # the clock of a file system may tick slowly

    if when == "before":
        change()
    halves: list[Piece] = [source.slice(0, 150_000), source.slice(150_000, 150_000)]
    with open(tmp_path / "out", "wb") as out, pytest.raises(CorruptError) as caught:
        write_pieces(out.fileno(), halves, change if when == "while" else None)
    assert caught.value.path == source.path


def test_a_source_shorter_than_it_says_is_refused(kernel: None, source: FileSource, tmp_path: Path) -> None:
    for piece in (source.slice(len(DATA) - 5, 6), source.slice(1000, len(DATA)), Slice(Opaque(b"abc"), 1, 3)):
        with open(tmp_path / "out", "wb") as out, pytest.raises(CorruptError, match="shorter than it says"):
            write_pieces(out.fileno(), [piece])


def test_memory_is_bounded_by_a_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "copy_file_range")
    with open(tmp_path / "source", "wb") as file:
        file.truncate(64 << 20)
    tracemalloc.start()
    try:
        replace_file(str(tmp_path / "out"), [FileSource(str(tmp_path / "source"))], force=False)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("piece", ["bytes", "range"])
def test_a_full_device_is_told_with_path_and_way_out(source: FileSource, piece: str) -> None:
    with (
        open("/dev/full", "wb", buffering=0) as out,
        pytest.raises(FileError) as caught,
        system_errors("/dev/full", "cannot write"),
    ):
        write_pieces(out.fileno(), [DATA if piece == "bytes" else source])
    assert str(caught.value).startswith("/dev/full: cannot write: no space left on device\n")
    assert "-o OUT" in str(caught.value)


def test_an_error_of_the_source_names_the_source(source: FileSource, tmp_path: Path) -> None:
    unreadable = FileSource(source.path)
    os.close(unreadable.fd)
    unreadable.fd = os.open(source.path, os.O_WRONLY)
    with open(tmp_path / "out", "wb") as out, pytest.raises(FileError, match="cannot read") as caught:
        write_pieces(out.fileno(), [unreadable])
    assert caught.value.path == source.path


# --- A new file ------------------------------------------------------------------------------------------------


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


@contextlib.contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file_has_the_mode_of_the_source_or_the_usual_one(tmp_path: Path) -> None:
    like, out = tmp_path / "like", tmp_path / "out"
    like.write_bytes(b"")
    for wanted in (0o600, 0o444, 0o664):
        like.chmod(wanted)
        with umask(0o077):
            replace_file(str(out), [b"x"], force=True, like=str(like))
        assert mode(out) == wanted
        out.unlink()
    with umask(0o027):
        replace_file(str(out), [b"x"], force=False)
    assert mode(out) == 0o640


def test_a_replaced_file_keeps_its_mode(tmp_path: Path) -> None:
    like, out = tmp_path / "like", tmp_path / "out"
    like.write_bytes(b"")
    out.write_bytes(b"old")
    out.chmod(0o604)
    replace_file(str(out), [b"new"], force=True, like=str(like))
    assert (out.read_bytes(), mode(out)) == (b"new", 0o604)


def test_nobody_else_reads_a_private_file_while_it_is_written(tmp_path: Path) -> None:
    like = tmp_path / "like"
    like.write_bytes(b"")
    like.chmod(0o600)
    seen: list[int] = []

    def look(_: int) -> None:
        seen.extend(mode(path) for path in tmp_path.iterdir() if path != like)

    replace_file(str(tmp_path / "out"), [DATA], force=False, like=str(like), progress=look)
    assert set(seen) == {0o600}


def test_an_existing_file_is_refused_without_force(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_bytes(b"old")
    with pytest.raises(OutputExistsError, match="--force"):
        replace_file(str(out), [b"new"], force=False)
    assert out.read_bytes() == b"old"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
def test_a_file_that_appears_meanwhile_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    out = tmp_path / "out"
    if not links:
        monkeypatch.setattr(os, "link", refused(errno.EPERM))
    with pytest.raises(OutputExistsError):
        replace_file(str(out), [DATA], force=False, progress=lambda _: out.touch())
    assert out.read_bytes() == b""
    assert names(tmp_path) == ["out"]
    out.unlink()
    replace_file(str(out), [b"new"], force=False)
    assert out.read_bytes() == b"new"
    assert out.stat().st_nlink == 1
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("way", ["itself", "hard link", "symbolic link"])
def test_the_target_may_be_the_source(kernel: None, source: FileSource, tmp_path: Path, way: str) -> None:
    out = source.path if way == "itself" else str(tmp_path / "out")
    if way == "hard link":
        os.link(source.path, out)
    elif way == "symbolic link":
        os.symlink(source.path, out)
    replace_file(out, [b"new", source.slice(100_000, 100_000)], force=True)
    assert Path(out).read_bytes() == b"new" + DATA[100_000:200_000]
    assert not os.path.islink(out)
    if way != "itself":
        assert Path(source.path).read_bytes() == DATA


def test_of_a_link_the_link_is_replaced(tmp_path: Path) -> None:
    blob, link = tmp_path / "blob", tmp_path / "link"
    blob.write_bytes(b"old")
    blob.chmod(0o640)
    link.symlink_to("blob")
    with pytest.raises(OutputExistsError, match=r"a symbolic link to blob; the link would be replaced"):
        replace_file(str(link), [b"new"], force=False)
    replace_file(str(link), [b"new"], force=True)
    assert (blob.read_bytes(), link.read_bytes(), link.is_symlink(), mode(link)) == (b"old", b"new", False, 0o640)
    dangling = tmp_path / "dangling"
    dangling.symlink_to("nothing")
    with pytest.raises(OutputExistsError):
        replace_file(str(dangling), [b"new"], force=False)
    replace_file(str(dangling), [b"new"], force=True)
    assert not dangling.is_symlink()


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "stdout").symlink_to("/dev/null")
    for name, what in (("dir", "a directory"), ("pipe", "a named pipe"), ("stdout", "a character device")):
        with pytest.raises(UnsupportedError, match=what):
            replace_file(str(tmp_path / name), [b"new"], force=True)
    assert names(tmp_path) == ["dir", "pipe", "stdout"]
    with pytest.raises(MissingFileError, match="mkdir -p"):
        replace_file(str(tmp_path / "none" / "out"), [b"new"], force=True)


def test_long_and_odd_names(tmp_path: Path) -> None:
    for name in ("n" * 255, "ü" * 127, "a b\n*[x]", os.fsdecode(b"\xff\xfe.pt")):
        out = tmp_path / name
        for force in (False, True):
            replace_file(str(out), [b"new"], force=force)
        assert names(tmp_path) == [name]
        out.unlink()
    with pytest.raises(FileError, match="name too long"):
        replace_file(str(tmp_path / ("n" * 256)), [b"new"], force=False)


def test_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    replace_file("out", [b"new"], force=False)
    assert names(tmp_path) == ["out"]
    assert leftovers("out") == []


def test_too_little_room_is_seen_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"not enough room: 1,152,921,504,606,846,976 bytes .* more than are free"):
        replace_file(str(tmp_path / "out"), iter([b"new"]), force=False, total=1 << 60)
    with pytest.raises(FileError, match="not enough room"):
        replace_file(str(tmp_path / "out"), [Slice(Opaque(b""), 0, 1 << 60)], force=False)
    with pytest.raises(FileError, match="not enough room"):
        replace_directory(str(tmp_path / "out"), {"a": [Slice(Opaque(b""), 0, 1 << 60)]}, force=False)
    assert names(tmp_path) == []


@contextlib.contextmanager
def file_limit(nbytes: int) -> Iterator[None]:
    """No file may grow beyond this: the system's own refusal in the middle of a write. Python ignores SIGXFSZ."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("limit", [0, 1, 100_000, 299_999])
def test_a_file_that_may_not_grow(kernel: None, source: FileSource, tmp_path: Path, limit: int) -> None:
    out = tmp_path / "out"
    out.write_bytes(b"old")
    for pieces in ([source], [DATA], [Opaque(DATA)]):
        with file_limit(limit), pytest.raises(FileError, match="cannot write: file too large"):
            replace_file(str(out), pieces, force=True)
        assert out.read_bytes() == b"old"
        assert names(tmp_path) == ["out", "source"]


@contextlib.contextmanager
def unprivileged() -> Iterator[Path]:
    """A directory of someone else's, and not being root."""
    root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755 if root else 0o555)
        if root:
            os.seteuid(65534)
        try:
            yield Path(name)
        finally:
            if root:
                os.seteuid(0)
            os.chmod(name, 0o755)


def test_permission_denied() -> None:
    with unprivileged() as place:
        with pytest.raises(FileError, match="cannot write: permission denied") as caught:
            replace_file(str(place / "out"), [b"new"], force=False)
        assert caught.value.path == str(place / "out")
        assert "-o OUT" in str(caught.value)
        with pytest.raises(FileError, match="cannot write: permission denied"):
            replace_directory(str(place / "out"), {"a": [b"new"]}, force=False)
        assert names(place) == []


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize(
    "act", [failing(errno.EIO), failing(errno.ENOSPC), interrupting, dying(errno.EIO)],
    ids=["EIO", "ENOSPC", "Control-C", "dead disk"],
)  # fmt: skip
def test_an_error_at_any_call(both_ways: None, source: FileSource, tmp_path: Path, act: Any, force: bool) -> None:
    """The old file is whole or the new one is; no temporary is left, but on a disk that takes nothing any more."""
    place = tmp_path / "place"
    place.mkdir()
    out = place / "out"
    plan: list[Piece] = [b"new", source, DATA, Opaque(DATA)]
    old, new = b"old" if force else None, b"new" + DATA * 3
    for fault in every_call(act):
        out.unlink(missing_ok=True)
        if old is not None:
            out.write_bytes(old)
        with contextlib.suppress(CheckpointError, KeyboardInterrupt), fault:
            replace_file(str(out), plan, force=force)
        assert (out.read_bytes() if out.exists() else None) in (old, new)
        stray = [path for path in place.iterdir() if path != out]
        if "dying" not in act.__qualname__:
            assert not stray
        assert sorted(map(str, stray)) == leftovers(str(out))
        for path in stray:
            path.unlink()
    assert out.read_bytes() == new


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("when", ["before", "half", "after"])
def test_killed_at_any_call(both_ways: None, source: FileSource, tmp_path: Path, when: str, force: bool) -> None:
    place = tmp_path / "place"
    place.mkdir()
    out = place / "out"
    old, new = b"old" if force else None, b"new" + DATA
    strays = 0
    for fault in every_call(killed(when), CHANGING):
        out.unlink(missing_ok=True)
        if old is not None:
            out.write_bytes(old)
        with contextlib.suppress(Dead), fault:
            replace_file(str(out), [b"new", source], force=force)
        assert (out.read_bytes() if out.exists() else None) in (old, new)
        found = leftovers(str(out))
        assert set(found) == {str(path) for path in place.iterdir() if path != out}
        assert all(".out.ckpt-tmp-" in path for path in found)
        strays += len(found)
        for path in found:
            os.unlink(path)
    assert strays
    assert out.read_bytes() == new


@pytest.mark.parametrize("force", [True, False])
def test_loss_of_power_at_any_call(source: FileSource, tmp_path: Path, force: bool) -> None:
    place = tmp_path / "place"
    place.mkdir()
    out = place / "out"
    old, new = b"old" if force else None, b"new" + DATA
    if old is not None:
        out.write_bytes(old)
    recorder = Recorder(place)
    with recorder.recording():
        replace_file(str(out), [b"new", source.slice(0, 100_000), source.slice(100_000, 200_000)], force=force)
    chance = random.Random(1)
    for calls in range(len(recorder.calls) + 1):
        for _ in range(30):
            state = recorder.state_after(calls, chance)
            assert state.get("out") in ((old, new) if calls < len(recorder.calls) else (new,))


def test_a_second_rewrite_of_the_same_file_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_bytes(b"old")

    def again(_: int) -> None:
        with pytest.raises(FileError, match="another rewrite of it is going on"):
            replace_file(str(out), [b"second"], force=True)

    replace_file(str(out), [b"first"], force=True, progress=again)
    assert out.read_bytes() == b"first"


def test_no_new_file_where_an_edit_was_interrupted(tmp_path: Path) -> None:
    """Its journal would be taken for one of the new file."""
    out = tmp_path / "out"
    journal = tmp_path / ("out" + JOURNAL)
    journal.write_bytes(b"")
    with pytest.raises(UnsupportedError, match="If that file is gone, remove"):
        replace_file(str(out), [b"new"], force=True)
    out.write_bytes(b"old")
    with pytest.raises(UnsupportedError, match="ckpt recover"):
        replace_file(str(out), [b"new"], force=True)
    recover(str(out))
    replace_file(str(out), [b"new"], force=True)
    (tmp_path / JOURNAL).write_bytes(b"")
    with pytest.raises(UnsupportedError, match="ckpt recover"):
        replace_file(str(out), [b"new"], force=True)
    replace_file(str(tmp_path / "other"), [b"new"], force=True)


# --- A new directory -------------------------------------------------------------------------------------------


@pytest.fixture(params=["one step", "two steps"])
def steps(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "two steps":
        monkeypatch.setattr(output, "_exchange", lambda one, other: False)
    return str(request.param)


def contents(directory: Path) -> dict[str, bytes] | None:
    return {path.name: path.read_bytes() for path in directory.iterdir()} if directory.exists() else None


def test_a_new_directory(tmp_path: Path, source: FileSource) -> None:
    out = tmp_path / "out"
    os.chmod(source.path, 0o640)
    with umask(0o022):
        nbytes = replace_directory(
            str(out) + "/", {"a": [b"x", source], "b": iter([b"y"])}, force=False, like=source.path
        )
    assert nbytes == len(DATA) + 2
    assert contents(out) == {"a": b"x" + DATA, "b": b"y"}
    assert (mode(out), mode(out / "a")) == (0o755, 0o640)
    assert names(tmp_path) == ["out", "source"]


def test_a_directory_is_replaced_as_one(tmp_path: Path, steps: str) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o750)
    (out / "a").write_bytes(b"old")
    (out / "c").write_bytes(b"old")
    with pytest.raises(OutputExistsError, match="--force"):
        replace_directory(str(out), {"a": [b"new"]}, force=False)
    source = FileSource(str(out / "a"))
    with pytest.raises(UnsupportedError, match="would be lost: c"):
        replace_directory(str(out), {"a": [b"new"]}, force=True)
    assert contents(out) == {"a": b"old", "c": b"old"}
    replace_directory(str(out), {"a": [b"new ", source], "b": []}, force=True, replaces=["c"])
    assert contents(out) == {"a": b"new old", "b": b""}
    assert mode(out) == 0o750
    assert names(tmp_path) == ["out"]


def test_what_is_no_directory_is_not_replaced_by_one(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("dir")
    for name, what in (("file", "a file"), ("link", "a symbolic link to dir")):
        with pytest.raises(UnsupportedError, match=what):
            replace_directory(str(tmp_path / name), {"a": []}, force=True)
    for bad in ("../a", "a/../b", "/a", "a//b", "a/", "", ".", ".."):
        with pytest.raises(ValueError, match="not a name of a file in it"):
            replace_directory(str(tmp_path / "out"), {bad: []}, force=True)
    assert names(tmp_path) == ["dir", "file", "link"]


def test_directories_in_a_directory(tmp_path: Path) -> None:
    out = tmp_path / "out"
    files = {"a": [b"1"], "in/b": [b"2"], "in/deep/c": [b"3"]}
    for force in (False, True):
        replace_directory(str(out), files, force=force)
        assert {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()} == {
            "a": b"1", "in/b": b"2", "in/deep/c": b"3",
        }  # fmt: skip
    (out / "in" / "other").write_bytes(b"mine")
    with pytest.raises(UnsupportedError, match=r"would be lost: in/other\n"):
        replace_directory(str(out), files, force=True)
    with pytest.raises(UnsupportedError, match=r"would be lost: in\n"):
        replace_directory(str(out), {"a": [b"1"]}, force=True)
    assert names(tmp_path) == ["out"]


def test_a_directory_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def appear(_: int) -> None:
        out.mkdir()
        (out / "mine").touch()

    with pytest.raises(OutputExistsError, match="meanwhile"):
        replace_directory(str(out), {"a": [b"new"]}, force=False, progress=appear)
    assert contents(out) == {"mine": b""}
    assert names(tmp_path) == ["out"]


OLD_FILES, NEW_FILES = {"a": b"old", "b": b"old"}, {"a": b"new", "b": b"new", "c": DATA[:70_000]}


def directory_rewritten(place: Path, fault: Any, force: bool) -> None:
    for path in place.iterdir():
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    out = place / "out"
    if force:
        out.mkdir()
        for name, data in OLD_FILES.items():
            (out / name).write_bytes(data)
    with contextlib.suppress(CheckpointError, KeyboardInterrupt, Dead), fault:
        replace_directory(str(out), {name: [data] for name, data in NEW_FILES.items()}, force=force)


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("act", [failing(errno.EIO), interrupting], ids=["EIO", "Control-C"])
def test_an_error_at_any_call_for_a_directory(tmp_path: Path, steps: str, act: Any, force: bool) -> None:
    for fault in every_call(act):
        directory_rewritten(tmp_path, fault, force)
        assert contents(tmp_path / "out") in (OLD_FILES if force else None, NEW_FILES)
        assert sorted(str(path) for path in tmp_path.iterdir() if path.name != "out") == leftovers(
            str(tmp_path / "out")
        )


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("when", ["before", "half", "after"])
def test_a_directory_killed_at_any_call(tmp_path: Path, steps: str, when: str, force: bool) -> None:
    out = tmp_path / "out"
    missing = 0
    for fault in every_call(killed(when), CHANGING):
        directory_rewritten(tmp_path, fault, force)
        if force and not out.exists():
            missing += 1
            recover(str(out))
        assert contents(out) in (OLD_FILES if force else None, NEW_FILES)
        assert {str(path) for path in tmp_path.iterdir() if path.name != "out"} == set(leftovers(str(out)))
        assert not put_back(str(out))
    assert bool(missing) == (force and steps == "two steps")


# --- Killed for good -------------------------------------------------------------------------------------------


def generations(kind: str, path: str, kills: int) -> Iterator[int]:
    """Kills the victim at random moments; gives each time the last generation that it said was complete."""
    chance = random.Random(os.environ.get("CKPT_SEED", "kill"))
    generation = 1
    for _ in range(kills):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.containers.victim", kind, path, str(generation)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert int(process.stdout.readline()) == generation - 1
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(chance.uniform(0, 0.06))
        process.send_signal(signal.SIGKILL)
        # not communicate(): it would miss the lines that came with the first one
        assert process.stderr is not None
        said, complaint = process.stdout.read(), process.stderr.read()
        process.wait()
        process.stdout.close()
        process.stderr.close()
        assert (process.returncode, complaint) == (-signal.SIGKILL, "")
        said = said[: said.rfind("\n") + 1]
        yield int(said.split()[-1]) if said else generation - 1
        generation = victim.generation_of(_first(path)) + 1


def _first(path: str) -> bytes:
    return Path(path, "shard-1").read_bytes() if os.path.isdir(path) else Path(path).read_bytes()


def test_a_new_file_and_sigkill(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_bytes(victim.content(0))
    for complete in generations("file", str(out), KILLS):
        assert out.read_bytes() in (victim.content(complete), victim.content(complete + 1))
        assert {str(path) for path in tmp_path.iterdir() if path != out} == set(leftovers(str(out)))
        for path in leftovers(str(out)):
            os.unlink(path)


def test_a_new_directory_and_sigkill(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in ("shard-1", "shard-2"):
        (out / name).write_bytes(victim.content(0))
    for complete in generations("directory", str(out), max(5, KILLS // 4)):
        recover(str(out))
        (one, two) = (contents(out) or {}).values()
        assert one == two
        assert one in (victim.content(complete), victim.content(complete + 1))


def test_leftovers_are_those_of_killed_runs_only(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert leftovers(str(tmp_path / "none" / "out")) == []

    def look(_: int) -> None:
        assert [path.name for path in tmp_path.iterdir()] != []
        assert leftovers(str(out)) == []

    replace_file(str(out), [DATA], force=False, progress=look)
    stray = tmp_path / f".out.ckpt-tmp-1-{'0' * 16}"
    stray.touch()
    (tmp_path / f".other.ckpt-tmp-1-{'0' * 16}").touch()
    (tmp_path / ".out.ckpt-tmp-notes").touch()
    assert leftovers(str(out)) == [str(stray)]
