"""Columns of strings give the strings that they were made of, in whatever order they are picked, and their bytes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.texts import Texts
from serving.wire import copied, scored_items

STRINGS = st.lists(st.text(max_size=9), max_size=12)


@given(STRINGS)
def test_a_column_gives_its_strings_back(strings):
    texts = Texts.of(strings)
    assert len(texts) == len(strings)
    assert [texts[row] for row in range(len(texts))] == strings
    assert texts.utf8.tobytes() == "".join(strings).encode()


@given(STRINGS, STRINGS, st.data())
def test_rows_go_on_in_the_column_beside(strings, others, data):
    both = strings + others
    rows = data.draw(st.lists(st.sampled_from(range(len(both))), max_size=20)) if both else []
    picked = Texts.of(strings).pick(np.array(rows, dtype=np.int64), beside=Texts.of(others))
    expected = [both[row] for row in rows]
    assert picked.to_list() == expected
    start_K1, utf8 = copied(picked)
    assert start_K1.tolist() == np.cumsum([0, *(len(text.encode()) for text in expected)]).tolist()
    assert utf8.tobytes() == "".join(expected).encode()


@given(STRINGS, STRINGS, st.integers(0, 3), st.sampled_from([-3, -2, -1, 1, 2, 3]))
def test_a_row_of_nothing_is_never_read(strings, others, num, beyond):
    texts, beside = Texts.of(strings), Texts.of(others)
    wrong = beyond if beyond < 0 else len(strings) + len(others) + beyond - 1
    right = list(range(min(num, len(strings))))
    picked = texts.pick(np.array([*right, wrong]), beside=beside)
    with pytest.raises(AssertionError, match="a row of nothing"):
        copied(picked)
    with pytest.raises(AssertionError, match="a row of nothing"):
        scored_items(picked, np.ones(len(right) + 1, dtype=np.float32))
