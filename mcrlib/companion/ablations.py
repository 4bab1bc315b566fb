"""What each part of the method is worth: `mcr` with one thing changed, against `mcr`.

The models of run RUN are those of `half-RUN`, which has half of its compute, so that they are not
mixed with the main comparison. `python -m mcrlib.companion.ablations RUN [VARIANTS]` prints which
to train.
"""

import contextlib
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from mcrlib import config, results
from mcrlib.companion import lengths, siblings
from mcrlib.companion.analyses import Numbers, pair_attributes
from mcrlib.companion.experiments import NDCG, RSUM
from mcrlib.companion.lengths import Length
from mcrlib.evaluation.seeds import variant_and_seed
from mcrlib.tables import Ablation
from mcrlib.training.finished import INPUTS

BASELINE = "mcr"

# Part of the method -> what it is changed to -> variant.
GROUPS = MappingProxyType({
    "image mask": {
        "none, no MIM": "no-image-mask",
        "25 %": "image-mask-25",
        "35 %": "image-mask-35",
        "50 %": "mcr",
        "75 %": "image-mask-75",
    },
    "report mask": {
        "none, no MRM": "no-report-mask",
        "15 %": "report-mask-15",
        "25 %": "mcr",
        "35 %": "report-mask-35",
        "50 %": "report-mask-50",
    },
    "reconstruction": {
        "MIM and MRM": "mcr",
        "no MIM": "no-mim",
        "no MRM": "no-mrm",
        "neither": "flip",
    },
    "weight of L_vrc": {
        "0.1": "vrc-weight-0.1",
        "1": "vrc-weight-1",
        "10": "vrc-weight-10",
    },
    "aggregation, MbA": {
        "attention": "mcr",
        "mean": "mean-pool",
        "maximum": "max-pool",
    },
    "aggregation, AbM": {
        "attention": "abm",
        "mean": "abm-mean-pool",
        "maximum": "abm-max-pool",
    },
    "linear F, attention": {
        "MbA": "linear-map",
        "AbM": "abm-linear-map",
    },
})  # fmt: skip
MASKS = {"image mask": "image_mask", "report mask": "report_mask"}  # group -> setting


def listed(run: str) -> list[Ablation]:
    """The rows of the table. A variant that changes none of the run's settings is `mcr`."""
    own = config.load(run)
    ablations = []
    for group, settings in GROUPS.items():
        for setting, variant in settings.items():
            changed = config.load(run, variant).replace(variant=BASELINE)
            name = BASELINE if changed == own else variant
            ablations.append(Ablation(group, setting, name))
    return ablations


def variants(run: str) -> list[str]:
    """The variants of these rows, each once, `mcr` first."""
    names = [BASELINE]
    names += [ablation.variant for ablation in listed(run)]
    return list(dict.fromkeys(names))


def missing(run: str, compared: Numbers) -> str:
    """Which models are not there yet, and how to train them, in a sentence; "" if all are."""
    absent = [name for name in variants(run) if name not in compared.values]
    return siblings.how_to_get(run, absent, "ablations")


def mask_shares(run: str) -> dict[str, dict[float, str]]:
    """Variant by masked share, for images and for reports."""
    shares = {group: {} for group in MASKS}
    for ablation in listed(run):
        if ablation.group in MASKS:
            settings = config.load(run, ablation.variant)
            share = getattr(settings, MASKS[ablation.group])
            shares[ablation.group][share] = ablation.variant
    return shares


def compare(run: str, draws: int = 10_000) -> Numbers:
    """RSUM and nDCG@10 without partner of the models of `half-RUN`, and their differences to `mcr`.

    The values are variant -> {"epochs", "flops", "flops_a_step", "seeds", RSUM, NDCG}: the first
    three are those of the first model's training, see `lengths.Length` (if nothing says them,
    `epochs` is None and the others are missing). Each measure has `value`, the mean over the seeds
    that `mcr` has too, and for all but `mcr` the fields of `retrieval.compare_values` and a
    `verdict`, from p values that Holm's method corrects by measure. nDCG is None if it is not
    defined for any pair. Where the models are gone, as in the reference, saved numbers are read.
    Raises FileNotFoundError if there is neither.
    """
    file = config.ROOT / "results" / run / "ablations.json"
    half = f"{config.HALF}{run}"
    folder = config.ROOT / "results" / half
    has_baseline = any(folder.glob(f"{BASELINE}-seed*/embeddings-test.npz"))
    if has_baseline:
        from mcrlib.evaluation import findings  # imported lazily: slow

        inputs = results.input_hashes(half)
        inputs |= {"draws": str(draws), "findings": findings.rules_digest()}
        if not results.is_current(file, inputs):
            _compute(run, draws, inputs, file)
    elif not file.is_file():
        raise FileNotFoundError(
            f"There is no embedded {BASELINE} in results/{half}, with which each ablation is "
            f"compared: {siblings.command(run, 'ablations')}."
        )
    return Numbers.load(file)


def _compute(run: str, draws: int, inputs: dict[str, str], file: Path) -> None:
    started = time.perf_counter()
    half = f"{config.HALF}{run}"
    dataset = results.dataset_of_run(half)
    test = dataset.frame.iloc[dataset.indices("test")]
    attributes, source = pair_attributes(dataset, test)
    measured = _measure_models(run, test["pair_id"], attributes)
    compared = _compare_models(measured, test["patient_id"].tolist(), draws)
    for variant in compared:
        length = _length(half, variant)
        compared[variant] |= {"epochs": None} if length is None else asdict(length)
    about = {"run": run, "models_of": half, "pool": len(test), "attributes": source}
    about |= {"dataset": dataset.info["dataset_sha256"], "seeds": list(measured[BASELINE])}
    about["draws"] = draws
    seconds = round(time.perf_counter() - started)
    results.save(file, compared, inputs=inputs, **about, seconds=seconds)


def _measure_models(
    run: str, pair_id: pd.Series, attributes: list
) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """Variant -> seed -> measure -> the value of each pair [N], NaN if a pair has none."""
    from mcrlib.evaluation import endpoints

    wanted = variants(run)
    measured = {}
    for file in results.embedding_files(f"{config.HALF}{run}").values():
        variant, seed = variant_and_seed(file.parent.name)
        if variant in wanted:
            image, report = results.load_embeddings(file, pair_id)
            measured.setdefault(variant, {})[seed] = endpoints.by_pair(image, report, attributes)
    return measured


def _compare_models(
    measured: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]],
    patients: list,
    draws: int,
) -> dict[str, dict[str, Any]]:
    """The record of each variant, by name; variants without a seed that `mcr` has are left out."""
    from mcrlib.evaluation import retrieval

    baseline = measured[BASELINE]
    compared = {}
    for variant, by_seed in measured.items():
        seeds = [seed for seed in baseline if seed in by_seed]
        if not seeds:
            continue
        record = {"seeds": len(seeds)}
        for measure in (RSUM, NDCG):
            own = np.stack([by_seed[seed][measure] for seed in seeds])
            others = np.stack([baseline[seed][measure] for seed in seeds])
            record[measure] = _block(own, others, patients, measure, draws)
            if variant == BASELINE and record[measure] is not None:
                record[measure] = {"value": record[measure]["value"]}
        compared[variant] = record
    for measure in (RSUM, NDCG):
        blocks = [record[measure] for record in compared.values()]
        retrieval.judge([block for block in blocks if block is not None and "p" in block])
    return compared


def _block(
    own: np.ndarray, others: np.ndarray, patients: list, measure: str, draws: int
) -> dict[str, Any] | None:
    """The comparison of two models' values [seeds, N]; None if no pair has one."""
    from mcrlib.evaluation import endpoints, retrieval

    if np.isnan(own).all():
        return None
    margin = endpoints.MARGINS[measure]
    comparison = retrieval.compare_values(own, others, patients, margin, draws)
    del comparison["b"]
    return {"value": comparison.pop("a"), **comparison}


def _length(half: str, variant: str) -> Length | None:
    """How long a variant's first model was trained, by its record or else by its settings; None if
    nothing says so."""
    folder = config.ROOT / "results" / half
    for model in sorted(folder.glob(f"{variant}-seed*/")):
        length = lengths.of_model(model)
        if length is not None:
            return length
        with contextlib.suppress(OSError, ValueError, KeyError):
            settings = json.loads((model / config.TRAINED_MODEL / INPUTS).read_bytes())
            if not settings.get("compute"):
                return Length(settings["epochs"])
    return None


def main(arguments: list[str]) -> str | int:
    """Print the variants to train for `RUN [VARIANTS]`: those given and `mcr`, by default all.

    Returns the exit code, or the sentence to exit with.
    """
    run, *chosen = arguments
    if run == config.REFERENCE or config.beginning_of(run):
        trained = "demo" if run == config.REFERENCE else config.preset(run)
        return f"RUN={run} has no ablations of its own to train: use RUN={trained}."
    try:
        names = variants(run)
    except ValueError as error:
        return str(error)
    if chosen:
        given = chosen[0].split()
        names = list(dict.fromkeys([BASELINE, *given]))
    print(*names)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
