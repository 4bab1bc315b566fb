"""Exact search in a pool of embeddings that stays on disk (ours).

A query is compared with every row, block by block: the memory holds one block and the scores,
however large the pool is. Half precision is read as it is stored, half the bytes. On two cores that
others were using too, 377,110 rows of 512 dimensions in 16 bits, 0.4 GB, took 0.8 to 1.0 s. A flat
index of FAISS took 0.1 s and had the same ten hits, but keeps a second copy in memory and takes
1.5 s to build, so nothing here needs it.
"""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mcrlib.evaluation.retrieval import TOLERANCE

BLOCK = 8192  # rows at once: 16 MB of 512 dimensions in single precision


@dataclass(frozen=True)
class Rows:
    """Embeddings of N pairs in one modality, in the order of a data set's pairs."""

    stored: np.ndarray  # [N, E] numbers of any precision, usually memory-mapped
    lengths: np.ndarray  # float32 [N], of the stored rows
    order: np.ndarray  # int64 [N]: the stored row of each pair

    def __len__(self) -> int:
        return len(self.order)

    def cosines(self, query: np.ndarray) -> np.ndarray:
        """Cosine of a unit row `query [E]` with each pair, float32 `[N]`."""
        wanted = torch.from_numpy(np.array(query, np.float32))
        products = torch.empty(len(self.stored))
        for start in range(0, len(self.stored), BLOCK):
            block = slice(start, start + BLOCK)
            torch.mv(_in_single(self.stored[block]), wanted, out=products[block])
        cosines = products.numpy() / self.lengths
        return cosines[self.order]

    def take(self, pairs: np.ndarray) -> np.ndarray:
        """Unit float32 rows `[n, E]` of the pairs with these numbers, int64 `[n]`."""
        stored_rows = self.order[pairs]
        rows = self.stored[stored_rows].astype(np.float32)
        return rows / self.lengths[stored_rows, None]


def rows_of(stored: np.ndarray, order: np.ndarray, shortest: float) -> Rows:
    """The rows `stored [N, E]` with their lengths, for which all are read once.

    `order [N]` holds the stored row of each pair. Raises ValueError with the number of a row that
    has no direction: one of its numbers is not finite, or its length is at most `shortest`.
    """
    lengths = torch.empty(len(stored))
    for start in range(0, len(stored), BLOCK):
        block = slice(start, start + BLOCK)
        lengths[block] = torch.linalg.vector_norm(_in_single(stored[block]), dim=1)
    has_direction = lengths.isfinite() & (lengths > shortest)
    if not has_direction.all():
        first = int((~has_direction).nonzero()[0])
        raise ValueError(f"row {first} has no direction")
    return Rows(stored, lengths.numpy(), order)


def _in_single(block: np.ndarray) -> Tensor:
    """A block in single precision; PyTorch converts halves three times as fast as NumPy."""
    with warnings.catch_warnings(action="ignore"):  # a map that is read only is not written to
        return torch.from_numpy(np.ascontiguousarray(block)).float()


def by_score(cosines: np.ndarray) -> np.ndarray:
    """Pairs by falling score, int64 `[N]`; those with equal scores keep their order."""
    return np.argsort(-cosines, kind="stable")


def rank_of(cosines: np.ndarray, pair: int) -> int:
    """Rank of a pair from 1; equal scores count against it, as in `retrieval.ranks`."""
    return int(np.count_nonzero(cosines >= cosines[pair] - TOLERANCE))
