"""The SARIF document says which file a finding is in, and what could not be read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
import torch

from ckpt_inspect.operations.scan import scan
from ckpt_inspect.render.sarif import document
from tests.conftest import in_process
from tests.hostile import build

EVIL = build.checkpoint(build.call(build.name("os", "system"), build.text("id")))


def sarif(capsys: pytest.CaptureFixture[str], *paths: str | Path) -> tuple[int, dict[str, Any]]:
    status = in_process(["scan", "--sarif", *map(str, paths)])
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    return status, run


def uri(located: dict[str, Any]) -> str:
    (location,) = located["locations"]
    found: str = location["physicalLocation"]["artifactLocation"]["uri"]
    return found


def test_a_file_that_cannot_be_read_is_a_notification(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, missing = tmp_path / "good.pt", tmp_path / "missing.pt"
    torch.save({"a": torch.ones(1)}, good)
    status, run = sarif(capsys, missing, good)
    assert (status, run["results"]) == (2, [])
    (invocation,) = run["invocations"]
    assert invocation["executionSuccessful"] is False
    (notification,) = invocation["toolExecutionNotifications"]
    assert notification["level"] == "error"
    assert notification["message"]["text"]
    assert uri(notification).endswith("missing.pt")


def test_a_clean_run_is_a_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "good.pt")
    status, run = sarif(capsys, tmp_path / "good.pt")
    assert (status, run["results"]) == (0, [])
    assert run["invocations"] == [{"executionSuccessful": True, "toolExecutionNotifications": []}]


def test_what_is_unread_is_a_result_and_a_notification(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    torch.save({"a": torch.ones(1)}, folder / "good.pt")
    (folder / "link").symlink_to(elsewhere)
    status, run = sarif(capsys, folder)
    (invocation,) = run["invocations"]
    assert (status, invocation["executionSuccessful"]) == (2, False)
    for found in (*run["results"], *invocation["toolExecutionNotifications"]):
        assert found["level"] == "warning"
        assert uri(found) == f"{folder}/link"
    assert [result["ruleId"] for result in run["results"]] == ["ckpt/unread"]


def test_a_finding_in_a_directory_is_in_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["a.pt", "a.pt:archive", "inner/b: c.pt"]
    (tmp_path / "inner").mkdir()
    for name in names:
        (tmp_path / name).write_bytes(EVIL)
    status, run = sarif(capsys, tmp_path)
    assert (status, run["invocations"][0]["executionSuccessful"]) == (1, True)
    found = [unquote_to_bytes(uri(result)).decode() for result in run["results"]]
    assert sorted(found) == [f"{tmp_path}/{name}" for name in names]
    for result in run["results"]:
        (inside,) = result["locations"][0]["logicalLocations"]
        assert inside["fullyQualifiedName"] == "data.pkl"


def test_a_finding_in_a_shard_is_in_the_shard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "1.bin")
    (tmp_path / "2.bin").write_bytes(EVIL)
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"a": "1.bin", "b": "2.bin", "c": "\ud800.bin"}}))
    status, run = sarif(capsys, index)
    assert status == 1
    assert {uri(result) for result in run["results"] if result["level"] == "error"} == {f"{tmp_path}/2.bin"}


@pytest.mark.parametrize(
    "name", [b"\xff\xfe.pt", b"a b.pt", b"a%41.pt", b"a:b.pt", b"#x?.pt", b"a\\b.pt", "ü\u202e.pt".encode()]
)
def test_a_name_is_told_by_its_bytes(name: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = os.path.join(os.fsencode(tmp_path), name)
    try:
        Path(os.fsdecode(path)).write_bytes(EVIL)
    except OSError:
        pytest.skip("the file system has no such names")
    _, run = sarif(capsys, os.fsdecode(path))
    assert {unquote_to_bytes(uri(result)) for result in run["results"]} == {path}
    assert all(uri(result).isascii() for result in run["results"])


def test_a_name_that_no_file_can_have_is_no_crash(tmp_path: Path) -> None:
    good = tmp_path / "good.pt"
    torch.save({"a": torch.ones(1)}, good)
    found = scan(str(good))
    found.path = "\ud800"
    found.unread.append("something")
    (run,) = document([found], [], "1")["runs"]
    assert [uri(result) for result in run["results"]] == ["%ED%A0%80"]
