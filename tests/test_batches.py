"""Batches: what they hold, and that a pair looks the same in every batch."""

import dataclasses
import pickle
from itertools import chain

import numpy as np
import pytest
import torch
from epoch import warp_at_once
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertTokenizer

from mcrlib import pretrained
from mcrlib.data import batches as batches_module
from mcrlib.data.batches import (
    EpochOrder,
    SplitPairs,
    cached_tokens,
    pad,
    random_warp,
    to_pixels,
    tokenize,
    tokenizer_rules,
)
from mcrlib.masking import pair_generator
from mcrlib.training import cost


@pytest.fixture(scope="module")
def pairs(dataset, smoke, tokenizer):
    return SplitPairs(dataset, "train", smoke, tokenizer)


def test_a_batch_has_the_documented_shapes_and_masked_shares(pairs):
    batch = pairs.__getitems__(list(range(16)))
    assert batch.pixels.shape == (16, 1, 96, 96)
    assert batch.keep.shape == (16, 18)
    assert batch.tokens.shape == batch.present.shape == batch.masked.shape
    words = batch.present.sum(1) - 2  # without [CLS] and [SEP]
    assert torch.equal(batch.masked.sum(1), (words * 0.25).round().long())


def test_special_tokens_and_padding_are_never_masked(pairs, tokenizer):
    batch = pairs.__getitems__(list(range(32)))
    special = torch.isin(batch.tokens, torch.tensor(tokenizer.all_special_ids))
    assert not (batch.masked & (special | ~batch.present)).any()


def test_a_pair_s_masks_and_pixels_do_not_depend_on_its_batch(pairs):
    together = pairs.__getitems__([3, 5, 8])
    alone = pairs.__getitems__([5])
    by_length = sorted([3, 5, 8], key=lambda i: len(pairs.tokens[i]))
    place = by_length.index(5)
    length = alone.tokens.shape[1]
    assert torch.equal(together.pixels[place], alone.pixels[0])
    assert torch.equal(together.keep[place], alone.keep[0])
    assert torch.equal(together.masked[place, :length], alone.masked[0])


@pytest.mark.parametrize("processes", [2, 3])
def test_the_parts_of_all_processes_make_up_the_batch(dataset, smoke, tokenizer, processes):
    pairs = SplitPairs(dataset, "train", smoke, tokenizer)
    whole = pairs.__getitems__(list(range(12)))
    for process in range(processes):
        share = slice(process, None, processes)
        pairs.share = share
        part = pairs.__getitems__(list(range(12)))
        length = part.tokens.shape[1]
        assert len(part.tokens) == 12 // processes
        assert torch.equal(part.tokens, whole.tokens[share, :length])
        assert torch.equal(part.masked, whole.masked[share, :length])
        assert torch.equal(part.present, whole.present[share, :length])
        assert torch.equal(part.pixels, whole.pixels[share])
        assert torch.equal(part.keep, whole.keep[share])


def test_each_epoch_and_seed_brings_new_masks(dataset, smoke, tokenizer):
    first = SplitPairs(dataset, "train", smoke, tokenizer)
    second = SplitPairs(dataset, "train", smoke, tokenizer)
    second.epoch = 1
    other = SplitPairs(dataset, "train", smoke.replace(seed=1), tokenizer)
    indices = list(range(8))
    keep = first.__getitems__(indices).keep
    assert not torch.equal(keep, second.__getitems__(indices).keep)
    assert not torch.equal(keep, other.__getitems__(indices).keep)


@given(n=st.integers(0, 50), size=st.integers(1, 20), epoch=st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_an_epoch_visits_full_batches_of_different_pairs(n, size, epoch):
    order = EpochOrder(n, size, seed=0)
    order.epoch = epoch
    batches = list(order)
    visited = list(chain.from_iterable(batches))
    assert len(batches) == len(order) == n // size
    assert {len(batch) for batch in batches} <= {size}
    assert len(set(visited)) == len(visited)
    assert set(visited) <= set(range(n))
    assert list(order) == batches
    middle = len(order) // 2
    order.first = middle
    assert list(order) == batches[middle:]


reports = st.lists(st.integers(1, 99), min_size=1, max_size=12)


@given(st.lists(reports, min_size=1, max_size=9))
@settings(max_examples=40, deadline=None)
def test_padding_moves_no_token(ids):
    tokens, present = pad(ids, 0)
    assert tokens.shape == (len(ids), max(map(len, ids)))
    for row, kept, original in zip(tokens, present, ids, strict=True):
        assert row[kept].tolist() == original
        assert kept.tolist() == [i < len(original) for i in range(len(kept))]


def test_long_reports_are_cut_with_their_last_token_kept(tokenizer):
    (ids,) = tokenize(tokenizer, ["the heart is normal . " * 100], 20)
    assert len(ids) == 20
    assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)


def test_without_augmentation_no_grey_value_is_lost():
    squares = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    pixels = to_pixels(squares, 16)
    grey = (pixels * 0.25 + 0.5) * 255
    back = grey.round().byte()
    assert torch.equal(back[:, 0], squares)


def test_a_warp_without_motion_only_resizes():
    squares = torch.randint(0, 255, (2, 32, 32), dtype=torch.uint8)
    idle = torch.tensor([[1.0, 0, 0, 0, 1, 0]] * 2)
    warped = to_pixels(squares, 32, idle)
    torch.testing.assert_close(warped, to_pixels(squares, 32), atol=1e-4, rtol=0)


def drawn_warps(n):
    return torch.tensor(np.stack([random_warp(pair_generator(0, 0, str(i))) for i in range(n)]))


@given(
    n=st.integers(1, 4), stored=st.integers(8, 80), size=st.integers(8, 80), seed=st.integers(0, 99)
)
@settings(max_examples=40, deadline=None)
def test_pictures_warped_one_by_one_are_those_of_a_whole_batch(n, stored, size, seed):
    """Within a twentieth of a grey level, even in noise."""
    draw = np.random.default_rng(seed)
    squares = torch.from_numpy(draw.integers(0, 256, (n, stored, stored), np.uint8))
    warp = torch.tensor(np.stack([random_warp(draw) for _ in range(n)]))
    grey_level = 1 / 255 / 0.25
    plain = warp_at_once(squares, size, warp)
    ours = to_pixels(squares, size, warp)
    torch.testing.assert_close(ours, plain, atol=grey_level / 20, rtol=0)


def test_warping_needs_little_more_memory_than_the_pixels_it_returns():
    squares = torch.zeros((16, 128, 128), dtype=torch.uint8)
    with cost.byte_counter() as counter:
        pixels = to_pixels(squares, 112, drawn_warps(16))
    assert counter.peak < 1.6 * pixels.nbytes


def test_augmentation_never_flips_and_never_leaves_the_picture():
    ramp = torch.arange(96, dtype=torch.float).mul(2).byte().expand(1, 96, 96)
    for i in range(50):
        warp = random_warp(pair_generator(0, 0, str(i)))
        pixels = to_pixels(ramp, 96, torch.tensor(warp)[None])[0, 0]
        left = pixels[:, :20]
        right = pixels[:, -20:]
        assert left.mean() < right.mean()
        cos, sin, shift_x, shift_y, _contrast, _brightness = warp
        zoom = float(np.hypot(cos, sin))
        assert 0.8 - 1e-6 <= zoom <= 1
        assert abs(shift_x) <= 1 - zoom + 1e-6
        assert abs(shift_y) <= 1 - zoom + 1e-6


def test_tokens_are_saved_once_and_replaced_if_damaged(dataset, smoke, tokenizer, tmp_path):
    here = dataclasses.replace(dataset, folder=tmp_path)
    texts = dataset.frame["report"].iloc[dataset.indices("train")].tolist()
    wanted = tokenize(tokenizer, texts, 20)

    def rows(data):
        return [row.tolist() for row in cached_tokens(data, "train", tokenizer, 20)]

    assert rows(here) == wanted
    (file,) = tmp_path.iterdir()
    written = file.stat().st_mtime_ns
    content = file.read_bytes()
    assert rows(here) == wanted
    assert file.stat().st_mtime_ns == written

    flipped_bit = bytearray(content)
    flipped_bit[200] ^= 1
    for damaged in (b"", content[:-50], flipped_bit):
        file.write_bytes(damaged)
        assert rows(here) == wanted
        assert file.read_bytes() == content

    # So is one that cannot be read in place.
    with np.load(file) as saved:
        np.savez_compressed(file, **saved)
    assert rows(here) == wanted
    assert file.read_bytes() == content

    # Another limit or another manifest gets a separate file.
    shorter = cached_tokens(here, "train", tokenizer, 10)
    assert max(len(row) for row in shorter) == 10
    hashes = dataset.info["sha256"] | {"manifest.parquet": "another"}
    info = dataset.info | {"sha256": hashes}
    rows(dataclasses.replace(here, info=info))
    assert len(list(tmp_path.iterdir())) == 3


@given(first=st.integers(4, 30), second=st.integers(4, 30))
@settings(max_examples=10, deadline=None)
def test_tokenizing_leaves_no_trace_in_the_tokenizer(tokenizer, first, second):
    before = tokenizer_rules(tokenizer)
    tokenize(tokenizer, ["the heart is normal . " * 20], first)
    assert tokenizer_rules(tokenizer) == before
    tokenizer("the heart", truncation=True, max_length=second, padding="max_length")
    assert tokenizer_rules(tokenizer) == before
    (untouched,) = tokenizer(["the heart is normal . " * 20])["input_ids"]
    assert len(untouched) > 30


def test_another_vocabulary_or_another_case_is_another_tokenizer(tokenizer):
    words = tokenizer.get_vocab()
    cased = BertTokenizer(vocab=words, do_lower_case=False)
    same = BertTokenizer(vocab=words, do_lower_case=True)
    fewer = BertTokenizer(vocab={"[PAD]": 0, "[UNK]": 1}, do_lower_case=True)
    assert tokenizer_rules(same) == tokenizer_rules(tokenizer)
    assert tokenizer_rules(cased) != tokenizer_rules(tokenizer)
    assert tokenizer_rules(fewer) != tokenizer_rules(tokenizer)


def test_a_second_look_at_the_same_reports_writes_no_second_file(dataset, smoke, tmp_path):
    """With a new tokenizer, as the first training on new data has it."""
    here = dataclasses.replace(dataset, folder=tmp_path)
    fresh = pretrained.load_tokenizer(smoke, dataset.frame["report"].tolist())
    cached_tokens(here, "train", fresh, 20)
    cached_tokens(here, "train", fresh, 20)
    fresh("a longer text", truncation=True, max_length=5)
    cached_tokens(here, "train", fresh, 20)
    assert len(list(tmp_path.iterdir())) == 1


def test_tokens_do_not_depend_on_how_many_texts_are_tokenised_at_once(
    dataset, tokenizer, tmp_path, monkeypatch
):
    """A text that several pairs have is tokenised once, and each pair has it in its place."""
    frame = dataset.frame.iloc[[5, 3, 5, 0, 3, 5, 9]].assign(split="train")
    repeated = dataclasses.replace(dataset, frame=frame, folder=tmp_path)
    wanted = tokenize(tokenizer, frame["report"].tolist(), 20)
    assert wanted[0] == wanted[2] != wanted[1]
    for texts_at_once in (1, 2, 4, 100):
        monkeypatch.setattr(batches_module, "TEXTS_AT_ONCE", texts_at_once)
        tokens = cached_tokens(repeated, "train", tokenizer, 20)
        assert [row.tolist() for row in tokens] == wanted
        (file,) = tmp_path.iterdir()
        with np.load(file) as saved:
            assert saved["ids"].dtype == np.int32
            assert saved["ids"].tolist() == list(chain.from_iterable(wanted))
            assert saved["ends"].tolist() == np.cumsum([len(row) for row in wanted]).tolist()
        file.unlink()


def test_a_split_without_pairs_has_no_tokens(dataset, tokenizer, tmp_path):
    nobody = dataclasses.replace(dataset, frame=dataset.frame.iloc[:0], folder=tmp_path)
    assert list(cached_tokens(nobody, "train", tokenizer, 20)) == []


def test_pairs_sent_to_a_worker_carry_neither_tokens_nor_images(pairs):
    pairs.__getitems__([0])  # opens the images
    assert len(pickle.dumps(pairs.tokens)) < pairs.tokens.values.nbytes
    assert pairs._open_images() is pairs._open_images()
    assert pickle.loads(pickle.dumps(pairs)).pair_ids[:3] == pairs.pair_ids[:3]


def test_pairs_sent_to_a_worker_carry_no_images(pairs):
    pickled = pickle.dumps(pairs)
    assert len(pickled) < pairs.images_file.stat().st_size / 4
    copied = pickle.loads(pickled)
    batch = pairs.__getitems__([3, 5, 8])
    same_batch = copied.__getitems__([3, 5, 8])
    torch.testing.assert_close(same_batch, batch, atol=0, rtol=0)
