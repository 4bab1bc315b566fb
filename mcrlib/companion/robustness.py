"""What corrupted input costs the trained models of a run: the analysis of notebook 13 (ours).

It needs the models themselves and the pictures, not their embeddings. Saved numbers are read where
the models are gone, as in the reference.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mcrlib import config, results
from mcrlib.companion.analyses import Numbers, is_drawn, pair_attributes
from mcrlib.data.dataset import Dataset
from mcrlib.evaluation.seeds import variant_and_seed
from mcrlib.files import sha256

FILE = "robustness.json"
CODE = ("corruptions.py", "robustness.py")  # in mcrlib/evaluation; numbers are of this code
DRAWS = 10_000
MANY_FINDINGS = 4  # pairs with so many or more are one group


def measure(run: str, draws: int = DRAWS) -> Numbers:
    """RSUM and nDCG@10 without partner of every trained model in every condition, with intervals,
    the differences of `mcr` to the other variants, and RSUM of subgroups.

    The values are

    - `conditions`: {"name", "corruption", "strength", "label"} of each, and `left_out`, a sentence
      about one that these pairs cannot be put in, or "";
    - `models`: model -> condition -> measure -> {"value", "low", "high"};
    - `differences`: the records of `evaluation.robustness.compare`;
    - `groups`: {"name", "dimension", "pairs", "patients", "decides"} of each;
    - `by_group`: model -> condition (unchanged, half hidden) -> group -> block of RSUM.

    `draws` resamples of the patients give each interval. Raises FileNotFoundError if there are
    neither models nor numbers, and ValueError if a model was trained on other pairs.
    """
    file = config.ROOT / "results" / run / FILE
    if has_models(run):
        made_from = inputs(run, draws)
        if not results.is_current(file, made_from):
            _compute(run, draws, made_from, file)
    elif not file.is_file():
        raise FileNotFoundError(f"There is no trained model in results/{run}: {_command(run)}.")
    return Numbers.load(file)


def has_models(run: str) -> bool:
    """Whether a run has models to measure; the reference is a copy that measures nothing."""
    return run != config.REFERENCE and bool(results.trained_folders(run))


def _command(run: str) -> str:
    """How to get what is missing."""
    if run == config.REFERENCE:
        return "run `make robustness RUN=demo`, then `make publish`"
    return f"run `make train RUN={run}` first"


def inputs(
    run: str, draws: int = DRAWS, model_hash: Callable[[Path], str] = sha256
) -> dict[str, str]:
    """What the numbers are made from: models, pairs, and the code that corrupts and measures.

    `model_hash` gives the hash of a model's file. Where the models are gone, the saved numbers are
    what there is: the result is then what they say of themselves.
    """
    if not has_models(run):
        return Numbers.load(config.ROOT / "results" / run / FILE).provenance["inputs"]
    made_from = {}
    for name, folder in results.trained_folders(run).items():
        made_from[name] = model_hash(folder / results.WEIGHTS)[:16]
    made_from["dataset"] = str(results.dataset_hash(run))
    made_from["draws"] = str(draws)
    evaluation = Path(__file__).parents[1] / "evaluation"
    for name in CODE:
        made_from[name] = sha256(evaluation / name)[:16]
    if not is_drawn(run):
        from mcrlib.evaluation import findings  # imported lazily: slow

        made_from["findings"] = findings.rules_digest()
    return made_from


def _compute(run: str, draws: int, made_from: dict[str, str], file: Path) -> None:
    from mcrlib.evaluation import robustness  # imported lazily: slow, not needed for redrawing

    started = time.perf_counter()
    dataset = results.dataset_of_run(run)
    rows = dataset.indices("test")
    test = dataset.frame.iloc[rows]
    patients = test["patient_id"].tolist()
    attributes, source = pair_attributes(dataset, test)
    names = list(results.trained_folders(run))
    first_model = _load(run, names[0], dataset)  # its settings are those that drew the pairs
    others, left_out = other_views(dataset, rows, first_model.config)
    pairs = robustness.Pairs(
        pair_ids=test["pair_id"].tolist(),
        pictures=dataset.images[rows],
        reports=test["report"].tolist(),
        attributes=attributes,
        other_views=others,
    )
    measured = {}
    for name in names:
        measured[name] = robustness.measure(_load(run, name, dataset), pairs)
    groups = subgroups(test, attributes)
    members = {group["name"]: group.pop("members") for group in groups}
    summaries = {}
    by_group = {}
    for name, of_model in measured.items():
        summaries[name] = robustness.summarise(of_model, patients, draws)
        by_group[name] = _group_blocks(of_model, members, patients, draws)
    values = {
        "conditions": [_described(condition) for condition in pairs.conditions()],
        "left_out": left_out,
        "models": summaries,
        "differences": robustness.compare(measured, patients, draws),
        "groups": groups,
        "by_group": by_group,
    }
    about = {"run": run, "pool": len(test), "attributes": source, "draws": draws}
    about["seconds"] = round(time.perf_counter() - started)
    results.save(file, values, inputs=made_from, **about)


def _load(run: str, model: str, dataset: Dataset) -> Any:
    """A trained model, `VARIANT-seedS`. Raises ValueError if it was trained on other pairs."""
    from mcrlib.training.checkpoint import load_trained

    variant, seed = variant_and_seed(model)
    return load_trained(config.load(run, variant, int(seed)), dataset)


def _group_blocks(
    of_model: Mapping[str, Any], members: Mapping[str, np.ndarray], patients: list, draws: int
) -> dict[str, dict]:
    """RSUM of each group, unchanged and with half of the patches hidden."""
    from mcrlib.evaluation import corruptions, robustness

    blocks = {}
    for condition in (corruptions.UNCHANGED.name, corruptions.HALF_HIDDEN.name):
        rsum = of_model[condition][robustness.RSUM]
        blocks[condition] = robustness.summarise_groups(rsum, members, patients, draws)
    return blocks


def _described(condition: Any) -> dict[str, Any]:
    return {
        "name": condition.name,
        "corruption": condition.corruption,
        "strength": condition.strength,
        "label": condition.label,
    }


# The other view


def other_views(
    dataset: Dataset, rows: np.ndarray, settings: config.Config
) -> tuple[dict[int, np.ndarray], str]:
    """The picture of each pair in its other view, AP for PA and PA for AP, by its place in `rows`,
    and a sentence if there is none.

    Phantoms are drawn again in the other view, with the `settings` that drew them. Of real pairs,
    the other view is the first picture of the same study in the manifest that has it.
    """
    if dataset.info["source"] == "phantom":
        return _redrawn(dataset, rows, settings)
    views = _in_the_same_study(dataset.frame, rows)
    pictures = {place: dataset.images[row] for place, row in views.items()}
    if pictures:
        return pictures, ""
    return {}, (
        "The other view is left out: no study of the test split has both a PA and an AP picture "
        "in the manifest."
    )


def _redrawn(
    dataset: Dataset, rows: np.ndarray, settings: config.Config
) -> tuple[dict[int, np.ndarray], str]:
    from mcrlib.data.sources import phantom

    place_of = {name: place for place, name in enumerate(dataset.frame["pair_id"].iloc[rows])}
    pictures = {}
    for row in phantom.rows(settings):
        if row.pair_id not in place_of:
            continue
        place = place_of[row.pair_id]
        if not pictures and not np.array_equal(row.image(), dataset.images[rows[place]]):
            return {}, (
                "The other view is left out: the phantoms of today's code are not those of the "
                "data, which were drawn by another version."
            )
        pictures[place] = phantom.in_other_view(row)
    return pictures, ""


def _in_the_same_study(frame: pd.DataFrame, rows: np.ndarray) -> dict[int, int]:
    """For each place in `rows` whose study has a picture in the other view: that picture's row."""
    studies = frame[["split", "patient_id", "study_id"]].agg(tuple, axis=1).tolist()
    projections = [_projection(view) for view in frame["view"]]
    first_row = {}
    for row, study in enumerate(studies):
        first_row.setdefault((study, projections[row]), row)
    opposite = {"PA": "AP", "AP": "PA"}
    found = {}
    for place, row in enumerate(rows):
        other = opposite.get(projections[row])
        if (studies[row], other) in first_row:
            found[place] = first_row[studies[row], other]
    return found


def _projection(view: str) -> str:
    """PA or AP; "" of a view that does not say."""
    name = str(view).upper()
    if name.startswith(("PA", "POSTERO")):
        return "PA"
    if name.startswith(("AP", "ANTERO")):
        return "AP"
    return ""


# Subgroups


def subgroups(test: pd.DataFrame, attributes: list) -> list[dict[str, Any]]:
    """Groups of the test pairs by view, by the number of findings and by finding.

    Each has its `name`, `dimension`, number of `pairs` and of `patients`, whether it `decides`
    anything, which takes `FEWEST_PATIENTS` patients, and its `members`, bool [N].
    """
    from mcrlib.evaluation.retrieval import FEWEST_PATIENTS

    findings = [{own.finding for own in of_pair if not own.kind} for of_pair in attributes]
    views = test["view"].to_numpy()
    counts = np.array([min(len(own), MANY_FINDINGS) for own in findings])
    masks = []
    for view in sorted(set(views)):
        masks.append(("view", view, views == view))
    for count in sorted(set(counts.tolist())):
        masks.append(("number of findings", _counted(count), counts == count))
    for finding in sorted(set().union(*findings)):
        has_finding = np.array([finding in own for own in findings])
        masks.append(("finding", finding, has_finding))
    groups = []
    for dimension, name, is_member in masks:
        patients = test.loc[is_member, "patient_id"].nunique()
        group = {"name": name, "dimension": dimension, "pairs": int(is_member.sum())}
        group |= {"patients": patients, "decides": patients >= FEWEST_PATIENTS}
        groups.append(group | {"members": is_member})
    return groups


def _counted(findings: int) -> str:
    if findings == 0:
        return "no finding"
    if findings == MANY_FINDINGS:
        return f"{findings} findings or more"
    return "1 finding" if findings == 1 else f"{findings} findings"


def differences(values: Mapping[str, Any]) -> dict[tuple[str, str, str], dict]:
    """The records of the comparison by condition, endpoint and the variant that `mcr` is compared
    with."""
    by_place = {}
    for record in values["differences"]:
        _, other = record["variants"]
        by_place[record["condition"], record["endpoint"], other] = record
    return by_place
