"""MIMIC-CXR's layout, on a made-up tree with every fault."""

import os
import zipfile

import mimic_tree
import numpy as np
import pandas as pd
import pytest

from mcrlib import config
from mcrlib.data import prepare
from mcrlib.data.schema import SPLITS
from mcrlib.data.sources import mimic_cxr


@pytest.fixture
def mimic(home, tmp_path):
    """A function that builds a made-up release in tmp_path."""

    def build(run="mimic", workers=1, **overrides):
        settings = config.load("mimic", **{"data": str(tmp_path), "cache_size": 32} | overrides)
        return prepare.build(settings.replace(run=run), workers)

    return build


def test_every_faulty_row_is_read_or_counted_as_excluded(mimic, tmp_path):
    expected = mimic_tree.write(tmp_path, 5000)
    dataset = mimic(workers=2)
    info = dataset.info
    assert dict(info["excluded"], **{"": info["kept"]}) == expected
    assert info["seen"] == info["kept"] + sum(info["excluded"].values()) == sum(expected.values())
    excluded = pd.read_csv(dataset.folder / "excluded.csv", dtype=str, na_filter=False)
    assert excluded["reason"].value_counts().to_dict() == info["excluded"]
    frame = dataset.frame
    assert len(frame) == len(dataset.images) == frame["pair_id"].nunique() == info["kept"]
    assert frame.groupby("patient_id")["split"].nunique().max() == 1
    assert set(frame["split"]) == set(SPLITS)
    assert all(image.min() < image.max() for image in dataset.images)
    assert (frame["report"] == "Temperature 39 °C – clear.").any()


def test_official_split_labels_and_report(mimic, tmp_path):
    mimic_tree.write(tmp_path, 30)
    frame = mimic().frame.set_index("study_id")
    assert frame.loc["50000010", "split"] == "test"
    assert frame.loc["50000012", "split"] == "validate"
    assert frame.loc["50000010", "findings"] == "The lungs are clear at 10."
    assert frame.loc["50000010", "impression"] == "No acute process."
    assert frame.loc["50000010", "source"].endswith("p10/p10000010/s50000010/0000000a-00000000.jpg")
    chexpert = pd.read_csv(tmp_path / "mimic-cxr-2.0.0-chexpert.csv.gz", index_col="study_id")
    for study, row in frame.iterrows():
        marks = chexpert.loc[int(study), mimic_tree.LABELS]
        assert row["labels"] == list(marks.index[marks == 1])
        assert row["uncertain"] == list(marks.index[marks == -1])


def test_radiologists_labels_take_precedence(mimic, tmp_path):
    mimic_tree.write(tmp_path, 30)
    radiologists = pd.DataFrame({"study_id": [50000010], "Airspace Opacity": [1], "Edema": [0]})
    radiologists.to_csv(tmp_path / "mimic-cxr-2.1.0-test-set-labeled.csv", index=False)
    assert mimic().frame.set_index("study_id").loc["50000010", "labels"] == ["Lung Opacity"]


def test_zip_folder_and_dicom_give_the_same_pairs(mimic, tmp_path):
    forms = {"zip": {}, "folder": {"zipped": False}, "dicom": {"suffix": ".dcm"}}
    hashes = {}
    for form, options in forms.items():
        (tmp_path / form).mkdir()
        mimic_tree.write(tmp_path / form, 30, **options)
        hashes[form] = mimic(run=form, data=str(tmp_path / form)).info
    assert hashes["zip"]["sha256"] == hashes["folder"]["sha256"]
    assert hashes["dicom"]["pairs_sha256"] == hashes["zip"]["pairs_sha256"]
    assert hashes["dicom"]["dataset_sha256"] != hashes["zip"]["dataset_sha256"]
    assert "DICOM" in hashes["dicom"]["notes"][0]


def test_pool_of_all_frontal_images(mimic, tmp_path):
    mimic_tree.write(tmp_path, 44)
    study, image = mimic(), mimic(run="image", images_per_study="all")
    others = study.info["excluded"]["another frontal image of the study is chosen"]
    assert image.info["kept"] == study.info["kept"] + others
    assert set(study.frame["pair_id"]) < set(image.frame["pair_id"])


def test_missing_files_are_named(mimic, tmp_path):
    with pytest.raises(FileNotFoundError, match="no metadata, no split, no images, no reports"):
        mimic()
    mimic_tree.write(tmp_path, 30)
    (tmp_path / "mimic-cxr-reports.zip").write_bytes(b"PK\x03\x04 half a zip")
    with pytest.raises(ValueError, match="not a whole zip"):
        mimic()
    (tmp_path / "mimic-cxr-2.0.0-split.csv.gz").unlink()
    with pytest.raises(FileNotFoundError, match="no split"):
        mimic()


def test_published_counts_are_checked(tmp_path, monkeypatch):
    mimic_tree.write(tmp_path, 30)
    monkeypatch.setattr(mimic_cxr, "FULL_RELEASE", 30)
    settings = config.load("mimic", data=str(tmp_path))
    with pytest.raises(ValueError, match="237972"):
        next(mimic_cxr.rows(settings))
    table = mimic_cxr.counts(settings)
    monkeypatch.setattr(mimic_cxr, "EXPECTED", table["found"] + np.array(20))
    assert next(mimic_cxr.rows(settings)).pair_id == "00000000-00000000"


@pytest.mark.parametrize("zipped", [True, False])
def test_an_unusable_report_file_is_excluded_with_a_reason(tmp_path, zipped):
    """One file is too large; the other is damaged in an intact archive, or missing."""
    names, text = ("p10/p10000001/s1", "p10/p10000001/s2"), b"FINDINGS: clear. " * 50
    if zipped:
        place = tmp_path / "mimic-cxr-reports.zip"
        with zipfile.ZipFile(place, "w") as archive:
            for name, content in zip(names, (text, b" " * 2_000_000), strict=True):
                archive.writestr(f"files/{name}.txt", content)
        data = bytearray(place.read_bytes())
        data[data.index(b"clear")] ^= 1
        place.write_bytes(data)
    else:
        place = tmp_path
        (place / "p10/p10000001").mkdir(parents=True)
        (place / f"{names[1]}.txt").write_bytes(b" " * 2_000_000)
    read = mimic_cxr._report_reader(place)
    expected = "report file is damaged" if zipped else "study has no report file"
    assert read(names[0]).reason == expected
    assert read(names[1]) == ("", "report file is too large to be a report")


def _rewrite(tmp_path, table, change):
    """Change a table as `change(frame)` does, in place."""
    path = tmp_path / f"mimic-cxr-2.0.0-{table}.csv.gz"
    frame = pd.read_csv(path, dtype=str, na_filter=False)
    change(frame)
    frame.to_csv(path, index=False)


def test_ids_that_became_numbers_are_the_same_ids(mimic, tmp_path):
    mimic_tree.write(tmp_path, 30)
    before = mimic(run="before")

    def as_numbers(frame):
        for column in ("subject_id", "study_id"):
            frame[column] += frame[column].where(frame[column] == "nan", ".0").replace("nan", "")

    for table in ("metadata", "chexpert"):
        _rewrite(tmp_path, table, as_numbers)
    after = mimic(run="after")
    pd.testing.assert_frame_equal(after.frame, before.frame)


def test_ids_in_scientific_notation_are_refused_by_name(tmp_path):
    mimic_tree.write(tmp_path, 30)

    def rounded(frame):
        frame.loc[3, "subject_id"] = "1.0E+07"

    _rewrite(tmp_path, "metadata", rounded)
    settings = config.load("mimic", data=str(tmp_path))
    with pytest.raises(ValueError, match=r"metadata.*the subject_id '1\.0E\+07'"):
        next(mimic_cxr.rows(settings))


def test_a_report_that_is_no_file_is_a_reason(tmp_path):
    folder = tmp_path / "p10/p10000001"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "s1.txt")
    (folder / "s2.txt").mkdir()
    (folder / "s3.txt").symlink_to("s3.txt")
    read = mimic_cxr._report_reader(tmp_path)
    for study in ("s1", "s2", "s3", "s" + "4" * 300):
        assert read(f"p10/p10000001/{study}") == ("", "study has no report file")
