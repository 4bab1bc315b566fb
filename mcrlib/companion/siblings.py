"""What the analyses of several runs share: RUN itself and the runs beside it (ours).

Those beside it have half or twice its compute, or fewer of its pairs, and are named after it, such
as `half-RUN` and `pairs-500-RUN`. A run's beginning is what its name has before RUN; "" is RUN.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mcrlib import config, results
from mcrlib.evaluation.seeds import variant_and_seed
from mcrlib.files import sha256


def embedded(run: str, variants: Sequence[str]) -> dict[str, Path]:
    """The test embeddings of a run's models of these variants, by model, `VARIANT-seedS`."""
    files = {}
    folder = config.ROOT / "results" / run
    for file in sorted(folder.glob("*-seed*/embeddings-test.npz")):
        name = file.parent.name
        variant, _ = variant_and_seed(name)
        if variant in variants:
            files[name] = file
    return files


def inputs(
    run: str,
    beginnings: Iterable[str],
    variants: Sequence[str],
    draws: int,
    model_hash: Callable[[Path], str] = sha256,
) -> dict[str, str]:
    """What numbers of several runs are made from. `model_hash` and errors are those of
    `results.input_hashes`; runs without embeddings are left out."""
    hashes = {"draws": str(draws)}
    for beginning in beginnings:
        own = f"{beginning}{run}"
        for name, file in embedded(own, variants).items():
            results.refuse_stale(file, own, model_hash)
            model = f"{own}/{name}"
            hashes[model] = sha256(file)[:16]
            record = file.with_name("training.json")
            if record.is_file():
                hashes[f"{model}/training"] = sha256(record)[:16]
    dataset = results.dataset_hash(run)
    if dataset is not None:
        hashes["dataset"] = dataset
    return hashes


def absent(
    points: Iterable[Mapping[str, Any]],
    key: str,
    places: Mapping[Any, str],
    variants: Sequence[str],
) -> list[str]:
    """The points that a figure lacks, such as "mcr and dual with 500 pairs".

    `places` are the values of `key` that the points should have, and how each is said.
    """
    there = {(point[key], point["variant"]) for point in points}
    sentences = []
    for place, said in places.items():
        names = [name for name in variants if (place, name) not in there]
        if names:
            sentences.append(f"{' and '.join(names)} {said}")
    return sentences


def how_to_get(run: str, what: Sequence[str], target: str, options: str = "") -> str:
    """A sentence that names what is not there, and the target of make that makes it; "" if all is.

    The reference is a copy of a demo run, which makes it.
    """
    if not what:
        return ""
    return f"Not there yet are {', '.join(what)}: {command(run, target, options)}."


def command(run: str, target: str, options: str = "") -> str:
    """What to run for what is missing, such as "run `make ablations RUN=demo`"."""
    if run == config.REFERENCE:
        return f"run `make {target} RUN=demo{options}`, then `make publish`"
    return f"run `make {target} RUN={run}{options}`"


def mean_over_pairs(values: np.ndarray, patients: list, draws: int) -> dict[str, Any] | None:
    """The mean of values [seeds, N] with its 95 % interval, `value`, `low` and `high`, and the `p`
    of its being zero; None if no pair has a value.

    Patients are resampled `draws` times and, of more than three seeds, the seeds, too.
    """
    from mcrlib.evaluation import endpoints, retrieval  # imported lazily: slow

    if np.isnan(values).all():
        return None
    nothing = np.where(np.isnan(values), np.nan, 0.0)
    few = len(values) <= endpoints.FEW_SEEDS
    found = retrieval.compare_values(values, nothing, patients, draws=draws, resample_seeds=not few)
    interval = {bound: found[bound] for bound in ("low", "high", "p")}
    return {"value": found["a"]} | interval
