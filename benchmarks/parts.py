"""Rows 4 to 8: the parts of the training step beside the stock implementations of each.

All on the CPU in fp32 and with the paper's sizes, forward and backward, both sides in turn.
"""

import dataclasses
import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from measured import interleaved, ratios, row
from open_clip.loss import ClipLoss
from step import TOKENS, settings
from stock import clip, load_mae, mae
from torch import Tensor, nn

from mcrlib import losses, memory
from mcrlib.data.batches import Batch
from mcrlib.masking import dropped_patches
from mcrlib.model import gather
from mcrlib.step import two_pass

RAGGED = memory.LENGTHS * 2


def faster(ours: Callable[[], float], theirs: Callable[[], float], rounds: int) -> list[float]:
    seconds = interleaved({"ours": ours, "theirs": theirs}, rounds)
    return ratios(seconds["ours"], seconds["theirs"])


def extra(work: Callable[[], Tensor]) -> int:
    """Bytes at the peak of a forward and backward pass."""
    with memory.Tally() as tally:
        work().backward()
    return tally.peak


def tower(rounds: int = 5) -> list[dict]:
    """Masked contrast only, against open_clip with the same two encoders.

    open_clip maps what it has aggregated (AbM): that is like against like. MbA, which maps every
    local feature, stands beside it.
    """
    found = []
    for name, lengths, goal in (("of full length", [TOKENS] * 16, 1), ("ragged", RAGGED, 1.3)):
        c = dataclasses.replace(settings("flip"), dropout=0.0)
        mba, abm = (memory.build(dataclasses.replace(c, alignment=a)) for a in ("mba", "abm"))
        theirs, given = clip(c, mba.bert.to_dict(), TOKENS).train(), memory.batch(c, lengths)
        pixels = given.pixels.expand(-1, 3, -1, -1)

        def lean(model: nn.Module, given: Batch = given) -> float:
            return memory.timed(lambda: model(given)["loss"], model)

        def stock(theirs: nn.Module = theirs, pixels: Tensor = pixels, given: Batch = given):
            return memory.timed(lambda: ClipLoss()(*theirs(pixels, given.tokens)), theirs)

        ours = {"AbM": functools.partial(lean, abm), "MbA": functools.partial(lean, mba)}
        seconds = interleaved(ours | {"theirs": stock}, rounds)
        for order in ours:
            what = f"contrast of 16 pairs, half of the patches dropped, reports {name}, {order}"
            times = ratios(seconds[order], seconds["theirs"])
            found.append(row("4", what, "open_clip, patch dropout 0.5, BERT tower", times, goal))
    return found


def masked_images(rounds: int = 3) -> list[dict]:
    c = settings("mcr")
    ours, theirs, given = memory.build(c), mae(c).train(), memory.batch(c, [4] * 8)
    load_mae(ours, theirs)
    keep, dropped = given.keep, dropped_patches(given.keep, 196)
    noise = torch.ones(8, 196).scatter_(1, keep, 0.0)

    def lean() -> Tensor:
        tokens = ours.image_encoder(given.pixels, keep)
        patches = gather(ours.image_encoder.patchify(given.pixels), dropped)
        return losses.mim(ours.image_decoder(tokens, keep, dropped), patches)

    def stock() -> Tensor:
        return theirs(given.pixels, noise=noise).loss

    times = faster(lambda: memory.timed(lean, ours), lambda: memory.timed(stock, theirs), rounds)
    apart = abs(float(lean().detach() - stock().detach()))
    what = f"masked images, 8 pairs; losses differ by {apart:.0e}"
    return [
        row("5", what, "transformers' ViTMAE, same weights", times, 1),
        row("5", "difference of the losses", "1e-5", [1e-5 / max(apart, 1e-9)], 1),
    ]


def masked_tokens(rounds: int = 5) -> list[dict]:
    """The language head on the report encoder's features: where it looks, and everywhere."""
    c = settings("mcr")
    head, given = memory.build(c).report_decoder, memory.batch(c, [TOKENS] * 32)
    features = torch.randn(32, TOKENS, c.text_width, requires_grad=True)
    labels = given.tokens.masked_fill(~given.masked, -100)

    def lean() -> Tensor:
        places = given.masked.nonzero(as_tuple=True)
        return losses.mrm(head(features[places]), given.tokens[places])

    def stock() -> Tensor:
        return F.cross_entropy(head(features).flatten(0, 1), labels.flatten())

    times = faster(lambda: memory.timed(lean, head), lambda: memory.timed(stock, head), rounds)
    what, rival = "language head at the 25 % masked tokens", "at every token, as BertForMaskedLM"
    gradients = sum(p.nbytes for p in head.parameters())  # the same for both
    kept = [extra(side) - gradients for side in (lean, stock)]
    return [
        row("6", f"time of the {what}", rival, times, 4),
        row("6", f"memory of the {what}", rival, [kept[1] / kept[0]], 4),
    ]


def contrast(n: int = 8192, width: int = 512, rounds: int = 5) -> list[dict]:
    draw = torch.Generator().manual_seed(0)
    rows = nn.ParameterList(
        F.normalize(torch.randn(n, width, generator=draw), dim=1) for _ in range(2)
    )
    rows.append(torch.tensor(1 / 0.07))
    theirs = ClipLoss()

    def gradient(loss: Callable) -> list[Tensor]:
        return torch.autograd.grad(loss(*rows), [*rows])

    times = faster(
        lambda: memory.timed(lambda: losses.vrc(*rows), rows),
        lambda: memory.timed(lambda: theirs(*rows), rows),
        rounds,
    )
    pairs = zip(gradient(losses.vrc), gradient(theirs), strict=True)
    apart = max(float((a - b).norm() / b.norm()) for a, b in pairs)
    rows.zero_grad()
    kept = [extra(lambda loss=loss: loss(*rows)) for loss in (losses.vrc, theirs)]
    what, rival = f"InfoNCE of {n:,} x {width}", "open_clip's ClipLoss"
    return [
        row("7", f"time of {what}", rival, times, 1.1),
        row("7", f"extra memory of {what}: {kept[0] / 1e6:.0f} MB", rival, [kept[1] / kept[0]], 10),
        row("7", f"gradient of {what}, relative difference", "1e-5", [1e-5 / apart], 1),
    ]


def micro_batches(rounds: int = 3) -> list[dict]:
    """Half the paper's width, a third of its depth, so that 64 pairs fit a small machine."""
    small = {"vision_width": 384, "vision_depth": 4, "vision_heads": 6}
    small |= {"text_width": 384, "text_depth": 4, "text_heads": 6, "dropout": 0.0}
    c = dataclasses.replace(settings("mcr"), **small)
    model, given, accelerator = memory.build(c), memory.batch(c, RAGGED * 4), Accelerator(cpu=True)

    def both() -> Tensor:
        two_pass(model, given, 8, accelerator)
        return torch.zeros((), requires_grad=True)  # all gradients are there

    def gradient() -> Tensor:
        found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        model.zero_grad()
        return found.double()

    times = faster(
        lambda: memory.timed(both, model),
        lambda: memory.timed(lambda: memory.forward(model, given), model),
        rounds,
    )
    memory.forward(model, given).backward()
    whole = gradient()
    both()
    apart = 1 - float(F.cosine_similarity(whole, gradient(), dim=0))
    return [
        row("8", "time of two passes of 8 x 8 pairs", "one batch of 64", times, 1 / 1.36),
        row("8", "gradient, 1 - cosine", "1e-6", [1e-6 / max(apart, 1e-12)], 1),
    ]


ROWS = {"4": tower, "5": masked_images, "6": masked_tokens, "7": contrast, "8": micro_batches}
