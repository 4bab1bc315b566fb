"""Rows 4 to 8: the parts of the training step against stock implementations of the same.

All have the paper's sizes, run forward and backward, and take turns with their rival: on the CPU in
fp32, on a GPU with more pairs and with the encoders in bf16.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from measured import Work, interleaved, ratios, row
from open_clip.loss import ClipLoss
from step import GPU, PAIRS, PRECISION_NAME, TOKENS, settings
from stock import clip, load_mae, mae
from torch import Tensor, nn

from mcrlib import losses
from mcrlib.config import Config
from mcrlib.data import batches
from mcrlib.masking import gather_patches
from mcrlib.model import MCR
from mcrlib.training import cost
from mcrlib.training.two_pass import two_pass

PATCHES = 196  # 14 x 14 of 16 x 16 pixels
HALF_SIZE = {
    "vision_width": 384,
    "vision_depth": 4,
    "vision_heads": 6,
    "text_width": 384,
    "text_depth": 4,
    "text_heads": 6,
}

Loss = Callable[[], Tensor]


def faster(ours: Work, theirs: Work, rounds: int) -> list[float]:
    """How many times faster `ours` is, for each round."""
    seconds = interleaved({"ours": ours, "theirs": theirs}, rounds)
    return ratios(seconds["ours"], seconds["theirs"])


def autocast_loss(config: Config, loss: Loss) -> Tensor:
    """`loss` computed in the config's precision."""
    with cost.autocast(config):
        return loss()


def peak_bytes(loss: Loss) -> int:
    """Bytes at the peak of a forward and backward pass."""
    with cost.byte_counter() as counter:
        loss().backward()
    return counter.peak


# Row 4


def tower(rounds: int = 5) -> list[dict]:
    """Row 4: masked contrast only, against open_clip with the same two encoders.

    open_clip maps what it has aggregated, as AbM does, so AbM compares like with like. MbA, which
    maps every local feature, is measured as well.
    """
    pairs = max(PAIRS, 16)
    full = [TOKENS] * pairs
    ragged = cost.REPORT_LENGTHS * (pairs // 8)
    full_rows = _tower_rows("of full length", full, 1, rounds)
    ragged_rows = _tower_rows("ragged", ragged, 1.3, rounds)
    return full_rows + ragged_rows


def _tower_rows(kind: str, lengths: list[int], goal: float, rounds: int) -> list[dict]:
    """One row for each alignment, on reports of these `lengths` in tokens."""
    config = settings("flip").replace(dropout=0.0)
    mba = cost.build_model(config.replace(alignment="mba"))
    abm = cost.build_model(config.replace(alignment="abm"))
    bert = mba.bert_config.to_dict()
    stock = clip(config, bert, TOKENS).train().to(cost.DEVICE)
    batch = cost.random_batch(config, lengths)

    def stock_loss() -> Tensor:
        """open_clip's loss of the batch; its image tower wants three channels."""
        pixels = batch.pixels.expand(-1, 3, -1, -1)
        image, report, scale = stock(pixels, batch.tokens)
        return ClipLoss()(image, report, scale)

    abm_loss = functools.partial(cost.loss_of, abm, batch)
    mba_loss = functools.partial(cost.loss_of, mba, batch)
    cast_stock_loss = functools.partial(autocast_loss, config, stock_loss)
    sides = {
        "AbM": functools.partial(cost.time_gradient, abm_loss, abm),
        "MbA": functools.partial(cost.time_gradient, mba_loss, mba),
        "stock": functools.partial(cost.time_gradient, cast_stock_loss, stock),
    }
    seconds = interleaved(sides, rounds)

    contrast_of = f"contrast of {len(lengths)} pairs, {PRECISION_NAME}"
    rival = "open_clip, patch dropout 0.5, BERT tower"
    rows = []
    for alignment in ("AbM", "MbA"):
        what = f"{contrast_of}, half of the patches dropped, reports {kind}, {alignment}"
        quotients = ratios(seconds[alignment], seconds["stock"])
        rows.append(row("4", what, rival, quotients, goal))
    return rows


# Row 5


def masked_images(rounds: int = 15) -> list[dict]:
    """Row 5: the masked images' reconstruction, against a ViTMAE with the same weights."""
    config = settings("mcr")
    ours = cost.build_model(config)
    stock = mae(config).train()
    batch = cost.random_batch(config, [4] * PAIRS)
    load_mae(ours, stock)
    stock.to(cost.DEVICE)
    dropped = batch.dropped
    # ViTMAE keeps the patches with the least noise.
    noise = torch.ones(PAIRS, PATCHES, device=cost.DEVICE)
    noise.scatter_(1, batch.keep, 0.0)

    def our_loss() -> Tensor:
        """The loss of MCR's image encoder and decoder."""
        tokens = ours.image_encoder(batch.pixels, batch.keep)
        all_patches = ours.image_encoder.patchify(batch.pixels)
        patches = gather_patches(all_patches, dropped)
        predicted = ours.image_decoder(tokens, batch.keep, dropped)
        return losses.mim(predicted, patches)

    def stock_loss() -> Tensor:
        """The loss of transformers' ViTMAE."""
        return stock(batch.pixels, noise=noise).loss

    our_cast_loss = functools.partial(autocast_loss, config, our_loss)
    stock_cast_loss = functools.partial(autocast_loss, config, stock_loss)
    our_step = functools.partial(cost.time_gradient, our_cast_loss, ours)
    stock_step = functools.partial(cost.time_gradient, stock_cast_loss, stock)
    quotients = faster(our_step, stock_step, rounds)
    with torch.backends.cudnn.flags(allow_tf32=False):
        difference = our_loss().detach() - stock_loss().detach()
        apart = abs(float(difference))
    masked = f"masked images, {PAIRS} pairs, {PRECISION_NAME}"
    what = f"{masked}; losses differ by {apart:.0e} in fp32"
    margin = 1e-5 / max(apart, 1e-9)
    return [
        row("5", what, "transformers' ViTMAE, same weights", quotients, 1),
        row("5", "difference of the losses", "1e-5", [margin], 1),
    ]


# Row 6


def masked_tokens(rounds: int = 5) -> list[dict]:
    """Row 6: the language head at the masked tokens only, against scoring every token."""
    config = settings("mcr")
    pairs = max(PAIRS, 32)
    head = cost.build_model(config).report_decoder
    batch = cost.random_batch(config, [TOKENS] * pairs)
    shape = (pairs, TOKENS, config.text_width)
    features = torch.randn(shape, device=cost.DEVICE, requires_grad=True)
    labels = batch.tokens.masked_fill(~batch.masked, -100)
    positions = (batch.layout.masked_report, batch.layout.masked_position)

    def our_loss() -> Tensor:
        """The loss from the logits of the masked tokens."""
        logits = head(features[positions])
        return losses.mrm(logits, batch.tokens[positions])

    def stock_loss() -> Tensor:
        """The loss from the logits of all tokens, of which it ignores the unmasked ones."""
        logits = head(features).flatten(0, 1)
        return F.cross_entropy(logits, labels.flatten())

    our_cast_loss = functools.partial(autocast_loss, config, our_loss)
    stock_cast_loss = functools.partial(autocast_loss, config, stock_loss)
    our_step = functools.partial(cost.time_gradient, our_cast_loss, head)
    stock_step = functools.partial(cost.time_gradient, stock_cast_loss, head)
    quotients = faster(our_step, stock_step, rounds)
    # The gradients of the head's weights are the same for both and do not count.
    gradient_bytes = sum(weight.nbytes for weight in head.parameters())
    our_bytes = peak_bytes(our_cast_loss) - gradient_bytes
    stock_bytes = peak_bytes(stock_cast_loss) - gradient_bytes
    what = f"language head at the 25 % masked tokens, {PRECISION_NAME}"
    rival = "at every token, as BertForMaskedLM"
    return [
        row("6", f"time of the {what}", rival, quotients, 4),
        row("6", f"memory of the {what}", rival, [stock_bytes / our_bytes], 4),
    ]


# Row 7


def contrast(n: int = 8192, width: int = 512, rounds: int = 5) -> list[dict]:
    """Row 7: InfoNCE of n pairs in tiles, against open_clip's loss on the full matrix."""
    generator = torch.Generator().manual_seed(0)
    image = F.normalize(torch.randn(n, width, generator=generator), dim=1)
    report = F.normalize(torch.randn(n, width, generator=generator), dim=1)
    scale = torch.tensor(1 / 0.07)
    inputs = nn.ParameterList([image, report, scale])
    inputs.to(cost.DEVICE)
    our_loss = functools.partial(losses.vrc, *inputs)
    stock_loss = functools.partial(ClipLoss(), *inputs)
    our_step = functools.partial(cost.time_gradient, our_loss, inputs)
    stock_step = functools.partial(cost.time_gradient, stock_loss, inputs)
    quotients = faster(our_step, stock_step, rounds)

    our_gradients = torch.autograd.grad(our_loss(), list(inputs))
    stock_gradients = torch.autograd.grad(stock_loss(), list(inputs))
    differences = []
    for ours, theirs in zip(our_gradients, stock_gradients, strict=True):
        relative = (ours - theirs).norm() / theirs.norm()
        differences.append(float(relative))
    margin = 1e-5 / max(differences)

    inputs.zero_grad()
    our_bytes = peak_bytes(our_loss)
    stock_bytes = peak_bytes(stock_loss)
    what = f"InfoNCE of {n:,} x {width}"
    memory_of = f"extra memory of {what}: {our_bytes / 1e6:.0f} MB"
    rival = "open_clip's ClipLoss"
    return [
        row("7", f"time of {what}", rival, quotients, 1.1),
        row("7", memory_of, rival, [stock_bytes / our_bytes], 10),
        row("7", f"gradient of {what}, relative difference", "1e-5", [margin], 1),
    ]


# Row 8


class Passes(NamedTuple):
    """A model with one batch, and the two ways to compute its gradient."""

    model: MCR
    in_two_passes: Loss
    in_one_batch: Loss


def micro_batches(rounds: int = 3) -> list[dict]:
    """Row 8: two passes over micro batches, against the same pairs in one batch.

    On a CPU, half the paper's width and a third of its depth, so that one batch fits into a small
    machine.
    """
    if GPU:
        parts = 2
        changes = {}
    else:
        parts = 8
        changes = HALF_SIZE
    config = settings("mcr").replace(dropout=0.0, **changes)

    timed = _passes(config, PAIRS, parts)
    micro_step = functools.partial(cost.time_gradient, timed.in_two_passes, timed.model)
    whole_step = functools.partial(cost.time_gradient, timed.in_one_batch, timed.model)
    quotients = faster(micro_step, whole_step, rounds)
    del timed, micro_step, whole_step  # frees the model before the next one is built

    exact = _passes(config.replace(precision="no"), min(PAIRS, 64), parts)
    whole = _gradient(exact.model, exact.in_one_batch)
    micro = _gradient(exact.model, exact.in_two_passes)
    cosine = F.cosine_similarity(whole, micro, dim=0)
    apart = 1 - float(cosine)
    margin = 1e-6 / max(apart, 1e-12)
    what = f"two passes of {parts} x {PAIRS} pairs, {PRECISION_NAME}"
    rival = f"one batch of {parts * PAIRS}"
    return [
        row("8", f"time of {what}", rival, quotients, 1 / 1.36),
        row("8", "gradient of two passes, fp32, 1 - cosine", "1e-6", [margin], 1),
    ]


def _passes(config: Config, pairs: int, parts: int) -> Passes:
    """A fresh model and a batch of `parts` times `pairs` pairs."""
    # accelerate keeps the first precision of a process until it is reset.
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=not GPU, mixed_precision=config.precision)
    model = cost.build_model(config)
    lengths = cost.REPORT_LENGTHS * (parts * pairs // 8)
    batch = cost.random_batch(config, lengths)
    micro_parts = batches.micro_batches(batch, pairs)

    def in_two_passes() -> Tensor:
        """A loss without a gradient, because `two_pass` has already added it to the weights."""
        two_pass(model, micro_parts, accelerator)
        return torch.zeros((), requires_grad=True)

    in_one_batch = functools.partial(cost.loss_of, model, batch)
    return Passes(model, in_two_passes, in_one_batch)


def _gradient(model: MCR, loss: Loss) -> Tensor:
    """The gradient of all weights in one vector, in double precision."""
    loss().backward()
    gradients = []
    for weight in model.parameters():
        if weight.grad is not None:
            gradients.append(weight.grad.flatten())
    gradient = torch.cat(gradients)
    model.zero_grad()
    return gradient.double()


ROWS = {"4": tower, "5": masked_images, "6": masked_tokens, "7": contrast, "8": micro_batches}
