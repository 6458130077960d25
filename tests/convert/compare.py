"""What torch finds in two files, compared: names, shapes, strides, values bit for bit, ties, what requires a gradient."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import ckpt_inspect as ci
from ckpt_inspect.operations.checked import check
from ckpt_inspect.operations.convert import convert, target_format
from ckpt_inspect.operations.save import save
from tests.zoo import oracle


def converted(path: Path, out: Path, **asked: Any) -> Path:
    """Convert as the command does, and check as it does."""
    asked.setdefault("format", target_format(ci.open(str(path)).format, str(out), None))
    if asked["format"] == "torchscript":
        del asked["format"]
    made = convert(ci.open(str(path)), **asked)
    save(made, str(out))
    check(made, str(out), verify=True)
    return out


def rows(path: Path, devices: bool = True) -> list[Any]:
    """Everything that torch says of the tensors, in saved order."""
    return [
        row._replace(storage=None, device=row.device if devices else None)
        for row in oracle.expected(path)
    ]  # fmt: skip


def ties(path: Path) -> set[frozenset[str]]:
    return {frozenset(group) for group in oracle.tie_groups(oracle.expected(path))}


def parts(tensor: Any) -> Iterator[Any]:
    """The plain tensors that a tensor is made of."""
    if tensor.layout == torch.sparse_coo:
        yield from (tensor._indices(), tensor._values())
    elif tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        yield from (tensor.crow_indices(), tensor.col_indices(), tensor.values())
    elif tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        yield from (tensor.ccol_indices(), tensor.row_indices(), tensor.values())
    elif tensor.is_nested:
        yield from tensor.unbind()
    elif tensor.is_quantized:
        yield tensor.int_repr() if tensor.dtype != torch.quint4x2 else tensor
        yield tensor.dequantize() if tensor.dtype not in (torch.quint4x2, torch.quint2x4) else tensor
    else:
        yield tensor


def bits(tensor: Any) -> Any:
    """Shape, dtype and bytes of a plain tensor, whatever its dtype."""
    if isinstance(tensor, (torch.UntypedStorage, torch.TypedStorage)):
        whole = tensor.untyped() if isinstance(tensor, torch.TypedStorage) else tensor
        return _bytes(whole, 0, whole.nbytes())
    if tensor.is_meta or tensor.is_quantized:
        return str(tensor.dtype), tuple(tensor.shape)
    if tensor.numel() > 1 << 30:  # expanded
        return (
            tuple(tensor.shape),
            tensor.stride(),
            _bytes(tensor.untyped_storage(), 0, tensor.untyped_storage().nbytes()),
        )
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    start = plain.storage_offset() * plain.element_size()
    return str(plain.dtype), tuple(plain.shape), _bytes(plain.untyped_storage(), start, plain.nbytes)


def _bytes(storage: Any, start: int, nbytes: int) -> bytes:
    if not nbytes:
        return b""
    return bytes(torch.empty(0, dtype=torch.uint8).set_(storage, start, (nbytes,)).numpy().tobytes())


def values(path: Path) -> dict[str, Any]:
    """Names to the bits of what torch loads."""
    found: dict[str, Any] = {}
    for name, tensor in oracle.tensors(path).items():
        inner = getattr(tensor, "_values", None) if not isinstance(tensor, torch.Tensor) else None
        found[name] = bits(tensor) if inner is None and not isinstance(tensor, torch.Tensor) else [
            bits(part) for part in parts(tensor)
        ]  # fmt: skip
    return found


def same(one: Path, other: Path, devices: bool = True) -> None:
    """Torch finds the same in both."""
    assert rows(one, devices) == rows(other, devices)
    assert ties(one) == ties(other)
    assert values(one) == values(other)
