"""Recall@K of guessing, and the largest K that still tells something in a pool (ours).

Tables and captions need it when they are drawn again, so it imports nothing slow.
"""

from collections.abc import Collection

import numpy as np

from mcrlib.arguments import is_whole

LARGEST_SHARE = 0.5  # of the pool; from here on, a K tells little, since chance finds as much

Ks = Collection[int]


def tells(k: int, pool: int) -> bool:
    """Whether a recall at K tells something: guessing finds less than half of the partners."""
    return k < LARGEST_SHARE * pool


def telling_k(pool: int, ks: Ks = (1, 5, 10)) -> int:
    """The largest of `ks` below LARGEST_SHARE of the pool, for headlines and verdicts.

    In a pool of 1 or 2 even K = 1 is not below it; the smallest of `ks` is then returned. Raises
    ValueError for an empty pool and for `ks` that are not whole numbers from 1.
    """
    check_count(pool, "pool")
    check_ks(ks)
    telling = [k for k in ks if tells(k, pool)]
    return max(telling, default=min(ks))


def chance_recall(ks: Ks, pool: int) -> dict[str, float]:
    """Recall@K of random retrieval, 0 to 1, policy `pair`, by the name of its column: "R@10".

    Raises ValueError for an empty pool and for `ks` that are not whole numbers from 1.
    """
    check_count(pool, "pool")
    check_ks(ks)
    return {f"R@{k}": min(k / pool, 1.0) for k in ks}


def check_ks(ks: Ks) -> None:
    """Raise ValueError unless `ks` are whole numbers from 1, and there is one at least."""
    is_list = isinstance(ks, (Collection, np.ndarray)) and not isinstance(ks, (str, bytes))
    are_counts = is_list and len(ks) > 0 and all(is_whole(k) and k >= 1 for k in ks)
    if not are_counts:
        raise ValueError(f"ks must be a list of whole numbers from 1, as in (1, 5, 10): got {ks}.")


def check_count(number: int, name: str, least: int = 1) -> None:
    """Raise ValueError unless `number` is a whole number of at least `least`."""
    if not is_whole(number) or number < least:
        raise ValueError(f"{name} must be a whole number of at least {least}: got {number!r}.")
