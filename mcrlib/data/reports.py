"""Radiology reports: their sections, the cleaning of their text, and the text policy (all ours).

The headings are those that MIMIC-CXR's reports use, in all their spellings. Paragraphs under no
heading, before the impression, count as findings where the report has no findings heading: that is
how radiologists who skip the heading write.
"""

import re
from collections import defaultdict
from difflib import get_close_matches
from functools import lru_cache
from itertools import pairwise, takewhile

BOTH = "findings and impression"
SPELLINGS = {
    "findings": "findings|finding|reference findings|chest findings|radiographic findings",
    "impression": "impression|impressions|conclusion|conclusions|opinion",
    BOTH: "findings and impression|findings & impression|findings/impression|findings/ impression"
    "|findings / impression|impression and findings|findings and conclusion",
    "indication": "indication|indications|clinical indication|reason for exam|reason for study"
    "|reason for examination|reason for this examination",
    "history": "history|clinical history|patient history|clinical information|pfi",
    "comparison": "comparison|comparisons|comparison exam|comparison film|comparison study"
    "|comparison studies|reference exam|prior study|prior studies",
    "technique": "technique",
    "examination": "examination|exam|type of examination|type of exam",
    "date": "date|date of exam|date of study",
    "recommendations": "recommendation|recommendations|recommendation(s)",
    "notification": "notification|notifications|notification(s)|communication|critical results",
    "comment": "comment|comments|note",
    "addendum": "addendum|addenda|final addendum",
    "wet read": "wet read|wetread|wet reading",
}
NAMES = {s: name for name, spellings in SPELLINGS.items() for s in spellings.split("|")}
MAIN = ("findings", "impression", BOTH)
ASIDE = ("addendum", "wet read")
AFTER = ("impression", "recommendations", "notification", "comment", *ASIDE)


def _any_of(spellings: list[str]) -> str:
    return "|".join(re.escape(s) for s in sorted(spellings, key=len, reverse=True))


UPPER = _any_of([s.upper() for s in NAMES])
EITHER = _any_of([form for s in NAMES for form in (s.upper(), s.capitalize())])
HEADING = re.compile(rf"({_any_of(list(NAMES))})\s*(:|[-–—]+(?=\s|$)|(?=\s|$))\s*(.*)", re.I)
OTHER = re.compile(r"([A-Z][A-Z /&,()'-]{1,50}?)\s*(:)\s*(.*)")
START = re.compile(r"((FINAL|PROVISIONAL|PRELIMINARY) )?REPORT\s*:?$|[_=-]{5,}$", re.I)
ASIDE_START = re.compile(r"(?:FINAL )?(ADDENDUM|WET ?READ)()\b[\s:]*(.*)")
PAGE_BREAK = re.compile(r"\(Over\)\s*(FINAL REPORT)?\s*\(Cont\)", re.I)
JOINED = re.compile(r"(?!and |or |to )[a-z0-9]")  # goes on with the word before the line's hyphen
TITLE = re.compile(r"\b(chest|radiographs?|x-?rays?|views?|lateral|portable|examination)\b", re.I)


def decode(data: bytes) -> str:
    """Text of a file: UTF-8, or else Windows-1252, in which old hospital systems write."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def sections(text: str) -> dict[str, str]:
    """Sections of a report by their canonical names in lower case, white space collapsed.

    Sections that repeat (several impressions, studies in parts) are joined in order. Text under
    "FINDINGS AND IMPRESSION" is the findings and the impression, each where it has no heading of
    its own. What stands in a wet read or an addendum is in no other section. A text without any
    heading is all findings.
    """
    found: dict[str, list[str]] = defaultdict(list)
    loose: list[tuple[str, str]] = []
    for name, paragraphs in _blocks(_lines(text)):
        found[name] += paragraphs
        own = 0 if name == "title" else 1  # paragraphs that belong to the heading itself
        if name == "preamble":
            own = len(list(takewhile(_is_title, paragraphs)))
        if name not in MAIN + AFTER and not any(main in found for main in MAIN[1:]):
            loose += [(name, paragraph) for paragraph in paragraphs[own:]]
    for main in MAIN[:2]:
        found[main] = found[main] or found[BOTH]
    if not found["findings"]:
        for name, paragraph in loose:
            found[name].remove(paragraph)
        found["findings"] = [paragraph for _, paragraph in loose]
    if not any(found[name] for name in found if name != "preamble"):
        found = {"findings": found["preamble"]}
    joined = {name: " ".join(" ".join(parts).split()) for name, parts in found.items()}
    return {name: words for name, words in joined.items() if words and name != BOTH}


def _is_title(paragraph: str) -> bool:
    """Whether a paragraph names the study, rather than saying what is seen."""
    short = len(paragraph.split()) <= 10 and not paragraph.endswith(".")
    return bool(TITLE.search(paragraph)) and (paragraph.isupper() or short)


def _lines(text: str) -> list[str]:
    """Lines without margins; headings within a line, after a sentence, get a line of their own."""
    text = PAGE_BREAK.sub("", text.replace("\r\n", "\n").replace("\r", "\n")).strip()
    text = re.sub(rf"(?<=[.?!])[ \t]+(({UPPER})\s*:)", r"\n\1", text)
    if "\n" not in text:  # flattened by whoever made the table
        text = re.sub(rf"(?:^|[ \t]+)(({UPPER})\s*:)", r"\n\1", text)
        text = re.sub(rf"(?<=[.?!])[ \t]+(({EITHER})\s*:)", r"\n\1", text)
    return [" ".join(line.split()) for line in text.split("\n")]


def _blocks(lines: list[str]) -> list[tuple[str, list[str]]]:
    """(section, paragraphs) in the order of the report; a wet read before the report proper, or
    an addendum, reaches to the next rule or "FINAL REPORT", else to the next heading."""
    blocks: list[tuple[str, list[str]]] = [("preamble", [""])]
    starts = [i for i, line in enumerate(lines) if START.match(line)]
    width = max((len(line) for i, line in enumerate(lines) if i not in starts), default=0)
    closed_until = -1
    for i, (before, line) in enumerate(pairwise(["", *lines])):
        name, paragraphs = blocks[-1]
        if START.match(line):
            blocks.append(("preamble", [""]))
            continue
        fits = len(before) + 1 + len(line.split(" ")[0]) <= width  # so it was no wrapped line
        opens = not before or (fits and name not in AFTER[1:])
        heading = None if i < closed_until else _heading(line, name, opens)
        if heading:
            name, rest = heading
            blocks.append((name, [rest]))
            if name in ASIDE:
                seen = any(main in dict(blocks) for main in MAIN)
                closed_until = next((s for s in starts if s > i), len(lines) if seen else -1)
        elif opens:
            paragraphs.append(line)
        else:
            hyphenated = re.search(r"\w-$", paragraphs[-1]) and JOINED.match(line)
            paragraphs[-1] += line if hyphenated else f" {line}"
    return [(name, [p for p in paragraphs if p]) for name, paragraphs in blocks]


def _heading(line: str, current: str, opens: bool) -> tuple[str, str] | None:
    """Section that starts in this line, with the rest of the line; `opens`: the line is not the
    wrapped continuation of the one before."""
    aside = ASIDE_START.match(line)
    match = aside or HEADING.match(line) or OTHER.match(line)
    if not match:
        return None
    words, mark, rest = match.groups()
    name = _name(words.lower())
    if name is None:  # a structured finding ("LUNGS: clear") or a title ("PORTABLE CHEST: ...")
        return None if current in MAIN or not TITLE.search(words) else ("title", rest)
    if mark or aside or not rest:
        begins = words.isupper() or opens or (words[0].isupper() and current not in AFTER[1:])
    elif words.isupper():
        begins = not rest.isupper() and (opens or not rest[0].islower())
    else:  # "Findings Heart is normal", not "Findings are stable"
        begins = opens and words[0].isupper() and name in MAIN and not rest[0].islower()
    return (name, rest) if begins else None


@lru_cache(maxsize=4096)
def _name(words: str) -> str | None:
    """Canonical name of a heading, misspelt ones and longer ones ("PRELIMINARY IMPRESSION") too."""
    close = get_close_matches(words, NAMES, n=1, cutoff=0.87)
    if close:
        return NAMES[close[0]]
    return next((NAMES[word] for word in re.findall(r"[a-z]+", words)[::-1] if word in NAMES), None)


# Applied in order. What is removed says nothing about the picture but can give a pair away.
RULES = [
    (re.compile(r"[\ufffd\x00-\x08\x0e-\x1f]"), " "),
    (re.compile(r"\b([Xx])-X{3,}"), r"\1-ray"),  # Open-i's de-identification takes "ray" away
    (  # times of day, with or without digits
        re.compile(
            r"\b(?:at )?(?:\d{1,2}:\d{2}(?::\d{2})?(?:\s*[AaPp]\.?\s?[Mm]\b)?|"
            r"(?:\d{1,2}|_{2,}|X{3,})\s*[AaPp]\.?[Mm]\b)(?:\.(?=\s*[a-z,;]))?(?: hours| hrs)?"
        ),
        "",
    ),
    (re.compile(r"-?(?:X{3,}(?:PM|AM|['’]s)?|_{2,})-?"), ""),
    (re.compile(r"(?<=\d)[\s-]*(?:cms?|centimet(?:er|re)s?)\b(?:\.(?=\s+[a-z]))?"), " cm"),
    (re.compile(r"(?<=\d)[\s-]*(?:mms?|millimet(?:er|re)s?)\b(?:\.(?=\s+[a-z]))?"), " mm"),
    (re.compile(r"(?<=\d)\s*[xX×](?=\s*\d)\s*"), " x "),
    (re.compile(r"\(\s*[,;./-]*\s*\)"), ""),
    (re.compile(r"\s+(?=[.,;:?!)](?!\d))"), ""),
    (re.compile(r"[,;:](?=\s*[.,;](?!\d))"), ""),
    (re.compile(r"\.\s*\.+"), "."),
    (re.compile(r"^[\s.,;:-]+"), ""),
]


def clean(text: str) -> str:
    """The text as the model reads it: one line, without list numbers, times of day and the marks
    of de-identification (`___`, `XXXX`), with units spelt one way. Case and wording stay."""
    text = _unnumbered(text)
    for pattern, replacement in RULES:
        text = pattern.sub(replacement, text)
    return " ".join(text.split())


def _unnumbered(text: str) -> str:
    """Drop the numbers of a list that counts 1, 2, 3; a number that breaks the count is content."""
    count = 0

    def drop(match: re.Match[str]) -> str:
        nonlocal count
        if int(match[2]) != count + 1:
            return match[0]
        count += 1
        return match[1]

    return re.sub(r"(^\s*|[.?!:;]\s+|\n\s*)(\d{1,2})[.)]\s+(?=[A-Za-z])", drop, text)


def choose(parts: dict[str, str], policy: str) -> str:
    """The text of a report under a policy: `findings`, `impression`, `both` joined, or the
    `longest` of the two; "" where the report does not have it."""
    texts = [parts.get("findings", ""), parts.get("impression", "")]
    if policy == "both":
        return " ".join(dict.fromkeys(text for text in texts if text))
    if policy == "longest":
        return max(texts, key=lambda text: len(text.split()))
    return parts.get(policy, "")
