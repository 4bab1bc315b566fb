"""The build: splits, counts, checksums, interruptions, full disks, any number of workers."""

import dataclasses
import json
import multiprocessing
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import mimic_tree
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcrlib import config
from mcrlib.data import dataset, prepare
from mcrlib.data.dataset import open_dataset
from mcrlib.data.schema import FRONTAL, SPLITS

BUILD = """
import sys
from mcrlib import config
from mcrlib.data import prepare
prepare.build(config.load("mimic", data=sys.argv[1], cache_size=64), workers=int(sys.argv[2]))
"""
FILES = ("manifest.parquet", "images.npy", "excluded.csv", "dataset.json")


def _build(home, tree, workers):
    """In a process of its own."""
    config.ROOT = home
    prepare.build(config.load("mimic", data=str(tree), cache_size=64), workers)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    mimic_tree.write(folder, 600)
    return folder


def start(home, tree, workers=1, **options):
    """The build in a process of its own, with `home` in the place of the checkout."""
    command = [sys.executable, "-c", BUILD, str(tree), str(workers)]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    where = {"cwd": Path(__file__).parents[1], "env": os.environ | {"MCR_HOME": str(home)}}
    return subprocess.Popen(command, **pipes, **where, **options)


def contents(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def built(tree, tmp_path_factory):
    """The bytes of an uninterrupted build."""
    home = tmp_path_factory.mktemp("whole")
    assert start(home, tree).wait() == 0
    return contents(home / "data/mimic")


def test_any_number_of_workers_gives_the_same_bytes(tree, built, tmp_path):
    for workers in (2, 3):
        assert start(tmp_path / str(workers), tree, workers).wait() == 0
        assert contents(tmp_path / str(workers) / "data/mimic") == built


def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(tree, built, tmp_path):
    """SIGKILL at 20 moments, uniform between the first and the last written byte."""
    # A server that has imported everything forks each build: it starts in no time.
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["mcrlib.data.prepare", "mcrlib.data.sources.mimic_cxr"])

    def run(home, workers=1, seconds=None):
        """Build, killed so many seconds after the first byte; returns how long it wrote."""
        build = server.Process(target=_build, args=(home, tree, workers))
        build.start()
        while not (home / "data/mimic/partial").exists() and build.is_alive():
            time.sleep(0.001)
        began = time.perf_counter()
        build.join(seconds)
        build.kill()
        build.join()
        return time.perf_counter() - began

    draw, whole, unfinished = random.Random(0), run(tmp_path / "whole"), 0
    for moment in range(20):
        home = tmp_path / str(moment)
        run(home, 1 if moment % 10 else 2, draw.uniform(0, whole))
        try:
            open_dataset(home / "data/mimic")
        except FileNotFoundError:
            unfinished += 1
        else:
            assert contents(home / "data/mimic") == built
        run(home)
        assert contents(home / "data/mimic") == built
        assert not (home / "data/mimic/partial").exists()
    assert unfinished >= 10


def test_resumed_build_does_not_decode_again(tree, built, tmp_path):
    folder = tmp_path / "data/mimic"
    build = start(tmp_path, tree)
    while not _journal(folder) and build.poll() is None:
        time.sleep(0.005)
    build.kill()
    build.wait()
    done = json.loads(_journal(folder)[-1])["done"]
    assert done > 0
    before = (folder / "partial/images.npy").stat().st_ino
    resumed = start(tmp_path, tree)
    _, said = resumed.communicate()
    assert f"| {done}/" in said  # the bar starts where the last run stopped
    assert (folder / "images.npy").stat().st_ino == before
    assert contents(folder) == built


def _journal(folder):
    journal = folder / "partial/journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)[1:] if journal.exists() else []
    return [line for line in lines if line.endswith("\n")]


def test_kill_during_publication_is_completed_by_open(tree, built, tmp_path):
    """Every state between two moves of the last step opens as the new data, whole."""
    for moved in range(len(dataset.FILES)):
        folder = tmp_path / str(moved)
        (folder / "partial").mkdir(parents=True)
        for i, name in enumerate(dataset.FILES):
            (folder / name).write_bytes(b"old")
            (folder / ("" if i < moved else "partial") / name).write_bytes(built[name])
        assert open_dataset(folder).info["kept"] > 0
        assert contents(folder) == built


def test_full_disk_is_one_sentence_and_keeps_what_was_there(tree, built, tmp_path):
    folder = tmp_path / "data/mimic"
    folder.mkdir(parents=True)
    for name, content in built.items():
        (folder / name).write_bytes(content)

    def little_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))

    build = start(tmp_path, tree, preexec_fn=little_room)
    _, said = build.communicate()
    assert build.returncode == 1
    assert said.splitlines()[-1].startswith("OSError: The disk is full: make room for ")
    assert contents(folder) == built
    assert open_dataset(folder).info["kept"] > 0
    assert start(tmp_path, tree).wait() == 0
    assert contents(folder) == built


@pytest.mark.parametrize("name", ["manifest.parquet", "images.npy", "excluded.csv"])
def test_flipped_bit_is_found(name, built, tmp_path):
    for file, content in built.items():
        (tmp_path / file).write_bytes(content)
    assert open_dataset(tmp_path).info["kept"] > 0
    damaged = bytearray(built[name])
    damaged[random.Random(name).randrange(len(damaged))] ^= 4
    (tmp_path / name).write_bytes(damaged)
    with pytest.raises(ValueError, match=f"{name} is missing or not the file that was built"):
        open_dataset(tmp_path)


def test_changed_source_is_not_resumed(home, tmp_path):
    mimic_tree.write(tmp_path, 200)
    settings = config.load("mimic", data=str(tmp_path), cache_size=16)
    settings = settings.replace(run="changed")
    first = prepare.build(settings, 1)
    (settings.data_folder / "made_from").unlink()
    partial = settings.data_folder / "partial"
    partial.mkdir()
    (partial / "images.npy").write_bytes(bytes(len(first.images) * 256 + 128))
    (partial / "journal.jsonl").write_text(
        '{"key": "another"}\n{"done": 64, "kept": 64, "failures": {}}\n'
    )
    again = prepare.build(settings, 1)
    assert np.array_equal(again.images, first.images)


def test_prepared_data_is_taken_as_it_is_until_source_settings_or_files_change(home, tmp_path):
    mimic_tree.write(tmp_path, 200)
    settings = config.load("mimic", data=str(tmp_path), cache_size=16)
    settings = settings.replace(run="again")
    first, images = prepare.build(settings, 1), settings.data_folder / "images.npy"
    made = images.stat().st_ino
    assert prepare.build(settings, 1).info == first.info
    assert images.stat().st_ino == made

    shorter = prepare.build(settings.replace(policy="impression"), 1)
    assert shorter.info["policy"] == "impression"
    back, made = prepare.build(settings, 1), images.stat().st_ino
    assert back.info == first.info

    damaged = bytearray(images.read_bytes())
    damaged[-1] ^= 4
    images.write_bytes(damaged)
    assert prepare.build(settings, 1).info == first.info
    assert images.stat().st_ino != made


def test_open_without_data(tmp_path):
    with pytest.raises(FileNotFoundError, match="run `make data` first"):
        open_dataset(tmp_path)


def test_dataset_says_what_it_holds(home, tree):
    settings = config.load("mimic", data=str(tree), cache_size=16)
    dataset = prepare.build(settings.replace(run="says"), 1)
    info, frame = dataset.info, dataset.frame
    assert info["policy"] == "both" and info["image_size"] == 16
    for split in SPLITS:
        part = frame.iloc[dataset.indices(split)]
        assert set(part["split"]) == {split}
        assert info["splits"][split] == {
            "pairs": len(part),
            "studies": part["study_id"].nunique(),
            "patients": part["patient_id"].nunique(),
        }
    assert dataset.images.dtype == np.uint8 and dataset.images.shape == (len(frame), 16, 16)
    with pytest.raises(ValueError, match="There is no split 'dev'"):
        dataset.indices("dev")


def test_same_images_are_found(dataset):
    pixels = np.concatenate([dataset.images[:5], dataset.images[2:3], dataset.images[:1]])
    pixels[6, 0, 0] ^= 1
    numbers = dataclasses.replace(dataset, images=pixels).same_images()
    assert numbers.tolist() == [0, 1, 2, 3, 4, 2, 5]


names = st.text("abc123", min_size=1, max_size=5)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(names, st.sampled_from(["", *SPLITS])), max_size=40))
def test_no_patient_in_two_splits(patients):
    records = [{"patient_id": patient, "split": split} for patient, split in patients]
    leaks = prepare._assign_splits(records)
    kept = [record for i, record in enumerate(records) if i not in leaks]
    homes = pd.DataFrame(kept, columns=["patient_id", "split"]).groupby("patient_id")["split"]
    assert (homes.nunique() == 1).all()
    for record, (_, given_split) in zip(records, patients, strict=True):
        assert SPLITS.index(record["split"]) >= SPLITS.index(given_split or "train")
    assert {p for p, _ in patients} == {record["patient_id"] for record in kept}


@settings(deadline=None, max_examples=50)
@given(st.sets(names, min_size=3, max_size=300))
def test_drawn_splits_are_never_empty_and_do_not_depend_on_order(patients):
    drawn = prepare._draw(sorted(patients))
    assert set(drawn) == patients
    assert set(drawn.values()) == set(SPLITS)
    assert drawn == prepare._draw(sorted(patients, reverse=True))


def test_drawn_splits_are_stable_and_near_their_shares():
    few = prepare._draw([str(i) for i in range(5000)])
    many = prepare._draw([str(i) for i in range(10000)])
    assert all(many[patient] == split for patient, split in few.items())
    shares = pd.Series(many).value_counts(normalize=True)
    assert np.allclose(shares[list(SPLITS)], [0.8, 0.1, 0.1], atol=0.01)


@pytest.mark.parametrize(
    ("view", "frontal"),
    [("PA", True), ("ap", True), ("AP Supine", True), ("AP PORTABLE", True), ("unstated", True),
     ("LATERAL", False), ("LL", False), ("AP AXIAL", False), ("AP LLD", False), ("", False),
     ("?", False)],
)  # fmt: skip
def test_frontal_views(view, frontal):
    assert bool(FRONTAL.fullmatch(view)) == frontal
