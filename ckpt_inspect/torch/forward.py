"""Running modules: inputs made, outputs looked at, two modules compared."""

from __future__ import annotations

import math
import sys
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from ..errors import ModelError, SelectionError
from .models import their_code

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ..model.inputs import InputSpec


class Output(NamedTuple):
    """One tensor that came out.

    Attributes:
        path: where in what the module gave: ``""``, ``0``, ``logits``.
        shape, dtype: its own.
        nans, infinities: how many of its values are not finite.
        low, high: of the finite ones; None if there are none.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    nans: int
    infinities: int
    low: float | None
    high: float | None

    @property
    def finite(self) -> bool:
        return not (self.nans or self.infinities)


class Forward(NamedTuple):
    """A run of a module: what came out, seconds, and bytes at the peak (of the GPU, or of this process)."""

    outputs: list[Output]
    tensors: dict[str, torch.Tensor]
    seconds: float
    peak: int | None


def make_inputs(specs: Sequence[InputSpec], seed: int, device: torch.device) -> list[torch.Tensor]:
    """Random inputs, the same for a seed on every device: they are made on the CPU.

    Raises:
        SelectionError: an input that this machine or its dtype cannot hold, or a seed that torch does not take.
    """
    if not -(2**63) <= seed < 2**64:
        raise SelectionError(f"--seed {seed} has more than 64 bits", hint="For example: --seed 1")
    generator = torch.Generator().manual_seed(seed)
    return [_made(spec, generator, device) for spec in specs]


def _made(spec: InputSpec, generator: torch.Generator, device: torch.device) -> torch.Tensor:
    nbytes = math.prod(spec.shape) * getattr(torch, spec.dtype).itemsize
    try:
        return _make_input(spec, generator).to(device)
    except SelectionError:
        raise
    except NotImplementedError as error:
        raise SelectionError(f"--input {spec}: torch makes no random numbers of this dtype") from error
    except (RuntimeError, TypeError, ValueError, MemoryError) as error:  # of the allocator, or of sizes beyond 2⁶³
        raise SelectionError(f"--input {spec}: {nbytes:,} bytes are more than there is room for") from error


def _make_input(spec: InputSpec, generator: torch.Generator) -> torch.Tensor:
    dtype: torch.dtype = getattr(torch, spec.dtype)
    if dtype.is_floating_point or dtype.is_complex:
        wide = dtype if dtype.is_complex else torch.float64 if dtype == torch.float64 else torch.float32
        if spec.low is None or spec.high is None:
            return torch.randn(spec.shape, generator=generator, dtype=wide).to(dtype)
        low, high = _bounds(spec, -torch.finfo(dtype).max, torch.finfo(dtype).max)
        share = torch.rand(spec.shape, generator=generator, dtype=wide)
        return (share * high + (1 - share) * low).to(dtype)  # high - low could be too large
    held = (0, 1) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    low, high = _bounds(spec, max(held[0], -(2**63)), min(held[1], 2**63 - 2))  # randint takes no more
    return torch.randint(math.ceil(low), math.floor(high) + 1, spec.shape, generator=generator).to(dtype)


def _bounds(spec: InputSpec, least: float, most: float) -> tuple[float, float]:
    """LOW and HIGH of an input, which its dtype must hold."""
    low, high = spec.low if spec.low is not None else 0, spec.high if spec.high is not None else 1
    if not least <= low <= high <= most:
        raise SelectionError(f"--input {spec}: {spec.dtype} goes from {least:,} to {most:,} here")
    if isinstance(least, int) and math.ceil(low) > math.floor(high):
        raise SelectionError(f"--input {spec}: there is no whole number between the two")
    return low, high


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """The module in ``eval()`` and without gradients; its modes are given back afterwards."""
    modes = [(part, part.training) for part in module.modules() if hasattr(part, "training")]  # frozen ones have none
    if len(modes) and modes[0][0] is module:
        module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes:
            part.training = mode


def run_forward(module: nn.Module, inputs: Any) -> Forward:
    """Run a module in ``eval()``.

    Args:
        inputs: a tensor, a sequence of them, or a dict of them by name.

    Raises:
        ModelError: its forward fails; it is quoted.
    """
    args, kwargs = _arguments(inputs)
    device = next((t.device for t in (*args, *kwargs.values()) if isinstance(t, torch.Tensor)), torch.device("cpu"))
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
        torch.cuda.synchronize(device)
    with their_code("forward fails"), evaluating(module):
        start = perf_counter()
        given = module(*args, **kwargs)
        if on_gpu:
            torch.cuda.synchronize(device)
        seconds = perf_counter() - start
    tensors = dict(flat(given))
    if not tensors:
        raise ModelError(f"forward gave a {type(given).__name__} without any tensor in it")
    for path, tensor in tensors.items():
        if tensor.is_meta:
            raise ModelError(f"forward gave a tensor without values{f', at {path}' if path else ''}: it is on meta")
    outputs = [_look(path, tensor) for path, tensor in tensors.items()]
    return Forward(outputs, tensors, seconds, torch.cuda.max_memory_allocated(device) if on_gpu else _own_peak())


def _arguments(inputs: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    if isinstance(inputs, dict):
        return (), inputs
    return (tuple(inputs) if isinstance(inputs, (list, tuple)) else (inputs,)), {}


def _own_peak() -> int | None:
    """Bytes that this process held at most; None where the system does not say."""
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def flat(value: Any, path: str = "", above: tuple[int, ...] = ()) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors in an output, each with its place: tuples, dicts, dataclasses and named tuples of them."""
    if id(value) in above:  # a list in itself
        return
    if isinstance(value, torch.Tensor) and not value.is_nested:
        yield path, value
        return
    if isinstance(value, torch.Tensor):
        items = list(enumerate(value.unbind()))
    elif isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, (list, tuple)):
        names = getattr(value, "_fields", range(len(value)))
        items = list(zip(names, value, strict=True))
    elif hasattr(value, "__dataclass_fields__"):
        items = [(name, getattr(value, name, None)) for name in value.__dataclass_fields__]
    else:
        return
    for name, item in items:
        yield from flat(item, f"{path}.{name}" if path else str(name), (*above, id(value)))


def _look(path: str, tensor: torch.Tensor) -> Output:
    shape, dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
    plain = _plain(tensor)
    if not plain.is_complex():
        plain = plain.double()  # of small floats, and of uint64, torch computes next to nothing
    nans = int(torch.isnan(plain).sum())
    infinities = int(torch.isinf(plain).sum())
    real = plain.abs() if plain.is_complex() else plain
    finite = real[torch.isfinite(real)].double()
    low, high = (float(finite.min()), float(finite.max())) if finite.numel() else (None, None)
    return Output(path, shape, dtype, nans, infinities, low, high)


class Comparison(NamedTuple):
    """Outputs of two modules for the same inputs.

    Attributes:
        equal: bit for bit (NaN equals NaN).
        close: within ``rtol`` and ``atol``; the same outputs in the same shapes.
        max_abs: the largest difference, None where the shapes differ or nothing can be compared.
        max_rel: the largest difference in proportion to the larger of the two values.
        why: what differs besides values, None if nothing does.
    """

    equal: bool
    close: bool
    max_abs: float | None
    max_rel: float | None
    why: str | None = None


def compare_outputs(a: nn.Module, b: nn.Module, inputs: Any, *, rtol: float = 1e-5, atol: float = 1e-6) -> Comparison:
    """Run two modules on the same inputs, both in ``eval()``, and compare what they give.

    Equal outputs on random inputs are as good a proof as there is that a conversion or a renaming kept the function.

    Args:
        a, b: modules, on the devices of ``inputs``.
        inputs: a tensor, a sequence of them, or a dict of them by name: what both are called with.
        rtol, atol: how far values may be apart to be called close, as in ``torch.allclose``.

    Raises:
        ModelError: one of them fails; it is quoted.

    >>> import ckpt_inspect.torch as ct, torch
    >>> one = torch.nn.Linear(3, 2)
    >>> two = torch.nn.Linear(3, 2)
    >>> _ = two.load_state_dict(one.state_dict())
    >>> ct.compare_outputs(one, two, torch.ones(4, 3)).equal
    True
    """
    return compare(run_forward(a, inputs).tensors, run_forward(b, inputs).tensors, rtol, atol)


def compare(
    ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor], rtol: float = 1e-5, atol: float = 1e-6
) -> Comparison:
    """Outputs by path, as :func:`run_forward` gives them."""
    if ours.keys() != theirs.keys():
        return Comparison(False, False, None, None, f"outputs {list(ours)} and {list(theirs)}")
    for path, one in ours.items():
        if one.shape != theirs[path].shape:
            shapes = f"{tuple(one.shape)} and {tuple(theirs[path].shape)}"
            return Comparison(False, False, None, None, f"output {path} has the shapes {shapes}")
    pairs = [(_wide(one), _wide(theirs[path])) for path, one in ours.items()]
    equal = all(torch.equal(torch.nan_to_num(x), torch.nan_to_num(y)) and _same_nans(x, y) for x, y in pairs)
    close = equal or all(torch.allclose(x, y, rtol=rtol, atol=atol, equal_nan=True) for x, y in pairs)
    gaps = [(x - y).abs() for x, y in pairs if x.numel()]
    scales = [torch.maximum(x.abs(), y.abs()) for x, y in pairs if x.numel()]
    largest = [float(gap.max()) for gap in gaps]
    relative = [float((gap / scale.clamp_min(1e-300)).max()) for gap, scale in zip(gaps, scales, strict=True)]
    return Comparison(equal, close, max(largest, default=None), max(relative, default=None))


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    plain = tensor.dequantize() if tensor.is_quantized else tensor
    return plain.to_dense() if plain.layout != torch.strided else plain


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    plain = _plain(tensor)
    return plain.detach().cpu().to(torch.complex128 if plain.is_complex() else torch.float64)


def _same_nans(x: torch.Tensor, y: torch.Tensor) -> bool:
    return bool(torch.equal(torch.isnan(x), torch.isnan(y)))
