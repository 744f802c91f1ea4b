"""Counting in one pass or in several gives the same."""

import polars as pl
import pytest

from recsys.data.counting import count_values

FRAME = pl.DataFrame({"x": ["b", "a", "b", "é", "b", "a"]})


@pytest.mark.parametrize("max_rows", [1, 2, 4, 100])
def test_every_number_of_passes(max_rows: int) -> None:
    counted = count_values(FRAME.lazy(), "x", num_rows=len(FRAME), max_rows=max_rows)
    assert dict(counted.sort("x").iter_rows()) == {"a": 2, "b": 3, "é": 1}
