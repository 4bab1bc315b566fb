"""Ablations: which models, where they are kept, and numbers that equal the plain ones."""

import numpy as np
import pandas as pd
import pytest
from test_notebooks import execute

from mcrlib import config, results, tables
from mcrlib.companion import ablations, doctor
from mcrlib.evaluation import attributes, relevance, retrieval

CHANGED = ("no-image-mask", "linear-map", "vrc-weight-10", "abm")


@pytest.fixture
def place(tmp_path, dataset, monkeypatch):
    """A function that saves a model's embeddings among those of half of the smoke run's epochs."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "smoke").symlink_to(dataset.folder)
    monkeypatch.setattr(config, "ROOT", tmp_path)

    def place(name, seed, noise=1.0):
        draw = np.random.default_rng(seed)
        ids = dataset.frame["pair_id"].iloc[dataset.indices("test")]
        image = draw.standard_normal((len(ids), 8))
        report = image + noise * draw.standard_normal(image.shape)
        file = tmp_path / "results" / "half-smoke" / name / "embeddings-test.npz"
        results.save_embeddings(file, image, report, ids)
        return image, report

    place.results, place.figures = tmp_path / "results" / "smoke", tmp_path / "figures" / "smoke"
    return place


def values(run, group):
    """Setting -> variant of one group of rows."""
    return {row.setting: row.variant for row in ablations.listed(run) if row.group == group}


@pytest.mark.parametrize("run", ["demo", "mimic"])
def test_the_list_has_every_ablation_and_the_method_s_own_setting_in_its_place(run):
    for group, shares in (("image mask", (25, 35, 50, 75)), ("report mask", (15, 25, 35, 50))):
        field = ablations.MASKS[group]
        own = values(run, group)
        for share in shares:
            assert getattr(config.load(run, own[f"{share} %"]), field) == share / 100
        (unmasked,) = [variant for setting, variant in own.items() if "none" in setting]
        assert getattr(config.load(run, unmasked), field) == 0
    weights = values(run, "weight of L_vrc")
    assert [config.load(run, name).vrc_weight for name in weights.values()] == [0.1, 1, 10]
    assert weights["1" if run == "demo" else "0.1"] == "mcr"
    both_orders = values(run, "aggregation, MbA"), values(run, "aggregation, AbM")
    for alignment, own in zip(("mba", "abm"), both_orders, strict=True):
        models = [config.load(run, name) for name in own.values()]
        assert [model.aggregation for model in models] == ["attention", "mean", "max"]
        assert {model.alignment for model in models} == {alignment}
    linear = [config.load(run, name) for name in values(run, "linear F, attention").values()]
    assert [(model.mapping, model.alignment) for model in linear] == [
        ("linear", "mba"), ("linear", "abm"),
    ]  # fmt: skip
    names = ablations.variants(run)
    assert names[0] == "mcr" and len(set(names)) == len(names) == 21
    assert {"no-mim", "no-mrm", "linear-map", "abm-linear-map"} <= set(names)


def test_a_half_run_has_half_of_the_epochs_and_everything_else_of_the_run():
    for run in config.RUNS:
        whole, half = config.load(run), config.load(f"half-{run}")
        assert half.epochs == whole.epochs // 2
        for other in (half, config.load(f"double-{run}")):
            assert other.replace(run=run, epochs=whole.epochs) == whole
            assert other.data_settings() == whole.data_settings()
            assert other.data_folder == whole.data_folder
            assert other.folder != whole.folder
        assert other.epochs == 2 * whole.epochs
    assert config.load("half-demo", epochs=3).epochs == 3
    rehearsal = config.load("rehearse-half-demo")
    assert rehearsal.epochs == config.load("half-demo").epochs
    assert rehearsal.sample == config.REHEARSED_PAIRS
    assert rehearsal.data_folder.name == "rehearse-half-demo"


def test_there_is_no_half_of_an_unknown_run_or_of_a_half(tmp_path):
    config.check_names("half-demo", "mcr", "0")
    for run in ("half-demmo", "half-half-demo", "half-", "double-half-demo", "double-"):
        with pytest.raises(ValueError, match="There is no run"):
            config.load(run)
        with pytest.raises(ValueError, match="There is no run"):
            config.check_names(run, "mcr", "0")
    assert "use RUN=demo" in doctor.obstacle("half-reference", "", "")
    for run in ("half-mimic", "double-mimic"):
        assert "CONFIRM=1" in doctor.obstacle(run, str(tmp_path), "")
    assert "use RUN=demo" in ablations.main(["double-demo"])


def test_half_of_a_run_knows_the_pairs_of_the_run(place, dataset):
    whole_hash = results.dataset_hash("smoke")
    assert whole_hash == results.dataset_hash("half-smoke") == dataset.info["dataset_sha256"][:16]
    assert results.dataset_of_run("half-smoke").folder == results.dataset_of_run("smoke").folder


def test_numbers_equal_those_of_the_plain_functions(place, dataset):
    embedded = {name: place(f"{name}-seed0", seed) for seed, name in enumerate(("mcr", *CHANGED))}
    test = dataset.frame.iloc[dataset.indices("test")]
    patients = test["patient_id"].tolist()
    own_attributes = [attributes.of_labels(labels) for labels in test["labels"]]
    compared = ablations.compare("smoke", draws=400)
    rows = np.arange(len(test))
    ranks = {}
    p_values = {}
    for name, (image, report) in embedded.items():
        both = [retrieval.ranks(a, b, rows, rows) for a, b in ((image, report), (report, image))]
        ranks[name] = np.array([both])
        plain = relevance.evaluate(image, report, own_attributes, patients, draws=1)["both"]
        record = compared.values[name]
        for measure in (ablations.RSUM, ablations.NDCG):
            assert record[measure]["value"] == pytest.approx(plain[measure]["value"], abs=1e-6)
    assert set(compared.values["mcr"][ablations.RSUM]) == {"value"}
    for name in CHANGED:
        plain = retrieval.compare_rsum(ranks[name], ranks["mcr"], patients, draws=400)
        block = compared.values[name][ablations.RSUM]
        for number in ("difference", "low", "high", "detectable", "no_loss"):
            assert block[number] == pytest.approx(plain[number], abs=1e-6)
        p_values[name] = plain["p"]
    corrected = retrieval.holm(list(p_values.values()))
    assert [compared.values[name][ablations.RSUM]["p"] for name in CHANGED] == corrected


def test_a_model_that_equals_mcr_is_no_worse_and_no_better_and_a_bad_one_is_worse(place):
    place("mcr-seed0", 0)
    place("linear-map-seed0", 0)
    place("no-mim-seed0", 0, noise=50.0)
    compared = ablations.compare("smoke", draws=400).values
    same = compared["linear-map"][ablations.RSUM]
    assert same["difference"] == 0 and same["verdict"] not in tables.TOLD
    assert compared["no-mim"][ablations.RSUM]["verdict"] == "worse"


def test_only_seeds_that_mcr_has_too_are_compared(place):
    for name in ("mcr-seed0", "mcr-seed2", "abm-seed0", "abm-seed1", "abm-seed2", "no-mim-seed1"):
        place(name, len(name))
    compared = ablations.compare("smoke", draws=50)
    assert compared.provenance["seeds"] == ["0", "2"]
    assert compared.values["abm"]["seeds"] == 2
    assert "no-mim" not in compared.values
    assert "no-mim" in ablations.missing("smoke", compared)


def test_the_notebook_shows_the_models_that_are_there_and_names_the_others(place, capsys):
    with pytest.raises(FileNotFoundError, match="make ablations RUN=smoke"):
        execute("07_ablations")
    with pytest.raises(FileNotFoundError, match=r"RUN=demo`, then `make publish`\."):
        ablations.compare("reference")
    place("linear-map-seed0", 1)
    with pytest.raises(FileNotFoundError, match="no embedded mcr in results/half-smoke"):
        execute("07_ablations")
    place("mcr-seed0", 0)
    for seed, name in enumerate((*CHANGED, "report-mask-50"), 1):
        place(f"{name}-seed0", seed)
    execute("07_ablations", draws=50)
    said = capsys.readouterr().out
    assert "image-mask-25" in said and "run `make ablations RUN=smoke`." in said
    assert "report-mask-50" not in said
    table = pd.read_csv(place.results / "ablations.csv")
    assert set(table["model"]) == {"mcr", *CHANGED, "report-mask-50"}
    no_mask = table.set_index("model").loc["no-image-mask"]
    assert no_mask["group"] == "image mask" and no_mask["setting"] == "none, no MIM"
    assert "[" in no_mask["RSUM difference"] and float(no_mask["RSUM detectable"]) > 0
    assert (table[table["model"] == "mcr"]["RSUM difference"] == "–").all()
    latex = (place.results / "ablations.tex").read_text()
    assert "none, no MIM" in latex and "48 pairs" in latex and "With one seed" in latex
    for name in ("ablation_curves", "ablation_differences"):
        assert (place.figures / f"{name}.png").is_file()
        assert "models of half-smoke" in (place.figures / f"{name}.txt").read_text()

    files = [*place.results.glob("*.*"), *place.figures.iterdir()]
    before = {file: file.stat().st_mtime_ns for file in files}
    execute("07_ablations", draws=50)
    assert {file: file.stat().st_mtime_ns for file in files} == before


def test_saved_numbers_are_drawn_where_the_models_are_gone(place):
    """As in the reference, which has the numbers alone."""
    place("mcr-seed0", 0)
    place("abm-seed0", 1)
    execute("07_ablations", draws=50)
    before = (place.results / "ablations.csv").read_bytes()
    for file in place.results.parent.glob("half-smoke/*/embeddings-test.npz"):
        file.unlink()
    (place.results / "ablations.csv").unlink()
    execute("07_ablations", draws=50)
    assert (place.results / "ablations.csv").read_bytes() == before


def test_with_mcr_alone_there_is_nothing_to_compare(place):
    place("mcr-seed0", 0)
    names = execute("07_ablations", draws=50)
    assert "nothing to compare" in names["shown"]
    assert (place.figures / "ablation_curves.png").is_file()


def test_the_command_prints_what_to_train(capsys):
    assert ablations.main(["demo"]) == 0
    assert capsys.readouterr().out.split() == ablations.variants("demo")
    assert ablations.main(["demo", "no-mim mcr abm"]) == 0
    assert capsys.readouterr().out.split() == ["mcr", "no-mim", "abm"]
    assert "use RUN=demo" in ablations.main(["reference"])
    assert "use RUN=mimic" in ablations.main(["half-mimic"])
    assert "There is no run" in ablations.main(["demmo"])
