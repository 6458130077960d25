"""Print Python source of the modules that a checkpoint shows: layers of torch.nn where they are recorded or inferred.

What was inferred is marked ~; what no file says (forward, and of a bare state_dict stride, padding, heads) is left as
a comment. The weights of the file load into what build() in it makes, with strict=True.

Example: ckpt code lenet.pt > lenet.py
"""

from __future__ import annotations

from . import options


def command(
    file: options.File,
    section: options.Section = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    from ..formats import open_checkpoint
    from ..operations.code import code

    checkpoint = open_checkpoint(file, section)
    options.report_problems(checkpoint)
    found = code(checkpoint)
    if as_json and not quiet:
        options.write_json(found.to_dict())
    elif not quiet:
        options.write([found.source])
    return 2 if checkpoint.problems else 0
