"""The three terms of the paper's loss, L = 0.1 L_vrc + 1.0 L_mim + 1.0 L_mrm, one function each."""

import torch
import torch.nn.functional as F
from torch import Tensor

TILE = 512  # rows of similarities, or masked tokens, that are computed at a time


def vrc(image: Tensor, report: Tensor, scale: Tensor | float) -> Tensor:
    """L_vrc, cross-modal consistency: symmetric InfoNCE (Figure 2; the form is ours).

    `image [B, E]` and `report [B, E]` are unit rows, row i of one belongs to row i of the other;
    `scale` is one over the temperature. The similarities `[B, B]` are never held at once, and
    stay in the rows' precision.
    """
    with torch.autocast(image.device.type, enabled=False):
        return _InfoNCE.apply(image, report, torch.as_tensor(scale).to(image))


class _InfoNCE(torch.autograd.Function):
    """Tiles of rows, computed anew in the backward pass; between the passes stay two sums a pair.

    A pair's loss is minus its own logit, plus the logarithms of its row's and its column's summed
    exponentials, by halves.
    """

    @staticmethod
    def forward(ctx, image, report, scale):
        rows, columns = [], image.new_full([len(report)], -torch.inf)
        for tile in image.split(TILE):
            logits = scale * tile @ report.T
            rows.append(logits.logsumexp(dim=1))
            columns = columns.logaddexp(logits.logsumexp(dim=0))
        rows = torch.cat(rows)
        ctx.save_for_backward(image, report, scale, rows, columns)
        return ((rows + columns) / 2 - scale * (image * report).sum(dim=1)).mean()

    @staticmethod
    def backward(ctx, gradient):
        image, report, scale, rows, columns = ctx.saved_tensors
        weight = gradient * scale / len(image)
        images, reports = [], -weight * image
        for tile, row in zip(image.split(TILE), rows.split(TILE), strict=True):
            logits = scale * tile @ report.T
            share = (logits - row[:, None]).exp_()
            share += logits.sub_(columns).exp_()
            images.append(weight / 2 * (share @ report))
            reports.addmm_(share.T, weight / 2 * tile)
        images = torch.cat(images).sub_(weight * report)
        return images, reports, (image * images).sum() / scale


def mim(predicted: Tensor, patches: Tensor) -> Tensor:
    """L_mim, masked image: squared error to each patch's normalised pixels (MAE; ours).

    `predicted [B, m, P]` and `patches [B, m, P]` hold the masked patches only; pixels of a patch
    are brought to mean 0 and variance 1 (with one degree of freedom, plus 1e-6) first.
    """
    mean = patches.mean(dim=-1, keepdim=True)
    variance = patches.var(dim=-1, keepdim=True)
    return F.mse_loss(predicted.float(), (patches - mean) / (variance + 1e-6).sqrt())


def mrm(logits: Tensor, tokens: Tensor) -> Tensor:
    """L_mrm, masked report: cross-entropy at the masked tokens.

    `logits [M, V]` and the original ids `tokens [M]` hold the masked tokens of all reports.
    """
    return F.cross_entropy(logits.float(), tokens)
