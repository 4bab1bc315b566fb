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
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcrlib import config
from mcrlib.data import dataset as dataset_module
from mcrlib.data import prepare
from mcrlib.data.dataset import open_dataset
from mcrlib.data.schema import FRONTAL, SPLITS, TEXT_LIST
from mcrlib.files import CHECKED_FILES, FILES, sha256

BUILD = """
import sys
from mcrlib import config
from mcrlib.data import prepare
prepare.build(config.load("mimic", data=sys.argv[1], cache_size=64), workers=int(sys.argv[2]))
"""


def _build(home, tree, workers):
    """Runs in a forked process, so that `config.ROOT` changes only there."""
    config.ROOT = home
    settings = config.load("mimic", data=str(tree), cache_size=64)
    prepare.build(settings, workers)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    mimic_tree.write(folder, 600)
    return folder


def start(home, tree, workers=1, **options):
    """Start the build in a separate process, with `home` in place of the checkout."""
    return subprocess.Popen(
        [sys.executable, "-c", BUILD, str(tree), str(workers)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
        env=os.environ | {"MCR_HOME": str(home), "MCR_PLAIN": ""},
        **options,
    )


def contents(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def built(tree, tmp_path_factory):
    """The bytes of an uninterrupted build."""
    home = tmp_path_factory.mktemp("whole")
    build = start(home, tree)
    assert build.wait() == 0
    return contents(home / "data/mimic")


def test_any_number_of_workers_gives_the_same_bytes(tree, built, tmp_path):
    for workers in (2, 3):
        home = tmp_path / str(workers)
        build = start(home, tree, workers)
        assert build.wait() == 0
        assert contents(home / "data/mimic") == built


def test_killed_at_any_moment_it_resumes_to_the_same_bytes(tree, built, tmp_path):
    """SIGKILL at 20 moments, uniform between the first and the last written byte."""
    # A server that has imported everything forks each build, so that it starts in no time.
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["mcrlib.data.prepare", "mcrlib.data.sources.mimic_cxr"])

    def run(home, workers=1, seconds=None):
        """Build, killed `seconds` after the first byte; returns how long it wrote."""
        build = server.Process(target=_build, args=(home, tree, workers))
        build.start()
        partial = home / "data/mimic/partial"
        while not partial.exists() and build.is_alive():
            time.sleep(0.001)
        began = time.perf_counter()
        build.join(seconds)
        build.kill()
        build.join()
        return time.perf_counter() - began

    draw = random.Random(0)
    whole = run(tmp_path / "whole")
    unfinished = 0
    for moment in range(20):
        home = tmp_path / str(moment)
        folder = home / "data/mimic"
        workers = 1 if moment % 10 else 2
        run(home, workers, draw.uniform(0, whole))
        try:
            open_dataset(folder)
        except FileNotFoundError:
            unfinished += 1
        else:
            assert contents(folder) == built
        run(home)
        assert contents(folder) == built
        assert not (folder / "partial").exists()
    assert unfinished >= 5  # fewer on a busy machine, where the kill comes late


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
    _, log = resumed.communicate()
    assert f"| {done}/" in log  # the bar starts where the last run stopped
    assert (folder / "images.npy").stat().st_ino == before
    assert contents(folder) == built


def test_two_builds_at_once_take_turns(tree, built, tmp_path):
    first = start(tmp_path, tree, workers=1)
    second = start(tmp_path, tree, workers=2)
    logs = [build.communicate()[1] for build in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], logs
    assert contents(tmp_path / "data/mimic") == built


def test_a_build_goes_on_when_the_one_before_it_is_killed(tree, built, tmp_path):
    folder = tmp_path / "data/mimic"
    first = start(tmp_path, tree)
    while not _journal(folder) and first.poll() is None:
        time.sleep(0.005)
    second = start(tmp_path, tree)
    first.kill()
    first.wait()
    assert second.wait() == 0
    assert contents(folder) == built


def test_damaged_descriptions_are_one_sentence_and_built_anew(home, tmp_path, capsys):
    mimic_tree.write(tmp_path, 50)
    settings = config.load("mimic", data=str(tmp_path), cache_size=16, assert_counts=False)
    settings = settings.replace(run="described")
    folder = settings.data_folder
    info = prepare.build(settings, 1).info
    for damaged in (b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"sha256": {}}', b'{"sha256": 3}'):
        (folder / "dataset.json").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"dataset\.json is empty or damaged: run `make data`"):
            open_dataset(folder)
        assert prepare.build(settings, 1).info == info
    (folder / "made_from").write_bytes(b"\xff\xfe")
    assert prepare.build(settings, 1).info == info


def test_a_folder_in_the_place_of_the_images_is_named(home, tmp_path):
    mimic_tree.write(tmp_path, 50)
    settings = config.load("mimic", data=str(tmp_path), cache_size=16, assert_counts=False)
    settings = settings.replace(run="obstructed")
    (settings.data_folder / "images.npy").mkdir(parents=True)
    with pytest.raises(OSError, match=r"images\.npy could not be written .* remove the folder"):
        prepare.build(settings, 1)
    (settings.data_folder / "images.npy").rmdir()
    assert len(prepare.build(settings, 1).images)


def _journal(folder):
    """The complete lines of the journal after the first, which holds the key."""
    journal = folder / "partial/journal.jsonl"
    if not journal.exists():
        return []
    lines = journal.read_text().splitlines(keepends=True)
    return [line for line in lines[1:] if line.endswith("\n")]


def test_kill_during_publication_is_completed_by_open(tree, built, tmp_path):
    """Every state between two moves of the last step opens as the new data, whole."""
    for moved in range(len(FILES)):
        folder = tmp_path / str(moved)
        partial = folder / "partial"
        partial.mkdir(parents=True)
        for i, name in enumerate(FILES):
            (folder / name).write_bytes(b"old")
            place = folder if i < moved else partial
            (place / name).write_bytes(built[name])
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
    _, log = build.communicate()
    assert build.returncode == 1
    last_line = log.splitlines()[-1]
    assert last_line.startswith("OSError: The disk is full: make room for ")
    assert contents(folder) == built
    assert open_dataset(folder).info["kept"] > 0
    again = start(tmp_path, tree)
    assert again.wait() == 0
    assert contents(folder) == built


@pytest.mark.parametrize("name", CHECKED_FILES)
def test_flipped_bit_is_found(name, built, tmp_path):
    for file, content in built.items():
        (tmp_path / file).write_bytes(content)
    assert open_dataset(tmp_path).info["kept"] > 0
    damaged = bytearray(built[name])
    position = random.Random(name).randrange(len(damaged))
    damaged[position] ^= 4
    (tmp_path / name).write_bytes(damaged)
    with pytest.raises(ValueError, match=f"{name} is missing or not the file that was built"):
        open_dataset(tmp_path)


def _count_checksums(monkeypatch):
    """The names of the files whose checksums are read from now on."""
    read = []

    def counted(file):
        read.append(file.name)
        return sha256(file)

    monkeypatch.setattr(dataset_module, "sha256", counted)
    return read


def test_checksums_are_read_once(built, tmp_path, monkeypatch):
    for file, content in built.items():
        (tmp_path / file).write_bytes(content)
    read = _count_checksums(monkeypatch)
    open_dataset(tmp_path)
    assert sorted(read) == sorted(CHECKED_FILES)
    open_dataset(tmp_path)
    assert len(read) == len(CHECKED_FILES)
    for damaged in (b"", b"{", b"[]", b"null", b"\xff", b'{"images.npy": 3}'):
        (tmp_path / "verified.json").write_bytes(damaged)
        read.clear()
        open_dataset(tmp_path)
        assert sorted(read) == sorted(CHECKED_FILES)


@pytest.mark.parametrize("name", CHECKED_FILES)
@pytest.mark.parametrize("how", ["in place", "in place, time restored", "replaced"])
def test_damage_after_the_verification_is_found(name, how, built, tmp_path):
    for file, content in built.items():
        (tmp_path / file).write_bytes(content)
    for _ in range(2):
        open_dataset(tmp_path)
    path = tmp_path / name
    before = path.stat()
    damaged = bytearray(built[name])
    damaged[random.Random(name).randrange(len(damaged))] ^= 4
    if how == "replaced":
        (tmp_path / "other").write_bytes(damaged)
        (tmp_path / "other").replace(path)
    else:
        with path.open("r+b") as file:
            file.write(damaged)
    if how != "in place":
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ValueError, match=f"{name} is missing or not the file that was built"):
        open_dataset(tmp_path)


def test_another_build_is_verified_anew(built, tmp_path):
    """A dataset.json with other checksums does not profit from the old verification."""
    for file, content in built.items():
        (tmp_path / file).write_bytes(content)
    open_dataset(tmp_path)
    info = json.loads(built["dataset.json"])
    info["sha256"]["images.npy"] = "0" * 64
    (tmp_path / "dataset.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match=r"images\.npy is missing or not the file"):
        open_dataset(tmp_path)


def test_changed_source_is_not_resumed(home, tmp_path):
    mimic_tree.write(tmp_path, 200)
    settings = config.load("mimic", data=str(tmp_path), cache_size=16)
    settings = settings.replace(run="changed")
    first = prepare.build(settings, 1)
    (settings.data_folder / "made_from").unlink()
    partial = settings.data_folder / "partial"
    partial.mkdir()
    length = len(first.images) * 256 + 128  # pixels and header
    (partial / "images.npy").write_bytes(bytes(length))
    journal = '{"key": "another"}\n{"done": 64, "kept": 64, "failures": {}}\n'
    (partial / "journal.jsonl").write_text(journal)
    again = prepare.build(settings, 1)
    assert np.array_equal(again.images, first.images)


def test_prepared_data_is_reused_until_source_settings_or_files_change(home, tmp_path):
    mimic_tree.write(tmp_path, 200)
    settings = config.load("mimic", data=str(tmp_path), cache_size=16)
    settings = settings.replace(run="again")
    images = settings.data_folder / "images.npy"
    first = prepare.build(settings, 1)
    inode = images.stat().st_ino
    assert prepare.build(settings, 1).info == first.info
    assert images.stat().st_ino == inode

    shorter = prepare.build(settings.replace(policy="impression"), 1)
    assert shorter.info["policy"] == "impression"
    back = prepare.build(settings, 1)
    assert back.info == first.info
    inode = images.stat().st_ino

    damaged = bytearray(images.read_bytes())
    damaged[-1] ^= 4
    images.write_bytes(damaged)
    assert prepare.build(settings, 1).info == first.info
    assert images.stat().st_ino != inode


def test_open_without_data(tmp_path):
    with pytest.raises(FileNotFoundError, match="run `make data` first"):
        open_dataset(tmp_path)


def test_dataset_says_what_it_holds(home, tree):
    settings = config.load("mimic", data=str(tree), cache_size=16)
    dataset = prepare.build(settings.replace(run="says"), 1)
    info = dataset.info
    frame = dataset.frame
    assert info["policy"] == "both"
    assert info["image_size"] == 16
    for split in SPLITS:
        part = frame.iloc[dataset.indices(split)]
        assert set(part["split"]) == {split}
        assert info["splits"][split] == {
            "pairs": len(part),
            "studies": part["study_id"].nunique(),
            "patients": part["patient_id"].nunique(),
        }
    assert dataset.images.dtype == np.uint8
    assert dataset.images.shape == (len(frame), 16, 16)
    with pytest.raises(ValueError, match="There is no split 'dev'"):
        dataset.indices("dev")


labels = st.one_of(st.none(), st.lists(st.sampled_from(["Edema", "Mass", "", "é"]), max_size=4))


@given(st.lists(st.lists(labels, max_size=8), max_size=4))
@settings(deadline=None, max_examples=100)
def test_labels_become_the_lists_that_they_were(chunks):
    column = pa.chunked_array(chunks, TEXT_LIST)
    lists = dataset_module._to_lists(column)
    assert lists == column.to_pylist()
    for row in filter(None, lists):
        row.clear()  # each row has a list of its own
    assert not any(lists)


def test_the_manifest_is_read_as_it_was_written(dataset):
    expected = pd.read_parquet(dataset.folder / "manifest.parquet")
    for column in ("labels", "uncertain"):
        expected[column] = [None if row is None else list(row) for row in expected[column]]
    pd.testing.assert_frame_equal(dataset.frame, expected)


def test_same_images_are_found(dataset):
    rows = [0, 1, 2, 3, 4, 2, 0]
    pixels = dataset.images[rows]
    pixels[-1, 0, 0] ^= 1  # differs from its copy by one bit
    copies = dataclasses.replace(dataset, images=pixels)
    assert copies.same_images().tolist() == [0, 1, 2, 3, 4, 2, 5]


names = st.text("abc123", min_size=1, max_size=5)


given_splits = st.sampled_from(["", *SPLITS])


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(names, given_splits), max_size=40))
def test_no_patient_in_two_splits(rows):
    records = [{"patient_id": patient, "split": split} for patient, split in rows]
    before = pd.DataFrame(rows, columns=["patient_id", "split"])
    leaks = prepare._assign_splits(records)
    after = pd.DataFrame(records, columns=["patient_id", "split"])
    kept = after.drop(index=list(leaks))

    splits_of_patient = kept.groupby("patient_id")["split"].nunique()
    assert (splits_of_patient == 1).all()
    assert set(kept["patient_id"]) == set(before["patient_id"])
    for assigned, source_split in zip(after["split"], before["split"], strict=True):
        least = source_split or "train"
        assert SPLITS.index(assigned) >= SPLITS.index(least)


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
