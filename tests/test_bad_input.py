"""What is no checkpoint is named for what it is; what is damaged is shown as far as it goes."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import ckpt_inspect as ci
from ckpt_inspect.errors import MissingFileError
from tests.conftest import in_process
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


def test_the_pointer_in_a_repository_is_fetched_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "repo" / "weights"
    folder.mkdir(parents=True)
    path = Path(shutil.move(files.FILES["lfs-pointer.pt"](tmp_path), folder / "a b.pt"))
    subprocess.run(["git", "init", "-q", tmp_path / "repo"], check=True)
    for where, said in ((tmp_path, f"git -C {tmp_path / 'repo'} lfs pull"), (folder, "git lfs pull")):
        monkeypatch.chdir(where)
        with pytest.raises(ci.FormatError) as caught:
            ci.open(path)
        assert caught.value.hint == f"Fetch it: {said} --include='weights/a b.pt'"


def test_a_suffix_alone_is_no_likeness(tmp_path: Path) -> None:
    for name in ("views.slim.pt", "strange.pt", "model.pth"):
        torch.save({}, tmp_path / name)
    with pytest.raises(MissingFileError) as caught:
        ci.open(tmp_path / "missing.pt")
    assert caught.value.hint is None
    with pytest.raises(MissingFileError) as caught:
        ci.open(tmp_path / "model.pt")
    assert caught.value.hint == f"Did you mean {tmp_path / 'model.pth'}?"


def test_one_byte_is_one_byte(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_text("x")
    with pytest.raises(ci.FormatError, match="1 byte,"):
        ci.open(tmp_path / "a.pt")


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


def test_a_shard_that_is_missing_is_said_once_with_the_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = files.FILES["sharded-missing"](tmp_path)
    assert in_process(["info", str(folder)]) == 2
    out, err = capsys.readouterr()
    assert (out + err).count(" is missing: ") == 1
    assert "weights_only" not in out  # there is no pickle in it
    assert f"Download what is missing again, into {folder}" in err
    assert in_process(["info", str(folder), "-q"]) == 2
    assert " is missing: " in capsys.readouterr().err


def test_a_pointer_instead_of_a_shard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = files.FILES["sharded-safetensors"](tmp_path)
    shard = sorted(folder.glob("*.safetensors"))[0]
    shutil.copy(files.FILES["lfs-pointer.pt"](tmp_path), shard)
    for command in ("info", "ls", "tree"):
        assert in_process([command, str(folder)]) == 2
        out, err = capsys.readouterr()
        assert f"git lfs pull --include='*{shard.name}'" in err
        assert not any(line.startswith("beside it") and shard.name in line for line in out.splitlines())


def test_shards_without_their_index(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in (1, 2, 3):
        save_file({f"l{i}": torch.ones(2)}, tmp_path / f"model-{i:05}-of-00003.safetensors")
    for count in ("3 shards", "2 of 3 shards", "1 of 3 shards"):
        assert in_process(["info", str(tmp_path)]) == 2
        said, hint = capsys.readouterr().err.splitlines()
        assert f"{count} of one checkpoint, without the index that lists them: model.safetensors.index.json" in said
        command = hint.partition("one shard: ")[2].split()
        assert in_process(command[1:]) == 0
        capsys.readouterr()
        sorted(tmp_path.iterdir())[-1].unlink()
    save_file({"l": torch.ones(2)}, tmp_path / "model-00001-of-00001.safetensors")
    assert len(ci.open(tmp_path)) == 1


@pytest.mark.skipif(not (shutil.which("zip") and shutil.which("unzip")), reason="zip and unzip")
@pytest.mark.parametrize("place", ["", "a/b c/"])
def test_an_archive_zipped_in_another_place_is_zipped_again(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"w": torch.arange(6.0)}, tmp_path / "x.pt")
    folder = tmp_path / "d e"
    folder.mkdir()
    with zipfile.ZipFile(tmp_path / "x.pt") as old, zipfile.ZipFile(folder / "y z.pt", "w") as new:
        for name in old.namelist():
            new.writestr((place and place + "x/") + name.partition("/")[2], old.read(name))
    assert in_process(["info", str(folder / "y z.pt")]) == 2
    hint = capsys.readouterr().err.splitlines()[1]
    subprocess.run(["sh", "-c", hint.partition("around it: ")[2]], check=True)
    assert torch.load(folder / "y z.zipped.pt")["w"].tolist() == [0, 1, 2, 3, 4, 5]


def test_only_directories_with_checkpoints_are_named(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tool.bin").write_bytes(b"\x7fELF" + bytes(100))
    with pytest.raises(ci.FormatError) as caught:
        ci.open(tmp_path)
    assert caught.value.hint is None
    (tmp_path / "run").mkdir()
    torch.save({"w": torch.ones(1)}, tmp_path / "run" / "a.bin")
    with pytest.raises(ci.FormatError) as caught:
        ci.open(tmp_path)
    assert caught.value.hint == f"Look into it: ckpt info {tmp_path / 'run'}"


def zero(where: Path, tags: Sequence[str], latest: str | None, script: bool) -> Path:
    """What DeepSpeed's ``save_checkpoint`` leaves with ZeRO."""
    run = where / "my run"
    for tag in tags:
        (run / tag).mkdir(parents=True)
        torch.save({"module": {"w": torch.ones(2)}}, run / tag / "mp_rank_00_model_states.pt")
        torch.save({"optimizer_state_dict": {}}, run / tag / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    if latest is not None:
        (run / "latest").write_text(latest)
    if script:
        (run / "zero_to_fp32.py").write_text("")
    return run


@pytest.mark.parametrize("script", [False, True])
@pytest.mark.parametrize("latest", ["global_step10", "global_step10\n", None])
@pytest.mark.parametrize("named", ["", "global_step10", "global_step10/", "global_step5"])
def test_deepspeed_gets_the_command_that_its_script_takes(
    named: str, latest: str | None, script: bool, tmp_path: Path
) -> None:
    run = zero(tmp_path, ["global_step5", "global_step10"], latest, script)
    if not named and latest is None:
        pytest.skip("nothing says that it is DeepSpeed's")
    with pytest.raises(ci.UnsupportedError, match="DeepSpeed") as caught:
        ci.open(f"{run}/{named}" if named else run)
    hint = caught.value.hint
    assert hint is not None
    words = shlex.split(hint[hint.index("python ") :])
    program = [str(run / "zero_to_fp32.py")] if script else ["-m", "deepspeed.utils.zero_to_fp32"]
    assert words[1 : 1 + len(program)] == program
    folder, out, *tag = words[1 + len(program) :]
    assert (folder, out) == (str(run), "OUTDIR")
    # as the script finds it: by --tag, else by ``latest`` in the folder it is given
    chosen = tag[1] if tag else (Path(folder) / "latest").read_text().strip()
    assert chosen == (named.rstrip("/") or "global_step10")
    assert (Path(folder) / chosen).is_dir()


@pytest.mark.parametrize("latest", ["../elsewhere", "..", "", "a/b"])
def test_a_tag_is_a_name_in_the_directory(latest: str, tmp_path: Path) -> None:
    zero(tmp_path, ["elsewhere"], None, False)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "latest").write_text(latest)
    with pytest.raises(ci.FormatError, match="holds no checkpoint"):
        ci.open(tmp_path / "run")
