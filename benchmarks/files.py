"""The checkpoints the benchmarks look at: made once, by a child process, and kept.

The harness imports this module for its table only. Whatever needs torch runs in a child, `python files.py
NAME SIZE PATH`, so that the harness stays small: see `measure.py` for why that matters.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    State = dict[str, torch.Tensor]
    Writer = Callable[[State, Path], None]

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}
SHARDS = 4
VOCABULARY, POSITIONS = 50257, 1024
# GPT-2's own names; a block is twelve tensors, each dimension a multiple of the width.
BLOCK: dict[str, tuple[int, ...]] = {
    "ln_1.weight": (1,),
    "ln_1.bias": (1,),
    "attn.c_attn.weight": (1, 3),
    "attn.c_attn.bias": (3,),
    "attn.c_proj.weight": (1, 1),
    "attn.c_proj.bias": (1,),
    "ln_2.weight": (1,),
    "ln_2.bias": (1,),
    "mlp.c_fc.weight": (1, 4),
    "mlp.c_fc.bias": (4,),
    "mlp.c_proj.weight": (4, 1),
    "mlp.c_proj.bias": (1,),
}
OUTSIDE = 4  # wte, wpe and the two of ln_f


class SetupError(Exception):
    """The benchmarks cannot start: the message says what is missing."""


def format_size(size: int) -> str:
    """`4GB`, `40MB`: a size as `--size` takes it, in the largest unit that has a whole part."""
    unit = next(unit for unit in ("GB", "MB", "KB") if size >= UNITS[unit])
    return f"{size / UNITS[unit]:.4g}{unit}"


def gpt_shapes(tensors: int, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The keys and shapes of a GPT-2 of so many tensors."""
    yield "transformer.wte.weight", (VOCABULARY, width)
    yield "transformer.wpe.weight", (POSITIONS, width)
    for block in range((tensors - OUTSIDE) // len(BLOCK)):
        for name, multiples in BLOCK.items():
            yield f"transformer.h.{block}.{name}", tuple(multiple * width for multiple in multiples)
    yield "transformer.ln_f.weight", (width,)
    yield "transformer.ln_f.bias", (width,)


def gpt_width(tensors: int, size: int) -> int:
    """The width at which the float32 tensors fill `size` bytes: the root of a quadratic, at least 2."""
    blocks = (tensors - OUTSIDE) // len(BLOCK)
    square = blocks * sum(math.prod(multiples) for multiples in BLOCK.values() if len(multiples) == 2)
    linear = blocks * sum(multiples[0] for multiples in BLOCK.values() if len(multiples) == 1)
    linear += VOCABULARY + POSITIONS + 2
    return max(2, int((math.sqrt(linear**2 + square * size) - linear) / (2 * square)))


def gpt_state(tensors: int, size: int, seed: int = 0) -> State:
    """A state_dict of random float32 tensors, each with a storage of its own."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    shapes = gpt_shapes(tensors, gpt_width(tensors, size))
    return {name: torch.empty(shape).uniform_(generator=generator) for name, shape in shapes}


def write_pt(state: State, path: Path) -> None:
    """The zip archive that `torch.save` writes since 1.6."""
    import torch

    torch.save(state, path)


def write_training(state: State, path: Path) -> None:
    """A training file: the weights, an optimizer that has hardly begun, and a number."""
    import torch

    first = next(iter(state.values()))
    moments = {
        "step": torch.tensor(1.0),
        "exp_avg": torch.zeros_like(first[:8]),
        "exp_avg_sq": torch.ones_like(first[:8]),
    }
    groups = [{"lr": 0.001, "betas": (0.9, 0.999), "params": list(range(len(state)))}]
    torch.save({"epoch": 1, "model": state, "optimizer": {"state": {0: moments}, "param_groups": groups}}, path)


def write_legacy(state: State, path: Path) -> None:
    """The stream of pickles and storages that `torch.save` wrote before 1.6."""
    import torch

    torch.save(state, path, _use_new_zipfile_serialization=False)


def write_safetensors(state: State, path: Path) -> None:
    """One safetensors file."""
    from safetensors.torch import save_file

    save_file(state, path, metadata={"format": "pt"})


def write_sharded(state: State, path: Path) -> None:
    """A directory of safetensors shards with the index that Hugging Face writes."""
    path.mkdir()
    names = list(state)
    per_shard = math.ceil(len(names) / SHARDS)
    shards = {
        f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors": names[shard * per_shard : (shard + 1) * per_shard]
        for shard in range(SHARDS)
    }
    for file, members in shards.items():
        write_safetensors({name: state[name] for name in members}, path / file)
    index = {
        "metadata": {"total_size": sum(tensor.nbytes for tensor in state.values())},
        "weight_map": {name: file for file, members in shards.items() for name in members},
    }
    (path / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


@dataclass(frozen=True, slots=True)
class File:
    """One file of the benchmarks, `divisor` times smaller than `--size`; 0 is as small as can be.

    `seed` decides the values. `stem` is the folder inside the archive, where it is not that of the file's name.
    """

    name: str
    write: Writer
    tensors: int = 400
    divisor: int = 1
    seed: int = 0
    stem: str | None = None

    def size(self, whole: int) -> int:
        return whole // self.divisor if self.divisor else 0

    def path(self, folder: Path, whole: int) -> Path:
        return folder / self.name.format(size=format_size(whole // (self.divisor or 1)))


# What a row of `rows.py` may name in braces; a new kind of file is one entry here.
FILES = {
    "pt": File("gpt-400-{size}.pt", write_pt),
    "training": File("training-400-{size}.pt", write_training),
    "legacy": File("gpt-400-{size}-legacy.pt", write_legacy),
    "safetensors": File("gpt-400-{size}.safetensors", write_safetensors),
    "sharded": File("gpt-400-{size}-sharded", write_sharded),
    "pt_small": File("gpt-400-{size}.pt", write_pt, divisor=100),
    "legacy_small": File("gpt-400-{size}-legacy.pt", write_legacy, divisor=100),
    "safetensors_small": File("gpt-400-{size}.safetensors", write_safetensors, divisor=100),
    "sharded_small": File("gpt-400-{size}-sharded", write_sharded, divisor=100),
    "edited": File("gpt-400-{size}-edited.pt", write_pt),
    "edited_small": File("gpt-400-{size}-edited.pt", write_pt, divisor=100),
    "pt_copy": File("gpt-400-{size}-copy.pt", write_pt, stem="gpt-400-{size}.pt"),
    "pt_other": File("gpt-400-{size}-other.pt", write_pt, seed=1),
    "many": File("gpt-100000.pt", write_pt, tensors=100_000, divisor=0),
}


def ensure(name: str, folder: Path, whole: int) -> Path:
    """The path of a file of the table, made first if it is not there."""
    path = FILES[name].path(folder, whole)
    if path.exists():
        return path
    print(f"making {path.name}", file=sys.stderr, flush=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="making-", dir=folder) as partial:
            # its final name already, since torch writes the stem into the archive
            made = Path(partial) / path.name
            command = [sys.executable, __file__, name, str(whole), str(made)]
            if subprocess.run(command, check=False).returncode != 0:
                raise SetupError(f"could not make {path.name}")
            made.rename(path)
    except OSError as error:
        raise SetupError(f"could not make {path.name}: {error.strerror}") from error
    return path


def main() -> None:
    """Make one file in this process: NAME SIZE PATH, SIZE being that of the whole benchmark."""
    name, whole, path = sys.argv[1:]
    file = FILES[name]
    size = file.size(int(whole))
    target = Path(path)
    written = target if file.stem is None else target.with_name(file.stem.format(size=format_size(size)))
    file.write(gpt_state(file.tensors, size, file.seed), written)
    written.rename(target)


if __name__ == "__main__":
    main()
