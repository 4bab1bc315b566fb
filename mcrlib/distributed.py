"""What a loss needs of the other processes, so that their number changes nothing.

Each process computes the loss of its share of a batch, and the mean of all processes' gradients is
taken (DistributedDataParallel). In one process these functions do nothing.
"""

import torch
import torch.distributed as dist
from torch import Tensor


def gathered(rows: Tensor) -> Tensor:
    """Rows `[P * B, E]` of all P processes, with gradient, from this one's `rows [B, E]`."""
    return _Gather.apply(rows) if _several() else rows


def weight(count: Tensor) -> Tensor | float:
    """What a mean over `count` tokens of this process weighs, so that the mean over processes is
    the mean over all their tokens."""
    if not _several():
        return 1.0
    total = count.clone()
    dist.all_reduce(total)
    return count * dist.get_world_size() / total


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()  # every process's loss depends on these rows
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]


def _several() -> bool:
    return dist.is_initialized() and dist.get_world_size() > 1
