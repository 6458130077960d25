"""The public names, and how a checkpoint looks in a notebook."""

from __future__ import annotations

from pathlib import Path

import pytest

import ckpt_inspect as ci


def test_public_names_are_sorted_and_there() -> None:
    assert ci.__all__ == sorted(ci.__all__)
    assert dir(ci) == ci.__all__
    for name in ci.__all__:
        assert getattr(ci, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ci.nothing


def test_errors_derive_from_builtins_too() -> None:
    assert issubclass(ci.FormatError, ValueError)
    assert issubclass(ci.MissingKeyError, KeyError)
    assert issubclass(ci.FileError, OSError)
    assert issubclass(ci.LimitError, ci.CorruptError)


def test_repr_and_html(fixtures: Path) -> None:
    checkpoint = ci.open(fixtures / "run.ckpt")
    assert repr(checkpoint).splitlines()[0].endswith("run.ckpt · torch-zip · 61 tensors>")
    html = checkpoint._repr_html_()
    assert html is not None
    assert html.startswith("<pre")
    assert "BatchNorm~" in html
    assert (
        repr(checkpoint["model_state_dict/module.fc2.bias"])
        == "TensorInfo('module.fc2.bias', float32, 10, cpu, parameter)"
    )


def test_html_is_escaped(tmp_path: Path) -> None:
    import torch

    torch.save({"<script>alert(1)</script>": torch.zeros(1)}, tmp_path / "x.pt")
    html = ci.open(tmp_path / "x.pt")._repr_html_()
    assert html is not None
    assert "<script>" not in html


def test_closing(fixtures: Path) -> None:
    with ci.open(fixtures / "run.ckpt") as checkpoint:
        source = checkpoint.containers[0].source
    assert checkpoint["model_state_dict/module.fc2.bias"].shape == (10,)
    with pytest.raises(ci.CheckpointError):
        source.read_at(0, 10)


def test_mapping_of_a_section(fixtures: Path) -> None:
    section = ci.open(fixtures / "lenet.pt").sections[""]
    assert "conv1.weight" in section
    assert next(iter(section)) == "conv1.weight"
    assert len(section) == len(section.keys()) == len(section.values()) == len(section.items()) == 10
    assert section["conv1.weight"].nbytes == 6 * 3 * 5 * 5 * 4
