"""Anybody's table: every format, every fault."""

import json
import random

import mimic_tree
import numpy as np
import pandas as pd
import pytest

from mcrlib import config
from mcrlib.data import prepare
from mcrlib.data.schema import SPLITS
from mcrlib.data.sources import table

ROWS = [
    {"image": "a 1.png", "report": "Clear lungs.", "patient_id": "017", "view": "PA"},
    {"image": "b.png", "report": "Left effusion, small\nand new.", "patient_id": "2", "view": "AP"},
    {"image": "sub/../c.png", "report": 'Said "normal".', "patient_id": "3", "view": "AP Supine"},
    {"image": "l.png", "report": "Clear lungs.", "patient_id": "3", "view": "LATERAL"},
    {"image": "u.png", "report": "Clear lungs.", "patient_id": "4", "view": ""},
    {"image": "NaN", "report": "None", "patient_id": "5", "view": "PA"},
    {"image": "b.png", "report": "Again.", "patient_id": "2", "view": "AP"},
    {"image": "", "report": "No picture.", "patient_id": "6", "view": "AP"},
    {"image": "a 2.png", "report": " ", "patient_id": "7", "view": "ap erect"},
]


@pytest.fixture
def folder(home, tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a 1.png", "a 2.png", "b.png", "c.png", "l.png", "u.png"):
        picture = mimic_tree.picture(random.Random(name))
        (tmp_path / name).write_bytes(mimic_tree.encoded(picture, "PNG"))
    return tmp_path


def build(path, **overrides):
    settings = config.load("table", data=str(path), cache_size=16, **overrides)
    return prepare.build(settings, workers=1)


def save(path, rows):
    frame = pd.DataFrame(rows)
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".jsonl"])
def test_formats_agree_and_every_row_is_counted(folder, suffix):
    dataset = build(save(folder / f"pairs{suffix}", ROWS))
    frame = dataset.frame.set_index("pair_id")
    assert list(frame.index) == ["a 1.png", "b.png", "sub/../c.png"]
    assert frame.loc["a 1.png", "patient_id"] == "017"
    assert frame.loc["b.png", "report"] == "Left effusion, small and new."
    assert frame.loc["sub/../c.png", "report"] == 'Said "normal".'
    assert set(frame["split"]) == set(SPLITS)
    assert dataset.info["excluded"] == {
        "view 'LATERAL' is not frontal": 1,
        "view is unknown": 1,
        "image file is missing": 1,
        "pair id of an earlier row": 1,
        "no image path": 1,
        "report is empty": 1,
    }
    assert dataset.info["notes"] == []


def test_columns_are_mapped_and_assumptions_said(folder):
    rows = [{"file": row["image"], "note": row["report"]} for row in ROWS[:3]]
    path = save(folder / "other.csv", rows)
    with pytest.raises(
        ValueError, match=r"no column for image, report; it has file, note.*columns="
    ):
        build(path)
    dataset = build(path, columns={"image": "file", "report": "note"})
    assert dataset.info["kept"] == 3 and len(dataset.info["notes"]) == 2
    assert dataset.info["views"] == {"unstated": 3}
    with pytest.raises(ValueError, match="no column for view; it has file, note"):
        build(path, columns={"image": "file", "report": "note", "view": "projection"})


def test_splits_labels_and_studies_of_the_table_are_used(folder):
    own = ["training", "val", "test"]
    rows = [
        row | {"split": split, "labels": "Edema; Mass ;", "study_id": "s" + row["patient_id"]}
        for row, split in zip(ROWS, own, strict=False)
    ]
    dataset = build(save(folder / "split.csv", rows))
    assert list(dataset.frame["split"]) == ["train", "validate", "test"]
    assert list(dataset.frame["labels"]) == [["Edema", "Mass"]] * 3
    assert list(dataset.frame["study_id"]) == ["s017", "s2", "s3"]
    assert list(dataset.indices("validate")) == [1]
    rows[1]["split"] = "holdout"
    refused = build(save(folder / "split.csv", rows)).info["excluded"]
    assert refused == {"split 'holdout' is none of train, validate, test": 1}


def test_numbers_and_nulls_of_typed_formats(folder):
    rows = [{"image": "b.png", "report": "Clear.", "patient_id": 17, "view": None}]
    rows[0]["labels"] = ["Mass"]
    path = save(folder / "typed.jsonl", rows)
    row = next(table.rows(config.load("table", data=str(path))))
    assert (row.patient_id, row.view, row.labels) == ("17", "", ["Mass"])
    pd.DataFrame([*rows, {"image": "b.png", "report": np.nan}]).to_parquet(folder / "typed.parquet")
    first, second = table.rows(config.load("table", data=str(folder / "typed.parquet")))
    assert (first.labels, second.text, second.patient_id) == (["Mass"], "", "b.png")


def test_a_line_of_json_ends_where_a_line_ends(folder):
    path = folder / "odd.jsonl"
    path.write_text('{"image": "b.png", "report": "Clear.\u2028No effusion."}\r\n\n')
    assert [row.text for row in table.rows(config.load("table", data=str(path)))] == [
        "Clear.\u2028No effusion."
    ]


def test_old_encodings_and_formulas(folder):
    formula = {"image": "=cmd()", "report": "x", "view": "PA"}
    rows = [ROWS[0] | {"report": "39 °C"}, ROWS[1], ROWS[2], formula]
    path = folder / "old.csv"
    path.write_bytes(pd.DataFrame(rows).to_csv(index=False).encode("cp1252"))
    dataset = build(path)
    assert dataset.frame["report"][0] == "39 °C"
    assert "'=cmd()" in (dataset.folder / "excluded.csv").read_text()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.csv", None, "RUN=table needs DATA=.*there is no file"),
        ("pairs.xlsx", b"PK", "ends in none of"),
        ("pairs.csv", b"", "cannot be read as a table"),
        ("pairs.csv", b"image,report\n", "No pair is left"),
        ("pairs.csv", b"image,report\nb.png,Clear.,more\n", "more fields than its header"),
        ("pairs.jsonl", b"{not json}\n", "cannot be read as a table"),
        ("pairs.parquet", b"PAR1", "cannot be read as a table"),
    ],
)
def test_bad_tables_are_refused_in_one_sentence(folder, name, content, message):
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        build(folder / name)


def test_no_table_given(home):
    with pytest.raises(FileNotFoundError, match="none was given"):
        next(table.rows(config.load("table")))
