"""Metrics of rankings against held-out interactions, vectorised over queries.

Recall, ndcg and mrr are read off one boolean matrix that says which places of each ranking hold a target (`find_hits`).
They return one number per query, so that means, intervals and paired differences can be had from them (`estimate`).

Conventions:

- recall@k divides by the number of targets, also where that exceeds ``k`` (as in the LightGCN line of papers; Mult-VAE
  and its successors divide by the lesser of the two);
- ndcg@k has gain 1 for a target, discount ``1 / log2(place + 1)``, and divides by the most that ``k`` places can earn;
- mrr@k is the reciprocal place of the first target, 0 where none is among the first ``k``;
- a place that holds no item (`recsys.index.exact.NOTHING`) is a miss, and so is one beyond the ranking's end.

Shapes: ``Q`` queries, ``K`` places of a ranking (best first), ``k`` the cut-off.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64

from recsys.errors import DataError
from recsys.ragged import Ragged

_Z95 = 1.959963984540054  # 97.5th percentile of the standard normal distribution


def find_hits(ranked_QK: Int64[np.ndarray, "queries places"], target: Ragged) -> Bool[np.ndarray, "queries places"]:
    """Say which places of each ranking hold one of the query's targets.

    Args:
        ranked_QK: item rows, best first, none twice in a ranking; negative where there is no item.
        target: per query, distinct item rows, in any order.

    Raises:
        DataError: the numbers of rankings and of target lists differ, or one of either holds an item twice (which
            would count one interaction more than once).
    """
    if len(ranked_QK) != len(target):
        raise DataError(f"rankings: got {len(ranked_QK)}, expected one per list of targets ({len(target)})")
    in_order_QK = np.sort(ranked_QK, axis=1)
    repeated_Q = ((in_order_QK[:, 1:] == in_order_QK[:, :-1]) & (in_order_QK[:, 1:] >= 0)).any(axis=1)
    if repeated_Q.any():
        raise DataError(f"rankings: query {repeated_Q.argmax()}: got an item row twice, expected distinct items")
    # One sorted array of (query, item) keys makes looking up every place a single binary search.
    base = max(int(ranked_QK.max(initial=0)), int(target.values.max(initial=0))) + 1
    target_key = np.sort(target.row_of_values() * base + target.values)
    if (twice := np.flatnonzero(target_key[1:] == target_key[:-1])).size:
        query, item = divmod(int(target_key[twice[0]]), base)
        raise DataError(f"targets: query {query}: got item row {item} twice, expected distinct items")
    if not target_key.size:
        return np.zeros(ranked_QK.shape, dtype=bool)
    ranked_key_QK = np.arange(len(ranked_QK), dtype=np.int64)[:, None] * base + ranked_QK
    place_QK = np.searchsorted(target_key, ranked_key_QK).clip(max=len(target_key) - 1)
    hit_QK: np.ndarray = (target_key[place_QK] == ranked_key_QK) & (ranked_QK >= 0)
    return hit_QK


def recall(
    hit_QK: Bool[np.ndarray, "queries places"], num_targets_Q: Int64[np.ndarray, " queries"], *, k: int
) -> Float[np.ndarray, " queries"]:
    """Return recall@k: the share of a query's targets among its first ``k`` places.

    Args:
        hit_QK: what `find_hits` gave.
        num_targets_Q: how many targets each query has, at least 1.
        k: the cut-off.
    """
    share_Q: np.ndarray = hit_QK[:, :k].sum(axis=1) / num_targets_Q
    return share_Q


def ndcg(
    hit_QK: Bool[np.ndarray, "queries places"], num_targets_Q: Int64[np.ndarray, " queries"], *, k: int
) -> Float[np.ndarray, " queries"]:
    """Return ndcg@k: discounted hits over the discounted hits of the best ranking of ``k`` places.

    Source: Järvelin & Kekäläinen, *Cumulated gain-based evaluation of IR techniques*, TOIS 2002; binary gains.

    Args:
        hit_QK: what `find_hits` gave.
        num_targets_Q: how many targets each query has, at least 1.
        k: the cut-off.
    """
    discount_k = 1.0 / np.log2(np.arange(2, k + 2))
    best_k = np.cumsum(discount_k)
    first_QK = hit_QK[:, :k]
    share_Q: np.ndarray = (first_QK @ discount_k[: first_QK.shape[1]]) / best_k[np.minimum(num_targets_Q, k) - 1]
    return share_Q


def mrr(hit_QK: Bool[np.ndarray, "queries places"], *, k: int) -> Float[np.ndarray, " queries"]:
    """Return mrr@k per query: one over the place of its first hit, 0 where the first ``k`` places hold none."""
    first_QK = hit_QK[:, :k]
    reciprocal_Q: np.ndarray = np.where(first_QK.any(axis=1), 1.0 / (first_QK.argmax(axis=1) + 1), 0.0)
    return reciprocal_Q


def coverage(ranked_QK: Int64[np.ndarray, "queries places"], *, k: int, num_items: int) -> float:
    """Return coverage@k: the share of the catalogue that is among the first ``k`` places of any ranking."""
    first_QK = ranked_QK[:, :k]
    return np.unique(first_QK[first_QK >= 0]).size / num_items


def overlap(
    ranked_QK: Int64[np.ndarray, "queries places"],
    reference_QK: Int64[np.ndarray, "queries _"],
    *,
    k: int,
    depth: int | None = None,
) -> Float[np.ndarray, " queries"]:
    """Return overlap@k: the share of a reference's first ``k`` items that are among a ranking's first ``depth``.

    It compares two rankings and knows nothing of interactions. An empty reference is wholly found (1).

    Args:
        ranked_QK: item rows, best first, none twice in a ranking; negative where there is no item.
        reference_QK: the rankings that are to be found, likewise.
        k: how much of the reference counts.
        depth: how much of the ranking counts; ``k`` where missing.
    """
    expected_QK = reference_QK[:, :k]
    num_expected_Q = (expected_QK >= 0).sum(axis=1)
    expected = Ragged.from_lengths(expected_QK[expected_QK >= 0], num_expected_Q)
    num_found_Q = find_hits(ranked_QK[:, : depth or k], expected).sum(axis=1)
    share_Q: np.ndarray = np.where(num_expected_Q == 0, 1.0, num_found_Q / np.maximum(num_expected_Q, 1))
    return share_Q


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over queries and the normal 95% interval around it, ``mean ± margin``.

    The interval says how far the mean would move with other users of the same population, the model being what it is;
    it says nothing about other seeds of training. To compare two rankings of the same queries, estimate their
    difference query by query: much of what varies between users is common to both and cancels.

    Args:
        mean: mean over queries.
        margin: 1.96 standard errors; None of fewer than two queries.
        num_queries: how many.
    """

    mean: float
    margin: float | None
    num_queries: int


def estimate(value_Q: Float[np.ndarray, " queries"]) -> Estimate:
    """Return the mean of a metric over queries, with its interval.

    Raises:
        DataError: there are no queries.
    """
    if not len(value_Q):
        raise DataError("metrics: got no queries, expected at least one to take a mean over")
    margin = _Z95 * float(value_Q.std(ddof=1)) / math.sqrt(len(value_Q)) if len(value_Q) > 1 else None
    return Estimate(mean=float(value_Q.mean()), margin=margin, num_queries=len(value_Q))
