"""Reports in radiologists' English for drawn radiographs (ours).

A report describes each finding and mentions a few things that are normal. Sentences come in random
order, and each is chosen from several wordings.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

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


class Phrase(NamedTuple):
    """A finding in words, and the choices that made them."""

    finding: Finding
    zone_name: str
    severity_name: str  # "" if the severity is not said
    template: str

    @property
    def words(self) -> str:
        """The finding without frame, such as "a small left pleural effusion"."""
        finding = self.finding
        filled = self.template.format(
            side=finding.side,
            zone=finding.zone,
            where=f"{finding.side} {self.zone_name}",
            severity=self.severity_name,
        )
        words = " ".join(filled.split())
        if self.is_plural and filled.startswith(" "):
            # Without its severity, "emphysematous changes" keeps the space in front and so gets no
            # capital. That is a flaw, kept so that the published data set does not change.
            words = f" {words}"
        return words

    @property
    def bare_words(self) -> str:
        """The words without their article."""
        return self.words.removeprefix("a ").removeprefix("an ")

    @property
    def is_plural(self) -> bool:
        """Whether the verb must be "are"."""
        return self.template in self.finding.kind.plural_phrases


class Statement(NamedTuple):
    """What a report says of one finding."""

    description: Phrase  # in FINDINGS, with its severity
    frame: str  # the sentence around it
    conclusion: Phrase  # in IMPRESSION, with its severity half of the time
    is_denied: bool = False  # the report says that the finding is not there

    @property
    def finding(self) -> Finding:
        """The finding that it is about."""
        return self.description.finding

    @property
    def sentence(self) -> str:
        """Its sentence in FINDINGS, without a capital."""
        words = self.description.words
        if self.is_denied:
            words = f"no {self.description.bare_words.strip()}"
        verb = "are" if self.description.is_plural else "is"
        return self.frame.format(words=words, verb=verb)

    @property
    def impression(self) -> str:
        """Its sentence in IMPRESSION: the finding in short, without article and verb."""
        words = self.conclusion.bare_words
        if self.is_denied:
            words = f"no {words.strip()}"
        return f"{words}."


class Draft(NamedTuple):
    """A report before it is written out: statements on findings and other sentences, in order."""

    findings: tuple[Statement | str, ...]
    impression: tuple[Statement | str, ...]

    @property
    def text(self) -> str:
        """The report, each sentence with a capital."""
        findings = [_in_findings(part) for part in self.findings]
        impression = [_in_impression(part) for part in self.impression]
        return f"FINDINGS: {_capitalised(findings)}\n\nIMPRESSION: {_capitalised(impression)}"


def report(rng: np.random.Generator, findings: list[Finding]) -> str:
    """A report with FINDINGS and IMPRESSION that is true of a picture with these findings."""
    return draft(rng, findings).text


def draft(rng: np.random.Generator, findings: list[Finding]) -> Draft:
    """The draft of `report`'s text."""
    if not findings and rng.random() < HABIT_SHARE:
        habit = int(HABITS * rng.random() ** 2)
        rng = np.random.default_rng(habit)
    statements = [statement(rng, finding) for finding in findings]
    sentences = statements + _normal_sentences(rng, findings)
    if rng.random() < FILLER_SHARE:
        sentences.append(pick(rng, FILLERS))
    impressions = statements or [pick(rng, NORMAL_IMPRESSIONS)]
    return Draft(_shuffled(rng, sentences), _shuffled(rng, impressions))


def statement(rng: np.random.Generator, finding: Finding) -> Statement:
    """What a report says of a finding, in random words."""
    description = _phrase(rng, finding, with_severity=True)
    frame = pick(rng, FRAMES)
    with_severity = bool(rng.random() < SEVERITY_SHARE)
    conclusion = _phrase(rng, finding, with_severity)
    return Statement(description, frame, conclusion)


def _phrase(rng, finding, with_severity):
    kind = finding.kind
    zone_name = pick(rng, ZONE_NAMES[finding.zone])
    severity_name = pick(rng, severity_names(finding))
    template = pick(rng, kind.phrases + kind.plural_phrases)
    if not with_severity:
        severity_name = ""
    return Phrase(finding, zone_name, severity_name, template)


def severity_names(finding: Finding) -> tuple[str, ...]:
    """What a finding's severity may be called."""
    return SEVERITY_NAMES.get(finding.severity, (finding.severity,))


def normal_statement(sentence: str) -> NormalStatement | None:
    """The normal statement of which a sentence is a wording, if it is one."""
    for normal in NORMAL_STATEMENTS:
        if sentence in normal.wordings:
            return normal
    return None


def normal_wordings(findings: list[Finding]) -> dict[str, list[str]]:
    """Topic -> what may be said of it if a picture has these findings; no topic without any."""
    names = {finding.kind.name for finding in findings}
    wordings_by_topic = {}
    for normal in NORMAL_STATEMENTS:
        if names.isdisjoint(normal.contradicted_by):
            wordings = wordings_by_topic.setdefault(normal.topic, [])
            wordings.extend(normal.wordings)
    return wordings_by_topic


def _normal_sentences(rng, findings):
    """Sentences on topics that the findings leave normal; more findings leave room for fewer."""
    wordings_by_topic = normal_wordings(findings)
    topics = rng.permutation(sorted(wordings_by_topic))
    count = max(1, STATEMENTS - len(findings))
    return [pick(rng, wordings_by_topic[topic]) for topic in topics[:count]]


def pick(rng: np.random.Generator, choices: Sequence) -> Any:
    """One of the choices, all equally likely."""
    return choices[rng.integers(len(choices))]


def _shuffled(rng, sentences):
    order = rng.permutation(len(sentences))
    return tuple(sentences[place] for place in order)


def _in_findings(part):
    if isinstance(part, Statement):
        return part.sentence
    return part


def _in_impression(part):
    if isinstance(part, Statement):
        return part.impression
    return part


def _capitalised(sentences):
    return " ".join(sentence[0].upper() + sentence[1:] for sentence in sentences)
