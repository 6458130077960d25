"""Rename, drop and keep keys by rules; tensor bytes are copied, nothing else changes.

OLD -> NEW renames whole keys: * is one segment, ** one or more, {name} a segment or a part of one, {n} a number
that NEW may compute with. s/regex/replacement/ is Python's re.sub. Each key takes the first rule that matches it as
it is in the file.

Example: ckpt remap old.pt --rule 'layers.{n}.** -> blocks.{n+1}.**' --drop 'head.*' -o new.pt
"""

from __future__ import annotations

from typing import Annotated

import typer

from . import options, writing


def command(
    file: writing.File,
    section: options.Section = None,
    rule: Annotated[
        list[str], typer.Option("--rule", metavar="RULE", help="OLD -> NEW, or s/regex/new/. Repeatable.")
    ] = [],  # noqa: B006
    rules: Annotated[
        str | None, typer.Option("--rules", metavar="FILE", help="Rules from a TOML or JSON file.")
    ] = None,
    drop: Annotated[
        list[str],
        typer.Option(
            "--drop", metavar="GLOB", help="Leave these keys out. Repeatable.", autocompletion=options.complete_key
        ),
    ] = [],  # noqa: B006
    keep: Annotated[
        list[str],
        typer.Option(
            "--keep", metavar="GLOB", help="Leave all others out. Repeatable.", autocompletion=options.complete_key
        ),
    ] = [],  # noqa: B006
    reverse: Annotated[bool, typer.Option("--reverse", help="The other way round.")] = False,
    save_rules: Annotated[
        str | None, typer.Option("--save-rules", metavar="FILE", help="Write the map to a file.")
    ] = None,
    allow_unused: Annotated[
        bool, typer.Option("--allow-unused", help="Do not mind a rule that matches nothing.")
    ] = False,
    out: writing.Out = None,
    in_place: writing.InPlace = False,
    compact: writing.Compact = False,
    dry_run: writing.DryRun = False,
    force: writing.Force = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    from ..errors import SelectionError
    from ..formats import open_checkpoint
    from ..operations.remap import plan
    from ..operations.rules import Rules, load_file

    given = load_file(rules) if rules is not None else Rules()
    given = given + Rules.parse(rule, drop, keep)
    if not (given.rules or given.drop or given.keep):
        raise SelectionError("no rules were given", hint="For example: --rule 'module.** -> **', or --drop 'head.*'")
    made = plan(open_checkpoint(file, section), given, reverse, allow_unused)
    if save_rules is not None:
        from ..operations.save import save_text

        save_text(made.changes[0].keys.to_file(), save_rules, force=force)
    return writing.finish(made, out, in_place, dry_run, force, as_json, quiet, compact)
