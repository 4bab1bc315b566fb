"""Which kind of support device a passage of a report names: a pacemaker, a chest tube (ours).

The findings rules call all of them Support Devices. Names such as "lead" or "tube" fit several
kinds; the other words of their sentence then decide, or else all kinds that the name fits remain.
"""

import re
from typing import NamedTuple

# Kind -> its names, as regular expressions of whole words.
NAMES = {
    "pacemaker": r"pace ?makers?|pacers?|pacing (?:leads?|wires?|devices?|catheters?)",
    "defibrillator": r"aicds?|icds?|defibrillators?",
    "stimulator": r"(?:(?:nerve|vagal|vagus|spinal|cord|deep|brain) )*stimulators?",
    "monitor": r"(?:loop|event) recorders?|(?:cardiac )?monitor(?:ing)? (?:leads?|wires?|devices?)"
    r"|(?:ecg|ekg|telemetry|monitoring) (?:leads?|wires?)",
    "sternal wires": r"(?:median )?(?:sternal|sternotomy|cerclage) (?:wires?|sutures?|hardware)"
    r"|wires? (?:in|of|across|over|through) the sternum",
    "PICC": r"piccs?(?: (?:lines?|catheters?))?|peripherally inserted central(?: venous)? "
    r"(?:lines?|catheters?)",
    "port": r"(?:chest |infusion |medi)?ports?|port-?a-?caths?|port a caths?|mediports?",
    "dialysis catheter": r"(?:hemo)?dialysis (?:lines?|catheters?)|permcaths?|vascaths?",
    "pulmonary artery catheter": r"swan[- ]ganz(?: catheters?)?|(?:pulmonary (?:artery|arterial)"
    r"|pa) (?:lines?|catheters?)",
    "central line": r"(?:(?:central|venous|internal|jugular|ij|subclavian|cvc|femoral) )+"
    r"(?:lines?|catheters?)|cvcs?|cvls?|hickman(?: catheters?)?",
    "endotracheal tube": r"(?:endotracheal|et|intubation) (?:tubes?|tubing)|endotracheal|etts?",
    "tracheostomy": r"tracheostom(?:y|ies)(?: (?:tubes?|cannulas?))?",
    "feeding tube": r"(?:(?:nasogastric|orogastric|nasoenteric|enteric|gastric|gastrostomy|feeding"
    r"|ng|og|peg|dobbhoff|dobhoff|nasojejunal) )+(?:tubes?|tubing|catheters?)|nasogastric"
    r"|orogastric|dobb?hoff|ngts?|ogts?",
    "chest tube": r"(?:chest|thoracostomy|pleural|pigtail|thoracic) (?:tubes?|drains?|catheters?)"
    r"|pigtails?|pleurx(?: catheters?)?",
    "valve": r"(?:(?:prosthetic|mechanical|bioprosthetic|artificial|replacement|aortic|mitral"
    r"|tricuspid|cardiac|heart) )*(?:valves?|valvular)(?: (?:prosthes[ei]s|replacements?))?"
    r"|annuloplasty(?: rings?)?|tav[ri]",
    "clips": r"(?:(?:surgical|vascular|cholecystectomy|skin|cabg) )*(?:clips?|sutures?|staples?)"
    r"(?: lines?)?",
    "stent": r"(?:coronary |tracheal |bronchial |esophageal |aortic )?(?:stents?|stent-?grafts?)",
    "shunt": r"(?:ventriculo-?peritoneal|vp|portosystemic) shunts?|shunts?|tips",
    "balloon pump": r"(?:intra-?aortic )?balloon pumps?|iabps?",
    "coils": r"(?:embolization )?coils?",
    "bone hardware": r"(?:spinal|cervical|lumbar|thoracic|orthopa?edic|posterior|anterior|shoulder"
    r"|humeral|rib) (?:hardware|fusions?|rods?|plates?|screws?|prosthes[ei]s|arthroplast(?:y|ies))"
    r"|fusions?|rods?|plates?|screws?|arthroplast(?:y|ies)",
}
# A name that fits several kinds -> those kinds; any other name fits all of them.
SHARED_NAMES = {
    r"leads?|generators?|pulse generators?|battery|batteries": (
        "pacemaker", "defibrillator", "stimulator",
    ),
    r"wires?": ("sternal wires", "pacemaker", "monitor"),
    r"lines?|catheters?": (
        "central line", "PICC", "port", "dialysis catheter", "pulmonary artery catheter",
        "feeding tube", "chest tube",
    ),
    r"tubes?|tubing": ("endotracheal tube", "tracheostomy", "feeding tube", "chest tube"),
    r"drains?": ("chest tube",),
    r"hardware|implants?|prosthes[ei]s|prosthetic": ("bone hardware", "valve"),
}  # fmt: skip
KINDS = frozenset(NAMES)

_END_OF_SENTENCE = re.compile(r"[.;\n](?!\S)")
_BETWEEN_NAMES = re.compile(r"[\s,/&-]*(?:and|or|as well as)?[\s,/&-]*")
_PATTERNS = {
    kind: re.compile(rf"(?<![\w-])(?:{names})(?![\w])", re.IGNORECASE)
    for kind, names in NAMES.items()
}


class Named(NamedTuple):
    """A kind of device that text[start:end] names."""

    start: int
    end: int
    kind: str


def kinds(report: str, start: int, end: int) -> frozenset[str]:
    """The kinds of device, keys of NAMES, that report[start:end] can mean; never none.

    Its own words decide ("pacemaker", "sternal wires" even if only "wires" is in the span), then
    the nearest fitting device of its sentence (the "lead" of a pacemaker), and else the kinds that
    such a name fits: all of them for a "device". "Endotracheal and chest tubes" are two kinds.
    """
    first, last = _sentence(report, start, end)
    named = _devices_in(report, first, last)
    own = [device for device in named if device.start < end and start < device.end]
    if own:
        longest = max(own, key=_length)
        return frozenset(_joined(report, longest, named))
    possible = _kinds_of_name(report[start:end])
    fitting = [device for device in named if device.kind in possible]
    if fitting:
        nearest = min(fitting, key=lambda device: _gap(device, start, end))
        return frozenset({nearest.kind})
    return possible


def _sentence(report: str, start: int, end: int) -> tuple[int, int]:
    """Where the sentence of report[start:end] begins and ends."""
    first = 0
    for mark in _END_OF_SENTENCE.finditer(report, 0, start):
        first = mark.end()
    next_mark = _END_OF_SENTENCE.search(report, end)
    last = next_mark.start() if next_mark else len(report)
    return first, last


def _devices_in(report: str, first: int, last: int) -> list[Named]:
    """Every name of a kind in report[first:last], in order."""
    named = []
    for kind, pattern in _PATTERNS.items():
        for match in pattern.finditer(report, first, last):
            named.append(Named(match.start(), match.end(), kind))
    return sorted(named)


def _joined(report: str, device: Named, named: list[Named]) -> set[str]:
    """The kinds of a device and of one joined to it: "endotracheal and chest tubes" are two."""
    found = {device.kind}
    for other in named:
        is_before = other.end <= device.start
        if is_before and _is_adjective(report, other):
            between = report[other.end : device.start]
            if _BETWEEN_NAMES.fullmatch(between):
                found.add(other.kind)
    return found


def _is_adjective(report: str, device: Named) -> bool:
    """Whether a name waits for its noun, as "endotracheal" does in "endotracheal and NG tubes"."""
    return report[device.start : device.end].lower() in {
        "endotracheal",
        "nasogastric",
        "orogastric",
    }


def _kinds_of_name(name: str) -> frozenset[str]:
    for pattern, possible in SHARED_NAMES.items():
        if re.search(rf"\b(?:{pattern})\b", name, re.IGNORECASE):
            return frozenset(possible)
    return KINDS


def _length(device: Named) -> int:
    return device.end - device.start


def _gap(device: Named, start: int, end: int) -> int:
    """Characters between a device and report[start:end]."""
    return max(device.start - end, start - device.end)
