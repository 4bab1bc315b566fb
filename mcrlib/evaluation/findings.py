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

from collections.abc import Iterable, Sequence

import numpy as np
from sklearn.metrics import classification_report
from sklearn.preprocessing import MultiLabelBinarizer

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
    are no pairs, or not as many hypotheses as references.
    """
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

    "shared": the query has the finding with the same status, and not on the opposite side. "other":
    the query contradicts the finding (present and absent, left and right), or does not mention what
    the hit asserts or doubts. The rest is not marked.
    """
    query_mentions = mentions(query_report)
    if NO_FINDING in label(query_report):
        query_mentions.append(Mention(NO_FINDING, PRESENT, 0, 0))
    spans = []
    marked_end = 0
    for hit in sorted(mentions(hit_report), key=_position):
        kind = _kind_of_highlight(hit, query_mentions)
        if kind and hit.end > marked_end:
            start = max(hit.start, marked_end)
            spans.append((start, hit.end, kind))
            marked_end = hit.end
    return spans


def _position(mention: Mention) -> tuple[int, int]:
    return mention.start, mention.end


def _kind_of_highlight(hit: Mention, query_mentions: list[Mention]) -> str:
    """How to mark a mention of the hit: as "shared", as "other", or "" for not at all."""
    same_finding = [query for query in query_mentions if query.finding == hit.finding]
    same_status = [query for query in same_finding if query.status == hit.status]
    if not same_finding:
        return "" if hit.status == ABSENT else "other"
    for query in same_status:
        if {query.side, hit.side} != {"left", "right"}:
            return "shared"
    if same_status:
        return "other"  # on the opposite side
    contradicts = any({query.status, hit.status} == {PRESENT, ABSENT} for query in same_finding)
    return "other" if contradicts else ""
