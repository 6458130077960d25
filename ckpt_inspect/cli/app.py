"""The group of commands, each imported when it is asked for; and the one place where errors become text."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from ..commands import COMMANDS
from ..errors import CheckpointError, FileError
from .complaints import ERROR, complain, write_error

OK, INTERRUPTED = 0, 130
_HELP_LACKS_MARKUP = ("0.17.0", "0.17.1", "0.17.2")  # their help uses rich.markup and does not import it


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
    _prepare_streams()
    if typer.__version__ in _HELP_LACKS_MARKUP and (not arguments or {"-h", "--help"} & {*arguments}):
        import rich.markup  # noqa: F401
    as_json = "--json" in arguments
    try:
        status = app(args=arguments, standalone_mode=False, prog_name="ckpt")
        sys.stdout.flush()
    except CheckpointError as error:
        return complain(error, as_json)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more
        return OK
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except OSError as error:  # stdout: a full disk, most likely
        return complain(FileError(f"cannot write: {(error.strerror or str(error)).lower()}"), as_json)
    except Exception as error:
        shown = getattr(error, "format_message", None)  # a usage error of click, wherever Typer keeps click
        if shown is None:
            raise
        return _usage(error, shown(), as_json, arguments)
    return status if isinstance(status, int) else OK


def _prepare_streams() -> None:
    import signal

    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a closed pipe ends silently
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - as long as the process
        getattr(sys, name).reconfigure(errors="backslashreplace")


def _usage(error: Exception, message: str, as_json: bool, arguments: list[str]) -> int:
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError" or not message:  # no arguments at all: the help
        typer.echo(message or (context.get_help() if context is not None else ""))
        return ERROR
    hint = _file_like_an_option(arguments) if message.startswith("No such option") else None
    if as_json:
        write_error({**CheckpointError(message, hint=hint).to_dict(), "type": "UsageError"})
        return ERROR
    if hint is not None:
        typer.echo(f"ckpt: {message}\n      {hint}", err=True)
        return ERROR
    path = getattr(context, "command_path", "ckpt") if context is not None else "ckpt"
    typer.echo(f"ckpt: {message}{_meant(message)}\nTry: {path} --help", err=True)
    return ERROR


def _file_like_an_option(arguments: list[str]) -> str | None:
    """What to type where a file's name begins with a dash."""
    from shlex import join

    from ..render.text import escape

    plain = [
        f"./{word}" if word.startswith("-") and os.path.exists(word.partition("#")[0]) else word for word in arguments
    ]
    return f"If the file is meant: {escape(join(['ckpt', *plain]))}" if plain != arguments else None


def _meant(message: str) -> str:
    """The command that a misspelt one was meant to be."""
    from difflib import get_close_matches

    close = get_close_matches(message.split("'")[1], COMMANDS, n=1) if message.startswith("No such command '") else []
    return f" Did you mean {close[0]}?" if close else ""
