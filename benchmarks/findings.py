"""Findings read from real reports: agreement with the Open-i annotators, and reports a second.

The reports are those of the Open-i collection inside the torchxrayvision wheel, read in memory. The
rows are about those with an odd number. The rules were first written on the even ones, but
sentences of both were read when they were bettered, so the odd ones are not unseen any more. Speed
is per second of processor time, so that a busy machine does not count. Run as a script: prints the
rows, and saves what each finding scores on odd reports, in numbers only.
"""

import importlib.util
import re
import statistics
import tarfile
import time
from collections import Counter
from collections.abc import Callable
from configparser import ConfigParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import spacy
from measured import row
from negspacy.negation import Negex  # noqa: F401  (registers the pipe "negex")
from sklearn.metrics import precision_recall_fscore_support
from spacy.matcher import PhraseMatcher
from spacy.tokens import Span
from spacy.util import filter_spans

from mcrlib import config, results
from mcrlib.evaluation import finding_rules, findings

# The annotators' MeSH terms (head/qualifier/...) -> finding, fixed without a look at odd reports.
# "round" is how they write a nodular opacity or density.
DEVICES = (
    r"Catheters|Implanted Medical|Medical Device|Tube, Inserted|Stents|Surgical Instruments"
    r"|Spinal Fusion|Sutures|Breast Implants"
)
MESH = {
    "Enlarged Cardiomediastinum": r"Mediastinum/.*(prominent|enlarged)",
    "Cardiomegaly": r"Cardiomegaly|Cardiac Shadow/enlarged",
    "Lung Opacity": r"Opacity|Airspace Disease|Density/.*lung",
    "Lung Lesion": r"Nodule|Mass/(?!.*breast)|Cavitation|Cysts/lung|(Opacity|Density)/.*round",
    "Edema": r"Pulmonary Edema|Pulmonary Congestion|Heart Failure",
    "Consolidation": r"Consolidation",
    "Pneumonia": r"Pneumonia\b",
    "Atelectasis": r"Pulmonary Atelectasis",
    "Pneumothorax": r"Pneumothorax|Hydropneumothorax",
    "Pleural Effusion": r"Pleural Effusion|Hydropneumothorax",
    "Pleural Other": r"(Thickening|Cicatrix|Calcinosis|Deformity|Density)/.*pleura|Pleura/",
    "Fracture": r"Fractures, Bone",
    "Support Devices": DEVICES,
    "Mass": r"Mass/(?!.*breast)",
    "Nodule": r"Nodule",
    "Infiltration": r"Infiltrate",
    "Emphysema": r"(Pulmonary |Bullous )?Emphysema",
    "Fibrosis": r"Pulmonary Fibrosis",
    "Pleural Thickening": r"Thickening/.*pleura",
    "Hernia": r"Hernia, (Hiatal|Diaphragmatic)",
}
# Nothing else may be annotated: support devices and a poor image are no finding.
NORMAL = rf"normal|Technical Quality|{DEVICES}"
LEAST = 20  # positives that a finding needs to count
ODD, EVEN = 1, 0


def known(terms: list[str]) -> set[str]:
    """The findings that the annotators' terms stand for."""
    found = {name for name in MESH if any(re.match(MESH[name], term) for term in terms)}
    return found | ({"No Finding"} if all(re.match(NORMAL, term) for term in terms) else set())


def open_i(remainder: int) -> tuple[list[str], list[set[str]]]:
    """Texts (findings and impression) and the annotators' findings of the Open-i reports whose
    number leaves `remainder` when divided by two. Reports without text or without annotation
    ("No Indexing") are left out.
    """
    wheel = Path(importlib.util.find_spec("torchxrayvision").origin).parent
    texts, truth = [], []
    with tarfile.open(wheel / "data" / "NLMCXR_reports.tgz") as archive:
        for member in archive:
            number = re.search(r"(\d+)\.xml$", member.name)
            if not number or int(number[1]) % 2 != remainder:
                continue
            tree = ElementTree.parse(archive.extractfile(member))
            parts = {part.get("Label"): part.text or "" for part in tree.iter("AbstractText")}
            text = " ".join(filter(None, (parts.get("FINDINGS"), parts.get("IMPRESSION"))))
            terms = [term.text for term in tree.iter("major")]
            if text.strip() and terms != ["No Indexing"]:
                texts.append(text)
                truth.append(known(terms))
    return texts, truth


def score(found: list[set[str]], truth: list[set[str]], names: tuple[str, ...]) -> dict:
    """Micro and macro F1 over those of `names` with at least LEAST positives in truth, and a row
    (precision, recall, F1, positives) for each of `names`.
    """
    truth, found = (np.array([[f in one for f in names] for one in x]) for x in (truth, found))
    counted = np.flatnonzero(truth.sum(0) >= LEAST)
    micro, macro = (
        precision_recall_fscore_support(
            truth, found, labels=counted, average=average, zero_division=0
        )[2]
        for average in ("micro", "macro")
    )
    table = zip(*precision_recall_fscore_support(truth, found, zero_division=0), strict=True)
    return {"micro": micro, "macro": macro, "findings": dict(zip(names, table, strict=True))}


def present(texts: list[str]) -> list[set[str]]:
    """What our rules find."""
    return [findings.present(text) for text in texts]


def with_negspacy() -> Callable[[list[str]], list[set[str]]]:
    """The rival: the same terms on spaCy's tokens, sentences and negation as negspacy has them."""
    nlp = spacy.blank("en")
    nlp.tokenizer.rules = {}  # no abbreviations: "Mass." is not Massachusetts here
    nlp.vocab.lex_attr_getters[spacy.attrs.NORM] = finding_rules._cut_ending
    matcher = PhraseMatcher(nlp.vocab, attr="NORM")
    parser = ConfigParser(delimiters=":", interpolation=None)
    parser.optionxform = str  # names keep their capitals
    parser.read_string(Path(finding_rules.__file__).with_name("findings.txt").read_text())
    for name, listed in parser[finding_rules.FINDING].items():
        matcher.add(name, [nlp.make_doc(phrase) for phrase in finding_rules._spell_out(listed)])

    @spacy.Language.component("terms")
    def terms(doc):
        spans = []
        for key, start, end in matcher(doc):
            spans.append(Span(doc, start, end, label=key))
        doc.ents = filter_spans(spans)
        return doc

    nlp.add_pipe("sentencizer")
    nlp.add_pipe("terms")
    nlp.add_pipe("negex")
    return lambda texts: [
        {entity.label_ for entity in doc.ents if not entity._.negex} for doc in nlp.pipe(texts)
    ]


def agreement() -> list[dict]:
    texts, truth = open_i(ODD)
    ours = score(present(texts), truth, findings.FINDINGS)["micro"]
    what = f"micro F1 {ours:.3f} on {len(texts):,} odd Open-i reports"
    # Terms alone say nothing of these: "the heart is enlarged", "lungs are clear", a nodule's kind.
    beyond = ("No Finding", "Cardiomegaly", "Enlarged Cardiomediastinum", "Lung Lesion")
    names = tuple(name for name in findings.FINDINGS if name not in beyond)
    theirs = score(with_negspacy()(texts), truth, names)["micro"]
    same = score(present(texts), truth, names)["micro"]
    on_terms = f"micro F1 {same:.3f} against {theirs:.3f} on findings that a term alone can name"
    return [
        row("findings F1", what, "0.88", [ours / 0.88], 1),
        row("findings negation", on_terms, "negspacy, same terms", [same / theirs], 1),
    ]


def by_finding() -> dict:
    """Numbers of the odd reports for `04_text_metrics`: `score`'s, and by finding how many reports
    with and without it in the annotation call it present, uncertain, absent, or do not mention it.
    """
    texts, truth = open_i(ODD)
    read, confusion = [findings.label(text) for text in texts], {}
    for name in findings.FINDINGS:
        said = Counter()
        for labels, annotated in zip(read, truth, strict=True):
            side = "annotated" if name in annotated else "not annotated"
            said[f"{side}, {labels.get(name, 'unmentioned')}"] += 1
        confusion[name] = said
    scores = score(present(texts), truth, findings.FINDINGS)
    return scores | {"reports": len(texts), "least": LEAST, "confusion": confusion}


def speed(rounds: int = 5) -> list[dict]:
    texts = list(dict.fromkeys(open_i(ODD)[0]))
    rival = with_negspacy()
    findings.label("Warm.")
    rates, ratios = [], []
    for _ in range(rounds):
        finding_rules.read_sentence.cache_clear()  # sentences of an earlier round are not for free
        seconds = []
        for work in (rival, present):
            began = time.process_time()
            work(texts)
            seconds.append(time.process_time() - began)
        rates.append(len(texts) / seconds[1])
        ratios.append(seconds[0] / seconds[1])
    what = f"{statistics.median(rates):,.0f} distinct reports a second on one core"
    return [
        row("findings speed", what, "2,000 a second", [rate / 2000 for rate in rates], 1),
        row("findings against negspacy", what, "negspacy, same terms", ratios, 1),
    ]


def rows() -> list[dict]:
    """One dict a measurement: id, what, rival, ratio, spread, goal (least ratio), met."""
    return [*speed(), *agreement()]


ROWS = {"findings": rows}

if __name__ == "__main__":
    for measurement in rows():
        print(measurement)
    results.save(config.ROOT / "results" / "reference" / "openi_findings.json", by_finding())
