"""The row-major bytes of any view, against torch's own ``contiguous()``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ckpt_inspect as ci
from ckpt_inspect.errors import UnsupportedError
from ckpt_inspect.formats import logical as module
from ckpt_inspect.formats.logical import Gathered, logical
from ckpt_inspect.model.source import BytesSource
from ckpt_inspect.torch import to_tensor
from tests.zoo import files

DTYPES = [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128]


def bytes_of(tensor: torch.Tensor) -> bytes:
    """What torch says the logical bytes are."""
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous().clone()
    return bytes(torch.empty(0, dtype=torch.uint8).set_(plain.untyped_storage()).numpy())


@st.composite
def views(draw: st.DrawFn) -> torch.Tensor:
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(1, 5), min_size=0, max_size=4))
    steps = draw(st.permutations(range(len(shape))))
    stride, reach = [0] * len(shape), 1
    for dim in steps:
        stride[dim] = 0 if draw(st.integers(0, 5)) == 0 else reach * draw(st.integers(1, 2))
        reach = max(reach, stride[dim] * shape[dim], 1)
    offset = draw(st.integers(0, 3))
    length = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True)) + 1
    words = torch.randint(0, 256, (length * dtype.itemsize,), dtype=torch.uint8)
    base = torch.empty(0, dtype=dtype).set_(words.untyped_storage())
    view = base.as_strided(shape, stride, offset)
    if dtype.is_complex and draw(st.booleans()):
        view = view.conj()
    return view


@settings(max_examples=150, deadline=None)
@given(
    view=views(), sizes=st.tuples(st.sampled_from([1, 16, 64, 8 << 20]), st.sampled_from([16, 64, 32 << 20])),
    cut=st.tuples(st.integers(0, 99), st.integers(0, 99)),
)  # fmt: skip
def test_any_view(
    view: torch.Tensor, sizes: tuple[int, int], cut: tuple[int, int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "view.pt"
    torch.save({"x": view}, path)
    expected = bytes_of(view)
    before = module._SPAN, module._BLOCK
    module._SPAN, module._BLOCK = sizes
    try:
        with ci.open(path) as checkpoint:
            source = logical(checkpoint["x"])
            assert source.size == len(expected)
            assert source.read_at(0, source.size) == expected
            assert source.read_at(*cut) == expected[cut[0] : sum(cut)]
            assert source.slice(cut[0], cut[1]).read_at(1, 5) == expected[cut[0] : sum(cut)][1:6]
    finally:
        module._SPAN, module._BLOCK = before


OPENABLE = [name for name in files.names(odd=True) if files.FORMATS[name] not in (files.DCP, files.PT2)]


@pytest.mark.parametrize("name", OPENABLE)
def test_zoo(name: str, tmp_path: Path) -> None:
    """The bytes that the bridge to torch sees (held to torch's own reading by its tests)."""
    with ci.open(files.FILES[name](tmp_path)) as checkpoint:
        for _, _, whole in checkpoint.tensors():
            for info in whole.parts or (whole,):
                if info.storage is None or info.stride is None or info.device == "meta" or info.layout != "strided":
                    continue
                plain = info._replace(cls=None, requires_grad=None)
                try:
                    made = to_tensor(plain)
                except UnsupportedError:
                    continue
                try:
                    source = logical(info)
                except UnsupportedError:
                    assert info.dtype in ("quint4x2", "quint2x4")
                    continue
                assert source.size == info.nbytes
                if source.size > 1 << 30:  # one number, expanded
                    continue
                assert source.read_at(0, source.size) == bytes_of(made), info


def test_large_transposed_matrix_is_read_in_bounded_pieces() -> None:
    rows, columns = 3000, 700
    matrix = torch.arange(rows * columns, dtype=torch.int32).reshape(rows, columns)
    data = BytesSource(bytes(matrix.untyped_storage()), "")
    source = Gathered(data, 0, 4, [(columns, 4), (rows, 4 * columns)])
    assert source.read_at(0, source.size) == bytes_of(matrix.t())
