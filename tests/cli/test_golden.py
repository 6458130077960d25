"""Exact output, piped and on terminals of 80 and 160 columns. ``pytest --overwrite`` writes it anew."""

from __future__ import annotations

import os
import pty
import selectors
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import FIXTURES, Run

GOLDEN = Path(__file__).parent.parent / "golden"

CASES = [
    ("tree", "run.ckpt"), ("tree", "gpt.safetensors"), ("tree", "lenet.pt"), ("tree", "scripted.pt"),
    ("tree", "lightning.ckpt"), ("tree", "tied.pt"), ("tree", "legacy.pth"), ("tree", "tar2017.pth.tar"),
    ("tree", "sharded"), ("info", "run.ckpt"), ("info", "lightning.ckpt"), ("info", "lenet.pt"),
    ("info", "traced.pt"), ("info", "tied.pt"), ("info", "sharded"), ("ls", "run.ckpt"), ("ls", "tied.pt"),
    ("ls", "mnist.ckpt"), ("hash", "run.ckpt"), ("stats", "lenet.pt"), ("stats", "mnist.ckpt"),
    ("show", "run.ckpt module.fc1.weight"), ("show", "tied.pt slice"),
]  # fmt: skip
DIFFERENCES = [("diff", "lenet.pt tuned.safetensors"), ("diff", "run.ckpt mnist.ckpt")]


def check(name: str, text: str, request: pytest.FixtureRequest) -> None:
    path = GOLDEN / f"{name}.txt"
    if request.config.getoption("--overwrite"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize(("command", "name"), CASES + DIFFERENCES)
def test_piped(command: str, name: str, ckpt: Run, request: pytest.FixtureRequest) -> None:
    done = ckpt(command, *name.split())
    assert done.returncode == (1 if command == "diff" else 0), done.stderr
    check(f"{command}-{name.replace(' ', '-')}", done.stdout, request)


def on_terminal(
    arguments: list[str], columns: int, cwd: Path = FIXTURES, status: int | None = None, **environment: str
) -> str:
    """Run ``ckpt`` on a pseudo-terminal of that width; what appeared on it."""
    import fcntl
    import termios

    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    env = {**os.environ, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", **environment}
    env.pop("COLUMNS", None)
    if "NO_COLOR" not in environment:
        env.pop("NO_COLOR", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "ckpt_inspect", *arguments], stdout=follower, stderr=follower, cwd=cwd, env=env
    )
    os.close(follower)
    seen = b""
    with selectors.DefaultSelector() as ready:  # select(2) knows no descriptor beyond 1023
        ready.register(leader, selectors.EVENT_READ)
        while ready.select(60):
            try:
                piece = os.read(leader, 65536)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            seen += piece
    assert process.wait() == (status if status is not None else 1 if arguments[0] == "diff" else 0)
    os.close(leader)
    return seen.decode("utf-8").replace("\r\n", "\n")


@pytest.mark.parametrize("columns", [80, 160])
@pytest.mark.parametrize(("command", "name"), CASES + DIFFERENCES)
def test_terminal(command: str, name: str, columns: int, request: pytest.FixtureRequest) -> None:
    text = on_terminal([command, *name.split()], columns, NO_COLOR="1")
    assert "\x1b" not in text
    if command not in ("info", "hash"):  # their lines are to be pasted: left to wrap
        from ckpt_inspect.render.text import width

        assert max(width([(line, "")]) for line in text.splitlines()) <= columns
    check(f"{command}-{name.replace(' ', '-')}-{columns}", text, request)


@pytest.fixture
def awkward(tmp_path: Path) -> Path:
    """Two files whose tensors have long names and changed in every way that is said in words."""
    import torch

    names = "encoder.layers.0.self_attn.in_proj_weight", "encoder.layers.0.self_attn.out_proj.bias"
    old = {names[0]: torch.arange(96.0).reshape(12, 8), names[1]: torch.arange(8.0) - 3, "head.weight": torch.ones(2, 8),
           "turned": torch.arange(24.0).reshape(2, 3, 4), "half": torch.arange(7.0) / 3, "same": torch.ones(3),
           "dead": torch.cat([torch.zeros(2, 4), torch.ones(3, 4)])}  # fmt: skip
    new = {key: tensor.clone() for key, tensor in old.items()}
    new[names[0]][3, 4], new[names[0]][5, 0] = float("nan"), float("inf")
    new |= {"head.weight": torch.ones(10, 8), "turned": new["turned"].permute(2, 0, 1).contiguous()}
    new["half"] = new["half"].half()
    new[names[1]] *= -1
    torch.save(old, tmp_path / "old.pt")
    torch.save(new, tmp_path / "new.pt")
    return tmp_path


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_neighbours_of_one_kind_are_one_line(suffix: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Also where numbers are sorted as text, as safetensors does."""
    import torch
    from safetensors.torch import save_file

    save = save_file if suffix == "safetensors" else torch.save
    keys = [f"blocks.{n}.{part}.weight" for n in range(12) for part in ("attn", "mlp")] + ["head.bias", "neck.0.scale"]
    old = {key: torch.full((2, 3), index + 1.0) for index, key in enumerate(keys)}
    new = {key: tensor.clone() for key, tensor in old.items()}
    new["blocks.3.mlp.weight"] *= 2
    new |= {f"blocks.{n}.attn.weight": torch.zeros(1, 6) - n for n in (12, 13, 14)}
    del new["neck.0.scale"]
    for name, tensors in (("old", old), ("new", new)):
        save(tensors, tmp_path / f"{name}.{suffix}")
    text = on_terminal(["diff", f"old.{suffix}", f"new.{suffix}"], 80, tmp_path, NO_COLOR="1")
    check("runs-of-neighbours", text.replace(suffix, "…"), request)


@pytest.mark.parametrize("columns", [80, 160])
@pytest.mark.parametrize(
    "command", ["diff old.pt new.pt", "stats new.pt", "show new.pt turned", "show new.pt turned --slice 1:3"]
)
def test_what_is_long_is_not_cut(command: str, columns: int, awkward: Path, request: pytest.FixtureRequest) -> None:
    text = on_terminal(command.split(), columns, awkward, NO_COLOR="1")
    assert "…" not in text.replace(" … ", "")  # a range has one
    check(f"awkward-{command.replace(' ', '-').replace(':', '')}-{columns}", text, request)


def test_colour_is_there_without_no_color() -> None:
    assert "\x1b[" in on_terminal(["tree", "run.ckpt"], 80)


def test_many_values_are_folded(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """A vocabulary, a history of records: their first lines and how many more; all of them through a pipe."""
    import torch

    content = {
        "vocab": {f"word{number}": number for number in range(200)},
        "model": {"weight": torch.ones(2, 3)},
        "history": [{"epoch": epoch, "loss": 1 / (epoch + 1), "lr": 0.1, "step": epoch * 10} for epoch in range(60)],
        "epoch": 59,
    }
    torch.save(content, tmp_path / "vocab.pt")
    check("many-values", on_terminal(["tree", "vocab.pt"], 80, tmp_path, NO_COLOR="1"), request)
    whole = on_terminal(["tree", "vocab.pt", "--no-fold"], 80, tmp_path, NO_COLOR="1")
    assert whole.count("word") == 200
    assert whole.count("lr = 0.1") == 60


def history(folder: Path) -> None:
    """What a training script keeps: plain values, and a tensor in each record of its history."""
    import torch

    records = [{"epoch": i, "accuracy": torch.tensor(0.1)} for i in range(300)]
    weights = {"weight": torch.ones(2)}
    state = {"model": weights, "ema": dict(weights), "lr": 0.1, "args": {"depth": 3, "deep": {"a": 1, "b": 2}}}
    torch.save({**state, "history": records, "plain": [{"loss": 0.5}] * 300}, folder / "a.pt")


def test_info_folds_what_is_alike_and_says_how_much(tmp_path: Path) -> None:
    history(tmp_path)
    lines = on_terminal(["info", "a.pt"], 100, tmp_path, NO_COLOR="1").splitlines()
    assert len(lines) < 25
    assert "              history/0 … history/299   other   ×300, each" in lines
    values = lines[lines.index("values        lr = 0.1") + 1 :]
    assert [line.strip() for line in values[:3]] == ["args   3 values", "history   300 values", "plain   300 values"]


def test_info_tells_a_pipe_every_value(ckpt: Run, tmp_path: Path) -> None:
    history(tmp_path)
    lines = [line.strip() for line in ckpt("info", "a.pt", cwd=tmp_path).stdout.splitlines()]
    assert "args/deep/b = 2" in lines
    assert {f"plain/{i}/loss = 0.5" for i in range(300)} <= set(lines)
    assert sum(line.startswith("history/299") for line in lines) == 2  # the section and its value


def test_a_conversion_folds_alike_sections(tmp_path: Path) -> None:
    history(tmp_path)
    text = on_terminal(["convert", "a.pt", "--dry-run"], 160, tmp_path, NO_COLOR="1")
    assert text.count("history/0 … history/299: float32 4 B each") == 2
    assert "history/1:" not in text


def test_rows_of_one_module_do_without_their_bytes_together(tmp_path: Path) -> None:
    from io import StringIO

    import torch
    from rich.console import Console
    from torch import nn

    import ckpt_inspect as ci
    from ckpt_inspect.operations.tree import tree
    from ckpt_inspect.render.terminal import show
    from ckpt_inspect.render.tree import lines

    deep = nn.Sequential(nn.Sequential(nn.Sequential(nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16))))
    torch.save(deep.state_dict(), tmp_path / "w.pt")
    found = tree(ci.open(tmp_path / "w.pt"), fold=True)
    for columns in range(60, 100):
        text = StringIO()
        screen = Console(file=text, force_terminal=True, color_system=None, width=columns, soft_wrap=True)
        show(lines(found), screen, narrow=True)
        drawn = text.getvalue().splitlines()
        rows = [line for line in drawn if "float32" in line or "int64" in line]
        norm = [
            " B " in line for line in rows if "running" in line or "num_batches" in line or "weight, bias  " in line
        ]
        assert len(norm) >= 3
        assert len(set(norm[-3:])) == 1, "\n".join(rows)


def test_what_a_verdict_goes_on_with_is_deeper_than_its_rows(tmp_path: Path) -> None:
    import torch
    from torch import nn

    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "w.pt")
    (tmp_path / "nets.py").write_text(
        "from torch import nn\ndef net(): return nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))\n"
    )
    drawn = on_terminal(["check", "w.pt", "--model", "nets.py:net"], 60, tmp_path, status=1, NO_COLOR="1").splitlines()
    place = next(n for n, line in enumerate(drawn) if line.startswith("missing"))
    assert drawn[place + 1].startswith(" " * 19)
    assert drawn[place + 2].startswith(" " * 17 + "0.{weight")
