"""The numbers of `ckpt stats`, with torch in whole tensors."""

import sys

import torch

state = torch.load(sys.argv[1], map_location="cpu", mmap=True, weights_only=True)
for name, tensor in state.items():
    x = tensor.double()
    low, high = torch.aminmax(tensor)
    zeros = tensor.numel() - torch.count_nonzero(tensor).item()
    nan, inf = torch.isnan(tensor).sum().item(), torch.isinf(tensor).sum().item()
    dead = (~(tensor != 0).reshape(len(tensor), -1).any(1)).sum().item() if tensor.dim() > 1 else 0
    print(
        name,
        low.item(),
        high.item(),
        x.mean().item(),
        x.std(correction=0).item(),
        x.norm().item(),
        zeros,
        nan,
        inf,
        dead,
    )
