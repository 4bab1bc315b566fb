"""The three terms of the paper's loss, L = 0.1 L_vrc + 1.0 L_mim + 1.0 L_mrm, one function each."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def vrc(image: Tensor, report: Tensor, scale: Tensor | float) -> Tensor:
    """L_vrc, cross-modal consistency: symmetric InfoNCE (Figure 2; the form is ours).

    `image [B, E]` and `report [B, E]` are unit rows, row i of one belongs to row i of the other;
    `scale` is one over the temperature.
    """
    logits = scale * image @ report.T
    partner = torch.arange(len(image), device=image.device)
    return (F.cross_entropy(logits, partner) + F.cross_entropy(logits.T, partner)) / 2


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
