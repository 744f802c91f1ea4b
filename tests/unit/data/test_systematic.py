"""Rows drawn by weight: each as often as its weight says, none twice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.systematic import SystematicDraw


@given(st.integers(1, 300), st.integers(0, 2**32), st.floats(0, 1, exclude_max=True))
def test_rows_are_increasing_and_drawn_once(num_rows, seed, offset):
    weight = np.random.default_rng(seed).uniform(0.01, 0.99, size=num_rows)
    draw = SystematicDraw(lambda row: weight[row], num_rows)
    assert draw.num_drawn == int(weight.sum())
    rows = draw.rows(np.arange(draw.num_drawn), offset=offset)
    assert (np.diff(rows, prepend=-1) > 0).all()
    assert (rows < num_rows).all()


@pytest.mark.parametrize("num_rows", [31, 32, 33, 1000])
def test_a_row_is_drawn_as_often_as_its_weight_says(num_rows):
    weight = np.random.default_rng(num_rows).uniform(0.01, 0.99, size=num_rows)
    draw, num_offsets = SystematicDraw(lambda row: weight[row], num_rows), 1000
    teeth = np.arange(draw.num_drawn)
    rows = [draw.rows(teeth, offset=(number + 0.5) / num_offsets) for number in range(num_offsets)]
    often = np.bincount(np.concatenate(rows), minlength=num_rows) / num_offsets
    # Equally spaced offsets meet a row of that length one time more or less.
    assert np.abs(often - weight * draw.scale).max() <= 1.001 / num_offsets


def test_teeth_may_be_asked_for_in_any_order():
    weight = np.random.default_rng(1).random(500)
    draw = SystematicDraw(lambda row: weight[row], 500)
    teeth = np.random.default_rng(2).permutation(draw.num_drawn)
    np.testing.assert_array_equal(draw.rows(teeth, offset=0.3), draw.rows(np.arange(draw.num_drawn), offset=0.3)[teeth])
