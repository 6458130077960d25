"""No generated attack leaks another exception, opens, imports or runs anything, or writes raw characters.

Each file is opened in a fork of its own, with an audit hook and limits on memory and time (``sandbox``).
``CKPT_HOSTILE_ALL=1`` tries all attacks, which takes minutes; else one in fifteen is tried, and all those that put one
long thing in tens of thousands of places.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from .attacks import ATTACKS
from .registry import ANY
from .sandbox import MEMORY, Outcome, Sandbox

_GROUPS = 60
_RUN = _GROUPS if os.environ.get("CKPT_HOSTILE_ALL") else 4
_AMPLIFIED = [name for name in sorted(ATTACKS) if name.endswith("0,000 times")]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    box = Sandbox()
    yield box
    box.close()


# What ``scan`` says of each; ``--overwrite`` (without -n) writes it anew, and then the diff is to be read.
_TABLE = Path(__file__).with_name("scanned.json")
SCANNED = {name: expected for expected, names in json.loads(_TABLE.read_text()).items() for name in names}


def overwrite(outcomes: dict[str, str]) -> None:
    SCANNED.update(outcomes)  # each group writes the table: what the groups before it found stays
    table: dict[str, list[str]] = {}
    for name, said in sorted(SCANNED.items()):
        if name in ATTACKS:
            table.setdefault(said, []).append(name)
    _TABLE.write_text(json.dumps(dict(sorted(table.items())), indent=1) + "\n")


def wrong(outcome: Outcome, size: int) -> list[str]:
    """What must never happen, whatever the bytes. A list of a byte, drawn in every way, takes 0.6 KB."""
    found = [outcome.leaked] if outcome.leaked else []
    if outcome.events:
        found.append(f"events: {outcome.events}")
    if outcome.unsafe:
        found.append(f"raw characters: {outcome.unsafe!r}")
    if size < 1_000_000 and outcome.kilobytes > MEMORY + size * 6 // 10:
        found.append(f"{outcome.kilobytes:,} KB of memory")
    return found


def check(names: list[str], sandbox: Sandbox, folder: Path, anew: bool) -> None:
    outcomes: dict[str, str] = {}
    failures: dict[str, list[str]] = {}
    for number, name in enumerate(names):
        attack = ATTACKS[name]
        directory = folder / str(number)
        directory.mkdir()
        path = attack.write(directory)
        outcome = sandbox.open(path)
        found = wrong(outcome, 0 if path.is_dir() else path.stat().st_size)
        if attack.error not in (ANY, outcome.error):
            found.append(f"{attack.error or 'opens'} expected: {outcome.error or 'opens'}: {outcome.said[:300]}")
        outcomes[name] = outcome.scanned
        if not anew and outcome.scanned != SCANNED[name]:
            found.append(f"scan: {SCANNED[name]} expected: {outcome.scanned}")
        if attack.says not in outcome.said:
            found.append(f"{attack.says!r} expected: {outcome.said[:300]}")
        if found:
            failures[name] = found
    if anew:
        overwrite(outcomes)
    assert failures == {}


def test_every_attack_has_an_outcome() -> None:
    assert SCANNED.keys() == ATTACKS.keys()


@pytest.mark.parametrize("group", range(_RUN))
def test_attacks(group: int, sandbox: Sandbox, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    check(sorted(ATTACKS)[group::_GROUPS], sandbox, tmp_path, pytestconfig.getoption("--overwrite"))


@pytest.mark.parametrize("group", range(3))
def test_one_thing_in_many_places(group: int, sandbox: Sandbox, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """One long value, 20,000 times: refused or shown, without 20,000 times its length."""
    check(_AMPLIFIED[group::3], sandbox, tmp_path, pytestconfig.getoption("--overwrite"))
