"""An interaction log as it lies in files: scanned lazily, its columns given their roles, and checked.

Nothing of a log is in memory here but the counts that a check needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from recsys.data.recipes import FileRecipe, LogRecipe
from recsys.data.sources import reading, require_column, scan, type_name
from recsys.errors import ConfigError, DataError

LogFile = tuple[Path, FileRecipe]

_ALLOWED = {
    "user": ("integer", "string"),
    "item": ("integer", "string"),
    "time": ("integer", "time", "string"),
    "rating": ("integer", "float", "string"),
}
_EXPECTED = {
    "user": "integers or strings",
    "item": "integers or strings",
    "time": "integers, Datetime, Date or ISO 8601 strings",
    "rating": "numbers",
}
_ISO_UTC = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d")
_ISO_ZONED = ("%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f%#z")


@dataclass(frozen=True, kw_only=True)
class Log:
    """Log files as one lazy frame.

    Args:
        frame: ``user`` and ``item`` (integers or String), ``time`` (Int64) and ``rating`` (Float64) where the recipe
            names them, ``published_test`` (whether the row is from a test file), and ``place`` (Int64), the row's
            number over all files in reading order, which is unique and decides between equal times.
        time_unit: of ``time``: s, ms, us or order; None where there is no time.
        files: in reading order.
        columns: the name in the files of each role there is.
    """

    frame: pl.LazyFrame
    time_unit: str | None
    files: tuple[LogFile, ...]
    columns: dict[str, str]

    def check(self) -> int:
        """Count the frame's rows, making sure that each has a usable value in every role; one pass over the files.

        Raises:
            DataError: there are no rows, or values are null or unusable: how many, and the first one's file and row.
        """
        usable = {role: pl.col(role).is_null() for role in self.columns}
        found = self.frame.select(
            rows=pl.len(),
            **{f"{role}_count": null.sum() for role, null in usable.items()},
            **{f"{role}_first": pl.col("place").filter(null).min() for role, null in usable.items()},
        )
        with reading(self.files[0][0]):
            counts = found.collect(engine="streaming").row(0, named=True)
        for role in self.columns:
            if number := counts[f"{role}_count"]:
                raise DataError(self._unusable(role, number, place=counts[f"{role}_first"]))
        if not counts["rows"]:
            raise DataError(f"{self.files[0][0]}: got no rows in {len(self.files)} file(s), expected interactions")
        return int(counts["rows"])

    def num_read(self) -> int:
        """Count the rows of the files, those that ``drop_unusable`` drops included."""
        return sum(
            int(scan(path, file).select(pl.len()).collect(engine="streaming").item()) for path, file in self.files
        )

    def _unusable(self, role: str, number: int, *, place: int) -> str:
        """Say where the first unusable value is, by counting rows file by file."""
        column = self.columns[role]
        for path, file in self.files:
            frame = scan(path, file).select(column)
            num_rows = frame.select(pl.len()).collect(engine="streaming").item()
            if place < num_rows:
                value = frame.slice(place, 1).collect().item()
                return (
                    f"{path}: column {column!r}: got {number} null or unusable value(s), the first in row {place + 1} "
                    f"({value!r}), expected {_EXPECTED[role]} in every row; repair or remove these rows, or set "
                    "log.drop_unusable in a recipe"
                )
            place -= num_rows
        raise AssertionError(f"place {place} is beyond the log")


def open_log(train: list[LogFile], test: list[LogFile], recipe: LogRecipe) -> Log:
    """Scan a log's files and give its columns their roles.

    Args:
        train: files in reading order; all there is but under the published protocol.
        test: the published protocol's test files; they count as read after the others.
        recipe: the columns.

    Raises:
        DataError: a column is missing or of a type that cannot play its role, or the files' types differ.
        ConfigError: ``time_unit`` contradicts the type of the time column.
    """
    named = {"user": recipe.user, "item": recipe.item, "time": recipe.time, "rating": recipe.rating}
    columns = {role: column for role, column in named.items() if column is not None}
    frames: list[pl.LazyFrame] = []
    for number, (path, file) in enumerate([*train, *test]):
        frame = scan(path, file)
        _check_roles(path, frame.collect_schema(), columns)
        frame = frame.select(
            **{role: pl.col(column) for role, column in columns.items()}, published_test=pl.lit(number >= len(train))
        )
        if frames and (got := frame.collect_schema()) != (expected := frames[0].collect_schema()):
            raise DataError(
                f"{path}: got columns of the types {dict(got)}, expected {dict(expected)} as in {train[0][0]}"
            )
        frames.append(frame)
    merged = pl.concat(frames).with_row_index("place").with_columns(pl.col("place").cast(pl.Int64))
    time, unit = _time(merged, recipe, where=train[0][0])
    given = {role: _id(role, merged.collect_schema()[role]) for role in ("user", "item")}
    given |= {} if time is None else {"time": time}
    given |= {} if recipe.rating is None else {"rating": pl.col("rating").cast(pl.Float64, strict=False)}
    frame = merged.with_columns(**given)
    if recipe.drop_unusable:
        frame = frame.filter(pl.all_horizontal(pl.col(list(columns)).is_not_null()))
    return Log(frame=frame, time_unit=unit, files=(*train, *test), columns=columns)


def _check_roles(path: Path, schema: pl.Schema, columns: dict[str, str]) -> None:
    for role, column in columns.items():
        require_column(path, column, schema)
        if (got := type_name(schema[column])) not in _ALLOWED[role]:
            raise DataError(f"{path}: column {column!r}: got type {got} ({schema[column]}), expected {_EXPECTED[role]}")


def _id(role: str, dtype: pl.DataType) -> pl.Expr:
    return pl.col(role) if dtype.is_integer() else pl.col(role).cast(pl.String)


def _time(frame: pl.LazyFrame, recipe: LogRecipe, *, where: Path) -> tuple[pl.Expr | None, str | None]:
    """Return the expression that gives Int64 times, null where a value is unusable, and their unit."""
    if recipe.time is None:
        return (pl.col("place"), "order") if recipe.ordered else (None, None)
    dtype = frame.collect_schema()["time"]
    if dtype.is_integer():
        return pl.col("time").cast(pl.Int64, strict=False), recipe.time_unit or "s"
    if isinstance(dtype, pl.Datetime | pl.Date):
        _refuse_unit(recipe, f"type {dtype}", where=where)
        return pl.col("time").dt.epoch("us"), "us"
    text = pl.col("time").cast(pl.String)
    with reading(where):
        first = frame.select(text.alias("time")).filter(pl.col("time").is_not_null()).head(1).collect()
    if recipe.time_unit is not None or (len(first) and first.item().lstrip("-").isdigit()):
        return text.cast(pl.Int64, strict=False), recipe.time_unit or "s"
    return iso_time(text), "us"


def iso_time(text: pl.Expr) -> pl.Expr:
    """Return ISO 8601 text as microseconds since 1970 (Int64), UTC unless it says otherwise; null where it is none."""
    return pl.coalesce(
        *(text.str.to_datetime(one, strict=False, time_unit="us").dt.epoch("us") for one in (*_ISO_UTC, *_ISO_ZONED))
    )


def _refuse_unit(recipe: LogRecipe, got: str, *, where: Path) -> None:
    if recipe.time_unit is not None:
        raise ConfigError(
            f"{where}: column {recipe.time!r}: got {got} and time_unit {recipe.time_unit!r}, expected no time_unit: a "
            "Datetime or Date has its own"
        )
