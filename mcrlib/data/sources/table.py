"""Anybody's table of images and reports: CSV, TSV, Parquet or JSON lines (ours).

Columns: `image` and `report`; optionally `pair_id`, `patient_id`, `study_id`, `split`, `view` and
`labels` (a list, or names separated by ";"). `config.columns` maps our names to the table's own.
Paths are relative to the table. A row without `pair_id` is called by its image's path, a row
without `study_id` is its own study, and a row without `patient_id` its own patient.
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
SPLIT_NAMES = {"training": "train", "val": "validate", "valid": "validate", "dev": "validate"}
SPLIT_NAMES |= {"validation": "validate", "testing": "test"}


def rows(config: Config) -> Iterator[Row]:
    """One row a line of the table. Raises FileNotFoundError where there is no table, ValueError
    where it cannot be read or lacks a column, naming those it has."""
    folder = Path(config.data).parent
    table = _read(config)
    for line in table.itertuples(index=False):
        cell = {name: _text(value) for name, value in line._asdict().items()}
        pair = cell.get("pair_id") or cell["image"]
        split = cell.get("split", "").lower()
        yield Row(
            pair_id=pair,
            patient_id=cell.get("patient_id") or pair,
            study_id=cell.get("study_id") or pair,
            split=SPLIT_NAMES.get(split, split),
            view=cell.get("view", "unstated"),
            text=cell["report"],
            labels=_labels(line.labels) if "labels" in table else None,
            source=cell["image"],
            image=folder / cell["image"],
            reason="" if cell["image"] else "no image path",
        )


def notes(config: Config) -> list[str]:
    """What was assumed for columns that the table does not have."""
    assumed = {
        "patient_id": "no column patient_id: each row counts as a patient of its own",
        "view": "no column view: every image counts as frontal",
    }
    table = _read(config)
    return [note for name, note in assumed.items() if name not in table]


def _read(config: Config) -> pd.DataFrame:
    """The table's columns that are KNOWN, by our names for them."""
    path = Path(config.data)
    if not config.data or not path.is_file():
        found = f"there is no file {path}" if config.data else "none was given"
        raise FileNotFoundError(
            f"RUN=table needs DATA=<csv, tsv, parquet or jsonl file> with the columns image and "
            f"report; {found}."
        )
    try:
        table = _table(path)
    except (ValueError, OSError) as error:  # the parsers' errors are kinds of these
        raise ValueError(f"{path} cannot be read as a table: {error}") from error
    columns = {name: config.columns.get(name, name) for name in KNOWN}
    columns = {name: column for name, column in columns.items() if column in table}
    wanted = dict.fromkeys(["image", "report", *config.columns])
    missing = [name for name in wanted if name not in columns]
    if missing:
        raise ValueError(
            f"{path} has no column for {', '.join(missing)}; it has {', '.join(map(str, table))}. "
            'Say which is which, as in columns={"report": "text"}; '
            f"names that can be mapped: {', '.join(KNOWN)}."
        )
    return table[list(columns.values())].set_axis(list(columns), axis=1)


def _table(path: Path) -> pd.DataFrame:
    """Cells as the file has them: text, or a typed format's own values and nulls."""
    kind = path.suffix.lower()
    if kind == ".parquet":
        return pd.DataFrame(pq.read_table(path).to_pydict(), dtype=object)
    text = reports.decode(path.read_bytes())
    if kind == ".jsonl":
        records = [json.loads(line) for line in text.split("\n") if line.strip()]
        return pd.DataFrame(records, dtype=object)
    if kind not in (".csv", ".tsv"):
        raise ValueError("its name ends in none of .csv, .tsv, .parquet, .jsonl")
    separator = "," if kind == ".csv" else "\t"
    table = pd.read_csv(io.StringIO(text), sep=separator, dtype=str, na_filter=False)
    if not isinstance(table.index, pd.RangeIndex):  # what pandas makes of a field too many
        raise ValueError("its rows have more fields than its header")
    return table


def _text(value: Any) -> str:
    return "" if value is None or value != value else str(value).strip()  # NaN is not itself


def _labels(value: Any) -> list[str] | None:
    if isinstance(value, list):
        return [str(label) for label in value]
    names = [name.strip() for name in _text(value).split(";")]
    return [name for name in names if name]
