"""Anybody's table of images and reports: CSV, TSV, Parquet or JSON lines (ours).

Columns: `image` and `report`; optionally `pair_id`, `patient_id`, `study_id`, `split`, `view` and
`labels` (a list, or names separated by ";"). `config.columns` maps our names to the table's own.
Paths are relative to the table. A row without `pair_id` gets its image's path as the id; a row
without `study_id` or `patient_id` is a study or a patient of its own.
"""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from mcrlib.config import Config
from mcrlib.data import reports
from mcrlib.data.schema import Row

KNOWN = ("image", "report", "pair_id", "patient_id", "study_id", "split", "view", "labels")
SPLIT_NAMES = {
    "training": "train",
    "val": "validate",
    "valid": "validate",
    "dev": "validate",
    "validation": "validate",
    "testing": "test",
}


def rows(config: Config) -> Iterator[Row]:
    """One row for each line of the table.

    Raises FileNotFoundError if there is no table, ValueError if it cannot be read or lacks a
    column; the message names the columns that it has.
    """
    folder = Path(config.data).parent
    table = _read(config)
    for line in table.itertuples(index=False):
        cells = {name: _text(value) for name, value in line._asdict().items()}
        pair_id = cells.get("pair_id") or cells["image"]
        split = cells.get("split", "").lower()
        yield Row(
            pair_id=pair_id,
            patient_id=cells.get("patient_id") or pair_id,
            study_id=cells.get("study_id") or pair_id,
            split=SPLIT_NAMES.get(split, split),
            view=cells.get("view", "unstated"),
            text=cells["report"],
            labels=_labels(line.labels) if "labels" in table else None,
            source=cells["image"],
            image=folder / cells["image"],
            reason="" if cells["image"] else "no image path",
        )


def notes(config: Config) -> list[str]:
    """What was assumed for columns that the table does not have."""
    assumptions = {
        "patient_id": "no column patient_id: each row counts as a patient of its own",
        "view": "no column view: every image counts as frontal",
    }
    table = _read(config)
    return [note for name, note in assumptions.items() if name not in table]


def _read(config: Config) -> pd.DataFrame:
    """The table's columns that we know, by our names for them."""
    path = _path(config)
    try:
        table = _load(path)
    except (ValueError, OSError) as error:  # the parsers' errors are subclasses of these
        raise ValueError(f"{path} cannot be read as a table: {error}") from error
    columns = {}  # our name -> the table's own
    for name in KNOWN:
        column = config.columns.get(name, name)
        if column in table:
            columns[name] = column
    needed = dict.fromkeys(["image", "report", *config.columns])  # in order, each once
    missing = [name for name in needed if name not in columns]
    if missing:
        present = ", ".join(str(column) for column in table)
        raise ValueError(
            f"{path} has no column for {', '.join(missing)}; it has {present}. "
            'Say which is which, as in columns={"report": "text"}; '
            f"names that can be mapped: {', '.join(KNOWN)}."
        )
    return table[list(columns.values())].set_axis(list(columns), axis=1)


def _path(config: Config) -> Path:
    """The table's file; FileNotFoundError if there is none."""
    needed = (
        "RUN=table needs DATA=<csv, tsv, parquet or jsonl file> with the columns image and report"
    )
    if not config.data:
        raise FileNotFoundError(f"{needed}; none was given.")
    path = Path(config.data)
    if not path.is_file():
        raise FileNotFoundError(f"{needed}; there is no file {path}.")
    return path


def _load(path: Path) -> pd.DataFrame:
    """Cells as the file has them: text, or the values and nulls of a typed format."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return pd.DataFrame(pq.read_table(path).to_pydict(), dtype=object)
    text = reports.decode(path.read_bytes())
    if suffix == ".jsonl":
        # Not splitlines(): a report may contain Unicode's line separator.
        records = [json.loads(line) for line in text.split("\n") if line.strip()]
        return pd.DataFrame(records, dtype=object)
    if suffix not in (".csv", ".tsv"):
        raise ValueError("its name ends in none of .csv, .tsv, .parquet, .jsonl")
    separator = "," if suffix == ".csv" else "\t"
    table = pd.read_csv(io.StringIO(text), sep=separator, dtype=str, na_filter=False)
    if not isinstance(table.index, pd.RangeIndex):  # pandas makes an index of surplus fields
        raise ValueError("its rows have more fields than its header")
    return table


def _text(value: Any) -> str:
    """A cell's text without margins; "" for a null."""
    if value is None:
        return ""
    is_nan = value != value  # only NaN differs from itself
    if is_nan:
        return ""
    return str(value).strip()


def _labels(value: Any) -> list[str]:
    """A cell's labels: a list's items, or the names in a text such as "Edema; Mass"."""
    if isinstance(value, list):
        return [str(label) for label in value]
    names = [name.strip() for name in _text(value).split(";")]
    return [name for name in names if name]
