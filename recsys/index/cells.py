"""Cells: near vectors together, made at one width and shared by every index that routes at it.

Shapes: ``vector_Nr`` (items, routing width), ``cell_N`` (items,), ``route_Cr`` (cells, routing width), ``mean_Cw``
(cells, width).
"""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from jaxtyping import Float, Int64

from recsys.errors import ConfigError
from recsys.index.checks import checked_query_at
from recsys.index.faiss_files import check_index, read_index, write_index
from recsys.index.kernels import nearest_centres
from recsys.index.routes import Lessons, learn_routes
from recsys.index.specs import IndexSpec
from recsys.index.store import decoded, make_store
from recsys.widths import WidthLadder, truncate

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
    """The centres of cells at their routing width, and what leads queries to them.

    Items belong to the nearest centre; a query finds its cells by bytes of their routes, which takes half the time of
    the whole ones and leaves as much more of the processor's cache to what is read next.

    Args:
        index: a FAISS flat index of the centres.
        widths: the trained widths.
        routes: a FAISS flat index of what queries are compared with (`recsys.index.routes`); None: with the centres.

    Attributes:
        learned: whether routes are anything but the centres.
    """

    def __init__(self, index: Any, *, widths: WidthLadder, routes: Any = None) -> None:
        self._index = index
        self._routes = routes
        self._widths = widths
        self.learned = routes is not None
        compared = index if routes is None else routes
        self._bytes = make_store(compared.reconstruct_n(0, compared.ntotal), "sq8", norm_of={})

    @classmethod
    def train(cls, store_ND: np.ndarray, key: Key, *, widths: WidthLadder, seed: int) -> Cells:
        """Cluster the items' prefixes by k-means on the sphere."""
        width, num = key
        vector_Nr = np.ascontiguousarray(truncate(store_ND, width, widths))
        means = faiss.Kmeans(width, num, niter=_NUM_ITERATIONS, seed=seed, spherical=True)
        means.train(vector_Nr)
        assert means.centroids is not None
        index = faiss.IndexFlatIP(width)
        index.add(means.centroids)
        return cls(index, widths=widths)

    @classmethod
    def load(cls, folder: Path, key: Key, *, widths: WidthLadder, learned: bool = False) -> Cells:
        """Open what `save` wrote of cells with learned routes or without, or raise `ArtifactError`."""
        index, *routes = (_read(folder / name, key) for name in file_names(key, learned=learned))
        return cls(index, widths=widths, routes=routes[0] if routes else None)

    def with_routes(self, lessons: Lessons, cell_N: np.ndarray, *, seed: int) -> Cells:
        """Return the same cells with routes that are learned from queries.

        Args:
            lessons: the queries.
            cell_N: each item's cell.
            seed: of the order of the queries.
        """
        width, num = self.key
        query_Qr = checked_query_at(lessons.query_QU, width, self._widths)
        centre_Cr = self._index.reconstruct_n(0, num)
        routes: Any = faiss.IndexFlatIP(width)
        routes.add(learn_routes(query_Qr, lessons.rows_QK, cell_N, centre_Cr, seed=seed))
        return Cells(self._index, widths=self._widths, routes=routes)

    @cached_property
    def key(self) -> Key:
        """Their width and number."""
        return int(self._index.d), int(self._index.ntotal)

    @property
    def size_bytes(self) -> int:
        """Bytes of the centres, of learned routes, and of what queries are compared with."""
        width, num = self.key
        return 4 * width * num * (1 + self.learned) + self._bytes.size_bytes

    def of_items(self, store_ND: np.ndarray) -> Int64[np.ndarray, " items"]:
        """Return each item's cell."""
        vector_Nr = np.ascontiguousarray(truncate(store_ND, self.key[0], self._widths))
        cell_N: np.ndarray = self._index.search(vector_Nr, 1)[1][:, 0]
        return np.ascontiguousarray(cell_N)

    def nearest(
        self, query_Br: np.ndarray, num: int
    ) -> tuple[Int64[np.ndarray, "batch probes"], Float[np.ndarray, "batch probes"]]:
        """Return each query's cells, at most as many as there are, best first, and its products with their `routes`.

        Args:
            query_Br: of the routing width.
            num: how many.
        """
        code_Cr, scale_r = self._bytes.code_ND, self._bytes.scale_D
        assert scale_r is not None, "bytes have scales"
        cell_BP = np.empty((len(query_Br), min(num, len(code_Cr))), dtype=np.int64)
        score_BP = np.empty(cell_BP.shape, dtype=np.float32)
        nearest_centres(query_Br, scale_r, code_Cr, cell_BP, score_BP)
        return cell_BP, score_BP

    @property
    def routes(self) -> Float[np.ndarray, "cells routing"]:
        """The routes as queries see them: what their bytes stand for."""
        return decoded(self._bytes, slice(None))

    def save(self, folder: Path) -> None:
        """Write them."""
        indexes = [self._index, self._routes] if self.learned else [self._index]
        for index, name in zip(indexes, file_names(self.key, learned=self.learned), strict=True):
            write_index(index, folder / name)


def file_names(key: Key, *, learned: bool) -> list[str]:
    """Return the names of the files that hold cells: their centres, and learned routes."""
    name = f"cells{key[0]}c{key[1]}"
    return [f"{name}.faiss", f"{name}-routes.faiss"] if learned else [f"{name}.faiss"]


def _read(path: Path, key: Key) -> Any:
    index = read_index(path)
    check_index(path, index, kind=faiss.IndexFlatIP, width=key[0], num_items=key[1])
    return index


def cell_means(vector_Nw: np.ndarray, cell_N: np.ndarray, *, num: int) -> Float[np.ndarray, "cells width"]:
    """Return the mean vector of each cell, zero for an empty one."""
    order = np.argsort(cell_N, kind="stable")
    size_C = np.bincount(cell_N, minlength=num)
    mean_Cw = np.zeros((num, vector_Nw.shape[1]), dtype=np.float32)
    start_C = np.cumsum(size_C) - size_C
    filled = size_C > 0
    mean_Cw[filled] = np.add.reduceat(vector_Nw[order], start_C[filled], axis=0) / size_C[filled, None]
    return mean_Cw
