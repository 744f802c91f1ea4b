"""Cells that are learned from queries: who asks for an item says where it is looked for.

Cells are made of items, and their centres say where items are, not who asks for them: the vectors of users lie
elsewhere. So each cell gets a vector of its own, its route, whose product with a query says how much of the best it
holds: softmax regression that starts from the centres, as in Vecchiato, Lucchese, Nardini and Bruch, "A
Learning-to-Rank Formulation of Clustering-Based Approximate Nearest Neighbor Search" (SIGIR 2024, arXiv 2404.11731),
with all of a query's `BEST` items, the better the heavier, for what they do with the best one.

Then items that were asked for move to the cells where those who ask look first, if these are near enough: partition and
router are learned in turns, as in Gupta, Medini, Shrivastava and Smola, "BLISS: A Billion scale Index using Iterative
Re-partitioning" (KDD 2022), but with a price on the distance from a cell's mean, which keeps codes of differences short
and places what few ask for.

An item that many ask for is looked for by users of many kinds, and no one cell lies in the way of all. Such items are
what users often choose, so they go into a second cell too, as in "SOAR" (Sun, Simcha, Dopson, Guo and Kumar, NeurIPS
2023), where all items do, by distances alone.

Shapes: ``query_QU`` (queries, query size), ``query_Qr`` (queries, routing width), ``rows_QK`` (queries, best items),
``vector_Nr`` (items, routing width), ``cell_N`` (items,), ``route_Cr`` (cells, routing width).
"""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np
import torch
from jaxtyping import Float, Int64

from recsys.index.assignment import Assignment
from recsys.index.checks import check_queries, checked_query_at
from recsys.index.kernels import add_rows
from recsys.index.rerank import Rescorer
from recsys.index.store import make_store, pages, prefixes
from recsys.widths import WidthLadder

BEST = 100
"""Best items of each query that are learned from; all in a catalogue that has fewer."""
MIN_LEARNED_FROM = 512
"""Fewer are not learned from."""
MAX_LEARNED_FROM = 1 << 15
"""More are not looked at."""
_MAX_SCORES = 3 << 33
"""Nor more than are this many products with items, as long as that leaves `_MANY_QUERIES`."""
_MAX_EXACT_SCORES = 3 << 31
"""Where there are more, they are first of fewer dimensions: of 64 instead of 256 all take a minute of a core."""
_MANY_QUERIES = 1024
_LATER = 100
"""Ranks after which an item weighs half of what the best does."""
_STEPS, _BATCH, _RATE = 150, 512, 0.02
_TEMPERATURE = 0.05
"""Products of unit vectors are divided by it before the softmax."""
_ROUNDS = 2
_DISTANCE = 1000.0
"""What a squared distance from a cell's mean weighs, beside the logarithm of a share for each time that an item was
asked for. From 300 to 1,200 all is much the same; with 50 the cells' sizes drift apart."""
_PAGE = 1 << 14
"""Items that move at a time."""
_OFTEN = 0.03
"""An item that is among the best of such a share of queries gets a second cell."""
_REACHED = 8
"""Cells that a query is taken to look into, where such a cell is chosen."""


def num_learned_from(num_queries: int, *, num_items: int) -> int:
    """Return how many of some queries are looked at, 0 where they are too few."""
    if num_queries < MIN_LEARNED_FROM:
        return 0
    return min(num_queries, MAX_LEARNED_FROM, max(_MANY_QUERIES, _MAX_SCORES // num_items))


@dataclass(frozen=True)
class Lessons:
    """Queries and their best items.

    Args:
        query_QU: unit queries.
        rows_QK: the best items of each, best first.
    """

    query_QU: Float[np.ndarray, "queries query"]
    rows_QK: Int64[np.ndarray, "queries best"]

    @classmethod
    def find(
        cls, store_ND: Float[np.ndarray, "items full"], query_QU: np.ndarray, *, widths: WidthLadder
    ) -> Lessons | None:
        """Search for the best items of as many of the queries as are learned from; None where there are none.

        Where all of that would take long, a quarter of the dimensions, or the next width above, says what to score at
        full width: twice as many as are looked for. That misses some of the best, and leaves time for four
        times as many queries, from which more is learned.

        Raises:
            WidthError: the queries are not what a search takes.
        """
        check_queries(query_QU, widths)
        num = num_learned_from(len(query_QU), num_items=len(store_ND))
        if not num:
            return None
        query_QU, best = query_QU[:num], min(BEST, len(store_ND))
        width = widths.full
        if num * len(store_ND) > _MAX_EXACT_SCORES:
            width = next(width for width in widths if 4 * width >= widths.full)
        vector_Nw, query_Qw = prefixes(store_ND, width, widths), checked_query_at(query_QU, width, widths)
        shortlist = best if width == widths.full else min(2 * best, len(store_ND))
        score_QC, rows_QC = faiss.knn(query_Qw, vector_Nw, shortlist, metric=faiss.METRIC_INNER_PRODUCT)
        if width == widths.full:
            return cls(query_QU, rows_QC)
        rescorer = Rescorer(make_store(store_ND, "float32", norm_of={}), widths=widths)
        rows_QK, _ = rescorer.best(query_QU, rows_QC, score_QC, known=0, width=widths.full, num=best)
        return cls(query_QU, rows_QK)


def learn_cells(
    query_Qr: Float[np.ndarray, "queries routing"],
    rows_QK: Int64[np.ndarray, "queries best"],
    vector_Nr: Float[np.ndarray, "items routing"],
    cell_N: Int64[np.ndarray, " items"],
    centre_Cr: Float[np.ndarray, "cells routing"],
    *,
    seed: int,
) -> tuple[Float[np.ndarray, "cells routing"], Assignment]:
    """Return each cell's route and each item's cells.

    By hand, 40,981 items of a trained model in 256 cells of 128 dimensions: the 16 nearest hold .962 of the best 100 by
    centres, and .992 where routes are learned from 24,738 users and items have moved too. They hold a third more
    items then; the nearest that hold as many have .974 by centres.

    Args:
        query_Qr: queries at the routing width.
        rows_QK: the best items of each, best first.
        vector_Nr: items.
        cell_N: the cell of each to start from.
        centre_Cr: routes to start from.
        seed: of the order of the queries.
    """
    best = rows_QK.shape[1]
    weight_K = (1 / (np.arange(best) + _LATER)).astype(np.float32)
    weight_K *= best / weight_K.sum()
    asked = _Asked.sort(rows_QK, weight_K)
    random = torch.Generator().manual_seed(seed)
    route_Cr = _learn_routes(query_Qr, cell_N[rows_QK], weight_K, centre_Cr / np.float32(_TEMPERATURE), random)
    for _ in range(_ROUNDS):
        cell_N = _moved(asked, _log_shares(query_Qr, route_Cr), vector_Nr, cell_N)
        route_Cr = _learn_routes(query_Qr, cell_N[rows_QK], weight_K, route_Cr, random)
    return route_Cr, _with_second(asked, _log_shares(query_Qr, route_Cr), cell_N)


def _learn_routes(
    query_Qr: np.ndarray, cell_QK: np.ndarray, weight_K: np.ndarray, route_Cr: np.ndarray, random: torch.Generator
) -> np.ndarray:
    """Fit routes to where the best items of queries are, by gradients with a fading rate."""
    query, cell, weight = torch.from_numpy(query_Qr), torch.from_numpy(cell_QK), torch.from_numpy(weight_K)
    route = torch.nn.Parameter(torch.from_numpy(route_Cr.copy()))
    optimizer = torch.optim.Adam([route], lr=_RATE)
    fading = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1 / _STEPS, total_iters=_STEPS)
    for _ in range(_STEPS):
        some = torch.randint(len(query), (_BATCH,), generator=random)
        log_share_BC = torch.log_softmax(query[some] @ route.T, dim=1)
        loss = -(log_share_BC.gather(1, cell[some]) * weight).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        fading.step()
    learned: np.ndarray = route.detach().numpy()
    return learned


def _log_shares(query_Qr: np.ndarray, route_Cr: np.ndarray) -> np.ndarray:
    """Return the logarithm of the share of its best items that each query looks for in each cell."""
    logits = torch.from_numpy(query_Qr) @ torch.from_numpy(route_Cr).T
    shares: np.ndarray = torch.log_softmax(logits, dim=1).numpy()
    return shares


@dataclass(frozen=True)
class _Asked:
    """Who asked for which item, by item.

    Args:
        item_M: items that were asked for, ascending.
        end_M: 0, and where each one's askers end, in the two below.
        query_A: the queries.
        weight_A: what each counts.
    """

    item_M: np.ndarray
    end_M: np.ndarray
    query_A: np.ndarray
    weight_A: np.ndarray

    @classmethod
    def sort(cls, rows_QK: np.ndarray, weight_K: np.ndarray) -> _Asked:
        """Turn best items by query around."""
        order = np.argsort(rows_QK, axis=None, kind="stable")
        item_M, num_M = np.unique(rows_QK, return_counts=True)
        query_A, place_A = np.divmod(order, rows_QK.shape[1])
        return cls(item_M, np.concatenate([[0], num_M.cumsum()]), query_A, weight_K[place_A])


def _moved(asked: _Asked, log_share_QC: np.ndarray, vector_Nr: np.ndarray, cell_N: np.ndarray) -> np.ndarray:
    """Return the cells with each item that was asked for where those who ask look first, at the price of distance."""
    mean_Cr = cell_means(vector_Nr, cell_N, num=log_share_QC.shape[1])
    square_C = np.einsum("cr,cr->c", mean_Cr, mean_Cr)
    moved_N = cell_N.copy()
    for first in range(0, len(asked.item_M), _PAGE):
        items = asked.item_M[first : first + _PAGE]
        score_MC = np.float32(_DISTANCE) * (2 * vector_Nr[items] @ mean_Cr.T - square_C)
        add_rows(log_share_QC, asked.end_M[first : first + _PAGE + 1], asked.query_A, asked.weight_A, score_MC)
        moved_N[items] = score_MC.argmax(axis=1)
    return moved_N


def _with_second(asked: _Asked, log_share_QC: np.ndarray, cell_N: np.ndarray) -> Assignment:
    """Give items that many ask for the second cell that reaches most of those whom the first does not."""
    num_queries, num_cells = log_share_QC.shape
    reached = torch.topk(torch.from_numpy(log_share_QC), min(_REACHED, num_cells), dim=1).indices.numpy()
    twice, cells = [], []
    for place in np.flatnonzero(np.diff(asked.end_M) >= _OFTEN * num_queries).tolist():
        item = int(asked.item_M[place])
        reached_AP = reached[asked.query_A[asked.end_M[place] : asked.end_M[place + 1]]]
        missed_AP = reached_AP[(reached_AP != cell_N[item]).all(axis=1)]
        if len(missed_AP):
            twice.append(item)
            cells.append(int(np.bincount(missed_AP.ravel()).argmax()))
    return Assignment(cell_N, np.array(twice, dtype=np.int64), np.array(cells, dtype=np.int64))


def cell_means(
    vector_Nw: Float[np.ndarray, "items width"], cell_N: Int64[np.ndarray, " items"], *, num: int
) -> Float[np.ndarray, "cells width"]:
    """Return the mean vector of each cell, zero for an empty one."""
    sum_Cw = np.zeros((num, vector_Nw.shape[1]), dtype=np.float32)
    for page in pages(len(vector_Nw)):
        order = np.argsort(cell_N[page], kind="stable")
        cell_P = cell_N[page][order]
        firsts = np.flatnonzero(np.diff(cell_P, prepend=-1))
        sum_Cw[cell_P[firsts]] += np.add.reduceat(vector_Nw[page][order], firsts, axis=0)
    size_C = np.bincount(cell_N, minlength=num)
    return sum_Cw / np.maximum(size_C, 1).astype(np.float32)[:, None]
