"""Check the integrity of checkpoints: checksums, lengths, bounds, headers; damage is named by the tensors it hurts.

Example: ckpt verify model.pt
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..errors import CheckpointError, SelectionError
from ..operations.verify import SCHEMA, Verification, verify_file
from . import options
from .complaints import ERROR, complain
from .progress import progress

DAMAGED = 1


def command(
    files: options.Files,
    sums: Annotated[str | None, typer.Option("--sums", metavar="SUMS", help="Compare with recorded checksums.")] = None,
    write_sums: Annotated[
        str | None, typer.Option("--write-sums", metavar="SUMS", help="Record checksums of every byte in a new file.")
    ] = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Look for NaN and Inf among the values too (with torch).")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace SUMS if it is there.")] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    if len(files) > 1 and (sums or write_sums):
        raise SelectionError("a file of checksums is of one checkpoint", hint="Name one FILE.")
    documents: list[dict[str, Any]] = []
    damaged = failed = 0
    for path in files:
        try:
            with progress(_size(path)) as advance:
                found = verify_file(path, sums=sums, deep=deep, progress=advance)
        except CheckpointError as error:
            if len(files) == 1:
                raise
            failed += 1
            error.path = error.path or path
            documents.append({"schema": "ckpt-inspect/error/1", "error": error.to_dict()})
            complain(error, as_json)
            continue
        damaged += not found.ok
        documents.append(found.to_dict())
        if not as_json and not quiet:
            _show(found)
    if as_json and not quiet:
        options.write_json(documents[0] if len(files) == 1 else {"schema": SCHEMA, "files": documents})
    elif len(files) > 1 and not quiet:
        from ..render.verify import summary

        _print([summary(len(files), damaged, failed)])
    if write_sums is not None:
        if damaged:
            raise SelectionError("no checksums are recorded of a damaged file", hint="Record them while it is sound.")
        _write_sums(files[0], write_sums, force, quiet or as_json)
    return DAMAGED if damaged else ERROR if failed else 0


def _size(path: str) -> int:
    import os

    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def _write_sums(path: str, out: str, force: bool, quiet: bool) -> None:
    from ..errors import UnsupportedError
    from ..formats import open_checkpoint
    from ..operations.sums import unnamed, write

    try:
        opened = open_checkpoint(path)
    except UnsupportedError:  # it was verified, so it is an archive
        opened, _ = unnamed(path)
    with opened as checkpoint, progress(checkpoint.size) as advance:
        count = write(checkpoint, out, advance, force)
    if not quiet:
        from ..render.text import escape

        options.write([f"wrote {count:,} checksums to {escape(out)}\n"])


def _show(found: Verification) -> None:
    from ..render import verify as render

    _print(list(render.lines(found, not options.is_terminal())), render.LABEL)


def _print(lines: Any, hanging: int = 0) -> None:
    if options.is_terminal():
        from ..render.terminal import show_wrapped

        show_wrapped(lines, hanging)
    else:
        from ..render.plain import texts

        options.write(texts(lines))
