"""A run's recall beside the committed reference's: `python -m mcrlib.companion.compare RUN`."""

import sys

import pandas as pd

from mcrlib import config
from mcrlib.evaluation.seeds import over_seeds
from mcrlib.results import load
from mcrlib.tables import DIRECTION_LABELS


def compare(run: str, reference: str = "reference") -> pd.DataFrame:
    """Recall@10 of a run, mean over seeds, beside the committed reference run's, in per cent; with
    each one's pool, since a smaller pool is an easier one."""
    columns = {}
    for name in (run, reference):
        evaluated = load(config.ROOT / "results" / name / "retrieval.json")["values"]
        (pool,) = {result["pool"] for result in evaluated.values()}
        columns[f"{name}, pool of {pool:,}"] = {
            (model, shown): 100 * result[direction]["pair"]["R@10"]["value"]
            for model, result in over_seeds(evaluated).items()
            for direction, shown in DIRECTION_LABELS.items()
        }
    table = pd.DataFrame(columns).rename_axis(["model", "direction"]).round(1)
    return table.dropna(subset=[*columns][:1]).reset_index()


if __name__ == "__main__":
    try:
        print(compare(sys.argv[1]).to_string(index=False))
    except FileNotFoundError as error:
        sys.exit(str(error))
