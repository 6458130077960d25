"""A process that opens what others made: each file in a fork of its own, with limits and an audit hook.

Run as ``python -m tests.hostile.sandbox``; reads a path a line, answers with one line of JSON each.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
import traceback
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

MEMORY = 300_000  # kilobytes of resident memory that no file under a megabyte may take
_ADDRESSES = 2 << 30  # bytes of address space: what grows without end gets a MemoryError, not the machine
_SECONDS = int(os.environ.get("CKPT_HOSTILE_SECONDS", "40"))  # of processor time: only a guard against hangs
_ALLOWED = {"open", "os.listdir", "os.scandir", "os.walk"}  # of the input


class Outcome(NamedTuple):
    """What became of a file.

    Attributes:
        error: class of the CheckpointError, ``""`` where the file opened.
        said: its message and hint, or the problems of the checkpoint, one a line.
        scanned: what ``scan`` makes of it, see :func:`scanned`.
        leaked: traceback of any other exception, a signal, or ``""``.
        events: audit events that looking at a file has no business with.
        unsafe: characters that would reach a terminal raw.
        seconds, kilobytes: what it took.
    """

    error: str
    said: str
    scanned: str
    leaked: str
    events: list[str]
    unsafe: str
    seconds: float
    kilobytes: int


class Sandbox:
    """The process, from outside."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.hostile.sandbox"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip

    def open(self, path: Path) -> Outcome:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(str(path)) + "\n")
        self.process.stdin.flush()
        return Outcome(*json.loads(self.process.stdout.readline()))

    def close(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.process.wait(60)


def look(path: str) -> Iterator[str]:
    """Everything that looks: open, the operations, their JSON and text, as it is made."""
    import ckpt_inspect
    from ckpt_inspect.render import html, info, json, ls, plain, terminal, tree

    checkpoint = ckpt_inspect.open(path)
    listing = ckpt_inspect.ls(checkpoint)
    yield from json.chunks(listing.to_dict())
    yield from ls.plain(listing, True, path)
    card = ckpt_inspect.info(checkpoint)
    yield json.dumps(card.to_dict())
    yield from plain.texts(info.lines(card, False))
    yield from plain.texts(info.lines(card))
    found = ckpt_inspect.tree(checkpoint, fold=False)
    yield json.dumps(found.to_dict())
    yield from plain.texts(tree.lines(found, False))
    found = ckpt_inspect.tree(checkpoint)
    yield from plain.texts(tree.lines(found))
    if len(listing.rows) + len(checkpoint.values) < 5000:
        from rich.console import Console

        yield html.page(tree.lines(found))
        screen = io.StringIO()
        terminal.show(ls.lines(listing, True), Console(file=screen, force_terminal=True, color_system=None, width=100))
        yield screen.getvalue()


def scanned(path: str, texts: list[str]) -> str:
    """The kinds of what ``scan`` finds, ``harmless``, ``not read`` or ``refused: Error``; what it prints goes to ``texts``."""
    from ckpt_inspect.errors import CheckpointError
    from ckpt_inspect.operations.scan import scan
    from ckpt_inspect.render import json, plain
    from ckpt_inspect.render import scan as render

    try:
        found = scan(path)
    except CheckpointError as error:
        texts.append(json.dumps(error.to_dict()))
        return f"refused: {type(error).__name__}"
    texts.append(json.dumps(found.to_dict()))
    texts.extend(plain.texts(render.lines(found)))
    kinds = sorted({finding.kind for finding in found.findings})
    unread = ["not read"] if found.status == 2 else []
    return ", ".join(unread + kinds) or "harmless"


def command(path: str) -> list[str]:
    """What the command line writes, errors and problems too."""
    from ckpt_inspect.cli.app import run

    here = sys.stdout, sys.stderr
    streams = [io.BytesIO(), io.BytesIO()]
    sys.stdout, sys.stderr = (io.TextIOWrapper(stream, "utf-8", write_through=True) for stream in streams)
    try:
        statuses = [run(["info", path]), run(["verify", path]), run(["salvage", path, "--dry-run"])]
    finally:
        out, err = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = here
    texts = [stream.getvalue().decode("utf-8", "surrogatepass") for stream in streams]
    del out, err
    if statuses[0] not in (0, 2) or not {0, 1, 2}.issuperset(statuses):
        raise SystemError(f"exit status {statuses}")
    return texts


def unsafe(texts: Iterable[str]) -> str:
    """Controls, surrogates, line separators and bidirectional marks; by Unicode's own tables, not the package's."""
    seen: set[str] = set()
    for text in texts:
        if not (text.isascii() and text.isprintable()):
            seen.update(text)
    return "".join(sorted(filter(_dangerous, seen - {"\n", "\t"}))).encode("unicode-escape").decode()


def _dangerous(character: str) -> bool:
    bidi = unicodedata.bidirectional(character) in ("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI")
    return (
        bidi
        or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
        or character in "\u200e\u200f\u061c\u200b\ufeff"
    )


def _run(path: str) -> dict[str, Any]:
    from ckpt_inspect.errors import CheckpointError

    error, leaked, raw, outcome = "", "", "", ""
    said: list[str] = []
    events: list[str] = []
    watching = True

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if watching and event != "builtins.id" and not (event in _ALLOWED and _inside(str(args[0]), path)):
            events.append(f"{event} {str(args)[:80]}")

    def heard() -> Iterator[str]:
        nonlocal error
        try:
            yield from look(path)
        except CheckpointError as found:
            error = type(found).__name__
            said.extend((found.message, found.hint or "", str(found)))
            yield json.dumps(found.to_dict())

    sys.addaudithook(hook)
    try:
        raw = unsafe(heard())
        printed: list[str] = []
        outcome = scanned(path, printed)
        raw += unsafe(printed)
        watching = False  # Typer compiles annotations of its own
        texts = command(path)
        raw += unsafe(texts)
        said = said or texts
    except BaseException:
        watching = False
        leaked = "".join(traceback.format_exc(limit=-6))[-3000:]
    facts = {"error": error, "said": "\n".join(said)[:100_000], "scanned": outcome}
    return {**facts, "leaked": leaked, "events": events[:20], "unsafe": raw}


def _inside(opened: str, path: str) -> bool:
    return opened == path or opened.startswith(path + os.sep) or os.path.dirname(opened) == os.path.dirname(path)


def _fork(path: str) -> Outcome:
    read, write = os.pipe()
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_AS, (_ADDRESSES, _ADDRESSES))
        resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with open(write, "w") as pipe:
            json.dump(_run(path), pipe)
        os._exit(0)
    os.close(write)
    with open(read) as pipe:
        answer = pipe.read()
    _, status, used = os.wait4(child, 0)
    facts = (
        json.loads(answer)
        if answer
        else dict.fromkeys(("error", "said", "scanned", "leaked", "unsafe"), "") | {"events": []}
    )
    if not answer:
        died = os.waitstatus_to_exitcode(status)
        facts["leaked"] = f"died: {signal.Signals(-died).name if died < 0 else died}"
    return Outcome(**facts, seconds=used.ru_utime + used.ru_stime, kilobytes=used.ru_maxrss)


def import_everything(torch: bool = False) -> None:
    """Import what is imported late, so that any import after this is one too many."""
    import ckpt_inspect

    package = Path(ckpt_inspect.__path__[0])
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package.parent).with_suffix("").parts
        if (torch or parts[1] != "torch") and parts[-1] != "__main__":
            importlib.import_module(".".join(parts).removesuffix(".__init__"))
    for late in ("difflib", "html", "shlex", "rich.console", "rich.text", "rich.cells", "encodings.ascii", "encodings.raw_unicode_escape",
                 "encodings.utf_16", "encodings.utf_16_le", "encodings.utf_16_be", "encodings.utf_32", "encodings.utf_32_le",
                 "encodings.utf_32_be", "encodings.latin_1", "encodings.unicode_escape"):  # fmt: skip
        importlib.import_module(late)


def _warm_up() -> None:
    import_everything()
    from . import build

    folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"ckpt-sandbox-{os.getpid()}"
    folder.mkdir()
    sample = folder / "sample.pt"
    sample.write_bytes(build.checkpoint(build.dict_of(build.text("a\u200b\u4e00"), build.tensor())))
    try:
        unsafe(look(str(sample)))
        scanned(str(sample), [])
        command(str(sample))
        command(str(folder / "simple.pt"))
    finally:
        sample.unlink()
        folder.rmdir()


def main() -> None:
    _warm_up()
    for line in sys.stdin:
        print(json.dumps(_fork(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
