"""How each mention of a finding in one report relates to another report, the query's (ours)."""

from collections.abc import Iterable
from typing import NamedTuple

from mcrlib.evaluation import devices
from mcrlib.evaluation.finding_rules import (
    ABSENT,
    NO_FINDING,
    PRESENT,
    SUPPORT_DEVICES,
    UNCERTAIN,
    Mention,
)

# Relations of a hit's mention to the query, the most telling first.
AGAINST = "against"  # denied here, asserted in the query
OTHER = "other"  # asserted here; in the query denied or not mentioned
DIFFERS = "differs"  # asserted in both, of another side, zone, size or degree
SHARED = "shared"  # asserted in both, and nothing differs
DENIED = "denied"  # denied in both
RELATIONS = (AGAINST, OTHER, DIFFERS, SHARED, DENIED)
UNMARKED = ""  # none of these

# Sizes and degrees that mean about the same are one step of the same ladder.
_STEPS = {"small": 1, "mild": 1, "moderate": 2, "large": 3, "severe": 3}


class Said(NamedTuple):
    """A mention, with what its report adds to it."""

    mention: Mention
    status: str  # of the finding; for No Finding, which denies all of them, absent
    sides: frozenset[str]  # what its side may be called; empty if the report does not say
    devices: frozenset[str]  # the kinds that a device may be; empty for other findings


def understand(report: str, mentions: Iterable[Mention]) -> list[Said]:
    """The mentions of a report with their sides and devices, in the order given."""
    read = []
    for mention in mentions:
        kinds = frozenset()
        if mention.finding == SUPPORT_DEVICES:
            kinds = devices.kinds(report, mention.start, mention.end)
        status = ABSENT if mention.finding == NO_FINDING else mention.status
        sides = frozenset({mention.side} - {""})
        read.append(Said(mention, status, sides, kinds))
    return [_with_both_sides(said, read) for said in read]


def relation(said: Said, query: Iterable[Said]) -> str:
    """How a mention relates to the query's: one of the relations above.

    Size, degree, side and zone differ only if both reports say them; "small" and "mild", and
    "large" and "severe", do not. A doubt is compared with doubts only, and is unmarked if the query
    is certain. Devices are the same finding if they can be of the same kind.
    """
    about_it = [other for other in query if _is_same_finding(said, other)]
    alike = [other for other in about_it if _is_same_place_and_degree(said, other)]
    same_status = [other for other in about_it if other.status == said.status]
    if said.status == ABSENT:
        return _relation_of_denial(said, alike, same_status)
    if any(other.status == said.status for other in alike):
        return SHARED
    if same_status:
        return DIFFERS
    in_question = {UNCERTAIN} if said.status == PRESENT else {PRESENT, ABSENT}
    if any(other.status in in_question for other in about_it):
        return UNMARKED
    return OTHER


def _relation_of_denial(said: Said, alike: list[Said], same_status: list[Said]) -> str:
    """A denial against the query's mentions `alike` and its denials, `same_status`."""
    if any(other.sides == said.sides for other in same_status):
        return DENIED
    if any(other.status == PRESENT for other in alike):
        return AGAINST
    return DENIED if same_status else UNMARKED


def _with_both_sides(said: Said, report: list[Said]) -> Said:
    """A finding that its report has left and right may be called bilateral, too."""
    sides = set()
    for other in report:
        is_same = other.status == said.status and _is_same_finding(said, other)
        if is_same and _step(other) == _step(said):
            sides |= other.sides
    if said.sides and {"left", "right"} <= sides:
        return said._replace(sides=said.sides | {"bilateral"})
    return said


def _is_same_finding(one: Said, two: Said) -> bool:
    if one.mention.finding != two.mention.finding:
        return False
    return not one.devices or not one.devices.isdisjoint(two.devices)


def _is_same_place_and_degree(one: Said, two: Said) -> bool:
    """Whether nothing that both mentions say of side, zone, size and degree differs."""
    if one.sides and two.sides and one.sides.isdisjoint(two.sides):
        return False
    zones = {one.mention.zone, two.mention.zone} - {""}
    steps = {_step(one), _step(two)} - {0}
    return len(zones) < 2 and len(steps) < 2


def _step(said: Said) -> int:
    """How large or severe a finding is, 1 to 3; 0 if the report does not say."""
    return _STEPS.get(said.mention.severity, 0)
