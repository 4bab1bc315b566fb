"""Which patches and tokens the model does not see.

Polarity, used everywhere: `keep [B, k]` holds the indices of the patches that stay, in ascending
order; `masked [B, T]` is true where [MASK] replaces a token. Each pair draws its masks from its own
random generator, so neither the batch, nor its order, nor the number of processes changes them.
"""

import hashlib

import numpy as np
import torch
from torch import Tensor


def pair_generator(seed: int, epoch: int, pair_id: str) -> np.random.Generator:
    """Random numbers of one pair in one epoch, for its masks and its augmentation (ours)."""
    name = f"{seed}/{epoch}/{pair_id}"
    digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def keep_patches(n: int, ratio: float, generator: np.random.Generator) -> np.ndarray:
    """Indices `[k]` of the patches that stay when `ratio` of `n` is dropped (paper: 0.5).

    At least one patch stays and, unless the ratio is 0, at least one is dropped.
    """
    count = n - round(n * ratio)
    count = max(count, 1)
    if ratio > 0:
        count = min(count, n - 1)
    shuffled = generator.permutation(n)
    return np.sort(shuffled[:count])


def mask_tokens(maskable: np.ndarray, ratio: float, generator: np.random.Generator) -> np.ndarray:
    """True `[T]` at `ratio` of the positions where `maskable [T]` is true (paper: 0.25).

    Unless the ratio is 0, masks at least one token if any is maskable, so that every report takes
    part in L_mrm.
    """
    candidates = np.flatnonzero(maskable)
    count = round(len(candidates) * ratio)
    if len(candidates) > 0 and ratio > 0:
        count = max(count, 1)
    shuffled = generator.permutation(candidates)
    masked = np.zeros(len(maskable), dtype=bool)
    masked[shuffled[:count]] = True
    return masked


def dropped_patches(keep: Tensor, n: int) -> Tensor:
    """Indices `[B, n - k]` of the patches that `keep [B, k]` leaves out, in ascending order."""
    kept = torch.zeros(len(keep), n, device=keep.device)
    kept.scatter_(1, keep, 1)
    # One sort for all images: dropped patches (0) come first, and a stable sort keeps their order.
    dropped_first = kept.argsort(dim=1, stable=True)
    count = n - keep.shape[1]
    return dropped_first[:, :count]


def gather_patches(patches: Tensor, index: Tensor) -> Tensor:
    """`[B, k, D]`: of each image's `patches [B, n, D]`, those that `index [B, k]` names."""
    width = patches.shape[-1]
    return patches.gather(1, index[..., None].expand(-1, -1, width))
