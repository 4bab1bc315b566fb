"""Minimal pairs and zero-shot prompts: nothing but the picture tells which half is true."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict

from mcrlib import config
from mcrlib.data.sources import phantom
from mcrlib.data.sources.phantom import edits
from mcrlib.evaluation import attributes, findings, probes

PAIRS = 400


@pytest.fixture(scope="module")
def drawn():
    """Pairs with a finding, each with its minimal pairs."""
    settings = config.load("demo", sizes=(1000, 1, 1))
    both = zip(phantom.pairs(settings, ["train"]), edits.of_split(settings, "train"), strict=True)
    return [(pair, minimal) for pair, minimal in both if pair.findings]


def halves(drawn, kind):
    """The first true and edited reports of a kind."""
    reports = []
    for _, minimal in drawn:
        if kind == "omission and insertion":
            own, poorer = minimal.report, minimal.poorer.report
            reports += [edits.Edit(own, poorer), edits.Edit(poorer, own)]
        elif kind in minimal.edits:
            reports.append(minimal.edits[kind])
    return reports[:PAIRS]


def accuracy_of_words(reports):
    """How often words, pairs of words and length tell a true report from an edited one."""
    texts = [text for edit in reports for text in edit]
    is_true = np.tile([1, 0], len(reports))
    pair = np.repeat(np.arange(len(reports)), 2)
    words = CountVectorizer(ngram_range=(1, 2)).fit_transform(texts).toarray()
    lengths = [[len(text) / 100, len(text.split()) / 10] for text in texts]
    inputs = np.hstack([words, lengths])
    classifier = LogisticRegression(C=0.1, max_iter=500)
    told = cross_val_predict(classifier, inputs, is_true, groups=pair, cv=GroupKFold(3))
    return np.mean(told == is_true)


@pytest.mark.parametrize("kind", ["negation", "side", "zone", "severity", "omission and insertion"])
def test_words_and_length_do_not_tell_true_from_edited(drawn, kind):
    reports = halves(drawn, kind)
    assert len(reports) == PAIRS
    assert accuracy_of_words(reports) <= 0.55


def test_the_classifier_would_notice_edits_that_words_tell(drawn):
    """Omissions alone: fewer findings are a sign of the edited report."""
    alone = [edits.Edit(minimal.report, minimal.poorer.report) for _, minimal in drawn[:PAIRS]]
    assert accuracy_of_words(alone) > 0.6


def test_an_edit_changes_one_thing_as_our_rules_read_it(drawn):
    for pair, minimal in drawn[:150]:
        assert minimal.report == pair.draft.text
        for kind in ("side", "zone", "severity"):
            if kind not in minimal.edits:
                continue
            true, edited = minimal.edits[kind]
            assert true == minimal.report
            gone = attributes.of_text(true) - attributes.of_text(edited)
            new = attributes.of_text(edited) - attributes.of_text(true)
            assert {one.kind for one in gone | new} <= {kind} and true != edited
        true, edited = minimal.edits.get("negation", ("a", "not a"))
        assert true != edited
        assert ("no " in true.lower()) or ("no " in edited.lower())


def test_the_poorer_study_lacks_one_finding_and_changes_only_there(drawn):
    for pair, minimal in drawn[:5]:
        picture = minimal.poorer.picture()
        labels = minimal.poorer.picture.args[1]
        (gone,) = set(pair.labels) - set(labels)
        assert len(labels) == len(pair.labels) - 1
        size = picture.shape[0]
        whole = phantom.draw(pair.seed, pair.labels, size, pair.view, pair.study)
        place = phantom.place(pair.seed, gone, size, pair.view, pair.study)
        assert (picture != whole).any()
        assert not (picture != whole)[~place].any()


def test_edits_are_the_same_each_time_and_a_normal_pair_has_none():
    settings = config.load("smoke")
    first = [(one.report, one.edits) for one in edits.of_split(settings, "test")]
    again = [(one.report, one.edits) for one in edits.of_split(settings, "test")]
    assert first == again
    pairs = phantom.pairs(settings, ["test"])
    for pair, (_, own) in zip(pairs, first, strict=True):
        assert bool(own) == bool(pair.findings)


def test_words_of_real_reports_are_swapped_only_where_it_is_safe():
    def swapped(report):
        return probes.swaps(report, np.random.default_rng(0))

    both_sections = "Small left pleural effusion.\nIMPRESSION: small LEFT effusion."
    assert swapped(both_sections) == {
        "side": "Small right pleural effusion.\nIMPRESSION: small RIGHT effusion.",
        "severity": "Large left pleural effusion.\nIMPRESSION: large LEFT effusion.",
    }
    assert swapped("Right upper lobe nodule.")["zone"] == "Right lower lobe nodule."
    unsafe = (
        "Left and right effusions.", "No left effusion.", "Possible small right effusion.",
        "The right lung is clear.", "Moderate edema.", "",
    )  # fmt: skip
    for report in unsafe:
        assert swapped(report) == {}
    two_sides = "There is a right lower lobe consolidation and a left chest tube."
    assert "side" not in swapped(two_sides)
    with pytest.raises(TypeError):
        swapped(None)


def test_prompts_assert_and_deny_in_words_that_our_rules_read():
    assert probes.prompts("Pleural Effusion") == [("Pleural effusion.", "No pleural effusion.")]
    for finding in probes.PROMPTED:
        for assertion, denial in probes.prompts(finding):
            assert findings.label(assertion).get(finding) == "present", assertion
            assert findings.label(denial).get(finding) == "absent", denial


levels = st.one_of(st.just(float("nan")), st.integers(0, 2).map(float))


@given(st.lists(st.tuples(levels, levels), min_size=1, max_size=12))
def test_accuracy_is_the_share_won_with_ties_lost(margins):
    true, edited = np.array(margins).T
    scores = probes.Scores([str(row) for row in range(len(margins))], {"side": true},
                           {"side": edited}, {})  # fmt: skip
    block = probes.accuracy(scores, draws=20)["side"]
    asked = [(one, two) for one, two in margins if one == one and two == two]
    assert block["left_out"] == len(margins) - len(asked)
    if not asked:
        assert block["value"] is None
        return
    assert block["value"] == pytest.approx(np.mean([one > two for one, two in asked]))
    assert block["low"] - 1e-9 <= block["value"] <= block["high"] + 1e-9


def test_nearly_equal_cosines_are_a_tie_and_patients_are_drawn_whole():
    names = [str(row) for row in range(4)]
    nearly = probes.Scores(names, {"zone": np.full(4, 0.5 + 5e-7)}, {"zone": np.full(4, 0.5)}, {})
    assert probes.accuracy(nearly, draws=10)["zone"]["value"] == 0
    half = probes.Scores(names, {"zone": np.array([1.0, 1, 0, 0])}, {"zone": np.full(4, 0.5)}, {})
    block = probes.accuracy(half, ["a", "a", "b", "b"], draws=200)["zone"]
    assert (block["low"], block["value"], block["high"]) == (0, 0.5, 1)
    assert probes.accuracy(probes.Scores(names, {}, {}, {}), draws=10) == {}


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=20))
def test_zero_shot_auroc_is_scikit_learn_s(pictures):
    values = np.array([float(value) for value, _ in pictures])
    is_there = np.array([has for _, has in pictures])
    names = [str(row) for row in range(len(pictures))]
    scores = probes.Scores(names, {}, {}, {"Edema": values})
    found = probes.zero_shot(scores, {"Edema": is_there, "Mass": is_there}, draws=20)
    if is_there.all() or not is_there.any():
        assert found == {}
        return
    assert set(found) == {"Edema"}  # no prompt asked for the other
    assert found["Edema"]["value"] == pytest.approx(roc_auc_score(is_there, values))
    assert found["Edema"]["positives"] == is_there.sum()
    counts = 1 + np.arange(len(pictures)) % 3
    weighted = probes.aurocs(torch.tensor(values), torch.tensor(is_there),
                             torch.tensor(counts, dtype=torch.float)[None])  # fmt: skip
    expected = roc_auc_score(is_there, values, sample_weight=counts)
    assert float(weighted) == pytest.approx(expected)
