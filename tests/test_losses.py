"""The loss terms against their definitions written out."""

import torch
import torch.nn.functional as F

from mcrlib import losses

DRAW = torch.Generator().manual_seed(0)


def test_vrc_is_the_mean_of_both_directions_written_out():
    image = F.normalize(torch.randn(5, 8, generator=DRAW), dim=1)
    report = F.normalize(torch.randn(5, 8, generator=DRAW), dim=1)
    total = 0.0
    for a, b in [(image, report), (report, image)]:
        for i in range(5):
            scores = torch.stack([10 * a[i] @ b[j] for j in range(5)])
            total -= (scores[i] - scores.exp().sum().log()) / 10
    torch.testing.assert_close(losses.vrc(image, report, 10.0), total)


def test_vrc_of_indistinguishable_pairs_is_the_log_of_their_number():
    rows = F.normalize(torch.ones(7, 4), dim=1)
    torch.testing.assert_close(losses.vrc(rows, rows, 14.0), torch.tensor(7.0).log())


def test_mim_of_the_normalised_patches_is_zero_and_ignores_brightness():
    patches = torch.randn(2, 3, 16, generator=DRAW)
    normal = (patches - patches.mean(-1, keepdim=True)) / (
        patches.var(-1, keepdim=True) + 1e-6
    ).sqrt()
    assert losses.mim(normal, patches) < 1e-10
    assert losses.mim(normal, 3 * patches + 5) < 1e-6


def test_a_flat_patch_gives_a_finite_loss():
    assert torch.isfinite(
        losses.mim(torch.randn(1, 1, 16, generator=DRAW), torch.full((1, 1, 16), 0.3))
    )


def test_mrm_of_equal_logits_is_the_log_of_the_vocabulary():
    loss = losses.mrm(torch.zeros(4, 11), torch.arange(4))
    torch.testing.assert_close(loss, torch.tensor(11.0).log())
