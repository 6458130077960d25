"""Will these weights load into a model? If not: what is missing, unexpected or of another shape, why, and the fix.

The model is your own code: it is imported because you name it, and built without memory. The verdict is torch's own
load_state_dict(strict=True); exit status 0 only if that succeeds.

Example: ckpt check run.ckpt --model nets.py:LeNet --kwargs '{"classes": 10}'
"""

from __future__ import annotations

from . import models, options


def command(
    file: options.File,
    section: options.Section = None,
    model: models.Spec = None,
    args: models.Args = None,
    kwargs: models.Kwargs = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    from ..errors import SelectionError
    from ..formats import open_checkpoint
    from ..operations.check import check

    if model is None:
        raise SelectionError("no model was named", hint=f"For example: ckpt check {file} --model nets.py:Net")
    checkpoint = open_checkpoint(file, section)
    options.report_problems(checkpoint)
    found = check(checkpoint, models.parse(model, args, kwargs))
    if as_json and not quiet:
        options.write_json(found.to_dict())
    elif not quiet:
        from ..render import check as render

        options.print_lines(render.lines(found, not options.is_terminal()), render.LABEL)
    return 2 if checkpoint.problems else 0 if found.loads else 1
