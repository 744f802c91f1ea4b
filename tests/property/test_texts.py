"""Columns of strings give the strings that they were made of, in whatever order they are picked."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.texts import Texts

STRINGS = st.lists(st.text(max_size=9), max_size=12)


@given(STRINGS)
def test_a_column_gives_its_strings_back(strings):
    texts = Texts.of(strings)
    assert len(texts) == len(strings)
    assert texts.to_list() == strings
    assert texts.utf8.tobytes() == "".join(strings).encode()


@given(STRINGS, STRINGS, st.data())
def test_rows_go_on_in_the_column_beside(strings, others, data):
    both = strings + others
    rows = data.draw(st.lists(st.sampled_from(range(len(both))), max_size=20)) if both else []
    picked = Texts.of(strings).pick(np.array(rows, dtype=np.int64), beside=Texts.of(others))
    assert picked.to_list() == [both[row] for row in rows]


@given(STRINGS, st.integers(-3, 15))
def test_a_row_of_nothing_is_never_read(strings, row):
    texts, row_1, beside = Texts.of(strings), np.array([row]), Texts.of([])
    if 0 <= row < len(strings):
        assert texts.pick(row_1, beside=beside).to_list() == [strings[row]]
        return
    with pytest.raises(AssertionError, match="a row of nothing"):
        texts.pick(row_1, beside=beside)
