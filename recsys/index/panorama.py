"""How little of the vectors an exact search must read, if each prefix bounds what the rest can still add.

Source: FAISS's Panorama flat indexes (Ramani et al., *Panorama: Fast-Track Nearest Neighbors*, arXiv 2510.00566). They
cut vectors into levels of equal width, and score an item level by level, until the inner product so far and the norms
of what is left (Cauchy-Schwarz) show that it cannot be among the k best any more. The answer stays exact; how much is
skipped depends on how early in the vectors their energy lies. So the share that is touched judges a training, whatever
the machine. Vectors are turned to their principal axes before: no inner product changes, and no other turn puts more
of their energy first.

Shapes: ``query_QD`` (queries, full width), ``item_ND`` (items, full width), ``rows_QK`` (queries, k).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from jaxtyping import Float, Int64

from recsys.errors import ConfigError, DataError
from recsys.index.exact import check_vectors
from recsys.index.timing import undisturbed

_ROWS = 1 << 16


def turned_panorama(vector_Nw: Float[np.ndarray, "items width"], num_levels: int) -> Any:
    """Return a FAISS index that turns vectors and queries before Panorama sees them.

    Args:
        vector_Nw: item vectors.
        num_levels: equal parts that vectors are cut into; a divisor of the width.
    """
    width = vector_Nw.shape[1]
    turn = faiss.LinearTransform(width, width, False)
    faiss.copy_array_to_vector(np.ascontiguousarray(_axes(vector_Nw).T, dtype=np.float32).ravel(), turn.A)
    turn.is_trained = True
    turn.set_is_orthonormal()
    panorama = faiss.IndexFlatIPPanorama(width, num_levels)
    index = faiss.IndexPreTransform(turn, panorama)
    index.add(np.ascontiguousarray(vector_Nw, dtype=np.float32))
    return index


def _axes(vector_Nw: np.ndarray) -> np.ndarray:
    """Return the ``(width, width)`` orthonormal columns along which vectors have most energy, in falling order."""
    total_ww = np.zeros((vector_Nw.shape[1],) * 2)
    for start in range(0, len(vector_Nw), _ROWS):
        some = vector_Nw[start : start + _ROWS]
        total_ww += some.T @ some
    axes_ww: np.ndarray = np.linalg.eigh(total_ww)[1][:, ::-1]
    return axes_ww


@dataclass(frozen=True, kw_only=True)
class PanoramaScan:
    """An exact search that stopped early wherever it safely could.

    Args:
        rows_QK: int64 item rows, best first; where scores tie, any order.
        share: dimensions touched over all dimensions of all items, from ``1 / num_levels`` to 1.
    """

    rows_QK: Int64[np.ndarray, "queries k"]
    share: float


def panorama_scan(
    query_QD: Float[np.ndarray, "queries full"],
    item_ND: Float[np.ndarray, "items full"],
    *,
    k: int = 100,
    num_levels: int = 8,
) -> PanoramaScan:
    """Search the ``k`` items of largest inner product with each query, and count what had to be read.

    One thread, one pass over the items in the order of their rows: an order that puts good items first prunes
    more. The count is FAISS's own, which is global to the process: call this from one thread at a time.

    Args:
        query_QD: finite query vectors.
        item_ND: finite item vectors, at least ``k``.
        k: answers per query.
        num_levels: equal parts that vectors are cut into; a divisor of the width.

    Raises:
        WidthError: the vectors are not two matrices of one width, or hold NaN or infinity.
        ConfigError: ``k`` is less than 1, or ``num_levels`` does not divide the width.
        DataError: there are no queries, or fewer than ``k`` items.
    """
    check_vectors(query_QD, item_ND)
    width = item_ND.shape[1]
    if num_levels < 1 or width % num_levels:
        raise ConfigError(f"num_levels: got {num_levels}, expected a divisor of the width {width}")
    if k < 1:
        raise ConfigError(f"k: got {k}, expected at least 1")
    if not len(query_QD) or len(item_ND) < k:
        raise DataError(
            f"vectors: got {len(query_QD)} queries and {len(item_ND)} items, expected some and at least {k}"
        )
    index = turned_panorama(item_ND, num_levels)
    globals_: Any = faiss.cvar
    counted = globals_.indexPanorama_stats
    with undisturbed():
        counted.reset()
        _, rows_QK = index.search(np.ascontiguousarray(query_QD, dtype=np.float32), k)
    # FAISS counts levels; since all are equally wide, their ratio is that of the dimensions.
    return PanoramaScan(rows_QK=rows_QK, share=float(counted.ratio_dims_scanned))
