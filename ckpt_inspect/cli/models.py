"""Options that name the user's model, and what it is run on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import SelectionError

if TYPE_CHECKING:
    from ..model.checkpoint import Checkpoint
    from ..torch.models import Model

Spec = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="SPEC", help="Your model: pkg.mod:Net or path/to/file.py:Net; it is imported."),
]  # fmt: skip
Args = Annotated[str | None, typer.Option("--args", metavar="JSON", help="What it is called with: '[10]'.")]
Kwargs = Annotated[str | None, typer.Option("--kwargs", metavar="JSON", help="The same by name: '{\"classes\": 2}'.")]

Device = Annotated[str | None, typer.Option("--device", metavar="DEVICE", help="Where it runs: cpu, cuda, cuda:1.")]
Inputs = Annotated[
    list[str],
    typer.Option("--input", "-i", metavar="SHAPE[:DTYPE[:LOW..HIGH]]",
                 help="Run it on random numbers: 1,3,32,32 or 1,16:int64:0..999. Repeatable: one for each argument."),
]  # fmt: skip
Seed = Annotated[int | None, typer.Option("--seed", help="Of the random numbers; 0 unless it is given.")]


def refuse_idle(given: dict[str, Any], without: str) -> None:
    """An option that would do nothing is a mistake.

    Args:
        given: options by name, None where they were not given.
        without: what they would need, in words.

    Raises:
        SelectionError: one of them was given.
    """
    idle = next((option for option, value in given.items() if value is not None), None)
    if idle is not None:
        raise SelectionError(f"{idle} does nothing without {without}")


def parse(spec: str, args: str | None, kwargs: str | None) -> Model:
    """The model that the options name.

    Raises:
        SelectionError: the arguments are no JSON of the right kind.
        ModelError: it cannot be imported.
    """
    given = _json("--args", args, list, "'[10, 0.5]'")
    named = _json("--kwargs", kwargs, dict, "'{\"classes\": 2}'")
    from ..torch.models import Model

    return Model(spec, given or (), named)


def reference(name: str, args: str | None = None, kwargs: str | None = None) -> Checkpoint:
    """A checkpoint, or a model by name as if it were one.

    Raises:
        CheckpointError: it cannot be opened, or imported, or built.
    """
    from ..formats import open_checkpoint
    from ..operations.live import is_spec, live

    if is_spec(name):
        return live(parse(name, args, kwargs))
    refuse_idle({"--args": args, "--kwargs": kwargs}, "a model: --like pkg.mod:Net")
    return open_checkpoint(name)


def _json(option: str, text: str | None, kind: type, example: str) -> Any:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SelectionError(f"{option} is not JSON: {error}", hint=f"For example: {option} {example}") from error
    if not isinstance(value, kind):
        what = "an array" if kind is list else "an object"
        raise SelectionError(f"{option} must be {what} of JSON", hint=f"For example: {option} {example}")
    return value
