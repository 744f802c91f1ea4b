"""From a checked log to coded events in the dataset's order, however long the log is.

**The order.** Events are sorted by user row, then time, then place in the log: the row's position in its file, files in
the recipe's order and a glob's files in the order of their names. Ids become rows in the order of their numbers where
every id is an integer, else of their text; so the result depends neither on the order of users in the log nor on
whether it was CSV or Parquet.

**The way.** Polars streams the log to count its users and items, and once more to write coded events into buckets, each
holding all events of a range of users. Whatever needs an order or a look at one user's events (sorting, removing
repeats, splitting) then happens a bucket at a time, so memory is bounded by the vocabularies and the largest bucket.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from recsys.data.counting import count_values
from recsys.data.log import Log
from recsys.data.recipes import Filters
from recsys.data.sources import reading
from recsys.errors import DataError
from recsys.progress import Tell, tell_nobody

_INTEGER = r"^(0|-?[1-9][0-9]*)$"
_LARGEST_VOCABULARY = 2**32 - 1


@dataclass(frozen=True, kw_only=True)
class CodedLog:
    """Filtered events, coded as dense rows and sorted.

    Args:
        chunks: Parquet files whose concatenation is the log in the dataset's order; each holds whole users. Columns:
            user, item (UInt32), time (Int64) where there is one, published_test (Boolean).
        user_ids: ids by row (String); every one has an event.
        item_ids: likewise.
        user_lengths: ``(users,)`` int64 events of each user.
        rows_after: events left after each filter that was asked for, by its name.
    """

    chunks: list[Path]
    user_ids: pl.Series
    item_ids: pl.Series
    user_lengths: np.ndarray
    rows_after: dict[str, int]


def code_log(
    log: Log, *, filters: Filters, folder: Path, num_rows: int, max_rows: int, progress: Tell = tell_nobody
) -> CodedLog:
    """Filter, code and sort a log.

    Args:
        log: checked.
        filters: which events count.
        folder: an empty folder for intermediate files and the chunks.
        num_rows: rows of the log.
        max_rows: aim at this many events per chunk; a chunk is larger where one user is.
        progress: told of each pass over the log, and of each bucket that is sorted.

    Raises:
        DataError: a filter leaves nothing; it is named.
    """
    frame, rows_after = log.frame, {}
    if filters.min_rating is not None:
        frame = frame.filter(pl.col("rating") >= filters.min_rating)
    progress("count users and items", 0.0)
    with reading(log.files[0][0]):
        counted = [count_values(frame, role, num_rows=num_rows, max_rows=max_rows) for role in ("user", "item")]
    if filters.min_rating is not None:
        rows_after["min_rating"] = int(counted[0]["len"].sum())
        _require_some(rows_after["min_rating"], f"min_rating = {filters.min_rating}")
    users, items = (_vocabulary(one, role) for one, role in zip(counted, ("user", "item"), strict=True))
    users = users.with_columns(bucket=(pl.col("len").cum_sum() - pl.col("len")) // max_rows)
    progress("code events", 0.0)
    with reading(log.files[0][0]):
        _write_buckets(frame, users, items, folder)
    buckets: list[Path] = []
    for number in (numbers := users["bucket"].unique().sort().to_list()):
        progress("sort events", len(buckets) / len(numbers))
        buckets.append(_sort_bucket(folder, number, filters))
    if filters.deduplicate != "none":
        rows_after["deduplicate"] = _num_rows(buckets)
    user_lengths, item_lengths = _frequent(buckets, filters, num_users=len(users), num_items=len(items))
    if max(filters.min_user_events, filters.min_item_events) > 1:
        rows_after["min_events"] = int(user_lengths.sum())
        core = f"min_user_events = {filters.min_user_events}, min_item_events = {filters.min_item_events}"
        _require_some(rows_after["min_events"], core + (", k_core" if filters.k_core else ""))
    for path in buckets:
        _renumber(path, _rows_of(user_lengths), _rows_of(item_lengths))
    return CodedLog(
        chunks=buckets,
        user_ids=users["id"].filter(pl.Series(user_lengths > 0)),
        item_ids=items["id"].filter(pl.Series(item_lengths > 0)),
        user_lengths=user_lengths[user_lengths > 0],
        rows_after=rows_after,
    )


def _vocabulary(counted: pl.DataFrame, role: str) -> pl.DataFrame:
    """Return columns key (as in the log), id (String), row (UInt32) and len (Int64), in row order."""
    if len(counted) > _LARGEST_VOCABULARY:
        raise DataError(f"{role}: got {len(counted)} distinct ids, expected at most {_LARGEST_VOCABULARY}")
    named = counted.select(key=pl.col(role), id=pl.col(role).cast(pl.String), len=pl.col("len").cast(pl.Int64))
    numeric = bool(named["id"].str.contains(_INTEGER).all())
    by = pl.col("id").cast(pl.Int128, strict=False) if numeric else pl.col("id")
    return named.sort(by).with_row_index("row").with_columns(pl.col("row").cast(pl.UInt32))


def _write_buckets(frame: pl.LazyFrame, users: pl.DataFrame, items: pl.DataFrame, folder: Path) -> None:
    """Stream the log into unsorted files of coded events, all events of a user in one bucket's file."""
    coded = (
        frame.join(users.lazy().select(user="key", user_row="row", bucket="bucket"), on="user")
        .join(items.lazy().select(item="key", item_row="row"), on="item")
        .drop("user", "item", "rating", strict=False)
        .rename({"user_row": "user", "item_row": "item"})
    )
    by_bucket = pl.PartitionBy(
        folder,
        key="bucket",
        include_key=False,
        approximate_bytes_per_file=None,
        file_path_provider=lambda file: f"{file.partition_keys.item():06d}-{file.index_in_partition}.unsorted",
    )
    coded.sink_parquet(by_bucket, compression="lz4")


def _sort_bucket(folder: Path, number: int, filters: Filters) -> Path:
    """Put a bucket into the dataset's order, without repeats where they do not count."""
    unsorted = sorted(folder.glob(f"{number:06d}-*.unsorted"))
    frame = pl.concat([pl.read_parquet(path) for path in unsorted])
    time = ["time"] if "time" in frame.columns else []
    frame = frame.sort(["user", *time, "place"])
    if filters.deduplicate != "none":
        repeated = ["user", "item", *(time if filters.deduplicate == "exact" else [])]
        frame = frame.unique(repeated, keep="first", maintain_order=True)
    path = folder / f"{number:06d}.parquet"
    frame.select("user", "item", *time, "published_test").write_parquet(path, compression="lz4")
    for one in unsorted:
        one.unlink()
    return path


def _frequent(
    buckets: list[Path], filters: Filters, *, num_users: int, num_items: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return how many events of each user and item are left once rare ones are dropped; 0 is dropped."""
    user_lengths, item_lengths = _count(buckets, np.ones(num_users, bool), np.ones(num_items, bool))
    while True:
        keep_user, keep_item = user_lengths >= filters.min_user_events, item_lengths >= filters.min_item_events
        if keep_user[user_lengths > 0].all() and keep_item[item_lengths > 0].all():
            return user_lengths, item_lengths
        user_lengths, item_lengths = _count(buckets, keep_user, keep_item)
        if not filters.k_core:
            return user_lengths, item_lengths


def _count(buckets: list[Path], keep_user: np.ndarray, keep_item: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    user_lengths = np.zeros(len(keep_user), dtype=np.int64)
    item_lengths = np.zeros(len(keep_item), dtype=np.int64)
    for path in buckets:
        frame = pl.read_parquet(path, columns=["user", "item"])
        user, item = frame["user"].to_numpy(), frame["item"].to_numpy()
        kept = keep_user[user] & keep_item[item]
        user_lengths += np.bincount(user[kept], minlength=len(keep_user))
        item_lengths += np.bincount(item[kept], minlength=len(keep_item))
    return user_lengths, item_lengths


def _rows_of(lengths: np.ndarray) -> np.ndarray:
    """Number those that are left from 0, in order; the others get -1."""
    return np.where(lengths > 0, np.cumsum(lengths > 0) - 1, -1)


def _renumber(path: Path, user_rows: np.ndarray, item_rows: np.ndarray) -> None:
    """Rewrite a bucket without the users and items that were dropped, in the final rows."""
    if (user_rows >= 0).all() and (item_rows >= 0).all():
        return
    frame = pl.read_parquet(path)
    user, item = user_rows[frame["user"].to_numpy()], item_rows[frame["item"].to_numpy()]
    kept = (user >= 0) & (item >= 0)
    frame = frame.filter(pl.Series(kept)).with_columns(
        user=pl.Series(user[kept].astype(np.uint32)), item=pl.Series(item[kept].astype(np.uint32))
    )
    frame.write_parquet(path, compression="lz4")


def _num_rows(buckets: list[Path]) -> int:
    return int(pl.scan_parquet(buckets, glob=False).select(pl.len()).collect().item())


def _require_some(num_rows: int, applied: str) -> None:
    if not num_rows:
        raise DataError(f"filter {applied}: got no event left, expected some; relax it")
