"""Rankings that need no training, for the model to beat on the same queries.

Each is fitted on the train split alone, which is what the model learns from, and sees the same history of a query that
the model sees. On the test split that history also holds validation (and folded-in) events: for either side they are
input, not training data.

Shapes: ``B`` queries of a chunk, ``Q`` all queries, ``U`` training users, ``N`` items, ``k`` a ranking's length.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32, Int64
from scipy import sparse

from recsys.data.dataset import Dataset, Queries
from recsys.data.schema import SECONDS_PER_DAY, TICKS_PER_SECOND, Events
from recsys.errors import ConfigError
from recsys.index.exact import mask_, select_top_k
from recsys.ragged import Ragged

_CHUNK_BYTES = 64 * 2**20


@runtime_checkable
class Baseline(Protocol):
    """A ranking of the whole catalogue from a history.

    Attributes:
        name: for tables.
        row_bytes: memory that scoring one query takes, which sets the size of chunks.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def row_bytes(self) -> int: ...  # noqa: D102

    def scores(self, history: Ragged) -> Float32[np.ndarray, "batch items"]:
        """Return a fresh array of every item's score for every history; a larger score ranks first."""
        ...


class Popularity:
    """Ranks items by how many training interactions they have, for everybody alike; ties by item row.

    Args:
        item: the interactions' item rows.
        num_items: size of the catalogue.
        name: for tables.
    """

    def __init__(self, item: Int64[np.ndarray, " events"], *, num_items: int, name: str = "popularity") -> None:
        self.name = name
        self.row_bytes = 4 * num_items
        self._score_N = _by_count(np.bincount(item, minlength=num_items))

    def scores(self, history: Ragged) -> Float32[np.ndarray, "batch items"]:
        """Return the same scores for every history."""
        return np.tile(self._score_N, (len(history), 1))


class ItemFilter:
    """The linear item-item filter ``r · SᵀS`` with ``S = D_U^-1/2 R D_I^-1/2``.

    ``R`` is the binary user by item matrix of training, ``D_U`` and ``D_I`` its user and item degrees, ``r`` a history
    as a binary row: an item scores by the training users that share items with the history, each counted the less the
    more common the items and the busier the user. Source: the linear filter of GF-CF, Shen et al., *How Powerful is
    Graph Convolution for Recommendation?*, CIKM 2021. Items that share no user with the history follow by popularity,
    so that a user without one gets the popular items. The item by item matrix is never formed: ``r`` goes to
    users and back to items.

    Args:
        user: the training interactions' user rows.
        item: their item rows; repeats count once.
        num_users: number of users.
        num_items: size of the catalogue.
    """

    name = "item-item"

    def __init__(
        self,
        user: Int64[np.ndarray, " events"],
        item: Int64[np.ndarray, " events"],
        *,
        num_users: int,
        num_items: int,
    ) -> None:
        self.row_bytes = 4 * (num_users + 2 * num_items)
        self._num_items = num_items
        ones = np.ones(len(user), dtype=np.float32)
        interaction_UN = sparse.csr_array((ones, (user, item)), shape=(num_users, num_items))
        interaction_UN.sum_duplicates()
        user_degree_U = np.diff(interaction_UN.indptr)
        item_degree_N = np.bincount(interaction_UN.indices, minlength=num_items)
        weight = 1.0 / np.sqrt(np.repeat(user_degree_U, user_degree_U) * item_degree_N[interaction_UN.indices])
        interaction_UN.data = weight.astype(np.float32)
        self._filter_UN = interaction_UN
        self._filter_NU = interaction_UN.T.tocsr()
        self._unreached_N = _by_count(item_degree_N)

    def scores(self, history: Ragged) -> Float32[np.ndarray, "batch items"]:
        """Return ``(r Sᵀ) S`` for every history, below 0 where that is 0."""
        taste_NB = sparse.coo_array(
            (np.ones(len(history.values), dtype=np.float32), (history.values, history.row_of_values())),
            shape=(self._num_items, len(history)),
        ).tocsr()
        taste_NB.sum_duplicates()
        taste_NB.data[:] = 1.0
        # A history reaches few users, so the first product is sparse; those reach most items, so the second is dense.
        affinity_UB = (self._filter_UN @ taste_NB).toarray()
        score_BN = np.ascontiguousarray((self._filter_NU @ affinity_UB).T)
        np.copyto(score_BN, self._unreached_N, where=score_BN == 0)
        return score_BN


def _by_count(count_N: Int64[np.ndarray, " items"]) -> Float32[np.ndarray, " items"]:
    """Return distinct scores below 0 that rank items by count, the largest first, ties by row.

    Minus the place, not the count itself: float32 holds it exactly for 16 million items, and no two items tie.
    """
    score_N = np.empty(len(count_N), dtype=np.float32)
    score_N[np.argsort(-count_N, kind="stable")] = -1.0 - np.arange(len(count_N))
    return score_N


def rank(baseline: Baseline, queries: Queries, *, k: int) -> Int64[np.ndarray, "queries k"]:
    """Return each query's ``k`` best item rows, best first, ties by row.

    Seen items are left out where the queries say so; places for which no item is left hold `NOTHING`.
    """
    step = max(1, _CHUNK_BYTES // baseline.row_bytes)
    ranked_QK = np.empty((len(queries), k), dtype=np.int64)
    for start in range(0, len(queries), step):
        chunk = np.arange(start, min(start + step, len(queries)))
        history = queries.history.take(chunk)
        score_BN = torch.from_numpy(baseline.scores(history))
        if queries.mask_seen:
            mask_(score_BN, history)
        ranked_QK[chunk] = select_top_k(score_BN, k)[1].numpy()
    return ranked_QK


def fit_baselines(dataset: Dataset, *, recent_days: int = 7) -> list[Baseline]:
    """Fit every baseline that the dataset allows on its train split.

    Recent popularity needs real times, so it is left out of a dataset whose events have none.

    Args:
        dataset: a prepared dataset.
        recent_days: length of the window that recent popularity counts, back from the last training event.

    Raises:
        ConfigError: ``recent_days`` is less than 1.
    """
    if recent_days < 1:
        raise ConfigError(f"recent_days: got {recent_days}, expected at least 1")
    events = dataset.events("train")
    num_users, num_items = dataset.num_users, dataset.num_items
    baselines: list[Baseline] = [Popularity(events.item, num_items=num_items)]
    if (unit := dataset.manifest.get("time_unit")) in TICKS_PER_SECOND and events.time is not None:
        recent = last_days(events, recent_days, unit=unit)
        baselines.append(Popularity(events.item[recent], num_items=num_items, name=f"popularity, {recent_days} days"))
    baselines.append(ItemFilter(events.user, events.item, num_users=num_users, num_items=num_items))
    return baselines


def last_days(events: Events, days: int, *, unit: str) -> np.ndarray:
    """Say which events happened less than ``days`` times 24 hours before the last one; ``unit`` is s, ms or us."""
    window = days * SECONDS_PER_DAY * TICKS_PER_SECOND[unit]
    recent: np.ndarray = events.time > events.time.max() - window
    return recent
