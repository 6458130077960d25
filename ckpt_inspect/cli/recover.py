"""Undo an edit in place that was interrupted: the file is again as it was before.

Example: ckpt recover run.ckpt
"""

from __future__ import annotations

from . import options, writing


def command(file: writing.File, as_json: options.Json = False, quiet: options.Quiet = False) -> int:
    from ..operations.save import recover

    said = recover(file)
    if as_json:
        options.write_json({"schema": "ckpt-inspect/recover/1", "path": file, "message": said})
    elif not quiet:
        from ..render.text import escape

        options.write([escape(said) + "\n"])
    return 0
