"""``_metadata`` of a state_dict follows its keys: module paths, derived from where the keys went (design 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class PathMap(NamedTuple):
    """Where module paths go.

    Attributes:
        moved: (old path, new path), in the order of the new table; None as old path: a new prefix, which gets
            ``{'version': 1}``.
        lost: old paths whose entry has no place any more: those of wrappers, and of modules taken apart.
    """

    moved: list[tuple[str | None, str]]
    lost: list[str]


def map_paths(paths: Sequence[str], keys: Mapping[str, str | None]) -> PathMap:
    """Derive the new module paths of ``_metadata`` from the new keys.

    A path goes where all keys below it went together; one without keys goes with the nearest path above it. Where two
    claim one place the deeper one wins: it is the wrapped module, the other its wrapper.
    """
    below = _by_path(keys)
    target: dict[str, str | None] = {}
    for path in paths:
        target[path] = _together(path, below[path]) if path in below else _with_parent(path, target)
    claims: dict[str, str] = {}
    for path, new in target.items():
        if new is not None and (new not in claims or path.count(".") >= claims[new].count(".")):
            claims[new] = path
    moved: list[tuple[str | None, str]] = []
    known = set(paths)
    seen: set[str] = set()
    for path in paths:
        new = target[path]
        if new is None or claims[new] != path:
            continue
        for prefix in _ancestors(new):
            if prefix not in seen and prefix not in claims and "" in known:
                moved.append((None, prefix))
                seen.add(prefix)
        moved.append((path, new))
        seen.add(new)
    return PathMap(moved, [path for path in paths if target[path] is None or claims[target[path] or ""] != path])


def _by_path(keys: Mapping[str, str | None]) -> dict[str, list[tuple[str, str | None]]]:
    """For each module path, the keys below it with where they go."""
    below: dict[str, list[tuple[str, str | None]]] = {"": []}
    for key, new in keys.items():
        below[""].append((key, new))
        end = key.find(".")
        while end >= 0:
            below.setdefault(key[:end], []).append((key, new))
            end = key.find(".", end + 1)
    return below


def _together(path: str, below: list[tuple[str, str | None]]) -> str | None:
    """The path that all keys below ``path`` moved to; itself where they parted and some stayed; else None."""
    start = len(path) + 1 if path else 0
    found: str | None = None
    apart = path if not path or any(new is not None and new.startswith(path + ".") for _, new in below) else None
    for key, new in below:
        if new is None:
            continue
        rest = key[start:]
        if new == rest:
            place = ""
        elif new.endswith("." + rest):
            place = new[: -len(rest) - 1]
        else:
            return apart
        if found not in (None, place):
            return apart
        found = place
    return found if found is not None or path else ""


def _with_parent(path: str, target: Mapping[str, str | None]) -> str | None:
    """A module without parameters goes with the nearest module above it that went somewhere."""
    parent, tail = path, ""
    while parent:
        parent, _, name = parent.rpartition(".")
        tail = f"{name}.{tail}" if tail else name
        place = target.get(parent)
        if place is not None:
            return f"{place}.{tail}" if place else tail
    return path


def _ancestors(path: str) -> list[str]:
    """Paths above ``path``, the root first."""
    if not path:
        return []
    segments = path.split(".")
    return ["", *(".".join(segments[:n]) for n in range(1, len(segments)))]
