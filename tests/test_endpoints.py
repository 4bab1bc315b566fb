"""The two endpoints by which variants are compared, and the modality gap's comparison."""

import json

import numpy as np
import pytest

from mcrlib.evaluation import endpoints, relevance, retrieval
from mcrlib.evaluation.attributes import Attribute
from mcrlib.evaluation.modality_gap import gap_numbers
from mcrlib.evaluation.relevance import NDCG_WITHOUT_PARTNER, RSUM

FINDINGS = ("Mass", "Nodule", "Fracture")


def pool(pairs=60, seed=0):
    """Attributes of pairs; each pair shares its own with some others."""
    rng = np.random.default_rng(seed)
    return [frozenset({Attribute(FINDINGS[i])}) for i in rng.integers(len(FINDINGS), size=pairs)]


def embedded(pairs=60, noise=1.0, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.standard_normal((pairs, 6))
    return image, image + noise * rng.standard_normal(image.shape)


def test_the_means_over_pairs_are_the_measures_of_relevance():
    attributes = pool()
    image, report = embedded()
    values = endpoints.by_pair(image, report, attributes)
    measured = relevance.evaluate(image, report, attributes, draws=2)["both"]
    for endpoint in endpoints.MARGINS:
        assert values[endpoint].shape == (60,)
        assert values[endpoint].mean() == pytest.approx(measured[endpoint]["value"])


def of_models(**noises):
    """Values of `by_pair` by model; a name such as mcr_0 is that of variant and seed."""
    attributes = pool()
    models = {}
    for place, (name, noise) in enumerate(noises.items()):
        variant, seed = name.split("_")
        pairs = embedded(noise=noise, seed=place)
        models[f"{variant}-seed{seed}"] = endpoints.by_pair(*pairs, attributes)
    return models


def test_each_endpoint_has_its_primary_comparison_and_holm_corrects_all_others_together():
    models = of_models(mcr_0=0.5, dual_0=0.6, abm_0=0.7, clip_0=3.0, theirs_7=1.0)
    records = endpoints.verdicts(models, range(60), draws=400)
    by_name = {(record["endpoint"], record["variants"][1]): record for record in records}
    assert len(records) == len(by_name) == 8
    raw = {}
    for endpoint, margin in endpoints.MARGINS.items():
        assert by_name[endpoint, "theirs"]["seeds"] == 0
        assert "verdict" not in by_name[endpoint, "theirs"]
        for other in ("dual", "abm", "clip"):
            a = models["mcr-seed0"][endpoint][None]
            b = models[f"{other}-seed0"][endpoint][None]
            alone = retrieval.compare_values(a, b, range(60), margin, draws=400)
            raw[endpoint, other] = alone["p"]
            found = by_name[endpoint, other]
            assert found["primary"] is (other == "dual")
            assert (found["low"], found["high"]) == (alone["low"], alone["high"])
        assert by_name[endpoint, "dual"]["p"] == raw.pop((endpoint, "dual"))
    corrected = retrieval.holm(list(raw.values()))
    assert [by_name[name]["p"] for name in raw] == corrected
    assert by_name[RSUM, "clip"]["verdict"] == "better"
    json.dumps(records)


@pytest.mark.parametrize("seeds", [1, 2, 3, 4])
def test_few_seeds_are_not_resampled_and_the_record_says_so(seeds):
    """Two models whose seeds differ more than their patients do."""
    rng = np.random.default_rng(0)
    models = {}
    for seed in range(seeds):
        value = rng.normal(0.5, 0.01, 50) + 0.1 * seed
        for variant, share in (("mcr", 1.0), ("dual", 0.5)):
            models[f"{variant}-seed{seed}"] = dict.fromkeys(endpoints.MARGINS, share * value)
    first, *_ = endpoints.verdicts(models, range(50), draws=1000)
    is_few = seeds <= 3
    assert first["of_these_models"] is is_few
    assert first["seed_names"] == [str(seed) for seed in range(seeds)]
    assert np.mean(first["by_seed"]) == pytest.approx(first["difference"])
    width = first["high"] - first["low"]
    assert (width < 0.02) is is_few  # 0.1 apart, the seeds would make it much wider


def test_patients_are_drawn_whole_as_in_a_plain_bootstrap():
    rng = np.random.default_rng(1)
    patients = rng.integers(12, size=60)
    models = of_models(mcr_0=0.5, dual_0=0.8, mcr_1=0.5, dual_1=0.9)
    first, *_ = endpoints.verdicts(models, patients.tolist(), draws=4000)
    gains = []
    for seed in (0, 1):
        of_pairing = (models[f"mcr-seed{seed}"][RSUM], models[f"dual-seed{seed}"][RSUM])
        gains.append(of_pairing[0] - of_pairing[1])
    gain = np.mean(gains, axis=0)
    samples = []
    people = np.unique(patients)
    for _ in range(4000):
        drawn = [np.flatnonzero(patients == one) for one in rng.choice(people, len(people))]
        samples.append(gain[np.concatenate(drawn)].mean())
    low, high = np.quantile(samples, retrieval.INTERVAL)
    assert [first["low"], first["high"]] == pytest.approx([low, high], abs=0.1 * (high - low))


def test_what_cannot_be_told_is_no_verdict():
    nothing = {RSUM: np.ones(20), NDCG_WITHOUT_PARTNER: np.full(20, np.nan)}
    records = endpoints.verdicts({"mcr-seed0": nothing, "dual-seed0": nothing}, range(20))
    assert [record["verdict"] for record in records] == [
        "none: all values of both are equal",
        "none: no pair has a value",
    ]
    few = endpoints.verdicts(of_models(mcr_0=0.1, dual_0=5.0), [0, 1, 2] * 20)
    assert all("3 patients" in record["verdict"] for record in few)
    assert endpoints.verdicts(of_models(mcr_0=1.0), range(60)) == []
    with pytest.raises(ValueError, match="no models to compare"):
        endpoints.verdicts({}, [])


def unit(pairs):
    return tuple(rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in pairs)


def test_the_difference_of_gaps_is_that_of_the_distances_of_means():
    near = {"0": unit(embedded(seed=0)), "1": unit(embedded(seed=1))}
    far = {}
    for seed, (image, report) in near.items():
        far[seed] = unit((image + 2.0, report))
    compared = endpoints.compare_gaps(near, far, range(60), draws=500)
    gaps = []
    for models in (near, far):
        distances = [gap_numbers(*pairs)["distance_of_means"] for pairs in models.values()]
        gaps.append(np.mean(distances))
    assert [compared["a"], compared["b"]] == pytest.approx(gaps, abs=1e-5)
    assert compared["low"] < compared["difference"] < compared["high"] < 0
    assert compared["p"] < 0.01 and compared["seeds"] == 2
    back = endpoints.compare_gaps(far, near, range(60), draws=500)
    assert back["difference"] == pytest.approx(-compared["difference"])


def test_gaps_that_cannot_be_compared_say_why():
    model = {"0": unit(embedded())}
    assert endpoints.compare_gaps(model, {"1": model["0"]}, range(60))["seeds"] == 0
    assert "equal" in endpoints.compare_gaps(model, model, range(60), draws=20)["undecided"]
    other = {"0": unit(embedded(seed=1))}
    few = endpoints.compare_gaps(model, other, [0, 1] * 30, draws=20)
    assert "fewer than 6 patients" in few["undecided"]
