"""What a training step at the paper's size costs, by variant and level of recomputation."""

import statistics
import time
from typing import Any

from mcrlib import config, results
from mcrlib.companion.analyses import Numbers
from mcrlib.config import Config
from mcrlib.training import cost


def measure_steps(
    run: str, pairs: int = 64, micro_pairs: int = 16, timed_pairs: int = 4, rounds: int = 2
) -> Numbers:
    """Bytes and seconds of a training step at the paper's size, by variant and recomputation.

    Memory is that of `pairs` reports of 128 and of 256 tokens; the largest batch is extrapolated
    from `pairs` and twice as many. On a CPU the time is that of `timed_pairs` in fp32, since a CPU
    is slow; on a GPU that of `pairs` in bf16, compiled if anything is recomputed.
    The reference's numbers are read, never measured again.
    """
    variants = ("mcr", "dual", "dual-token")
    levels = ("none", "selective", "full")
    on_gpu = cost.DEVICE == "cuda"
    timed = pairs if on_gpu else timed_pairs
    precision = "bf16" if on_gpu else "no"
    asked = {
        "variants": variants,
        "levels": levels,
        "pairs": (micro_pairs, pairs, 2 * pairs),
        "timed": (timed, precision),
        "rounds": rounds,
        "ragged": cost.REPORT_LENGTHS,
    }
    inputs = {name: str(value) for name, value in asked.items()}
    file = config.ROOT / "results" / run / "efficiency.json"
    if run != config.REFERENCE and not results.is_current(file, inputs):
        started = time.perf_counter()
        steps = []
        for variant in variants:
            for level in levels:
                steps.append(_paper_step(variant, level))
        rows = []
        for tokens in (128, 256):
            rows += cost.measure_variants(steps, tokens, pairs, micro_pairs, 2 * pairs)
        _add_seconds(rows, steps, timed, precision, rounds)
        how = "bf16, compiled where it recomputes" if on_gpu else "fp32"
        values = {
            "steps": rows,
            "parts": _saved_by_part(pairs),
            "timed": f"{timed} pairs of 128 tokens, {how}",
        }
        seconds = round(time.perf_counter() - started)
        results.save(file, values, inputs=inputs, run=run, seconds=seconds)
    return Numbers.load(file)


def _paper_step(variant: str, level: str = "none", **changes: Any) -> Config:
    return config.load("mimic", variant, recompute=level, **cost.PAPER_ENCODERS, **changes)


def _add_seconds(
    rows: list[dict], steps: list[Config], timed: int, precision: str, rounds: int
) -> None:
    """Time the steps of 128 tokens; the first rows are theirs."""
    to_time = []
    for step in steps:
        compiled = cost.DEVICE == "cuda" and step.recompute != "none"
        to_time.append(step.replace(precision=precision, compile=compiled))
    seconds = cost.measure_seconds(to_time, [128] * timed, rounds)
    rows_of_128_tokens = rows[: len(steps)]
    for row, times in zip(rows_of_128_tokens, seconds, strict=True):
        row["seconds"] = statistics.median(times)


def _saved_by_part(pairs: int) -> dict[str, int]:
    """Bytes of activations as the savings add up: each row has everything above it, too."""
    full_length = [128] * pairs
    real_lengths = (cost.REPORT_LENGTHS * pairs)[:pairs]
    lean = _paper_step("mcr", "selective")
    parts = {
        "two streams, masks as tokens, fp32: dual-token": (
            _paper_step("dual-token", precision="no"),
            full_length,
        ),
        "bf16": (_paper_step("dual-token"), full_length),
        "masked patches dropped: dual": (_paper_step("dual"), full_length),
        "one stream: mcr": (_paper_step("mcr"), full_length),
        "selective recomputation": (lean, full_length),
        "reports as long as real ones": (lean, real_lengths),
    }
    saved = {}
    for name, (step, lengths) in parts.items():
        saved[name] = cost.measure_bytes(step, lengths)["activations"]
    return saved
