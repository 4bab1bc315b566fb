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
from mcrlib.companion import lengths
from mcrlib.companion.analyses import Numbers
from mcrlib.companion.experiments import COMPUTE_VARIANTS, COMPUTES, RSUM
from mcrlib.companion.lengths import Length
from mcrlib.files import sha256

FILE = "compute.json"
DRAWS = 10_000
BASELINE = "mcr"
COPY = "reference"  # it has the numbers, but neither pairs nor all of the models


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
        return self.name.rpartition("-seed")[0]

    @property
    def seed(self) -> str:
        return self.name.rpartition("-seed")[2]


def measure(run: str, draws: int = DRAWS) -> Numbers:
    """RSUM of each model at each compute, and the differences of `mcr` to the other variants.

    The values are lists of records. `points`: `run`, `times` (its multiple of the compute),
    `variant`, `seeds`, RSUM's `value` with `low` and `high` (0 to 6, mean over seeds), and means of
    `epochs`, `flops`, `flops_a_step`, `seconds` and `memory_gb`. `comparisons`: `times`,
    `at_equal_compute`, and the fields of `endpoints.verdicts`; Holm's method corrects all of them.
    Models whose operations were not counted are left out, and named in `uncounted`.
    """
    file = config.ROOT / "results" / run / FILE
    if run == COPY:
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
    """What the numbers are made from. `model_hash` and errors are those of
    `results.input_hashes`; runs without embeddings are left out."""
    inputs = {"draws": str(draws)}
    for beginning in COMPUTES:
        own = f"{beginning}{run}"
        for name, file in _embedded(own).items():
            results.refuse_stale(file, own, model_hash)
            inputs[f"{own}/{name}"] = sha256(file)[:16]
            record = file.parent / "training.json"
            if record.is_file():
                inputs[f"{own}/{name}/training"] = sha256(record)[:16]
    dataset = results.dataset_hash(run)
    if dataset is not None:
        inputs["dataset"] = dataset
    return inputs


def missing(run: str, measured: Numbers) -> str:
    """Which points are not there, and how to get them, in a sentence; "" if all are."""
    absent = absent_points(measured)
    if not absent:
        return ""
    command = f"run `make experiments RUN={run} ONLY=compute`"
    if run == COPY:
        command = "run `make experiments RUN=demo ONLY=compute`, then `make publish`"
    return f"Not there yet are {', '.join(absent)}: {command}."


def absent_points(measured: Numbers) -> list[str]:
    """The points that the figure lacks, such as "dual at 0.5 times the compute"."""
    there = {(point["times"], point["variant"]) for point in measured.values["points"]}
    absent = []
    for beginning in COMPUTES:
        times = config.MULTIPLES.get(beginning, 1)
        names = [name for name in COMPUTE_VARIANTS if (times, name) not in there]
        if names:
            absent.append(f"{' and '.join(names)} at {times:g} times the compute")
    return absent


def _embedded(run: str) -> dict[str, Path]:
    """The embeddings of a run's models that are drawn, by their folder."""
    embedded = {}
    for file in sorted((config.ROOT / "results" / run).glob("*-seed*/embeddings-test.npz")):
        name = file.parent.name
        if name.rpartition("-seed")[0] in COMPUTE_VARIANTS:
            embedded[name] = file
    return embedded


def _counted(run: str) -> list[_Model]:
    """The models of a run whose operations were counted."""
    models = []
    for name, file in _embedded(run).items():
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
        uncounted += [f"{own}/{name}" for name in _embedded(own) if name not in names]
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
    from mcrlib.evaluation import endpoints, retrieval

    of_seeds = np.stack([values[model.name] for model in models])
    over_nothing = retrieval.compare_values(
        of_seeds,
        np.zeros_like(of_seeds),
        patients,
        draws=draws,
        resample_seeds=len(models) > endpoints.FEW_SEEDS,
    )
    return {
        "variant": models[0].variant,
        "seeds": [model.seed for model in models],
        "value": over_nothing["a"],
        "low": over_nothing["low"],
        "high": over_nothing["high"],
        **asdict(lengths.mean([model.length for model in models])),
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
