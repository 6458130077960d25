"""A part of the object in a torch zip as a file of its own, and entries left out by name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fnmatch import translate
from typing import Any

from ..errors import MissingKeyError, SelectionError, UnsupportedError
from ..model import pointer as pointers
from ..model.checkpoint import Checkpoint
from ..model.graph import Pickle
from ..pickles.limits import DEFAULT
from . import drafts, objects
from .building import Build
from .rebuild import is_rebuild
from .renames import Replacements, entry_keys, with_pairs
from .rewrite import pickle_with, zip_with
from .sections import walk_budget


def build_of(checkpoint: Checkpoint) -> tuple[Build, Pickle]:
    """A new file with the storages of a torch zip, and the graph of its object."""
    container = checkpoint.containers[0]
    pickle: Pickle = container.graphs["data.pkl"]
    build = Build()
    build.keep(container, pickle, "data/", checkpoint.facts.get("byteorder", "little"))
    return build, pickle


def remade(checkpoint: Checkpoint, build: Build, root: Any) -> Checkpoint:
    """The checkpoint with another object in it, in the same kind of archive."""
    container = checkpoint.containers[0]
    return drafts.opened(checkpoint, drafts.joined(container.path, build.zip(root, container)))


def rooted(checkpoint: Checkpoint, pointer: str) -> Checkpoint:
    """The container at ``pointer`` as the object of the file; storages that nothing uses any more go.

    Raises:
        MissingKeyError: there is none.
    """
    build, pickle = build_of(checkpoint)
    return remade(checkpoint, build, node_at(pickle.root, pointer))


def node_at(root: Any, pointer: str) -> Any:
    """The node below ``root`` that a pointer names."""
    node = root
    for segment in pointers.split(pointer):
        inside = dict(objects.entries(objects.children(node)[0])[0])
        if segment not in inside:
            raise MissingKeyError(f"there is no {pointer!r} to take out")
        node = inside[segment]
    return node


# -- entries left out -------------------------------------------------------------------------------------------


def without(checkpoint: Checkpoint, globs: Sequence[str]) -> tuple[Checkpoint, list[str]]:
    """The checkpoint without the entries whose name, or key in their section, matches; and their names.

    Raises:
        SelectionError: a pattern matches nothing, or everything.
        UnsupportedError: it matches what is no entry of a mapping.
    """
    drops = _Drops(checkpoint, globs)
    drops.walk()
    if drops.unused():
        raise SelectionError(f"--drop {drops.unused()[0]!r} matches nothing", path=checkpoint.path, hint=drops.known())
    container = checkpoint.containers[0]
    data = pickle_with(container.graphs["data.pkl"], drops.replacements())
    return drafts.opened(checkpoint, drafts.joined(container.path, zip_with(container, data).pieces)), drops.names


class _Drops:
    """Looks for the entries that go; each container is looked at once, by the first name it has."""

    def __init__(self, checkpoint: Checkpoint, globs: Sequence[str]) -> None:
        self.checkpoint = checkpoint
        self.globs = {glob: re.compile(translate(glob)).match for glob in globs}
        self.met: set[str] = set()
        self.names: list[str] = []
        self.gone: dict[int, tuple[Any, set[str]]] = {}  # container -> keys that go
        self.sections = {id(s.node): s for s in checkpoint.sections.values() if s.node is not None}
        self.seen_names: list[str] = []

    def _matches(self, *names: str) -> bool:
        matched = [glob for glob, match in self.globs.items() if any(match(name) for name in names)]
        self.met.update(matched)
        return bool(matched)

    def walk(self) -> None:
        pickle: Pickle = self.checkpoint.containers[0].graphs["data.pkl"]
        budget = walk_budget(pickle)
        waiting: list[tuple[Any, str, int]] = [(pickle.root, "", 0)]
        seen: set[int] = set()
        while waiting and budget:
            node, pointer, depth = waiting.pop()
            if id(node) in seen or depth > DEFAULT.depth:
                continue
            seen.add(id(node))
            section = self.sections.get(id(node))
            inside, shape = objects.children(node)
            below = []
            for key, value in objects.entries(inside)[0]:
                budget -= 1
                name = pointers.join(pointer, key)
                self.seen_names.append(name)
                if self._matches(name, *([key] if section is not None else [])):
                    self._drop(node, shape, key, name)
                elif not is_rebuild(value) and (section is None or section.kind != "module"):
                    below.append((value, name, depth + 1))
            waiting.extend(reversed(below))

    def _drop(self, node: Any, shape: str, key: str, name: str) -> None:
        if shape != "mapping":
            raise UnsupportedError(
                f"{name!r} is no entry of a mapping: without it others would change their place",
                path=self.checkpoint.path,
            )
        self.names.append(name)
        self.gone.setdefault(id(node), (node, set()))[1].add(key)

    def unused(self) -> list[str]:
        return [glob for glob in self.globs if glob not in self.met]

    def known(self) -> str:
        top = [name for name in self.seen_names if "/" not in name]
        listed = ", ".join((top or self.seen_names)[:6])
        return f"There is: {listed}" if listed else "The file is one object without entries."

    def replacements(self) -> dict[int, Any]:
        """New mappings; of a state_dict the ``_metadata`` follows."""
        made = Replacements()
        for node, keys in self.gone.values():
            section = self.sections.get(id(node))
            if section is not None and section.kind == "state_dict":
                made.rename(section, {key: None if key in keys else key for key in entry_keys(section)})
            else:
                made.nodes[id(node)] = with_pairs(node, list(_kept(node, keys)))
        return made.nodes


def _kept(node: Any, gone: set[str]) -> Iterator[Any]:
    """The flat pairs of a mapping that stay."""
    inside = objects.mapping_items(node)
    texts = [objects.key_text(key, index)[0] for index, (key, _) in enumerate(inside)]
    for (key, value), text in zip(inside, texts, strict=True):
        kinds = {text, f"<{type(key).__name__} {text}>"}
        if not kinds & gone:
            yield key
            yield value
