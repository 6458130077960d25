"""Design 3, seen from outside: JSON documents, exit statuses, streams."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_model

from tests.conftest import FIXTURES, Run, in_process

TENSOR_KEYS = [
    "name", "section", "key", "dtype", "shape", "stride", "storage_offset", "device", "nbytes", "storage",
    "requires_grad", "role", "role_from", "persistent", "layout", "class", "parts", "param", "param_from",
]  # fmt: skip


def document(ckpt: Run, *arguments: str | Path) -> Any:
    done = ckpt(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    return json.loads(done.stdout, parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))


def test_ls_document(ckpt: Run) -> None:
    found = document(ckpt, "ls", "run.ckpt")
    assert list(found) == ["schema", "path", "format", "tensors", "values", "problems"]
    assert found["schema"] == "ckpt-inspect/ls/1"
    assert all(list(entry) == TENSOR_KEYS for entry in found["tensors"])
    first = found["tensors"][0]
    assert first["name"] == "model_state_dict/module.stage1.0.weight"
    assert (first["section"], first["key"]) == ("model_state_dict", "module.stage1.0.weight")
    assert (first["dtype"], first["shape"], first["stride"]) == ("float32", [12, 3, 3, 3], [27, 9, 3, 1])
    assert (first["role"], first["role_from"]) == ("parameter", "optimizer")
    state = next(entry for entry in found["tensors"] if entry["key"] == "state/0/exp_avg")
    assert (state["param"], state["param_from"]) == (first["name"], "derived")
    assert {"name": "epoch", "type": "int", "value": 10} in found["values"]


def test_info_document(ckpt: Run) -> None:
    found = document(ckpt, "info", "run.ckpt")
    keys = ["schema", "path", "format", "size", "sections", "candidates", "prefixes", "shared", "oversized",
            "globals", "weights_only", "hints", "problems"]  # fmt: skip
    assert [key for key in found if key in keys] == keys
    assert found["size"] == (FIXTURES / "run.ckpt").stat().st_size
    assert found["candidates"] == ["model_state_dict"]
    assert found["prefixes"] == [{"section": "model_state_dict", "prefix": "module.", "count": 25, "of": 25}]
    assert found["weights_only"] == {"ok": True, "blocked": [], "torch": "2.13.0"}
    assert ["model_state_dict/module.stage1.0.weight", "model_state_dict/module.stage2.module.0.weight"] in found[
        "shared"
    ]
    weights = found["sections"][0]
    assert {key: weights[key] for key in ("section", "kind", "tensors")} == {
        "section": "model_state_dict", "kind": "state_dict", "tensors": 25,
    }  # fmt: skip
    assert {"name": "collections.OrderedDict", "count": 88} in found["globals"] or found["globals"]


def test_info_load_line_is_right(ckpt: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    found = document(ckpt, "info", "run.ckpt")
    monkeypatch.chdir(FIXTURES)
    scope: dict[str, Any] = {"torch": torch}
    exec(found["load"], scope)
    assert len(scope["state_dict"]) == 25


def test_hints_name_only_commands_that_exist(ckpt: Run, tmp_path: Path) -> None:
    from ckpt_inspect.commands import COMMANDS

    shutil.copytree(FIXTURES, tmp_path / "fixtures")
    for name in ("run.ckpt", "tied.pt", "lightning.ckpt", "lenet.pt"):
        for hint in document(ckpt, "info", name)["hints"]:
            assert set(hint) == {"code", "message", "command"}
            if hint["command"] is not None:
                program, command, *_ = hint["command"].split()
                assert program == "ckpt"
                assert command in COMMANDS
                done = subprocess.run(
                    f"{sys.executable} -m ckpt_inspect {hint['command'].removeprefix('ckpt ')}",
                    shell=True, cwd=tmp_path / "fixtures", capture_output=True, check=False,
                )  # fmt: skip
                assert done.returncode == 0, done.stderr


def test_tree_document(ckpt: Run) -> None:
    found = document(ckpt, "tree", "run.ckpt")
    assert found["schema"] == "ckpt-inspect/tree/1"
    node = found["root"]
    assert list(node) == ["name", "class", "class_from", "children", "tensors", "numel", "nbytes"]
    for name in ("model_state_dict", "module", "stage1", "0"):
        node = next(child for child in node["children"] if child["name"] == name)
    assert (node["class"], node["class_from"]) == ("Conv2d", "inferred")
    assert [leaf["key"] for leaf in node["tensors"]] == ["module.stage1.0.weight", "module.stage1.0.bias"]
    assert (node["numel"], node["nbytes"]) == (336, 1344)


def test_several_files(ckpt: Run) -> None:
    for command in ("ls", "info", "tree"):
        found = document(ckpt, command, "run.ckpt", "gpt.safetensors")
        assert list(found) == ["schema", "files"]
        assert [entry["path"] for entry in found["files"]] == ["run.ckpt", "gpt.safetensors"]
    done = ckpt("ls", "run.ckpt", "nothing.pt", "gpt.safetensors")
    assert done.returncode == 2
    assert "nothing.pt" in done.stderr
    assert {line.split("\t")[0] for line in done.stdout.splitlines()} == {"run.ckpt", "gpt.safetensors"}


def test_section_by_hash_and_by_option(ckpt: Run) -> None:
    by_hash = document(ckpt, "ls", "run.ckpt#model_state_dict")
    by_option = document(ckpt, "ls", "run.ckpt", "--section", "model_state_dict")
    assert by_hash == by_option
    assert len(by_hash["tensors"]) == 25
    assert by_hash["tensors"][0]["key"] == "module.stage1.0.weight"
    done = ckpt("ls", "run.ckpt#model_state_dit", "--json")
    error = json.loads(done.stderr)["error"]
    assert done.returncode == 2
    assert error["type"] == "MissingKeyError"
    assert "model_state_dict" in error["hint"]


def test_hash_in_a_file_name(ckpt: Run, tmp_path: Path) -> None:
    path = tmp_path / "a#b.pt"
    torch.save({"w": torch.zeros(2)}, path)
    assert document(ckpt, "ls", path)["tensors"][0]["key"] == "w"
    torch.save({"m": {"w": torch.zeros(2)}}, path)
    assert document(ckpt, "ls", f"{path}#m")["tensors"][0]["key"] == "w"


def test_selected_container_above_sections(ckpt: Run, tmp_path: Path) -> None:
    path = tmp_path / "rl.pt"
    torch.save({"models": [{"w": torch.zeros(2)}, {"w": torch.zeros(2)}], "step": 1}, path)
    rows = document(ckpt, "ls", f"{path}#models")["tensors"]
    assert [row["key"] for row in rows] == ["0/w", "1/w"]
    assert [row["name"] for row in rows] == ["models/0/w", "models/1/w"]


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["ls", "nothing.pt"], "MissingFileError"),
        (["ls", "page.pt"], "FormatError"),
        (["ls"], "UsageError"),
        (["ls", "run.ckpt", "--wrong"], "UsageError"),
        (["lss", "run.ckpt"], "UsageError"),
        (["ls", "run.ckpt", "--sort", "colour"], "SelectionError"),
    ],
)
def test_errors(ckpt: Run, arguments: list[str], kind: str) -> None:
    plain = ckpt(*arguments)
    assert plain.returncode == 2
    assert plain.stdout == ""
    assert plain.stderr.startswith("ckpt: ")
    assert "Traceback" not in plain.stderr
    as_json = ckpt(*arguments, "--json")
    assert as_json.returncode == 2
    assert as_json.stdout == ""
    found = json.loads(as_json.stderr)
    assert found["schema"] == "ckpt-inspect/error/1"
    assert list(found["error"]) == ["type", "message", "path", "record", "offset", "hint"]
    assert found["error"]["type"] == kind


def test_damaged_file_is_shown_with_status_2(ckpt: Run, tmp_path: Path) -> None:
    data = (FIXTURES / "run.ckpt").read_bytes()
    path = tmp_path / "cut.ckpt"
    path.write_bytes(data[: len(data) * 6 // 10])
    done = ckpt("ls", path)
    assert done.returncode == 2
    assert len(done.stdout.splitlines()) == 61
    assert f"{len(data) * 6 // 10:,} bytes are there" in done.stderr
    found = json.loads(ckpt("ls", path, "--json").stdout)
    assert "cut" in found["problems"][0]


def test_quiet_and_help_and_version(ckpt: Run) -> None:
    assert ckpt("ls", "run.ckpt", "-q").stdout == ""
    for command in ("info", "tree", "ls"):
        done = ckpt(command, "--help")
        assert done.returncode == 0
        assert f"Example: ckpt {command} " in done.stdout
    assert ckpt("--version").stdout.startswith("ckpt-inspect ")
    assert "Commands:" in ckpt().stdout


def test_piped_ls_is_tab_separated(ckpt: Run) -> None:
    lines = ckpt("ls", "run.ckpt").stdout.splitlines()
    cells = lines[0].split("\t")
    assert cells == ["model_state_dict/module.stage1.0.weight", "float32", "12,3,3,3", "1296", "cpu", "parameter"]
    scalar = next(line for line in lines if "num_batches_tracked" in line).split("\t")
    assert scalar[2] == "()"
    assert scalar[5] == "buffer~"
    assert all(len(line.split("\t")) == 6 for line in lines)


def test_long_keys_are_never_cut_when_piped(ckpt: Run, tmp_path: Path) -> None:
    key = ".".join(["block"] * 60) + ".weight"
    torch.save({key: torch.zeros(1)}, tmp_path / "long.pt")
    assert ckpt("ls", tmp_path / "long.pt").stdout.split("\t")[0] == key
    assert "weight" in ckpt("tree", tmp_path / "long.pt").stdout


def test_odd_keys_stay_on_one_line(ckpt: Run, tmp_path: Path) -> None:
    keys = ["a\nb", "t\tab", "\x1b[31mred", "\u202eevil", "\udc80", "sp ace", "ключ", "a/b", "a~b"]
    torch.save({key: torch.zeros(1) for key in keys}, tmp_path / "odd.pt")
    done = ckpt("ls", tmp_path / "odd.pt")
    shown = [line.split("\t")[0] for line in done.stdout.splitlines()]
    assert shown == [
        "a\\nb", "t\\tab", "\\x1b[31mred", "\\u202eevil", "\\udc80", "sp ace", "ключ", "a~1b", "a~0b",
    ]  # fmt: skip
    rows = document(ckpt, "ls", tmp_path / "odd.pt")["tensors"]
    assert [row["key"] for row in rows] == keys


@pytest.mark.parametrize("command", ["ls", "tree"])
def test_a_filter_that_matches_nothing_is_said(command: str, ckpt: Run) -> None:
    done = ckpt(command, "lenet.pt", "run.ckpt", "--filter", "*.wieght")
    assert done.returncode == 0  # nothing found (design 3)
    assert "--filter '*.wieght' matches no tensor" in done.stderr
    assert not ckpt(command, "lenet.pt", "run.ckpt", "--filter", "module.fc2.weight").stderr
    assert not ckpt(command, "lenet.pt", "--filter", "*.wieght", "--json").stderr


def test_filter_and_sort(ckpt: Run) -> None:
    biases = [line.split("\t")[0] for line in ckpt("ls", "lenet.pt", "--filter", "*.bias").stdout.splitlines()]
    assert biases == ["conv1.bias", "conv2.bias", "fc1.bias", "fc2.bias", "fc3.bias"]
    sizes = [int(line.split("\t")[3]) for line in ckpt("ls", "lenet.pt", "--sort", "size").stdout.splitlines()]
    assert sizes == sorted(sizes, reverse=True)


def test_closed_pipe_ends_silently() -> None:
    command = f"{sys.executable} -m ckpt_inspect ls {FIXTURES}/run.ckpt {FIXTURES}/gpt.safetensors | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def test_ascii_terminal(ckpt: Run) -> None:
    done = ckpt("tree", "run.ckpt", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert done.stderr == ""


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_special_files_are_refused(ckpt: Run, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    done = ckpt("ls", tmp_path / "pipe.pt")
    assert done.returncode == 2
    assert "a named pipe" in done.stderr
    assert ckpt("ls", "/dev/null").returncode == 2


def test_symlinks_are_followed(ckpt: Run, tmp_path: Path) -> None:
    (tmp_path / "link.pt").symlink_to(FIXTURES / "run.ckpt")
    assert ckpt("ls", tmp_path / "link.pt").returncode == 0


def test_looking_never_writes(ckpt: Run, tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    path.write_bytes((FIXTURES / "run.ckpt").read_bytes())
    path.chmod(0o400)
    before = path.stat()
    for command in ("info", "tree", "ls"):
        assert ckpt(command, path).returncode == 0
    assert (path.stat().st_mtime_ns, path.stat().st_size) == (before.st_mtime_ns, before.st_size)
    assert os.listdir(tmp_path) == ["run.ckpt"]


def complete(ckpt: Run, words: str) -> list[str]:
    """What a shell would be offered after ``words``, by the very protocol of the installed completion."""
    done = ckpt(_CKPT_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(len(words.split(" ")) - 1))
    return done.stdout.split()


def test_completion(ckpt: Run) -> None:
    assert complete(ckpt, "ckpt tre") == ["tree"]
    assert complete(ckpt, "ckpt tree run.ckpt#mod") == ["run.ckpt#model_state_dict"]
    assert complete(ckpt, "ckpt ls run.ckpt --filter module.fc2") == ["module.fc2.weight", "module.fc2.bias"]
    assert complete(ckpt, "ckpt tree run.ck") == []  # the shell itself knows files


ODD = ["we ird 'k\"ey\n", "\u202eevil", "x\x1b[31m", "back\\slash\n", "\\n", "tab\t/s"]


def test_printed_names_can_be_typed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(*arguments: str) -> str:
        assert in_process(list(arguments)) == 0, arguments
        return capsys.readouterr().out

    monkeypatch.chdir(tmp_path)
    torch.save({name: {"w": torch.full((2,), float(i))} for i, name in enumerate(ODD)}, "odd.pt")
    rows = said("ls", "odd.pt").splitlines()
    assert len(rows) == len(ODD)
    for i, row in enumerate(rows):
        name = row.split("\t")[0]
        assert json.loads(said("show", "odd.pt", name, "--slice", ":", "--json"))["values"] == [i, i]
        assert said("ls", f"odd.pt#{name.rpartition('/')[0]}").startswith("w\tfloat32")
    # the newline and the two characters that spell it: each is what it is called
    torch.save({"a\n": torch.zeros(1), "a\\n": torch.ones(1)}, "both.pt")
    assert json.loads(said("show", "both.pt", "a\\n", "--slice", ":", "--json"))["values"] == [1]


def test_what_was_meant_is_a_word_of_the_shell(tmp_path: Path, ckpt: Run) -> None:
    torch.save({ODD[0]: torch.ones(2), "b": {"w": torch.ones(1)}, "c": {"w": torch.ones(1)}}, tmp_path / "odd.pt")
    done = ckpt("show", "odd.pt", "we ird key", cwd=tmp_path)
    word = done.stderr.splitlines()[1].strip().removeprefix("Did you mean ").removesuffix("?")
    assert ckpt("show", "odd.pt", *shlex.split(word), cwd=tmp_path).returncode == 0
    hint = ckpt("show", "odd.pt", "w", cwd=tmp_path).stderr.splitlines()[1]
    command = shlex.split(hint.partition("of them: ")[2])
    assert command == ["ckpt", "show", "odd.pt", "b/w"]
    assert ckpt(*command[1:], cwd=tmp_path).returncode == 0


def test_a_file_that_looks_like_an_option(tmp_path: Path, ckpt: Run) -> None:
    torch.save({"w": torch.ones(1)}, tmp_path / "-dash x.pt")
    for argument in ("-dash x.pt", "-dash x.pt#w"):
        done = ckpt("ls", argument, cwd=tmp_path)
        assert done.returncode == 2
        assert shlex.split(done.stderr.partition("is meant: ")[2]) == ["ckpt", "ls", f"./{argument}"]
    assert ckpt("ls", "./-dash x.pt", cwd=tmp_path).returncode == 0
    assert "--help" in ckpt("ls", "--nope", cwd=tmp_path).stderr


def test_an_oversized_storage_is_said_in_whole_sentences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    big = torch.zeros(5000)
    torch.save({"w": big[:2], "b": big[5]}, tmp_path / "two.pt")
    torch.save({"w": big[:2]}, tmp_path / "one.pt")
    for name, said in (("two.pt", "w and 1 more use 12 of the 20,000 bytes stored for them"),
                       ("one.pt", "w uses 8 of the 20,000 bytes stored for it")):  # fmt: skip
        assert in_process(["info", str(tmp_path / name)]) == 0
        assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show", "a.pt", "layer1"], "'layer1' is no entry but a module of 4 tensors"),
        (["show", "b.pt", "layer1.0"], "'layer1.0' is no entry but a module of 2 tensors"),
        (["ls", "a.pt#layer1"], "'layer1' is no section but a module of 4 tensors"),
        (["show", "b.pt", "nope"], "no entry is called 'nope'"),
    ],
)
def test_a_module_is_called_one_and_shown_by_the_hint(
    arguments: list[str], said: str, ckpt: Run, tmp_path: Path
) -> None:
    model = torch.nn.Sequential(OrderedDict(layer1=torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))))
    torch.save(model.state_dict(), tmp_path / "a.pt")
    torch.save({"model": model.state_dict(), "epoch": 1}, tmp_path / "b.pt")
    done = ckpt(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    words = shlex.split(done.stderr.splitlines()[-1].partition("ckpt ")[2])
    again = ckpt(*words, cwd=tmp_path)
    assert (again.returncode, again.stderr) == (0, "")
    assert "layer1" in again.stdout


def test_misspelled_values_are_found_too(ckpt: Run) -> None:
    assert "Did you mean 'epoch'?" in ckpt("show", "run.ckpt", "epohc").stderr


@pytest.mark.parametrize("command", ["ls", "stats"])
def test_a_file_without_tensors_is_said_to_be_one(command: str, ckpt: Run, tmp_path: Path) -> None:
    torch.save({"a": 1, "config": {"n": 1, "d": 2}}, tmp_path / "a.pt")
    for what, count in (("a.pt", 3), ("a.pt#config", 2)):
        done = ckpt(command, what, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, "")
        assert f"{what}: it holds no tensors: {count} other entries" in done.stderr
        words = shlex.split(done.stderr.splitlines()[-1])
        assert " = 2" in ckpt(*words[1:], cwd=tmp_path).stdout
    assert ckpt(command, "a.pt", "--json", cwd=tmp_path).stderr == ""
    assert "weights_only  yes" in ckpt("info", "a.pt", cwd=tmp_path).stdout


def test_ties_that_a_header_records_are_ties(ckpt: Run, tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 3, bias=False), torch.nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    save_model(model, str(tmp_path / "a.safetensors"))
    kept, other = sorted(model.state_dict())
    assert f"tied          {kept} ═ {other}" in ckpt("info", "a.safetensors", cwd=tmp_path).stdout
    card = json.loads(ckpt("info", "a.safetensors", "--json", cwd=tmp_path).stdout)
    assert (card["shared"], card["recorded_ties"]) == ([], [[kept, other]])


def test_keys_of_dots_alone_are_told_apart(ckpt: Run, tmp_path: Path) -> None:
    torch.save({"": torch.ones(1), ".": torch.ones(1), ".a": torch.ones(1)}, tmp_path / "a.pt")
    lines = [line.rstrip() for line in ckpt("tree", tmp_path / "a.pt").stdout.splitlines()[1:]]
    assert [line.split("   ")[0] for line in lines[:2]] == ["├── ''", "└── ''"]
    assert [line.lstrip().split("   ")[0] for line in lines[2:]] == ["├── ''", "└── a"]
