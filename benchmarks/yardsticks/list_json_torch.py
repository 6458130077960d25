"""The facts that `ckpt ls --json` prints of a tensor, with torch."""

import json
import sys

import torch

state = torch.load(sys.argv[1], map_location="cpu", mmap=True, weights_only=True)
tensors = [
    {
        "name": name,
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
        "stride": list(tensor.stride()),
        "storage_offset": tensor.storage_offset(),
        "device": str(tensor.device),
        "nbytes": tensor.nbytes,
        "storage": str(tensor.untyped_storage().data_ptr()),
        "requires_grad": tensor.requires_grad,
    }
    for name, tensor in state.items()
]
print(json.dumps({"tensors": tensors}))
