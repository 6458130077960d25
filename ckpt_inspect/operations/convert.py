"""``ckpt convert``: other devices, dtypes and formats; parts, names and slimmer storages in the same pass (design 2, 4)."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ..errors import SelectionError
from ..model.checkpoint import Checkpoint
from .conversion import SHARD, Asked, Conversion
from .conversion_steps import NAMED, Steps

FORMATS = ("torch-zip", "torch-legacy", "safetensors", "sharded")
_TORCH_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".th", ".t7", ".tar")
_KEPT = (*FORMATS, "torchscript")


def convert(
    checkpoint: Checkpoint,
    *,
    format: str | None = None,
    device: str | Sequence[str] = (),
    dtype: str | Sequence[str] = (),
    no_overflow: bool = False,
    weights_only: bool = False,
    slim: bool = False,
    from_numpy: bool = False,
    drop: str | Sequence[str] = (),
    strip_prefix: bool = False,
    rules: str | Sequence[str] = (),
    untie: bool = False,
    skip_unsupported: bool = False,
    max_shard_size: int = SHARD,
) -> Checkpoint:
    """The checkpoint converted, as a view; write it with :func:`ckpt_inspect.save`. Nothing is read or written yet.

    >>> import ckpt_inspect as ci
    >>> ci.save(ci.convert(ci.open("run.ckpt#model"), device="cpu", format="safetensors"), "model.safetensors")  # doctest: +SKIP
    """
    asked = Asked(
        format=format, device=_several(device), dtype=_several(dtype), no_overflow=no_overflow, weights_only=weights_only,
        slim=slim, from_numpy=from_numpy, drop=_several(drop), strip_prefix=strip_prefix, rules=_several(rules),
        untie=untie, skip_unsupported=skip_unsupported, max_shard_size=max_shard_size,
    )  # fmt: skip
    return plan(checkpoint, asked).checkpoint


def _several(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def target_format(source: str, out: str | None, asked: str | None) -> str:
    """The format to be written: as asked, as the suffix of OUT says, else that of the source.

    Raises:
        SelectionError: a format that is not written here; those that are are named.
    """
    if asked is not None:
        if asked not in FORMATS:
            raise SelectionError(
                f"{asked!r} is no format that is written here", hint=f"There is: {', '.join(FORMATS)}."
            )
        return asked
    suffix = os.path.splitext(out or "")[1].lower()
    if suffix == ".safetensors":
        return "safetensors"
    if source not in _KEPT or (source in NAMED and suffix in _TORCH_SUFFIXES):
        return "torch-zip"
    return source


def _check_options(asked: Asked, target: str) -> None:
    """Refuse options that would do nothing: who gives them expects something."""
    if asked.no_overflow and not asked.dtype:
        raise SelectionError("--no-overflow is for casts", hint="Give --dtype too.")
    if asked.untie and target not in NAMED:
        raise SelectionError(f"--untie is for safetensors: a {target} file has ties", hint="Give -o OUT.safetensors.")
    if asked.max_shard_size != SHARD and target != "sharded":
        raise SelectionError("--max-shard-size is for shards", hint="Give --format sharded.")


def plan(checkpoint: Checkpoint, asked: Asked, out: str | None = None) -> Conversion:
    """Plan a conversion; ``checkpoint`` is a file or a selected part, ``out`` where it is to go.

    Raises:
        SelectionError: something that was named is not there, or several sections could be meant.
        UnsupportedError: the format cannot hold what is in the file.
        CorruptError: the file is damaged.
    """
    target = target_format(checkpoint.format, out, asked.format)
    _check_options(asked, target)
    steps = Steps(checkpoint, asked, target)
    steps.run()
    return steps.made
