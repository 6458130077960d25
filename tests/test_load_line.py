"""The line of Python that ``info`` prints loads the very file, for every file of the zoo that gets one."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import ckpt_inspect as ci
from tests.zoo import files

OPENED = [name for name in files.names() if files.FORMATS[name] not in ("dcp", "pt2")]


@pytest.mark.parametrize("name", OPENED)
def test_load_line_loads(name: str, tmp_path: Path) -> None:
    path = files.FILES[name](tmp_path)
    found = ci.info(ci.open(path))
    if found.load is None:
        foreign = any(info.cls for _, _, info in found.checkpoint.tensors())
        assert not found.candidates or foreign
        return
    import safetensors.torch

    import ckpt_inspect.torch

    scope: dict[str, Any] = {"torch": torch, "safetensors": safetensors, "ckpt_inspect": ckpt_inspect}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of deprecated and experimental types
        exec(found.load, scope)
    if "state_dict" in scope:
        section = found.checkpoint.sections[next(filter(found.can_be_made, found.candidates))]
        tensors = [key for key, info in section.tensors.items() if info.persistent]
        assert set(tensors) <= set(scope["state_dict"])
    assert found.weights_only.ok or "weights_only=True" not in found.load


def test_damaged_files_get_no_load_line(tmp_path: Path) -> None:
    for name in files.DAMAGED:
        try:
            found = ci.info(ci.open(files.FILES[name](tmp_path)))
        except ci.CheckpointError:
            continue
        if found.checkpoint.problems:
            assert found.load is None
            assert not found.weights_only.ok


def test_several_sets_of_weights_that_torch_refuses(tmp_path: Path) -> None:
    """The most common file of a training script: weights twice, and arguments that weights_only does not allow."""
    weights = torch.nn.Linear(2, 2).state_dict()
    args = argparse.Namespace(lr=0.1)
    torch.save({"model": weights, "ema": weights, "args": args}, tmp_path / "a.pt")
    found = ci.info(ci.open(tmp_path / "a.pt"))
    assert found.load is not None
    import ckpt_inspect.torch

    scope: dict[str, Any] = {"ckpt_inspect": ckpt_inspect}
    exec(found.load, scope)
    torch.nn.Linear(2, 2).load_state_dict(scope["state_dict"])
