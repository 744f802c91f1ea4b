"""Simulated worlds: small logs with a known structure, for tests and for scale runs. Never real data, and said so.

Each item belongs to one of a few groups and each user prefers one of them; within a group, popularity falls off
as in real logs (Zipf). A model that learns anything ranks a user's own group first, and a test can check that it does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from recsys.errors import ConfigError

_WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "haven")


@dataclass(frozen=True, kw_only=True)
class SimulatedWorld:
    """A simulated log, drawn anew from its seed each time."""

    num_users: int = 200
    """Users; each has at least one event."""
    num_items: int = 100
    """Items; the popular ones of a group come first."""
    num_events: int = 4000
    """Events over all users, one a minute."""
    num_groups: int = 4
    """Groups of items: item i is in group i modulo this."""
    loyalty: float = 0.9
    """Share of a user's events that are in the preferred group; the rest are spread over all items."""
    seed: int = 0
    """Fixes everything."""

    def __post_init__(self) -> None:
        if not 1 <= self.num_groups <= min(self.num_items, len(_WORDS)):
            limit = min(self.num_items, len(_WORDS))
            raise ConfigError(f"num_groups: got {self.num_groups}, expected 1 to {limit}")
        if self.num_events < self.num_users:
            raise ConfigError(f"num_events: got {self.num_events}, expected at least one per user ({self.num_users})")
        if not 0 <= self.loyalty <= 1:
            raise ConfigError(f"loyalty: got {self.loyalty}, expected 0 to 1")

    def events(self) -> pl.DataFrame:
        """Return the log: user_id, item_id (String), rating (1 to 5), timestamp (epoch seconds), in time order."""
        rng = np.random.default_rng(self.seed)
        rest = rng.integers(self.num_users, size=self.num_events - self.num_users)
        user_E = rng.permutation(np.concatenate([np.arange(self.num_users), rest]))
        group_E = np.where(
            rng.random(self.num_events) < self.loyalty, user_E, rng.integers(self.num_groups, size=len(user_E))
        )
        group_E %= self.num_groups
        size_G = np.bincount(np.arange(self.num_items) % self.num_groups)
        rank_E = np.floor(size_G[group_E] ** rng.random(self.num_events)).astype(np.int64) - 1
        return pl.DataFrame(
            {
                "user_id": pl.Series(user_E).cast(pl.String).str.zfill(7).str.replace("^", "u"),
                "item_id": _item_ids(rank_E * self.num_groups + group_E),
                "rating": rng.integers(1, 6, size=self.num_events).astype(np.int8),
                "timestamp": 1_700_000_000 + 60 * np.arange(self.num_events, dtype=np.int64),
            }
        )

    def items(self) -> pl.DataFrame:
        """Return a row per item: item_id, title, groups (a list of one name), price."""
        item_N = np.arange(self.num_items)
        group_N = pl.Series(_WORDS).gather(item_N % self.num_groups)
        return pl.DataFrame(
            {
                "item_id": _item_ids(item_N),
                "title": "The " + group_N.str.to_titlecase() + " " + pl.Series(item_N).cast(pl.String),
                "groups": group_N.reshape((self.num_items, 1)).arr.to_list(),
                "price": 1.0 + item_N % 50,
            }
        )

    def users(self) -> pl.DataFrame:
        """Return a row per user: user_id, and segment, the preferred group's name."""
        user_U = np.arange(self.num_users)
        ids = pl.Series(user_U).cast(pl.String).str.zfill(7).str.replace("^", "u")
        return pl.DataFrame({"user_id": ids, "segment": pl.Series(_WORDS).gather(user_U % self.num_groups)})

    def write(self, folder: Path) -> Path:
        """Write interactions.parquet, items.parquet and users.parquet, and return the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in {"interactions": self.events(), "items": self.items(), "users": self.users()}.items():
            table.write_parquet(folder / f"{name}.parquet")
        return folder


def _item_ids(row: np.ndarray) -> pl.Series:
    return pl.Series(row).cast(pl.String).str.zfill(7).str.replace("^", "i")
