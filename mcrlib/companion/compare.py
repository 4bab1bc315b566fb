"""A run's recall next to the committed reference's: `python -m mcrlib.companion.compare RUN`.

Both are read at the K that suits the smaller of the two pools (`chance.telling_k`).
"""

import sys
from collections.abc import Mapping

import pandas as pd

from mcrlib import config
from mcrlib.companion.lengths import trained_alike
from mcrlib.evaluation.chance import chance_recall, telling_k
from mcrlib.evaluation.seeds import over_seeds
from mcrlib.results import load
from mcrlib.tables import DIRECTION_LABELS


def compare(run: str, reference: str = "reference") -> pd.DataFrame:
    """Recall@K of a run and of the committed reference run in percent, averaged over seeds; one row
    per model of the run and direction. K is `shared_k`.

    Column names give each run's pool, since retrieval from a smaller pool is easier. Raises
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
    }
    table = pd.DataFrame(columns)
    table = table.rename_axis(["model", "direction"]).round(1)
    of_run = table.dropna(subset=[run_column])
    return of_run.reset_index()


def shared_k(run: str, reference: str = "reference") -> int:
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
    """Recall@k in percent, by model and direction."""
    recall = {}
    for model, result in over_seeds(evaluated).items():
        for direction, label in DIRECTION_LABELS.items():
            share = result[direction]["pair"][f"R@{k}"]["value"]
            recall[model, label] = 100 * share
    return recall


def main(run: str) -> None:
    """Print the comparison under a line that says what its numbers are."""
    table = compare(run)
    k = shared_k(run)
    print(f"\nRecall@{k} in %, policy pair, mean over seeds: {run} and the committed reference")
    print(f"Chance: {_chance(run, k)} and {_chance('reference', k)}")
    print(table.to_string(index=False))
    for name in (run, "reference"):
        print(f"{name}: {trained_alike(name).strip() or 'nothing says how long it was trained.'}")
    print(f"Tables: results/{run}/*.csv, *.tex. Figures: figures/{run}/.")


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except (FileNotFoundError, ValueError) as error:
        sys.exit(str(error))
