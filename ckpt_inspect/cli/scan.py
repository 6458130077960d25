"""Say what the pickles of files would import and call when they are loaded; nothing is imported or run.

Every pickle is looked at: of all members of an archive, listed or not, nested ones, and what follows another.

Example: ckpt scan model.pt
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..errors import CheckpointError
from ..operations.scan import SCHEMA, Scan, scan
from . import options
from .complaints import ERROR, complain

FOUND = 1


def command(
    files: options.Files,
    sarif: Annotated[bool, typer.Option("--sarif", help="One SARIF 2.1.0 document, for code scanning.")] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    documents: list[dict[str, Any]] = []
    scans: list[Scan] = []
    errors: list[CheckpointError] = []
    for path in files:
        try:
            found = scan(path)
        except CheckpointError as error:
            error.path = error.path or path
            if len(files) == 1 and not sarif:
                raise
            errors.append(error)
            documents.append({"schema": "ckpt-inspect/error/1", "error": error.to_dict()})
            complain(error, as_json)
            continue
        scans.append(found)
        documents.append(found.to_dict())
        if not (as_json or quiet or sarif):
            _show(found)
    if sarif and not quiet:
        from importlib.metadata import version

        from ..render.sarif import document

        options.write_json(document(scans, errors, version("ckpt-inspect")))
    elif as_json and not quiet:
        options.write_json(documents[0] if len(files) == 1 else {"schema": SCHEMA, "files": documents})
    statuses = {found.status for found in scans} | ({ERROR} if errors else set())
    return FOUND if FOUND in statuses else max(statuses)


def _show(found: Scan) -> None:
    from ..render import scan as render

    lines = render.lines(found, not options.is_terminal())
    if options.is_terminal():
        from ..render.terminal import show_wrapped

        show_wrapped(lines, render.LABEL)
    else:
        from ..render.plain import texts

        options.write(texts(lines))
