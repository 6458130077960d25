"""What the commands that write have in common: where to, the plan, and what happened."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from shlex import join
from typing import Annotated, Any

import typer

from ..errors import SelectionError
from ..operations.rename import Plan
from . import options

File = Annotated[
    str,
    typer.Argument(
        metavar="FILE",
        help="Checkpoint file or sharded directory; FILE#SECTION is a part.",
        autocompletion=options.complete_file,
        show_default=False,
    ),
]
Out = Annotated[str | None, typer.Option("--out", "-o", metavar="OUT", help="Write a new file (or directory).")]
InPlace = Annotated[bool, typer.Option("--in-place", help="Change the file itself; can be undone until it is done.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan, write nothing.")]
Compact = Annotated[
    bool,
    typer.Option("--compact", help="With --in-place: write the file anew, without the bytes that edits left dead."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace OUT if it is there.")]


def finish(
    plan: Plan,
    out: str | None,
    in_place: bool,
    dry_run: bool,
    force: bool,
    as_json: bool,
    quiet: bool,
    compact: bool = False,
) -> int:
    """Write the plan where it was asked to go, or show it; the exit status."""
    if out is not None and in_place:
        raise SelectionError("--out and --in-place say different things", hint="Give one of them.")
    if compact and not in_place:
        raise SelectionError("--compact is for --in-place", hint="A new file is compact anyway.")
    writing = (out is not None or in_place) and not dry_run
    nbytes = 0
    if writing:
        from ..operations.save import save, save_in_place

        with progress(plan.original.size) as advance:
            if in_place and not compact:
                nbytes = save_in_place(plan.checkpoint).nbytes
            else:
                target = out if out is not None else plan.original.path
                nbytes = save(plan.checkpoint, target, force=force or in_place, progress=advance).nbytes
    if as_json:
        options.write_json(plan.to_dict(out if out is not None else plan.original.path if in_place else None, nbytes))
    elif not quiet:
        _show(plan, out, in_place, writing, nbytes, dry_run)
    if not writing and not dry_run:
        typer.echo("ckpt: nothing was written: say where with -o OUT or --in-place, or --dry-run", err=True)
        return 2
    return 0


def _show(plan: Plan, out: str | None, in_place: bool, writing: bool, nbytes: int, dry_run: bool) -> None:
    from ..render import plan as render
    from ..render.text import Line, escape, size

    command = None
    if not writing:
        words = [word for word in sys.argv[1:] if word != "--dry-run"]
        command = join(["ckpt", *words, *([] if out is not None or in_place else ["-o", "OUT"])])
    lines: list[Line] = list(render.lines(plan, command, not options.is_terminal()))
    if writing:
        where = escape(out if out is not None else plan.original.path)
        lines.append(
            [("  wrote ", "good"), (f"{where}   {size(nbytes)}" + (" changed in place" if in_place else ""), "")]
        )
    if options.is_terminal():
        from ..render.terminal import show_wrapped

        show_wrapped(lines, 10)
    else:
        from ..render.plain import texts

        options.write(texts(lines))


@contextmanager
def progress(total: int) -> Iterator[Callable[[int], None] | None]:
    """A bar with rate and time left on stderr, if that is a terminal and the work lasts over a second."""
    if not sys.stderr.isatty():
        yield None
        return
    from time import monotonic

    started, done = monotonic(), 0
    bar: Any = None

    def advance(count: int) -> None:
        nonlocal bar, done
        done += count
        if bar is None and monotonic() - started > 1:
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

            columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
            bar = Progress(*columns, console=Console(stderr=True), transient=True)
            bar.start()
            bar.add_task("copied", total=total)
        if bar is not None:
            bar.update(0, completed=done)

    try:
        yield advance
    finally:
        if bar is not None:
            bar.stop()
