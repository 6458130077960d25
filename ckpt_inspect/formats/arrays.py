"""numpy arrays in a pickle as tensors: their bytes become storages."""

from __future__ import annotations

from typing import Any

from ..dtypes import BY_NAME
from ..model.checkpoint import Checkpoint
from ..model.graph import Opaque
from ..model.tensor import TensorInfo
from . import numpy_values
from .building import Content
from .gathered import Swapped
from .inline import source_of
from .parts import build_of, remade

_TAKES_ARRAYS = ("_rebuild_device_tensor_from_numpy", "_rebuild_xla_tensor")


def as_tensors(checkpoint: Checkpoint) -> tuple[Checkpoint, int, list[str]]:
    """A torch zip with tensors for its arrays; how many, and the dtypes of those that torch cannot have."""
    build, pickle = build_of(checkpoint)
    inside = {id(call.args[0]) for call in pickle.calls if call.qualname.endswith(_TAKES_ARRAYS) and call.args}
    count = 0
    left: dict[str, None] = {}
    for call in pickle.calls:
        found = numpy_values.array(call) if id(call) not in inside else None
        if found is None:
            continue
        if found.dtype not in BY_NAME or found.data is None:
            left[found.dtype] = None
            continue
        build.nodes[id(call)] = _tensor(build, found, checkpoint.path)
        count += 1
    return (remade(checkpoint, build, pickle.root) if count else checkpoint), count, list(left)


def _tensor(build: Any, found: numpy_values.NumpyArray, path: str) -> Opaque:
    row = BY_NAME[found.dtype]
    source = source_of(found.data, path)
    if found.code[0] == ">" and row.itemsize > 1:
        source = Swapped(source, row.itemsize // (2 if row.kind == "complex" else 1))
    content = Content(source)
    info = TensorInfo("", found.dtype, found.shape, found.stride, None, 0, "cpu")
    made: Opaque = build.view(content, info, 0)
    return made
