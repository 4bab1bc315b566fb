"""The form of every benchmark's result."""

import statistics


def row(name: str, what: str, rival: str, ratios: list[float], goal: float) -> dict:
    """One measurement: id, what, rival, median ratio, spread, goal (least ratio), met."""
    ratio = statistics.median(ratios)
    spread = [round(min(ratios), 3), round(max(ratios), 3)]
    measured = {"ratio": round(ratio, 3), "spread": spread, "goal": goal, "met": ratio >= goal}
    return {"id": name, "what": what, "rival": rival} | measured
