"""Name, dtype and shape of every tensor of a `.pt`, with torch."""

import sys
import zipfile

import torch

path = sys.argv[1]
# torch refuses to map the format before 1.6: such a file it can only read whole
state = torch.load(path, map_location="cpu", mmap=zipfile.is_zipfile(path), weights_only=True)
for name, tensor in state.items():
    print(name, tensor.dtype, tuple(tensor.shape), sep="\t")
