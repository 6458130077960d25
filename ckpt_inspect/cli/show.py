"""Look at one entry: a tensor's facts, where its bytes lie, statistics, a histogram, a slice of values; or any other
value, printed without making it: an unknown object shows its class and fields.

Example: ckpt show model.pt conv1.weight --slice '0,0,:2'
"""

from __future__ import annotations

from typing import Annotated

import typer

from . import options, writing

Name = Annotated[
    str,
    typer.Argument(metavar="NAME", help="A tensor's key or name, or that of another entry.",
                   autocompletion=options.complete_key, show_default=False),
]  # fmt: skip


def command(
    file: writing.File,
    name: Name,
    section: options.Section = None,
    slice: Annotated[str | None, typer.Option("--slice", metavar="SLICE", help="List these values: '0,:5'.")] = None,
    save: Annotated[str | None, typer.Option("--save", metavar="FILE", help="Write it as a NumPy .npy file.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace that file if it is there.")] = False,
    device: Annotated[str, typer.Option(help="Where statistics are computed: cpu, cuda.")] = "cpu",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    from ..formats import open_checkpoint
    from ..operations import show as operation

    checkpoint = open_checkpoint(file, section)
    if save is not None:
        info = operation.find(checkpoint, name)[2]
        code = operation.save_npy(operation.sliced(info, slice) if slice is not None else info, save, force)
        if not quiet and not as_json:
            options.say(f"wrote {save} as {code}")
        return 0
    terminal = options.is_terminal()
    with writing.progress(0 if name not in checkpoint else checkpoint[name].nbytes, "read") as advance:
        found = operation.show(checkpoint, name, slice, device, not terminal, advance)
    problems = [*checkpoint.problems, *found.problems]
    if not as_json:
        options.say_problems(file, problems)
    if as_json and not quiet:
        options.write_json(found.to_dict())
    elif not quiet:
        from ..render import show as render
        from ..render.plain import texts

        if terminal:
            from ..render.terminal import show

            show(render.lines(found, all_of_it=False))
        else:
            options.write(texts(render.lines(found)))
    return 2 if problems else 0
