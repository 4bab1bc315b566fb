"""What a cell of other people's tables means: gaps, ids, labels and image paths (ours)."""

import json
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from itertools import compress
from pathlib import Path
from typing import Any

import pandas as pd

# In lower case: what programs and people write for "no value".
MISSING = frozenset(
    ("", "nan", "none", "null", "n/a", "na", "<na>", "#n/a", "nat", "-", "--", "–", "—")
)
SEPARATORS = (";", "|", "\n", ",")  # of labels; the first one that a column uses

WHOLE_NUMBER = re.compile(r"([0-9]+)(?:\.0*|,00?)")  # "10000032.0"; "10000032,0" in Europe
GROUPED_NUMBER = re.compile(r"[0-9]{1,3}(?:,[0-9]{3})+(?:\.0*)?")  # "10,000,032"
DIGITS = re.compile(r"[0-9]+")
# "1.0E+07", "1e+07", "1.5e7": a number of which some digits may be lost. Not "0000000e-00000001":
# hashes look like that.
ROUNDED = re.compile(r"[0-9]+(?:(?:[.,][0-9]+)?[eE]\+|[.,][0-9]+[eE])[0-9]{1,3}")
# "1E7" can also be a hash, unless all other ids are numbers.
PERHAPS_ROUNDED = re.compile(r"[0-9]+[eE][0-9]{1,3}")

BRACKETS = {"[": "]", "(": ")", "{": "}"}  # databases write lists in braces
ITEM = re.compile(
    r"""'(?P<single>(?:[^'\\]|\\.)*)'|"(?P<double>(?:[^"\\]|\\.)*)"|(?P<bare>[^\s,;|'"][^,;|'"]*)"""
)
MAPPING = re.compile(r"""['"]\s*:""")  # {'Edema': 1}
ESCAPED = re.compile(r"\\(.)")  # Python writes 'Kerley\'s'


def is_nested(value: Any) -> bool:
    """Whether a cell holds a list, a mapping or bytes in place of a text or a number."""
    return isinstance(value, (list, tuple, dict, set, bytes))


def written(value: Any) -> str:
    """A cell's text without margins; "" for a null."""
    if value is None:
        return ""
    is_nan = value != value  # only NaN differs from itself
    if is_nan:
        return ""
    return str(value).strip()


def text(value: Any) -> str:
    """A cell's text without margins; "" for a null and for a word that means none (`MISSING`)."""
    content = written(value)
    return "" if content.lower() in MISSING else content


# Ids


def tidy_id(content: str) -> str:
    """An id as it was before a spreadsheet or pandas took it for a number.

    "10000032.0" and "10,000,032" become "10000032"; other ids stay.
    """
    if GROUPED_NUMBER.fullmatch(content):
        content = content.replace(",", "")
    match = WHOLE_NUMBER.fullmatch(content)
    return match[1] if match else content


def rounded_id(ids: Iterable[str]) -> str:
    """The first id in scientific notation, which has lost digits; "" if there is none."""
    others_are_numbers = True
    doubtful = ""
    for content in ids:
        if ROUNDED.fullmatch(content):
            return content
        if PERHAPS_ROUNDED.fullmatch(content):
            doubtful = doubtful or content
        elif content and not DIGITS.fullmatch(content):
            others_are_numbers = False
    return doubtful if others_are_numbers else ""


def check_ids(ids: Iterable[str], column: str, path: Path) -> None:
    """Raise ValueError, with its name, for an id in scientific notation."""
    rounded = rounded_id(ids)
    if rounded:
        raise ValueError(
            f"{path} has the {column} {rounded!r}: a spreadsheet has rounded it, so several may "
            "have become one. Export the table again with this column as text."
        )


def zeros_restored(ids: Iterable[str]) -> dict[str, str]:
    """Ids of digits that differ in leading zeros only -> their longest spelling.

    Spreadsheets drop leading zeros: "00012" and "12" in one column are taken for one id. Ids that
    occur in one spelling are not in the result.
    """
    spellings = defaultdict(set)
    for content in ids:
        if DIGITS.fullmatch(content):
            spellings[content.lstrip("0")].add(content)
    restored = {}
    for same in spellings.values():
        longest = max(same, key=len)
        for spelling in same - {longest}:
            restored[spelling] = longest
    return restored


# Labels

# In a column of one label, as in CheXpert's tables; 0 and a blank say absent and not mentioned.
PRESENT_MARKS = ("1", "1.0", "True", "true", "TRUE")
UNCERTAIN_MARKS = ("-1", "-1.0")


def marked_labels(marks: pd.DataFrame) -> list[tuple[list[str], list[str]]]:
    """Each row's labels, present and uncertain, from a table of texts with a column a label."""
    names = marks.columns.tolist()
    is_present = marks.isin(PRESENT_MARKS).to_numpy()  # [rows, labels]
    is_uncertain = marks.isin(UNCERTAIN_MARKS).to_numpy()
    rows = []
    for present, uncertain in zip(is_present, is_uncertain, strict=True):
        rows.append((list(compress(names, present)), list(compress(names, uncertain))))
    return rows


def label_separator(values: Iterable[Any]) -> str:
    """What separates the labels of a column's texts: the first of `SEPARATORS` that occurs."""
    texts = [written(value) for value in values if not is_nested(value)]
    texts = [content for content in texts if not _is_list(content)]
    for separator in SEPARATORS:
        if any(separator in content for content in texts):
            return separator
    return SEPARATORS[0]


def labels(value: Any, separator: str) -> list[str]:
    """A cell's labels: a list, a list written as text (Python's, NumPy's or JSON), or names with
    separators between them. Missing ones are left out.

    Raises ValueError if the cell holds something else, such as a mapping.
    """
    if isinstance(value, (list, tuple)):
        names = list(value)
    elif is_nested(value):
        raise ValueError(f"labels hold a {type(value).__name__}, not names")
    elif _is_list(written(value)):
        names = _listed(written(value))
    else:
        names = written(value).split(separator)
    if any(is_nested(name) for name in names):
        raise ValueError("labels are nested: one list of names is needed")
    texts = [text(name) for name in names]
    return [name for name in texts if name]


def _is_list(content: str) -> bool:
    """Whether a text is a list: "[Edema]", "('Edema', 'Mass')", but not "(left) mass (small)"."""
    if len(content) < 2 or BRACKETS.get(content[0]) != content[-1]:
        return False
    return content[0] != "(" or content[1] in "'\""


def _listed(content: str) -> list[Any]:
    """The items of a list that is written as text."""
    try:
        items = json.loads(content)
    except RecursionError:
        raise ValueError("labels are nested: one list of names is needed") from None
    except ValueError:  # not JSON, but Python's or NumPy's way to write a list, or a database's
        return _unquoted(content[1:-1])
    if not isinstance(items, list):
        raise ValueError("labels hold a mapping, not names")
    return items


def _unquoted(content: str) -> list[str]:
    """The items of "'Edema', 'Mass'", of NumPy's "'Edema' 'Mass'", and of "Edema, Mass"."""
    if MAPPING.search(content):
        raise ValueError("labels hold a mapping, not names")
    items = []
    for match in ITEM.finditer(content):
        item = match["single"] or match["double"] or match["bare"] or ""
        items.append(ESCAPED.sub(r"\1", item))
    return items


# Paths


def find_image(folder: Path, name: str) -> Path:
    """The image file that a table calls `name`, relative to `folder` or absolute.

    If there is no such file, a Windows path (`img\\0.png`) and the other Unicode normalisation of
    each part are tried too. Returns the path as given if none of them exists.
    """
    as_given = folder / name
    if os.path.exists(as_given):
        return as_given
    for spelling in (name, name.replace("\\", "/")):
        found = _find_normalised(folder, spelling)
        if found:
            return found
    return as_given


def _find_normalised(folder: Path, name: str) -> Path | None:
    """The path in whatever Unicode normalisation each of its parts has on disk."""
    path = folder
    for part in Path(name).parts:
        spellings = [part]
        for form in ("NFC", "NFD"):
            spellings.append(unicodedata.normalize(form, part))
        existing = [path / spelling for spelling in spellings if os.path.exists(path / spelling)]
        if not existing:
            return None
        path = existing[0]
    return path
