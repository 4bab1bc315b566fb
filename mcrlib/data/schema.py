"""The words of the data contract: a source's row, the manifest's columns, splits and views."""

import re
from dataclasses import dataclass

import pyarrow as pa

from mcrlib.data import images

SPLITS = ("train", "validate", "test")
FRONTAL = re.compile(
    r"(PA|AP)( (SUPINE|ERECT|UPRIGHT|PORTABLE|SEMI-?(ERECT|UPRIGHT)|SITTING|BEDSIDE|MOBILE))?"
    r"|FRONTAL|POSTERO-?ANTERIOR|ANTERO-?POSTERIOR|UNSTATED",
    re.IGNORECASE,
)
SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("pair_id", "patient_id", "study_id", "split", "view")]
    + [(name, pa.string()) for name in ("report", "findings", "impression")]
    + [("labels", pa.list_(pa.string())), ("uncertain", pa.list_(pa.string()))]
    + [("source", pa.string())]
)


@dataclass(frozen=True, slots=True)
class Row:
    """One image of a source, with its report, before any rule is applied."""

    pair_id: str
    patient_id: str
    study_id: str
    split: str  # train, validate, test, or "" for a draw by patient
    view: str
    text: str  # the report as the source has it
    labels: list[str] | None
    source: str  # path of the image as given
    image: images.Source | None
    sections: dict[str, str] | None = None  # where the source itself knows them
    uncertain: list[str] | None = None  # labels that the source is unsure of
    reason: str = ""  # why the source itself leaves this row out
