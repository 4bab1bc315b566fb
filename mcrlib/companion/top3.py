"""Queries with their best hits: Figure 5, and other queries of the test split."""

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mcrlib import config, results
from mcrlib.companion.analyses import Numbers
from mcrlib.evaluation.seeds import by_variant
from mcrlib.files import write


@dataclass(frozen=True)
class TopHits:
    """Queries with their best hits, and the pictures to show."""

    queries: list[dict]  # records of `top_hits`
    pictures: dict[str, np.ndarray]  # pair id -> uint8 [S, S]
    models: str  # folder names of the models shown
    pool: int
    rule: str  # how the queries were chosen
    is_figure5: bool = False  # False if the reader chose models or queries


@dataclass(frozen=True)
class Question:
    """What to show: `pair_ids`, or `queries` pairs drawn by `seed`, under some `models`.

    Queries are drawn among the test pairs whose report asserts at least `least` findings. No
    models means the paper's two, AbM and MbA, or the run's first two.
    """

    models: tuple[str, ...] = ()
    queries: int = 1
    seed: int = 0
    least: int = 2
    pair_ids: tuple[str, ...] = ()


FIGURE5 = Question()


def names(given: str | Sequence[str]) -> tuple[str, ...]:
    """Names of models or pairs as a question has them; a single one may be given as it is.

    Raises ValueError for what is no list of names.
    """
    if isinstance(given, str):
        return (given,)
    is_list = isinstance(given, Sequence)
    if not is_list or not all(isinstance(name, str) for name in given):
        raise ValueError(f'models and pair_ids are lists of names, such as ["mcr"]: got {given!r}.')
    return tuple(given)


def find_top3(run: str, question: Question = FIGURE5) -> TopHits:
    """Three best hits of each query under each model, in both directions.

    The numbers of Figure 5 are saved in `top3.json`, its pictures in `top3.npz`; the answer to any
    other question is saved nowhere. Raises ValueError for models that are not embedded and pairs
    that are not in the test split.
    """
    files = _models_to_show(run, question.models)
    if question == FIGURE5:
        return _figure5(run, files)
    return _search(run, files, question)


def _figure5(run: str, files: dict[str, Path]) -> TopHits:
    from mcrlib.evaluation import findings  # imported lazily: slow

    file = config.ROOT / "results" / run / "top3.json"
    pictures_file = file.with_suffix(".npz")
    inputs = results.input_hashes(run)
    inputs["models"] = str(list(files))
    inputs["findings"] = findings.rules_digest()  # they choose the queries
    inputs["least"] = str(FIGURE5.least)
    inputs["queries"] = str(FIGURE5.queries)
    inputs["seed"] = str(FIGURE5.seed)
    pictures = _read_pictures(pictures_file)
    if pictures is None or not results.is_current(file, inputs):
        started = time.perf_counter()
        hits = _search(run, files, FIGURE5)
        pictures = hits.pictures
        # Pictures first: the JSON file says that both are current.
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **pictures)
        write(pictures_file, buffer.getvalue())
        about = {"inputs": inputs, "run": run, "pool": hits.pool, "rule": hits.rule}
        seconds = round(time.perf_counter() - started)
        results.save(file, hits.queries, **about, seconds=seconds)
    saved = Numbers.load(file)
    return TopHits(
        queries=saved.values,
        pictures=pictures,
        models=_folder_names(files),
        pool=saved.provenance["pool"],
        rule=saved.provenance["rule"],
        is_figure5=True,
    )


def _read_pictures(file: Path) -> dict[str, np.ndarray] | None:
    """Pictures by pair id; None if the file is missing or damaged."""
    try:
        with np.load(file, allow_pickle=False) as archive:
            return dict(archive)
    except results.UNREADABLE:
        return None


def _models_to_show(run: str, models: Sequence[str]) -> dict[str, Path]:
    """Embedding file of each variant to show; of several seeds the first."""
    embedded = {}
    for name, files in by_variant(results.embedding_files(run)).items():
        embedded[name] = files[0]
    missing = [name for name in models if name not in embedded]
    if missing:
        raise ValueError(
            f"The run {run} has no embeddings of {', '.join(missing)}; it has "
            f"{', '.join(embedded)}. Train it first: make embed RUN={run} VARIANTS={missing[0]}."
        )
    if not models:
        models = [name for name in ("abm", "mcr") if name in embedded]
    if not models:
        models = list(embedded)[:2]
    return {name: embedded[name] for name in models}


def _folder_names(files: dict[str, Path]) -> str:
    names = [file.parent.name for file in files.values()]
    return ", ".join(names)


def _search(run: str, files: dict[str, Path], question: Question) -> TopHits:
    from mcrlib.evaluation import retrieval  # imported lazily: slow, and not needed for redrawing

    dataset = results.dataset_of_run(run)
    rows = dataset.indices("test")
    test = dataset.frame.iloc[rows].reset_index(drop=True)
    _check(question, len(test))
    if question.pair_ids:
        queries = _named_queries(dataset.frame, test, question.pair_ids)
        rule = "named by hand"
    else:
        queries, rule = _drawn_queries(test, question)

    hits = {}
    for name, file in files.items():
        results.refuse_stale(file, run)
        image, report = results.load_embeddings(file, test["pair_id"])
        hits[name] = retrieval.hits(image, report, 3)
    records = top_hits(hits, test, queries)
    pictures = _pictures(records, dict(zip(test["pair_id"], rows, strict=True)), dataset.images)
    return TopHits(records, pictures, _folder_names(files), len(test), rule)


def _pictures(
    records: list[dict], row_of: dict[str, int], images: np.ndarray
) -> dict[str, np.ndarray]:
    """Pictures of all queries and hits, in the order of their ids."""
    ids = set()
    for query in records:
        ids.add(query["pair_id"])
        for hits in query["hits"].values():
            ids.update(hit["pair_id"] for hit in hits)
    return {pair_id: images[row_of[pair_id]] for pair_id in sorted(ids)}


def _check(question: Question, pool: int) -> None:
    """Raise ValueError if nothing is asked for, or if there is nothing to search."""
    if pool == 0:
        raise ValueError("The test split has no pairs: there is nothing to search.")
    for name in ("queries", "seed", "least"):
        number = getattr(question, name)
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise ValueError(f"{name} must be a whole number of at least 0: got {number!r}.")
    if not question.pair_ids and question.queries < 1:
        raise ValueError(f"queries is {question.queries}: ask for at least 1, or name pair_ids.")


def _named_queries(frame: pd.DataFrame, test: pd.DataFrame, pair_ids: Sequence[str]) -> np.ndarray:
    """Rows of `test` that `pair_ids` name; `frame` holds all splits, to say where others are."""
    split_of = dict(zip(frame["pair_id"], frame["split"], strict=True))
    elsewhere = []
    for pair_id in pair_ids:
        if pair_id not in split_of:
            elsewhere.append(f"{pair_id} (in no split)")
        elif split_of[pair_id] != "test":
            elsewhere.append(f"{pair_id} (in the split {split_of[pair_id]})")
    if elsewhere:
        raise ValueError(f"No pair of the test split is called {', '.join(elsewhere)}.")
    return np.flatnonzero(test["pair_id"].isin(pair_ids))


def _drawn_queries(test: pd.DataFrame, question: Question) -> tuple[np.ndarray, str]:
    """Rows drawn among the reports that say enough, or among all if none does; and the rule."""
    from mcrlib.evaluation import findings  # imported lazily: slow

    telling = []
    for row, text in enumerate(test["report"]):
        if len(findings.present(text)) >= question.least:
            telling.append(row)
    generator = np.random.default_rng(question.seed)
    rule = f"drawn by seed {question.seed}"
    if not telling:
        return generator.permutation(len(test))[: question.queries], rule
    rule += f" of the {len(telling):,} that assert {question.least} findings or more"
    return generator.permutation(telling)[: question.queries], rule


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
        for query in map(int, queries):
            by_model = {}
            for model, result in hits.items():
                rows, scores = result[direction]
                by_model[model] = _hit_records(frame, rows[query], scores[query], query)
            record = {
                "direction": direction,
                "hits": by_model,
                "pair_id": frame["pair_id"].iloc[query],
                "report": frame["report"].iloc[query],
            }
            records.append(record)
    return records


def _hit_records(
    frame: pd.DataFrame, rows: np.ndarray, scores: np.ndarray, query: int
) -> list[dict]:
    """Hits of one query, best first; `query` is its own row."""
    records = []
    for place, row in enumerate(rows.tolist()):
        record = {
            "rank": place + 1,
            "score": float(scores[place]),
            "positive": row == query,
            "pair_id": frame["pair_id"].iloc[row],
            "report": frame["report"].iloc[row],
        }
        records.append(record)
    return records
