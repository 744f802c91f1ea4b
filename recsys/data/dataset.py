"""Open a prepared dataset: vocabularies, features, events, and the queries of a split."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from recsys import artifact
from recsys.data.event_files import SUFFIX, map_events
from recsys.data.schema import (
    FEATURE_PREFIX,
    SECONDS_PER_DAY,
    SPLITS,
    TICKS_PER_SECOND,
    Events,
    FeatureSpec,
    Side,
)
from recsys.data.shards import ROW_GROUPS, find_damage
from recsys.data.user_log import UserLog
from recsys.errors import ArtifactError
from recsys.ids import Vocabulary
from recsys.ragged import Ragged


@dataclass(frozen=True, kw_only=True)
class Queries:
    """One ranking task per user of a split.

    Args:
        user: ``(q,)`` int64 user rows, increasing.
        history: per query, all items before the split, oldest first.
        target: per query, the distinct items to be found.
        mask_seen: whether items of the history may not be recommended.
        time: per query, the times of the history's items in the dataset's unit; None where the log has none.
    """

    user: np.ndarray
    history: Ragged
    target: Ragged
    mask_seen: bool
    time: Ragged | None = None

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: np.ndarray) -> Queries:
        """Return the queries at these places, in that order."""
        return Queries(
            user=self.user[rows],
            history=self.history.take(rows),
            target=self.target.take(rows),
            mask_seen=self.mask_seen,
            time=None if self.time is None else self.time.take(rows),
        )


class Dataset:
    """A prepared dataset folder, checked on opening. Events stay in their files, which are mapped.

    Args:
        path: the folder that ``recsys prepare`` wrote.
        verify: also compare every file's SHA-256 with the manifest (reads all of it once).

    Raises:
        ArtifactError: the folder is missing, damaged or of another kind.
    """

    def __init__(self, path: Path, *, verify: bool = True) -> None:
        self.path = path
        self.manifest: dict[str, Any] = artifact.read_manifest(path, "dataset")
        if missing := sorted({f"{split}{SUFFIX}" for split in SPLITS} - self.manifest["files"].keys()):
            raise ArtifactError(
                f"{path}: got no {missing[0]}, expected one (made by another version): prepare the dataset again"
            )
        if verify:
            self._verify()
        self.specs = tuple(FeatureSpec.from_json(entry) for entry in self.manifest["features"])

    def _verify(self) -> None:
        """Compare files with the manifest; where one is damaged, say in which row group."""
        try:
            artifact.verify(self.path, self.manifest)
        except ArtifactError as error:
            damage = find_damage(self.path, self.manifest.get(ROW_GROUPS, {}))
            if damage is None:
                raise
            raise ArtifactError(f"{error}; what is damaged is {damage}: prepare the dataset again") from error

    @property
    def name(self) -> str:
        """The recipe's name."""
        return str(self.manifest["name"])

    @property
    def ordered(self) -> bool:
        """Whether a user's events have an order (a time or a sequence number)."""
        return bool(self.manifest["ordered"])

    @property
    def has_times(self) -> bool:
        """Whether it is known when an event was, not only in which order a user's events came."""
        return self.manifest.get("time_unit") not in (None, "order")

    @property
    def ticks_per_day(self) -> int:
        """How many of its unit a day has, of a dataset whose times are known."""
        return SECONDS_PER_DAY * TICKS_PER_SECOND[self.manifest["time_unit"]]

    @property
    def mask_seen(self) -> bool:
        """Whether the protocol leaves already seen items out of the ranking."""
        return bool(self.manifest["mask_seen"])

    @cached_property
    def num_items(self) -> int:
        """Rows of items."""
        return int(pq.read_metadata(self.path / "items.parquet").num_rows)

    @cached_property
    def num_users(self) -> int:
        """Rows of users."""
        return int(pq.read_metadata(self.path / "users.parquet").num_rows)

    @cached_property
    def item_frame(self) -> pl.DataFrame:
        """Item ids, raw columns and encoded features; row ``i`` is item row ``i``."""
        return pl.read_parquet(self.path / "items.parquet")

    @cached_property
    def user_frame(self) -> pl.DataFrame:
        """User ids, raw columns and encoded features; row ``i`` is user row ``i``."""
        return pl.read_parquet(self.path / "users.parquet")

    @cached_property
    def titles(self) -> list[str] | None:
        """What `titles_of` gives for the items."""
        return titles_of(self.item_frame)

    @cached_property
    def items(self) -> Vocabulary:
        """Item ids to rows."""
        return Vocabulary(self.item_frame["id"].to_list())

    @cached_property
    def users(self) -> Vocabulary:
        """User ids to rows."""
        return Vocabulary(self.user_frame["id"].to_list())

    def feature_lists(self, side: Side) -> dict[str, Ragged]:
        """Return each feature's embedding rows for all users or items, by feature name."""
        specs = [spec for spec in self.specs if spec.side == side]
        if not specs:
            return {}  # without reading the ids of all users or items
        frame = self.item_frame if side == "item" else self.user_frame
        return {spec.name: Ragged.from_series(frame[FEATURE_PREFIX + spec.name]) for spec in specs}

    def events(self, *splits: str) -> Events:
        """Return the events of the splits in memory, each user's in the order of the splits and then of the log."""
        log = self.log(*splits)
        everyone = np.arange(self.num_users)
        items = log.items(everyone)
        times = log.times(everyone).values if log.has_times else None
        return Events(user=items.row_of_values(), item=items.values, time=times)

    def log(self, *splits: str) -> UserLog:
        """Return the events of the splits where they lie, user by user."""
        return UserLog([map_events(self.path / f"{split}{SUFFIX}") for split in splits], num_users=self.num_users)

    def histories(self, *splits: str) -> Ragged:
        """Return every user's items over the splits, oldest first."""
        return self.log(*splits).items(np.arange(self.num_users))

    def history_times(self, *splits: str) -> Ragged | None:
        """Return the times of every user's items over the splits, in the manifest's unit; None where there are none."""
        return self.log(*splits).times(np.arange(self.num_users)) if self.has_times else None

    def queries(self, split: str, *, most: int | None = None, seed: int = 0) -> Queries:
        """Return one query per user of ``validation`` or ``test``; histories hold only events of earlier splits.

        Args:
            split: which of the two.
            most: of how many users at most; a seeded sample where there are more. None is all.
            seed: of the sample.
        """
        assert split in ("validation", "test"), split
        before, targets = self.log(*SPLITS[: SPLITS.index(split)]), self.log(split)
        user = np.flatnonzero(targets.lengths)
        if most is not None and len(user) > most:
            user = user[np.sort(np.random.default_rng(seed).choice(len(user), most, replace=False))]
        return Queries(
            user=user,
            history=before.items(user),
            target=_distinct(targets.items(user)),
            mask_seen=self.mask_seen,
            time=before.times(user) if self.has_times else None,
        )


def titles_of(item_frame: pl.DataFrame) -> list[str] | None:
    """Return a title per item row, the id where one has none; None where the catalogue has no titles."""
    if item_frame.schema.get("title") != pl.String:
        return None
    return item_frame.select(pl.coalesce("title", "id"))["title"].to_list()


def _distinct(lists: Ragged) -> Ragged:
    """Drop repeats within each list, keeping values in increasing order."""
    span = int(lists.values.max(initial=0)) + 1
    key = np.sort(lists.row_of_values() * span + lists.values)
    key = key[np.diff(key, prepend=-1) > 0]
    return Ragged.from_lengths(key % span, np.bincount(key // span, minlength=len(lists)))
