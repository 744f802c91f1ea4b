"""Queries before a search may see them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import WidthError
from recsys.index.checks import check_queries, check_unit, checked_query_at
from recsys.widths import WidthLadder, query_at, unit_queries


def queries_of(widths, num, *, seed):
    vectors = np.random.default_rng(seed).normal(size=(num, widths.query_size)).astype(np.float32)
    return unit_queries(vectors, widths)


@given(
    widths=st.sets(st.integers(1, 70), min_size=1, max_size=4).map(sorted),
    norm=st.sampled_from(("prefix", "full")),
    head=st.sampled_from(("tied", "per_width")),
    num=st.integers(0, 4),
    seed=st.integers(0, 99),
)
def test_a_checked_query_is_the_query_of_its_width(widths, norm, head, num, seed):
    ladder = WidthLadder(widths, norm=norm, head=head)
    query_BU = queries_of(ladder, num, seed=seed)
    check_queries(query_BU, ladder)
    # Columns of a wider array too, which do not lie side by side.
    wider_BX = np.concatenate([query_BU, query_BU], axis=1)[:, : ladder.query_size]
    for width in widths:
        expected_Bw = query_at(query_BU, width, ladder) if num else np.empty((0, width))
        for given_BU in (query_BU, wider_BX):
            found_Bw = checked_query_at(given_BU, width, ladder)
            assert found_Bw.flags.c_contiguous
            assert found_Bw.dtype == np.float32
            np.testing.assert_allclose(found_Bw, expected_Bw, atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2.0, 1e30])
@pytest.mark.parametrize("head", ["tied", "per_width"])
def test_what_is_not_a_unit_vector_is_refused_and_its_row_named(value, head):
    ladder = WidthLadder((2, 6), head=head)
    query_BU = queries_of(ladder, 3, seed=1)
    query_BU[1, -1] = value
    with pytest.raises(WidthError, match="query: row 1: got L2 norm"):
        check_queries(query_BU, ladder)
    with pytest.raises(WidthError, match="item vectors: row 1: got L2 norm"):
        check_unit(query_BU[:, ladder.query_blocks[-1]], "item vectors")


def test_a_prefix_too_small_for_squares_in_float32_still_has_a_direction():
    ladder = WidthLadder((2, 4))
    query_BU = np.array([[3e-20, 4e-20, 0, 1], [0.6, 0, 0.8, 0]], dtype=np.float32)
    np.testing.assert_allclose(checked_query_at(query_BU, 2, ladder), [[0.6, 0.8], [1, 0]], atol=1e-6)


def test_a_prefix_of_zeros_has_none():
    with pytest.raises(WidthError, match="prefix of 2 zeros"):
        checked_query_at(np.array([[0, 0, 0, 1]], dtype=np.float32), 2, WidthLadder((2, 4)))
