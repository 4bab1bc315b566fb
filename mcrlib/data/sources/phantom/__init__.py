"""Drawn chest radiographs with written reports: the data set that needs no download (ours).

A picture is a film of attenuation: an anatomy, a pure function of its seed, plus one field for
each finding that is zero outside the finding's place. Removing a finding changes nothing elsewhere.

    shapes     soft shapes on a plane
    anatomy    the chest of a patient without findings
    kinds      what makes a kind of finding: its fields, its mark
    findings   the kinds in lungs, pleura, heart and bones
    devices    the kinds of support device
    labels     every finding by its label, and a random choice of them
    wording    reports

A label is "finding|side|zone|severity"; of a support device the type stands for the severity.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np

from mcrlib.config import Config
from mcrlib.data.schema import SPLITS, Row
from mcrlib.data.sources.phantom import wording
from mcrlib.data.sources.phantom.anatomy import Anatomy, Seed, normal_anatomy
from mcrlib.data.sources.phantom.labels import KINDS, LABELS, choose
from mcrlib.data.sources.phantom.shapes import Field

__all__ = ["KINDS", "LABELS", "draw", "in_other_view", "place", "rows"]

NORMAL_SHARE = 0.28  # of a split's pairs have no finding
FINDING_COUNTS = (1, 1, 1, 2, 2, 2, 2, 3, 3, 4)  # of the other pairs, all equally likely
VIEWS = ("PA", "AP")


def draw(seed: Seed, labels: list[str], size: int, view: str = "PA", study: int = 0) -> np.ndarray:
    """The picture uint8 [size, size] of patient `seed` in study number `study` with the findings
    `labels`. `view` is PA or AP; AP pictures are noisier. Raises ValueError for a label that is
    not in LABELS."""
    anatomy = normal_anatomy(seed, size, view, study)
    attenuation = anatomy.attenuation
    for label in sorted(labels):
        attenuation = attenuation + _mark(anatomy, label)
    depth = np.maximum(attenuation, 0.0) * anatomy.exposure
    # The film shows nearly 1 - exp(-depth). Four terms of exp(depth)'s series replace exp, whose
    # last bit differs between machines.
    cubic = 0.5 + depth / 6.0
    growth = 1.0 + depth * (1.0 + depth * cubic)
    film = 1.0 - 1.0 / growth
    brightness = 0.02 + 0.98 * film + anatomy.noise
    grey_levels = np.clip(brightness, 0.0, 1.0) * 255.0
    return grey_levels.round().astype(np.uint8)


def place(seed: Seed, label: str, size: int, view: str = "PA", study: int = 0) -> np.ndarray:
    """Where the finding `label` changes the picture that `draw` draws: bool [size, size]. Raises
    ValueError for a label that is not in LABELS."""
    anatomy = normal_anatomy(seed, size, view, study)
    return _mark(anatomy, label) != 0.0


def _mark(anatomy: Anatomy, label: str) -> Field:
    if label not in LABELS:
        raise ValueError(f"{label!r} is not a phantom's finding: phantom.LABELS lists all of them.")
    return LABELS[label].attenuation(anatomy)


def rows(config: Config) -> Iterator[Row]:
    """Drawn pairs, `config.sizes` of them in train, validate and test, one image a study and one to
    three studies a patient; the same for the same `sizes`, `cache_size` and `data_seed`."""
    for split_number, split in enumerate(SPLITS):
        count = config.sizes[split_number]
        rng = np.random.default_rng([config.data_seed, 1, split_number])
        is_normal = rng.permutation(count) < round(NORMAL_SHARE * count)
        studies_per_patient = rng.integers(1, 4, count)
        patients = np.repeat(np.arange(count), studies_per_patient)
        patients = patients[:count].tolist()
        for number, patient in enumerate(patients):
            pair_rng = np.random.default_rng([config.data_seed, 2, split_number, number])
            findings = []
            if not is_normal[number]:
                findings = choose(pair_rng, int(pair_rng.choice(FINDING_COUNTS)))
            labels = [finding.label for finding in findings]
            view = VIEWS[pair_rng.integers(len(VIEWS))]
            seed = (config.data_seed, 3, split_number, patient)
            first = patients.index(patient)  # the patient's other pairs follow it
            study = number - first
            yield Row(
                pair_id=f"{split}-{number:05d}",
                patient_id=f"{split}-patient-{patient:05d}",
                study_id=f"{split}-study-{number:05d}",
                split=split,
                view=view,
                source="phantom",
                text=wording.report(pair_rng, findings),
                labels=labels,
                image=partial(draw, seed, labels, config.cache_size, view=view, study=study),
            )


def in_other_view(row: Row) -> np.ndarray:
    """The picture uint8 [S, S] of a row that `rows` yields in its other view: AP if it is PA, PA if
    it is AP. Anatomy, findings, position and exposure stay; AP pictures are noisier."""
    (other,) = set(VIEWS) - {row.view}
    return row.image(view=other)
