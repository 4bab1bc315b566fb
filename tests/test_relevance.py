"""Measures of `relevance`, each against a plain calculation."""

import json
from itertools import permutations
from math import log2

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score, roc_auc_score

from mcrlib.evaluation import answering, attributes, first_hit, ndcg, relevance, retrieval
from mcrlib.evaluation.attributes import Attribute, AttributePool

LABELS = (
    "Nodule|left|upper|small", "Nodule|right|upper|large", "Nodule|right|lower|small",
    "Edema|||mild", "Edema|||severe", "Cardiomegaly|||moderate",
)  # fmt: skip
RECALLS = ("R@1", "R@5", "R@10")
DIRECTIONS = ("image_to_report", "report_to_image")

pairs_of_pool = st.lists(st.sets(st.sampled_from(LABELS), max_size=3), min_size=1, max_size=16)


def drawn(label_sets, seed, width=3):
    """Attributes and embeddings [N, width] with many ties."""
    pool = [attributes.of_labels(labels) for labels in label_sets]
    rng = np.random.default_rng(seed)
    image = rng.integers(-1, 2, (len(pool), width)) + 0.0
    report = rng.integers(-1, 2, (len(pool), width)) + 0.0
    return pool, image, report


def cosine(one, two):
    length = np.linalg.norm(one) * np.linalg.norm(two)
    return round(float(one @ two / length), 5) if length else 0.0


def jaccard(one, two):
    return len(one & two) / len(one | two) if one | two else 1.0


def plain_ranking(query, own, candidates, pool):
    """Rows of the candidates, best first; among equal cosines the least gain first."""

    def place(row):
        return -cosine(query, candidates[row]), jaccard(pool[own], pool[row])

    return place


def plain_dcg(gains):
    return sum(gain / log2(2 + place) for place, gain in enumerate(gains[:10]))


def plain_answer(queries, candidates, pool, own):
    """What one query gets: nDCG, the same without the partner, whether the answer is wrong, the
    margin, the margin and the score without a match."""
    everyone = range(len(pool))
    others = [row for row in everyone if row != own]
    unequal = [row for row in everyone if pool[row] != pool[own]]
    ranked = {}
    ndcgs = []
    for name, rows in (("all", everyone), ("others", others), ("unequal", unequal)):
        place = plain_ranking(queries[own], own, candidates, pool)
        ranked[name] = sorted(rows, key=place)
    for name in ("all", "others"):
        gains = [jaccard(pool[own], pool[row]) for row in ranked[name]]
        ideal = plain_dcg(sorted(gains, reverse=True))
        ndcgs.append(plain_dcg(gains) / ideal if ideal else np.nan)
    best = max(jaccard(pool[own], pool[row]) for row in ranked["all"][:10])
    margins = []
    for name in ("all", "unequal"):
        cosines = [cosine(queries[own], candidates[row]) for row in ranked[name][:11]]
        margins.append(cosines[0] - cosines[-1] if cosines else np.nan)
    return [*ndcgs, float(best < 0.5), *margins]


def test_labels_and_reports_name_findings_with_their_place_and_degree():
    labels = ["Pleural Effusion|left|lower|small", "Edema|||", "No Finding"]
    effusion = "Pleural Effusion"
    expected = {
        Attribute("Edema"),
        Attribute(effusion),
        Attribute(effusion, "side", "left"),
        Attribute(effusion, "zone", "lower"),
        Attribute(effusion, "severity", "small"),
    }
    assert attributes.of_labels(labels) == expected
    text = "Small left lower pleural effusion. Edema. No pneumothorax. Possible pneumonia."
    assert attributes.of_text(text) == expected
    both_sides = {Attribute(effusion), Attribute(effusion, "side", "left")}
    both_sides.add(Attribute(effusion, "side", "right"))
    assert attributes.of_text("Bilateral pleural effusions.") == both_sides
    assert attributes.of_text("No acute cardiopulmonary disease.") == frozenset()
    assert attributes.of_labels(["Nodule|||mild"]) == attributes.of_labels(["Nodule|||small"])


@given(pairs_of_pool)
def test_gains_and_ideals_are_those_of_a_plain_calculation(label_sets):
    sets = [attributes.of_labels(labels) for labels in label_sets]
    pool = AttributePool.of(sets)
    plain = np.array([[jaccard(one, two) for two in sets] for one in sets])
    assert np.allclose(pool.gains(slice(None)), plain)
    with_partner = ndcg.ideal_dcg(pool, 10)
    without = ndcg.ideal_dcg(pool, 10, with_partner=False)
    for row, gains in enumerate(plain.tolist()):
        assert with_partner[row] == pytest.approx(plain_dcg(sorted(gains, reverse=True)), abs=1e-6)
        gains.pop(row)
        assert without[row] == pytest.approx(plain_dcg(sorted(gains, reverse=True)), abs=1e-6)


def test_without_ties_ndcg_is_scikit_learn_s():
    rng = np.random.default_rng(0)
    label_sets = [rng.choice(LABELS, rng.integers(0, 4), replace=False) for _ in range(40)]
    sets = [attributes.of_labels(labels) for labels in label_sets]
    image, report = rng.standard_normal((2, 40, 8))
    image, report = retrieval.unit_pairs(image, report)
    pool = AttributePool.of(sets)
    given_answers = relevance.answer(image, report, pool)
    cosines = (image @ report.T).numpy()
    gains = pool.gains(slice(None)).numpy()
    for row in range(40):
        score = ndcg_score([gains[row]], [cosines[row]], k=10)
        assert given_answers.ndcg[row] == pytest.approx(score, abs=1e-6)
        others = np.arange(40) != row
        score = ndcg_score([gains[row, others]], [cosines[row, others]], k=10)
        assert given_answers.ndcg_without_partner[row] == pytest.approx(score, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(pairs_of_pool, st.integers(0, 99), st.booleans())
def test_answers_are_those_of_a_plain_ranking_with_pessimistic_ties(label_sets, seed, small_blocks):
    sets, image, report = drawn(label_sets, seed)
    pool = AttributePool.of(sets)
    with pytest.MonkeyPatch.context() as patch:
        if small_blocks:
            patch.setattr(retrieval, "BLOCK", 5)
            patch.setattr(attributes, "BLOCK", 5)
        units = retrieval.unit_pairs(image, report)
        answers = relevance.answer(*units, pool)
    for row in range(len(sets)):
        plain = plain_answer(image, report, sets, row)
        found = [
            answers.ndcg[row], answers.ndcg_without_partner[row], answers.is_wrong[row],
            answers.margin[row], answers.margin_without_match[row],
        ]  # fmt: skip
        assert [float(value) for value in found] == pytest.approx(plain, abs=3e-5, nan_ok=True)
        cosines = [cosine(image[row], other) for other in report]
        hit = int(answers.first[row])
        first = [other for other in range(len(sets)) if cosines[other] == max(cosines)]
        least = min(jaccard(sets[row], sets[other]) for other in first)
        assert cosines[hit] == max(cosines)
        assert jaccard(sets[row], sets[hit]) == least


def test_a_long_tie_is_ranked_as_one_however_many_candidates_it_has():
    """Equal embeddings: the ten candidates of least gain come first, of 300."""
    sets = [attributes.of_labels(["Edema"] if row % 3 else []) for row in range(300)]
    pool = AttributePool.of(sets)
    same = torch.nn.functional.normalize(torch.ones(300, 4))
    answers = relevance.answer(same, same, pool)
    assert answers.ndcg.tolist() == [0.0] * 300
    assert answers.is_wrong.all()
    nearly = torch.tensor([[0.5 + 9e-7, 0.5, 0.4]])
    best = ndcg.best_first(nearly, torch.tensor([[1.0, 0.0, 0.0]]), 2)
    assert best.columns.tolist() == [[1, 0]]
    apart = torch.tensor([[0.5 + 2e-6, 0.5, 0.4]])
    best = ndcg.best_first(apart, torch.tensor([[1.0, 0.0, 0.0]]), 2)
    assert best.columns.tolist() == [[0, 1]]


@given(pairs_of_pool, st.integers(0, 99))
def test_errors_are_those_of_a_plain_comparison(label_sets, seed):
    sets = [attributes.of_labels(labels) for labels in label_sets]
    pool = AttributePool.of(sets)
    hits = np.random.default_rng(seed).integers(len(sets), size=len(sets))
    found = first_hit.errors(pool, torch.tensor(hits))
    for column, finding in enumerate(first_hit.finding_names(pool)):
        for row, hit in enumerate(hits.tolist()):
            query = {name for name in sets[row] if name.finding == finding}
            other = {name for name in sets[hit] if name.finding == finding}
            plain = {
                "omitted": (bool(query) and not other, bool(query)),
                "added": (bool(other) and not query, bool(other)),
            }
            for kind in ("side", "zone", "severity"):
                of_query = {name.value for name in query if name.kind == kind}
                of_hit = {name.value for name in other if name.kind == kind}
                both = bool(of_query and of_hit)
                plain[f"wrong_{kind}"] = (both and of_query != of_hit, both)
            for name, expected in plain.items():
                is_made, can_be_made = found[name]
                assert (bool(is_made[row, column]), bool(can_be_made[row, column])) == expected


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 5)), min_size=1))
def test_answering_is_measured_as_by_hand(queries):
    wrong = torch.tensor([query[0] for query in queries])
    confidence = torch.tensor([float(query[1]) for query in queries])
    without = torch.tensor([float(query[2]) for query in queries])
    weights = torch.ones(1, len(queries))
    order = answering.answering_order(wrong, confidence)
    most_confident_first = sorted(queries, key=lambda query: (-query[1], not query[0]))
    risks = []
    for answered in range(1, len(queries) + 1):
        risks.append(np.mean([query[0] for query in most_confident_first[:answered]]))
    assert answering.risks(wrong, order, weights)[0].tolist() == pytest.approx(risks)
    area = answering.risk_areas(wrong, order, weights)
    assert float(area) == pytest.approx(np.mean(risks))

    truth = [1] * len(queries) + [0] * len(queries)
    scores = [query[1] for query in queries] + [query[2] for query in queries]
    auroc = answering.match_aurocs(confidence, without, weights)
    assert float(auroc) == pytest.approx(roc_auc_score(truth, scores))
    # A query that counts twice is one that is there twice.
    counts = torch.tensor([[1.0 + row % 3 for row in range(len(queries))]])
    repeated = [*range(len(queries))] + [r for r in range(len(queries)) for _ in range(r % 3)]
    auroc = answering.match_aurocs(confidence, without, counts)
    scores = [queries[r][1] for r in repeated] + [queries[r][2] for r in repeated]
    truth = [1] * len(repeated) + [0] * len(repeated)
    assert float(auroc) == pytest.approx(roc_auc_score(truth, scores))


@given(st.lists(st.sets(st.sampled_from(LABELS), max_size=2), min_size=1, max_size=5))
@settings(max_examples=20, deadline=None)
def test_chance_is_the_mean_over_all_rankings(label_sets):
    sets = [attributes.of_labels(labels) for labels in label_sets]
    bound = relevance.chance(AttributePool.of(sets))
    for row, own in enumerate(sets):
        gains = [jaccard(own, other) for other in sets]
        ideal = plain_dcg(sorted(gains, reverse=True))
        mean = np.mean([plain_dcg(order) for order in permutations(gains)]) / ideal
        assert float(bound.ndcg[row]) == pytest.approx(mean)
        gains.pop(row)
        ideal = plain_dcg(sorted(gains, reverse=True))
        mean = np.mean([plain_dcg(order) for order in permutations(gains)])
        expected = mean / ideal if ideal else np.nan
        assert float(bound.ndcg_without_partner[row]) == pytest.approx(expected, nan_ok=True)


def test_chance_of_a_wrong_answer_is_that_of_random_draws():
    sets = [attributes.of_labels(["Edema"] if row < 3 else ["Nodule"]) for row in range(30)]
    risk = answering.chance_of_wrong(AttributePool.of(sets))
    rng = np.random.default_rng(0)
    wrong = [not (rng.choice(30, 10, replace=False) < 3).any() for _ in range(4000)]
    assert float(risk[0]) == pytest.approx(np.mean(wrong), abs=0.03)
    assert float(risk[29]) == 0.0  # only three pairs are no match


@pytest.fixture(scope="module")
def evaluated():
    """A pool of 60 pairs of 20 patients, its evaluation and its bounds."""
    rng = np.random.default_rng(1)
    label_sets = [rng.choice(LABELS, rng.integers(0, 3), replace=False) for _ in range(60)]
    sets = [attributes.of_labels(labels) for labels in label_sets]
    image = rng.standard_normal((60, 8))
    report = image + rng.standard_normal((60, 8))
    patients = [row // 3 for row in range(60)]
    found = relevance.evaluate(image, report, sets, patients, draws=200)
    bounds = relevance.bounds(sets, patients, draws=200)
    return {"model": found, **bounds}, (image, report, sets, patients)


def test_rsum_is_the_sum_of_the_six_recalls(evaluated):
    found, (image, report, sets, patients) = evaluated
    recall = retrieval.evaluate(image, report, patients=patients, labels=sets, draws=10)
    six = [recall[direction]["pair"][k]["value"] for direction in DIRECTIONS for k in RECALLS]
    rsum = found["model"]["both"]["RSUM"]
    assert rsum["value"] == pytest.approx(sum(six))
    assert rsum["low"] < rsum["value"] < rsum["high"]
    chance = found["chance"]["both"]["RSUM"]["value"]
    assert chance == pytest.approx(2 * sum(recall["chance"].values()))
    oracle = found["oracle"]["both"]["RSUM"]["value"]
    assert oracle == pytest.approx(2 * sum(retrieval.label_ceiling(sets).values()))


def test_measures_over_pairs_with_a_finding_leave_the_others_out_and_keep_the_pool(evaluated):
    found, (image, report, sets, _) = evaluated
    normal = sum(not own for own in sets)
    both = found["model"]["both"]
    for name in ("RSUM", "nDCG@10", "nDCG@10_without_partner"):
        assert both[f"{name}_with_finding"]["left_out"] == normal > 0
    has_finding = [bool(own) for own in sets]
    hits = []
    for queries, candidates in ((image, report), (report, image)):
        ranks = retrieval.ranks(queries, candidates, range(60), range(60))
        hits += [np.mean(ranks[has_finding] <= k) for k in (1, 5, 10)]
    assert both["RSUM_with_finding"]["value"] == pytest.approx(sum(hits))


def test_every_measure_is_a_block_within_its_interval(evaluated):
    found, _ = evaluated
    json.dumps(found, allow_nan=False)
    for directions in found.values():
        assert set(directions) == {*DIRECTIONS, "both"}
        for measures in directions.values():
            for block in measures.values():
                assert block["low"] - 1e-9 <= block["value"] <= block["high"] + 1e-9
                assert {"value", "low", "high", "left_out"} <= set(block)
    one_way = found["model"]["image_to_report"]
    for error in first_hit.ERRORS:
        assert set(one_way[error]["by_finding"]) == {"Nodule", "Edema", "Cardiomegaly"}
    curve = one_way["AURC"]
    assert curve["coverage"][-1] == 1 and len(curve["coverage"]) == len(curve["risk"])
    assert curve["risk"][-1] == pytest.approx(one_way["risk"]["value"])
    assert found["chance"]["both"]["nDCG@10"]["value"] < found["oracle"]["both"]["nDCG@10"]["value"]
    assert found["oracle"]["both"]["nDCG@10"]["value"] == pytest.approx(1)


def test_intervals_come_from_whole_patients():
    """Pairs of one patient are drawn together: a pool of two patients has three outcomes."""
    sets = [attributes.of_labels(["Edema"])] * 10
    image = np.eye(10)
    report = np.vstack([np.eye(10)[:5], -np.eye(10)[5:]])  # only the first five are found
    found = relevance.evaluate(image, report, sets, ["a"] * 5 + ["b"] * 5, draws=50)
    rsum = found["both"]["RSUM"]
    assert (rsum["low"], rsum["high"]) == (2.0, 6.0)  # of the second five, all are within 10
    one = relevance.evaluate(image, report, sets, ["a"] * 10, draws=50)["both"]["RSUM"]
    assert one["low"] == one["value"] == one["high"]


def test_small_and_plain_pools_have_defined_measures():
    one = relevance.evaluate([[1.0, 0.0]], [[1.0, 0.0]], [attributes.of_labels(["Edema"])])
    assert one["both"]["RSUM"]["value"] == 6
    assert one["both"]["nDCG@10"]["value"] == 1
    lonely = one["image_to_report"]["nDCG@10_without_partner"]
    assert lonely == {"value": None, "low": None, "high": None, "left_out": 1}
    assert one["image_to_report"]["match_AUROC_by_margin"]["left_out"] == 1

    rng = np.random.default_rng(0)
    image, report = rng.standard_normal((2, 12, 4))
    normal = [frozenset()] * 12
    found = relevance.evaluate(image, report, normal)
    assert found["both"]["nDCG@10_without_partner"]["value"] == 1
    assert found["both"]["RSUM_with_finding"]["value"] is None
    assert found["image_to_report"]["AURC"]["value"] == 0
    assert found["image_to_report"]["match_AUROC_by_score"]["value"] is None
    assert found["image_to_report"]["omitted"]["by_finding"] == {}
    assert found["image_to_report"]["omitted"]["value"] == 0
    json.dumps(
        [one, found, relevance.bounds(normal), relevance.bounds(normal[:1])], allow_nan=False
    )

    unlabelled = relevance.evaluate(image, report)
    assert unlabelled == {"both": {"RSUM": found["both"]["RSUM"]}}


def test_what_cannot_be_evaluated_is_refused_in_one_sentence():
    image = np.eye(3)
    with pytest.raises(ValueError, match="a set for each of the 3 pairs: got 2"):
        relevance.evaluate(image, image, [frozenset()] * 2)
    with pytest.raises(ValueError, match="NaN or infinity in row 1"):
        relevance.evaluate(np.array([[1.0], [np.nan]]), image[:2, :1], [frozenset()] * 2)
    with pytest.raises(ValueError, match="no pairs"):
        relevance.bounds([])
