"""Packed rows: they read as a list does, and a copy in another process is no copy of the rows."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcrlib.data.packed import PackedRows, PackedTexts, map_array

rows = st.lists(st.lists(st.integers(0, 99), max_size=5), max_size=6)
texts = st.lists(st.text(max_size=5).filter(lambda text: text.isprintable()), max_size=6)
places = st.one_of(st.integers(-8, 8), st.slices(8))


def as_lists(read):
    """What was read from packed rows, as one reads it from a list of lists."""
    return [row.tolist() for row in read] if isinstance(read, list) else read.tolist()


def pack(plain):
    values = np.array([number for row in plain for number in row], np.int32)
    return PackedRows(values, [len(row) for row in plain])


def assert_same_at(place, packed, plain, form=lambda found: found):
    """An index or a slice finds the same in both, or is out of range in both."""
    try:
        expected = plain[place]
    except IndexError:
        with pytest.raises(IndexError):
            packed[place]
    else:
        assert form(packed[place]) == expected


@given(rows, places)
@settings(deadline=None)
def test_rows_are_read_as_from_a_list(plain, place):
    packed = pack(plain)
    assert len(packed) == len(plain)
    assert [row.tolist() for row in packed] == plain
    assert [packed.length(i) for i in range(len(plain))] == [len(row) for row in plain]
    assert_same_at(place, packed, plain, as_lists)


@given(texts, places)
@settings(deadline=None)
def test_texts_are_read_as_from_a_list(plain, place):
    packed = PackedTexts.of(plain)
    assert list(packed) == plain
    assert_same_at(place, packed, plain)
    assert list(pickle.loads(pickle.dumps(packed))) == plain


@pytest.mark.parametrize("count", [0, 1, 10_000])
def test_a_mapped_array_equals_the_saved_one_and_is_pickled_as_its_place(tmp_path, count):
    file = tmp_path / "arrays.npz"
    ids = np.arange(count, dtype=np.int32)
    np.savez(file, ends=np.arange(3), ids=ids)
    mapped = map_array(file, "ids")
    assert mapped.dtype == ids.dtype
    assert np.array_equal(mapped, ids)

    packed = PackedRows(mapped, [count])
    pickled = pickle.dumps(packed)
    assert len(pickled) < 2000
    copied = pickle.loads(pickled)
    assert isinstance(copied.values, np.memmap)
    assert np.array_equal(copied[0], ids)


def test_what_cannot_be_mapped_is_refused(tmp_path):
    file = tmp_path / "arrays.npz"
    np.savez_compressed(file, ids=np.arange(9))
    with pytest.raises(ValueError, match="compressed and cannot be mapped"):
        map_array(file, "ids")
    with pytest.raises(KeyError):
        map_array(file, "ends")
