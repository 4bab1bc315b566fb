"""Radiology reports: their sections, the cleaning of their text, and the text policy (all ours).

`sections` reads a report in four steps: its lines; which lines are headings, and why; blocks, each
a heading with the paragraphs below it; and sections, which join the blocks of the same name.

A line that looks like a heading is one: capitals or a capital, then a colon, at the start of a
paragraph. `mcrlib.data.headings` says which section it opens. A heading that it does not know
("LUNGS: clear") is part of the findings or the impression around it.

Many radiologists skip the findings heading. In such a report the paragraphs under no heading,
before the impression, count as findings. All steps take time in proportion to the text.
"""

import codecs
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from mcrlib.arguments import is_list
from mcrlib.data.headings import (
    AFTER_IMPRESSION,
    ASIDES,
    BARE_INLINE,
    COMBINED,
    CONTINUING_WORDS,
    DETERMINERS,
    FINDINGS_AND_IMPRESSION,
    INLINE_ASIDE,
    INLINE_REPORT_START,
    INTERPRETATION,
    MAIN,
    MOST_CHARACTERS,
    MOST_WORDS,
    REPORT,
    SECTION_OF,
    SENTENCE_WORDS,
    any_of,
    is_made_of_heading_words,
    section_of,
    split_inline,
)

LONGEST_WRAPPED = 150  # characters of a line
OTHER = "other"  # under headings that nothing is known about

# Headings. Group 1 is the heading's words, group 2 the mark after them, group 3 the line's rest.
# Lines have their white space collapsed. "**FINDINGS:**" and "[Findings]" are headings too.
_BEFORE = r"[*#_=~>\[<]{0,6} ?"
_AFTER = r"[\]>*_=~#]{0,6} ?"
MARKED_HEADING = re.compile(
    rf"{_BEFORE}([A-Za-z][\w /&,()'\u2019#+-]{{0,{MOST_CHARACTERS}}}?) ?{_AFTER}([:\uff1a])(?!\d\d)"
    rf"{_AFTER}[-\u2013]?\s?(.*)"
)
KNOWN_HEADING = re.compile(
    rf"{_BEFORE}({any_of(SECTION_OF)}) ?{_AFTER}([;:\uff1a]|[-\u2013\u2014]+(?= |$)|(?= |$)) ?(.*)",
    re.I,
)
FIRST_WORDS = frozenset(spelling.split()[0].split("/")[0] for spelling in SECTION_OF)
ASIDE_HEADING = re.compile(r"(?:FINAL )?(ADDENDUM|WET ?READ)\b[ :]*(.*)", re.I)
# A line that begins the report proper: "FINAL REPORT", or a horizontal rule.
REPORT_START = re.compile(r"(FINAL|PROVISIONAL|PRELIMINARY) REPORT ?:?$|REPORT$|[_=-]{5,}$", re.I)
STUDY_WORDS = re.compile(
    r"\b(chest|radiographs?|x-?rays?|views?|lateral|portable|examination)\b", re.I
)
# Words of statements: "Portable chest is clear" does more than name the study.
STATEMENT_WORDS = re.compile(
    r"\b(is|are|was|were|has|have|no|not|without|normal|clear|unremarkable|stable|unchanged"
    r"|improved|shows?|demonstrates?|reveals?|seen)\b",
    re.I,
)
# Under these headings, findings may begin without a heading of their own: "LUNGS: clear".
ANATOMY = re.compile(
    r"\b(lungs?|heart|cardi\w+|mediastin\w+|hil(a|um|ar)|pleura\w*|bon(es?|y)|osseous|skelet\w+"
    r"|soft tissues?|diaphragms?|trachea|airways?|aorta|vascul\w+|pulmonary|lines|tubes|devices"
    r"|catheters?|abdomen|ribs?|spine|thorax|parenchyma|effusions?|pneumothorax)\b",
    re.I,
)

# What only the page's layout put into the text.
PAGE_BREAK = re.compile(r"\(Over\)\s*(FINAL REPORT\s*)?\(Cont\)", re.I)
# The second half of a word that was hyphenated there. "left- / and right-sided" was not.
SECOND_HALF = re.compile(r"(?!and |or |to )[a-z0-9]")
# Line breaks that an export wrote out: the two characters "\\n", or "<br>".
WRITTEN_BREAK = re.compile(r"\\{1,2}r\\{1,2}n|\\{1,2}[nr]|_x000D_")
HTML_BREAK = re.compile(r"<br ?/?>", re.I)
FEW = 3  # no more "<br>" than these are slips of the pen
WRITTEN_TAB = re.compile(r"\\{1,2}t(?![a-z])")
LINE_BREAK = re.compile(r"\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
BLANK_LINES = re.compile(r"\n{3,}")


class Heading(NamedTuple):
    """A heading as the report writes it, and the section that its text went to."""

    heading: str
    section: str


class Reading(NamedTuple):
    """What `read` makes of a report: see `sections` and `headings`."""

    sections: dict[str, str]
    headings: list[Heading]


@dataclass(slots=True)
class _Block:
    """Paragraphs of one section, in the order of the report."""

    section: str
    heading: str = ""  # "" for the preamble
    paragraphs: list[list[str]] = field(default_factory=list)  # each a list of lines
    texts: Sequence[str] = ()  # the paragraphs, each on one line


class _Opening(NamedTuple):
    """The section that a line opens, its heading's words, and the line's text in that section."""

    section: str
    words: str
    rest: str


UTF_16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # what Excel calls "Unicode text"


def decode(data: bytes) -> str:
    """Text of a file: UTF-8, UTF-16 with its mark, or Windows-1252, which old systems write."""
    if data.startswith(UTF_16_MARKS):
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def text_list(texts: Sequence[str], name: str) -> list[str]:
    """The texts as a list; ValueError for what would be taken apart, such as a single text."""
    if not is_list(texts):
        kind = type(texts).__name__
        raise ValueError(f"{name} must be a list of texts: got a {kind}.")
    return list(texts)


def sections(text: str) -> dict[str, str]:
    """Sections of a report by canonical name in lower case (`headings.SPELLINGS`), white space
    collapsed.

    Three more names occur: "preamble", the text before the first heading; "title", the text under a
    heading that names the study ("PORTABLE CHEST: ..."); and "other", the text under headings that
    nothing is known about. Empty sections are left out.

    Sections that repeat (several impressions, studies in parts) are joined in order. Text under
    "FINDINGS AND IMPRESSION" counts as the findings and as the impression, unless they have a
    heading of their own. Text of a wet read or an addendum is in no other section. A text without
    any heading is all findings. Takes time in proportion to the text. Raises ValueError if it is
    not a text.
    """
    return _sections_of(_settled_blocks(text))


def headings(text: str) -> list[Heading]:
    """The headings of a report in order, each with the section that its text went to.

    `heading_counts.HeadingCounts` counts those of a data set.
    """
    return _headings_of(_settled_blocks(text))


def read(text: str) -> Reading:
    """The `sections` and the `headings` of a report, read together."""
    blocks = _settled_blocks(text)
    return Reading(_sections_of(blocks), _headings_of(blocks))


def _settled_blocks(text: str) -> list[_Block]:
    """The report cut at its headings, each block under the section that its text belongs to.

    Raises ValueError if it is not a text.
    """
    check_is_text(text)
    blocks = _blocks(text)
    has_findings = any(block.texts for block in blocks if block.section in ("findings", COMBINED))
    return blocks if has_findings else _with_unheaded_findings(blocks)


def _sections_of(blocks: list[_Block]) -> dict[str, str]:
    by_section: dict[str, list[str]] = defaultdict(list)  # paragraphs
    for block in blocks:
        by_section[block.section] += block.texts
    for section in FINDINGS_AND_IMPRESSION:
        if not by_section[section]:
            by_section[section] = by_section[COMBINED]
    if not _has_sections(by_section):
        return _joined({"findings": by_section["preamble"]})
    by_section.pop(COMBINED, None)
    return _joined(by_section)


def _headings_of(blocks: list[_Block]) -> list[Heading]:
    return [Heading(block.heading, block.section) for block in blocks if block.heading]


def _lines(text: str) -> tuple[list[str], bool]:
    """Lines without margins, white space collapsed; headings after a sentence start a line.

    Also whether the report was written on one line, and cut into these at its headings.
    """
    text = LINE_BREAK.sub("\n", text)
    if "\\" in text or "_x" in text:
        text = WRITTEN_BREAK.sub("\n", text)
        text = WRITTEN_TAB.sub(" ", text)
    if "<" in text:
        is_layout = len(HTML_BREAK.findall(text)) > FEW
        text = HTML_BREAK.sub("\n", text) if is_layout else text
    text = PAGE_BREAK.sub("", text)
    stripped = "\n".join([" ".join(line.split()) for line in text.split("\n")])
    stripped = BLANK_LINES.sub("\n\n", stripped).strip()
    if "\n" not in stripped:  # somebody put the whole report on one line, as tables do
        return _lines_of_one(stripped), True
    lines = []
    for line in stripped.split("\n"):
        if ":" in line:
            lines += split_inline(line, is_whole_report=False)
        else:
            lines.append(line)
    return lines, False


def _lines_of_one(report: str) -> list[str]:
    """The lines of a report that was written on one."""
    report = INLINE_REPORT_START.sub(r"\n\1\n", report)
    report = INLINE_ASIDE.sub("\n", report)
    if not report.isupper():
        report = BARE_INLINE.sub("\n", report)
    lines = []
    for line in report.strip().split("\n"):
        lines += split_inline(line, is_whole_report=True)
    return lines


def _opening(
    line: str, current: str, starts_paragraph: bool, trusts_lower_case: bool
) -> _Opening | None:
    """The section that `line` opens with a heading, or None: `_find_opening`, remembered for short
    lines, since reports repeat their headings."""
    find = _remembered_opening if len(line) <= MOST_CHARACTERS else _find_opening
    return find(line, current, starts_paragraph, trusts_lower_case)


def _find_opening(
    line: str, current: str, starts_paragraph: bool, trusts_lower_case: bool
) -> _Opening | None:
    """The section that `line` opens with a heading, or None.

    `current` is the section of the lines before. `trusts_lower_case`: the report was cut into lines
    at its headings, which are in lower case.
    """
    aside = ASIDE_HEADING.match(line)
    if aside and _is_aside(line, aside, starts_paragraph or trusts_lower_case):
        section = SECTION_OF[aside[1].lower()]
        return _Opening(section, aside[1], aside[2])
    marked = MARKED_HEADING.match(line)
    opening = None
    if marked:
        opening = _marked_opening(marked, current, starts_paragraph, trusts_lower_case)
    opening = opening or _listed_opening(line, current, starts_paragraph)
    if opening:
        return opening
    if marked:
        return _unknown_opening(line, marked, current, starts_paragraph)
    return _misspelt_line(line, current, starts_paragraph)


_remembered_opening = lru_cache(maxsize=4096)(_find_opening)


def _is_aside(line: str, aside: re.Match, starts_paragraph: bool) -> bool:
    """Whether "wet read" or "addendum" at the start of `line` is a heading."""
    if aside[1].isupper():
        return True
    is_marked = not aside[2] or line[aside.end(1) : aside.end(1) + 2].strip().startswith(":")
    return starts_paragraph and is_marked


def _marked_opening(
    match: re.Match, current: str, starts_paragraph: bool, trusts_lower_case: bool
) -> _Opening | None:
    """What a line opens whose first words, before a colon, are a heading that we know."""
    words, _, rest = match.groups()
    section = section_of(words)
    if section is None:
        return None
    is_after = section in AFTER_IMPRESSION
    if trusts_lower_case and (is_after or current not in AFTER_IMPRESSION):
        return _Opening(section, words, rest)
    is_listed = words.lower() in SECTION_OF
    if section == "signature" and words[0].isupper():
        return _Opening(section, words, rest)
    if not is_listed and not words.isupper():
        is_text = not starts_paragraph or _is_running_text(words, rest, current)
        if is_text or (section in MAIN and not is_made_of_heading_words(words)):
            return None
    if _is_marked_heading(words, section, current, starts_paragraph):
        return _Opening(section, words, rest)
    return None


def _is_running_text(words: str, rest: str, current: str) -> bool:
    """Whether words and a colon begin a sentence: "The heart impression: is large"."""
    first = words.partition(" ")[0].lower()
    following = rest.partition(" ")[0]
    if first in DETERMINERS or following in CONTINUING_WORDS:
        return True
    return current in MAIN and words[0].isupper() and rest[:1].islower()


def _listed_opening(line: str, current: str, starts_paragraph: bool) -> _Opening | None:
    """What a line opens that starts with one of our spellings, with or without a mark after it."""
    first_word = line[:MOST_CHARACTERS].partition(" ")[0].rstrip(":;-")
    if first_word.isalpha() and first_word.lower() not in FIRST_WORDS:
        return None
    match = KNOWN_HEADING.match(line)
    if not match:
        return None
    words, mark, rest = match.groups()
    section = SECTION_OF[words.lower()]
    if mark or not rest:
        is_heading = _is_marked_heading(words, section, current, starts_paragraph)
    else:
        is_heading = _is_bare_heading(words, rest, section, starts_paragraph)
    return _Opening(section, words, rest) if is_heading else None


def _unknown_opening(
    line: str, match: re.Match, current: str, starts_paragraph: bool
) -> _Opening | None:
    """What a line opens whose first words look like a heading that nothing is known about."""
    words, _, rest = match.groups()
    is_upper = words.isupper()
    is_capital = is_upper or (starts_paragraph and words[0].isupper())
    if not is_capital or current in AFTER_IMPRESSION:
        return None
    parts = words.lower().split()
    is_short = len(parts) <= (MOST_WORDS if is_upper else 4)
    is_sentence = not SENTENCE_WORDS.isdisjoint(parts)
    if not is_short or is_sentence or section_of(words):  # a heading that we know is none here
        return None
    if current in MAIN:
        return _Opening(current, words, line)  # "LUNGS: clear" is a structured finding
    if is_upper and STUDY_WORDS.search(words):
        return _Opening("title", words, rest)  # "PORTABLE CHEST: ..."
    if ANATOMY.search(words):
        return _Opening("findings", words, line)
    if is_upper:
        return _Opening(OTHER, words, rest)
    return None


def _misspelt_line(line: str, current: str, starts_paragraph: bool) -> _Opening | None:
    """What a line opens that is a misspelt heading and nothing else: "IMPRESSON"."""
    is_word = len(line) <= MOST_CHARACTERS and line.isalpha() and len(line) >= 6
    if not is_word or not starts_paragraph:
        return None
    section = section_of(line)
    if section is None or not _is_marked_heading(line, section, current, starts_paragraph):
        return None
    return _Opening(section, line, "")


def _is_marked_heading(words: str, section: str, current: str, starts_paragraph: bool) -> bool:
    """Whether words before a colon or a dash, or alone on their line, are a heading.

    Capital letters or the start of a paragraph are enough: "FINDINGS:". Inside a paragraph,
    "Findings:" is a heading too, except in the running text after the impression. In "the overall /
    impression: good", a sentence wrapped at the slash, it is not.
    """
    if words.isupper():
        return True
    if current in MAIN and section in ("patient", "date"):
        return False  # "Location: right lower lobe"
    if starts_paragraph:
        return True
    return words[0].isupper() and (current not in AFTER_IMPRESSION or section in AFTER_IMPRESSION)


def _is_bare_heading(words: str, rest: str, section: str, starts_paragraph: bool) -> bool:
    """Whether words are a heading if their text follows on the same line, without a mark."""
    rest_is_lower = rest[0].islower()
    if words.isupper():  # "FINDINGS The lungs are clear"; not "FINDINGS ARE STABLE"
        return not rest.isupper() and (starts_paragraph or not rest_is_lower)
    # "Findings Heart is normal"; not "Findings are stable".
    is_main = section in (*FINDINGS_AND_IMPRESSION, COMBINED)
    return starts_paragraph and words[0].isupper() and is_main and not rest_is_lower


def _blocks(text: str) -> list[_Block]:
    """The report cut at its headings, in order.

    Text before the first heading, and after a rule or "FINAL REPORT", is a block "preamble".
    """
    lines, is_one = _lines(text)
    trusts_lower_case = is_one and text.islower()
    starts = [i for i, line in enumerate(lines) if len(line) >= 5 and REPORT_START.match(line)]
    is_start = set(starts)
    widths = [len(line) for i, line in enumerate(lines) if i not in is_start]
    width = max(widths, default=0)  # of the longest line of text: where the report was wrapped
    block = _Block("preamble")
    blocks = [block]
    headings_from = 0  # index of the first line that may be a heading; rises at each aside
    has_main = False
    previous = ""
    for i, line in enumerate(lines):
        if not line:
            previous = ""
            continue
        starts_paragraph = _starts_paragraph(line, previous, block.section, width)
        opening = None
        if i in is_start:
            opening = _Opening("preamble", "", "")
        elif i >= headings_from:
            may_open = starts_paragraph or _follows_sentence(line, previous, block.section)
            opening = _opening(line, block.section, may_open, trusts_lower_case)
        if opening:
            block = _Block(opening.section, opening.words, [[opening.rest]])
            blocks.append(block)
            if opening.section in ASIDES:
                headings_from = _end_of_aside(i, starts, has_main, len(lines))
            has_main = has_main or opening.section in MAIN
        elif not block.paragraphs or (starts_paragraph and not _continues(previous, line)):
            block.paragraphs.append([line])
        else:
            block.paragraphs[-1].append(line)
        previous = line
    for block in blocks:
        block.texts = _texts(block.paragraphs)
    _settle(blocks)
    return blocks


def _follows_sentence(line: str, previous: str, section: str) -> bool:
    """Whether a line begins with a capital after the end of a sentence."""
    if section in AFTER_IMPRESSION or not line[0].isupper():
        return False
    return previous.endswith((".", "?", "!"))


def _continues(previous: str, line: str) -> bool:
    """Whether a line of text continues the sentence of the line right before it."""
    return previous.endswith(",") or (bool(previous) and line[0].islower())


def _starts_paragraph(line: str, previous: str, section: str, width: int) -> bool:
    """Whether `line` starts a paragraph, rather than being the wrapped rest of the line before."""
    if not previous:
        return True
    if width > LONGEST_WRAPPED:  # nobody wrapped this report
        return True
    if section in AFTER_IMPRESSION:  # only a blank line ends these paragraphs
        return False
    first_word = line.partition(" ")[0]
    # If the previous line had room for this word, the author broke the line on purpose.
    return len(previous) + 1 + len(first_word) <= width


def _settle(blocks: list[_Block]) -> None:
    """Give blocks under "report" and "interpretation" the section that the others leave them."""
    met = {block.section for block in blocks}
    has_findings = "findings" in met or COMBINED in met
    is_all = INTERPRETATION in met and "impression" in met and not has_findings
    for block in blocks:
        if block.section == INTERPRETATION:
            block.section = "findings" if is_all and REPORT not in met else "impression"
        elif block.section == REPORT:
            names_study = has_findings and all(map(_names_study, block.texts))
            block.section = "title" if names_study else "findings"


def _texts(paragraphs: list[list[str]]) -> list[str]:
    """Each paragraph on one line, words that were hyphenated at a line's end whole again."""
    texts = []
    for lines in paragraphs:
        pieces = []
        for line in lines:
            if pieces and _is_hyphenated(pieces[-1]) and SECOND_HALF.match(line):
                pieces[-1] += line
            elif line:
                pieces.append(line)
        if pieces:
            texts.append(" ".join(pieces))
    return texts


def _is_hyphenated(line: str) -> bool:
    return line.endswith("-") and len(line) > 1 and line[-2].isalnum()


def _end_of_aside(first: int, starts: list[int], has_main: bool, n_lines: int) -> int:
    """Index of the first line that can end the addendum or wet read whose heading is line `first`.

    An aside holds headings of its own, so it reaches to the next rule or "FINAL REPORT". Without
    one, it reaches to the end if the report proper has come before it, else to the next heading.
    """
    next_start = bisect_right(starts, first)
    if next_start < len(starts):
        return starts[next_start]
    if has_main:
        return n_lines
    return first + 1  # the next line may already be a heading


def _with_unheaded_findings(blocks: list[_Block]) -> list[_Block]:
    """The blocks, with the paragraphs before the impression that belong to no heading as findings.

    A block all of whose paragraphs are findings becomes one of findings: "PORTABLE CHEST: Clear."
    """
    moved = []
    for position, block in enumerate(blocks):
        if block.section in ("impression", COMBINED):
            return moved + blocks[position:]
        moved.append(block)
        if block.section in AFTER_IMPRESSION:
            continue
        own = _count_own(block.section, block.texts)
        unheaded = block.texts[own:]
        if unheaded and own:
            block.texts = block.texts[:own]
            moved.append(_Block("findings", texts=unheaded))
        elif unheaded:
            block.section = "findings"
    return moved


def _count_own(section: str, paragraphs: list[str]) -> int:
    """How many of a block's first paragraphs belong to its heading.

    A heading has one. A title has none: what follows "PORTABLE CHEST:" is findings. In the preamble
    they are the paragraphs that name the study.
    """
    if section in ("title", OTHER):
        return 0
    if section != "preamble":
        return 1
    count = 0
    for paragraph in paragraphs:
        if not _names_study(paragraph):
            break
        count += 1
    return count


def _names_study(paragraph: str) -> bool:
    """Whether a paragraph names the study ("Chest, two views") rather than describing it."""
    if not STUDY_WORDS.search(paragraph) or STATEMENT_WORDS.search(paragraph):
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

# "concerning for<BR>metastasis" -> "concerning for metastasis"
WRITTEN_LINE_BREAK = re.compile(r"<br ?/?>|_x000D_", re.I)

# "Normal chest x-XXXX" -> "Normal chest x-ray": Open-i's de-identification takes "ray" for a name.
X_RAY = re.compile(r"\b([Xx])-(?:X{3,}|x{4,})")

# "Discussed at 10:05 a.m. by phone" -> "Discussed  by phone"
# "Read at ___ p.m. today" -> "Read  today"; `clean` collapses the white space at the end
CLOCK_TIME = r"\d{1,2}:\d{2}(?::\d{2})?(?:\s*[AaPp]\.?\s?[Mm]\b)?"  # 10:05, 10:05:30 a.m
HOUR = r"(?:\d{1,2}|_{2,}|X{3,})\s*[AaPp]\.?[Mm]\b"  # 9 PM, ___ p.m, XXXX pm
PERIOD_IN_SENTENCE = r"(?:\.(?=\s*[a-z,;]))?"  # that of "a.m.", unless it also ends the sentence
TIME_OF_DAY = re.compile(rf"\b(?:at )?(?:{CLOCK_TIME}|{HOUR}){PERIOD_IN_SENTENCE}(?: hours| hrs)?")

# "Compared to ___, no change" -> "Compared to , no change"
# "Dual-XXXX pacemaker" -> "Dual pacemaker"
DEIDENTIFIED = re.compile(r"-?(?:(?:X{3,}|x{4,})(?:PM|AM|['’]s)?|_{2,})-?")

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
    (WRITTEN_LINE_BREAK, " "),
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

# The number of a list: "1. ", "1.", "2) ", "(2) ", "#2 ". Where it may begin: at the start of a
# line or after a sentence, and those with a bracket or a "#" anywhere.
_START = r"^|\n|[.?!:;] |(?<=[a-z)])[.?!:;](?=\d)"
LIST_NUMBER = re.compile(
    rf"({_START})(?:#?(\d{{1,2}})\.|\(?#?(\d{{1,2}})\)|#(\d{{1,2}})[:.]?) ?(?=[A-Za-z])"
    r"|(?<= )(?:(\d{1,2})\)|#(\d{1,2})[:.]?) (?=[A-Za-z])"
)

# The bullet of a list, at the start of a line or after a sentence; round ones are nothing else.
BULLET = re.compile(r"(^|\n|[.?!:;] )[-*\u2013\u2014]+ ?(?=[A-Za-z])")
ROUND_BULLET = re.compile("[\u2022\u2023\u25aa\u25cf\u25e6\u25cb\u25a0]")
BULLET_IN_LINE = {mark: re.compile(rf" [{mark}] (?=[A-Z])") for mark in "-*"}


def clean(text: str) -> str:
    """The text as the model reads it, on one line.

    List numbers and bullets, times of day and the marks of de-identification (`___`, `XXXX`) are
    removed, and units are spelt one way. Case and wording stay. Takes time in proportion to the
    text. Raises ValueError if it is not a text.
    """
    check_is_text(text)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    text = "\n".join([line for line in lines if line])
    text = _without_list_numbers(_without_bullets(text))
    text = " ".join(text.split())
    for pattern, replacement in RULES:
        changed = pattern.sub(replacement, text)
        if changed != text:  # runs of blanks would make the next rules slow
            text = " ".join(changed.split())
    return text


def _without_bullets(text: str) -> str:
    """Drop the bullets of lists. If the text starts with one, the same within a line are bullets.

    "- Small effusion - No pneumonia" -> "Small effusion No pneumonia"
    """
    in_line = BULLET_IN_LINE.get(text[:1])
    text = ROUND_BULLET.sub(" ", text)
    text = BULLET.sub(r"\1", text)
    if in_line:
        text = in_line.sub(" ", text)
    return text


def _without_list_numbers(text: str) -> str:
    """Drop the numbers of a list that counts 1, 2, 3; a number that breaks the count is content.

    "1. Small effusion. 2. No pneumonia." -> "Small effusion. No pneumonia."
    """
    pieces = []
    copied = 0  # characters of `text` that are in `pieces` or were dropped
    next_number = 1
    for match in LIST_NUMBER.finditer(text):
        before, *numbers = match.groups(default="")
        number = int("".join(numbers))
        is_inside = match[1] is None
        if number != next_number or (is_inside and number == 1):
            continue
        pieces.append(text[copied : match.start()] + before)
        if before and not before[-1].isspace():
            pieces.append(" ")  # "effusion.2.No pneumonia"
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


def text_of(report: str, policy: str) -> str:
    """The text of a report that the model reads: its sections, cleaned, under a policy."""
    own = sections(report)
    cleaned = {name: clean(own.get(name, "")) for name in ("findings", "impression")}
    return choose(cleaned, policy)


def same_text(text: str) -> str:
    """The form in which two reports count as the same: lower case, white space collapsed.

    Raises ValueError if the report is not a text.
    """
    check_is_text(text)
    words = text.lower().split()
    return " ".join(words)


def check_is_text(text: str) -> None:
    """Raise ValueError unless a report is a text."""
    if not isinstance(text, str):
        raise ValueError(f"a report must be text, got {text!r}: use '' for a missing report.")
