"""The phantoms: images show what their reports say, and nothing else gives a pair away."""

import hashlib
import pickle
import re
import subprocess
import sys
from collections import Counter, defaultdict
from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcrlib import config
from mcrlib.data.sources import phantom
from mcrlib.data.sources.phantom.anatomy import normal_anatomy

SMALL = (60, 20, 20)
# How a reader recognises each finding, independent of the generator's wordings.
WORDS = {
    "Cardiomegaly": r"cardiomegaly|enlarge|heart|cardiac|cardiomediastinal",
    "Enlarged Cardiomediastinum": r"mediastin",
    "Pleural Effusion": r"effusion",
    "Pneumothorax": r"pneumothorax",
    "Consolidation": r"consolidation|airspace",
    "Lung Opacity": r"opacity|ground-glass|airspace",
    "Atelectasis": r"atelectasis|airspace",
    "Nodule": r"nodul",
    "Mass": r"mass\b",
    "Lung Lesion": r"cavit",
    "Edema": r"edema|vascularity",
    "Emphysema": r"emphysem",
    "Pleural Thickening": r"pleural (thickening|scarring)",
    "Fracture": r"fracture|osseous|bony",
    "pacemaker": r"pacemaker",
    "endotracheal tube": r"endotracheal",
    "central line": r"central (line|venous)",
    "nasogastric tube": r"nasogastric|enteric|feeding",
    "sternal wires": r"wires",
    "chest tube": r"chest tube|pleural drain|drainage",
}
OUTSIDE_LUNGS = {"Cardiomegaly", "Enlarged Cardiomediastinum", "Fracture"}
ZONE_WORDS = {"upper": "upper", "middle": "mid", "lower": r"lower|base", "": ""}
ZONE_HEIGHTS = {"upper": (-0.6, -0.28), "middle": (-0.28, 0.04), "lower": (0.04, 0.6)}
DEGREE_WORDS = {"mild": "mild|slight", "severe": "severe|marked"}
NORMAL = re.compile(r"^(there is )?no\b|\bnormal\b|\bclear\b|\bintact\b")
FILLER = re.compile(r"^(a single frontal view|clinical correlation|no prior study|comparison is)")


@pytest.fixture(scope="module")
def demo():
    return list(phantom.rows(config.load("demo")))


def rows_of(**overrides):
    return list(phantom.rows(config.load("smoke", **overrides)))


def kind_of(label):
    finding, _, _, severity = label.split("|")
    return severity if finding == "Support Devices" else finding


def sentences(text):
    """(findings, impression), each a list of lower-case sentences."""
    match = re.fullmatch(r"FINDINGS: (.+)\n\nIMPRESSION: (.+)", text)
    return [re.findall(r"[^.]+(?=\.)", part.lower().replace(". ", ".")) for part in match.groups()]


def says(sentence, label, degree=True):
    _, side, zone, severity = label.split("|")
    kind = kind_of(label)
    wanted = [WORDS[kind], side, ZONE_WORDS[zone] if kind != "Pleural Effusion" else ""]
    wanted.append(DEGREE_WORDS.get(severity, severity) if degree and severity != kind else "")
    return all(re.search(pattern, sentence) for pattern in wanted) and not denies(sentence)


def denies(sentence):
    return bool(NORMAL.search(sentence)) and not FILLER.search(sentence)


def digest(pictures):
    return hashlib.sha256(b"".join(p.tobytes() for p in pictures)).hexdigest()


def change(seed, label, size=96, others=()):
    """Absolute change [size, size] of the image due to a finding, and the finding's place."""
    before = phantom.draw(seed, list(others), size).astype(int)
    after = phantom.draw(seed, [*others, label], size)
    return np.abs(after - before), phantom.place(seed, label, size)


def test_same_pairs_in_any_order_and_any_process():
    first, second = rows_of(sizes=SMALL), rows_of(sizes=SMALL)
    assert [(r.pair_id, r.text, r.labels) for r in first] == [
        (r.pair_id, r.text, r.labels) for r in second
    ]
    forward = [r.image() for r in first]
    backward = [pickle.loads(pickle.dumps(r.image))() for r in reversed(second)][::-1]
    assert digest(forward) == digest(backward)
    code = (
        "import hashlib; from mcrlib import config; from mcrlib.data.sources import phantom; "
        f"rows = phantom.rows(config.load('smoke', sizes={SMALL})); "
        "print(hashlib.sha256(b''.join(r.image().tobytes() for r in rows)).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == digest(forward)


def test_another_data_seed_draws_another_data_set():
    first, second = rows_of(sizes=SMALL), rows_of(sizes=SMALL, data_seed=1)
    assert [r.labels for r in first] != [r.labels for r in second]
    assert not np.array_equal(first[0].image(), second[0].image())


@pytest.mark.parametrize("size", [64, 96, 256])
def test_pictures_are_squares_with_contrast(size):
    for row in rows_of(sizes=(4, 2, 2), cache_size=size):
        picture = row.image()
        assert picture.shape == (size, size) and picture.dtype == np.uint8
        assert picture.std() > 25 and picture.max() > 180 and picture.min() < 40


def test_lungs_are_darker_than_heart_abdomen_and_shoulder():
    centres = {
        "right lung": (-0.47, -0.05),
        "left lung": (0.47, -0.2),
        "heart": (0.06, 0.18),
        "abdomen": (0.0, 0.8),
        "shoulder": (-0.85, -0.38),
    }
    greys = {name: [] for name in centres}
    for seed in range(20):
        picture = phantom.draw(seed, [], 96)
        plane = normal_anatomy(seed, 96, "PA", 0).plane
        for name, (x, y) in centres.items():
            place = (np.abs(plane.x - x) < 0.1) & (np.abs(plane.y - y) < 0.1)
            greys[name].append(picture[place].mean())
    mean = {name: np.mean(values) for name, values in greys.items()}
    lung = max(mean["right lung"], mean["left lung"])
    assert min(mean["heart"], mean["abdomen"], mean["shoulder"]) > lung + 30


def lung_shape(seed, study):
    """The width and height of both lungs, in the patient's own plane."""
    anatomy = normal_anatomy(seed, 96, "PA", study)
    inside = anatomy.lung > 0.5
    return np.array([np.ptp(anatomy.plane.x[inside]), np.ptp(anatomy.plane.y[inside])])


def test_a_patient_keeps_the_build_however_the_radiograph_is_taken():
    first = np.array([lung_shape(seed, 0) for seed in range(30)])
    second = np.array([lung_shape(seed, 1) for seed in range(30)])
    pixel = 2 / 96
    assert np.abs(first - second).max() < 3 * pixel
    assert np.ptp(first, axis=0).min() > 3 * pixel  # patients differ
    assert not np.array_equal(phantom.draw(0, [], 96), phantom.draw(0, [], 96, study=1))


def test_counts_and_proportions(demo):
    assert Counter(r.split for r in demo) == {"train": 4000, "validate": 500, "test": 500}
    for split in ("train", "validate", "test"):
        counts = np.array([len(r.labels) for r in demo if r.split == split])
        assert 0.27 <= np.mean(counts == 0) <= 0.32
        assert counts.max() == 4 and 1.8 < counts[counts > 0].mean() < 2.4
    assert {r.view for r in demo} == {"PA", "AP"}
    assert {r.source for r in demo} == {phantom.SOURCE}


def test_no_patient_is_in_two_splits(demo):
    splits, studies = defaultdict(set), defaultdict(set)
    for row in demo:
        splits[row.patient_id].add(row.split)
        studies[row.patient_id].add(row.study_id)
    assert {len(s) for s in splits.values()} == {1}
    assert {len(s) for s in studies.values()} == {1, 2, 3}
    assert len({r.pair_id for r in demo}) == len(demo)


def test_every_kind_of_finding_occurs(demo):
    seen = Counter(kind_of(label) for row in demo for label in row.labels)
    assert set(seen) == set(WORDS) and min(seen.values()) > 80
    assert {label for row in demo for label in row.labels} == set(phantom.LABELS)


def test_findings_of_a_pair_do_not_share_a_place(demo):
    for row in demo:
        zones = [tuple(label.split("|")[1:3]) for label in row.labels if label.split("|")[2]]
        assert len(zones) == len(set(zones)) and len(row.labels) == len(set(row.labels))


def test_reports_state_each_finding_with_side_zone_and_severity(demo):
    for row in demo:
        findings, impression = sentences(row.text)
        for label in row.labels:
            assert any(says(s, label) for s in findings), (label, row.text)
            assert any(says(s, label, degree=False) for s in impression), (label, row.text)


def test_every_sentence_states_a_finding_of_the_pair_or_agrees_with_its_findings(demo):
    for row in demo:
        kinds = {kind_of(label) for label in row.labels}
        in_lungs = kinds & set(list(WORDS)[:13]) - OUTSIDE_LUNGS
        for sentence in chain(*sentences(row.text)):
            if FILLER.search(sentence):
                continue
            if denies(sentence):
                denied = {kind for kind, words in WORDS.items() if re.search(words, sentence)}
                assert not denied & kinds, (sentence, kinds)
                if re.search(r"lungs are clear", sentence):
                    assert not in_lungs, (sentence, kinds)
                if re.search(r"cardiopulmonary|normal chest", sentence):
                    assert not kinds, (sentence, kinds)
            else:
                stated = [label for label in row.labels if says(sentence, label, degree=False)]
                assert stated, (sentence, row.labels)


def test_reports_have_the_length_and_the_vocabulary_of_short_real_ones(demo):
    words = [re.findall(r"[\w-]+", r.text.replace("FINDINGS", "").lower()) for r in demo]
    lengths = [len(w) - 1 for w in words]  # without the second heading
    assert 30 <= np.median(lengths) <= 40 and np.percentile(lengths, 95) < 60
    assert 100 < len({w for report in words for w in report}) < 500


def test_nothing_in_a_report_gives_its_pair_away(demo):
    reports = Counter(word for r in demo for word in set(re.findall(r"[\w-]+", r.text.lower())))
    assert min(reports.values()) > 20
    assert not any(re.search(r"\d", r.text) for r in demo)


def test_normal_reports_repeat_and_others_vary(demo):
    normal = Counter(r.text.lower() for r in demo if r.split == "test" and not r.labels)
    repeated = sum(n for n in normal.values() if n > 1)
    assert repeated / normal.total() > 0.5 and len(normal) > 20
    others = [r.text for r in demo if r.split == "test" and r.labels]
    assert len(set(others)) > 0.95 * len(others)


def test_an_oracle_that_knows_only_the_labels_has_the_expected_recall(demo):
    sets = [tuple(sorted(r.labels)) for r in demo if r.split == "test"]
    same = Counter(sets)
    recall = {k: np.mean([min(k, same[s]) / same[s] for s in sets]) for k in (1, 10)}
    assert 0.55 <= recall[1] <= 0.70 and 0.70 <= recall[10] <= 0.85


@settings(max_examples=25, deadline=None)
@given(number=st.integers(0, 499), size=st.sampled_from([64, 96, 160]))
def test_removing_a_finding_visibly_changes_its_place_and_nothing_else(demo, number, size):
    seed, labels, _ = demo[number].image.args
    view = demo[number].view
    study = demo[number].image.keywords["study"]
    whole = phantom.draw(seed, labels, size, view, study).astype(int)
    assert np.array_equal(whole, phantom.draw(seed, labels[::-1], size, view, study))
    for label in labels:
        rest = [other for other in labels if other != label]
        difference = np.abs(whole - phantom.draw(seed, rest, size, view, study))
        place = phantom.place(seed, label, size, view, study)
        assert not difference[~place].any()
        assert difference[place].mean() > 6 and np.percentile(difference[place], 90) > 20


@pytest.mark.parametrize("label", sorted(phantom.LABELS))
def test_marks_are_on_their_side_in_their_zone_and_of_local_extent(label):
    _, side, zone, _ = label.split("|")
    for seed in range(3):
        difference, place = change(seed, label)
        assert not difference[~place].any() and place.mean() < 0.45
        assert np.percentile(difference[place], 90) > 25  # noise is at most 4 grey levels
        plane = normal_anatomy(seed, 96, "PA", 0).plane  # the patient may lie askew
        x = np.average(plane.x, weights=difference)
        y = np.average(plane.y, weights=difference)
        if kind_of(label) == "central line":  # from either side of the neck into the same vein
            neck = plane.y < -0.75
            x = np.average(plane.x[neck], weights=difference[neck])
        if side:
            assert (x > 0.1) if side == "left" else (x < -0.1)
        if zone:
            low, high = ZONE_HEIGHTS[zone]
            assert low <= y <= high


@pytest.mark.parametrize(
    "kind",
    [kind for kind in phantom.KINDS if len(kind.severities) > 1],
    ids=lambda kind: kind.name,
)
def test_more_severe_findings_change_the_image_more(kind):
    totals = []
    for severity in kind.severities:
        label = f"{kind.name}|{kind.sides[0]}|{kind.zones[-1]}|{severity}"
        totals.append(sum(change(seed, label)[0].sum() for seed in range(5)))
    assert all(more > 1.2 * less for less, more in pairwise(totals))


@pytest.mark.parametrize(
    "label", ["Nodule", "Nodule|left||small", "Cardiomegaly|left||mild", "Edema|||huge", "Gout|||"]
)
def test_a_finding_that_is_not_drawn_is_an_error(label):
    with pytest.raises(ValueError, match=re.escape(repr(label))):
        phantom.draw(0, [label], 64)
    with pytest.raises(ValueError, match=re.escape(repr(label))):
        phantom.place(0, label, 64)
