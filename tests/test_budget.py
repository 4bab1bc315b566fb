"""How long a training is: broken epochs, and variants at equal compute."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertConfig

from mcrlib import config as config_module
from mcrlib.companion import analyses, captions
from mcrlib.config import load
from mcrlib.training import budget, cost, loop
from mcrlib.training.budget import Budget
from mcrlib.training.checkpoint import Saves, load_trained
from mcrlib.training.finished import check_finished

EPOCH_STEPS = 4  # of the smoke run
BERT = BertConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=2)
LENGTHS = [9, 12, 20, 20, 31, 40]


@pytest.fixture
def settings(smoke, dataset):
    """A seed of its own, small, and nothing left behind."""
    config = smoke.replace(seed=880, vision_width=32, text_width=32)
    yield config
    shutil.rmtree(config.folder, ignore_errors=True)


@pytest.fixture
def progress(monkeypatch):
    """The share of the schedule at each step that is taken."""
    seen = []
    learning_rate = loop.learning_rate

    def watched(share, config):
        seen.append(share)
        return learning_rate(share, config)

    monkeypatch.setattr(loop, "learning_rate", watched)
    return seen


def of_training(config):
    return budget.of_training(config, LENGTHS, 50, BERT, epoch_steps=EPOCH_STEPS)


def test_whole_epochs_have_the_rates_that_they_always_had(settings, dataset, progress):
    """To the last bit, or their weights would change."""
    loop.train(settings.replace(epochs=3), dataset)
    expected = []
    for epoch in range(3):
        for step in range(EPOCH_STEPS):
            expected.append((epoch + (step + 1) / EPOCH_STEPS) / 3)
    assert progress == expected


def test_a_broken_epoch_ends_the_schedule_and_is_validated(settings, dataset, progress, capsys):
    config = settings.replace(epochs=2.5, validate_every=2)
    history = loop.train(config, dataset)
    assert len(progress) == 10
    assert progress[-1] == pytest.approx(1)
    np.testing.assert_allclose(np.diff(progress), 1 / 10)
    assert history["epoch"].tolist() == [1, 2, 3]
    assert history["validate_recall@10"].notna().tolist() == [False, True, True]
    said = capsys.readouterr().out
    assert "epoch  3/3" in said
    saved = budget.read(config.folder)
    assert (saved.steps, saved.epoch_steps, saved.epochs) == (10, EPOCH_STEPS, 2.5)
    pd.testing.assert_frame_equal(loop.train(config, dataset), history)  # as finished


def test_a_training_resumes_in_its_broken_epoch(settings, dataset, monkeypatch, capsys):
    config = settings.replace(epochs=1.75, save_minutes=0.0)
    loop.train(config, dataset)
    unbroken = load_trained(config, dataset).state_dict()
    shutil.rmtree(config.folder)
    save = Saves.save

    def stop_after(self, position):
        save(self, position)
        if (position.epochs_done, position.step) == (1, 2):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Saves, "save", stop_after)
        with pytest.raises(KeyboardInterrupt):
            loop.train(config, dataset)
    history = loop.train(config, dataset)
    assert "resuming after 2 steps of epoch 2" in capsys.readouterr().out
    assert len(history) == 2
    resumed = load_trained(config, dataset).state_dict()
    assert all(torch.equal(resumed[name], unbroken[name]) for name in unbroken)


@pytest.mark.whole
def test_at_equal_compute_each_variant_takes_as_many_operations(smoke):
    of_mcr = of_training(smoke.replace(epochs=10))
    assert of_mcr.steps == 40
    for variant in config_module.VARIANTS:
        for times in (0.5, 1.0, 2.0):
            config = load("smoke", variant, epochs=10, compute=times)
            equal = of_training(config)
            assert abs(equal.flops - times * of_mcr.flops) <= equal.flops_a_step / 2
    assert of_training(load("smoke", "mcr", epochs=10, compute=1.0)) == of_mcr
    dual = of_training(load("smoke", "dual", epochs=10, compute=1.0))
    assert (
        dual.steps < of_mcr.steps < of_training(load("smoke", "flip", epochs=10, compute=1)).steps
    )


def test_half_and_double_runs_have_half_and_twice_the_compute_for_every_variant():
    for variant in ("mcr", "dual", "clip"):
        whole = of_training(load("smoke", variant, compute=1.0))
        for beginning, times in (("half-", 0.5), ("double-", 2)):
            other = of_training(load(f"{beginning}smoke", variant, compute=1.0))
            assert abs(other.flops - times * whole.flops) <= whole.flops_a_step
    assert load("half-demo", "dual").compute == load("demo").compute == 1


def test_settings_given_to_all_variants_are_given_to_their_measure(smoke):
    """Compute is that of `mcr` with the same batch and mask, not that of the run's defaults."""
    given_settings = {"epochs": 4, "batch_size": 16, "report_mask": 0.5}
    dual = of_training(load("smoke", "dual", compute=1.0, **given_settings))
    mcr = of_training(load("smoke", "mcr", **given_settings))
    assert abs(dual.flops - mcr.flops) <= dual.flops_a_step / 2


def test_dual_trains_shorter_at_equal_compute_and_says_so(settings, dataset, progress, capsys):
    config = settings.replace(variant="dual", contrast="unmasked", compute=1.0, epochs=3)
    history = loop.train(config, dataset)
    length = budget.read(config.folder)
    assert len(progress) == length.steps < 12
    assert progress[-1] == pytest.approx(1)
    assert len(history) == length.last_epoch < 3
    said = f", that of mcr's 3 epochs; {length.epochs:.3g} epochs, {length.steps} steps of "
    assert said in capsys.readouterr().out
    shutil.rmtree(config.folder)


def test_the_text_encoder_s_sizes_are_read_from_the_model(smoke):
    """As those from the hub, whose settings do not say them."""
    from_hub = smoke.replace(text="somebody/bert")
    written = smoke.replace(text_width=64, text_depth=2, text_heads=2)
    typical = budget.typical_lengths(LENGTHS, smoke.batch_size)
    assert of_training(from_hub).flops_a_step == cost.step_flops(written, typical, 50)


def test_settings_that_are_as_before_have_the_hash_that_they_had():
    config = load("mimic")
    assert "compute" not in config.deciding()
    assert load("mimic", epochs=50.0).digest() == config.digest()
    assert load("mimic", epochs=49.5).digest() != config.digest()
    assert load("mimic", compute=1.0).digest() != config.digest()
    assert load("demo").compute == load("reference").compute == 1
    assert {load(run).compute for run in ("smoke", "table", "openi", "mimic")} == {0}


def test_a_model_of_another_compute_is_not_taken(settings):
    """Also where the setting stands at its default, and is not among what a model is made from."""
    final = settings.folder / "checkpoint" / "final"
    final.mkdir(parents=True)
    equal = settings.replace(compute=1.0)
    for made, asked in ((equal, settings), (settings, equal)):
        (final / "inputs.json").write_text(json.dumps(made.deciding()))
        check_finished(made, None)
        with pytest.raises(ValueError, match=f"trained with compute={made.compute}, but this run"):
            check_finished(asked, None)


@given(
    lengths=st.lists(st.integers(3, 96), min_size=1, max_size=60),
    pairs=st.integers(1, 40),
)
def test_typical_lengths_are_some_of_the_lengths(lengths, pairs):
    typical = budget.typical_lengths(lengths, pairs)
    assert len(typical) == pairs
    assert set(typical) <= set(lengths)
    assert typical == sorted(typical)
    assert budget.typical_lengths(lengths, len(lengths)) == sorted(lengths)


@given(steps=st.integers(1, 500), epoch_steps=st.integers(1, 60))
def test_the_epochs_of_a_budget_have_its_steps(steps, epoch_steps):
    length = Budget(steps, epoch_steps, 10)
    taken = [length.steps_of(epoch) for epoch in range(length.last_epoch)]
    assert sum(taken) == steps
    assert set(taken[:-1]) <= {epoch_steps}
    assert 1 <= taken[-1] <= epoch_steps


def test_operations_have_a_unit():
    assert budget.operations(8.31e12) == "8.31 TFLOPs"
    assert budget.operations(2e18) == "2 EFLOPs"
    assert budget.operations(12) == "12 FLOPs"


def test_the_record_of_a_training_says_what_it_took(settings, dataset):
    config = settings.replace(epochs=1.5, validate_every=1)
    history = loop.train(config, dataset)
    record = analyses.describe_training(config, dataset, history)
    values = record.values
    assert (values["epochs"], values["steps"]) == (1.5, 6)
    assert values["flops"] == 6 * values["flops_a_step"] > 0
    assert values["seconds"] > 0
    assert "GFLOPs: 1.5 epochs, 6 steps of 1." in captions.compute(values)
    assert captions.compute({"seconds": 3}).startswith("not counted")
    assert record.provenance["peak_memory_gb"] > 0
