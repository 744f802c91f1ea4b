"""What comes before a scan of cells: the query at the scan's width, its nearest cells, what scores in these start from.

Shapes: ``query_BU`` (batch, query size), ``query_Bw`` (batch, scan's width), ``cell_BP`` and ``score_BP`` (batch,
probes), ``base_Cw`` (cells, scan's width), ``order_w`` (scan's width,).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from jaxtyping import Float, Int32, Int64

from recsys.index.cells import Cells
from recsys.index.kernels import route
from recsys.index.store import Store, make_store
from recsys.widths import WidthLadder, query_at

_NO_BASES = Store(code_ND=np.empty((0, 0), dtype=np.int8), scale_D=np.empty(0, dtype=np.float32))


class Router:
    """Leads queries to cells, for scans of one width.

    Args:
        cells: at their routing width.
        width: of the scan.
        widths: the trained widths.
        order_w: the order of columns that the scan expects; None for their own.
        base_Cw: vectors, in that order, whose products with queries are what scores in the cells start from; None where
            nothing starts from them.
    """

    def __init__(
        self,
        cells: Cells,
        *,
        width: int,
        widths: WidthLadder,
        order_w: Int32[np.ndarray, " width"] | None = None,
        base_Cw: Float[np.ndarray, "cells width"] | None = None,
    ) -> None:
        self._cells = cells
        self._width = width
        self._widths = widths
        self._bases = _NO_BASES if base_Cw is None else make_store(base_Cw, "sq8", norm_of={})
        routes, bases = cells.encoded, self._bases
        assert routes.scale_D is not None, "bytes have scales"
        assert bases.scale_D is not None, "bytes have scales"
        per_width = widths.head == "per_width"
        start_r, start_w = (
            widths.query_blocks[widths.index(each)].start if per_width else 0 for each in (cells.key[0], width)
        )
        self._route: Callable[..., bool] = partial(
            route,
            start_r,
            start_w,
            not per_width and widths.norm == "prefix",
            routes.scale_D,
            routes.code_ND,
            bases.scale_D,
            bases.code_ND,
            np.arange(width, dtype=np.int32) if order_w is None else order_w,
        )

    @property
    def size_bytes(self) -> int:
        """Bytes of the cells, and of the bases."""
        return self._cells.size_bytes + self._bases.size_bytes

    def route(
        self, query_BU: np.ndarray, num: int
    ) -> tuple[Float[np.ndarray, "batch width"], Int64[np.ndarray, "batch probes"], Float[np.ndarray, "batch probes"]]:
        """Return what to scan with, cells, at most as many as there are, nearest first, and products with their bases.

        Products are those with the cells' routes where there are no bases.

        Args:
            query_BU: unit queries that were checked.
            num: how many cells.

        Raises:
            WidthError: a part of a query that is to be scaled is all zeros.
        """
        cell_BP = np.empty((len(query_BU), min(num, self._cells.key[1])), dtype=np.int64)
        score_BP = np.empty(cell_BP.shape, dtype=np.float32)
        query_Bw = np.empty((len(query_BU), self._width), dtype=np.float32)
        if not self._route(np.ascontiguousarray(query_BU), query_Bw, cell_BP, score_BP):
            for width in (self._cells.key[0], self._width):
                query_at(query_BU, width, self._widths)
            raise AssertionError("a prefix of zeros was not refused")
        return query_Bw, cell_BP, score_BP
