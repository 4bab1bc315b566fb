"""The image cache: what a resumed build makes of damaged leftovers."""

import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcrlib.data import cache

SIZE = 8
IMAGES = "images.npy"
JOURNAL = "journal.jsonl"


@pytest.fixture(scope="module")
def sources():
    """Four chunks of pictures, of which some cannot be read."""
    draw = np.random.default_rng(0)
    pictures = list(draw.integers(0, 256, (3 * cache.CHUNK + 7, SIZE, SIZE), np.uint8))
    for unreadable in (0, 70, 71, 198):
        pictures[unreadable] = np.zeros((0, 0), np.uint8)
    return pictures


@pytest.fixture(scope="module")
def whole(sources, tmp_path_factory):
    """The folder of a build with nothing wrong, and the failures that it returned."""
    folder = tmp_path_factory.mktemp("whole")
    failures = cache.build(sources, SIZE, folder, "key", workers=1)
    assert sorted(failures) == [0, 70, 71, 198]
    return folder, failures


def assert_resumed_as_whole(sources, whole, folder):
    complete, failures = whole
    assert cache.build(sources, SIZE, folder, "key", workers=1) == failures
    assert (folder / IMAGES).read_bytes() == (complete / IMAGES).read_bytes()
    assert (folder / JOURNAL).read_bytes() == (complete / JOURNAL).read_bytes()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    name=st.sampled_from([IMAGES, JOURNAL]),
    place=st.floats(0, 1, exclude_max=True),
    damage=st.sampled_from(["cut", "flip", "garbage", "zeros"]),
    garbage=st.binary(min_size=1, max_size=200),
)
def test_leftovers_that_are_damaged_anywhere_give_the_same_bytes(
    sources, whole, tmp_path, name, place, damage, garbage
):
    folder = tmp_path / "partial"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole[0], folder)
    content = bytearray((folder / name).read_bytes())
    offset = int(place * len(content))
    if damage == "cut":
        del content[offset:]
    elif damage == "flip":
        content[offset] ^= 1 << (offset % 8)
    elif damage == "garbage":
        content[offset:] = garbage
    else:
        content[offset:] = bytes(len(content) - offset)
    (folder / name).write_bytes(content)
    assert_resumed_as_whole(sources, whole, folder)


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "3",
        "null",
        '{"done": 64}',
        '{"done": "64", "kept": 64, "failures": {}, "crc32": 0}',
        '{"done": 64, "kept": 64, "failures": [], "crc32": 0}',
        '{"done": 64, "kept": 63, "failures": {"0": 1}, "crc32": 0}',
        '{"done": 64, "kept": 63, "failures": {"99": "gone"}, "crc32": 0}',
        '{"done": -1, "kept": -1, "failures": {}, "crc32": 0}',
        '{"done": 1000000000000, "kept": 1000000000000, "failures": {}, "crc32": 0}',
        "[" * 100_000,
    ],
)
def test_a_journal_line_that_no_build_wrote_is_not_believed(sources, whole, tmp_path, line):
    shutil.copy(whole[0] / IMAGES, tmp_path)
    (tmp_path / JOURNAL).write_text('{"key": "key"}\n' + line + "\n")
    assert_resumed_as_whole(sources, whole, tmp_path)


def test_a_journal_without_its_images_begins_anew(sources, whole, tmp_path):
    shutil.copy(whole[0] / JOURNAL, tmp_path)
    assert_resumed_as_whole(sources, whole, tmp_path)
