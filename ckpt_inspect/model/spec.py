"""How a model of the user's is named."""

from __future__ import annotations

import os


def is_spec(text: str) -> bool:
    """Whether ``text`` names a model rather than a file: ``pkg.mod:Net``, ``path/to/file.py:Net``."""
    where, colon, name = text.rpartition(":")
    if not colon or os.path.exists(text) or not all(part.isidentifier() for part in name.split(".")):
        return False
    return where.endswith(".py") or all(part.isidentifier() for part in where.split("."))
