"""Corruptions of test pairs: what changes, what stays, and that the draws are everybody's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcrlib.data.sources import phantom
from mcrlib.evaluation import corruptions
from mcrlib.evaluation.corruptions import PICTURE, STRENGTHS, UNCHANGED, Condition

IDS = ["test-00000", "test-00001", "test-00002"]
SENTENCE = st.sampled_from(["The heart is large.", "No effusion.", "Edema.", "Clear lungs?"])
REPORTS = st.lists(SENTENCE, max_size=9).map(" ".join)


def pictures(size=32):
    return np.random.default_rng(0).integers(0, 256, (len(IDS), size, size), dtype=np.uint8)


def test_every_corruption_has_strengths_that_grow_and_names_that_differ():
    listed = corruptions.conditions()
    assert listed[0] == UNCHANGED and corruptions.HALF_HIDDEN in listed
    assert len({condition.name for condition in listed}) == len(listed)
    for strengths in STRENGTHS.values():
        assert list(strengths) == sorted(set(strengths)) and strengths[0] > 0
    assert corruptions.HALF_HIDDEN.name == "hidden patches 50 %"


@given(st.integers(2, 200), st.data())
def test_what_a_weaker_corruption_hides_a_stronger_one_hides_too(patches, data):
    weak, strong = sorted(data.draw(st.tuples(st.floats(0.01, 0.99), st.floats(0.01, 0.99))))
    of_weak = corruptions.kept_patches(IDS, patches, weak)
    of_strong = corruptions.kept_patches(IDS, patches, strong)
    for kept, fewer in zip(of_weak, of_strong, strict=True):
        assert set(fewer) <= set(kept) and len(fewer) >= 1
        assert (np.diff(kept) > 0).all() and kept.max() < patches
    assert of_weak.shape[1] == min(max(patches - round(patches * weak), 1), patches - 1)


def test_draws_follow_the_pair_alone_not_its_batch_or_order():
    both = corruptions.kept_patches(IDS, 36, 0.5)
    backwards = corruptions.kept_patches(IDS[::-1], 36, 0.5)
    np.testing.assert_array_equal(both, backwards[::-1])
    assert not np.array_equal(both[0], both[1])
    assert not np.array_equal(both, corruptions.kept_patches(IDS, 36, 0.5, seed=1))
    for name in PICTURE:
        condition = Condition(name, STRENGTHS[name][-1])
        whole = corruptions.corrupt_pictures(condition, pictures(), IDS)
        alone = corruptions.corrupt_pictures(condition, pictures()[2:], IDS[2:])
        np.testing.assert_array_equal(whole[2:], alone)


@pytest.mark.parametrize("name", PICTURE)
def test_pictures_keep_their_form_and_change_more_the_stronger_the_corruption(name):
    before = phantom.draw(3, ["Edema|||severe"], 48)[None].repeat(3, axis=0)
    changes = []
    for strength in STRENGTHS[name]:
        after = corruptions.corrupt_pictures(Condition(name, strength), before, IDS)
        assert after.shape == before.shape and after.dtype == np.uint8
        changes.append(np.abs(after.astype(float) - before).mean())
    assert 0 < changes[0] < changes[1] < changes[2]


def test_painted_patches_are_grey_and_the_others_untouched():
    picture = pictures(33)[0]  # 33 pixels are no multiple of four patches
    kept = np.array([0, 5, 15])
    painted = corruptions.paint_patches(picture, kept, side=4)
    edges = [0, 8, 16, 25, 33]
    for patch in range(16):
        row, column = divmod(patch, 4)
        place = np.s_[edges[row] : edges[row + 1], edges[column] : edges[column + 1]]
        if patch in kept:
            np.testing.assert_array_equal(painted[place], picture[place])
        else:
            assert (painted[place] == round(picture.mean())).all()


def test_exposure_is_undone_by_the_opposite_and_noise_has_its_deviation():
    picture = np.full((64, 64), 128, np.uint8)
    exposed = set()
    for seed in range(8):
        own = corruptions.expose(picture, 1.0, np.random.default_rng(seed))
        exposed |= set(np.unique(own).tolist())
    light = 1 - 128 / 255
    assert exposed == {round(255 * (1 - light**2)), round(255 * (1 - light**0.5))}
    noisy = corruptions.add_noise(picture, 0.05, np.random.default_rng(0)).astype(float)
    assert noisy.mean() == pytest.approx(128, abs=0.5)
    assert noisy.std() == pytest.approx(255 * 0.05, rel=0.05)


def test_a_turn_repeats_the_border_and_leaves_a_plain_picture_alone():
    plain = np.full((40, 40), 77, np.uint8)
    for degrees in STRENGTHS[corruptions.TURN]:
        turned = corruptions.turn(plain, degrees, np.random.default_rng(1))
        np.testing.assert_array_equal(turned, plain)


@settings(deadline=None)
@given(REPORTS, st.sampled_from([0.25, 0.5, 0.75, 1.0]), st.integers(0, 99))
def test_sentences_go_missing_at_random_but_never_all(report, share, seed):
    shorter = corruptions.drop_sentences(report, share, np.random.default_rng(seed))
    before = [sentence.text for sentence in corruptions.split_into_sentences(report)]
    after = [sentence.text for sentence in corruptions.split_into_sentences(shorter)]
    expected = len(before) - min(int(share * len(before)), max(len(before) - 1, 0))
    assert len(after) == expected and bool(after) == bool(before)
    places = iter(before)
    assert all(sentence in places for sentence in after)  # in their order


def test_missing_sentences_grow_with_the_share():
    report = "One. Two. Three. Four. Five. Six. Seven. Eight."
    left = [set(report.split())]
    for share in STRENGTHS[corruptions.MISSING_SENTENCES]:
        (shorter,) = corruptions.shorten_reports([report], IDS[:1], share)
        assert set(shorter.split()) < left[-1]
        left.append(set(shorter.split()))
    assert len(left[-1]) == 2


def test_a_phantom_in_its_other_view_is_the_same_patient(smoke):
    for row, _ in zip(phantom.rows(smoke), range(4), strict=False):
        own = row.image().astype(float)
        other = phantom.in_other_view(row).astype(float)
        assert other.shape == own.shape and not np.array_equal(own, other)
        assert np.corrcoef(own.ravel(), other.ravel())[0, 1] > 0.95
