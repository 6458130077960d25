"""Rebuild calls for tensors that were read from another format: strided, quantized, sparse, nested."""

from __future__ import annotations

from typing import Any

from ..dtypes import BY_NAME, PACKED
from ..errors import UnsupportedError
from ..model.graph import Global, Opaque
from ..model.tensor import TensorInfo
from .building import Build
from .logical import innermost


def tensor_node(build: Build, info: TensorInfo, requires_grad: bool | None = None, parameter: bool = False) -> Any:
    """The node that rebuilds ``info`` in a torch zip.

    Args:
        build: the new file; its storages are shared by all tensors on one record.
        requires_grad: None takes what is recorded.
        parameter: make it a ``Parameter``.

    Raises:
        UnsupportedError: torch cannot hold it.
    """
    grad = info.requires_grad is True if requires_grad is None else requires_grad
    node = _node(build, info, grad and not parameter)
    return build.call("torch._utils", "_rebuild_parameter", node, grad, build.ordered()) if parameter else node


def _node(build: Build, info: TensorInfo, grad: bool) -> Any:
    dtype = BY_NAME.get(info.dtype)
    if info.layout != "strided":
        return _compound(build, info)
    if dtype is None or dtype.storage is None or (info.storage is None and info.device != "meta"):
        raise UnsupportedError(f"torch cannot hold {info.key!r} ({info.dtype})")
    if info.storage is None:
        where = (build.name("torch", info.dtype), tuple(info.shape), tuple(info.stride or ()), grad)
        return build.call("torch._utils", "_rebuild_meta_tensor_no_storage", *where)
    content = build.content(info.storage)
    if dtype.kind == "quantized":
        return _quantized(build, info)
    offset = info.storage_offset + info.storage.offset // dtype.itemsize
    if info.storage.offset % dtype.itemsize:
        raise UnsupportedError(f"{info.key!r} begins inside an element of its storage")
    if info.cls == "torch.storage":
        return build.storage(content, dtype, info.device)
    return build.view(content, info, offset, requires_grad=grad, location=info.device)


def _quantized(build: Build, info: TensorInfo) -> Any:
    assert info.storage is not None
    call = info.node
    scheme = call.args[4] if type(call) is Opaque and call.qualname.endswith("._rebuild_qtensor") else None
    if type(scheme) is not tuple or len(scheme) not in (3, 4) or type(scheme[0]) is not Global:
        raise UnsupportedError(f"{info.key!r} is quantized, without its scale")
    if len(scheme) == 4 and len(info.parts) >= 2:
        scheme = (scheme[0], tensor_node(build, info.parts[0]), tensor_node(build, info.parts[1]), scheme[3])
    dtype = BY_NAME[info.dtype]
    content = build.content(info.storage)
    storage = build.storage(content, dtype, info.device)
    if info.dtype in PACKED:
        build.stored[id(storage)].numel = content.nbytes
    place = (storage, info.storage_offset, tuple(info.shape), tuple(info.stride or ()))
    return build.call("torch._utils", "_rebuild_qtensor", *place, scheme, info.requires_grad is True, build.ordered())


_ROWS = ("sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc")


def _compound(build: Build, info: TensorInfo) -> Any:
    parts = [tensor_node(build, part) for part in info.parts]
    layout = build.call("torch.serialization", "_get_layout", f"torch.{info.layout}")
    if info.layout == "sparse_coo" and len(parts) == 2:
        data: tuple[Any, ...] = (*parts, tuple(info.shape), is_coalesced(info))
        return build.call("torch._utils", "_rebuild_sparse_tensor", layout, data)
    if info.layout in _ROWS and len(parts) == 3:
        return build.call("torch._utils", "_rebuild_sparse_tensor", layout, (*parts, tuple(info.shape)))
    raise UnsupportedError(f"{info.key!r} is {info.layout}, which only its own kind of file holds")


def is_coalesced(info: TensorInfo) -> bool:
    """Whether a COO tensor is recorded as one in which no place stands twice."""
    call = innermost(info.node)
    data = call.args[1] if call is not None and type(call.args) is tuple and len(call.args) == 2 else ()
    return type(data) is tuple and len(data) > 3 and data[3] is True
