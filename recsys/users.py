"""What a live system knows about its users: histories, seen items and features, held flat for millions of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from recsys.data.schema import FEATURE_PREFIX
from recsys.errors import ArtifactError
from recsys.ids import Vocabulary
from recsys.ragged import Ragged


class UserStore:
    """Users by row; their lists lie one after another in the Arrow buffers they were read into.

    Args:
        ids: ``(n,)`` user ids.
        histories: per user, rows of the towers' item table, oldest first; only as many as the towers read.
        seen: per user, distinct rows of the catalogue, increasing.
        features: by name, per user, rows as `FeatureSpec.encode` gives them.
        times: per user, int64 times of the history's items, for towers that read them.
    """

    def __init__(
        self,
        ids: pl.Series,
        *,
        histories: Ragged,
        seen: Ragged,
        features: dict[str, Ragged],
        times: Ragged | None = None,
    ) -> None:
        self._ids = ids
        self._histories = histories
        self._seen = seen
        self._features = features
        self._times = times

    def __len__(self) -> int:
        return len(self._ids)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """User ids to rows: the one structure here with an object per user."""
        return Vocabulary(self._ids.to_list())

    def history(self, row: int) -> np.ndarray:
        """Return a user's latest rows of the towers' item table, int64, oldest first."""
        return self._histories[row].astype(np.int64)

    def times(self, rows: np.ndarray) -> Ragged | None:
        """Return when the items of many users' histories were; None if that is not kept."""
        return None if self._times is None else self._times.take(rows)

    def seen(self, row: int) -> np.ndarray:
        """Return all distinct item rows that a user had to do with, int64, increasing."""
        return self._seen[row].astype(np.int64)

    def features(self, row: int) -> dict[str, Ragged]:
        """Return a user's features as lists of length 1, ready for `ExportedTowers.encode_users`."""
        return {name: Ragged.from_lists([lists[row]]) for name, lists in self._features.items()}

    def batch(self, rows: np.ndarray) -> tuple[Ragged, dict[str, Ragged], Ragged]:
        """Return many users' histories, features and seen items, in the order of ``rows``."""
        features = {name: _widen(lists.take(rows)) for name, lists in self._features.items()}
        return _widen(self._histories.take(rows)), features, _widen(self._seen.take(rows))

    def save(self, path: Path) -> None:
        """Write Parquet: id, history, seen, times if kept, and a ``feature:NAME`` column per feature, by user row."""
        columns = [self._ids.alias("id"), self._histories.to_series("history"), self._seen.to_series("seen")]
        columns += [lists.to_series(FEATURE_PREFIX + name) for name, lists in self._features.items()]
        if self._times is not None:
            columns.append(self._times.to_series("time", pl.Int64))
        pl.DataFrame(columns).write_parquet(path)

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        features: Sequence[str],
        num_items: int,
        num_history_items: int | None = None,
        with_times: bool = False,
    ) -> UserStore:
        """Read what `save` wrote.

        Args:
            path: the Parquet file.
            features: names of the user features that the towers read.
            num_items: rows of the catalogue, which seen items point into.
            num_history_items: rows of the towers' item table, which histories point into; None for as many.
            with_times: whether the towers read when the items of histories were.

        Raises:
            ArtifactError: the file cannot be read, lacks a column, or points past the catalogue.
        """
        wanted = {"id": pl.String, **dict.fromkeys(["history", "seen"], pl.List(pl.UInt32))}
        wanted |= {FEATURE_PREFIX + name: pl.List(pl.UInt32) for name in features}
        if with_times:
            wanted["time"] = pl.List(pl.Int64)
        try:
            frame = pl.read_parquet(path)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise ArtifactError(f"{path}: not a Parquet file: {error}") from error
        for name, dtype in wanted.items():
            if frame.schema.get(name) != dtype:
                raise ArtifactError(f"{path}: column {name}: got {frame.schema.get(name)}, expected {dtype}")
            if frame[name].null_count():
                raise ArtifactError(f"{path}: column {name}: got {frame[name].null_count()} nulls, expected none")
        histories, seen = (_flat(frame[name]) for name in ("history", "seen"))
        for name, lists, num in (("history", histories, num_history_items or num_items), ("seen", seen, num_items)):
            if lists.values.size and lists.values.max() >= num:
                raise ArtifactError(f"{path}: column {name}: got item row {lists.values.max()} of {num} items")
        if with_times and (frame["time"].list.len() != frame["history"].list.len()).any():
            raise ArtifactError(f"{path}: column time: got lists of other lengths than column history")
        return cls(
            frame["id"],
            histories=histories,
            seen=seen,
            features={name: _flat(frame[FEATURE_PREFIX + name]) for name in features},
            times=_flat(frame["time"]) if with_times else None,
        )


def distinct(lists: Ragged, num_values: int) -> Ragged:
    """Drop repeats within each list, keeping values in increasing order; values lie below ``num_values``."""
    keys = np.sort(lists.row_of_values() * num_values + lists.values)
    keys = keys[np.diff(keys, prepend=-1) > 0]
    return Ragged.from_lengths(keys % num_values, np.bincount(keys // num_values, minlength=len(lists)))


def _flat(column: pl.Series) -> Ragged:
    """View a list column's Arrow buffers: 4 bytes an item, nothing copied."""
    array = column.rechunk().to_arrow()
    return Ragged(array.values.to_numpy(), array.offsets.to_numpy())


def _widen(lists: Ragged) -> Ragged:
    return Ragged(lists.values.astype(np.int64), lists.offsets)
