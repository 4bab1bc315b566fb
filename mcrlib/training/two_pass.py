"""The gradient of a large batch in the memory of a small one: two-pass cached contrast.

L_vrc needs the rows of all pairs, but nothing behind them. A first pass embeds micro batches and
keeps no graph; the gradient of L_vrc is taken for all rows at once; a second pass repeats each
micro batch with its graph and carries its rows' gradient on to the weights (Gao et al., 2021).
Masks come with the batch, and dropout draws the same in both passes.
"""

import contextlib
import functools
import math

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from mcrlib import distributed
from mcrlib.data.batches import Batch


def two_pass(
    network: nn.Module, batch: Batch, size: int, accelerator: Accelerator
) -> dict[str, Tensor]:
    """Add the gradient of the whole batch's loss to the weights of `network`, which is what
    `accelerator` made of an MCR, with `size` pairs at a time; returns the terms, as
    `MCR.forward` does."""
    model = accelerator.unwrap_model(network)
    parts = micro_batches(batch, size)
    seeds = torch.randint(2**62, (len(parts),)).tolist()
    rows = []
    for part, seed in zip(parts, seeds, strict=True):
        torch.manual_seed(seed)
        with torch.no_grad(), accelerator.autocast():
            rows.append(model.project(part))

    image, report = (torch.cat(side).requires_grad_() for side in zip(*rows, strict=True))
    terms = {"vrc": model.contrast(image, report)}
    *pulls, pull = torch.autograd.grad(terms["vrc"], (image, report, model.log_scale))

    masked = batch.masked.sum()
    sizes = [len(part.pixels) for part in parts]
    for part, seed, *pulled in zip(parts, seeds, *(p.split(sizes) for p in pulls), strict=True):
        torch.manual_seed(seed)
        carry = functools.partial(_carry, *pulled, model.log_scale * pull / len(parts))
        # Means over a part's images and masked tokens become shares of the means over all.
        shares = {
            "vrc": 1,
            "mim": len(part.pixels) / len(batch.pixels),
            "mrm": part.masked.sum() / masked * distributed.weight(masked),
        }
        # Processes add their gradients once, after the last part.
        alone = contextlib.nullcontext() if part is parts[-1] else accelerator.no_sync(network)
        with alone:
            with accelerator.autocast():
                found = network(part, carry)
            found = {name: shares[name] * term for name, term in found.items() if name != "loss"}
            accelerator.backward(model.weighted(found))
        for name in found.keys() - {"vrc"}:
            terms[name] = terms.get(name, 0) + found[name].detach()
    return {"loss": model.weighted(terms), **terms}


def micro_batches(batch: Batch, size: int) -> list[Batch]:
    """Parts of at most `size` pairs. A batch comes in the order of length: each part has reports of
    all lengths, so that none takes more memory than the others."""
    n = math.ceil(len(batch.pixels) / size)
    return [Batch(*(side[i::n] for side in batch)) for i in range(n)]


def _carry(image_pull, report_pull, scale_pull, image: Tensor, report: Tensor) -> Tensor:
    """A stand-in for L_vrc with its gradient."""
    return (image * image_pull).sum() + (report * report_pull).sum() + scale_pull
