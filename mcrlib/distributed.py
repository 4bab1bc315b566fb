"""What the loss needs from the other processes, so that their number does not change the result.

Each process computes the loss of its share of the batch, and DistributedDataParallel averages the
gradients of all processes. In a single process these functions change nothing.
"""

import torch
import torch.distributed as dist
from torch import Tensor


def gathered(rows: Tensor) -> Tensor:
    """Rows `[P * B, E]` of all P processes, with gradient, from this process's `rows [B, E]`."""
    if not _has_other_processes():
        return rows
    return _Gather.apply(rows)


def weight(count: Tensor) -> Tensor | float:
    """Factor for a mean over `count` tokens of this process.

    With it, averaging over processes gives the mean over the tokens of all processes, although
    they mask different numbers of tokens.
    """
    if not _has_other_processes():
        return 1.0
    total = count.clone()
    dist.all_reduce(total)
    return count * dist.get_world_size() / total


class _Gather(torch.autograd.Function):
    """`dist.all_gather`, made differentiable."""

    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:
        """The rows of all processes, in the order of their ranks."""
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        """The gradient of this process's rows, summed over the losses of all processes."""
        total = gradient.clone()
        dist.all_reduce(total)
        parts = total.chunk(dist.get_world_size())
        return parts[dist.get_rank()]


def _has_other_processes() -> bool:
    return dist.is_initialized() and dist.get_world_size() > 1
