"""Sentences whose marks were decided before the rules read them: finding_sentences.txt."""

from pathlib import Path

import pytest

from mcrlib.evaluation import findings

NAMES = {
    "PE": "Pleural Effusion", "PX": "Pneumothorax", "PN": "Pneumonia", "ED": "Edema",
    "CO": "Consolidation", "AT": "Atelectasis", "CM": "Cardiomegaly",
    "EC": "Enlarged Cardiomediastinum", "LO": "Lung Opacity", "LL": "Lung Lesion", "MA": "Mass",
    "NO": "Nodule", "IN": "Infiltration", "EM": "Emphysema", "FI": "Fibrosis",
    "PT": "Pleural Thickening", "PO": "Pleural Other", "FR": "Fracture", "SD": "Support Devices",
    "HE": "Hernia", "NF": "No Finding",
}  # fmt: skip
STATUSES = {"+": "present", "-": "absent", "?": "uncertain"}
MORE_GENERAL = {
    "Mass": "Lung Lesion",
    "Nodule": "Lung Lesion",
    "Pleural Thickening": "Pleural Other",
}


def cases():
    """Each sentence of the file with its labels."""
    text = Path(__file__).with_name("finding_sentences.txt").read_text(encoding="utf-8")
    listed = []
    for line in text.splitlines():
        if line and not line.startswith("#"):
            sentence, _, marks = line.rpartition("|")
            listed.append((sentence.strip().replace("\\n", "\n"), labels_of(marks)))
    return listed


def labels_of(marks):
    labels = {NAMES[mark[:2]]: STATUSES[mark[2:]] for mark in marks.split()}
    for finding, general in MORE_GENERAL.items():
        if finding in labels:
            labels.setdefault(general, labels[finding])
    return labels


@pytest.mark.parametrize(("sentence", "expected"), cases())
def test_a_sentence_is_read_as_decided(sentence, expected):
    labels = findings.label(sentence)
    if "No Finding" not in expected:
        labels.pop("No Finding", None)
    assert labels == expected
