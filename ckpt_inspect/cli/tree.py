"""Show the module tree of a checkpoint: modules, parameters, buffers, and what else it holds.

On a terminal equal blocks are folded into one line; piped, everything is shown.

Example: ckpt tree run.ckpt
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from ..errors import SelectionError
from ..model.checkpoint import Checkpoint
from ..model.spelling import shell_path
from ..operations.tree import SCHEMA, Tree, tree
from . import models, options


def command(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE]...",
            help="Checkpoint files or directories; FILE#SECTION is a part.",
            autocompletion=options.complete_file,
            show_default=False,
        ),
    ] = None,
    section: options.Section = None,
    depth: Annotated[int | None, typer.Option(min=0, help="Levels of modules to show.")] = None,
    filter: options.Filter = [],  # noqa: B006 - Typer reads the default, nobody changes it
    no_fold: Annotated[bool, typer.Option("--no-fold", help="Show every block, tensor and value.")] = False,
    model: models.Spec = None,
    args: models.Args = None,
    kwargs: models.Kwargs = None,
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

    if model is not None:
        return _live(model, args, kwargs, files, result, show, as_json, quiet, filter)
    models.refuse_idle({"--args": args, "--kwargs": kwargs}, "--model")
    if not files:
        raise SelectionError("nothing to draw: name a file, or a model", hint="For example: ckpt tree run.ckpt")
    return options.each(files, section, as_json, quiet, SCHEMA, result, show, filter=filter)


def _live(
    model: str, args: str | None, kwargs: str | None, files: list[str] | None,
    result: Callable[[Checkpoint], Tree], show: Callable[[Tree, str | None], None], as_json: bool, quiet: bool,
    filter: list[str],
) -> int:  # fmt: skip
    """The tree of a live module, with the buffers that are not persistent and the parameters that are tied."""
    from ..operations.live import live
    from ..operations.ls import matches_any

    if files:
        raise SelectionError(
            "--model draws the model alone", hint=f"For the two together: ckpt check {shell_path(files[0])} …"
        )
    found = result(live(models.parse(model, args, kwargs)))
    if as_json and not quiet:
        options.write_json(found.to_dict())
    elif not quiet:
        show(found, None)
        if filter and not matches_any(found.checkpoint, filter):
            options.say_no_match(filter)
    return 0
