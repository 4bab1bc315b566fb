"""The gap between images and reports in the common space (Figure 4), drawn and in numbers."""

import numpy as np
from scipy.spatial.distance import pdist
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.model_selection import cross_val_score

SMALLEST_SPREAD = 1e-6  # of any coordinate; cosines within it are equal in retrieval, too


def measure_gap(image: np.ndarray, report: np.ndarray, seed: int = 0) -> dict:
    """Project both modalities with t-SNE (Figure 4) and measure the gap between them.

    image and report [N, E] hold unit rows; row i of both is pair i. Returns `tsne` [2N, 2], the
    images first, and `numbers` (`gap_numbers`). The same seed gives the same picture; if all rows
    are equal, all points are at the origin. Raises ValueError for fewer than ten pairs.
    """
    if len(image) < 10:
        raise ValueError(f"The modality gap takes at least ten pairs, not {len(image)}.")
    rows = np.concatenate([image, report])
    rows = rows.astype(np.float64)
    points = project(rows, seed)
    numbers = gap_numbers(image, report, seed)
    return {"tsne": points.tolist(), "numbers": numbers}


def project(rows: np.ndarray, seed: int = 0) -> np.ndarray:
    """t-SNE of rows [N, E]: points [N, 2], the same for the same seed. Equal rows, which have no
    map, are all at the origin."""
    if np.ptp(rows, axis=0).max() < SMALLEST_SPREAD:  # scikit-learn would crash
        return np.zeros((len(rows), 2))
    # t-SNE needs fewer neighbours than rows: small pools get less than scikit-learn's default, 30.
    largest_perplexity = (len(rows) - 1) / 3
    perplexity = min(30.0, largest_perplexity)
    projection = TSNE(perplexity=perplexity, init="pca", random_state=seed)
    return projection.fit_transform(rows)


def gap_numbers(image: np.ndarray, report: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Measure what t-SNE cannot show because it does not preserve distances.

    image and report [N, E] hold unit rows; row i of both is pair i. Returns

    - `distance_of_means`: distance between the centres of the two modalities (Liang et al. 2022);
    - `alignment`: mean squared distance within pairs (Wang and Isola 2020);
    - `uniformity_image`, `uniformity_report`: log of the mean Gaussian potential of each modality
      (Wang and Isola 2020);
    - `cosine_of_pairs`, `cosine_of_non_pairs`: mean cosines;
    - `probe_accuracy`: cross-validated accuracy of a linear classifier that tells images from
      reports (0.5: no gap). `seed` shuffles its rows.
    """
    pairs = len(image)
    image_mean = image.mean(axis=0)
    report_mean = report.mean(axis=0)
    differences = image - report
    squared_distances = (differences**2).sum(axis=1)

    cosines = image @ report.T
    sum_of_pairs = np.trace(cosines)
    sum_of_non_pairs = cosines.sum() - sum_of_pairs
    non_pairs = pairs * (pairs - 1)

    numbers = {
        "distance_of_means": np.linalg.norm(image_mean - report_mean),
        "alignment": squared_distances.mean(),
        "uniformity_image": _uniformity(image),
        "uniformity_report": _uniformity(report),
        "cosine_of_pairs": sum_of_pairs / pairs,
        "cosine_of_non_pairs": sum_of_non_pairs / non_pairs,
        "probe_accuracy": _probe_accuracy(image, report, seed),
    }
    return {name: float(number) for name, number in numbers.items()}


def _uniformity(rows: np.ndarray) -> float:
    """Log of the mean Gaussian potential over all pairs of rows [N, E]."""
    squared_distances = pdist(rows, "sqeuclidean")
    potentials = np.exp(-2 * squared_distances)
    return np.log(potentials.mean())


def _probe_accuracy(image: np.ndarray, report: np.ndarray, seed: int) -> float:
    """Five-fold accuracy of a linear classifier of images against reports."""
    rows = np.concatenate([image, report])
    modality = np.repeat([0, 1], len(image))
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(rows))
    shuffled_rows = rows[order]
    shuffled_modality = modality[order]
    probe = LogisticRegression(max_iter=1000)
    accuracies = cross_val_score(probe, shuffled_rows, shuffled_modality, cv=5)
    return accuracies.mean()
