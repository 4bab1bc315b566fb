"""A linear baseline without a network: what words and pixels alone are worth (ours).

Reports are tf-idf vectors, reduced by a truncated singular value decomposition. Images are small
pictures, reduced to principal components, from which a ridge regression learned on the training
split predicts the report's vector. Its settings were chosen once and never tuned.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler, normalize

from mcrlib.data.dataset import Dataset

PIXELS = 32  # side of the small picture
FEWEST_PAIRS = 3  # fewer span no plane
FEWEST_WORDS = 2
SHORTEST_ROW = 1e-9
RIDGE_PENALTIES = np.logspace(-1, 5, 13)  # the regression picks one by leave-one-out


@dataclass(frozen=True)
class LinearBaseline:
    """The two fitted sides; their rows lie in the same space."""

    image_side: Pipeline
    report_side: Pipeline

    def embed_images(self, squares: np.ndarray) -> np.ndarray:
        """Unit rows `[N, E]` of uint8 images `[N, S, S]`."""
        return _unit_rows(self.image_side.predict(small_pixels(squares)))

    def embed_reports(self, texts: list[str]) -> np.ndarray:
        """Unit rows `[N, E]` of report texts; all texts without a known word share one row."""
        return _unit_rows(self.report_side.transform(texts))


def fit(dataset: Dataset, width: int = 128, largest: int = 20_000) -> LinearBaseline:
    """Learn the baseline from the first `largest` training pairs.

    `width` is the number of dimensions E, cut to what the training pairs can span: their number
    minus one, their words, and the pixels. Raises ValueError if there are fewer than three pairs or
    two words.
    """
    rows = dataset.indices("train")[:largest]
    if len(rows) < FEWEST_PAIRS:
        raise ValueError(
            f"There is no linear baseline: it needs {FEWEST_PAIRS} training pairs, and there are "
            f"{len(rows)}."
        )
    texts = dataset.frame["report"].iloc[rows]
    pixels = small_pixels(dataset.images[rows])
    vectorizer = _vectorizer(texts)
    words = len(vectorizer.vocabulary_)
    dimensions = min(width, len(rows) - 1, words, pixels.shape[1])

    report_side = make_pipeline(
        vectorizer,
        TruncatedSVD(dimensions, random_state=0),
        StandardScaler(with_std=False),
    )
    with np.errstate(
        invalid="ignore", divide="ignore"
    ):  # equal reports have no variance to explain
        target = report_side.fit_transform(texts)

    image_side = make_pipeline(
        PCA(dimensions, whiten=True, random_state=0),
        RidgeCV(RIDGE_PENALTIES),
    )
    image_side.fit(pixels, target)
    return LinearBaseline(image_side, report_side)


def _vectorizer(texts: Sequence[str]) -> TfidfVectorizer:
    """Words and pairs of words that two reports share; if there are too few, those of one report.

    Raises ValueError if all reports together have fewer than two.
    """
    for fewest_reports in (2, 1):
        vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=fewest_reports)
        with suppress(ValueError):  # no word is left
            vectorizer.fit(texts)
            if len(vectorizer.vocabulary_) >= FEWEST_WORDS:
                return vectorizer
    raise ValueError(
        f"There is no linear baseline: the training reports have fewer than {FEWEST_WORDS} words."
    )


def _unit_rows(matrix: np.ndarray) -> np.ndarray:
    """The matrix with rows of length 1; a row that is zero but for rounding becomes the first
    axis."""
    has_no_direction = np.linalg.norm(matrix, axis=1) < SHORTEST_ROW
    matrix[has_no_direction] = 0.0
    matrix[has_no_direction, 0] = 1.0
    return normalize(matrix)


def small_pixels(squares: np.ndarray) -> np.ndarray:
    """Every n-th pixel of uint8 images `[N, S, S]`, between 0 and 1, as rows."""
    step = max(1, squares.shape[1] // PIXELS)
    small = squares[:, ::step, ::step]
    return small.reshape(len(small), -1) / 255
