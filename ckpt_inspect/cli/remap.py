"""Rename, drop and keep keys by rules; tensor bytes are copied, nothing else changes.

OLD -> NEW renames whole keys: * is one segment, ** one or more, {name} a segment or a part of one, {n} a number
that NEW may compute with. s/regex/replacement/ is Python's re.sub. Each key takes the first rule that matches it as
it is in the file.

Example: ckpt remap old.pt --rule 'layers.{n}.** -> blocks.{n+1}.**' --drop 'head.*' -o new.pt
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from . import models, options, writing

if TYPE_CHECKING:
    from ..operations.rename import Plan


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
    like: Annotated[
        str | None,
        typer.Option("--like", metavar="REF", help="Work the rules out: from this checkpoint, or model (pkg.mod:Net)."),
    ] = None,
    args: models.Args = None,
    kwargs: models.Kwargs = None,
    drop_mismatched: Annotated[
        bool, typer.Option("--drop-mismatched", help="With --like: leave out other shapes.")
    ] = False,
    drop_harmless: Annotated[
        bool, typer.Option("--drop-harmless", help="With --like: leave out known leftovers.")
    ] = False,
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
    given = (rule, rules, drop, keep)
    if like is not None:
        made = _plan_like(file, section, (like, args, kwargs), given, drop_mismatched, drop_harmless)
    else:
        models.refuse_idle({"--args": args, "--kwargs": kwargs}, "a model: --like pkg.mod:Net")
        made = _plan_rules(file, section, given, reverse, allow_unused, drop_mismatched or drop_harmless)
    if save_rules is not None:
        from ..operations.save import save_text

        save_text(made.changes[0].keys.to_file(), save_rules, "--save-rules FILE", made.checkpoint, force=force)
    return writing.finish(made, out, in_place, dry_run, force, as_json, quiet, compact)


def _plan_rules(
    file: str,
    section: str | None,
    given: tuple[list[str], str | None, list[str], list[str]],
    reverse: bool,
    allow_unused: bool,
    needs_like: bool,
) -> Plan:
    from ..errors import RuleError, SelectionError
    from ..formats import open_checkpoint
    from ..operations.remap import plan
    from ..operations.rules import Rules, load_file

    rule, rules, drop, keep = given
    if needs_like:
        raise SelectionError(
            "--drop-mismatched and --drop-harmless need --like REF", hint="Or name the keys: --drop GLOB"
        )
    parsed = (load_file(rules) if rules is not None else Rules()) + Rules.parse(rule, drop, keep)
    if not (parsed.rules or parsed.drop or parsed.keep):
        raise SelectionError("no rules were given", hint="For example: --rule 'module.** -> **', or --drop 'head.*'")
    try:
        return plan(open_checkpoint(file, section), parsed, reverse, allow_unused)
    except RuleError as error:
        if error.unused:
            error.hint = f"{error.hint} With --allow-unused this is no error."
        raise


def _plan_like(
    file: str,
    section: str | None,
    like: tuple[str, str | None, str | None],
    given: tuple[list[str], str | None, list[str], list[str]],
    mismatched: bool,
    harmless: bool,
) -> Plan:
    from ..errors import SelectionError
    from ..formats import open_checkpoint
    from ..operations.remap import plan_like

    rule, rules, drop, keep = given
    if rule or rules is not None or keep:
        raise SelectionError(
            "--like works the rules out; --rule, --rules and --keep give them", hint="Give one or the other."
        )
    return plan_like(open_checkpoint(file, section), models.reference(*like), mismatched, harmless, drop)
