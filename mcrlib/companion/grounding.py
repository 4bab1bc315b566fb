"""Notebook 10: whether the trained models of a run look where the findings are.

Unlike other analyses this one needs models and pictures, so it follows training. Saved numbers are
read where both are gone, as in the reference.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mcrlib import config, results
from mcrlib.companion.analyses import Numbers
from mcrlib.evaluation.seeds import by_variant, over_seeds, variant_and_seed
from mcrlib.files import sha256

if TYPE_CHECKING:
    from mcrlib.evaluation.grounding import Case
    from mcrlib.evaluation.places import Pairs

FILE = "grounding.json"
COMPARED = ("mcr", "abm")  # what the paper's alignment is about


class NothingToAsk(ValueError):
    """There is no model to ask, or no place to ask for; the text says what to do."""


@dataclass(frozen=True)
class Grounding:
    """Measures of `evaluation.grounding`, of every trained model and of chance."""

    measured: Numbers  # values: model -> method -> measure -> block

    @property
    def by_variant(self) -> dict[str, dict]:
        """Measures by variant, mean and deviation of several seeds, then `chance`."""
        return over_seeds(self.measured.values)


def measure_grounding(run: str, boxes: str = "", draws: int = 1000) -> Grounding:
    """Ask every trained model of a run where the findings of its test pairs are.

    `boxes` is the CSV of `evaluation.places` for pictures that are not drawn. `draws` resamples of
    the patients give each interval. Without models or places, saved numbers are read. Raises
    NothingToAsk if there are none either, or if the pictures were drawn by other code; ValueError
    if models, pairs or boxes are damaged or do not fit; FileNotFoundError without such boxes.
    """
    file = config.ROOT / "results" / run / FILE
    obstacle = _obstacle(run, boxes)
    if not obstacle:
        inputs = _inputs(run, boxes) | {"draws": str(draws)}
        if not results.is_current(file, inputs):
            _compute(run, boxes, draws, inputs, file)
    elif not file.is_file():
        raise NothingToAsk(obstacle)
    return Grounding(Numbers.load(file))


def _obstacle(run: str, boxes: str) -> str:
    """Why nothing can be asked, and what to do, in a sentence; "" if something can."""
    if not trained_models(run):
        command = f"run `make train RUN={run}`"
        if run == config.REFERENCE:
            command = "run `make 10_grounding RUN=demo`, then `make publish`"
        return (
            f"There is no trained model in results/{run} to ask where the findings are: {command}."
        )
    if not boxes and results.dataset_info(run).get("source") != "phantom":
        return (
            f"It is not known where the findings in the pictures of the run {run} are: give boxes, "
            f"`make 10_grounding RUN={run} BOXES=boxes.csv`."
        )
    return ""


def trained_models(run: str) -> dict[str, Path]:
    """Folders of the trained models of a run, by name: the variant, or `VARIANT-seedS` if there are
    several seeds of it."""
    models = {}
    for same in by_variant(results.trained_folders(run)).values():
        for folder in same:
            variant, _ = variant_and_seed(folder.name)
            name = folder.name if len(same) > 1 else variant
            models[name] = folder
    return models


def left_out(run: str) -> str:
    """Which models cannot be asked, because they are not trained or are no network of ours, in
    sentences; "" if none."""
    trained = trained_models(run)
    if not trained:
        return ""
    sentences = []
    variants = by_variant(trained)
    for variant in COMPARED:
        if variant not in variants:
            sentences.append(
                f"{variant} is not trained in results/{run} and therefore missing: "
                f"`make train RUN={run} VARIANTS={variant}` trains it."
            )
    for file in (config.ROOT / "results" / run).glob("*/embeddings-test.npz"):
        variant, _ = variant_and_seed(file.parent.name)
        if file.parent not in trained.values() and variant not in COMPARED:
            sentences.append(
                f"{file.parent.name} has embeddings but no trained model, so it cannot be asked."
            )
    return " ".join(sentences)


def _inputs(run: str, boxes: str) -> dict[str, str]:
    """What the numbers are made from."""
    inputs = {}
    for name, folder in trained_models(run).items():
        inputs[name] = results.listed_hash(folder / results.WEIGHTS)[:16]
    dataset = results.dataset_hash(run)
    if dataset is not None:
        inputs["dataset"] = dataset
    if boxes:
        from mcrlib.evaluation import findings

        file = Path(boxes)
        if not file.is_file():
            raise FileNotFoundError(f"There is no file {file}: check BOXES.")
        inputs |= {"boxes": sha256(file), "findings": findings.rules_digest()}
    return inputs


def _compute(run: str, boxes: str, draws: int, inputs: dict[str, str], file: Path) -> None:
    # Imported lazily: slow, and not needed for redrawing.
    from mcrlib.evaluation import grounding, places
    from mcrlib.training.checkpoint import load_trained

    started = time.perf_counter()
    dataset = results.dataset_of_run(run)
    pairs = places.pairs_of(dataset, "test")
    reports = pairs.frame["report"].tolist()
    patients = pairs.frame["patient_id"].tolist()
    cases = []
    measured = {}
    bounds = {}
    for name, folder in trained_models(run).items():
        variant, seed = variant_and_seed(folder.name)
        settings = config.load(run, variant, int(seed))
        model = load_trained(settings, dataset)
        if not cases:
            cases = _find_cases(pairs, boxes, model.config)
            side = model.config.image_size // model.config.patch_size
            guessed = grounding.chance(cases, side, reports, model, patients, draws)
            bounds[grounding.CHANCE] = guessed
        print(f"{name}: {len(cases):,} findings", flush=True)
        measured[name] = grounding.measure(model, cases, pairs.pictures, reports, patients, draws)
    seconds = round(time.perf_counter() - started)
    about = {"run": run, "cases": len(cases), "pairs": len({case.pair for case in cases})}
    about["places"] = "boxes" if boxes else "drawn"
    results.save(file, measured | bounds, inputs=inputs, **about, seconds=seconds)


def _find_cases(pairs: "Pairs", boxes: str, settings: config.Config) -> "list[Case]":
    from mcrlib.evaluation import places

    if boxes:
        cases = places.box_cases(pairs, Path(boxes))
        if not cases:
            raise ValueError(f"{boxes} has no box of a pair of the test split: check its pair_id.")
        return cases
    try:
        cases = places.drawn_cases(pairs, settings)
    except places.OtherDrawing as reason:
        raise NothingToAsk(str(reason)) from None
    if not cases:
        raise NothingToAsk("No test pair has a finding, so there is no place to ask for.")
    return cases
