"""Encoding whole columns agrees with `FeatureSpec.encode` value by value."""

import sys
import unicodedata

import polars as pl
import pytest

from recsys.data.features import encode_table
from recsys.data.recipes import FeatureRecipe, TableRecipe
from recsys.data.schema import FEATURE_PREFIX, words
from recsys.errors import DataError

IDS = pl.Series(["1", "2", "3", "4"])
TABLE = pl.DataFrame(
    {
        "item": [3, 1, 2, 9],
        "name": ["Été à Paris, 2 fois", None, "the THE the_end", "not in the log"],
        "genres": [["b", None, "a"], [], None, ["z"]],
        "tags": ["x|y", "", None, "z"],
        "price": [1.5, float("nan"), None, 3.0],
        "Red": [1, 0, 1, 1],
        "Blue": [1, 0, 0, 1],
        "shelf": [10, 9, None, 7],
    }
)
RECIPE = TableRecipe(
    file="items.parquet",
    id="item",
    title="name",
    keep=("price",),
    features={
        "title": FeatureRecipe(kind="text", column="name", num_buckets=64),
        "genres": FeatureRecipe(kind="multi_hot"),
        "tags": FeatureRecipe(kind="multi_hot", separator="|"),
        "colours": FeatureRecipe(kind="multi_hot", columns=("Red", "Blue")),
        "cost": FeatureRecipe(kind="bucketed", column="price", edges=(1.5, 2.0)),
        "shelf": FeatureRecipe(kind="categorical"),
        "place": FeatureRecipe(kind="hashed", column="shelf", num_buckets=16),
        "hashed_genres": FeatureRecipe(kind="hashed", column="genres"),
        "hashed_tags": FeatureRecipe(kind="hashed", column="tags", separator="|", num_buckets=16),
    },
)


def test_every_column_is_what_encode_gives() -> None:
    frame, specs, num_missing = encode_table(TABLE, IDS, recipe=RECIPE, side="item")
    assert frame["id"].to_list() == ["1", "2", "3", "4"]
    assert num_missing == 1
    for spec in specs:
        assert frame[FEATURE_PREFIX + spec.name].dtype == pl.List(pl.UInt32)
        assert frame[FEATURE_PREFIX + spec.name].to_list() == [spec.encode(raw) for raw in frame[spec.name]], spec.name


def test_values_are_sorted_and_only_those_of_the_log() -> None:
    frame, specs, _ = encode_table(TABLE, IDS, recipe=RECIPE, side="item")
    values = {spec.name: spec.values for spec in specs}
    assert values["genres"] == ("a", "b")
    assert values["tags"] == ("x", "y")
    assert values["colours"] == ("Blue", "Red")
    assert values["shelf"] == ("10", "9")
    assert frame["feature:cost"].to_list() == [[], [], [1], []]
    assert frame["place"].to_list() == [["9"], [], ["10"], None]
    assert {spec.name: spec.num_rows for spec in specs if spec.is_hashed} == {
        "title": 64, "place": 16, "hashed_genres": 65536, "hashed_tags": 16,
    }  # fmt: skip
    assert frame["title"].to_list() == [None, "the THE the_end", "Été à Paris, 2 fois", None]
    assert frame["price"].to_list()[2] == 1.5


def test_words_are_the_same_in_both_engines_for_every_character() -> None:
    assigned = (chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000)
    known = [one for one in assigned if unicodedata.category(one) != "Cn"]
    texts = ["".join("Xy" + one for one in known[start : start + 100]) for start in range(0, len(known), 100)]
    table = pl.DataFrame({"id": range(len(texts)), "t": texts})
    recipe = TableRecipe(file="f", id="id", features={"t": FeatureRecipe(kind="text", num_buckets=2**31)})
    frame, (spec,), _ = encode_table(table, table["id"].cast(pl.String), recipe=recipe, side="item")
    assert frame["feature:t"].to_list() == [spec.encode(text) for text in texts]
    assert words("Xy_Z") == ["xy", "z"]


def test_quantile_edges_fill_buckets_evenly() -> None:
    table = pl.DataFrame({"id": range(100), "x": range(100)})
    recipe = TableRecipe(file="f", id="id", features={"x": FeatureRecipe(kind="bucketed", num_buckets=4)})
    frame, (spec,), _ = encode_table(table, table["id"].cast(pl.String), recipe=recipe, side="user")
    counts = frame["feature:x"].explode().value_counts()["count"].to_list()
    assert spec.num_rows == 4
    assert max(counts) - min(counts) <= 1


def test_no_table_means_ids_only() -> None:
    frame, specs, num_missing = encode_table(None, IDS, recipe=None, side="user")
    assert frame.columns == ["id"]
    assert (specs, num_missing) == ([], None)


@pytest.mark.parametrize(
    ("table", "features", "message"),
    [
        (TABLE.drop("name"), {}, r"items.parquet: column 'name': got none of that name; there are \['item', 'genres'"),
        (pl.concat([TABLE, TABLE]), {}, "got the id '3' in 2 rows"),
        (TABLE.with_columns(item=pl.lit(None, dtype=pl.Int64)), {}, "got 4 rows without an id"),
        (TABLE.with_columns(item=pl.col("item") + 50), {}, "none of which occurs in the log"),
        (TABLE, {"price": FeatureRecipe(kind="categorical")}, "got type Float64, expected strings or integers"),
        (TABLE, {"name": FeatureRecipe(kind="bucketed")}, "got type String, expected numbers"),
        (TABLE, {"tags": FeatureRecipe(kind="multi_hot")}, "expected a list, strings with a separator"),
        (TABLE.with_columns(shelf=None), {"shelf": FeatureRecipe(kind="categorical")}, "got no value for any item"),
    ],
)
def test_an_unusable_table_is_told_why(table: pl.DataFrame, features: dict[str, FeatureRecipe], message: str) -> None:
    recipe = TableRecipe(file="items.parquet", id="item", title="name", features=features)
    with pytest.raises(DataError, match=message):
        encode_table(table, IDS, recipe=recipe, side="item")
