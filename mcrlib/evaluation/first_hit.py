"""What the first hit gets wrong, in classes of errors after GREEN (Ostmeier et al. 2024).

Of a query's findings, one may be `omitted` by the hit; one of the hit's may be `added`, which the
query lacks; of a finding that both have, the wrong side, zone or severity may be stated, if both
state one. A finding that a pair has twice states two sides, and both must agree. GREEN has one
class for the place, and two more about comparisons with older studies.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from mcrlib.evaluation.attributes import KINDS, AttributePool

OMITTED = "omitted"
ADDED = "added"
WRONG = {kind: f"wrong_{kind}" for kind in KINDS}
ERRORS = (OMITTED, ADDED, *WRONG.values())


class Error(NamedTuple):
    """One class of errors of each query's first hit, by finding."""

    is_made: Tensor  # bool [N, F]
    can_be_made: Tensor  # bool [N, F]: the finding is there to be omitted, added or misplaced


def finding_names(pool: AttributePool) -> list[str]:
    """The findings that any pair of the pool has: the F columns of its errors."""
    return sorted({name.finding for name in pool.names})


def errors(pool: AttributePool, first_hit: Tensor) -> dict[str, Error]:
    """The errors of the first hits, by class of ERRORS.

    first_hit [N] holds the row of each query's hit; both arguments are on the CPU. A finding can be
    omitted if the query has it, added if the hit has it, and wrong in its side, zone or severity if
    both have it and state one.
    """
    has_query = _has_finding(pool)[pool.set_of_pair]
    has_hit = has_query[first_hit]
    by_class = {
        OMITTED: Error(is_made=has_query & ~has_hit, can_be_made=has_query),
        ADDED: Error(is_made=has_hit & ~has_query, can_be_made=has_hit),
    }
    for kind, name in WRONG.items():
        said = _said(pool, kind)[pool.set_of_pair]
        by_class[name] = _misstated(said, said[first_hit])
    return by_class


def _misstated(query: Tensor, hit: Tensor) -> Error:
    """What of a finding both state, and state differently; query and hit are [N, F, V]."""
    both_state = query.any(2) & hit.any(2)
    differs = (query != hit).any(2)
    return Error(both_state & differs, both_state)


def _has_finding(pool: AttributePool) -> Tensor:
    """Which findings each set of attributes has: bool [U, F]."""
    return _said(pool, "")[:, :, 0]


def _said(pool: AttributePool, kind: str) -> Tensor:
    """Which values of a kind each set states of each finding: bool [U, F, V]."""
    findings = finding_names(pool)
    of_kind = [name for name in pool.names if name.kind == kind]
    values = sorted({name.value for name in of_kind}) or [""]
    said = torch.zeros(len(pool.has), len(findings), len(values), dtype=torch.bool)
    for name in of_kind:
        has_it = pool.has[:, pool.names.index(name)]
        said[:, findings.index(name.finding), values.index(name.value)] = has_it > 0
    return said
