"""Retrieval by number of training pairs: the training takes the first of them for as many steps,
and slopes are those of a plain least squares fit."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_notebooks import execute

from mcrlib import config, results
from mcrlib.companion import captions, claims, experiments, growth, publish
from mcrlib.data.batches import SplitPairs
from mcrlib.evaluation import attributes, endpoints
from mcrlib.training.loop import train

(QUESTION,) = experiments.chosen("scale")
SIZES = {"pairs-500-": 500, "pairs-1000-": 1000, "pairs-2000-": 2000, "": 128}


# Names and settings


def test_a_run_with_fewer_pairs_has_the_data_and_all_other_settings_of_its_preset():
    few = config.load("pairs-500-demo", "dual")
    whole = config.load("demo", "dual")
    assert few.train_pairs == 500 and whole.train_pairs == 0
    assert few.replace(run="demo", train_pairs=0) == whole
    assert few.data_folder == whole.data_folder
    assert few.data_settings() == whole.data_settings()
    assert "train_pairs" not in whole.deciding() and few.deciding()["train_pairs"] == 500
    assert config.preset("pairs-500-demo") == "demo" and config.pairs_of("half-demo") == 0


@pytest.mark.parametrize("run", ["pairs-0-demo", "pairs--demo", "pairs-5x-demo", "pairs-500-no"])
def test_other_names_are_refused(run):
    with pytest.raises(ValueError, match="There is no run"):
        config.check_names(run, "mcr", "0")


def test_make_knows_runs_with_fewer_pairs():
    root = Path(__file__).parents[1]
    for run, known in (("pairs-500-demo", True), ("pairs-500-other", False)):
        command = ["make", "-n", "help", f"RUN={run}"]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True)
        assert (done.returncode == 0) == known, done.stderr


def test_a_run_with_fewer_pairs_is_not_published():
    with pytest.raises(ValueError, match="is a pairs-500 run: publish RUN=demo"):
        publish.publish("pairs-500-demo")


# Training


def test_the_first_pairs_are_trained_on_for_as_many_steps(dataset, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "smoke").symlink_to(dataset.folder)
    monkeypatch.setattr(config, "ROOT", tmp_path)
    small = {"vision_width": 16, "text_width": 16, "embed_dim": 16, "batch_size": 16}
    settings = config.load("pairs-40-smoke", epochs=2, validate_every=1, **small)
    history = train(settings, dataset)
    whole = 128 // 16
    budget = json.loads((settings.folder / "budget.json").read_bytes())
    assert budget["steps"] == 2 * whole
    assert budget["epoch_steps"] == 40 // 16 and len(history) == 8
    validated = history[history.filter(like="recall").columns[0]].notna()
    assert validated[validated].index.tolist() == [3, 7]  # as often as with all pairs


def test_pairs_are_the_first_of_the_split(dataset):
    rows = dataset.training_rows(40)
    assert rows.tolist() == dataset.indices("train")[:40].tolist()
    assert dataset.training_rows().tolist() == dataset.indices("train").tolist()
    with pytest.raises(ValueError, match=r"There are 128 training pairs .* fewer than the 500"):
        dataset.training_rows(500)


def test_batches_are_equal_to_those_of_the_whole_split(dataset):
    from mcrlib import pretrained

    settings = config.load("smoke")
    reports = dataset.frame["report"].tolist()
    tokenizer = pretrained.load_tokenizer(settings, reports)
    whole = SplitPairs(dataset, "train", settings, tokenizer)
    few = SplitPairs(dataset, "train", settings.replace(train_pairs=40), tokenizer)
    assert (len(whole), len(few)) == (128, 40)
    wanted = [3, 39, 20]
    ours, theirs = few.__getitems__(wanted), whole.__getitems__(wanted)
    assert (ours.pixels == theirs.pixels).all() and (ours.tokens == theirs.tokens).all()
    test = SplitPairs(dataset, "test", settings.replace(train_pairs=40), tokenizer)
    assert len(test) == 48


# Slopes


@settings(deadline=None)
@given(
    pairs=st.lists(st.integers(1, 10**6), min_size=2, max_size=6, unique=True),
    seed=st.integers(0, 99),
)
def test_slopes_are_those_of_a_plain_fit(pairs, seed):
    values = np.random.default_rng(seed).standard_normal(len(pairs))
    plain = np.polyfit(np.log2(pairs), values, 1)[0]
    assert growth.slope_weights(pairs) @ values == pytest.approx(plain, rel=1e-4, abs=1e-6)


def test_one_size_has_no_slope():
    with pytest.raises(ValueError, match="two different numbers"):
        growth.slope_weights([500, 500])


@pytest.fixture
def place(tmp_path, dataset, monkeypatch):
    """A function that saves a model's embeddings and record in a temporary home."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "smoke").symlink_to(dataset.folder)
    monkeypatch.setattr(config, "ROOT", tmp_path)

    def place(beginning, name, noise=1.0, flops=1000):
        draw = np.random.default_rng([len(name), int(name[-1]), SIZES[beginning]])
        ids = dataset.frame["pair_id"].iloc[dataset.indices("test")]
        image = draw.standard_normal((len(ids), 8))
        report = image + noise * draw.standard_normal(image.shape)
        folder = tmp_path / "results" / f"{beginning}smoke" / name
        results.save_embeddings(folder / "embeddings-test.npz", image, report, ids)
        values = {"seconds": 60.0, "epochs": 2, "steps": 10, "flops_a_step": 10, "flops": flops}
        results.save(folder / "training.json", values)
        return image, report

    place.folder = tmp_path / "results" / "smoke"
    place.figures = tmp_path / "figures" / "smoke"
    return place


def place_all(place, seeds=(0,), **changes):
    """`mcr` gains by pairs, `dual` does not; the whole run has 128 pairs."""
    noises = {"": 3.0, "pairs-500-": 2.0, "pairs-1000-": 1.0, "pairs-2000-": 0.3}
    embedded = {}
    for beginning, noise in noises.items():
        for seed in seeds:
            for variant, own in (("mcr", noise), ("dual", 3.0)):
                name = f"{variant}-seed{seed}"
                embedded[beginning, name] = place(beginning, name, own, **changes)
    return embedded


def test_points_and_slopes_are_those_of_plain_functions(place, dataset):
    """The slope and its interval: a fit of the means, and of the means of resampled patients."""
    embedded = place_all(place, seeds=(0, 1))
    test = dataset.frame.iloc[dataset.indices("test")]
    shown = [attributes.of_labels(labels) for labels in test["labels"]]
    measured = growth.measure("smoke", draws=4000).values
    assert len(measured["points"]) == 8 and len(measured["slopes"]) == 4
    by_pair = {key: endpoints.by_pair(*rows, shown) for key, rows in embedded.items()}
    patients = test["patient_id"].to_numpy()
    rows_of = [np.flatnonzero(patients == patient) for patient in np.unique(patients)]
    draw = np.random.default_rng(0)
    doublings = np.log2(list(SIZES.values()))
    for endpoint in growth.ENDPOINTS:
        means = []
        for beginning in SIZES:
            seeds = [by_pair[beginning, f"mcr-seed{seed}"][endpoint] for seed in (0, 1)]
            means.append(np.mean(seeds, axis=0))
        means = np.stack(means)
        (point,) = (
            point
            for point in measured["points"]
            if (point["run"], point["variant"]) == ("pairs-500-smoke", "mcr")
        )
        assert point["pairs"] == 500 and point[endpoint]["value"] == pytest.approx(
            np.nanmean(means[0])
        )
        (record,) = (
            record
            for record in measured["slopes"]
            if (record["variant"], record["endpoint"]) == ("mcr", endpoint)
        )
        plain = np.polyfit(doublings, np.nanmean(means, axis=1), 1)[0]
        assert record["slope"] == pytest.approx(plain, rel=1e-6)
        drawn = []
        for _ in range(1000):
            rows = np.concatenate(
                [rows_of[i] for i in draw.integers(len(rows_of), size=len(rows_of))]
            )
            drawn.append(np.polyfit(doublings, np.nanmean(means[:, rows], axis=1), 1)[0])
        low, high = np.quantile(drawn, [0.025, 0.975])
        width = high - low
        assert record["low"] == pytest.approx(low, abs=0.15 * width)
        assert record["high"] == pytest.approx(high, abs=0.15 * width)
    compared = {record["endpoint"]: record for record in measured["comparisons"]}
    slopes = {(r["variant"], r["endpoint"]): r["slope"] for r in measured["slopes"]}
    difference = slopes["mcr", "RSUM"] - slopes["dual", "RSUM"]
    assert compared["RSUM"]["difference"] == pytest.approx(difference)


def test_a_missing_size_leaves_points_without_slopes_and_is_named(place):
    place("pairs-500-", "mcr-seed0")
    place("", "mcr-seed0")
    place("", "abm-seed0")  # is no line of the figure
    measured = growth.measure("smoke", draws=50)
    assert [point["pairs"] for point in measured.values["points"]] == [500, 128]
    assert measured.values["slopes"] == measured.values["comparisons"] == []
    said = growth.missing("smoke", measured)
    assert said.startswith("Not there yet are dual with 500 pairs, mcr and dual with 1,000 pairs")
    assert said.endswith("run `make experiments RUN=smoke ONLY=scale`.")
    assert "dual with all pairs" in captions.growth_figure("smoke", measured)


def judged(place):
    growth.measure("smoke", draws=2000)
    return claims.judge(QUESTION, claims.gather("smoke"))


def test_the_verdict_needs_all_sizes_three_seeds_and_equal_compute(place):
    place("", "mcr-seed0")
    assert judged(place)["sentence"].startswith("Not measured: 1 of 8 points are there")
    place_all(place)
    few = judged(place)
    assert few["verdict"] == claims.OPEN and "asks for 3 seeds" in few["sentence"]
    place_all(place, seeds=(0, 1, 2))
    won = judged(place)
    assert won["verdict"] == claims.SUPPORTED
    assert "RSUM of mcr grows faster than that of dual" in won["sentence"]
    assert "From 128 to 2,000 training pairs, tested on 48 drawn test pairs" in won["sentence"]
    for seed in (0, 1, 2):
        place("", f"dual-seed{seed}", 3.0, flops=2000)
    unequal = judged(place)
    assert unequal["verdict"] == claims.OPEN and "Not all had equal compute" in unequal["sentence"]


def test_numbers_follow_models_and_the_notebook_writes_equal_files_again(place, capsys):
    place_all(place)
    place("pairs-500-", "mcr-seed1")  # a seed that not all sizes have
    half = place.folder.parent / "half-smoke" / "mcr-seed0"
    half.mkdir(parents=True)
    source = place.folder / "mcr-seed0" / "embeddings-test.npz"
    (half / "embeddings-test.npz").write_bytes(source.read_bytes())  # notebook 07 needs one
    execute("07_ablations", draws=50)
    said = capsys.readouterr().out
    assert said.endswith("All models are there.\n")
    caption = (place.figures / "scale.txt").read_text()
    assert "Twice as many pairs give mcr +" in caption
    assert "1,000" in (place.folder / "scale.csv").read_text()
    assert "pairs" in (place.folder / "scale.tex").read_text()
    files = [*place.folder.glob("*.*"), *place.figures.iterdir()]
    before = {file: file.stat().st_mtime_ns for file in files}
    execute("07_ablations", draws=50)
    assert {file: file.stat().st_mtime_ns for file in files} == before


def test_the_reference_draws_saved_numbers_or_says_how_to_get_them(place, tmp_path):
    none = growth.measure("reference")
    assert none.values["points"] == []
    assert "then `make publish`" in growth.missing("reference", none)
    place("", "mcr-seed0")
    saved = growth.measure("smoke", draws=50)
    copied = tmp_path / "results" / "reference" / growth.FILE
    copied.parent.mkdir()
    copied.write_text((place.folder / growth.FILE).read_text())
    assert growth.measure("reference").values == json.loads(json.dumps(saved.values))
