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
    typer.echo(f"ckpt: {place}{escape(error.message)}", err=True)
    if error.hint:
        typer.echo(f"      {escape(error.hint)}", err=True)
    return ERROR


def write_error(error: dict[str, Any]) -> None:
    from ..render.json import dumps

    typer.echo(dumps({"schema": "ckpt-inspect/error/1", "error": error}), err=True)
