"""The terms of the data contract: a source's rows, splits, views, the manifest's columns."""

import re
from dataclasses import dataclass

import pyarrow as pa

from mcrlib.data import images

SPLITS = ("train", "validate", "test")

# A view is frontal if this matches the whole of its name.
FRONTAL = re.compile(
    r"(PA|AP)( (SUPINE|ERECT|UPRIGHT|PORTABLE|SEMI-?(ERECT|UPRIGHT)|SITTING|BEDSIDE|MOBILE))?"
    r"|FRONTAL|POSTERO-?ANTERIOR|ANTERO-?POSTERIOR|UNSTATED",
    re.IGNORECASE,
)

TEXT = pa.string()
TEXT_LIST = pa.list_(TEXT)
SCHEMA = pa.schema(
    [
        ("pair_id", TEXT),
        ("patient_id", TEXT),
        ("study_id", TEXT),
        ("split", TEXT),
        ("view", TEXT),
        ("report", TEXT),
        ("findings", TEXT),
        ("impression", TEXT),
        ("labels", TEXT_LIST),
        ("uncertain", TEXT_LIST),
        ("source", TEXT),
    ]
)


# The labels of CheXpert, as its tables and those of MIMIC-CXR-JPG name their columns.
CHEXPERT = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)


@dataclass(frozen=True, slots=True)
class Row:
    """One image of a source, with its report, before any rule is applied."""

    pair_id: str
    patient_id: str
    study_id: str
    split: str  # train, validate, test, or "" to draw one for the patient
    view: str
    text: str  # the report as the source gives it
    labels: list[str] | None
    source: str  # path of the image as given
    image: images.Source | None
    sections: dict[str, str] | None = None  # given if the source itself separates them
    uncertain: list[str] | None = None  # labels that the source is unsure of
    reason: str = ""  # why the source itself leaves this row out
