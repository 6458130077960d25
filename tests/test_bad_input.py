"""What is no checkpoint is named for what it is; what is damaged is shown as far as it goes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import ckpt_inspect as ci
from tests.zoo import files

# file of the zoo -> words that its error must hold
SAID = {
    "page.pt": "HTML page", "lfs-pointer.pt": "git-LFS pointer", "empty.pt": "empty", "model.gguf": "GGUF",
    "model.h5": "HDF5", "model.onnx": "ONNX", "model.pt.gz": "gzip", "image.png": "PNG", "array.npy": "numpy",
    "arrays.npz": "numpy", "archive.7z": "7z", "archive.rar": "RAR", "elf.pt": "ELF", "model.pdf": "PDF",
    "model.tflite": "TensorFlow Lite", "plain.zip": "zip archive", "plain.tar": "tar archive", "text.pt": "text",
    "config.json": "JSON", "no-files": "holds no checkpoint", "package.pt": "torch.package",
    "flatbuffer.ptl": "flatbuffer", "unzipped": "unzipped torch archive", "dcp": "DCP", "exported.pt2": "torch.export",
    "access-denied.pt": "XML",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(SAID))
def test_named_for_what_it_is(name: str, tmp_path: Path) -> None:
    with pytest.raises(ci.CheckpointError) as caught:
        ci.open(files.FILES[name](tmp_path))
    assert SAID[name] in str(caught.value)
    assert isinstance(caught.value, ci.UnsupportedError if files.FORMATS[name] == "unsupported" else ci.CheckpointError)


@pytest.mark.parametrize(
    "name", [name for name, format in files.FORMATS.items() if format in ("foreign", "unsupported")]
)
def test_everything_foreign_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(ci.CheckpointError) as caught:
        ci.open(files.FILES[name](tmp_path))
    assert "\n" not in caught.value.message
    assert caught.value.path is not None


def test_lfs_pointer_says_size_and_command(tmp_path: Path) -> None:
    with pytest.raises(ci.FormatError, match=r"375,042,383 bytes") as caught:
        ci.open(files.FILES["lfs-pointer.pt"](tmp_path))
    assert "git lfs pull --include=" in (caught.value.hint or "")


def test_several_weights_files_are_listed(tmp_path: Path) -> None:
    with pytest.raises(ci.SelectionError) as caught:
        ci.open(files.FILES["two-files"](tmp_path))
    assert "2 weights files" in caught.value.message


def test_one_weights_file_and_its_siblings(tmp_path: Path) -> None:
    checkpoint = ci.open(files.FILES["one-file"](tmp_path))
    assert len(checkpoint) > 0
    assert checkpoint.siblings


def test_missing_shard_is_named_with_its_keys(tmp_path: Path) -> None:
    folder = files.FILES["sharded-missing"](tmp_path)
    checkpoint = ci.open(folder)
    index = json.loads(next(folder.glob("*.index.json")).read_text())["weight_map"]
    missing = {name for name in index.values() if not (folder / name).exists()}
    assert len(checkpoint) == sum(name not in missing for name in index.values())
    for name in missing:
        assert any(name in problem and "missing" in problem for problem in checkpoint.problems)


def test_index_file_is_opened_too(tmp_path: Path) -> None:
    folder = files.FILES["sharded-safetensors"](tmp_path)
    by_index = ci.open(next(folder.glob("*.index.json")))
    assert list(by_index) == list(ci.open(folder))


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("truncated-cnn1-state_dict.pth", "cnn1-state_dict.pth"),
        ("truncated-cnn3.ckpt", "cnn3.ckpt"),
        ("truncated-cnn1-legacy.pth", "cnn1-legacy.pth"),
        ("truncated-cnn1.safetensors", "cnn1.safetensors"),
    ],
)
def test_cut_file_shows_all_names(name: str, whole: str, tmp_path: Path) -> None:
    path = files.FILES[name](tmp_path)
    cut, full = ci.open(path), ci.open(files.FILES[whole](tmp_path))
    assert [(n, i.shape, i.dtype) for n, _, i in cut.tensors()] == [(n, i.shape, i.dtype) for n, _, i in full.tensors()]
    (problem,) = cut.problems
    assert f"{path.stat().st_size:,} bytes are there" in problem
    needed = int(problem.split("at least ")[-1].split("needs ")[-1].split(";")[0].replace(",", ""))
    assert path.stat().st_size < needed <= full.size


def test_zip_cut_inside_its_pickle(tmp_path: Path) -> None:
    torch.save({f"key{i}": torch.zeros(1) for i in range(100)}, tmp_path / "a.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "a.pt").read_bytes()[:2000])
    with pytest.raises(ci.CorruptError) as caught:
        ci.open(tmp_path / "cut.pt")
    assert caught.value.record == "data.pkl"
    assert "2,000 bytes" in str(caught.value)


def test_wrong_checksum_of_the_pickle_is_said(tmp_path: Path) -> None:
    path = files.FILES["flipped.pth"](tmp_path)
    checkpoint = ci.open(path)
    data = bytearray(path.read_bytes())
    assert len(checkpoint) > 0
    position = data.find(b"weight")
    data[position] ^= 1
    path.write_bytes(data)
    assert any("checksum" in problem for problem in ci.open(path).problems)


def test_close_matches_for_a_key(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "l.pt")
    checkpoint = ci.open(tmp_path / "l.pt")
    with pytest.raises(ci.MissingKeyError) as caught:
        checkpoint["wieght"]
    assert "'weight'" in (caught.value.hint or "")
    with pytest.raises(KeyError):
        checkpoint["wieght"]


def test_missing_file(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"x")
    with pytest.raises(FileNotFoundError) as caught:
        ci.open(tmp_path / "modle.pt")
    assert isinstance(caught.value, ci.FileError)
    assert "model.pt" in str(caught.value)


@pytest.mark.parametrize("text", ["not json", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": "../x.pt"}}',
                                  '{"weight_map": {"a": "/etc/passwd"}}', '{"weight_map": {"a": 7}}'])  # fmt: skip
def test_bad_index(text: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ci.CheckpointError):
        ci.open(tmp_path)
