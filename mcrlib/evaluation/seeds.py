"""Group a run's models by variant and summarise their results over seeds."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def variant_and_seed(model: str) -> tuple[str, str]:
    """The variant and the digits of the seed of a model's name, `VARIANT-seedS`; "" for the seed of
    a name without one."""
    variant, _, seed = model.partition("-seed")
    return variant, seed


def by_variant(models: Mapping[str, Any]) -> dict[str, list]:
    """Group values by variant: variant -> one value for each seed, in the order given.

    The keys of `models` are model names, either `VARIANT-seedS` or `VARIANT` alone.
    """
    grouped: dict[str, list] = {}
    for model, value in models.items():
        variant, _ = variant_and_seed(model)
        grouped.setdefault(variant, []).append(value)
    return grouped


def over_seeds(evaluated: Mapping[str, dict]) -> dict[str, dict]:
    """Summarise the results of `retrieval.evaluate` (model -> result) by variant.

    Each summary has the structure of a single result, plus the number of `seeds`. A variant with
    one seed keeps its result. With several seeds every number is the mean over them, and `low` and
    `high` lie one standard deviation (n - 1) below and above it, in place of the interval. Seeds
    for which a measure is not defined (None) do not count.
    """
    summaries = {}
    for variant, results in by_variant(evaluated).items():
        summary = {"seeds": len(results)}
        if len(results) == 1:
            summary.update(results[0])
        else:
            summary.update(_mean(results))
        summaries[variant] = summary
    return summaries


def _mean(values: list) -> Any:
    """Average the same entry of each seed's result: a number, a text, a list of numbers, or a
    nested dict of them.

    Equal values, such as texts and pool sizes, are kept.
    """
    first = values[0]
    if isinstance(first, dict):
        means = {name: _mean([value[name] for value in values]) for name in first}
        if "low" in first:
            means.update(_mean_and_deviation([cell["value"] for cell in values]))
        return means
    if isinstance(first, list):
        return np.mean(values, axis=0).tolist()
    values = [value for value in values if value is not None]
    if not values:
        return None
    if len(set(values)) == 1:
        return first
    return float(np.mean(values))


def _mean_and_deviation(values: list[float | None]) -> dict[str, float | None]:
    values = [value for value in values if value is not None]
    if not values:
        return dict.fromkeys(("value", "low", "high"))
    mean = float(np.mean(values))
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {"value": mean, "low": mean - deviation, "high": mean + deviation}
