"""Name, dtype and shape of every tensor of a safetensors file or a directory of them, with `safe_open`."""

import sys
from pathlib import Path

from safetensors import safe_open

path = Path(sys.argv[1])
for shard in sorted(path.glob("*.safetensors")) if path.is_dir() else [path]:
    with safe_open(shard, framework="pt", device="cpu") as tensors:
        for name in tensors.keys():  # noqa: SIM118 - the handle is no mapping
            part = tensors.get_slice(name)
            print(name, part.get_dtype(), tuple(part.get_shape()), sep="\t")
