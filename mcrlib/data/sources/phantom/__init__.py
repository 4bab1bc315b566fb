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
    edits      minimal pairs: the same with one thing changed

A label is "finding|side|zone|severity"; of a support device the type stands for the severity.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from mcrlib.config import Config
from mcrlib.data.schema import SPLITS, Row
from mcrlib.data.sources.phantom import wording
from mcrlib.data.sources.phantom.anatomy import Anatomy, Seed, normal_anatomy
from mcrlib.data.sources.phantom.labels import KINDS, LABELS, Finding, choose
from mcrlib.data.sources.phantom.shapes import Field

__all__ = ["KINDS", "LABELS", "DrawnPair", "draw", "pairs", "place", "rows"]

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


class DrawnPair(NamedTuple):
    """A patient's study before it is drawn and written."""

    pair_id: str
    split: str
    number: int  # in its split, from 0
    patient: int
    study: int  # of the patient, from 0
    view: str
    seed: tuple[int, ...]  # of the patient
    findings: list[Finding]
    draft: wording.Draft

    @property
    def labels(self) -> list[str]:
        """The labels of its findings."""
        return [finding.label for finding in self.findings]


def pairs(config: Config, splits: Sequence[str] = SPLITS) -> Iterator[DrawnPair]:
    """The pairs of some splits, `config.sizes` of them in train, validate and test, one image a
    study and one to three studies a patient; the same for the same `sizes` and `data_seed`."""
    for split in splits:
        split_number = SPLITS.index(split)
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
            view = VIEWS[pair_rng.integers(len(VIEWS))]
            first = patients.index(patient)  # the patient's other pairs follow it
            yield DrawnPair(
                pair_id=f"{split}-{number:05d}",
                split=split,
                number=number,
                patient=patient,
                study=number - first,
                view=view,
                seed=(config.data_seed, 3, split_number, patient),
                findings=findings,
                draft=wording.draft(pair_rng, findings),
            )


def rows(config: Config) -> Iterator[Row]:
    """The pairs as rows of a manifest, their pictures `config.cache_size` pixels wide."""
    for pair in pairs(config):
        yield Row(
            pair_id=pair.pair_id,
            patient_id=f"{pair.split}-patient-{pair.patient:05d}",
            study_id=f"{pair.split}-study-{pair.number:05d}",
            split=pair.split,
            view=pair.view,
            source="phantom",
            text=pair.draft.text,
            labels=pair.labels,
            image=partial(draw, pair.seed, pair.labels, config.cache_size, pair.view, pair.study),
        )
