"""Errors as a user sees them: on stderr, as text or as one JSON document."""

from __future__ import annotations

from typing import Any

import typer

from ..errors import CheckpointError

ERROR = 2


def complain(error: CheckpointError, as_json: bool) -> int:
    """Say an error; the exit status."""
    from ..render.text import escape

    if as_json:
        write_error(error.to_dict())
        return ERROR
    place = f"{escape(error.place)}: " if error.place else ""
    for line in _wrapped(f"ckpt: {place}{escape(error.message)}"):
        typer.echo(line, err=True)
    if error.hint:
        hint = f"      {escape(error.hint)}"
        # a command stays whole, to be pasted
        for line in [hint] if "ckpt " in hint or "python " in hint else _wrapped(hint):
            typer.echo(line, err=True)
    return ERROR


def _wrapped(text: str) -> list[str]:
    """On a terminal between words, with a hanging indent; elsewhere one line."""
    import sys

    if not sys.stderr.isatty():
        return [text]
    from shutil import get_terminal_size
    from textwrap import wrap

    return wrap(
        text, get_terminal_size().columns, subsequent_indent="      ", break_long_words=False,
        break_on_hyphens=False, drop_whitespace=True,
    )  # fmt: skip


def write_error(error: dict[str, Any]) -> None:
    from ..render.json import dumps

    typer.echo(dumps({"schema": "ckpt-inspect/error/1", "error": error}), err=True)
