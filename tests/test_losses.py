"""The loss terms against their definitions written out."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mcrlib import losses

DRAW = torch.Generator().manual_seed(0)


def unit_rows(*shape):
    return F.normalize(torch.randn(*shape, generator=DRAW), dim=1)


def test_vrc_is_the_mean_of_both_directions_written_out():
    image = unit_rows(5, 8)
    report = unit_rows(5, 8)
    total = 0.0
    for queries, candidates in [(image, report), (report, image)]:
        for i in range(5):
            scores = torch.stack([10 * queries[i] @ candidate for candidate in candidates])
            total -= (scores[i] - scores.exp().sum().log()) / 10
    torch.testing.assert_close(losses.vrc(image, report, 10.0), total)


def test_vrc_of_indistinguishable_pairs_is_the_log_of_their_number():
    rows = F.normalize(torch.ones(7, 4), dim=1)
    torch.testing.assert_close(losses.vrc(rows, rows, 14.0), torch.tensor(7.0).log())


@given(
    n=st.integers(1, 70),
    tile=st.integers(1, 80),
    scale=st.floats(0.5, 100),
    alike=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_vrc_in_tiles_has_the_gradient_of_the_full_matrix(n, tile, scale, alike, seed):
    draw = torch.Generator().manual_seed(seed)
    spread = 1e-3 if alike else 1.0

    def rows():
        noise = torch.randn(n, 6, generator=draw)
        return F.normalize(1 + spread * noise, dim=1).double().requires_grad_()

    image = rows()
    report = rows()
    scale = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
    inputs = (image, report, scale)
    logits = scale * image @ report.T
    partner = torch.arange(n)
    full = (F.cross_entropy(logits, partner) + F.cross_entropy(logits.T, partner)) / 2
    theirs = torch.autograd.grad(3 * full, inputs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "TILE", tile)
        tiled = losses.vrc(image, report, scale)
        ours = torch.autograd.grad(3 * tiled, inputs)
    torch.testing.assert_close(tiled, full)
    for our_gradient, their_gradient in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our_gradient, their_gradient, atol=1e-9, rtol=1e-6)


def test_vrc_stays_finite_when_exponentials_overflow():
    image = unit_rows(9, 8).requires_grad_()
    loss = losses.vrc(image, -image, 1000.0)
    loss.backward()
    assert 0 < loss < 2000
    assert torch.isfinite(image.grad).all()


def test_vrc_is_not_rounded_by_autocast():
    image = unit_rows(9, 8)
    report = unit_rows(9, 8)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = losses.vrc(image, report, 14.0)
    assert torch.equal(rounded, losses.vrc(image, report, 14.0))


def test_mim_of_the_normalised_patches_is_zero_and_ignores_brightness():
    patches = torch.randn(2, 3, 16, generator=DRAW)
    mean = patches.mean(-1, keepdim=True)
    deviation = (patches.var(-1, keepdim=True) + 1e-6).sqrt()
    normal = (patches - mean) / deviation
    assert losses.mim(normal, patches) < 1e-10
    assert losses.mim(normal, 3 * patches + 5) < 1e-6


def test_a_flat_patch_gives_a_finite_loss():
    flat = torch.full((1, 1, 16), 0.3)
    predicted = torch.randn(1, 1, 16, generator=DRAW)
    assert torch.isfinite(losses.mim(predicted, flat))


def test_mrm_of_equal_logits_is_the_log_of_the_vocabulary():
    loss = losses.mrm(torch.zeros(4, 11), torch.arange(4))
    torch.testing.assert_close(loss, torch.tensor(11.0).log())
