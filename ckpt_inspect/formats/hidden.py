"""Storages where no section looks: in sets, in keys, in attributes of what is filled, in calls that nobody here knows."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from ..errors import LimitError
from ..model import pointer as pointers
from ..model.graph import Dict, Opaque, Persistent, Pickle, Set
from . import objects
from .rebuild import is_rebuild, is_storage, storage_key


class Hidden(NamedTuple):
    """One of them.

    Attributes:
        key: of the storage.
        name: of the place, as a pointer; of a storage in a call, that of the call.
        node: the call that makes a tensor of the storage; else the storage itself.
        understood: False where it is an argument of a call that nobody here knows.
    """

    key: str
    name: str
    node: Any
    understood: bool


class _Place(NamedTuple):
    """A node, how it is called in what holds it (a name, or a key and its number), and that."""

    node: Any
    label: str | tuple[Any, int]
    parent: _Place | None
    call: _Place | None  # the call whose argument it is
    tensor: _Place | None = None  # the rebuild call that it is part of

    @property
    def name(self) -> str:
        labels: list[str | tuple[Any, int]] = []
        place: _Place | None = self
        while place is not None and place.parent is not None:
            labels.append(place.label)
            place = place.parent
        segments: list[str] = []
        for label in reversed(labels):
            if label != _NO_LEVEL:
                text = objects.key_text(*label)[0] if type(label) is tuple else str(label)
                segments.append(pointers.escape(text))
        return "/".join(segments) or ("/" if segments else "")


_MOST_CHARACTERS = 20_000_000
_NO_LEVEL = "<level>"
_ENTERED = frozenset([Opaque, Persistent, Dict, Set, list, tuple])


def hidden(pickle: Pickle, keys: Collection[str], known: Collection[int] = ()) -> Iterator[Hidden]:
    """Where a pickle names the storages ``keys``, each place once, in the order of the file.

    Args:
        pickle: its graph is walked by identity, each node once.
        keys: of the storages.
        known: ``id`` of the nodes that need not be looked into.

    Raises:
        LimitError: names that no honest file spells.
    """
    seen: set[int] = set(known)
    told: set[tuple[int, str]] = set()
    spelled = 0
    waiting = [_Place(pickle.root, "", None, None)]
    while waiting:
        place = waiting.pop()
        node = place.node
        if id(node) in seen:
            continue
        seen.add(id(node))
        if is_storage(node):
            key = storage_key(node)
            if key is None or key not in keys:
                continue
            if place.tensor is not None:
                found = Hidden(key, place.tensor.name, place.tensor.node, True)
            elif place.call is not None:
                found = Hidden(key, place.call.name, node, False)
            else:
                found = Hidden(key, place.name, node, True)
            if (id(found.node), found.key) not in told:
                told.add((id(found.node), found.key))
                spelled += len(found.name)
                if spelled > _MOST_CHARACTERS:
                    raise LimitError(f"names that are too long for so many storages ({found.name[:40]!r}…): refused")
                yield found
            continue
        tensor = place.tensor
        if tensor is None and is_rebuild(node):
            tensor = place
        inside = _inside(place, tensor)
        waiting += reversed([child for child in inside if type(child.node) in _ENTERED])


def _inside(place: _Place, tensor: _Place | None) -> list[_Place]:
    node, call = place.node, place.call
    if type(node) in (list, tuple):
        return [_Place(item, str(index), place, call, tensor) for index, item in enumerate(node)]
    if type(node) is Set:
        return [_Place(item, str(index), place, None, tensor) for index, item in enumerate(node.members)]
    if type(node) is Dict:
        return _pairs(node.pairs, place)
    if type(node) is not Opaque:
        return []
    found: list[_Place] = []
    if node.qualname.rpartition(".")[2] in ("set", "frozenset"):  # protocols 0 to 3: the members are an argument
        args = node.args if type(node.args) is tuple else (node.args,)
        found += [_Place(item, _NO_LEVEL, place, None, tensor) for item in args]
    else:
        args = node.args if type(node.args) is tuple else (node.args,)
        found += [_Place(item, f"<argument {index}>", place, place, tensor) for index, item in enumerate(args)]
    found.append(_Place(node.kwargs, "<arguments>", place, place, tensor))
    filled = any(op != "BUILD" for op, _ in node.ops or ())
    count = 0
    for op, payload in node.ops or ():
        if op == "SETITEMS":
            found += _pairs(payload, place)
        elif op == "BUILD":
            within = _Place(None, "<attributes>" if filled else _NO_LEVEL, place, None)
            parts = payload if type(payload) is tuple and len(payload) == 2 else (payload,)
            for part in parts:
                if type(part) is Dict:
                    found += _pairs(part.pairs, within)
                else:
                    found.append(_Place(part, "<state>", place, place, tensor))
        else:
            found += [_Place(item, str(count + index), place, None, tensor) for index, item in enumerate(payload)]
            count += len(payload)
    return found


def _pairs(pairs: list[Any], place: _Place) -> list[_Place]:
    # what a tensor holds in a dictionary is no part of its call: it has a name of its own
    keys = _Place(None, "<keys>", place, None)
    found: list[_Place] = []
    for index, (key, value) in enumerate(zip(pairs[::2], pairs[1::2], strict=True)):
        if type(key) in _ENTERED:
            found.append(_Place(key, str(index), keys, None))
        if type(value) in _ENTERED:
            found.append(_Place(value, (key, index), place, None))
    return found
