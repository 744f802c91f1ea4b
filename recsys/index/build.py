"""Index a catalogue: exact copies of every narrower width, and cells at every width where there are enough items.

Shapes: ``store_ND`` is ``(items, full width)``, ``vector_Nw`` ``(items, width)``.
"""

from __future__ import annotations

import math
from typing import Any

import faiss
import numpy as np
from jaxtyping import Float

from recsys.index.searcher import Searcher, check_shape, check_unit
from recsys.index.specs import Engine
from recsys.widths import WidthLadder, truncate

MIN_CELLS = 16
MIN_ITEMS_PER_CELL = 39
"""Fewest training vectors per cell that FAISS's k-means takes without a warning."""
MIN_ITEMS_FOR_IVF = MIN_CELLS * MIN_ITEMS_PER_CELL
"""Catalogues smaller than this (624 items) are only scanned: too few items to train cells on, and nothing to save."""


def num_cells(num_items: int) -> int:
    """Return how many IVF cells a catalogue gets: a power of two near 4 sqrt(n), 0 where there are too few items."""
    if num_items < MIN_ITEMS_FOR_IVF:
        return 0
    most = int(min(4 * math.sqrt(num_items), num_items / MIN_ITEMS_PER_CELL))
    return 1 << (most.bit_length() - 1)


def build_searcher(store_ND: Float[np.ndarray, "items full"], *, widths: WidthLadder, seed: int) -> Searcher:
    """Index the item vectors at every width.

    Args:
        store_ND: float32 unit rows.
        widths: the trained widths.
        seed: fixes the cells of the IVF indexes.

    Raises:
        WidthError: the vectors are not float32 unit rows of full width, or a prefix that is to be scaled is all zeros.
    """
    check_shape(store_ND, widths)
    check_unit(store_ND, "item vectors")
    indexes: dict[tuple[Engine, int], Any] = {}
    for width in widths:
        vector_Nw = np.ascontiguousarray(truncate(store_ND, width, widths))
        if width < widths.full:
            indexes["exact", width] = faiss.IndexFlatIP(width)
            indexes["exact", width].add(vector_Nw)
        if cells := num_cells(len(store_ND)):
            indexes["ivf", width] = _build_ivf(vector_Nw, cells=cells, seed=seed)
    return Searcher(store_ND, widths=widths, indexes=indexes)


def _build_ivf(vector_Nw: np.ndarray, *, cells: int, seed: int) -> Any:
    width = vector_Nw.shape[1]
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, cells, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = seed
    index.train(vector_Nw)
    index.add(vector_Nw)
    return index
