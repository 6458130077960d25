"""What safetensors has no place for, kept in ``__metadata__["ckpt_inspect"]`` and believed on the way back.

Ties, key order, ``_metadata``, ``requires_grad``, and entries that are plain data. The text is JSON; what does not
fit the tensors that are there is passed over, for others may have edited the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ..model.checkpoint import Checkpoint
from ..model.graph import Dict, Opaque
from . import objects
from .inline import bytes_of
from .renames import fresh

NAME = "ckpt_inspect"
_VERSION = 1
_DEEPEST = 50
_METADATA = "__metadata__"
_OWN = (NAME, "format")  # never the name of a tied tensor


class Recorded:
    """The facts of one file.

    Attributes:
        order: keys in saved order, with tied names and other entries.
        ties: left out name -> the name of the tensor that it is.
        metadata: ``_metadata`` of the state_dict, None if it had none.
        grads: names of tensors that required a gradient.
        parameters: names of tensors that were ``Parameter`` objects.
        entries: other entries of the state_dict, as JSON.
        values: plain data of the file around it, by name, for information.
        keys: name -> the key that it stands for, which is no text, as ``plain_key`` gives it.
        renamed: names of keys that are no text and cannot be told in JSON: they become text.
        bare: whether the file was one tensor without a name.
    """

    def __init__(self) -> None:
        self.order: list[str] = []
        self.ties: dict[str, str] = {}
        self.metadata: dict[str, Any] | None = None
        self.grads: set[str] = set()
        self.parameters: set[str] = set()
        self.entries: dict[str, Any] = {}
        self.values: dict[str, Any] = {}
        self.keys: dict[str, Any] = {}
        self.renamed: list[str] = []
        self.bare = False

    def requires_grad(self, key: str) -> bool | None:
        return True if key in self.grads else None

    def is_parameter(self, key: str) -> bool:
        return key in self.parameters

    def summary(self) -> str:
        """What is recorded, in words."""
        parts = [f"{len(self.order):,} keys in order"]
        parts += [f"{len(self.ties):,} tied names"] if self.ties else []
        parts += ["_metadata"] if self.metadata is not None else []
        parts += [f"{len(self.entries):,} other entries"] if self.entries else []
        parts += [f"{len(self.values):,} values"] if self.values else []
        return f"({', '.join(parts)})"

    def to_text(self, order: Iterable[str]) -> str:
        """As JSON; the order only where that of the header would not do."""
        document: dict[str, Any] = {"version": _VERSION, "order": self.order or list(order)}
        if self.ties:
            document["ties"] = self.ties
        if self.metadata is not None:
            document["_metadata"] = self.metadata
        for name, keys in (("requires_grad", self.grads), ("parameters", self.parameters)):
            if keys:
                document[name] = [key for key in document["order"] if key in keys]
        document.update(
            (name, kept)
            for name, kept in (("entries", self.entries), ("values", self.values), ("keys", self.keys))
            if kept
        )
        if self.bare:
            document["bare"] = True
        return json.dumps(document, ensure_ascii=False, separators=(",", ":"))

    def nodes_of_keys(self, names: Iterable[str]) -> dict[str, Any]:
        """The keys that are no text, by name; none that Python would take for another's."""
        found: dict[str, Any] = {}
        taken: set[Any] = set()
        for name in names:
            if name in self.keys and (key := key_of(self.keys[name])) is not None and key[0] not in taken:
                taken.add(key[0])
                found[name] = key[0]
        return found

    def arranged(self, made: Mapping[str, Any], tie: Callable[[str, str], Any]) -> Iterator[tuple[str, Any]]:
        """Every entry of the state_dict in its order: tensors, tied names (made by ``tie``), plain data."""
        entries: dict[str, Callable[[], Any]] = {key: lambda key=key: made[key] for key in made}  # type: ignore[misc]
        for key, source in self.ties.items():
            if key not in entries and source in made:
                entries[key] = lambda key=key, source=source: tie(key, source)  # type: ignore[misc]
        for key, value in self.entries.items():
            if key not in entries:
                entries[key] = lambda value=value: node_of(value)  # type: ignore[misc]
        for key in dict.fromkeys([*(key for key in self.order if key in entries), *entries]):
            yield key, entries[key]()


def of(checkpoint: Checkpoint) -> Recorded:
    """What is recorded in a safetensors file, or in the index of shards."""
    tensors = checkpoint.sections[""].tensors if "" in checkpoint.sections else {}
    texts = _texts(checkpoint)
    found = _parsed(texts.get(NAME, ""))
    found.ties = {key: kept for key, kept in found.ties.items() if kept in tensors and key not in tensors}
    for key, kept in texts.items():  # safetensors.torch.save_model: dropped name -> kept name
        if kept in tensors and key not in tensors and key not in _OWN:
            found.ties.setdefault(key, kept)
    return found


def foreign(checkpoint: Checkpoint) -> dict[str, str]:
    """Entries of ``__metadata__`` that are neither ours nor ties."""
    tensors = checkpoint.sections[""].tensors if "" in checkpoint.sections else {}
    return {
        key: text for key, text in _texts(checkpoint).items() if key not in (NAME, "format") and text not in tensors
    }


def _texts(checkpoint: Checkpoint) -> dict[str, str]:
    container = checkpoint.containers[0]
    if checkpoint.format == "sharded":
        metadata = container.graphs["index"].get("metadata")
        return {
            **{key: text for part in checkpoint.parts if part.format == "safetensors" for key, text in _texts(part).items()},
            **({key: text for key, text in metadata.items() if isinstance(text, str)} if isinstance(metadata, dict) else {}),
        }  # fmt: skip
    return dict(container.graphs["header"].get(_METADATA) or {}) if "header" in container.graphs else {}


def parse(metadata: Mapping[str, str]) -> Recorded:
    """What the ``__metadata__`` of a header records."""
    return _parsed(metadata.get(NAME, ""))


def _parsed(text: str) -> Recorded:
    found = Recorded()
    try:
        document = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return found
    if not isinstance(document, dict):
        return found
    found.order = _texts_of(document.get("order"))
    found.grads, found.parameters = (
        set(_texts_of(document.get("requires_grad"))),
        set(_texts_of(document.get("parameters"))),
    )
    found.bare = document.get("bare") is True
    ties = document.get("ties")
    if isinstance(ties, dict):
        found.ties = {key: kept for key, kept in ties.items() if isinstance(kept, str)}
    metadata = document.get("_metadata")
    if isinstance(metadata, dict) and all(isinstance(facts, dict) for facts in metadata.values()):
        found.metadata = metadata
    for name, target in (("entries", found.entries), ("values", found.values), ("keys", found.keys)):
        if isinstance(document.get(name), dict):
            target.update((key, value) for key, value in document[name].items() if _depth(value) <= _DEEPEST)
    return found


def _texts_of(value: Any) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level and depth <= _DEEPEST:
        depth += 1
        level = [
            item for one in level if isinstance(one, (dict, list))
            for item in (one.values() if isinstance(one, dict) else one)
        ]  # fmt: skip
    return depth


def renamed(metadata: Mapping[str, str], keys: Mapping[str, str | None]) -> dict[str, str]:
    """``__metadata__`` after its tensors were renamed: names in it follow, those of dropped tensors go."""
    from ..model.metadata import map_paths

    def name(key: str) -> str | None:
        return keys.get(key, key)

    new: dict[str, str] = {}
    for key, text in metadata.items():
        if text in keys and key not in _OWN:  # a tie, as safetensors.torch.save_model writes it
            other, kept = name(key), name(text)
            if other is not None and kept is not None:
                new[other] = kept
        elif key != NAME:
            new[key] = text
    if NAME not in metadata:
        return new
    found = parse(metadata)
    found.order = [other for key in found.order if (other := name(key)) is not None]
    found.ties = {
        other: kept for key, old in found.ties.items()
        if (other := name(key)) is not None and (kept := name(old)) is not None
    }  # fmt: skip
    found.grads = {other for key in found.grads if (other := name(key)) is not None}
    found.parameters = {other for key in found.parameters if (other := name(key)) is not None}
    found.entries = {other: value for key, value in found.entries.items() if (other := name(key)) is not None}
    found.keys = {key: kept for key, kept in found.keys.items() if name(key) == key}  # a new name is text
    if found.metadata is not None:
        paths = map_paths(list(found.metadata), keys)
        found.metadata = {
            path: {"version": 1} if old is None else found.metadata[old] for old, path in paths.moved
        }  # fmt: skip
    new[NAME] = found.to_text(())
    return new


def names(metadata: Mapping[str, str], tensors: Mapping[str, Any]) -> list[str]:
    """Names that are only recorded, beside those of the tensors: ties and other entries."""
    found = parse(metadata)
    saved = [key for key, kept in metadata.items() if kept in tensors and key not in _OWN]
    return [key for key in dict.fromkeys([*saved, *found.ties, *found.entries]) if key not in tensors]


# -- plain data -------------------------------------------------------------------------------------------------


class NotPlain(Exception):
    """A value that JSON cannot give back as it was."""


def plain(node: Any, depth: int = 0) -> Any:
    """A node of the graph as JSON that gives the same value back.

    Raises:
        NotPlain: there is none.
    """
    if node is None or isinstance(node, bool) or (isinstance(node, int) and abs(node) < 1 << 53):
        return node
    if isinstance(node, str):
        try:
            node.encode()
        except UnicodeEncodeError:
            raise NotPlain from None
        return str(node)
    if isinstance(node, float) and node - node == 0:
        return node
    if depth < _DEEPEST // 2 and type(node) is list:
        return [plain(item, depth + 1) for item in node]
    if depth < _DEEPEST // 2 and type(node) is Dict and all(isinstance(key, str) for key, _ in node.items()):
        return {plain(key): plain(value, depth + 1) for key, value in node.items()}
    raise NotPlain


def plain_key(key: Any) -> Any:
    """A key that is no text as JSON: numbers and None as they are, a tuple as a list, bytes as their digits.

    Raises:
        NotPlain: there is none.
    """
    content = bytes_of(key) if not isinstance(key, str) else None
    if isinstance(content, bytes):
        return {"bytes": content.hex()}
    if type(key) is tuple:
        return [plain(part) if isinstance(part, str) else plain_key(part) for part in key]
    if key is None or isinstance(key, (bool, int, float)):
        return plain(key)
    raise NotPlain


def key_of(kept: Any, depth: int = 0) -> tuple[Any] | None:
    """The key that ``plain_key`` told, in a tuple; None: it told none."""
    if isinstance(kept, dict):
        digits = kept.get("bytes")
        try:
            return (bytes.fromhex(digits),) if isinstance(digits, str) else None
        except ValueError:
            return None
    if isinstance(kept, list):
        parts = (
            [(part,) if isinstance(part, str) else key_of(part, depth + 1) for part in kept] if depth < 2 else [None]
        )
        return (tuple(part[0] for part in parts if part is not None),) if None not in parts else None
    return None if isinstance(kept, str) else (kept,)


def node_of(value: Any) -> Any:
    """The node for a value of JSON."""
    if isinstance(value, str):
        return fresh(value)
    if isinstance(value, list):
        return [node_of(item) for item in value]
    if isinstance(value, dict):
        return Dict([node_of(x) for pair in value.items() for x in pair])
    return value


def metadata_of(node: Any) -> dict[str, Any] | None:
    """``_metadata`` of a state_dict as JSON; None if it has none, or one that JSON cannot give back."""
    table = objects.fields(node).get("_metadata") if type(node) is Opaque else None
    if not objects.is_mapping(table):
        return None
    try:
        return {plain(path): plain(facts) for path, facts in objects.mapping_items(table)}
    except NotPlain:
        return None
