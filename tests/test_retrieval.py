import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from mcrlib import tables
from mcrlib.evaluation import retrieval

DIRECTIONS = ("image_to_report", "report_to_image")


def cosines(queries, candidates):
    """The whole matrix, in double precision; a row of zeros has similarity 0."""

    def unit(rows):
        rows = np.asarray(rows, float)
        norm = np.linalg.norm(rows, axis=1, keepdims=True)
        return np.divide(rows, norm, out=np.zeros_like(rows), where=norm > 0)

    return unit(queries) @ unit(candidates).T


def plain_ranks(queries, candidates, query_group, candidate_group):
    """1 + the non-positives whose similarity is at least the best positive's minus 1e-6."""
    ranks = []
    for row, own in zip(cosines(queries, candidates), query_group, strict=True):
        positives = []
        others = []
        for cosine, group in zip(row, candidate_group, strict=True):
            if group == own:
                positives.append(cosine)
            else:
                others.append(cosine)
        threshold = max(positives) - 1e-6
        ahead = [cosine for cosine in others if cosine >= threshold]
        ranks.append(1 + len(ahead))
    return ranks


def plain_label_scores(queries, candidates, labels, ks):
    """Means over the queries; equal scores put the candidates that are not relevant first."""
    precisions = {k: [] for k in ks}
    average_precisions = []
    chances = []
    for own, row in zip(labels, cosines(queries, candidates), strict=True):
        relevant = []
        for other in labels:
            shares_a_label = bool(set(own) & set(other))
            both_empty = not own and not other
            relevant.append(shares_a_label or both_empty)
        order = sorted(range(len(row)), key=lambda j: (-round(row[j], 5), relevant[j]))
        is_hit = [relevant[j] for j in order]
        for k in ks:
            precisions[k].append(np.mean(is_hit[:k]))
        chances.append(np.mean(is_hit))
        hit_ranks = [rank for rank, hit in enumerate(is_hit, start=1) if hit]
        precisions_at_hits = [sum(is_hit[:rank]) / rank for rank in hit_ranks]
        average_precisions.append(np.mean(precisions_at_hits))
    scores = {f"precision@{k}": np.mean(precisions[k]) for k in ks}
    scores["mAP"] = np.mean(average_precisions)
    scores["chance"] = np.mean(chances)
    return scores


@st.composite
def pools(draw):
    """Whole-numbered embeddings, so that ties, duplicates and rows of zeros are common."""
    n = draw(st.integers(1, 12))
    width = draw(st.integers(1, 3))
    row = st.lists(st.integers(-2, 2), min_size=width, max_size=width)
    rows = st.lists(row, min_size=n, max_size=n)
    groups = draw(st.lists(st.integers(0, 4), min_size=n, max_size=n))
    return draw(rows), draw(rows), groups


@given(pools(), st.integers(1, 12), st.randoms())
@settings(max_examples=150, deadline=None)
def test_ranks_equal_a_full_matrix_loop(pool, queries, random):
    image, report, groups = pool
    chosen = [random.randrange(len(groups)) for _ in range(queries)]
    rows = [image[i] for i in chosen]
    own = [groups[i] for i in chosen]
    ranks = retrieval.ranks(rows, report, own, groups)
    assert ranks.dtype == np.int64
    assert ranks.tolist() == plain_ranks(rows, report, own, groups)


@pytest.mark.parametrize("block", [1, 7, 64, 10_000])
def test_the_size_of_a_block_changes_nothing(monkeypatch, block):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(37, 5))
    report = rng.normal(size=(37, 5))
    groups = np.arange(37) // 2
    expected = plain_ranks(image, report, groups, groups)
    monkeypatch.setattr(retrieval, "BLOCK", block)
    assert retrieval.ranks(image, report, groups, groups).tolist() == expected


class Largest(TorchDispatchMode):
    """Remembers the size of the largest tensor that any operation returned, and of the largest in
    double precision."""

    numbers = 0
    doubles = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if torch.is_tensor(result):
            self.numbers = max(self.numbers, result.numel())
            if result.dtype == torch.float64:
                self.doubles = max(self.doubles, result.numel())
        return result


def test_no_tensor_is_larger_than_a_block(monkeypatch):
    monkeypatch.setattr(retrieval, "BLOCK", 4000)
    rows = np.random.default_rng(0).normal(size=(600, 3))
    with Largest() as largest:
        retrieval.ranks(rows, rows, range(600), range(600))
    assert 600 * 3 <= largest.numbers <= 4000


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
def test_no_matrix_is_copied_in_double_precision(monkeypatch, kind):
    monkeypatch.setattr(retrieval, "BLOCK", 4000)
    rows = kind(np.random.default_rng(0).normal(size=(600, 30)).astype(np.float32))
    labels = [[i % 7, i % 5] for i in range(600)]
    with Largest() as largest:
        retrieval.evaluate(rows, rows, labels=labels, draws=20)
    assert 0 < largest.doubles <= 4000


@pytest.mark.parametrize("rows_in_a_block", [1, 3, 40])
def test_unit_rows_do_not_depend_on_how_numbers_are_held(monkeypatch, rows_in_a_block):
    monkeypatch.setattr(retrieval, "BLOCK", 4 * rows_in_a_block)
    rows = np.random.default_rng(0).integers(-9, 9, size=(20, 4))
    rows[3] = 0
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    expected = rows / np.where(norms, norms, 1)
    as_read = rows.astype(np.float32)
    as_read.setflags(write=False)
    held = [rows, rows.tolist(), rows.astype(np.float16), rows.astype(">f8"), as_read]
    held += [np.asfortranarray(rows), rows.astype(np.longdouble), rows.astype(object)]
    held += [torch.tensor(rows), torch.tensor(rows, dtype=torch.bfloat16)]
    for matrix in held:
        unit = retrieval._unit_rows(matrix, "rows")
        assert unit.dtype == torch.float32
        assert unit.numpy() == pytest.approx(expected, abs=1e-7)
    spoiled = rows.astype(float)
    spoiled[17, 2] = np.nan
    with pytest.raises(ValueError, match="hold NaN or infinity in row 17"):
        retrieval._unit_rows(spoiled, "rows")


def test_equal_embeddings_score_nothing():
    same = np.ones((30, 4))
    assert retrieval.ranks(same, same, range(30), range(30)).tolist() == [30] * 30
    result = retrieval.evaluate(same, same, texts=["normal"] * 20 + list("abcdefghij"))
    for way in DIRECTIONS:
        assert result[way]["pair"]["R@10"] == {"value": 0.0, "low": 0.0, "high": 0.0}
        assert result[way]["report"]["R@10"]["value"] == 0.0  # 11 and 30 are the ranks
        assert result[way]["report"]["mean_rank"]["value"] == pytest.approx(
            (20 * 11 + 10 * 30) / 30
        )


@pytest.mark.parametrize(("lower_by", "rank"), [(-1e-4, 2), (0, 2), (5e-7, 2), (3e-6, 1)])
def test_scores_within_a_millionth_are_equal(lower_by, rank):
    def unit_row(cosine):
        return [cosine, np.sqrt(1 - cosine**2)]

    candidates = [unit_row(0.5), unit_row(0.5 - lower_by)]
    assert retrieval.ranks([[1, 0]], candidates, ["own"], ["own", "other"]).tolist() == [rank]


def test_length_type_and_kind_of_group_do_not_matter():
    rng = np.random.default_rng(1)
    image = rng.normal(size=(40, 8))
    report = rng.normal(size=(40, 8))
    groups = np.arange(40) // 3
    expected = plain_ranks(image, report, groups, groups)
    scaled = image * np.geomspace(1e-30, 1e30, 40)[:, None]
    names = [f"report {group}" for group in groups]
    tensors = [torch.tensor(rows, requires_grad=True) for rows in (image, report)]
    assert retrieval.ranks(scaled, report.tolist(), groups, groups).tolist() == expected
    assert retrieval.ranks(*tensors, torch.tensor(groups), groups).tolist() == expected
    assert retrieval.ranks(image, report, names, np.array(names)).tolist() == expected
    half = image.astype(np.float16)
    assert retrieval.ranks(half, report, groups, groups).tolist() == plain_ranks(
        half, report, groups, groups
    )


def test_autocast_and_reduced_precision_do_not_blur_ties():
    rows = torch.randn(200, 64, generator=torch.Generator().manual_seed(0))
    near = rows + 0.5 * torch.randn(200, 64, generator=torch.Generator().manual_seed(1))
    expected = plain_ranks(rows, near, range(200), range(200))
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            assert retrieval.ranks(rows, near, range(200), range(200)).tolist() == expected
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": [[1.0, np.nan]] * 3}, "queries hold NaN or infinity in row 0"),
        ({"candidates": [[1.0, 1.0], [1.0, np.inf], [1.0, 0.0]]}, "candidates hold .* in row 1"),
        ({"queries": [1.0, 2.0, 3.0]}, r"queries must be a matrix.*\[3\]"),
        ({"queries": np.ones((3, 5))}, r"same number of columns: got \[3, 5\] and \[3, 2\]"),
        ({"query_group": [0, 1]}, "query_group must have .* each of the 3 rows"),
        ({"candidate_group": [0, 1, None]}, "candidate_group must have .* not None"),
        ({"query_group": [0, 1, 7]}, "query 2 has no positive"),
        ({"candidates": np.ones((0, 2)), "candidate_group": []}, "query 0 has no positive"),
    ],
)
def test_bad_input_is_one_clear_sentence(change, message):
    good = {"queries": np.ones((3, 2)), "query_group": [0, 1, 2]}
    good |= {"candidates": np.ones((3, 2)), "candidate_group": [0, 1, 2]}
    with pytest.raises(ValueError, match=message) as error:
        retrieval.ranks(**good | change)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.ones((0, 2)), "report": np.ones((0, 2))}, "N > 0 pairs"),
        ({"report": np.ones((2, 2))}, r"got \[3, 2\] and \[2, 2\]"),
        ({"report": np.full((3, 2), np.nan)}, "report hold NaN"),
        ({"texts": ["a", "b"]}, "texts must have an entry"),
        ({"texts": ["a", "b", float("nan")]}, "a report must be text, got nan"),
        ({"patients": [1, 2, None]}, "patients must have an entry"),
        ({"labels": [["a"], None, []]}, "labels must have an entry"),
        ({"labels": ["Edema", "Mass", ""]}, "a list of labels for each row: row 0 has 'Edema'"),
        ({"labels": [["a"], [], float("nan")]}, "row 2 has nan"),
        ({"labels": [["a"], [], [["b"]]]}, "labels must hold a list of labels"),
        ({"labels": "abc"}, "labels must be a list .* got a str"),
        ({"labels": 3}, "labels must be a list .* got 3"),
        ({"texts": "abc"}, "texts must be a list .* got a str"),
        ({"patients": "abc"}, "patients must be a list .* got a str"),
        ({"patients": [[1], [2], [3]]}, r"numbers or texts: got \[1\]"),
        ({"image": "abc"}, "image must be a matrix of numbers"),
        ({"image": [[1.0], [1.0, 2.0], [3.0]]}, "rows of equal length"),
        ({"ks": ()}, r"ks must be a list of whole numbers from 1, .* got \(\)"),
        ({"ks": (0, 5)}, "ks must be a list"),
        ({"ks": 10}, "ks must be a list .* got 10"),
        ({"ks": "10"}, "ks must be a list"),
        ({"ks": (1.5,)}, "ks must be a list"),
        ({"draws": 0}, "draws must be a whole number of at least 1: got 0"),
        ({"seed": -1}, "seed must be a whole number of at least 0"),
    ],
)
def test_evaluate_refuses_bad_input_in_one_clear_sentence(change, message):
    with pytest.raises(ValueError, match=message) as error:
        retrieval.evaluate(**{"image": np.ones((3, 2)), "report": np.ones((3, 2))} | change)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change", [{"labels": ["a"] * 1500}, {"texts": "a"}, {"patients": "p"}, {"ks": []}]
)
def test_evaluate_checks_everything_before_it_computes(monkeypatch, change):
    monkeypatch.setattr(retrieval, "_ranks", lambda *_: pytest.fail("computed before checking"))
    rows = np.random.default_rng(0).normal(size=(1500, 4))
    with pytest.raises(ValueError, match="must"):
        retrieval.evaluate(rows, rows, **change)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: retrieval.ranks(np.eye(3), np.eye(3), "abc", range(3)), "query_group must be"),
        (lambda: retrieval.hits(np.eye(3), np.eye(3), 0), "k must be a whole number of at least 1"),
        (lambda: retrieval.hits(np.eye(3), np.eye(3), 2.0), "k must be a whole number"),
        (lambda: retrieval.recall_at([1, 2], ks=()), "ks must be a list"),
        (lambda: retrieval.label_ceiling([["a"]], ks=[]), "ks must be a list"),
        (lambda: retrieval.label_ceiling([]), "there are no labels"),
        (lambda: retrieval.label_ceiling(["Edema"]), "row 0 has 'Edema'"),
        (lambda: retrieval.verdicts({}, []), "there are no ranks to compare"),
        (lambda: retrieval.compare_ranks(*[np.ones((1, 2, 3))] * 2, "abc"), "patients must be"),
        (lambda: retrieval.compare_ranks(*[np.ones((1, 2, 3))] * 2, range(3), k=0), "k must be"),
        (lambda: retrieval.compare_ranks(*[np.ones((1, 2, 3))] * 2, range(3), draws=0), "draws"),
    ],
)
def test_what_is_not_there_is_named(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


@given(pools(), st.integers(1, 14))
@settings(max_examples=60, deadline=None)
def test_hits_are_the_best_candidates_in_order(pool, k):
    image, report, _ = pool
    hits = retrieval.hits(image, report, k)
    for way, sides in zip(DIRECTIONS, ((image, report), (report, image)), strict=True):
        best = hits[way]
        expected = cosines(*sides)
        descending = -np.sort(-expected, axis=1)
        assert best.cosines == pytest.approx(descending[:, :k], abs=1e-6)
        of_rows = np.take_along_axis(expected, best.rows, axis=1)
        assert of_rows == pytest.approx(best.cosines, abs=1e-6)
        assert all(len(set(row)) == min(k, len(image)) for row in best.rows.tolist())


def test_hits_refuse_images_and_reports_that_are_no_pairs():
    with pytest.raises(ValueError, match="same N > 0 pairs"):
        retrieval.hits(np.ones((3, 2)), np.ones((2, 2)))


def test_recall_at_counts_ranks_up_to_k():
    assert retrieval.recall_at([1, 1, 2, 11], ks=(1, 2, 10)) == {1: 0.5, 2: 0.75, 10: 0.75}
    assert retrieval.recall_at(torch.tensor([6]))[5] == 0.0
    with pytest.raises(ValueError, match="no ranks"):
        retrieval.recall_at([])


@given(pools())
@settings(max_examples=60, deadline=None)
def test_evaluate_equals_the_loops_in_both_directions(pool):
    image, report, groups = pool
    spellings = ("No  acute\nfinding.", "no acute FINDING. ")
    texts = [spellings[i % 2] * (group + 1) for i, group in enumerate(groups)]
    labels = [[str(group), "shared"] if group % 2 else [] for group in groups]
    result = retrieval.evaluate(image, report, texts, labels=labels, ks=(1, 3), draws=20)
    assert result["pool"] == len(groups) and result["resampled"] == "pairs"
    json.dumps(result, allow_nan=False)
    for way, sides in zip(DIRECTIONS, ((image, report), (report, image)), strict=True):
        policies = {
            "pair": range(len(groups)),
            "report": [" ".join(t.lower().split()) for t in texts],
        }
        for policy, own in policies.items():
            ranks = np.array(plain_ranks(*sides, own, own))
            values = {name: cell["value"] for name, cell in result[way][policy].items()}
            assert values == pytest.approx(
                {
                    "R@1": np.mean(ranks <= 1),
                    "R@3": np.mean(ranks <= 3),
                    "median_rank": np.median(ranks),
                    "mean_rank": np.mean(ranks),
                }
            )
        assert result["labels"][way] == pytest.approx(plain_label_scores(*sides, labels, (1, 3)))


def test_a_pool_of_one():
    result = retrieval.evaluate([[1.0, 2.0]], [[3.0, -1.0]], [""], ["p"], [[]])
    assert result["chance"] == {"R@1": 1.0, "R@5": 1.0, "R@10": 1.0}
    for way in DIRECTIONS:
        assert result[way]["report"]["R@1"] == {"value": 1.0, "low": 1.0, "high": 1.0}
        assert result["labels"][way]["mAP"] == 1.0
    assert "chunks_1000" not in result


def test_without_texts_there_is_no_report_policy():
    assert set(retrieval.evaluate(np.eye(3), np.eye(3))["image_to_report"]) == {"pair"}


@given(st.lists(st.integers(1, 30), min_size=1, max_size=15), st.data())
@settings(max_examples=60, deadline=None)
def test_weighted_statistics_equal_those_of_repeated_ranks(ranks, data):
    weight = st.integers(0, 3)
    weights = data.draw(st.lists(weight, min_size=len(ranks), max_size=len(ranks)).filter(any))
    weight_row = torch.tensor([weights]).float()
    statistics = retrieval._statistics(torch.tensor([ranks]), weight_row, (1, 10))
    drawn = np.repeat(ranks, weights)
    expected = [np.mean(drawn <= 1), np.mean(drawn <= 10), np.median(drawn), np.mean(drawn)]
    assert statistics[0, 0].tolist() == pytest.approx(expected)


def noisy_pairs(n, noise=1.5, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(n, 16))
    return image, image + noise * rng.normal(size=(n, 16))


def test_interval_of_independent_pairs_is_the_binomial_one():
    cell = retrieval.evaluate(*noisy_pairs(800))["image_to_report"]["pair"]["R@5"]
    assert 0.2 < cell["value"] < 0.8
    half = 1.96 * np.sqrt(cell["value"] * (1 - cell["value"]) / 800)
    assert cell["low"] == pytest.approx(cell["value"] - half, abs=0.15 * half)
    assert cell["high"] == pytest.approx(cell["value"] + half, abs=0.15 * half)


def test_interval_grows_when_a_patient_has_several_pairs():
    image, report = noisy_pairs(400)
    # Each pair four times: four queries a patient that succeed or fail together.
    image = np.repeat(image, 4, 0)
    report = np.repeat(report, 4, 0)
    texts = [str(pair // 4) for pair in range(1600)]
    by_pair = retrieval.evaluate(image, report, texts)
    by_patient = retrieval.evaluate(image, report, texts, patients=texts)
    assert by_patient["resampled"] == "patients"
    one = by_pair["image_to_report"]["report"]["R@5"]
    four = by_patient["image_to_report"]["report"]["R@5"]
    assert one["value"] == four["value"]
    ratio = (four["high"] - four["low"]) / (one["high"] - one["low"])
    assert ratio == pytest.approx(2, rel=0.15)


def test_one_patient_has_no_interval_and_seeds_repeat():
    image, report = noisy_pairs(50)
    cell = retrieval.evaluate(image, report, patients=["p"] * 50)["image_to_report"]["pair"]["R@5"]
    assert cell["low"] == cell["value"] == cell["high"]
    first = retrieval.evaluate(image, report, seed=3)
    again = retrieval.evaluate(image, report, seed=3)
    other = retrieval.evaluate(image, report, seed=4)
    assert first == again != other


def test_chunks_are_consecutive_thousands_of_a_seeded_permutation():
    image, report = noisy_pairs(2300, noise=2.0)
    texts = [str(i // 3) for i in range(2300)]
    result = retrieval.evaluate(image, report, texts, draws=2, seed=5)["chunks_1000"]
    order = np.random.default_rng(5).permutation(2300)
    chunks = [order[:1000], order[1000:2000]]
    policies = {"pair": np.arange(2300), "report": np.arange(2300) // 3}
    for way, sides in zip(DIRECTIONS, ((image, report), (report, image)), strict=True):
        queries, candidates = sides
        for policy, groups in policies.items():
            recalls = []
            for rows in chunks:
                own = groups[rows]
                ranks = retrieval.ranks(queries[rows], candidates[rows], own, own)
                recalls.append(retrieval.recall_at(ranks)[10])
            assert result[way][policy]["R@10"] == pytest.approx(np.mean(recalls))


def plain_comparison(a, b, patients, draws, seed):
    rng = np.random.default_rng(seed)
    people = sorted(set(patients))
    pairs_of = {person: [] for person in people}
    for pair, person in enumerate(patients):
        pairs_of[person].append(pair)
    samples = []
    for _ in range(draws):
        drawn = []
        for person in rng.choice(people, len(people)):
            drawn += pairs_of[person]
        seeds = rng.integers(len(a), size=len(a))
        gain = [(a[s][:, drawn] <= 10).mean() - (b[s][:, drawn] <= 10).mean() for s in seeds]
        samples.append(np.mean(gain))
    return np.quantile(samples, 0.025), np.quantile(samples, 0.975), np.std(samples)


def test_comparison_equals_a_plain_bootstrap_over_seeds_and_patients():
    rng = np.random.default_rng(0)
    patients = rng.integers(60, size=300).tolist()
    b = rng.integers(1, 40, size=(3, 2, 300))
    a = np.maximum(1, b - rng.integers(0, 8, size=b.shape) * np.array([0, 1, 2])[:, None, None])
    result = retrieval.compare_ranks(a, b, patients)
    low, high, deviation = plain_comparison(a, b, patients, 3000, seed=1)
    assert result["difference"] == pytest.approx((a <= 10).mean() - (b <= 10).mean())
    assert result["a"] - result["b"] == pytest.approx(result["difference"])
    assert [result["low"], result["high"]] == pytest.approx([low, high], abs=0.1 * (high - low))
    assert result["detectable"] == pytest.approx(2.802 * deviation, rel=0.1)


@pytest.mark.parametrize(
    ("n_patients", "reason"),
    [
        (1, "all pairs are of one patient, and fewer than 6 decide nothing"),
        (5, "all pairs are of 5 patients, and fewer than 6 decide nothing"),
        (6, "no pair differs, and 6 patients exclude no loss"),
        (149, "no pair differs, and 149 patients exclude no loss"),
        (150, None),
    ],
)
def test_few_patients_who_show_no_difference_decide_nothing(n_patients, reason):
    ranks = np.tile([1, 20], 150).reshape(1, 2, 150)
    patients = np.arange(150) % n_patients
    compared = retrieval.compare_ranks(ranks, ranks, patients)
    assert compared.get("undecided") == reason
    assert compared["no_loss"] is (True if reason is None else None)
    assert compared["detectable"] == (0.02 if reason is None else None)


def test_two_patients_who_agree_are_no_evidence():
    found, missed = np.ones((1, 2, 2)), np.full((1, 2, 2), 2)
    assert "2 patients" in retrieval.compare_ranks(found, missed, range(2), k=1)["undecided"]


def test_comparison_knows_a_clear_win_a_clear_loss_and_no_difference():
    rng = np.random.default_rng(0)
    b = rng.integers(1, 40, size=(2, 2, 200))
    a = np.where(rng.random(b.shape) < 0.3, 1, b)
    win = retrieval.compare_ranks(a, b, range(200))
    loss = retrieval.compare_ranks(b, a, range(200))
    none = retrieval.compare_ranks(b, b, range(200))
    assert win["low"] > 0 and win["p"] < 0.001 and win["no_loss"]
    assert loss["high"] < 0 and loss["p"] < 0.001 and not loss["no_loss"]
    assert (none["difference"], none["p"], none["no_loss"]) == (0.0, 1.0, True)
    with pytest.raises(ValueError, match="same seeds and pairs"):
        retrieval.compare_ranks(a, b[:1], range(200))


def test_the_rsum_of_two_variants_is_compared_pair_by_pair():
    rng = np.random.default_rng(0)
    patients = rng.integers(40, size=200).tolist()
    b = rng.integers(1, 40, size=(2, 2, 200))
    a = np.where(rng.random(b.shape) < 0.2, 1, b)
    result = retrieval.compare_rsum(a, b, patients)
    recalls = {"a": 0.0, "b": 0.0}
    for k in (1, 5, 10):
        single = retrieval.compare_ranks(a, b, patients, k)
        for name in recalls:
            recalls[name] += 2 * single[name]
    assert (result["a"], result["b"]) == pytest.approx((recalls["a"], recalls["b"]))
    assert result["difference"] == pytest.approx(recalls["a"] - recalls["b"])
    assert result["low"] > 0 and result["p"] < 0.001 and result["no_loss"]

    # Two points a recall may be lost, -0.12 of RSUM, whatever the other recalls do.
    ranks = np.full((1, 2, 1000), 100)
    ranks[..., :500] = 1
    for lost, no_loss in ((5, True), (40, False)):
        worse = ranks.copy()
        worse[..., :lost] = 100
        found = retrieval.compare_rsum(worse, ranks, range(1000))
        assert found["difference"] == pytest.approx(-6 * lost / 1000)
        assert found["no_loss"] is no_loss
    same = retrieval.compare_rsum(np.ones((1, 2, 9)), np.ones((1, 2, 9)), range(9))
    assert same["no_loss"] is None and "all values of both are equal" in same["undecided"]
    one = retrieval.compare_rsum(a, b, ["one"] * 200)
    assert one["no_loss"] is None and "one patient" in one["undecided"]
    with pytest.raises(ValueError, match="same seeds and pairs"):
        retrieval.compare_rsum(a, b[:1], patients)


def test_any_measure_with_a_value_a_pair_is_compared_and_pairs_without_one_are_left_out():
    rng = np.random.default_rng(0)
    b = rng.random((2, 100))
    a = b + 0.1
    whole = retrieval.compare_values(a[:, :90], b[:, :90], range(90))
    a[:, 90:] = np.nan
    b[:, 90:] = np.nan
    assert retrieval.compare_values(a, b, range(100)) == whole
    assert whole["difference"] == pytest.approx(0.1)
    with pytest.raises(ValueError, match=r"missing .* for the same pairs in both"):
        retrieval.compare_values(a, np.ones((2, 100)), range(100))
    with pytest.raises(ValueError, match=r"values must be \[seeds, N\]"):
        retrieval.compare_values(a, b[:1], range(100))


def test_holm_is_the_textbook_correction():
    assert retrieval.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert retrieval.holm([0.9, 0.8]) == [1.0, 1.0]
    assert retrieval.holm([]) == []


def test_verdicts_compare_the_seeds_that_two_variants_share():
    rng = np.random.default_rng(0)

    def random_ranks(worst):
        return rng.integers(1, worst + 1, (2, 300))

    ranks = {
        "clip-seed0": random_ranks(worst=199),
        "mcr-seed0": random_ranks(worst=11),
        "mcr-seed1": random_ranks(worst=11),
        "dual-seed1": random_ranks(worst=11),
        "dual-seed0": random_ranks(worst=11),
        "theirs-seed0": random_ranks(worst=11),
        "abm-seed5": random_ranks(worst=11),
    }
    patients = np.arange(300) // 3
    records = retrieval.verdicts(ranks, patients, draws=500)
    by_variant = {record["variants"][1]: record for record in records}
    assert {name: record["seeds"] for name, record in by_variant.items()} == {
        "clip": 1, "dual": 2, "theirs": 1, "abm": 0,
    }  # fmt: skip
    assert [name for name, record in by_variant.items() if record["primary"]] == ["dual"]
    assert "p" not in by_variant["abm"] and "verdict" not in by_variant["abm"]
    mcr = np.array([ranks["mcr-seed0"], ranks["mcr-seed1"]])
    dual = np.array([ranks["dual-seed0"], ranks["dual-seed1"]])
    expected = retrieval.compare_ranks(mcr, dual, patients, draws=500)
    assert by_variant["dual"] == by_variant["dual"] | expected  # the primary one is not corrected
    uncorrected = []
    for name in ("clip-seed0", "theirs-seed0"):
        one_seed = retrieval.compare_ranks(mcr[:1], ranks[name][None], patients, draws=500)
        uncorrected.append(one_seed["p"])
    corrected = retrieval.holm(uncorrected)
    assert [by_variant["clip"]["p"], by_variant["theirs"]["p"]] == corrected
    assert by_variant["clip"]["verdict"] == "better"
    assert by_variant["theirs"]["verdict"] == "open"
    alone = {name: ranks[name] for name in ("dual-seed0", "clip-seed0")}
    (only,) = retrieval.verdicts(alone, patients, draws=500)
    assert only["variants"] == ["dual", "clip"] and not only["primary"]


@pytest.mark.parametrize(
    ("a", "b", "pairs", "reason"),
    [
        ([1, 7], [9, 2], 10, "a pool of 10 pairs has every rank within 10"),
        ([1, 7], [10, 2], 40, "all ranks of both are within 10"),
        ([11, 30], [40, 12], 40, "no rank of either is within 10"),
    ],
)
def test_there_is_no_verdict_where_nothing_can_differ(a, b, pairs, reason):
    ranks_a = np.resize(a, (1, 2, pairs))
    ranks_b = np.resize(b, (1, 2, pairs))
    result = retrieval.compare_ranks(ranks_a, ranks_b, range(pairs), draws=50)
    assert (result["no_loss"], result["detectable"]) == (None, None)
    rng = np.random.default_rng(0)
    ranks = {
        "mcr-seed0": ranks_a[0],
        "dual-seed0": ranks_b[0],
        "abm-seed0": ranks_b[0],
        "clip-seed0": np.where(rng.random((2, pairs)) < 0.5, 1, 39),
    }
    by_variant = {
        record["variants"][1]: record
        for record in retrieval.verdicts(ranks, range(pairs), draws=50)
    }
    for variant in ("dual", "abm"):
        assert by_variant[variant]["verdict"] == f"none: {reason}"
    json.dumps(list(by_variant.values()))
    (row,) = tables.verdict_table([by_variant["dual"]]).to_dict("records")
    assert row["verdict"] == f"none: {reason}"
    assert "no loss" not in row and "detectable" not in row
    if pairs > 10:  # the comparison that can be told is corrected for itself alone
        clip = retrieval.compare_ranks(ranks_a, ranks["clip-seed0"][None], range(pairs), draws=50)
        assert by_variant["clip"]["p"] == clip["p"]
        assert by_variant["clip"]["verdict"] in ("better", "worse", "open")


def test_the_k_that_tells_models_apart_is_below_half_of_the_pool():
    told = {pool: retrieval.telling_k(pool) for pool in (1, 2, 3, 10, 11, 15, 20, 21, 48, 500)}
    expected = {1: 1, 2: 1, 3: 1, 10: 1, 11: 5, 15: 5, 20: 5, 21: 10, 48: 10, 500: 10}
    assert told == expected
    with pytest.raises(ValueError, match="pool"):
        retrieval.telling_k(0)


def test_chance_stands_beside_the_recall_of_each_pool():
    image, report = noisy_pairs(1200)
    result = retrieval.evaluate(image, report, draws=2)
    assert result["chance"]["R@10"] == pytest.approx(10 / 1200)
    assert result["chunks_1000"]["chance"] == {"R@1": 0.001, "R@5": 0.005, "R@10": 0.01}


def test_label_ceiling_equals_a_simulated_oracle():
    labels = [["a"], ["a", "b"], ["b", "a"], [], [], [], ["c"]]
    rng = np.random.default_rng(0)
    sets = [frozenset(pair_labels) for pair_labels in labels]
    same_set = np.array([[own == other for other in sets] for own in sets])
    trials = []
    for _ in range(4000):
        noise = rng.random((7, 7)) * 0.5
        scores = noise + same_set
        trials.append([1 + (row > row[i]).sum() for i, row in enumerate(scores)])
    simulated = retrieval.recall_at(trials, ks=(1, 2, 3))
    assert retrieval.label_ceiling(labels, ks=(1, 2, 3)) == pytest.approx(simulated, abs=0.01)


def test_labels_may_be_numbers_of_classes():
    rows = np.random.default_rng(0).normal(size=(3, 4))
    by_number = retrieval.evaluate(rows, rows, labels=[[1], [2, 3], []], draws=5)
    by_name = retrieval.evaluate(rows, rows, labels=[["a"], ["b", "c"], []], draws=5)
    assert by_number == by_name


@pytest.mark.parametrize("matrix", [np.eye(3, dtype=int), torch.eye(3), pd.DataFrame(np.eye(3))])
def test_a_matrix_of_zeros_and_ones_is_no_list_of_labels(matrix):
    rows = np.eye(3)

    with pytest.raises(ValueError, match="not a matrix: of a table of 0 and 1, give the names"):
        retrieval.evaluate(rows, rows, labels=matrix)


def test_of_one_patient_there_is_no_verdict():
    """Its bootstrap draws are all the same, which would look like certainty."""
    ranks = {"mcr-seed0": np.full((2, 30), 1), "dual-seed0": np.full((2, 30), 20)}
    ranks["mcr-seed0"][:, ::2] = 20
    (record,) = retrieval.verdicts(ranks, ["one"] * 30)
    assert record["verdict"].startswith("none: all pairs are of one patient")
    assert record["no_loss"] is None and record["detectable"] is None
    (record,) = retrieval.verdicts(ranks, range(30))
    assert record["verdict"] == "better"
    image, report = np.random.default_rng(0).normal(size=(2, 30, 4))
    assert retrieval.evaluate(image, report, patients=["one"] * 30, draws=5)["units"] == 1
    assert retrieval.evaluate(image, report, draws=5)["units"] == 30


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.zeros((3, 2), int)}, "give the names of the columns that are 1"),
        ({"labels": [[True], [], []]}, "row 0 has True"),
        ({"labels": [["a"], [float("nan")], []]}, "row 1 has nan"),
        ({"patients": {1, 2, 3}}, "patients must be a list .* got a set"),
        ({"patients": [1, 2, float("nan")]}, "numbers or texts: got nan"),
        ({"image": np.full((3, 2), "1.0")}, "image must be a matrix of numbers"),
        ({"image": np.ones((3, 2), complex)}, "ndarray of complex128"),
        ({"image": np.ones((3, 0)), "report": np.ones((3, 0))}, "image must have columns"),
        ({"ks": (k for k in (1, 5))}, "ks must be a list"),
    ],
)
def test_evaluate_refuses_what_only_looks_right(change, message):
    with pytest.raises(ValueError, match=message) as error:
        retrieval.evaluate(**{"image": np.ones((3, 2)), "report": np.ones((3, 2))} | change)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "call",
    [
        lambda: retrieval.recall_at("123"),
        lambda: retrieval.recall_at(None),
        lambda: retrieval.recall_at(["1", "2"]),
        lambda: retrieval.recall_at([0, 1]),
        lambda: retrieval.recall_at([float("nan")]),
        lambda: retrieval.chance_recall((1,), 0),
        lambda: retrieval.chance_recall((1,), None),
        lambda: retrieval.holm("0.1"),
        lambda: retrieval.holm(None),
        lambda: retrieval.holm([2.0]),
        lambda: retrieval.verdicts([1], [1]),
    ],
)
def test_numbers_of_the_wrong_kind_are_refused_in_one_sentence(call):
    with pytest.raises(ValueError, match=r"must be|no ranks to compare") as error:
        call()
    assert "\n" not in str(error.value)


def test_ranks_may_come_from_a_generator():
    assert retrieval.recall_at(rank for rank in (1, 20)) == {1: 0.5, 5: 0.5, 10: 0.5}
