"""Tensors under names: what of a checkpoint safetensors can hold, as one file or as shards with an index."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from ..containers.copying import Piece
from ..dtypes import BY_NAME, BY_SAFETENSORS
from ..errors import SelectionError, UnsupportedError
from ..model import pointer as pointers
from ..model.checkpoint import Checkpoint
from ..model.made import Joined
from ..model.section import Section, Value
from ..model.source import BytesSource, Source
from ..model.tensor import TensorInfo
from . import objects, recorded, values
from .logical import FROM_TYPE, REBUILT_PARAMETER, logical
from .recorded import Recorded
from .rewrite import header_text

_BARE = "tensor"  # the name of a tensor that has none
_SHOWN = 6


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
        notes: what is lost, in words.
    """

    def __init__(self, kept: Recorded) -> None:
        self.tensors: list[Tensor] = []
        self.recorded = kept
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
    found.recorded.bare |= section.kind == "tensor"
    refused: list[tuple[str, str]] = []
    left: list[str] = []
    ties: dict[Any, str] = {}
    for key, info in section.tensors.items():
        name = key if section.kind != "tensor" else _BARE
        why = _unfit(name, info)
        if not info.persistent:
            left.append(name)
        elif why is not None:
            refused.append((name, why))
        elif not untie and (kept := ties.setdefault(_identity(info) or key, name)) != name:
            found.recorded.ties[name] = kept
        else:
            found.tensors.append(_tensor(name, info))
        if info.persistent and why is None and not has_header:
            found.recorded.order.append(name)
        if section.kind in ("state_dict", "tensor") and info.persistent:
            _note_facts(found.recorded, name, info)
    if refused and not skip:
        raise _refusal(refused, checkpoint.path)
    _say(found, "left out, for safetensors cannot hold them", [f"{name} ({why})" for name, why in refused])
    if section.kind == "module":
        _say(found, "not in state_dict(), and left out", left)
    if untie:
        found.recorded.ties.clear()
    if not has_header:
        _others(checkpoint, section, found, {name for name, _ in refused})
    _say(found, "keys that are no text become it", _odd_keys(section))
    _say(found, "share memory without being the same, and become apart", _overlapping(section))
    return found


def _odd_keys(section: Section) -> list[str]:
    """Keys of other types, as a person would write them: the format knows text alone."""
    if section.kind == "module" or not objects.is_mapping(section.node):
        return []
    return [values.leaf(key).text for key, _ in objects.mapping_items(section.node) if not isinstance(key, str)]


def _only(checkpoint: Checkpoint) -> Section:
    sections = [section for section in checkpoint.sections.values() if section.tensors]
    if not sections:
        raise SelectionError("it holds no tensors", path=checkpoint.path)
    if len(sections) > 1:
        listed = ", ".join(section.pointer or "(root)" for section in sections[:_SHOWN])
        candidates = [pointer for pointer in checkpoint.candidates() if pointer] or [sections[0].pointer]
        raise SelectionError(
            f"safetensors holds one section, here are {len(sections)}: {listed}",
            path=checkpoint.path, hint=f"Name one: {checkpoint.path}#{candidates[0]}",
        )  # fmt: skip
    if sections[0].kind == "optimizer":
        raise UnsupportedError(
            "the state of an optimizer is more than named tensors", path=checkpoint.path, hint="Keep it in a .pt file."
        )
    return sections[0]


def _unfit(name: str, info: TensorInfo) -> str | None:
    """Why safetensors cannot hold a tensor."""
    row = BY_NAME.get(info.dtype)
    if name == "__metadata__":
        return "the name is the format's own"
    if not name.isascii() and not _is_text(name):
        return "half a character in its name"
    if info.layout != "strided":
        return info.layout
    if row is None or row.safetensors is None:
        return info.dtype
    if info.storage is None:
        return "on meta, without bytes" if info.device == "meta" and not info.parts else f"a {info.cls or 'subclass'}"
    if info.dtype == "float4_e2m1fn_x2" and not info.shape:
        return "a single float4 pair"
    return None


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


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


def _others(checkpoint: Checkpoint, section: Section, found: Named, refused: set[str]) -> None:
    """Entries that are no tensors: plain data is recorded, anything else is said to be lost."""
    kept = found.recorded
    lost: list[str] = []
    if section.kind == "state_dict" and objects.is_mapping(section.node):
        kept.metadata = recorded.metadata_of(section.node)
        if section.metadata is not None and kept.metadata is None:
            found.notes.append("_metadata is no plain data, and is lost")
        kept.order.clear()  # other entries stand between the tensors
        for key, node in objects.entries(objects.children(section.node)[0])[0]:
            if key in section.tensors:
                if key not in refused:
                    kept.order.append(key)
                continue
            try:
                kept.entries[key] = recorded.plain(node)
                kept.order.append(key)
            except recorded.NotPlain:
                lost.append(section.name_of(key))
    inside = {section.name_of(key) for key in kept.entries}
    for value in checkpoint.values:
        beside = not pointers.is_below(value.name, section.pointer) or not section.pointer
        if section.kind == "module" and (beside or pointers.is_below(value.name, section.pointer)):
            continue
        if value.name in inside or value.name in lost or any(pointers.is_below(value.name, name) for name in inside):
            continue
        try:
            kept.values[value.name] = _plain_value(value)
        except recorded.NotPlain:
            lost.append(value.name)
    _say(found, "no tensors, and left out", lost)
    outside = [name for name in kept.values if name not in lost]
    _say(found, "kept as text in __metadata__", outside)


_JSON = ("str", "int", "float", "bool", "NoneType", "list", "dict")


def _plain_value(value: Value) -> Any:
    """A value of the checkpoint as JSON.

    Raises:
        NotPlain: JSON could not give it back.
    """
    if value.type not in _JSON:
        raise recorded.NotPlain
    return recorded.plain(recorded.node_of(value.value))


def _say(found: Named, what: str, names: list[str]) -> None:
    if names:
        listed = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else "")
        found.notes.append(f"{what}: {listed}")


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


def _refusal(refused: list[tuple[str, str]], path: str) -> UnsupportedError:
    listed = ", ".join(f"{name} ({why})" for name, why in refused[:_SHOWN])
    more = f" and {len(refused) - _SHOWN:,} more" if len(refused) > _SHOWN else ""
    return UnsupportedError(
        f"safetensors cannot hold {listed}{more}", path=path, hint="Leave them out: --skip-unsupported"
    )


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
    return {"format": "pt", recorded.NAME: found.recorded.to_text([tensor.key for tensor in found.tensors])}


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
    index = {"metadata": {"total_size": total, recorded.NAME: ours}, "weight_map": ordered}
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
