"""nDCG@K with graded clinical relevance (ours): do the first hits mean what the query means?

The gain of a hit is that of `attributes`, and counts as it is (linear); the hit at rank r is
discounted by log2(1 + r). Ties are pessimistic: cosines that differ by at most
`retrieval.TOLERANCE` are equal, and among equals the hit of least gain comes first.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from mcrlib.evaluation.attributes import AttributePool
from mcrlib.evaluation.retrieval import TOLERANCE


class Best(NamedTuple):
    """The best candidates of each query."""

    columns: Tensor  # int64 [rows, K], best first; among equals the least gain first
    cosines: Tensor  # [rows, K], in descending order


def best_first(cosines: Tensor, gains: Tensor, k: int) -> Best:
    """The k best candidates of each row (fewer if there are not so many).

    cosines and gains are [rows, C]. In a chain of cosines, each within the tolerance of the next,
    all are equal.
    """
    candidates = cosines.shape[1]
    depth = min(2 * k, candidates)
    best = cosines.topk(depth)
    while depth < candidates and not _ends_between_ties(best.values, k):
        depth = min(8 * depth, candidates)
        best = cosines.topk(depth)
    tie = _ties(best.values)
    gain = gains.gather(1, best.indices)
    by_gain = gain.argsort(dim=1, stable=True)
    by_tie = tie.gather(1, by_gain).argsort(dim=1, stable=True)
    order = by_gain.gather(1, by_tie)
    columns = best.indices.gather(1, order)
    return Best(columns[:, :k], best.values[:, :k])


def _starts_tie(descending: Tensor) -> Tensor:
    """Whether each cosine but the first is less than the one before it: bool [rows, C - 1]."""
    drop = -descending.diff()
    return drop > TOLERANCE


def _ends_between_ties(descending: Tensor, k: int) -> bool:
    """Whether in each row the cosines equal to the k-th are all among those given."""
    starts_later = _starts_tie(descending)[:, k - 1 :]
    return bool(starts_later.any(1).all())


def _ties(descending: Tensor) -> Tensor:
    """Number from 0 of the group of equal cosines that each belongs to: int64 [rows, C]."""
    number = _starts_tie(descending).cumsum(1)
    return torch.nn.functional.pad(number, (1, 0))


def dcg(gains: Tensor) -> Tensor:
    """Discounted gain [rows] of hits with these gains [rows, K], best hit first."""
    return gains.double() @ _discounts(gains.shape[1], gains.device)


def _discounts(k: int, device: torch.device) -> Tensor:
    ranks = torch.arange(1, k + 1, device=device, dtype=torch.double)
    return 1 / (1 + ranks).log2()


def ideal_dcg(pool: AttributePool, k: int, with_partner: bool = True) -> Tensor:
    """The largest DCG@k that a ranking of the pool can have, by query: double [N].

    Without the partner, pair i is no candidate of query i. Computed once for each set of
    attributes, in blocks.
    """
    device = pool.has.device
    discounts = torch.nn.functional.pad(_discounts(k, device), (1, 0))
    discounts_so_far = discounts.cumsum(0)
    most = min(k + 1, len(pool.has))
    ideal = []
    for sets in pool.set_blocks():
        # Each set has at least one pair, and one of them may be the query's own.
        best = pool.set_gains(sets).topk(most)
        pairs = pool.pairs[best.indices]
        if not with_partner:
            is_own = best.indices == sets[:, None]
            pairs = pairs - is_own.long()
        last_rank = pairs.cumsum(1).clamp(max=k)
        through_each = discounts_so_far[last_rank]
        discount = through_each.diff(prepend=torch.zeros_like(through_each[:, :1]))
        ideal.append((best.values * discount).sum(1))
    return torch.cat(ideal)[pool.set_of_pair]


def expected_dcg(pool: AttributePool, k: int, with_partner: bool = True) -> Tensor:
    """The mean DCG@k over all rankings of the pool, by query: double [N]; 0 in an empty pool."""
    totals = []
    for sets in pool.set_blocks():
        gains = pool.set_gains(sets).double()
        totals.append(gains @ pool.pairs.double())
    total = torch.cat(totals)
    candidates = len(pool.set_of_pair)
    if not with_partner:
        total = total - 1.0  # the partner's gain
        candidates = candidates - 1
    discount = _discounts(min(k, candidates), total.device).sum()
    return (total / max(candidates, 1) * discount)[pool.set_of_pair]


def normalised(gained: Tensor, ideal: Tensor) -> Tensor:
    """nDCG [N] from DCG and ideal DCG; NaN for a query whose ideal is 0."""
    return torch.where(ideal > 0, gained / ideal, torch.nan)
