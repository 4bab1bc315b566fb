"""How retrieval grows with the number of training pairs, at equal steps (ours).

The models of run RUN are its own, which are trained on all of its pairs, and those of
`pairs-N-RUN`, which are trained on the first N of them for as many steps. All are tested on the
same pairs.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mcrlib import config, results
from mcrlib.companion import lengths, siblings
from mcrlib.companion.analyses import Numbers, pair_attributes
from mcrlib.companion.experiments import GROWTH_VARIANTS, NDCG, RSUM, SIZES
from mcrlib.companion.lengths import Length
from mcrlib.evaluation.seeds import variant_and_seed
from mcrlib.files import sha256

FILE = "scale.json"
DRAWS = 10_000
ENDPOINTS = (RSUM, NDCG)

Values = dict[str, dict[str, np.ndarray]]  # seed -> endpoint -> value of each test pair [N]


def measure(run: str, draws: int = DRAWS) -> Numbers:
    """RSUM and nDCG@10 without partner at each number of training pairs, and their slopes.

    The values are lists of records. `points`: `run`, `pairs`, `variant`, `seeds`, for each endpoint
    `value` with `low` and `high` (mean over seeds; None if no pair has a value), and of the first
    model the fields of its `lengths.Length`, if they are known. `slopes`: `variant`, `endpoint`,
    `seeds` (those that all sizes have), `slope` (least squares over log2 of the pairs: the gain by
    twice as many) with `low`, `high` and `p`. `comparisons`: the slopes of the first variant minus
    those of each other one, with the fields of `endpoints.compare`. Slopes are there only if all
    sizes are. The intervals are 95 % ones from `draws` resamples of patients and, of more than
    three seeds, of the seeds; the same patients are drawn at all sizes.
    """
    file = config.ROOT / "results" / run / FILE
    if run == config.REFERENCE:
        if file.is_file():
            return Numbers.load(file)
        return Numbers({"points": [], "slopes": [], "comparisons": []}, {})
    inputs = growth_inputs(run, draws)
    if not results.is_current(file, inputs):
        _compute(run, draws, inputs, file)
    return Numbers.load(file)


def growth_inputs(
    run: str, draws: int = DRAWS, model_hash: Callable[[Path], str] = sha256
) -> dict[str, str]:
    """What the numbers are made from, by `siblings.inputs`."""
    return siblings.inputs(run, SIZES, GROWTH_VARIANTS, draws, model_hash)


def missing(run: str, measured: Numbers) -> str:
    """Which points are not there, and how to get them, in a sentence; "" if all are."""
    return siblings.how_to_get(run, absent_points(measured), "experiments", " ONLY=scale")


def absent_points(measured: Numbers) -> list[str]:
    """The points that the figure lacks, such as "dual with 500 pairs"."""
    places = {}
    for beginning in SIZES:
        size = config.pairs_of(beginning)
        places[beginning] = f"with {size:,} pairs" if size else "with all pairs"
    return siblings.absent(measured.values["points"], "beginning", places, GROWTH_VARIANTS)


def slope_weights(pairs: Sequence[int]) -> np.ndarray:
    """The weights [sizes] with which values at these numbers of pairs sum to the slope of their
    least squares line over log2(pairs). Raises ValueError unless there are two different sizes."""
    doublings = np.log2(pairs)
    centred = doublings - doublings.mean()
    spread = (centred**2).sum()
    if spread == 0:
        raise ValueError(f"a slope needs two different numbers of pairs, not {list(pairs)}.")
    return centred / spread


def _compute(run: str, draws: int, inputs: dict[str, str], file: Path) -> None:
    dataset = results.dataset_of_run(run)
    test = dataset.frame.iloc[dataset.indices("test")]
    patients = test["patient_id"].tolist()
    attributes, source = pair_attributes(dataset, test)
    whole = len(dataset.indices("train"))
    points = []
    by_variant = {}
    for variant in GROWTH_VARIANTS:
        by_size = {}
        for beginning in SIZES:
            own = f"{beginning}{run}"
            values = _values(own, variant, test["pair_id"], attributes)
            if values:
                pairs = config.pairs_of(own) or whole
                by_size[pairs] = values
                about = {"run": own, "beginning": beginning, "pairs": pairs, "variant": variant}
                measured = _point(values, patients, draws)
                points.append(about | measured | _training(own, variant, values))
        if len(by_size) == len(SIZES):
            by_variant[variant] = _slopes_by_pair(by_size)
    made = {
        "points": points,
        "slopes": list(_slopes(by_variant, patients, draws)),
        "comparisons": list(_comparisons(by_variant, patients, draws)),
    }
    about = {"run": run, "pool": len(test), "attributes": source, "draws": draws}
    results.save(file, made, inputs=inputs, **about)


def _values(run: str, variant: str, pair_id: pd.Series, attributes: list) -> Values:
    """The values of each seed of a variant."""
    from mcrlib.evaluation import endpoints  # imported lazily: slow

    values = {}
    for name, file in siblings.embedded(run, [variant]).items():
        _, seed = variant_and_seed(name)
        image, report = results.load_embeddings(file, pair_id)
        values[seed] = endpoints.by_pair(image, report, attributes)
    return values


def _training(run: str, variant: str, values: Values) -> dict[str, Any]:
    """How long the models of a point were trained; empty unless all of them say so."""
    folder = config.ROOT / "results" / run
    known: list[Length] = []
    for seed in values:
        length = lengths.of_model(folder / f"{variant}-seed{seed}")
        if length is not None:
            known.append(length)
    if len(known) < len(values):
        return {}
    return asdict(lengths.mean(known))


def _point(values: Values, patients: list, draws: int) -> dict[str, Any]:
    """The record of a variant at one number of pairs."""
    record: dict[str, Any] = {"seeds": list(values)}
    for endpoint in ENDPOINTS:
        of_seeds = np.stack([own[endpoint] for own in values.values()])
        found = siblings.mean_over_pairs(of_seeds, patients, draws)
        if found is not None:
            del found["p"]
        record[endpoint] = found
    return record


def _slopes_by_pair(by_size: Mapping[int, Values]) -> Values:
    """The slope of each test pair's values, of the seeds that all sizes have. A slope is a weighted
    sum over sizes, so the mean of the pairs' slopes is the slope of their means."""
    sizes = list(by_size)
    weights = slope_weights(sizes)
    seeds = [seed for seed in by_size[sizes[0]] if all(seed in own for own in by_size.values())]
    slopes: Values = {}
    for seed in seeds:
        slopes[seed] = {}
        for endpoint in ENDPOINTS:
            of_sizes = np.stack([by_size[size][seed][endpoint] for size in sizes])
            slopes[seed][endpoint] = weights @ of_sizes
    return slopes


def _slopes(
    by_variant: Mapping[str, Values], patients: list, draws: int
) -> Iterator[dict[str, Any]]:
    """The record of each variant's slopes."""
    for variant, by_seed in by_variant.items():
        if not by_seed:
            continue
        for endpoint in ENDPOINTS:
            of_seeds = np.stack([own[endpoint] for own in by_seed.values()])
            found = siblings.mean_over_pairs(of_seeds, patients, draws)
            if found is None:
                continue
            about = {"variant": variant, "endpoint": endpoint, "seeds": list(by_seed)}
            slope = found.pop("value")
            yield about | {"slope": slope} | found


def _comparisons(
    by_variant: Mapping[str, Values], patients: list, draws: int
) -> Iterator[dict[str, Any]]:
    """The first variant's slopes with those of each other, of the seeds that both have."""
    from mcrlib.evaluation import endpoints, retrieval

    for endpoint in ENDPOINTS:
        slopes = {}
        for variant, by_seed in by_variant.items():
            for seed, own in by_seed.items():
                slopes[f"{variant}-seed{seed}"] = own[endpoint]
        pairings = retrieval.pairings(slopes) if slopes else []
        for pairing in pairings:
            if pairing.seeds:
                yield endpoints.compare(endpoint, pairing, patients, draws)
