"""The compiled search of `recsys.index.engines.certified`, whose description says what is bounded by what.

Shapes: as there; ``edge_L1`` (blocks + 1,), ``reach_L1`` norms of what is left of the query beyond each edge.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from recsys.index.compiled import array, compiled, inner_product, offer, part, sort_heap

_UP = 1 + 2.0**-20
"""More than a conversion to float32 and the float64 sum before it can round down."""

_MATRIX, _FLOATS, _WHOLES = array(types.float32, 2), array(types.float32, 1), array(types.int64, 1)
_ANSWERS = array(types.int64, 2, writable=True), array(types.float32, 2, writable=True)


@part
def _turn(query_D: Any, center_CD: Any, cell: int, along: Any, edge_L1: Any, rest_D: Any, reach_L1: Any) -> None:
    """Write what of the query is not along a centre, and its norms beyond each edge."""
    full = len(query_D)
    for column in range(full):
        rest_D[column] = query_D[column] - along * center_CD[cell, column]
    square, high = 0.0, full
    for level in range(len(edge_L1) - 1, -1, -1):
        for column in range(edge_L1[level], high):
            square += float(rest_D[column]) * float(rest_D[column])
        high = edge_L1[level]
        reach_L1[level] = np.float32(np.sqrt(square) * _UP)


@part
def _screen(along: Any, reach: Any, along_P: Any, tail_TP: Any, start: int, stop: int, bar: Any, left: Any) -> int:
    """Write the places that 8 bytes each do not rule out; return how many they are."""
    count = 0
    for place in range(start, stop):
        left[count] = place
        count += along * along_P[place] + reach * tail_TP[0, place] >= bar
    return count


@part
def _block_product(rest_D: Any, block_X: Any, place: int, start: int, stop: int, num_places: int) -> Any:
    base = num_places * start + place * (stop - start)
    total = np.float32(0)
    for column in range(stop - start):
        total += rest_D[start + column] * block_X[base + column]
    return total


@part
def _holds(sorted_rows: Any, row: int) -> bool:
    place = np.searchsorted(sorted_rows, row)
    return place < len(sorted_rows) and sorted_rows[place] == row


@compiled(
    types.int64(
        *(_MATRIX, _MATRIX, _WHOLES, _MATRIX, _WHOLES, _WHOLES, _FLOATS, _MATRIX, _FLOATS, _WHOLES, types.float64),
        *_ANSWERS,
    )
)
def search(
    query_BD: np.ndarray,
    store_ND: np.ndarray,
    edge_L1: np.ndarray,
    center_CD: np.ndarray,
    start_C1: np.ndarray,
    row_P: np.ndarray,
    along_P: np.ndarray,
    tail_TP: np.ndarray,
    block_X: np.ndarray,
    excluded: np.ndarray,
    slack: float,
    rows_BK: np.ndarray,
    scores_BK: np.ndarray,
) -> int:
    """Write the exact best items of each query into two arrays; return how many numbers were read.

    Args:
        query_BD: unit queries.
        store_ND: unit items.
        edge_L1: from 0 to the widest width of which there is a block.
        center_CD: unit directions of cells, or zeros.
        start_C1: first place of each cell.
        row_P: the item at each place.
        along_P: inner products of items with their cell's direction.
        tail_TP: norms of the rest beyond each edge, rounded up.
        block_X: the rest's columns between neighbouring edges, block by block.
        excluded: sorted rows that may not be found.
        slack: how far below the k-th best score a bound must lie.
        rows_BK: filled with -1.
        scores_BK: filled with minus infinity.
    """
    num_cells, num_places, full = len(center_CD), len(row_P), query_BD.shape[1]
    along_C = np.empty(num_cells, dtype=np.float32)
    rest_D = np.empty(full, dtype=np.float32)
    reach_L1 = np.empty(len(edge_L1), dtype=np.float32)
    left = np.empty(np.diff(start_C1).max() + 1, dtype=np.int64)
    num_read = 0
    for query in range(len(query_BD)):
        query_D, rows_K, scores_K = query_BD[query], rows_BK[query], scores_BK[query]
        for cell in range(num_cells):
            along_C[cell] = inner_product(query_D, center_CD, cell, 0, full)
        num_read += num_cells * full + 2 * num_places
        for cell in np.argsort(-along_C):
            along, start, stop = along_C[cell], start_C1[cell], start_C1[cell + 1]
            _turn(query_D, center_CD, cell, along, edge_L1, rest_D, reach_L1)
            count = _screen(along, reach_L1[0], along_P, tail_TP, start, stop, scores_K[0] - slack, left)
            for turn in range(count):
                place = left[turn]
                score, level = along * along_P[place], 0
                while (
                    level + 1 < len(edge_L1) and score + reach_L1[level] * tail_TP[level, place] >= scores_K[0] - slack
                ):
                    score += _block_product(rest_D, block_X, place, edge_L1[level], edge_L1[level + 1], num_places)
                    num_read += edge_L1[level + 1] - edge_L1[level] + 1
                    level += 1
                if score + reach_L1[level] * tail_TP[level, place] < scores_K[0] - slack:
                    continue
                row = row_P[place]
                if not _holds(excluded, row):
                    num_read += full
                    offer(inner_product(query_D, store_ND, row, 0, full), row, scores_K, rows_K)
        sort_heap(scores_K, rows_K)
    return num_read
