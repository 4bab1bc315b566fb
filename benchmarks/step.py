"""Rows 1 to 3 and `compile`: the whole training step at the paper's size beside its baselines.

Time is that of forward and backward pass, the sides in turn: on the CPU of few pairs in fp32, on a
GPU of 256 in bf16 (64 if it has less than 80 GB), where what recomputes is compiled too: as it is,
Python would be slower than the GPU. Activations are those of a batch in bf16, simulated or read
from the GPU's allocator, unless the row says otherwise.
"""

import functools
import shutil
import statistics
import sys

import torch
from measured import interleaved, ratios, row
from stock import Composition
from torch import Tensor

from mcrlib import config
from mcrlib.training import cost

TOKENS, GPU = 128, cost.DEVICE == "cuda"
LARGE = GPU and torch.cuda.get_device_properties(0).total_memory > 80e9
PAIRS, ROUNDS, PRECISION = (256 if LARGE else 64, 5, "bf16") if GPU else (8, 3, "no")
BATCH = PAIRS if GPU else 64  # whose activations are counted
RAGGED = cost.REPORT_LENGTHS * (PAIRS // 8)  # tokens of each report
IN = "bf16" if GPU else "fp32"


def settings(variant: str, level: str = "none", precision: str = PRECISION) -> config.Config:
    how = {"recompute": level, "compile": GPU and level != "none", "precision": precision}
    return config.load("mimic", variant, max_tokens=TOKENS, **how, **cost.PAPER_ENCODERS)


@functools.cache
def times() -> dict[tuple[str, str], list[float]]:
    """Seconds a round, by variant and level."""
    sides = [(variant, "none") for variant in ("mcr", "dual", "dual-token")]
    sides += [("mcr", "selective"), ("dual", "selective")]
    took = cost.measure_seconds([settings(*side) for side in sides], [TOKENS] * PAIRS, ROUNDS)
    return dict(zip(sides, took, strict=True))


def named(variant: str, level: str) -> str:
    return f"{variant}, {level}{' and compiled' if settings(variant, level).compile else ''}"


@functools.cache
def activations(variant: str, level: str) -> dict:
    return cost.measure_bytes(settings(variant, level, "bf16"), [TOKENS] * BATCH)


def against(name: str, ours: tuple, theirs: tuple, slower: float, larger: float) -> list[dict]:
    """Time and activations of one side against another's, each with its goal."""
    seconds, what, rival = times(), named(*ours), named(*theirs)
    faster = ratios(seconds[ours], seconds[theirs])
    kept = [step["activations"] for step in (activations(*ours), activations(*theirs))]
    shown = f"activations of {what}: {kept[0] / 1e9:.1f} GB, {activations(*ours)['kind']}"
    return [
        row(name, f"time of {what}: {PAIRS} x {TOKENS} tokens, {IN}", rival, faster, 1 / slower),
        row(
            name,
            f"{BATCH} x {TOKENS}, {shown}",
            f"{rival}: {kept[1] / 1e9:.1f} GB",
            [kept[1] / kept[0]],
            1 / larger,
        ),
    ]


def method() -> list[dict]:
    ours = ("mcr", "none")
    return against("1", ours, ("dual", "none"), 0.50, 0.53) + against(
        "1", ours, ("dual-token", "none"), 0.44, 0.53
    )


def lean() -> list[dict]:
    ours = ("mcr", "selective")
    return against("2", ours, ("dual", "none"), 0.55, 0.25) + against(
        "2", ours, ("dual", "selective"), 0.55, 0.53
    )


def compiled() -> list[dict]:
    if shutil.which("g++") is None:
        print("compile: there is no C++ compiler, so that it is not measured", file=sys.stderr)
        return []
    sides = [settings("mcr")]
    sides += [settings(name).replace(compile=True) for name in ("mcr", "dual")]
    plain, ours, dual = cost.measure_seconds(sides, RAGGED, ROUNDS)
    what = "time of mcr, compiled, after the first step"
    return [
        row("compile", what, "mcr, none", ratios(ours, plain), 1),
        row("compile", what, "dual, compiled", ratios(ours, dual), 1 / 0.55),
    ]


def composition() -> list[dict]:
    """Reports as long as real ones, and both levels of ours, since recomputing costs time."""
    given = cost.random_batch(settings("mcr"), RAGGED)
    plain, selective = (cost.build_model(settings("mcr", level)) for level in ("none", "selective"))
    selective.load_state_dict(plain.state_dict(keep_vars=True), assign=True)
    naive = Composition(plain).train().to(cost.DEVICE)
    models = {"none": plain, "selective": selective, "naive": naive}

    def loss(name: str) -> Tensor:
        if name != "naive":
            return cost.loss_of(models[name], given)
        with cost.autocast(plain.config):
            return naive(given)

    def seconds(name: str) -> float:
        return cost.time_gradient(lambda: loss(name), models[name])

    took = interleaved({name: functools.partial(seconds, name) for name in models}, ROUNDS)
    kept = {}
    for name in models:
        with cost.byte_counter() as counted:
            held = loss(name)
            kept[name] = counted.live
        del held
    rival, found = "ViTMAE and BertForMaskedLM composed", []
    for level in ("none", "selective"):
        length = statistics.mean(RAGGED)
        what = f"{named('mcr', level)}, reports of {length:.0f} tokens in the mean, {IN}"
        faster, fewer = ratios(took[level], took["naive"]), [kept["naive"] / kept[level]]
        found.append(row("3", f"time of {what}, {TOKENS} at most", rival, faster, 2.2))
        found.append(row("3", f"activations of {what}, counted", rival, fewer, 4))
    return found


ROWS = {"1": method, "2": lean, "3": composition, "compile": compiled}
