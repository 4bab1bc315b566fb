"""The summary in 00_data: counted exclusions, duplicates, shares of labels."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from mcrlib.data import summary
from mcrlib.data.dataset import Dataset


@pytest.fixture
def small(tmp_path):
    """Six pairs: a report twice in train, an image in train and test, a label, a doubtful one."""
    frame = pd.DataFrame({
        "pair_id": list("abcdef"),
        "split": ["train", "train", "train", "train", "validate", "test"],
        "report": ["Clear.", "clear. ", "Mass.", "Edema.", "Clear.", "Mass."],
        "labels": [["Mass|left"], ["Mass|left"], ["Edema/severe"], [], ["Mass|left"], []],
        "uncertain": [None, ["Hernia"], None, None, None, None],
    })  # fmt: skip
    images = np.arange(6, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8)
    images[5] = images[0]
    counts = {"train": 4, "validate": 1, "test": 1}
    splits = {name: {"pairs": n, "studies": n, "patients": n} for name, n in counts.items()}
    rows = [
        ("x.png", "view is unknown"),
        ("y.png", "report is empty"),
        ("z.png", "view is unknown"),
        ("w.png", "view is unknown"),
    ]
    excluded = pd.DataFrame(rows, columns=["source", "reason"])
    excluded.to_csv(tmp_path / "excluded.csv", index=False)
    return Dataset(frame, images, {"splits": splits, "seen": 10}, tmp_path)


def test_reasons_are_counted_with_an_example_the_most_frequent_first(small):
    table = summary.exclusions(small)
    assert table.index.tolist() == ["view is unknown", "report is empty"]
    assert table["images"].tolist() == [3, 1]
    assert table["% of those seen"].tolist() == [30.0, 10.0]
    assert table["example"].tolist() == ["x.png", "y.png"]


def test_headings_are_read_back_and_missing_counts_are_said(small):
    file = small.folder / "headings.csv"
    with pytest.raises(FileNotFoundError, match=r"headings\.csv: run `make data`"):
        summary.headings(small)
    file.write_text("heading,section,count\nna,findings,3\n(no heading),findings,2\n")
    table = summary.headings(small)
    assert table["times"].to_dict() == {"na": 3, "(no heading)": 2}
    assert table["section"].tolist() == ["findings", "findings"]
    file.write_text("heading,section,count\n(no heading),findings,2\n")
    assert summary.headings(small).empty


def test_duplicates_are_counted_within_a_split_and_images_across_splits(small):
    table = summary.splits(small)
    assert table.index.tolist() == ["train", "validate", "test"]
    assert table["pairs"].tolist() == [4, 1, 1]
    assert table["with another's report"].tolist() == [2, 0, 0]
    assert table["with another's image"].tolist() == [0, 0, 0]
    assert table["image in another split too"].tolist() == [1, 0, 1]


def test_a_split_without_pairs_has_zeros(small):
    frame = small.frame[small.frame["split"] == "train"]
    splits = small.info["splits"] | {"test": dict.fromkeys(("pairs", "studies", "patients"), 0)}
    train_only = dataclasses.replace(
        small, frame=frame, images=small.images[:4], info=small.info | {"splits": splits}
    )
    assert summary.splits(train_only).loc["test"].tolist() == [0] * 6


def test_label_shares_are_per_cent_of_a_split_and_leave_out_empty_columns(small):
    table = summary.label_shares(small)
    assert table.columns.tolist() == ["train, labels", "train, uncertain", "validate, labels"]
    assert table.index[0] == "Mass: left"
    assert table.loc["Mass: left"].tolist() == [50.0, 0.0, 100.0]
    assert table.loc["Hernia"].tolist() == [0.0, 25.0, 0.0]
    assert len(summary.label_shares(small, most=1)) == 1
    nobody = dataclasses.replace(small, frame=small.frame.assign(labels=None, uncertain=None))
    assert summary.label_shares(nobody).empty


@pytest.mark.parametrize(
    ("label", "name", "shown"),
    [
        ("Support Devices|||chest tube", "Support Devices", "Support Devices: chest tube"),
        ("Mass|left|upper|large", "Mass", "Mass: left, upper, large"),
        ("Opacity/lung/base/left", "Opacity", "Opacity: lung, base, left"),
        ("Edema", "Edema", "Edema"),
    ],
)  # fmt: skip
def test_labels_are_read_and_shown_without_their_separators(label, name, shown):
    assert summary.finding_names([label]) == {name}
    assert summary.readable(label) == shown
