"""``ckpt run``: a TorchScript archive, or weights in a model, run once; what each module gave and cost."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..containers.copying import Progress
from ..errors import ModelError, SelectionError
from ..formats.damage import Beside
from ..model.checkpoint import Checkpoint
from ..model.inputs import InputSpec
from ..model.problem import Problem
from ..model.spelling import as_path, shell_join
from .naming import model_words, selected
from .plain import safe
from .trial import as_indices, forward_dict, load

if TYPE_CHECKING:
    from torch import nn

    from ..torch.forward import Forward
    from ..torch.models import Model
    from ..torch.running import Part

SCHEMA = "ckpt-inspect/run/1"


class Run:
    """What a run gave.

    Attributes:
        checkpoint: the file; ``name``: the model, or the TorchScript class.
        executed: the code in the file was run: it is TorchScript.
        device: where it ran.
        parts: modules in order of registration, the first is the whole.
        why: why there are no more rows, None if there is nothing to say.
        forward: outputs, seconds and peak memory of one pass; ``inputs`` and ``seed`` made it.
        damage: records whose bytes were loaded and fail their checksums.
    """

    def __init__(
        self, checkpoint: Checkpoint, name: str, executed: bool, device: str, parts: list[Part], why: str | None,
        forward: Forward, inputs: Sequence[InputSpec], seed: int, damage: Sequence[Problem] = (),
    ) -> None:  # fmt: skip
        self.checkpoint = checkpoint
        self.name = name
        self.executed = executed
        self.device = device
        self.parts = parts
        self.why = why
        self.forward = forward
        self.inputs = inputs
        self.seed = seed
        self.damage = list(damage)

    @property
    def ok(self) -> bool:
        """All outputs are finite."""
        return all(output.finite for output in self.forward.outputs)

    def __repr__(self) -> str:
        return f"<Run of {self.name}: {len(self.parts)} modules, {self.parts[0].flops:,} FLOPs>"

    def to_dict(self) -> dict[str, Any]:
        whole = self.parts[0]
        return {
            "schema": SCHEMA,
            "path": self.checkpoint.path,
            "model": self.name,
            "executed": self.executed,
            "device": self.device,
            "modules": [
                {
                    "name": part.path, "class": part.cls, "args": part.facts,
                    "outputs": None if part.outputs is None else [list(shape) for shape in part.outputs],
                    "parameters": safe(part.parameters), "flops": safe(part.flops), "calls": part.calls,
                }
                for part in self.parts
            ],
            "parameters": safe(whole.parameters),
            "flops": safe(whole.flops),
            "note": self.why,
            **forward_dict(self.forward, self.inputs, self.seed),
            "problems": [*self.checkpoint.problems, *self.damage],
        }  # fmt: skip


def run(
    checkpoint: Checkpoint, inputs: Sequence[InputSpec], model: Model | None = None, device: str = "cpu", seed: int = 0,
    progress: Progress | None = None,
) -> Run:  # fmt: skip
    """Run it on random inputs, in ``eval()``.

    Args:
        checkpoint: a TorchScript archive, whose code is executed; or weights, with their ``model``.
        inputs: shapes and dtypes of what it is fed.
        device: ``cpu``, ``cuda``, ….
        progress: called with the number of bytes just read.

    Raises:
        SelectionError: no inputs; weights without a model; no such device.
        ModelError: the model fails, or the weights do not load into it; it is quoted.
    """
    if not inputs:
        raise SelectionError("nothing to feed it", path=checkpoint.path, hint="For example: --input 1,3,32,32")
    is_script = checkpoint.format in ("torchscript", "torchscript-model-json")
    rebuilt = _rebuilt(checkpoint, device) if model is None and not is_script else None
    if model is None and not is_script and rebuilt is None:
        raise SelectionError(
            f"a {checkpoint.format} file holds weights, and no code that could be run",
            path=checkpoint.path,
            hint=f"Name the model they are for: {shell_join(['ckpt', 'run', as_path(selected(checkpoint))])} --model nets.py:Net --input 1,3,32,32",
        )
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # before torch is imported: its profiler is talkative
    from ..torch.forward import make_inputs, run_forward
    from ..torch.loading import checked_device
    from ..torch.running import watch
    from ..torch.scripted import load_script

    target = checked_device(device)
    if model is not None:
        module, _, _, damage = load(checkpoint, model, None, device, progress)
        name = model.spec
    else:
        with Beside(checkpoint, None, progress) as sums:
            module = rebuilt[0] if rebuilt is not None else load_script(checkpoint.path, target)
            damage = sums.problems()
        name = str(getattr(module, "original_name", type(module).__name__))
    fed = make_inputs(inputs, seed, target)
    try:
        parts, why = watch(module, fed)
    except ModelError as error:
        words = [
            "ckpt",
            "run",
            as_path(selected(checkpoint)),
            *(["--model", *model_words(model)] if model is not None else []),
        ]
        error.hint = as_indices(error, inputs, words) or error.hint
        raise
    why = "; ".join(filter(None, [why, rebuilt[1] if rebuilt is not None else None])) or None
    forward = run_forward(module, fed)
    parts[0] = parts[0]._replace(outputs=[output.shape for output in forward.outputs])
    return Run(checkpoint, name, is_script and model is None, str(target), parts, why, forward, inputs, seed, damage)


def _rebuilt(checkpoint: Checkpoint, device: str) -> tuple[nn.Module, str | None] | None:
    """A recorded module of nothing but layers of torch in Sequentials: what it computes is known without its code.

    With it, what is to be said of it.
    """
    roots = [checkpoint.sections[pointer] for pointer in checkpoint.candidates() if pointer in checkpoint.sections]
    if (
        len(roots) != 1
        or not roots[0].modules
        or not all(m.cls.startswith("torch.nn.") for m in roots[0].modules.values())
    ):
        return None
    from ..torch.loading import checked_device
    from ..torch.rebuild import build_module

    made = build_module(checkpoint, section=roots[0].pointer, device=checked_device(device))
    if not _is_known(made):
        return None
    hooked = [path or "the whole" for path, info in roots[0].modules.items() if any("forward" in h for h in info.hooks)]
    return made, f"hooks that the file records are not run: of {', '.join(hooked[:8])}" if hooked else None


def _is_known(module: nn.Module) -> bool:
    from torch import nn

    from ..torch.calls import LAYERS

    if isinstance(module, nn.Sequential):
        return all(map(_is_known, module))
    return type(module) in LAYERS.values()
