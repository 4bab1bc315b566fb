"""Models by variant, and their numbers over several seeds."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def by_variant(models: Mapping[str, Any]) -> dict[str, list]:
    """What belongs to the models of a run (`trained`), a list over seeds by variant."""
    result: dict[str, list] = {}
    for name, value in models.items():
        result.setdefault(name.partition("-seed")[0], []).append(value)
    return result


def over_seeds(evaluated: Mapping[str, dict]) -> dict[str, dict]:
    """`retrieval.evaluate`'s results by variant, with the number of `seeds`. Of several: their
    means, and in place of the interval `low` and `high` one deviation (n - 1) away."""
    return {
        variant: {"seeds": len(seeds)} | (_mean(seeds) if len(seeds) > 1 else seeds[0])
        for variant, seeds in by_variant(evaluated).items()
    }


def _mean(seeds: list) -> Any:
    """One number, text or nest of them in place of the same of each seed."""
    first = seeds[0]
    if not isinstance(first, dict):
        return first if {*seeds} == {first} else float(np.mean(seeds))
    if "low" not in first:
        return {name: _mean([seed[name] for seed in seeds]) for name in first}
    values = [seed["value"] for seed in seeds]
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    return {"value": mean, "low": mean - deviation, "high": mean + deviation}
