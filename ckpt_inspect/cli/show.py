"""Look at one entry: a tensor's facts, where its bytes lie, statistics, a histogram, a slice of values; or any other
value, printed without making it: an unknown object shows its class and fields.

Example: ckpt show model.pt conv1.weight --slice '0,0,:2'
"""

from __future__ import annotations

from typing import Annotated

import typer

from . import options
from .progress import progress

Name = Annotated[
    str,
    typer.Argument(metavar="NAME", help="A tensor's key or name, or that of another entry.",
                   autocompletion=options.complete_key, show_default=False),
]  # fmt: skip


def command(
    file: options.File,
    name: Name,
    section: options.Section = None,
    slice: Annotated[str | None, typer.Option("--slice", metavar="SLICE", help="List these values: '0,:5'.")] = None,
    save: Annotated[str | None, typer.Option("--save", metavar="FILE", help="Write it as a NumPy .npy file.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace that file if it is there.")] = False,
    device: Annotated[str, typer.Option(help="Where statistics are computed: cpu, cuda.")] = "cpu",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    from ..formats import open_checkpoint
    from ..operations import show as operation

    checkpoint = open_checkpoint(file, section)
    if save is not None:
        from ..operations.npy import save_npy

        dtype = save_npy(checkpoint, name, save, slice, force)
        if as_json and not quiet:
            options.write_json({"schema": operation.SCHEMA, "path": file, "name": name, "saved": save, "dtype": dtype})
        elif not quiet:
            options.say(f"wrote {save} as {dtype}")
        return 0
    terminal = options.is_terminal()
    with progress(0 if name not in checkpoint else checkpoint[name].nbytes, "read") as advance:
        found = operation.show(checkpoint, name, slice, device, not terminal, advance)
    problems = [*checkpoint.problems, *found.problems]
    if not as_json:
        options.say_problems(file, problems, checkpoint)
    if as_json and not quiet:
        options.write_json(found.to_dict())
    elif not quiet:
        from ..render import show as render
        from ..render.plain import texts

        if terminal:
            from ..render.terminal import console, show, show_wrapped

            screen = console()
            lines = render.lines(found, screen.width)
            if found.row is None:
                show_wrapped(lines, 0)
            else:
                show(lines, screen)
        else:
            options.write(texts(render.lines(found)))
    return 2 if problems else 0
