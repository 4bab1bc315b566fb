"""The linear baseline: unit rows, better than chance, and deterministic."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

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


def small(dataset, reports, side=96):
    """As many training pairs as there are reports, with images of `side` pixels."""
    frame = pd.DataFrame({"split": "train", "report": reports})
    images = dataset.images[: len(reports), :side, :side]
    return dataclasses.replace(dataset, frame=frame, images=images)


@pytest.mark.parametrize("side", [96, 16])
@pytest.mark.parametrize(
    "reports",
    [
        ["Clear lungs."] * 60,  # fewer words than pairs
        ["Clear.", "Effusion.", "Edema."],  # no word in two reports
        ["Edema seen."] * 3,
        ["No effusion.", "No edema.", "?"],
    ],
)
def test_few_words_and_pairs_give_unit_rows(dataset, reports, side):
    data = small(dataset, reports, side)
    fitted = baseline.fit(data)
    for rows in (fitted.embed_images(data.images), fitted.embed_reports(reports)):
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1)


@pytest.mark.parametrize(
    ("reports", "reason"),
    [
        (["?", "...", "!"], "have fewer than 2 words"),
        (["Edema."] * 9, "have fewer than 2 words"),
        (["Clear lungs.", "Effusion."], "needs 3 training pairs, and there are 2"),
    ],
)
def test_too_little_to_learn_from_is_one_sentence(dataset, reports, reason):
    with pytest.raises(ValueError, match=f"There is no linear baseline: .*{reason}"):
        baseline.fit(small(dataset, reports))
