"""Verdicts and their sentences, from invented numbers: a sentence says what the numbers say."""

import html
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcrlib import config, results, tables
from mcrlib.companion import analyses, claims, experiments
from mcrlib.companion.claims import CANNOT_BE_TOLD, NOT_SUPPORTED, OPEN, SUPPORTED, Evidence
from mcrlib.companion.lengths import Length
from mcrlib.evaluation import endpoints

(RETRIEVAL,) = experiments.chosen("retrieval")
(MEANING,) = experiments.chosen("meaning")
(ALIGNMENT,) = experiments.chosen("alignment-retrieval")
(GAP,) = experiments.chosen("modality-gap")
(OTHERS,) = experiments.chosen("state-of-the-art")
(RECONSTRUCTION,) = experiments.chosen("reconstruction")


def compared(item, difference, p=0.001, seeds=3, **changes):
    """A record as `endpoints.verdicts` makes them."""
    names = [str(seed) for seed in range(seeds)]
    return {
        "endpoint": item.endpoint,
        "variants": list(item.variants),
        "primary": item.variants == ("mcr", "dual"),
        "seeds": seeds,
        "seed_names": names,
        "by_seed": [difference] * seeds,
        "of_these_models": seeds <= 3,
        "a": 0.5 + difference,
        "b": 0.5,
        "difference": difference,
        "low": difference - 0.02,
        "high": difference + 0.02,
        "p": p,
        "no_loss": False,
        "detectable": 0.03,
        "verdict": "not read",
    } | changes


def judged(item, *records, gap=None, pairs="500 drawn test pairs", epochs=10, **changes):
    """The judgement of an item by these records; all models had the same epochs."""
    trained = {}
    if epochs:
        for variant in config.VARIANTS:
            for seed in range(9):
                trained[f"{variant}-seed{seed}"] = Length(epochs)
    evidence = Evidence(
        pairs=pairs,
        validation_pairs="400 drawn validation pairs",
        is_drawn="drawn" in pairs,
        comparisons=records,
        gap=gap or {},
        lengths=changes.pop("trained", trained),
        **changes,
    )
    judgement = claims.judge(item, evidence)
    assert judgement["verdict"] in claims.VERDICTS
    return judgement["verdict"], judgement["sentence"], judgement["numbers"]


def test_better_is_supported_and_said_with_all_numbers():
    verdict, sentence, numbers = judged(RETRIEVAL, compared(RETRIEVAL, 0.1))
    assert verdict == SUPPORTED
    assert sentence == (
        "RSUM on 500 drawn test pairs: mcr has 60.0 and dual 50.0, 10.0 points more for mcr (95 % "
        "interval of the difference 8.0 to 12.0, p = 0.0010). Of these 3 trained models of "
        "each only (seeds 0, 1 and 2): mcr is better than dual; 3 of the 3 seeds have a difference "
        "of this sign. All were trained for 10 epochs."
    )
    assert numbers["difference"] == 0.1 and numbers["detectable"] == 0.03


def test_worse_is_not_supported_and_said_as_plainly():
    verdict, sentence, _ = judged(ALIGNMENT, compared(ALIGNMENT, -0.1))
    assert verdict == NOT_SUPPORTED
    assert "mcr has 40.0 and abm 50.0, 10.0 points less for mcr" in sentence
    assert "mcr is worse than abm" in sentence and "better" not in sentence
    assert "after Holm's correction" in sentence  # the comparison is no primary one


def test_open_says_what_could_have_been_detected():
    verdict, sentence, _ = judged(RETRIEVAL, compared(RETRIEVAL, 0.01, p=0.4))
    assert verdict == OPEN
    assert "no difference is shown" in sentence
    assert "A true one of 3.0 points would be found with 80 % power." in sentence
    assert "better" not in sentence and "worse" not in sentence and "excluded" not in sentence
    safe = compared(RETRIEVAL, 0.01, p=0.4, no_loss=True)
    _, sentence, _ = judged(RETRIEVAL, safe)
    assert sentence.count("A loss of 12 points or more is excluded.") == 1


def test_missing_is_open_and_has_no_number():
    other = compared(ALIGNMENT, 0.1)
    without_seeds = {**compared(RETRIEVAL, 0.1), "seeds": 0}
    for records in ((), (other,), (without_seeds,), (compared(MEANING, 0.1),)):
        verdict, sentence, numbers = judged(RETRIEVAL, *records)
        assert (verdict, numbers) == (OPEN, {})
        assert sentence == "Not measured: no seed of both mcr and dual is there."
    assert judged(GAP)[0] == OPEN


def test_what_these_pairs_cannot_decide_is_not_decided():
    reason = "all pairs are of 3 patients, and fewer than 6 decide nothing"
    tiny = compared(RETRIEVAL, 0.4, undecided=reason)
    verdict, sentence, _ = judged(RETRIEVAL, tiny, pairs="5 test pairs")
    assert verdict == CANNOT_BE_TOLD
    assert sentence == f"On 5 test pairs nothing can be decided: {reason}."
    same = compared(RETRIEVAL, 0.0, undecided="all values of both are equal")
    assert judged(RETRIEVAL, same)[0] == CANNOT_BE_TOLD


def test_sentences_say_of_which_models_they_are():
    verdict, one, _ = judged(RETRIEVAL, compared(RETRIEVAL, 0.1, seeds=1))
    assert verdict == OPEN and "asks for 3 seeds of each, so the question stays open" in one
    assert "these two trained models only (seed 0)" in one and "sign" not in one
    by_seed = [0.2, 0.2, -0.1]
    three = judged(RETRIEVAL, compared(RETRIEVAL, 0.1, seeds=3, by_seed=by_seed))[1]
    assert "these 3 trained models of each only (seeds 0, 1 and 2)" in three
    assert "2 of the 3 seeds have a difference of this sign" in three
    five = judged(RETRIEVAL, compared(RETRIEVAL, 0.1, seeds=5))[1]
    assert "Over seeds, of which 5 of each are resampled" in five and "only" not in five


def test_a_winner_with_more_compute_decides_nothing():
    loss = compared(RETRIEVAL, -0.1)
    verdict, sentence, _ = judged(RETRIEVAL, loss)
    assert verdict == OPEN
    assert "mcr is worse than dual" in sentence
    assert "An epoch of dual takes more compute" in sentence and "stays open" in sentence
    # With epochs that make the compute equal, the same numbers decide.
    trained = {}
    for seed in range(3):
        trained[f"mcr-seed{seed}"] = Length(20, 2000, 10)
        trained[f"dual-seed{seed}"] = Length(10, 1990, 20)
    verdict, sentence, _ = judged(RETRIEVAL, loss, trained=trained)
    assert verdict == NOT_SUPPORTED
    assert "mcr was trained for 20 epochs, dual for 10 epochs." in sentence
    verdict, sentence, _ = judged(RECONSTRUCTION, compared(RECONSTRUCTION, 0.1))
    assert verdict == OPEN and "An epoch of mcr takes more compute" in sentence
    assert judged(RECONSTRUCTION, compared(RECONSTRUCTION, -0.1))[0] == NOT_SUPPORTED
    # AbM is to be compared at equal epochs.
    trained = {"mcr-seed0": Length(20), "abm-seed0": Length(10)}
    verdict, sentence, _ = judged(ALIGNMENT, compared(ALIGNMENT, 0.1), trained=trained)
    assert verdict == OPEN and "asks for equal epochs" in sentence
    verdict, sentence, _ = judged(ALIGNMENT, compared(ALIGNMENT, 0.1), epochs=0)
    assert verdict == OPEN and "Nothing says for how long they were trained." in sentence


@pytest.mark.parametrize(
    ("of_mcr", "of_dual", "mcr_wins", "dual_wins", "said"),
    [
        (Length(10, 1000, 10), Length(5, 1000, 20), SUPPORTED, NOT_SUPPORTED, ""),
        (Length(10, 1000, 10), Length(10, 2000, 20), SUPPORTED, OPEN, "dual had 2.00 times the"),
        (Length(20, 3000, 10), Length(9, 2000, 20), OPEN, NOT_SUPPORTED, "mcr had 1.50 times the"),
        (Length(20), Length(10), OPEN, OPEN, "Compute was not counted"),
    ],
)
def test_the_counted_compute_decides_and_not_the_epochs(of_mcr, of_dual, mcr_wins, dual_wins, said):
    trained = {}
    for seed in range(3):
        trained |= {f"mcr-seed{seed}": of_mcr, f"dual-seed{seed}": of_dual}
    sentences = ""
    for difference, expected in ((0.1, mcr_wins), (-0.1, dual_wins)):
        verdict, sentence, _ = judged(RETRIEVAL, compared(RETRIEVAL, difference), trained=trained)
        assert verdict == expected
        assert ("stays open" in sentence) == (expected == OPEN)
        sentences += sentence
    assert said in sentences


def test_at_equal_epochs_is_to_be_won_without_more_of_them():
    """Equal compute allows `abm` more epochs: a win over it decides, a loss does not."""
    trained = {}
    for seed in range(3):
        trained[f"mcr-seed{seed}"] = Length(10, 1000, 10)
        trained[f"abm-seed{seed}"] = Length(12, 1000, 8)
    won = judged(ALIGNMENT, compared(ALIGNMENT, 0.1), trained=trained)
    assert won[0] == SUPPORTED
    assert "mcr was trained for 10 epochs, abm for 12 epochs. They took 1" in won[1]
    verdict, sentence, _ = judged(ALIGNMENT, compared(ALIGNMENT, -0.1), trained=trained)
    assert verdict == OPEN and "abm had more epochs; the experiment asks for equal" in sentence


@pytest.mark.parametrize(
    ("difference", "p", "expected", "said"),
    [
        (-0.03, 0.002, SUPPORTED, "the gap of mcr is smaller than that of abm"),
        (0.03, 0.002, NOT_SUPPORTED, "the gap of mcr is larger than that of abm"),
        (-0.01, 0.2, OPEN, "no difference is shown"),
    ],
)
def test_the_modality_gap_is_better_if_smaller(difference, p, expected, said):
    record = compared(GAP, difference, p)
    del record["primary"], record["no_loss"], record["endpoint"], record["variants"]
    verdict, sentence, _ = judged(GAP, gap=record)
    assert verdict == expected and said in sentence
    assert "400 drawn validation pairs" in sentence and "Holm" not in sentence


def steps(mcr=1.0, dual=2.0, lean_mcr=0.6, lean_dual=1.2):
    rows = []
    for variant, level, cost in (
        ("mcr", "none", mcr),
        ("dual", "none", dual),
        ("mcr", "selective", lean_mcr),
        ("dual", "selective", lean_dual),
    ):
        row = {"variant": variant, "level": level, "tokens": 128, "kind": "simulated"}
        rows.append(row | {"seconds": cost, "activations": cost})
    return rows


@pytest.mark.parametrize(
    ("mcr", "time", "memory"),
    [
        (0.4, SUPPORTED, SUPPORTED),
        (0.8, SUPPORTED, NOT_SUPPORTED),
        (0.98, OPEN, NOT_SUPPORTED),
        (0.51, SUPPORTED, OPEN),
        (1.4, NOT_SUPPORTED, NOT_SUPPORTED),
    ],
)
def test_costs_are_judged_by_the_claimed_ratio_and_near_ones_stay_open(mcr, time, memory):
    for name, expected in (("time", time), ("memory", memory)):
        (item,) = experiments.chosen(name)
        verdict, sentence, numbers = judged(item, steps=steps(mcr), timed="4 pairs, on a CPU")
        assert verdict == expected
        assert numbers["ratio"] == mcr / 2 and f"{mcr / 2:.2f}" in sentence
        assert ("too near to tell" in sentence) == (expected == OPEN)
    assert "keeps 0.30 of what dual keeps without it, and 0.50 of what dual keeps" in sentence
    assert "simulated" in sentence
    verdict, sentence, numbers = judged(item)
    assert (verdict, numbers) == (OPEN, {}) and "make efficiency" in sentence


def test_the_state_of_the_art_needs_real_pairs_and_other_people_s_models():
    theirs = compared(OTHERS, 0.1, variants=["mcr", "theirs"])
    assert judged(OTHERS, theirs)[0] == CANNOT_BE_TOLD
    real = {"pairs": "3,041 test pairs"}
    linear = compared(OTHERS, 0.1, variants=["mcr", "tfidf"])
    ours = compared(OTHERS, 0.1, variants=["mcr", "dual"])
    verdict, sentence, _ = judged(OTHERS, linear, ours, **real)
    assert verdict == OPEN and "no other method's embeddings" in sentence
    verdict, sentence, numbers = judged(OTHERS, theirs, **real)
    assert verdict == SUPPORTED and "theirs 50.0 (more; 8.0 to 12.0)" in sentence
    assert "nothing of methods that are not here" in sentence and [*numbers] == ["theirs"]
    lost = compared(OTHERS, -0.1, variants=["mcr", "best"])
    verdict, sentence, _ = judged(OTHERS, theirs, lost, **real)
    assert verdict == NOT_SUPPORTED and "best 50.0 (less; −12.0 to −8.0)" in sentence
    unclear = compared(OTHERS, 0.1, p=0.2, variants=["mcr", "near"])
    assert judged(OTHERS, theirs, unclear, **real)[0] == OPEN


@given(
    st.sampled_from([RETRIEVAL, MEANING, ALIGNMENT, RECONSTRUCTION, GAP]),
    st.floats(-1, 1),
    st.floats(0.0001, 1),
    st.integers(1, 5),
    st.sampled_from([0, 10]),
)
@settings(deadline=None, max_examples=200)
def test_no_sentence_says_more_than_its_numbers(item, difference, p, seeds, epochs):
    record = compared(item, difference, p, seeds)
    verdict, sentence, _ = judged(item, record, gap=record, epochs=epochs)
    is_shown = p < 0.05 and difference != 0
    says_one = re.search(r"is (better|worse) than|is (smaller|larger) than", sentence)
    assert bool(says_one) == is_shown
    assert ("no difference is shown" in sentence) != is_shown
    if verdict in (SUPPORTED, NOT_SUPPORTED):
        assert is_shown and epochs and seeds >= 3
        is_good = (difference < 0) if item is GAP else (difference > 0)
        assert (verdict == SUPPORTED) == is_good
        assert bool(re.search("is (better|smaller) than", sentence)) == is_good
    else:
        assert verdict == OPEN
    assert (" more for mcr" in sentence) == (difference > 0)
    assert (" less for mcr" in sentence) == (difference < 0)
    assert ("only" in sentence) == (seeds <= 3)
    assert "-" not in sentence.replace("dual-token", "")  # minus signs
    assert not re.search(r", 0(\.0+)? points (more|less)", sentence)


@pytest.fixture
def place(tmp_path, dataset, monkeypatch):
    """A function that saves a model's embeddings in a temporary home with the smoke run's pairs."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "smoke").symlink_to(dataset.folder)
    monkeypatch.setattr(config, "ROOT", tmp_path)

    def place(name, noise):
        draw = np.random.default_rng(len(name))
        folder = tmp_path / "results" / "smoke" / name
        for split in ("validate", "test"):
            ids = dataset.frame["pair_id"].iloc[dataset.indices(split)]
            image = draw.standard_normal((len(ids), 8))
            report = image + noise * draw.standard_normal(image.shape)
            results.save_embeddings(folder / f"embeddings-{split}.npz", image, report, ids)
        (folder / "history.csv").write_text("epoch,loss\n1,2\n2,1\n")

    place.folder = tmp_path / "results" / "smoke"
    return place


def test_a_run_s_claims_are_read_from_its_numbers_and_follow_them(place):
    """Made once, read again, and made anew when an embedding or a history changes."""
    empty = claims.decide("smoke").values
    verdicts = {record["id"]: record["verdict"] for record in empty}
    assert set(verdicts.values()) == {OPEN, CANNOT_BE_TOLD}
    place("mcr-seed0", 0.1)
    place("abm-seed0", 3.0)
    first = claims.decide("smoke")
    by_id = {record["id"]: record for record in first.values}
    assert list(by_id) == [item.id for item in experiments.ITEMS]
    found = by_id["alignment-retrieval"]
    assert found["verdict"] == OPEN and "asks for 3 seeds" in found["sentence"]
    assert "mcr is better than abm" in found["sentence"]
    assert "48 drawn test pairs" in found["sentence"] and "2 epochs" in found["sentence"]
    assert by_id["retrieval"]["numbers"] == {}
    record = analyses.compare_endpoints("smoke").values[0]
    assert found["numbers"]["difference"] == record["difference"]
    file = place.folder / claims.FILE
    before = file.read_bytes()
    claims.decide("smoke")
    assert file.read_bytes() == before
    place("abm-seed0", 0.1)
    assert claims.decide("smoke").values != first.values
    table = tables.claims_table(first.values)
    assert table["item"].tolist() == list(by_id)
    row = table.set_index("item").loc["alignment-retrieval"]
    assert row["verdict"] == OPEN and row["detectable"]
    page = claims.page(first.values)
    for judged_item in first.values:
        assert html.escape(judged_item["sentence"], quote=False) in page
    assert page.index("What the paper claims") < page.index("What the notes ask")


def test_no_other_class_of_verdict_is_read_than_the_endpoints_make():
    """The names that the judge reads are those of the comparison."""
    draw = np.random.default_rng(0)
    values = {}
    for name in ("mcr-seed0", "dual-seed0"):
        values[name] = {endpoint: draw.random(40) for endpoint in endpoints.MARGINS}
    record = endpoints.verdicts(values, range(40), draws=50)[0]
    assert {*compared(RETRIEVAL, 0.1)} == {*record}
    assert {item.endpoint for item in experiments.ITEMS} >= {*endpoints.MARGINS}
