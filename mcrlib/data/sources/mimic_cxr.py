"""MIMIC-CXR as PhysioNet hands it out (https://physionet.org/content/mimic-cxr-jpg/).

Wanted somewhere under one folder: the CSVs of MIMIC-CXR-JPG 2.x (metadata, split; chexpert or
negbio and the test set's radiologists' labels where present), its JPGs or the DICOM release in
their place, and the reports, unpacked or in `mimic-cxr-reports.zip`, which is read in place.
"""

import lzma
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from itertools import compress, islice
from pathlib import Path
from typing import IO

import pandas as pd

from mcrlib.config import Config
from mcrlib.data import reports
from mcrlib.data.schema import FRONTAL, SPLITS, Row

# Frontal means ViewPosition PA or AP here; before any exclusion by text. From public descriptions.
EXPECTED = pd.DataFrame(
    {"train": (237972, 213365, 63169), "validate": (1959, 1733, 487), "test": (3403, 3041, 289)},
    index=["images", "studies", "patients"],
)
TOLERANCE = 20  # copies of the release differ by about ten
FULL_RELEASE = 370_000  # images; a smaller copy is somebody's excerpt and has counts of its own
IDS = ["dicom_id", "study_id", "subject_id"]
MAX_REPORT = 1_000_000  # bytes; the longest real one has a hundredth of it


def rows(config: Config) -> Iterator[Row]:
    """One row an image of the metadata file, in its order.

    Raises FileNotFoundError where a part of the release is not there, ValueError where the full
    release does not have its published counts (unless `config.assert_counts` is off).
    """
    found = _find(config)
    images = _metadata(found)
    if len(images) >= FULL_RELEASE and config.assert_counts:
        _check(images)
    labels, read_report = _labels(found), _report_reader(found)
    tree, suffix = found["images"]
    for image in images.itertuples():
        name = f"p{image.subject_id[:2]}/p{image.subject_id}/s{image.study_id}"
        positive, uncertain = labels.get(image.study_id, (None, None))
        reason, text = _bad_id(image), ""
        if not reason and FRONTAL.fullmatch(image.ViewPosition):
            text, reason = read_report(name)
        yield Row(
            pair_id=image.dicom_id,
            patient_id=image.subject_id,
            study_id=image.study_id,
            split=image.split,
            view=image.ViewPosition,
            text=text,
            labels=positive,
            uncertain=uncertain,
            source=f"files/{name}/{image.dicom_id}{suffix}",
            image=tree / name / f"{image.dicom_id}{suffix}",
            reason=reason,
        )


def notes(config: Config) -> list[str]:
    """What was found of the release's optional parts."""
    found = _find(config)
    labels = [name for name in ("chexpert", "negbio") if name in found][:1]
    labels += ["radiologists (test set)"] if "test-set-labeled" in found else []
    images = {".jpg": "JPG release", ".dcm": "DICOM release, not histogram-equalised"}
    return [f"images: {images[found['images'][1]]}", f"labels: {', '.join(labels) or 'none'}"]


def counts(config: Config) -> pd.DataFrame:
    """Frontal images, their studies and patients by split, found beside expected."""
    return _counts(_metadata(_find(config)))


def _counts(images: pd.DataFrame) -> pd.DataFrame:
    frontal = images[images["ViewPosition"].isin(["PA", "AP"])].groupby("split")
    frontal = frontal[IDS].nunique().reindex(SPLITS, fill_value=0).T.set_axis(EXPECTED.index)
    return pd.concat({"found": frontal, "expected": EXPECTED}, axis=1)


def _check(images: pd.DataFrame) -> None:
    table = _counts(images)
    if ((table["found"] - table["expected"]).abs() > TOLERANCE).any(axis=None):
        raise ValueError(
            f"This copy of MIMIC-CXR has not the published counts of frontal images:\n{table}\n"
            "Where that is meant, go on with assert_counts=False."
        )


def _find(config: Config) -> dict:
    """Places of the release's parts; what lies below the patients' folders is not walked."""
    found: dict = {}
    for place, folders, files in os.walk(config.data or ""):
        here, trees = Path(place), [name for name in folders if re.fullmatch(r"p\d\d", name)]
        folders[:] = sorted(set(folders) - set(trees))
        for file in sorted(files):
            match = re.fullmatch(r"mimic-cxr-2\.\d\.0-([a-z-]+)\.csv(\.gz)?", file)
            if match or file == "mimic-cxr-reports.zip":
                found.setdefault(match[1] if match else "reports", here / file)
        patients = list(islice((p for t in sorted(trees) for p in (here / t).iterdir()), 50))
        for kind, pattern in {"reports": "s*.txt", ".jpg": "s*/*.jpg", ".dcm": "s*/*.dcm"}.items():
            if any(next(patient.glob(pattern), None) for patient in patients):
                found.setdefault(kind, here)
    for kind in (".dcm", ".jpg"):
        if kind in found:
            found["images"] = (found[kind], kind)
    missing = [part for part in ("metadata", "split", "images", "reports") if part not in found]
    if missing:
        raise FileNotFoundError(
            "RUN=mimic needs DATA=<folder with MIMIC-CXR-JPG (CSVs and files/) and MIMIC-CXR's "
            f"reports (files/ or mimic-cxr-reports.zip)>; under {config.data or 'no folder'} there "
            f"is no {', no '.join(missing)}."
        )
    return found


def _metadata(found: dict) -> pd.DataFrame:
    """IDS, ViewPosition and split, all text; "" where unknown."""
    images = _read(found["metadata"], [*IDS, "ViewPosition"])
    split = _read(found["split"], ["dicom_id", "split"]).drop_duplicates()
    twice = split.loc[split["dicom_id"].duplicated(), "dicom_id"]
    split = split.drop_duplicates("dicom_id").set_index("dicom_id")["split"]
    split[split.index.isin(twice)] = "two at once"
    return images.assign(split=images["dicom_id"].map(split).fillna("none given"))


def _read(path: Path, columns: list[str]) -> pd.DataFrame:
    table = pd.read_csv(path, dtype=str, encoding_errors="replace").fillna("")
    missing = [column for column in columns if column not in table]
    if missing:
        raise ValueError(f"{path} has no column {', '.join(missing)}; it has {list(table)}.")
    # An id column with a gap may have been written as floats.
    return table[columns].apply(lambda column: column.str.strip().str.removesuffix(".0"))


def _bad_id(image) -> str:
    ids = [getattr(image, name) for name in IDS]
    if not all(ids):
        return "metadata lacks dicom_id, study_id or subject_id"
    if not all(re.fullmatch(r"[A-Za-z0-9-]+", name) for name in ids):
        return "an id is not made of letters, digits and hyphens"
    return ""


def _labels(found: dict) -> dict[str, tuple[list[str], list[str]]]:
    """study -> (labels that are present, labels that are uncertain); radiologists' go first."""
    labels = {}
    for name in ("chexpert" if "chexpert" in found else "negbio", "test-set-labeled"):
        if name not in found:
            continue
        table = pd.read_csv(found[name], dtype=str, na_filter=False).set_index("study_id")
        table = table.drop(columns="subject_id", errors="ignore")
        table = table.rename(columns={"Airspace Opacity": "Lung Opacity"})
        names = table.columns.tolist()
        present, unsure = (table.isin([n, f"{n}.0"]).to_numpy() for n in ("1", "-1"))
        for study, *marks in zip(table.index, present, unsure, strict=True):
            labels[study] = tuple(list(compress(names, mark)) for mark in marks)
    return labels


def _report_reader(found: dict) -> Callable[[str], tuple[str, str]]:
    """A function from "p10/p10000032/s50414267" to (text, reason why there is none); it remembers
    the last ones, since the images of a study follow one another."""
    place = found["reports"]
    if place.is_dir():
        return lru_cache(partial(_read_report, lambda name: (place / f"{name}.txt").open("rb")))
    try:
        archive = zipfile.ZipFile(place)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{place} is not a whole zip archive: {error}") from error
    pattern = re.compile(r"(p\d\d/p\d+/s\d+)\.txt$")
    members = {m[1]: info for info in archive.infolist() if (m := pattern.search(info.filename))}
    return lru_cache(partial(_read_report, lambda name: archive.open(members[name])))


def _read_report(opened: Callable[[str], IO[bytes]], name: str) -> tuple[str, str]:
    try:
        with opened(name) as file:
            data = file.read(MAX_REPORT + 1)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, KeyError):
        return "", "study has no report file"
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError):
        return "", "report file is damaged"
    if len(data) > MAX_REPORT:
        return "", "report file is too large to be a report"
    return reports.decode(data), ""
