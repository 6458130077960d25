"""Arguments and options that commands share, and what happens around every command."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import CheckpointError, SelectionError
from ..model.checkpoint import Checkpoint
from .complaints import complain

if TYPE_CHECKING:
    from ..render.text import Line


def complete_file(ctx: typer.Context, incomplete: str) -> list[str]:
    """``FILE#SEC``: sections of the file; anything else is left to the shell, which knows files."""
    from ..formats import open_checkpoint, split_section

    path, section = split_section(incomplete)
    if section is None:
        return []
    try:
        found = open_checkpoint(path).sections
    except CheckpointError:
        return []
    return [f"{path}#{pointer}" for pointer in found if pointer.startswith(section)]


def _files_so_far(ctx: typer.Context) -> list[str]:
    """Files of a command line that is not complete yet: while an option lacks its value they are loose words."""
    given = ctx.params.get("files") or ctx.params.get("file") or []
    words = [given] if isinstance(given, str) else [*given, *ctx.args]
    return words or [word for word in os.environ.get("COMP_WORDS", "").split()[2:] if os.path.exists(word)]


def complete_key(ctx: typer.Context, incomplete: str) -> list[str]:
    """Keys inside the file that the command line names."""
    from ..formats import open_checkpoint

    keys: list[str] = []
    for path in _files_so_far(ctx):
        try:
            keys += [info.key for _, _, info in open_checkpoint(path).tensors() if info.key.startswith(incomplete)]
        except CheckpointError:
            continue
    return keys[:1000]


Files = Annotated[
    list[str],
    typer.Argument(metavar="FILE", help="Checkpoint files or directories; FILE#SECTION is a part.",
                   autocompletion=complete_file, show_default=False),
]  # fmt: skip
File = Annotated[
    str,
    typer.Argument(metavar="FILE", help="Checkpoint file or directory; FILE#SECTION is a part.",
                   autocompletion=complete_file, show_default=False),
]  # fmt: skip
Section = Annotated[
    str | None, typer.Option("--section", metavar="SECTION", help="A part of the file, as FILE#SECTION.")
]
Filter = Annotated[
    list[str],
    typer.Option("--filter", "-f", metavar="GLOB", help="Only keys that match; * crosses dots. Repeatable.",
                 autocompletion=complete_key),
]  # fmt: skip
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on stdout; the exit status tells.")]


_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", re.IGNORECASE)


def size_of(text: str) -> int:
    """``5GB``, ``500 MB``, ``4GiB`` in bytes.

    Raises:
        SelectionError: it is no size.
    """
    match = _SIZE.fullmatch(text)
    power = " kmgt".index(match[2].lower() or " ") if match else 0
    size = int(float(match[1]) * (1024 if match[3] else 1000) ** power) if match else 0
    if size <= 0:
        raise SelectionError(f"{text!r} is no size", hint="For example: 5GB, 500MB")
    return size


def is_terminal() -> bool:
    return sys.stdout.isatty()


def columns() -> int | None:
    """Width of the terminal; None where stdout is none."""
    if not is_terminal():
        return None
    from ..render.terminal import console

    return console().width


def each(
    files: list[str], section: str | None, as_json: bool, quiet: bool, schema: str,
    result: Callable[[Checkpoint], Any], show: Callable[[Any, str | None], None], lists_problems: bool = False,
    filter: Sequence[str] = (),
) -> int:  # fmt: skip
    """Open each file, call, show. Damage and errors are said on stderr and make the exit status 2.

    ``show`` gets the result and, where there are several files, the file's name. Where it ``lists_problems``
    itself, stderr only counts them. A ``filter`` that matches in none of the files is said; it is no error.
    """
    from ..formats import NOTE, open_checkpoint
    from ..operations.ls import matches_any

    status, matched = 0, not filter
    documents: list[dict[str, Any]] = []
    for path in files:
        try:
            checkpoint = open_checkpoint(path, section)
            found = result(checkpoint)
            matched = matched or matches_any(checkpoint, filter)
        except CheckpointError as error:
            if len(files) == 1:
                raise
            status = 2
            error.path = error.path or path
            documents.append({"schema": "ckpt-inspect/error/1", "error": error.to_dict()})
            complain(error, as_json)
            continue
        if NOTE in checkpoint.facts and not as_json:
            say_problems(path, [checkpoint.facts[NOTE]])
        if checkpoint.problems:
            status = 2
            if not as_json:
                report_problems(checkpoint, lists_problems and not quiet)
        if quiet:
            continue
        if as_json:
            documents.append(getattr(found, "document", found.to_dict)())
        else:
            show(found, path if len(files) > 1 else None)
    if not matched and status == 0 and not as_json and not quiet:
        say_no_match(filter)
    if as_json and not quiet:
        write_json(documents[0] if len(files) == 1 else {"schema": schema, "files": documents})
    return status


def say_no_match(filter: Sequence[str]) -> None:
    """Nothing was found, which looking commands say on stderr only: an empty list is a list."""
    from ..operations.ls import WHOLE_KEYS, no_match

    say(no_match(filter))
    typer.echo(f"      {WHOLE_KEYS}", err=True)


def say_empty(checkpoint: Checkpoint) -> None:
    """A table without rows is silent in a pipe: that there are no tensors is said on stderr, and what there is."""
    if len(checkpoint):
        return
    from shlex import join

    from ..operations.naming import after_options, selected
    from ..render.text import escape

    values = len(checkpoint.values)
    there = f": {values:,} other {'entry' if values == 1 else 'entries'}" if values else ""
    say(f"{selected(checkpoint)}: it holds no tensors{there}")
    typer.echo(f"      {escape(join(['ckpt', 'tree', *after_options(selected(checkpoint))]))}", err=True)


def report_problems(checkpoint: Checkpoint, listed: bool = False) -> None:
    """The first problems on stderr, or how many are ``listed`` elsewhere; ``--json`` has them all."""
    if listed:
        from ..render.text import plural

        say(f'{checkpoint.path}: {plural(len(checkpoint.problems), "problem")}, listed under "problems"')
        _say_hints(checkpoint.problems, checkpoint)
    else:
        say_problems(checkpoint.path, checkpoint.problems, checkpoint)


def say(text: str) -> None:
    """A line on stderr; what is not to be printed raw, in names of files too, is escaped."""
    from ..render.text import escape

    typer.echo(f"ckpt: {escape(text)}", err=True)


def say_problems(what: str, problems: Sequence[str], checkpoint: Checkpoint | None = None) -> None:
    """The first problems of ``what`` on stderr; ``""`` where they name it themselves.

    And what to do about them, where they are those of ``checkpoint``.
    """
    for problem in problems[:10]:
        say(f"{what}{': ' if what else ''}{problem}")
    if len(problems) > 10:
        typer.echo(f"ckpt: … and {len(problems) - 10:,} more problems; --json lists them all", err=True)
    _say_hints(problems, checkpoint)


def _say_hints(problems: Sequence[str], checkpoint: Checkpoint | None) -> None:
    """What to do about problems."""
    if not problems:
        return
    from ..model.problem import Problem
    from ..render.text import escape

    hints = [hint for problem in problems if (hint := Problem.of(problem).hint)]
    if checkpoint is not None:
        from ..formats import remedies

        hints += filter(None, [remedies.of_problems(checkpoint, problems)])
    for hint in list(dict.fromkeys(hints))[:3]:
        typer.echo(f"      {escape(hint)}", err=True)


def print_lines(lines: Iterable[Line], hanging: int, deeper: int = 0) -> None:
    """Lines onto stdout: wrapped on a terminal, as they are elsewhere; see ``show_wrapped``."""
    if is_terminal():
        from ..render.terminal import show_wrapped

        show_wrapped(lines, hanging, deeper)
    else:
        from ..render.plain import texts

        write(texts(lines))


def write(texts: Iterable[str]) -> None:
    """Text to stdout in large pieces."""
    sys.stdout.writelines(texts)


def write_json(document: dict[str, Any]) -> None:
    from ..render.json import chunks

    write(chunks(document))
