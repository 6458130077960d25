"""How the exit statuses of several files combine: what was found counts more than what could not be read."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from tests.conftest import in_process
from tests.hostile import build


@pytest.fixture
def made(tmp_path: Path) -> dict[str, str]:
    good, bad = tmp_path / "good.pt", tmp_path / "bad.pt"
    torch.save({"a": torch.ones(64)}, good)
    data = bytearray(good.read_bytes())
    at = data.index(torch.ones(64).numpy().tobytes())
    data[at] ^= 1
    bad.write_bytes(data)
    evil = tmp_path / "evil.pt"
    evil.write_bytes(build.checkpoint(build.call(build.name("os", "system"), build.text("id"))))
    return {"good": str(good), "damaged": str(bad), "evil": str(evil), "missing": str(tmp_path / "missing.pt")}


@pytest.mark.parametrize("flags", [[], ["--json"], ["--quiet"], ["--sarif"]])
def test_scan(flags: list[str], made: dict[str, str]) -> None:
    for names in itertools.permutations(["good", "evil", "missing"], 2):
        wanted = 1 if "evil" in names else 2
        assert in_process(["scan", *flags, *(made[name] for name in names)]) == wanted, names
    assert in_process(["scan", *flags, made["missing"], made["missing"]]) == 2
    assert in_process(["scan", *flags, made["good"], made["good"]]) == 0


@pytest.mark.parametrize("flags", [[], ["--json"], ["--quiet"]])
def test_verify(flags: list[str], made: dict[str, str]) -> None:
    for names in itertools.permutations(["good", "damaged", "missing"], 2):
        wanted = 1 if "damaged" in names else 2
        assert in_process(["verify", *flags, *(made[name] for name in names)]) == wanted, names
    assert in_process(["verify", *flags, made["good"], made["good"]]) == 0
