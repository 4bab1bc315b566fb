"""Knowing when not to answer (ours): does the confidence in a query's hits say if they are right?

A query's confidence is the margin of its first hit's cosine over the eleventh's. Its answer is
wrong if the best of the first ten hits has a gain below 0.5 (`attributes`).

*Risk and coverage*: of the most confident queries, a share called coverage, the risk is the share
with a wrong answer. AURC, the area under this curve, is the mean risk when one query after the
other is answered, the most confident first. Lower is better.

*Is there a match at all?* Each query is asked twice: in the whole pool, and in the pool without its
partner and all pairs that have the same attributes. AUROC says how well the confidence, or the
first hit's cosine alone, tells the two apart.
"""

import torch
from torch import Tensor

from mcrlib.evaluation.attributes import AttributePool
from mcrlib.evaluation.retrieval import TOLERANCE

ANSWERS = 10  # hits that are shown
LEAST_GAIN = 0.5  # of the best of them, if the answer is right


def margin(cosines: Tensor, candidates: Tensor | None = None) -> Tensor:
    """The first cosine minus the eleventh, or the last in a smaller pool: [rows].

    cosines [rows, K] are descending; of each row, the first `candidates` [rows] are real (all by
    default). A row without candidates has no margin: NaN.
    """
    rows, k = cosines.shape
    if candidates is None:
        candidates = torch.full((rows,), k, device=cosines.device)
    lowest_rank = min(k, ANSWERS + 1)
    last = candidates.clamp(1, lowest_rank) - 1
    first_cosine = cosines[:, 0]
    last_cosine = cosines.gather(1, last[:, None]).squeeze(1)
    difference = first_cosine - last_cosine
    return torch.where(candidates > 0, difference, torch.nan)


def is_wrong(gains: Tensor) -> Tensor:
    """Whether no answer has enough gain: bool [rows], from the gains [rows, K] of the hits."""
    return gains[:, :ANSWERS].amax(1) < LEAST_GAIN


def chance_of_wrong(pool: AttributePool) -> Tensor:
    """Probability that ten random hits are a wrong answer, by query: double [N]."""
    right = []
    for sets in pool.set_blocks():
        has_enough = pool.set_gains(sets) >= LEAST_GAIN
        right.append(has_enough.double() @ pool.pairs.double())
    candidates = len(pool.set_of_pair)
    wrong_left = candidates - torch.cat(right)
    probability = torch.ones_like(wrong_left)
    for drawn in range(min(ANSWERS, candidates)):
        wrong_among_rest = (wrong_left - drawn).clamp(min=0.0)
        probability = probability * wrong_among_rest / (candidates - drawn)
    return probability[pool.set_of_pair]


def answering_order(wrong: Tensor, confidence: Tensor) -> Tensor:
    """Rows of the queries [N], the most confident first.

    Of equal confidences (within the tolerance of the next one), the wrong answers come first.
    """
    descending, by_confidence = confidence.sort(descending=True, stable=True)
    drop = -descending.diff()
    starts_tie = drop > TOLERANCE
    tie = torch.nn.functional.pad(starts_tie.cumsum(0), (1, 0))
    wrong_last = 2 * tie + (~wrong[by_confidence]).long()
    return by_confidence[wrong_last.argsort(stable=True)]


def risks(wrong: Tensor, order: Tensor, weights: Tensor) -> Tensor:
    """Risk after each query that is answered, in this order, by draw: [draws, N].

    weights [draws, N] say how often each query counts. NaN as long as none does.
    """
    counts = weights.index_select(1, order).double()
    is_wrong_answer = wrong[order].double()
    return (counts * is_wrong_answer).cumsum(1) / counts.cumsum(1)


def risk_areas(wrong: Tensor, order: Tensor, weights: Tensor) -> Tensor:
    """AURC by draw: [draws]."""
    counts = weights.index_select(1, order).double()
    risk = risks(wrong, order, weights).nan_to_num(0.0)
    return (counts * risk).sum(1) / counts.sum(1)


def match_aurocs(with_match: Tensor, without: Tensor, weights: Tensor) -> Tensor:
    """AUROC by draw, [draws], of confidences [N] with a match against those without one.

    Queries without a confidence (NaN) in one of the pools are left out. NaN if none is left.
    """
    is_asked = ~(with_match.isnan() | without.isnan())
    with_match = with_match[is_asked]
    without = without[is_asked]
    counts = weights[:, is_asked].double()
    ascending, order = without.sort()
    less = torch.searchsorted(ascending, with_match)
    less_or_equal = torch.searchsorted(ascending, with_match, right=True)
    counted = counts.index_select(1, order).cumsum(1)
    counted = torch.nn.functional.pad(counted, (1, 0))
    beaten = counted[:, less]
    beaten_or_equal = counted[:, less_or_equal]
    won = (beaten + beaten_or_equal) / 2
    pairs_of_both = counts.sum(1) ** 2
    return (counts * won).sum(1) / pairs_of_both
