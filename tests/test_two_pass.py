"""What saves memory or time in a step changes neither its loss nor its gradient."""

import itertools
import shutil

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.nn.attention import SDPBackend, sdpa_kernel

from mcrlib import config, losses
from mcrlib.model import MCR
from mcrlib.training import cost, loop
from mcrlib.training.two_pass import micro_batches, two_pass

VARIANTS = {
    "mcr": {},
    "dual": {"contrast": "unmasked"},
    "dual-token": {"contrast": "unmasked", "masked_patches": "token"},
    "abm": {"alignment": "abm"},
    "flip": {"mim_weight": 0.0, "mrm_weight": 0.0},
}


def gradient(model):
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def agree(ours, theirs, tolerance=1e-5):
    assert ours.keys() == theirs.keys()
    for name in ours:
        length = theirs[name].norm().clamp(min=1e-3)
        assert (ours[name] - theirs[name]).norm() / length < tolerance, name


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
    agree(ours, theirs, 1e-5 if precision == "no" else 2e-2)


def test_recomputing_changes_no_weight_name_and_no_embedding(build, dataset, tmp_path):
    plain, lean = build(), build(recompute="selective")
    assert plain.state_dict().keys() == lean.state_dict().keys()
    lean.save_pretrained(tmp_path)
    again, texts = MCR.from_pretrained(tmp_path), dataset.frame["report"].tolist()[:9]
    assert torch.equal(again.embed_reports(texts), plain.embed_reports(texts))


@pytest.mark.skipif(shutil.which("g++") is None, reason="a compiler for C++ is needed")
@pytest.mark.parametrize("level", ["none", "selective"])
def test_compiling_changes_neither_loss_nor_gradient_nor_dropout(build, tmp_path, level):
    """In two passes: the first is compiled anew, since it has no graph."""
    small, found = {"vision_depth": 1, "text_depth": 1, "dropout": 0.3}, []
    ours = build(**small, compile=True, recompute=level)
    given = cost.random_batch(ours.config, [3, 4, 5, 6, 9, 9, 9, 9], vocabulary=len(ours.tokenizer))
    for model in (ours, build(**small)):
        torch.manual_seed(1)
        found.append((two_pass(model.train(), given, 4, Accelerator(cpu=True)), gradient(model)))
    (terms, gradients), (expected, theirs) = found
    torch.testing.assert_close(terms, expected, atol=1e-5, rtol=1e-5)
    agree(gradients, theirs, 1e-4)

    ours.save_pretrained(tmp_path)
    assert not MCR.from_pretrained(tmp_path).config.compile  # to look needs no compiler


@pytest.mark.parametrize(
    ("pairs", "size", "sizes"), [(8, 4, [4, 4]), (9, 4, [3, 3, 3]), (3, 8, [3])]
)
def test_micro_batches_share_the_pairs_and_their_lengths(pairs, size, sizes):
    c = config.load("smoke")
    whole = cost.random_batch(c, range(5, 5 + pairs), vocabulary=50)
    parts = micro_batches(whole, size)
    assert [len(part.pixels) for part in parts] == sizes
    lengths = [part.present.sum(dim=1).tolist() for part in parts]
    assert sorted(itertools.chain(*lengths)) == list(range(5, 5 + pairs))
    assert max(map(max, lengths)) - min(map(max, lengths)) < len(parts)
    for part in parts:  # what belongs together stays together
        for pixels, tokens in zip(part.pixels, part.tokens, strict=True):
            (place,) = (whole.pixels == pixels).all(dim=(1, 2, 3)).nonzero()[0].tolist()
            assert torch.equal(whole.tokens[place], tokens)


def oracle(model, batch, size):
    """All micro batches with their graphs at once; each draws its dropout from a seed of its own,
    taken as `two_pass` takes them."""
    model.train().zero_grad()
    parts = micro_batches(batch, size)
    torch.manual_seed(1)
    seeds = torch.randint(2**62, (len(parts),)).tolist()
    rows, mim, mrm, c = [], 0, 0, model.config
    for part, seed in zip(parts, seeds, strict=True):
        torch.manual_seed(seed)
        terms = model(part, lambda image, report: rows.append((image, report)) or image.sum() * 0)
        mim = mim + terms.get("mim", 0) * len(part.pixels) / len(batch.pixels)
        mrm = mrm + terms.get("mrm", 0) * part.masked.sum() / batch.masked.sum()
    vrc = model.contrast(*(torch.cat(side) for side in zip(*rows, strict=True)))
    loss = c.vrc_weight * vrc + c.mim_weight * mim + c.mrm_weight * mrm
    loss.backward()
    return loss, gradient(model)


@pytest.mark.parametrize("size", [1, 3, 8])
@pytest.mark.parametrize("variant", ["mcr", "dual-token", "flip"])
def test_two_passes_repeat_masks_and_dropout(build, batch, variant, size):
    model = build(**VARIANTS[variant], dropout=0.3)
    loss, theirs = oracle(model, batch, size)
    model.zero_grad()
    torch.manual_seed(1)
    terms = two_pass(model, batch, size, Accelerator(cpu=True))
    torch.testing.assert_close(terms["loss"], loss)
    agree(gradient(model), theirs)


@pytest.mark.parametrize("variant", VARIANTS)
def test_micro_batches_have_the_gradient_of_the_whole_batch(build, batch, variant):
    model = build(**VARIANTS[variant])
    expected, theirs = stepped(model, batch)
    model.zero_grad()
    terms = two_pass(model, batch, 3, Accelerator(cpu=True))
    assert terms.keys() == expected.keys()
    for name in terms:
        torch.testing.assert_close(terms[name], expected[name], atol=1e-5, rtol=1e-5)
    agree(gradient(model), theirs, 3e-5)  # parts of another size are rounded otherwise


def test_attention_is_fused_everywhere(build, batch):
    """With the plain kernel forbidden, whatever is not fused would fail."""
    model = build(masked_patches="token", contrast="unmasked", dropout=0.1).train()
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        model(batch)["loss"].backward()
    assert all(block.attn.fused_attn for block in [*model.image_encoder.vit.blocks])
    assert model.bert._attn_implementation == "sdpa"


@pytest.fixture
def new_accelerator():
    """A process has one precision, unless it forgets it."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_training_takes_both_switches(smoke, dataset, new_accelerator):
    """In bf16, where casts of weights are what breaks."""
    c = smoke.replace(seed=77, epochs=1, precision="bf16", recompute="selective", micro_batch=12)
    history = loop.train(c, dataset)
    shutil.rmtree(c.folder)
    plain = loop.train(c.replace(recompute="none", micro_batch=0), dataset)
    shutil.rmtree(c.folder)
    for term in ("vrc", "mim", "mrm"):
        assert history[term].iloc[-1] == pytest.approx(plain[term].iloc[-1], rel=0.02)
