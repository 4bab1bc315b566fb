"""Only a finished run of phantoms can become the committed reference."""

import numpy as np
import pytest

from mcrlib import config, results
from mcrlib.companion import probe_files, publish
from mcrlib.evaluation.probes import Scores
from mcrlib.model import MCR


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """A home folder with the results of a demo run of one model."""
    monkeypatch.setattr(config, "ROOT", tmp_path)
    draw, folder = np.random.default_rng(0), tmp_path / "results" / "demo"
    for split in ("validate", "test"):
        image, report = draw.standard_normal((2, 5, 8))
        file = folder / "mcr-seed0" / f"embeddings-{split}.npz"
        results.save_embeddings(file, image, report, [f"pair{i}" for i in range(5)])
    for name in (
        "efficiency.json",
        "ablations.json",
        "compute.json",
        "grounding.json",
        "robustness.json",
        "domain.json",
        "scale.json",
        "mcr-seed0/history.csv",
        "mcr-seed0/secret.txt",
    ):
        (folder / name).write_text(name)
    results.save(folder / "data.json", {"dataset": {"source": "phantom"}})
    probe_files.save(folder / "mcr-seed0", Scores([f"pair{i}" for i in range(5)], {}, {}), {})
    (folder / "executed").mkdir()
    for name in ("00_data", "01_train-mcr-seed0", "03_retrieval", "09_explore"):
        (folder / "executed" / f"{name}.ipynb").write_text(name)
    figures = tmp_path / "figures" / "demo"
    figures.mkdir(parents=True)
    for name in ("data_lengths.png", "training_mcr-seed0.png", "figure5.png"):
        (figures / name).write_text(name)
    return folder


def files(folder):
    return {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()}


def test_only_files_that_cannot_be_recreated_are_copied(demo, tmp_path):
    target = tmp_path / "results" / "reference"
    (target / "old-seed0").mkdir(parents=True)
    publish.publish("demo")
    embeddings = {f"mcr-seed0/embeddings-{split}.npz" for split in ("validate", "test")}
    assert files(target) == {
        "data.json",
        "efficiency.json",
        "ablations.json",
        "compute.json",
        "grounding.json",
        "robustness.json",
        "domain.json",
        "scale.json",
        "mcr-seed0/history.csv",
        "mcr-seed0/probes-test.npz",
        "executed/00_data.ipynb",
        "executed/01_train-mcr-seed0.ipynb",
        "executed/09_explore.ipynb",  # 03 to 08 can be executed on the reference itself
        *embeddings,
    }
    assert files(tmp_path / "figures" / "reference") == {
        "data_lengths.png",
        "training_mcr-seed0.png",
    }
    name = "mcr-seed0/embeddings-test.npz"
    for ours, theirs in zip(
        results.load_embeddings(target / name),
        results.load_embeddings(demo / name),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-3)
    with np.load(target / name) as rows:
        assert rows["image"].dtype == np.float16


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("mimic", "not made of phantoms"),
        ("reference", "published already"),
        ("half-demo", "is a half run: publish RUN=demo"),
    ],
)
def test_runs_of_patients_and_the_reference_itself_are_refused(demo, tmp_path, run, message):
    publish.publish("demo")
    before = files(tmp_path)
    with pytest.raises(ValueError, match=message):
        publish.publish(run)
    assert files(tmp_path) == before


def test_a_table_built_under_the_name_of_the_demo_is_refused(demo, tmp_path):
    """After `make reproduce RUN=demo SET='source: table'`, the data decides, not the run's name."""
    results.save(demo / "data.json", {"dataset": {"source": "table"}})
    before = files(tmp_path)
    with pytest.raises(ValueError, match="of the source 'table': it is never published"):
        publish.publish("demo")
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [("{home}/data", "shows a path of this machine"), ("x" * 1_000_001, "is larger than")],
)
def test_a_notebook_that_shows_a_path_or_is_too_large_is_refused(demo, tmp_path, content, message):
    notebook = demo / "executed" / "00_data.ipynb"
    notebook.write_text(content.format(home=tmp_path))
    before = files(tmp_path)
    with pytest.raises(ValueError, match=message):
        publish.publish("demo")
    assert files(tmp_path) == before


def test_two_models_are_shipped_with_their_cards_in_half_precision(demo, tmp_path, build):
    model = build()
    for name in ("mcr-seed0", "abm-seed0", "dual-seed0"):
        model.save_pretrained(demo / name / "checkpoint" / "final")
        results.save(demo / name / "training.json", {"best_epoch": 3, "seconds": 61.0}, git="abc")
    publish.publish("demo")
    reference = tmp_path / "results" / "reference"
    shipped = {str(file.parent.relative_to(reference)) for file in reference.rglob("*.safetensors")}
    assert shipped == {"mcr-seed0/model", "abm-seed0/model"}
    folder = results.model_folder(reference / "mcr-seed0")
    trained = results.model_folder(demo / "mcr-seed0")
    sizes = [(place / "model.safetensors").stat().st_size for place in (folder, trained)]
    assert sizes[0] < 0.55 * sizes[1]
    texts = ["No pleural effusion.", "Large right pneumothorax."]
    before, after = model.embed_reports(texts), MCR.from_pretrained(folder).embed_reports(texts)
    assert after.dtype == before.dtype
    assert (before * after).sum(dim=1).min() > 0.999
    assert "Best epoch on the validation split: 3" in (folder / "README.md").read_text()
