"""Inner products of queries with chosen rows, read where they lie."""

from __future__ import annotations

import faiss
import numpy as np
from jaxtyping import Float, Int64


def products_with_rows(
    query_Bw: Float[np.ndarray, "batch width"],
    vector_Nw: Float[np.ndarray, "rows width"],
    rows_BC: Int64[np.ndarray, "batch candidates"],
) -> Float[np.ndarray, "batch candidates"]:
    """Return each query's inner products with its rows; minus infinity where a row is negative.

    Args:
        query_Bw: float32, C-contiguous.
        vector_Nw: float32, C-contiguous; nothing of it is copied.
        rows_BC: per query, rows of ``vector_Nw``.
    """
    rows_BC = np.ascontiguousarray(rows_BC)
    scores_BC = np.empty(rows_BC.shape, dtype=np.float32)
    faiss.fvec_inner_products_by_idx(  # type: ignore[attr-defined]
        faiss.swig_ptr(scores_BC),
        faiss.swig_ptr(query_Bw),
        faiss.swig_ptr(vector_Nw),
        faiss.swig_ptr(rows_BC),
        vector_Nw.shape[1],
        *rows_BC.shape,
    )
    return scores_BC
