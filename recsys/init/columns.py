"""What is in the columns of a log or table: types, missing values, ranges, how many different values.

Counts and ranges are streamed over all rows; types of text and different values come from a sample of rows at even
distances. So neither depends on how much fits into memory, nor on chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from recsys.data.log import iso_time
from recsys.data.recipes import FileRecipe
from recsys.data.sources import reading, scan, type_name
from recsys.errors import DataError

_MOSTLY = 0.95
"""A text column is of a kind if at least so many of its values are: logs have typing errors."""
_NUM_EXAMPLES = 3
_INTEGER = r"^\s*[-+]?\d{1,18}\s*$"
_MAX_SHOWN = 24


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column.

    Args:
        name: its name.
        kind: integer, float, string, boolean, time, list[...], or empty where every value is missing. Text that
            consists of numbers or ISO 8601 times is of their kind.
        num_missing: rows without a value, of all.
        num_odd: rows whose text is not of the column's kind, of all.
        num_distinct: different values in the sample.
        low: least number, or least time in microseconds since 1970; None for other kinds.
        high: the greatest.
        examples: a few values as text.
    """

    name: str
    kind: str
    num_missing: int
    num_odd: int
    num_distinct: int
    low: float | None
    high: float | None
    examples: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A log or a table of users or items, looked at.

    Args:
        names: the paths and globs as they were given.
        files: the files, in reading order.
        file: how each is read.
        num_rows: rows of all files.
        columns: in the order of the files.
        sample: rows at even distances, all of them where there are few; text as in the files.
        size_bytes: of all files.
    """

    names: tuple[str, ...]
    files: tuple[Path, ...]
    file: FileRecipe
    num_rows: int
    columns: tuple[Column, ...]
    sample: pl.DataFrame = field(repr=False)
    size_bytes: int

    @property
    def given(self) -> str:
        """The first name, for messages."""
        return self.names[0]

    @property
    def by_name(self) -> dict[str, Column]:
        """Columns by name."""
        return {column.name: column for column in self.columns}

    def scan(self) -> pl.LazyFrame:
        """Return all rows, lazily."""
        return pl.concat([scan(path, self.file) for path in self.files])


def look(names: Sequence[str], files: Sequence[Path], file: FileRecipe, *, sample_rows: int) -> Table:
    """Look at the columns of files that belong together.

    Raises:
        DataError: a file cannot be read, differs from the first one in its columns, or there are no rows.
    """
    frames = [scan(path, file) for path in files]
    for path, frame in zip(files, frames, strict=True):
        if (got := frame.collect_schema()) != (expected := frames[0].collect_schema()):
            raise DataError(f"{path}: got the columns {dict(got)}, expected {dict(expected)} as in {files[0]}")
    frame = pl.concat(frames)
    with reading(files[0]):
        num_rows = int(frame.select(pl.len()).collect(engine="streaming").item())
        if not num_rows:
            raise DataError(f"{files[0]}: got no rows, expected some")
        step = -(-num_rows // sample_rows)
        place = pl.col("(place)")
        sample = frame.with_row_index("(place)").filter(place % step == 0).collect(engine="streaming").drop("(place)")
        kinds = {name: _kind(sample[name]) for name in sample.columns}
        found = frame.select(
            pl.struct(missing=_missing(name, kind), odd=_odd(name, kind), low=low, high=high).alias(name)
            for name, kind in kinds.items()
            for low, high in [_range(name, kind)]
        )
        totals = found.collect(engine="streaming").row(0, named=True)
    columns = tuple(
        Column(
            name=name,
            kind=kinds[name],
            num_missing=int(totals[name]["missing"]),
            num_odd=int(totals[name]["odd"]),
            num_distinct=sample[name].drop_nulls().n_unique(),
            low=totals[name]["low"],
            high=totals[name]["high"],
            examples=_examples(sample[name]),
        )
        for name in sample.columns
    )
    return Table(
        names=tuple(names),
        files=tuple(files),
        file=file,
        num_rows=num_rows,
        columns=columns,
        sample=sample,
        size_bytes=sum(path.stat().st_size for path in files),
    )


def number(name: str) -> pl.Expr:
    """Return a column of numbers, or of text that mostly is, as Float64."""
    return pl.col(name).cast(pl.Float64, strict=False)


def _kind(column: pl.Series) -> str:
    values = column.drop_nulls()
    if not len(values):
        return "empty"
    if column.dtype != pl.String:
        return type_name(column.dtype)
    frame = values.str.strip_chars().to_frame("value").filter(pl.col("value") != "")
    if not len(frame):
        return "empty"
    shares = frame.select(
        integer=pl.col("value").str.contains(_INTEGER).mean(),
        float=pl.col("value").cast(pl.Float64, strict=False).is_finite().fill_null(value=False).mean(),
        time=iso_time(pl.col("value")).is_not_null().mean(),
    ).row(0, named=True)
    return next((kind for kind, share in shares.items() if share >= _MOSTLY), "string")


def _missing(name: str, _kind: str) -> pl.Expr:
    return pl.col(name).is_null().sum()


def _odd(name: str, kind: str) -> pl.Expr:
    if kind in ("integer", "float"):
        return (pl.col(name).is_not_null() & number(name).is_null()).sum()
    if kind == "time":
        text = pl.col(name).cast(pl.String)
        return (pl.col(name).is_not_null() & iso_time(text).is_null()).sum()
    return pl.lit(0)


def _range(name: str, kind: str) -> tuple[pl.Expr, pl.Expr]:
    if kind in ("integer", "float"):
        return number(name).min(), number(name).max()
    if kind == "time":
        time = iso_time(pl.col(name).cast(pl.String)).cast(pl.Float64)
        return time.min(), time.max()
    return pl.lit(None, dtype=pl.Float64), pl.lit(None, dtype=pl.Float64)


def _examples(column: pl.Series) -> tuple[str, ...]:
    shown = [str(value) for value in column.drop_nulls().unique(maintain_order=True).head(_NUM_EXAMPLES)]
    return tuple(value if len(value) <= _MAX_SHOWN else f"{value[:_MAX_SHOWN]}…" for value in shown)
