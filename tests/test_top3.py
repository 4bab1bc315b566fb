"""Questions about hits: what is asked for and is not there is named."""

import dataclasses

import pandas as pd
import pytest

from mcrlib.companion import top3
from mcrlib.companion.top3 import Question, names

FRAME = pd.DataFrame({"pair_id": ["a", "b", "c"], "split": ["train", "test", "test"]})
TEST = FRAME[1:].reset_index(drop=True)


def test_named_pairs_are_found_and_others_are_said_to_be_elsewhere():
    assert top3._named_queries(FRAME, TEST, ("c",)).tolist() == [1]
    with pytest.raises(ValueError, match=r"called a \(in the split train\), x \(in no split\)"):
        top3._named_queries(FRAME, TEST, ("b", "a", "x"))


def test_no_queries_and_an_empty_pool_are_named():
    top3._check(Question(), pool=5)
    top3._check(Question(queries=0, pair_ids=("b",)), pool=5)
    with pytest.raises(ValueError, match="queries is 0: ask for at least 1"):
        top3._check(dataclasses.replace(top3.FIGURE5, queries=0), pool=5)
    with pytest.raises(ValueError, match="has no pairs"):
        top3._check(Question(), pool=0)


def test_a_name_in_place_of_a_list_is_that_name_and_other_things_are_refused():
    assert names("mcr") == names(["mcr"]) == ("mcr",)
    for wrong in (None, 3, [3], {"mcr": 1}):
        with pytest.raises(ValueError, match="are lists of names"):
            names(wrong)
