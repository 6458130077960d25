"""``ckpt hash``: a fingerprint of content, the same for the same weights in any container, order or file name.

What is hashed (version tag ``ckpt1``), all with SHA-256, all numbers in decimal ASCII, all text in UTF-8:

* a *tensor*: ``dtype NUL shape NUL`` (shape as ``12,3,3,3``, empty for a scalar), then its logical values: elements in
  row-major order, little-endian, through its strides, lazy conjugation and negation applied. Of a compound tensor:
  ``layout NUL dtype NUL shape NUL scheme NUL``, then, if it has values of its own (quantized ones have), ``NUL`` and the
  digest of those, then for each component, in the order of the file, its name, ``NUL``, and its own 32-byte digest;
  ``scheme`` is Python's text of the tuple (name, scale, zero point, axis), empty without one.
* a *section*: ``ckpt1 NUL``, then for each tensor, sorted by the UTF-8 bytes of its key: length of the key in bytes,
  ``NUL``, the key, and the tensor's 32-byte digest.
* the *whole*: the section's digest if there is one section; else ``ckpt1 NUL``, then for each section, sorted by its
  pointer: length of the pointer, ``NUL``, the pointer, and its digest.

Names that a safetensors header records as ties of others count as tensors. With ``structure`` a tensor is its first line alone. Entries that are no tensors, and tensors that ``state_dict()`` would
leave out, are not hashed; nor are devices, ``requires_grad``, ties, strides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from ..containers.copying import Progress
from ..containers.streaming import digest, in_order
from ..errors import CheckpointError
from ..formats import recorded
from ..formats.damage import Damage
from ..formats.logical import check_expansion, content_key, logical, scheme
from ..model.checkpoint import Checkpoint
from ..model.pointer import is_below, relative
from ..model.problem import Problem
from ..model.section import Section
from ..model.tensor import TensorInfo

SCHEMA = "ckpt-inspect/hash/1"
TAG = "ckpt1"


class TensorHash(NamedTuple):
    """One tensor: where it is, and the digest of its content (None: it could not be read)."""

    name: str
    key: str
    info: TensorInfo
    digest: bytes | None


class Fingerprint:
    """What :func:`hash` found.

    Attributes:
        checkpoint: the file, or the part of it.
        structure: whether values were left out.
        sections: digest of each, by pointer; None where a tensor of it could not be read.
        tensors: each tensor's, section by section in saved order.
        whole: the digest of all; None where something is lost: what is left is another checkpoint.
        problems: what could not be read.
    """

    def __init__(self, checkpoint: Checkpoint, structure: bool) -> None:
        self.checkpoint = checkpoint
        self.structure = structure
        self.sections: dict[str, bytes | None] = {}
        self.tensors: list[TensorHash] = []
        self.whole: bytes | None = None
        self.problems: list[str] = []

    @property
    def text(self) -> str:
        """``ckpt1:…`` in hexadecimal, ``ckpt1s:…`` of the structure alone; ``-`` if it could not be told."""
        return spelled(self.whole, self.structure)

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "path": self.checkpoint.path,
            "hash": self.text if self.whole is not None else None,
            "structure": self.structure,
            "sections": [
                {"section": pointer, "hash": spelled(value, self.structure) if value is not None else None}
                for pointer, value in self.sections.items()
            ],
            "tensors": [
                {"name": row.name, "hash": spelled(row.digest, self.structure) if row.digest is not None else None}
                for row in self.tensors
            ],
            "problems": [*self.checkpoint.problems, *self.problems],
        }

    def __repr__(self) -> str:
        return f"<hash of {self.checkpoint.path}: {self.text}>"


def spelled(value: bytes | None, structure: bool) -> str:
    """With its tag: digests of different definitions never look alike."""
    return "-" if value is None else f"{TAG}{'s' if structure else ''}:{value.hex()}"


def hash(checkpoint: Checkpoint, structure: bool = False, progress: Progress | None = None) -> Fingerprint:
    """Fingerprint the tensors of a checkpoint, or of a part of it; see the module for what precisely is hashed.

    Args:
        checkpoint: as opened or selected.
        structure: keys, dtypes and shapes only; no values are read.
        progress: called with the number of bytes just read.
    """
    found = Fingerprint(checkpoint, structure)
    rows = [
        (name, checkpoint.key_in_selection(section, info.key), section, info)
        for name, section, info in checkpoint.tensors()
        if info.persistent
    ]
    rows += _ties(checkpoint)
    views: dict[object, int] = {}  # tied tensors are read once
    first = [views.setdefault(content_key(info) or index, index) for index, (_, _, _, info) in enumerate(rows)]
    unique = list(dict.fromkeys(first))
    digests = dict(zip(unique, _digests([rows[index][3] for index in unique], structure, progress), strict=True))
    by_section: dict[str, list[tuple[str, bytes | None]]] = {pointer: [] for pointer in checkpoint.sections}
    for index, (name, key, section, info) in enumerate(rows):
        told = digests[first[index]]
        value = told if isinstance(told, bytes) else None
        if isinstance(told, str):
            found.problems.append(f"{name}: {told}")
        found.tensors.append(TensorHash(name, key, info, value))
        by_section[section.pointer].append((info.key, value))
    lost = any(Problem.of(problem).damage for problem in checkpoint.problems)
    found.sections = {pointer: None if lost else _joined(entries) for pointer, entries in by_section.items()}
    names = [(_seen(checkpoint, pointer), value) for pointer, value in found.sections.items()]
    found.whole = names[0][1] if len(names) == 1 else None if lost else _joined(names)
    return found


def _digests(infos: list[TensorInfo], structure: bool, progress: Progress | None) -> Iterator[bytes | str]:
    """The digest of each, or why there is none: bytes that fail their checksum are not what was saved."""
    damage = Damage()

    def tasks() -> Iterator[Callable[[], bytes | str | None]]:
        for info in infos:
            yield partial(_tensor, info, structure, progress)
            if not structure:
                yield from damage.tasks(info)

    found = [done for done in in_order(tasks()) if done is not None]
    for info, done in zip(infos, found, strict=True):
        hurt = damage.of(info) if isinstance(done, bytes) else []
        yield "; ".join(hurt) or done


def _ties(checkpoint: Checkpoint) -> list[tuple[str, str, Section, TensorInfo]]:
    """Names that a header records as ties of others, for the format has none: they are weights as well."""
    section = checkpoint.sections.get("")
    if section is None or checkpoint.format not in ("safetensors", "sharded"):
        return []
    ties = recorded.of(checkpoint).ties
    return [(section.name_of(key), key, section, section.tensors[kept].with_key(key)) for key, kept in ties.items()]


def _seen(checkpoint: Checkpoint, pointer: str) -> str:
    """The pointer as seen from the selected part."""
    base = checkpoint.selected or ""
    return relative(pointer, base) if is_below(pointer, base) and pointer != base else "" if base else pointer


def _joined(entries: list[tuple[str, bytes | None]]) -> bytes | None:
    """Names and digests, sorted by the bytes of the name."""
    value = hashlib.sha256(TAG.encode() + b"\0")
    for name, one in sorted((name.encode("utf-8", "surrogatepass"), one) for name, one in entries if one is not None):
        value.update(b"%d\0" % len(name) + name + one)
    return value.digest() if all(one is not None for _, one in entries) else None


def _tensor(info: TensorInfo, structure: bool, progress: Progress | None) -> bytes | str:
    """The digest of one tensor, or why there is none."""
    try:
        return _digest(info, structure, progress)
    except CheckpointError as error:
        return error.beside(info.key)


def _digest(info: TensorInfo, structure: bool, progress: Progress | None) -> bytes:
    dims = ",".join(map(str, info.shape))
    plain = not info.parts and info.layout == "strided"
    kind = scheme(info)
    if plain and kind is None:
        value = hashlib.sha256(f"{info.dtype}\0{dims}\0".encode())
        if not structure and info.device != "meta":
            check_expansion(info)
            digest(logical(info), value, progress)
        return value.digest()
    facts = "" if kind is None or structure else repr(tuple(kind))
    value = hashlib.sha256(f"{info.layout}\0{info.dtype}\0{dims}\0{facts}\0".encode())
    if info.storage is not None:
        inner = hashlib.sha256(b"")
        if not structure:
            check_expansion(info)
            digest(logical(info), inner, progress)
        value.update(b"\0" + inner.digest())
    for part in info.parts:
        value.update(part.key.encode("utf-8", "surrogatepass") + b"\0" + _digest(part, structure, progress))
    return value.digest()
