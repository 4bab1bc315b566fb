"""Radiology reports: their sections, the cleaning of their text, and the text policy (all ours).

`sections` reads a report in four steps: its lines; which lines are headings, and why; blocks, each
a heading with the paragraphs below it; and sections, which join the blocks of the same name.

The headings are those of MIMIC-CXR's reports, in all their spellings. Many radiologists skip the
findings heading. In such a report the paragraphs under no heading, before the impression, count as
findings.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import NamedTuple

COMBINED = "findings and impression"  # one heading for both
SPELLINGS = {
    "findings": (
        "findings",
        "finding",
        "reference findings",
        "chest findings",
        "radiographic findings",
    ),
    "impression": ("impression", "impressions", "conclusion", "conclusions", "opinion"),
    COMBINED: (
        "findings and impression",
        "findings & impression",
        "findings/impression",
        "findings/ impression",
        "findings / impression",
        "impression and findings",
        "findings and conclusion",
    ),
    "indication": (
        "indication",
        "indications",
        "clinical indication",
        "reason for exam",
        "reason for study",
        "reason for examination",
        "reason for this examination",
    ),
    "history": ("history", "clinical history", "patient history", "clinical information", "pfi"),
    "comparison": (
        "comparison",
        "comparisons",
        "comparison exam",
        "comparison film",
        "comparison study",
        "comparison studies",
        "reference exam",
        "prior study",
        "prior studies",
    ),
    "technique": ("technique",),
    "examination": ("examination", "exam", "type of examination", "type of exam"),
    "date": ("date", "date of exam", "date of study"),
    "recommendations": ("recommendation", "recommendations", "recommendation(s)"),
    "notification": (
        "notification",
        "notifications",
        "notification(s)",
        "communication",
        "critical results",
    ),
    "comment": ("comment", "comments", "note"),
    "addendum": ("addendum", "addenda", "final addendum"),
    "wet read": ("wet read", "wetread", "wet reading"),
}
FINDINGS_AND_IMPRESSION = ("findings", "impression")
MAIN = (*FINDINGS_AND_IMPRESSION, COMBINED)
ASIDES = ("addendum", "wet read")  # reports within the report, with headings of their own
# Running text that often mentions findings and impressions ("Impression: as above").
AFTER_IMPRESSION = ("recommendations", "notification", "comment", *ASIDES)


def _section_of_spelling() -> dict[str, str]:
    section_of = {}
    for section, spellings in SPELLINGS.items():
        for spelling in spellings:
            section_of[spelling] = section
    return section_of


def _any_of(words: Iterable[str]) -> str:
    """A regular expression for any of `words`, the longest that fits."""
    longest_first = sorted(words, key=len, reverse=True)
    return "|".join(re.escape(word) for word in longest_first)


SECTION_OF = _section_of_spelling()
LOWER_CASE = list(SECTION_OF)
UPPER_CASE = [spelling.upper() for spelling in LOWER_CASE]
CAPITALISED = [spelling.capitalize() for spelling in LOWER_CASE]

# Headings. Group 1 is the heading's words, group 2 the mark after them, group 3 the line's rest.
KNOWN_HEADING = re.compile(rf"({_any_of(LOWER_CASE)})\s*(:|[-–—]+(?=\s|$)|(?=\s|$))\s*(.*)", re.I)
OTHER_HEADING = re.compile(r"([A-Z][A-Z /&,()'-]{1,50}?)\s*(:)\s*(.*)")
ASIDE_HEADING = re.compile(r"(?:FINAL )?(ADDENDUM|WET ?READ)\b[\s:]*(.*)")  # words and rest only
# A line that begins the report proper: "FINAL REPORT", or a horizontal rule.
REPORT_START = re.compile(r"((FINAL|PROVISIONAL|PRELIMINARY) )?REPORT\s*:?$|[_=-]{5,}$", re.I)
STUDY_WORDS = re.compile(
    r"\b(chest|radiographs?|x-?rays?|views?|lateral|portable|examination)\b", re.I
)

# Headings inside a line.
UPPER_AFTER_SENTENCE = re.compile(rf"(?<=[.?!])[ \t]+((?:{_any_of(UPPER_CASE)})\s*:)")
UPPER_ANYWHERE = re.compile(rf"(?:^|[ \t]+)((?:{_any_of(UPPER_CASE)})\s*:)")
ANY_AFTER_SENTENCE = re.compile(rf"(?<=[.?!])[ \t]+((?:{_any_of(UPPER_CASE + CAPITALISED)})\s*:)")

# What only the page's layout put into the text.
PAGE_BREAK = re.compile(r"\(Over\)\s*(FINAL REPORT)?\s*\(Cont\)", re.I)
HYPHEN_AT_END = re.compile(r"\w-$")
# The second half of a word that was hyphenated there. "left- / and right-sided" was not.
SECOND_HALF = re.compile(r"(?!and |or |to )[a-z0-9]")


@dataclass
class _Block:
    """Paragraphs of one section, in the order of the report."""

    section: str
    paragraphs: list[str]


class _Heading(NamedTuple):
    """The section that a line opens, and the line's text after the heading."""

    section: str
    rest: str


def decode(data: bytes) -> str:
    """Text of a report file: UTF-8, or else Windows-1252, which old hospital systems write."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def sections(text: str) -> dict[str, str]:
    """Sections of a report by canonical name in lower case (`SPELLINGS`), white space collapsed.

    Two more names occur: "preamble", the text before the first heading, and "title", the text
    under a heading that names the study ("PORTABLE CHEST: ..."). Empty sections are left out.

    Sections that repeat (several impressions, studies in parts) are joined in order. Text under
    "FINDINGS AND IMPRESSION" counts as the findings and as the impression, unless they have a
    heading of their own. Text of a wet read or an addendum is in no other section. A text without
    any heading is all findings.
    """
    blocks = _blocks(_lines(text))
    by_section: dict[str, list[str]] = defaultdict(list)  # paragraphs
    for block in blocks:
        by_section[block.section] += block.paragraphs
    for section in FINDINGS_AND_IMPRESSION:
        if not by_section[section]:
            by_section[section] = by_section[COMBINED]
    if not by_section["findings"]:
        by_section["findings"] = _take_unheaded(blocks, by_section)
    if not _has_sections(by_section):
        return _joined({"findings": by_section["preamble"]})
    by_section.pop(COMBINED, None)
    return _joined(by_section)


def _lines(text: str) -> list[str]:
    """Lines without margins, white space collapsed; headings after a sentence start a line."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = PAGE_BREAK.sub("", text).strip()
    text = UPPER_AFTER_SENTENCE.sub(r"\n\1", text)
    if "\n" not in text:  # somebody put the whole report on one line, as tables do
        text = UPPER_ANYWHERE.sub(r"\n\1", text)
        text = ANY_AFTER_SENTENCE.sub(r"\n\1", text)
    return [" ".join(line.split()) for line in text.split("\n")]


def _heading(line: str, current: str, starts_paragraph: bool) -> _Heading | None:
    """The heading at the start of `line`, or None.

    `current` is the section of the lines before.
    """
    aside = ASIDE_HEADING.match(line)
    if aside:
        words, rest = aside.groups()
        return _Heading(SECTION_OF[words.lower()], rest)
    match = KNOWN_HEADING.match(line) or OTHER_HEADING.match(line)
    if not match:
        return None
    words, mark, rest = match.groups()
    section = _named_section(words.lower())
    if section is None:
        # "PORTABLE CHEST: ..." is a title; "LUNGS: clear" is a structured finding.
        is_title = current not in MAIN and STUDY_WORDS.search(words)
        return _Heading("title", rest) if is_title else None
    if mark or not rest:
        is_heading = _is_marked_heading(words, current, starts_paragraph)
    else:
        is_heading = _is_bare_heading(words, rest, section, starts_paragraph)
    return _Heading(section, rest) if is_heading else None


def _is_marked_heading(words: str, current: str, starts_paragraph: bool) -> bool:
    """Whether words before a colon or a dash, or alone on their line, are a heading.

    Capital letters or the start of a paragraph are enough: "FINDINGS:". Inside a paragraph,
    "Findings:" is a heading too, except in the running text after the impression. In "the overall /
    impression: good", a sentence wrapped at the slash, it is not.
    """
    if words.isupper() or starts_paragraph:
        return True
    return words[0].isupper() and current not in AFTER_IMPRESSION


def _is_bare_heading(words: str, rest: str, section: str, starts_paragraph: bool) -> bool:
    """Whether words are a heading if their text follows on the same line, without a mark."""
    rest_is_lower = rest[0].islower()
    if words.isupper():  # "FINDINGS The lungs are clear"; not "FINDINGS ARE STABLE"
        return not rest.isupper() and (starts_paragraph or not rest_is_lower)
    # "Findings Heart is normal"; not "Findings are stable".
    return starts_paragraph and words[0].isupper() and section in MAIN and not rest_is_lower


@lru_cache(maxsize=4096)
def _named_section(words: str) -> str | None:
    """The section that a heading in lower case names, or None.

    The heading may be misspelt ("impresson") or longer than ours ("preliminary impression").
    """
    close = get_close_matches(words, SECTION_OF, n=1, cutoff=0.87)
    if close:
        return SECTION_OF[close[0]]
    for word in reversed(re.findall(r"[a-z]+", words)):
        if word in SECTION_OF:
            return SECTION_OF[word]
    return None


def _blocks(lines: list[str]) -> list[_Block]:
    """The report cut at its headings, in order.

    Text before the first heading, and after a rule or "FINAL REPORT", is a block "preamble".
    """
    report_starts = [i for i, line in enumerate(lines) if REPORT_START.match(line)]
    width = _width(lines)
    block = _Block("preamble", [""])
    blocks = [block]
    headings_from = 0  # index of the first line that may be a heading; rises at each aside
    previous = ""
    for i, line in enumerate(lines):
        starts_paragraph = _starts_paragraph(line, previous, block.section, width)
        heading = None
        if REPORT_START.match(line):
            heading = _Heading("preamble", "")
        elif i >= headings_from:
            heading = _heading(line, block.section, starts_paragraph)
        if heading:
            block = _Block(heading.section, [heading.rest])
            blocks.append(block)
            if heading.section in ASIDES:
                headings_from = _end_of_aside(i, report_starts, blocks, len(lines))
        elif starts_paragraph:
            block.paragraphs.append(line)
        else:
            block.paragraphs[-1] = _continued(block.paragraphs[-1], line)
        previous = line
    for block in blocks:
        block.paragraphs = [paragraph for paragraph in block.paragraphs if paragraph]
    return blocks


def _width(lines: list[str]) -> int:
    """Characters of the longest line of text: where the report was wrapped."""
    widths = [len(line) for line in lines if not REPORT_START.match(line)]
    return max(widths, default=0)


def _starts_paragraph(line: str, previous: str, section: str, width: int) -> bool:
    """Whether `line` starts a paragraph, rather than being the wrapped rest of the line before."""
    if not previous:
        return True
    if section in AFTER_IMPRESSION:  # only a blank line ends these paragraphs
        return False
    first_word = line.split(" ")[0]
    # If the previous line had room for this word, the author broke the line on purpose.
    return len(previous) + 1 + len(first_word) <= width


def _continued(paragraph: str, line: str) -> str:
    """The paragraph with its next line; a word that was hyphenated there is whole again."""
    if HYPHEN_AT_END.search(paragraph) and SECOND_HALF.match(line):
        return paragraph + line
    return f"{paragraph} {line}"


def _end_of_aside(first: int, report_starts: list[int], blocks: list[_Block], n_lines: int) -> int:
    """Index of the first line that can end the addendum or wet read whose heading is line `first`.

    An aside holds headings of its own, so it reaches to the next rule or "FINAL REPORT". Without
    one, it reaches to the end if the report proper has come before it, else to the next heading.
    """
    for start in report_starts:
        if start > first:
            return start
    if any(block.section in MAIN for block in blocks):
        return n_lines
    return first + 1  # the next line may already be a heading


def _take_unheaded(blocks: list[_Block], by_section: dict[str, list[str]]) -> list[str]:
    """Paragraphs before the impression that belong to no heading, removed from their sections."""
    findings = []
    for block in blocks:
        if block.section in ("impression", COMBINED):
            break
        if block.section == "findings" or block.section in AFTER_IMPRESSION:
            continue
        unheaded = block.paragraphs[_count_own(block) :]
        for paragraph in unheaded:
            by_section[block.section].remove(paragraph)
            findings.append(paragraph)
    return findings


def _count_own(block: _Block) -> int:
    """How many of a block's first paragraphs belong to its heading.

    A heading has one. A title has none: what follows "PORTABLE CHEST:" is findings. In the preamble
    they are the paragraphs that name the study.
    """
    if block.section == "title":
        return 0
    if block.section != "preamble":
        return 1
    count = 0
    for paragraph in block.paragraphs:
        if not _names_study(paragraph):
            break
        count += 1
    return count


def _names_study(paragraph: str) -> bool:
    """Whether a paragraph names the study ("Chest, two views") rather than describing it."""
    if not STUDY_WORDS.search(paragraph):
        return False
    is_short = len(paragraph.split()) <= 10
    is_sentence = paragraph.endswith(".")
    return paragraph.isupper() or (is_short and not is_sentence)


def _has_sections(by_section: dict[str, list[str]]) -> bool:
    """Whether any section other than the preamble has text."""
    others = [paragraphs for section, paragraphs in by_section.items() if section != "preamble"]
    return any(others)


def _joined(by_section: dict[str, list[str]]) -> dict[str, str]:
    """One text a section, white space collapsed; empty ones are left out."""
    texts = {}
    for section, paragraphs in by_section.items():
        words = " ".join(paragraphs).split()
        if words:
            texts[section] = " ".join(words)
    return texts


# The rules of `clean`. What they remove says nothing about the image, but could identify the pair.

# "No\ufffdeffusion" -> "No effusion"
UNREADABLE_CHARACTER = re.compile(r"[\ufffd\x00-\x08\x0e-\x1f]")

# "Normal chest x-XXXX" -> "Normal chest x-ray": Open-i's de-identification takes "ray" for a name.
X_RAY = re.compile(r"\b([Xx])-X{3,}")

# "Discussed at 10:05 a.m. by phone" -> "Discussed  by phone"
# "Read at ___ p.m. today" -> "Read  today"; `clean` collapses the white space at the end
CLOCK_TIME = r"\d{1,2}:\d{2}(?::\d{2})?(?:\s*[AaPp]\.?\s?[Mm]\b)?"  # 10:05, 10:05:30 a.m
HOUR = r"(?:\d{1,2}|_{2,}|X{3,})\s*[AaPp]\.?[Mm]\b"  # 9 PM, ___ p.m, XXXX pm
PERIOD_IN_SENTENCE = r"(?:\.(?=\s*[a-z,;]))?"  # that of "a.m.", unless it also ends the sentence
TIME_OF_DAY = re.compile(rf"\b(?:at )?(?:{CLOCK_TIME}|{HOUR}){PERIOD_IN_SENTENCE}(?: hours| hrs)?")

# "Compared to ___, no change" -> "Compared to , no change"
# "Dual-XXXX pacemaker" -> "Dual pacemaker"
DEIDENTIFIED = re.compile(r"-?(?:X{3,}(?:PM|AM|['’]s)?|_{2,})-?")

# "A 2.5-cm nodule" -> "A 2.5 cm nodule"; "a 3 centimeter mass" -> "a 3 cm mass"
CENTIMETRES = re.compile(r"(?<=\d)[\s-]*(?:cms?|centimet(?:er|re)s?)\b(?:\.(?=\s+[a-z]))?")

# "a 7mm. nodule" -> "a 7 mm nodule"
MILLIMETRES = re.compile(r"(?<=\d)[\s-]*(?:mms?|millimet(?:er|re)s?)\b(?:\.(?=\s+[a-z]))?")

# "3x4 cm" -> "3 x 4 cm"
TIMES_SIGN = re.compile(r"(?<=\d)\s*[xX×](?=\s*\d)\s*")

# "The catheter () is" -> "The catheter  is": the brackets around something removed above
EMPTY_BRACKETS = re.compile(r"\(\s*[,;./-]*\s*\)")

# "Compared to , no change" -> "Compared to, no change"; "size .5 cm" stays
SPACE_BEFORE_MARK = re.compile(r"\s+(?=[.,;:?!)](?!\d))")

# "The catheter, . Clear" -> "The catheter . Clear"
MARK_BEFORE_MARK = re.compile(r"[,;:](?=\s*[.,;](?!\d))")

# "No effusion.. Normal" -> "No effusion. Normal"
REPEATED_PERIOD = re.compile(r"\.\s*\.+")

# ". Clear lungs" -> "Clear lungs"
LEADING_MARKS = re.compile(r"^[\s.,;:-]+")

# Applied in this order: pattern, replacement.
RULES = (
    (UNREADABLE_CHARACTER, " "),
    (X_RAY, r"\1-ray"),
    (TIME_OF_DAY, ""),
    (DEIDENTIFIED, ""),
    (CENTIMETRES, " cm"),
    (MILLIMETRES, " mm"),
    (TIMES_SIGN, " x "),
    (EMPTY_BRACKETS, ""),
    (SPACE_BEFORE_MARK, ""),
    (MARK_BEFORE_MARK, ""),
    (REPEATED_PERIOD, "."),
    (LEADING_MARKS, ""),
)

# A number with its full stop or bracket, at the start of the text, a sentence or a line.
LIST_NUMBER = re.compile(r"(^\s*|[.?!:;]\s+|\n\s*)(\d{1,2})[.)]\s+(?=[A-Za-z])")


def clean(text: str) -> str:
    """The text as the model reads it, on one line.

    List numbers, times of day and the marks of de-identification (`___`, `XXXX`) are removed, and
    units are spelt one way. Case and wording stay.
    """
    text = _without_list_numbers(text)
    for pattern, replacement in RULES:
        text = pattern.sub(replacement, text)
    return " ".join(text.split())


def _without_list_numbers(text: str) -> str:
    """Drop the numbers of a list that counts 1, 2, 3; a number that breaks the count is content.

    "1. Small effusion. 2. No pneumonia." -> "Small effusion. No pneumonia."
    """
    pieces = []
    copied = 0  # characters of `text` that are in `pieces` or were dropped
    next_number = 1
    for match in LIST_NUMBER.finditer(text):
        number = int(match[2])
        if number != next_number:
            continue
        pieces.append(text[copied : match.end(1)])
        copied = match.end()
        next_number += 1
    pieces.append(text[copied:])
    return "".join(pieces)


def choose(parts: dict[str, str], policy: str) -> str:
    """The text of a report under a policy, from its sections; "" if the report has no such text.

    `findings` and `impression` take that section, `longest` the one with more words, and `both`
    joins the two, or takes one of them if they are equal.
    """
    findings = parts.get("findings", "")
    impression = parts.get("impression", "")
    if policy == "both":
        present = [text for text in (findings, impression) if text]
        distinct = dict.fromkeys(present)
        return " ".join(distinct)
    if policy == "longest":
        impression_is_longer = len(impression.split()) > len(findings.split())
        return impression if impression_is_longer else findings
    return parts.get(policy, "")


def same_text(text: str) -> str:
    """The form in which two reports count as the same: lower case, white space collapsed.

    Raises ValueError if the report is not a text.
    """
    if not isinstance(text, str):
        raise ValueError(f"a report must be text, got {text!r}: use '' for a missing report.")
    words = text.lower().split()
    return " ".join(words)
