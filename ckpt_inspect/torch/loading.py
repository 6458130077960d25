"""Weights of a file into a module: assigned from the mapped file on the CPU, streamed through pinned memory to a GPU."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from ..errors import CorruptError, ModelError, SelectionError
from ..formats import remedies
from ..formats.damage import Beside
from ..model.keymap import KeyMap
from .models import their_code
from .state_dicts import cast, choose, entries_of, opened, under
from .tensors import Loader
from .verdicts import tensors_of, with_own_metadata

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

    from ..model.checkpoint import Checkpoint


WHAT_TO_DO = "What to do about it: ckpt check FILE --model pkg.mod:Net"


class Loaded(NamedTuple):
    """What :func:`load_into` did.

    Attributes:
        matched: how many tensors of the module have values of the file now, of ``of``.
        missing: keys of the module that the file does not have; tied ones whose twin it has are not among them.
        unexpected: keys of the file that the module does not have.
        tied: names of one tensor, in groups: ties of the module, made again.
        recast: key -> (dtype in the file, dtype in the module), where they differ.
        unfilled: tensors of the module that are still on ``meta``, without values.
        nbytes: what was loaded.
        device: where it is.
    """

    matched: int
    of: int
    missing: list[str]
    unexpected: list[str]
    tied: list[list[str]]
    recast: dict[str, tuple[torch.dtype, torch.dtype]]
    unfilled: list[str]
    nbytes: int
    device: torch.device

    def __repr__(self) -> str:
        rest = [f"{len(keys)} {name}" for name, keys in self._asdict().items() if isinstance(keys, list) and keys]
        facts = ", ".join([f"{self.matched} of {self.of} tensors", f"{self.nbytes:,} bytes on {self.device}", *rest])
        return f"<Loaded: {facts}>"


def load_into(
    module: nn.Module, source: str | os.PathLike[str] | Checkpoint, *, section: str | None = None,
    device: str | torch.device | None = None, strict: bool = True,
    keymap: KeyMap | Mapping[str, str | None] | Callable[[str], str | None] | None = None,
    dtype: torch.dtype | str | None = None, mmap: bool = True, verify: bool = False,
) -> Loaded:  # fmt: skip
    """Load the weights of a checkpoint into a module, without copying them where that can be done.

    On the CPU the module's tensors become views of the mapped file (``assign=True``): nothing is read before it is
    used, and what is written to is copied page by page, so that the file never changes. To a GPU each storage goes
    through pinned buffers, so that host memory stays bounded. Then the module's own ties are made again, its
    ``requires_grad`` kept, and what is left of it (buffers that are not persistent) moved to the same device. The
    module may be on ``meta``. If anything is refused, the module is as it was.

    Args:
        module: any; TorchScript modules are not.
        source: a file, a directory that is a checkpoint, ``FILE#SECTION``, or a checkpoint that is open.
        section: pointer of the part to take; None takes the one weights candidate.
        device: where the module goes; None leaves it where it is (``meta`` becomes the CPU).
        strict: False leaves out what only one side has. Shapes must agree anyway.
        keymap: key of the file -> key of the module, None leaves it out; a key that a mapping lacks stays as it is.
        dtype: ``"model"`` casts to the module's dtypes, ``"file"`` takes the file's, a ``torch.dtype`` casts all
            floating tensors to it; None refuses if a dtype would change.
        mmap: False reads everything now, so that the file may be written over.
        verify: read all bytes now, by threads, and refuse what fails its checksum. Otherwise a
            flipped bit stays unseen, as with ``torch.load``. Formats without checksums have nothing to compare with.

    Returns:
        a report: matched, missing, unexpected, tied, recast, unfilled.

    Raises:
        ModelError: torch would refuse (its error is quoted), or a dtype would change.
        SelectionError: no part, or several, can be meant; they are listed.
        CorruptError: bytes are missing; with ``verify``, or are not those that were written.

    >>> import ckpt_inspect.torch as ct, torch
    >>> torch.save({"epoch": 3, "model": torch.nn.Linear(3, 2).state_dict()}, "run.ckpt")
    >>> with torch.device("meta"):
    ...     net = torch.nn.Linear(3, 2)  # no memory
    >>> ct.load_into(net, "run.ckpt")
    <Loaded: 2 of 2 tensors, 32 bytes on cpu>
    >>> net(torch.ones(1, 3)).shape
    torch.Size([1, 2])
    """
    if isinstance(module, torch.jit.ScriptModule):
        raise ModelError(
            "a TorchScript module cannot be given mapped weights", hint="Take the module that it was made of."
        )
    target = _device(module, device)
    with opened(source) as checkpoint:
        chosen = choose(checkpoint, section)
        with Beside(checkpoint, chosen) if verify else nullcontext() as sums:
            if sums is not None and target.type != "cuda":
                sums.problems()  # before mapped values are touched
            entries = entries_of(checkpoint, chosen, Loader(device=target, mmap=mmap))
            if sums is not None and (damage := sums.problems()):
                raise CorruptError(
                    damage[0], path=checkpoint.path, record=damage[0].record,
                    hint=remedies.of_problems(checkpoint, damage),
                )  # fmt: skip
    if keymap is not None:
        entries = under(entries, _names(keymap, list(entries)))
    return assign(module, entries, target, strict, dtype)


def assign(
    module: nn.Module, entries: OrderedDict[str, Any], device: torch.device, strict: bool = True,
    dtype: torch.dtype | str | None = None,
) -> Loaded:  # fmt: skip
    """Give a module the tensors of a state_dict, which are on ``device`` already; see :func:`load_into`."""
    own = tensors_of(module)
    groups = _ties(module)
    twins = _twins(groups, own, entries)
    recast = {
        key: (tensor.dtype, own[key].dtype)
        for key, tensor in entries.items()
        if key in own and isinstance(tensor, torch.Tensor) and tensor.dtype != own[key].dtype
    }
    entries = _in_dtype(entries, own, recast, dtype)
    missing, unexpected = _incompatible(module, own, entries, twins, strict)
    given = with_own_metadata(entries)
    given.update((key, entries[twin]) for key, twin in twins.items())
    with their_code("load_state_dict fails"):
        module.load_state_dict(given, strict=False, assign=True)
    for names in groups:
        _tie(module, names, entries)
    unfilled = _move(module, device)
    used = [entries[key] for key in entries if key in own and isinstance(entries[key], torch.Tensor)]
    return Loaded(
        matched=len(own) - len([key for key in missing if key in own]),
        of=len(own),
        missing=missing,
        unexpected=unexpected,
        tied=groups,
        recast=recast,
        unfilled=unfilled,
        nbytes=_bytes_of(used),
        device=device,
    )


def _device(module: nn.Module, device: str | torch.device | None) -> torch.device:
    if device is not None:
        return checked_device(device)
    there = next((t.device for t in (*module.parameters(), *module.buffers()) if not t.is_meta), None)
    return there or torch.device("cpu")


def checked_device(device: str | torch.device, meta: bool = False) -> torch.device:
    """A device that is there, and that holds values unless ``meta`` may be meant.

    Raises:
        SelectionError: there is no such device, or it is not here.
    """
    try:
        found = torch.device(device)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise SelectionError(f"no device: {reason}", hint="For example: cpu, cuda, cuda:1") from error
    if found.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (found.index or 0) >= count:
            there = f"there are {count} CUDA devices" if count else "torch sees no CUDA device here"
            raise SelectionError(f"{device} was asked for, and {there}", hint="Take another: --device cpu")
    if found.type == "meta" and not meta:
        raise SelectionError("tensors on meta have no values", hint="For example: cpu, cuda, cuda:1")
    try:
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:  # what a build of torch without it says
        reason = str(error).partition("\n")[0]
        raise SelectionError(f"{device} is not here: {reason}", hint="Take another: --device cpu") from error
    return found if found.type != "cpu" else torch.device("cpu")  # its numbers mean nothing


def _names(keymap: Any, keys: list[str]) -> dict[str, str | None]:
    if isinstance(keymap, KeyMap):
        keymap = keymap.pairs
    return {key: keymap(key) if callable(keymap) else keymap.get(key, key) for key in keys}


def _ties(module: nn.Module) -> list[list[str]]:
    """Names of one and the same parameter or buffer, in groups."""
    groups: dict[int, list[str]] = {}
    named = (
        *module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False),
    )  # fmt: skip
    for name, tensor in named:
        groups.setdefault(id(tensor), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def _twins(groups: list[list[str]], own: dict[str, Any], entries: OrderedDict[str, Any]) -> dict[str, str]:
    """Keys that the file lacks -> another name of the same tensor that it has."""
    found: dict[str, str] = {}
    for names in groups:
        there = next((name for name in names if name in entries), None)
        if there is not None:
            found.update((name, there) for name in names if name not in entries and name in own)
    return found


def _in_dtype(
    entries: OrderedDict[str, Any], own: dict[str, Any], recast: dict[str, Any], dtype: torch.dtype | str | None
) -> OrderedDict[str, Any]:
    if isinstance(dtype, torch.dtype):
        return cast(entries, dtype)
    if dtype == "file" or not recast:
        return entries
    if dtype != "model":
        key, (stored, wanted) = next(iter(recast.items()))
        more = f" and {len(recast) - 1:,} more" if len(recast) > 1 else ""
        raise ModelError(
            f"{key!r} is {stored} in the file and {wanted} in the model{more}",
            hint="Say which counts: dtype='model' casts, dtype='file' takes the file's.",
        )
    made: dict[tuple[int, torch.dtype], Any] = {}  # one tensor of the file stays one
    result = OrderedDict(entries)
    for key, (_, wanted) in recast.items():
        tensor = entries[key]
        result[key] = made.setdefault((id(tensor), wanted), tensor.detach().to(wanted))
    if hasattr(entries, "_metadata"):
        result._metadata = entries._metadata  # type: ignore[attr-defined]
    return result


def _incompatible(
    module: nn.Module, own: dict[str, Any], entries: OrderedDict[str, Any], twins: dict[str, str], strict: bool
) -> tuple[list[str], list[str]]:
    """Keys that only one side has; refused before anything is changed, where torch would."""
    if own.keys() == entries.keys() and all(_same_shape(own[key], value) for key, value in entries.items()):
        return [], []
    from .verdicts import NeedsValues, verdict, verdict_with_values

    given = with_own_metadata(entries)
    given.update((key, entries[twin]) for key, twin in twins.items())
    for key, value in given.items():
        if not isinstance(value, torch.Tensor) or value.is_quantized or value.is_nested:
            continue
        if value.layout == torch.strided:
            given[key] = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    try:
        found = verdict(module, given)
    except NeedsValues:  # its hooks read them
        given.update((key, entries[twins.get(key, key)]) for key in given)
        found = verdict_with_values(module, given)
    if found.mismatched or found.errors or (strict and not found.strict):
        text = " ".join((found.text or "; ".join(found.errors)).split())
        raise ModelError(text, hint=WHAT_TO_DO)
    return found.missing, found.unexpected


def _same_shape(own: torch.Tensor, value: Any) -> bool:
    if not isinstance(value, torch.Tensor) or value.is_nested or own.is_nested or nn.parameter.is_lazy(own):
        return False  # a nested tensor has no shape that could be asked for
    return bool(own.shape == value.shape)


def _tie(module: nn.Module, names: list[str], entries: OrderedDict[str, Any]) -> None:
    """One tensor under all its names again: the one that the file names last, as if they had been copied in turn."""
    last = max((name for name in names), key=lambda name: _place(entries, name))
    value = _get(module, last)
    for name in names:
        path, _, leaf = name.rpartition(".")
        part = module.get_submodule(path)
        registry = part._parameters if leaf in part._parameters else part._buffers
        registry[leaf] = value


def _place(entries: OrderedDict[str, Any], name: str) -> int:
    return list(entries).index(name) if name in entries else -1


def _get(module: nn.Module, name: str) -> Any:
    path, _, leaf = name.rpartition(".")
    part = module.get_submodule(path)
    return part._parameters.get(leaf, part._buffers.get(leaf))


def _move(module: nn.Module, device: torch.device) -> list[str]:
    """Move what is not there yet; names of what has no values to move."""
    unfilled: list[str] = []
    for path, part in module.named_modules():
        for registry in (part._parameters, part._buffers):
            for name, tensor in registry.items():
                if tensor is None:
                    continue
                if tensor.is_meta:
                    unfilled.append(f"{path}.{name}" if path else name)
                elif tensor.device != device and not nn.parameter.is_lazy(tensor):
                    tensor.data = to_gpu(tensor.data, device) if device.type == "cuda" else tensor.data.to(device)
        unfilled += [
            f"{path}.{name}" if path else name
            for name, value in vars(part).items()
            if isinstance(value, torch.Tensor) and value.is_meta
        ]
    return unfilled


def _bytes_of(tensors: list[torch.Tensor]) -> int:
    """Bytes of tensors, those of one memory counted once."""
    return sum(
        {
            (id(t) if t.is_sparse or t.is_nested else (t.data_ptr(), t.shape)): t.numel() * t.element_size()
            for t in tensors
        }.values()
    )


def to_device(source: Any, device: str | torch.device) -> Any:
    """A tensor, a module, or containers of them, on a device; what was one tensor stays one.

    A module is changed and given back; of other things a copy is made where something has to move. From the CPU to a
    GPU tensors go through pinned buffers, so that host memory stays bounded however much is moved.

    Args:
        source: tensor, module, or dicts, lists and tuples of them.
        device: ``cpu``, ``cuda``, ``cuda:1``, ….

    Raises:
        SelectionError: there is no such device here.

    >>> import ckpt_inspect.torch as ct, torch
    >>> moved = ct.to_device({"w": torch.ones(2), "epoch": 3}, "cpu")
    >>> moved["w"].device, moved["epoch"]
    (device(type='cpu'), 3)
    """
    target = checked_device(device, meta=True)
    made: dict[int, Any] = {}

    def move(value: Any) -> Any:
        if isinstance(value, nn.Module):
            _move(value, target)
            return value
        if isinstance(value, torch.Tensor):
            if id(value) not in made:
                made[id(value)] = to_gpu(value, target) if target.type == "cuda" else value.to(target)
            return made[id(value)]
        if isinstance(value, OrderedDict):
            copied = OrderedDict((key, move(item)) for key, item in value.items())
            if hasattr(value, "_metadata"):
                copied._metadata = value._metadata  # type: ignore[attr-defined]
            return copied
        if isinstance(value, dict):
            return {key: move(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
            return type(value)(map(move, value))
        return value

    return move(source)


def to_gpu(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the CPU on a GPU, through pinned buffers if it is plain and large."""
    from .streaming import LARGE, copy_in

    plain = type(tensor) in (torch.Tensor, nn.Parameter) and tensor.layout == torch.strided
    plain = plain and not tensor.is_conj() and not tensor.is_neg()
    if tensor.device.type != "cpu" or not plain or not tensor.is_contiguous() or tensor.is_quantized:
        return tensor.to(device)
    nbytes = tensor.numel() * tensor.element_size()
    if nbytes < LARGE:
        return tensor.to(device)
    moved = torch.empty_like(tensor, device=device)
    copy_in(tensor.detach().reshape(-1).view(torch.uint8), moved.detach().reshape(-1).view(torch.uint8))
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(moved, tensor.requires_grad)
    return moved.requires_grad_(tensor.requires_grad)
