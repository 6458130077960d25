"""What to do about a damaged file: ``salvage`` where it helps, and something else where it would not."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import CorruptError, UnsupportedError
from ..model.checkpoint import Checkpoint
from ..model.problem import Problem
from ..model.source import Source
from ..model.spelling import shell_path
from ..pickles.limits import Limits
from .archive import WRONG_CHECKSUM

SALVAGED = ("torch-zip", "torch-legacy", "safetensors", "sharded")
COPY_AGAIN = "Copy or download it again."
_SAMPLE = 1 << 20
_ENOUGH = 6  # of 256 bytes before a line feed one is a carriage return: six in a row are no chance


def salvage(path: str) -> str:
    return f"ckpt salvage {shell_path(path)} -o OUT"


def refuse_damaged(checkpoint: Checkpoint) -> None:
    """
    Raises:
        CorruptError: the file is damaged: nothing is made of it.
        UnsupportedError: it may be sound, but would not stay what it is.
    """
    problems = [Problem.of(problem) for problem in checkpoint.problems]
    damage = next((problem for problem in problems if problem.damage), None)
    if damage is not None:
        raise CorruptError(
            f"damaged files are not rewritten: {damage}",
            path=checkpoint.path,
            hint=of_problems(checkpoint, checkpoint.problems),
        )
    if problems:
        raise UnsupportedError(
            f"not rewritten, since not all of it would stay: {problems[0]}", path=checkpoint.path, hint=problems[0].hint
        )


def of_problems(checkpoint: Checkpoint, found: Iterable[str]) -> str | None:
    """For a file that could be opened; None if none of the problems is damage."""
    problems = [Problem.of(problem) for problem in found]
    if not any(problem.damage for problem in problems):
        return None
    from .stock import is_whole

    path = shell_path(checkpoint.path)
    whole = checkpoint.format in SALVAGED and any(is_whole(info) for _, _, info in checkpoint.tensors())
    if not (whole or gives_entries(checkpoint)) or any(pickle_is_damaged(checkpoint, p.record, p) for p in problems):
        return f"{COPY_AGAIN} What else is hurt: ckpt verify {path}"
    return f"What is hurt: ckpt verify {path}; what is whole: {salvage(checkpoint.path)}"


def gives_entries(checkpoint: Checkpoint) -> bool:
    """Whether salvage writes a file for what it holds beside tensors; an index names no shard without tensors."""
    return checkpoint.format in SALVAGED and checkpoint.format != "sharded" and bool(checkpoint.values)


def pickle_is_damaged(checkpoint: Checkpoint, record: str | None, why: str) -> bool:
    """Whether the one pickle fails its checksum that says which tensor is which: nothing can be rescued then.

    Of a sharded checkpoint the other shards can.
    """
    return record == "data.pkl" and WRONG_CHECKSUM in why and not checkpoint.parts


def of_archive(source: Source, limits: Limits) -> str:
    """For a zip archive whose directory cannot be used, so that it was not opened."""
    if in_text_mode(source):
        return "Every LF in it follows a CR: it was copied as text, and what was whole is lost. Copy it again, in binary mode."
    return f"What is whole: {salvage(source.path)}" if _can_be_walked(source, limits) else COPY_AGAIN


def in_text_mode(source: Source) -> bool:
    """Whether LF was made CR LF everywhere, as FTP and git do to what they take for text."""
    sample = source.read_at(0, _SAMPLE)
    return sample.count(b"\n") >= _ENOUGH and sample.count(b"\n") == sample.count(b"\r\n")


def _can_be_walked(source: Source, limits: Limits) -> bool:
    """Whether tensors are found by the local headers, as ``salvage`` finds them."""
    from . import torch_zip
    from .stock import is_whole

    checkpoint = torch_zip.read_damaged(source, limits)
    if checkpoint is None or any(
        pickle_is_damaged(checkpoint, Problem.of(problem).record, problem) for problem in checkpoint.problems
    ):
        return False
    return any(is_whole(info) for _, _, info in checkpoint.tensors())
