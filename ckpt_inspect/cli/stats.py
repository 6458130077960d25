"""Measure the values of tensors: min, max, mean, std, norm, zeros, NaN, Inf; what deserves a second look is marked.

Piped, the columns are separated by tabs: name, dtype, shape, min, max, mean, std, norm, zeros, NaN, Inf, marks.

Example: ckpt stats model.pt --sort norm
"""

from __future__ import annotations

from typing import Annotated

import typer

from ..model.checkpoint import Checkpoint
from ..operations.stats import SCHEMA, SORTS, Stats, stats
from . import options
from .progress import progress


def command(
    files: options.Files,
    section: options.Section = None,
    filter: options.Filter = [],  # noqa: B006
    sort: Annotated[str | None, typer.Option(metavar="BY", help=f"Sort by {', '.join(SORTS)}.")] = None,
    modules: Annotated[bool, typer.Option("--modules", help="One line for each module, not for each tensor.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only look for NaN and Inf; exit 1 if there are any.")] = False,
    device: Annotated[str, typer.Option(help="Where it is computed: cpu, cuda.")] = "cpu",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    bad = False

    def result(checkpoint: Checkpoint) -> Stats:
        nonlocal bad
        with progress(sum(info.nbytes for _, _, info in checkpoint.tensors()), "read") as advance:
            found = stats(checkpoint, filter, sort, device, advance)
        bad = bad or bool(found.bad)
        checkpoint.problems = [*checkpoint.problems, *found.problems]
        found.problems = []
        return found

    def show(found: Stats, path: str | None) -> None:
        from ..render import stats as render
        from ..render.plain import texts
        from ..render.text import Line, escape

        head: list[Line] = [[(escape(path), "file")]] if path is not None else []
        if not options.is_terminal():
            options.write(texts([*head, *render.verdict(found)]) if check else render.plain(found, modules, path))
            if not check:
                options.say_empty(found.checkpoint)
            return
        from ..render.terminal import console, show_wrapped
        from ..render.terminal import show as show_lines

        screen = console()
        show_lines([*head, *([] if check else render.lines(found, modules, screen.width))], screen)
        show_wrapped(render.verdict(found), 4)

    status = options.each(files, section, as_json, quiet, SCHEMA, result, show)
    return status or int(check and bad)
