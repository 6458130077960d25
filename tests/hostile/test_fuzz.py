"""A short run of the fuzzer, and the proof that it would notice. ``CKPT_FUZZ=200000`` makes it a long one."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import islice
from pathlib import Path
from random import Random

import pytest

from . import fuzz
from .mutations import mutations
from .seeds import FIXTURES, inputs

_COUNT = os.environ.get("CKPT_FUZZ", "1000")
_ROOT = Path(__file__).parents[2]


def test_short_run(tmp_path: Path) -> None:
    """Cuts of every seed, flips of every fixture, mutations: in a process of its own, for an audit hook stays."""
    options = ["--inputs", _COUNT, "--flips", "20", "--step", "4096", "--folder", str(tmp_path / "work")]
    done = subprocess.run(
        [sys.executable, "-m", "tests.hostile.fuzz", *options], cwd=_ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{int(_COUNT):,} inputs" in done.stdout


_PLANTED = """
import sys
from tests.hostile import fuzz
def step(given):
    with open(given.path, "rb") as file:
        if len(file.read()) >= 6 * 999 and not given.path.endswith("sample"):
            {what}
    yield ""
fuzz.LANES = {{"bare": (step,), "torch": ()}}
fuzz.SECONDS = 0.5
fuzz.make_seeds = lambda folder: [(folder / name).write_bytes(b"PK" * (3500 if " " in name else 1)) for name in fuzz.NAMES]
sys.exit(fuzz.main(["--inputs", "60", "--flips", "0", "--step", "999", "--folder", {folder!r}]))
"""


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("raise KeyError('planted')", "planted"),
        ("import wave", "import ("),
        ("__import__('os').system('true')", "os.system"),
        ("open('/etc/hostname').close()", "/etc/hostname"),
        ("yield '\\x1b[2J'", "raw characters"),
        ("sum(range(60_000_000))", " s"),
        ("bytes(1 << 32)", "MemoryError"),
    ],
)
def test_it_would_notice(what: str, says: str, tmp_path: Path) -> None:
    folder = str(tmp_path / "work")
    script = _PLANTED.format(what=what, folder=folder)
    done = subprocess.run([sys.executable, "-c", script], cwd=_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert says in done.stdout


def test_inputs_can_be_made_again() -> None:
    seeds = {"a": b"\x80\x02}q\x00." * 30, "fixture b": (_ROOT / "fixtures" / "tied.pt").read_bytes()}
    first, again = (inputs(seeds, "x", 3, 64) for _ in range(2))
    for one, other in islice(zip(first, again, strict=True), 99):
        assert (one.number, one.kind, one.seed, one.make()) == (other.number, other.kind, other.seed, other.make())


def test_every_step_meets_every_seed() -> None:
    """Which step an input goes through has nothing to do with where it comes from."""
    seeds = {f"fixture {name}": b"x" * 64 for name in FIXTURES}
    met = {(found.seed, fuzz.step_of(found.number)[1]) for found in islice(inputs(seeds, "x", 5000, 64), 40_000)}
    assert len(met) == len(seeds) * len({step for steps in fuzz.LANES.values() for step in steps})


def test_mutations_know_the_formats() -> None:
    fixtures = _ROOT / "fixtures"
    for name in ("tied.pt", "gpt.safetensors", "legacy.pth"):
        data = (fixtures / name).read_bytes()
        made = {way(Random(number), data) for number, way in enumerate(mutations(data) * 3)}
        assert len(made) > 10
