"""The headings of a data set: how often each was met, and which section its text went to (ours)."""

import re
from collections import Counter

import pandas as pd

from mcrlib.data.headings import COMBINED, SECTION_OF, is_made_of_heading_words
from mcrlib.data.reports import Heading, Reading

# In place of a heading:
NO_HEADING = "(no heading)"  # findings that have none
OF_ONE_PATIENT = "(others, of one patient each)"

COLUMNS = ["heading", "section", "count"]
DIGIT = re.compile(r"\d")


class HeadingCounts:
    """Counts the headings of reports. Equal headings are those that differ in case or digits only.

    The counts can be shown without showing a patient, although a line "SMITH, JOHN:" looks like a
    heading: digits are replaced by "#", and a heading is named only if all its words are usual in
    headings or if the reports of several patients have it.
    """

    def __init__(self) -> None:
        self._reports: set[int] = set()  # hashes: the texts would take a gigabyte
        self._counts: Counter[Heading] = Counter()
        self._patient_of: dict[str, str] = {}  # heading -> the first patient with it
        self._of_several: set[str] = set()  # headings

    def add(self, patient: str, study: str, text: str, reading: Reading) -> None:
        """Count the headings of a study's report, unless this report has been counted already."""
        report = hash((patient, study, text))
        if report in self._reports:  # the study has another image
            return
        self._reports.add(report)
        for heading, section in reading.headings:
            words = DIGIT.sub("#", heading.lower())
            self._counts[Heading(words, section)] += 1
            if self._patient_of.setdefault(words, patient) != patient:
                self._of_several.add(words)
        headed = {section for _, section in reading.headings}
        if "findings" in reading.sections and headed.isdisjoint(("findings", COMBINED)):
            self._counts[Heading(NO_HEADING, "findings")] += 1

    def table(self) -> pd.DataFrame:
        """One row a heading and section, the most frequent first: `heading`, `section`, `count`.

        Does not depend on the order of the reports.
        """
        counts: Counter[Heading] = Counter()
        for met, count in self._counts.items():
            shown = met if self._may_be_shown(met.heading) else met._replace(heading=OF_ONE_PATIENT)
            counts[shown] += count
        rows = [(*shown, count) for shown, count in counts.items()]
        table = pd.DataFrame(rows, columns=COLUMNS)
        return table.sort_values(["count", "heading", "section"], ascending=[False, True, True])

    def _may_be_shown(self, words: str) -> bool:
        is_usual = words in SECTION_OF or words == NO_HEADING or is_made_of_heading_words(words)
        return is_usual or words in self._of_several
