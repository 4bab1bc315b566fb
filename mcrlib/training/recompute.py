"""The same gradient with less memory or in less time: recomputation and compilation (ours).

Between its forward and its backward pass a step holds the *activations*: every intermediate result
that some gradient needs. Recomputation (also called activation or gradient checkpointing) drops
most of them and computes them again when the backward pass arrives. It buys memory with time.
"""

import functools

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from mcrlib.model import MCR

# Matrix products and attention take nearly all the time of a block, so `selective` keeps their
# results. What it recomputes (normalisation, GELU, dropout, sums) is cheap but takes much memory.
_EXPENSIVE = [
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
]


def lighten(model: MCR) -> MCR:
    """Apply the `recompute` and `compile` settings of `model` to it, in place; returns it.

    Only wraps the `forward` of its parts: weights keep their names and values.
    """
    encoder_blocks = [*model.image_encoder.vit.blocks, *model.report_encoder.bert.encoder.layer]
    decoder_blocks = []
    if model.config.mim_weight > 0:
        decoder_blocks = [*model.image_decoder.blocks]
    if model.config.recompute != "none":
        for block in encoder_blocks:
            recompute(block, model.config.recompute)
        # The decoder and the heads cost little time, so they are always recomputed in full.
        for part in [*decoder_blocks, model.image_head, model.report_head]:
            recompute(part, "full")
    if model.config.compile:
        # Each kind of block, pass and shape counts towards this limit.
        torch._dynamo.config.recompile_limit = 64
        for block in [*encoder_blocks, *decoder_blocks]:
            # Dropout draws the numbers that it would draw uncompiled. `two_pass` relies on this:
            # its two passes are compiled separately and must draw the same.
            block.forward = torch.compile(block.forward, options={"fallback_random": True})
    return model


def recompute(module: nn.Module, level: str) -> None:
    """Let `module` keep fewer activations; its backward pass recomputes the others (ours).

    `full` keeps the input only. `selective` also keeps the results of matrix products and of
    attention. Losses and gradients do not change, since dropout draws the same numbers again.
    """
    if level == "selective":
        keep_expensive = functools.partial(create_selective_checkpoint_contexts, _EXPENSIVE)
        module.forward = functools.partial(
            checkpoint, module.forward, use_reentrant=False, context_fn=keep_expensive
        )
    else:
        module.forward = functools.partial(checkpoint, module.forward, use_reentrant=False)
