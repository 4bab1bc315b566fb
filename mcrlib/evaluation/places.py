"""Where findings are: the cases that `grounding` asks about (ours).

Of drawn pictures it is known. Each finding of a pair is a case; its place is where the picture
changes if it is drawn without the finding, so that no coordinate is assumed. The phrase is the
report's sentence about it.

Real pictures need boxes: a CSV with the columns pair_id, phrase, x, y, w, h, as in MS-CXR (Boecking
et al. 2022); x and y are the upper left corner. With the columns image_width and image_height, all
are in pixels of the original picture, of which data preparation kept the centre square; without
them, in pixels of the prepared square. Boxes of the same pair and phrase are one place.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy import ndarray as Array

from mcrlib.config import Config
from mcrlib.data.dataset import Dataset
from mcrlib.data.sources import phantom
from mcrlib.data.sources.phantom.wording import Statement
from mcrlib.evaluation import findings
from mcrlib.evaluation.grounding import Case

NUMBERS = ("x", "y", "w", "h")
COLUMNS = ("pair_id", "phrase", *NUMBERS)
ORIGINAL_SIZE = ("image_width", "image_height")
OTHER = "Other"  # a phrase in which no finding is read


class OtherDrawing(ValueError):
    """These settings and this code draw other pictures than those of the data."""


@dataclass(frozen=True)
class Pairs:
    """The pairs of a split. Row i of all is pair i."""

    frame: pd.DataFrame  # rows of the manifest
    pictures: Array  # uint8 [N, S, S]


def pairs_of(dataset: Dataset, split: str) -> Pairs:
    """The pairs of a split, in the manifest's order."""
    rows = dataset.indices(split)
    return Pairs(dataset.frame.iloc[rows], dataset.images[rows])


# Drawn pictures


def drawn_cases(pairs: Pairs, config: Config, split: str = "test") -> list[Case]:
    """A case for each finding of each pair that was drawn with these settings.

    Raises OtherDrawing if the pictures are others than these settings and this code draw.
    """
    cases = []
    number_of = {pair_id: number for number, pair_id in enumerate(pairs.frame["pair_id"])}
    for drawn in phantom.pairs(config, (split,)):
        number = number_of.get(drawn.pair_id)
        if number is not None and drawn.findings:
            cases.extend(_cases_of(drawn, number, pairs, config.cache_size))
    present: dict[int, set[str]] = {}
    for case in cases:
        present.setdefault(case.pair, set()).add(case.finding)
    return _with_controls(cases, present)


def _cases_of(drawn: phantom.DrawnPair, number: int, pairs: Pairs, size: int) -> Iterator[Case]:
    picture = pairs.pictures[number]
    if not np.array_equal(_draw(drawn, drawn.labels, size), picture):
        raise OtherDrawing(
            f"The picture of {drawn.pair_id} is not the one that these settings and this code "
            "draw: prepare the data and train the models anew, or use the code that drew it."
        )
    lungs = phantom.lungs(drawn.seed, size, drawn.view, drawn.study)
    report = pairs.frame["report"].iloc[number]
    for statement in drawn.draft.findings:
        if not isinstance(statement, Statement):
            continue
        label = statement.finding.label
        others = [other for other in drawn.labels if other != label]
        without = _draw(drawn, others, size)
        sentences = [_capitalised(statement.sentence), _capitalised(statement.impression)]
        yield Case(
            pair=number,
            finding=statement.finding.kind.name,
            phrase=sentences[0],
            control="",
            place=without != picture,
            lungs=lungs,
            own_words=_spans(report, sentences),
            picture_without=without,
        )


def _draw(drawn: phantom.DrawnPair, labels: list[str], size: int) -> Array:
    return phantom.draw(drawn.seed, labels, size, drawn.view, drawn.study)


def _capitalised(sentence: str) -> str:
    """As a report writes it."""
    tidy = sentence.strip()
    return tidy[0].upper() + tidy[1:]


def _spans(report: str, sentences: Sequence[str]) -> list[tuple[int, int]]:
    """Where the sentences are in the report; white space and case do not count."""
    spans = []
    for sentence in sentences:
        pattern = r"\s+".join(re.escape(word) for word in sentence.split())
        spans += [found.span() for found in re.finditer(pattern, report, re.IGNORECASE)]
    return spans


def _with_controls(cases: Sequence[Case], present: dict[int, set[str]]) -> list[Case]:
    """The cases, each with the phrase of another case as its control: at random one whose finding
    is not among those that are `present` in the case's own pair."""
    rng = np.random.default_rng(0)
    completed = []
    for case in cases:
        own = present[case.pair] | {OTHER}
        absent = [other.phrase for other in cases if other.finding not in own]
        control = absent[rng.integers(len(absent))] if absent else ""
        completed.append(replace(case, control=control))
    return completed


# Boxes


def box_cases(pairs: Pairs, file: Path) -> list[Case]:
    """A case for each pair and phrase of a CSV of boxes; those of other pairs are passed over.

    Raises FileNotFoundError if there is no file, and ValueError if it is no such table.
    """
    boxes = _read_boxes(file)
    size = pairs.pictures.shape[-1]
    number_of = {pair_id: number for number, pair_id in enumerate(pairs.frame["pair_id"])}
    reports = pairs.frame["report"].tolist()
    cases = []
    present: dict[int, set[str]] = {}
    for same_place in boxes.groupby(["pair_id", "phrase"], sort=False):
        (pair_id, phrase), group = same_place
        if pair_id not in number_of:
            continue
        number = number_of[pair_id]
        named = findings.present(phrase)
        present.setdefault(number, set(findings.present(reports[number]))).update(named)
        place = np.zeros((size, size), dtype=bool)
        for box in group.to_dict("records"):
            place |= _in_box(box, size)
        cases.append(
            Case(
                pair=number,
                finding=min(named, default=OTHER),
                phrase=phrase,
                control="",
                place=place,
                lungs=None,
                own_words=_spans(reports[number], [phrase]),
                picture_without=None,
            )
        )
    return _with_controls(cases, present)


def _read_boxes(file: Path) -> pd.DataFrame:
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {file}: give a CSV with {', '.join(COLUMNS)}.")
    try:
        boxes = pd.read_csv(file, dtype={"pair_id": str, "phrase": str}, encoding="utf-8-sig")
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read as a CSV: {error}.") from None
    missing = [name for name in COLUMNS if name not in boxes]
    if missing:
        raise ValueError(
            f"{file} lacks the columns {', '.join(missing)}: it needs all of {', '.join(COLUMNS)}."
        )
    sizes = [name for name in ORIGINAL_SIZE if name in boxes]
    numbers = boxes[[*NUMBERS, *sizes]].apply(pd.to_numeric, errors="coerce")
    is_usable = np.isfinite(numbers).all(axis=1)
    is_usable &= (numbers[["w", "h", *sizes]] > 0).all(axis=1)
    is_usable &= boxes["pair_id"].notna()
    is_usable &= boxes["phrase"].fillna("").str.strip() != ""
    if not is_usable.all():
        line = int(is_usable.to_numpy().argmin()) + 2  # the first is the header
        raise ValueError(
            f"{file}, line {line}: a box needs a pair_id, a phrase, numbers x and y, and a width "
            "and height above 0."
        )
    return boxes.assign(**numbers)


def _in_box(box: dict, size: int) -> Array:
    """The pixels of the prepared square whose centres are in a box: bool [size, size]."""
    width = box.get("image_width", size)
    height = box.get("image_height", size)
    side = min(width, height)  # of the centre square that was kept
    scale = size / side
    left = (box["x"] - (width - side) / 2) * scale
    top = (box["y"] - (height - side) / 2) * scale
    right = left + box["w"] * scale
    bottom = top + box["h"] * scale
    centres = np.arange(size) + 0.5
    in_columns = (left <= centres) & (centres < right)
    in_rows = (top <= centres) & (centres < bottom)
    return in_rows[:, None] & in_columns
