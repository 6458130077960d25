"""Wrapper segments: what DataParallel, torch.compile, FSDP and their like put into keys (design 4)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

# Segments that nobody calls a module of theirs: wrappers wherever they stand.
ANYWHERE = {
    "_orig_mod": "torch.compile",
    "_fsdp_wrapped_module": "FSDP",
    "_checkpoint_wrapped_module": "activation checkpointing",
    "_forward_module": "Lightning strategy",
}
LEADING = "module"  # DataParallel and DDP; also a name that people give, hence only where it leads every key
COUNTER = "n_averaged"  # the one entry of AveragedModel beside ``module.``


class Prefix(NamedTuple):
    """A wrapper prefix and how many of the section's keys carry it."""

    prefix: str
    found: int
    of: int


def wrapper_name(segment: str, leads_all: bool = True) -> str | None:
    """What put ``segment`` into a key, None for an ordinary name."""
    if segment == LEADING:
        return "DataParallel/DDP" if leads_all else None
    return ANYWHERE.get(segment)


def without_wrappers(key: str) -> str:
    """The key as the bare model would have it, a leading ``module`` taken for a wrapper's."""
    segments = key.split(".")
    bare = [*(segment for segment in segments[:-1] if segment not in ANYWHERE), segments[-1]]
    while len(bare) > 1 and bare[0] == LEADING:
        del bare[0]
    return ".".join(bare)


def find_prefixes(keys: Iterable[str]) -> list[Prefix]:
    """Wrapper prefixes of one section: those that stand anywhere, and ``module.`` where it leads keys."""
    split = [key.split(".") for key in keys if key != COUNTER]
    found = []
    total = len(split)
    leading = 0
    for segments in split:
        rest = [segment for segment in segments if segment not in ANYWHERE]
        leading += len(rest) > 1 and rest[0] == LEADING
    if leading:
        found.append(Prefix(LEADING + ".", leading, total))
    for segment in ANYWHERE:
        count = sum(segment in segments[:-1] for segments in split)
        if count:
            found.append(Prefix(segment + ".", count, total))
    return found
