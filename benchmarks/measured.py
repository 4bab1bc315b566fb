"""The form of every benchmark's result, and how two sides are timed."""

import statistics
from collections.abc import Callable, Hashable


def row(name: str, what: str, rival: str, ratios: list[float], goal: float) -> dict:
    """One measurement: id, what, rival, median ratio, spread, goal (least ratio), met."""
    ratio = statistics.median(ratios)
    spread = [round(min(ratios), 3), round(max(ratios), 3)]
    measured = {"ratio": round(ratio, 3), "spread": spread, "goal": round(goal, 3)}
    return {"id": name, "what": what, "rival": rival} | measured | {"met": ratio >= goal}


def ratios(ours: list[float], theirs: list[float]) -> list[float]:
    """How many times longer theirs took, round by round."""
    return [b / a for a, b in zip(ours, theirs, strict=True)]


def interleaved(
    sides: dict[Hashable, Callable[[], float]], rounds: int
) -> dict[Hashable, list[float]]:
    """Seconds of each side's rounds, which alternate, after one round that does not count."""
    seconds = [{name: work() for name, work in sides.items()} for _ in range(1 + rounds)]
    return {name: [one[name] for one in seconds[1:]] for name in sides}
