"""Fingerprint the content of checkpoints: the same for the same weights in any container, order or file name.

Keys, dtypes, shapes and logical values are hashed with SHA-256; key order, ties, strides and devices do not count.
A file of several sections has a hash for each and one for the whole.

Example: ckpt hash model.pt model.safetensors
"""

from __future__ import annotations

from typing import Annotated

import typer

from ..errors import CheckpointError
from ..model.checkpoint import Checkpoint
from ..operations.hash import SCHEMA, Fingerprint, hash
from . import options
from .progress import progress


def command(
    files: options.Files,
    section: options.Section = None,
    structure: Annotated[bool, typer.Option("--structure", help="Leave the values out: keys, dtypes, shapes.")] = False,
    each: Annotated[bool, typer.Option("--each", help="One line for each tensor.")] = False,
    textconv: Annotated[
        bool, typer.Option("--textconv", help="For git: --each, and what is no checkpoint is described.")
    ] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    from ..render import hash as render

    def result(checkpoint: Checkpoint) -> Fingerprint:
        total = 0 if structure else sum(info.nbytes for _, _, info in checkpoint.tensors())
        with progress(total, "read") as advance:
            found = hash(checkpoint, structure, advance)
        checkpoint.problems = [*checkpoint.problems, *found.problems]
        found.problems = []
        return found

    def show(found: Fingerprint, path: str | None) -> None:
        options.write(render.each(found) if each or textconv else render.plain(found))

    if not textconv:
        return options.each(files, section, as_json, quiet, SCHEMA, result, show)
    from ..formats import open_checkpoint

    for path in files:
        try:
            options.write(render.each(result(open_checkpoint(path, section)), values=True))
        except CheckpointError as error:  # git log -p goes on over old versions of whatever kind
            options.write([render.not_one(error)])
    return 0
