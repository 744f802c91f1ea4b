"""What a dataset is like: its size and time range, how uneven it is, and how cold its held-out events are.

Popularity is counted in training events alone. Bands of it: the *head* is the fewest items that hold a third of the
training events, the *middle* the fewest more with which it is two thirds, the *tail* all others, those without a
training event among them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from jaxtyping import Int64

from recsys.data.dataset import Dataset
from recsys.data.schema import SPLITS, TICKS_PER_SECOND

BANDS = ("head", "middle", "tail")


@dataclass(frozen=True, kw_only=True)
class SplitProfile:
    """One split.

    Args:
        name: ``train``, ``fold_in``, ``validation`` or ``test``.
        num_events: its events.
        num_users: users with an event in it.
        num_items: items with an event in it.
        cold_users_share: of its users, the share without any earlier event; None of the first split.
        cold_items_share: of its events, the share whose item has no training event; None of training.
    """

    name: str
    num_events: int
    num_users: int
    num_items: int
    cold_users_share: float | None
    cold_items_share: float | None


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A dataset.

    Args:
        num_users: size of the vocabulary of users.
        num_items: size of the catalogue.
        num_events: events of all splits.
        first: when the first event was; None where the log has no times.
        last: when the last event was.
        splits: those that hold events.
        activity_U: training events per user.
        popularity_N: training events per item.
        band_N: each item's band, as its place in `BANDS`.
    """

    num_users: int
    num_items: int
    num_events: int
    first: datetime | None
    last: datetime | None
    splits: list[SplitProfile]
    activity_U: Int64[np.ndarray, " users"]
    popularity_N: Int64[np.ndarray, " items"]
    band_N: Int64[np.ndarray, " items"]

    @property
    def density(self) -> float:
        """Events per pair of a user and an item."""
        return self.num_events / (self.num_users * self.num_items)

    @property
    def num_head(self) -> int:
        """Items of the head."""
        return int((self.band_N == 0).sum())


def profile_of(dataset: Dataset) -> Profile:
    """Count a dataset."""
    num_users, num_items = dataset.num_users, dataset.num_items
    popularity_N = np.bincount(dataset.events("train").item, minlength=num_items)
    known_U = np.zeros(num_users, dtype=bool)
    splits: list[SplitProfile] = []
    times: list[int] = []
    for name in SPLITS:
        events = dataset.events(name)
        if not len(events.user):
            continue
        users = np.unique(events.user)
        splits.append(
            SplitProfile(
                name=name,
                num_events=len(events.user),
                num_users=len(users),
                num_items=len(np.unique(events.item)),
                cold_users_share=float((~known_U[users]).mean()) if splits else None,
                cold_items_share=None if name == "train" else float((popularity_N[events.item] == 0).mean()),
            )
        )
        known_U[users] = True
        if dataset.has_times:
            times += [events.time.min(), events.time.max()]
    return Profile(
        num_users=num_users,
        num_items=num_items,
        num_events=sum(split.num_events for split in splits),
        first=_moment(min(times), dataset) if times else None,
        last=_moment(max(times), dataset) if times else None,
        splits=splits,
        activity_U=np.bincount(dataset.events("train").user, minlength=num_users),
        popularity_N=popularity_N,
        band_N=popularity_bands(popularity_N),
    )


def popularity_bands(popularity_N: Int64[np.ndarray, " items"]) -> Int64[np.ndarray, " items"]:
    """Return each item's band, as its place in `BANDS`, from how many training events each has; ties by row."""
    order = np.argsort(-popularity_N, kind="stable")
    before_N = np.cumsum(popularity_N[order]) - popularity_N[order]
    # An item belongs to the third that its first event falls into, events counted from the most popular item on.
    band_N = np.empty(len(popularity_N), dtype=np.int64)
    band_N[order] = np.minimum(len(BANDS) * before_N // popularity_N.sum(), len(BANDS) - 1)
    return band_N


def band_shares(rows: Int64[np.ndarray, " places"], band_N: Int64[np.ndarray, " items"]) -> list[float]:
    """Return the share of item rows that each band has; places without an item (negative) do not count."""
    count = np.bincount(band_N[rows[rows >= 0]], minlength=len(BANDS))
    return [float(share) for share in count / max(count.sum(), 1)]


def _moment(tick: int, dataset: Dataset) -> datetime:
    return datetime.fromtimestamp(tick / TICKS_PER_SECOND[dataset.manifest["time_unit"]], tz=UTC)
