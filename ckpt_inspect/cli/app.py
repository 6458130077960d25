"""The group of commands, each imported when it is asked for; and the one place where errors become text."""

from __future__ import annotations

import gc
import os
import sys
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from ..commands import COMMANDS
from ..errors import CheckpointError

OK, DIFFERENT, ERROR, INTERRUPTED = 0, 1, 2, 130


class LazyGroup(TyperGroup):
    """Knows its commands by name; a module of ``cli`` is imported when its command runs."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f".{cmd_name.replace('-', '_')}", __package__)
        app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        app.command(cmd_name, help=module.__doc__)(module.command)
        command = typer.main.get_command(app)
        command.name = cmd_name
        command.short_help = COMMANDS[cmd_name]
        return command


app = typer.Typer(
    name="ckpt",
    cls=LazyGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"ckpt-inspect {version('ckpt-inspect')}")
        raise typer.Exit


@app.callback()
def group(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    """Look into any PyTorch checkpoint: without torch, without running its pickle, without loading its weights.

    Example: ckpt tree model.pt
    """


def run(arguments: list[str]) -> int:
    """Run the command line; the exit status of design 3."""
    gc.disable()  # a command makes its result and ends; collecting would only look at it again and again
    _prepare_streams()
    as_json = "--json" in arguments
    try:
        status = app(args=arguments, standalone_mode=False, prog_name="ckpt")
        sys.stdout.flush()
    except CheckpointError as error:
        return _complain(error, as_json)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more
        return OK
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except Exception as error:
        shown = getattr(error, "format_message", None)  # a usage error of click, wherever Typer keeps click
        if shown is None:
            raise
        return _usage(error, shown(), as_json)
    return status if isinstance(status, int) else OK


def _prepare_streams() -> None:
    import signal

    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a closed pipe ends silently
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _usage(error: Exception, message: str, as_json: bool) -> int:
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError" or not message:  # no arguments at all: the help
        typer.echo(message or (context.get_help() if context is not None else ""))
        return ERROR
    if as_json:
        _write_error(
            {
                "type": "UsageError",
                "message": message,
                "path": None,
                "record": None,
                "offset": None,
                "hint": None,
            }
        )
        return ERROR
    path = getattr(context, "command_path", "ckpt") if context is not None else "ckpt"
    typer.echo(f"ckpt: {message}{_meant(message)}\nTry: {path} --help", err=True)
    return ERROR


def _meant(message: str) -> str:
    """The command that a misspelt one was meant to be."""
    from difflib import get_close_matches

    close = get_close_matches(message.split("'")[1], COMMANDS, n=1) if message.startswith("No such command '") else []
    return f" Did you mean {close[0]}?" if close else ""


def _complain(error: CheckpointError, as_json: bool) -> int:
    from ..render.text import escape

    if as_json:
        _write_error(error.to_dict())
        return ERROR
    where = [escape(error.path)] if error.path is not None else []
    if error.record is not None:
        where.append(f"record {escape(error.record)}")
    if error.offset is not None:
        where.append(f"byte {error.offset:,}")
    place = ", ".join(where) + ": " if where else ""
    typer.echo(f"ckpt: {place}{escape(error.message)}", err=True)
    if error.hint:
        typer.echo(f"      {escape(error.hint)}", err=True)
    return ERROR


def _write_error(error: dict[str, Any]) -> None:
    from ..render.json import dumps

    typer.echo(dumps({"schema": "ckpt-inspect/error/1", "error": error}), err=True)
