"""Grounding: maps, places and erasure, each against a plain oracle."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from test_notebooks import execute

from mcrlib import config, plots, results, tables
from mcrlib.companion import captions
from mcrlib.companion.grounding import NothingToAsk, left_out, measure_grounding
from mcrlib.data.sources import phantom
from mcrlib.evaluation import grounding, places
from mcrlib.training import loop

masks = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed))


@pytest.fixture(scope="module")
def pairs(dataset):
    return places.pairs_of(dataset, "test")


@pytest.fixture(scope="module")
def cases(pairs, smoke):
    return places.drawn_cases(pairs, smoke)


# Maps


def test_a_patch_is_in_a_place_if_more_than_a_tenth_of_it_is():
    place = np.zeros((20, 20), bool)
    place[0, :10] = True  # a tenth of the first patch
    place[10, 10:] = place[11, 10] = True  # more than that of the last
    areas = grounding.patch_areas(place, 2)
    assert areas.tolist() == pytest.approx([0.1, 0, 0, 0.11])
    assert grounding.points_at(np.array([0.0, -1, -2, 3]), areas) == 1
    assert grounding.points_at(np.array([3.0, 2, 1, 3]), areas) == 0  # the first of equal ones
    assert np.isnan(grounding.points_at(np.ones(4), areas * 0.5))


@settings(deadline=None, max_examples=40)
@given(rng=masks, levels=st.integers(1, 5))
def test_the_auroc_is_that_of_the_pixels(rng, levels):
    place = rng.random((12, 12)) < rng.random()
    place[0, 0], place[0, 1] = True, False
    shares = rng.integers(levels, size=9).astype(float)
    pixels = shares.reshape(3, 3).repeat(4, 0).repeat(4, 1)
    auroc = grounding.pixel_auroc(shares, grounding.patch_areas(place, 3))
    assert auroc == pytest.approx(roc_auc_score(place.ravel(), pixels.ravel()))


@settings(deadline=None, max_examples=40)
@given(rng=masks, has_lungs=st.booleans())
def test_a_place_is_moved_to_where_it_covers_most_of_the_lungs(rng, has_lungs):
    place = np.zeros((9, 9), bool)
    top, left = rng.integers(0, 6, 2)
    place[top : top + rng.integers(1, 6), left : left + rng.integers(1, 6)] = True
    place &= rng.random((9, 9)) < 0.7
    lungs = rng.random((9, 9)) < 0.4 if has_lungs else None
    best = None
    for down, right in itertools.product(range(-8, 9), repeat=2):
        rows, columns = np.nonzero(place)
        moved_rows, moved_columns = rows + down, columns + right
        if not len(rows) or min(moved_rows.min(), moved_columns.min()) < 0:
            continue
        if max(moved_rows.max(), moved_columns.max()) > 8:
            continue
        if place[moved_rows, moved_columns].any():
            continue
        covered = lungs[moved_rows, moved_columns].sum() if has_lungs else 0
        best = max(best or (-1, -99.0), (covered, -np.hypot(down, right)))
    moved = grounding.elsewhere(place, lungs)
    assert (moved is None) == (best is None)
    if moved is not None:
        assert moved.sum() == place.sum() and not (moved & place).any()
        covered, minus_distance = best
        assert (moved & lungs).sum() == covered if has_lungs else True
        shift = np.argwhere(moved)[0] - np.argwhere(place)[0]
        assert np.hypot(*shift) == pytest.approx(-minus_distance)


# Places


def test_a_drawn_place_is_where_the_picture_changes_without_the_finding(cases, pairs, smoke):
    drawn = {pair.pair_id: pair for pair in phantom.pairs(smoke, ("test",))}
    by_pair = pairs.frame["labels"].map(len)
    assert len(cases) == by_pair.sum() > 20
    for case in cases:
        pair = drawn[pairs.frame["pair_id"].iloc[case.pair]]
        picture = pairs.pictures[case.pair]
        assert np.array_equal(case.place, picture != case.picture_without)
        assert case.place.any() and case.lungs.any()
        own = [name for name in pair.labels if name.startswith(f"{case.finding}|")]
        marks = [
            phantom.place(pair.seed, name, smoke.cache_size, pair.view, pair.study) for name in own
        ]
        assert any((case.place <= mark).all() for mark in marks)


def test_phrases_are_the_report_s_and_controls_name_what_is_absent(cases, pairs):
    for case in cases:
        report = pairs.frame["report"].iloc[case.pair]
        assert len(case.own_words) >= 2 and case.phrase in report
        first, last = case.own_words[0]
        assert report[first:last].lower() == case.phrase.lower()
        present = {label.partition("|")[0] for label in pairs.frame["labels"].iloc[case.pair]}
        assert {other.finding for other in cases if other.phrase == case.control} - present


def test_pictures_of_another_drawing_are_refused(pairs, smoke):
    others = places.Pairs(pairs.frame, 255 - pairs.pictures)
    with pytest.raises(places.OtherDrawing, match="not the one that these settings"):
        places.drawn_cases(others, smoke)


BOXES = pd.DataFrame({
    "pair_id": ["test-00000", "test-00000", "test-00001", "another"],
    "phrase": ["small left pleural effusion", "small left pleural effusion", "the shape", "x"],
    "x": [110, 10, 0, 0], "y": [20, 20, 0, 0], "w": [40, 100, 9, 1], "h": [10, 5, 9, 1],
    "image_width": 400, "image_height": 200,
})  # fmt: skip


def test_boxes_in_pixels_of_the_original_follow_the_centre_square(pairs, tmp_path):
    file = tmp_path / "boxes.csv"
    BOXES.to_csv(file, index=False)
    first, second = places.box_cases(pairs, file)
    size = pairs.pictures.shape[-1]
    # The square is x from 100 to 300, 200 pixels wide.
    in_square = np.zeros((200, 200), bool)
    in_square[20:30, 10:50] = True
    in_square[20:25, 0:10] = True
    scale = 200 / size
    centres = ((np.arange(size) + 0.5) * scale).astype(int)
    assert np.array_equal(first.place, in_square[centres][:, centres])
    assert first.finding == "Pleural Effusion" and second.finding == places.OTHER
    assert first.lungs is None and first.picture_without is None
    assert first.control == ""  # no other finding is read in the phrases
    BOXES.drop(columns=["image_width", "image_height"]).to_csv(file, index=False)
    assert places.box_cases(pairs, file)[1].place.sum() == 81  # pixels of the prepared square


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (BOXES.drop(columns="w"), r"lacks the columns w: it needs all of pair_id, phrase"),
        (BOXES.assign(w=[1, 0, 1, 1]), "line 3: a box needs"),
        (BOXES.assign(x=["1", "2", "left", "4"]), "line 4: a box needs"),
        (BOXES.assign(phrase=["a", "b", "c", " "]), "line 5: a box needs"),
        (BOXES.assign(image_width=0), "line 2: a box needs"),
    ],
)
def test_boxes_that_are_none_are_one_sentence(pairs, tmp_path, boxes, message):
    file = tmp_path / "boxes.csv"
    boxes.to_csv(file, index=False)
    with pytest.raises(ValueError, match=message):
        places.box_cases(pairs, file)
    with pytest.raises(FileNotFoundError, match=r"no file .*nowhere\.csv"):
        places.box_cases(pairs, tmp_path / "nowhere.csv")


# Answers


@pytest.mark.parametrize("alignment", ["mba", "abm"])
def test_answers_are_those_of_explain_and_of_embeddings(build, cases, pairs, alignment):
    model = build(alignment=alignment)
    asked = cases[:4]
    reports = pairs.frame["report"].tolist()
    answers = grounding._ask(model, asked, pairs.pictures, reports)
    methods = ["exact", "occlusion"] if alignment == "mba" else ["occlusion"]
    assert [*answers] == [*methods, "erasure"]
    for number, case in enumerate(asked):
        picture = pairs.pictures[case.pair]
        areas = grounding.patch_areas(case.place, 6)
        for method in methods:
            shares = model.explain(picture, case.phrase, method).patches.flatten().numpy()
            assert answers[method]["pointing"][number] == grounding.points_at(shares, areas)
            auroc = grounding.pixel_auroc(shares, areas)
            assert answers[method]["auroc"][number] == pytest.approx(auroc, abs=0.02)
        phrase = model.embed_reports([case.phrase])
        score, without = (model.embed_images([picture, case.picture_without]) @ phrase.T).squeeze()
        assert answers["erasure"]["not_drawn"][number] == pytest.approx(
            (score - without).item(), abs=1e-5
        )
        grey = np.where(case.place, round(picture.mean()), picture).astype(np.uint8)
        erased = (model.embed_images([grey]) @ phrase.T).item()
        if case.moved_place is not None:
            assert answers["erasure"]["erased"][number] == pytest.approx(
                score.item() - erased, abs=1e-5
            )


def test_the_largest_word_of_a_place_is_what_explain_s_matrix_says(build, cases, pairs):
    model = build()
    reports = pairs.frame["report"].tolist()
    answers = grounding._ask(model, cases[:6], pairs.pictures, reports)["exact"]["words"]
    for answer, case in zip(answers, cases, strict=False):
        explained = model.explain(pairs.pictures[case.pair], reports[case.pair])
        in_place = np.flatnonzero(grounding.patch_areas(case.place, 6) > 0.1)
        by_token = explained.matrix[1 + in_place].sum(dim=0)
        best, position = None, 1
        for word in explained.words:
            pieces = len(model.tokenizer.tokenize(word.text))
            share = by_token[position : position + pieces].sum().item()
            position += pieces
            if best is None or share > best[0]:
                best = (share, word.span)
        is_own = any(a <= best[1][0] and best[1][1] <= b for a, b in case.own_words)
        assert answer == is_own


def test_a_measure_is_the_mean_over_findings_and_resamples_patients(cases):
    asked = cases[:5]
    asked = [
        grounding.Case(number, name, "", "", case.place, None, [], None)
        for number, (name, case) in enumerate(zip("aaabb", asked, strict=True))
    ]
    values = {"occlusion": {"pointing": [1.0, 0, 1, 0, np.nan], "auroc": [np.nan] * 5}}
    block = grounding.summarise(values, asked, patients=list("pqrst"), draws=200)["occlusion"]
    assert [*block] == ["pointing"]
    pointing = block["pointing"]
    assert pointing["value"] == pytest.approx((2 / 3 + 0) / 2) and pointing["left_out"] == 1
    assert pointing["by_finding"]["a"]["cases"] == 3 and pointing["by_finding"]["b"]["value"] == 0
    assert pointing["low"] <= pointing["value"] <= pointing["high"]
    alone = grounding.summarise(values, asked, patients=["p"] * 5, draws=200)["occlusion"]
    assert alone["pointing"]["low"] == alone["pointing"]["high"]
    with pytest.raises(ValueError, match="no finding whose place is known"):
        grounding.summarise(values, [], [])


# The notebook's numbers, tables and figure


def test_a_run_without_models_or_places_says_what_to_do(dataset, monkeypatch, tmp_path):
    monkeypatch.setattr(config, "ROOT", tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "smoke").symlink_to(dataset.folder)
    with pytest.raises(NothingToAsk, match=r"no trained model in results/smoke.*`make train"):
        measure_grounding("smoke")
    with pytest.raises(NothingToAsk, match="`make 10_grounding RUN=demo`, then `make publish`"):
        measure_grounding("reference")


def test_trained_models_are_measured_once_and_shown(home, smoke, dataset, monkeypatch, tmp_path):
    monkeypatch.setattr(config, "ROOT", tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "smoke").symlink_to(dataset.folder)
    for variant, seed in (("mcr", 0), ("mcr", 1), ("dual", 0)):
        short = config.load("smoke", variant, seed, epochs=1)
        loop.train(short, dataset)
    asked = measure_grounding("smoke", draws=20)
    assert [*asked.measured.values] == ["mcr-seed0", "mcr-seed1", "dual", "chance"]
    assert "abm is not trained" in left_out("smoke") and "VARIANTS=abm" in left_out("smoke")
    file = tmp_path / "results" / "smoke" / "grounding.json"
    before = file.stat().st_mtime_ns
    table = tables.grounding_table(measure_grounding("smoke", draws=20).by_variant)
    assert file.stat().st_mtime_ns == before
    assert table["model"].tolist() == ["mcr", "dual", "chance"] * 2
    assert table["pointing game"].str.contains("±").tolist() == [True, False, False] * 2
    erasure = tables.erasure_table(asked.by_variant)
    assert erasure["model"].tolist() == ["mcr", "dual"]
    figure = plots.pointing_game(tables.pointing_by_finding(asked.by_variant))
    assert [axes.get_title() for axes in figure.axes] == [*tables.METHODS.values()]
    assert "mcr-seed0, mcr-seed1, dual" in captions.grounding("smoke", asked)
    names = execute("10_grounding", draws=20)
    assert "abm is not trained" in names["note"]
    assert (tmp_path / "figures" / "smoke" / "grounding.png").is_file()
    for name in ("grounding", "erasure"):
        latex = (tmp_path / "results" / "smoke" / f"{name}.tex").read_text()
        assert "mcr-seed1" in latex and "paper" in latex
    for folder in (tmp_path / "results" / "smoke").glob("*-seed*"):
        (folder / "checkpoint").rename(folder / "away")
    assert measure_grounding("smoke", draws=20).measured.values == asked.measured.values
    results.load(file)


def test_real_pictures_without_boxes_need_them(monkeypatch, tmp_path, build):
    monkeypatch.setattr(config, "ROOT", tmp_path)
    folder = tmp_path / "results" / "table" / "mcr-seed0" / "checkpoint" / "final"
    build().save_pretrained(folder)
    with pytest.raises(NothingToAsk, match=r"give boxes, `make 10_grounding RUN=table BOXES="):
        measure_grounding("table")
    with pytest.raises(FileNotFoundError, match="check BOXES"):
        measure_grounding("table", boxes=str(tmp_path / "none.csv"))
