"""The registry, what of it is there, and how it is run: hashes decide, make does the work."""

import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from mcrlib import config, results
from mcrlib.companion import analyses, claims, conduct, experiments, status
from mcrlib.companion.experiments import EQUAL_COMPUTE, EQUAL_EPOCHS, ITEMS, NO_TRAINING
from mcrlib.files import sha256
from mcrlib.locks import lock

ROOT = Path(__file__).parents[1]


def test_every_item_is_complete_and_names_what_exists():
    assert len({item.id for item in ITEMS}) == len(ITEMS)
    for item in ITEMS:
        assert item.kind in claims.HEADINGS
        assert item.sentence.endswith("." if item.kind == "claim" else "?")
        assert item.source and item.rule.startswith("Supported if")
        assert item.budget in (EQUAL_COMPUTE, EQUAL_EPOCHS, NO_TRAINING)
        assert set(item.variants) <= set(config.VARIANTS)
        assert item.cheaper in ("", *item.variants)
        assert bool(item.seeds) == bool(item.variants)
        assert (ROOT / "notebooks" / f"{item.notebook}.ipynb").is_file()
        assert item.endpoint in {*claims.MEASURES, *claims.LARGEST_RATIO}
    compared = {item.variants[1] for item in ITEMS if len(item.variants) == 2}
    assert compared == {"abm", "dual", "dual-token", "clip", "flip"}


def test_unknown_experiments_are_refused_with_the_nearest_name():
    assert [item.id for item in experiments.chosen("time memory")] == ["time", "memory"]
    assert experiments.chosen() == list(ITEMS)
    with pytest.raises(ValueError, match="no experiment 'retrievel'; did you mean 'retrieval'"):
        experiments.chosen("retrievel")


@pytest.fixture
def place(tmp_path, dataset, monkeypatch):
    """A function that saves a model's embeddings in a temporary home with the smoke run's pairs."""
    (tmp_path / "data").mkdir()
    shutil.copytree(dataset.folder, tmp_path / "data" / "smoke")
    monkeypatch.setattr(config, "ROOT", tmp_path)

    def place(name, seed=0):
        draw = np.random.default_rng(seed)
        folder = tmp_path / "results" / "smoke" / name
        final = folder / "checkpoint" / "final"
        final.mkdir(parents=True, exist_ok=True)
        (final / "model.safetensors").write_bytes(draw.bytes(9))
        digest = sha256(final / "model.safetensors")
        (final / "sha256.json").write_text(json.dumps({"model.safetensors": digest}))
        variant, _, number = name.partition("-seed")
        made_from = config.load("smoke", variant, int(number)).deciding()
        made_from["dataset"] = results.dataset_hash("smoke")
        (final / "inputs.json").write_text(json.dumps(made_from))
        for split in ("validate", "test"):
            ids = dataset.frame["pair_id"].iloc[dataset.indices(split)]
            image, report = draw.standard_normal((2, len(ids), 8))
            file = folder / f"embeddings-{split}.npz"
            hashes = {"dataset": made_from["dataset"], "model": digest}
            results.save_embeddings(file, image, report, ids, made_from=hashes)

    place.folder = tmp_path / "results" / "smoke"
    return place


def state(name="alignment-retrieval", **overrides):
    ((_, found),) = status.states("smoke", overrides, name)
    return found


def test_an_item_is_missing_then_current_then_stale(place):
    for seed in (0, 1, 2):
        place(f"mcr-seed{seed}", seed)
    missing = state()
    assert missing.word == "missing"
    assert missing.reason == "3 of 6 models: abm-seed0, abm-seed1, abm-seed2"
    assert missing.next == "make experiments RUN=smoke ONLY=alignment-retrieval"
    for seed in (0, 1, 2):
        place(f"abm-seed{seed}", 10 + seed)
    assert state().next == "make 03_retrieval RUN=smoke"
    analyses.compare_endpoints("smoke")
    assert (state().word, state().next) == ("missing", "make 12_claims RUN=smoke")
    claims.decide("smoke")
    assert state() == status.State("current")
    assert state("modality-gap").word == "current"
    assert state("time").word == "missing"

    (place.folder / "efficiency.json").write_text("{}")  # a number that claims are read from
    assert state().word == "stale" and "other numbers" in state().reason
    (place.folder / "efficiency.json").unlink()
    assert state().word == "current"
    other = state(epochs=7)
    assert other.word == "stale" and "epochs=2, but this run asks for 7" in other.reason
    place("dual-seed0", 20)  # a further model belongs to the comparison
    assert state().word == "stale" and "other embeddings" in state().reason
    claims.decide("smoke")
    assert state().word == "current"
    weights = place.folder / "mcr-seed1" / "checkpoint" / "final"
    weights.joinpath("sha256.json").write_text(json.dumps({"model.safetensors": "another"}))
    assert state().word == "stale" and "made by another model" in state().reason


def test_times_of_files_do_not_count_and_nothing_is_written(place):
    for seed in (0, 1, 2):
        place(f"mcr-seed{seed}", seed)
        place(f"abm-seed{seed}", 10 + seed)
    claims.decide("smoke")
    files = sorted(file for file in place.folder.rglob("*") if file.is_file())
    for file in files:
        file.touch()
    before = {file: file.stat().st_mtime_ns for file in files}
    assert state().word == "current"
    shown = [*status.lines("smoke", "")]
    assert len(shown) == len(ITEMS)
    assert sorted(file for file in place.folder.rglob("*") if file.is_file()) == files
    assert before == {file: file.stat().st_mtime_ns for file in files}


def test_pairs_prepared_anew_make_everything_stale(place):
    place("mcr-seed0")
    described = config.ROOT / "data" / "smoke" / "dataset.json"
    info = json.loads(described.read_bytes())
    described.write_text(json.dumps(info | {"dataset_sha256": "f" * 64}))
    assert state().word == "stale"


def test_status_answers_without_pytorch_and_with_exit_code_0(tmp_path):
    code = (
        "import sys\n"
        "from mcrlib.companion import status\n"
        "code = status.main(['demo', '', ''])\n"
        "sys.exit(code or int('torch' in sys.modules))"
    )
    environment = {"MCR_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [[item.id, "missing"] for item in ITEMS]
    assert all("; next: make " in line for line in lines)
    assert status.main(["demmo", "", ""]).startswith("There is no run 'demmo'")
    assert "no experiment" in status.main(["demo", "", "nothing"])


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder whose Makefile writes down what it is asked for; `dual-token` fails."""
    monkeypatch.setattr(config, "ROOT", tmp_path)
    monkeypatch.setattr(conduct, "PROJECT", tmp_path)
    monkeypatch.setenv("DATA", "/data/it's $HOME")
    monkeypatch.setenv("MAKEFLAGS", "-- VARIANTS=clip")
    rules = (
        "embed:\n"
        '\t@echo "$@ $(RUN): $(VARIANTS), $(SEEDS), $$DATA" >> log\n'
        '\t@echo "$$SET" >> sets\n'
        '\t@case "$(VARIANTS)" in *token*) exit 1;; esac\n'
        "03_retrieval 07_ablations 08_efficiency 12_claims:\n"
        "\t@echo $@ $(RUN) >> log\n"
    )
    (tmp_path / "Makefile").write_text(rules)
    return tmp_path


def test_experiments_run_item_by_item_and_a_failure_stops_no_other(project, capfd):
    failed = conduct.conduct("smoke", "", "retrieval-tokens alignment-retrieval time modality-gap")
    assert failed == ["retrieval-tokens"]
    assert (project / "log").read_text().splitlines() == [
        "embed smoke: mcr dual-token, 0 1 2, /data/it's $HOME",
        "embed smoke: mcr abm, 0 1 2, /data/it's $HOME",
        "03_retrieval smoke",
        "12_claims smoke",
        "08_efficiency smoke",
        "12_claims smoke",
        "embed smoke: mcr abm, 0 1 2, /data/it's $HOME",
        "12_claims smoke",
    ]
    said = conduct.main(["smoke", "", "retrieval-tokens"])
    assert said == "Not finished: retrieval-tokens. Run the same command again to go on."
    assert conduct.main(["smoke", "", "time"]) == 0
    assert "trains nothing" in conduct.main(["reference", "", ""])
    assert "no experiment" in conduct.main(["smoke", "", "nothing"])


def test_what_is_current_is_not_run_again(place, monkeypatch, tmp_path, capsys):
    for seed in (0, 1, 2):
        place(f"mcr-seed{seed}", seed)
        place(f"abm-seed{seed}", 10 + seed)
    claims.decide("smoke")
    monkeypatch.setattr(conduct, "PROJECT", tmp_path)  # no Makefile: make would fail
    assert conduct.conduct("smoke", "", "alignment-retrieval") == []
    assert capsys.readouterr().out == "alignment-retrieval: current\n"


def test_a_question_about_compute_needs_half_and_double_runs_with_their_epochs(
    project, monkeypatch
):
    given = "epochs: 3, lr: 1e-4"
    monkeypatch.setenv("SET", given)  # as the Makefile exports it
    assert conduct.conduct("smoke", given, "compute") == []
    models = "mcr dual clip, 0 1 2, /data/it's $HOME"
    assert (project / "log").read_text().splitlines() == [
        f"embed half-smoke: {models}",
        f"embed smoke: {models}",
        f"embed double-smoke: {models}",
        "07_ablations smoke",
        "12_claims smoke",
    ]
    sets = (project / "sets").read_text().splitlines()
    assert [config.read_settings(text)["epochs"] for text in sets] == [1.5, 3, 6]
    assert {config.read_settings(text)["lr"] for text in sets} == {1e-4}


def test_models_of_half_and_double_runs_are_looked_for(place):
    for seed in (0, 1, 2):
        place(f"mcr-seed{seed}", seed)
    missing = state("compute")
    assert missing.word == "missing" and missing.reason.startswith("24 of 27 models: half-smoke/")
    assert "double-smoke/clip-seed2" in missing.reason and " mcr-seed" not in missing.reason
    assert missing.next == "make experiments RUN=smoke ONLY=compute"


def test_a_second_call_waits_for_the_first(project):
    results_folder = project / "results" / "smoke"
    second = threading.Thread(target=conduct.conduct, args=("smoke", "", "time"))
    with lock(results_folder / conduct.LOCK):
        second.start()
        time.sleep(0.3)
        assert not (project / "log").exists()
    second.join(timeout=60)
    assert "08_efficiency smoke" in (project / "log").read_text()
