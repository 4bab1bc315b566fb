"""MIMIC-CXR as PhysioNet hands it out (https://physionet.org/content/mimic-cxr-jpg/).

These must be somewhere under one folder:

- the CSVs of MIMIC-CXR-JPG 2.x: metadata and split; chexpert or negbio, and the radiologists'
  labels of the test set, are used if present;
- its JPGs, or the DICOM release instead;
- the reports, unpacked or in `mimic-cxr-reports.zip`, which is read in place.
"""

import lzma
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import IO, NamedTuple

import pandas as pd

from mcrlib.config import Config
from mcrlib.data import cells, reports
from mcrlib.data.schema import FRONTAL, SPLITS, Row

# Frontal means ViewPosition PA or AP here; before any exclusion by text. From public descriptions.
EXPECTED = pd.DataFrame(
    {
        "train": {"images": 237_972, "studies": 213_365, "patients": 63_169},
        "validate": {"images": 1_959, "studies": 1_733, "patients": 487},
        "test": {"images": 3_403, "studies": 3_041, "patients": 289},
    }
)
TOLERANCE = 20  # copies of the release differ by about ten
FULL_RELEASE = 370_000  # images; a smaller copy is somebody's excerpt and has other counts
IDS = ["dicom_id", "study_id", "subject_id"]
MAX_REPORT = 1_000_000  # bytes; the longest real one has a hundredth of it

REPORTS_ARCHIVE = "mimic-cxr-reports.zip"
RADIOLOGISTS = "test-set-labeled"  # table of the labels that radiologists gave to the test set
TABLE_FILE = re.compile(r"mimic-cxr-2\.\d\.0-([a-z-]+)\.csv(\.gz)?")  # group 1: the table's name
PATIENT_GROUP = re.compile(r"p\d\d")  # folder p10 holds the patients p10000032, ...
REPORT_FILE = re.compile(r"(p\d\d/p\d+/s\d+)\.txt$")
ID = re.compile(r"[A-Za-z0-9-]+")
SAMPLED_PATIENTS = 50  # enough to see which kinds of files a folder has; not all have a report


class Release(NamedTuple):
    """Where the parts of a copy of MIMIC-CXR are."""

    tables: dict[str, Path]  # "metadata", "split", "chexpert", ... -> CSV file
    reports: Path  # zip archive, or folder that holds p10, p11, ...
    images: Path  # folder that holds p10, p11, ...
    suffix: str  # of the image files: ".jpg" or ".dcm"


class Labels(NamedTuple):
    """A study's labels that are present, and those that the source is unsure of."""

    present: list[str] | None
    uncertain: list[str] | None


class Report(NamedTuple):
    """A study's report; if it has no readable one, the reason, else ""."""

    text: str
    reason: str


def rows(config: Config) -> Iterator[Row]:
    """One row for each image of the metadata file, in its order.

    Raises FileNotFoundError if a part of the release is missing, ValueError if the full release
    does not have its published counts (unless `config.assert_counts` is off).
    """
    release = _find(config)
    metadata = _metadata(release)
    if len(metadata) >= FULL_RELEASE and config.assert_counts:
        _check_counts(metadata)
    labels_by_study = _labels(release)
    read_report = _report_reader(release.reports)
    unlabelled = Labels(present=None, uncertain=None)
    for image in metadata.itertuples():
        study = f"p{image.subject_id[:2]}/p{image.subject_id}/s{image.study_id}"
        file_name = f"{image.dicom_id}{release.suffix}"
        labels = labels_by_study.get(image.study_id, unlabelled)
        report = Report(text="", reason=_id_fault(image))
        # Reports of images that will be left out need not be read.
        if not report.reason and FRONTAL.fullmatch(image.ViewPosition):
            report = read_report(study)
        yield Row(
            pair_id=image.dicom_id,
            patient_id=image.subject_id,
            study_id=image.study_id,
            split=image.split,
            view=image.ViewPosition,
            text=report.text,
            labels=labels.present,
            uncertain=labels.uncertain,
            source=f"files/{study}/{file_name}",
            image=release.images / study / file_name,
            reason=report.reason,
        )


def notes(config: Config) -> list[str]:
    """Which of the release's alternative and optional parts were found."""
    release = _find(config)
    image_kinds = {".jpg": "JPG release", ".dcm": "DICOM release, not histogram-equalised"}
    label_kinds = {RADIOLOGISTS: "radiologists (test set)"}
    labels = [label_kinds.get(name, name) for name in _label_tables(release)]
    label_list = ", ".join(labels) or "none"
    return [f"images: {image_kinds[release.suffix]}", f"labels: {label_list}"]


def counts(config: Config) -> pd.DataFrame:
    """Frontal images, their studies and patients by split: found in this copy, and expected.

    The index is that of `EXPECTED`; the columns are pairs such as ("found", "train").
    """
    release = _find(config)
    return _counts(_metadata(release))


def _counts(metadata: pd.DataFrame) -> pd.DataFrame:
    is_frontal = metadata["ViewPosition"].isin(["PA", "AP"])
    by_split = metadata[is_frontal].groupby("split")[IDS].nunique()
    in_this_copy = by_split.reindex(SPLITS, fill_value=0).T
    in_this_copy = in_this_copy.set_axis(EXPECTED.index)  # an id each: images, studies, patients
    return pd.concat({"found": in_this_copy, "expected": EXPECTED}, axis=1)


def _check_counts(metadata: pd.DataFrame) -> None:
    table = _counts(metadata)
    difference = (table["found"] - table["expected"]).abs()
    if (difference > TOLERANCE).any(axis=None):
        raise ValueError(
            "The frontal images in this copy of MIMIC-CXR do not match the published counts:\n"
            f"{table}\nIf that is intended, set assert_counts=False."
        )


def _find(config: Config) -> Release:
    """The release's parts under `config.data`; of several of a kind, the first.

    Raises FileNotFoundError with the parts that are missing.
    """
    tables: dict[str, Path] = {}
    places: dict[str, Path] = {}  # "reports", ".jpg" and ".dcm" -> folder or archive
    for path, folders, files in os.walk(config.data or ""):
        folder = Path(path)
        groups = sorted(name for name in folders if PATIENT_GROUP.fullmatch(name))
        # Speed: os.walk descends into the folders that this list still holds. Without the groups of
        # patients, it skips hundreds of thousands.
        folders[:] = sorted(set(folders) - set(groups))
        for file in sorted(files):
            table = TABLE_FILE.fullmatch(file)
            if table:
                tables.setdefault(table[1], folder / file)
            elif file == REPORTS_ARCHIVE:
                places.setdefault("reports", folder / file)
        for kind in _kinds_of_files(folder, groups):
            places.setdefault(kind, folder)
    missing = [table for table in ("metadata", "split") if table not in tables]
    if ".jpg" not in places and ".dcm" not in places:
        missing.append("images")
    if "reports" not in places:
        missing.append("reports")
    if missing:
        raise FileNotFoundError(_what_is_missing(config, missing))
    suffix = ".jpg" if ".jpg" in places else ".dcm"
    return Release(tables, places["reports"], places[suffix], suffix)


def _kinds_of_files(folder: Path, groups: list[str]) -> list[str]:
    """Which of "reports", ".jpg" and ".dcm" the patients' folders below `folder` hold."""
    patients = _some_patients(folder, groups)
    patterns = {"reports": "s*.txt", ".jpg": "s*/*.jpg", ".dcm": "s*/*.dcm"}
    kinds = []
    for kind, pattern in patterns.items():
        if any(_has_file(patient, pattern) for patient in patients):
            kinds.append(kind)
    return kinds


def _some_patients(folder: Path, groups: list[str]) -> list[Path]:
    patients = []
    for group in groups:
        for patient in (folder / group).iterdir():
            patients.append(patient)
            if len(patients) == SAMPLED_PATIENTS:
                return patients
    return patients


def _has_file(patient: Path, pattern: str) -> bool:
    first = next(patient.glob(pattern), None)  # glob is lazy: the folder is not listed in full
    return first is not None


def _what_is_missing(config: Config, missing: list[str]) -> str:
    needed = (
        "RUN=mimic needs DATA=<folder with MIMIC-CXR-JPG (CSVs and files/) and MIMIC-CXR's "
        f"reports (files/ or {REPORTS_ARCHIVE})>"
    )
    if not config.data:
        return f"{needed}; none was given."
    return f"{needed}; {config.data} has no {', no '.join(missing)}."


def _metadata(release: Release) -> pd.DataFrame:
    """A line an image: IDS, ViewPosition and split, all text; "" if unknown."""
    images = _read_table(release.tables["metadata"], [*IDS, "ViewPosition"])
    splits = _read_table(release.tables["split"], ["dicom_id", "split"])
    splits = splits.drop_duplicates()
    is_repeated = splits["dicom_id"].duplicated()
    in_two_splits = splits.loc[is_repeated, "dicom_id"]
    split_of = splits.drop_duplicates("dicom_id").set_index("dicom_id")["split"]
    # Neither is a split's name, so both exclude the image, with these words as the reason.
    split_of[split_of.index.isin(in_two_splits)] = "two at once"
    split = images["dicom_id"].map(split_of).fillna("none given")
    return images.assign(split=split)


def _read_table(path: Path, columns: list[str]) -> pd.DataFrame:
    """`columns` of a CSV as text, "" for gaps."""
    table = pd.read_csv(path, dtype=str, encoding_errors="replace").fillna("")
    missing = [column for column in columns if column not in table]
    if missing:
        raise ValueError(f"{path} has no column {', '.join(missing)}; it has {list(table)}.")
    for column in columns:
        table[column] = table[column].map(cells.text)
        if column in IDS:
            # A spreadsheet, or pandas if there is a gap, writes numbers: 50414267.0.
            table[column] = table[column].map(cells.tidy_id)
            cells.check_ids(table[column], column, path)
    return table[columns]


def _id_fault(image) -> str:
    """Why a line of the metadata cannot name files; "" if it can."""
    ids = [getattr(image, name) for name in IDS]
    if not all(ids):
        return "metadata lacks dicom_id, study_id or subject_id"
    if not all(ID.fullmatch(value) for value in ids):
        return "an id is not made of letters, digits and hyphens"
    return ""


def _label_tables(release: Release) -> list[str]:
    """Names of the label tables to use; the labels of a later one replace those of an earlier."""
    names = []
    if "chexpert" in release.tables:
        names.append("chexpert")
    elif "negbio" in release.tables:
        names.append("negbio")
    if RADIOLOGISTS in release.tables:
        names.append(RADIOLOGISTS)
    return names


def _labels(release: Release) -> dict[str, Labels]:
    """Labels of each study."""
    labels_by_study = {}
    for table_name in _label_tables(release):
        path = release.tables[table_name]
        table = pd.read_csv(path, dtype=str, na_filter=False, encoding_errors="replace")
        table["study_id"] = table["study_id"].map(cells.tidy_id)
        table = table.set_index("study_id").drop(columns="subject_id", errors="ignore")
        table = table.rename(columns={"Airspace Opacity": "Lung Opacity"})  # as CheXpert calls it
        marked = cells.marked_labels(table)
        for study, (present, uncertain) in zip(table.index, marked, strict=True):
            labels_by_study[study] = Labels(present, uncertain)
    return labels_by_study


def _report_reader(place: Path) -> Callable[[str], Report]:
    """A function that reads the report of a study such as "p10/p10000032/s50414267" from `place`.

    It keeps the last reports, since the images of a study follow one another.
    """
    open_report = _folder_opener(place) if place.is_dir() else _archive_opener(place)

    @lru_cache
    def read(study: str) -> Report:
        """A study's report."""
        return _read_report(open_report, study)

    return read


def _folder_opener(place: Path) -> Callable[[str], IO[bytes]]:
    def open_file(study: str) -> IO[bytes]:
        """Open a study's report; KeyError if it is no file."""
        file = place / f"{study}.txt"
        if not os.path.isfile(file):  # opening a pipe would never end
            raise KeyError(study)
        return file.open("rb")

    return open_file


def _archive_opener(place: Path) -> Callable[[str], IO[bytes]]:
    try:
        archive = zipfile.ZipFile(place)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{place} is not a whole zip archive: {error}") from error
    members = {}
    for member in archive.infolist():
        match = REPORT_FILE.search(member.filename)
        if match:
            members[match[1]] = member

    def open_member(study: str) -> IO[bytes]:
        """Open a study's report; KeyError if the archive has none."""
        return archive.open(members[study])

    return open_member


def _read_report(open_report: Callable[[str], IO[bytes]], study: str) -> Report:
    try:
        with open_report(study) as file:
            data = file.read(MAX_REPORT + 1)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, KeyError):
        return Report(text="", reason="study has no report file")
    except OSError as error:
        return Report(text="", reason=f"report file cannot be opened: {error.strerror}")
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError):
        return Report(text="", reason="report file is damaged")
    if len(data) > MAX_REPORT:
        return Report(text="", reason="report file is too large to be a report")
    return Report(text=reports.decode(data), reason="")
