"""A run's recall next to the committed reference's: `python -m mcrlib.companion.compare RUN`.

Both are read at the K that suits the smaller of the two pools (`chance.telling_k`).
"""

import math
import sys
from collections.abc import Mapping

import pandas as pd

from mcrlib import config
from mcrlib.companion.lengths import trained_alike
from mcrlib.evaluation.chance import chance_recall, telling_k
from mcrlib.evaluation.seeds import by_variant, over_seeds
from mcrlib.results import load
from mcrlib.tables import DIRECTION_LABELS

DEVIATION = "deviation"  # the column of the reference's deviation over seeds


def compare(run: str, reference: str = config.REFERENCE) -> pd.DataFrame:
    """Recall@K of a run and of the committed reference run in percent, averaged over seeds; one row
    per model of the run and direction. K is `shared_k`.

    Column names give each run's pool, since retrieval from a smaller pool is easier. The last
    column is the reference's standard deviation over its seeds, NaN for a model of one seed. Raises
    FileNotFoundError if a run has no `retrieval.json`, and ValueError for a rehearsal.
    """
    for name in (run, reference):
        if config.is_rehearsal(name):
            raise ValueError(f"{name} is a rehearsal, whose numbers are no results: compare a run.")
    run_numbers = _evaluated(run)
    reference_numbers = _evaluated(reference)
    run_column = _column_name(run, run_numbers)
    reference_column = _column_name(reference, reference_numbers)
    k = shared_k(run, reference)
    columns = {
        run_column: _recall(run_numbers, k),
        reference_column: _recall(reference_numbers, k),
        DEVIATION: _deviation(reference_numbers, k),
    }
    table = pd.DataFrame(columns)
    table = table.rename_axis(["model", "direction"]).round(1)
    of_run = table.dropna(subset=[run_column])
    return of_run.reset_index()


def shared_k(run: str, reference: str = config.REFERENCE) -> int:
    """The K at which the recalls of both are read, so that it tells something in both pools."""
    pools = [_pool(_evaluated(name)) for name in (run, reference)]
    return telling_k(min(pools))


def _chance(run: str, k: int) -> str:
    """In percent, with the run's name."""
    (chance,) = chance_recall((k,), _pool(_evaluated(run))).values()
    return f"{100 * chance:.1f} ({run})"


def _evaluated(run: str) -> dict[str, dict]:
    """Results of `retrieval.evaluate` by model."""
    return load(config.ROOT / "results" / run / "retrieval.json")["values"]


def _column_name(run: str, evaluated: Mapping[str, dict]) -> str:
    return f"{run}, pool of {_pool(evaluated):,}"


def _pool(evaluated: Mapping[str, dict]) -> int:
    (pool,) = {result["pool"] for result in evaluated.values()}
    return pool


def _recall(evaluated: Mapping[str, dict], k: int) -> dict[tuple[str, str], float]:
    """Mean Recall@k over seeds in percent, by model and direction."""
    shares = _over_seeds(evaluated, k)
    return {name: 100 * share["value"] for name, share in shares.items()}


def _deviation(evaluated: Mapping[str, dict], k: int) -> dict[tuple[str, str], float]:
    """Standard deviation of Recall@k over seeds in points, by model and direction; NaN for a model
    of one seed."""
    seeds = by_variant(evaluated)
    deviations = {}
    for name, share in _over_seeds(evaluated, k).items():
        model, _ = name
        deviation = 100 * (share["value"] - share["low"])
        deviations[name] = deviation if len(seeds[model]) > 1 else math.nan
    return deviations


def _over_seeds(evaluated: Mapping[str, dict], k: int) -> dict[tuple[str, str], dict]:
    """Recall@k summarised over seeds, by model and direction."""
    shares = {}
    for model, result in over_seeds(evaluated).items():
        for direction, label in DIRECTION_LABELS.items():
            shares[model, label] = result[direction]["pair"][f"R@{k}"]
    return shares


def main(run: str) -> None:
    """Print the comparison under a line that says what its numbers are."""
    table = compare(run)
    k = shared_k(run)
    print(f"\nRecall@{k} in %, policy pair, mean over seeds: {run} and the committed reference")
    print(f"Chance: {_chance(run, k)} and {_chance('reference', k)}")
    print(table.to_string(index=False, na_rep="one seed"))
    if table[DEVIATION].notna().any():
        print(
            "deviation: of the reference's seeds. A seed more than two of them off the reference "
            "is rarely chance."
        )
    for name in (run, config.REFERENCE):
        print(f"{name}: {trained_alike(name).strip() or 'nothing says how long it was trained.'}")
    print(f"Tables: results/{run}/*.csv, *.tex. Figures: figures/{run}/.")


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except (FileNotFoundError, ValueError) as error:
        sys.exit(str(error))
