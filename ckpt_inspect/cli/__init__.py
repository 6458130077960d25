"""The command line: open, call, show. Typer is named here and nowhere else."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of ``ckpt``; always leaves by ``SystemExit``."""
    from .app import run

    sys.exit(run(sys.argv[1:]))
