"""Anybody's table of images and reports: CSV, TSV, Parquet or JSON lines (ours).

Columns: `image` and `report`; optionally `pair_id`, `patient_id`, `study_id`, `split`, `view` and
`labels`. `config.columns` maps our names to the table's own; case and surrounding blanks do not
count where they leave no doubt. Columns that are not used are listed in the data's notes. Paths are
relative to the table. The fields of a CSV are separated by a comma, a semicolon, a tab or a bar.

A row without `pair_id` gets its image's path as the id, one without `study_id` is a study of its
own, and one without `patient_id` takes its study for the patient. `mcrlib.data.cells` says what
counts as a missing value, and how ids are restored that a spreadsheet took for numbers: ids in
scientific notation are refused, and "00012" and "12" are one id.

Labels are a list, a list written as text, or names with one separator between them in the whole
column: the first of ; | a line break and the comma that occurs. Without a column of labels, columns
with CheXpert's names are read as CheXpert's: 1 is present, -1 uncertain.
"""

import io
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow.parquet as pq

from mcrlib.config import Config
from mcrlib.data import cells, reports
from mcrlib.data.schema import CHEXPERT, Row

KNOWN = ("image", "report", "pair_id", "patient_id", "study_id", "split", "view", "labels")
SPLIT_NAMES = {
    "training": "train",
    "val": "validate",
    "valid": "validate",
    "dev": "validate",
    "validation": "validate",
    "testing": "test",
}

IDS = ("pair_id", "patient_id", "study_id")
# A path in place of a column's name; pandas numbers equal names, as in "a.png.1".
IMAGE_NAME = re.compile(r"[/\\].*\d|\.(png|jpe?g|dcm|dicom|tiff?|bmp)(\.\d+)?$", re.IGNORECASE)
SHORT_NAME = re.compile(r"\w[\w./\-]{0,29}(?<!\.)")  # one word, and no sentence of one word
TEXTS = ("image", "report", *IDS, "split", "view")  # columns of one text a cell


FIELD_SEPARATORS = (",", ";", "\t", "|")  # where two occur equally often, the first one


class Table(NamedTuple):
    """A table's columns that we know, by our names for them."""

    frame: pd.DataFrame
    faults: dict[int, str]  # row that could not be read -> why
    marks: pd.DataFrame  # a column of marks for each of CheXpert's labels, if they are used
    unused: list[str]  # the table's own names of its other columns


def rows(config: Config) -> Iterator[Row]:
    """One row for each line of the table.

    Raises FileNotFoundError if there is no table, ValueError if it cannot be read, lacks a column
    (the message names the columns that it has), or has an id in scientific notation.
    """
    path = _path(config)
    table = _read(config)
    ids = _ids(table.frame, path)
    separator = ";"
    if "labels" in table.frame:
        separator = cells.label_separator(table.frame["labels"])
    marked = []
    if len(table.marks.columns):
        marked = cells.marked_labels(table.marks.map(cells.written))
    for i, line in enumerate(table.frame.to_dict("records")):
        if i in table.faults:
            yield _unreadable(f"row {i + 1}", table.faults[i])
            continue
        own_ids = {name: column[i] for name, column in ids.items()}
        row = _row(line, own_ids, separator, path.parent)
        if marked:
            labels, uncertain = marked[i]
            row = replace(row, labels=labels, uncertain=uncertain)
        yield row


def notes(config: Config) -> list[str]:
    """What was assumed: for columns that the table does not have, for ids and for labels."""
    assumptions = {
        "patient_id": "no column patient_id: each row counts as a patient of its own",
        "view": "no column view: every image counts as frontal",
    }
    table = _read(config)
    frame = table.frame
    if "study_id" in frame:
        assumptions["patient_id"] = "no column patient_id: each study counts as a patient"
    found = [note for name, note in assumptions.items() if name not in frame]
    for name, ids in _tidy_ids(frame).items():
        restored = cells.zeros_restored(ids)
        for without, with_zeros in list(restored.items())[:1]:
            found.append(
                f"{name}: {with_zeros} and {without} count as one, since spreadsheets drop leading "
                f"zeros ({len(restored)} such)"
            )
    if "labels" in frame:
        separator = cells.label_separator(frame["labels"])
        if separator != ";":
            found.append(f"labels: names are separated by {separator!r}")
    if len(table.marks.columns):
        names = ", ".join(table.marks)
        found.append(f"labels: from the columns {names}; 1 is present, -1 uncertain")
    if table.unused:
        found.append(f"not used: {_shown_names(table.unused)}")
    return found


def _tidy_ids(frame: pd.DataFrame) -> dict[str, list[str]]:
    """The columns of ids, without what a spreadsheet adds; "" for missing ones."""
    tidy = {}
    for name in IDS:
        if name in frame:
            tidy[name] = [cells.tidy_id(cells.text(value)) for value in frame[name]]
    return tidy


def _ids(frame: pd.DataFrame, path: Path) -> dict[str, list[str]]:
    """The columns of ids as they were before a spreadsheet; ValueError if they cannot be told."""
    ids = _tidy_ids(frame)
    for name, column in ids.items():
        cells.check_ids(column, name, path)
        restored = cells.zeros_restored(column)
        ids[name] = [restored.get(content, content) for content in column]
    return ids


def _row(line: dict[str, Any], ids: dict[str, str], separator: str, folder: Path) -> Row:
    """The row of one line; `ids` are its restored ones."""
    texts = {}
    for name in TEXTS:
        if name in line:
            texts[name] = cells.text(line[name])
    image = cells.written(line["image"])  # a file may be called "None"
    pair_id = ids.get("pair_id") or image
    study_id = ids.get("study_id") or pair_id
    split = texts.get("split", "").lower()
    path = cells.find_image(folder, image)
    names, label_fault = _labels(line, separator)
    return Row(
        pair_id=pair_id,
        patient_id=ids.get("patient_id") or study_id,
        study_id=study_id,
        split=SPLIT_NAMES.get(split, split),
        view=texts.get("view", "unstated"),
        text=texts["report"],
        labels=names,
        source=image,
        image=path,
        reason=_nested_fault(line) or _image_fault(image, path) or label_fault,
    )


def _labels(line: dict[str, Any], separator: str) -> tuple[list[str] | None, str]:
    """A line's labels, None without such a column, and what is wrong with them, else ""."""
    if "labels" not in line:
        return None, ""
    try:
        return cells.labels(line["labels"], separator), ""
    except ValueError as error:
        return None, str(error)


def _nested_fault(line: dict[str, Any]) -> str:
    """Which column holds a list or a mapping in place of a text; "" if none does."""
    for name in TEXTS:
        if cells.is_nested(line.get(name)):
            kind = type(line[name]).__name__
            return f"{name} holds a {kind}, not text"
    return ""


def _image_fault(image: str, path: Path) -> str:
    if not image:
        return "no image path"
    # Reading a pipe or a device would never end.
    if os.path.exists(path) and not path.is_file():
        return "image is a folder or a device, not a file"
    return ""


def _unreadable(name: str, fault: str) -> Row:
    return Row(
        pair_id=name,
        patient_id=name,
        study_id=name,
        split="",
        view="",
        text="",
        labels=None,
        source=name,
        image=None,
        reason=fault,
    )


def _read(config: Config) -> Table:
    """The table's columns that we know, by our names for them."""
    path = _path(config)
    try:
        frame, faults = _load(path)
    except (ValueError, OSError) as error:  # the parsers' errors are subclasses of these
        raise ValueError(f"{path} cannot be read as a table: {error}") from error
    columns = _find_columns(frame, {name: config.columns.get(name, name) for name in KNOWN})
    needed = dict.fromkeys(["image", "report", *config.columns])  # in order, each once
    missing = [name for name in needed if name not in columns]
    if missing:
        raise ValueError(
            f"{path} has no column for {', '.join(missing)}; {_describe_header(frame)} "
            'Say which is which, as in columns={"report": "text"}; '
            f"names that can be mapped: {', '.join(KNOWN)}."
        )
    label_columns = {}
    if "labels" not in columns:
        label_columns = _find_columns(frame, {name: name for name in CHEXPERT})
    used = {*columns.values(), *label_columns.values()}
    return Table(
        frame=_renamed(frame, columns),
        faults=faults,
        marks=_renamed(frame, label_columns),
        unused=[str(column) for column in frame if column not in used],
    )


def _find_columns(frame: pd.DataFrame, wanted: dict[str, str]) -> dict[str, str]:
    """Our name -> the table's own, for the columns that it has.

    A column whose name differs from the wanted one in case or margins is taken if there is no
    other such column.
    """
    by_plain_name = defaultdict(list)
    for column in frame:
        by_plain_name[_plain_name(column)].append(column)
    found = {}
    for name, column in wanted.items():
        alike = by_plain_name[_plain_name(column)]
        if column in frame:
            found[name] = column
        elif len(alike) == 1:
            found[name] = alike[0]
    return found


def _plain_name(column: Any) -> str:
    return str(column).strip().casefold()


def _renamed(frame: pd.DataFrame, columns: dict[str, str]) -> pd.DataFrame:
    """The `columns` of a table (our name -> its own), under our names."""
    return frame[list(columns.values())].set_axis(list(columns), axis=1)


def _describe_header(frame: pd.DataFrame) -> str:
    """What the first line of a table names, without any text of a report: a table that lacks its
    header has a report there."""
    names = [str(column) for column in frame]
    if any(IMAGE_NAME.search(name) for name in names):
        return "its first line looks like a row of data: add a header above it, image,report."
    return f"it has {_shown_names(names)}."


def _shown_names(names: list[str]) -> str:
    """Names of columns, without those that may be the text of a report."""
    shown = [name for name in names if SHORT_NAME.fullmatch(name)]
    hidden = len(names) - len(shown)
    if not hidden:
        return ", ".join(shown)
    listed = ", ".join([*shown, f"{hidden} with a name of several words"])
    return f"{listed} (not shown: it may be the text of a report)"


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


def _load(path: Path) -> tuple[pd.DataFrame, dict[int, str]]:
    """Cells as the file has them: text, or the values and nulls of a typed format; and the rows
    that could not be read, with the reason."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        columns = pq.read_table(path).to_pydict()
        return pd.DataFrame(columns, dtype=object), {}
    text = reports.decode(path.read_bytes())
    if suffix == ".jsonl":
        return _json_lines(text)
    if suffix not in (".csv", ".tsv"):
        raise ValueError("its name ends in none of .csv, .tsv, .parquet, .jsonl")
    separator = _field_separator(text) if suffix == ".csv" else "\t"
    frame = pd.read_csv(io.StringIO(text), sep=separator, dtype=str, na_filter=False)
    if not isinstance(frame.index, pd.RangeIndex):  # pandas makes an index of surplus fields
        raise ValueError("its rows have more fields than its header")
    return frame, {}


def _field_separator(text: str) -> str:
    """What separates the fields of a CSV: the mark that its header has most of."""
    header, _, _ = text.lstrip().partition("\n")
    return max(FIELD_SEPARATORS, key=header.count)


def _json_lines(text: str) -> tuple[pd.DataFrame, dict[int, str]]:
    """One record for each line with anything on it. A line that is no record is a fault.

    Raises ValueError if no line is a record.
    """
    records = []
    faults = {}
    for line in text.split("\n"):  # not splitlines(): a report may hold Unicode's line separator
        if not line.strip():
            continue
        try:
            record = _record(line)
        except ValueError as error:
            faults[len(records)] = str(error)
            record = {}
        records.append(record)
    if faults and len(faults) == len(records):
        raise ValueError(f"row 1: {faults[0]}")
    return pd.DataFrame(records, dtype=object), faults


def _record(line: str) -> dict[str, Any]:
    """A line of JSON. Raises ValueError, with the reason, if it is no record."""
    try:
        record = json.loads(line, parse_float=str)  # as text: an id keeps all its digits
    except RecursionError:
        raise ValueError("line is nested too deeply") from None
    except ValueError:
        raise ValueError("line is not JSON") from None
    if not isinstance(record, dict):
        raise ValueError("line is not a JSON object")
    return record
