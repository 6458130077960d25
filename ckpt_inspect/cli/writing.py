"""What the commands that write have in common: where to, the plan, and what happened."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import SelectionError
from ..model.spelling import shell_join
from ..operations.rename import Plan

if TYPE_CHECKING:
    from ..operations.conversion import Conversion
    from ..render.text import Line
from . import options
from .progress import progress

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
    _check_target(out, in_place)
    if compact and not in_place:
        raise SelectionError("--compact is for --in-place", hint="A new file is compact anyway.")
    writing = (out is not None or in_place) and not dry_run
    nbytes = 0
    from ..operations.save import rehearse, save, save_compact, save_in_place

    plan.notes += _about_target(out, force, writing)
    if not writing:
        rehearse(plan.checkpoint, out, in_place=in_place, compact=compact)
    else:
        with progress(plan.original.size) as advance:
            if compact:
                nbytes = save_compact(plan.checkpoint, progress=advance).nbytes
            elif out is None:
                nbytes = save_in_place(plan.checkpoint).nbytes
            else:
                nbytes = save(plan.checkpoint, out, force=force, progress=advance).nbytes
    if as_json:
        options.write_json(plan.to_dict(out if out is not None else plan.original.path if in_place else None, nbytes))
    elif not quiet:
        _show(plan, out, in_place, writing, nbytes, force)
    if not writing and not dry_run:
        return _nothing_written()
    return 0


def _check_target(out: str | None, in_place: bool) -> None:
    if out is not None and in_place:
        raise SelectionError("--out and --in-place say different things", hint="Give one of them.")


def finish_conversion(
    made: Conversion, out: str | None, in_place: bool, dry_run: bool, force: bool, as_json: bool, quiet: bool, verify: bool
) -> int:  # fmt: skip
    """Write a conversion where it was asked to go, open it again and compare, or show the plan; the exit status."""
    _check_target(out, in_place)
    target = out if out is not None else made.original.path if in_place else None
    writing = target is not None and not dry_run
    nbytes, checked = 0, None
    from ..operations.save import rehearse, save, save_in_place

    made.notes += _about_target(out, force, writing)
    if not writing:
        rehearse(made.checkpoint, out, in_place=in_place)
    elif target is not None:
        from ..operations.checked import check

        with progress(made.checkpoint.size * (2 if verify else 1)) as advance:
            if in_place:
                nbytes = save_in_place(made.checkpoint).nbytes
            else:
                nbytes = save(made.checkpoint, target, force=force, progress=advance).nbytes
            checked = check(made.checkpoint, target, verify, advance)
    if as_json:
        options.write_json(made.to_dict(target, nbytes, checked))
    elif not quiet:
        from ..render import convert as render

        lines = list(render.lines(made, None if writing else _command(target, out, force), not options.is_terminal()))
        _print(lines + list(render.losses(made) if writing else ()), target, nbytes, in_place, checked)
    if not writing and not dry_run:
        return _nothing_written()
    return 0


def _nothing_written() -> int:
    typer.echo("ckpt: nothing was written: say where with -o OUT or --in-place, or --dry-run", err=True)
    return 2


def _about_target(out: str | None, force: bool, writing: bool) -> list[str]:
    """What is to be known of an OUT that is there already."""
    if out is None or not os.path.lexists(out):
        return []
    notes = [] if force or writing else [f"{out} exists already: --force replaces it"]
    if os.path.islink(out):
        notes.append(f"{out} is a symbolic link: the link is replaced, {os.path.realpath(out)} stays as it is")
    return notes


def _command(target: str | None, out: str | None, force: bool) -> str:
    """What is to be typed to do what was planned."""
    words = [word for word in sys.argv[1:] if word != "--dry-run"]
    if out is not None and os.path.lexists(out) and not force:
        words.append("--force")
    return shell_join(["ckpt", *words, *([] if target is not None else ["-o", "OUT"])])


def _print(lines: list[Line], target: str | None, nbytes: int, in_place: bool, checked: str | None) -> None:
    from ..render.text import escape, size

    if checked is not None and target is not None:
        where = f"{escape(target)}   {size(nbytes)}" + (" changed in place" if in_place else "")
        wrote: Line = [("  wrote   ", "good"), (where, "")]
        if in_place and not nbytes:
            wrote = [("  wrote   ", "label"), ("nothing: the file is as it was asked to be", "")]
        lines += [wrote, [("  checked ", "good"), (checked, "")]]
    if options.is_terminal():
        from ..render.terminal import show_wrapped

        show_wrapped(lines, 10)
    else:
        from ..render.plain import texts

        options.write(texts(lines))


def _show(plan: Plan, out: str | None, in_place: bool, writing: bool, nbytes: int, force: bool) -> None:
    from ..render import plan as render
    from ..render.text import escape, size

    command = None
    if not writing:
        command = _command(out if out is not None else plan.original.path if in_place else None, out, force)
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
