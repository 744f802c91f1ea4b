"""From a table that describes users or items to the rows of embedding tables, one column per feature.

`FeatureSpec.encode` defines what a value means, one value at a time; here whole columns go the same way at once. Beside
each encoded column the readable one is kept, such that encoding it again gives the same rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from recsys.data.recipes import FeatureRecipe, TableRecipe
from recsys.data.schema import FEATURE_PREFIX, SEVERAL, FeatureSpec, Kind, Side, hash_word
from recsys.errors import DataError
from recsys.ragged import Ragged

_WORD = r"[\p{L}\p{N}]+"
"""The same words as `recsys.data.schema.words`: letters and digits of any script, in this engine's syntax."""

_NUM_BUCKETS: dict[Kind, int] = {"text": 4096, "hashed": 65536}
_NUM_QUANTILE_BUCKETS = 10


def encode_table(
    table: pl.DataFrame | None, ids: pl.Series, *, recipe: TableRecipe | None, side: Side
) -> tuple[pl.DataFrame, list[FeatureSpec], int | None]:
    """Describe every user or item of a vocabulary.

    Args:
        table: the recipe's table as read, or None where there is none.
        ids: the vocabulary in row order (String).
        recipe: what to take from the table.
        side: for the specs and for errors.

    Returns:
        The frame of `recsys.data.schema` (a row per id), the features' specs, and how many ids the table lacks (None
        without a table).

    Raises:
        DataError: a column is missing or of a wrong type, an id appears twice, or no id is in the vocabulary.
    """
    frame = pl.DataFrame({"id": ids})
    if table is None or recipe is None:
        return frame, [], None
    raw = _raw_columns(table, recipe)
    _check_ids(raw["id"], ids, where=recipe.file)
    frame = frame.join(raw, on="id", how="left", maintain_order="left")
    num_missing = int((~ids.is_in(raw["id"].implode())).sum())
    specs = [_spec(frame[name], feature, where=recipe.file, side=side) for name, feature in recipe.features.items()]
    encoded = [_encode(frame[spec.name], spec).alias(FEATURE_PREFIX + spec.name) for spec in specs]
    return frame.with_columns(encoded), specs, num_missing


def _raw_columns(table: pl.DataFrame, recipe: TableRecipe) -> pl.DataFrame:
    """Select id, title, kept columns and each feature's readable value, all under their final names."""
    features = recipe.features
    used = [recipe.id, *([recipe.title] if recipe.title else []), *recipe.keep]
    used += [column for name, one in features.items() for column in one.columns or (one.column or name,)]
    if missing := [column for column in used if column not in table.columns]:
        raise DataError(f"{recipe.file}: column {missing[0]!r}: got none of that name; there are {table.columns}")
    kept = {"id": table[recipe.id].cast(pl.String)}
    if recipe.title:
        kept["title"] = table[recipe.title].cast(pl.String)
    kept |= {name: table[name] for name in recipe.keep}
    kept |= {name: _readable(table, name, one, where=recipe.file) for name, one in features.items()}
    return pl.DataFrame([column.alias(name) for name, column in kept.items()])


def _readable(table: pl.DataFrame, name: str, feature: FeatureRecipe, *, where: str) -> pl.Series:
    """Return a feature's raw column in the one type that its kind has: String, List(String) or a number."""
    if feature.columns:
        flags = [
            pl.when(pl.col(column).cast(pl.Int64) != 0).then(pl.lit(column)).otherwise(pl.lit(None, dtype=pl.String))
            for column in feature.columns
        ]
        return table.select(pl.concat_list(flags).list.drop_nulls().alias(name)).to_series()
    column = table[feature.column or name]
    wrong = f"{where}: column {column.name!r}: got type {column.dtype}, expected"
    if feature.kind == "bucketed":
        if not column.dtype.is_numeric():
            raise DataError(f"{wrong} numbers for the bucketed feature {name!r}")
        return column
    takes_several = feature.kind in SEVERAL
    if takes_several and isinstance(column.dtype, pl.List):
        return column.cast(pl.List(pl.String)).list.drop_nulls()
    if takes_several and feature.separator and column.dtype == pl.String:
        return column.str.split(feature.separator).list.eval(pl.element().filter(pl.element() != ""))
    if feature.kind == "multi_hot":
        raise DataError(f"{wrong} a list, strings with a separator, or 0/1 columns for the multi_hot feature {name!r}")
    if column.dtype.is_nested() or column.dtype.is_float():
        raise DataError(f"{wrong} strings or integers for the {feature.kind} feature {name!r}")
    plain = column.cast(pl.String)
    return plain.reshape((-1, 1)).arr.to_list().list.drop_nulls() if feature.kind == "hashed" else plain


def _check_ids(given: pl.Series, vocabulary: pl.Series, *, where: str) -> None:
    if given.null_count():
        raise DataError(f"{where}: got {given.null_count()} rows without an id, expected one in each")
    if given.n_unique() < len(given):
        twice = given.filter(given.is_duplicated())
        raise DataError(
            f"{where}: got the id {twice[0]!r} in {(twice == twice[0]).sum()} rows, expected one row per id"
        )
    if not given.is_in(vocabulary.implode()).any():
        raise DataError(
            f"{where}: got ids such as {given.head(3).to_list()}, none of which occurs in the log; expected ids like "
            f"{vocabulary.head(3).to_list()}; check the id columns"
        )


def _spec(column: pl.Series, feature: FeatureRecipe, *, where: str, side: Side) -> FeatureSpec:
    name, kind = column.name, feature.kind
    if column.null_count() == len(column):
        raise DataError(f"{where}: feature {name!r}: got no value for any {side} of the log; leave it out")
    if kind in _NUM_BUCKETS:
        return FeatureSpec(name=name, side=side, kind=kind, num_buckets=feature.num_buckets or _NUM_BUCKETS[kind])
    if kind == "bucketed":
        edges = feature.edges or _quantile_edges(column, feature.num_buckets or _NUM_QUANTILE_BUCKETS)
        return FeatureSpec(name=name, side=side, kind=kind, edges=tuple(edges))
    flat = column.explode(empty_as_null=False) if isinstance(column.dtype, pl.List) else column
    return FeatureSpec(name=name, side=side, kind=kind, values=tuple(flat.drop_nulls().unique().sort().to_list()))


def _quantile_edges(column: pl.Series, num_buckets: int) -> Sequence[float]:
    """Return inner boundaries that put about as many values into each bucket; fewer where values repeat."""
    finite = column.drop_nulls().cast(pl.Float64).drop_nans().to_numpy()
    inner = np.quantile(finite, np.arange(1, num_buckets) / num_buckets, method="higher")
    edges: list[float] = np.unique(inner).tolist()
    return edges


def _encode(column: pl.Series, spec: FeatureSpec) -> pl.Series:
    """Do to a whole readable column what `FeatureSpec.encode` does to one value."""
    if spec.kind == "bucketed":
        number = column.cast(pl.Float64).fill_nan(None)
        row = np.searchsorted(np.asarray(spec.edges), number.drop_nulls().to_numpy(), side="right")
        return Ragged.from_lengths(row, number.is_not_null().to_numpy().astype(np.int64)).to_series()
    if spec.kind == "categorical":
        lengths, flat = column.is_not_null().cast(pl.Int64), column.drop_nulls()
    else:
        several = column.str.to_lowercase().str.extract_all(_WORD) if spec.kind == "text" else column
        lengths, flat = several.list.len().fill_null(0), several.explode(empty_as_null=False, keep_nulls=False)
    distinct = flat.unique().to_list() if spec.is_hashed else spec.values
    rows = [hash_word(word, spec.num_buckets) for word in distinct] if spec.is_hashed else range(len(distinct))
    table = pl.DataFrame({"value": distinct, "row": rows}, schema={"value": pl.String, "row": pl.UInt32})
    row = flat.to_frame("value").join(table, on="value", how="left", maintain_order="left")["row"].to_numpy()
    return Ragged.from_lengths(row, lengths.to_numpy().astype(np.int64)).to_series()
