"""RSUM over compute and memory: which models are drawn, their numbers, and what is said of them."""

import json

import numpy as np
import pytest
from test_notebooks import execute

from mcrlib import config, results
from mcrlib.companion import captions, claims, experiments, scaling
from mcrlib.evaluation import attributes, endpoints, relevance

FLOPS = {"half-": 50_000, "": 100_000, "double-": 200_000}
(QUESTION,) = experiments.chosen("compute")


@pytest.fixture
def place(tmp_path, dataset, monkeypatch):
    """A function that saves a model's embeddings and record in a temporary home."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "smoke").symlink_to(dataset.folder)
    monkeypatch.setattr(config, "ROOT", tmp_path)

    def place(beginning, name, noise=1.0, flops=None):
        draw = np.random.default_rng(len(beginning + name))
        ids = dataset.frame["pair_id"].iloc[dataset.indices("test")]
        image = draw.standard_normal((len(ids), 8))
        report = image + noise * draw.standard_normal(image.shape)
        folder = tmp_path / "results" / f"{beginning}smoke" / name
        results.save_embeddings(folder / "embeddings-test.npz", image, report, ids)
        values = {"seconds": 60.0, "epochs": 2, "steps": 10, "flops_a_step": 1000}
        values["flops"] = FLOPS[beginning] if flops is None else flops
        if values["flops"]:
            results.save(folder / "training.json", values)
        return image, report

    place.folder = tmp_path / "results" / "smoke"
    place.figures = tmp_path / "figures" / "smoke"
    return place


def place_all(place, seeds=(0,), noise=8.0, **changes):
    for beginning in FLOPS:
        for variant in scaling.COMPUTE_VARIANTS:
            for seed in seeds:
                own_noise = 0.1 if variant == "mcr" else noise
                place(beginning, f"{variant}-seed{seed}", own_noise, **changes)


def test_points_are_those_of_the_plain_functions_and_of_the_records(place, dataset):
    image, report = place("half-", "dual-seed0")
    place("half-", "mcr-seed0", 0.1)
    place("", "abm-seed0")  # is no line of the figure
    test = dataset.frame.iloc[dataset.indices("test")]
    own_attributes = [attributes.of_labels(labels) for labels in test["labels"]]
    patients = test["patient_id"].tolist()
    measured = scaling.measure("smoke", draws=300)
    mcr, dual = measured.values["points"]
    assert (mcr["variant"], dual["variant"]) == ("mcr", "dual")
    assert (dual["run"], dual["times"], dual["seeds"]) == ("half-smoke", 0.5, ["0"])
    assert (dual["flops"], dual["epochs"], dual["seconds"]) == (50_000, 2, 60)
    assert dual["memory_gb"] > 0
    plain = relevance.evaluate(image, report, own_attributes, patients, draws=1)["both"]
    assert dual["value"] == pytest.approx(plain[experiments.RSUM]["value"])
    assert dual["low"] < dual["value"] < dual["high"]
    values = endpoints.by_pair(image, report, own_attributes)[experiments.RSUM]
    assert (endpoints.rsum_by_pair(image, report) == values).all()
    (compared,) = measured.values["comparisons"]
    assert compared["variants"] == ["mcr", "dual"] and compared["at_equal_compute"]
    assert compared["difference"] == pytest.approx(mcr["value"] - dual["value"])


def test_only_equal_budgets_are_compared(place):
    place("half-", "mcr-seed0")
    place("", "dual-seed0")
    place("double-", "mcr-seed0")
    place("double-", "dual-seed0", flops=400_000)
    place("double-", "clip-seed1")
    compared = scaling.measure("smoke", draws=50).values["comparisons"]
    measured = [record for record in compared if record["seeds"]]
    assert [(record["times"], record["variants"][1]) for record in measured] == [(2, "dual")]
    assert not measured[0]["at_equal_compute"]


def test_numbers_are_made_anew_when_a_model_or_its_record_changes(place):
    place("", "mcr-seed0")
    scaling.measure("smoke", draws=50)
    file = place.folder / scaling.FILE
    before = file.read_bytes()
    scaling.measure("smoke", draws=50)
    assert file.read_bytes() == before
    place("", "mcr-seed0", flops=90_000)
    assert scaling.measure("smoke", draws=50).values["points"][0]["flops"] == 90_000
    place("double-", "mcr-seed0")
    assert len(scaling.measure("smoke", draws=50).values["points"]) == 2


def test_the_caption_says_what_is_missing_and_what_was_not_counted(place):
    place("half-", "mcr-seed0")
    place("half-", "dual-seed0")
    place("", "mcr-seed0", flops=0)
    measured = scaling.measure("smoke", draws=50)
    caption = captions.compute_figure("smoke", measured)
    assert "Not there: clip at 0.5 times the compute, mcr and dual and clip at 1 times" in caption
    assert "operations were not counted: smoke/mcr-seed0." in caption
    assert "48 pairs, seed 0." in caption
    assert "make experiments RUN=smoke ONLY=compute" in scaling.missing("smoke", measured)
    place_all(place)
    whole = scaling.measure("smoke", draws=50)
    assert scaling.missing("smoke", whole) == ""
    assert "Not there" not in captions.compute_figure("smoke", whole)
    assert "not counted" not in captions.compute_figure("smoke", whole)


def judged(place):
    scaling.measure("smoke", draws=2000)
    return claims.judge(QUESTION, claims.gather("smoke"))


def test_the_verdict_needs_all_computes_equal_and_three_seeds(place):
    place("half-", "mcr-seed0")
    place("half-", "dual-seed0")
    assert judged(place)["sentence"].startswith("Not measured: 1 of 6 comparisons are there")
    place_all(place)
    few = judged(place)
    assert few["verdict"] == claims.OPEN and "asks for 3 seeds" in few["sentence"]
    place_all(place, seeds=(0, 1, 2))
    won = judged(place)
    assert won["verdict"] == claims.SUPPORTED
    assert len(won["numbers"]) == 6 and "dual at 0.5 " in won["sentence"]
    assert "clip at 2 " in won["sentence"] and "48 drawn test pairs" in won["sentence"]
    place("double-", "clip-seed2", 8.0, flops=300_000)
    unequal = judged(place)
    assert unequal["verdict"] == claims.OPEN and "Not all had equal compute" in unequal["sentence"]


def test_the_notebook_draws_what_is_there_and_writes_equal_files_again(place, capsys):
    place_all(place)
    execute("07_ablations", draws=50)
    assert "All models are there." in capsys.readouterr().out
    caption = (place.figures / "compute.txt").read_text()
    assert "At 0.5 times: Trained at equal epochs (2 each)." in caption
    files = [*place.folder.glob("*.*"), *place.figures.iterdir()]
    before = {file: file.stat().st_mtime_ns for file in files}
    execute("07_ablations", draws=50)
    assert {file: file.stat().st_mtime_ns for file in files} == before


def test_the_reference_draws_saved_numbers_or_says_how_to_get_them(place, tmp_path):
    none = scaling.measure("reference")
    assert none.values["points"] == []
    assert "then `make publish`" in scaling.missing("reference", none)
    place("", "mcr-seed0")
    saved = scaling.measure("smoke", draws=50)
    copied = tmp_path / "results" / "reference" / scaling.FILE
    copied.parent.mkdir()
    copied.write_text((place.folder / scaling.FILE).read_text())
    assert scaling.measure("reference").values == json.loads(json.dumps(saved.values))
