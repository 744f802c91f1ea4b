"""Score candidates again at a wider width, from the one copy of the item vectors that all rungs share.

A score at a width is a sum over columns, so where the scan's score is such a sum over the first of them (both heads of
the query are one vector, and the scan kept float32), only the blocks beyond are read and added. With norm ``prefix`` a
score is that sum divided by the norms of two prefixes; those of items are stored per width.

Shapes: ``query_BU`` (batch, query size), ``query_Bw`` (batch, width), ``code_ND`` (items, full width), ``rows_BC``
(batch, candidates), ``rows_BK`` (batch, k), ``norm_N`` (items,) or empty.
"""

from __future__ import annotations

import numpy as np

from recsys.index.checks import checked_query_at
from recsys.index.kernels import read_keys, write_keys
from recsys.index.store import Store
from recsys.widths import WidthLadder

_NONE = np.empty(0, dtype=np.float32)
_PAGE = 4096
"""Candidates that are scored at a time: their keys stay in a core's cache until the best of them are known."""
_MANY = 8
"""Of more than so many times the candidates that are kept, the others are set aside before those are sorted."""


class Rescorer:
    """Scores candidates at a width, from one store.

    Args:
        store: what is read.
        widths: the trained widths.
    """

    def __init__(self, store: Store, *, widths: WidthLadder) -> None:
        assert len(store.code_ND) <= 2**32, "a key has 32 bits for the row"
        self._store = store
        self._widths = widths

    def best(
        self,
        query_BU: np.ndarray,
        rows_BC: np.ndarray,
        scores_BC: np.ndarray,
        *,
        known: int,
        width: int,
        num: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return each query's ``num`` best candidates by their scores at a width, best first, ties by row.

        Args:
            query_BU: unit queries that were checked.
            rows_BC: int64 item rows; `NOTHING` stays at the end.
            scores_BC: the candidates' float32 scores at the width ``known``.
            known: a trained width at which the scores are exact up to rounding, which spares reading that prefix; 0
                where there is none.
            width: a trained width, wider than ``known``.
            num: how many to keep, at most as many as there are candidates.
        """
        if self._widths.head == "per_width":
            known = 0
        query_Bw = checked_query_at(query_BU, width, self._widths)
        if rows_BC.shape[1] <= _PAGE:
            key_BK = self._keys(query_Bw, rows_BC, scores_BC, known)
        else:
            key_BK = self._keys_of_best(query_Bw, rows_BC, scores_BC, known, num)
        key_BK.sort(axis=1)
        rows_BK = np.empty((len(key_BK), num), dtype=np.int64)
        scores_BK = np.empty((len(key_BK), num), dtype=np.float32)
        read_keys(key_BK, rows_BK, scores_BK)
        return rows_BK, scores_BK

    def _keys_of_best(
        self, query_Bw: np.ndarray, rows_BC: np.ndarray, scores_BC: np.ndarray, known: int, num: int
    ) -> np.ndarray:
        """Return the keys of the best ``num`` candidates at least, in any order."""
        key_BK = np.empty((len(rows_BC), 0), dtype=np.int64)
        for start in range(0, rows_BC.shape[1], _PAGE):
            page = slice(start, start + _PAGE)
            key_BP = self._keys(query_Bw, rows_BC[:, page], scores_BC[:, page], known)
            key_BK = np.concatenate([key_BK, key_BP], axis=1)
            if key_BK.shape[1] > _MANY * num:
                key_BK = np.partition(key_BK, num - 1, axis=1)[:, :num]
        return np.ascontiguousarray(key_BK)

    def _keys(self, query_Bw: np.ndarray, rows_BC: np.ndarray, scores_BC: np.ndarray, known: int) -> np.ndarray:
        """Return what puts candidates in the order of their scores."""
        store, width, shrink_B = self._store, query_Bw.shape[1], _NONE
        if known and self._widths.norm == "prefix":
            shrink_B = np.linalg.norm(query_Bw[:, :known], axis=1).astype(np.float32, copy=False)
        key_BC = np.empty(rows_BC.shape, dtype=np.int64)
        write_keys(
            query_Bw,
            _NONE if store.scale_D is None else store.scale_D,
            store.code_ND,
            np.ascontiguousarray(rows_BC),
            np.ascontiguousarray(scores_BC),
            known,
            width,
            shrink_B,
            store.norm_of.get(known, _NONE),
            store.norm_of.get(width, _NONE),
            key_BC,
        )
        return key_BC
