"""Storages without the bytes that no tensor reaches: a view stops carrying the whole that it is a view of."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..dtypes import BY_NAME, PACKED
from ..model.checkpoint import Checkpoint
from ..model.graph import Persistent
from ..model.storage import Storage
from ..model.tensor import TensorInfo
from . import drafts
from .building import Build, Content, Stored
from .logical import logical
from .modern import modern
from .parts import build_of, remade
from .rebuild import Malformed, dims, is_storage
from .rewrite import NewFile
from .safetensors import contiguous
from .views import View, persistent_of, view_of, with_view

_ALIGNMENT = 16  # of what is cut out of a storage, so that every dtype's elements stay whole

_Place = tuple[int, tuple[int, ...], tuple[int, ...]]  # offset, shape, stride


class _Part(NamedTuple):
    """A stretch of a storage that is kept as a storage of its own."""

    start: int
    stop: int
    views: dict[Any, TensorInfo]  # the different views that lie in it


def slim(checkpoint: Checkpoint) -> tuple[Checkpoint, int]:
    """The checkpoint with storages that hold what its tensors reach; the number of bytes that went.

    Of a sharded one each torch zip by itself; safetensors has no other bytes.
    """
    if checkpoint.format != "sharded":
        return _slim(modern(checkpoint))
    saved = 0

    def slim_shard(shard: Checkpoint) -> NewFile | None:
        nonlocal saved
        if shard.format == "safetensors":
            return None
        zipped = modern(shard)
        made, less = _slim(zipped)
        saved += less
        return drafts.file_of(made) if made is not zipped else None

    return drafts.with_each_file(checkpoint, slim_shard), saved


def _slim(checkpoint: Checkpoint) -> tuple[Checkpoint, int]:
    """A torch zip made slim.

    A view that shares memory with no other becomes a contiguous storage of its own; those that overlap keep one
    between them. Ties stay ties.
    """
    by_storage: dict[Storage, list[TensorInfo]] = {}
    left: set[Storage] = set()
    for _, _, info in checkpoint.tensors():
        for one in info.components():
            if one.storage is None:
                continue
            by_storage.setdefault(one.storage, []).append(one)
            if one.cls == "torch.storage" or one.dtype in PACKED or one.stride is None or one.storage.record is None:
                left.add(one.storage)
    build, pickle = build_of(checkpoint)
    calls: dict[str, list[tuple[Any, View]]] = {}
    for call in pickle.calls:
        view = view_of(call)
        node = persistent_of(view) if view is not None else None
        if view is not None and node is not None and is_storage(node):
            calls.setdefault(f"data/{node.pid[2]}", []).append((call, view))
    saved = 0
    for storage, infos in by_storage.items():
        parts = _parts(infos) if storage not in left else []
        kept = sum(stop - start for start, stop, _ in parts)
        name = storage.record.name if storage.record is not None else ""  # a shard's storage has another id
        if parts and (kept < storage.nbytes or not all(map(_is_dense, infos))) and name in calls:
            saved += _apart(build, storage, parts, calls[name])
    return (remade(checkpoint, build, pickle.root) if build.nodes else checkpoint), saved


def _is_dense(info: TensorInfo) -> bool:
    return info.stride == contiguous(info.shape) or info.numel < 2


def _extent(info: TensorInfo) -> tuple[int, int]:
    """First byte of a view in its storage, and past its last."""
    size = BY_NAME[info.dtype].itemsize
    start = info.storage_offset * size
    if 0 in info.shape:
        return start, start
    return start, start + (
        sum((n - 1) * step for n, step in zip(info.shape, info.stride or (), strict=True)) + 1
    ) * size


def _parts(infos: list[TensorInfo]) -> list[_Part]:
    """Stretches of a storage whose views overlap, in order."""
    found: list[_Part] = []
    for info in sorted(infos, key=_extent):
        start, stop = _extent(info)
        identity = (info.storage_offset, info.shape, info.stride, info.dtype)
        if found and start < found[-1].stop:
            last = found[-1]
            found[-1] = _Part(last.start, max(last.stop, stop), {**last.views, identity: info})
        elif found and (start, stop) == (found[-1].start, found[-1].stop) and identity in found[-1].views:
            continue
        else:
            found.append(_Part(start, stop, {identity: info}))
    return found


def _apart(build: Build, storage: Storage, parts: list[_Part], calls: list[tuple[Any, View]]) -> int:
    """Give each part a storage of its own; the number of bytes that go."""
    new: dict[_Place, tuple[Content, int | None, TensorInfo]] = {}
    kept = 0
    whole = None
    for part in parts:
        infos = list(part.views.values())
        content, moved = _content(storage, part, infos)
        kept += content.nbytes
        for info in infos:
            new[info.storage_offset, info.shape, info.stride or ()] = content, moved, info
    planned = []
    for call, view in calls:
        place = _place(view)
        if place is None or place not in new:  # of an object that is not understood: leave all as it is
            return 0
        planned.append((call, view, *new[place]))
    nodes: dict[tuple[int, int], Persistent] = {}
    for call, view, content, moved, info in planned:
        node = persistent_of(view)
        assert node is not None
        old = build.stored[id(node)]
        whole = old.content
        storage_node = nodes.setdefault((id(content), id(old.cls)), _like(build, old, content))
        offset = 0 if moved is None else info.storage_offset - moved // BY_NAME[info.dtype].itemsize
        stride = contiguous(info.shape) if moved is None else view.args[3]
        build.nodes[id(call)] = with_view(build, call, storage=storage_node, place=(offset, view.args[2], stride))
    return (whole.nbytes if whole is not None else 0) - kept


def _content(storage: Storage, part: _Part, infos: list[TensorInfo]) -> tuple[Content, int | None]:
    """The bytes of a part: gathered (None), or cut out from an offset on, where strides have to stay."""
    info = infos[0]
    assert storage.data is not None
    if len(infos) == 1 and info.nbytes <= part.stop - part.start:
        return Content(logical(info._replace(conj=False, neg=False))), None
    start = part.start - part.start % _ALIGNMENT
    flat = info._replace(
        dtype="uint8", shape=(part.stop - start,), stride=(1,), storage_offset=start, conj=False, neg=False, node=None
    )
    if storage.byteorder == "little":
        return Content(logical(flat)), start
    return Content(_words(info, start, part.stop)), start


def _words(info: TensorInfo, start: int, stop: int) -> Any:
    """A stretch of a big-endian storage, as little-endian elements."""
    size = BY_NAME[info.dtype].itemsize
    numel = (stop - start) // size
    return logical(
        info._replace(shape=(numel,), stride=(1,), storage_offset=start // size, conj=False, neg=False, node=None)
    )


def _place(view: View) -> _Place | None:
    try:
        return view.args[1], dims(view.args[2]), dims(view.args[3])
    except (Malformed, TypeError):
        return None


def _like(build: Build, old: Stored, content: Content) -> Persistent:
    """A storage of the same class with other bytes."""
    itemsize = max(1, old.content.nbytes // old.numel) if old.numel else 1
    node = Persistent(None)
    build.stored[id(node)] = Stored(old.cls, content.nbytes // itemsize, old.location, content)
    build.hold(node)
    return node
