"""The form of every benchmark's result, and how the sides of a comparison are timed."""

import statistics
import time
from collections.abc import Callable, Hashable
from pathlib import Path

Work = Callable[[], float]  # does something once and returns its seconds


def row(name: str, what: str, rival: str, ratios: list[float], goal: float) -> dict:
    """One measurement, summarised over its rounds.

    `name` becomes the `id`; `what` was measured, against `rival`. `ratio` is the median of
    `ratios`, `spread` their smallest and largest. The `goal` is `met` if the ratio reaches it.
    """
    ratio = statistics.median(ratios)
    smallest = round(min(ratios), 3)
    largest = round(max(ratios), 3)
    measured = {
        "id": name,
        "what": what,
        "rival": rival,
        "ratio": round(ratio, 3),
        "spread": [smallest, largest],
        "goal": round(goal, 3),
        "met": ratio >= goal,
    }
    return measured


def ratios(ours: list[float], theirs: list[float]) -> list[float]:
    """How many times longer theirs took, for each round."""
    quotients = []
    for our_seconds, their_seconds in zip(ours, theirs, strict=True):
        quotients.append(their_seconds / our_seconds)
    return quotients


def interleaved(sides: dict[Hashable, Work], rounds: int) -> dict[Hashable, list[float]]:
    """Seconds of each side in each round. The sides take turns, after one round of warm-up."""
    for work in sides.values():
        work()
    seconds = {name: [] for name in sides}
    for _ in range(rounds):
        for name, work in sides.items():
            took = work()
            seconds[name].append(took)
    return seconds


def seconds_of(
    work: Callable, *arguments: object, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds that `work(*arguments)` takes by a `clock`."""
    started = clock()
    work(*arguments)
    return clock() - started


def own_memory(name: str) -> float:
    """A memory figure of this process in MiB, such as VmRSS, or VmHWM for its peak.

    `ru_maxrss` would start from the peak of the process that started this one.
    """
    text = Path("/proc/self/status").read_text()
    return float(text.split(f"{name}:")[1].split()[0]) / 1024
