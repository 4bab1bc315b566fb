"""Minimal pairs: a drawn study's report with one thing changed, word for word the same otherwise
(ours).

An edit is a report that is true of the picture and one that is wrong in one thing. Neither words
nor length say which is which, since over many pairs both are written alike:

- Side, zone, severity: one finding gets another value that fits among the other findings, all
  equally likely, and is named as reports name it.
- Negation: the edited report denies a finding that is there. In half of the pairs it asserts one
  that is not: the true report then denies this finding in place of what it said of another one.
- Omission: the edited report has something normal in place of one finding. It is true of the
  `poorer` study, which lacks that finding and is otherwise the same. There the pair's own report is
  the one that is wrong (insertion). Together, either text is right once.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from mcrlib.config import Config
from mcrlib.data.images import Source
from mcrlib.data.schema import SPLITS
from mcrlib.data.sources.phantom import DrawnPair, draw, pairs, wording
from mcrlib.data.sources.phantom.labels import ALL_FINDINGS, PROBABILITIES, Finding
from mcrlib.data.sources.phantom.wording import Draft, Statement

NEGATION = "negation"
VALUES = {"side": "sides", "zone": "zones", "severity": "severities"}  # what a kind may have


class Edit(NamedTuple):
    """Two reports that differ in one thing."""

    true: str
    edited: str


class Poorer(NamedTuple):
    """The same study with one finding less."""

    report: str
    picture: Source


class MinimalPairs(NamedTuple):
    """What can be asked about one pair; a pair without findings has no edits."""

    pair_id: str
    report: str
    edits: dict[str, Edit]  # by kind: negation, side, zone, severity
    poorer: Poorer | None


def of_split(config: Config, split: str) -> Iterator[MinimalPairs]:
    """The minimal pairs of each pair of a split: the same for the same settings of the data."""
    for pair in pairs(config, (split,)):
        rng = np.random.default_rng([config.data_seed, 4, SPLITS.index(split), pair.number])
        yield of_pair(rng, pair, config.cache_size)


def of_pair(rng: np.random.Generator, pair: DrawnPair, size: int) -> MinimalPairs:
    """The minimal pairs of one pair; pictures are uint8 [size, size]."""
    if not pair.findings:
        return MinimalPairs(pair.pair_id, pair.draft.text, {}, poorer=None)
    edits = {NEGATION: _negation(rng, pair)}
    for attribute in VALUES:
        edits[attribute] = _other_value(rng, pair, attribute)
    possible = {kind: edit for kind, edit in edits.items() if edit is not None}
    return MinimalPairs(pair.pair_id, pair.draft.text, possible, _poorer(rng, pair, size))


def _other_value(rng, pair: DrawnPair, attribute: str) -> Edit | None:
    """One finding on another side, in another zone or of another severity; None if none can be."""
    choices = []
    for statement in _statements(pair.draft):
        others = [finding for finding in pair.findings if finding != statement.finding]
        alternatives = _alternatives(statement.finding, others, attribute)
        if alternatives:
            choices.append((statement, alternatives))
    if not choices:
        return None
    statement, alternatives = wording.pick(rng, choices)
    changed = _about(rng, statement, wording.pick(rng, alternatives))
    edited = _replaced(pair.draft, statement, changed, changed)
    return Edit(pair.draft.text, edited.text)


def _alternatives(finding: Finding, others: list[Finding], attribute: str) -> list[Finding]:
    """The finding with each other value that fits among the others."""
    own = getattr(finding, attribute)
    alternatives = []
    for value in getattr(finding.kind, VALUES[attribute]):
        if own and value and value != own:
            changed = replace(finding, **{attribute: value})
            if _fits(changed, others):
                alternatives.append(changed)
    return alternatives


def _fits(finding: Finding, others: list[Finding]) -> bool:
    """Whether no other finding fills a part of its zones and organs."""
    return all(finding.territory().isdisjoint(other.territory()) for other in others)


def _about(rng, statement: Statement, finding: Finding) -> Statement:
    """The statement in the same words about a finding with other values, which get new names."""
    phrases = []
    for phrase in (statement.description, statement.conclusion):
        zone_name = phrase.zone_name
        if finding.zone != phrase.finding.zone:
            zone_name = wording.pick(rng, wording.ZONE_NAMES[finding.zone])
        severity_name = phrase.severity_name
        if severity_name and finding.severity != phrase.finding.severity:
            severity_name = wording.pick(rng, wording.severity_names(finding))
        phrases.append(wording.Phrase(finding, zone_name, severity_name, phrase.template))
    description, conclusion = phrases
    return statement._replace(description=description, conclusion=conclusion)


def _negation(rng, pair: DrawnPair) -> Edit | None:
    """A finding denied, or one asserted that the true report denies; None if there is no such."""
    statement = wording.pick(rng, _statements(pair.draft))
    if rng.random() < 0.5:
        denial = statement._replace(is_denied=True)
        edited = _replaced(pair.draft, statement, denial, denial)
        return Edit(pair.draft.text, edited.text)
    absent = _absent_finding(rng, pair)
    if absent is None:
        return None
    assertion = wording.statement(rng, absent)
    denial = assertion._replace(is_denied=True)
    true = _replaced(pair.draft, statement, denial, denial)
    edited = _replaced(pair.draft, statement, assertion, assertion)
    return Edit(true.text, edited.text)


def _absent_finding(rng, pair: DrawnPair) -> Finding | None:
    """A finding that the pair could have too, and of which its report says nothing, as often as it
    is drawn; None if there is none."""
    denied = set()
    for sentence in _normal_sentences(pair.draft):
        denied.update(wording.normal_statement(sentence).contradicted_by)
    odds = []
    for finding, probability in zip(ALL_FINDINGS, PROBABILITIES, strict=True):
        may_be = finding.kind.name not in denied and _fits(finding, pair.findings)
        odds.append(probability * may_be)
    total = sum(odds)
    if not total:
        return None
    return ALL_FINDINGS[rng.choice(len(ALL_FINDINGS), p=np.array(odds) / total)]


def _poorer(rng, pair: DrawnPair, size: int) -> Poorer:
    """The study without one of its findings; its report says something normal instead."""
    statement = wording.pick(rng, _statements(pair.draft))
    left = [finding for finding in pair.findings if finding != statement.finding]
    normal = _another_normal_sentence(rng, pair.draft, left)
    conclusion = None
    if not left:
        conclusion = wording.pick(rng, wording.NORMAL_IMPRESSIONS)
    poorer = _replaced(pair.draft, statement, normal, conclusion)
    labels = [finding.label for finding in left]
    picture = partial(draw, pair.seed, labels, size, pair.view, pair.study)
    return Poorer(poorer.text, picture)


def _another_normal_sentence(rng, draft: Draft, findings: list[Finding]) -> str | None:
    """A sentence on a topic that the draft leaves out; None if these findings leave none normal."""
    wordings_by_topic = wording.normal_wordings(findings)
    for sentence in _normal_sentences(draft):
        wordings_by_topic.pop(wording.normal_statement(sentence).topic)
    if not wordings_by_topic:
        return None
    topic = wording.pick(rng, sorted(wordings_by_topic))
    return wording.pick(rng, wordings_by_topic[topic])


def _replaced(
    draft: Draft,
    old: Statement,
    in_findings: Statement | str | None,
    in_impression: Statement | str | None,
) -> Draft:
    """The draft with other parts in the place of a statement, or with nothing (None)."""
    return Draft(
        _with_other(draft.findings, old, in_findings),
        _with_other(draft.impression, old, in_impression),
    )


def _with_other(parts, old: Statement, new: Statement | str | None) -> tuple[Statement | str, ...]:
    kept = []
    for part in parts:
        if part is not old:
            kept.append(part)
        elif new is not None:
            kept.append(new)
    return tuple(kept)


def _statements(draft: Draft) -> list[Statement]:
    return [part for part in draft.findings if isinstance(part, Statement)]


def _normal_sentences(draft: Draft) -> list[str]:
    sentences = [part for part in draft.findings if isinstance(part, str)]
    return [sentence for sentence in sentences if wording.normal_statement(sentence)]
