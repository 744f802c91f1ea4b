"""Counting how often each value of a long column occurs, in memory bounded by the distinct values."""

from __future__ import annotations

import polars as pl


def count_values(frame: pl.LazyFrame, column: str, *, num_rows: int, max_rows: int) -> pl.DataFrame:
    """Return a row per distinct value: ``column``, and ``len``, in no particular order.

    A streamed group-by keeps most rows of a column whose values come in no order until it ends. So long columns are
    counted in several passes, each over the values of one part of the hash space.

    Args:
        frame: anything with the column.
        column: which.
        num_rows: rows of the frame.
        max_rows: aim at this many rows per pass.
    """
    num_passes = -(-num_rows // max_rows)
    if num_passes <= 1:
        return frame.group_by(column).len().collect(engine="streaming")
    parts = (frame.filter(pl.col(column).hash() % num_passes == part) for part in range(num_passes))
    return pl.concat([part.group_by(column).len().collect(engine="streaming") for part in parts])
