"""TorchScript for another device: what was traced or scripted on a GPU runs on a CPU, and gives what it gave."""

from __future__ import annotations

import re
import shutil
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ckpt_inspect as ci
from ckpt_inspect.operations.convert import convert
from ckpt_inspect.operations.save import save, save_in_place
from tests.zoo import files, oracle

from .compare import bits, converted

warnings.filterwarnings("ignore", category=DeprecationWarning)


SCRIPTS = [
    name
    for name in files.names("torchscript")
    if not name.startswith(
        ("mnist", "gpt", "norm", "mobile_model-", "traced_model-", "scripted_model-", "frozen_model-", "cnn1", "named")
    )
]


class Everywhere(nn.Module):  # type: ignore[misc]
    """A device in the code, in an attribute, in a constant, in a branch, and in the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.device = torch.device("cpu")
        self.word = "cpu"
        self.register_buffer("scale", torch.full((3,), 2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.to(self.device)
        mask = torch.ones(3, device=torch.device("cpu"))
        y = self.linear(x.to("cpu")) * self.scale + mask
        return y + torch.arange(3, device="cpu", dtype=torch.float32)


def on_cuda(source: Path, target: Path) -> Path:
    """As if it had been saved on a GPU: every ``cpu`` of the code, of tags and of device objects is ``cuda:0``."""
    made = convert(ci.open(source), device="cuda:0")
    save(made, str(target))
    return target


@pytest.mark.parametrize("how", ["traced", "scripted", "frozen"])
@pytest.mark.parametrize("in_place", [False, True])
def test_from_a_gpu_to_a_cpu(how: str, in_place: bool, tmp_path: Path) -> None:
    model, x = Everywhere().eval(), torch.randn(2, 4)
    wanted = model(x)
    script = torch.jit.trace(model, x) if how == "traced" else torch.jit.script(model)
    if how == "frozen":
        script = torch.jit.freeze(script)
    script.save(str(tmp_path / "model.pt"))
    moved = on_cuda(tmp_path / "model.pt", tmp_path / "moved.pt")
    text = code_of(moved)
    assert "cuda:0" in text
    assert not re.search(r'torch\.device\("cpu"', text)
    assert {info.device for _, _, info in ci.open(moved).tensors()} == {"cuda:0"}
    back = Path(shutil.copy(moved, tmp_path / "back.pt"))
    if in_place:
        save_in_place(convert(ci.open(back), device="cpu"))
    else:
        save(convert(ci.open(moved), device="cuda=cpu"), str(back), force=True)
    assert "cuda" not in code_of(back)
    loaded = torch.jit.load(str(back))
    assert torch.equal(loaded(x), wanted)
    if how == "scripted":
        assert loaded.device == torch.device("cpu")


def code_of(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        return "\n".join(
            archive.read(name).decode() for name in archive.namelist() if "/code/" in name and name.endswith(".py")
        )


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_there_and_back(name: str, tmp_path: Path) -> None:
    path = files.FILES[name](tmp_path)
    moved = converted(path, tmp_path / "moved.pt", device="cuda:1")
    assert {info.device for _, _, info in ci.open(moved).tensors()} <= {"cuda:1"}
    back = converted(moved, tmp_path / "back.pt", device="cpu")
    before, after = oracle.tensors(path), oracle.tensors(back)
    assert list(before) == list(after)
    for key, tensor in before.items():
        if tensor.layout == torch.strided:
            assert bits(tensor) == bits(after[key]), key
    torch.jit.load(str(back))


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated", "ignore:.*beta state", "ignore:.*quint")
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_becomes_a_state_dict(name: str, tmp_path: Path) -> None:
    path = files.FILES[name](tmp_path)
    wanted = dict(torch.jit.load(str(path), map_location="cpu").state_dict())
    if not wanted and len(ci.open(path)):  # frozen: its tensors are constants of the code
        with pytest.raises(ci.UnsupportedError, match="nothing would be left"):
            converted(path, tmp_path / "weights.pt", format="torch-zip")
        return
    try:
        out = converted(path, tmp_path / "weights.pt", format="torch-zip")
    except ci.CheckpointError:
        assert name.startswith("views")  # sparse and nested tensors that only TorchScript spells so
        return
    state: dict[str, Any] = torch.load(out, weights_only=True, map_location="cpu")
    assert list(state) == list(wanted)
    for key, tensor in wanted.items():
        if tensor.layout == torch.strided:
            assert bits(state[key]) == bits(tensor), key
    strided = [key for key, tensor in wanted.items() if tensor.layout == torch.strided]
    for one in strided:
        for other in strided:
            tied = wanted[one].untyped_storage().data_ptr() == wanted[other].untyped_storage().data_ptr()
            assert tied == (state[one].untyped_storage().data_ptr() == state[other].untyped_storage().data_ptr())
