"""Reports in radiologists' English for drawn radiographs (ours).

A report describes each finding and mentions a few things that are normal. Sentences come in random
order, and each is chosen from several wordings.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mcrlib.data.sources.phantom.labels import Finding

HABIT_SHARE = 0.8  # of the normal reports follow one of the habits, so that reports repeat
HABITS = 40  # seeds of a normal report's wording, the first the most common
FILLER_SHARE = 0.4  # of the reports have a sentence that says nothing about the picture
STATEMENTS = 4  # findings and normal statements of a report; at least one is normal
SEVERITY_SHARE = 0.5  # of the impressions give a finding's severity

ZONE_NAMES = {
    "upper": ("upper lobe", "upper lung zone"),
    "middle": ("mid lung", "mid lung zone"),
    "lower": ("lower lobe", "lower lung zone", "lung base"),
    "": ("",),
}
SEVERITY_NAMES = {"mild": ("mild", "slight"), "severe": ("severe", "marked")}
FRAMES = (
    "{words}.",
    "There {verb} {words}.",
    "{words} {verb} seen.",
    "{words} {verb} noted.",
)
FILLERS = (
    "A single frontal view was obtained.",
    "Clinical correlation is advised.",
    "No prior study is available for comparison.",
    "Comparison is made with the prior study.",
)
NORMAL_IMPRESSIONS = (
    "No acute cardiopulmonary process.",
    "No acute cardiopulmonary abnormality.",
    "Normal chest.",
    "No evidence of acute cardiopulmonary disease.",
    "Normal chest radiograph.",
)


class NormalStatement(NamedTuple):
    """Something normal that a report may say."""

    topic: str  # a report makes at most one statement on each
    contradicted_by: tuple[str, ...]  # names of findings that make it wrong
    wordings: tuple[str, ...]


# Findings that make the lungs' air spaces, and the lungs as a whole, abnormal.
AIRSPACE_FINDINGS = (
    "Consolidation",
    "Lung Opacity",
    "Atelectasis",
    "Mass",
    "Lung Lesion",
    "Edema",
)
LUNG_FINDINGS = (
    *AIRSPACE_FINDINGS,
    "Nodule",
    "Emphysema",
    "Pleural Effusion",
    "Pneumothorax",
    "Pleural Thickening",
)
NORMAL_STATEMENTS = (
    NormalStatement(
        topic="heart",
        contradicted_by=("Cardiomegaly",),
        wordings=("The heart size is normal.", "Heart size is within normal limits."),
    ),
    NormalStatement(
        topic="heart",
        contradicted_by=("Cardiomegaly", "Enlarged Cardiomediastinum"),
        wordings=(
            "The cardiomediastinal silhouette is normal.",
            "Cardiac and mediastinal contours are normal.",
        ),
    ),
    NormalStatement(
        topic="pleura",
        contradicted_by=("Pleural Effusion", "Pneumothorax"),
        wordings=(
            "No pleural effusion or pneumothorax.",
            "There is no pneumothorax or pleural effusion.",
        ),
    ),
    NormalStatement(
        topic="pleura",
        contradicted_by=("Pneumothorax",),
        wordings=("No pneumothorax.", "There is no pneumothorax."),
    ),
    NormalStatement(
        topic="pleura",
        contradicted_by=("Pleural Effusion",),
        wordings=("No pleural effusion.", "There is no effusion."),
    ),
    NormalStatement(
        topic="lungs",
        contradicted_by=LUNG_FINDINGS,
        wordings=(
            "The lungs are clear.",
            "Lungs are clear bilaterally.",
            "Both lungs are clear.",
        ),
    ),
    NormalStatement(
        topic="lungs",
        contradicted_by=AIRSPACE_FINDINGS,
        wordings=("No focal consolidation.", "There is no focal airspace disease."),
    ),
    NormalStatement(
        topic="vessels",
        contradicted_by=("Edema",),
        wordings=("No pulmonary edema.", "Pulmonary vascularity is normal."),
    ),
    NormalStatement(
        topic="bones",
        contradicted_by=("Fracture",),
        wordings=("No acute osseous abnormality.", "The bony thorax is intact."),
    ),
)


def report(rng: np.random.Generator, findings: list[Finding]) -> str:
    """A report with FINDINGS and IMPRESSION that is true of a picture with these findings."""
    if not findings and rng.random() < HABIT_SHARE:
        habit = int(HABITS * rng.random() ** 2)
        rng = np.random.default_rng(habit)
    sentences = []
    impressions = []
    for finding in findings:
        sentences.append(_description(rng, finding))
        impressions.append(_impression(rng, finding))
    sentences += _normal_sentences(rng, findings)
    if rng.random() < FILLER_SHARE:
        sentences.append(_pick(rng, FILLERS))
    if not impressions:
        impressions.append(_pick(rng, NORMAL_IMPRESSIONS))
    findings_section = _shuffled(rng, sentences)
    impression_section = _shuffled(rng, impressions)
    return f"FINDINGS: {findings_section}\n\nIMPRESSION: {impression_section}"


def _description(rng, finding):
    """A sentence that states the finding and its severity."""
    phrase = _phrase(rng, finding, with_severity=True)
    frame = _pick(rng, FRAMES)
    return frame.format(words=phrase.words, verb=phrase.verb)


def _impression(rng, finding):
    """The finding in short: without article and verb, and with its severity half of the time."""
    with_severity = rng.random() < SEVERITY_SHARE
    phrase = _phrase(rng, finding, with_severity)
    words = phrase.words.removeprefix("a ").removeprefix("an ")
    return f"{words}."


class _Phrase(NamedTuple):
    """A finding in words, and the verb that agrees with them."""

    words: str
    verb: str  # is or are


def _phrase(rng, finding, with_severity):
    kind = finding.kind
    zone_name = _pick(rng, ZONE_NAMES[finding.zone])
    severity_names = SEVERITY_NAMES.get(finding.severity, (finding.severity,))
    severity_name = _pick(rng, severity_names)
    template = _pick(rng, kind.phrases + kind.plural_phrases)
    filled = template.format(
        side=finding.side,
        zone=finding.zone,
        where=f"{finding.side} {zone_name}",
        severity=severity_name if with_severity else "",
    )
    words = " ".join(filled.split())
    if template not in kind.plural_phrases:
        return _Phrase(words, verb="is")
    if filled.startswith(" "):
        # Without its severity, "emphysematous changes" keeps the space in front and so gets no
        # capital. That is a flaw, kept so that the published data set does not change.
        words = f" {words}"
    return _Phrase(words, verb="are")


def _normal_sentences(rng, findings):
    """Sentences on topics that the findings leave normal; more findings leave room for fewer."""
    names = {finding.kind.name for finding in findings}
    wordings_by_topic = {}
    for statement in NORMAL_STATEMENTS:
        if names.isdisjoint(statement.contradicted_by):
            wordings = wordings_by_topic.setdefault(statement.topic, [])
            wordings.extend(statement.wordings)
    topics = rng.permutation(sorted(wordings_by_topic))
    count = max(1, STATEMENTS - len(findings))
    return [_pick(rng, wordings_by_topic[topic]) for topic in topics[:count]]


def _pick(rng, choices: Sequence[str]) -> str:
    return choices[rng.integers(len(choices))]


def _shuffled(rng, sentences):
    """The sentences in random order, each with a capital."""
    capitalised = []
    for sentence in rng.permutation(sentences).tolist():
        capitalised.append(sentence[0].upper() + sentence[1:])
    return " ".join(capitalised)
