"""Captions say whether the models of a run were trained at equal compute or at equal epochs."""

from pathlib import Path

import numpy as np
import pytest

from mcrlib import config, results
from mcrlib.companion import analyses, captions, compare
from mcrlib.companion.lengths import trained_alike
from mcrlib.evaluation import retrieval
from mcrlib.training.budget import Budget

MCR = Budget(steps=100, epoch_steps=10, flops_a_step=13_000_000_000)
DUAL = Budget(steps=45, epoch_steps=10, flops_a_step=29_000_000_000)
CHECKOUT = Path(__file__).parents[1]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Adds a trained model to the run `smoke`: by its budget, or by epochs as older records do."""
    monkeypatch.setattr(config, "ROOT", tmp_path)

    def add(variant, budget=None, epochs=0, seed=0):
        folder = tmp_path / "results" / "smoke" / f"{variant}-seed{seed}"
        rows = np.eye(4, dtype=np.float32)
        ids = ["a", "b", "c", "d"]
        results.save_embeddings(folder / "embeddings-test.npz", rows, rows, ids)
        values = {"best_epoch": 1}
        if budget is not None:
            values["epochs"] = budget.epochs
            values["flops_a_step"] = budget.flops_a_step
            values["flops"] = budget.flops
        if budget is not None or epochs:
            results.save(folder / "training.json", values)
        if epochs:
            history = ["epoch,loss", *(f"{epoch},1.0" for epoch in range(1, epochs + 1))]
            (folder / "history.csv").write_text("\n".join(history) + "\n")

    return add


def test_equal_compute_is_said_with_its_size_and_epochs(run):
    run("mcr", MCR)
    run("dual", DUAL)
    run("tfidf")  # the linear baseline is not trained in epochs
    expected = "Trained at equal compute (1.3 TFLOPs each; epochs mcr 10, dual 4.5). "
    assert trained_alike("smoke") == expected


def test_equal_epochs_are_said_also_of_records_without_them(run):
    run("mcr", epochs=10)
    run("abm", MCR)
    assert trained_alike("smoke") == "Trained at equal epochs (10 each). "


@pytest.mark.parametrize("epochs", [4, 45])
def test_neither_is_said_too(run, epochs):
    run("mcr", MCR)
    run("dual", epochs=epochs)
    expected = f"Trained at neither equal epochs nor equal compute (epochs mcr 10, dual {epochs}). "
    assert trained_alike("smoke") == expected


def test_nothing_is_said_of_embeddings_from_elsewhere(run):
    assert trained_alike("smoke") == ""
    run("theirs")
    assert trained_alike("smoke") == ""


def test_the_reference_s_captions_say_what_it_is(monkeypatch):
    monkeypatch.setattr(config, "ROOT", CHECKOUT)
    alike = trained_alike("reference")
    assert alike.startswith("Trained at equal ")
    retrieval = analyses.retrieve("reference")
    assert alike in captions.recall("reference", retrieval, "pair")
    assert alike in captions.verdicts("reference", retrieval)
    relevance = analyses.measure_relevance("reference")
    assert alike in captions.relevance("reference", relevance)


def test_a_run_at_equal_compute_beside_a_reference_at_equal_epochs_is_told_apart(
    run, tmp_path, capsys
):
    run("mcr", MCR)
    run("dual", DUAL)
    values = {"mcr-seed0": retrieval.evaluate(*np.eye(30)[None].repeat(2, 0), draws=5)}
    for name in ("smoke", "reference"):
        results.save(tmp_path / "results" / name / "retrieval.json", values)
    compare.main("smoke")
    printed = capsys.readouterr().out
    assert "smoke: Trained at equal compute (1.3 TFLOPs each; epochs mcr 10, dual 4.5)." in printed
    assert "reference: nothing says how long it was trained." in printed
