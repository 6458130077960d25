"""Renamed sections as replaced nodes of the graph: every place that spells their keys follows (design 5.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import CorruptError, UnsupportedError
from ..model.graph import Character, Dict, OldStr, Opaque
from ..model.metadata import map_paths
from ..model.section import Section
from . import objects


def entry_keys(section: Section) -> list[str]:
    """Every key that a rename of the section concerns: tensors, and other entries beside them (``_extra_state``)."""
    if section.entries is None:
        if section.kind == "state_dict" and objects.is_mapping(section.node):
            section.entries = [str(key) for key, _ in objects.mapping_items(section.node) if isinstance(key, str)]
        else:
            section.entries = [*section.tensors, *_only_recorded(section)]
    return section.entries


def _only_recorded(section: Section) -> list[str]:
    """Names of a safetensors file that its metadata alone has: those of tied tensors."""
    from . import recorded

    metadata = section.node.get("__metadata__") if type(section.node) is dict else None
    return recorded.names(metadata, section.tensors) if metadata else []


class Replacements:
    """Nodes to be written in place of others, by ``id`` of the other."""

    def __init__(self) -> None:
        self.nodes: dict[int, Any] = {}
        self._texts: dict[tuple[int, str], str] = {}
        self._kept: list[Any] = []  # keeps old strings alive, so that no new one gets their id

    def rename(self, section: Section, keys: Mapping[str, str | None]) -> None:
        """Rename the keys of a state_dict and its ``_metadata``; None drops an entry."""
        node = section.node
        if not objects.is_mapping(node):
            raise UnsupportedError(f"{section.pointer or 'the root'} is no mapping: its keys cannot be renamed")
        self.nodes[id(node)] = self._mapping(node, keys)
        metadata = objects.fields(node).get("_metadata") if type(node) is Opaque else None
        if objects.is_mapping(metadata):
            self._metadata(metadata, keys)

    def _mapping(self, node: Any, keys: Mapping[str, str | None]) -> Any:
        inside = objects.mapping_items(node)
        texts = [str(key) for key, _ in inside if isinstance(key, str)]
        if len(set(texts)) != len(texts):
            raise CorruptError("a key stands twice: which one counts is not for us to say")
        pairs: list[Any] = []
        for key, value in inside:
            new = keys.get(str(key), str(key)) if isinstance(key, str) else key
            if new is not None:
                pairs += [key if new == key else self.text(key, new), value]
        return with_pairs(node, pairs)

    def _metadata(self, table: Any, keys: Mapping[str, str | None]) -> None:
        entries = {str(path): (path, facts) for path, facts in objects.mapping_items(table) if isinstance(path, str)}
        paths = map_paths(list(entries), keys)
        version = next((key for _, facts in entries.values() for key in _keys(facts) if key == "version"), "version")
        pairs: list[Any] = []
        for old, new in paths.moved:
            if old is None:
                pairs += [fresh(new), Dict([version, 1])]
            else:
                path, facts = entries[old]
                pairs += [path if old == new else self.text(path, new), facts]
        self.nodes[id(table)] = with_pairs(table, pairs)

    def names(self, node: Any, keys: Mapping[str, str | None]) -> int:
        """Rename strings that name parameters in a list (``param_names``) or in a mapping (FSDP's state): keys and values.

        How many changed.
        """
        if type(node) is list:
            before = node
        elif objects.is_mapping(node):
            before = [item for pair in objects.mapping_items(node) for item in pair]
        else:
            return 0
        after = [self._name(item, keys) for item in before]
        changed = sum(new is not old for new, old in zip(after, before, strict=True))
        if changed:
            self.nodes[id(node)] = after if type(node) is list else with_pairs(node, after)
        return changed

    def _name(self, item: Any, keys: Mapping[str, str | None]) -> Any:
        new = keys.get(str(item)) if isinstance(item, str) else None
        return item if new is None or new == item else self.text(item, new)

    def text(self, old: Any, new: str) -> str:
        """One new string for each old object: sharing in the pickle stays as it was."""
        known = self._texts.get((id(old), new))
        if known is None:
            known = OldStr(new) if type(old) is OldStr else fresh(new)
            self._texts[(id(old), new)] = known
            self._kept.append(old)
        return known


def _keys(node: Any) -> list[str]:
    return [key for key, _ in objects.mapping_items(node) if isinstance(key, str)]


def fresh(text: str) -> str:
    """A string that is an object of its own also where Python would share it."""
    return Character(text) if len(text) == 1 else text.encode("utf-8", "surrogatepass").decode("utf-8", "surrogatepass")


def with_pairs(node: Any, pairs: list[Any]) -> Any:
    """A copy of a mapping node with other pairs; what else was done to it stays."""
    if type(node) is Dict:
        return Dict(pairs)
    copy = Opaque(node.how, node.callee, node.args, node.kwargs)
    if type(node.args) is tuple and len(node.args) == 1 and type(node.args[0]) is list:
        # Python 2: OrderedDict([[key, value], …])
        copy.args = ([[key, value] for key, value in zip(pairs[::2], pairs[1::2], strict=True)],)
        copy.ops = node.ops
        return copy
    others = [op for op in node.ops or () if op[0] != "SETITEMS"]
    copy.ops = ([("SETITEMS", pairs)] if pairs else []) + others
    return copy
