"""Cells: near vectors together, made at one width and shared by every index that routes at it.

Shapes: ``vector_Nr`` (items, routing width), ``cell_N`` (items,), ``route_Cr`` (cells, routing width).
"""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from jaxtyping import Float

from recsys.errors import ConfigError
from recsys.index.assignment import Assignment
from recsys.index.checks import checked_query_at
from recsys.index.faiss_files import check_index, read_index, write_index
from recsys.index.learned_cells import Lessons, learn_cells
from recsys.index.specs import IndexSpec
from recsys.index.store import decoded, make_store, prefixes
from recsys.widths import WidthLadder

MIN_CELLS = 16
MIN_ITEMS_PER_CELL = 39
"""Fewest training vectors per cell that FAISS's k-means takes without a warning."""
MIN_ITEMS_FOR_IVF = MIN_CELLS * MIN_ITEMS_PER_CELL
"""Catalogues smaller than this (624 items) are only scanned: too few items to train cells on, and nothing to save."""
_NUM_ITERATIONS = 5
"""Of k-means. By hand, on 200,000 items of 128 dimensions in 2,048 cells: for the same share of the best 100, cells of
10 iterations make a search scan 1% fewer items, of 20 another .3%, and cells of 3 2% more."""

Key = tuple[int, int]
"""Routing width and number of cells: indexes that agree in both share their cells."""


def num_cells(num_items: int) -> int:
    """Return how many cells a catalogue gets: a power of two near 2 sqrt(n), 0 where there are too few items.

    By hand, codes of 128 dimensions: of 40,981 items .99 of the best 100 take 73 us in 256 cells and 82 in 512, of a
    million as long in 1,024 as in 2,048, which take thrice as long to train.
    """
    if num_items < MIN_ITEMS_FOR_IVF:
        return 0
    most = int(min(2 * math.sqrt(num_items), num_items / MIN_ITEMS_PER_CELL))
    return 1 << (most.bit_length() - 1)


def cells_key(spec: IndexSpec, num_items: int) -> Key:
    """Return which cells an index uses.

    Raises:
        ConfigError: there are too few items to train that many cells on.
    """
    cells = spec.cells or num_cells(num_items)
    if not cells or cells * MIN_ITEMS_PER_CELL > num_items:
        needed = max(MIN_ITEMS_FOR_IVF, spec.cells * MIN_ITEMS_PER_CELL)
        raise ConfigError(f"{spec.name}: cells: got {num_items} items to train them on, expected at least {needed}")
    return spec.routing_width, cells


class Cells:
    """What leads queries to the cells of their best items, at the routing width: one vector per cell, its route.

    Routes are the centres of cells that are made of items alone, or are learned from queries. Products with them are
    those of their bytes, which takes half the time and leaves as much more of the processor's cache to what is read
    next.

    Args:
        index: a FAISS flat index of the routes.

    Attributes:
        encoded: bytes of the routes.
    """

    def __init__(self, index: Any) -> None:
        self._index = index
        self.encoded = make_store(index.reconstruct_n(0, index.ntotal), "sq8", norm_of={})

    @classmethod
    def train(
        cls, store_ND: np.ndarray, key: Key, *, widths: WidthLadder, seed: int, lessons: Lessons | None = None
    ) -> tuple[Cells, Assignment]:
        """Cluster the items' prefixes by k-means on the sphere; return the cells, and which of them items are in.

        Args:
            store_ND: unit item vectors.
            key: routing width and number of cells.
            widths: the trained widths.
            seed: fixes what is drawn.
            lessons: queries to learn from, starting from those clusters; None leaves them as they are.
        """
        width, num = key
        vector_Nr = prefixes(store_ND, width, widths)
        means = faiss.Kmeans(width, num, niter=_NUM_ITERATIONS, seed=seed, spherical=True)
        means.train(vector_Nr)
        assert means.centroids is not None
        route_Cr, index = means.centroids, _flat(means.centroids)
        cell_N = np.ascontiguousarray(index.search(vector_Nr, 1)[1][:, 0])
        if lessons is None:
            return cls(index), Assignment.once(cell_N)
        query_Qr = checked_query_at(lessons.query_QU, width, widths)
        route_Cr, assignment = learn_cells(query_Qr, lessons.rows_QK, vector_Nr, cell_N, route_Cr, seed=seed)
        return cls(_flat(route_Cr)), assignment

    @classmethod
    def load(cls, folder: Path, key: Key) -> Cells:
        """Open what `save` wrote, or raise `ArtifactError`."""
        path = folder / file_name(key)
        index = read_index(path)
        check_index(path, index, kind=faiss.IndexFlatIP, width=key[0], num_items=key[1])
        return cls(index)

    @cached_property
    def key(self) -> Key:
        """Their width and number."""
        return int(self._index.d), int(self._index.ntotal)

    @property
    def size_bytes(self) -> int:
        """Bytes of the routes, both ways."""
        width, num = self.key
        return 4 * width * num + self.encoded.size_bytes

    @property
    def routes(self) -> Float[np.ndarray, "cells routing"]:
        """The routes as queries see them: what their bytes stand for."""
        return decoded(self.encoded, slice(None))

    def save(self, folder: Path) -> None:
        """Write them."""
        write_index(self._index, folder / file_name(self.key))


def file_name(key: Key) -> str:
    """Return the name of the file that holds cells."""
    return f"cells{key[0]}c{key[1]}.faiss"


def _flat(route_Cr: np.ndarray) -> Any:
    index: Any = faiss.IndexFlatIP(route_Cr.shape[1])
    index.add(route_Cr)
    return index
