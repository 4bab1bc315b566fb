"""A run's recall next to the committed reference's: `python -m mcrlib.companion.compare RUN`."""

import sys
from collections.abc import Mapping

import pandas as pd

from mcrlib import config
from mcrlib.evaluation.seeds import over_seeds
from mcrlib.results import load
from mcrlib.tables import DIRECTION_LABELS


def compare(run: str, reference: str = "reference") -> pd.DataFrame:
    """Recall@10 of a run and of the committed reference run in percent, averaged over seeds; one
    row per model of the run and direction.

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
    columns = {
        run_column: _recall_at_10(run_numbers),
        reference_column: _recall_at_10(reference_numbers),
    }
    table = pd.DataFrame(columns)
    table = table.rename_axis(["model", "direction"]).round(1)
    of_run = table.dropna(subset=[run_column])
    return of_run.reset_index()


def _evaluated(run: str) -> dict[str, dict]:
    """Results of `retrieval.evaluate` by model."""
    return load(config.ROOT / "results" / run / "retrieval.json")["values"]


def _column_name(run: str, evaluated: Mapping[str, dict]) -> str:
    (pool,) = {result["pool"] for result in evaluated.values()}
    return f"{run}, pool of {pool:,}"


def _recall_at_10(evaluated: Mapping[str, dict]) -> dict[tuple[str, str], float]:
    """In percent, by model and direction."""
    recall = {}
    for model, result in over_seeds(evaluated).items():
        for direction, label in DIRECTION_LABELS.items():
            share = result[direction]["pair"]["R@10"]["value"]
            recall[model, label] = 100 * share
    return recall


def main(run: str) -> None:
    """Print the comparison under a line that says what its numbers are."""
    table = compare(run)
    print(f"\nRecall@10 in %, policy pair, mean over seeds: {run} and the committed reference")
    print(table.to_string(index=False))
    print(f"Tables: results/{run}/*.csv, *.tex. Figures: figures/{run}/.")


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except (FileNotFoundError, ValueError) as error:
        sys.exit(str(error))
