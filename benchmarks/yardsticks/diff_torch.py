"""How far two `.pt` are apart, tensor by tensor: the metrics of `ckpt diff`, in whole tensors."""

import sys

import torch

one, other = (torch.load(path, map_location="cpu", mmap=True, weights_only=True) for path in sys.argv[1:3])
for name, tensor in one.items():
    x, y = tensor.double().flatten(), other[name].double().flatten()
    size = (y - x).abs()
    largest, mean, relative = size.max().item(), size.mean().item(), (size / x.abs()).max().item()
    fraction = torch.count_nonzero(size).item() / size.numel()
    norm = (size.norm() / x.norm()).item()
    cosine = torch.nn.functional.cosine_similarity(x, y, dim=0).item()
    print(name, largest, mean, relative, fraction, norm, cosine, sep="\t")
