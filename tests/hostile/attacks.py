"""Every attack of formats 1.3, 1.4, 5.6, 6, 7, 11 and 13 that we know of, and those found since.

``ATTACKS[name].write(directory)`` makes the file, or directory, and returns its path. All are made by hand, byte
by byte, when they are asked for; none is over two megabytes.
"""

from __future__ import annotations

from . import archives, headers, pickles, streams
from .registry import ATTACKS, Attack

FAMILIES = (pickles, archives, streams, headers)

__all__ = ["ATTACKS", "FAMILIES", "Attack"]
