"""Saving memory or time in a step changes neither its loss nor its gradient."""

import itertools
import shutil

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.nn.attention import SDPBackend, sdpa_kernel

from mcrlib import config, losses
from mcrlib.data.batches import micro_batches
from mcrlib.model import MCR
from mcrlib.training import cost, loop
from mcrlib.training.two_pass import two_pass

VARIANTS = {
    "mcr": {},
    "dual": {"contrast": "unmasked"},
    "dual-token": {"contrast": "unmasked", "masked_patches": "token"},
    "abm": {"alignment": "abm"},
    "flip": {"mim_weight": 0.0, "mrm_weight": 0.0},
}


def gradient(model):
    gradients = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            gradients[name] = parameter.grad.clone()
    return gradients


def agree(ours, theirs, tolerance=1e-5):
    assert ours.keys() == theirs.keys()
    for name in ours:
        length = theirs[name].norm().clamp(min=1e-3)
        difference = (ours[name] - theirs[name]).norm()
        assert difference / length < tolerance, name


def stepped(model, batch, precision="no"):
    model.train().zero_grad()
    torch.manual_seed(1)
    plain = model.config.recompute == "none"
    with torch.autocast("cpu", torch.bfloat16, precision == "bf16", cache_enabled=plain):
        terms = model(batch)
    terms["loss"].backward()
    return terms, gradient(model)


@pytest.mark.parametrize("level", ["selective", "full"])
@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("variant", ["mcr", "dual-token", "abm"])
def test_recomputing_changes_nothing(build, batch, variant, precision, level, monkeypatch):
    monkeypatch.setattr(losses, "TILE", 7)
    changes = VARIANTS[variant] | {"dropout": 0.2}
    expected, theirs = stepped(build(**changes), batch, precision)
    terms, ours = stepped(build(**changes, recompute=level), batch, precision)
    assert terms.keys() == expected.keys()
    for name in terms:
        torch.testing.assert_close(terms[name], expected[name], atol=1e-6, rtol=1e-6)
    tolerance = {"no": 1e-5, "bf16": 2e-2}
    agree(ours, theirs, tolerance[precision])


def test_recomputing_changes_no_weight_name_and_no_embedding(build, dataset, tmp_path):
    plain = build()
    lean = build(recompute="selective")
    assert plain.state_dict().keys() == lean.state_dict().keys()
    lean.save_pretrained(tmp_path)
    again = MCR.from_pretrained(tmp_path)
    texts = dataset.frame["report"].tolist()[:9]
    assert torch.equal(again.embed_reports(texts), plain.embed_reports(texts))


@pytest.mark.whole
@pytest.mark.skipif(shutil.which("g++") is None, reason="a compiler for C++ is needed")
@pytest.mark.parametrize("level", ["none", "selective"])
def test_compiling_changes_neither_loss_nor_gradient_nor_dropout(build, tmp_path, level):
    """The two passes are compiled separately, because the first records no graph."""
    small = {"vision_depth": 1, "text_depth": 1, "dropout": 0.3}
    compiled = build(**small, compile=True, recompute=level)
    plain = build(**small)
    lengths = [3, 4, 5, 6, 9, 9, 9, 9]
    given = cost.random_batch(compiled.config, lengths, vocabulary=len(compiled.tokenizer))

    def in_two_passes(model):
        torch.manual_seed(1)
        return two_pass(model.train(), micro_batches(given, 4), Accelerator(cpu=True))

    terms = in_two_passes(compiled)
    expected = in_two_passes(plain)
    torch.testing.assert_close(terms, expected, atol=1e-5, rtol=1e-5)
    agree(gradient(compiled), gradient(plain), 1e-4)

    compiled.save_pretrained(tmp_path)
    opened = MCR.from_pretrained(tmp_path)  # for inference, which must not need a compiler
    assert "forward" in vars(compiled.image_encoder.vit.blocks[0])  # compiled
    assert "forward" not in vars(opened.image_encoder.vit.blocks[0])


@pytest.mark.parametrize(
    ("pairs", "size", "sizes"), [(8, 4, [4, 4]), (9, 4, [3, 3, 3]), (3, 8, [3])]
)
def test_micro_batches_split_the_pairs_with_similar_lengths(pairs, size, sizes):
    lengths = list(range(5, 5 + pairs))
    whole = cost.random_batch(config.load("smoke"), lengths, vocabulary=50)
    parts = micro_batches(whole, size)
    assert [len(part.pixels) for part in parts] == sizes
    lengths_of_parts = [part.present.sum(dim=1).tolist() for part in parts]
    assert sorted(itertools.chain(*lengths_of_parts)) == lengths
    longest = [max(part_lengths) for part_lengths in lengths_of_parts]
    assert max(longest) - min(longest) < len(parts)


@pytest.mark.parametrize(("pairs", "size"), [(8, 4), (9, 4), (3, 8)])
def test_micro_batches_keep_together_what_belongs_together(pairs, size):
    whole = cost.random_batch(config.load("smoke"), range(5, 5 + pairs), vocabulary=50)
    for part in micro_batches(whole, size):
        for i, pixels in enumerate(part.pixels):
            same_image = (whole.pixels == pixels).all(dim=(1, 2, 3))
            original = int(same_image.nonzero())
            for ours, theirs in zip(part[:-1], whole[:-1], strict=True):  # all but the layout
                assert torch.equal(ours[i], theirs[original])


def oracle(model, batch, size):
    """Loss and gradient of all micro batches with all graphs kept in memory.

    Each part draws its dropout with its own seed; the seeds are drawn as in `two_pass`.
    """
    model.train().zero_grad()
    parts = micro_batches(batch, size)
    torch.manual_seed(1)
    seeds = torch.randint(2**62, (len(parts),)).tolist()
    images = []
    reports = []

    def collect(image, report):
        images.append(image)
        reports.append(report)
        return image.sum() * 0

    mim = 0
    mrm = 0
    for part, seed in zip(parts, seeds, strict=True):
        torch.manual_seed(seed)
        terms = model(part, collect)
        mim = mim + terms.get("mim", 0) * len(part.pixels) / len(batch.pixels)
        mrm = mrm + terms.get("mrm", 0) * part.masked.sum() / batch.masked.sum()
    vrc = model.contrast(torch.cat(images), torch.cat(reports))
    weights = model.config
    loss = weights.vrc_weight * vrc + weights.mim_weight * mim + weights.mrm_weight * mrm
    loss.backward()
    return loss, gradient(model)


@pytest.mark.parametrize("size", [1, 3, 8])
@pytest.mark.parametrize("variant", ["mcr", "dual-token", "flip"])
def test_two_passes_repeat_masks_and_dropout(build, batch, variant, size):
    model = build(**VARIANTS[variant], dropout=0.3)
    loss, theirs = oracle(model, batch, size)
    model.zero_grad()
    torch.manual_seed(1)
    terms = two_pass(model, micro_batches(batch, size), Accelerator(cpu=True))
    torch.testing.assert_close(terms["loss"], loss)
    agree(gradient(model), theirs)


@pytest.mark.parametrize("variant", VARIANTS)
def test_micro_batches_have_the_gradient_of_the_whole_batch(build, batch, variant):
    model = build(**VARIANTS[variant])
    expected, theirs = stepped(model, batch)
    model.zero_grad()
    terms = two_pass(model, micro_batches(batch, 3), Accelerator(cpu=True))
    assert terms.keys() == expected.keys()
    for name in terms:
        torch.testing.assert_close(terms[name], expected[name], atol=1e-5, rtol=1e-5)
    agree(gradient(model), theirs, 3e-5)  # parts of different size are rounded differently


def test_attention_is_fused_everywhere(build, batch):
    """The plain kernel is forbidden, so unfused attention would fail."""
    model = build(masked_patches="token", contrast="unmasked", dropout=0.1).train()
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        model(batch)["loss"].backward()
    for block in model.image_encoder.vit.blocks:
        assert block.attn.fused_attn
    assert model.bert_config._attn_implementation == "sdpa"


@pytest.fixture
def new_accelerator():
    """Resets accelerate, which keeps the first precision of a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_training_works_with_recomputation_and_two_passes(smoke, dataset, new_accelerator):
    """In bf16, because casts of weights are where recomputation breaks."""
    plain_settings = smoke.replace(seed=77, epochs=1, precision="bf16")
    lean_settings = plain_settings.replace(recompute="selective", micro_batch=12)
    lean = loop.train(lean_settings, dataset)
    shutil.rmtree(lean_settings.folder)
    plain = loop.train(plain_settings, dataset)
    shutil.rmtree(plain_settings.folder)
    for term in ("vrc", "mim", "mrm"):
        assert lean[term].iloc[-1] == pytest.approx(plain[term].iloc[-1], rel=0.02)
