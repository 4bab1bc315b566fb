"""Bytes of a simulated step against a real step, counted in two independent ways."""

import pandas as pd
import pytest
import torch
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from mcrlib import config, distributed, plots
from mcrlib.training import cost

LENGTHS = [9, 12, 20, 20, 31, 40]


@pytest.fixture
def small():
    return config.load("smoke", precision="bf16", dropout=0.1)


def _tensors_of(given):
    return [leaf for leaf in tree_leaves(given) if isinstance(leaf, torch.Tensor)]


def kept_by_autograd(settings, lengths):
    """Bytes of the distinct storages that a real forward pass saves, weights excluded."""
    model, given = cost.build_model(settings), cost.random_batch(settings, lengths)
    known = [*model.parameters(), *model.buffers(), *_tensors_of(given)]
    own, kept = {t.untyped_storage().data_ptr() for t in known}, WeakIdKeyDictionary()

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = cost.loss_of(model, given)
    return sum(kept.values()), loss


@pytest.mark.parametrize("variant", ["mcr", "dual", "dual-token"])
def test_simulated_activations_are_what_a_real_step_saves(small, variant):
    settings = small.replace(**config.VARIANTS[variant])
    expected, _ = kept_by_autograd(settings, LENGTHS)
    assert cost.measure_bytes(settings, LENGTHS)["activations"] == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("level", ["none", "selective", "full"])
def test_a_simulated_step_counts_what_a_real_one_counts(small, level):
    """The real step is counted by the same tally and by PyTorch's own memory tracker."""
    settings = small.replace(recompute=level)
    simulated = cost.measure_bytes(settings, LENGTHS)
    model, given = cost.build_model(settings), cost.random_batch(settings, LENGTHS)
    with cost.byte_counter() as tally:
        loss = cost.loss_of(model, given)
        assert tally.live == pytest.approx(simulated["activations"], rel=0.01)
        loss.backward()
    weights = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    assert 3 * weights + tally.peak == pytest.approx(simulated["peak"], rel=0.01)
    assert simulated["static"] == 4 * weights
    assert tally.live == pytest.approx(weights, rel=0.01)  # only the gradients are left

    model.zero_grad()
    tracker = MemTracker()
    tracker.track_external(model)
    with tracker:
        cost.loss_of(model, given).backward()
    peak = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
    assert 2 * weights + peak == pytest.approx(simulated["peak"], rel=0.05)


def test_each_level_keeps_less_and_mcr_keeps_less_than_its_baselines(small):
    def kept(variant, level):
        settings = small.replace(recompute=level, **config.VARIANTS[variant])
        return cost.measure_bytes(settings, LENGTHS)["activations"]

    assert kept("mcr", "none") > kept("mcr", "selective") > kept("mcr", "full")
    assert kept("mcr", "none") < kept("dual", "none") < kept("dual-token", "none")


def test_the_second_part_s_peak_includes_the_first_part_s_gradients(small):
    one, two = (cost.measure_bytes(small, [40] * 16, parts) for parts in (1, 2))
    assert two["activations"] == pytest.approx(one["activations"], rel=0.01)
    # A single part peaks in its backward pass, before most gradients exist.
    assert one["peak"] < two["peak"] <= one["peak"] + one["static"] / 4


def test_on_a_gpu_the_allocator_is_read(monkeypatch):
    """This runs without a GPU, because the three functions that it calls are replaced."""
    held = iter([100, 160])
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: next(held))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 190)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    with cost.Allocator() as watch:
        assert watch.live == 60
        assert watch.peak == 90


def test_a_step_that_does_not_fit_raises_a_clear_error(small, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(cost, "loss_of", full)
    with pytest.raises(RuntimeError, match="6 pairs, mcr with recompute none, does not fit"):
        cost.measure_bytes(small, LENGTHS)


def test_the_largest_batch_is_on_the_line():
    assert cost.largest_batch({8: 3e9 + 8e8, 32: 3e9 + 32e8}, room=80e9) == 770


def test_each_config_gives_a_row_with_its_largest_batch(small):
    configs = [small.replace(variant=v, **config.VARIANTS[v]) for v in ("mcr", "dual")]
    rows = cost.measure_variants(
        configs, tokens=16, pairs=6, micro_pairs=2, more_pairs=12, processes=1
    )
    assert [row["variant"] for row in rows] == ["mcr", "dual"]
    assert rows[0]["activations"] == cost.measure_bytes(configs[0], [16] * 6)["activations"]
    assert rows[0]["peak, micro"] == cost.measure_bytes(configs[0], [16] * 2, parts=2)["peak"]
    assert rows[0]["largest_batch"] > 1.2 * rows[1]["largest_batch"]


def test_models_are_timed_in_turn_and_share_their_weights(small):
    configs = [small.replace(recompute=level) for level in ("none", "full")]
    took = cost.measure_seconds(configs, LENGTHS, rounds=2)
    assert [len(times) for times in took] == [2, 2]
    assert min(map(min, took)) > 0


def test_each_variant_is_a_line_and_each_level_a_named_point():
    rows = []
    for variant in ("mcr", "dual"):
        for level, time in (("none", 0.3), ("full", 0.4)):
            for tokens in (128, 256):  # only the steps of 128 tokens are drawn
                ratios = {"time ratio": time, "activations ratio": tokens / 64 * time}
                rows.append({"variant": variant, "level": level, "tokens": tokens} | ratios)
    (axes,) = plots.time_and_memory(pd.DataFrame(rows)).axes
    assert [line.get_label() for line in axes.lines] == ["mcr", "dual"]
    assert axes.lines[1].get_xydata().tolist() == [[0.6, 0.3], [0.8, 0.4]]
    assert [text.get_text() for text in axes.texts] == ["none", "full"] * 2


class HandCount:
    """Multiplications of the matrix products of a tiny model, added up with pencil and paper.

    B pairs with reports of T tokens each, so that there is no padding.
    """

    def __init__(self, settings, pairs, tokens, vocabulary):
        self.c = settings
        self.pairs = pairs
        self.tokens = tokens
        self.vocabulary = vocabulary
        self.patches = (settings.image_size // settings.patch_size) ** 2
        self.kept = self.patches - round(settings.image_mask * self.patches)

    def block(self, rows, width):
        """A transformer block on sequences of `rows` tokens."""
        linear = rows * width * (3 * width + width + 4 * width + 4 * width)
        attention = 2 * rows * rows * width
        return self.pairs * (linear + attention)

    def embed(self, patches):
        return self.pairs * patches * self.c.patch_size**2 * self.c.vision_width

    def encoders(self, patches):
        image = self.c.vision_depth * self.block(patches + 1, self.c.vision_width)
        return image + self.c.text_depth * self.block(self.tokens, self.c.text_width)

    def contrast(self, patches):
        """Both heads and the similarities of all pairs."""
        both = 0
        for rows, width in ((patches + 1, self.c.vision_width), (self.tokens, self.c.text_width)):
            both += self.pairs * rows * (width * 4 * width + 4 * width * self.c.embed_dim)
        return both + self.pairs * self.pairs * self.c.embed_dim

    def decoders(self, masked_tokens):
        c = self.c
        into = self.pairs * (self.kept + 1) * c.vision_width * c.decoder_width
        blocks = c.decoder_depth * self.block(self.patches + 1, c.decoder_width)
        out = self.pairs * (self.patches - self.kept) * c.decoder_width * c.patch_size**2
        words = masked_tokens * c.text_width * (c.text_width + self.vocabulary)
        return into + blocks + out + words

    def flops(self, products, embedded_patches):
        """Two operations each, backward twice the forward; pixels need no gradient."""
        return 2 * (3 * products + 2 * self.embed(embedded_patches))


@pytest.fixture
def tiny():
    return config.load(
        "smoke",
        vision_width=32, vision_depth=2, vision_heads=2, text_width=16, text_depth=1, text_heads=2,
        embed_dim=24, decoder_width=16, decoder_depth=1, decoder_heads=2,
    )  # fmt: skip


def test_the_operations_of_a_step_are_those_counted_by_hand(tiny):
    pairs, tokens, vocabulary = 5, 12, 50
    count = HandCount(tiny, pairs, tokens, vocabulary)
    masked = int(cost.random_batch(tiny, [tokens] * pairs, vocabulary).masked.sum())
    products = count.encoders(count.kept) + count.contrast(count.kept) + count.decoders(masked)
    expected = count.flops(products, count.kept)
    assert cost.step_flops(tiny, [tokens] * pairs, vocabulary) == expected


def test_dual_takes_more_operations_by_what_its_second_stream_adds(tiny):
    pairs, tokens, vocabulary = 5, 12, 50
    count = HandCount(tiny, pairs, tokens, vocabulary)
    flops = {}
    for variant in ("mcr", "dual"):
        settings = tiny.replace(variant=variant, **config.VARIANTS[variant])
        flops[variant] = cost.step_flops(settings, [tokens] * pairs, vocabulary)
    whole = count.encoders(count.patches) + count.contrast(count.patches)
    added = whole - count.contrast(count.kept)  # the contrast leaves the masked stream
    assert flops["dual"] - flops["mcr"] == count.flops(added, count.patches)


def test_operations_are_counted_once_and_without_a_trace(tiny, monkeypatch):
    """Whatever is recomputed or split, and without drawing from anybody's random numbers."""
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    flops = cost.step_flops(tiny, LENGTHS, 50)
    assert torch.equal(torch.rand(1), expected)
    for changes in ({"recompute": "full"}, {"micro_batch": 2}, {"precision": "bf16"}):
        assert cost.step_flops(tiny.replace(**changes), LENGTHS, 50) == flops
    assert cost.step_flops(tiny, [*LENGTHS, 40], 50) > flops
    # Of several processes each counts the whole batch, without asking the others.
    monkeypatch.setattr(distributed, "_has_other_processes", lambda: True)
    assert cost.step_flops(tiny, LENGTHS, 50) == flops
    with pytest.raises(ValueError, match="set text to"):
        cost.step_flops(config.load("mimic"), LENGTHS)
