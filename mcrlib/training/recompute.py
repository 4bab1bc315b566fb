"""The same gradient with less memory or in less time: recomputation and compilation (ours)."""

import functools

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from mcrlib.model import MCR

_DEAR = [
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
]


def lighten(model: MCR) -> MCR:
    """Apply the `recompute` and `compile` settings of `model` to it, in place; returns it."""
    config = model.config
    blocks = [*model.image_encoder.vit.blocks, *model.report_encoder.bert.encoder.layer]
    decoder = [*model.image_decoder.blocks] if config.mim_weight > 0 else []
    if config.recompute != "none":
        for block in blocks:
            recompute(block, config.recompute)
        for part in [*decoder, model.image_head, model.report_head]:  # cheap beside the encoders
            recompute(part, "full")
    if config.compile:
        torch._dynamo.config.recompile_limit = 64  # kinds of blocks, passes and shapes share it
        for block in blocks + decoder:  # dropout draws what it would: two passes draw the same
            block.forward = torch.compile(block.forward, options={"fallback_random": True})
    return model


def recompute(module: nn.Module, level: str) -> None:
    """Let `module` keep less for its backward pass, which computes the rest again (ours).

    `full` keeps the input. `selective` also keeps what is dear to compute: the results of attention
    and of matrix products. Losses and gradients stay what they are.
    """
    contexts = {}
    if level == "selective":
        contexts["context_fn"] = functools.partial(create_selective_checkpoint_contexts, _DEAR)
    module.forward = functools.partial(checkpoint, module.forward, use_reentrant=False, **contexts)
