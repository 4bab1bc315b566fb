"""Real Open-i reports rewritten in the form of MIMIC-CXR's text files."""

import importlib.util
import random
import tarfile
import textwrap
from pathlib import Path
from xml.etree import ElementTree

HEADINGS = {
    "findings": ["FINDINGS:", "Findings:", "findings:", "FINDINGS", "FINDINGS :", "Findings",
                 "FINDING:", "FINIDNGS:", "FINDINGS -"],
    "impression": ["IMPRESSION:", "Impression:", "impression:", "IMPRESSION", "CONCLUSION:",
                   "Conclusion:", "CONCLUSIONS:", "IMPRESSON:", "Impression", "IMPRESSIONS:"],
    "both": ["FINDINGS AND IMPRESSION:", "FINDINGS/IMPRESSION:", "Findings and impression:"],
    "indication": ["INDICATION:", "Indication:", "REASON FOR EXAM:", "HISTORY:",
                   "CLINICAL INFORMATION:"],
    "comparison": ["COMPARISON:", "Comparison:", "COMPARISONS:"],
}  # fmt: skip
TITLES = ["CHEST, TWO VIEWS", "EXAMINATION:  CHEST (PA AND LAT)", "Chest radiograph, two views", ""]
AFTER = [
    "RECOMMENDATION(S):  Repeat radiograph in 4 weeks. Impression: as above.",
    "NOTIFICATION:  The findings were discussed with Dr. ___ by ___ at 10:15 a.m.",
    "ADDENDUM:  The impression: unchanged after review with the attending physician.",
    "Recommendations: CT of the chest is advised.",
]
MIDWAY = ["the overall impression: as before, and findings: as listed", "impression:"]


def openi_reports() -> list[dict[str, str]]:
    """Sections of the 3,955 reports in the torchxrayvision wheel, white space collapsed."""
    data = Path(importlib.util.find_spec("torchxrayvision").origin).parent / "data"
    found = []
    with tarfile.open(data / "NLMCXR_reports.tgz") as archive:
        for member in archive:
            if member.name.endswith(".xml"):
                root = ElementTree.fromstring(archive.extractfile(member).read())
                parts = {p.get("Label").lower(): p.text or "" for p in root.iter("AbstractText")}
                found.append({name: " ".join(text.split()) for name, text in parts.items()})
    return found


def rewrite(parts: dict[str, str], draw: random.Random) -> tuple[str, dict[str, str]]:
    """The text as a MIMIC file would hold it, and the findings and impression to read from it."""
    findings, impression = parts["findings"], parts["impression"]
    if findings and draw.random() < 0.3:
        words = findings.split()
        cut = draw.randrange(1, len(words) + 1)
        findings = " ".join([*words[:cut], draw.choice(MIDWAY), *words[cut:]])
    style = draw.choice(["apart", "apart", "apart", "both", "no findings heading", "none"])
    sections = [draw.choice(TITLES)]
    for name in ("indication", "comparison"):
        if parts[name] and draw.random() < 0.8:
            sections.append(_section(draw.choice(HEADINGS[name]), parts[name], draw))
    if style == "both":
        expected = dict.fromkeys(("findings", "impression"), f"{findings} {impression}".strip())
        sections.append(_section(draw.choice(HEADINGS["both"]), expected["findings"], draw))
    else:
        heading = "" if style != "apart" else draw.choice(HEADINGS["findings"])
        sections.append(_section(heading, findings, draw) if findings else "")
        heading = "" if style == "none" else draw.choice(HEADINGS["impression"])
        sections.append(_section(heading, impression, draw) if impression else "")
        expected = {"findings": findings, "impression": impression}
        if style == "none":
            expected = {"findings": f"{findings} {impression}".strip(), "impression": ""}
    if style != "none":
        sections += draw.sample(AFTER, draw.randrange(3))
    return _typeset(sections, draw), expected


def _section(heading: str, text: str, draw: random.Random) -> str:
    gap = draw.choice(["  ", " ", "\n", "\n\n"])
    if not heading:
        return text
    return f"{heading}{gap if heading.endswith(':') or heading.isupper() else chr(10)}{text}"


def _typeset(sections: list[str], draw: random.Random) -> str:
    """The whole report: wrapped, mostly indented and with blank lines, after the usual preamble.

    A wet read sometimes comes first.
    """
    width, margin, lines = draw.randrange(60, 81), draw.choice([" ", " ", ""]), []
    apart = draw.random() < 0.8 or not any(":" in section for section in sections)
    if draw.random() < 0.2:
        lines += [f"{'WET READ: ___ ___ ___ 9:14 PM':>62}", "  No acute process."]
        lines += draw.choice([[" " + "_" * 78], ["", "  IMPRESSION: Clear lungs.", " " + "_" * 78]])
    lines += [f"{'FINAL REPORT':>45}"]
    for section in filter(None, sections):
        for line in section.split("\n"):
            lines += [margin + part for part in textwrap.wrap(line, width) or [""]]
        lines += [margin] * apart
    return "\n".join(lines) + "\n"
