"""Rows 1 to 3 and `compile`: the whole training step at the paper's size against its baselines.

Times are those of a forward and a backward pass, and the sides take turns. A CPU gets few pairs in
fp32. A GPU gets 256 pairs in bf16 (64 if it has less than 80 GB); there, levels that recompute are
compiled too, because uncompiled, Python overhead leaves the GPU idle. Activations are those of a
batch in bf16, simulated or read from the GPU's allocator, unless the row says otherwise.
"""

import functools
import shutil
import statistics
import sys
from collections.abc import Callable
from typing import NamedTuple

import torch
from measured import interleaved, ratios, row
from stock import Composition
from torch import Tensor

from mcrlib import config
from mcrlib.training import cost

TOKENS = 128
GPU = cost.DEVICE == "cuda"
if GPU:
    GPU_BYTES = torch.cuda.get_device_properties(0).total_memory
    PAIRS = 256 if GPU_BYTES > 80e9 else 64
    MEMORY_PAIRS = PAIRS
    ROUNDS = 5
    PRECISION = "bf16"
    PRECISION_NAME = "bf16"
else:
    PAIRS = 8  # whose step is timed
    MEMORY_PAIRS = 64  # whose activations are counted
    ROUNDS = 3
    PRECISION = "no"  # as accelerate calls fp32
    PRECISION_NAME = "fp32"
RAGGED = cost.REPORT_LENGTHS * (PAIRS // 8)  # tokens of each report


class Side(NamedTuple):
    """One side of a comparison: a variant at a level of recomputation."""

    variant: str
    level: str


MCR = Side("mcr", "none")
DUAL = Side("dual", "none")
DUAL_TOKEN = Side("dual-token", "none")
SELECTIVE_MCR = Side("mcr", "selective")
SELECTIVE_DUAL = Side("dual", "selective")
SIDES = [MCR, DUAL, DUAL_TOKEN, SELECTIVE_MCR, SELECTIVE_DUAL]


def settings(variant: str, level: str = "none", precision: str = PRECISION) -> config.Config:
    """The config of a step at the paper's size; on a GPU, recomputing levels are compiled."""
    compiles = GPU and level != "none"
    changes = {"recompute": level, "compile": compiles, "precision": precision}
    changes.update(cost.PAPER_ENCODERS)
    return config.load("mimic", variant, max_tokens=TOKENS, **changes)


def describe(side: Side) -> str:
    """A side as the rows name it, for instance "mcr, none"."""
    text = f"{side.variant}, {side.level}"
    if settings(*side).compile:
        text += " and compiled"
    return text


@functools.cache
def times() -> dict[Side, list[float]]:
    """Seconds of each side's steps, one a round."""
    configs = [settings(*side) for side in SIDES]
    seconds = cost.measure_seconds(configs, [TOKENS] * PAIRS, ROUNDS)
    return dict(zip(SIDES, seconds, strict=True))


@functools.cache
def activations(side: Side) -> dict:
    """Bytes of a side's step in bf16, as `cost.measure_bytes` returns them."""
    return cost.measure_bytes(settings(*side, "bf16"), [TOKENS] * MEMORY_PAIRS)


def against(
    name: str, ours: Side, theirs: Side, time_share: float, memory_share: float
) -> list[dict]:
    """Two rows: time and activations of `ours` against `theirs`.

    The goals are to need at most `time_share` of their time and `memory_share` of their bytes.
    """
    our_name = describe(ours)
    their_name = describe(theirs)

    seconds = times()
    faster = ratios(seconds[ours], seconds[theirs])
    what = f"time of {our_name}: {PAIRS} x {TOKENS} tokens, {PRECISION_NAME}"
    time_row = row(name, what, their_name, faster, 1 / time_share)

    our_memory = activations(ours)
    our_bytes = our_memory["activations"]
    their_bytes = activations(theirs)["activations"]
    size = f"{MEMORY_PAIRS} x {TOKENS}"
    gigabytes = f"{our_bytes / 1e9:.1f} GB"
    what = f"{size}, activations of {our_name}: {gigabytes}, {our_memory['kind']}"
    rival = f"{their_name}: {their_bytes / 1e9:.1f} GB"
    memory_row = row(name, what, rival, [their_bytes / our_bytes], 1 / memory_share)
    return [time_row, memory_row]


def method() -> list[dict]:
    """Row 1: the method alone, without recomputation."""
    against_dual = against("1", MCR, DUAL, time_share=0.50, memory_share=0.53)
    against_token = against("1", MCR, DUAL_TOKEN, time_share=0.44, memory_share=0.53)
    return against_dual + against_token


def lean() -> list[dict]:
    """Row 2: the method with selective recomputation, against `dual` without and with it."""
    ours = SELECTIVE_MCR
    against_plain = against("2", ours, DUAL, time_share=0.55, memory_share=0.25)
    against_selective = against("2", ours, SELECTIVE_DUAL, time_share=0.55, memory_share=0.53)
    return against_plain + against_selective


def compiled() -> list[dict]:
    """Row `compile`: a compiled step, in the time that it takes once it is compiled."""
    if shutil.which("g++") is None:
        message = "compile: skipped, because it needs a C++ compiler; install g++ to measure it."
        print(message, file=sys.stderr)
        return []
    plain_mcr = settings("mcr")
    compiled_mcr = settings("mcr").replace(compile=True)
    compiled_dual = settings("dual").replace(compile=True)
    configs = [plain_mcr, compiled_mcr, compiled_dual]
    plain, ours, dual = cost.measure_seconds(configs, RAGGED, ROUNDS)
    what = "time of mcr, compiled, after the first step"
    against_plain = row("compile", what, "mcr, none", ratios(ours, plain), 1)
    against_dual = row("compile", what, "dual, compiled", ratios(ours, dual), 1 / 0.55)
    return [against_plain, against_dual]


def composition() -> list[dict]:
    """Row 3: two stock models composed, against both levels of ours.

    Reports have realistic lengths. Both levels are shown, because recomputation saves memory but
    costs time.
    """
    batch = cost.random_batch(settings("mcr"), RAGGED)
    plain = cost.build_model(settings("mcr", "none"))
    selective = cost.build_model(settings("mcr", "selective"))
    shared_weights = plain.state_dict(keep_vars=True)
    selective.load_state_dict(shared_weights, assign=True)
    naive = Composition(plain).train().to(cost.DEVICE)

    def naive_loss() -> Tensor:
        """The composition's loss, in the same precision as ours."""
        with cost.autocast(plain.config):
            return naive(batch)

    models = {"none": plain, "selective": selective, "naive": naive}
    losses = {
        "none": functools.partial(cost.loss_of, plain, batch),
        "selective": functools.partial(cost.loss_of, selective, batch),
        "naive": naive_loss,
    }
    timers = {}
    for name, model in models.items():
        timers[name] = functools.partial(cost.time_gradient, losses[name], model)
    seconds = interleaved(timers, ROUNDS)
    kept = {name: _kept_by(loss) for name, loss in losses.items()}

    rival = "ViTMAE and BertForMaskedLM composed"
    length = statistics.mean(RAGGED)
    reports = f"reports of {length:.0f} tokens in the mean"
    rows = []
    for level in ("none", "selective"):
        our_name = describe(Side("mcr", level))
        what = f"{our_name}, {reports}, {PRECISION_NAME}"
        faster = ratios(seconds[level], seconds["naive"])
        smaller = kept["naive"] / kept[level]
        rows.append(row("3", f"time of {what}, {TOKENS} at most", rival, faster, 2.2))
        rows.append(row("3", f"activations of {what}, counted", rival, [smaller], 4))
    return rows


def _kept_by(loss: Callable[[], Tensor]) -> int:
    """Bytes that a forward pass keeps for its backward pass."""
    with cost.byte_counter() as counter:
        result = loss()  # the name keeps the graph alive while its bytes are read
        kept = counter.live
    del result
    return kept


ROWS = {"1": method, "2": lean, "3": composition, "compile": compiled}
