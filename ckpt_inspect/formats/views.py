"""Rebuild calls of strided tensors, taken apart and put together with another storage, place or dtype (formats 2.3)."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..dtypes import DType
from ..model.graph import Global, Opaque, Persistent
from .building import Build

_STRIDED = {
    "_rebuild_tensor": 4, "_rebuild_tensor_v2": 6, "_rebuild_tensor_v3": 7, "_rebuild_qtensor": 7,
}  # fmt: skip
_FROM_TYPE = "_rebuild_from_type_v2"
_DTYPE = 6  # its place among the arguments of _rebuild_tensor_v3


class View(NamedTuple):
    """A strided tensor as its call has it: the function's name, its arguments, and the node of its storage."""

    function: str
    args: tuple[Any, ...]

    @property
    def storage(self) -> Any:
        return self.args[0]


def view_of(call: Opaque) -> View | None:
    """What a rebuild call says, None if it is none of a strided tensor."""
    if call.how == "NEWOBJ" and type(call.callee) is Global and call.callee.name.endswith("Tensor"):
        states = call.states  # torch.FloatTensor NEWOBJ, BUILD (storage, offset, size, stride)
        if call.callee.module in ("torch", "torch.cuda") and len(states) == 1 and type(states[0]) is tuple:
            return View("_rebuild_tensor", states[0]) if len(states[0]) == 4 else None
        return None
    callee, args = call.callee, call.args
    if type(callee) is Global and callee.name == _FROM_TYPE and type(args) is tuple and len(args) == 4:
        callee, args = args[0], args[2]
    if type(callee) is not Global or type(args) is not tuple or len(args) < _STRIDED.get(callee.name, 1 << 30):
        return None
    return View(callee.name, args)


def with_view(
    build: Build, call: Opaque, *, storage: Any = None, place: tuple[int, Any, Any] | None = None,
    dtype: DType | None = None,
) -> Opaque:  # fmt: skip
    """The call with another storage, another (offset, size, stride), or another dtype; the rest is the same."""
    view = view_of(call)
    assert view is not None
    function, args = view
    args = (storage if storage is not None else args[0], *(place or args[1:4]), *args[4:])
    if dtype is not None and function != "_rebuild_qtensor":
        function, args = _of_dtype(build, function, args, dtype)
    if call.how == "NEWOBJ" and function == "_rebuild_tensor":
        copy = Opaque(call.how, call.callee, call.args)
        copy.ops = [("BUILD", args)]
        return copy
    callee = build.name("torch._utils", function)
    if type(call.callee) is Global and call.callee.name == _FROM_TYPE:
        return Opaque(call.how, call.callee, (callee, call.args[1], args, call.args[3]))
    return Opaque("REDUCE", callee, args)


def _of_dtype(build: Build, function: str, args: tuple[Any, ...], dtype: DType) -> tuple[str, tuple[Any, ...]]:
    """v2 says the dtype by the class of the storage, v3 by name."""
    rest = args[4:6] if len(args) > 5 else (False, build.ordered())
    extra = args[7:] if function == "_rebuild_tensor_v3" else args[6:]
    if dtype.legacy:
        return "_rebuild_tensor_v2", (*args[:4], *rest, *extra)
    if rest[0] is True:  # torch 2.13 cannot read that back: "a leaf Variable that requires grad …"
        build.grads_lost += 1
        rest = (False, rest[1])
    return "_rebuild_tensor_v3", (*args[:4], *rest, build.name("torch", dtype.name), *extra)


def persistent_of(view: View) -> Persistent | None:
    """The persistent id that names its storage."""
    return view.storage if type(view.storage) is Persistent else None
