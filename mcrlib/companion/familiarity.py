"""Whether a question resembles what a model was trained on (ours).

A model answers everything: a sentence without a known word, a text of which it reads the beginning,
a photograph. The sentences made here are shown with such an answer.
"""

import io
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image
from transformers import BertTokenizer

from mcrlib.data.dataset import Dataset

WORD = re.compile(r"[^\W\d_]+")  # letters of any alphabet
REPORTS_READ = 50_000  # training reports whose words count as known
NAMED = 5  # unknown words that are listed

SIDE = 24  # pixels of the small pictures that are compared
COMPARED = 2000  # training pictures, and as many validation pictures, at most
COMPONENTS = 40  # what radiographs have in common, in directions of small pictures
USUAL = 99  # percent of the validation pictures that count as usual
COLOURED = 12  # grey levels between the channels of a picture that is in colour


@dataclass(frozen=True)
class Familiar:
    """What the training pairs of a data set look like, measured once."""

    words: frozenset[str]  # of training reports, in lower case
    mean: np.ndarray  # [SIDE * SIDE], of small training pictures
    directions: np.ndarray  # [components, SIDE * SIDE], orthonormal
    usual: float  # distance from these directions that `USUAL` percent of validation stay below

    def unusual(self, picture: np.ndarray) -> float:
        """How far a radiograph, uint8 `[S, S]`, is from what training pictures have in common:
        above 1 it is farther than `USUAL` percent of the validation pictures."""
        (distance,) = _distances(picture[None], self.mean, self.directions)
        return float(distance / self.usual)


def familiar(dataset: Dataset) -> Familiar:
    """Measure the training pairs of a data set; the answer is kept until the data changes."""
    key = dataset.info["dataset_sha256"]
    if key not in _measured:
        _measured.clear()  # one data set at a time: the words of a large one take memory
        _measured[key] = _measure(dataset)
    return _measured[key]


_measured: dict[str, Familiar] = {}


def _measure(dataset: Dataset) -> Familiar:
    train = dataset.indices("train")
    validate = dataset.indices("validate")
    reports = dataset.frame["report"].iloc[train].drop_duplicates()
    words = set()
    for report in reports.iloc[:REPORTS_READ]:
        words.update(WORD.findall(report.lower()))
    small = _small(dataset.images[_spread(train)])
    mean = small.mean(axis=0)
    centred = small - mean
    _, vectors = np.linalg.eigh(centred.T @ centred)  # of a small matrix: faster than an SVD
    directions = vectors.T[-COMPONENTS:]
    distances = _distances(dataset.images[_spread(validate)], mean, directions)
    usual = float(np.percentile(distances, USUAL))
    return Familiar(frozenset(words), mean, directions, max(usual, np.finfo(np.float32).tiny))


def _spread(rows: np.ndarray) -> np.ndarray:
    """At most `COMPARED` of the rows, evenly spread."""
    step = max(1, -(-len(rows) // COMPARED))
    return rows[::step]


def _small(pictures: Iterable[np.ndarray]) -> np.ndarray:
    """Small pictures without brightness and contrast, float32 `[n, SIDE * SIDE]`."""
    rows = []
    for picture in pictures:
        small = Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BOX)
        row = np.asarray(small, np.float32).ravel()
        row -= row.mean()
        rows.append(row / max(float(row.std()), 1.0))
    return np.array(rows)


def _distances(pictures: np.ndarray, mean: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """What the directions leave unexplained of each picture, float32 `[n]`."""
    centred = _small(pictures) - mean
    explained = (centred @ directions.T) @ directions
    return np.linalg.norm(centred - explained, axis=1)


def about_text(text: str, tokenizer: BertTokenizer, max_tokens: int, known: Familiar) -> list[str]:
    """Sentences about a text: what the tokenizer does not know, what no training report says, and
    whether the text is cut."""
    sentences = []
    unknown = []
    unsaid = []
    for word in dict.fromkeys(text.split()[:max_tokens]):
        pieces = tokenizer.tokenize(word)
        letters = WORD.findall(word.lower())
        if tokenizer.unk_token in pieces:
            unknown.append(word)
        elif any(part not in known.words for part in letters):
            unsaid.append(word)
    if unknown:
        sentences.append(f"The tokenizer does not know {_listed(unknown)}.")
    if unsaid:
        sentences.append(f"No training report has {_listed(unsaid)}: the model guesses.")
    tokens = len(tokenizer.backend_tokenizer.encode(text).ids)  # with [CLS] and [SEP]
    if tokens > max_tokens:
        sentences.append(
            f"The text has {tokens:,} tokens, and the model reads the first {max_tokens}: "
            "the rest was cut."
        )
    return sentences


def _listed(words: list[str]) -> str:
    """The first words, each cut if it is long, and how many there are beside them."""
    first = []
    for word in words[:NAMED]:
        shown = word if len(word) <= 24 else word[:23] + "…"
        first.append(f"“{shown}”")
    text = ", ".join(first)
    rest = len(words) - NAMED
    return f"{text} and {rest:,} more words" if rest > 0 else text


def about_picture(picture: np.ndarray, known: Familiar) -> list[str]:
    """Sentences about a radiograph, uint8 `[S, S]`, that is unlike the training pictures."""
    times = known.unusual(picture)
    if times <= 1:
        return []
    return [
        f"This picture is unlike the radiographs of the training set: {times:.1f} times as far "
        f"from them as {USUAL} of 100 validation pictures. Do not trust the hits."
    ]


def about_colour(content: bytes) -> list[str]:
    """A sentence if a JPEG or PNG file is in colour; radiographs are grey."""
    try:
        picture = Image.open(io.BytesIO(content), formats=("JPEG", "PNG"))
        picture.draft("RGB", (256, 256))
        colours = np.asarray(picture.convert("RGB").resize((64, 64)), np.int16)
    except Exception:  # a DICOM file, or a damaged one that is refused elsewhere
        return []
    if np.ptp(colours, axis=2).mean() < COLOURED:
        return []
    return ["The picture is in colour, as no radiograph is: only its brightness is used."]
