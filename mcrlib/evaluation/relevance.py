"""Measures that can tell models apart where Recall@10 cannot (ours).

- RSUM: the sum of the six recalls, Recall@1, @5 and @10 in both directions (policy `pair`), 0 to 6.
- nDCG@10 with graded clinical relevance (`ndcg`), with the partner in the pool and without it.
- What the first hit gets wrong (`first_hit`), over all findings and by finding.
- Knowing when not to answer (`answering`).

Each measure is a block {"value", "low", "high", "left_out"}: `low` and `high` bound the 95 %
interval from resampling patients, the pool staying whole; `left_out` counts the queries for which
the measure is not defined. If that is all of them, the three numbers are None. The block of a class
of errors also has `by_finding`, a block for each finding; that of AURC has the curve, as two lists
`coverage` and `risk`.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy import ndarray as Array
from torch import Tensor

from mcrlib.evaluation import answering, first_hit, ndcg, retrieval
from mcrlib.evaluation.attributes import AttributePool, Attributes

KS = (1, 5, 10)
DEPTH = 10  # the K of nDCG
BOTH = "both"  # directions together
RSUM = "RSUM"
NDCG = f"nDCG@{DEPTH}"
NDCG_WITHOUT_PARTNER = f"{NDCG}_without_partner"
WITH_FINDING = "_with_finding"  # ends a measure over the queries that have one; the pool is whole
RISK = "risk"  # of a wrong answer, if every query is answered
AURC = "AURC"
MATCH_BY_MARGIN = "match_AUROC_by_margin"
MATCH_BY_SCORE = "match_AUROC_by_score"
BY_FINDING = "by_finding"
CURVE_POINTS = 50  # the risk is saved after each fiftieth of the queries
CHANCE = "chance"
ORACLE = "oracle"


class Share(NamedTuple):
    """A measure that is a ratio of sums over queries; those left out have 0 in both."""

    gained: Tensor  # double [N]
    possible: Tensor  # double [N]


class Statistic(NamedTuple):
    """A measure that is no such ratio."""

    by_draw: Callable[[Tensor], Tensor]  # weights [draws, N] -> [draws]
    left_out: int


class Answers(NamedTuple):
    """What a model's ranking of the pool gives each query, in one direction."""

    ndcg: Tensor  # double [N]
    ndcg_without_partner: Tensor  # double [N], NaN for queries that are left out
    first: Tensor  # int64 [N], row of the first hit
    is_wrong: Tensor  # bool [N]
    margin: Tensor  # [N]
    score: Tensor  # [N], cosine of the first hit
    margin_without_match: Tensor  # [N], NaN for a query whose pool would be empty
    score_without_match: Tensor  # [N], the same


class Bound(NamedTuple):
    """What chance or the oracle gives each query, in either direction: expected values."""

    recall_sum: Tensor  # double [N], of both directions
    ndcg: Tensor  # double [N]
    ndcg_without_partner: Tensor  # double [N], NaN for queries that are left out
    risk: Tensor  # double [N]


@dataclass(frozen=True)
class Resampling:
    """How the intervals are made: `patient_codes` [N] number each query's patient from 0."""

    patient_codes: Array
    draws: int
    seed: int

    def blocks(self, measures: Mapping[Any, Share | Statistic]) -> dict[Any, dict]:
        """The block of each measure; all of them from the same resampled patients."""
        rng = np.random.default_rng(self.seed)
        once = torch.ones(1, len(self.patient_codes))
        tables = [_by_draw(measures, once)]
        for weights in retrieval.resamples(self.patient_codes, self.draws, rng):
            tables.append(_by_draw(measures, weights))
        observed_then_draws = torch.cat(tables).numpy()
        blocks = {}
        for column, name in enumerate(measures):
            blocks[name] = _block(observed_then_draws[:, column])
            blocks[name]["left_out"] = _left_out(measures[name])
        return blocks


def evaluate(
    image: retrieval.Matrix,
    report: retrieval.Matrix,
    attributes: Sequence[Attributes] | None = None,
    patients: Sequence[Hashable] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, dict]:
    """Direction -> measure -> block, as a JSON-ready dict; `both` has RSUM and the mean nDCG.

    image and report [N, E]: row i of both is pair i. attributes [N], of `attributes.of_labels` or
    `of_text`; without them only RSUM on all pairs is there. patients [N] are resampled; without
    them, each pair is its own patient. The matrix of similarities is never held. Raises ValueError
    as `retrieval.evaluate` does.
    """
    retrieval.check_numbers(KS, draws, seed)
    image, report = retrieval.unit_pairs(image, report)
    resampling = Resampling(retrieval.patient_codes_of(patients, len(image)), draws, seed)
    recall_sum = recall_sums(image, report) + recall_sums(report, image)
    if attributes is None:
        return {BOTH: resampling.blocks({RSUM: mean_of(recall_sum)})}
    pool = pool_of(attributes, len(image))
    both_ways = {
        "image_to_report": answer(image, report, pool),
        "report_to_image": answer(report, image, pool),
    }
    result = {}
    for direction, answers in both_ways.items():
        result[direction] = _one_way(answers, pool, resampling)
    both = _rsum(recall_sum, pool) | _ndcg([*both_ways.values()], pool)
    result[BOTH] = resampling.blocks(both)
    return result


def bounds(
    attributes: Sequence[Attributes],
    patients: Sequence[Hashable] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, dict]:
    """Chance and the label oracle in the place of models: name -> direction -> measure -> block.

    Chance ranks the pool at random; its numbers are expectations. The oracle sees the attributes
    alone and ranks by gain: its nDCG is 1, but among pairs of equal attributes it can only guess
    which is the partner. Raises ValueError if there are no pairs, or as `evaluate` does.
    """
    retrieval.check_numbers(KS, draws, seed)
    pool = pool_of(attributes, len(attributes))
    resampling = Resampling(retrieval.patient_codes_of(patients, len(attributes)), draws, seed)
    result = {}
    for name, bound in ((CHANCE, chance(pool)), (ORACLE, oracle(pool))):
        own_ndcg = _ndcg([bound], pool)
        risk = mean_of(bound.risk)  # whatever the coverage, since nothing tells queries apart
        one_way = resampling.blocks(own_ndcg | {RISK: risk, AURC: risk})
        both = resampling.blocks(_rsum(bound.recall_sum, pool) | own_ndcg)
        result[name] = dict.fromkeys(retrieval.DIRECTIONS, one_way) | {BOTH: both}
    return result


def recall_sums(queries: Tensor, candidates: Tensor) -> Tensor:
    """Sum over K = 1, 5 and 10 of whether each query's partner is among the first K: double [N]."""
    own = np.arange(len(queries))
    ranks = torch.from_numpy(retrieval.ranks(queries, candidates, own, own))
    return sum((ranks <= k).double() for k in KS)


def answer(queries: Tensor, candidates: Tensor, pool: AttributePool) -> Answers:
    """Rank the pool for each query, block by block. Row i of both unit matrices is pair i."""
    pool = pool.to(queries.device)
    ideal = ndcg.ideal_dcg(pool, DEPTH)
    ideal_without_partner = ndcg.ideal_dcg(pool, DEPTH, with_partner=False)
    parts = []
    for rows, cosines in retrieval.similarity_blocks(queries, candidates):
        part = _answer_block(rows, cosines, pool)
        gained = ndcg.normalised(part.ndcg, ideal[rows])
        others = ndcg.normalised(part.ndcg_without_partner, ideal_without_partner[rows])
        parts.append(part._replace(ndcg=gained, ndcg_without_partner=others))
    joined = {}
    for name in Answers._fields:
        values = [getattr(part, name) for part in parts]
        joined[name] = torch.cat(values).cpu()
    return Answers(**joined)


def _answer_block(rows: slice, cosines: Tensor, pool: AttributePool) -> Answers:
    """The answers to some queries [rows, N]; nDCG is not yet normalised."""
    gains = pool.gains(rows)
    best = ndcg.best_first(cosines, gains, DEPTH + 1)
    best_gains = gains.gather(1, best.columns)

    all_rows = torch.arange(cosines.shape[1], device=cosines.device)
    own = all_rows[rows, None]
    out_of_reach = retrieval.BELOW_ANY_COSINE
    other_cosines = cosines.scatter(1, own, out_of_reach)
    other_gains = gains.scatter(1, own, 0.0)
    others = ndcg.best_first(other_cosines, other_gains, DEPTH)

    is_equal = pool.set_of_pair[rows, None] == pool.set_of_pair
    unequal_cosines = cosines.masked_fill(is_equal, out_of_reach)
    unequal = unequal_cosines.topk(best.cosines.shape[1]).values
    unequal_pairs = cosines.shape[1] - pool.equal_pairs[rows]
    return Answers(
        ndcg=ndcg.dcg(best_gains[:, :DEPTH]),
        ndcg_without_partner=ndcg.dcg(other_gains.gather(1, others.columns)),
        first=best.columns[:, 0],
        is_wrong=answering.is_wrong(best_gains),
        margin=answering.margin(best.cosines),
        score=best.cosines[:, 0],
        margin_without_match=answering.margin(unequal, unequal_pairs),
        score_without_match=unequal[:, 0].where(unequal_pairs > 0, torch.nan),
    )


def chance(pool: AttributePool) -> Bound:
    """What random retrieval gives each query, on average."""
    pairs = len(pool.set_of_pair)
    recall_sum = 2 * sum(min(k / pairs, 1.0) for k in KS)
    expected = []
    for with_partner in (True, False):
        gained = ndcg.expected_dcg(pool, DEPTH, with_partner)
        ideal = ndcg.ideal_dcg(pool, DEPTH, with_partner)
        expected.append(ndcg.normalised(gained, ideal))
    recall_sums = torch.full((pairs,), recall_sum, dtype=torch.double)
    return Bound(recall_sums, *expected, answering.chance_of_wrong(pool))


def oracle(pool: AttributePool) -> Bound:
    """What an oracle gives each query that ranks by gain and knows nothing else."""
    equal = pool.equal_pairs.double()
    recall_sum = 2 * sum(equal.clamp(max=k) / equal for k in KS)
    perfect = []
    for with_partner in (True, False):
        ideal = ndcg.ideal_dcg(pool, DEPTH, with_partner)
        perfect.append(ndcg.normalised(ideal, ideal))
    never_wrong = torch.zeros_like(recall_sum)  # the partner has gain 1
    return Bound(recall_sum, *perfect, never_wrong)


# From queries to measures


def mean_of(values: Tensor, counts: Tensor | None = None) -> Share:
    """The mean of values [N] over the queries that count (bool [N]; all by default) and have one;
    NaN is none."""
    possible = ~values.isnan()
    if counts is not None:
        possible = possible & counts
    return Share(values.where(possible, 0.0), possible.double())


def pool_of(attributes: Sequence[Attributes], pairs: int) -> AttributePool:
    """The pool of so many pairs with these attributes. Raises ValueError for another number."""
    if len(attributes) != pairs:
        raise ValueError(
            f"attributes must have a set for each of the {pairs} pairs: got {len(attributes)}."
        )
    return AttributePool.of(attributes)


def _rsum(recall_sum: Tensor, pool: AttributePool) -> dict[str, Share]:
    return {
        RSUM: mean_of(recall_sum),
        RSUM + WITH_FINDING: mean_of(recall_sum, pool.has_finding),
    }


def _ndcg(directions: Sequence[Answers | Bound], pool: AttributePool) -> dict[str, Share]:
    """nDCG, a query's being the mean over the directions."""
    values = {
        NDCG: [given.ndcg for given in directions],
        NDCG_WITHOUT_PARTNER: [given.ndcg_without_partner for given in directions],
    }
    measures = {}
    for name, by_direction in values.items():
        by_query = torch.stack(by_direction).mean(0)
        measures[name] = mean_of(by_query)
        measures[name + WITH_FINDING] = mean_of(by_query, pool.has_finding)
    return measures


def _one_way(answers: Answers, pool: AttributePool, resampling: Resampling) -> dict[str, Any]:
    """The measures of one direction."""
    order = answering.answering_order(answers.is_wrong, answers.margin)
    measures = _ndcg([answers], pool)
    measures[RISK] = mean_of(answers.is_wrong.double())
    measures[AURC] = Statistic(partial(answering.risk_areas, answers.is_wrong, order), left_out=0)
    left_out = int(answers.margin_without_match.isnan().sum())
    by_margin = partial(answering.match_aurocs, answers.margin, answers.margin_without_match)
    measures[MATCH_BY_MARGIN] = Statistic(by_margin, left_out)
    by_score = partial(answering.match_aurocs, answers.score, answers.score_without_match)
    measures[MATCH_BY_SCORE] = Statistic(by_score, left_out)
    overall, by_finding = _errors(answers.first, pool)
    blocks = resampling.blocks(measures | overall | by_finding)
    result = {name: blocks[name] for name in measures | overall}
    for error in overall:
        result[error][BY_FINDING] = {}
    for error, finding in by_finding:
        result[error][BY_FINDING][finding] = blocks[error, finding]
    result[AURC].update(_curve(answers.is_wrong, order))
    return result


def _errors(
    first: Tensor, pool: AttributePool
) -> tuple[dict[str, Share], dict[tuple[str, str], Share]]:
    """Shares of first hits with an error, by class, and by class and finding."""
    overall = {}
    by_finding = {}
    for name, error in first_hit.errors(pool, first).items():
        overall[name] = mean_of(error.is_made.any(1).double())
        for column, finding in enumerate(first_hit.finding_names(pool)):
            is_made = error.is_made[:, column].double()
            by_finding[name, finding] = mean_of(is_made, error.can_be_made[:, column])
    return overall, by_finding


def _curve(wrong: Tensor, order: Tensor) -> dict[str, list[float]]:
    """The risk at CURVE_POINTS coverages (at each query in a smaller pool)."""
    queries = len(wrong)
    points = min(CURVE_POINTS, queries)
    answered = np.linspace(queries / points, queries, points).round().astype(int)
    (risk,) = answering.risks(wrong, order, torch.ones(1, queries)).numpy()
    return {"coverage": (answered / queries).tolist(), "risk": risk[answered - 1].tolist()}


# Blocks


def _by_draw(measures: Mapping[Any, Share | Statistic], weights: Tensor) -> Tensor:
    """Values of the measures for weights [draws, N]: double [draws, measures], NaN if undefined."""
    shares = [measure for measure in measures.values() if isinstance(measure, Share)]
    columns_of_shares = iter(())
    if shares:
        double_weights = weights.double()
        gained = double_weights @ torch.stack([share.gained for share in shares], 1)
        possible = double_weights @ torch.stack([share.possible for share in shares], 1)
        columns_of_shares = iter((gained / possible).T)
    columns = []
    for measure in measures.values():
        if isinstance(measure, Share):
            columns.append(next(columns_of_shares))
        else:
            columns.append(measure.by_draw(weights))
    return torch.stack(columns, 1)


def _block(observed_then_draws: Array) -> dict[str, float | None]:
    value, *draws = observed_then_draws
    if np.isnan(value):
        return dict.fromkeys(("value", "low", "high"))
    if np.isnan(draws).all():
        low = high = value  # no draw has a query that counts
    else:
        low, high = np.nanquantile(draws, retrieval.INTERVAL)
    return {"value": float(value), "low": float(low), "high": float(high)}


def _left_out(measure: Share | Statistic) -> int:
    if isinstance(measure, Share):
        return int((measure.possible == 0).sum())
    return measure.left_out
