"""The question of other domains: its models are those of digits, whatever run asks."""

import json

import numpy as np
import pytest
from test_status import project  # noqa: F401, a fixture

from mcrlib import config, results
from mcrlib.companion import analyses, claims, conduct, domain, experiments, status
from mcrlib.data import prepare

(QUESTION,) = experiments.chosen("domain")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A home with a few pictures of digits."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "ROOT", home)
        return prepare.build(config.load("digits", sizes=(10, 10, 60), cache_size=24), workers=1)


@pytest.fixture
def place(pairs, tmp_path, monkeypatch):
    """A function that saves embeddings of digits, and how long their model was trained."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "digits").symlink_to(pairs.folder)
    monkeypatch.setattr(config, "ROOT", tmp_path)

    def place(name, noise, epochs=8, run="digits"):
        draw = np.random.default_rng(len(name) + int(name[-1]))
        ids = pairs.frame["pair_id"].iloc[pairs.indices("test")]
        image = draw.standard_normal((len(ids), 8))
        report = image + noise * draw.standard_normal(image.shape)
        folder = tmp_path / "results" / run / name
        results.save_embeddings(folder / "embeddings-test.npz", image, report, ids)
        results.save(folder / "training.json", {"epochs": epochs, "flops": 1000})

    return place


def judged(run="smoke"):
    domain.measure(run)
    return claims.judge(QUESTION, claims.gather(run))


def test_without_models_of_digits_nothing_is_measured_and_nothing_is_written(place, tmp_path):
    record = judged()
    assert record["verdict"] == claims.OPEN
    assert record["sentence"].startswith("Not measured: no model of the run digits is there")
    assert not (tmp_path / "results" / "smoke").exists()


def test_the_verdict_is_that_of_the_models_of_digits_at_equal_epochs(place):
    for seed in range(3):
        place(f"mcr-seed{seed}", 0.3)
        place(f"abm-seed{seed}", 3.0)
    record = judged()
    assert record["verdict"] == claims.SUPPORTED
    assert "60 test pictures of scanned digits" in record["sentence"]
    assert "All were trained for 8 epochs." in record["sentence"]
    assert "nDCG@10 without the partner on the same pairs" in record["sentence"]
    own = {row["endpoint"]: row for row in analyses.compare_endpoints("digits").values}
    assert record["numbers"]["difference"] == own["RSUM"]["difference"] > 0
    for seed in range(3):
        place(f"mcr-seed{seed}", 0.3, epochs=16)
    longer = judged()
    assert longer["verdict"] == claims.OPEN and "mcr had more epochs" in longer["sentence"]


def test_two_seeds_decide_nothing(place):
    for seed in range(2):
        place(f"mcr-seed{seed}", 0.3)
        place(f"abm-seed{seed}", 3.0)
    assert judged()["verdict"] == claims.OPEN
    assert "asks for 3 seeds" in judged()["sentence"]


def test_the_copy_keeps_the_numbers_without_the_models(place, tmp_path):
    for seed in range(3):
        place(f"mcr-seed{seed}", 0.3)
        place(f"abm-seed{seed}", 3.0)
    told = judged("demo")["sentence"]
    copied = tmp_path / "results" / "reference" / domain.FILE
    copied.parent.mkdir()
    copied.write_bytes((tmp_path / "results" / "demo" / domain.FILE).read_bytes())
    (tmp_path / "results" / "digits").rename(tmp_path / "gone")
    assert judged("reference")["sentence"] == told


def test_status_and_experiments_go_to_the_run_digits(project, monkeypatch):  # noqa: F811
    monkeypatch.setenv("SET", "epochs: 3")
    ((_, found),) = status.states("smoke", {"epochs": 3}, "domain")
    assert found.word == "missing" and found.reason.startswith("6 of 6 models: digits/mcr-seed0")
    assert found.next == "make experiments RUN=smoke ONLY=domain"
    assert conduct.conduct("smoke", "epochs: 3", "domain") == []
    log = (project / "log").read_text().splitlines()
    assert log == ["embed digits: mcr abm, 0 1 2, ", "12_claims smoke"]
    assert (project / "sets").read_text().strip() == ""  # settings of smoke are not for digits


def test_numbers_follow_the_models_of_digits(place, tmp_path):
    place("mcr-seed0", 0.3)
    place("abm-seed0", 3.0)
    domain.measure("smoke")
    file = tmp_path / "results" / "smoke" / domain.FILE
    before = file.read_bytes()
    domain.measure("smoke")
    assert file.read_bytes() == before
    place("abm-seed0", 0.1)
    domain.measure("smoke")
    assert file.read_bytes() != before
    assert set(json.loads(before)["values"]["lengths"]) == {"mcr-seed0", "abm-seed0"}
