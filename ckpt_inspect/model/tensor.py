"""What is known of one tensor without reading its values."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

from ..dtypes import nbytes as dtype_nbytes

if TYPE_CHECKING:
    from .storage import Storage


class TensorInfo(NamedTuple):
    """One tensor of a checkpoint, or one component of a compound one.

    Attributes:
        key: its name within the section; for a component, the component's name.
        dtype: torch's name without ``torch.``.
        shape, stride: in elements; stride is None for layouts that have none (sparse, nested).
        storage: what it is a view of, None for compound tensors and on ``meta``.
        storage_offset: in elements.
        device: the location tag, None if the format stores none.
        layout: ``strided``, ``sparse_coo``, ``sparse_csr``, …, ``nested``, ``jagged``.
        conj, neg: lazy conjugation and negation bits.
        requires_grad: as recorded; None where the format does not say.
        cls: the recorded class of a tensor subclass, else None.
        parts: components of a compound tensor, in the order of the file.
        node: the graph node that rebuilds it, None outside pickles.
        role: ``parameter``, ``buffer`` or None: not known.
        role_from: ``recorded``, ``optimizer`` (derived from one beside it) or ``inferred`` (from names).
        persistent: False for what the module holds but ``state_dict()`` leaves out.
    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...] | None
    storage: Storage | None
    storage_offset: int
    device: str | None
    layout: str = "strided"
    conj: bool = False
    neg: bool = False
    requires_grad: bool | None = None
    cls: str | None = None
    parts: tuple[TensorInfo, ...] = ()
    node: Any = None
    role: str | None = None
    role_from: str | None = None
    persistent: bool = True

    def __repr__(self) -> str:
        facts = [repr(self.key), self.dtype, "×".join(map(str, self.shape)) or "()"]
        facts += [fact for fact in (self.device, self.layout if self.layout != "strided" else None, self.cls) if fact]
        if self.role is not None:
            facts.append(self.role + ("~" if self.role_from == "inferred" else ""))
        return f"TensorInfo({', '.join(facts)})"

    @property
    def numel(self) -> int:
        """Number of elements; of a nested tensor, those of all its rows."""
        if self.layout in ("nested", "jagged") and self.parts:
            return max((part.numel for part in self.parts if part.dtype == self.dtype), default=0)
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Logical bytes: elements times item size; of a compound tensor, the sum of its components."""
        if self.storage is None and self.parts:
            return sum(part.nbytes for part in self.parts)
        return dtype_nbytes(self.dtype, prod(self.shape))

    @property
    def extent(self) -> int:
        """Bytes from the start of its storage to the end of the last element that it looks at; 0 without elements."""
        if 0 in self.shape:
            return 0
        last = self.storage_offset
        for length, step in zip(self.shape, self.stride or (), strict=False):
            last += (length - 1) * step
        return dtype_nbytes(self.dtype, last + 1)

    def components(self) -> tuple[TensorInfo, ...]:
        """Itself, then what it is made of and what hangs on it, those inside them too."""
        if not self.parts:
            return (self,)
        return (self, *(one for part in self.parts for one in part.components()))

    def with_key(self, key: str) -> TensorInfo:
        """The same tensor under another name."""
        return TensorInfo(key, *self[1:])

    def with_role(self, role: str | None, role_from: str | None) -> TensorInfo:
        """The same tensor, known to be a parameter or a buffer, or not known to be either (None, None)."""
        return TensorInfo(*self[:14], role, role_from, self.persistent)

    def outside_state_dict(self, key: str) -> TensorInfo:
        """The same tensor as a plain attribute of a module: ``state_dict()`` leaves it out."""
        return TensorInfo(key, *self[1:14], None, None, False)

    @property
    def view_of(self) -> tuple[Any, ...] | None:
        """What two tensors share when they are tied: the same view of the same storage. None: cannot be.

        The lazy bits count: ``x`` and ``x.conj()`` share their bytes, but are not the same values.
        """
        if self.storage is None:
            if self.parts:
                views = tuple(part.view_of for part in self.parts)
                return None if None in views else (self.layout, self.shape, views)
            return None
        return self.storage.id, self.storage_offset, self.dtype, self.shape, self.stride, self.conj, self.neg
