"""Compare two checkpoints: keys, renames, shapes, dtypes, values, other entries. Exit status 0: the same, 1: not.

A and B may be of different formats, or parts of one file (run.ckpt#model run.ckpt#ema). Identical means the same
bytes; where they differ, torch measures how far apart the values are. --model pkg.mod:Net in the place of B compares
keys, shapes and dtypes with a model of your own.

Example: ckpt diff base.pt tuned.safetensors --frozen 'backbone.*'
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import SelectionError
from ..model.spelling import shell_path
from . import models, options
from .progress import progress

if TYPE_CHECKING:
    from ..model.checkpoint import Checkpoint
    from ..operations.rules import Rules

File = Annotated[
    str, typer.Argument(metavar="A", help="A checkpoint; FILE#SECTION is a part.",
                        autocompletion=options.complete_file, show_default=False)
]  # fmt: skip
Other = Annotated[
    str | None,
    typer.Argument(metavar="B", help="Another one.", autocompletion=options.complete_file, show_default=False),
]


def command(
    a: File,
    b: Other = None,
    keys_only: Annotated[bool, typer.Option("--keys-only", help="Names, shapes, dtypes; read no values.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Trust the checksums inside .pt files.")] = False,
    exact: Annotated[
        bool, typer.Option("--exact", help="Device, requires_grad, strides, ties and order count too.")
    ] = False,
    atol: Annotated[float, typer.Option(help="Values this near are the same.", min=0.0)] = 0.0,
    rtol: Annotated[float, typer.Option(help="The same, times the magnitude in B.", min=0.0)] = 0.0,
    frozen: Annotated[
        list[str], typer.Option("--frozen", metavar="GLOB", help="Exit 1 if one bit of these moved, else 0.")
    ] = [],  # noqa: B006
    ignore_prefix: Annotated[
        list[str], typer.Option("--ignore-prefix", metavar="PREFIX", help="Leading segments that do not count.")
    ] = [],  # noqa: B006
    map: Annotated[
        list[str], typer.Option("--map", metavar="RULES", help="Rename A's keys first: a rule, or a file of rules.")
    ] = [],  # noqa: B006
    filter: options.Filter = [],  # noqa: B006
    show: Annotated[
        str, typer.Option(metavar="LIST", help="changed,added,removed,renamed,values,identical: what to list.")
    ] = "changed,added,removed,renamed,values",
    device: Annotated[str, typer.Option(help="Where differences are computed: cpu, cuda.")] = "cpu",
    model: models.Spec = None,
    args: models.Args = None,
    kwargs: models.Kwargs = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    from ..formats import open_checkpoint
    from ..operations.diff import diff, total_bytes

    listed = _listed(show)
    one, other = open_checkpoint(a), _other(a, b, model, args, kwargs)
    keys_only = keys_only or model is not None  # a model has no values yet
    with progress(0 if keys_only else total_bytes(one, other), "read") as advance:
        found = diff(
            one, other, keys_only=keys_only, quick=quick, exact=exact, atol=atol, rtol=rtol, filter=filter,
            frozen=frozen, ignore_prefix=ignore_prefix, rules=_rules(map), device=device, progress=advance,
        )  # fmt: skip
    if not as_json:
        options.say_problems("", found.problems)
    if quiet:
        return found.status
    if as_json:
        options.write_json(found.to_dict())
    elif options.is_terminal():
        from ..render import diff as render
        from ..render.terminal import console
        from ..render.terminal import show as show_lines

        screen = console()
        show_lines(render.lines(found, listed, screen.width), screen)
    else:
        from ..render import diff as render

        options.write(render.plain(found, listed))
    return found.status


def _other(a: str, b: str | None, model: str | None, args: str | None, kwargs: str | None) -> Checkpoint:
    """The second side: a file, or the keys of a model of the user's."""
    from ..formats import open_checkpoint
    from ..operations.live import live

    if (b is None) == (model is None):
        raise SelectionError(
            "two sides are needed: a second file, or a model",
            hint=f"For example: ckpt diff {shell_path(a)} other.pt, or ckpt diff {shell_path(a)} --model nets.py:Net",
        )
    if b is not None:
        models.refuse_idle({"--args": args, "--kwargs": kwargs}, "--model")
        return open_checkpoint(b)
    return live(models.parse(str(model), args, kwargs), transient=False)


def _listed(show: str) -> list[str]:
    from ..render.diff import SHOW

    names = [name.strip() for name in show.split(",") if name.strip()]
    wrong = [name for name in names if name not in SHOW]
    if wrong or not names:
        what = f"--show knows no {wrong[0]!r}" if wrong else "--show lists nothing"
        raise SelectionError(what, hint=f"It knows: {', '.join(SHOW)}")
    return names


def _rules(given: list[str]) -> Rules | None:
    """Each is a rule, or else the name of a file of rules."""
    from ..operations.rules import Rules, load_file

    found = Rules()
    for text in given:
        found += Rules.parse([text]) if "->" in text or text.startswith("s/") else load_file(text)
    return found if given else None
