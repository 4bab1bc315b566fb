"""Models for others: their card, and what may not leave the house."""

from pathlib import Path

import pytest

from mcrlib import config, results
from mcrlib.companion import hub
from mcrlib.model import MCR


class Hub:
    """A hub that keeps what is uploaded; the real one cannot be reached from a test."""

    def __init__(self, folder):
        self.folder = folder
        self.created = {}

    def create_repo(self, repository, private, exist_ok):
        self.created[repository] = private

    def upload_folder(self, repo_id, folder_path, allow_patterns):
        for pattern in allow_patterns:
            for file in Path(folder_path).glob(pattern):
                (self.folder / file.name).write_bytes(file.read_bytes())


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A home folder in which mcr-seed0 of the run demo is trained."""
    monkeypatch.setattr(config, "ROOT", tmp_path)
    folder = tmp_path / "results" / "demo"
    values = {"best_epoch": 7, "seconds": 130.0}
    results.save(folder / "mcr-seed0" / "training.json", values, git="abc")
    return folder


def measured(share):
    recall = {"value": share, "low": share - 0.04, "high": share + 0.04}
    return {"pair": dict.fromkeys(hub.RECALLS, recall)}


def test_a_card_says_what_was_measured_and_what_the_model_is_not_for(trained, build):
    settings = build().config
    text = hub.card(settings, "demo", "mcr-seed0")
    assert "Nothing yet on the test split" in text
    assert "Time: 2 minutes on CPU" in text and "seed 0" in text
    numbers = {"pool": 500, "image_to_report": measured(0.5), "report_to_image": measured(0.6)}
    results.save(trained / "retrieval.json", {"mcr": numbers})
    text = hub.card(settings, "demo", "mcr-seed0")
    assert "Test split, 500 pairs" in text
    cells = " | ".join(["50.0 (46.0 to 54.0)"] * 3)
    assert f"| Reports for a radiograph | {cells} |" in text
    # With several seeds, each model's card has its own numbers.
    others = numbers | {"image_to_report": measured(0.1)}
    results.save(trained / "retrieval.json", {"mcr-seed0": numbers, "mcr-seed1": others})
    assert hub.card(settings, "demo", "mcr-seed0") == text
    assert "no patient's data" in text and "drawings only" in text
    of_patients = hub.card(settings.replace(source="openi"), "demo", "mcr-seed0")
    assert "`openi`, which are patients' data" in of_patients and "drawings" not in of_patients


def test_what_is_uploaded_is_private_complete_and_opens_again(trained, build, tmp_path):
    there = tmp_path / "hub"
    there.mkdir()
    api = Hub(there)
    model = build()
    hub.push_to_hub(model, "me/mcr", "demo", "mcr-seed0", api=api)
    assert api.created == {"me/mcr": True}
    assert {file.suffix for file in there.iterdir()} == {".safetensors", ".json", ".md"}
    words = ["Small left effusion."]
    assert MCR.from_pretrained(there).embed_reports(words).equal(model.embed_reports(words))


@pytest.mark.parametrize("source", ["mimic", "table"])
def test_a_model_of_patients_is_not_uploaded_unasked(trained, build, tmp_path, source):
    api = Hub(tmp_path)
    model = build()
    model.config = model.config.replace(source=source)
    with pytest.raises(ValueError, match="may_share_patients=True"):
        hub.push_to_hub(model, "me/mcr", "demo", "mcr-seed0", api=api)
    assert not api.created
    hub.push_to_hub(model, "me/mcr", "demo", "mcr-seed0", may_share_patients=True, api=api)
    assert api.created


def test_an_untrained_model_is_refused_before_anything_is_created(trained, build, tmp_path):
    api = Hub(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"training\.json"):
        hub.push_to_hub(build(), "me/mcr", "demo", "abm-seed0", api=api)
    assert not api.created
