"""A rehearsal: the whole graph on a sample, marked as no result, and the plan that it ends with."""

import json

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from mimic_tree import write
from PIL import Image
from safetensors.torch import save_file
from transformers import BertConfig, BertForMaskedLM

from mcrlib import config, plots, results, tables
from mcrlib.companion import compare, doctor, estimate, machine, plan, publish, rehearse
from mcrlib.data import prepare
from mcrlib.data.batches import EpochOrder

FIGURES = (
    "data_lengths", "data_examples", "recall", "figure3", "agreement", "answering", "figure4",
    "figure5",
)  # fmt: skip
# Drawn if any test pair has a finding, at a known place.
OF_FINDINGS = {"first_hit", "probes", "grounding"}
MARK = "Rehearsal on"


# The sample


@pytest.fixture(scope="module")
def sampled():
    settings = config.load("demo", sizes=(200, 40, 30), cache_size=16)
    return prepare.select(settings), prepare.select(settings.replace(sample=100))


def test_a_sample_is_stratified_and_every_row_is_counted(sampled):
    whole, sample = sampled
    assert pd.Series([record["split"] for record in sample.kept]).value_counts().to_dict() == {
        "train": 80,
        "validate": 10,
        "test": 10,
    }
    assert sample.whole == whole.whole == {"train": 200, "validate": 40, "test": 30}
    assert len(sample.kept) + len(sample.excluded) == len(whole.kept) + len(whole.excluded)
    reasons = {record["reason"] for record in sample.excluded}
    assert reasons == {prepare.NOT_DRAWN}


def test_a_sample_takes_whole_patients_but_for_one_a_split(sampled):
    whole, sample = sampled
    counts = pd.Series([record["patient_id"] for record in whole.kept]).value_counts()
    drawn = pd.Series([record["patient_id"] for record in sample.kept]).value_counts()
    assert (drawn < counts[drawn.index]).sum() <= 3


def test_a_sample_does_not_depend_on_the_order_of_the_rows(sampled):
    whole, sample = sampled
    records = sorted(whole.kept, key=lambda record: record["pair_id"][::-1])
    settings = config.load("demo", sample=100)
    left_out = prepare._not_drawn(records, settings)
    patients = {record["patient_id"] for i, record in enumerate(records) if i not in left_out}
    assert patients == {record["patient_id"] for record in sample.kept}


def test_an_epoch_ends_after_its_steps():
    all_batches = list(EpochOrder(100, 8, seed=0))
    assert list(EpochOrder(100, 8, seed=0, steps=3)) == all_batches[:3]
    assert len(EpochOrder(100, 8, seed=0, steps=50)) == 12


def test_models_and_data_made_before_these_settings_existed_stay_valid():
    settings = config.load("demo")
    assert not {"sample", "epoch_steps"} & settings.deciding().keys()
    assert "sample" not in settings.data_settings()
    assert settings.replace(epoch_steps=3).deciding()["epoch_steps"] == 3
    assert config.load("rehearse-demo").data_settings()["sample"] == config.REHEARSED_PAIRS


# The plan


def measurements(**changes):
    """What a rehearsal of the mimic run might have measured, in round numbers."""
    variant = {
        "pairs": 64,
        "step_seconds": {"16": [2.0] * 5, "64": [5.0] * 5},
        "bytes": {"static": 4e9, "a_pair": 10**8},
        "start_seconds": 10.0,
    }
    notebooks = dict.fromkeys(estimate.TABLES, 10.0)
    notebooks |= {"03_retrieval": 12.0, "00_data": 30.0, "01_train": 100.0, "02_embed": 20.0}
    measured = {
        "data": {
            "select_seconds": 10.0,
            "seconds_an_image": 0.02,
            "processes": 4,
            "images": {"train": 200_000, "validate": 2000, "test": 3000},
            "images_drawn": 600,
        },
        "pairs": {"train": 480, "validate": 60, "test": 60},
        "variants": {"mcr": variant},
        "model": {
            "loader_pairs_a_second": {"0": 300.0, "8": 2000.0},
            "seconds_a_pair_embedded": 0.1,
            "save": {"seconds": 5.0, "bytes": 25 * 10**8, "model_bytes": 8 * 10**8},
        },
        "other_settings": [],
        "memory_bytes": 80e9,
        "largest_batch_pairs": 512,
        "notebook_seconds": notebooks,
        "training_start_seconds": 20.0,
    }
    return measured | changes


def test_the_hours_are_those_of_a_plain_calculation():
    settings = config.load("mimic", epochs=2, validate_every=2, save_minutes=1e6)
    made = estimate.make([settings], measurements())
    step = 5.0 + (256 - 64) * 3.0 / 48
    training = 20 + 2 * (200_000 // 256 * step + 5) + 2000 * 0.1 + 5
    assert made["seconds_a_step"] == {"mcr-seed0": step}
    assert made["hours"]["training"]["mcr-seed0"] == pytest.approx(training / 3600)
    data = 10 + 205_000 * 0.02 / 4 + (30 - 10 - 600 * 0.02 / 4)
    assert made["hours"]["data"] == pytest.approx(data / 3600)
    embedding = (20 - 12) + 5000 * 0.1
    assert made["hours"]["embeddings"]["mcr-seed0"] == pytest.approx(embedding / 3600)
    all_tables = len(estimate.TABLES) * 10 + 2.0 * 3000 / 60
    assert made["hours"]["tables"] == pytest.approx(all_tables / 3600)
    total = (data + training + embedding + all_tables) / 3600
    assert made["hours"]["total"] == pytest.approx(total)
    assert made["memory"]["peak_gb"]["mcr"] == pytest.approx(4 + 25.6)
    assert made["disk_gb"]["data"] == pytest.approx(205_000 * 256**2 / 1e9)


def test_at_equal_compute_the_hours_are_those_of_the_epochs_it_makes():
    """A broken last epoch is validated, too."""
    given = {"validate_every": 2, "save_minutes": 1e6, "compute": 1.0}
    measured = measurements()
    measured["variants"]["mcr"]["epochs"] = 2.5
    made = estimate.make([config.load("mimic", epochs=6, **given)], measured)
    step = 5.0 + (256 - 64) * 3.0 / 48
    training = 20 + 2.5 * (200_000 // 256 * step + 5) + 2 * 2000 * 0.1 + 5
    assert made["hours"]["training"]["mcr-seed0"] == pytest.approx(training / 3600)
    assert made["epochs"] == {"mcr-seed0": 2.5}
    assert "the compute of 6 epochs of mcr of batches of 256" in plan._whole(made)


def test_images_that_could_not_be_read_are_not_trained_on():
    half = {"train": 240, "validate": 30, "test": 30}
    assert estimate.whole_pairs(measurements(pairs=half))["train"] == 100_000


@given(
    fixed=st.floats(0, 10),
    a_pair=st.floats(0.001, 1),
    fewest=st.integers(1, 15),
    most=st.integers(16, 64),
    wanted=st.integers(65, 4096),
)
def test_a_batch_that_was_not_timed_lies_on_the_line_through_those_that_were(
    fixed, a_pair, fewest, most, wanted
):
    times = {str(pairs): [fixed + a_pair * pairs] * 3 for pairs in (fewest, most)}
    settings = config.load("mimic", batch_size=wanted)
    seconds = estimate.step_seconds(settings, {"step_seconds": times})
    assert seconds == pytest.approx(fixed + a_pair * wanted)


@pytest.mark.parametrize("few_seconds", [9.0, 0.1])
def test_noise_never_gives_a_line_that_falls_or_outruns_proportion(few_seconds):
    timed = {"step_seconds": {"16": [few_seconds], "64": [5.0]}}
    assert estimate.step_seconds(config.load("mimic"), timed) == pytest.approx(4 * 5.0)


def test_a_setting_is_called_faster_only_beyond_the_noise():
    own = measurements()["variants"]["mcr"] | {"step_seconds": {"64": [4.9, 5.0, 5.1]}}
    others = [
        {"settings": {"compile": True}, "seconds": [3.9, 4.0, 4.1]},
        {"settings": {"micro_batch": 32}, "seconds": [4.0, 4.8, 5.0]},
        {"settings": {"recompute": "full"}, "seconds": [5.9, 6.0, 6.1], "bytes_a_pair": 10**7},
        {"settings": {"recompute": "selective"}, "skipped": "too long"},
    ]
    measured = measurements(variants={"mcr": own}, other_settings=others)
    rows = estimate.better_settings(config.load("mimic"), measured)
    found = {row["setting"]: row["found"] for row in rows}
    assert found["compile: true"] == "20 % faster"
    assert found["micro_batch: 32"] == "no difference in time measured"
    assert found['recompute: "full"'] == "20 % slower, 0.10 times the memory a pair"
    assert found['recompute: "selective"'] == "not tried: too long"
    measured["largest_batch_pairs"] = 100
    rows = estimate.better_settings(config.load("mimic"), measured)
    assert rows[0]["setting"] == "micro_batch: 64" and "256 pairs" in rows[0]["found"]


def test_a_loader_that_cannot_keep_up_is_named():
    settings = config.load("mimic", workers=0)
    fast = measurements()
    fast["variants"]["mcr"] |= {"pairs": 256, "step_seconds": {"256": [0.5] * 5}}
    found = {row["setting"]: row["found"] for row in estimate.better_settings(settings, fast)}
    assert "but the training takes 512" in found["workers: 8"]
    made = estimate.make([settings], fast)
    assert made["seconds_a_step"]["mcr-seed0"] == pytest.approx(256 / 300)


@pytest.mark.parametrize("k", [5, 10])
def test_validations_are_not_taken_for_the_start_of_a_training(place, k):
    """Whatever K the validation pool is read at."""
    settings = config.load("rehearse-smoke")
    settings.folder.mkdir(parents=True)
    lines = [f"epoch,seconds,validate_recall@{k}", "1,10,", "2,10,0.5", "3,10,0.6"]
    (settings.folder / "history.csv").write_text("\n".join(lines))
    measured = {
        "model": {"seconds_a_pair_embedded": 0.1, "save": {"seconds": 1.0}},
        "pairs": {"validate": 20},
        "variants": {"mcr": {"start_seconds": 3.0}},
        "notebook_seconds": {"01_train": 50.0},
    }

    start = rehearse._training_start(settings, measured)

    # 50 s, less 30 s of steps, two validations of 2 s, and four saves.
    assert start == pytest.approx(12.0)


# The commands


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A home of its own, in which a rehearsal times as little as possible."""
    monkeypatch.setattr(config, "ROOT", tmp_path / "home")
    monkeypatch.setenv("MCR_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(machine, "STEP_SECONDS", 2.0)
    monkeypatch.setattr(machine, "TIMED_STEPS", 3)
    monkeypatch.setattr(machine, "OTHER_SETTINGS_SECONDS", 5.0)  # too few for compilation
    monkeypatch.setattr(machine, "COMPILE_SECONDS", 1e6)
    monkeypatch.setattr(rehearse, "EPOCH_SECONDS", 1.0)
    for name in ("data", "results", "figures"):
        (tmp_path / "home" / name / "smoke").mkdir(parents=True)
        (tmp_path / "home" / name / "smoke" / "mine").write_text("stays")
    return tmp_path


def outside(folder, run):
    """Content of every file that is not the rehearsal's own."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {str(file): file.read_bytes() for file in files if f"rehearse-{run}" not in file.parts}


def check_everything_is_drawn_and_marked(home, run, models=("mcr-seed0",)):
    figures = home / "figures" / f"rehearse-{run}"
    drawn = {file.stem for file in figures.glob("*.png")}
    assert drawn - OF_FINDINGS == {*FIGURES, *(f"training_{model}" for model in models)}
    for name in drawn:
        assert (figures / f"{name}.txt").read_text().startswith(MARK)
    folder = home / "results" / f"rehearse-{run}"
    latex = list(folder.glob("*.tex"))
    assert len(latex) >= 6
    for file in latex:
        assert f"{MARK} " in file.read_text(), file
    for file in folder.glob("*.csv"):
        table = pd.read_csv(file)
        assert table["rehearsal"].str.startswith(MARK).all(), file


@pytest.mark.whole
def test_a_rehearsal_of_a_release_in_the_official_layout(place, capsys):
    """It draws all, touches nothing else, and starts anew; phantoms are rehearsed in `.ci/run`."""
    release = place / "release"
    release.mkdir()
    write(release, 240)
    weights = place / "weights"
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    (weights / "vit_tiny_patch16_224").mkdir(parents=True)
    save_file(vit.state_dict(), weights / "vit_tiny_patch16_224" / "model.safetensors")
    _tiny_bert(weights / "Bio_ClinicalBERT")
    leftover = place / "home" / "results" / "rehearse-mimic" / "abm-seed0"
    leftover.mkdir(parents=True)
    (leftover / "embeddings-test.npz").write_bytes(b"of another rehearsal")
    before = outside(place, "mimic")
    changes = "vision: vit_tiny_patch16_224, image_size: 64, cache_size: 64, workers: 0"
    changes += ", precision: no"  # accelerate keeps that of the other tests in this process
    arguments = ["mimic", "mcr", "0", str(release), str(weights), changes]
    assert rehearse.main(arguments) == 0
    assert outside(place, "mimic") == before
    assert not leftover.exists()
    check_everything_is_drawn_and_marked(place / "home", "mimic")
    shown = capsys.readouterr().out
    assert "Plan of RUN=mimic" in shown and "not trained yet" in shown
    check_what_the_plan_says_of_a_training_that_began(place / "home", changes)
    for refuse in (publish.publish, compare.compare):
        with pytest.raises(ValueError, match="rehearse-mimic is a rehearsal"):
            refuse("rehearse-mimic")
    values = results.load(plan.file_of("mimic"))["values"]
    kept = json.loads((place / "home/data/rehearse-mimic/dataset.json").read_text())["kept"]
    assert sum(values["pairs"].values()) == pytest.approx(kept, abs=2)
    first = values["better_settings"][0]
    assert first["setting"] == "batch_size: 64" and "fewer than a batch" in first["found"]
    message = doctor.obstacle("mimic", str(release), "")
    assert "by the plan of its rehearsal" in message and "Set CONFIRM=1" in message
    plan_file = plan.file_of("mimic")
    assert plan_file.stat().st_mode & 0o077 == 0  # as everything made from patients


def _small_table(folder, sizes):
    """A CSV of drawn pairs with as many of each split, each of another patient."""
    drawn = prepare.select(config.load("demo", sizes=(60, 20, 20), cache_size=64)).kept
    folder.mkdir()
    table = []
    for split, size in sizes.items():
        for i in range(size):
            name = f"{split}{i}.png"
            pixels = np.full((64, 64), 40 + len(table), np.uint8)
            pixels[8:40, 8:30] = 200 - i
            Image.fromarray(pixels).save(folder / name)
            report = drawn[len(table)]["report"]
            row = {"image": name, "report": report, "patient_id": name, "split": split}
            table.append(row)
    file = folder / "pairs.csv"
    pd.DataFrame(table).to_csv(file, index=False)
    return file


@pytest.mark.whole
@pytest.mark.parametrize("sizes", [(12, 10, 2), (40, 12, 7)])
def test_a_small_table_passes_the_whole_graph(place, sizes):
    """Chance is told, K suits the pool, and nothing is decided that so few pairs cannot decide."""
    sizes = dict(zip(("train", "validate", "test"), sizes, strict=True))
    file = _small_table(place / "table", sizes)
    changes = "image_size: 64, cache_size: 64, workers: 0, batch_size: 4, precision: no"
    models = ("mcr-seed0", "dual-seed0")
    said = rehearse.main(["table", "mcr dual", "0", str(file), "", changes])
    assert said == 0, said
    check_everything_is_drawn_and_marked(place / "home", "table", models)
    folder = place / "home" / "results" / "rehearse-table"
    for result in results.load(folder / "retrieval.json")["values"].values():
        assert result["pool"] == sizes["test"]
    for verdict in results.load(folder / "verdicts.json")["values"]:
        assert verdict["no_loss"] is not True
        assert verdict["verdict"] not in ("better", "worse")
    assert "chance is" in (folder / "recall.tex").read_text()


def check_what_the_plan_says_of_a_training_that_began(home, changes):
    model = home / "results" / "mimic" / "mcr-seed0"
    model.mkdir(parents=True)
    (model / "history.csv").write_text("epoch,loss\n1,2\n")
    lines = "\n".join(plan.show("mimic", "mcr", "0", changes))
    assert "1 of 50 epochs done; embeddings not yet" in lines
    assert "epochs 50, now 2" in "\n".join(plan.show("mimic", "mcr", "0", f"{changes}, epochs: 2"))


def _tiny_bert(folder):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "lungs", "clear", "are", "The", "."]
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = BertForMaskedLM(BertConfig(vocab_size=len(words), intermediate_size=16, **sizes))
    model.config.save_pretrained(folder)
    state = {}
    for name, value in model.state_dict().items():
        old_name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        state[old_name.replace("LayerNorm.bias", "LayerNorm.beta")] = value
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "vocab.txt").write_text("\n".join(words))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table", "mcr", "0", "/none.csv", "", ""], "RUN=table needs DATA=/none.csv"),
        (["mimic", "mcr", "0", "", "", ""], "RUN=mimic needs DATA=... to be the folder"),
        (["mimic", "mcr", "0", "/tmp", "/none", ""], "WEIGHTS=/none must be the folder"),
        (["reference", "mcr", "0", "", "", ""], "use RUN=demo"),
        (["smoke", "mrc", "0", "", "", ""], "did you mean 'mcr'"),
        (["smoke", "mcr", "0", "", "", "epoch: 3"], "did you mean 'epochs'"),
    ],
)
def test_what_cannot_be_rehearsed_is_refused_in_one_sentence(place, arguments, message):
    before = outside(place, arguments[0])
    said = rehearse.main(arguments)
    assert message in said and "\n" not in said
    assert outside(place, arguments[0]) == before


def test_a_folder_without_a_release_does_not_cost_the_last_plan(place):
    last = plan.file_of("mimic")
    last.parent.mkdir(parents=True)
    last.write_text("{}")
    empty = place / "empty"
    empty.mkdir()
    said = rehearse.main(["mimic", "mcr", "0", str(empty), "", ""])
    assert "has no metadata, no split, no images, no reports" in said
    assert last.is_file()


def test_a_run_that_was_not_rehearsed_has_no_plan(place, capsys):
    assert "make rehearse RUN=demo" in plan.main(["demo", "mcr", "0", ""])
    assert plan.main(["--if-rehearsed", "demo", "mcr", "0", ""]) == 0
    assert capsys.readouterr().out == ""


def test_only_what_is_saved_for_a_rehearsal_is_marked(place):
    frame = pd.DataFrame({"model": ["mcr"], "R@1": [1.0]})
    for run, is_marked in (("demo", False), ("rehearse-demo", True)):
        stem = place / "home" / "results" / run / "some"
        tables.save_table(stem, frame, "Some. Note.")
        assert (MARK in stem.with_suffix(".tex").read_text()) == is_marked
        assert ("rehearsal" in stem.with_suffix(".csv").read_text()) == is_marked
        figure = plots.lengths(
            pd.DataFrame({"report": ["a b"], "split": ["train"], "view": ["PA"]})
        )
        plots.save(figure, stem, "Caption.")
        assert (MARK in stem.with_suffix(".txt").read_text()) == is_marked
        assert any(MARK in text.get_text() for text in figure.texts) == is_marked
