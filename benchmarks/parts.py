"""Rows 4 to 8: the parts of the training step beside the stock implementations of each.

All with the paper's sizes, forward and backward, both sides in turn; on the CPU in fp32, on a GPU
with more pairs, and the encoders in bf16.
"""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from measured import interleaved, ratios, row
from open_clip.loss import ClipLoss
from step import GPU, IN, PAIRS, TOKENS, settings
from stock import clip, load_mae, mae
from torch import Tensor, nn

from mcrlib import losses
from mcrlib.config import Config
from mcrlib.data.batches import Batch
from mcrlib.masking import dropped_patches, gather_patches
from mcrlib.model import MCR
from mcrlib.training import cost
from mcrlib.training.two_pass import two_pass


def faster(ours: Callable[[], float], theirs: Callable[[], float], rounds: int) -> list[float]:
    seconds = interleaved({"ours": ours, "theirs": theirs}, rounds)
    return ratios(seconds["ours"], seconds["theirs"])


def cast(c: Config, loss: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """`loss` in the config's precision."""

    def low() -> Tensor:
        with cost.autocast(c):
            return loss()

    return low


def extra(work: Callable[[], Tensor]) -> int:
    """Bytes at the peak of a forward and backward pass."""
    with cost.byte_counter() as counted:
        work().backward()
    return counted.peak


def tower(rounds: int = 5) -> list[dict]:
    """Masked contrast only, against open_clip with the same two encoders.

    open_clip maps what it has aggregated (AbM): that is like against like. MbA, which maps every
    local feature, stands beside it.
    """
    found = []
    n = max(PAIRS, 16)
    ragged = cost.REPORT_LENGTHS * (n // 8)
    for name, lengths, goal in (("of full length", [TOKENS] * n, 1), ("ragged", ragged, 1.3)):
        c = settings("flip").replace(dropout=0.0)
        mba, abm = (cost.build_model(c.replace(alignment=a)) for a in ("mba", "abm"))
        theirs = clip(c, mba.bert_config.to_dict(), TOKENS).train().to(cost.DEVICE)
        given = cost.random_batch(c, lengths)

        def lean(model: nn.Module, given: Batch = given) -> float:
            return cost.time_gradient(lambda: cost.loss_of(model, given), model)

        def loss(theirs: nn.Module = theirs, given: Batch = given) -> Tensor:
            return ClipLoss()(*theirs(given.pixels.expand(-1, 3, -1, -1), given.tokens))

        stock = functools.partial(cost.time_gradient, cast(c, loss), theirs)
        ours = {"AbM": functools.partial(lean, abm), "MbA": functools.partial(lean, mba)}
        seconds = interleaved(ours | {"theirs": stock}, rounds)
        for order in ours:
            what = (
                f"contrast of {n} pairs, {IN}, half of the patches dropped, reports {name}, {order}"
            )
            times = ratios(seconds[order], seconds["theirs"])
            found.append(row("4", what, "open_clip, patch dropout 0.5, BERT tower", times, goal))
    return found


def masked_images(rounds: int = 15) -> list[dict]:
    c = settings("mcr")
    ours, theirs, given = cost.build_model(c), mae(c).train(), cost.random_batch(c, [4] * PAIRS)
    load_mae(ours, theirs)
    theirs.to(cost.DEVICE)
    keep, dropped = given.keep, dropped_patches(given.keep, 196)
    noise = torch.ones(PAIRS, 196, device=cost.DEVICE).scatter_(1, keep, 0.0)

    def lean() -> Tensor:
        tokens = ours.image_encoder(given.pixels, keep)
        patches = gather_patches(ours.image_encoder.patchify(given.pixels), dropped)
        return losses.mim(ours.image_decoder(tokens, keep, dropped), patches)

    def stock() -> Tensor:
        return theirs(given.pixels, noise=noise).loss

    times = faster(
        lambda: cost.time_gradient(cast(c, lean), ours),
        lambda: cost.time_gradient(cast(c, stock), theirs),
        rounds,
    )
    with torch.backends.cudnn.flags(allow_tf32=False):
        apart = abs(float(lean().detach() - stock().detach()))
    what = f"masked images, {PAIRS} pairs, {IN}; losses differ by {apart:.0e} in fp32"
    return [
        row("5", what, "transformers' ViTMAE, same weights", times, 1),
        row("5", "difference of the losses", "1e-5", [1e-5 / max(apart, 1e-9)], 1),
    ]


def masked_tokens(rounds: int = 5) -> list[dict]:
    """The language head on the report encoder's features: where it looks, and everywhere."""
    c = settings("mcr")
    n = max(PAIRS, 32)
    head, given = cost.build_model(c).report_decoder, cost.random_batch(c, [TOKENS] * n)
    features = torch.randn(n, TOKENS, c.text_width, device=cost.DEVICE, requires_grad=True)
    labels = given.tokens.masked_fill(~given.masked, -100)

    def lean() -> Tensor:
        places = given.masked.nonzero(as_tuple=True)
        return losses.mrm(head(features[places]), given.tokens[places])

    def stock() -> Tensor:
        return F.cross_entropy(head(features).flatten(0, 1), labels.flatten())

    lean, stock = cast(c, lean), cast(c, stock)
    times = faster(
        lambda: cost.time_gradient(lean, head), lambda: cost.time_gradient(stock, head), rounds
    )
    what = f"language head at the 25 % masked tokens, {IN}"
    rival = "at every token, as BertForMaskedLM"
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
    rows.to(cost.DEVICE)
    theirs = ClipLoss()

    def gradient(loss: Callable) -> list[Tensor]:
        return torch.autograd.grad(loss(*rows), [*rows])

    times = faster(
        lambda: cost.time_gradient(lambda: losses.vrc(*rows), rows),
        lambda: cost.time_gradient(lambda: theirs(*rows), rows),
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
    """On a CPU half the paper's width, a third of its depth, so that all pairs fit a small one."""
    small = {"vision_width": 384, "vision_depth": 4, "vision_heads": 6}
    small |= {"text_width": 384, "text_depth": 4, "text_heads": 6}
    parts, small = (2, {}) if GPU else (8, small)
    c = settings("mcr").replace(dropout=0.0, **small)

    def sides(c: Config, size: int) -> tuple[MCR, Callable[[], Tensor], Callable[[], Tensor]]:
        AcceleratorState._reset_state(reset_partial_state=True)  # else the first precision stays
        accelerator = Accelerator(cpu=not GPU, mixed_precision=c.precision)
        model, given = (
            cost.build_model(c),
            cost.random_batch(c, cost.REPORT_LENGTHS * (parts * size // 8)),
        )

        def both() -> Tensor:
            two_pass(model, given, size, accelerator)
            return torch.zeros((), requires_grad=True)  # all gradients are there

        return model, both, lambda: cost.loss_of(model, given)

    def gradient(loss: Callable[[], Tensor]) -> Tensor:
        loss().backward()
        found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        model.zero_grad()
        return found.double()

    model, both, whole = sides(c, PAIRS)
    times = faster(
        lambda: cost.time_gradient(both, model), lambda: cost.time_gradient(whole, model), rounds
    )
    model, both, whole = sides(c.replace(precision="no"), min(PAIRS, 64))
    apart = 1 - float(F.cosine_similarity(gradient(whole), gradient(both), dim=0))
    what, rival = f"two passes of {parts} x {PAIRS} pairs, {IN}", f"one batch of {parts * PAIRS}"
    return [
        row("8", f"time of {what}", rival, times, 1 / 1.36),
        row("8", "gradient of two passes, fp32, 1 - cosine", "1e-6", [1e-6 / max(apart, 1e-12)], 1),
    ]


ROWS = {"4": tower, "5": masked_images, "6": masked_tokens, "7": contrast, "8": micro_batches}
