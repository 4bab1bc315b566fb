"""What a prepared data set holds: exclusions, splits, duplicates and labels, as tables (ours)."""

import re

import pandas as pd

from mcrlib.data.dataset import Dataset
from mcrlib.data.heading_counts import NO_HEADING
from mcrlib.data.reports import same_text
from mcrlib.data.schema import SPLITS
from mcrlib.files import HEADINGS_FILE


def exclusions(dataset: Dataset) -> pd.DataFrame:
    """One row a reason, the most frequent first: `images`, `% of those seen` and an `example`.

    Empty if nothing was left out.
    """
    rows = pd.read_csv(dataset.folder / "excluded.csv", dtype=str, na_filter=False)
    reasons = rows.groupby("reason").agg(images=("source", "size"), example=("source", "first"))
    share = 100 * reasons["images"] / dataset.info["seen"]
    reasons.insert(1, "% of those seen", share.round(1))
    return reasons.sort_values("images", ascending=False)


def headings(dataset: Dataset) -> pd.DataFrame:
    """One row a heading of the reports, the most frequent first: how often it was met (`times`) and
    the `section` its text went to; "(no heading)" counts the reports whose findings have none.

    Empty if no report has a heading. Raises FileNotFoundError if the data was built by a version
    that did not count headings.
    """
    file = dataset.folder / HEADINGS_FILE
    if not file.exists():
        raise FileNotFoundError(f"There is no {file}: run `make data`, which counts the headings.")
    table = pd.read_csv(file, na_filter=False)
    table = table.rename(columns={"count": "times"})
    has_headings = (table["heading"] != NO_HEADING).any()
    shown = table if has_headings else table.iloc[:0]
    return shown.set_index("heading")


def splits(dataset: Dataset) -> pd.DataFrame:
    """One row a split: `pairs`, `studies`, `patients`, and how many pairs are duplicates.

    A pair counts under "with another's report" (or image) if another pair of its split has the same
    report text (or the same image, to the last pixel), and under "image in another split too" if a
    pair of another split has its image: a test image that was seen in training.
    """
    frame = dataset.frame
    reports = frame["report"].map(same_text)
    images = pd.Series(dataset.same_images(), frame.index)

    table = pd.DataFrame(dataset.info["splits"]).T
    table["with another's report"] = _duplicates(reports, frame["split"])
    table["with another's image"] = _duplicates(images, frame["split"])
    splits_of_image = frame.groupby(images)["split"].transform("nunique")
    table["image in another split too"] = (splits_of_image > 1).groupby(frame["split"]).sum()
    return table.fillna(0).astype(int)


def _duplicates(values: pd.Series, split: pd.Series) -> pd.Series:
    """How many entries of each split share their value with another entry of that split."""
    repeated = pd.DataFrame({"value": values, "split": split}).duplicated(keep=False)
    return repeated.groupby(split).sum()


def label_shares(dataset: Dataset, most: int = 20) -> pd.DataFrame:
    """Share of each split's pairs, in %, that have one of the `most` frequent labels.

    One column a split and kind: `labels`, and `uncertain` ones, which count as no label. Columns
    without an entry are dropped; the table is empty if the source has no labels.
    """
    shares = {}
    for split in SPLITS:
        rows = dataset.indices(split)
        for kind in ("labels", "uncertain"):
            counts = dataset.frame.loc[rows, kind].explode().value_counts()
            shares[f"{split}, {kind}"] = 100 * counts / max(len(rows), 1)
    table = pd.DataFrame(shares).fillna(0)
    table = table.loc[:, table.any()]
    order = table.sum(axis=1).sort_values(ascending=False, kind="stable").index
    return table.loc[order[:most]].rename(index=readable)


def finding_names(labels: list[str]) -> set[str]:
    """Findings that a pair's labels name, without place or degree.

    Phantoms write a label as "finding|side|zone|severity", Open-i as "finding/place/degree"; other
    sources name the finding alone.
    """
    return {re.split(r"[|/]", label)[0] for label in labels}


def readable(label: str) -> str:
    """A label for people: "Support Devices|||pacemaker" becomes "Support Devices: pacemaker"."""
    name, *details = [part.strip() for part in re.split(r"[|/]", label)]
    details = [detail for detail in details if detail]
    return f"{name}: {', '.join(details)}" if details else name
