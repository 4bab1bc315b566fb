"""Training as a user runs it, with tiny numbers: it learns, repeats itself, resumes, refuses."""

import dataclasses
import json
import shutil

import pandas as pd
import pytest
import torch

from mcrlib import train
from mcrlib.config import load


@pytest.fixture
def settings(smoke, dataset):
    """A seed of its own for each test, so that no test finds another's checkpoint."""
    settings.seed = getattr(settings, "seed", 10) + 1
    c = dataclasses.replace(smoke, seed=settings.seed)
    yield c
    shutil.rmtree(c.folder, ignore_errors=True)


def weights(c, dataset):
    return train.trained(c, dataset).state_dict()


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_training_lowers_every_term_and_leaves_a_model_that_opens(settings, dataset):
    history = train.train(dataclasses.replace(settings, epochs=4), dataset)
    for term in ("vrc", "mim", "mrm", "loss"):
        assert history[term].iloc[-1] < history[term].iloc[0]
    assert history["validate_recall@10"].between(0, 1).all()
    assert sorted(f.name for f in (settings.folder / "checkpoint").iterdir()) == ["final"]
    pd.testing.assert_frame_equal(pd.read_csv(settings.folder / "history.csv"), history)


def test_the_same_seed_gives_the_same_weights_and_another_does_not(settings, dataset):
    train.train(settings, dataset)
    first = weights(settings, dataset)
    shutil.rmtree(settings.folder)
    train.train(settings, dataset)
    assert equal(weights(settings, dataset), first)
    other = dataclasses.replace(settings, seed=settings.seed + 1000)
    train.train(other, dataset)
    assert not equal(weights(other, dataset), first)


def test_a_stopped_run_ends_as_an_unbroken_one(settings, dataset, monkeypatch):
    c = dataclasses.replace(settings, epochs=3)
    train.train(c, dataset)
    unbroken = weights(c, dataset)
    shutil.rmtree(c.folder)

    save = train._save

    def save_and_stop(*args):
        save(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train, "_save", save_and_stop)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                train.train(c, dataset)
    history = train.train(c, dataset)
    assert history["epoch"].tolist() == [1, 2, 3]
    assert equal(weights(c, dataset), unbroken)


def test_the_final_model_is_the_best_on_validation(settings, dataset):
    c = dataclasses.replace(settings, epochs=3)
    history = train.train(c, dataset)
    recall = train.validate(train.trained(c, dataset), dataset)
    assert recall == pytest.approx(history["validate_recall@10"].max())


def test_a_finished_model_is_not_trained_again_and_not_with_other_settings(settings, dataset):
    train.train(settings, dataset)
    stamp = (settings.folder / "checkpoint/final/model.safetensors").stat().st_mtime_ns
    train.train(settings, dataset)
    assert (settings.folder / "checkpoint/final/model.safetensors").stat().st_mtime_ns == stamp
    with pytest.raises(ValueError, match=r"trained with lr=0\.001, asked for is 0\.5"):
        train.train(dataclasses.replace(settings, lr=0.5), dataset)
    others = dataclasses.replace(dataset, info={**dataset.info, "dataset_sha256": "0"})
    with pytest.raises(ValueError, match="other pairs"):
        train.trained(settings, others)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_epoch(settings, dataset):
    c = dataclasses.replace(settings, epochs=3, lr=1e9, clip_norm=1e9)
    with pytest.raises(FloatingPointError, match="not finite in epoch"):
        train.train(c, dataset)
    assert not (c.folder / "checkpoint/final").exists()
    position = c.folder / "checkpoint/position.json"
    if position.exists():
        assert all(pd.notna(row["loss"]) for row in json.loads(position.read_text())["history"])


def test_too_few_pairs_for_a_batch_is_one_sentence(settings, dataset):
    with pytest.raises(ValueError, match="fewer than a batch of 500"):
        train.train(dataclasses.replace(settings, batch_size=500), dataset)


def test_an_untrained_model_is_named(dataset, home):
    with pytest.raises(FileNotFoundError, match="make train RUN=smoke VARIANTS=clip SEEDS=7"):
        train.trained(load("smoke", "clip", 7), dataset)


def test_the_rate_warms_up_and_comes_down():
    c = load("demo", epochs=10, warmup_epochs=2, lr=1.0)
    rates = [train.learning_rate(step / 100, c) for step in range(101)]
    assert rates[20] == pytest.approx(1.0) == max(rates)
    assert rates[10] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0.0, abs=1e-12)
    assert rates[20:] == sorted(rates[20:], reverse=True)
