"""The rules that read one sentence of a report: which findings it states, denies or doubts (ours).

`read_sentence` takes five steps, each a function below:

1. `match_phrases`: find the phrases of the lexicon, findings.txt, in the sentence.
2. `split_into_clauses`: cut the sentence where the reach of a negation ends.
3. `resolve_organs`: join an organ and its quality, "the heart is enlarged", into a statement.
4. `apply_scope`: give each finding of a clause its status: negation, doubt and history.
5. `collect_mentions`: add the position in the text, and the side, zone and severity.

A phrase makes claims about findings; a claim with the status that its clause gives it is an
assertion; an assertion with its position in the text is a mention.

Trigger, pseudo-trigger and termination mean what they mean in NegEx (Chapman et al. 2001) and
ConText (Harkema et al. 2009). Each step's docstring shows what it makes of the same sentence:
"No left effusion, but the heart is enlarged."
"""

import re
from collections.abc import Iterator
from configparser import ConfigParser
from dataclasses import dataclass, field
from functools import cache, lru_cache
from itertools import product
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

# Status of a mention. A scope may also be historical; a historical finding is not mentioned at all
# unless it can still be seen.
PRESENT = "present"
ABSENT = "absent"
UNCERTAIN = "uncertain"
HISTORY = "history"

NO_FINDING = "No Finding"
SUPPORT_DEVICES = "Support Devices"
OTHER_ABNORMALITY = "Other Abnormality"  # internal: abnormal, but not one of our findings

# Kinds of entries: the section headings of findings.txt, which explains them.
FINDING = "findings"
ABNORMALITY = "other abnormalities"
DISEASE = "disease"
ORGAN = "organs"
QUALITY = "qualities"
FORWARD = "forward triggers"
BACKWARD = "backward triggers"
BACKWARD_NEAREST = "backward triggers, nearest finding"
EITHER_SIDE = "triggers on either side"
EXCLUSION = "exclusion"
CURRENT = "current"
PSEUDO = "pseudo-triggers"
TERMINATION = "termination"
SIDE = "side"
ZONE = "zone"
SEVERITY = "severity"
_BACKWARD = {BACKWARD, BACKWARD_NEAREST, EXCLUSION}
_CLAIMING = {FINDING, ABNORMALITY, DISEASE, ORGAN}  # without one, a sentence states nothing
# Kinds that are not in the file: `resolve_organs` makes them.
STATEMENT = "statement"  # an organ with its quality
SCOPE_END = "end of scope"  # triggers before it do not reach what follows


class Claim(NamedTuple):
    """A finding, and the status that a phrase gives it when no trigger reaches the phrase."""

    finding: str
    status: str


ORGAN_STATEMENTS = {  # (organ, quality) -> what they claim together
    ("heart", "normal"): (Claim("Cardiomegaly", ABSENT),),
    ("heart", "large"): (Claim("Cardiomegaly", PRESENT),),
    ("cardiomediastinum", "normal"): (
        Claim("Cardiomegaly", ABSENT),
        Claim("Enlarged Cardiomediastinum", ABSENT),
    ),
    ("cardiomediastinum", "large"): (
        Claim("Cardiomegaly", PRESENT),
        Claim("Enlarged Cardiomediastinum", PRESENT),
    ),
    ("mediastinum", "normal"): (Claim("Enlarged Cardiomediastinum", ABSENT),),
    ("mediastinum", "large"): (Claim("Enlarged Cardiomediastinum", PRESENT),),
    ("lung", "normal"): (Claim(NO_FINDING, PRESENT), Claim("Lung Opacity", ABSENT)),
    ("lung", "clear"): (Claim(NO_FINDING, PRESENT), Claim("Lung Opacity", ABSENT)),
    ("vessel", "normal"): (Claim("Edema", ABSENT),),
    ("vessel", "large"): (Claim("Edema", PRESENT),),
    ("vessel", "congested"): (Claim("Edema", PRESENT),),
    ("pleura", "clear"): (Claim("Pleural Effusion", ABSENT),),
}

_NORMAL_QUALITIES = {"normal", "clear"}
_WORDS_FROM_QUALITY_TO_ORGAN = 3  # at most, as in "enlargement of the cardiac silhouette"
_STILL_VISIBLE = {"Fracture", SUPPORT_DEVICES, OTHER_ABNORMALITY}  # long after they happened
_MODIFIERS = (SIDE, ZONE, SEVERITY)
_SEVERITIES = ("small", "mild", "moderate", "large", "severe")  # from the least to the greatest
_VERBS = {"is", "are", "was", "were", "be", "been", "remain", "appear", "has", "have"}
# Before an exclusion, at most this many words back: it is negated, or only planned.
_WORDS_TO_EXCLUSION = 5
_OPEN = {"not", "cannot", "can't", "couldn't", "never", "hard", "must", "should", "need", "to"}
# Without endings, the words of "is felt to be" and "has since" before a trigger.
_VERB_PHRASE = _VERBS | {"felt", "thought", "consider", "to", "sinc", "now", "also", "very", "more"}
_ALTERNATIVES = {"or", "nor"}
# Without endings: what begins a statement after a list of what is not there.
_SMALL = {"small", "tiny", "trace", "minim", "mild"}
_PLACE_OR_SIZE = _SMALL | {"left", "right", "bilater", "bibasilar", "biapic", "new"}
# Without endings: how a finding that is there has changed.
_COURSE = {
    "stabl", "unchang", "unalter", "persist", "improv", "worsen", "wors", "chron", "again",
    "increas", "decreas", "remain", "residu", "larger", "smaller", "ongo",
    "continu", "similar", "resolving", "redemonstr",
}  # fmt: skip
_SMALL_OR_COURSE = _SMALL | _COURSE
_PLACE_SIZE_OR_COURSE = _PLACE_OR_SIZE | _COURSE
_PARTS = {"upper", "middl", "lower", "lobe", "lung", "basilar", "interstiti", "pleur"}
_BEFORE_FINDING = _PLACE_OR_SIZE | _COURSE | _PARTS | {"appearanc", "of", "the"}
_STATEMENT_JOINTS = {",", "and"}
_JOINTS = {",", ";", ".", "and", "or", "nor", "/", "with", "but", "may", "might", "could"}

# Endings to cut off, so that "atelectasis", "atelectases" and "atelectatic" become one word. The
# stemmers of libraries keep such Greek endings apart.
_ENDING = re.compile(
    r"""
    (?<=[a-z]{4})                   # leave four letters at least
    (
        as[ei]s | atic              # atelectasis, atelectases, atelectatic
      | osis | otic | osity         # fibrosis, fibrotic; tortuosity
      | (at)?ous | i[ac] | is       # granulomatous; pneumonia, pneumonic; pelvis
      | ifi(ed|c|cation)            # calcified, calcific, calcification
      | it(y|ies)                   # opacity, opacities
      | ing | ed | at(e|ion|ive)    # thickening, thickened; infiltrate, infiltration
      | (?<=[a-z]{5})i(on|ve)       # effusion
      | al | um | (e?m)?ent | ence  # pleural; mediastinum; enlargement; prominence
      | ies | [yae]                 # arteries, artery; pleura; fracture
    )?
    (ly | d | (?<!s)s)?             # normally; infiltrated; lungs, but not "mass"
    $
    """,
    re.VERBOSE,
)
# Their endings matter: what is resolving is still there, what was ruled out is not, "likely" is not
# "like", "following" is not "follow-up"; and "could" and "should" have none.
_WHOLE_WORDS = {
    "resolving", "cleared", "following", "ruled", "rules", "excluded", "excludes", "could",
    "should", "likely",
}  # fmt: skip

# A word, also with "n't"; a number; points or underscores in a row; any other mark.
_TOKEN = re.compile(r"[^\W\d_]+(?:(?<=[nN])['\u2019][tT]\b)?|\d+(?:[.,]\d+)*|\.+|_+|\S")

# Where a sentence ends: after a mark, at an empty line, and at a line's end if the next line is an
# item of a list ("- ", "2) ", "Pleura:") or begins a statement. The common first character lets
# the search skip all others.
_SENTENCE_END = re.compile(
    r"""
    [.!;\n]
    (?:
      (?<= [.!;])(?=\s)(?<!\b[Vv][Ss]\.)  # not the point of "2.5 cm"
    | (?<= \n)(?=[^\S\n]*\n)             # an empty line
    | (?<= \n)
      (?<! [,:/&-] \n)
      (?: (?<! \b(?i:no|of|or|is|as|be|an|to|in|on|at|by) \n) | (?<= [:-][ ](?i:no) \n) )
      (?<! \b(?i:and|for|the|nor|any|new) \n)
      (?<! \b(?i:with) \n) (?<! \b(?i:without) \n)
      (?=
        [^\S\n]{0,20}
        (?:
            [-*\u2022\u2023\u25aa\u25cf]+[ ]?[A-Za-z]     # a bullet
          | [(\#]?\d{1,2}[.):][ ]?[A-Za-z]                # a number
          | [A-Za-z][A-Za-z /&,()'-]{1,40}:                # a heading
          | [A-Z][a-z]
          | (?i:no|there|the|small|tiny|trace|mild|moderate|large|left|right|bilateral|stable|heart
              |lungs|left-sided|right-sided|old|new|persistent|unchanged|increasing|decreasing|possible
              |probable|et|ng|picc)[ ]
          | (?<= (?i:ion|ons|rax|ema|nia|sis|aly) \n)     # one finding after another
            (?i:bibasilar|pleural|effusion|edema|pneumonia|pneumothorax|consolidation|atelectasis
              |cardiomegaly|nodule|mass|opacity|opacities|infiltrate|emphysema|fracture|hernia)
        )
      )
    )
    """,
    re.VERBOSE,
)
# Longer sentences are read in pieces, so that the time grows with the length of the text only.
_LONGEST_SENTENCE = 1500


class Entry(NamedTuple):
    """What phrases of the lexicon stand for.

    `kind`: their section of findings.txt; `name`: their name there; `claims`: what they say of
    findings, if anything; `order`: counts the entries of the file.
    """

    kind: str
    name: str
    claims: tuple[Claim, ...] = ()
    order: int = 0


class Phrase(NamedTuple):
    """A phrase of the lexicon in a sentence: words[start:end] stand for `entry`."""

    entry: Entry
    start: int
    end: int


class Span(NamedTuple):
    """words[start:end] of a sentence."""

    start: int
    end: int


@dataclass(slots=True)
class Assertion:
    """A claim in its clause: `status` is what the triggers so far make of it."""

    finding: str
    status: str
    span: Span


class Modifiers(NamedTuple):
    """Side, zone and severity of a finding; each is "" if the sentence does not say."""

    side: str
    zone: str
    severity: str


_NO_MODIFIERS = Modifiers("", "", "")


class Mention(NamedTuple):
    """A passage, report[start:end], that calls a finding present, absent or uncertain (`status`).

    `side`: left, right or bilateral; `zone`: upper, middle or lower; `severity`: small, moderate
    or large (of size), mild, moderate or severe (of degree). Each is "" if the text does not say.
    """

    finding: str
    status: str
    start: int
    end: int
    side: str = ""
    zone: str = ""
    severity: str = ""


@dataclass
class Node:
    """Where the search for phrases is after some words: the entries of the phrase that they make,
    and where each next word of a longer phrase leads.
    """

    entries: list[Entry] = field(default_factory=list)
    following: dict[str, "Node"] = field(default_factory=dict)


class Sentence(NamedTuple):
    """A sentence of a report, and the offset of its first character there."""

    start: int
    text: str


def split_into_sentences(report: str) -> Iterator[Sentence]:
    """The sentences of a report. Raises TypeError if the report is not text."""
    if not isinstance(report, str):
        raise TypeError(f"A report is text, not {report!r}: leave reports that are missing out.")
    start = 0
    for end in _SENTENCE_END.finditer(report):
        yield from _pieces(report, start, end.end())
        start = end.end()
    yield from _pieces(report, start, len(report))


def _pieces(report: str, start: int, end: int) -> Iterator[Sentence]:
    """report[start:end] without its margins, in pieces if it is too long for a sentence."""
    while end - start > _LONGEST_SENTENCE:
        stop = start + _LONGEST_SENTENCE
        blank = report[start:stop].rstrip().rfind(" ")
        if blank > 0:  # do not cut a word
            stop = start + blank
        yield from _without_margins(report, start, stop)
        start = stop
    yield from _without_margins(report, start, end)


def _without_margins(report: str, start: int, end: int) -> Iterator[Sentence]:
    """report[start:end] as a sentence, unless it is blank."""
    text = report[start:end].lstrip()
    if text:
        yield Sentence(end - len(text), text.rstrip())


@lru_cache(maxsize=100_000)  # reports repeat the same sentences
def read_sentence(sentence: str) -> tuple[Mention, ...]:
    """Every mention in a sentence, those of OTHER_ABNORMALITY included. Offsets start at 0 for the
    first character of the sentence.

    "No left effusion, but the heart is enlarged."
        -> Pleural Effusion absent, left; Cardiomegaly present
    """
    words = split_into_words(sentence)
    words.append(".")  # so that phrases with a full stop match where it was left out
    phrases = match_phrases(words)
    if not any(phrase.entry.kind in _CLAIMING for phrase in phrases):
        return ()
    assertions = []
    for clause in split_into_clauses(phrases):
        resolved = resolve_organs(clause, words)
        assertions += apply_scope(resolved, words)
    if not assertions:
        return ()
    spans = [token.span() for token in _TOKEN.finditer(sentence)]
    return collect_mentions(assertions, phrases, spans, words)


def split_into_words(sentence: str) -> list[str]:
    """The words, numbers and marks of a sentence in lower case, without endings (`_cut_ending`)."""
    return [_cut_ending(token) for token in _TOKEN.findall(sentence)]


def match_phrases(words: list[str]) -> list[Phrase]:
    """Step 1: all phrases of the lexicon in a sentence, by first word, longer ones first.

    "No left effusion, but the heart is enlarged."
        -> no: forward trigger; left: side; effusion: finding; but: termination; heart: organ; ...
    """
    first_words = load_lexicon().following
    phrases = []
    for start, word in enumerate(words):
        node = first_words.get(word)
        if node is None:
            continue
        end = start + 1
        found = []
        while node:
            if node.entries:
                found.append((node.entries, end))
            node = node.following.get(words[end]) if end < len(words) else None
            end += 1
        for entries, end in reversed(found):
            for entry in entries:  # in the order of the file
                phrases.append(Phrase(entry, start, end))
    return phrases


def split_into_clauses(phrases: list[Phrase]) -> list[list[Phrase]]:
    """Step 2: the phrases clause by clause. Phrases that a longer or earlier one covers are left
    out; pseudo-triggers only serve to cover others. Modifiers are left out too: they neither cover
    nor belong to a clause.

    no, left, effusion, but, heart, enlarged
        -> [no, effusion], [heart, enlarged]
    """
    clauses = []
    clause = []
    taken_start = taken_end = 0
    for phrase in phrases:
        entry, start, end = phrase
        kind = entry.kind
        if kind in _MODIFIERS:
            continue
        is_covered = start < taken_end
        # The same words may have several entries in the lexicon, and all of them count.
        if is_covered and (start != taken_start or end != taken_end):
            continue
        taken_start = start
        taken_end = end
        if kind == TERMINATION:
            if clause:
                clauses.append(clause)
            clause = []
            # Only the first word is used up: in ", heart is enlarged" the new clause needs "heart".
            taken_end = start + 1
        elif kind != PSEUDO:
            clause.append(phrase)
    if clause:
        clauses.append(clause)
    return clauses


def resolve_organs(clause: list[Phrase], words: list[str]) -> list[Phrase]:
    """Step 3: the clause with each organ and its quality joined into a statement, ordered by where
    the phrases end. Organs without a quality and qualities without an organ are dropped.

    heart, enlarged
        -> end of scope; "heart is enlarged": statement that claims Cardiomegaly present
    """
    finding_starts = {phrase.start for phrase in clause if phrase.entry.kind == FINDING}
    resolved = []
    waiting = []  # organs whose quality has not come yet
    quality = None  # the last quality that did not describe an organ before it
    for phrase in clause:
        kind = phrase.entry.kind
        if kind == ORGAN:
            statement = _quality_before_organ(quality, phrase)
            if statement:
                if _stands_alone(quality, phrase, words):
                    resolved.append(Phrase(Entry(SCOPE_END, ""), quality.start, quality.start))
                resolved.append(statement)
                quality = quality._replace(end=phrase.end)  # "normal heart and mediastinum"
            else:
                waiting.append(phrase)
        elif kind == QUALITY:
            describes_finding = phrase.end in finding_starts  # "heart, large effusion"
            statements = []
            if not describes_finding:
                statements = _quality_after_organs(waiting, phrase, words)
            if statements:
                resolved += statements
                waiting = []
                quality = None
            else:
                quality = phrase
        else:
            resolved.append(phrase)
    resolved.sort(key=attrgetter("end"))
    return resolved


def _quality_before_organ(quality: Phrase | None, organ: Phrase) -> Phrase | None:
    """The statement of "normal heart"; None if the quality is missing, too far away, or not one
    that says something of this organ.
    """
    if quality is None or organ.start - quality.end > _WORDS_FROM_QUALITY_TO_ORGAN:
        return None
    entry = _statement(organ, quality)
    if entry is None:
        return None
    return Phrase(entry, quality.start, organ.end)


def _stands_alone(quality: Phrase, organ: Phrase, words: list[str]) -> bool:
    """Whether "clear lungs" begins a statement after a negation: "no effusion, clear lungs", "no
    effusion and normal heart"; "no effusion, enlarged heart or mass" is one list.
    """
    if quality.start == 0:
        return False
    joint = words[quality.start - 1]
    if quality.entry.name in _NORMAL_QUALITIES:
        return joint in (",", "and", "with")
    return joint == "," and _ALTERNATIVES.isdisjoint(words[organ.end :])


def _quality_after_organs(organs: list[Phrase], quality: Phrase, words: list[str]) -> list[Phrase]:
    """The statements of "heart and mediastinum are normal", one for each organ that the quality
    suits. With a verb or a normal quality, triggers before the organ do not reach the statement:
    "no effusion and heart is enlarged", unlike "no effusion or heart enlargement".
    """
    statements = []
    for organ in organs:
        entry = _statement(organ, quality)
        if entry is None:
            continue
        has_verb = not _VERBS.isdisjoint(words[organ.end : quality.start])
        if has_verb or quality.entry.name in _NORMAL_QUALITIES:
            statements.append(Phrase(Entry(SCOPE_END, ""), organ.start, organ.start))
        statements.append(Phrase(entry, organ.start, quality.end))
    return statements


def _statement(organ: Phrase, quality: Phrase) -> Entry | None:
    """What the organ and the quality state together; None if nothing."""
    claims = ORGAN_STATEMENTS.get((organ.entry.name, quality.entry.name))
    if claims is None:
        return None
    return Entry(STATEMENT, f"{organ.entry.name} {quality.entry.name}", claims)


def apply_scope(clause: list[Phrase], words: list[str]) -> list[Assertion]:
    """Step 4: the findings that the clause claims, each with the status that the triggers before
    and after it give. Findings that are only history are dropped.

    no, effusion
        -> Pleural Effusion absent
    """
    scope = PRESENT
    scope_start = 0
    is_current = any(phrase.entry.kind == CURRENT for phrase in clause)
    assertions = []
    for phrase in clause:
        kind = phrase.entry.kind
        if kind == SCOPE_END:
            scope = PRESENT
        elif kind == FORWARD:
            # Only after a comma may a later trigger end a negation: "no evidence of possible
            # pneumonia" is absent, "no effusion, possible pneumonia" is not.
            is_past = phrase.entry.name == HISTORY and _follows_finding(phrase, assertions, words)
            if scope != ABSENT or _follows_comma(phrase, words) or is_past:
                scope = phrase.entry.name
                scope_start = phrase.end
        elif kind == EITHER_SIDE and _describes_next(phrase, clause, words):
            scope = phrase.entry.name
            scope_start = phrase.end
        elif kind in _BACKWARD or kind == EITHER_SIDE:
            _apply_backward(phrase, assertions, words)
        elif phrase.entry.claims:
            if scope != PRESENT and _starts_own_clause(phrase, words):
                scope = PRESENT
            if scope == ABSENT and _leaves_negation(phrase, words, scope_start):
                scope = PRESENT
            span = Span(phrase.start, phrase.end)
            for claim in phrase.entry.claims:
                status = _status_in_scope(claim, scope, is_current)
                assertions.append(Assertion(claim.finding, status, span))
    return [assertion for assertion in assertions if _is_mention(assertion)]


def _describes_next(trigger: Phrase, clause: list[Phrase], words: list[str]) -> bool:
    """Whether a trigger belongs to the finding after it, "resolved left effusion", and not to one
    before it, "edema resolved and effusion is small".
    """
    for phrase in clause:
        if phrase.end > trigger.end and phrase.entry.claims:
            return _JOINTS.isdisjoint(words[trigger.end : phrase.start])
    return False


def _follows_finding(trigger: Phrase, assertions: list[Assertion], words: list[str]) -> bool:
    """Whether the past begins after a statement: "no pneumothorax status post chest tube", unlike
    "no history of pneumonia" and "no effusion or prior fracture".
    """
    return bool(assertions) and words[trigger.start - 1] not in _ALTERNATIVES


def _apply_backward(trigger: Phrase, assertions: list[Assertion], words: list[str]) -> None:
    """Set the trigger's status on those of `assertions` that are not absent, as far back as
    another statement begins. The verbs of the trigger itself do not count: "effusion is not seen",
    "effusion is felt to be unlikely".
    """
    stop = trigger.start - 1
    while stop > 0 and words[stop - 1] in _VERB_PHRASE:
        stop -= 1
    status = _status_after(trigger, words)
    for assertion in assertions:
        is_nearest = assertion.span == assertions[-1].span
        if trigger.entry.kind == BACKWARD_NEAREST and not is_nearest:
            continue
        if assertion.status == ABSENT:
            continue
        if not _is_separate(assertion, is_nearest, words, stop):
            assertion.status = status


def _status_after(trigger: Phrase, words: list[str]) -> str:
    """The status of a backward trigger. An exclusion that is negated or only planned leaves the
    finding open: "cannot be reliably excluded", "should be ruled out".
    """
    if trigger.entry.kind != EXCLUSION:
        return trigger.entry.name
    before = words[max(0, trigger.start - _WORDS_TO_EXCLUSION) : trigger.start]
    return ABSENT if _OPEN.isdisjoint(before) else UNCERTAIN


def _is_separate(assertion: Assertion, is_nearest: bool, words: list[str], stop: int) -> bool:
    """Whether another statement begins between a finding and a trigger at words[stop]: with a
    verb, "effusion with edema not seen", "effusion, edema not seen", "there is effusion and edema
    is not seen". "Effusion, edema, or mass is not seen" is one list.
    """
    between = words[assertion.span.end : stop]
    if "with" in between or not _VERBS.isdisjoint(between) or not _COURSE.isdisjoint(between):
        return True
    if is_nearest or not _ALTERNATIVES.isdisjoint(between):
        return False
    if "and" in between:
        return not _VERBS.isdisjoint(words[: assertion.span.start])
    return "," in between


def _starts_own_clause(phrase: Phrase, words: list[str]) -> bool:
    """Whether a comma precedes and a verb follows: "no effusion, pneumothorax is small"; or "and"
    precedes and a course follows: "no effusion and edema has improved", unlike "no effusion and
    edema is seen".
    """
    joint = words[phrase.start - 1] if phrase.start else ""
    if joint not in _STATEMENT_JOINTS:
        return False
    following = phrase.end
    if joint == "," and following < len(words) and words[following] in _VERBS:
        return True
    while following < len(words) and words[following] in _VERB_PHRASE:
        following += 1
    return following < len(words) and words[following] in _COURSE


def _leaves_negation(phrase: Phrase, words: list[str], scope_start: int) -> bool:
    """Whether a statement of its own begins with the phrase, although words[scope_start:] are
    negated: "no edema and small effusion", "no edema with stable effusion", "no edema, left
    effusion", "no edema or mass, effusion". "No edema, left effusion or mass" is one list.
    """
    start = phrase.start
    while start > scope_start and words[start - 1] in _BEFORE_FINDING:
        start -= 1
    joint = words[start - 1]
    modifiers = words[start : phrase.start]
    if joint in ("and", "with"):
        return not _SMALL_OR_COURSE.isdisjoint(modifiers)
    if joint != "," or not _ALTERNATIVES.isdisjoint(words[phrase.end :]):
        return False
    if not _PLACE_SIZE_OR_COURSE.isdisjoint(modifiers):
        return True
    return not _ALTERNATIVES.isdisjoint(words[scope_start:start])


def _follows_comma(phrase: Phrase, words: list[str]) -> bool:
    return phrase.start > 0 and words[phrase.start - 1] == ","


def _status_in_scope(claim: Claim, scope: str, is_current: bool) -> str:
    """The status of a claim in a scope. `is_current`: the clause says that its history is
    "unchanged" or the like.
    """
    if claim.status == ABSENT:
        # "Not normal" is abnormal; "possibly normal" still counts as normal.
        return PRESENT if scope == ABSENT else ABSENT
    if scope == HISTORY and (is_current or claim.finding in _STILL_VISIBLE):
        return PRESENT
    return scope


def _is_mention(assertion: Assertion) -> bool:
    if assertion.finding == NO_FINDING:
        return assertion.status == PRESENT  # "lungs are not clear" states another finding
    return assertion.status != HISTORY


def collect_mentions(
    assertions: list[Assertion],
    phrases: list[Phrase],
    characters: list[tuple[int, int]],
    words: list[str],
) -> tuple[Mention, ...]:
    """Step 5: the assertions as mentions, with the side, zone and severity that `phrases` give
    nearby. Word i of the sentence has the characters from characters[i][0] to characters[i][1].

    Pleural Effusion absent at words[2:3]
        -> Mention("Pleural Effusion", "absent", start=8, end=16, side="left")
    """
    modifier_phrases = [phrase for phrase in phrases if phrase.entry.kind in _MODIFIERS]
    modifiers = {}
    if modifier_phrases:
        spans = sorted({assertion.span for assertion in assertions})
        modifiers = _assign_modifiers(spans, modifier_phrases, words)
    mentions = []
    for assertion in assertions:
        span = assertion.span
        first, _ = characters[span.start]
        _, end = characters[span.end - 1]
        nearby = modifiers.get(span, _NO_MODIFIERS)
        mention = Mention(
            finding=assertion.finding,
            status=assertion.status,
            start=first,
            end=end,
            side=nearby.side,
            zone=nearby.zone,
            severity=nearby.severity,
        )
        mentions.append(mention)
    return tuple(mentions)


def _assign_modifiers(
    spans: list[Span], modifier_phrases: list[Phrase], words: list[str]
) -> dict[Span, Modifiers]:
    """The modifiers of each span, from the phrases in its surroundings. These start where the
    surroundings of the previous span end.
    """
    modifiers = {}
    first = 0
    for index, span in enumerate(spans):
        last = _end_of_surroundings(spans, index, words)
        nearby = [phrase.entry for phrase in modifier_phrases if first <= phrase.start < last]
        modifiers[span] = _merge(nearby)
        first = last
    return modifiers


def _end_of_surroundings(spans: list[Span], index: int, words: list[str]) -> int:
    """The first joint, such as "and", between the span and the next, else the next span."""
    if index == len(spans) - 1:
        return len(words)
    next_start = spans[index + 1].start
    for position in range(spans[index].end, next_start):
        if words[position] in _JOINTS:
            return position
    return next_start


def _merge(entries: list[Entry]) -> Modifiers:
    """Several sides become bilateral, several zones none, several severities the greatest."""
    sides = {entry.name for entry in entries if entry.kind == SIDE}
    zones = {entry.name for entry in entries if entry.kind == ZONE}
    severities = {entry.name for entry in entries if entry.kind == SEVERITY}
    side = "bilateral" if len(sides) > 1 else "".join(sides)
    zone = "".join(zones) if len(zones) == 1 else ""
    severity = max(severities, key=_SEVERITIES.index, default="")
    return Modifiers(side, zone, severity)


@cache
def load_lexicon() -> Node:
    """findings.txt, read once a process: the node before the first word of any phrase."""
    parser = ConfigParser(delimiters=":", comment_prefixes="#", interpolation=None)
    parser.optionxform = str  # names keep their capitals
    parser.read_string(Path(__file__).with_name("findings.txt").read_text())
    root = Node()
    order = 0
    for kind in parser.sections():
        for name, listed in parser[kind].items():
            entry = Entry(kind, name, _claims(kind, name), order)
            order += 1
            for phrase in _spell_out(listed):
                _add_phrase(root, phrase, entry)
    return root


def _add_phrase(root: Node, phrase: str, entry: Entry) -> None:
    node = root
    for word in split_into_words(phrase):
        node = node.following.setdefault(word, Node())
    if entry not in node.entries:
        node.entries.append(entry)


@lru_cache(maxsize=50_000)
def _cut_ending(word: str) -> str:
    """The word in lower case without its ending."""
    word = word.lower().replace("\u2019", "'")
    if len(word) <= 4 or word in _WHOLE_WORDS:
        return word
    return _ENDING.sub("", word)


def _claims(kind: str, name: str) -> tuple[Claim, ...]:
    if kind == FINDING:
        return (Claim(name, PRESENT),)
    if kind == ABNORMALITY:
        return (Claim(OTHER_ABNORMALITY, PRESENT),)
    if kind == DISEASE:
        return (Claim(NO_FINDING, ABSENT),)
    return ()


def _spell_out(listed: str) -> list[str]:
    """Each phrase of "a|b c, d" in full: "a c", "b c", "d"."""
    phrases = []
    for pattern in listed.replace("\n", " ").split(", "):
        choices = [word.split("|") for word in pattern.replace("COMMA", ",").split()]
        for words in product(*choices):
            phrases.append(" ".join(words))
    return phrases
