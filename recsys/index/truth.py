"""The exact full-width answer, and how much of it a search found.

Overlap@k is the share of the exact full-width top-k that a search returns. Two items whose full-width scores differ by
no more than float32 rounding are the same to a ranking, so a returned item counts when its own full-width score is
within `TIE_TOLERANCE` of the k-th best: an answer that breaks a tie the other way misses nothing.

Shapes: ``query_QD`` (queries, full width), ``store_ND`` (items, full width), ``rows_QC`` (queries, items returned).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int64

from recsys.index.exact import NOTHING, exact_top_k
from recsys.ragged import Ragged

TIE_TOLERANCE = 2e-6
"""Largest difference of two full-width cosines that float32 rounding alone may cause."""


class Truth:
    """The exact answers of some queries, against which any search over the same vectors is held.

    Args:
        query_QD: unit queries of full width.
        store_ND: the item vectors.
        best_QK: scores of the exact answers, best first, as `exact_top_k` gives them.
        exact_QK: their rows.
        ks: the k of each overlap, the largest being the length of the exact answers.
    """

    def __init__(
        self,
        query_QD: Float[np.ndarray, "queries full"],
        store_ND: Float[np.ndarray, "items full"],
        best_QK: Float[np.ndarray, "queries k"],
        exact_QK: Int64[np.ndarray, "queries k"],
        *,
        ks: Sequence[int],
    ) -> None:
        self.query_QD = query_QD
        self.store_ND = store_ND
        self.exact_QK = exact_QK
        self.ks = tuple(sorted(set(ks)))
        self._best_QK = np.where(exact_QK != NOTHING, best_QK, -np.inf)

    @classmethod
    def find(
        cls, query_QD: np.ndarray, store_ND: np.ndarray, *, ks: Sequence[int], exclude: Ragged | None = None
    ) -> Truth:
        """Search exactly, without the item rows that each query may not get."""
        best_QK, exact_QK = exact_top_k(query_QD, store_ND, k=max(ks), masked=exclude)
        return cls(query_QD, store_ND, best_QK, exact_QK, ks=ks)

    def overlap(
        self, rows_BC: Int64[np.ndarray, "batch items"], *, k: int, queries: Int64[np.ndarray, " batch"]
    ) -> Float[np.ndarray, " batch"]:
        """Return each chosen query's overlap@k; one that may get nothing at all misses nothing.

        Args:
            rows_BC: distinct item rows, best first, of which the first k count; `NOTHING` where none was left.
            k: one of the ks.
            queries: which query each row answers.
        """
        rows_Bk = rows_BC[:, :k]
        score_Bk = np.einsum("bkd,bd->bk", self.store_ND[rows_Bk], self.query_QD[queries])
        score_Bk = np.where(rows_Bk != NOTHING, score_Bk, -np.inf)
        return share_found(score_Bk, self._best_QK[queries, :k])


def share_found(
    score_BK: Float[np.ndarray, "batch k"], best_BK: Float[np.ndarray, "batch k"]
) -> Float[np.ndarray, " batch"]:
    """Return the overlap of answers with the exact ones, 1 where there is nothing to find.

    Args:
        score_BK: full-width scores of distinct items that were returned, minus infinity where none was.
        best_BK: the k best full-width scores there are, minus infinity where there are fewer.
    """
    there_BK = best_BK > -np.inf
    least_B1 = np.where(there_BK, best_BK, np.inf).min(axis=1, keepdims=True)
    hits_B = (score_BK >= least_B1 - TIE_TOLERANCE).sum(axis=1)
    wanted_B = there_BK.sum(axis=1)
    share_B: np.ndarray = np.where(wanted_B > 0, hits_B / np.maximum(wanted_B, 1), 1.0)
    return share_B
