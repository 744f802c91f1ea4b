"""Ids and ragged lists: going there and back loses nothing, and unknown is a value."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import DataError
from recsys.ids import UNKNOWN, Vocabulary
from recsys.ragged import Ragged, gather_ranges

ids = st.lists(st.text(max_size=8), unique=True, max_size=30)
lists = st.lists(st.lists(st.integers(0, 2**32 - 1), max_size=6), max_size=12)


@given(known=ids, asked=st.lists(st.text(max_size=8), max_size=30))
def test_a_vocabulary_is_a_way_there_and_back(known, asked):
    vocabulary = Vocabulary(known)
    assert len(vocabulary) == len(known)
    assert vocabulary.ids(vocabulary.rows(known).tolist()) == known
    for id_, row in zip(asked, vocabulary.rows(asked).tolist(), strict=True):
        assert row == vocabulary.row(id_)
        assert (row == UNKNOWN) == (id_ not in known) == (id_ not in vocabulary)
        assert row == UNKNOWN or vocabulary.id(row) == id_


def test_an_id_twice_is_refused():
    with pytest.raises(DataError, match="got the id 'b' twice"):
        Vocabulary(["a", "b", "c", "b"])


def as_lists(ragged):
    return [ragged[row].tolist() for row in range(len(ragged))]


@given(given_lists=lists)
def test_ragged_lists_are_a_way_there_and_back(given_lists):
    ragged = Ragged.from_lists(given_lists)
    assert as_lists(ragged) == given_lists
    assert ragged.lengths.tolist() == [len(one) for one in given_lists]
    series = ragged.to_series("x")
    assert series.to_list() == given_lists
    assert as_lists(Ragged.from_series(series)) == given_lists


@given(given_lists=lists, data=st.data())
def test_taking_and_cutting_are_what_python_lists_do(given_lists, data):
    ragged = Ragged.from_lists(given_lists)
    rows = data.draw(st.lists(st.integers(0, len(given_lists) - 1), max_size=10)) if given_lists else []
    assert as_lists(ragged.take(np.array(rows, dtype=np.int64))) == [given_lists[row] for row in rows]
    size = data.draw(st.integers(1, 8))
    assert as_lists(ragged.last(size)) == [one[-size:] for one in given_lists]
    assert ragged.row_of_values().tolist() == [row for row, one in enumerate(given_lists) for _ in one]


@given(values=st.lists(st.integers(), max_size=20), data=st.data())
def test_ranges_may_overlap_and_come_in_any_order(values, data):
    ends = st.tuples(st.integers(0, len(values)), st.integers(0, len(values))).map(sorted)
    ranges = data.draw(st.lists(ends, max_size=8))
    start, stop = (np.array([one[end] for one in ranges], dtype=np.int64) for end in (0, 1))
    found = gather_ranges(np.array(values, dtype=object), start, stop)
    assert [found[row].tolist() for row in range(len(found))] == [values[low:high] for low, high in ranges]


def test_nulls_count_as_empty_lists():
    assert as_lists(Ragged.from_series(pl.Series([[1], None, []], dtype=pl.List(pl.UInt32)))) == [[1], [], []]
