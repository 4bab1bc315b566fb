"""The validation recall in a training's history, which chooses the best epoch (ours).

Its K suits the validation pool (`retrieval.telling_k`), and a training keeps the K that it began
with. So the name of its column, `validate_recall@K`, says which K that is.
"""

from collections.abc import Iterable, Mapping
from typing import Any

RECALL = "validate_recall@"  # begins the column's name
NOT_VALIDATED = -1.0  # below any recall


def recall_name(k: int) -> str:
    """The column of the validation recall at K."""
    return f"{RECALL}{k}"


def recorded_k(names: Iterable[str]) -> int | None:
    """K of the validation recall among `names`; None if no epoch was validated yet."""
    for name in names:
        if name.startswith(RECALL):
            return int(name.removeprefix(RECALL))
    return None


def recall_of(row: Mapping[str, Any]) -> float:
    """An epoch's validation recall, 0 to 1; -1 if the epoch was not validated."""
    k = recorded_k(row)
    if k is None:
        return NOT_VALIDATED
    return row[recall_name(k)]
