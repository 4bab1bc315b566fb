"""The headings of radiology reports: which section each opens, and where they begin (ours).

Every hospital has headings of its own, so no list is complete. `section_of` looks a heading up in
`SPELLINGS`, then allows for misspellings, and else asks what its most important word means:
"RADIOLOGIST'S SUMMARY" is a summary, "SUMMARY OF FINDINGS" too.
"""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

COMBINED = "findings and impression"  # one heading for both
REPORT = "report"  # the findings, or the name of the study if the findings have their own heading
INTERPRETATION = "interpretation"  # the impression, or the findings if the impression is elsewhere
SPELLINGS = {
    "findings": (
        "findings",
        "finding",
        "reference findings",
        "chest findings",
        "radiographic findings",
        "observation",
        "observations",
    ),
    "impression": (
        "impression",
        "impressions",
        "imp",
        "conclusion",
        "conclusions",
        "opinion",
        "summary",
        "assessment",
        "diagnosis",
        "diagnoses",
        "synopsis",
    ),
    COMBINED: (
        "findings and impression",
        "findings & impression",
        "findings/impression",
        "findings/ impression",
        "findings / impression",
        "impression and findings",
        "findings and conclusion",
    ),
    REPORT: ("report", "result", "results", "description", "narrative", "discussion"),
    INTERPRETATION: ("interpretation", "interpretations", "reading"),
    "indication": (
        "indication",
        "indications",
        "clinical indication",
        "reason",
        "reason for exam",
        "reason for study",
        "reason for examination",
        "reason for this examination",
        "complaint",
        "complaints",
        "symptom",
        "symptoms",
        "question",
    ),
    "history": (
        "history",
        "hx",
        "clinical history",
        "patient history",
        "clinical information",
        "clinical data",
        "medical condition",
        "background",
        "presentation",
        "pfi",
        "hpi",
        "pmh",
    ),
    "comparison": (
        "comparison",
        "comparisons",
        "comparison exam",
        "comparison film",
        "comparison study",
        "comparison studies",
        "compared",
        "correlation",
        "reference exam",
        "prior",
        "priors",
        "prior study",
        "prior studies",
    ),
    "technique": ("technique", "protocol", "method", "methods", "view", "views", "projection"),
    "examination": (
        "examination",
        "exam",
        "type of examination",
        "type of exam",
        "type of study",
        "exam type",
        "study type",
        "exam description",
        "study description",
        "study",
        "procedure",
        "modality",
    ),
    "date": ("date", "time", "date of exam", "date of study"),
    "patient": (
        "patient",
        "name",
        "mrn",
        "age",
        "sex",
        "gender",
        "dob",
        "accession",
        "accession number",
        "location",
        "physician",
        "clinician",
        "ordered",
        "requested",
    ),
    "recommendations": (
        "recommendation",
        "recommendations",
        "recommendation(s)",
        "suggestion",
        "suggestions",
        "advice",
        "plan",
        "follow-up",
        "follow up",
        "followup",
        "management",
    ),
    "notification": (
        "notification",
        "notifications",
        "notification(s)",
        "communication",
        "communications",
        "notified",
        "communicated",
        "discussed",
        "critical result",
        "critical results",
    ),
    "signature": (
        "signature",
        "signed",
        "dictated",
        "transcribed",
        "interpreted",
        "read",
        "reported",
        "reviewed",
        "verified",
        "approved",
        "radiologist",
        "resident",
        "attending",
        "attestation",
    ),
    "comment": ("comment", "comments", "note", "notes", "remark", "remarks", "disclaimer"),
    "addendum": ("addendum", "addenda", "final addendum", "amendment"),
    "wet read": ("wet read", "wetread", "wet reading", "preliminary read", "preliminary reading"),
}
FINDINGS_AND_IMPRESSION = ("findings", "impression")
MAIN = (*FINDINGS_AND_IMPRESSION, COMBINED, REPORT, INTERPRETATION)
ASIDES = ("addendum", "wet read")  # reports within the report, with headings of their own
# Running text that often mentions findings and impressions ("Impression: as above").
AFTER_IMPRESSION = ("recommendations", "notification", "signature", "comment", *ASIDES)

# Their headings are words that findings use too ("Lateral view: clear").
WEAK = ("patient", "date", "examination", "technique")

# What these words make of a heading that would else be a main one.
QUALIFIERS = {
    "clinical": "history",
    "admitting": "history",
    "admission": "history",
    "preoperative": "history",
    "pre-operative": "history",
    "referring": "history",
    "prior": "comparison",
    "previous": "comparison",
    "old": "comparison",
    "critical": "notification",
    "communicated": "notification",
    "discussed": "notification",
    "reported": "notification",
}
# Words of sentences. "There are two findings:" is no heading.
_SENTENCE_WORDS = (
    "is are was were be been being has have had there which that these may could should would"
    " seen noted not as following we i it he she"
)
SENTENCE_WORDS = frozenset(_SENTENCE_WORDS.split())
# "The overall impression: good" has no heading inside.
_DETERMINERS = "a an the this that my our your his her its these those no"
DETERMINERS = frozenset(_DETERMINERS.split())
_BINDING_WORDS = (
    "and or of with for in on to from by per overall above following initial clinical prior"
    " previous"
)
BEFORE_NO_HEADING = DETERMINERS.union(_BINDING_WORDS.split())
CONNECTIONS = ("and", "&", "of", "for", "/", "or")
# Words that belong to the heading after them where no full stop shows its beginning.
_ADJECTIVES = (
    "final radiological radiologic radiology radiographic imaging x-ray xray clinical presenting"
    " patient chief preliminary critical radiologist's reference previous prior electronically"
)
ADJECTIVES = frozenset(_ADJECTIVES.split())
_COMPANIONS = "by with to the chest exam study examination short brief main overall additional"
COMPANIONS = ADJECTIVES.union(CONNECTIONS, _COMPANIONS.split())
# After a colon these continue a sentence: "The heart impression: is large".
CONTINUING_WORDS = frozenset(["is", "are", "was", "were", "has", "have", "as"])
MOST_WORDS = 7
MOST_CHARACTERS = 60


def _section_of_spelling() -> dict[str, str]:
    section_of_spelling = {}
    for section, spellings in SPELLINGS.items():
        for spelling in spellings:
            section_of_spelling[spelling] = section
    return section_of_spelling


def any_of(words: Iterable[str]) -> str:
    """A regular expression for any of `words`, the longest that fits."""
    longest_first = sorted(words, key=len, reverse=True)
    return "|".join(re.escape(word) for word in longest_first)


SECTION_OF = _section_of_spelling()
SINGLE_WORDS = {"clinical"} | {spelling for spelling in SECTION_OF if spelling.isalpha()}
# Each word of any spelling; a heading without one of them names no section.
HEADING_WORDS = {word for spelling in SECTION_OF for word in re.findall("[a-z]+", spelling)}


def _shortened(word: str) -> list[str]:
    """`word` without one of its letters, in every way."""
    return [word[:i] + word[i + 1 :] for i in range(len(word))]


def _misspellings() -> dict[str, str]:
    """Long words of headings, whole, without one letter, and longer ones without two -> the word.

    Two words share an entry if they differ by a letter that is missing, superfluous, wrong or in
    the wrong place.
    """
    misspelt = {}
    for word in sorted(HEADING_WORDS):
        if len(word) < 6:
            continue
        shorter = _shortened(word)
        if len(word) >= 9:
            for once in _shortened(word):
                shorter += _shortened(once)
        for form in shorter:
            misspelt.setdefault(form, word)
    for word in HEADING_WORDS:
        misspelt[word] = word
    return misspelt


MISSPELT = _misspellings()
FIRST_LETTERS = {form[:3] for form in MISSPELT}
LAST_LETTERS = {form[-3:] for form in MISSPELT}


def _corrected(word: str) -> str:
    """The word of our headings that `word` is a misspelling of, or `word` itself."""
    if word in MISSPELT:
        return MISSPELT[word]
    if len(word) < 6:
        return word
    # Speed: without one letter, six or more keep their first three or their last three.
    if word[:3] in FIRST_LETTERS or word[-3:] in LAST_LETTERS:
        for form in _shortened(word):
            if form in MISSPELT:
                return MISSPELT[form]
    return word


@lru_cache(maxsize=4096)
def _has_heading_word(word: str) -> bool:
    """Whether `word`, in lower case, or a part of it ("finding(s)") is a word of our headings."""
    word = _corrected(word)
    if word in HEADING_WORDS:
        return True
    if word.isascii() and word.isalpha():
        return False
    return not HEADING_WORDS.isdisjoint(re.findall("[a-z]+", word))


@lru_cache(maxsize=4096)
def section_of(heading: str) -> str | None:
    """The section that a heading opens, by its spelling or its meaning; None if nothing tells."""
    words = heading.lower().split()
    spelling = " ".join(words)
    if spelling in SECTION_OF:
        return SECTION_OF[spelling]
    if len(words) > MOST_WORDS:
        return None
    if not any(map(_has_heading_word, words)):  # speed: most words of a report are in no heading
        return None
    words = [_corrected(word) for word in words]
    spelling = " ".join(words)
    if spelling in SECTION_OF:
        return SECTION_OF[spelling]
    if not SENTENCE_WORDS.isdisjoint(words):
        return None
    return _section_by_meaning(spelling)


def _section_by_meaning(heading: str) -> str | None:
    """The section that the most important word names, as qualified by the others.

    It is the last word before "of", "for" and the like: "critical findings of today", "summary of
    findings". Of several parts ("findings and impression"), findings and impression win.
    """
    head = re.split(r" (?:of|for|to|from|by|with|on|in)\b", heading)[0]
    parts = re.split(r" and | or |[&/,+]", head)
    named = [_section_of_part(part) for part in parts]
    sections = [section for section in named if section]
    if not sections:
        return "history" if heading.startswith("clinical ") else None
    main = [section for section in sections if section in MAIN]
    if {"findings", "impression"} <= set(main) or {REPORT, "impression"} <= set(main):
        return COMBINED
    return main[0] if main else sections[0]


def _section_of_part(part: str) -> str | None:
    words = re.findall(r"[a-z-]+", part)
    if not words:
        return None
    last = words[-1]
    if len(words) > 1 and last == "s":  # "finding(s)"
        last = words[-2]
    section = SECTION_OF.get(last)
    if section in MAIN or section == "examination":
        for word in words:
            if word in QUALIFIERS:
                return QUALIFIERS[word]
    return section


def is_made_of_heading_words(heading: str) -> bool:
    """Whether every word belongs into headings: "Radiologist's conclusion", not "Heart report"."""
    words = re.split(r"[ /,]+", heading.lower())
    return all(word in COMPANIONS or _corrected(word) in SINGLE_WORDS for word in words)


SENTENCE_END = re.compile("[.?!] ")
INLINE_COLON = re.compile(r"(?<=[A-Za-z)]) ?:")
# In a report on one line that writes its headings without a mark.
BARE_INLINE = re.compile(
    r"(?<=[.?!]) (?=(?:FINDINGS?|IMPRESSIONS?|CONCLUSIONS?|SUMMARY|OPINION|INDICATIONS?|HISTORY"
    r"|COMPARISONS?|TECHNIQUE|RECOMMENDATIONS?|NOTIFICATIONS?) [A-Z0-9])"
)
INLINE_ASIDE = re.compile(r" (?=(?:FINAL )?ADDENDUM\b|WET ?READ\b)")
INLINE_REPORT_START = re.compile(r" ?(_{5,}|={5,}|-{5,}|\bFINAL REPORT\b(?! ?:)) ?")


def split_inline(line: str, is_whole_report: bool) -> list[str]:
    """The line cut before each heading inside it.

    In general only headings in capitals after a sentence count. If the line is the whole report,
    all headings of `SPELLINGS` do, unless the word before binds them: "the overall impression:".
    """
    if " " not in line:
        return [line]  # a heading inside a line follows a blank
    if not is_whole_report and not SENTENCE_END.search(line):
        return [line]
    is_lower = is_whole_report and line.islower()
    starts = []
    begin = 0
    for colon in INLINE_COLON.finditer(line):
        before = line[begin : colon.start()]
        is_line_heading = begin == 0 and _is_one_heading(before)
        length = 0
        if not is_line_heading:
            length = _inline_length(before[-MOST_CHARACTERS:], is_whole_report, is_lower)
        if length:
            starts.append(colon.start() - length)
        begin = max(begin, colon.end() - MOST_CHARACTERS)
        if length:
            begin = colon.end()
    return list(_cut(line, starts))


def _cut(line: str, starts: list[int]) -> Iterator[str]:
    begin = 0
    for start in starts:
        yield line[begin:start].strip()
        begin = start
    yield line[begin:].strip()


@lru_cache(maxsize=4096)
def _inline_length(before: str, is_whole_report: bool, is_lower: bool) -> int:
    """Characters of the heading at the end of `before`, the text up to a colon; 0 if none.

    `before` has MOST_CHARACTERS at most.
    """
    words = before.split(" ")
    if not _may_end_with_heading(words):
        return 0
    count = _words_after_sentence(words)
    if count:
        heading = " ".join(words[-count:])
        is_heading = heading.isupper() or (is_whole_report and (heading[0].isupper() or is_lower))
        return len(heading) if is_heading else 0
    if not is_whole_report:
        return 0
    count = _words_of_heading(words)
    if not count or count == len(words):
        return 0
    heading = " ".join(words[-count:])
    may_be_words = section_of(heading) in WEAK and not heading.isupper()
    previous = words[-count - 1]
    is_bound = previous.lower() in BEFORE_NO_HEADING and previous.isupper() == heading.isupper()
    has_case = heading[0].isupper() or is_lower
    return len(heading) if has_case and not may_be_words and not is_bound else 0


def _may_end_with_heading(words: list[str]) -> bool:
    """Whether any of the last words could be a heading's; quick, for texts full of colons."""
    last_words = [word.lower() for word in words[-MOST_WORDS:]]
    if not SINGLE_WORDS.isdisjoint(last_words):
        return True
    if not any(map(_has_heading_word, last_words)):
        return False
    for word in last_words:
        if not word.isalpha() and len(word) > 2:
            return True  # "finding(s)", "findings/impression"
        if _corrected(word) in SINGLE_WORDS:
            return True
    return False


def _is_one_heading(before: str) -> bool:
    """Whether all that precedes a colon is one heading: "PHYSICIAN INTERPRETATION"."""
    if ":" in before or len(before) > MOST_CHARACTERS:
        return False
    is_heading = before.isupper() or is_made_of_heading_words(before)
    return is_heading and section_of(before) is not None


def _words_after_sentence(words: list[str]) -> int:
    """How many words, from the end of a sentence on, are a heading: "FINAL DIAGNOSIS"."""
    for count in range(1, min(len(words), MOST_WORDS)):
        if _ends_sentence(words[-count - 1]):
            heading = words[-count:]
            is_bound = heading[0].lower() in BEFORE_NO_HEADING and not heading[0].isupper()
            is_mixed = heading[-1].isupper() and not heading[0].isupper()
            known = section_of(" ".join(heading))
            return count if known and not is_bound and not is_mixed else 0
    return 0


def _words_of_heading(words: list[str]) -> int:
    """How many of the last words are a heading: the fewest that we know, and what belongs to them.

    "None FINAL IMPRESSION AND PLAN" -> 4
    """
    most = min(len(words), MOST_WORDS)
    tails = {count: " ".join(words[-count:]) for count in range(1, most + 1)}
    listed = [count for count in tails if tails[count].lower() in SECTION_OF]
    if listed:
        count = listed[-1]
    else:
        count = next((count for count in tails if section_of(tails[count])), 0)
    if not count:
        return 0
    while count + 2 <= most and words[-count - 1].lower() in CONNECTIONS:
        if section_of(tails[count + 2]) is None:
            break
        count += 2
    is_upper = words[-1].isupper()
    while count < most and words[-count - 1].lower() in ADJECTIVES:
        if words[-count - 1].isupper() != is_upper:
            break
        count += 1
    return count


def _ends_sentence(word: str) -> bool:
    """Whether a word ends a sentence; "2." is the number of a list."""
    return word.endswith((".", "?", "!")) and not word[:-1].isdigit()
