"""Which findings a report asserts, denies or leaves open: rules in the manner of NegEx (ours).

This is not the CheXpert labeler, although fourteen names are CheXpert's. A label is the strongest
mention: present, uncertain, absent. A finding that is only history is not mentioned, one that has
resolved is absent; healed fractures and devices can still be seen. A "borderline" heart is
Cardiomegaly, a "top normal" one is not; clear lungs deny Lung Opacity. A mass or nodule is also a
Lung Lesion, pleural thickening also Pleural Other; nothing else is inferred.

No Finding is present if the report calls chest, lungs or heart normal or clear, or denies disease
of them, and no finding or other abnormality (a scar, a tortuous aorta) is present or uncertain,
support devices aside; otherwise it is missing.

Leave out the indication of a report: its question would be read as doubt.
The rules that read a sentence are in finding_rules.py, their phrases in findings.txt.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from sklearn.metrics import classification_report
from sklearn.preprocessing import MultiLabelBinarizer

from mcrlib.data.reports import text_list
from mcrlib.evaluation import comparison
from mcrlib.evaluation.comparison import Said
from mcrlib.evaluation.finding_rules import (
    ABSENT,
    NO_FINDING,
    PRESENT,
    SUPPORT_DEVICES,
    UNCERTAIN,
    Mention,
    read_sentence,
    split_into_sentences,
)

FINDINGS = (
    NO_FINDING, "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion",
    "Edema", "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion",
    "Pleural Other", "Fracture", SUPPORT_DEVICES, "Mass", "Nodule", "Infiltration", "Emphysema",
    "Fibrosis", "Pleural Thickening", "Hernia",
)  # fmt: skip

_STRENGTH = {ABSENT: 0, UNCERTAIN: 1, PRESENT: 2}
_PARENTS = {"Mass": "Lung Lesion", "Nodule": "Lung Lesion", "Pleural Thickening": "Pleural Other"}
# Reports of a normal chest deny at least one of these.
_CHEST = ("Cardiomegaly", "Lung Opacity", "Consolidation", "Infiltration", "Pneumonia", "Edema")


def rules_digest() -> str:
    """Hash of the rules and their phrases: numbers that rest on them record it as an input."""
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for name in ("findings.py", "finding_rules.py", "findings.txt"):
        digest.update((folder / name).read_text(encoding="utf-8").encode())
    return digest.hexdigest()[:16]


def mentions(report: str) -> list[Mention]:
    """Every mention of a finding, sentence by sentence. Raises TypeError if it is not text."""
    in_report = []
    for sentence in split_into_sentences(report):
        offset = sentence.start
        for mention in read_sentence(sentence.text):
            if mention.finding in FINDINGS:
                start = offset + mention.start
                end = offset + mention.end
                in_report.append(mention._replace(start=start, end=end))
    return in_report


def label(report: str) -> dict[str, str]:
    """Finding -> present, absent or uncertain; findings without a mention are missing.

    Raises TypeError if the report is not text.
    """
    strongest = {}
    for sentence in split_into_sentences(report):
        for mention in read_sentence(sentence.text):
            _keep_stronger(strongest, mention.finding, mention.status)
            if mention.finding in _PARENTS:
                _keep_stronger(strongest, _PARENTS[mention.finding], mention.status)
    says_normal = NO_FINDING in strongest
    strongest.pop(NO_FINDING, None)
    if _is_normal(strongest, says_normal):
        strongest[NO_FINDING] = PRESENT
    return {name: strongest[name] for name in FINDINGS if name in strongest}


def _keep_stronger(strongest: dict[str, str], finding: str, status: str) -> None:
    known = strongest.get(finding, ABSENT)
    if _STRENGTH[status] >= _STRENGTH[known]:
        strongest[finding] = status


def _is_normal(strongest: dict[str, str], says_normal: bool) -> bool:
    """Whether a report calls the chest normal, or denies disease of it, and nothing is abnormal."""
    denies_disease = any(strongest.get(name) == ABSENT for name in _CHEST)
    if not says_normal and not denies_disease:
        return False
    for finding, status in strongest.items():
        if status != ABSENT and finding != SUPPORT_DEVICES:
            return False
    return True


def present(report: str) -> set[str]:
    """The findings that a report asserts. Raises TypeError if it is not text."""
    return {name for name, status in label(report).items() if status == PRESENT}


def agreement(hypotheses: Sequence[str], references: Sequence[str]) -> dict:
    """F1 of the findings present in retrieved reports against those in the true ones, pair by pair.

    Returns {"micro", "macro", "findings": name -> {"precision", "recall", "f1-score", "support"}},
    0 where undefined; "macro" is the mean over findings with support. Raises ValueError if there
    are no pairs, or not as many hypotheses as references, or one text in place of a list.
    """
    hypotheses = text_list(hypotheses, "hypotheses")
    references = text_list(references, "references")
    if not 0 < len(references) == len(hypotheses):
        got = f"{len(hypotheses)} and {len(references)}"
        raise ValueError(f"agreement needs one hypothesis for each reference, not {got} of them.")
    table = classification_report(
        _indicators(references),
        _indicators(hypotheses),
        target_names=FINDINGS,
        output_dict=True,
        zero_division=0,
    )
    rows = {name: table[name] for name in FINDINGS}
    scores = [row["f1-score"] for row in rows.values() if row["support"]]
    macro = float(np.mean(scores)) if scores else 0.0
    return {"micro": table["micro avg"]["f1-score"], "macro": macro, "findings": rows}


def _indicators(reports: Iterable[str]) -> np.ndarray:
    """1 where report i asserts finding j, else 0: `[N, len(FINDINGS)]`."""
    findings = [present(report) for report in reports]
    return MultiLabelBinarizer(classes=FINDINGS).fit_transform(findings)


def highlights(query_report: str, hit_report: str) -> list[tuple[int, int, str]]:
    """Spans (start, end, kind) of the hit report to mark, in order, none overlapping.

    Kinds are the relations of `comparison`: "shared" and "differs" (another side, zone, size or
    degree) of what both reports assert, "other" of what only the hit asserts or doubts, "denied" of
    what both deny, "against" of what the hit denies and the query asserts. The rest is not marked.
    A normal query denies every disease; a normal hit denies all that the query asserts.
    Devices are told apart by kind (`devices`).
    """
    query = comparison.understand(query_report, mentions(query_report))
    hit = comparison.understand(hit_report, mentions(hit_report))
    query_is_normal = NO_FINDING in label(query_report)
    hit_is_normal = NO_FINDING in label(hit_report)
    kinds = {}
    for said in hit:
        if said.mention.finding == NO_FINDING:
            kind = _kind_of_normal(query, query_is_normal, hit_is_normal)
        else:
            kind = comparison.relation(said, query)
        span = (said.mention.start, said.mention.end)
        kinds.setdefault(span, []).append(kind)
    return _apart(kinds)


def _kind_of_normal(query: list[Said], query_is_normal: bool, hit_is_normal: bool) -> str:
    """How to mark that a hit says "no acute disease" or the like."""
    query_says_so = any(said.mention.finding == NO_FINDING for said in query)
    if query_is_normal or query_says_so:
        return comparison.DENIED
    return comparison.AGAINST if hit_is_normal else comparison.UNMARKED


def _apart(kinds: dict[tuple[int, int], list[str]]) -> list[tuple[int, int, str]]:
    """Spans with the most telling of their kinds, cut so that none overlaps."""
    spans = []
    marked_end = 0
    for start, end in sorted(kinds):
        told = [kind for kind in comparison.RELATIONS if kind in kinds[start, end]]
        if told and end > marked_end:
            spans.append((max(start, marked_end), end, told[0]))
            marked_end = end
    return spans
