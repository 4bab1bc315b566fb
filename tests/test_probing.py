"""What models are asked about their test pairs, how it is kept, and what the run says of it."""

import dataclasses

import numpy as np
import pytest
import torch

from mcrlib import config, results
from mcrlib.companion import analyses, probe_files, probing
from mcrlib.data import reports
from mcrlib.data.sources import phantom
from mcrlib.data.sources.phantom import edits
from mcrlib.evaluation import findings, probes
from mcrlib.evaluation.baseline import fit

NAN = float("nan")


@pytest.fixture
def asked(build, dataset):
    """A model with random weights, and its scores on the smoke run."""
    model = build()
    return model, ask(model, dataset)


def ask(model, dataset):
    image = model.embed_images(dataset.images[dataset.indices("test")])
    return probing.ask(model, model.config, dataset, image)


def only(dataset, keep, **info):
    """The data set with some of its test pairs only, rows by `keep` of the frame."""
    rows = np.flatnonzero((dataset.frame["split"] != "test") | keep(dataset.frame))
    frame = dataset.frame.iloc[rows].reset_index(drop=True)
    return dataclasses.replace(
        dataset, frame=frame, images=dataset.images[rows], info=dataset.info | info
    )


def cosine(model, picture, report):
    image = model.embed_images(picture[None])
    return float((image @ model.embed_reports([report]).T).item())


def test_a_drawn_report_is_read_as_the_data_set_was(smoke, dataset):
    written = {pair.pair_id: pair.draft.text for pair in phantom.pairs(smoke)}
    for name, report in zip(dataset.frame["pair_id"], dataset.frame["report"], strict=True):
        assert reports.text_of(written[name], smoke.policy) == report


def test_scores_are_the_cosines_of_a_plain_loop(asked, dataset):
    model, scores = asked
    settings = model.config
    drawn = {minimal.pair_id: minimal for minimal in edits.of_split(settings, "test")}
    rows = dataset.indices("test")
    for place in range(6):
        name = scores.pair_id[place]
        picture = dataset.images[rows[place]]
        minimal = drawn[name]
        expected = dict.fromkeys(scores.margins, NAN)
        for kind, edit in minimal.edits.items():
            texts = [reports.text_of(text, settings.policy) for text in edit]
            true, edited = [cosine(model, picture, text) for text in texts]
            expected[kind] = true - edited
        if minimal.poorer:
            own = reports.text_of(minimal.report, settings.policy)
            less = reports.text_of(minimal.poorer.report, settings.policy)
            other = minimal.poorer.picture()
            expected["omission"] = cosine(model, picture, own) - cosine(model, picture, less)
            expected["insertion"] = cosine(model, other, less) - cosine(model, other, own)
            expected["picture_less"] = cosine(model, picture, own) - cosine(model, other, own)
            expected["picture_more"] = cosine(model, other, less) - cosine(model, picture, less)
        for kind, values in scores.margins.items():
            assert values[place] == pytest.approx(expected[kind], abs=1e-5, nan_ok=True), kind
        edema = cosine(model, picture, "Pulmonary edema.")
        edema -= cosine(model, picture, "No pulmonary edema.")
        assert scores.prompts["Edema"][place] == pytest.approx(edema, abs=1e-5)
    assert set(scores.margins) == set(probes.KINDS)
    assert set(scores.prompts) == set(probes.PROMPTED)


def test_real_pairs_are_asked_about_swapped_words_and_need_no_labels(build, dataset):
    real = only(dataset, lambda frame: frame["split"] == "test", source="openi")
    real.frame["labels"] = None
    scores = ask(build(), real)
    assert set(scores.margins) == {"side", "zone", "severity"}
    for report, margin in zip(
        real.frame["report"].iloc[real.indices("test")], scores.margins["side"], strict=True
    ):
        swapped = probes.swaps(report, np.random.default_rng(0))
        assert np.isnan(margin) == ("side" not in swapped)


def test_pairs_drawn_with_other_settings_are_asked_the_prompts_alone(build, dataset):
    model = build(data_seed=7)
    scores = ask(model, dataset)
    assert scores.margins == {} and len(scores.prompts["Edema"]) == len(dataset.indices("test"))


@pytest.mark.parametrize("keep", ["normal", "one"])
def test_pools_without_findings_and_of_one_pair_have_defined_numbers(build, dataset, keep):
    is_normal = dataset.frame["labels"].map(len) == 0
    first = dataset.indices("test")[(~is_normal)[dataset.indices("test")].to_numpy()][0]
    rows = {"normal": is_normal, "one": dataset.frame.index == first}
    small = only(dataset, lambda frame: rows[keep])
    scores = ask(build(), small)
    pairs = len(small.indices("test"))
    has_finding = {"Edema": np.zeros(pairs, dtype=bool)}
    measured = probes.evaluate(scores, has_finding, draws=20)
    assert probes.ZERO_SHOT not in measured["report_to_image"]
    if keep == "normal":
        assert measured == {"image_to_report": {}, "report_to_image": {}}
        return
    assert pairs == 1
    for block in (*measured["image_to_report"].values(), *measured["report_to_image"].values()):
        assert block["low"] == block["value"] == block["high"]


def test_a_model_that_does_not_see_is_right_half_of_the_time_on_opposite_kinds():
    """One that likes findings whatever the picture, as one that likes none."""
    for liking in (0.1, -0.1):
        margins = {
            "omission": np.full(5, liking),
            "insertion": np.full(5, -liking),
            "picture_less": np.full(5, liking),
            "picture_more": np.full(5, -liking),
        }
        scores = probes.Scores(list("abcde"), margins, {})
        measured = probes.evaluate(scores, {}, draws=20)
        for direction, name in (
            ("image_to_report", probes.BOTH_REPORTS), ("report_to_image", probes.BOTH_PICTURES),
        ):  # fmt: skip
            block = measured[direction][name]
            assert (block["low"], block["value"], block["high"]) == (0.5, 0.5, 0.5)
    alone = probes.Scores(["a"], {"omission": np.ones(1)}, {})
    assert set(probes.accuracy(alone, draws=5)) == {"omission"}


def test_the_mean_auroc_is_that_of_the_findings():
    names = [str(row) for row in range(6)]
    rng = np.random.default_rng(0)
    prompts = {"Edema": rng.random(6), "Mass": rng.random(6), "Hernia": rng.random(6)}
    has = {"Edema": np.arange(6) < 2, "Mass": np.arange(6) % 2 > 0, "Hernia": np.zeros(6, bool)}
    block = probes.zero_shot(probes.Scores(names, {}, prompts), has, draws=50)
    values = [of_finding["value"] for of_finding in block["by_finding"].values()]
    assert set(block["by_finding"]) == {"Edema", "Mass"}
    assert block["value"] == pytest.approx(np.mean(values))
    assert block["low"] <= block["value"] <= block["high"]


# On disk


def some_scores():
    margins = {"side": np.array([0.5, NAN, -0.25]), "zone": np.array([0.0, 1e-7, 1.0])}
    return probes.Scores(["a", "b", "c"], margins, {"Edema": np.array([0.1, 0.2, 0.3])})


def test_scores_come_back_in_any_order_and_other_files_are_refused(tmp_path):
    scores = some_scores()
    probe_files.save(tmp_path, scores, {})
    file = tmp_path / probe_files.FILE
    again = probe_files.load(file, ["c", "a", "b"])
    for name in scores.margins:
        np.testing.assert_allclose(again.margins[name], scores.margins[name][[2, 0, 1]], rtol=1e-6)
    assert again.prompts["Edema"] == pytest.approx([0.3, 0.1, 0.2])
    for others in (["a", "b"], ["a", "b", "d"]):
        with pytest.raises(ValueError, match="holds other pairs"):
            probe_files.load(file, others)
    whole = file.read_bytes()
    for damaged in (b"", whole[:-60], b"no archive"):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"is damaged .*embed its pairs anew"):
            probe_files.load(file, ["a", "b", "c"])
    probe_files.save(tmp_path, probes.Scores([*"ab"], {}, {}), {})
    assert probe_files.load(file, [*"ab"]).margins == {}


# Of a run


@pytest.fixture
def run(build, dataset, tmp_path, monkeypatch):
    """The smoke run in a home of its own, with one model that was asked."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "smoke").symlink_to(dataset.folder)
    monkeypatch.setattr(config, "ROOT", tmp_path)
    model = build()
    analyses.embed(model, model.config, dataset, "test")
    analyses.embed(model, model.config, dataset, "validate")
    return tmp_path / "results" / "smoke"


def test_embedding_asks_and_the_numbers_say_who_was_not_asked(run, dataset):
    theirs = dataset.frame["pair_id"].iloc[dataset.indices("test")]
    random = torch.randn(2, len(theirs), 8)
    results.save_embeddings(run / "theirs-seed0/embeddings-test.npz", *random, theirs)
    analyses.add_linear_baseline("smoke")
    assert {file.parent.name for file in run.glob(f"*/{probe_files.FILE}")} == {
        "mcr-seed0", "tfidf-seed0",
    }  # fmt: skip
    numbers = analyses.measure_probes("smoke", draws=20)
    assert set(numbers.values) == {"mcr", "tfidf"}
    assert numbers.provenance["not_asked"] == ["theirs"]
    fitted = fit(dataset)
    image = fitted.embed_images(dataset.images[dataset.indices("test")])
    scores = probing.ask(fitted, config.load("smoke"), dataset, image)
    for direction, blocks in numbers.values["tfidf"].items():
        assert set(probes.MEASURES[direction]) <= set(blocks)
        for block in blocks.values():
            assert block["low"] <= block["value"] <= block["high"]
    won = scores.margins["side"][~np.isnan(scores.margins["side"])] > 1e-6
    assert numbers.values["tfidf"]["image_to_report"]["side"]["value"] == pytest.approx(won.mean())
    before = (run / "probes.json").stat().st_mtime_ns
    analyses.measure_probes("smoke", draws=20)
    assert (run / "probes.json").stat().st_mtime_ns == before


def test_a_run_of_models_that_were_not_asked_says_so(run):
    (run / "mcr-seed0" / probe_files.FILE).unlink()
    numbers = analyses.measure_probes("smoke", draws=20)
    assert numbers.values == {} and numbers.provenance["not_asked"] == ["mcr"]


def test_probes_of_another_model_are_refused(run):
    probe_files.save(run / "mcr-seed0", some_scores(), {"dataset": "another"})
    with pytest.raises(ValueError, match=r"another model .* remove both .* `make embed RUN=smoke`"):
        analyses.measure_probes("smoke", draws=20)


def test_which_findings_real_pairs_have_is_read_from_their_reports(run, dataset, monkeypatch):
    monkeypatch.setattr(config, "DRAWN_SOURCES", ())
    numbers = analyses.measure_probes("smoke", draws=20)
    block = numbers.values["mcr"]["report_to_image"][probes.ZERO_SHOT]
    texts = dataset.frame["report"].iloc[dataset.indices("test")]
    said = [findings.present(text) for text in texts]
    for finding, of_finding in block["by_finding"].items():
        assert of_finding["positives"] == sum(finding in names for names in said)
