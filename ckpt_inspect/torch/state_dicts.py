"""The weights of a checkpoint as a state_dict of real tensors."""

from __future__ import annotations

import os
import warnings
from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from ..errors import CheckpointError, CorruptError, KeyCollisionError, SelectionError
from ..formats import objects, open_checkpoint, recorded
from ..formats.quantized import refuse_packed
from ..formats.rebuild import is_rebuild
from ..model.checkpoint import Checkpoint
from ..model.graph import Dict, Opaque
from ..model.metadata import map_paths
from ..model.spelling import as_path, escape, shell_join, shell_path
from ..model.wrappers import dotted, strip_wrappers
from .plain import NotPlain, Plain
from .tensors import Loader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..model.section import Section


def state_dict(
    source: str | os.PathLike[str] | Checkpoint, *, section: str | None = None,
    device: str | torch.device | None = None, dtype: torch.dtype | None = None, strip_prefix: str | None = None,
    mmap: bool = True,
) -> OrderedDict[str, torch.Tensor]:  # fmt: skip
    """The weights of a checkpoint, whatever its format, ready for ``model.load_state_dict``.

    What ``torch.load`` gives, or its ``.state_dict()`` where the file holds a whole module or TorchScript: keys in
    saved order, ties and views in shared memory, ``_metadata``, extra state that is plain data. None of the file's
    code or classes is used, so extra state of other classes is left out, and so is that of a whole module, which
    only its class can compute. Names that ``safetensors.torch.save_model`` dropped because they are tied come back.
    Values are mapped, not read: see :class:`Loader`.

    Args:
        source: a file, a directory that is a checkpoint, ``FILE#SECTION``, or a checkpoint that is open.
        section: pointer of the part to take; None takes the one weights candidate.
        device: where the tensors go, whatever device the file names; None is the CPU.
        dtype: floating tensors are cast to it, each storage once, so that ties stay ties; None leaves them.
        strip_prefix: a prefix that every key carries, ``module`` or ``model.encoder``, to be taken off, names in
            ``_metadata`` too; ``"auto"`` takes off wrapper segments, as ``ckpt strip-prefix`` does.
        mmap: False reads everything now, so that the file may be written over.

    Raises:
        SelectionError: no part, or several, can be meant; they are listed. A prefix that not every key carries.
        MissingKeyError: there is no such section.
        CorruptError: bytes are missing. Other damage is a warning.
        UnsupportedError: one of the tensors is of a class of the file's own; quantized modules, which pack theirs.

    >>> import ckpt_inspect.torch as ct, torch
    >>> torch.save({"epoch": 3, "model": torch.nn.Linear(3, 2).state_dict()}, "run.ckpt")
    >>> weights = ct.state_dict("run.ckpt")
    >>> {key: tensor.shape for key, tensor in weights.items()}
    {'weight': torch.Size([2, 3]), 'bias': torch.Size([2])}
    >>> torch.nn.Linear(3, 2).load_state_dict(weights)
    <All keys matched successfully>
    """
    loader = Loader(device=device, mmap=mmap)
    with opened(source) as checkpoint:
        chosen = choose(checkpoint, section)
        if checkpoint.format != "torchscript":  # there state_dict() itself leaves them out
            refuse_packed(checkpoint, [chosen])
        if checkpoint.problems:
            warnings.warn(escape(f"{checkpoint.path}: {'; '.join(checkpoint.problems[:5])}"), stacklevel=2)
        found = entries_of(checkpoint, chosen, loader)
    if strip_prefix is not None:
        found = _without_prefix(found, strip_prefix, checkpoint.path)
    return found if dtype is None else cast(found, dtype)


@contextmanager
def opened(source: str | os.PathLike[str] | Checkpoint) -> Iterator[Checkpoint]:
    """A checkpoint that is open already, or one that is opened, and closed again."""
    if isinstance(source, Checkpoint):
        yield source
        return
    with open_checkpoint(os.fspath(source)) as checkpoint:
        yield checkpoint


def entries_of(
    checkpoint: Checkpoint, section: Section, loader: Loader, ties: bool = True
) -> OrderedDict[str, torch.Tensor]:
    """The state_dict of a section; without ``ties``, names that safetensors dropped stay away."""
    try:
        found = OrderedDict(_entries(checkpoint, section, loader))
    except CheckpointError as error:
        error.path = error.path or checkpoint.path
        raise
    for key, kept in dropped_ties(checkpoint, section) if ties else ():
        found[key] = found[kept]
    metadata = section.metadata
    if checkpoint.format in ("safetensors", "sharded") and section.renamed is None:
        kept_facts = recorded.of(checkpoint)
        metadata = metadata if metadata is not None else kept_facts.metadata
        for key in dict.fromkeys([*(key for key in kept_facts.order if key in found), *found]):
            found.move_to_end(key)
    if metadata is not None:
        found._metadata = OrderedDict(  # type: ignore[attr-defined]
            (path, dict(facts)) for path, facts in metadata.items()
        )
    return found


def _without_prefix(found: OrderedDict[str, torch.Tensor], prefix: str, path: str) -> OrderedDict[str, torch.Tensor]:
    names = _bare(list(found)) if prefix == "auto" else _stripped(list(found), dotted(prefix), path)
    return under(found, names)


def under(found: OrderedDict[str, Any], names: dict[str, str | None]) -> OrderedDict[str, Any]:
    """A state_dict under other names, None leaves out; ``_metadata`` follows, and the given one is not changed."""
    made = OrderedDict((new, value) for key, value in found.items() if (new := names.get(key, key)) is not None)
    metadata = getattr(found, "_metadata", None)
    if metadata is not None:
        moved = map_paths(list(metadata), names).moved
        made._metadata = OrderedDict(  # type: ignore[attr-defined]
            (new, {"version": 1} if old is None else dict(metadata[old])) for old, new in moved
        )
    return made


def _bare(keys: list[str]) -> dict[str, str | None]:
    names = strip_wrappers(keys)
    if len(set(names)) < len(names):
        raise KeyCollisionError("without wrapper segments two keys would have the same name")
    return dict(zip(keys, names, strict=True))


def _stripped(keys: list[str], prefix: str, path: str) -> dict[str, str | None]:
    other = next((key for key in keys if not key.startswith(prefix)), None)
    if other is not None:
        raise SelectionError(f"not every key carries {prefix!r}: {other!r} does not", path=path)
    return {key: key[len(prefix) :] for key in keys}


def cast(found: OrderedDict[str, torch.Tensor], dtype: torch.dtype) -> OrderedDict[str, torch.Tensor]:
    """Floating tensors in another dtype; tied ones stay tied, views of one storage stay views of one storage."""
    views: dict[int, set[tuple[Any, ...]]] = {}
    for tensor in found.values():
        if _castable(tensor, dtype):
            views.setdefault(tensor.untyped_storage()._cdata, set()).add(_view_of(tensor))
    made: dict[tuple[Any, ...], torch.Tensor] = {}
    result: OrderedDict[str, Any] = OrderedDict()
    for key, tensor in found.items():
        result[key] = tensor
        if _castable(tensor, dtype):
            alone = len(views[tensor.untyped_storage()._cdata]) == 1
            result[key] = _cast_one(tensor, dtype, alone, made)
        elif isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
            result[key] = tensor.detach().to(dtype)
    if hasattr(found, "_metadata"):
        result._metadata = found._metadata  # type: ignore[attr-defined]
    return result


def _castable(tensor: Any, dtype: torch.dtype) -> bool:
    """Whether it has a storage of its own kind that others may share."""
    return (
        isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and tensor.dtype != dtype
        and tensor.layout == torch.strided and not tensor.is_meta and not tensor.is_neg()
    )  # fmt: skip


def _view_of(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.dtype, tensor.storage_offset(), tensor.shape, tensor.stride()


def _cast_one(
    tensor: torch.Tensor, dtype: torch.dtype, alone: bool, made: dict[tuple[Any, ...], torch.Tensor]
) -> torch.Tensor:
    """``alone``: nothing else looks at its storage, save in the same way."""
    held = tensor.untyped_storage()
    key = held._cdata, tensor.dtype
    if key not in made:
        whole = tensor.detach()
        if not alone:
            length = held.nbytes() // tensor.element_size()
            whole = torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(held, 0, (length,), (1,))
        made[key] = whole.to(dtype)
    if alone:
        return made[key]
    return made[key].as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


# -- which part -----------------------------------------------------------------------------------------------


def choose(checkpoint: Checkpoint, pointer: str | None) -> Section:
    """The section that is meant: the named one, or that of the one weights candidate (design 2, Which part)."""
    if pointer is None:
        pointer = checkpoint.selected
    if pointer is None:
        found = checkpoint.candidates()
        if len(found) != 1:
            raise _open_choice(checkpoint, found)
        pointer = found[0]
    section = checkpoint.sections.get(pointer) or _only_one_below(checkpoint, pointer)
    if section.kind in ("optimizer", "tensor"):
        what = "the state of an optimizer" if section.kind == "optimizer" else "a lone tensor"
        raise SelectionError(
            f"{section.pointer or 'the root'} is {what}, not a state_dict",
            path=checkpoint.path,
            hint=_one_tensor(checkpoint, next(map(section.name_of, section), None)),
        )
    return section


def _only_one_below(checkpoint: Checkpoint, pointer: str) -> Section:
    inside = checkpoint.select(pointer).sections
    if len(inside) == 1:
        return next(iter(inside.values()))
    if not inside:
        raise SelectionError(f"{pointer!r} holds no tensors", path=checkpoint.path)
    raise SelectionError(
        f"{pointer!r} holds several sections: {_listed(inside)}",
        path=checkpoint.path,
        hint=_name_one(checkpoint, inside),
    )


def _open_choice(checkpoint: Checkpoint, candidates: list[str]) -> SelectionError:
    if candidates:
        return SelectionError(
            f"several parts can be meant: {_listed(candidates)}",
            path=checkpoint.path,
            hint=_name_one(checkpoint, candidates),
        )
    kinds = {pointer: section.kind for pointer, section in checkpoint.sections.items()}
    if not kinds:
        return SelectionError("it holds no tensors", path=checkpoint.path)
    parts = ", ".join(f"{pointer or 'the root'} ({kind})" for pointer, kind in list(kinds.items())[:8])
    usable = [pointer for pointer, kind in kinds.items() if kind in ("state_dict", "module")]
    hint = _name_one(checkpoint, usable) if usable else _one_tensor(checkpoint, next(iter(checkpoint), None))
    return SelectionError(f"no part is a state_dict or a module; there is: {parts}", path=checkpoint.path, hint=hint)


def _listed(names: dict[str, Any] | list[str]) -> str:
    return ", ".join(list(names)[:8]) + (", …" if len(names) > 8 else "")


def _one_tensor(checkpoint: Checkpoint, name: str | None) -> str | None:
    return f"See it: {shell_join(['ckpt', 'show', as_path(checkpoint.path), name])}" if name is not None else None


def _name_one(checkpoint: Checkpoint, names: dict[str, Any] | list[str]) -> str:
    """As commands and functions alike take it."""
    return f"Name one: {shell_path(f'{checkpoint.path}#{next(iter(names))}')}"


# -- what is in it --------------------------------------------------------------------------------------------


def _entries(checkpoint: Checkpoint, section: Section, loader: Loader) -> Iterator[tuple[str, Any]]:
    """Keys and values in saved order: tensors, and plain data between them."""
    made: dict[int, torch.Tensor] = {}  # by identity of the node: one object in the file is one object here
    plain = Plain(_Nested(checkpoint, loader))
    for key, node in _nodes(section):
        info = section.tensors.get(key)
        if info is None:
            if is_rebuild(node):
                raise CorruptError(f"{key!r} is a malformed tensor")
            try:
                yield str(key), plain.value(node)
            except NotPlain:
                continue
        elif not info.persistent:
            continue
        elif section.kind == "module":  # Module.state_dict() detaches
            yield str(key), loader.tensor(info).detach()
        else:
            if id(info.node) not in made or info.node is None:
                made[id(info.node)] = loader.tensor(info)
            yield str(key), made[id(info.node)]


def _nodes(section: Section) -> list[tuple[str, Any]]:
    """Every entry of the container that the section was read from; without a graph, its tensors alone."""
    if section.kind != "module" and type(section.node) in (Dict, Opaque, list, tuple):
        return objects.entries(objects.children(section.node)[0])[0]
    return [(key, None) for key in section.tensors]


class _Nested:
    """Tensors inside plain data, by the node that rebuilds them; they are in sections of their own."""

    def __init__(self, checkpoint: Checkpoint, loader: Loader) -> None:
        self.checkpoint = checkpoint
        self.loader = loader
        self._infos: dict[int, Any] | None = None

    def __call__(self, node: Any) -> torch.Tensor:
        if self._infos is None:
            self._infos = {id(info.node): info for _, _, info in self.checkpoint.tensors() if info.node is not None}
        info = self._infos.get(id(node))
        if info is None:
            raise NotPlain
        return self.loader.tensor(info)


def dropped_ties(checkpoint: Checkpoint, section: Section) -> Iterator[tuple[str, str]]:
    """Names that a safetensors file has in its ``__metadata__`` alone, with the name of the tensor they are tied to.

    ``safetensors.torch.save_model`` and ``ckpt convert`` leave them out: the format has no ties.
    """
    if checkpoint.format in ("safetensors", "sharded"):
        for key, kept in recorded.of(checkpoint).ties.items():
            if kept in section.tensors and key not in section.tensors:
                yield key, kept
