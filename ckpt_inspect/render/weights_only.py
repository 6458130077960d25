"""The verdict of ``weights_only`` as one text."""

from __future__ import annotations

from ..formats.weights_only import TORCH, Verdict
from .text import escape

_FEW = 6


def said(verdict: Verdict, all_of_it: bool) -> tuple[str, str]:
    """The text and its style; without ``all_of_it`` a long list of what is in the way is cut and says how much is left."""
    if verdict.ok:
        return f"yes: torch {TORCH} loads it with weights_only=True", "good"
    shown = verdict.blocked if all_of_it else verdict.blocked[:_FEW]
    left = len(verdict.blocked) - len(shown)
    why = ", ".join(shown) + (f" and {left} more" if left else "")
    once = (
        f"; yes once {' and '.join(verdict.once)} {'is' if len(verdict.once) == 1 else 'are'} imported"
        if verdict.once
        else ""
    )
    return escape(f"no, for torch {TORCH}: {why}{once}"), "bad"
