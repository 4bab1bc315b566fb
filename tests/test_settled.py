"""What make asks before it takes a finished model and its embeddings as they are."""

import shutil

import numpy as np
import pytest

from mcrlib import config, results
from mcrlib.companion import settled
from mcrlib.training import loop


@pytest.fixture(scope="module")
def trained(dataset):
    """A finished model of the smoke run with its embeddings of the test split."""
    settings = config.load("smoke", seed=771, epochs=1)
    loop.train(settings, dataset)
    pairs = dataset.frame["pair_id"].iloc[dataset.indices("test")]
    rows = np.eye(len(pairs), dtype=np.float32)
    made_from = {"dataset": results.dataset_hash("smoke")}
    file = settings.folder / "embeddings-test.npz"
    results.save_embeddings(file, rows, rows, pairs, made_from=made_from)
    yield settings
    shutil.rmtree(settings.folder)


def ask(changes, seeds="771", variants="mcr"):
    return settled.main(["smoke", variants, seeds, changes])


def test_the_same_settings_and_those_that_change_no_number_pass(trained):
    assert ask("epochs: 1") == 0
    assert ask("epochs: 1, workers: 3, save_minutes: 1") == 0


def test_other_settings_are_refused_with_the_way_to_keep_the_model(trained):
    for changes, asked in (("", 2), ("epochs: 50", 50)):
        message = ask(changes)
        assert f"was trained with epochs=1, but this run asks for {asked}." in message
        assert "Repeat SET='epochs: 1' to use it as it is" in message
        assert f"remove {trained.folder} to train anew" in message


def test_what_was_never_trained_passes(trained):
    assert ask("epochs: 9", seeds="781 791", variants="mcr abm") == 0


def test_one_model_of_several_that_differs_is_named(trained):
    assert "mcr-seed771" in ask("", seeds="781 771", variants="abm mcr")


def test_a_model_and_embeddings_of_other_pairs_are_refused(trained, monkeypatch):
    """As after all reports were replaced under the same ids."""
    monkeypatch.setattr(results, "dataset_hash", lambda run: "0" * 16)
    assert "was trained with dataset=" in ask("epochs: 1")
    away = trained.folder / "checkpoint" / "away"
    final = away.with_name("final").rename(away)
    try:
        assert "was made from other images or reports than the run" in ask("epochs: 1")
    finally:
        final.rename(away.with_name("final"))


def test_a_damaged_record_of_the_settings_is_one_sentence(trained):
    inputs = trained.folder / "checkpoint/final/inputs.json"
    text = inputs.read_text()
    try:
        inputs.unlink()
        assert "inputs.json is missing or damaged" in ask("epochs: 1")
    finally:
        inputs.write_text(text)
