"""Which findings a report asserts, denies or leaves open: rules on spaCy tokens (ours).

It is not CheXpert and does not call itself so; fourteen names are CheXpert's. A label is the
strongest mention: present, uncertain, absent. History alone is no mention, what has resolved is
absent, healed fractures and devices can still be seen. A "borderline" heart is Cardiomegaly, a "top
normal" one is not; clear lungs deny Lung Opacity; a mass or nodule is a Lung Lesion too, pleural
thickening Pleural Other too; nothing else is inferred. No Finding is present where chest, lungs or
heart are called normal or clear, or disease of them is denied, and no finding or other abnormality
(a scar, a tortuous aorta) is present or uncertain, support devices aside; else it is missing.
Give reports without their indication: its question would be read as doubt.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import spacy
from sklearn.metrics import classification_report
from sklearn.preprocessing import MultiLabelBinarizer
from spacy.matcher import PhraseMatcher

FINDINGS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion",
    "Edema", "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion",
    "Pleural Other", "Fracture", "Support Devices", "Mass", "Nodule", "Infiltration", "Emphysema",
    "Fibrosis", "Pleural Thickening", "Hernia",
)  # fmt: skip

# Greek endings too, which library stemmers leave apart: atelectasis, atelectases, atelectatic.
_ENDING = re.compile(
    "(?<=[a-z]{4})(as[ei]s|atic|osis|otic|(at)?ous|osity|i[ac]|is|ifi(ed|c|cation)|it(y|ies)|ing|ed"
    "|at(e|ion|ive)|(?<=[a-z]{5})i(on|ve)|al|um|(e?m)?ent|ence|ies|[yae])?(ly|d|(?<!s)s)?$"
)
_SAID = {  # of an organ, by its quality; "-" where that denies it
    "heart": {"large": "Cardiomegaly", "normal": "-Cardiomegaly"},
    "cardiomediastinum": {"large": "Cardiomegaly,Enlarged Cardiomediastinum",
                          "normal": "-Cardiomegaly,-Enlarged Cardiomediastinum"},
    "mediastinum": {"large": "Enlarged Cardiomediastinum", "normal": "-Enlarged Cardiomediastinum"},
    "lung": {"clear": "No Finding,-Lung Opacity", "normal": "No Finding,-Lung Opacity"},
    "vessel": {"congested": "Edema", "large": "Edema", "normal": "-Edema"},
    "pleura": {"clear": "-Pleural Effusion"},
}  # fmt: skip
_QUALITIES = {quality for said in _SAID.values() for quality in said}
_PARENTS = {"Mass": "Lung Lesion", "Nodule": "Lung Lesion", "Pleural Thickening": "Pleural Other"}
_VERBS = {"is", "are", "was", "were", "be", "been", "remain", "appear", "has", "have"}
_JOINTS = {",", ";", ".", "and", "or", "nor", "/", "with", "but", "may", "might", "could"}
_SENTENCE = re.compile(r"\S(?:[^.!;\n]+|(?<=vs)\.|[.!;](?!\s)|\n(?!\s*\n))*[.!;]?", re.IGNORECASE)
_STATUS = ("absent", "uncertain", "present")  # from the weakest to the strongest
_CHEST = ("Cardiomegaly", "Lung Opacity", "Consolidation", "Infiltration", "Pneumonia", "Edema")
_LASTING = ("Fracture", "Support Devices", "other")  # can be seen long after
_TAGS = ("left right bilateral", "upper middle lower", "small mild moderate large severe")


@dataclass(frozen=True)
class Mention:
    """One place, report[start:end], that says a finding is present, absent or uncertain (`status`).
    Where said: `side` left, right or bilateral; `zone` upper, middle or lower; `severity` small,
    moderate or large (of size), mild, moderate or severe (of degree); "" where not.
    """

    finding: str
    status: str
    start: int
    end: int
    side: str = ""
    zone: str = ""
    severity: str = ""


def mentions(report: str) -> list[Mention]:
    """Every mention of a finding, sentence by sentence. Raises TypeError for what is not text."""
    return [
        replace(mention, start=part.start() + mention.start, end=part.start() + mention.end)
        for part in _sentences(report)
        for mention in _read(part.group())
        if mention.finding in FINDINGS
    ]


def label(report: str) -> dict[str, str]:
    """Finding -> present, absent or uncertain; missing if unmentioned. TypeError as `mentions`."""
    found: dict[str, str] = {}
    for part in _sentences(report):
        for mention in _read(part.group()):
            for name in {mention.finding, _PARENTS.get(mention.finding, mention.finding)}:
                found[name] = max(mention.status, found.get(name, "absent"), key=_STATUS.index)
    normal = found.pop("No Finding", "") or "absent" in map(found.get, _CHEST)
    if normal and {found[name] for name in found if name != "Support Devices"} <= {"absent"}:
        found["No Finding"] = "present"
    return {name: found[name] for name in FINDINGS if name in found}


def present(report: str) -> set[str]:
    """The findings that a report asserts. TypeError as `mentions`."""
    return {name for name, status in label(report).items() if status == "present"}


def agreement(hypotheses: Sequence[str], references: Sequence[str]) -> dict:
    """F1 of the findings present in retrieved reports against those in the true ones, pair by pair:
    {"micro", "macro" (of findings with support), "findings": name -> {"precision", "recall",
    "f1-score", "support"}}, 0 where undefined. Raises ValueError for no or unequal numbers of them.
    """
    if not 0 < len(references) == len(hypotheses):
        got = f"{len(hypotheses)} and {len(references)}"
        raise ValueError(f"agreement needs one hypothesis for each reference, not {got} of them.")
    columns = MultiLabelBinarizer(classes=FINDINGS)
    truth, found = (columns.fit_transform(map(present, t)) for t in (references, hypotheses))
    table = classification_report(
        truth, found, target_names=FINDINGS, output_dict=True, zero_division=0
    )
    rows = {name: table[name] for name in FINDINGS}
    macro = np.mean([row["f1-score"] for row in rows.values() if row["support"]] or [0.0])
    return {"micro": table["micro avg"]["f1-score"], "macro": float(macro), "findings": rows}


def highlights(query_report: str, hit_report: str) -> list[tuple[int, int, str]]:
    """Spans (start, end, kind) of the hit report, in order, none overlapping. "shared": the query
    has the same finding with the same status, no side against it. "other": asserted or doubted but
    not in the query, or against it (present and absent, left and right). The rest is not marked.
    """
    asked = mentions(query_report)
    if "No Finding" in label(query_report):
        asked.append(Mention("No Finding", "present", 0, 0))
    spans, at = [], 0
    for hit in sorted(mentions(hit_report), key=lambda mention: (mention.start, mention.end)):
        same = [query for query in asked if query.finding == hit.finding]
        equal = [query for query in same if query.status == hit.status]
        opposite = any({query.status, hit.status} == {"present", "absent"} for query in same)
        kind = "other" if equal or opposite or (not same and hit.status != "absent") else ""
        if any({query.side, hit.side} != {"left", "right"} for query in equal):
            kind = "shared"
        if kind and hit.end > at:
            spans.append((max(hit.start, at), hit.end, kind))
            at = hit.end
    return spans


def _sentences(report: str) -> Iterator[re.Match]:
    if not isinstance(report, str):
        raise TypeError(f"A report is text, not {report!r}: leave reports that are missing out.")
    return _SENTENCE.finditer(report)


@lru_cache(maxsize=100_000)  # the same sentences come again and again
def _read(sentence: str) -> tuple[Mention, ...]:
    nlp, matcher = _language()
    doc = nlp.make_doc(sentence)
    words = [token.norm_ for token in doc]
    matches = [(start, end, nlp.vocab.strings[key]) for key, start, end in matcher(doc)]
    clauses = _clauses([match for match in matches if match[2][0] != "~"])
    heard = [m for clause in clauses for m in _judged(_paired(clause, words), words)]
    spans, where, first = sorted({(start, end) for *_, start, end in heard}), {}, 0
    for (start, end), (following, _) in pairwise([*spans, (len(words), 0)]):
        joints = [i for i in range(end, following) if words[i] in _JOINTS]
        last = joints[0] if joints and following < len(words) else following
        said = _described({name for at, _, name in matches if first <= at < last})
        where[start, end] = doc[start].idx, doc[end - 1].idx + len(doc[end - 1]), *said
        first = last
    return tuple(Mention(name, status, *where[start, end]) for name, status, start, end in heard)


def _clauses(matches: list[tuple[int, int, str]]) -> Iterator[list]:
    """Matches (first word, word after the last, name) clause by clause; longer ones hide others."""
    clause, taken = [], (0, 0)
    for start, end, name in sorted(matches, key=lambda match: (match[0], -match[1])):
        if start >= taken[1] or (start, end) == taken:
            taken = (start, end)
            if name == "break":
                yield clause
                clause, taken = [], (start, start + 1)
            elif name != "nothing":
                clause.append((start, end, name))
    yield clause


def _paired(clause: list, words: list[str]) -> list:
    """The clause in order of ends, each organ and its quality joined into what they say."""
    out, organs, quality = [], [], None
    terms = {start for start, _, name in clause if name[0].isupper()}
    for start, end, name in clause:
        if name in _SAID and quality and start - quality[1] <= 3 and quality[2] in _SAID[name]:
            out.append((quality[0], end, _SAID[name][quality[2]]))  # "normal heart"
            quality = (quality[0], end, quality[2])
        elif name in _SAID:
            organs.append((start, end, name))
        elif name in _QUALITIES:  # "heart is normal"
            said = [organ for organ in organs if name in _SAID[organ[2]] and end not in terms]
            for begin, stop, organ in said:
                if _SAID[organ][name][0] in "-N" or _VERBS & set(words[stop:start]):
                    out.append((begin, begin, "reset"))
                out.append((begin, end, _SAID[organ][name]))
            organs, quality = ([], None) if said else (organs, (start, end, name))
        else:
            out.append((start, end, name))
    return sorted(out, key=lambda match: match[1])


def _judged(clause: list, words: list[str]) -> list[list]:
    """[finding, status, first word, word after the last] of each mention."""
    heard, scope, lasts = [], "present", any(match[2] == "now" for match in clause)
    for start, end, name in clause:
        if name == "reset":
            scope = "present"
        elif name in ("absent", "uncertain", "history"):
            scope = name if scope != "absent" or words[start - 1] == "," else scope
        elif "was" in name:  # as far back as the last verb
            for mention in heard[-1:] if name.startswith("one") else heard:
                if mention[1] != "absent" and not _VERBS & set(words[mention[3] : start - 1]):
                    mention[1] = name.split()[-1]
        elif name != "now":
            if words[start - 1] == "," and _VERBS & set(words[end : end + 1]):
                scope = "present"
            for finding in name.split(","):
                status = scope
                if finding[0] == "-":
                    finding, status = finding[1:], "present" if scope == "absent" else "absent"
                elif scope == "history" and (lasts or finding in _LASTING):
                    status = "present"
                heard.append([finding, status, start, end])
    return [m for m in heard if m[1] in _STATUS and (m[0] != "No Finding" or m[1] == "present")]


def _described(near: set[str]) -> tuple[str, str, str]:
    sides, zones, grades = ([tag for tag in tags.split() if f"~{tag}" in near] for tags in _TAGS)
    side = "bilateral" if len(sides) > 1 else "".join(sides)
    return side, zones[0] if len(zones) == 1 else "", "".join(grades[-1:])


@cache
def _language() -> tuple[spacy.Language, PhraseMatcher]:
    nlp = spacy.blank("en")
    nlp.vocab.lex_attr_getters[spacy.attrs.NORM] = lambda word: _ENDING.sub("", word.lower())
    nlp.tokenizer.rules = {}  # no abbreviations: "Mass." is no state here
    matcher = PhraseMatcher(nlp.vocab, attr="NORM")
    lexicon = Path(__file__).with_suffix(".txt").read_text().replace("\n  ", " ")
    for entry in re.findall(r"^[^#\n].*", lexicon, re.MULTILINE):
        name, phrases = entry.split(": ", maxsplit=1)
        for phrase in phrases.split(", "):
            choices = [word.split("|") for word in phrase.replace("COMMA", ",").split()]
            matcher.add(name, [nlp.make_doc(" ".join(words)) for words in product(*choices)])
    return nlp, matcher
