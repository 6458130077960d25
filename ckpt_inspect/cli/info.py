"""Say what a checkpoint is: format, sections, devices, classes, and the line of Python that loads it.

Example: ckpt info model.pt
"""

from __future__ import annotations

from ..operations.info import SCHEMA, Info, info
from . import options


def command(
    files: options.Files,
    section: options.Section = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    def show(found: Info, path: str | None) -> None:
        from ..render import info as render

        lines = render.lines(found, not options.is_terminal())
        if options.is_terminal():
            from ..render.terminal import show_wrapped

            show_wrapped(lines, render.LABEL)
        else:
            from ..render.plain import texts

            options.write(texts(lines))

    return options.each(files, section, as_json, quiet, SCHEMA, info, show, lists_problems=True)
