"""Any checkpoint as what ``torch.save`` writes today, not written yet: the form that conversions work on.

What holds pickled objects keeps them (legacy streams, the tar, plain pickles); what holds tensors under names
(TorchScript, safetensors, shards) becomes a state_dict.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..dtypes import BY_NAME
from ..errors import CorruptError, UnsupportedError
from ..model.checkpoint import Checkpoint
from ..model.graph import Global, Opaque, Persistent, Pickle
from ..model.storage import Container
from ..model.tensor import TensorInfo
from . import drafts, recorded
from .building import Build
from .compound import tensor_node
from .rebuild import is_storage
from .views import persistent_of, view_of, with_view

_PICKLES = {"torch-legacy": "object", "torch-tar": "pickle", "pickle": "pickle", "torch-zip": "data.pkl"}


def modern(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint as a torch zip; one that is none yet is made one.

    Raises:
        UnsupportedError: it holds tensors that no torch zip can hold.
    """
    if checkpoint.format == "torch-zip":
        return checkpoint
    build = Build()
    if checkpoint.format in _PICKLES:
        container = checkpoint.containers[0]
        pickle: Pickle = container.graphs[_PICKLES[checkpoint.format]]
        if checkpoint.format == "torch-legacy":
            _legacy(build, container, pickle)
        else:
            _by_tensors(build, checkpoint)
        root = pickle.root
    else:
        root = _state_dict(build, checkpoint)
    path = checkpoint.containers[0].path
    return drafts.opened(checkpoint, drafts.joined(path, build.zip(root)))


def _legacy(build: Build, container: Container, pickle: Pickle) -> None:
    build.keep(container, pickle, "")
    for node in pickle.persistent:
        if _is_class(node.pid):
            build.nodes[id(node)] = node.pid[1]  # the class, which came with its source
    for call in pickle.calls:
        view = view_of(call)
        storage = persistent_of(view) if view is not None else None
        window = _window(storage) if storage is not None else None
        if view is not None and window is not None:
            place = (view.args[1] + window, *view.args[2:4])
            build.nodes[id(call)] = with_view(build, call, place=place)
    for root in (node for node in _bare(pickle) if _window(node) is not None):
        raise UnsupportedError(f"a storage that is a part of another cannot be kept: {root.pid[2]}")


def sources(checkpoint: Checkpoint) -> list[str]:
    """Classes whose source code a legacy stream carries along; the zip has no place for it."""
    if checkpoint.format != "torch-legacy":
        return []
    pids = (node.pid for node in checkpoint.containers[0].graphs["object"].persistent)
    return [str(getattr(pid[1], "qualname", pid[1])) for pid in pids if _is_class(pid)]


def _is_class(pid: Any) -> bool:
    return type(pid) is tuple and len(pid) > 1 and pid[0] == "module"


def _window(node: Persistent) -> int | None:
    """Of a storage that is a stretch of another: its first element (formats 6)."""
    view = node.pid[5] if is_storage(node) and len(node.pid) > 5 else None
    return view[1] if type(view) is tuple and len(view) == 3 else None


def _bare(pickle: Pickle) -> Iterator[Persistent]:
    """Storages that no rebuild call takes."""
    used = {id(view.storage) for call in pickle.calls if (view := view_of(call)) is not None}
    return (node for node in pickle.persistent if id(node) not in used)


def _by_tensors(build: Build, checkpoint: Checkpoint) -> None:
    """Tensors whose nodes mean something in their own format alone: the keys of a tar, bytes inside a pickle."""
    for _, _, info in checkpoint.tensors():
        for one in info.components():
            node = one.node
            if type(node) is Persistent:
                build.nodes[id(node)] = tensor_node(build, one)
            elif type(node) is Opaque and (inner := _plain_call(node)) is not None and one.storage is not None:
                storage = build.storage(build.content(one.storage), BY_NAME[one.dtype], one.device)
                build.nodes[id(inner)] = with_view(build, inner, storage=storage)


def _plain_call(node: Any) -> Opaque | None:
    """The strided call inside those that make it a parameter."""
    for _ in range(8):
        if type(node) is not Opaque:
            return None
        if view_of(node) is not None:
            return node
        if (type(node.callee) is Global and node.callee.name.startswith("_rebuild_parameter")) or (
            node.callee is not None and node.qualname == "torch.nn.parameter.Parameter" and node.args
        ):
            node = node.args[0]
        else:
            return None
    return None


def _state_dict(build: Build, checkpoint: Checkpoint) -> Any:
    """The one section of a file of named tensors as an ``OrderedDict``."""
    section = checkpoint.sections.get("")
    if section is None:
        raise CorruptError("it holds no tensors", path=checkpoint.path)
    kept = recorded.of(checkpoint)
    detached = section.kind == "module"  # as Module.state_dict() gives them
    pairs: list[Any] = []
    made: dict[str, Any] = {}
    for key, info in section.tensors.items():
        if info.persistent:
            grad = False if detached else kept.requires_grad(key)
            made[key] = tensor_node(build, info, grad, kept.is_parameter(key))
    if kept.bare and len(made) == 1:
        return next(iter(made.values()))
    arranged = list(kept.arranged(made, lambda key, source: _again(build, section.tensors[source], kept, key)))
    keys = kept.nodes_of_keys(key for key, _ in arranged)
    for key, node in arranged:
        pairs += [keys[key] if key in keys else build.text(key), node]
    metadata = kept.metadata if kept.metadata is not None else section.metadata
    return build.ordered(pairs, metadata)


def _again(build: Build, info: TensorInfo, kept: recorded.Recorded, key: str) -> Any:
    """A tied tensor under its other name: another tensor on the same bytes."""
    return tensor_node(build, info, kept.requires_grad(key), kept.is_parameter(key))
