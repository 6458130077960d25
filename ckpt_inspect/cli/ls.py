"""List the tensors of checkpoints, one a line.

Piped, the columns are separated by tabs: name, dtype, shape, bytes, device, role.

Example: ckpt ls model.pt | awk '$4 > 1000000'
"""

from __future__ import annotations

from typing import Annotated

import typer

from ..model.checkpoint import Checkpoint
from ..operations.ls import SCHEMA, SORTS, Listing, ls
from . import options


def command(
    files: options.Files,
    section: options.Section = None,
    filter: options.Filter = [],  # noqa: B006 - Typer reads the default, nobody changes it
    sort: Annotated[str | None, typer.Option(metavar="BY", help=f"Sort by {', '.join(SORTS)}.")] = None,
    long: Annotated[bool, typer.Option("--long", "-l", help="Also stride, offset, storage, layout.")] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    def result(checkpoint: Checkpoint) -> Listing:
        return ls(checkpoint, filter, sort)

    def show(listing: Listing, path: str | None) -> None:
        from ..render import ls as render

        if not options.is_terminal():
            options.write(render.plain(listing, long, path))
            options.say_empty(listing.checkpoint)
            return
        from ..render.terminal import console, show, show_wrapped
        from ..render.text import escape

        screen = console()
        if path is not None:
            show([[(escape(path), "file")]], screen)
        *table, last = render.lines(listing, long, screen.width)
        show(table, screen)
        show_wrapped([last], 2)

    return options.each(files, section, as_json, quiet, SCHEMA, result, show, filter=filter)
