"""Run a TorchScript archive, or weights in your own model, and show what each module gives and costs.

The code in a TorchScript archive is executed by this command, and by no other. FLOPs are counted by torch's own
counter: of matrix products, convolutions and attention, a multiply-add as two.

Example: ckpt run traced.pt --input 1,1,28,28
"""

from __future__ import annotations

from . import models, options
from .progress import progress


def command(
    file: options.File,
    section: options.Section = None,
    inputs: models.Inputs = [],  # noqa: B006 - Typer reads the default, nobody changes it
    model: models.Spec = None,
    args: models.Args = None,
    kwargs: models.Kwargs = None,
    device: models.Device = None,
    seed: models.Seed = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    from ..formats import open_checkpoint
    from ..model.inputs import parse_input
    from ..operations.run import run

    fed = [parse_input(text) for text in inputs]
    checkpoint = open_checkpoint(file, section)
    options.report_problems(checkpoint)
    if model is None:
        models.refuse_idle({"--args": args, "--kwargs": kwargs}, "--model")
    parsed = models.parse(model, args, kwargs) if model is not None else None
    if parsed is None and checkpoint.format.startswith("torchscript") and fed:
        options.say(f"executing the TorchScript code in {file}")
    with progress(sum(info.nbytes for _, _, info in checkpoint.tensors()), "read") as advance:
        found = run(checkpoint, fed, parsed, device or "cpu", seed or 0, advance)
    options.say_problems(checkpoint.path, found.damage, checkpoint)
    if as_json and not quiet:
        options.write_json(found.to_dict())
    elif not quiet:
        from ..render import run as render

        options.print_lines(render.lines(found, options.columns()), render.LABEL, 2)
    return 2 if checkpoint.problems or found.damage else 0 if found.ok else 1
