"""The three terms of the paper's loss, L = 0.1 L_vrc + 1.0 L_mim + 1.0 L_mrm, one function each."""

import torch
import torch.nn.functional as F
from torch import Tensor

TILE = 512  # rows of similarities, or masked tokens, that are computed at once


def vrc(image: Tensor, report: Tensor, scale: Tensor | float) -> Tensor:
    """L_vrc, cross-modal consistency: symmetric InfoNCE (Figure 2; the form is ours).

    `image [B, E]` and `report [B, E]` are unit rows, row i of one belongs to row i of the other;
    `scale` is one over the temperature. Returns the mean of both cross-entropies (image to report,
    report to image) over all pairs, in the rows' precision, also under autocast.
    """
    scale = torch.as_tensor(scale).to(image)
    with torch.autocast(image.device.type, enabled=False):
        return _InfoNCE.apply(image, report, scale)


class _InfoNCE(torch.autograd.Function):
    """Symmetric InfoNCE without ever holding the similarity matrix `[B, B]`.

    With logits_ij = scale · image_i · report_j, the loss of pair i is

        ½ (row log-sum-exp_i + column log-sum-exp_i) − own logit (logit_ii).

    The log-sum-exps need each logit once, so `forward` computes them on tiles of TILE rows and
    drops each tile. It saves two numbers a pair, from which `backward` recomputes the softmax of
    each tile. What this buys: memory for TILE x B logits instead of several B x B matrices, at the
    price of one more product of images and reports.
    """

    @staticmethod
    def forward(ctx, image: Tensor, report: Tensor, scale: Tensor) -> Tensor:
        """The mean loss over pairs, a scalar."""
        row_parts = []
        column_logsumexp = image.new_full([len(report)], -torch.inf)
        for image_tile in image.split(TILE):
            logits = scale * image_tile @ report.T
            row_parts.append(logits.logsumexp(dim=1))
            column_logsumexp = column_logsumexp.logaddexp(logits.logsumexp(dim=0))
        row_logsumexp = torch.cat(row_parts)
        ctx.save_for_backward(image, report, scale, row_logsumexp, column_logsumexp)
        own_logit = scale * (image * report).sum(dim=1)
        loss_of_pair = (row_logsumexp + column_logsumexp) / 2 - own_logit
        return loss_of_pair.mean()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of image, report and scale, times `gradient`, that of the loss.

        The loss has the gradient (½ (row softmax_ij + column softmax_ij) − 1[i = j]) / B with
        respect to logits_ij; the chain rule through logits = scale · image · reportᵀ does the rest.
        """
        image, report, scale, row_logsumexp, column_logsumexp = ctx.saved_tensors
        weight = gradient * scale / len(image)
        image_parts = []
        report_gradient = -weight * image  # from the own logits; the tiles add theirs
        image_tiles = image.split(TILE)
        logsumexp_tiles = row_logsumexp.split(TILE)
        for image_tile, logsumexp_tile in zip(image_tiles, logsumexp_tiles, strict=True):
            logits = scale * image_tile @ report.T
            softmaxes = _sum_of_softmaxes(logits, logsumexp_tile, column_logsumexp)
            image_parts.append(weight / 2 * (softmaxes @ report))
            report_gradient.addmm_(softmaxes.T, weight / 2 * image_tile)
        image_gradient = torch.cat(image_parts).sub_(weight * report)
        # Logits are linear in the images and in the scale: scale · d scale = Σ image · d image.
        scale_gradient = (image * image_gradient).sum() / scale
        return image_gradient, report_gradient, scale_gradient


def _sum_of_softmaxes(logits: Tensor, row_logsumexp: Tensor, column_logsumexp: Tensor) -> Tensor:
    """Softmax over each row plus softmax over each column; overwrites `logits` to save memory."""
    row_softmax = (logits - row_logsumexp[:, None]).exp_()
    column_softmax = logits.sub_(column_logsumexp).exp_()
    return row_softmax.add_(column_softmax)


def mim(predicted: Tensor, patches: Tensor) -> Tensor:
    """L_mim, masked image: mean squared error to each patch's normalised pixels (MAE; ours).

    `predicted [B, m, P]` and `patches [B, m, P]` hold the masked patches only. Pixels are first
    normalised to mean 0 and variance 1 in each patch (unbiased variance, plus 1e-6).
    """
    mean = patches.mean(dim=-1, keepdim=True)
    variance = patches.var(dim=-1, keepdim=True)
    deviation = (variance + 1e-6).sqrt()
    target = (patches - mean) / deviation
    return F.mse_loss(predicted.float(), target)


def mrm(logits: Tensor, tokens: Tensor) -> Tensor:
    """L_mrm, masked report: mean cross-entropy at the masked tokens.

    `logits [M, V]` and the original ids `tokens [M]` hold the masked tokens of all reports.
    """
    return F.cross_entropy(logits.float(), tokens)
