"""Places beside a section that spell its keys: an optimizer's ``param_names``, FSDP's state, DeepSpeed's tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ..model import pointer as pointers
from ..model.checkpoint import Checkpoint
from ..model.graph import Pickle
from ..model.section import Section
from . import objects
from .optimizers import looks_averaged
from .renames import Replacements

Keys = Mapping[str, str | None]


class Followed(NamedTuple):
    """A list or mapping whose names follow a renaming.

    Attributes:
        place: its pointer in the file.
        names: how many of them change.
        undecided: how many stay because several sections have them, and only some of those are renamed, or otherwise.
    """

    place: str
    names: int
    undecided: int


def followed(checkpoint: Checkpoint) -> list[Followed]:
    """What follows the renamed sections of a checkpoint that is written whole."""
    found = (checkpoint.containers[0].graphs.get(name) for name in ("data.pkl", "object"))
    pickle = next((graph for graph in found if isinstance(graph, Pickle)), None)
    return follow(Replacements(), pickle.root, checkpoint.sections) if pickle is not None else []


def follow(replacements: Replacements, root: Any, sections: Mapping[str, Section]) -> list[Followed]:
    """Rename the names of parameters beside the sections that are renamed; what changed, and what was left."""
    if not any(_is_renamed(section) for section in sections.values()):
        return []
    found = []
    for place, node, keys, unclear in _places(root, sections):
        count = replacements.names(node, keys)
        left = sum(name in unclear for name in _texts(node)) if unclear else 0
        if count or left:
            found.append(Followed(place, count, left))
    return found


def _is_renamed(section: Section) -> bool:
    return section.kind != "module" and section.renamed is not None and not section.renamed.is_identity()


def _places(root: Any, sections: Mapping[str, Section]) -> Iterator[tuple[str, Any, Keys, set[str]]]:
    """(pointer, node, what its names become, names that nobody can tell)."""
    for section in sections.values():
        if section.kind == "optimizer":
            lists = list(_of_optimizer(section))
            keys, unclear = _names(section, sections, {name for _, node in lists for name in _texts(node)})
            yield from ((place, node, keys, unclear) for place, node in lists)
    module = sections.get("module")
    if module is not None and module.renamed is not None and _is_renamed(module):
        for place, node in _of_deepspeed(root):
            yield place, node, module.renamed.pairs, set()


def _of_optimizer(optimizer: Section) -> Iterator[tuple[str, Any]]:
    """``param_names``, and FSDP's state with names for numbers."""
    found = dict(objects.entries(objects.children(optimizer.node)[0])[0])
    yield pointers.join(optimizer.pointer, "state"), found.get("state")
    groups = pointers.join(optimizer.pointer, "param_groups")
    listed = found.get("param_groups")
    for index, group in enumerate(listed if isinstance(listed, (list, tuple)) else ()):
        inside = dict(objects.entries(objects.children(group)[0])[0])
        for name in ("params", "param_names"):
            yield pointers.concat(groups, f"{index}/{name}"), inside.get(name)


def _of_deepspeed(root: Any) -> Iterator[tuple[str, Any]]:
    """Tables of DeepSpeed's model states, beside ``module``, that its own script reads by the same names (formats 12)."""
    tables = dict(objects.entries(objects.children(root)[0])[0])
    if "ds_version" not in tables:
        return
    for name in ("param_shapes", "frozen_param_shapes", "shared_params", "buffer_names"):
        table = tables.get(name)
        if type(table) is list and any(map(objects.is_mapping, table)):
            # stages 1 and 2 have a mapping for each group of the optimizer
            yield from ((f"{name}/{index}", group) for index, group in enumerate(table))
        else:
            yield name, table


def _texts(node: Any) -> Iterable[str]:
    """The texts that :meth:`Replacements.names` would rename."""
    if type(node) is list:
        return [str(item) for item in node if isinstance(item, str)]
    if objects.is_mapping(node):
        return [str(item) for pair in objects.mapping_items(node) for item in pair if isinstance(item, str)]
    return []


def _names(optimizer: Section, sections: Mapping[str, Section], names: set[str]) -> tuple[Keys, set[str]]:
    """What becomes of the names in an optimizer: they are those of the weights it moves, of no copy beside them.

    Where whose they are is not certain, a name follows if all sections that have it give it the same new one.
    """
    if optimizer.owner is not None and optimizer.owner in sections:
        owner = sections[optimizer.owner]
        return (owner.renamed.pairs if owner.renamed is not None and _is_renamed(owner) else {}), set()
    weights = [section for section in sections.values() if section.kind == "state_dict"]
    trained = [section for section in weights if not looks_averaged(section.pointer)]
    keys: dict[str, str | None] = {}
    unclear: set[str] = set()
    for name in names:
        new = _new_names(trained, name) or _new_names(weights, name)
        if len(new) == 1:
            keys[name] = new.pop()
        elif new:
            unclear.add(name)
    return keys, unclear


def _new_names(weights: list[Section], name: str) -> set[str | None]:
    """What sections that have a name call it afterwards."""
    found: set[str | None] = set()
    for section in weights:
        pairs = section.renamed.pairs if section.renamed is not None else None
        if name in (pairs if pairs is not None else section.tensors):
            found.add(pairs[name] if pairs is not None else name)
    return found
