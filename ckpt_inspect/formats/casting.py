"""Floating tensors in another dtype: pickles and headers that say so. The values are cast by ``torch.casting``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from ..dtypes import BY_NAME
from ..errors import SelectionError, UnsupportedError
from ..model.casts import SOURCES, DtypeMap, weight_sections
from ..model.checkpoint import Checkpoint
from ..model.graph import Opaque
from ..model.lost import listed
from ..model.section import Section
from ..model.source import Source
from ..model.storage import Storage
from ..model.tensor import TensorInfo
from . import drafts
from .building import Build, Content
from .logical import innermost, logical
from .modern import modern
from .named import Tensor, one_file
from .parts import build_of, remade
from .rebuild import is_storage
from .rewrite import NewFile
from .safetensors import contiguous
from .views import persistent_of, view_of, with_view

Cast = Callable[[Source, str, str, str], Source]
"""(bytes, old dtype, new dtype, name of the tensor) -> the bytes in the new dtype."""

_ON_DEVICE = (
    "torch._utils._rebuild_device_tensor_from_cpu_tensor", "torch._utils._rebuild_device_tensor_from_numpy",
    "torch._utils._rebuild_xla_tensor",
)  # fmt: skip


class Plan(NamedTuple):
    """What is cast: storages, by id, as (old, new, name of one tensor); what was left alone, in words."""

    storages: dict[str, tuple[str, str, str]]
    on_devices: list[tuple[TensorInfo, str]]
    notes: list[str]


def planned(checkpoint: Checkpoint, dtypes: DtypeMap) -> Plan:
    """Decide for every storage: all of its tensors are cast, or none (design 4).

    Raises:
        UnsupportedError: only some tensors of a storage are meant; both kinds are named.
        SelectionError: a pattern matches nothing, or there is nothing to cast.
    """
    weights = weight_sections(checkpoint)
    by_storage: dict[Storage, list[tuple[str, TensorInfo, str | None]]] = {}
    special: list[tuple[TensorInfo, str]] = []
    left: dict[str, list[str]] = {}
    for name, section, info in checkpoint.tensors():
        wanted = dtypes(section, info.key, section.pointer in weights)
        call = innermost(info.node) if type(info.node) is Opaque else None
        if call is not None and call.qualname in _ON_DEVICE and wanted not in (None, info.dtype):
            if info.dtype in SOURCES and wanted is not None:
                special.append((info, wanted))
            continue
        why = _left_alone(info)
        if why and wanted is not None:
            left.setdefault(why, []).append(name)
        attributes = info.parts if info.storage is not None else ()  # torch's own .to() leaves them as they are
        if wanted is not None and any(part.dtype in SOURCES for part in attributes) and not why:
            left.setdefault("attributes of tensors", []).append(name)
        for one in info.components():
            if one.storage is not None:
                fits = one.dtype in SOURCES and not why and one.dtype != wanted and (one is info or not attributes)
                by_storage.setdefault(one.storage, []).append((name, one, wanted if fits else None))
    unmet = dtypes.unmet()
    if unmet:
        raise SelectionError(f"--dtype {unmet[0]}=… matches no tensor", path=checkpoint.path)
    casts: dict[str, tuple[str, str, str]] = {}
    for storage, views in by_storage.items():
        targets = {(one.dtype, wanted) for _, one, wanted in views}
        if all(wanted is None for _, wanted in targets):
            continue
        if len(targets) > 1:
            raise _only_some(views, checkpoint.path)
        ((old, new),) = targets
        assert new is not None
        casts[storage.id] = old, new, views[0][0]
    notes = [f"{why} were left alone: {listed(names)}" for why, names in left.items()]
    return Plan(casts, special, notes)


def _left_alone(info: TensorInfo) -> str | None:
    row = BY_NAME.get(info.dtype)
    if row is not None and row.kind == "quantized":
        return "quantized tensors"
    if info.storage is None and info.parts and info.layout == "strided":
        return "tensors of foreign classes around others"
    if info.dtype == "float4_e2m1fn_x2":
        return "packed tensors"
    return "storages without a tensor" if info.cls == "torch.storage" else None


def _only_some(views: list[tuple[str, TensorInfo, str | None]], path: str) -> UnsupportedError:
    cast = [name for name, _, wanted in views if wanted is not None]
    rest = [name for name, one, wanted in views if wanted is None] or [
        name for name, one, wanted in views if (one.dtype, wanted) != (views[0][1].dtype, views[0][2])
    ]  # fmt: skip
    return UnsupportedError(
        f"{cast[0]} and {rest[0]} share memory, and only one of them would be cast so",
        path=path, hint=f"Name both, or neither: --dtype '{rest[0]}=…', or --dtype '{cast[0]}=…' with the dtype it has.",
    )  # fmt: skip


def applied(checkpoint: Checkpoint, plan: Plan, cast: Cast) -> Checkpoint:
    """The checkpoint with what is planned cast; of a sharded one each file by itself."""
    if checkpoint.format == "torch-zip":
        return cast_zip(checkpoint, plan, cast)
    if checkpoint.format == "safetensors":
        return drafts.opened(checkpoint, cast_safetensors(checkpoint, plan, cast))
    return drafts.with_each_file(checkpoint, lambda shard: _cast_shard(shard, plan, cast))


def _cast_shard(shard: Checkpoint, plan: Plan, cast: Cast) -> NewFile | None:
    """One shard with its tensors cast; the whole knows its storages by the name of the shard too."""
    if not any(one.storage.id in plan.storages for one in _stored(shard) if one.storage is not None):
        return None
    if shard.format == "safetensors":
        made = cast_safetensors(shard, plan, cast)
        return NewFile(made.path, "", [made], made.size, None, "its bytes change")
    zipped = modern(shard)
    own = {
        new.storage.record.name: plan.storages[old.storage.id]
        for old, new in zip(_stored(shard), _stored(zipped), strict=True)
        if old.storage is not None and old.storage.id in plan.storages and new.storage and new.storage.record
    }
    return drafts.file_of(cast_zip(zipped, Plan(own, [], []), cast))


def _stored(checkpoint: Checkpoint) -> Iterator[TensorInfo]:
    """All tensors, and the components of compound ones."""
    for _, _, info in checkpoint.tensors():
        yield from info.components()


# -- torch zip --------------------------------------------------------------------------------------------------


def cast_zip(checkpoint: Checkpoint, plan: Plan, cast: Cast) -> Checkpoint:
    """A torch zip with the storages of the plan cast, and everything that says their dtype."""
    build, pickle = build_of(checkpoint)
    contents: dict[str, Content] = {}
    changed: dict[int, str] = {}
    for node in pickle.persistent:
        known = plan.storages.get(f"data/{node.pid[2]}") if is_storage(node) else None
        if known is None:
            continue
        old, new, name = known
        stored, key = build.stored[id(node)], str(node.pid[2])
        if key not in contents:
            source = stored.content.source
            contents[key] = Content(cast(source, old, new, name) if source is not None else None)
        row = BY_NAME[new]
        stored.content = contents[key]
        stored.cls = (
            build.name("torch", f"{row.storage}Storage")
            if row.legacy
            else build.name("torch.storage", "UntypedStorage")
        )
        stored.numel = stored.content.nbytes // (row.itemsize if row.legacy else 1)
        changed[id(node)] = new
    for call in pickle.calls:
        view = view_of(call)
        storage = persistent_of(view) if view is not None else None
        if storage is not None and id(storage) in changed:
            build.nodes[id(call)] = with_view(build, call, dtype=BY_NAME[changed[id(storage)]])
    for info, new in plan.on_devices:
        _on_device(build, info, new, cast)
    if build.grads_lost:
        plan.notes.append(
            f"{build.grads_lost} tensors no longer require a gradient: torch cannot load that of this dtype"
        )
    return remade(checkpoint, build, pickle.root)


def _on_device(build: Build, info: TensorInfo, new: str, cast: Cast) -> None:
    """A tensor whose call says dtype and device beside a copy on the CPU, or a numpy array in the pickle."""
    call = innermost(info.node)
    assert call is not None
    content = Content(cast(logical(info), info.dtype, new, info.key))
    plain = info._replace(dtype=new, stride=contiguous(info.shape), conj=False, neg=False)
    inner = build.view(content, plain, 0)
    args = (inner, build.name("torch", new), *call.args[2:])
    build.nodes[id(call)] = build.call("torch._utils", "_rebuild_device_tensor_from_cpu_tensor", *args)


# -- safetensors ------------------------------------------------------------------------------------------------


def cast_safetensors(checkpoint: Checkpoint, plan: Plan, cast: Cast) -> Source:
    """A safetensors file with the tensors of the plan cast."""
    section: Section = checkpoint.sections[""]
    container = checkpoint.containers[0]
    header = container.graphs["header"]
    tensors = []
    for key, info in section.tensors.items():
        known = plan.storages.get(info.storage.id) if info.storage is not None else None
        source = logical(info)
        code = header[key]["dtype"]
        if known is not None:
            old, new, name = known
            source, code = cast(source, old, new, name), BY_NAME[new].safetensors
        tensors.append(Tensor(key, code, tuple(header[key]["shape"]), source))
    return one_file(container.path, tensors, dict(header.get("__metadata__") or {}))
