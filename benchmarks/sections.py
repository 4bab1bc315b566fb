"""Sections read from real reports in MIMIC's form: how many come out right.

The reports are the 3,927 of the torchxrayvision wheel with findings or impression, which come in
labelled parts. Each is written as a text with headings drawn from those in use, in several forms;
findings and impression must come back equal, white space and cleaning aside.
"""

import importlib.util
import random
import sys
import tarfile
import textwrap
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

from measured import row

from mcrlib.data import reports

HEADINGS = {
    "findings": (
        "FINDINGS", "Findings", "FINDING", "REPORT", "Report", "OBSERVATIONS", "RESULT", "RESULTS",
        "RADIOLOGICAL FINDINGS", "RADIOLOGY REPORT", "X-RAY FINDINGS", "FINDNGS", "NARRATIVE",
        "Description", "IMAGING FINDINGS",
    ),
    "impression": (
        "IMPRESSION", "Impression", "CONCLUSION", "Conclusion", "SUMMARY", "Summary", "IMPRESSIONS",
        "OPINION", "INTERPRETATION", "ASSESSMENT", "FINAL IMPRESSION", "RADIOLOGIC DIAGNOSIS",
        "IMPRESSON", "SUMMARY OF FINDINGS", "FINAL DIAGNOSIS", "Radiologist's conclusion",
        "IMPRESSION AND PLAN",
    ),
    "indication": (
        "INDICATION", "Indication", "REASON FOR EXAM", "HISTORY", "CLINICAL HISTORY",
        "CLINICAL DETAILS", "Reason for request", "CLINICAL INDICATION", "PRESENTING COMPLAINT",
    ),
    "comparison": (
        "COMPARISON", "Comparison", "COMPARISONS", "PRIOR STUDIES", "PREVIOUS EXAMINATION",
        "COMPARISON STUDY",
    ),
}  # fmt: skip
TITLES = (
    "EXAMINATION: CHEST (PA AND LAT)",
    "TECHNIQUE: Frontal and lateral views of the chest.",
    "EXAM: XR CHEST 2 VIEWS",
    "PROCEDURE: Chest radiograph",
    "",
)
AFTER = (
    "RECOMMENDATION(S): Repeat radiograph in 4 weeks.",
    "FOLLOW-UP: CT of the chest is advised.",
    "NOTIFICATION: The findings were discussed with Dr. ___ by telephone at 10:15 a.m.",
    "COMMUNICATION OF CRITICAL RESULTS: Called to Dr. ___ on ___.",
    "ADDENDUM: The impression is unchanged after review.",
    "Electronically signed by: ___",
    "DICTATED BY: Dr. ___",
    "SUGGESTIONS: Clinical correlation.",
)


def openi_reports() -> list[dict[str, str]]:
    """Parts by name of the reports with findings or impression, white space collapsed."""
    wheel = Path(importlib.util.find_spec("torchxrayvision").origin).parent
    found = []
    with tarfile.open(wheel / "data" / "NLMCXR_reports.tgz") as archive:
        for member in archive:
            if not member.name.endswith(".xml"):
                continue
            tree = ElementTree.parse(archive.extractfile(member))
            parts = {}
            for part in tree.iter("AbstractText"):
                parts[part.get("Label").lower()] = " ".join((part.text or "").split())
            if parts["findings"] or parts["impression"]:
                found.append(parts)
    return found


def passages(parts: dict[str, str], draw: random.Random) -> list[str]:
    """The report's sections with drawn headings, and others around them."""
    written = [draw.choice(TITLES)]
    for name in ("indication", "comparison", "findings", "impression"):
        if parts[name]:
            written.append(f"{draw.choice(HEADINGS[name])}: {parts[name]}")
    written += draw.sample(AFTER, draw.randrange(3))
    return [passage for passage in written if passage]


def typeset(parts: dict[str, str], draw: random.Random) -> str:
    """As MIMIC has it: wrapped, with blank lines between sections."""
    margin = draw.choice(["", " "])
    width = draw.randrange(60, 81)
    lines = ["FINAL REPORT".center(70)]
    for passage in passages(parts, draw):
        if draw.random() < 0.3:
            heading, _, text = passage.partition(": ")
            lines += [f"{margin}{heading}:", ""]
            passage = text
        lines += [margin + line for line in textwrap.wrap(passage, width)]
        lines.append(margin)
    return "\n".join(lines) + "\n"


def in_lower_case(parts: dict[str, str], draw: random.Random) -> str:
    """`typeset` in lower case."""
    return typeset(parts, draw).lower()


def written_out(parts: dict[str, str], draw: random.Random) -> str:
    """`typeset` with line breaks as the two characters backslash and n."""
    return typeset(parts, draw).replace("\n", "\\n")


def a_line_each(parts: dict[str, str], draw: random.Random) -> str:
    """Every section on a line of its own, no blank lines."""
    return "\n".join(passages(parts, draw))


def flattened(parts: dict[str, str], draw: random.Random) -> str:
    """Everything on one line."""
    return " ".join(passages(parts, draw))


def flattened_in_lower_case(parts: dict[str, str], draw: random.Random) -> str:
    """Everything on one line in lower case."""
    return flattened(parts, draw).lower()


FORMS: tuple[Callable[[dict[str, str], random.Random], str], ...] = (
    typeset,
    in_lower_case,
    written_out,
    a_line_each,
    flattened,
    flattened_in_lower_case,
)


def same(found: str, truth: str) -> bool:
    """Whether two texts are equal, case and cleaning aside."""
    return reports.clean(found.lower()) == reports.clean(truth.lower())


def wrong(form: Callable, everything: list[dict[str, str]]) -> list[tuple[str, dict[str, str]]]:
    """Texts that do not come out right, with their true parts."""
    failed = []
    for number, parts in enumerate(everything):
        text = form(parts, random.Random(number))
        found = reports.sections(text)
        right = all(same(found.get(name, ""), parts[name]) for name in ("findings", "impression"))
        if not right:
            failed.append((text, parts))
    return failed


def rows() -> list[dict]:
    """One measurement a form: the share of reports that come out right against 99 %."""
    everything = openi_reports()
    measured = []
    for form in FORMS:
        share = 1 - len(wrong(form, everything)) / len(everything)
        what = f"{share:.2%} of {len(everything):,} reports right, {form.__name__}"
        measured.append(row(f"sections {form.__name__}", what, "99 %", [share / 0.99], 1))
    return measured


ROWS = {"sections": rows}


def main() -> None:
    """Print the measurements, and with an argument the headings of that form and where they go."""
    for measurement in rows():
        print(measurement)
    for form in FORMS:
        if form.__name__ in sys.argv[1:]:
            texts = [form(parts, random.Random(i)) for i, parts in enumerate(openi_reports())]
            met = Counter(heading for text in texts for heading in reports.headings(text))
            for heading, count in met.most_common():
                print(f"{count:6} {heading.heading:40} {heading.section}")


if __name__ == "__main__":
    main()
