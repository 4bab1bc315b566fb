"""The linear baseline: unit rows, better than chance, and deterministic."""

import numpy as np

from mcrlib.evaluation import baseline, retrieval


def test_baseline_beats_chance_and_is_deterministic(dataset):
    fitted = baseline.fit(dataset, width=32)
    rows = dataset.indices("test")
    image = fitted.embed_images(dataset.images[rows])
    report = fitted.embed_reports(dataset.frame["report"].iloc[rows].tolist())
    assert image.shape == report.shape == (len(rows), 32)
    np.testing.assert_allclose(np.linalg.norm(image, axis=1), 1)
    result = retrieval.evaluate(image, report)
    for direction in retrieval.DIRECTIONS:
        recall = result[direction]["pair"]["R@10"]["value"]
        assert recall > 1.5 * result["chance"]["R@10"]
    again = baseline.fit(dataset, width=32).embed_images(dataset.images[rows])
    np.testing.assert_array_equal(again, image)


def test_few_pairs_limit_the_width(dataset):
    fitted = baseline.fit(dataset, width=128, largest=20)
    assert fitted.embed_images(dataset.images[:3]).shape == (3, 19)


def test_reports_of_unknown_words_share_one_embedding(dataset):
    fitted = baseline.fit(dataset, width=16)
    first, second = fitted.embed_reports(["zzz qqq", ""])
    np.testing.assert_array_equal(first, second)
