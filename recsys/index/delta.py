"""Items beside those of an index: put in since it was built, few enough to score every one of them.

Indexes never change. What was put in lies in an array of its own, whose rows go on where the index's end, and is
scanned exactly at full width; what was deleted or replaced is a set of rows that a search leaves out. The two answers
are merged by full-width scores, and those of what the index found are computed again for that: a rung's own may be of
another width, and scores of different widths do not compare.

Shapes: ``query_BU`` (batch, query size), ``vector_MD`` (items beside the index, full width), ``replaced_M`` (items
beside the index,).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int64

from recsys.index.checks import checked_query_at
from recsys.index.item_set import ItemSet
from recsys.index.products import products_with_rows
from recsys.index.searcher import Searcher, SearchResult


@dataclass(frozen=True, kw_only=True)
class Delta:
    """What changed since an index was built; nothing in it changes after it is made.

    Args:
        vector_MD: float32 unit vectors, C-contiguous, of items beside the index.
        replaced_M: int64 rows of the index's items that these took the place of, negative for new ones.
        hidden: the index's items that may not be returned: deleted ones and replaced ones.
    """

    vector_MD: Float[np.ndarray, "items full"]
    replaced_M: Int64[np.ndarray, " items"]
    hidden: ItemSet

    @classmethod
    def none(cls, *, num_items: int, width: int) -> Delta:
        """Return that nothing changed."""
        return cls(
            vector_MD=np.zeros((0, width), dtype=np.float32),
            replaced_M=np.zeros(0, dtype=np.int64),
            hidden=ItemSet.of(np.zeros(0, dtype=np.int64), num_items),
        )

    def __len__(self) -> int:
        """Items beside the index."""
        return len(self.vector_MD)

    def replacing(self, items: ItemSet) -> ItemSet:
        """Return which items beside the index took the place of any of some of the index's items."""
        return ItemSet.of(np.flatnonzero(items.holds(self.replaced_M)), len(self))


def with_delta(
    searcher: Searcher,
    query_BU: Float[np.ndarray, "batch query"],
    result: SearchResult,
    *,
    delta: Delta,
    allowed: ItemSet,
) -> SearchResult:
    """Merge what an index found with the items beside it.

    Args:
        searcher: what was searched.
        query_BU: what was asked.
        result: what was found, without hidden items.
        delta: the items beside the index.
        allowed: which of them may be returned.

    Returns:
        As many items per query as ``result`` has places, best first by full-width scores, ties by row; rows of items
        beside the index follow the index's own.
    """
    query_BD = checked_query_at(query_BU, searcher.widths.full, searcher.widths)
    score_BK = searcher.score(query_BU, result.rows_BK)
    rows_BK = np.empty_like(result.rows_BK)
    # One thread reads the vectors where they lie; a matrix product would take as many as it likes.
    beside_BM = np.broadcast_to(allowed.rows, (len(query_BD), len(allowed)))
    score_BM = products_with_rows(query_BD, delta.vector_MD, beside_BM)
    for place, score_M in enumerate(score_BM):
        # Only these can get in: ties go to the lower row, which is the index's.
        better = score_M > score_BK[place].min()
        row = np.concatenate([result.rows_BK[place], searcher.num_items + beside_BM[place, better]])
        score = np.concatenate([score_BK[place], score_M[better]])
        best = np.lexsort((row, -score))[: rows_BK.shape[1]]
        rows_BK[place], score_BK[place] = row[best], score[best]
    return replace(result, rows_BK=rows_BK, scores_BK=score_BK)
