"""Rows 1 to 3 and `compile`: the whole training step at the paper's size beside its baselines.

Time is that of forward and backward pass on the CPU in fp32, the sides in turn; activations are
those of a simulated step in bf16 with 64 pairs, unless the row says otherwise.
"""

import dataclasses
import functools
import shutil
import statistics
import sys

from measured import interleaved, ratios, row
from stock import Composition
from torch import Tensor

from mcrlib import config, memory

PAIRS, TOKENS, ROUNDS = 8, 128, 3


def settings(variant: str, level: str = "none", precision: str = "no") -> config.Config:
    return config.load(
        "mimic", variant, recompute=level, precision=precision, max_tokens=TOKENS, **memory.PAPER
    )


@functools.cache
def times() -> dict[tuple[str, str], list[float]]:
    """Seconds a round, by variant and level."""
    sides = [(variant, "none") for variant in ("mcr", "dual", "dual-token")]
    sides += [("mcr", "selective"), ("dual", "selective")]
    took = memory.seconds([settings(*side) for side in sides], [TOKENS] * PAIRS, ROUNDS)
    return dict(zip(sides, took, strict=True))


@functools.cache
def activations(variant: str, level: str) -> int:
    return memory.step(settings(variant, level, "bf16"), [TOKENS] * 64)["activations"]


def against(name: str, ours: tuple, theirs: tuple, slower: float, larger: float) -> list[dict]:
    """Time and activations of one side against another's, each with its goal."""
    seconds, what, rival = times(), *(f"{variant}, {level}" for variant, level in (ours, theirs))
    faster = ratios(seconds[ours], seconds[theirs])
    kept = activations(*ours), activations(*theirs)
    shown = f"activations of {what}: {kept[0] / 1e9:.1f} GB, simulated"
    return [
        row(name, f"time of {what}: {PAIRS} x {TOKENS} tokens, fp32", rival, faster, 1 / slower),
        row(name, shown, f"{rival}: {kept[1] / 1e9:.1f} GB", [kept[1] / kept[0]], 1 / larger),
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
    sides = [settings("mcr"), dataclasses.replace(settings("mcr"), compile=True)]
    plain, ours = memory.seconds(sides, memory.LENGTHS, ROUNDS)
    what = "time of mcr, compiled, after the first step"
    return [row("compile", what, "mcr, none", ratios(ours, plain), 1)]


def composition() -> list[dict]:
    """Reports as long as real ones, and both levels of ours, since recomputing costs time."""
    given = memory.batch(settings("mcr"), memory.LENGTHS)
    plain, selective = (memory.build(settings("mcr", level)) for level in ("none", "selective"))
    selective.load_state_dict(plain.state_dict(keep_vars=True), assign=True)
    models = {"none": plain, "selective": selective, "naive": Composition(plain).train()}

    def loss(name: str) -> Tensor:
        model = models[name]
        return model(given) if name == "naive" else memory.forward(model, given)

    def seconds(name: str) -> float:
        return memory.timed(lambda: loss(name), models[name])

    took = interleaved({name: functools.partial(seconds, name) for name in models}, ROUNDS)
    kept = {}
    for name in models:
        with memory.Tally() as tally:
            held = loss(name)
            kept[name] = tally.live
        del held
    rival, found = "ViTMAE and BertForMaskedLM composed", []
    for level in ("none", "selective"):
        what = f"mcr, {level}, reports of {statistics.mean(memory.LENGTHS):.0f} tokens in the mean"
        faster, fewer = ratios(took[level], took["naive"]), [kept["naive"] / kept[level]]
        found.append(row("3", f"time of {what}, {TOKENS} at most", rival, faster, 2.2))
        found.append(row("3", f"activations of {what}, counted in fp32", rival, fewer, 4))
    return found


ROWS = {"1": method, "2": lean, "3": composition, "compile": compiled}
