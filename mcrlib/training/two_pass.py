"""The gradient of a large batch in the memory of a small one: two-pass cached contrast.

L_vrc compares all pairs of a batch, so it cannot be computed micro batch by micro batch. But it
needs only their embeddings S (two short vectors a pair), not the activations behind them. By the
chain rule its gradient with respect to the weights θ is

    dL_vrc/dθ  =  Σ_i  dL_vrc/dS_i · dS_i/dθ      (plus the scale's own gradient),

and each pair's share of this sum can be computed alone once dL_vrc/dS_i is known. So (Gao et al.,
2021, "GradCache"):

1. embed every micro batch without keeping activations;
2. compute L_vrc of the whole batch and its gradient with respect to the embeddings;
3. encode every micro batch again, now with activations, and backpropagate a surrogate loss,
   Σ_i dL_vrc/dS_i · S_i with the first factor held fixed: it has the gradient above.

This buys the negatives of a large batch with the activations of one micro batch, for one more
forward pass. Both encodings must agree: masks come with the batch, and dropout draws the same
random numbers because each micro batch has its own seed.
"""

import contextlib
import functools

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from mcrlib import distributed
from mcrlib.data.batches import Batch
from mcrlib.model import MCR


def two_pass(network: nn.Module, parts: list[Batch], accelerator: Accelerator) -> dict[str, Tensor]:
    """Add the gradient of the whole batch's loss to the weights, encoding one part at a time.

    `parts` are the batch's `data.batches.micro_batches`; `network` is what `accelerator` made of an
    MCR. Returns the terms of the loss and their weighted sum `loss`, as `MCR.forward` does.
    """
    model = accelerator.unwrap_model(network)
    sizes = [len(part.pixels) for part in parts]
    masked_count = sum(part.masked.sum() for part in parts)
    seeds = torch.randint(2**62, (len(parts),)).tolist()  # drawn by the host: it waits for nothing

    # 1. All embeddings, without activations.
    image, report = _embed(model, parts, seeds, accelerator)
    image.requires_grad_()
    report.requires_grad_()

    # 2. L_vrc of the whole batch, and its gradient with respect to all that it depends on.
    terms = {"vrc": model.contrast(image, report)}
    inputs = (image, report, model.log_scale)
    image_gradient, report_gradient, scale_gradient = torch.autograd.grad(terms["vrc"], inputs)

    # 3. The gradient of the weights, one micro batch at a time.
    image_gradients = image_gradient.split(sizes)
    report_gradients = report_gradient.split(sizes)
    for i, part in enumerate(parts):
        surrogate_vrc = functools.partial(
            _surrogate_vrc,
            image_gradient=image_gradients[i],
            report_gradient=report_gradients[i],
            scale_term=model.log_scale * scale_gradient / len(parts),
        )
        with _synchronise_after_last(i, len(parts), network, accelerator):
            torch.manual_seed(seeds[i])  # the same dropout as in step 1
            with accelerator.autocast():
                part_terms = network(part, surrogate_vrc)
            shares = _shares_of_batch(part_terms, part, sum(sizes), masked_count)
            accelerator.backward(model.weighted_sum(shares))
        del shares["vrc"]  # the surrogate: `terms` has the true value
        for name, share in shares.items():
            terms[name] = terms.get(name, 0) + share.detach()
    return {"loss": model.weighted_sum(terms), **terms}


def _embed(
    model: MCR, parts: list[Batch], seeds: list[int], accelerator: Accelerator
) -> tuple[Tensor, Tensor]:
    """S^v and S^r `[B, E]` in the order of `parts`, without a graph."""
    images = []
    reports = []
    for part, seed in zip(parts, seeds, strict=True):
        torch.manual_seed(seed)
        with torch.no_grad(), accelerator.autocast():
            image, report = model.project(part)
        images.append(image)
        reports.append(report)
    return torch.cat(images), torch.cat(reports)


def _surrogate_vrc(
    image: Tensor,
    report: Tensor,
    image_gradient: Tensor,
    report_gradient: Tensor,
    scale_term: Tensor,
) -> Tensor:
    """Replaces L_vrc for a micro batch: another value, but the gradient of its share of L_vrc."""
    image_term = (image * image_gradient).sum()
    report_term = (report * report_gradient).sum()
    return image_term + report_term + scale_term


def _shares_of_batch(
    terms: dict[str, Tensor], part: Batch, pairs: int, masked_count: Tensor
) -> dict[str, Tensor]:
    """What a micro batch adds to each term of the whole batch of so many pairs and masked tokens.

    L_mim and L_mrm are means over images and masked tokens, so a mean over a part is scaled by the
    part's share of them. The surrogate of L_vrc is a share already.
    """
    shares = {"vrc": terms["vrc"]}
    if "mim" in terms:
        image_share = len(part.pixels) / pairs
        shares["mim"] = image_share * terms["mim"]
    if "mrm" in terms:
        token_share = part.masked.sum() / masked_count * distributed.weight(masked_count)
        shares["mrm"] = token_share * terms["mrm"]
    return shares


def _synchronise_after_last(
    i: int, count: int, network: nn.Module, accelerator: Accelerator
) -> contextlib.AbstractContextManager:
    """Processes exchange gradients once a batch, in the backward pass of the last part."""
    if i == count - 1:
        return contextlib.nullcontext()
    return accelerator.no_sync(network)
