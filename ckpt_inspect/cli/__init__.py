"""The command line: open, call, show. Typer is named here and nowhere else."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of ``ckpt``; always leaves by ``SystemExit``."""
    import gc

    from .app import run

    gc.disable()  # a command makes its result and ends; collecting would only look at it again and again
    sys.exit(run(sys.argv[1:]))
