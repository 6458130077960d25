"""Rescue what is whole of a cut or damaged checkpoint into a new one, bit for bit, and name what is not.

Example: ckpt salvage half.pt -o rescued.pt
"""

from __future__ import annotations

from typing import Annotated

import typer

from ..errors import SelectionError
from ..operations.salvage import salvage
from . import options, writing
from .progress import progress

DAMAGED = 1


def command(
    file: writing.File,
    out: writing.Out = None,
    fill: Annotated[
        str | None, typer.Option("--fill", metavar="zeros|nan", help="Keep the place of what is lost, with this in it.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be rescued, write nothing.")] = False,
    force: writing.Force = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    if out is not None:
        _check_suffix(file, out)
    with progress(_size(file)) as advance:
        found = salvage(file, None if dry_run else out, fill=fill, force=force, progress=advance)
    if as_json and not quiet:
        options.write_json(found.to_dict())
    elif not quiet:
        from ..render import salvage as render

        lines = list(render.lines(found, not options.is_terminal()))
        if options.is_terminal():
            from ..render.terminal import show_wrapped

            show_wrapped(lines, render.LABEL)
        else:
            from ..render.plain import texts

            options.write(texts(lines))
    if out is None and not dry_run:
        typer.echo("ckpt: nothing was written: say where with -o OUT, or --dry-run", err=True)
        return 2
    return DAMAGED if found.damaged or found.lost else 0


def _check_suffix(file: str, out: str) -> None:
    """What is rescued stays in the format it was in: a name that promises another is refused."""
    from os.path import isdir, splitext

    from ..formats import open_source, safetensors, split_section
    from ..model.spelling import shell_path

    path, _ = split_section(file)
    if isdir(path):
        return
    stem, suffix = splitext(out)
    promised = suffix == ".safetensors"
    if not promised and suffix not in (".pt", ".pth", ".ckpt", ".bin"):
        return
    opened, source, _ = open_source(path)
    same = safetensors.matches(source.read_at(0, 4096), source) == promised
    opened.close()
    if same:
        return
    kept = stem + (".pt" if promised else ".safetensors")
    raise SelectionError(
        f"salvage keeps the format: it would be a {'torch' if promised else 'safetensors'} file under this name",
        path=out,
        hint=f"In two steps: ckpt salvage {shell_path(file)} -o {shell_path(kept)}; ckpt convert {shell_path(kept)} -o {shell_path(out)}",
    )


def _size(path: str) -> int:
    import os

    try:
        return os.path.getsize(path)
    except OSError:
        return 0
