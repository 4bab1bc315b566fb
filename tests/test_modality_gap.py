"""The numbers of the modality gap, on point clouds with a known gap."""

import numpy as np
import pytest

from mcrlib.evaluation.modality_gap import gap_numbers, measure_gap


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def cloud():
    return unit(np.random.default_rng(0).standard_normal((40, 8)))


def test_without_a_gap_the_modalities_cannot_be_separated(cloud):
    gap = gap_numbers(cloud, cloud)
    assert gap["distance_of_means"] == gap["alignment"] == 0
    assert gap["cosine_of_pairs"] == pytest.approx(1)
    assert gap["uniformity_image"] == gap["uniformity_report"]
    assert gap["probe_accuracy"] < 0.6


@pytest.mark.filterwarnings("error")
def test_equal_embeddings_are_one_point_and_two_clouds_of_them_two():
    """As those of equal reports: scikit-learn's t-SNE crashes on them."""
    one, other = np.eye(4)[:2]
    same = measure_gap(np.tile(one, (10, 1)), np.tile(one, (10, 1)))
    assert np.ptp(same["tsne"], axis=0).tolist() == [0, 0]
    assert same["numbers"]["distance_of_means"] == 0
    two = measure_gap(np.tile(one, (10, 1)), np.tile(other, (10, 1)))
    assert np.isfinite(two["tsne"]).all()
    assert two["numbers"]["probe_accuracy"] == 1


def test_opposite_clouds_lie_far_apart():
    centre = np.zeros(8)
    centre[0] = 10
    draw = np.random.default_rng(1).standard_normal((2, 40, 8))
    gap = gap_numbers(unit(draw[0] + centre), unit(draw[1] - centre))
    assert gap["distance_of_means"] > 1.8
    assert gap["cosine_of_non_pairs"] < -0.8
    assert gap["probe_accuracy"] == 1


def test_the_numbers_equal_their_definitions(cloud):
    other = unit(np.random.default_rng(2).standard_normal((40, 8)))
    gap = gap_numbers(cloud, other)
    n = len(cloud)
    apart = [cloud[i] @ other[j] for i in range(n) for j in range(n) if i != j]
    potential = [
        np.exp(-2 * ((cloud[i] - cloud[j]) ** 2).sum()) for i in range(n) for j in range(i)
    ]
    assert gap["cosine_of_non_pairs"] == pytest.approx(np.mean(apart))
    assert gap["cosine_of_pairs"] == pytest.approx(
        np.mean([a @ b for a, b in zip(cloud, other, strict=True)])
    )
    assert gap["uniformity_image"] == pytest.approx(np.log(np.mean(potential)))


def test_the_same_embeddings_give_the_same_map(cloud):
    first = measure_gap(cloud, cloud[::-1])
    second = measure_gap(cloud, cloud[::-1])
    assert first == second
    assert np.shape(first["tsne"]) == (80, 2)
    assert measure_gap(cloud, cloud)["tsne"] != first["tsne"]


def test_too_few_pairs_are_refused(cloud):
    with pytest.raises(ValueError, match="at least ten pairs, not 4"):
        measure_gap(cloud[:4], cloud[:4])
