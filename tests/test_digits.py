"""Scanned digits: pictures show what their sentences say, and no split sees another's scans."""

import hashlib
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_notebooks import QUICK, execute

from mcrlib import config, results
from mcrlib.companion import probe_files, probing, publish
from mcrlib.data import prepare
from mcrlib.data.sources import digits
from mcrlib.evaluation import attributes, findings

SMALL = (60, 20, 20)
# How a reader finds the place and the size in a sentence, independent of the generator's wordings.
ZONE_WORDS = {
    "upper": r"\b(upper|top)\b",
    "lower": r"\b(lower|bottom)\b",
    "middle": r"\b(middle|halfway|in the centre)\b",
}
SIDE_WORDS = {"left": r"\bleft\b", "right": r"\bright\b"}
SIZE_WORDS = {"small": r"\b(small|little|tiny)\b", "large": r"\b(large|big)\b"}
SEEDS = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def run():
    return list(digits.rows(config.load("digits", sizes=(300, 100, 100))))


def rows_of(**overrides):
    return list(digits.rows(config.load("digits", **{"sizes": SMALL} | overrides)))


def digest(pictures):
    return hashlib.sha256(b"".join(p.tobytes() for p in pictures)).hexdigest()


def digits_of(row):
    """The digits that a row's picture is drawn from."""
    return row.image.args[1]


def read(sentence):
    """The label that a sentence states, as "name|side|zone|size"; None if it states none."""
    low = sentence.lower()
    names = re.findall(rf"\b({'|'.join(digits.NAMES)})\b", low)
    if not names:
        return None
    (name,) = names
    side = next((side for side, words in SIDE_WORDS.items() if re.search(words, low)), "centre")
    zone = next(zone for zone, words in ZONE_WORDS.items() if re.search(words, low))
    size = next((size for size, words in SIZE_WORDS.items() if re.search(words, low)), "")
    return f"{name}|{side}|{zone}|{size}"


def test_the_sentences_say_what_the_labels_say(run):
    for row in run:
        sentences = re.findall(r"[^.]+(?=\.)", row.text)
        said = [label for label in map(read, sentences) if label]
        assert sorted(said) == sorted(row.labels)


def test_sentences_read_as_english(run):
    text = " ".join(row.text for row in run)
    assert "  " not in text and " ." not in text
    assert not re.search(r"\ba eight\b|\ban (?!eight)", text, re.I)
    assert all(re.fullmatch(r"([A-Z][^.]*\.( |$))+", row.text) for row in run)
    for sentence in re.findall(r"[^.]+(?=\.)", text):
        assert len(re.findall(r"\bthere is\b", sentence, re.I)) <= 1


def test_wording_varies_and_so_do_digits_places_and_sizes(run):
    labels = [label.split("|") for row in run for label in row.labels]
    assert {parts[0] for parts in labels} == set(digits.NAMES)
    assert {(parts[1], parts[2]) for parts in labels} == set(digits.PLACE_NAMES)
    assert {parts[3] for parts in labels} == set(digits.SIZES)
    assert {len(row.labels) for row in run} == {1, 2, 3}
    assert len({row.text for row in run}) > 0.95 * len(run)
    corner = {sentence for row in run for sentence in re.findall(r"[^.]+", row.text.lower())}
    assert sum("seven" in sentence and "left" in sentence for sentence in corner) > 10


def test_a_picture_has_no_digit_and_no_place_twice(run):
    for row in run:
        parts = [label.split("|") for label in row.labels]
        assert len({name for name, *_ in parts}) == len(parts)
        assert len({(side, zone) for _, side, zone, _ in parts}) == len(parts)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.tuples(SEEDS, SEEDS),
    scan=st.integers(0, 1796),
    where=st.sampled_from(digits.PLACES),
    severity=st.sampled_from(list(digits.SIZES)),
    size=st.sampled_from([48, 96, 150]),
)
def test_a_digit_is_where_its_label_says_and_nowhere_else(seed, scan, where, severity, size):
    side, zone = where
    name = digits.NAMES[digits.scans()[1][scan]]
    digit = digits.Digit(scan, name, side, zone, severity)
    with_it = digits.draw(seed, [digit], size).astype(int)
    without = digits.draw(seed, [], size).astype(int)
    changed = np.argwhere(with_it != without)
    assert len(changed) > 10 and (with_it >= without).all()
    row, column = changed.mean(axis=0) / size * 3
    assert digits.ZONES[int(row)] == zone and digits.SIDES[int(column)] == side
    assert (changed * 3 // size == (digits.ZONES.index(zone), digits.SIDES.index(side))).all()
    height = np.ptp(changed[:, 0]) + 1
    assert height <= digits.SIZES[severity] * size // 96


def test_larger_digits_are_larger_and_each_looks_like_its_scan():
    """Averaged back to 8 x 8, a digit of 24 pixels is its scan to within the smoothing."""
    images, _ = digits.scans()
    for scan in range(0, 200, 10):
        ink = digits._enlarged(images[scan], 24)
        small = ink.reshape(8, 3, 8, 3).mean(axis=(1, 3))
        assert np.corrcoef(small.ravel(), images[scan].ravel())[0, 1] > 0.97
        assert ink.max() <= 255 and ink.min() >= 0


def test_enlarging_is_linear_interpolation():
    """Equal to an interpolation in floating point, rounded down."""
    image = digits.scans()[0][7]
    for side in (8, 16, 20, 24, 37):
        centres = np.clip((np.arange(side) + 0.5) * 8 / side - 0.5, 0, 7)
        columns = np.stack([np.interp(centres, np.arange(8), row) for row in image])
        plain = np.stack([np.interp(centres, np.arange(8), column) for column in columns.T]).T
        assert np.abs(digits._enlarged(image, side) - plain * 255 / 16).max() <= 1


def test_no_scan_is_in_two_splits():
    for data_seed in (0, 1):
        rows = rows_of(sizes=(400, 150, 150), data_seed=data_seed)
        used = {"train": set(), "validate": set(), "test": set()}
        for row in rows:
            used[row.split] |= {digit.scan for digit in digits_of(row)}
        assert len(used["train"]) > 300 and len(used["test"]) > 100
        assert not used["train"] & used["test"]
        assert not used["train"] & used["validate"]
        assert not used["validate"] & used["test"]


def test_no_two_scans_are_equal_and_labels_name_the_scan_s_digit(run):
    images, targets = digits.scans()
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images) == 1797
    for row in run:
        assert [digits.NAMES[targets[digit.scan]] for digit in digits_of(row)] == [
            label.split("|")[0] for label in row.labels
        ]


def test_same_pairs_in_any_order_and_any_process():
    first, second = rows_of(), rows_of()
    assert [(r.pair_id, r.text, r.labels) for r in first] == [
        (r.pair_id, r.text, r.labels) for r in second
    ]
    forward = [r.image() for r in first]
    backward = [pickle.loads(pickle.dumps(r.image))() for r in reversed(second)][::-1]
    assert digest(forward) == digest(backward)
    code = (
        "import hashlib; from mcrlib import config; from mcrlib.data.sources import digits; "
        f"rows = digits.rows(config.load('digits', sizes={SMALL})); "
        "print(hashlib.sha256(b''.join(r.image().tobytes() for r in rows)).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == digest(forward)


def test_the_pictures_are_these_bytes():
    """Whole numbers only: the same on every machine. If they change, so must `SOURCE`."""
    assert digits.SOURCE == "digits, drawing 1"
    assert digest(r.image() for r in rows_of()).startswith("44d43b7c905508c9")


def test_another_data_seed_draws_another_data_set():
    first, second = rows_of(), rows_of(data_seed=1)
    assert [r.labels for r in first] != [r.labels for r in second]
    assert not np.array_equal(first[0].image(), second[0].image())


def test_labels_have_graded_relevance(run):
    """A shared digit counts more if its place is shared, too; and no sentence is medicine."""
    left = attributes.of_labels(["seven|left|upper|small"])
    right = attributes.of_labels(["seven|right|upper|small"])
    other = attributes.of_labels(["three|left|upper|small"])
    assert len(left & right) == 3 and not left & other
    assert not any(findings.present(row.text) for row in run)


def test_digits_are_no_patients():
    """Drawn, so nothing is kept private; but the reference is of phantoms."""
    assert "digits" in config.DRAWN_SOURCES
    with pytest.raises(ValueError, match="not made of phantoms, but of the source 'digits'"):
        publish.publish("digits")


class Guessing:
    """Embeds each text at random."""

    def embed_reports(self, texts):
        rows = np.random.default_rng(len(texts)).standard_normal((len(texts), 8))
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_every_table_and_figure_is_made_or_says_what_does_not_apply(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "ROOT", tmp_path)
    settings = config.load("digits", sizes=(30, 20, 40))
    pairs = prepare.build(settings, workers=1)
    folder = tmp_path / "results" / "digits"
    for seed, variant in enumerate(("mcr", "abm")):
        draw = np.random.default_rng(seed)
        for split in ("validate", "test"):
            ids = pairs.frame["pair_id"].iloc[pairs.indices(split)]
            image = draw.standard_normal((len(ids), 8))
            report = image + draw.standard_normal(image.shape)
            file = folder / f"{variant}-seed0" / f"embeddings-{split}.npz"
            results.save_embeddings(file, image, report, ids)
        asked = probing.ask(Guessing(), settings, pairs, image)
        probe_files.save(folder / f"{variant}-seed0", asked, {})
    execute("09_explore", run="digits")
    execute("03_retrieval", run="digits", draws=50)
    execute("04_text_metrics", run="digits", **QUICK)
    execute("05_modality_gap", run="digits")
    execute("06_top3", run="digits")
    told = execute("11_relevance", run="digits", draws=50)
    decided = execute("12_claims", run="digits")["decided"].values
    figures = {file.stem for file in (tmp_path / "figures" / "digits").glob("*.png")}
    assert {"recall", "figure3", "figure4", "figure5", "first_hit", "agreement"} <= figures
    for name in ("agreement.tex", "recall.csv", "relevance.csv", "first_hit.csv", "claims.csv"):
        assert (folder / name).is_file(), name
    does_not = "It does not apply to these pairs: none of their reports asserts a medical finding."
    assert does_not in (folder / "agreement.tex").read_text()
    assert does_not in (tmp_path / "figures" / "digits" / "agreement.txt").read_text()
    first_hit = results.load(folder / "relevance.json")["values"]["mcr"]["image_to_report"]
    assert set(first_hit["omitted"]["by_finding"]) == set(digits.NAMES)
    assert "to change" in told["told_apart"].data and "No finding" in told["prompted"].data
    domain = next(record for record in decided if record["id"] == "domain")
    assert "40 test pictures of scanned digits" in domain["sentence"]
