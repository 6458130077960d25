"""A plain pickle that holds tensors: each storage is ``torch.storage._load_from_bytes`` of a nested stream."""

from __future__ import annotations

import re
from typing import Any

from ..dtypes import DType
from ..errors import CheckpointError, CorruptError, FormatError
from ..model.checkpoint import Checkpoint
from ..model.graph import Opaque, Persistent, Pickle
from ..model.source import Source
from ..model.storage import Container, Storage
from ..pickles.limits import DEFAULT, Limits
from ..pickles.machine import read_pickle
from . import official, torch_legacy
from .finish import finish
from .inline import bytes_of, source_of
from .rebuild import Malformed, Rebuilder, Storages
from .sections import Builder

NAME = "pickle"


# What a pickle can begin with: PROTO, or any opcode that needs no value before it.
_FIRST = b"\x80(c}])IJKMLGFSUTVXNPBC\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x95\x96"
_SMALLEST = 256  # no stream of a storage is shorter
_NAME = re.compile(r"[\w.<>]{1,200}")


def matches(head: bytes, source: Source) -> bool:
    return head[:1] != b"" and head[:1] in _FIRST and not (head[0] == 0x80 and head[1:2] > b"\x05")


def is_certain(error: CheckpointError) -> bool:
    """Whether bytes that could not be read are a pickle all the same: they named things to import."""
    partial: Pickle | None = error.__dict__.get("partial")
    if partial is None:
        return not isinstance(error, CorruptError)
    if partial.protocol >= 2 and error.offset is not None and error.offset - partial.start > 4:
        return True  # PROTO, a number that exists, and opcodes after it
    return bool(partial.globals) and all(_NAME.fullmatch(node.qualname) for node in partial.globals)


class NestedStorages(Storages):
    """Storages inside the pickle's own bytes."""

    def __init__(self, container: Container, problems: list[str], limits: Limits) -> None:
        super().__init__(container.records, "", "little", problems)
        self.path = container.path
        self.limits = limits
        self._nested: dict[int, tuple[Storage, DType, Any] | str] = {}  # by identity of the call; or what is wrong
        self._room = 2 * container.source.size  # bytes that may still be read: calls can share theirs

    def get(self, node: Any) -> tuple[Storage, DType, Any]:
        if type(node) is not Opaque or node.qualname != "torch.storage._load_from_bytes":
            return super().get(node)
        known = self._nested.get(id(node))
        if known is None:
            try:
                known = self._read(node)
            except Malformed as error:
                known = str(error)
            self._nested[id(node)] = known
        if isinstance(known, str):
            raise Malformed(known)
        return known

    def _read(self, node: Opaque) -> tuple[Storage, DType, Any]:
        content = bytes_of(node.args[0]) if type(node.args) is tuple and node.args else None
        if content is None:
            raise Malformed("a nested storage without bytes")
        source = source_of(content, self.path)
        self._room -= max(source.size, _SMALLEST)
        if self._room < 0:
            raise Malformed("a nested storage too many: they share their bytes")
        prefix = f"nested/{len(self._nested)}/"
        try:
            _, storages, pickle = torch_legacy.read_stream(source, NAME, self.problems, self.limits)
        except CheckpointError as error:
            raise Malformed(f"the nested storage cannot be read: {error.message}") from error
        if type(pickle.root) is not Persistent:
            raise Malformed("the nested file holds no storage")
        storage, dtype, cls = storages.get(pickle.root)
        storage.id = prefix + storage.id
        return storage, dtype, cls


def read(source: Source, limits: Limits = DEFAULT) -> Checkpoint:
    """Open a plain pickle.

    Raises:
        FormatError: it holds no tensors; what it would import is named.
    """
    checkpoint = Checkpoint(source.path, NAME, source.size)
    container = Container(source.path, NAME, source)
    try:
        pickle = read_pickle(source, 0, limits)
    except CorruptError as error:
        error.path = source.path
        if is_certain(error):
            error.message = f"a pickle that breaks: {error.message}{_would_import(error.__dict__['partial'])}"
        raise
    container.graphs["pickle"] = pickle
    checkpoint.containers.append(container)
    storages = NestedStorages(container, checkpoint.problems, limits)
    builder = Builder(Rebuilder(storages, source.path), checkpoint.problems, limits)
    builder.build(pickle)
    builder.fill(checkpoint)
    if not builder.sections and not any(value.type == "numpy.ndarray" for value in builder.values):
        raise _no_tensors(source.path, pickle)
    if pickle.end < source.size:
        container.facts["trailing"] = f"{source.size - pickle.end:,} bytes after STOP"
    checkpoint.facts.update(container.facts)
    checkpoint.facts["writer"] = f"pickle.dump, protocol {pickle.protocol}"
    return finish(checkpoint)


def _would_import(pickle: Pickle) -> str:
    named = ", ".join(dict.fromkeys(node.qualname for node in pickle.globals))
    return f"; unpickling it would import {named[:300]}" if named else ""


def _no_tensors(path: str, pickle: Pickle) -> CheckpointError:
    names = {node.qualname for node in pickle.globals}
    if "torch.distributed.checkpoint.metadata.Metadata" in names:
        return official.distributed(path, "the metadata of a distributed checkpoint")
    return FormatError(
        f"a pickle without tensors, not a checkpoint{_would_import(pickle)}",
        path=path,
        hint="Do not unpickle it unless you trust who made it: unpickling runs what it names." if names else None,
    )
