"""Tensors under names: what of a checkpoint safetensors can hold, as one file or as shards with an index."""

from __future__ import annotations

import json
from collections.abc import Iterator
from glob import escape
from typing import Any, NamedTuple

from ..containers.copying import Piece
from ..dtypes import BY_NAME, BY_SAFETENSORS
from ..errors import SelectionError, UnsupportedError
from ..model.checkpoint import Checkpoint
from ..model.lost import Lost, listed
from ..model.made import Joined
from ..model.section import Section
from ..model.source import BytesSource, Source
from ..model.spelling import shell_path, shell_word
from ..model.tensor import TensorInfo
from . import beside, recorded
from .logical import FROM_TYPE, REBUILT_PARAMETER, attributes_of, logical
from .recorded import Recorded
from .rewrite import header_text

_BARE = "tensor"  # the name of a tensor that has none


class Tensor(NamedTuple):
    """A tensor to be written."""

    key: str
    code: str
    shape: tuple[int, ...]
    source: Source


class Named:
    """What is written, and what is not.

    Attributes:
        tensors: in saved order, each storage's bytes once.
        recorded: what the format has no place for.
        foreign: what else is in the ``__metadata__`` of the source.
        lost: what is left behind, and why.
        notes: what else is to be known, in words.
    """

    def __init__(self, kept: Recorded) -> None:
        self.tensors: list[Tensor] = []
        self.recorded = kept
        self.foreign: dict[str, str] = {}
        self.lost: list[Lost] = []
        self.notes: list[str] = []


def named(checkpoint: Checkpoint, untie: bool = False, skip: bool = False) -> Named:
    """The tensors of the one section of a checkpoint.

    Args:
        checkpoint: the whole file, or the part that is meant.
        untie: write a copy for every name, instead of recording that they are one tensor.
        skip: leave out what safetensors cannot hold.

    Raises:
        SelectionError: several sections; they are listed.
        UnsupportedError: tensors that safetensors cannot hold; they are named.
    """
    section = _only(checkpoint)
    has_header = checkpoint.format in ("safetensors", "sharded")
    found = Named(recorded.of(checkpoint) if has_header else Recorded())
    found.foreign = recorded.foreign(checkpoint) if has_header else {}
    found.recorded.bare |= section.kind == "tensor"
    refused = _take(section, found, untie, has_header)
    if refused and not skip:
        raise _refusal(refused, checkpoint.path)
    found.lost += [Lost(section.name_of(key), f"{why}, which safetensors cannot hold") for key, why in refused]
    if untie:
        found.recorded.ties.clear()
    if not has_header:
        found.lost += beside.record(checkpoint, section, found.recorded, {key for key, _ in refused})
    _note_keys(found, section)
    _say(found, "kept as text in __metadata__, where it stays", list(found.recorded.values))
    kept = {key: info for key, info in section.tensors.items() if info.persistent and not _unfit(key, info)}
    attributes = [f"{key}.{name}" for key, info in kept.items() for name in attributes_of(info)]
    _say(found, "attributes of tensors are left behind", attributes)
    _say(found, "become plain tensors", [f"{key} ({info.cls})" for key, info in kept.items() if _is_subclass(info)])
    _say(found, "share memory without being the same, and become apart", _overlapping(section))
    return found


def _take(section: Section, found: Named, untie: bool, has_header: bool) -> list[Lost]:
    """Sort the tensors of a section; those that safetensors cannot hold, and why."""
    refused: list[Lost] = []
    ties: dict[Any, str] = {}
    for key, info in section.tensors.items():
        name = key if section.kind != "tensor" else _BARE
        if not info.persistent:
            if section.kind == "module":
                found.lost.append(Lost(section.name_of(key), "not in state_dict()"))
            continue
        if section.kind in ("state_dict", "other", "tensor"):
            _note_facts(found.recorded, name, info)
        why = _unfit(name, info)
        if why is not None:
            refused.append(Lost(name, why))
            continue
        if not untie and (kept := ties.setdefault(_identity(info) or key, name)) != name:
            found.recorded.ties[name] = kept
        else:
            found.tensors.append(_tensor(name, info))
        if not has_header:
            found.recorded.order.append(name)
    return refused


def _note_keys(found: Named, section: Section) -> None:
    """What became of keys that are no text."""
    kept = found.recorded
    _say(found, "keys that are no text are recorded in __metadata__, and come back in a .pt file", list(kept.keys))
    _say(found, "keys that are no text become it", kept.renamed)
    if type(section.node) in (list, tuple):
        found.notes.append(f"a {type(section.node).__name__} becomes names: 0, 1, …, and does not come back as one")


def _only(checkpoint: Checkpoint) -> Section:
    sections = [section for section in checkpoint.sections.values() if section.tensors]
    if not sections:
        raise SelectionError("it holds no tensors", path=checkpoint.path)
    if len(sections) > 1:
        names = listed(section.pointer or "(root)" for section in sections)
        raise SelectionError(
            f"safetensors holds one section, here are {len(sections)}: {names}",
            path=checkpoint.path, hint=_way_out(checkpoint, sections),
        )  # fmt: skip
    if sections[0].kind == "optimizer":
        raise UnsupportedError(
            "the state of an optimizer is more than named tensors", path=checkpoint.path, hint="Keep it in a .pt file."
        )
    return sections[0]


def _way_out(checkpoint: Checkpoint, sections: list[Section]) -> str:
    """What to type instead: a section, or, where the weights are the root's and the others lie in it, without them."""
    pointers_of = [section.pointer for section in sections]
    offered = [pointer for pointer in checkpoint.candidates() if pointer] or [p for p in pointers_of if p]
    hint = f"Name one: {shell_path(f'{checkpoint.path}#{offered[0]}')}"
    if checkpoint.candidates() == [""]:
        tops = dict.fromkeys(pointer.partition("/")[0] for pointer in pointers_of if pointer)
        hint += f"; or leave the others out: {' '.join(f'--drop {shell_word(escape(top))}' for top in tops)}"
    return hint


def _unfit(name: str, info: TensorInfo) -> str | None:
    """Why safetensors cannot hold a tensor."""
    row = BY_NAME.get(info.dtype)
    if name == "__metadata__":
        return "the name is the format's own"
    if not name.isascii() and not beside.is_text(name):
        return beside.HALF
    if info.layout != "strided":
        return info.layout
    if row is None or row.safetensors is None:
        return info.dtype
    if info.storage is None:
        return "on meta, without bytes" if info.device == "meta" and not info.parts else f"a {info.cls or 'subclass'}"
    if info.dtype == "float4_e2m1fn_x2" and not info.shape:
        return "a single float4 pair"
    return None


def _is_subclass(info: TensorInfo) -> bool:
    return info.cls not in (None, "torch.storage")


def _identity(info: TensorInfo) -> Any:
    return info.view_of if info.numel else None


def _tensor(key: str, info: TensorInfo) -> Tensor:
    row = BY_NAME[info.dtype]
    assert row.safetensors is not None
    shape = info.shape
    if info.dtype == "float4_e2m1fn_x2":  # two values in a byte, which torch counts as one
        shape = (*shape[:-1], 2 * shape[-1])
    return Tensor(key, row.safetensors, shape, logical(info))


def _note_facts(kept: Recorded, key: str, info: TensorInfo) -> None:
    if info.requires_grad:
        kept.grads.add(key)
    name = getattr(info.node, "qualname", "")
    if name in REBUILT_PARAMETER or name == "torch.nn.parameter.Parameter" or (
        name in FROM_TYPE and getattr(info.node.args[1], "qualname", "") == "torch.nn.parameter.Parameter"
    ):  # fmt: skip
        kept.parameters.add(key)


def _say(found: Named, what: str, names: list[str]) -> None:
    if names:
        found.notes.append(f"{what}: {listed(names)}")


def _overlapping(section: Section) -> list[str]:
    """Names of tensors that overlap others in memory without being tied to them."""
    spans: dict[Any, list[tuple[int, int, Any, str]]] = {}
    for key, info in section.tensors.items():
        if info.storage is not None and info.persistent and info.stride is not None and 0 not in info.shape:
            size = BY_NAME[info.dtype].itemsize
            start = info.storage_offset * size
            last = start + sum((n - 1) * step for n, step in zip(info.shape, info.stride, strict=True)) * size
            spans.setdefault(info.storage, []).append((start, last + size, _identity(info), key))
    found = []
    for views in spans.values():
        if len({view for _, _, view, _ in views}) < 2:
            continue
        views.sort(key=lambda span: span[:2])
        end, before = -1, None
        for start, stop, view, key in views:
            if start < end and view != before:
                found.append(key)
            if stop > end:
                end, before = stop, view
    return found


def _refusal(refused: list[Lost], path: str) -> UnsupportedError:
    what = listed(f"{name} ({why})" for name, why in refused)
    return UnsupportedError(f"safetensors cannot hold {what}", path=path, hint="Leave them out: --skip-unsupported")


# -- files ------------------------------------------------------------------------------------------------------


def one_file(path: str, tensors: list[Tensor], metadata: dict[str, str]) -> Joined:
    """A safetensors file: the header in saved order, the bytes aligned by element size as its library has them."""
    by_size = sorted(range(len(tensors)), key=lambda i: -_bits(tensors[i]))
    place: dict[int, tuple[int, int]] = {}
    end = 0
    for i in by_size:
        place[i] = end, end + tensors[i].source.size
        end += tensors[i].source.size
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    for i, tensor in enumerate(tensors):
        header[tensor.key] = {"dtype": tensor.code, "shape": list(tensor.shape), "data_offsets": list(place[i])}
    text = header_text(header)
    pieces: list[Piece] = [len(text).to_bytes(8, "little") + text]
    pieces += [tensors[i].source for i in by_size if tensors[i].source.size]
    return Joined(path, pieces)


def _bits(tensor: Tensor) -> int:
    return BY_SAFETENSORS[tensor.code].bits


def metadata_of(found: Named) -> dict[str, str]:
    ours = found.recorded.to_text([tensor.key for tensor in found.tensors])
    return {**found.foreign, "format": "pt", recorded.NAME: ours}


INDEX = "model.safetensors.index.json"


def shards(folder: str, found: Named, most: int) -> dict[str, Source]:
    """Shards of at most ``most`` bytes of tensors, a larger tensor alone in one, and the index (formats 11)."""
    parts = list(_parts(found.tensors, most))
    files: dict[str, Source] = {}
    weight_map: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        name = f"model-{number:05}-of-{len(parts):05}.safetensors"
        files[name] = one_file(f"{folder}/{name}", part, {"format": "pt"})
        weight_map.update((tensor.key, name) for tensor in part)
    total = sum(tensor.source.size for tensor in found.tensors)
    ours = found.recorded.to_text([tensor.key for tensor in found.tensors])
    ordered = {tensor.key: weight_map[tensor.key] for tensor in found.tensors}
    index = {"metadata": {**found.foreign, "total_size": total, recorded.NAME: ours}, "weight_map": ordered}
    try:
        text = json.dumps(index, indent=2, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError as error:
        raise UnsupportedError("an index cannot hold a key with a lone surrogate") from error
    files[INDEX] = BytesSource(text, f"{folder}/{INDEX}")
    return files


def _parts(tensors: list[Tensor], most: int) -> Iterator[list[Tensor]]:
    part: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if part and size + tensor.source.size > most:
            yield part
            part, size = [], 0
        part.append(tensor)
        size += tensor.source.size
    if part:
        yield part
