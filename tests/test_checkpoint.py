"""Saves: what is refused, by which words, and what is left then."""

import dataclasses
import json
import os
import resource
import shutil

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from mcrlib.training import loop
from mcrlib.training.checkpoint import HASHES, OPTIMIZER, POSITION, Damaged, Position, Saves


@pytest.fixture
def saves(build, smoke, dataset):
    """Two saves of a tiny model, after one step and after two."""
    changes = {"seed": 77, "text_depth": 1, "vision_depth": 1, "text_width": 32, "vision_width": 32}
    made = opened(build(**changes), dataset)
    shutil.rmtree(made.folder, ignore_errors=True)
    for step in (1, 2):
        one_step(made)
        made.save(Position(step=step, sums={"loss": 1 / 3 + step}, seconds=0.1))
    yield made
    shutil.rmtree(made.folder.parent)


def opened(model, dataset):
    return Saves(model.config, dataset, model, loop._optimizer(model, model.config))


def one_step(saves):
    sum(p.square().sum() for p in saves.model.parameters()).backward()
    saves.optimizer.step()
    saves.optimizer.zero_grad()


@pytest.fixture
def again(saves, dataset):
    """The same run in a later process."""

    def _again(config=saves.config, dataset=dataset):
        return Saves(config, dataset, saves.model, saves.optimizer)

    return _again


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_a_resumed_run_has_the_weights_the_moments_and_the_position(saves, build, dataset):
    config = saves.config.model_dump()
    fresh = opened(build(**config), dataset)
    assert fresh.resume() == Position(step=2, sums={"loss": 1 / 3 + 2}, seconds=0.1)
    one_step(saves), one_step(fresh)
    for ours, theirs in zip(saves.model.parameters(), fresh.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_nothing_is_pickled_and_every_file_is_hashed(saves):
    for name in saves.kept:
        files = set(names(saves.folder / name))
        assert {file.rpartition(".")[2] for file in files} == {"json", "safetensors"}
        assert set(json.loads((saves.folder / name / HASHES).read_text())) == files - {HASHES}


def test_the_last_two_and_the_best_stay(saves):
    history = []
    for epoch, recall in enumerate([0.1, 0.9, 0.3, 0.9, 0.2], start=1):
        history.append({"epoch": epoch, "validate_recall@10": recall, "seconds": 1.0})
        saves.save(Position(history=list(history)))
    best, before, last = (f"epoch-{epoch:04d}-step-000000" for epoch in (2, 4, 5))
    assert names(saves.folder) == [best, before, last, "saves.json"]
    weights = load_file(saves.folder / best / "model.safetensors")
    saves.finish(Position(history=history))
    assert names(saves.folder) == ["final"]
    final = load_file(saves.folder / "final" / "model.safetensors")
    assert all(torch.equal(final[name], weights[name]) for name in weights)
    assert not {OPTIMIZER, POSITION} & set(names(saves.folder / "final"))


def test_a_damaged_file_is_named_and_the_save_before_used(saves, capsys, again):
    _, last = (saves.folder / name for name in sorted(saves.kept))
    os.truncate(last / "model.safetensors", 1000)
    assert again().resume().step == 1
    refused = f"{last / 'model.safetensors'} is missing or not the file that was saved."
    assert capsys.readouterr().out == f"{refused} Trying the previous save.\n"


def test_after_a_refusal_the_intact_save_is_not_the_one_that_goes(saves, again):
    before, last = (saves.folder / name for name in sorted(saves.kept))
    (last / OPTIMIZER).unlink()
    later = again()
    later.resume()
    later.save(Position(step=3))
    assert names(saves.folder) == [before.name, Position(step=3).name, "saves.json"]
    assert again().resume().step == 3


def test_where_no_save_is_intact_that_is_said(saves, again):
    for name in saves.kept:
        (saves.folder / name / POSITION).unlink()
    with pytest.raises(Damaged, match=r"position\.json is missing .* No save is intact: remove"):
        again().resume()
    assert len(names(saves.folder)) == 3


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_a_damaged_pointer_costs_at_most_the_last_save(saves, place, bit, cut, again):
    pointer = saves.pointer.read_bytes()
    offset = int(place * len(pointer))
    damaged = bytearray(pointer)
    damaged[offset] ^= 1 << bit
    if cut:
        del damaged[offset:]
    try:
        saves.pointer.write_bytes(damaged)
        assert again().resume().step in (1, 2)
    finally:
        saves.pointer.write_bytes(pointer)


def test_another_run_s_save_in_place_of_the_last_is_refused(saves, again):
    before, last = (saves.folder / name for name in sorted(saves.kept))
    shutil.rmtree(last)
    shutil.copytree(before, last)
    assert again().resume().step == 1
    assert again().resume().name == before.name


@pytest.mark.parametrize("name", ["dataset", "tokenizer"])
def test_other_inputs_are_refused_by_name(saves, again, dataset, tokenizer, name):
    if name == "tokenizer":
        saves.model.tokenizer = type(tokenizer)(vocab={"[PAD]": 0, "[UNK]": 1})
    else:
        dataset = dataclasses.replace(dataset, info=dataset.info | {"dataset_sha256": "0"})
    with pytest.raises(ValueError, match=f"trained with {name}='"):
        again(dataset=dataset).resume()


def test_other_settings_are_refused_by_name_and_others_places_are_not(saves, again):
    with pytest.raises(ValueError, match=r"trained with lr=0\.001, but this run asks for 0\.5"):
        again(config=saves.config.replace(lr=0.5)).resume()
    elsewhere = saves.config.replace(workers=3, save_minutes=0.5)
    assert again(config=elsewhere).resume().step == 2


def test_a_full_disk_is_one_sentence_and_the_save_before_stays(saves, again):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in (0, 1_000, 100_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
        try:
            with pytest.raises(OSError, match=r"could not be written .* make room there") as error:
                saves.save(Position(step=3))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert "\n" not in str(error.value)
        assert names(saves.folder) == [*sorted(saves.kept), "saves.json"]
        assert again().resume().step == 2
    saves.save(Position(step=3))
    assert again().resume().step == 3
