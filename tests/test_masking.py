"""Masks: how many, which, and that they depend on (seed, epoch, pair_id) only."""

import itertools

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mcrlib.masking import dropped_patches, keep_patches, mask_tokens, pair_generator

RATIO = st.floats(0.01, 0.99)


@given(n=st.integers(2, 300), ratio=RATIO, seed=st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_the_right_share_of_patches_is_kept_without_repeats(n, ratio, seed):
    keep = keep_patches(n, ratio, pair_generator(seed, 0, "a"))
    assert 1 <= len(keep) < n
    assert abs(len(keep) - n * (1 - ratio)) <= 1
    assert (np.diff(keep) > 0).all()
    assert keep[0] >= 0
    assert keep[-1] < n


@given(maskable=st.lists(st.booleans(), min_size=1, max_size=80), ratio=RATIO)
@settings(max_examples=50, deadline=None)
def test_only_maskable_tokens_are_masked_and_always_at_least_one(maskable, ratio):
    maskable = np.array(maskable)
    masked = mask_tokens(maskable, ratio, pair_generator(0, 0, "a"))
    assert not (masked & ~maskable).any()
    expected = round(maskable.sum() * ratio)
    if maskable.any():
        expected = max(expected, 1)
    assert masked.sum() == expected


@given(n=st.integers(1, 300), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_without_a_mask_everything_stays(n, seed):
    keep = keep_patches(n, 0.0, pair_generator(seed, 0, "a"))
    assert keep.tolist() == list(range(n))
    assert dropped_patches(torch.from_numpy(keep)[None], n).shape == (1, 0)
    assert not mask_tokens(np.ones(n, dtype=bool), 0.0, pair_generator(seed, 0, "a")).any()


@given(n=st.integers(2, 40), pairs=st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_kept_and_dropped_are_all_patches(n, pairs):
    generators = [pair_generator(0, 0, str(i)) for i in range(pairs)]
    keep = np.stack([keep_patches(n, 0.5, generator) for generator in generators])
    dropped = dropped_patches(torch.from_numpy(keep), n).numpy()
    for kept, left_out in zip(keep, dropped, strict=True):
        assert sorted([*kept, *left_out]) == list(range(n))


def test_masks_differ_between_pairs_epochs_and_seeds_only():
    def draw(seed, epoch, pair_id):
        return keep_patches(196, 0.5, pair_generator(seed, epoch, pair_id)).tolist()

    first = draw(0, 0, "a")
    assert draw(0, 0, "a") == first
    others = [draw(0, 0, "b"), draw(0, 1, "a"), draw(1, 0, "a")]
    for one, other in itertools.combinations([first, *others], 2):
        assert one != other


def test_every_patch_is_dropped_about_as_often():
    counts = np.zeros(36)
    for i in range(2000):
        keep = keep_patches(36, 0.5, pair_generator(0, 0, str(i)))
        counts[keep] += 1
    share = counts / 2000
    assert abs(share - 0.5).max() < 0.06  # five standard deviations
