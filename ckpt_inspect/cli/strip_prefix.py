"""Take wrapper prefixes out of the keys: module. of DataParallel, _orig_mod. of torch.compile, and their like.

Only the names change: tensor bytes are copied, key order, ties, optimizer state and _metadata are kept.

Example: ckpt strip-prefix run.ckpt -o plain.ckpt
"""

from __future__ import annotations

from typing import Annotated

import typer

from . import options, writing


def command(
    file: writing.File,
    section: options.Section = None,
    prefix: Annotated[
        list[str], typer.Option(metavar="P", help="Remove this prefix instead (whole segments). Repeatable.")
    ] = [],  # noqa: B006 - Typer reads the default, nobody changes it
    nested: Annotated[bool, typer.Option("--nested", help="Also where module is its parent's only child.")] = False,
    times: Annotated[int | None, typer.Option(min=1, help="How often a prefix is removed at most.")] = None,
    out: writing.Out = None,
    in_place: writing.InPlace = False,
    compact: writing.Compact = False,
    dry_run: writing.DryRun = False,
    force: writing.Force = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    from ..formats import open_checkpoint
    from ..operations.strip_prefix import plan

    made = plan(open_checkpoint(file, section), prefix, nested, times)
    return writing.finish(made, out, in_place, dry_run, force, as_json, quiet, compact)
