"""What the notebooks compute from the embeddings of a run."""

from collections.abc import Iterable
from itertools import product

import numpy as np
import pandas as pd

from mcrlib.evaluation.retrieval import DIRECTIONS


def top_hits(
    hits: dict[str, dict[str, tuple]], frame: pd.DataFrame, queries: Iterable[int]
) -> list[dict]:
    """What Figure 5 shows of `queries` (rows of `frame`), from `retrieval.hits`' results by model:
    a record a direction and query, with `pair_id`, `report` and the `hits` of each model."""
    about = frame[["pair_id", "report"]].to_dict("records")

    def found(query: int, rows: np.ndarray, scores: np.ndarray) -> list[dict]:
        best = enumerate(zip(rows[query].tolist(), scores[query].tolist(), strict=True), 1)
        return [{"rank": k, "score": s, "positive": i == query} | about[i] for k, (i, s) in best]

    return [
        {"direction": way, "hits": {name: found(query, *by[way]) for name, by in hits.items()}}
        | about[query]
        for way, query in product(DIRECTIONS, map(int, queries))
    ]
