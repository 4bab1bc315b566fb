"""Training as a user runs it, with tiny numbers: it learns, repeats itself, resumes, refuses."""

import dataclasses
import gc
import json
import math
import multiprocessing
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from mcrlib import config as config_module
from mcrlib import plots
from mcrlib.companion import analyses, captions
from mcrlib.config import load
from mcrlib.data import prepare
from mcrlib.data.batches import EpochOrder
from mcrlib.data.dataset import problems
from mcrlib.training import loop
from mcrlib.training.__main__ import main
from mcrlib.training.checkpoint import Damaged, Position, Saves, load_trained


@pytest.fixture
def settings(smoke, dataset):
    """A seed of its own for each test, so that no test finds another's checkpoint."""
    settings.seed = getattr(settings, "seed", 10) + 1
    config = smoke.replace(seed=settings.seed)
    yield config
    shutil.rmtree(config.folder, ignore_errors=True)


def weights(config, dataset):
    return load_trained(config, dataset).state_dict()


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_training_lowers_every_term_and_leaves_a_model_that_opens(settings, dataset):
    history = loop.train(settings.replace(epochs=4), dataset)
    for term in ("vrc", "mim", "mrm", "loss"):
        assert history[term].iloc[-1] < history[term].iloc[0]
    assert history["validate_recall@10"].between(0, 1).all()
    assert names(settings.folder / "checkpoint") == ["final"]
    pd.testing.assert_frame_equal(pd.read_csv(settings.folder / "history.csv"), history)


def test_the_same_seed_gives_the_same_weights_and_another_does_not(settings, dataset):
    loop.train(settings, dataset)
    first = weights(settings, dataset)
    shutil.rmtree(settings.folder)
    loop.train(settings, dataset)
    assert equal(weights(settings, dataset), first)
    other = settings.replace(seed=settings.seed + 1000)
    loop.train(other, dataset)
    assert not equal(weights(other, dataset), first)


def test_a_stopped_run_goes_on_in_mid_epoch_and_its_history_grows(settings, dataset, monkeypatch):
    config = settings.replace(epochs=3, save_minutes=0.0)
    loop.train(config, dataset)
    unbroken = weights(config, dataset)
    shutil.rmtree(config.folder)

    save, seen = Saves.save, []

    def save_and_stop(saves, position):
        save(saves, position)
        seen.append(position.name)
        if len(seen) in (3, 6):  # a batch before the epoch's end, and in the next epoch
            raise KeyboardInterrupt

    monkeypatch.setattr(Saves, "save", save_and_stop)
    for epochs_done in (0, 1):
        with pytest.raises(KeyboardInterrupt):
            loop.train(config, dataset)
        log = config.folder / "history.csv"
        assert (len(pd.read_csv(log)) if log.exists() else 0) == epochs_done
    history = loop.train(config, dataset)
    assert seen == sorted(set(seen))  # no step was taken twice
    assert history["epoch"].tolist() == [1, 2, 3]
    assert equal(weights(config, dataset), unbroken)


def test_data_that_vanished_is_one_sentence_and_the_saves_stay(
    settings, dataset, monkeypatch, capsys
):
    words = ["run=smoke", f"seed={settings.seed}", "epochs=2", "save_minutes=0"]
    with monkeypatch.context() as patch:
        patch.setattr(Saves, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            main(words)
    saved = sorted(settings.folder.rglob("*"))
    away = dataset.folder.rename(dataset.folder.with_name("away"))
    try:
        assert main(words) == 1
    finally:
        away.rename(dataset.folder)
    message = capsys.readouterr().err.splitlines()[-1]
    assert message == f"There is no prepared data in {dataset.folder}: run `make data` first."
    assert sorted(settings.folder.rglob("*")) == saved
    assert main(words) == 0
    assert names(settings.folder / "checkpoint") == ["final"]


def test_the_final_model_is_the_best_on_validation(settings, dataset):
    config = settings.replace(epochs=3)
    history = loop.train(config, dataset)
    recall = loop.validate(load_trained(config, dataset), dataset)
    assert recall == pytest.approx(history["validate_recall@10"].max())


def test_a_finished_model_is_not_trained_again_and_not_with_other_settings(settings, dataset):
    loop.train(settings, dataset)
    stamp = (settings.folder / "checkpoint/final/model.safetensors").stat().st_mtime_ns
    loop.train(settings, dataset)
    assert (settings.folder / "checkpoint/final/model.safetensors").stat().st_mtime_ns == stamp
    with pytest.raises(ValueError, match=r"trained with lr=0\.001, but this run asks for 0\.5"):
        loop.train(settings.replace(lr=0.5), dataset)
    others = dataclasses.replace(dataset, info={**dataset.info, "dataset_sha256": "0"})
    with pytest.raises(ValueError, match="trained with dataset="):
        load_trained(settings, others)


def test_a_loss_that_is_not_finite_stops_in_its_step_and_names_the_pairs(settings, dataset):
    config = settings.replace(epochs=3, lr=1e30, clip_norm=1e30, save_minutes=0.0)
    with pytest.raises(FloatingPointError, match=r"not finite in epoch 1, step \d+"):
        loop.train(config, dataset)
    record = json.loads((config.folder / "not_finite.json").read_text())
    assert not all(math.isfinite(float(value)) for value in record["terms"].values())
    assert set(record["terms"]) == {"loss", "vrc", "mim", "mrm", "gradient_norm"}
    pairs = dataset.frame["pair_id"].iloc[dataset.indices("train")]
    order = EpochOrder(len(pairs), config.batch_size, config.seed)
    order.epoch = record["epoch"] - 1
    assert record["pair_ids"] == pairs.iloc[list(order)[record["step"] - 1]].tolist()
    *_, last = sorted((config.folder / "checkpoint").glob("epoch-*"))
    assert last.name == f"epoch-{record['epoch'] - 1:04d}-step-{record['step'] - 1:06d}"
    tensors = load_file(last / "model.safetensors")
    assert all(value.isfinite().all() for value in tensors.values())
    assert not (config.folder / "checkpoint/final").exists()


def test_a_damaged_model_is_not_opened(settings, dataset):
    loop.train(settings, dataset)
    file = settings.folder / "checkpoint/final/model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    for use in (loop.train, load_trained):
        with pytest.raises(Damaged, match=r"final/model\.safetensors is missing or not the file"):
            use(settings, dataset)


def test_a_final_folder_without_its_model_says_what_to_remove(settings, dataset, capsys):
    """As `make` leaves it if it deletes the target of a failed rule."""
    loop.train(settings, dataset)
    final = settings.folder / "checkpoint/final"
    (final / "model.safetensors").unlink()
    with pytest.raises(Damaged, match=rf"model\.safetensors is missing .* Remove {final} to train"):
        loop.train(settings, dataset)
    shutil.rmtree(final)
    loop.train(settings, dataset)
    assert (final / "model.safetensors").is_file()


@pytest.mark.parametrize("name", ["model.safetensors", "sha256.json", "inputs.json"])
def test_while_its_saves_are_there_a_damaged_final_is_made_again(
    settings, dataset, monkeypatch, name
):
    with monkeypatch.context() as patch:
        patch.setattr(loop.checkpoint, "tidy", lambda folder: None)
        history = loop.train(settings, dataset)
    expected = weights(settings, dataset)
    final = settings.folder / "checkpoint/final"
    (final / name).write_bytes(b"damaged")
    again = loop.train(settings, dataset)
    assert equal(weights(settings, dataset), expected)
    assert names(final.parent) == ["final"]
    pd.testing.assert_frame_equal(again, history)


def test_a_final_copy_that_went_wrong_keeps_the_saves(settings, dataset, monkeypatch):
    """A disk that writes other bytes than it was given is found before the saves go."""
    copytree = shutil.copytree

    def copy_and_damage(source, target, **options):
        copytree(source, target, **options)
        (target / "model.safetensors").write_bytes(b"other bytes")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copytree", copy_and_damage)
        with pytest.raises(Damaged, match=r"final/model\.safetensors is missing or not the file"):
            loop.train(settings, dataset)
    assert [name for name in names(settings.folder / "checkpoint") if name.startswith("epoch-")]
    loop.train(settings, dataset)
    assert names(settings.folder / "checkpoint") == ["final"]


def test_a_lost_history_of_a_finished_model_is_one_sentence(settings, dataset):
    loop.train(settings, dataset)
    for damage in (lambda file: file.write_bytes(b""), lambda file: file.unlink()):
        damage(settings.folder / "history.csv")
        with pytest.raises(Damaged, match=r"history\.csv, the history of a finished model"):
            loop.train(settings, dataset)


@pytest.mark.whole
def test_a_second_training_of_the_same_model_is_refused_and_the_first_goes_on(settings, dataset):
    """And after the first was killed, the next one resumes."""
    words = ["run=smoke", f"seed={settings.seed}", "epochs=500", "validate_every=500"]
    command = [sys.executable, "-m", "mcrlib.training", *words]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert first.stdout.readline().startswith("epoch  1/500")
        second = subprocess.run(command, capture_output=True, text=True)
        assert second.returncode == 1
        message = second.stderr.splitlines()[-1]
        assert message.startswith(f"Another training of {settings.folder} is running")
        assert f"process {first.pid} on " in message
        assert first.poll() is None
    finally:
        first.kill()
        first.wait()
    third = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert third.stdout.readline().startswith("resuming after")
    finally:
        third.kill()
        third.wait()


def test_a_batch_that_cannot_be_shared_equally_is_one_sentence(settings, dataset, tokenizer):
    three = SimpleNamespace(process_index=0, num_processes=3)
    with pytest.raises(ValueError, match="batch of 32 cannot be shared equally by 3 processes"):
        loop._batches(settings, dataset, tokenizer, three)


def test_a_setting_that_does_not_exist_is_one_sentence(home, capsys):
    assert main(["run=smoke", "epoch=3"]) == 1
    assert capsys.readouterr().err == "There is no setting 'epoch'; did you mean 'epochs'?\n"


def test_too_few_pairs_for_a_batch_is_one_sentence(settings, dataset):
    with pytest.raises(ValueError, match="fewer than a batch of 500"):
        loop.train(settings.replace(batch_size=500), dataset)


def with_splits(dataset, **pairs):
    """The data set with so many pairs in each split."""
    labels = [split for split, count in pairs.items() for _ in range(count)]
    frame = dataset.frame.iloc[: len(labels)].assign(split=labels)
    return dataclasses.replace(dataset, frame=frame)


@pytest.mark.parametrize(
    ("pairs", "messages"),
    [
        ({"train": 64, "validate": 12}, ["The test split .* has no pairs"]),
        ({"train": 64, "test": 12}, ["The validate split .* has no pairs"]),
        ({"validate": 12, "test": 12}, ["The train split .* has no pairs"]),
        (
            {"train": 64, "validate": 9, "test": 1},
            ["The validate split .* has 9 pairs, .* need 10"],
        ),
        ({"train": 31, "validate": 9, "test": 1}, ["has 9 pairs", "31 pairs, fewer than a batch"]),
        ({}, ["train split", "validate split", "test split"]),
        ({"train": 32, "validate": 10, "test": 1}, []),
    ],
)
def test_what_would_fail_late_is_said_before_training(settings, dataset, pairs, messages):
    small = with_splits(dataset, **pairs)
    found = problems(small, settings)
    assert len(found) == len(messages)
    for sentence, message in zip(found, messages, strict=True):
        assert re.search(message, sentence)
    if messages:
        with pytest.raises(ValueError, match=messages[-1]):
            loop.train(settings, small)
        assert not settings.folder.exists()


def test_the_log_says_what_chance_would_find(settings, dataset, capsys):
    loop.train(settings.replace(epochs=1), dataset)
    assert f"(chance {10 / len(dataset.indices('validate')):.3f})" in capsys.readouterr().out


def test_an_untrained_model_is_named(dataset, home):
    with pytest.raises(FileNotFoundError, match="make train RUN=smoke VARIANTS=clip SEEDS=7"):
        load_trained(load("smoke", "clip", 7), dataset)


def test_the_rate_warms_up_and_comes_down():
    config = load("demo", epochs=10, warmup_epochs=2, lr=1.0)
    rates = [loop.learning_rate(step / 100, config) for step in range(101)]
    assert rates[20] == pytest.approx(1.0) == max(rates)
    assert rates[10] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0.0, abs=1e-12)
    assert rates[20:] == sorted(rates[20:], reverse=True)


@pytest.fixture
def few(smoke, home):
    """Settings and pairs of a training whose validation pool is so small that K = 10 tells little.

    Their `data` stands in a home of its own.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config_module, "ROOT", home / "few")
        settings = smoke.replace(
            sizes=(16, 12, 12), batch_size=8, epochs=2, vision_width=32, text_width=32, seed=1
        )
        yield settings, prepare.build(settings, workers=1)
        shutil.rmtree(home / "few")


def test_a_small_validation_pool_is_read_at_a_k_that_tells(few, capsys):
    config, dataset = few
    history = loop.train(config, dataset)
    assert [name for name in history if name.startswith("validate")] == ["validate_recall@5"]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 2
    for line, recall in zip(lines, history["validate_recall@5"], strict=True):
        assert f"validation Recall@5 {recall:.3f} (chance 0.417)" in line
    trained = load_trained(config, dataset)
    best = history["validate_recall@5"].max()
    assert loop.validate(trained, dataset, 5) == pytest.approx(best)
    numbers = analyses.describe_training(config, dataset, history).values
    assert numbers["validate_recall@5"] == pytest.approx(best)
    said = captions.validation_recall(numbers, 12)
    assert said == f"Recall@5 {100 * best:.1f} % (chance 41.7 %)"
    (axis,) = [axes for axes in plots.loss_curves(history, 12).axes if axes.get_xlabel()]
    assert axis.get_ylabel() == "validation Recall@5 (%)"
    assert axis.lines[1].get_ydata()[0] == pytest.approx(100 * 5 / 12)


def test_a_training_keeps_the_k_that_it_began_with(few):
    """As one that an earlier version stopped, which read Recall@10 in every pool."""
    config, dataset = few
    trainer = loop.Trainer(config, dataset, loop._accelerator(config))
    row = {"epoch": 1, "loss": 1.0, "seconds": 1.0, "validate_recall@10": 1.0}
    trainer.saves.save(Position(history=[row]))
    before = load_file(config.folder / "checkpoint/epoch-0001-step-000000/model.safetensors")
    history = loop.train(config, dataset)
    assert [name for name in history if name.startswith("validate")] == ["validate_recall@10"]
    final = load_file(config.folder / "checkpoint/final/model.safetensors")
    assert all(torch.equal(final[name], before[name]) for name in before)  # 1.0 stays the best


def _private_kib():
    """Memory that this process shares with no other."""
    text = Path("/proc/self/smaps_rollup").read_text()
    return int(text.split("Private_Dirty:")[1].split()[0])


def _grow_by_collecting(prepare, connection):
    prepare(0)
    before = _private_kib()
    gc.collect()
    connection.send(_private_kib() - before)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux tells it")
def test_a_worker_copies_no_objects_that_it_never_uses(smoke, dataset, tokenizer):
    of_a_large_manifest = [[i] for i in range(300_000)]  # 25 MB, as labels are held
    accelerator = loop._accelerator(smoke)
    loader = loop._batches(smoke, dataset, tokenizer, accelerator).loader
    forked = multiprocessing.get_context("fork")
    ours, theirs = forked.Pipe()
    worker = forked.Process(target=_grow_by_collecting, args=(loader.worker_init_fn, theirs))
    worker.start()
    grown = ours.recv()
    worker.join()
    assert grown < 5_000
    assert len(of_a_large_manifest) == 300_000
