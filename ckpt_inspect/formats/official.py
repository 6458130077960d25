"""Formats that are known and not read here: the errors that name the official way."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ..errors import UnsupportedError
from ..model.spelling import shell_path, shell_word

_DCP = "python -m torch.distributed.checkpoint.format_utils dcp_to_torch"


def distributed(path: str, what: str, directory: str | None = None) -> UnsupportedError:
    """A distributed checkpoint (DCP), or one of its files."""
    if directory is None:
        hint = f"Its directory is the checkpoint: {_DCP} {shell_path(os.path.dirname(path) or '.')} out.pt"
    else:
        hint = f"Make one file of it: {_DCP} {shell_path(directory)} out.pt"
    return UnsupportedError(f"{what} (DCP)", path=path, hint=hint)


def deepspeed(path: str, tag: str | None = None) -> UnsupportedError:
    """
    Args:
        path: the directory with ``latest``, the script, and a directory for each tag.
        tag: the one to be named; None is that of ``latest``.
    """
    script = os.path.join(path, "zero_to_fp32.py")
    named = f" --tag {shell_word(tag)}" if tag is not None else ""
    if os.path.isfile(script):
        how = f"with DeepSpeed's own script: python {shell_path(script)}"
    else:
        how = "where DeepSpeed is installed (its script is not beside): python -m deepspeed.utils.zero_to_fp32"
    return UnsupportedError(
        "a DeepSpeed checkpoint directory",
        path=path,
        hint=f"Make weights of it {how} {shell_path(path)} OUTDIR{named}",
    )


def unzipped(path: str) -> UnsupportedError:
    folder, name = os.path.split(os.path.abspath(path))
    return UnsupportedError(
        "an unzipped torch archive",
        path=path,
        hint=f"Zip it again, uncompressed: (cd {shell_path(folder)} && zip -0 -r {shell_path(name + '.pt')} {shell_path(name)})",
    )


def zipped_again(path: str, inside: Sequence[str] = ()) -> str | None:
    """The hint for an archive whose pickle lies too high or, below ``inside``, too deep."""
    if any(name in ("", ".", "..") or name.startswith("-") for name in inside):
        return None  # no way that unzip and a shell would take as well
    folder, name = os.path.split(path)
    stem = os.path.splitext(name)[0]
    unzipped, out = f"{stem}.unzipped", f"{stem}.zipped.pt"
    up = [unzipped, *inside[:-1]]  # where the directory lies whose name is to lead every record
    target = "/".join([".."] * len(up) + [out]) if inside else out
    root = inside[-1] if inside else unzipped
    enter = f"cd {shell_path('/'.join(up))} && " if inside else ""
    command = f"unzip -q {shell_path(name)} -d {shell_path(unzipped)} && {enter}zip -q -0 -r {shell_path(target)} {shell_path(root)}"
    if folder:
        command = f"cd {shell_path(folder)} && {command}"
    return f"Zip it again, one directory around it: ({command})"
