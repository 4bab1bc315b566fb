"""Anybody's table: every format, every fault."""

import json
import os
import random
import re
import unicodedata

import mimic_tree
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcrlib import config, files
from mcrlib.data import prepare
from mcrlib.data.dataset import open_dataset
from mcrlib.data.schema import SPLITS
from mcrlib.data.sources import table

ROWS = [
    {"image": "a 1.png", "report": "Clear lungs.", "patient_id": "017", "view": "PA"},
    {"image": "b.png", "report": "Left effusion, small\nand new.", "patient_id": "2", "view": "AP"},
    {"image": "sub/../c.png", "report": 'Said "normal".', "patient_id": "3", "view": "AP Supine"},
    {"image": "l.png", "report": "Clear lungs.", "patient_id": "3", "view": "LATERAL"},
    {"image": "u.png", "report": "Clear lungs.", "patient_id": "4", "view": ""},
    {"image": "NaN", "report": "None seen.", "patient_id": "5", "view": "PA"},
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
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        separator = "\t" if path.suffix == ".tsv" else ","
        pd.DataFrame(rows).to_csv(path, index=False, sep=separator)
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


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("a 1.png,Secret effusion.", "its first line looks like a row of data"),
        ("p10/s501,Secret", "its first line looks like a row of data"),
        ("7,Secret effusion", "it has 7, 1 with a name of several words (not shown"),
        ("7,Secret.", "it has 7, 1 with a name of several words (not shown"),
        ("Path,AP/PA,dicom_id", "it has Path, AP/PA, dicom_id."),
    ],
)
def test_a_table_without_its_header_shows_no_report(folder, header, said):
    path = folder / "headless.csv"
    path.write_text(f"{header}\nb.png,Clear.\n")
    with pytest.raises(ValueError, match="has no column for image, report") as refusal:
        build(path)
    assert said in str(refusal.value)
    assert "Secret" not in str(refusal.value)


def test_only_their_owner_can_read_what_is_made_of_patients(folder):
    dataset = build(save(folder / "pairs.csv", ROWS))
    made = list(dataset.folder.rglob("*"))
    new = config.ROOT / "results" / "table-of-this-test" / "numbers.json"
    files.write(new, b"{}")
    for path in (*made, new, new.parent):
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_study_belongs_to_its_patient(folder):
    """CheXpert's layout: each patient has a `study1`."""
    rows = [
        {"image": name, "report": "Clear.", "patient_id": f"p{i}", "study_id": "study1"}
        for i, name in enumerate(["a 1.png", "a 2.png", "b.png", "c.png", "l.png"])
    ]
    second = rows[0] | {"image": "u.png"}  # the only other image of a study
    info = build(save(folder / "restart.csv", [*rows, second])).info
    assert info["kept"] == 5
    assert info["excluded"] == {"another frontal image of the study is chosen": 1}
    assert sum(counts["studies"] for counts in info["splits"].values()) == 5


def test_without_patients_a_study_stays_in_one_split(folder):
    rows = [
        {"image": name, "report": "Clear.", "study_id": f"s{i // 2}"}
        for i, name in enumerate(["a 1.png", "a 2.png", "b.png", "c.png", "l.png", "u.png"])
    ]
    dataset = build(save(folder / "studies.csv", rows), images_per_study="all")
    assert len(dataset.frame) == 6
    assert (dataset.frame.groupby("study_id")["split"].nunique() == 1).all()
    assert "each study counts as a patient" in dataset.info["notes"][0]


@pytest.mark.parametrize(
    "spellings",
    [("10000032", "10000032.0"), ("10000032.00", "10,000,032"), ("00012", "12"), ("012.0", "12")],
)
def test_ids_that_became_numbers_are_one_patient(folder, spellings):
    names = ["a 1.png", "a 2.png", "b.png", "c.png"]
    rows = [
        {"image": name, "report": "Clear.", "patient_id": spellings[i % 2], "split": split}
        for i, (name, split) in enumerate(zip(names, ["train", "test"] * 2, strict=True))
    ]
    dataset = build(save(folder / "numbers.csv", rows))
    assert dataset.frame["patient_id"].nunique() == 1
    assert dataset.frame["split"].nunique() == 1
    drops_zeros = spellings[0].startswith("0")
    assert any("leading zeros" in note for note in dataset.info["notes"]) == drops_zeros


def test_ids_that_are_no_numbers_and_lone_zeros_stay(folder):
    ids = ["007", "12", "0000000e-00000001", "1.5", "12e5ab", "1e5"]
    names = ["a 1.png", "a 2.png", "b.png", "c.png", "l.png", "u.png"]
    rows = [
        {"image": name, "report": "Clear.", "patient_id": patient}
        for name, patient in zip(names, ids, strict=True)
    ]
    dataset = build(save(folder / "text.csv", rows))
    assert list(dataset.frame["patient_id"]) == ids


@pytest.mark.parametrize("rounded", ["1.0E+07", "1e+07", "1.5e7", "1E7"])
@pytest.mark.parametrize("column", ["pair_id", "patient_id", "study_id"])
def test_ids_in_scientific_notation_are_refused_by_name(folder, rounded, column):
    rows = [row | {column: str(i)} for i, row in enumerate(ROWS)]
    rows[1][column] = rounded
    with pytest.raises(ValueError, match=f"the {column} '{re.escape(rounded)}'.*rounded"):
        build(save(folder / "rounded.csv", rows))


def test_typed_numbers_keep_their_digits(folder):
    path = folder / "typed.jsonl"
    path.write_text('{"image": "b.png", "report": "x", "patient_id": 10000032.0}\n')
    (row,) = table.rows(config.load("table", data=str(path)))
    assert row.patient_id == "10000032"
    path.write_text('{"image": "b.png", "report": "x", "patient_id": 1.0E+07}\n')
    with pytest.raises(ValueError, match=r"'1\.0E\+07'"):
        list(table.rows(config.load("table", data=str(path))))
    frame = pd.DataFrame({"image": ["b.png"] * 2, "report": "x", "patient_id": [10000032.0, None]})
    frame.to_parquet(folder / "typed.parquet")
    first, second = table.rows(config.load("table", data=str(folder / "typed.parquet")))
    assert (first.patient_id, second.patient_id) == ("10000032", "b.png")


@pytest.mark.parametrize("missing", ["nan", "NaN", "None", "NULL", "N/A", "-", " n/a ", "<NA>"])
def test_missing_text_written_out_is_missing(folder, missing):
    columns = ("report", "pair_id", "patient_id", "study_id", "split", "view", "labels")
    rows = [{"image": "b.png", **dict.fromkeys(columns, missing)}]
    (row,) = table.rows(config.load("table", data=str(save(folder / "gaps.csv", rows))))
    assert (row.text, row.split, row.view, row.labels) == ("", "", "", [])
    assert (row.pair_id, row.patient_id, row.study_id) == ("b.png",) * 3


@pytest.mark.parametrize(
    ("cell", "labels"),
    [
        ("['Edema', 'Mass']", ["Edema", "Mass"]),
        ('["Edema", "Kerley\'s lines", "\\u00d6dem"]', ["Edema", "Kerley's lines", "Ödem"]),
        ("['Edema' 'Mass'\n 'Pleural Effusion']", ["Edema", "Mass", "Pleural Effusion"]),
        ("['Kerley\\'s lines', \"Mass's\", nan]", ["Kerley's lines", "Mass's"]),
        ('{"Pleural Effusion",Edema}', ["Pleural Effusion", "Edema"]),
        ("[Edema, Pleural Effusion]", ["Edema", "Pleural Effusion"]),
        ("('Edema',)", ["Edema"]),
        ("[]", []),
        ("Edema,Mass", ["Edema", "Mass"]),
        ("Edema | Mass|", ["Edema", "Mass"]),
        ("Edema, mild; Mass", ["Edema, mild", "Mass"]),
        ("Edema|left; Mass", ["Edema|left", "Mass"]),
        ("Edema\nMass", ["Edema", "Mass"]),
        ("(left) mass (small)", ["(left) mass (small)"]),
    ],
)
def test_labels_in_other_notations(folder, cell, labels):
    rows = [{"image": "b.png", "report": "Clear.", "labels": cell}]
    for suffix in (".csv", ".jsonl"):
        path = save(folder / f"labels{suffix}", rows)
        (row,) = table.rows(config.load("table", data=str(path)))
        assert row.labels == labels


def test_a_column_has_one_separator_and_the_notes_say_which(folder):
    cells = ["Edema; Mass", "Effusion, left"]
    rows = [{"image": "b.png", "report": "Clear.", "labels": cell} for cell in cells]
    settings = config.load("table", data=str(save(folder / "one.csv", rows)))
    assert [row.labels for row in table.rows(settings)] == [["Edema", "Mass"], ["Effusion, left"]]
    assert not any("separated" in note for note in table.notes(settings))
    rows[0]["labels"] = "Edema, Mass"
    save(folder / "one.csv", rows)
    assert any("separated by ','" in note for note in table.notes(settings))


def test_one_bad_row_is_one_row_of_excluded(folder):
    """Names no file can have, half characters, nesting, lists for texts, folders and pipes."""
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.png").mkdir()
    too_long = "x" * 300
    deep = "[" * 100_000 + "]" * 100_000
    nested = "[" * 200 + "]" * 200
    lines = [
        '{"image": "b.png", "report": "Clear."}',
        f'{{"image": "{too_long}.png", "report": "Clear."}}',
        '{"image": "nul\\u0000.png", "report": "Clear."}',
        '{"image": "c.png", "report": "Clear \\ud800."}',
        '{"image": "\\udfff.png", "report": "Clear."}',
        '{"image": "u.png", "report": "Clear.", "patient_id": "\\ud800"}',
        '{"image": "l.png", "report": "Clear.", "labels": ["\\ud83d"]}',
        f'{{"image": "a 1.png", "report": {deep}}}',
        f'{{"image": "a 1.png", "report": "Clear.", "labels": {nested}}}',
        '{"image": "a 1.png", "report": ["Clear."]}',
        '{"image": {"path": "a 1.png"}, "report": "Clear."}',
        '{"image": "a 1.png", "report": "Clear.", "labels": {"Edema": 1}}',
        '{"image": "pipe.png", "report": "Clear."}',
        '{"image": "folder.png", "report": "Clear."}',
        '["a 1.png", "Clear."]',
        '"a line"',
        '{"image": "a 1.png", "repo',
    ]
    path = folder / "bad.jsonl"
    path.write_text("\n".join(lines))
    dataset = build(path)
    assert list(dataset.frame["pair_id"]) == ["b.png"]
    excluded = pd.read_csv(dataset.folder / "excluded.csv", dtype=str, na_filter=False)
    assert len(excluded) == len(lines) - 1 == sum(dataset.info["excluded"].values())
    reasons = "\n".join(excluded["reason"])
    for words in ("too long", "surrogate", "nested too deeply", "labels", "report holds a list",
                  "image holds a dict", "not a file", "not a JSON object", "not JSON"):  # fmt: skip
        assert words in reasons
    assert "\\udfff.png" in list(excluded["source"])


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(alphabet=st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
odd_texts = st.text(st.characters(exclude_categories=[]), max_size=300)
bad_cells = json_values | odd_texts


@given(st.lists(st.fixed_dictionaries(dict.fromkeys(table.KNOWN, bad_cells)), max_size=5))
@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_rows_are_counted(folder, rows):
    good = {"image": "b.png", "report": "Clear.", "view": "PA", "pair_id": "good", "split": "test"}
    path = save(folder / "any.jsonl", [good, *rows])
    try:
        info = build(path).info
    except ValueError as error:
        assert "rounded" in str(error)
        return
    assert info["seen"] == len(rows) + 1


def test_windows_paths_and_other_normalisations_are_found(folder):
    picture = (folder / "b.png").read_bytes()
    decomposed = unicodedata.normalize("NFD", "Röntgen")
    composed = unicodedata.normalize("NFC", "Aufnähme.png")
    (folder / decomposed).mkdir()
    (folder / decomposed / composed).write_bytes(picture)
    (folder / "sub" / "0.png").write_bytes(picture)
    (folder / r"back\slash.png").write_bytes(picture)
    given_names = [
        r"sub\0.png",
        rf".\{unicodedata.normalize('NFC', decomposed)}\{unicodedata.normalize('NFD', composed)}",
        r"back\slash.png",
    ]
    rows = [{"image": name, "report": f"Clear {i}."} for i, name in enumerate(given_names)]
    dataset = build(save(folder / "windows.csv", rows))
    assert list(dataset.frame["source"]) == given_names


def test_if_every_row_is_left_out_excluded_csv_says_why(folder):
    rows = [{"image": f"gone{i}.png", "report": "Clear."} for i in range(6)]
    path = save(folder / "gone.csv", rows)
    settings = config.load("table", data=str(path), cache_size=16).replace(run="all-gone")
    tried = re.escape(str(folder / "gone0.png"))
    with pytest.raises(ValueError, match=rf"No pair is left of 6 rows.*{tried}.*excluded\.csv"):
        prepare.build(settings, workers=1)
    excluded = pd.read_csv(settings.data_folder / "excluded.csv")
    assert list(excluded["source"]) == [row["image"] for row in rows]

    good = prepare.build(settings.replace(data=str(save(folder / "good.csv", ROWS))), workers=1)
    with pytest.raises(ValueError, match=r"excluded-of-the-last-try\.csv"):
        prepare.build(settings, workers=1)
    assert open_dataset(good.folder).info == good.info  # data prepared earlier are still good


def test_no_table_given(home):
    with pytest.raises(FileNotFoundError, match="none was given"):
        next(table.rows(config.load("table")))


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_a_csv_as_spreadsheets_write_it(folder, separator, encoding):
    path = folder / "export.csv"
    rows = [
        {"image": "b.png", "report": "Größe normal; clear, no effusion | none."},
        {"image": "c.png", "report": "Second\treport."},
    ]
    text = pd.DataFrame(rows).to_csv(index=False, sep=separator)
    path.write_bytes(text.encode(encoding))

    read = table.rows(config.load("table", data=str(path)))

    assert [row.text for row in read] == [row["report"] for row in rows]


def test_case_and_margins_of_column_names_do_not_count(folder):
    rows = [{" Image": "b.png", "REPORT ": "Clear.", "Patient_ID": "7"}]
    path = save(folder / "names.csv", rows)

    (row,) = table.rows(config.load("table", data=str(path)))

    assert (row.source, row.text, row.patient_id) == ("b.png", "Clear.", "7")


def test_the_exact_name_comes_first_and_two_that_are_alike_are_not_guessed(folder):
    both = [{"image": "b.png", "Report": "Draft.", "report": "Final."}]
    (row,) = table.rows(config.load("table", data=str(save(folder / "both.csv", both))))
    assert row.text == "Final."

    doubtful = [{"image": "b.png", "Report": "Draft.", "REPORT": "Final."}]
    with pytest.raises(ValueError, match="no column for report"):
        list(table.rows(config.load("table", data=str(save(folder / "two.csv", doubtful)))))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_columns_of_marks_are_labels_as_in_chexpert(folder, suffix):
    marks = [(1, -1, 0), (0, None, 1), (None, None, None)]
    rows = []
    for edema, fracture, mass in marks:
        rows.append({"image": "b.png", "report": "x", "Edema": edema, "fracture": fracture})
        rows[-1]["Mass"] = mass  # no label of CheXpert's
    settings = config.load("table", data=str(save(folder / f"marks{suffix}", rows)))

    read = list(table.rows(settings))

    assert [row.labels for row in read] == [["Edema"], [], []]
    assert [row.uncertain for row in read] == [["Fracture"], [], []]
    notes = table.notes(settings)
    assert "labels: from the columns Edema, Fracture; 1 is present, -1 uncertain" in notes
    assert "not used: Mass" in notes


def test_a_column_of_labels_comes_before_columns_of_marks(folder):
    rows = [{"image": "b.png", "report": "x", "labels": "Mass", "Edema": 1, "A long name.": "y"}]
    settings = config.load("table", data=str(save(folder / "marks.csv", rows)))

    (row,) = table.rows(settings)

    assert row.labels == ["Mass"]
    assert any(note.startswith("not used: Edema, 1 with a name") for note in table.notes(settings))
