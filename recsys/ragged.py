"""Lists of different lengths as two flat arrays: how histories and multi-valued features are held everywhere.

List ``i`` is ``values[offsets[i]:offsets[i + 1]]``: the layout of an Arrow list column and of a TorchRec
JaggedTensor, so going between them copies nothing and no code loops over rows in Python.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl


@dataclass(frozen=True)
class Ragged:
    """``len(self)`` lists of int64.

    Args:
        values: ``(total,)`` int64, all lists one after another.
        offsets: ``(n + 1,)`` int64, non-decreasing, from 0 to ``total``.
    """

    values: np.ndarray
    offsets: np.ndarray

    def __post_init__(self) -> None:
        assert self.offsets.ndim == 1, f"offsets: got shape {self.offsets.shape}"
        assert self.offsets[0] == 0, f"offsets start at {self.offsets[0]}"
        assert self.offsets[-1] == len(self.values), f"offsets end at {self.offsets[-1]} of {len(self.values)} values"

    @classmethod
    def from_lengths(cls, values: np.ndarray, lengths: np.ndarray) -> Ragged:
        """Build from flat values and each list's length."""
        offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        return cls(values, offsets)

    @classmethod
    def from_lists(cls, lists: Sequence[Iterable[int]]) -> Ragged:
        """Build from Python lists: for requests and tests, not for data sets."""
        arrays = [np.asarray(one if isinstance(one, np.ndarray) else list(one), dtype=np.int64) for one in lists]
        values = np.concatenate(arrays) if arrays else np.zeros(0, dtype=np.int64)
        return cls.from_lengths(values, np.asarray([len(one) for one in arrays], dtype=np.int64))

    @classmethod
    def from_series(cls, series: pl.Series) -> Ragged:
        """Build from a Polars list column; a null list counts as empty."""
        lengths = series.list.len().fill_null(0).to_numpy().astype(np.int64)
        values = series.explode(empty_as_null=False, keep_nulls=False).to_numpy().astype(np.int64)
        return cls.from_lengths(values, lengths)

    @classmethod
    def empty(cls, n: int) -> Ragged:
        """Return ``n`` empty lists."""
        return cls(np.zeros(0, dtype=np.int64), np.zeros(n + 1, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """``(n,)`` int64 length of each list."""
        return np.diff(self.offsets)

    def take(self, rows: np.ndarray) -> Ragged:
        """Return the lists at ``rows``, in that order, without a Python loop."""
        return gather_ranges(self.values, self.offsets[rows], self.offsets[np.asarray(rows) + 1])

    def through(self, lists: Ragged) -> Ragged:
        """Return, for each list of places in ``lists``, the values of all those lists, one after another."""
        found = lists.take(self.values)
        return Ragged(found.values, found.offsets[self.offsets])

    def last(self, n: int) -> Ragged:
        """Return the last ``n`` entries of each list (all of a shorter one)."""
        if len(self) == 1:  # a request's: a slice says it all
            return Ragged(self.values[max(0, len(self.values) - n) :], np.minimum(self.offsets, n))
        stop = self.offsets[1:]
        return gather_ranges(self.values, np.maximum(self.offsets[:-1], stop - n), stop)

    def to_series(self, name: str = "", dtype: type[pl.DataType] = pl.UInt32) -> pl.Series:
        """Return a Polars column of lists of ``dtype``."""
        lists = pl.DataFrame({"row": self.row_of_values(), "value": pl.Series(self.values).cast(dtype)})
        grouped = lists.group_by("row", maintain_order=True).agg("value")
        rows = pl.DataFrame({"row": np.arange(len(self), dtype=np.int64)})
        column = rows.join(grouped, on="row", how="left", maintain_order="left")["value"]
        return column.fill_null(pl.Series([[]], dtype=pl.List(dtype))).cast(pl.List(dtype)).alias(name)

    def row_of_values(self) -> np.ndarray:
        """``(total,)`` int64: the list that each value belongs to."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.lengths)


def gather_ranges(values: np.ndarray, start: np.ndarray, stop: np.ndarray) -> Ragged:
    """Return list ``i`` = ``values[start[i]:stop[i]]``; ranges may overlap, repeat and come in any order."""
    lengths = stop - start
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    places = np.arange(offsets[-1], dtype=np.int64) + np.repeat(start - offsets[:-1], lengths)
    return Ragged(values[places], offsets)
