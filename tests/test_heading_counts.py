"""The counted headings of a data set: from a table, from MIMIC's layout and from Open-i."""

import random
from collections import Counter

import mimic_tree
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mimic_text import openi_reports, rewrite

from mcrlib import config
from mcrlib.data import prepare, reports, summary
from mcrlib.data.dataset import open_dataset
from mcrlib.data.heading_counts import NO_HEADING, OF_ONE_PATIENT, HeadingCounts

NORMAL = "INDICATION: Cough.\n\nFINDINGS: Clear.\n\nIMPRESSION: Normal."


def table_settings(folder, rows, name):
    """Settings of a table with these rows, each with the same picture and a patient of its own."""
    picture = mimic_tree.encoded(mimic_tree.picture(random.Random(0)), "PNG")
    (folder / "a.png").write_bytes(picture)
    lines = [{"image": "a.png", "pair_id": str(i)} | row for i, row in enumerate(rows)]
    pd.DataFrame(lines).to_csv(folder / "pairs.csv", index=False)
    loaded = config.load("table", data=str(folder / "pairs.csv"), cache_size=16)
    return loaded.replace(run=name)


def listed(dataset):
    table = pd.read_csv(dataset.folder / "headings.csv", na_filter=False)
    assert table.columns.tolist() == ["heading", "section", "count"]
    assert table["count"].is_monotonic_decreasing
    return {(row.heading, row.section): row.count for row in table.itertuples(index=False)}


def count(texts, patients=None):
    counts = HeadingCounts()
    for i, text in enumerate(texts):
        patient = str(patients[i]) if patients else str(i)
        counts.add(patient, str(i), text, reports.read(text))
    rows = counts.table().itertuples(index=False)
    return {(row.heading, row.section): row.count for row in rows}


def test_a_table_shows_where_each_heading_went(home, tmp_path):
    rows = [
        {"report": NORMAL},
        {"report": NORMAL.title()},
        {"report": "PORTABLE CHEST: Clear.\n\nIMPRESSION: Normal."},
        {"report": "QXZ 7: Cough.\n\nClear lungs.\n\nCONCLUSION: Normal.\n\nQXZ 12: x"},
        {"report": "INDICATION: Cough."},  # left out: no text
        {"report": NORMAL, "view": "LATERAL"},  # left out, and not read
    ]
    rows = [{"view": "PA"} | row for row in rows]
    dataset = prepare.build(table_settings(tmp_path, rows, "where"), 1)
    assert listed(dataset) == {
        ("impression", "impression"): 3,
        ("indication", "indication"): 3,
        ("findings", "findings"): 2,
        ("conclusion", "impression"): 1,
        (OF_ONE_PATIENT, "findings"): 2,  # the portable chest and QXZ 7
        (OF_ONE_PATIENT, "impression"): 1,
    }
    shown = summary.headings(dataset)
    assert shown["times"].sum() == 12
    assert (dataset.folder / "headings.csv").stat().st_mode & 0o077 == 0


def test_the_images_of_a_study_share_their_report(home, tmp_path):
    rows = [{"report": NORMAL, "patient_id": "p", "study_id": "s"} for _ in range(3)]
    rows.append({"report": NORMAL, "patient_id": "q", "study_id": "s"})
    dataset = prepare.build(table_settings(tmp_path, rows, "shared"), 1)
    assert set(listed(dataset).values()) == {2}


def test_findings_without_a_heading_are_counted():
    assert count(["Clear.", "Clear lungs.\n\nIMPRESSION: Ok.", "IMPRESSION: Ok."]) == {
        (NO_HEADING, "findings"): 2,
        ("impression", "impression"): 2,
    }
    assert (NO_HEADING, "findings") not in count(["FINDINGS AND IMPRESSION: Ok."])


def test_what_could_name_a_patient_is_not_listed():
    texts = ["SMITH, JOHN: seen\n\nMRN 4711 2: x\n\nIMPRESSON: Ok."] * 2
    assert count(texts, patients=[1, 1]) == {
        ("impresson", "impression"): 2,
        (OF_ONE_PATIENT, "findings"): 2,  # no other text could be the findings
        (OF_ONE_PATIENT, "patient"): 2,
    }
    several = count(texts, patients=[1, 2])
    assert ("mrn #### #", "patient") in several


words = st.sampled_from(
    ["FINDINGS: ", "Lungs: ", "QX 1: ", "IMPRESSION: ", "clear. ", "\n\n", "a "]
)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.lists(words, max_size=8).map("".join), max_size=6), st.randoms())
def test_counts_are_those_of_the_headings_in_any_order(texts, draw):
    counted = count(texts)
    headings = [heading for text in texts for heading in reports.headings(text)]
    by_section = Counter(section for _, section in headings)
    of_counted = Counter()
    for (heading, section), times in counted.items():
        if heading != NO_HEADING:
            of_counted[section] += times
    assert of_counted == by_section
    draw.shuffle(texts)
    assert count(texts) == counted


def test_real_reports_in_mimic_form():
    texts = [rewrite(parts, random.Random(i))[0] for i, parts in enumerate(openi_reports()[:300])]
    counted = count(texts)
    assert counted["indication", "indication"] > 20
    assert max(len(heading) for heading, _ in counted) <= 61
    assert len(counted) < 100  # headings, not sentences


@pytest.mark.parametrize("zipped", [True, False])
def test_mimic_and_data_of_earlier_versions(home, tmp_path, zipped):
    mimic_tree.write(tmp_path, 60, zipped=zipped)
    loaded = config.load("mimic", data=str(tmp_path), cache_size=16, assert_counts=False)
    loaded = loaded.replace(run=f"headed-{zipped}")
    dataset = prepare.build(loaded, 1)
    counted = listed(dataset)
    assert counted["findings", "findings"] >= counted["impression", "impression"] > 30
    # every report with a section, also those that are left out
    assert counted["indication", "indication"] > counted["impression", "impression"]
    content = (dataset.folder / "headings.csv").read_bytes()
    inode = (dataset.folder / "images.npy").stat().st_ino
    (dataset.folder / "headings.csv").unlink()
    assert open_dataset(dataset.folder).info == dataset.info
    prepare.build(loaded, 1)  # nothing is decoded again
    assert (dataset.folder / "headings.csv").read_bytes() == content
    assert (dataset.folder / "images.npy").stat().st_ino == inode


def test_drawn_reports_have_two_headings(dataset):
    table = summary.headings(dataset)
    assert table["section"].to_dict() == {"findings": "findings", "impression": "impression"}
    assert set(table["times"]) == {len(dataset.frame)}
