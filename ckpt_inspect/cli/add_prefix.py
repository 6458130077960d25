"""Put a prefix before every key of the weights: the inverse of strip-prefix.

Example: ckpt add-prefix plain.pt module -o wrapped.pt
"""

from __future__ import annotations

from typing import Annotated

import typer

from . import options, writing


def command(
    file: writing.File,
    prefix: Annotated[str, typer.Argument(metavar="PREFIX", help="With or without its last dot.", show_default=False)],
    section: options.Section = None,
    out: writing.Out = None,
    in_place: writing.InPlace = False,
    compact: writing.Compact = False,
    dry_run: writing.DryRun = False,
    force: writing.Force = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    from ..formats import open_checkpoint
    from ..operations.add_prefix import plan

    return writing.finish(
        plan(open_checkpoint(file, section), prefix), out, in_place, dry_run, force, as_json, quiet, compact
    )
