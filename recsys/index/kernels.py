"""Loops over candidates and items, compiled: what neither FAISS nor NumPy does without copying vectors first.

Every kernel is compiled for its own types when this module is imported, and found in numba's cache on disk from the
second import on: never during a request. All run on the calling thread, with the interpreter's lock released. They
are one module since numba's cache notices changes of the file that a kernel is in, and of no other.

Shapes: ``query_BD`` (batch, full width), ``query_D`` one of them, ``code_ND`` (items, full width), ``rows_BC`` (batch,
candidates), ``rows_BK`` and ``rows_K`` answers; ``enter_N`` and ``leave_N`` (items,) or empty. Those of certified
search are described in `recsys.index.engines.certified`; beside them ``edge_L1`` (blocks + 1,) and ``reach_L1``, the
norms of what is left of the query beyond each edge.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from llvmlite import ir
from numba import core, extending, types

Function = TypeVar("Function", bound=Callable[..., Any])

_intrinsic: Callable[[Callable[..., Any]], Callable[..., Any]] = extending.intrinsic
_generated: Any = core.cgutils

# Sums may be reordered, which vector units need; NaN and infinity keep their meaning.
_FAST = {"reassoc", "contract", "nsz"}
_LINE_BYTES = 64
_NUM_AHEAD = 6
"""Candidates whose vectors are asked for before they are needed."""
_UP = 1 + 2.0**-20
"""More than a conversion to float32 and the float64 sum before it can round down."""


def _compiled(*signatures: Any) -> Callable[[Function], Function]:
    """Compile at once for these signatures and no others."""
    return cast("Callable[[Function], Function]", numba.njit(list(signatures), cache=True, nogil=True, fastmath=_FAST))


def _part(function: Function) -> Function:
    """Compile as a part of the kernels that call it."""
    return cast("Function", numba.njit(nogil=True, fastmath=_FAST)(function))


def _array(dtype: Any, ndim: int, *, writable: bool = False) -> Any:
    """Return the type of a C-contiguous array; one that need not be writable may be mapped from a file."""
    return types.Array(dtype, ndim, "C", readonly=not writable)


@_intrinsic
def _number(_typing: Any, code: Any) -> Any:
    """Read a stored coordinate as float32; a half comes as its 16 bits.

    One instruction reads 8 or 16 halves at once where the processor has it, which numba's own types would not use.
    """

    def generate(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        if code == types.uint16:
            return builder.fpext(builder.bitcast(values[0], ir.HalfType()), ir.FloatType())
        return builder.sitofp(values[0], ir.FloatType()) if code == types.int8 else values[0]

    return types.float32(code), generate


@_intrinsic
def _prefetch(_typing: Any, code_ND: Any, row: Any, column: Any) -> Any:
    """Ask for the cache line of ``code_ND[row, column]``."""

    def generate(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        view = _generated.create_struct_proxy(code_ND)(context, builder, values[0])
        place = _generated.get_item_pointer(context, builder, code_ND, view, values[1:], wraparound=False)
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        fetch = _generated.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(fetch, [builder.bitcast(place, byte), word(0), word(3), word(1)])
        return context.get_dummy_value()

    return types.void(code_ND, row, column), generate


@_part
def _inner_product(query_D: Any, code_ND: Any, row: int, start: int, stop: int) -> Any:
    """Return the inner product of a query with the columns from ``start`` to ``stop`` of a row."""
    # Loops from 0 over slices: elsewhere each index might be negative, and checking that would undo vector units.
    weight_w, code_w = query_D[start:stop], code_ND[row, start:stop]
    total = np.float32(0)
    for column in range(stop - start):
        total += weight_w[column] * _number(code_w[column])
    return total


@_part
def _fetch_ahead(code_ND: Any, row: int, start: int, stop: int) -> None:
    """Start loading a row's columns: rows lie anywhere in memory, and the processor cannot guess where."""
    for column in range(start, stop, _LINE_BYTES // code_ND.itemsize):
        _prefetch(code_ND, row, column)


@_part
def _offer(score: Any, row: Any, scores_K: Any, rows_K: Any) -> None:
    """Put an item into a heap whose root is the worst of the k best so far, if it is better than that.

    The better of two is the one with the larger score, of equal scores the lower row.
    """
    if not _better(score, row, scores_K[0], rows_K[0]):
        return
    _sink(score, row, scores_K, rows_K, len(rows_K))


@_part
def _sort_heap(scores_K: Any, rows_K: Any) -> None:
    """Turn the heap into an answer, best first."""
    for last in range(len(rows_K) - 1, 0, -1):
        score, row = scores_K[last], rows_K[last]
        scores_K[last], rows_K[last] = scores_K[0], rows_K[0]
        _sink(score, row, scores_K, rows_K, last)


@_part
def _sink(score: Any, row: Any, scores_K: Any, rows_K: Any, size: int) -> None:
    place = 0
    while 2 * place + 1 < size:
        child = 2 * place + 1
        if child + 1 < size and _better(scores_K[child], rows_K[child], scores_K[child + 1], rows_K[child + 1]):
            child += 1
        if not _better(score, row, scores_K[child], rows_K[child]):
            break
        scores_K[place], rows_K[place] = scores_K[child], rows_K[child]
        place = child
    scores_K[place], rows_K[place] = score, row


@_part
def _better(score: Any, row: Any, other_score: Any, other_row: Any) -> Any:
    return score > other_score or (score == other_score and row < other_row)


_MATRIX, _FLOATS, _WHOLES = _array(types.float32, 2), _array(types.float32, 1), _array(types.int64, 1)
_CANDIDATES = _array(types.int64, 2), _MATRIX
_ANSWERS = _array(types.int64, 2, writable=True), _array(types.float32, 2, writable=True)


def _best_type(code: Any) -> Any:
    whole = types.int64
    return types.void(_MATRIX, _array(code, 2), *_CANDIDATES, whole, whole, _FLOATS, _FLOATS, _FLOATS, *_ANSWERS)


@_compiled(_best_type(types.float32), _best_type(types.uint16), _best_type(types.int8))
def best_candidates(
    query_BD: np.ndarray,
    code_ND: np.ndarray,
    rows_BC: np.ndarray,
    scores_BC: np.ndarray,
    start: int,
    stop: int,
    shrink_B: np.ndarray,
    enter_N: np.ndarray,
    leave_N: np.ndarray,
    rows_BK: np.ndarray,
    scores_BK: np.ndarray,
) -> None:
    """Score candidates on the columns from ``start`` to ``stop`` and write the best of each query into two arrays.

    Args:
        query_BD: queries of the width ``stop``, times the scales of the codes' columns if those have any.
        code_ND: float32, the 16 bits of halves, or bytes.
        rows_BC: candidates; negative ones are none.
        scores_BC: their scores on the columns below ``start``, read if that is positive.
        start: first column to be read.
        stop: width of the score.
        shrink_B: what a known score is multiplied with: the norm of the query below ``start``, or 1.
        enter_N: what it is multiplied with too: the norms of the items below ``start``; none if empty.
        leave_N: what the new score is divided by: the norms of the items below ``stop``; by nothing if empty.
        rows_BK: filled with -1.
        scores_BK: filled with minus infinity.
    """
    num_candidates = rows_BC.shape[1]
    enter_N1, leave_N1 = enter_N.reshape((-1, 1)), leave_N.reshape((-1, 1))
    for query in range(len(rows_BC)):
        for place in range(num_candidates):
            ahead = rows_BC[query, min(place + _NUM_AHEAD, num_candidates - 1)]
            if ahead >= 0:
                _fetch_ahead(code_ND, ahead, start, stop)
                if start > 0 and len(enter_N):
                    _prefetch(enter_N1, ahead, 0)
                if len(leave_N):
                    _prefetch(leave_N1, ahead, 0)
            row = rows_BC[query, place]
            if row < 0:
                continue
            score = _inner_product(query_BD[query], code_ND, row, start, stop)
            if start > 0:
                known = scores_BC[query, place] * shrink_B[query]
                score += known * enter_N[row] if len(enter_N) else known
            if len(leave_N):
                score /= leave_N[row]
            _offer(score, row, scores_BK[query], rows_BK[query])
        _sort_heap(scores_BK[query], rows_BK[query])


@_part
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


@_part
def _screen(along: Any, reach: Any, along_P: Any, tail_TP: Any, start: int, stop: int, bar: Any, left: Any) -> int:
    """Write the places that 8 bytes each do not rule out; return how many they are."""
    count, along_c, tail_c = 0, along_P[start:stop], tail_TP[0, start:stop]
    for offset in range(stop - start):
        left[count] = start + offset
        count += along * along_c[offset] + reach * tail_c[offset] >= bar
    return count


@_part
def _block_product(rest_D: Any, block_X: Any, place: int, start: int, stop: int, num_places: int) -> Any:
    base = num_places * start + place * (stop - start)
    weight_w, block_w = rest_D[start:stop], block_X[base : base + stop - start]
    total = np.float32(0)
    for column in range(stop - start):
        total += weight_w[column] * block_w[column]
    return total


@_part
def _holds(sorted_rows: Any, row: int) -> Any:
    place = np.searchsorted(sorted_rows, row)
    return place < len(sorted_rows) and sorted_rows[place] == row


@_compiled(
    types.int64(
        *(_MATRIX, _MATRIX, _WHOLES, _MATRIX, _WHOLES, _WHOLES, _FLOATS, _MATRIX, _FLOATS, _WHOLES, types.float64),
        *_ANSWERS,
    )
)
def search_certified(
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
            along_C[cell] = _inner_product(query_D, center_CD, cell, 0, full)
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
                    _offer(_inner_product(query_D, store_ND, row, 0, full), row, scores_K, rows_K)
        _sort_heap(scores_K, rows_K)
    return num_read
