"""Routes: what queries are compared with to find the cells of their best items, learned from queries.

Cells are made of items, and their centres say where items are, not who asks for them: the vectors of users lie
elsewhere. So each cell gets a vector of its own, whose product with a query says how much of the best it holds: softmax
regression that starts from the centres, as in Vecchiato, Lucchese, Nardini and Bruch, "A Learning-to-Rank Formulation
of Clustering-Based Approximate Nearest Neighbor Search" (SIGIR 2024, arXiv 2404.11731), with the shares of all of the
best `BEST` items for what they do with the best one. It takes a second, and some hundred queries are enough.

Shapes: ``query_QU`` (queries, query size), ``query_Qr`` (queries, routing width), ``rows_QK`` (queries, best items),
``cell_N`` (items,), ``centre_Cr`` (cells, routing width).
"""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np
import torch
from jaxtyping import Float, Int64

from recsys.index.checks import check_queries, checked_query_at
from recsys.widths import WidthLadder

BEST = 100
"""Best items of each query that routes should lead to; fewer in a catalogue that has fewer."""
MIN_LEARNED_FROM = 256
"""Fewer are not learned from."""
MAX_LEARNED_FROM = 4096
"""More are not looked at: twice as many halve none of what is still missed."""
_STEPS, _BATCH = 150, 512
_RATE = 0.05
_TEMPERATURE = 0.05
"""Products are divided by it before the softmax. By hand, on 40,981 items of a trained model in 512 cells of 128
dimensions: 64 cells hold .9908 of the best 100 by centres, .9954 by routes learned from 300 queries, .9967 from 1,000
and .9973 from 8,192; rates of .02 to .2 and temperatures of .05 to .1 differ by .001."""


@dataclass(frozen=True)
class Lessons:
    """Queries and where their best items are.

    Args:
        query_QU: unit queries.
        rows_QK: their best items at full width.
    """

    query_QU: Float[np.ndarray, "queries query"]
    rows_QK: Int64[np.ndarray, "queries best"]

    @classmethod
    def find(
        cls, store_ND: Float[np.ndarray, "items full"], query_QU: np.ndarray, *, widths: WidthLadder
    ) -> Lessons | None:
        """Search exactly for the first `MAX_LEARNED_FROM`; None where there are fewer than `MIN_LEARNED_FROM`.

        Raises:
            WidthError: the queries are not what a search takes.
        """
        check_queries(query_QU, widths)
        if len(query_QU) < MIN_LEARNED_FROM:
            return None
        query_QU = query_QU[:MAX_LEARNED_FROM]
        query_QD = checked_query_at(query_QU, widths.full, widths)
        _, rows_QK = faiss.knn(query_QD, store_ND, min(BEST, len(store_ND)), metric=faiss.METRIC_INNER_PRODUCT)
        return cls(query_QU, rows_QK)


def learn_routes(
    query_Qr: Float[np.ndarray, "queries routing"],
    rows_QK: Int64[np.ndarray, "queries best"],
    cell_N: Int64[np.ndarray, " items"],
    centre_Cr: Float[np.ndarray, "cells routing"],
    *,
    seed: int,
) -> Float[np.ndarray, "cells routing"]:
    """Return a vector per cell: the larger its product with a query, the more of that query's best items are in it.

    Args:
        query_Qr: queries at the routing width.
        rows_QK: the best items of each.
        cell_N: the cell of each item.
        centre_Cr: what to start from.
        seed: of the order of the queries.
    """
    cell_QK = torch.from_numpy(cell_N[rows_QK])
    query = torch.from_numpy(query_Qr)
    route = torch.nn.Parameter(torch.from_numpy(centre_Cr / np.float32(_TEMPERATURE)))
    optimizer = torch.optim.Adam([route], lr=_RATE)
    fading = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1 / _STEPS, total_iters=_STEPS)
    random = torch.Generator().manual_seed(seed)
    for _ in range(_STEPS):
        some = torch.randint(len(query), (_BATCH,), generator=random)
        log_share_BC = torch.log_softmax(query[some] @ route.T, dim=1)
        loss = -log_share_BC.gather(1, cell_QK[some]).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        fading.step()
    learned: np.ndarray = _TEMPERATURE * route.detach().numpy()
    return learned
