"""What the fuzzer changes: small files of every format, and the endless list of changed ones, each told by a number."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from zlib import crc32

from .mutations import flipped_once, mutations

_ROOT = Path(__file__).parents[2]
_LARGEST_SEED = 30_000  # bytes: a mutation must have a chance to hit what counts
INDEX = "model.safetensors.index.json"

# Small files of every format, and of everything that is read out of a pickle.
SEEDS = [
    "form-neg.pth",
    "form-xla.pth",
    "form-per_channel.pth",
    "form-coo.pth",
    "form-bsr.pth",
    "form-nested.pth",
    "form-jagged.pth",
    "form-two.pth",
    "form-attributed.pth",
    "storages.pth",
    "dtensor.pth",
    "ancient.pth",
    "tied.pth",
    "values.pth",
    "keys-any.pth",
    "protocol-0.pth",
    "protocol-4.pth",
    "nested-ema.pth",
    "tuple.pth",
    "optimizer-sgd-momentum.pth",
    "optimizer-named.pth",
    "optimizer-object.pth",
    "vanished-module.pt",
    "modules-in-list.pt",
    "attributes-module.pt",
    "zip-plain.pth",
    "zip-deflated.pth",
    "extra-state-state_dict.pth",
    "quantized-module.pt",
    "lightning-weights.ckpt",
    "legacy-views.pth",
    "ancient-legacy.pth",
    "values-legacy.pth",
    "keys-any-legacy.pth",
    "protocol-0-legacy.pth",
    "tied-legacy.pth",
    "attributes-legacy.pth",
    "tar-views.pth.tar",
    "tar2017.pth.tar",
    "pickle-2.pkl",
    "pickle-4.pkl",
    "pickle-numpy.pkl",
    "function-script.pt",
    "devices-script.pt",
    "views-script.pt",
    "dtypes-script.pt",
    "order.safetensors",
    "dtypes.safetensors",
    "norms.safetensors",
]
FIXTURES = [
    "lenet.pt",
    "tied.pt",
    "run.ckpt",
    "lightning.ckpt",
    "mnist.ckpt",
    "legacy.pth",
    "tar2017.pth.tar",
    "gpt.safetensors",
    "scripted.pt",
    "traced.pt",
]


NAMES = [*SEEDS, *(f"fixture {name}" for name in FIXTURES), INDEX]


class Input(NamedTuple):
    """One changed file: where it comes from, and what makes its bytes."""

    number: int
    kind: str
    seed: str
    make: Callable[[], bytes]


def make_seeds(folder: Path) -> None:
    """Write the seeds, in a process of its own: torch is as large as all that is allowed here."""
    script = (
        "import sys, pathlib, warnings; warnings.simplefilter('ignore')\n"
        "from tests.zoo import files\n"
        "for name in sys.argv[2:]: files.FILES[name](pathlib.Path(sys.argv[1]))\n"
    )
    subprocess.run(
        [sys.executable, "-c", script, str(folder), *SEEDS], cwd=_ROOT, check=True, stderr=subprocess.DEVNULL
    )
    for name in FIXTURES:
        shutil.copyfile(_ROOT / "fixtures" / name, folder / f"fixture {name}")
    index = next((_ROOT / "fixtures" / "sharded").glob("*.index.json"))
    shutil.copyfile(index, folder / INDEX)


def seeds_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in NAMES}


def inputs(seeds: dict[str, bytes], run: str, flips: int, step: int) -> Iterator[Input]:
    """The endless list of inputs of one run; the same for the same name of the run."""
    number = 0
    for name, data in seeds.items():
        for length in range(0, len(data), step):
            yield Input(number, "cut", name, partial(_cut, data, length))
            number += 1
    fixtures = [(name, data) for name, data in seeds.items() if name.startswith("fixture ")]
    for count in range(flips):
        for name, data in fixtures:
            yield Input(number, "flip", name, partial(_flipped, f"{run} flip {count} {name}", data))
            number += 1
    small = [(name, data, mutations(data)) for name, data in seeds.items() if len(data) <= _LARGEST_SEED]
    while True:
        name, data, ways = small[crc32(b"%s %d" % (run.encode(), number)) % len(small)]
        yield Input(number, "mutation", name, partial(_mutated, f"{run} {number}", data, ways))
        number += 1


def _cut(data: bytes, length: int) -> bytes:
    return data[:length]


def _flipped(name: str, data: bytes) -> bytes:
    return flipped_once(Random(name), data)


def _mutated(name: str, data: bytes, ways: list[Any]) -> bytes:
    random = Random(name)
    return random.choice(ways)(random, data)  # type: ignore[no-any-return]
