"""A linear baseline without a network: what words and pixels alone are worth (ours).

Reports are tf-idf vectors, reduced by a truncated singular value decomposition. Images are small
pictures, reduced to principal components, from which a ridge regression learned on the training
split predicts the report's vector. Its settings were chosen once and never tuned.
"""

from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler, normalize

from mcrlib.data.dataset import Dataset

PIXELS = 32  # side of the small picture
RIDGE_PENALTIES = np.logspace(-1, 5, 13)  # the regression picks one by leave-one-out


@dataclass(frozen=True)
class LinearBaseline:
    """The two fitted sides; their rows lie in the same space."""

    image_side: Pipeline
    report_side: Pipeline

    def embed_images(self, squares: np.ndarray) -> np.ndarray:
        """Unit rows `[N, E]` of uint8 images `[N, S, S]`."""
        return normalize(self.image_side.predict(small_pixels(squares)))

    def embed_reports(self, texts: list[str]) -> np.ndarray:
        """Unit rows `[N, E]` of report texts; all texts without a known word share one row."""
        return normalize(self.report_side.transform(texts))


def fit(dataset: Dataset, width: int = 128, largest: int = 20_000) -> LinearBaseline:
    """Learn the baseline from the first `largest` training pairs.

    `width` is the number of dimensions E, cut to the number of training pairs minus one.
    """
    rows = dataset.indices("train")[:largest]
    texts = dataset.frame["report"].iloc[rows]
    dimensions = min(width, len(rows) - 1)

    report_side = make_pipeline(
        TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2),
        TruncatedSVD(dimensions, random_state=0),
        StandardScaler(with_std=False),
    )
    target = report_side.fit_transform(texts)

    image_side = make_pipeline(
        PCA(dimensions, whiten=True, random_state=0),
        RidgeCV(RIDGE_PENALTIES),
    )
    image_side.fit(small_pixels(dataset.images[rows]), target)
    return LinearBaseline(image_side, report_side)


def small_pixels(squares: np.ndarray) -> np.ndarray:
    """Every n-th pixel of uint8 images `[N, S, S]`, between 0 and 1, as rows."""
    step = squares.shape[1] // PIXELS
    small = squares[:, ::step, ::step]
    return small.reshape(len(small), -1) / 255
