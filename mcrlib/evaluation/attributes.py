"""What a pair shows: the findings that are present, with their sides, zones and severities (ours).

A pair with a small effusion on the left has the attributes (Pleural Effusion), (Pleural Effusion,
side, left) and (Pleural Effusion, severity, small). The *gain* between two pairs says how much they
have in common: the Jaccard overlap of their attributes. Two pairs without a finding have gain 1.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from mcrlib.evaluation import findings
from mcrlib.evaluation.finding_rules import NO_FINDING, PRESENT
from mcrlib.evaluation.retrieval import BLOCK

KINDS = ("side", "zone", "severity")  # in the order of a phantom's label
# Sizes and degrees that mean about the same, as in `comparison`.
SAME_SEVERITY = {"mild": "small", "severe": "large"}
BOTH_SIDES = ("left", "right")


class Attribute(NamedTuple):
    """A finding that is present (`kind` and `value` are empty), or where or how severe it is."""

    finding: str
    kind: str = ""  # "" or one of KINDS
    value: str = ""


Attributes = frozenset[Attribute]


def of_labels(labels: Iterable[str]) -> Attributes:
    """Attributes of a pair whose labels are "finding|side|zone|severity", as phantoms write them.

    Parts that do not apply are empty; a label may also name the finding alone.
    """
    attributes = set()
    for label in labels:
        finding, *values = label.split("|")
        attributes |= _of_finding(finding, values)
    return frozenset(attributes)


def of_text(report: str) -> Attributes:
    """Attributes of a report, as `findings.mentions` reads it: those of findings that are present.

    Raises TypeError if it is not text.
    """
    attributes = set()
    for mention in findings.mentions(report):
        if mention.status == PRESENT:
            values = [mention.side, mention.zone, mention.severity]
            attributes |= _of_finding(mention.finding, values)
    return frozenset(attributes)


def _of_finding(finding: str, values: Sequence[str]) -> set[Attribute]:
    """The attributes of one finding; `values` are in the order of KINDS, empty if not known."""
    if finding == NO_FINDING:
        return set()
    attributes = {Attribute(finding)}
    for kind, value in zip(KINDS, values, strict=False):
        if value == "bilateral":
            attributes |= {Attribute(finding, kind, side) for side in BOTH_SIDES}
        elif value:
            attributes.add(Attribute(finding, kind, SAME_SEVERITY.get(value, value)))
    return attributes


@dataclass(frozen=True)
class AttributePool:
    """The attributes of N pairs as matrices: pairs with equal attributes share one of U rows."""

    names: tuple[Attribute, ...]  # of the A columns
    has: Tensor  # float32 [U, A], 1 for each attribute of the set
    set_of_pair: Tensor  # int64 [N], the set of each pair
    pairs: Tensor  # int64 [U], how many pairs have the set

    @classmethod
    def of(cls, attributes: Sequence[Attributes]) -> Self:
        """The pool of pairs with these attributes. Raises ValueError if there are no pairs."""
        if not len(attributes):
            raise ValueError("there are no pairs, so no pool: give the attributes of at least one.")
        set_number: dict[Attributes, int] = {}
        numbers = [set_number.setdefault(own, len(set_number)) for own in attributes]
        names = tuple(sorted(frozenset().union(*set_number)))
        column = {name: place for place, name in enumerate(names)}
        has = torch.zeros(len(set_number), len(names))
        for row, own in enumerate(set_number):
            has[row, [column[name] for name in own]] = 1.0
        set_of_pair = torch.tensor(numbers)
        return cls(names, has, set_of_pair, set_of_pair.bincount())

    def to(self, device: torch.device) -> Self:
        """The same pool on another device."""
        tensors = (self.has.to(device), self.set_of_pair.to(device), self.pairs.to(device))
        return type(self)(self.names, *tensors)

    @property
    def has_finding(self) -> Tensor:
        """Whether each pair has any finding: bool [N]."""
        return self.has.any(1)[self.set_of_pair]

    @property
    def equal_pairs(self) -> Tensor:
        """How many pairs of the pool, itself included, have the attributes of each pair: [N]."""
        return self.pairs[self.set_of_pair]

    def gains(self, rows: slice) -> Tensor:
        """Gains between some pairs and all pairs of the pool, float32 [rows, N]."""
        return self.set_gains(self.set_of_pair[rows])[:, self.set_of_pair]

    def set_gains(self, sets: Tensor) -> Tensor:
        """Gains between pairs with these sets and pairs with each set, float32 [sets, U]."""
        sizes = self.has.sum(1)
        shared = self.has[sets] @ self.has.T
        either = sizes[sets][:, None] + sizes - shared
        return torch.where(either > 0, shared / either.clamp(min=1.0), 1.0)

    def set_blocks(self) -> Iterator[Tensor]:
        """Numbers of some sets at a time, so few that their gains are at most `BLOCK` numbers."""
        sets = torch.arange(len(self.has), device=self.has.device)
        yield from sets.split(max(1, BLOCK // len(self.has)))
