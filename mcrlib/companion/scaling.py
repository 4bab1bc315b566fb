"""Retrieval over the compute and the memory of training, with less and with more compute (ours).

The models of run RUN are its own, those of `half-RUN` and those of `double-RUN`, which have half
and twice the compute on the same pairs. Variants are compared within one of these runs only.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from mcrlib import config, results
from mcrlib.companion import lengths, siblings
from mcrlib.companion.analyses import Numbers
from mcrlib.companion.experiments import COMPUTE_VARIANTS, COMPUTES, RSUM
from mcrlib.companion.lengths import Length
from mcrlib.evaluation.seeds import variant_and_seed
from mcrlib.files import sha256

FILE = "compute.json"
DRAWS = 10_000
BASELINE = "mcr"


@dataclass(frozen=True)
class _Model:
    """An embedded model, and what its training took."""

    name: str  # of its folder, `VARIANT-seedS`
    embeddings: Path
    length: Length
    seconds: float
    memory_gb: float  # at the peak

    @property
    def variant(self) -> str:
        """Its name before the seed."""
        return variant_and_seed(self.name)[0]

    @property
    def seed(self) -> str:
        """The digits of its seed."""
        return variant_and_seed(self.name)[1]


def measure(run: str, draws: int = DRAWS) -> Numbers:
    """RSUM of each model at each compute, and the differences of `mcr` to the other variants.

    The values are lists of records. `points`: `run`, `times` (its multiple of the compute),
    `variant`, `seeds`, RSUM's `value` with `low` and `high` (0 to 6, mean over seeds), and means of
    `epochs`, `flops`, `flops_a_step`, `seconds` and `memory_gb`. `comparisons`: `times`,
    `at_equal_compute`, and the fields of `endpoints.verdicts`; Holm's method corrects all of them.
    Models whose operations were not counted are left out, and named in `uncounted`.
    """
    file = config.ROOT / "results" / run / FILE
    if run == config.REFERENCE:
        if file.is_file():
            return Numbers.load(file)
        return Numbers({"points": [], "comparisons": [], "uncounted": []}, {})
    inputs = scaling_inputs(run, draws)
    if not results.is_current(file, inputs):
        _compute(run, draws, inputs, file)
    return Numbers.load(file)


def scaling_inputs(
    run: str, draws: int = DRAWS, model_hash: Callable[[Path], str] = sha256
) -> dict[str, str]:
    """What the numbers are made from, by `siblings.inputs`."""
    return siblings.inputs(run, COMPUTES, COMPUTE_VARIANTS, draws, model_hash)


def missing(run: str, measured: Numbers) -> str:
    """Which points are not there, and how to get them, in a sentence; "" if all are."""
    return siblings.how_to_get(run, absent_points(measured), "experiments", " ONLY=compute")


def absent_points(measured: Numbers) -> list[str]:
    """The points that the figure lacks, such as "dual at 0.5 times the compute"."""
    places = {}
    for beginning in COMPUTES:
        times = config.MULTIPLES.get(beginning, 1)
        places[times] = f"at {times:g} times the compute"
    return siblings.absent(measured.values["points"], "times", places, COMPUTE_VARIANTS)


def _counted(run: str) -> list[_Model]:
    """The models of a run whose operations were counted."""
    models = []
    for name, file in siblings.embedded(run, COMPUTE_VARIANTS).items():
        length = lengths.of_model(file.parent)
        if length is not None and length.flops:
            record = results.load(file.parent / "training.json")
            seconds = record["values"]["seconds"]
            memory = record["provenance"]["peak_memory_gb"]
            models.append(_Model(name, file, length, seconds, memory))
    return models


def _compute(run: str, draws: int, inputs: dict[str, str], file: Path) -> None:
    from mcrlib.evaluation import retrieval  # imported lazily: slow

    dataset = results.dataset_of_run(run)
    test = dataset.frame.iloc[dataset.indices("test")]
    patients = test["patient_id"].tolist()
    points = []
    comparisons = []
    uncounted = []
    for beginning in COMPUTES:
        own = f"{beginning}{run}"
        about = {"run": own, "times": config.MULTIPLES.get(beginning, 1)}
        models = _counted(own)
        names = [model.name for model in models]
        for name in siblings.embedded(own, COMPUTE_VARIANTS):
            if name not in names:
                uncounted.append(f"{own}/{name}")
        values = _values(models, test["pair_id"])
        for record in _points(models, values, patients, draws):
            points.append(about | record)
        for record in _compare(models, values, patients, draws):
            comparisons.append(about | record)
    retrieval.settle(comparisons)
    made = {"points": points, "comparisons": comparisons, "uncounted": uncounted}
    results.save(file, made, inputs=inputs, run=run, pool=len(test), draws=draws)


Values = dict[str, np.ndarray]  # model -> RSUM of each pair [N]


def _values(models: Sequence[_Model], pair_id: Any) -> Values:
    from mcrlib.evaluation import endpoints

    values = {}
    for model in models:
        image, report = results.load_embeddings(model.embeddings, pair_id)
        values[model.name] = endpoints.rsum_by_pair(image, report)
    return values


def _points(
    models: Sequence[_Model], values: Values, patients: list, draws: int
) -> Iterator[dict[str, Any]]:
    """The record of each variant at one compute."""
    for variant in COMPUTE_VARIANTS:
        of_variant = [model for model in models if model.variant == variant]
        if of_variant:
            yield _point(of_variant, values, patients, draws)


def _point(models: Sequence[_Model], values: Values, patients: list, draws: int) -> dict[str, Any]:
    of_seeds = np.stack([values[model.name] for model in models])
    rsum = siblings.mean_over_pairs(of_seeds, patients, draws)
    del rsum["p"]
    length = lengths.mean([model.length for model in models])
    return {
        "variant": models[0].variant,
        "seeds": [model.seed for model in models],
        **rsum,
        **asdict(length),
        "seconds": fmean(model.seconds for model in models),
        "memory_gb": fmean(model.memory_gb for model in models),
    }


def _compare(
    models: Sequence[_Model], values: Values, patients: list, draws: int
) -> Iterator[dict[str, Any]]:
    """`mcr` with each other variant, all of one compute."""
    from mcrlib.evaluation import endpoints, retrieval

    if BASELINE not in [model.variant for model in models]:
        return
    length_of = {model.name: model.length for model in models}
    for pairing in retrieval.pairings(values):
        record = endpoints.compare(RSUM, pairing, patients, draws)
        record["primary"] = False  # the primary comparison is that of the run itself
        compared = []
        for variant in (pairing.a, pairing.b):
            compared += [length_of[f"{variant}-seed{seed}"] for seed in pairing.seeds]
        record["at_equal_compute"] = bool(compared) and lengths.at_equal_compute(compared)
        yield record
