"""``ckpt check --load --input --against``: the weights really in the model, the model really run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

from ..containers.copying import Progress
from ..errors import ModelError, SelectionError
from ..formats.damage import Beside
from ..model.checkpoint import Checkpoint
from ..model.inputs import InputSpec
from ..model.problem import Problem
from ..model.spelling import shell_join
from .naming import check_words
from .plain import safe

if TYPE_CHECKING:
    from torch import device, nn

    from ..torch.forward import Comparison, Forward
    from ..torch.loading import Loaded
    from ..torch.models import Model


class Trial(NamedTuple):
    """What was tried.

    Attributes:
        loaded: what ``load_into`` did, in ``seconds``.
        inputs, seed: what the model was fed; none if it was not run.
        forward: what came out.
        against: path of the other file, and how its outputs compare.
        damage: what is wrong with the bytes that were loaded; ``other_damage``: with those of the other file.
    """

    loaded: Loaded
    seconds: float
    inputs: Sequence[InputSpec] = ()
    seed: int = 0
    forward: Forward | None = None
    against: str | None = None
    comparison: Comparison | None = None
    damage: Sequence[Problem] = ()
    other_damage: Sequence[Problem] = ()

    @property
    def ok(self) -> bool:
        if self.damage or self.other_damage:
            return False
        finite = self.forward is None or all(output.finite for output in self.forward.outputs)
        return finite and (self.comparison is None or self.comparison.close)

    def to_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "loaded": {
                "tensors": self.loaded.matched,
                "nbytes": safe(self.loaded.nbytes),
                "device": str(self.loaded.device),
                "seconds": self.seconds,
                "recast": len(self.loaded.recast),
            }
        }
        if self.forward is not None:
            found["forward"] = forward_dict(self.forward, self.inputs, self.seed)
        if self.comparison is not None:
            comparison = {key: safe(value) for key, value in self.comparison._asdict().items()}
            found["against"] = {"path": self.against, **comparison, "damage": list(self.other_damage)}
        return found


def forward_dict(forward: Forward, inputs: Sequence[InputSpec], seed: int) -> dict[str, Any]:
    return {
        "inputs": [{"shape": list(one.shape), "dtype": one.dtype} for one in inputs],
        "seed": safe(seed),
        "outputs": [
            {
                "name": one.path, "shape": list(one.shape), "dtype": one.dtype, "finite": one.finite,
                "nans": one.nans, "infinities": one.infinities, "min": safe(one.low), "max": safe(one.high),
            }
            for one in forward.outputs
        ],
        "seconds": forward.seconds,
        "peak_bytes": safe(forward.peak),
    }  # fmt: skip


def trial(
    checkpoint: Checkpoint,
    model: Model,
    section: str | None = None,
    device: str = "cpu",
    inputs: Sequence[InputSpec] = (),
    seed: int = 0,
    against: Checkpoint | None = None,
    against_model: Model | None = None,
    progress: Progress | None = None,
) -> Trial:
    """Load the weights into the model, run it, and compare it with another file in the same model, or its own.

    Args:
        checkpoint, section: weights that ``check`` says load.
        device: ``cpu``, ``cuda``, ….
        inputs: what the model is fed; without any it is not run.
        against: another file; ``against_model``: its model, if it is another one.
        progress: called with the number of bytes just read.

    Raises:
        ModelError: the model fails, or the other file does not load; it is quoted.
        SelectionError: there is no such device; ``against`` without inputs.
    """
    if against is not None and not inputs:
        raise SelectionError("--against compares outputs", hint="Say what to feed: --input 1,3,32,32")
    module, loaded, seconds, damage = load(checkpoint, model, section, device, progress)
    if not inputs:
        return Trial(loaded, seconds, damage=damage)
    try:
        forward = run(module, inputs, seed, loaded)
    except ModelError as error:
        error.hint = as_indices(error, inputs, check_words(checkpoint, model)) or error.hint
        raise
    if against is None:
        return Trial(loaded, seconds, inputs, seed, forward, damage=damage)
    from ..torch.forward import compare

    del module
    other, also, _, other_damage = load(against, against_model or model, None, device, progress)
    comparison = compare(forward.tensors, run(other, inputs, seed, also).tensors)
    return Trial(loaded, seconds, inputs, seed, forward, against.path, comparison, damage, other_damage)


class Filled(NamedTuple):
    """A model with its weights, how many seconds they took, and which of their records fail their checksums."""

    module: nn.Module
    loaded: Loaded
    seconds: float
    damage: list[Problem]


def load(
    checkpoint: Checkpoint, model: Model, section: str | None, device: str, progress: Progress | None = None
) -> Filled:
    """The model with its weights, whose records are summed: torch never does. For a GPU, meanwhile.

    A model made on ``meta`` is enough where nothing is left there.
    """
    from ..torch.loading import checked_device
    from ..torch.state_dicts import choose

    target = checked_device(device)
    module = model.build().module
    with Beside(checkpoint, choose(checkpoint, section), progress) as sums:
        damage = sums.problems() if target.type != "cuda" else []  # before mapped values are touched
        module, loaded, seconds = _fill(module, checkpoint, model, section, target)
        return Filled(module, loaded, seconds, damage or sums.problems())


def _fill(
    module: nn.Module, checkpoint: Checkpoint, model: Model, section: str | None, target: device
) -> tuple[nn.Module, Loaded, float]:
    from torch.cuda import OutOfMemoryError

    from ..torch.loading import WHAT_TO_DO, load_into

    start = perf_counter()
    try:
        loaded = load_into(module, checkpoint, section=section, device=target, dtype="model")
        if loaded.unfilled:  # buffers that are not persistent, and the like: the model has to make them itself
            module = model.build_on_cpu()
            start = perf_counter()
            loaded = load_into(module, checkpoint, section=section, device=target, dtype="model")
    except ModelError as error:
        if error.hint == WHAT_TO_DO:  # here it is known which file and which model
            error.hint = f"What to do about it: {shell_join(check_words(checkpoint, model))}"
        raise
    except OutOfMemoryError as error:
        raise ModelError(f"{target} has no room for the weights", hint="Take another: --device cpu") from error
    return module, loaded, perf_counter() - start


# What torch says of embeddings and subscripts that were given other numbers.
_WANTS_INDICES = re.compile(
    r"scalar types: (Long|Int)|type Long|used as indices|indices.*(integer|Long|Int)|Long, ?Int"
)


def as_indices(error: ModelError, inputs: Sequence[InputSpec], words: list[str]) -> str | None:
    """The command with whole numbers where a model takes its input for indices; None if that is not what it says."""
    typed = [one.typed("int64") if one.dtype == "float32" else one.typed() for one in inputs]
    if not _WANTS_INDICES.search(error.message) or typed == [one.typed() for one in inputs]:
        return None
    return f"It takes them for indices: {shell_join([*words, *(word for text in typed for word in ('--input', text))])}"


def run(module: nn.Module, inputs: Sequence[InputSpec], seed: int, loaded: Loaded) -> Forward:
    """One pass on inputs made from a seed."""
    from ..torch.forward import make_inputs, run_forward

    if loaded.unfilled:
        raise ModelError(f"{loaded.unfilled[0]!r} has no values: the model makes it on meta and never fills it")
    return run_forward(module, make_inputs(inputs, seed, loaded.device))
