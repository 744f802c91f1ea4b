"""Guesses what the model and people shall see of a table of users or items: a title, features and their kinds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from recsys.data.schema import Kind
from recsys.errors import DataError
from recsys.init.columns import Column, Table
from recsys.init.roles import words_of

_TITLE = ("title", "name", "headline", "caption", "label")
_SEPARATORS = ("|", ";", ", ", ",")
_MAX_VALUES = 5_000
_MAX_PIECES = 2_000
_MAX_PATTERN = 0.5
"""Values that are different in more than half of the rows are names, not categories."""
_FEW = 12
_DATE = r"^\d{1,4}[-/. ]([A-Za-z]{3}|\d{1,2})[-/. ]\d{1,4}"
_FLAGS = 3


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One feature: its kind and settings as a recipe writes them, and why."""

    kind: Kind
    settings: dict[str, object]
    reason: str


@dataclass(frozen=True, kw_only=True)
class Described:
    """What a recipe takes of a table.

    Args:
        table: the table.
        id: its column of ids.
        title: its column for people, of an item table.
        features: by name.
        left_out: by column, why it is no feature.
    """

    table: Table
    id: str
    title: str | None
    features: dict[str, Feature]
    left_out: dict[str, str]


def describe(table: Table, id_column: str, *, title: str | None, has_title: bool) -> Described:
    """Guess what is to be taken of a table.

    Args:
        table: all of whose rows are its sample.
        id_column: the column of ids.
        title: the title's column, if the user named it.
        has_title: whether to look for one.

    Raises:
        DataError: the title's column is not there.
    """
    if title is not None and title not in table.by_name:
        raise DataError(f"{table.given}: --title-column: got {title!r}, expected one of {list(table.by_name)}")
    title = title or (_title(table, id_column) if has_title else None)
    features: dict[str, Feature] = {}
    left_out: dict[str, str] = {}
    columns = [one for one in table.columns if one.name != id_column and "." not in one.name and one.name != "id"]
    flags = _flags(columns)
    if flags:
        reason = f"{len(flags)} columns of zeros and ones"
        features["flags"] = Feature(kind="multi_hot", settings={"columns": flags}, reason=reason)
    for column in (one for one in columns if one.name not in flags):
        if column.name == title:
            # A feature named title is read from the title's column; of any other name, from its own.
            settings: dict[str, object] = (
                {"num_buckets": 4096} if title == "title" else {"column": title, "num_buckets": 4096}
            )
            features["title"] = Feature(kind="text", settings=settings, reason="its words")
            continue
        found = _feature(table, column)
        if isinstance(found, str):
            left_out[column.name] = found
        elif column.name not in features:
            features[column.name] = found
    return Described(table=table, id=id_column, title=title, features=features, left_out=left_out)


def _title(table: Table, id_column: str) -> str | None:
    texts = [one for one in table.columns if one.kind == "string" and one.name != id_column]
    named = [
        (min(_TITLE.index(word) for word in words_of(one.name) if word in _TITLE), one.name)
        for one in texts
        if set(words_of(one.name)) & set(_TITLE)
    ]
    return min(named)[1] if named else None


def _flags(columns: list[Column]) -> list[str]:
    flags = [
        one.name
        for one in columns
        if one.kind == "integer" and (one.low, one.high) == (0, 1) and not one.num_missing and not one.num_odd
    ]
    return flags if len(flags) >= _FLAGS else []


def _feature(table: Table, column: Column) -> Feature | str:
    """Return a column as a feature, or why it is none."""
    values, num_rows = table.sample[column.name].drop_nulls(), len(table.sample)
    if column.kind == "empty" or len(values) < 0.05 * num_rows:
        return "hardly any values"
    if column.kind.startswith("list["):
        return Feature(kind="multi_hot", settings={}, reason="lists of values")
    if column.num_distinct < 2:
        return "always the same"
    if column.kind == "boolean":
        return Feature(kind="categorical", settings={}, reason="true or false")
    if column.kind == "time":
        return "a time"
    if column.kind in ("integer", "float"):
        return _of_numbers(column, num_rows)
    return _of_text(values.cast(pl.String), column, num_rows)


def _of_numbers(column: Column, num_rows: int) -> Feature | str:
    is_id = "id" in words_of(column.name)
    if column.num_odd:
        return f"{column.num_odd:,} values are no numbers"
    if column.kind == "integer" and column.num_distinct > 0.9 * num_rows:
        return "a number of its own in most rows, as ids are"
    if column.kind == "integer" and (is_id or column.num_distinct <= _FEW):
        if column.num_distinct > _MAX_VALUES * 4:
            return _of_many(column, num_rows)
        return Feature(kind="categorical", settings={}, reason=f"{column.num_distinct:,} different values")
    if column.num_distinct <= 2:
        return "only two different numbers"
    return Feature(kind="bucketed", settings={}, reason=f"numbers from {column.low:g} to {column.high:g}, in deciles")


def _of_text(values: pl.Series, column: Column, num_rows: int) -> Feature | str:
    if _share(values.str.contains(r"^https?://")) > 0.5:
        return "addresses"
    if _share(values.str.contains(_DATE)) > 0.5:
        return "dates as text"
    if (several := _several(values)) is not None:
        return several
    num_distinct, num_words = column.num_distinct, _share(values.str.split(" ").list.len())
    if num_distinct <= _MAX_VALUES and num_distinct <= max(_FEW, _MAX_PATTERN * len(values)):
        return Feature(kind="categorical", settings={}, reason=f"{num_distinct:,} different values")
    if num_words >= 2:
        return Feature(kind="text", settings={"num_buckets": 4096}, reason=f"{num_words:.0f} words on average")
    return _of_many(column, num_rows)


def _of_many(column: Column, num_rows: int) -> Feature | str:
    """Return a hashed feature where many values recur: a row for each would make a table that is soon out of date."""
    said = f"{column.num_distinct:,} different values in {num_rows:,} rows"
    if column.num_distinct > _MAX_PATTERN * num_rows:
        return f"{said}, as names or ids have"
    return Feature(kind="hashed", settings={"num_buckets": 65_536}, reason=said)


def _several(values: pl.Series) -> Feature | None:
    """Return a multi-hot feature where a separator splits values into few different pieces that recur."""
    for separator in _SEPARATORS:
        if _share(values.str.contains(separator, literal=True)) < 0.1:
            continue
        pieces = values.str.split(separator).explode(empty_as_null=False)
        num = pieces.n_unique()
        if num <= _MAX_PIECES and num < 0.5 * values.n_unique():
            reason = f"{num:,} different values, with {separator!r} between them"
            return Feature(kind="multi_hot", settings={"separator": separator}, reason=reason)
    return None


def _share(column: pl.Series) -> float:
    """Return the mean of a column of numbers or truths, 0 where there is none."""
    mean = column.cast(pl.Float64).mean()
    return mean if isinstance(mean, float) else 0.0


def table_id(table: Table, log_column: str, log_ids: pl.Series) -> str | None:
    """Return the column of a table that holds the log's ids: named as there, or the one with the most in common."""
    if log_column in table.by_name:
        return log_column
    known = log_ids.cast(pl.String).implode()
    shares: Mapping[str, float] = {
        one.name: _share(table.sample[one.name].cast(pl.String).is_in(known))
        for one in table.columns
        if one.kind in ("integer", "string")
    }
    best = max(shares, key=lambda name: shares[name], default=None)
    return best if best is not None and shares[best] > 0.1 else None
