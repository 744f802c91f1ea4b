"""A set of items behaves like a set of numbers, whatever the catalogue's size."""

import faiss
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recsys.index.item_set import ItemSet


def array(rows):
    return np.array(sorted(rows), dtype=np.int64)


@st.composite
def pairs(draw):
    num_items = draw(st.integers(1, 70))
    rows = st.sets(st.integers(0, num_items - 1))
    return num_items, draw(rows), draw(rows)


@given(pairs())
def test_it_is_a_set(world):
    num_items, one, other = world
    first, second = ItemSet.of(array(one), num_items), ItemSet.of(array(other), num_items)
    for made, expected in (
        (first, one),
        (first | second, one | other),
        (first & second, one & other),
        (first - second, one - other),
        (first.without(array(other)), one - other),
        (ItemSet.all(num_items), set(range(num_items))),
        (ItemSet.all_but(array(one), num_items), set(range(num_items)) - one),
    ):
        assert made.rows.tolist() == sorted(expected)
        assert made.rows.dtype == np.int64
        assert len(made) == len(expected)
        assert [row for row in range(-1, num_items + 70) if made.selector.is_member(row)] == sorted(expected)


@given(st.integers(1, 70), st.lists(st.integers(-(10**12), 10**12), max_size=9))
def test_rows_outside_the_catalogue_and_repeated_ones_change_nothing(num_items, rows):
    inside = {row for row in rows if 0 <= row < num_items}
    given = np.array(rows + rows, dtype=np.int64)
    assert ItemSet.of(given, num_items).rows.tolist() == sorted(inside)
    assert len(ItemSet.all_but(given, num_items)) == num_items - len(inside)


@given(st.integers(0, 600), st.integers(0, 2**32 - 1))
def test_few_rows_and_many_are_left_out_alike(num, seed):
    random = np.random.default_rng(seed)
    some = ItemSet.of(random.integers(0, 1000, size=700), 1000)
    given = random.integers(-5, 1005, size=num)
    left = some.without(given)
    assert left.rows.tolist() == sorted(set(some.rows.tolist()) - set(given.tolist()))
    assert len(left) == len(left.rows)
    assert len(ItemSet.all(1000).without(given)) == 1000 - len(set(given.tolist()) & set(range(1000)))


def test_a_scan_reads_the_bits_where_they_lie():
    index = faiss.IndexFlatIP(2)
    index.add(np.ones((100, 2), dtype=np.float32))
    selector = ItemSet.of(np.array([3, 97]), 100).selector  # the set itself is gone
    _, rows = index.search(np.ones((1, 2), dtype=np.float32), 4, params=faiss.SearchParameters(sel=selector))
    assert sorted(rows[0].tolist()) == [-1, -1, 3, 97]
