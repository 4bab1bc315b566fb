"""Queries with their best hits: Figure 5, and questions of the reader's own."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mcrlib import config, results
from mcrlib.companion.analyses import Numbers
from mcrlib.evaluation.seeds import by_variant


@dataclass(frozen=True)
class TopHits:
    """Queries with their best hits, and the pictures to show."""

    queries: list[dict]  # records of `top_hits`
    pictures: dict[str, np.ndarray]  # pair id -> uint8 [S, S]
    models: str  # folder names of the models shown
    pool: int
    rule: str  # how the queries were chosen
    is_figure5: bool  # False if the reader chose models or queries of their own


def find_top3(
    run: str,
    models: Sequence[str] = (),
    queries: int = 1,
    seed: int = 0,
    least: int = 2,
    pair_ids: Sequence[str] = (),
) -> TopHits:
    """Three best hits of each query under each model, in both directions.

    `queries` are drawn by `seed` among the test pairs whose report asserts `least` findings, or
    named by `pair_ids`. Without `models`, the paper's two are shown (AbM and MbA), or the run's
    first two. Only the default question is Figure 5: its numbers are saved in `top3.json` and its
    pictures in `top3.npz`; the answer to any other question is returned and saved nowhere.
    Raises ValueError for models that are not embedded and pairs that are not in the test split.
    """
    is_figure5 = (list(models), queries, seed, least, list(pair_ids)) == ([], 1, 0, 2, [])
    files = _models_to_show(run, models)
    names = ", ".join(file.parent.name for file in files.values())
    if not is_figure5:
        shown, pictures, pool, rule = _search(run, files, queries, seed, least, pair_ids)
        return TopHits(shown, pictures, names, pool, rule, is_figure5)

    file = config.ROOT / "results" / run / "top3.json"
    pictures_file = file.with_suffix(".npz")
    inputs = results.input_hashes(run)
    inputs |= {"models": str(list(files)), "least": str(least)}
    inputs |= {"queries": str(queries), "seed": str(seed)}
    if not results.is_current(file, inputs):
        started = time.perf_counter()
        shown, pictures, pool, rule = _search(run, files, queries, seed, least, pair_ids)
        np.savez_compressed(pictures_file, **pictures)
        about = {"inputs": inputs, "run": run, "pool": pool, "rule": rule}
        results.save(file, shown, **about, seconds=round(time.perf_counter() - started))
    numbers = Numbers.load(file)
    pictures = dict(np.load(pictures_file))
    about = numbers.provenance
    return TopHits(numbers.values, pictures, names, about["pool"], about["rule"], is_figure5)


def _models_to_show(run: str, models: Sequence[str]) -> dict[str, Path]:
    """Embedding file of each variant to show; of several seeds the first."""
    embedded = {name: files[0] for name, files in by_variant(results.embedding_files(run)).items()}
    missing = [name for name in models if name not in embedded]
    if missing:
        raise ValueError(
            f"The run {run} has no embeddings of {', '.join(missing)}; it has "
            f"{', '.join(embedded)}. Train it first: make embed RUN={run} VARIANTS={missing[0]}."
        )
    papers_own = [name for name in ("abm", "mcr") if name in embedded]
    chosen = list(models) or papers_own or list(embedded)[:2]
    return {name: embedded[name] for name in chosen}


def _search(
    run: str,
    files: dict[str, Path],
    queries: int,
    seed: int,
    least: int,
    pair_ids: Sequence[str],
) -> tuple[list[dict], dict[str, np.ndarray], int, str]:
    """Records of the queries and their hits, pictures by pair id, the pool's size, and the rule."""
    from mcrlib.evaluation import retrieval

    dataset = results.dataset_of_run(run)
    rows = dataset.indices("test")
    test = dataset.frame.iloc[rows].reset_index(drop=True)
    if pair_ids:
        chosen = _named_queries(test, pair_ids)
        rule = "named by hand"
    else:
        chosen, rule = _drawn_queries(test, queries, seed, least)

    hits = {}
    for name, file in files.items():
        image, report = results.load_embeddings(file, test["pair_id"])
        hits[name] = retrieval.hits(image, report, 3)
    shown = top_hits(hits, test, chosen)

    ids = set()
    for query in shown:
        ids.add(query["pair_id"])
        for best in query["hits"].values():
            ids.update(hit["pair_id"] for hit in best)
    row_of = dict(zip(test["pair_id"], rows, strict=True))
    pictures = {pair_id: dataset.images[row_of[pair_id]] for pair_id in sorted(ids)}
    return shown, pictures, len(test), rule


def _named_queries(test: pd.DataFrame, pair_ids: Sequence[str]) -> np.ndarray:
    unknown = [pair_id for pair_id in pair_ids if pair_id not in set(test["pair_id"])]
    if unknown:
        raise ValueError(f"No pair of the test split is called {', '.join(unknown)}.")
    return np.flatnonzero(test["pair_id"].isin(pair_ids))


def _drawn_queries(
    test: pd.DataFrame, queries: int, seed: int, least: int
) -> tuple[np.ndarray, str]:
    """Rows drawn among the reports that assert `least` findings, or among all if there are none."""
    from mcrlib.evaluation import findings

    telling = [
        row for row, text in enumerate(test["report"]) if len(findings.present(text)) >= least
    ]
    draw = np.random.default_rng(seed)
    if not telling:
        return draw.permutation(len(test))[:queries], f"drawn by seed {seed}"
    rule = f"drawn by seed {seed} of the {len(telling):,} that assert {least} findings or more"
    return draw.permutation(telling)[:queries], rule


def top_hits(
    hits: dict[str, dict[str, tuple]], frame: pd.DataFrame, queries: Sequence[int]
) -> list[dict]:
    """One record a direction and query: `direction`, `pair_id`, `report`, and `hits` by model.

    `hits` are `retrieval.hits`' results by model, `queries` rows of `frame`. A hit is a dict of
    `rank`, `score`, `positive`, `pair_id` and `report`.
    """
    records = []
    directions = next(iter(hits.values()))
    for direction in directions:
        for query in queries:
            query = int(query)
            by_model = {}
            for model, result in hits.items():
                rows, scores = result[direction]
                by_model[model] = _hit_records(frame, query, rows[query], scores[query])
            record = {"direction": direction, "hits": by_model}
            records.append(record | frame.iloc[query][["pair_id", "report"]].to_dict())
    return records


def _hit_records(
    frame: pd.DataFrame, query: int, rows: np.ndarray, scores: np.ndarray
) -> list[dict]:
    records = []
    for rank, row in enumerate(rows.tolist(), 1):
        record = {"rank": rank, "score": float(scores[rank - 1]), "positive": row == query}
        records.append(record | frame.iloc[row][["pair_id", "report"]].to_dict())
    return records


def ask(model: Any, run: str, embeddings: Path, question: str, top: int = 3) -> TopHits:
    """The `top` radiographs of the test split nearest to a question, with their reports.

    `embeddings` is the model's file for the test split, so that only the question is encoded.
    """
    dataset = results.dataset_of_run(run)
    rows = dataset.indices("test")
    test = dataset.frame.iloc[rows].reset_index(drop=True)
    image, _ = results.load_embeddings(embeddings, test["pair_id"])
    query = model.embed_reports([question]).numpy()[0]
    cosines = image @ query
    best = np.argsort(-cosines)[:top]
    hits = _hit_records(test, -1, best, cosines[best])
    variant = embeddings.parent.name.partition("-seed")[0]
    record = {
        "direction": "report_to_image",
        "pair_id": "your question",
        "report": question,
        "hits": {variant: hits},
    }
    pictures = {
        hit["pair_id"]: dataset.images[rows[row]] for hit, row in zip(hits, best, strict=True)
    }
    return TopHits([record], pictures, embeddings.parent.name, len(test), "a question", False)
