"""The explorer's functions: search both ways, compare, show; and what they say of odd questions."""

import html
import io
import re

import numpy as np
import pydicom
import pytest
from exploring import home_with_models
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mcrlib import config, results
from mcrlib.companion import explorer, familiarity, looks
from mcrlib.companion.explorer import Filters, Pair
from mcrlib.evaluation import nearest, retrieval


@pytest.fixture(scope="module")
def place(tmp_path_factory, dataset, smoke, tokenizer):
    with home_with_models(tmp_path_factory.mktemp("explored"), dataset, smoke, tokenizer) as root:
        yield root


@pytest.fixture
def pool(place):
    return explorer.open_pool("smoke")


def encoded(picture, kind="JPEG"):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, kind)
    return buffer.getvalue()


def photograph():
    """Colours that change across the picture."""
    red = np.tile(np.linspace(255, 0, 160), (120, 1))
    green = np.tile(np.linspace(0, 255, 120)[:, None], (1, 160))
    return np.stack([red, green, 255 - green], axis=-1).astype(np.uint8)


# Searching


@pytest.mark.parametrize("half", ["image", "report"])
def test_hits_of_a_pair_are_those_of_the_evaluation(pool, place, half):
    image, report = results.load_embeddings(
        place / "results/smoke/mcr-seed0/embeddings-test.npz", pool.frame["pair_id"]
    )
    direction = "image_to_report" if half == "image" else "report_to_image"
    best = retrieval.hits(image, report, 7)[direction]
    queries, candidates = (image, report) if half == "image" else (report, image)
    own = np.arange(len(pool))
    ranks = retrieval.ranks(queries, candidates, own, own)
    for pair in range(len(pool)):
        answer = explorer.search(Pair(pool.frame["pair_id"][pair], half), 7, "smoke")
        assert answer.direction == direction and answer.partner_rank == ranks[pair]
        scores = [hit["score"] for hit in answer.hits]
        np.testing.assert_allclose(scores, best.cosines[pair], atol=1e-6)
        for hit in answer.hits:
            assert hit["positive"] == (hit["pair"] == pair)
            assert hit["report"] == pool.frame["report"][hit["pair"]]


def test_a_report_and_a_radiograph_typed_or_uploaded_are_searched_as_the_split_s_own(pool):
    report = pool.frame["report"][3]
    own = explorer.search(Pair(pool.frame["pair_id"][3], "report"), 5, "smoke")
    typed = explorer.search(report, 5, "smoke")
    assert [hit["pair_id"] for hit in typed.hits] == [hit["pair_id"] for hit in own.hits]
    assert typed.partner_rank is None and not any(hit["positive"] for hit in typed.hits)
    picture = pool.picture(3)
    own = explorer.search(Pair(pool.frame["pair_id"][3]), 5, "smoke")
    for source in (encoded(picture, "PNG"), picture, Image.fromarray(picture)):
        answer = explorer.search(source, 5, "smoke")
        assert [hit["pair_id"] for hit in answer.hits] == [hit["pair_id"] for hit in own.hits]


def test_a_file_is_given_by_its_path(pool, tmp_path):
    file = tmp_path / "chest.png"
    file.write_bytes(encoded(pool.picture(0), "PNG"))
    assert (
        explorer.search(file, 2, "smoke").hits == explorer.search(pool.picture(0), 2, "smoke").hits
    )
    with pytest.raises(ValueError, match=r"nowhere\.png cannot be read: image file is missing"):
        explorer.search(tmp_path / "nowhere.png", 2, "smoke")


def test_asking_encodes_the_question_and_nothing_else(pool, monkeypatch):
    seen = []
    embed = pool.model.embed_reports
    monkeypatch.setattr(
        pool.model, "embed_reports", lambda texts: seen.append(texts) or embed(texts)
    )
    monkeypatch.setattr(familiarity, "_measure", None)
    monkeypatch.setattr(pool.model, "embed_images", None)
    explorer.search("effusion", 3, "smoke")
    assert seen == [["effusion"]]


def test_a_changed_file_of_embeddings_is_opened_anew(pool, place):
    file = place / "results/smoke/dual-seed0/embeddings-test.npz"
    before = explorer.open_pool("smoke", "dual")
    assert explorer.open_pool("smoke", "dual") is before
    ids = before.frame["pair_id"]
    image, report = results.load_embeddings(file, ids)
    results.save_embeddings(file, report, image, ids)
    after = explorer.open_pool("smoke", "dual")
    np.testing.assert_allclose(after.embedded["image"].take(np.arange(3)), report[:3], atol=1e-6)
    results.save_embeddings(file, image, report, ids)


def test_what_is_missing_is_said_with_the_command_that_makes_it(place):
    with pytest.raises(FileNotFoundError, match="make embed RUN=smoke VARIANTS=clip SEEDS=2"):
        explorer.search("effusion", 3, "smoke", "clip", 2)
    with pytest.raises(ValueError, match="only pairs of the split can be asked"):
        explorer.search("effusion", 3, "smoke", "theirs")
    theirs = explorer.open_pool("smoke", "theirs")
    assert explorer.ask(theirs, Pair(theirs.frame["pair_id"][0]), 3).partner_rank >= 1


# Filters


def test_before_anything_is_trained_the_demo_is_the_reference(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "ROOT", tmp_path)
    settings = config.load("reference", sizes=(40, 12, 12))
    monkeypatch.setattr(config, "load", lambda run: settings.replace(run=run))
    assert explorer.trained_or_reference("smoke") == "smoke"
    assert explorer.trained_or_reference("demo") == "reference"
    assert len(results.dataset_of_run("reference").frame) == 64
    rows = np.eye(3)
    file = tmp_path / "results" / "demo" / "mcr-seed0" / "embeddings-test.npz"
    results.save_embeddings(file, rows, rows, ["a", "b", "c"])
    assert explorer.trained_or_reference("demo") == "demo"


def test_filters_keep_what_fits_and_the_ranks_of_the_whole_pool(pool):
    everything = explorer.ask(pool, "effusion", explorer.MOST_TOP)
    rank_of = {hit["pair_id"]: hit["rank"] for hit in everything.hits}
    for filters in (
        Filters("Pleural Effusion"),
        Filters("Pleural Effusion", "left"),
        Filters(side="right"),
        Filters(view=pool.frame["view"][0]),
        Filters("No Finding"),
    ):
        answer = explorer.ask(pool, "effusion", 5, filters)
        fitting = []
        for hit in everything.hits:
            if _fits(pool, hit["pair"], filters):
                fitting.append(hit["pair_id"])
        assert [hit["pair_id"] for hit in answer.hits] == fitting[:5]
        assert all(hit["rank"] == rank_of[hit["pair_id"]] for hit in answer.hits)


def _fits(pool, pair, filters):
    """The labels themselves, "finding|side|zone|severity"."""
    labels = [label.split("|") for label in pool.frame["labels"][pair]]
    if filters.view:
        return pool.frame["view"][pair] == filters.view
    if filters.finding == "No Finding":
        return all(label[0] == "No Finding" for label in labels)
    for label in labels:
        side = label[1] if len(label) > 1 else ""
        has_side = not filters.side or side in (filters.side, "bilateral")
        if has_side and filters.finding in ("", label[0]):
            return True
    return False


def test_too_few_fitting_hits_are_said(pool):
    answer = explorer.ask(pool, "effusion", 5, Filters("No such finding"))
    assert answer.hits == []
    assert "0 fit the filter (No such finding)" in " ".join(answer.notes)


# What is said of odd questions


def test_no_good_match_means_below_the_validation_split_s_best_hits(pool, place):
    ids = explorer.open_pool("smoke").dataset.frame.query("split == 'validate'")["pair_id"]
    image, report = results.load_embeddings(
        place / "results/smoke/mcr-seed0/embeddings-validate.npz", ids
    )
    best = (image @ report.T).max(axis=1)
    assert pool.support["image_to_report"] == pytest.approx(np.percentile(best, 1), abs=1e-5)
    strict = dict.fromkeys(explorer.DIRECTIONS, 2.0)
    lenient = dict.fromkeys(explorer.DIRECTIONS, -1.0)
    for support, expected in ((strict, False), (lenient, True)):
        object.__setattr__(pool, "support", support)
        answer = explorer.ask(pool, "effusion", 2)
        assert answer.is_match == expected
        assert any("No good match" in note for note in answer.notes) != expected
    explorer._open_pool.cache_clear()


STRANGE = {
    "": "is empty",
    " \n\t": "is empty",
    "x" * 200_000: "may have 100,000",
}


@pytest.mark.parametrize("text", STRANGE)
def test_texts_that_cannot_be_asked_are_refused_in_a_sentence(pool, text):
    with pytest.raises(ValueError, match=STRANGE[text]):
        explorer.ask(pool, text)


def test_unknown_words_and_cut_texts_are_said(pool):
    notes = explorer.ask(pool, "effusion 🎉 правосторонний", 1).notes
    assert any("tokenizer does not know “🎉”, “правосторонний”" in note for note in notes)
    notes = explorer.ask(pool, "banana effusion", 1).notes
    assert any("No training report has “banana”" in note for note in notes)
    notes = explorer.ask(pool, "effusion " * 5000, 1).notes
    assert any("5,002 tokens" in note and "was cut" in note for note in notes)
    assert explorer.ask(pool, pool.frame["report"][0], 1).notes in ([], ["No good match"])


@settings(max_examples=40, deadline=None)
@given(st.text(min_size=1, max_size=300))
def test_any_text_is_answered_or_refused_and_shown_escaped(place, text):
    pool = explorer.open_pool("smoke")
    try:
        answer = explorer.ask(pool, text, 2)
    except ValueError as error:
        assert "is empty" in str(error) and not text.strip()
        return
    page = explorer.show(answer)
    tags = set(re.findall(r"<\s*/?\s*([a-zA-Z]+)", page))
    assert tags <= {"style", "table", "tbody", "tr", "td", "b", "br", "span", "img", "ul", "li"}


def test_script_in_questions_and_reports_is_text(pool):
    evil = '<script>alert(1)</script><img src=x onerror="alert(2)">'
    answer = explorer.ask(pool, evil, 1)
    answer.hits[0]["report"] = evil
    page = explorer.show(answer)
    assert "<script>" not in page and "<img src=x" not in page
    assert html.escape("<script>") in page


DEEP = (np.arange(64 * 64).reshape(64, 64) * 15).astype(np.uint16)


def dicom_without_pixels():
    header = pydicom.dataset.FileMetaDataset()
    header.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    header.MediaStorageSOPClassUID = pydicom.uid.ComputedRadiographyImageStorage
    header.MediaStorageSOPInstanceUID = "1.2.3"
    file = pydicom.dataset.FileDataset("", {}, file_meta=header, preamble=b"\0" * 128)
    file.PatientID = "nobody"
    buffer = io.BytesIO()
    file.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "image file is empty"),
        (b"a report in a text file", "is not a JPEG, PNG or DICOM image"),
        (b"\0" * 50_000_000, "is not a JPEG, PNG or DICOM image"),
        (encoded(DEEP.astype(np.uint8))[:200], "truncated or damaged"),
        (dicom_without_pixels(), "DICOM file has no pixels"),
        (encoded(np.full((64, 64), 7, np.uint8), "PNG"), "one grey only"),
    ],
)
def test_files_without_a_radiograph_are_refused_in_a_sentence(pool, content, reason):
    with pytest.raises(ValueError, match=f"This radiograph cannot be read: .*{reason}"):
        explorer.ask(pool, content)


def test_unusual_files_are_answered_with_a_warning(pool):
    cmyk = Image.fromarray(photograph()).convert("CMYK")
    buffer = io.BytesIO()
    cmyk.save(buffer, "JPEG")
    for content in (encoded(photograph()), encoded(photograph(), "PNG"), buffer.getvalue()):
        notes = " ".join(explorer.ask(pool, content, 1).notes)
        assert "in colour" in notes and "unlike the radiographs" in notes
    assert explorer.ask(pool, encoded(DEEP, "PNG"), 1).hits
    noise = np.random.default_rng(0).integers(0, 256, (96, 96)).astype(np.uint8)
    assert "unlike" in " ".join(explorer.ask(pool, noise, 1).notes)


def test_most_test_pictures_count_as_usual(pool):
    unusual = [pool.familiar.unusual(pool.picture(pair)) > 1 for pair in range(len(pool))]
    assert np.mean(unusual) < 0.2


# Comparing


def test_comparisons_put_the_worst_and_the_disagreements_first(pool):
    table = explorer.compare(["mcr", "dual"], "smoke")
    assert table["pair_id"].tolist() == pool.frame["pair_id"].tolist()
    worst = explorer.compare(["mcr"], "smoke", order="worst")["mcr"]
    assert worst.is_monotonic_decreasing
    told = explorer.compare(["mcr", "dual"], "smoke", order="disagreement", k=5)
    is_told_apart = ((told["mcr"] <= 5) & (told["dual"] > 5)).tolist()
    assert is_told_apart == sorted(is_told_apart, reverse=True)
    for pair_id, rank in zip(told["pair_id"][:3], told["dual"][:3], strict=True):
        answer = explorer.search(Pair(pair_id), 1, "smoke", "dual")
        assert answer.partner_rank == rank


@pytest.mark.parametrize(
    "wrong, reason",
    [
        ({"variants": "mcr"}, "a list of names"),
        ({"variants": []}, "a list of names"),
        ({"variants": ["mcr"], "order": "best"}, "order is one of"),
        ({"variants": ["mcr"], "order": "disagreement"}, "two models"),
        ({"variants": ["mcr"], "direction": "up"}, "direction is one of"),
    ],
)
def test_wrong_comparisons_are_refused(place, wrong, reason):
    with pytest.raises(ValueError, match=reason):
        explorer.compare(run="smoke", **wrong)


def test_answers_of_two_models_are_shown_in_two_rows_and_of_two_questions_refused(pool):
    pair = Pair(pool.frame["pair_id"][0])
    answers = [explorer.search(pair, 2, "smoke", variant) for variant in ("mcr", "dual")]
    page = explorer.show(answers)
    assert page.count("mcr  #") == 2 and page.count("dual  #") == 2
    assert "mcr-seed0: The true partner has rank" in page
    with pytest.raises(ValueError, match="several questions"):
        explorer.show([answers[0], explorer.search("effusion", 2, "smoke")])


# Large pools


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_rows_on_disk_are_searched_exactly(tmp_path, kind):
    draw = np.random.default_rng(0)
    stored = draw.standard_normal((20_000, 16)).astype(kind)
    np.save(tmp_path / "rows.npy", stored)
    order = draw.permutation(len(stored))
    rows = nearest.rows_of(np.load(tmp_path / "rows.npy", mmap_mode="r"), order, 1e-12)
    query = draw.standard_normal(16)
    query /= np.linalg.norm(query)
    exact = stored.astype(np.float64)[order]
    exact = exact @ query / np.linalg.norm(exact, axis=1)
    cosines = rows.cosines(query)
    np.testing.assert_allclose(cosines, exact, atol=1e-5)
    assert (nearest.by_score(cosines)[:10] == np.argsort(-exact)[:10]).all()
    np.testing.assert_allclose(rows.take(np.arange(5)) @ query, exact[:5], atol=1e-5)


def test_equal_scores_count_against_the_partner():
    cosines = np.array([0.5, 0.5 + 5e-7, 0.4, 0.9], np.float32)
    assert nearest.rank_of(cosines, 0) == 3 and nearest.rank_of(cosines, 3) == 1


def test_embeddings_stay_on_disk_and_bad_rows_are_named(tmp_path):
    ids = np.array(["a", "b", "c"])
    good = np.eye(3)
    file = tmp_path / "embeddings-test.npz"
    results.save_embeddings(file, good, good, ids, np.float16)
    mapped = results.map_embeddings(file, ["c", "a", "b"])
    assert isinstance(mapped["image"].stored, np.memmap)
    assert mapped["image"].cosines(good[2]).tolist() == [1, 0, 0]
    np.savez_compressed(file, image=good, report=good, pair_id=ids)
    assert results.map_embeddings(file, ids)["report"].cosines(good[1]).tolist() == [0, 1, 0]
    for bad in (0.0, np.nan, np.inf):
        broken = good.copy()
        broken[1] = bad
        np.savez(file, image=good, report=broken, pair_id=ids)
        with pytest.raises(ValueError, match="'report': row 1 has no direction"):
            results.map_embeddings(file, ids)
    results.save_embeddings(file, good, good, ids)
    with pytest.raises(ValueError, match="other pairs"):
        results.map_embeddings(file, ["a", "b", "x"])


# Drawing


def test_heat_has_one_scale_for_all_maps():
    grey = np.full((8, 8), 100, np.uint8)
    shares = np.zeros((2, 2))
    shares[0, 1] = looks.FULL_SHARE
    shares[1, 0] = -5 * looks.FULL_SHARE
    drawn = looks.heat(grey, shares, 8)
    assert (drawn[:4, :4] == 100).all() and (drawn[4:, 4:] == 100).all()
    red, _, blue = drawn[0, 7].astype(int)
    assert red > blue
    red, _, blue = drawn[7, 0].astype(int)
    assert blue > red
    half = looks.heat(grey, shares / 2, 8)
    assert 100 < half[0, 7, 0] < drawn[0, 7, 0]
    assert "row 2, column 1" in looks.most_telling(shares, 1)


@pytest.mark.parametrize("method", looks.METHODS)
def test_the_map_has_two_points_a_pair_and_is_the_same_each_time(pool, method):
    table = looks.split_map(pool, method)
    assert len(table) == 2 * len(pool) and set(table["half"]) == {"image", "report"}
    assert table[["x", "y"]].min().min() == 0 and table[["x", "y"]].max().max() == 1
    assert table[["x", "y"]].equals(looks.split_map(pool, method)[["x", "y"]])
    inside = looks.chosen_points(table, (0.2, 0.5), (0, 1))
    assert inside["x"].between(0.2, 0.5).all() and len(inside) < len(table)


def test_the_map_and_its_table_escape_what_reports_say(pool):
    table = looks.split_map(pool)
    table["report"] = "<script>alert(1)</script>"
    for page in (looks.map_html(pool, table, "Edema"), looks.table_html(table)):
        assert "<script>" not in page and "&lt;script&gt;" in page
