"""Which patches and tokens a model does not see.

Polarity, stated once: `keep [B, k]` holds the indices of the patches that stay, in ascending order;
`masked [B, T]` is true where a token is replaced by [MASK]. Both are drawn at random from a seed of
their own for each pair, so that neither the batch, nor its order, nor the number of processes
changes them.
"""

import hashlib

import numpy as np
import torch


def pair_generator(seed: int, epoch: int, pair_id: str) -> np.random.Generator:
    """The random numbers of one pair in one epoch: masks and augmentation draw from here (ours)."""
    name = f"{seed}/{epoch}/{pair_id}".encode()
    return np.random.default_rng(
        int.from_bytes(hashlib.blake2b(name, digest_size=16).digest(), "big")
    )


def keep_patches(n: int, ratio: float, generator: np.random.Generator) -> np.ndarray:
    """Indices [k] of the patches that stay when `ratio` of `n` is dropped (paper: 0.5).

    At least one patch stays and at least one is dropped.
    """
    kept = min(max(n - round(n * ratio), 1), n - 1)
    return np.sort(generator.permutation(n)[:kept])


def mask_tokens(maskable: np.ndarray, ratio: float, generator: np.random.Generator) -> np.ndarray:
    """True [T] at `ratio` of the positions where `maskable [T]` is true (paper: 0.25).

    At least one token is masked where there is any, so that every report takes part in L_mrm.
    """
    places = np.flatnonzero(maskable)
    count = max(round(len(places) * ratio), min(len(places), 1))
    masked = np.zeros(len(maskable), dtype=bool)
    masked[generator.permutation(places)[:count]] = True
    return masked


def dropped_patches(keep: torch.Tensor, n: int) -> torch.Tensor:
    """Indices [B, n - k] of the patches that `keep [B, k]` leaves out, in ascending order."""
    kept = torch.zeros(len(keep), n, device=keep.device).scatter_(1, keep, 1)
    return kept.argsort(dim=1, stable=True)[:, : n - keep.shape[1]]
