"""What corrupted input costs trained models, against a plain calculation on the smoke run."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from test_notebooks import execute

from mcrlib import config, pretrained, results
from mcrlib.companion import claims, experiments, robustness, status
from mcrlib.companion.claims import OPEN
from mcrlib.data import batches
from mcrlib.evaluation import attributes, corruptions, retrieval
from mcrlib.evaluation import robustness as evaluated
from mcrlib.evaluation.corruptions import HALF_HIDDEN, UNCHANGED
from mcrlib.files import sha256
from mcrlib.model import MCR
from mcrlib.training import checkpoint

MODELS = ("mcr-seed0", "dual-seed0", "dual-token-seed0")
DRAWS = 60


def place_model(folder, model, dataset):
    """A finished model as training leaves it, with its embeddings."""
    final = folder / "checkpoint" / "final"
    model.save_pretrained(final)
    made_from = model.config.deciding() | {"dataset": results.dataset_hash("smoke")}
    (final / "inputs.json").write_text(json.dumps(made_from))
    hashes = {file.name: sha256(file) for file in final.iterdir()}
    (final / "sha256.json").write_text(json.dumps(hashes))
    for split in ("validate", "test"):
        rows = dataset.indices(split)
        frame = dataset.frame.iloc[rows]
        image = model.embed_images(dataset.images[rows])
        report = model.embed_reports(frame["report"].tolist())
        file = folder / f"embeddings-{split}.npz"
        results.save_embeddings(file, image, report, frame["pair_id"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory, dataset, tokenizer):
    """A home with three untrained models of the smoke run, and its numbers."""
    home = tmp_path_factory.mktemp("robust")
    (home / "data").mkdir()
    shutil.copytree(dataset.folder, home / "data" / "smoke")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "ROOT", home)
        models = {}
        for seed, name in enumerate(MODELS):
            own = config.load("smoke", name.removesuffix("-seed0"))
            torch.manual_seed(seed)
            language_model = pretrained.load_language_model(own, len(tokenizer))
            model = MCR(own, tokenizer, pretrained.load_vit(own), language_model).eval()
            place_model(home / "results" / "smoke" / name, model, dataset)
            models[name] = model
        numbers = robustness.measure("smoke", DRAWS)
    return home, models, numbers


@pytest.fixture
def here(trained, monkeypatch):
    """The folder of the models' results, with their home in the checkout's place."""
    folder, _, _ = trained
    monkeypatch.setattr(config, "ROOT", folder)
    return folder / "results" / "smoke"


def plain_rsum(image, report):
    """The sum of the six recalls, by sorting each query's candidates."""
    cosines = image.numpy() @ report.numpy().T
    total = 0.0
    for matrix in (cosines, cosines.T):
        for own, row in enumerate(matrix):
            rank = (row >= row[own] - retrieval.TOLERANCE).sum()
            total += sum(rank <= k for k in (1, 5, 10))
    return total / len(cosines)


def plain_pictures(model, condition, pictures, ids):
    """Embeddings of corrupted pictures, one picture at a time."""
    side = model.config.image_size // model.config.patch_size
    rows = []
    for picture, pair_id in zip(pictures, ids, strict=True):
        keep = None
        name = condition.corruption
        if name in (corruptions.HIDDEN_PATCHES, corruptions.GREY_PATCHES):
            (kept,) = corruptions.kept_patches([pair_id], side**2, condition.strength)
            if name == corruptions.HIDDEN_PATCHES:
                keep = torch.from_numpy(kept)[None]
            else:
                picture = corruptions.paint_patches(picture, kept, side)
        else:
            draw = corruptions.pair_generator(name, pair_id)
            picture = corruptions.PICTURE[name](picture, condition.strength, draw)
        square = torch.from_numpy(np.array(picture))[None]
        with torch.no_grad():
            rows.append(model.project_images(batches.to_pixels(square, side * 16), keep))
    return torch.cat(rows)


CHECKED = [
    HALF_HIDDEN,
    corruptions.Condition(corruptions.GREY_PATCHES, 0.5),
    corruptions.Condition(corruptions.TURN, 10.0),
    corruptions.Condition(corruptions.NOISE, 0.1),
]


@pytest.mark.parametrize("condition", CHECKED, ids=lambda condition: condition.name)
@pytest.mark.parametrize("name", MODELS)
def test_numbers_of_pictures_are_those_of_a_plain_calculation(trained, dataset, name, condition):
    _, models, numbers = trained
    model = models[name]
    assert model.config.patch_size == 16
    rows = dataset.indices("test")
    ids = dataset.frame["pair_id"].iloc[rows].tolist()
    report = model.embed_reports(dataset.frame["report"].iloc[rows].tolist())
    image = plain_pictures(model, condition, dataset.images[rows], ids)
    block = numbers.values["models"][name][condition.name]
    assert block["RSUM"]["value"] == pytest.approx(plain_rsum(image, report), abs=1e-9)
    clean = numbers.values["models"][name]["unchanged"]["RSUM"]["value"]
    assert block["RSUM_kept"]["value"] == pytest.approx(block["RSUM"]["value"] / clean)
    assert block["RSUM"]["low"] <= block["RSUM"]["value"] <= block["RSUM"]["high"]


@pytest.mark.parametrize("name", MODELS)
def test_numbers_of_reports_and_of_the_unchanged_pairs_are_plain_too(trained, dataset, name):
    _, models, numbers = trained
    rows = dataset.indices("test")
    test = dataset.frame.iloc[rows]
    image = models[name].embed_images(dataset.images[rows])
    reports = test["report"].tolist()
    measured = numbers.values["models"][name]
    whole = plain_rsum(image, models[name].embed_reports(reports))
    assert measured["unchanged"]["RSUM"]["value"] == pytest.approx(whole, abs=1e-9)
    assert measured["unchanged"]["RSUM_kept"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    shorter = corruptions.shorten_reports(reports, test["pair_id"].tolist(), 0.5)
    assert all(len(left) < len(all_of_it) for left, all_of_it in zip(shorter, reports, strict=True))
    value = measured["missing sentences 50 %"]["RSUM"]["value"]
    assert value == pytest.approx(plain_rsum(image, models[name].embed_reports(shorter)), abs=1e-9)


def test_dual_token_gets_a_mask_token_for_each_hidden_patch(trained, dataset):
    _, models, _ = trained
    pixels = batches.to_pixels(torch.from_numpy(dataset.images[:2].copy()), 96)
    kept = torch.arange(18).expand(2, -1)
    tokens = {name: model.image_encoder(pixels, kept).shape[1] for name, model in models.items()}
    assert tokens == {"mcr-seed0": 19, "dual-seed0": 19, "dual-token-seed0": 37}


def test_differences_are_paired_and_holm_corrects_all_but_two(trained):
    _, _, numbers = trained
    records = numbers.values["differences"]
    primary = [
        (record["condition"], record["endpoint"], record["variants"][1])
        for record in records
        if record["primary"]
    ]
    assert primary == [
        (HALF_HIDDEN.name, "RSUM", "dual"),
        (HALF_HIDDEN.name, "RSUM_change", "dual"),
    ]
    by_place = robustness.differences(numbers.values)
    models = numbers.values["models"]
    for condition in models["mcr-seed0"]:
        own = [models[name][condition]["RSUM"]["value"] for name in ("mcr-seed0", "dual-seed0")]
        record = by_place[condition, "RSUM", "dual"]
        assert record["difference"] == pytest.approx(own[0] - own[1], abs=1e-9)
        if condition == UNCHANGED.name:
            assert (condition, "RSUM_change", "dual") not in by_place
            clean = record["difference"]
        else:
            change = by_place[condition, "RSUM_change", "dual"]["difference"]
            assert change == pytest.approx(record["difference"] - clean, abs=1e-9)
    assert all("verdict" in record for record in records)


def test_a_clear_difference_is_told_among_all_the_others():
    """Holm's correction of so many comparisons at once would leave nothing to be told."""
    draw = np.random.default_rng(0)
    patients = list(range(60))
    measured = {}
    for name in ("mcr", "dual"):
        ahead = 2.0 if name == "mcr" else 0.0
        of_model = {}
        for condition in corruptions.conditions():
            rsum = ahead + draw.random(60)
            of_model[condition.name] = {"RSUM": rsum, "nDCG@10_without_partner": rsum / 6}
        measured[f"{name}-seed0"] = of_model
    records = evaluated.compare(measured, patients, draws=999)  # p is at least 0.002
    of_rsum = [record for record in records if record["endpoint"] == "RSUM"]
    assert len(of_rsum) == len(corruptions.conditions())
    assert {record["verdict"] for record in of_rsum} == {"better"}
    primary = [record for record in records if record["primary"]]
    plain = retrieval.compare_values(
        measured["mcr-seed0"][HALF_HIDDEN.name]["RSUM"][None],
        measured["dual-seed0"][HALF_HIDDEN.name]["RSUM"][None],
        patients,
        draws=999,
        resample_seeds=False,
    )
    assert primary[0]["p"] == plain["p"]


def test_groups_are_counted_and_their_rsum_is_that_of_their_queries(trained, dataset):
    _, _, numbers = trained
    test = dataset.frame.iloc[dataset.indices("test")]
    groups = {group["name"]: group for group in numbers.values["groups"]}
    sizes = test["view"].value_counts().to_dict()
    assert {name: groups[name]["pairs"] for name in sizes} == sizes
    by_count = [group for group in groups.values() if group["dimension"] == "number of findings"]
    counted = [group["pairs"] for group in by_count]
    assert sum(counted) == len(test)
    of_pair = [attributes.of_labels(labels) for labels in test["labels"]]
    with_effusion = sum(attributes.Attribute("Pleural Effusion") in own for own in of_pair)
    assert groups["Pleural Effusion"]["pairs"] == with_effusion
    for group in groups.values():
        assert group["decides"] == (group["patients"] >= retrieval.FEWEST_PATIENTS)
    by_group = numbers.values["by_group"]["mcr-seed0"]["unchanged"]
    views = sum(sizes[view] * by_group[view]["value"] for view in sizes) / len(test)
    whole = numbers.values["models"]["mcr-seed0"]["unchanged"]["RSUM"]["value"]
    assert views == pytest.approx(whole, abs=1e-9)


def test_the_notebook_draws_the_numbers_and_measures_only_what_changed(here, monkeypatch):
    names = execute("13_robustness", draws=DRAWS)
    table = pd.read_csv(here / "robustness.csv")
    assert table["model"].unique().tolist() == ["mcr", "dual", "dual-token"]
    listed = corruptions.conditions()
    assert len(table) == 3 * len(listed) == 3 * len(names["values"]["conditions"])
    groups = pd.read_csv(here / "robustness_groups.csv")
    small = {group["name"] for group in names["values"]["groups"] if not group["decides"]}
    shown = groups["worst"].tolist() + groups["best"].tolist()
    assert all("(n = " in cell and cell.partition(" (")[0] not in small for cell in shown)
    figures = config.ROOT / "figures" / "smoke"
    assert "same random draws for every model" in (figures / "robustness.txt").read_text()
    assert "48 pairs" in (here / "robustness.tex").read_text()
    files = [*here.glob("*.*"), *figures.iterdir()]
    before = {file: file.stat().st_mtime_ns for file in files}
    monkeypatch.setattr(checkpoint, "load_trained", None)  # nothing is measured again
    execute("13_robustness", draws=DRAWS)
    assert {file: file.stat().st_mtime_ns for file in files} == before
    with pytest.raises(TypeError):
        execute("13_robustness", draws=DRAWS + 1)


def test_saved_numbers_are_drawn_where_the_models_are_gone(here, tmp_path, monkeypatch):
    """As in the reference, which has the numbers alone."""
    monkeypatch.setattr(config, "ROOT", tmp_path)
    with pytest.raises(FileNotFoundError, match="make train RUN=smoke"):
        execute("13_robustness")
    with pytest.raises(FileNotFoundError, match=r"robustness RUN=demo`, then `make publish`\."):
        robustness.measure("reference")
    copy = tmp_path / "results" / "smoke"
    copy.mkdir(parents=True)
    shutil.copy(here / robustness.FILE, copy)
    execute("13_robustness")
    assert (copy / "robustness.csv").is_file()


def test_the_registry_reads_its_questions_from_these_numbers(here, trained):
    _, _, numbers = trained
    by_place = robustness.differences(numbers.values)
    judged = {record["id"]: record for record in claims.decide("smoke").values}
    for name, endpoint in (("hidden-retrieval", "RSUM"), ("hidden-loss", "RSUM_change")):
        own = by_place[HALF_HIDDEN.name, endpoint, "dual"]
        assert judged[name]["numbers"]["difference"] == own["difference"]
        assert judged[name]["verdict"] == OPEN  # one seed decides nothing
    (item,) = experiments.chosen("hidden-loss")
    look = status._Look("smoke", {})
    assert look._numbers(item).word == "stale"  # of fewer draws than `make robustness` has
    file = here / robustness.FILE
    record = json.loads(file.read_bytes())
    whole = file.read_bytes()
    record["provenance"]["inputs"] = robustness.inputs("smoke")
    file.write_text(json.dumps(record))
    assert status._Look("smoke", {})._numbers(item).word == "current"
    file.unlink()
    assert status._Look("smoke", {})._numbers(item).word == "missing"
    unread = {record["id"]: record for record in claims.decide("smoke").values}
    said = "Not measured: run notebook 13 (`make robustness`)."
    assert unread["hidden-loss"]["sentence"] == said
    file.write_bytes(whole)


def test_other_views_of_real_pairs_are_those_of_the_same_study(dataset):
    frame = pd.DataFrame({
        "split": ["train", "test", "test", "test", "test"],
        "patient_id": ["a", "b", "b", "c", "c"],
        "study_id": ["1", "1", "1", "1", "2"],
        "view": ["AP", "PA", "AP portable", "PA", "AP"],
        "pair_id": list("vwxyz"),
    })  # fmt: skip
    rows = np.arange(1, 5)
    assert robustness._in_the_same_study(frame, rows) == {0: 2, 1: 1}
    info = dataset.info | {"source": "table"}
    table = type(dataset)(frame, dataset.images[:5], info, dataset.folder)
    pictures, sentence = robustness.other_views(table, rows, None)
    assert [*pictures] == [0, 1] and sentence == ""
    np.testing.assert_array_equal(pictures[0], dataset.images[2])
    alone = type(dataset)(frame.iloc[3:], dataset.images[3:5], info, dataset.folder)
    pictures, sentence = robustness.other_views(alone, np.arange(2), None)
    assert not pictures and "has both a PA and an AP picture" in sentence


def test_phantoms_of_another_version_have_no_other_view(dataset, smoke):
    rows = dataset.indices("test")
    pictures, sentence = robustness.other_views(dataset, rows, smoke)
    assert len(pictures) == len(rows) and sentence == ""
    darker = type(dataset)(dataset.frame, 255 - dataset.images, dataset.info, dataset.folder)
    pictures, sentence = robustness.other_views(darker, rows, smoke)
    assert not pictures and "drawn by another version" in sentence
