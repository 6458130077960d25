"""Will these weights load into a model? If not: what is missing, unexpected or of another shape, why, and the fix.

The model is your own code: it is imported because you name it, and built without memory. The verdict is torch's own
load_state_dict(strict=True); exit status 0 only if that succeeds.

Example: ckpt check run.ckpt --model nets.py:LeNet --kwargs '{"classes": 10}'
"""

from __future__ import annotations

from typing import Annotated

import typer

from ..model.spelling import shell_path
from . import models, options
from .progress import progress


def command(
    file: options.File,
    section: options.Section = None,
    model: models.Spec = None,
    args: models.Args = None,
    kwargs: models.Kwargs = None,
    load: Annotated[
        bool, typer.Option("--load", help="Really load the weights, mapped on the CPU, streamed to a GPU.")
    ] = False,
    device: models.Device = None,
    inputs: models.Inputs = [],  # noqa: B006 - Typer reads the default, nobody changes it
    seed: models.Seed = None,
    against: Annotated[
        str | None, typer.Option("--against", metavar="OTHER", help="Compare outputs with those of this file.")
    ] = None,
    against_model: Annotated[
        str | None, typer.Option("--against-model", metavar="SPEC", help="The model of OTHER, if it is another.")
    ] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    from ..errors import SelectionError
    from ..formats import open_checkpoint
    from ..model.inputs import parse_input
    from ..operations.check import check
    from ..operations.trial import trial

    if model is None:
        raise SelectionError(
            "no model was named", hint=f"For example: ckpt check {shell_path(file)} --model nets.py:Net"
        )
    if not inputs:
        models.refuse_idle({"--seed": seed, "--against": against}, "something to feed: --input 1,3,32,32")
        models.refuse_idle({"--device": device if not load else None}, "--load or --input")
    if against is None:
        models.refuse_idle({"--against-model": against_model}, "--against")
    checkpoint = open_checkpoint(file, section)
    options.report_problems(checkpoint)
    fed = [parse_input(text) for text in inputs]
    parsed = models.parse(model, args, kwargs)
    found = check(checkpoint, parsed)
    damaged = bool(checkpoint.problems)
    if (found.loads or found.only_ties) and (load or fed or against is not None):
        other = open_checkpoint(against) if against is not None else None
        if other is not None:
            options.report_problems(other)
        its = models.parse(against_model, None, None) if against_model is not None else None
        read = [*found.section.values(), *(info for _, _, info in (other.tensors() if other is not None else ()))]
        with progress(sum(info.nbytes for info in read), "read") as advance:
            tried = trial(checkpoint, parsed, None, device or "cpu", fed, seed or 0, other, its, advance)
        found.tried(tried)
        options.say_problems(checkpoint.path, tried.damage, checkpoint)
        options.say_problems(against or "", tried.other_damage, other)
        damaged |= bool(tried.damage or tried.other_damage or (other is not None and other.problems))
    if as_json and not quiet:
        options.write_json(found.to_dict())
    elif not quiet:
        from ..render import check as render

        options.print_lines(render.lines(found, not options.is_terminal()), render.LABEL, 2)
    return 2 if damaged else 0 if found.ok else 1
