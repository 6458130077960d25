"""Directories: a sharded checkpoint, one weights file with its siblings, or something known by its files."""

from __future__ import annotations

import os
import re
from contextlib import closing
from typing import Any

from ..errors import CheckpointError, FileError, FormatError, SelectionError
from ..model.checkpoint import Checkpoint
from ..model.spelling import shell_path
from ..pickles.limits import Limits
from . import official, sharded

_WEIGHTS = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".t7", ".th", ".pkl", ".tar")
_SHARD = re.compile(r"(?P<stem>.+)-(?P<n>\d{5})-of-(?P<of>\d{5})(?P<suffix>\.\w+)")
_NOT_WEIGHTS = frozenset(
    [
        "training_args.bin",
        "optimizer.pt",
        "optimizer.bin",
        "scheduler.pt",
        "scheduler.bin",
        "scaler.pt",
        "rng_state.pth",
        "random_states_0.pkl",
    ]
)


def read(path: str, open_file: Any, limits: Limits, open_source: Any) -> Checkpoint:
    """Open a directory that is a checkpoint.

    Raises:
        SelectionError: it holds several weights files; all are named.
        UnsupportedError: a kind that has an official way: DCP, DeepSpeed, an unpacked archive.
        FormatError: it holds none.
    """
    try:
        names = sorted(os.listdir(path))
    except OSError as error:
        raise FileError((error.strerror or "cannot be listed").lower(), path=path) from error
    _raise_if_known(path, names)
    indexes = [name for name in names if name.endswith(".index.json")]
    if len(indexes) == 1:
        index = os.path.join(path, indexes[0])
        return _with_siblings(sharded.read(index, path, open_file, limits, open_source, names), path, names, indexes)
    weights = [name for name in names if name.endswith(_WEIGHTS) and name not in _NOT_WEIGHTS and _is_file(path, name)]
    choice = indexes or weights
    if not indexes:
        _raise_if_shards(path, weights)
    if len(choice) == 1:
        checkpoint: Checkpoint = open_file(os.path.join(path, choice[0]))
        return _with_siblings(checkpoint, path, names, choice)
    if choice:
        listed = ", ".join(choice[:6]) + (", …" if len(choice) > 6 else "")
        raise SelectionError(
            f"a directory with {len(choice)} weights files: {listed}",
            path=path,
            hint=f"Name one: {os.path.join(path, choice[0])}",
        )
    listed = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    raise FormatError(
        f"a directory that holds no checkpoint ({listed or 'it is empty'})",
        path=path,
        hint=_look_inside(path, names, open_source),
    )


def _raise_if_shards(path: str, weights: list[str]) -> None:
    """Files that call themselves parts of one checkpoint, of which an index would say how they go together."""
    found = [match for match in map(_SHARD.fullmatch, weights) if match is not None]
    if len(found) != len(weights) or len({(match["stem"], match["of"], match["suffix"]) for match in found}) != 1:
        return
    stem, total, suffix = found[0]["stem"], int(found[0]["of"]), found[0]["suffix"]
    if total < 2:
        return
    index = f"{stem}{suffix}.index.json"
    count = f"{total:,}" if len(found) == total else f"{len(found):,} of {total:,}"
    raise SelectionError(
        f"{count} shards of one checkpoint, without the index that lists them: {index}",
        path=path,
        hint=f"Download the index too; or look at one shard: ckpt info {shell_path(os.path.join(path, found[0][0]))}",
    )


def _look_inside(path: str, names: list[str], open_source: Any) -> str | None:
    """Directories inside that look like checkpoints: ``checkpoint-500``, a hub's ``snapshots/HASH``."""
    below = [name for name in names if os.path.isdir(os.path.join(path, name))]
    if "snapshots" in below:
        snapshots = os.path.join(path, "snapshots")
        return _look_inside(snapshots, sorted(os.listdir(snapshots)), open_source)
    for name in below[:100]:
        inner = os.path.join(path, name)
        try:
            found = os.listdir(inner)
        except OSError:
            continue
        weights = [os.path.join(inner, file) for file in found if file.endswith(_WEIGHTS)]
        if any(file.endswith((".index.json", ".distcp")) for file in found) or any(
            _looks_like_one(file, open_source) for file in weights[:20]
        ):
            return f"Look into it: ckpt info {shell_path(inner)}"
    return None


def _looks_like_one(path: str, open_source: Any) -> bool:
    """Whether a file begins as some format does: programs are called ``.bin`` too."""
    from . import FORMATS

    if not os.path.isfile(path):
        return False
    try:
        opened, source, _ = open_source(path)
    except CheckpointError:
        return False
    with closing(opened):
        head = source.read_at(0, 4096)
        return any(format.matches(head, source) for format in FORMATS)


def _is_file(folder: str, name: str) -> bool:
    return os.path.isfile(os.path.join(folder, name))


def _with_siblings(checkpoint: Checkpoint, path: str, names: list[str], opened: list[str]) -> Checkpoint:
    shards = {os.path.basename(container.path) for container in checkpoint.containers} | sharded.names(checkpoint)
    checkpoint.siblings = [name for name in names if name not in opened and name not in shards]
    checkpoint.path = path
    return checkpoint


def _raise_if_known(path: str, names: list[str]) -> None:
    if ".metadata" in names and any(name.endswith(".distcp") for name in names):
        raise official.distributed(path, "a distributed checkpoint directory", path)
    _raise_if_deepspeed(path, names)
    if "data.pkl" in names and ("data" in names or "version" in names):
        raise official.unzipped(path)


def _raise_if_deepspeed(path: str, names: list[str]) -> None:
    """One tag's directory, or the one around it, which DeepSpeed's script wants to be told."""
    latest = _latest(path) if "latest" in names else None
    if latest is not None and ("zero_to_fp32.py" in names or _has_states(_names_in(os.path.join(path, latest)))):
        raise official.deepspeed(path)
    if _has_states(names):
        whole = os.path.abspath(path) if os.path.basename(path.rstrip("/")) in ("", ".", "..") else path.rstrip("/")
        around, tag = os.path.split(whole)
        error = official.deepspeed(around or ".", None if _latest(around or ".") == tag else tag)
        error.path = path
        raise error


def _has_states(names: list[str]) -> bool:
    return any(name.endswith("_optim_states.pt") for name in names)


def _names_in(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


def _latest(path: str) -> str | None:
    """The tag that a directory of DeepSpeed calls its latest; only a name in it is one."""
    if not _is_file(path, "latest"):
        return None
    try:
        with open(os.path.join(path, "latest"), encoding="utf-8") as file:
            tag = file.read(256).strip()
    except (OSError, ValueError):
        return None
    return tag if tag not in ("", ".", "..") and os.path.basename(tag) == tag else None
