"""How far apart images and reports lie in the common space (Figure 4), drawn and in numbers."""

import numpy as np
from scipy.spatial.distance import pdist
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.model_selection import cross_val_score


def modality_gap(image: np.ndarray, report: np.ndarray, seed: int = 0) -> dict:
    """`tsne` `[2N, 2]`, images first, and `numbers`, of unit rows `image [N, E]`, `report [N, E]`.

    The picture is the same for the same seed. Raises ValueError for fewer than ten pairs.
    """
    if len(image) < 10:
        raise ValueError(f"The modality gap takes at least ten pairs, not {len(image)}.")
    rows = np.concatenate([image, report]).astype(np.float64)
    perplexity = min(30.0, (len(rows) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(rows)
    return {"tsne": tsne.tolist(), "numbers": numbers(image, report, seed)}


def numbers(image: np.ndarray, report: np.ndarray, seed: int = 0) -> dict[str, float]:
    """What t-SNE, which keeps no distances, cannot show.

    `distance_of_means`: between the centres of the two modalities (Liang et al. 2022);
    `alignment`: mean squared distance of pairs, and `uniformity_*`: log of the mean Gaussian
    potential of each modality (Wang and Isola 2020); the mean cosines of pairs and of non-pairs;
    `probe_accuracy`: cross-validated, of a linear classifier that tells images from reports (0.5:
    no gap).
    """
    n, cosines = len(image), image @ report.T
    rows, modality = np.concatenate([image, report]), np.repeat([0, 1], n)
    order = np.random.default_rng(seed).permutation(2 * n)
    probe = cross_val_score(LogisticRegression(max_iter=1000), rows[order], modality[order], cv=5)
    values = {
        "distance_of_means": np.linalg.norm(image.mean(axis=0) - report.mean(axis=0)),
        "alignment": ((image - report) ** 2).sum(axis=1).mean(),
        "uniformity_image": np.log(np.exp(-2 * pdist(image, "sqeuclidean")).mean()),
        "uniformity_report": np.log(np.exp(-2 * pdist(report, "sqeuclidean")).mean()),
        "cosine_of_pairs": np.trace(cosines) / n,
        "cosine_of_non_pairs": (cosines.sum() - np.trace(cosines)) / (n * (n - 1)),
        "probe_accuracy": probe.mean(),
    }
    return {name: float(value) for name, value in values.items()}
