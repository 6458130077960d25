"""Wrapper segments: what DataParallel, torch.compile, FSDP and their like put into keys (design 4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
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
_DEEPEST, _LONGEST = 64, 1000


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


def nested_prefixes(keys: Iterable[str]) -> list[Prefix]:
    """Where ``module`` is its parent's only child: ``layer1.module.``, likely a wrapper inside the model."""
    every = [key for key in keys if key != COUNTER]
    total = len(every)
    if not any(f".{LEADING}." in key for key in every):
        return []
    # deeper and longer keys, which only attackers write, would cost the square of their length
    every = [key for key in every if len(key) <= _LONGEST and key.count(".") <= _DEEPEST]
    counts = dict.fromkeys(sorted(filter(None, _only_children(every))), 0)
    for key in every:
        for parent, segment in _steps(key):
            if segment == LEADING and parent in counts and len(parent) + len(LEADING) + 1 < len(key):
                counts[parent] += 1
    wrapped = {LEADING, *ANYWHERE}  # at the root they are wrappers of the whole
    return [
        Prefix(f"{parent}.{LEADING}.", count, total)
        for parent, count in counts.items() if count and not wrapped.issuperset(parent.split("."))
    ]  # fmt: skip


def dotted(prefix: str) -> str:
    """``P`` and ``P.`` are the same prefix."""
    return prefix if prefix.endswith(".") else prefix + "."


def strip_given(keys: list[str], prefixes: Sequence[str], times: int | None = None) -> list[str]:
    """Keys without given prefixes, each taken off all keys ``times`` times, or once, or not at all."""
    found = keys
    for prefix in prefixes:
        found = _repeat(found, partial(_without_prefix, dotted(prefix)), times if times is not None else 1)
    return found


def _without_prefix(prefix: str, key: str) -> str | None:
    return key[len(prefix) :] if key.startswith(prefix) else None


def strip_wrappers(keys: list[str], nested: bool = False, times: int | None = None) -> list[str]:
    """To a fixed point: wrappers that stand anywhere, then a ``module`` that leads every key (design 4)."""
    found = [_without_anywhere(key) for key in keys]
    found = _repeat(found, partial(_without_prefix, LEADING + "."), times)
    return _without_nested(found) if nested else found


def _without_anywhere(key: str) -> str:
    segments = key.split(".")
    return ".".join([*(s for s in segments[:-1] if s not in ANYWHERE), segments[-1]])


def _repeat(keys: list[str], strip: Callable[[str], str | None], times: int | None) -> list[str]:
    """Take one leading piece off all keys, as long as all have it (``n_averaged`` apart), at most ``times``."""
    while times is None or times > 0:
        stripped = [key if key == COUNTER else strip(key) for key in keys]
        if None in stripped or stripped == keys:
            return keys
        keys = [key for key in stripped if key is not None]
        times = None if times is None else times - 1
    return keys


def _without_nested(keys: list[str]) -> list[str]:
    """Take out ``module`` wherever it is its parent's only child."""
    only = _only_children(keys)
    return [_without_children(key, only) if LEADING in key else key for key in keys]


def _only_children(keys: list[str]) -> set[str]:
    """Paths with nothing below but ``module``."""
    children: dict[str, set[str]] = {}
    for key in keys:
        for parent, segment in _steps(key):
            children.setdefault(parent, set()).add(segment)
    return {path for path, names in children.items() if names == {LEADING}}


def _steps(key: str) -> Iterator[tuple[str, str]]:
    """Each segment, and the path before it."""
    start = 0
    for segment in key.split("."):
        yield key[: max(0, start - 1)], segment
        start += len(segment) + 1


def _without_children(key: str, only: set[str]) -> str:
    steps = list(_steps(key))
    kept = [segment for parent, segment in steps[:-1] if segment != LEADING or parent not in only]
    return ".".join([*kept, steps[-1][1]])
