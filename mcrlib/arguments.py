"""What callers give, and may give wrongly: counts and lists (ours)."""

from collections.abc import Iterable, Mapping, Set
from io import IOBase
from numbers import Integral
from typing import Any


def is_whole(number: Any) -> bool:
    """Whether this is a whole number, Python's or NumPy's, and no truth value."""
    return isinstance(number, Integral) and not isinstance(number, bool)


def is_list(values: Any) -> bool:
    """Whether these are entries in an order. A text would be taken apart into letters, bytes into
    numbers, a table into the names of its columns, a file into its lines; sets have no order."""
    has_other_parts = isinstance(values, (str, bytes, Mapping, Set, IOBase))
    is_table = hasattr(values, "columns")
    is_single = getattr(values, "ndim", 1) == 0  # an array of one number
    return isinstance(values, Iterable) and not (has_other_parts or is_table or is_single)
