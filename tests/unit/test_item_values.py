"""The items of each value, against a loop over the column."""

import numpy as np
import polars as pl
import pytest

from recsys.item_values import ItemValues

ONE = pl.Series(["a", None, "b", "a", "c"] + ["a", "b"] * 200)
SEVERAL = pl.Series([["a", "b"], [], None, ["c"], ["b", "b"]] + [["a"], ["b", "a"]] * 200, dtype=pl.List(pl.String))


@pytest.mark.parametrize("column", [ONE, SEVERAL], ids=["categorical", "multi_hot"])
@pytest.mark.parametrize("wanted", [["a"], ["c"], ["c", "a"], ["b", "c", "nope"], ["nope"], []])
def test_the_items_of_values_are_those_whose_column_names_one(column, wanted):
    values = ItemValues.of(column)
    several = [set() if one is None else {one} if isinstance(one, str) else set(one) for one in column.to_list()]
    assert values.items(wanted).rows.tolist() == [row for row, has in enumerate(several) if has & set(wanted)]
    assert values.values == ("a", "b", "c")
    assert [value in values for value in ("a", "nope")] == [True, False]


def test_frequent_values_have_bits_and_rare_ones_rows_alone():
    column = pl.Series(["often"] * 999 + ["once"])
    assert ItemValues.of(column).size_bytes == 4 * 1000 + 1000 // 8


def test_a_feature_without_values_and_a_catalogue_without_items():
    assert ItemValues.of(pl.Series([None, None], dtype=pl.String)).items(["a"]).rows.tolist() == []
    assert np.array(ItemValues.of(pl.Series([], dtype=pl.List(pl.String))).items(["a"]).rows).size == 0
