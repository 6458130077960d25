"""What is whole of a damaged checkpoint, as a new one: the graph without what is lost, and the bytes that are there."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from operator import is_
from typing import Any

from ..containers.copying import Piece
from ..containers.zip_build import Content, build
from ..model.graph import Dict, Opaque, Pickle, Set
from ..model.source import BytesSource
from ..model.storage import Container
from ..model.tensor import TensorInfo
from ..pickles.machine import read_pickle
from ..pickles.writer import write_pickle
from .rebuild import is_storage, storage_dtype, storage_keys
from .renames import with_pairs
from .stock import Stock

_LEFT_OUT = frozenset(
    [".format_version", ".storage_alignment", ".data/serialization_id"]
)  # no longer true: formats 4.4

_LAST_VERSION = 10  # that torch reads: formats 1.2


# -- the graph without what is lost -----------------------------------------------------------------------------


def new_pickle(pickle: Pickle, lost: Collection[int]) -> bytes:
    """The pickle without the nodes whose ``id`` is in ``lost``; entries of mappings and members of sets go, elsewhere
    they become None."""
    replaced: dict[int, Any] = {}
    kept: list[Any] = []
    seen: set[int] = set()
    waiting: list[tuple[Any, bool]] = [(pickle.root, False)]  # node, and whether it holds attributes of an object
    while waiting:
        node, attributes = waiting.pop()
        if id(node) in seen or id(node) in lost:
            continue
        seen.add(id(node))
        members = _members(node)
        if members is not None and id(members) not in seen:  # before what holds it is looked into
            seen.add(id(members))
            replaced[id(members)] = [item for item in members if id(item) not in lost]
            waiting += ((item, False) for item in members)
        made = _without(node, lost, attributes)
        if made is not None:
            replaced[id(node)] = made
            kept.append(node)
        waiting += _inside(node, attributes)
    return write_pickle(pickle.root, pickle.protocol, replaced)


def _members(node: Any) -> list[Any] | None:
    """The list that a set is made of, as protocols 0 to 3 spell it; None for anything else."""
    if type(node) is not Opaque or node.qualname.rpartition(".")[2] not in ("set", "frozenset"):
        return None
    args = node.args
    return args[0] if type(args) is tuple and len(args) == 1 and type(args[0]) is list else None


_TABLES = frozenset(["_parameters", "_buffers", "_modules"])


def _inside(node: Any, attributes: bool) -> Iterator[tuple[Any, bool]]:
    if type(node) in (list, tuple):
        yield from ((item, attributes and type(item) is Dict) for item in node)
    elif type(node) is Set:
        yield from ((item, False) for item in node.members)
    elif type(node) is Dict:
        for key, value in node.items():
            yield key, False
            yield value, attributes and isinstance(key, str) and key in _TABLES
    elif type(node) is Opaque:
        yield node.args, False
        yield node.kwargs, False
        for op, payload in node.ops or ():
            if op == "BUILD":
                yield payload, True
            else:
                yield from ((item, attributes) for item in payload)


def _without(node: Any, lost: Collection[int], attributes: bool) -> Any:
    """A copy of one node without the lost ones it holds, None if it holds none."""
    if type(node) in (list, tuple):
        if not any(id(item) in lost for item in node):
            return None
        return type(node)(None if id(item) in lost else item for item in node)
    if type(node) is Set:
        if not any(id(item) in lost for item in node.members):
            return None
        return Set([item for item in node.members if id(item) not in lost], node.frozen)
    if type(node) is Dict:
        left = _pairs(node.pairs, lost, attributes)
        return None if _same(left, node.pairs) else Dict(left)
    if type(node) is not Opaque or not node.ops:
        return None
    ops: list[tuple[str, Any]] = []
    changed = False
    for op, payload in node.ops:
        if op == "BUILD":
            ops.append((op, payload))
            continue
        if op == "SETITEMS":
            left = _pairs(payload, lost, attributes)
        elif op == "ADDITEMS":
            left = [item for item in payload if id(item) not in lost]
        else:
            left = [None if id(item) in lost else item for item in payload]
        changed = changed or not _same(left, payload)
        ops += [(op, left)] if left else []
    if not changed:
        return None
    copy = with_pairs(node, [])
    copy.ops = ops
    return copy


def _same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(map(is_, one, other))


def _is_lost(key: Any, lost: Collection[int]) -> bool:
    """Whether a key is lost: tuples without a part of them would meet one another."""
    return id(key) in lost or (type(key) is tuple and any(id(part) in lost for part in key))


def _pairs(pairs: list[Any], lost: Collection[int], attributes: bool) -> list[Any]:
    found: list[Any] = []
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        if _is_lost(key, lost):
            continue
        if id(value) not in lost:
            found += [key, value]
        elif attributes:
            found += [key, None]
    return found


# -- containers -------------------------------------------------------------------------------------------------


def zip_contents(
    container: Container, data: bytes, stocks: Mapping[str, Stock], fill: str | None, whole: Collection[str]
) -> list[Content]:
    """The records of a new torch zip: the pickle, the storages it names in their order, and what else is whole."""
    pickle = read_pickle(BytesSource(data, container.path))
    order = container.records.get("byteorder")
    big = order is not None and order.nbytes == 3
    contents = [Content("data.pkl", [data]), Content("byteorder", [b"big" if big else b"little"])]
    known: set[str] = set()
    for node in pickle.persistent:
        if not is_storage(node) or not isinstance(node.pid[2], (str, int)):
            continue
        name = f"data/{node.pid[2]}"
        stock = stocks.get(name)
        if stock is not None and name not in known:
            known.add(name)
            contents.append(Content(name, stock.pieces(fill, "big" if big else "little")))
    taken = {"data.pkl", "byteorder", "version"}
    others = [
        name
        for name in container.records
        if name in whole and not name.startswith("data/") and name not in _LEFT_OUT and _is_text(name)
    ]
    for name in others:
        if name.lower() not in taken:  # a bit makes another case of a name: torch takes both for the same
            taken.add(name.lower())
            record = container.records[name]
            contents.append(Content(name, [record.source.slice(0, record.nbytes)]))
    version = container.records.get("version")
    text = version.source.read_at(0, 16) if version is not None and "version" in whole else b""
    if not text.strip().isdigit() or not 1 <= int(text) <= _LAST_VERSION:  # torch refuses it
        text = b"3\n"
    return [*contents, Content("version", [text])]


def _is_text(name: str) -> bool:
    """A name with a bit flipped may be none: programs would refuse the whole archive for it."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def zip_pieces(root: str, contents: list[Content]) -> Iterator[Piece]:
    return build(root, contents)


def legacy_pieces(container: Container, data: bytes, stocks: Mapping[str, Stock], fill: str | None) -> list[Piece]:
    """A legacy stream: head, the new pickle, the keys that are left, each with its length (formats 6)."""
    pickle: Pickle = container.graphs["object"]
    keys: Pickle | None = container.graphs.get("storage keys")  # None: it was cut off
    new = read_pickle(BytesSource(data, container.path))
    needed = storage_keys(new)
    sizes: dict[str, int] = {}
    for node in new.persistent:
        dtype = storage_dtype(node.pid[1]) if is_storage(node) else None
        if dtype is not None and isinstance(node.pid[2], (str, int)):
            sizes.setdefault(str(node.pid[2]), dtype.itemsize)
    order = keys.root if keys is not None and type(keys.root) is list else sorted(needed)
    named = [key for key in order if isinstance(key, (str, int))]
    left = [key for key in named if str(key) in needed and str(key) in stocks and str(key) in sizes]
    pieces: list[Piece] = [container.source.slice(0, pickle.start), data, write_pickle(left, pickle.protocol)]
    for key in left:
        stock = stocks[str(key)]
        pieces.append((stock.nbytes // sizes[str(key)]).to_bytes(8, "little", signed=True))
        pieces += stock.pieces(fill)
    return pieces


def safetensors_pieces(
    container: Container, kept: Mapping[str, TensorInfo], stocks: Mapping[str, Stock], fill: str | None
) -> list[Piece]:
    """A safetensors file of some of its tensors, without holes (formats 11)."""
    header: dict[str, Any] = container.graphs["header"]
    new: dict[str, Any] = {}
    content: list[Piece] = []
    end = 0
    placed = sorted((header[key]["data_offsets"][0], key) for key in kept)
    offsets: dict[str, list[int]] = {}
    for _, key in placed:
        storage = kept[key].storage
        assert storage is not None
        stock = stocks[storage.id]
        offsets[key] = [end, end + stock.nbytes]
        content += stock.pieces(fill)
        end += stock.nbytes
    for key, entry in header.items():
        if key == "__metadata__":
            new[key] = entry
        elif key in kept:
            new[key] = {**entry, "data_offsets": offsets[key]}
    text = json.dumps(new, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little") + text, *content]
