"""Show the module tree of a checkpoint: modules, parameters, buffers, and what else it holds.

On a terminal equal blocks are folded into one line; piped, everything is shown.

Example: ckpt tree run.ckpt
"""

from __future__ import annotations

from typing import Annotated

import typer

from ..model.checkpoint import Checkpoint
from ..operations.tree import SCHEMA, Tree, tree
from . import options


def command(
    files: options.Files,
    section: options.Section = None,
    depth: Annotated[int | None, typer.Option(min=0, help="Levels of modules to show.")] = None,
    filter: options.Filter = [],  # noqa: B006 - Typer reads the default, nobody changes it
    no_fold: Annotated[bool, typer.Option("--no-fold", help="Show every block and every tensor.")] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    fold = not no_fold and not as_json and options.is_terminal()

    def result(checkpoint: Checkpoint) -> Tree:
        return tree(checkpoint, depth, filter, fold)

    def show(found: Tree, path: str | None) -> None:
        from ..render import tree as render

        lines = render.lines(found, fold)
        if options.is_terminal():
            from ..render.terminal import show

            show(lines, narrow=True)
        else:
            from ..render.plain import texts

            options.write(texts(lines))

    return options.each(files, section, as_json, quiet, SCHEMA, result, show)
