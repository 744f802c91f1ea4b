"""Loops over candidates and items, compiled: what neither FAISS nor NumPy does without copying vectors first.

Every kernel is compiled for its own types when this module is imported, and found in numba's cache on disk from the
second import on: never during a request. All run on the calling thread, with the interpreter's lock released, but for
those of a few microseconds: whoever lets it go waits for it again while others compute. They are one module since
numba's cache notices changes of the file that a kernel is in, and of no other.

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
_LANES, _FEW_LANES = 32, 8
"""Whole numbers that are multiplied at once: as many as vector units hold, and of what is left over."""
_PAGE = 256
_LEAST = np.int32(-(2**31))
_LARGEST_WEIGHT, _LARGEST_SUM = 2**15 - 1, (2**31 - 1) // 127
"""Of whole numbers that bytes are multiplied with, each, and all together: their sum stays within 32 bits."""
_NO_KEY, _LOW_BITS = np.int64(2**63 - 1), np.int64(2**32 - 1)
_SCATTER = np.int64(0x9E3779B1)
"""A multiplier that spreads rows over a table."""
_SEEDS = 2
"""Items, for each that is to be found, whose full scores set a certified search's bar."""


def _compiled(*signatures: Any, short: bool = False) -> Callable[[Function], Function]:
    """Compile at once for these signatures and no others; what is short keeps the interpreter's lock."""
    compiled = numba.njit(list(signatures), cache=True, nogil=not short, fastmath=_FAST)
    return cast("Callable[[Function], Function]", compiled)


def _part(function: Function) -> Function:
    """Compile as a part of the kernels that call it."""
    return cast("Function", numba.njit(nogil=True, fastmath=_FAST, forceinline=True)(function))


def _array(dtype: Any, ndim: int, *, writable: bool = False) -> Any:
    """Return the type of a C-contiguous array; one that need not be writable may be mapped from a file."""
    return types.Array(dtype, ndim, "C", readonly=not writable)


# What reads rows takes the array and the row: a slice of an array counts as one who uses it, and counting is done in
# memory that all threads may change, for more time than a short row takes to read.
@_intrinsic
def _number(_typing: Any, code_ND: Any, row: Any, column: Any) -> Any:
    """Read a stored coordinate, whose row and column are not negative, as float32; a half comes as its 16 bits.

    One instruction reads 8 or 16 halves at once where the processor has it, which numba's own types would not use.
    """

    def generate(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        stored = builder.load(_place_of(context, builder, code_ND, values))
        if code_ND.dtype == types.uint16:
            return builder.fpext(builder.bitcast(stored, ir.HalfType()), ir.FloatType())
        return builder.sitofp(stored, ir.FloatType()) if code_ND.dtype == types.int8 else stored

    return types.float32(code_ND, row, column), generate


def _place_of(context: Any, builder: Any, code_ND: Any, values: Any) -> Any:
    """Return where an array, whose type is given, has the coordinate of a row and a column."""
    view = _generated.create_struct_proxy(code_ND)(context, builder, values[0])
    return _generated.get_item_pointer(context, builder, code_ND, view, values[1:], wraparound=False)


@_intrinsic
def _bits_of(_typing: Any, score: Any) -> Any:
    """Return a float32's bits."""
    return types.int32(score), lambda _context, builder, _signature, values: builder.bitcast(values[0], ir.IntType(32))


@_intrinsic
def _float_of(_typing: Any, bits: Any) -> Any:
    """Return the float32 of the last 32 bits."""

    def generate(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        return builder.bitcast(builder.trunc(values[0], ir.IntType(32)), ir.FloatType())

    return types.float32(bits), generate


@_intrinsic
def _prefetch(_typing: Any, code_ND: Any, row: Any, column: Any) -> Any:
    """Ask for the cache line of ``code_ND[row, column]``."""

    def generate(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        place = _place_of(context, builder, code_ND, values)
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        fetch = _generated.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(fetch, [builder.bitcast(place, byte), word(0), word(3), word(1)])
        return context.get_dummy_value()

    return types.void(code_ND, row, column), generate


@_intrinsic
def _code_product(_typing: Any, weight_w: Any, code_Nw: Any, row: Any) -> Any:
    """Return the inner product of 16-bit whole numbers with a row of 8-bit ones, exactly."""

    def generate(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        weights = _generated.create_struct_proxy(weight_w)(context, builder, values[0])
        (length,) = _generated.unpack_tuple(builder, weights.shape, 1)
        codes = _place_of(context, builder, code_Nw, [*values[1:], length.type(0)])
        total = _generated.alloca_once_value(builder, ir.IntType(32)(0))
        place = _add_products(builder, weights.data, codes, length.type(0), length, lanes=_LANES, total=total)
        with builder.if_then(builder.icmp_signed("<", place, length), likely=False):
            place = _add_products(builder, weights.data, codes, place, length, lanes=_FEW_LANES, total=total)
            _add_products(builder, weights.data, codes, place, length, lanes=1, total=total)
        return builder.load(total)

    return types.int32(weight_w, code_Nw, row), generate


def _add_products(builder: Any, weights: Any, codes: Any, start: Any, stop: Any, *, lanes: int, total: Any) -> Any:
    """Add products of numbers from ``start`` on, so many at a time; return where fewer are left before ``stop``.

    Neighbours are added first: processors have an instruction for just that, which loops of numba's use at a quarter of
    its width. Measured on one with AVX-512: half the time for rows of 128.
    """
    word = ir.IntType(32)
    wide, half = ir.VectorType(word, lanes), ir.VectorType(word, max(1, lanes // 2))
    sums = _generated.alloca_once_value(builder, ir.Constant(half, None))
    builder.store(ir.Constant(half, None), sums)
    num = builder.sdiv(builder.sub(stop, start), start.type(lanes))
    with _generated.for_range(builder, num) as block:
        place = builder.add(start, builder.mul(block.index, start.type(lanes)))
        products = builder.mul(*(_lanes_at(builder, data, place, wide) for data in (weights, codes)))
        if lanes > 1:
            products = builder.add(*(_every_other(builder, products, first) for first in (0, 1)))
        builder.store(builder.add(builder.load(sums), products), sums)
    name = f"llvm.vector.reduce.add.v{half.count}i32"
    add_up = _generated.get_or_insert_function(builder.module, ir.FunctionType(word, [half]), name)
    builder.store(builder.add(builder.load(total), builder.call(add_up, [builder.load(sums)])), total)
    return builder.add(start, builder.mul(num, start.type(lanes)))


def _lanes_at(builder: Any, data: Any, place: Any, wide: Any) -> Any:
    """Load neighbouring numbers, which may lie anywhere, and widen them."""
    narrow = ir.VectorType(data.type.pointee, wide.count).as_pointer()
    loaded = builder.load(builder.bitcast(builder.gep(data, [place]), narrow))
    loaded.align = 1
    return builder.sext(loaded, wide)


def _every_other(builder: Any, vector: Any, first: int) -> Any:
    lanes = vector.type.count
    chosen = ir.Constant(ir.VectorType(ir.IntType(32), lanes // 2), list(range(first, lanes, 2)))
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), chosen)


@_part
def _inner_product(query_D: Any, code_ND: Any, row: int, start: int, stop: int) -> Any:
    """Return the inner product of a query with the columns from ``start`` to ``stop`` of a row."""
    # From 0 over a slice: elsewhere each index might be negative, and checking that would undo vector units.
    weight_w, total = query_D[start:stop], np.float32(0)
    for column in range(stop - start):
        total += weight_w[column] * _number(code_ND, row, start + column)
    return total


@_part
def _as_whole(query_r: Any, scale_r: Any, weight_r: Any) -> Any:
    """Write a query's weights of bytes as whole numbers, the largest of which leaves room for the sum of products.

    Returns what they were multiplied with.
    """
    largest = np.float32(0)
    for column in range(len(query_r)):
        largest = max(largest, abs(query_r[column] * scale_r[column]))
    most = np.float32(min(_LARGEST_WEIGHT, _LARGEST_SUM // len(query_r)))
    factor = most / largest if largest > 0 else np.float32(1)
    for column in range(len(query_r)):
        weight_r[column] = np.rint(query_r[column] * scale_r[column] * factor)
    return factor


@_part
def _products(
    query_D: Any, code_ND: Any, rows_C: Any, start: int, stop: int, enter_N: Any, leave_N: Any, score_C: Any
) -> None:
    """Write a query's inner products with the columns from ``start`` to ``stop`` of rows; of row 0 for negative ones.

    Two at a time, so that more of memory is asked for at once. What `write_keys` reads of the items afterwards is
    asked for too.
    """
    num, weight_w = len(rows_C), query_D[start:stop]
    enter_N1, leave_N1 = enter_N.reshape((-1, 1)), leave_N.reshape((-1, 1))
    for place in range(0, num, 2):
        for ahead in range(place + _NUM_AHEAD if place else 0, min(place + _NUM_AHEAD + 2, num)):
            row = max(rows_C[ahead], 0)
            _fetch_ahead(code_ND, row, start, stop)
            if start > 0 and len(enter_N):
                _prefetch(enter_N1, row, 0)
            if len(leave_N):
                _prefetch(leave_N1, row, 0)
        other = min(place + 1, num - 1)
        row, other_row = max(rows_C[place], 0), max(rows_C[other], 0)
        total, other_total = np.float32(0), np.float32(0)
        for column in range(stop - start):
            total += weight_w[column] * _number(code_ND, row, start + column)
            other_total += weight_w[column] * _number(code_ND, other_row, start + column)
        score_C[place], score_C[other] = total, other_total


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


@_part
def _in_order(bits: Any) -> Any:
    """Return whole numbers in the order of the floats whose bits these are; of such numbers, the bits again."""
    return bits ^ ((bits >> 31) & np.int64(2**31 - 1))


@_part
def _key(score: Any, row: Any) -> Any:
    """Return a whole number, the smaller the larger the score is, and of equal scores the lower the row.

    So many candidates are put in order by a sort of whole numbers, for which vector units have instructions: a heap of
    100 took half of what 200 candidates cost.
    """
    bits = np.int64(_bits_of(score)) if score != 0 else np.int64(0)  # minus zero is no less than zero
    return (~_in_order(bits) << 32) | row


_MATRIX, _FLOATS, _WHOLES = _array(types.float32, 2), _array(types.float32, 1), _array(types.int64, 1)
_CANDIDATES = _array(types.int64, 2), _MATRIX
_ANSWERS = _array(types.int64, 2, writable=True), _array(types.float32, 2, writable=True)
_KEYS = _array(types.int64, 2, writable=True)


def _key_type(code: Any) -> Any:
    whole = types.int64
    return types.void(_MATRIX, _FLOATS, _array(code, 2), *_CANDIDATES, whole, whole, *(_FLOATS,) * 3, _KEYS)


@_compiled(_key_type(types.float32), _key_type(types.uint16), _key_type(types.int8))
def write_keys(
    query_BD: np.ndarray,
    scale_D: np.ndarray,
    code_ND: np.ndarray,
    rows_BC: np.ndarray,
    scores_BC: np.ndarray,
    start: int,
    stop: int,
    shrink_B: np.ndarray,
    enter_N: np.ndarray,
    leave_N: np.ndarray,
    key_BC: np.ndarray,
) -> None:
    """Score candidates on the columns from ``start`` to ``stop`` and write keys of which the better are the smaller.

    Args:
        query_BD: queries of at least the width ``stop``.
        scale_D: what a step of each column's codes is worth; empty where codes stand for themselves.
        code_ND: float32, the 16 bits of halves, or bytes; of at most 2**32 items.
        rows_BC: candidates; negative ones are none.
        scores_BC: their scores on the columns below ``start``, read if that is positive.
        start: first column to be read.
        stop: width of the score.
        shrink_B: what a known score is multiplied with: the norm of the query below ``start``; nothing if empty.
        enter_N: what it is multiplied with too: the norms of the items below ``start``; none if empty.
        leave_N: what the new score is divided by: the norms of the items below ``stop``; by nothing if empty.
        key_BC: to be filled, for `read_keys`.
    """
    score_C, weight_D = np.empty(rows_BC.shape[1], dtype=np.float32), np.empty(stop, dtype=np.float32)
    for query in range(len(rows_BC)):
        for column in range(stop):
            scale = scale_D[column] if len(scale_D) else np.float32(1)
            weight_D[column] = query_BD[query, column] * scale
        _products(weight_D, code_ND, rows_BC[query], start, stop, enter_N, leave_N, score_C)
        for place in range(len(score_C)):
            row, score = rows_BC[query, place], score_C[place]
            if row >= 0 and start > 0:
                known = scores_BC[query, place] * shrink_B[query] if len(shrink_B) else scores_BC[query, place]
                score += known * enter_N[row] if len(enter_N) else known
            if row >= 0 and len(leave_N):
                score /= leave_N[row]
            key_BC[query, place] = _key(score, row) if row >= 0 and score == score else _NO_KEY


@_compiled(types.void(_array(types.int64, 2), *_ANSWERS), short=True)
def read_keys(key_BK: np.ndarray, rows_BK: np.ndarray, scores_BK: np.ndarray) -> None:
    """Write what the first keys of `write_keys` stand for, as many as fit; -1 and minus infinity for no candidate."""
    for query in range(len(rows_BK)):
        for place in range(rows_BK.shape[1]):
            key = key_BK[query, place]
            none = key == _NO_KEY
            rows_BK[query, place] = -1 if none else key & _LOW_BITS
            scores_BK[query, place] = -np.inf if none else _float_of(_in_order(~(key >> 32)))


@_compiled(types.boolean(*_ANSWERS, types.int64, types.int64), short=True)
def keep_each_once(rows_BC: np.ndarray, scores_BC: np.ndarray, least: int, most: int) -> bool:
    """Move each query's first candidates to the front, without what came before; -1 and minus infinity follow them.

    Says whether more have to be given: some query is left with fewer than ``least`` of as many as could be given.

    Args:
        rows_BC: candidates, best first; negative ones are none.
        scores_BC: their scores.
        least: how many each query needs.
        most: how many it keeps.
    """
    size = 2
    while size < 2 * rows_BC.shape[1]:
        size *= 2
    seen_S = np.empty(size, dtype=np.int64)  # a table with open addresses
    more = False
    for query in range(len(rows_BC)):
        seen_S[:] = -1
        all_given = rows_BC[query, -1] >= 0
        kept = 0
        for place in range(rows_BC.shape[1]):
            row = rows_BC[query, place]
            if row < 0 or kept == most:
                break
            slot = (row * _SCATTER >> 16) & (size - 1)
            while seen_S[slot] != -1 and seen_S[slot] != row:
                slot = (slot + 1) & (size - 1)
            if seen_S[slot] == row:
                continue
            seen_S[slot] = row
            rows_BC[query, kept] = row
            scores_BC[query, kept] = scores_BC[query, place]
            kept += 1
        more |= kept < least and all_given
        rows_BC[query, kept:] = -1
        scores_BC[query, kept:] = -np.inf
    return more


@_part
def _square(vector_w: Any) -> Any:
    total = np.float32(0)
    for column in range(len(vector_w)):
        total += vector_w[column] * vector_w[column]
    return total


@_compiled(types.int64(_MATRIX, types.int64, types.int64, types.float32))
def first_not_unit(vector_BD: np.ndarray, start: int, stop: int, tolerance: float) -> int:
    """Return the first row whose squared norm over some columns is not 1, or not even a number; -1 if there is none."""
    for row in range(len(vector_BD)):
        if not abs(_square(vector_BD[row, start:stop]) - np.float32(1)) < tolerance:
            return row
    return -1


@_part
def _write_unit(vector_w: Any, unit_w: Any) -> Any:
    """Write a vector at unit length; return False where it is all zeros."""
    square = 0.0  # in 64 bits, in which no coordinate is too small to be squared
    for column in range(len(unit_w)):
        square += np.float64(vector_w[column]) * np.float64(vector_w[column])
    if square == 0:
        return False
    factor = 1 / np.sqrt(square)
    for column in range(len(unit_w)):
        unit_w[column] = factor * vector_w[column]
    return True


@_compiled(types.boolean(_MATRIX, _array(types.float32, 2, writable=True)), short=True)
def scale_prefixes(vector_BD: np.ndarray, unit_Bw: np.ndarray) -> bool:
    """Write the rows' prefixes at unit length; return False where one is all zeros."""
    for row in range(len(vector_BD)):  # noqa: SIM110 - numba knows no `all`
        if not _write_unit(vector_BD[row, : unit_Bw.shape[1]], unit_Bw[row]):
            return False
    return True


_BYTES, _SHORTS, _BITS = _array(types.int8, 1), _array(types.int16, 2), _array(types.uint8, 1)


@_compiled(types.void(_MATRIX, _WHOLES, _WHOLES, _FLOATS, _array(types.float32, 2, writable=True)))
def add_rows(
    row_XD: np.ndarray, end_M: np.ndarray, place_A: np.ndarray, weight_A: np.ndarray, sum_MD: np.ndarray
) -> None:
    """Add weighted rows to each sum, those at its places.

    Args:
        row_XD: what is added.
        end_M: one more than there are sums: where the first one's places begin, and where those of each end.
        place_A: places of rows.
        weight_A: what to multiply each with.
        sum_MD: where it is added.
    """
    for m in range(len(sum_MD)):
        for a in range(end_M[m], end_M[m + 1]):
            weight = weight_A[a]
            row = place_A[a]
            for d in range(row_XD.shape[1]):
                sum_MD[m, d] += weight * row_XD[row, d]


@_part
def _write_part(query_U: Any, start: Any, scaled: Any, part_w: Any) -> Any:
    """Write a query at a width: its columns from ``start``, at unit length where they are a part that is scaled."""
    columns_w = query_U[start : start + len(part_w)]
    if scaled and len(part_w) < len(query_U):
        return _write_unit(columns_w, part_w)
    part_w[:] = columns_w
    return True


@_part
def _largest_products(query_r: Any, scale_r: Any, code_Cr: Any, weight_r: Any, cell_P: Any, score_P: Any) -> None:
    """Write the rows of the codes whose products with a query are largest, best first, and these products."""
    factor = _as_whole(query_r, scale_r, weight_r)
    best_P = np.empty(len(cell_P), dtype=np.int32)
    cell_P[:], best_P[:] = -1, _LEAST
    for cell in range(len(code_Cr)):
        _offer(_code_product(weight_r, code_Cr, cell), cell, best_P, cell_P)
    _sort_heap(best_P, cell_P)
    for place in range(len(cell_P)):
        score_P[place] = np.float32(best_P[place]) / factor


_QUERY_PARTS = _array(types.float32, 2, writable=True)
_ENCODED = _FLOATS, _array(types.int8, 2)


@_compiled(
    types.boolean(
        *(types.int64, types.int64, types.boolean),
        *(*_ENCODED, *_ENCODED, _array(types.int32, 1)),
        *(_MATRIX, _QUERY_PARTS, *_ANSWERS),
    )
)
def route(
    start_r: int,
    start_w: int,
    scaled: bool,
    scale_r: np.ndarray,
    code_Cr: np.ndarray,
    scale_w: np.ndarray,
    base_Cw: np.ndarray,
    order_w: np.ndarray,
    query_BU: np.ndarray,
    query_Bw: np.ndarray,
    cell_BP: np.ndarray,
    score_BP: np.ndarray,
) -> bool:
    """Write queries as they are scanned with, the cells whose routes' products with them are largest, and scores.

    All that comes before a scan in one call, since each costs as much as many products do. Returns False where a part
    of a query that is to be scaled is all zeros.

    Args:
        start_r: where columns of the routing width begin.
        start_w: where those of the scan's width do.
        scaled: whether a part of the columns is scaled to unit length.
        scale_r: what a step of each column's bytes of the routes is worth.
        code_Cr: bytes of the routes.
        scale_w: what one of the bases' is; empty for none.
        base_Cw: bytes of the cells' bases; empty for none.
        order_w: the order of columns that scans expect, and that bases are in.
        query_BU: queries.
        query_Bw: to be filled.
        cell_BP: to be filled, the best first; no longer than there are cells.
        score_BP: to be filled with products of queries and bases; without bases, of queries and routes.
    """
    query_r, plain_w = np.empty(code_Cr.shape[1], dtype=np.float32), np.empty(len(order_w), dtype=np.float32)
    weight_r, nothing = np.empty(len(query_r), dtype=np.int16), np.empty(0, dtype=np.float32)
    for query in range(len(query_BU)):
        query_U = query_BU[query]
        if not _write_part(query_U, start_r, scaled, query_r) or not _write_part(query_U, start_w, scaled, plain_w):
            return False
        _largest_products(query_r, scale_r, code_Cr, weight_r, cell_BP[query], score_BP[query])
        for column in range(len(order_w)):
            query_Bw[query, column] = plain_w[order_w[column]]
        if len(base_Cw):
            for column in range(len(order_w)):
                plain_w[column] = query_Bw[query, column] * scale_w[column]
            _products(plain_w, base_Cw, cell_BP[query], 0, len(order_w), nothing, nothing, score_BP[query])
    return True


@_part
def _first_pass(
    weight_w: Any,
    unit: Any,
    reach: Any,
    code_Nw: Any,
    tail_N: Any,
    allowed: Any,
    bound_N: Any,
    scores_M: Any,
    rows_M: Any,
) -> None:
    """Write each item's bound, and the items whose prefixes score best; a page at a time, whose scores stay cached."""
    score_P = np.empty(_PAGE, dtype=np.float32)
    for begin in range(0, len(bound_N), _PAGE):
        size = min(_PAGE, len(bound_N) - begin)
        bound_p, tail_p, best = bound_N[begin : begin + size], tail_N[begin : begin + size], np.float32(-np.inf)
        for place in range(size):
            score_P[place] = unit * np.float32(_code_product(weight_w, code_Nw, begin + place))
        for place in range(size):
            bound_p[place] = score_P[place] + reach * tail_p[place]
            best = max(best, score_P[place])
        if best > scores_M[0]:
            for place in range(size):
                if score_P[place] > scores_M[0] and _allows(allowed, begin + place):
                    _offer(score_P[place], begin + place, scores_M, rows_M)


@_part
def _answer(num: int) -> Any:
    return np.empty(num, dtype=np.int64), np.empty(num, dtype=np.float32)


@_part
def _compress(rows: Any) -> int:
    """Move the rows that are there to the front; return how many they are."""
    count = 0
    for place in range(len(rows)):
        rows[count] = rows[place]
        count += rows[place] >= 0
    return count


@_part
def _screen(bound_N: Any, bar: Any, left: Any) -> int:
    """Write the rows whose bounds reach the bar; return how many they are."""
    count = 0
    for row in range(len(bound_N)):
        left[count] = row
        count += bound_N[row] >= bar
    return count


@_part
def _narrow(
    weight_w: Any,
    unit: Any,
    enter: Any,
    leave: Any,
    code_Nw: Any,
    tail_LN: Any,
    bound_N: Any,
    bar: Any,
    left: Any,
    size: int,
) -> int:
    """Bound the items that are left with one block more; keep those whose bounds reach the bar, return how many.

    Before the block the query's norm beyond is ``enter``, after it ``leave``; so of the items, by the rows of tail_LN.
    """
    count = 0
    for place in range(size):
        _fetch_ahead(code_Nw, left[min(place + _NUM_AHEAD, size - 1)], 0, len(weight_w))
        row = left[place]
        score = bound_N[row] - enter * tail_LN[0, row] + unit * np.float32(_code_product(weight_w, code_Nw, row))
        bound_N[row], left[count] = score + leave * tail_LN[1, row], row
        count += bound_N[row] >= bar
    return count


@_part
def _score_all(query_D: Any, store_ND: Any, rows: Any, count: int, allowed: Any, scores_K: Any, rows_K: Any) -> None:
    """Score whole items, and keep the best that are allowed."""
    full = store_ND.shape[1]
    for place in range(count):
        _fetch_ahead(store_ND, rows[min(place + _NUM_AHEAD, count - 1)], 0, full)
        row = rows[place]
        score = _inner_product(query_D, store_ND, row, 0, full)
        if _better(score, row, scores_K[0], rows_K[0]) and _allows(allowed, row):
            _offer(score, row, scores_K, rows_K)


@_part
def _allows(bits_X: Any, row: int) -> Any:
    """Return whether a row's bit is set; of no bits at all, every one is."""
    return len(bits_X) == 0 or (bits_X[row >> 3] >> (row & 7)) & 1 == 1


@_compiled(
    types.int64(
        *(_MATRIX, _SHORTS, _FLOATS, _MATRIX, _MATRIX, _WHOLES, _BYTES, _MATRIX, _MATRIX, _BITS),
        *_ANSWERS,
    )
)
def search_certified(
    query_BD: np.ndarray,
    weight_Bw: np.ndarray,
    unit_B: np.ndarray,
    reach_BL: np.ndarray,
    slack_BL: np.ndarray,
    edge_L1: np.ndarray,
    code_X: np.ndarray,
    tail_LN: np.ndarray,
    store_ND: np.ndarray,
    allowed: np.ndarray,
    rows_BK: np.ndarray,
    scores_BK: np.ndarray,
) -> int:
    """Write the exact best items of each query into two arrays; return how many bytes were read.

    Args:
        query_BD: unit queries.
        weight_Bw: their coded columns as whole numbers.
        unit_B: what one of those is worth, times a byte.
        reach_BL: their norms beyond each edge.
        slack_BL: how far below the k-th best score a bound at each edge must lie.
        edge_L1: 0 and the edges.
        code_X: the items' bytes, block after block between neighbouring edges.
        tail_LN: the items' norms beyond each edge.
        store_ND: unit items.
        allowed: one bit per item that may be found, the lowest of a byte first; empty for all.
        rows_BK: filled with -1.
        scores_BK: filled with minus infinity.
    """
    num_items, full = store_ND.shape
    num_found = rows_BK.shape[1]
    bound_N, left = np.empty(num_items, dtype=np.float32), np.empty(num_items + 1, dtype=np.int64)
    seed_rows, seed_scores = _answer(min(num_items, _SEEDS * num_found))
    bar_rows, bar_scores = _answer(num_found)
    num_bytes = 0
    for query in range(len(query_BD)):
        query_D, weight_w, unit, reach_L = query_BD[query], weight_Bw[query], unit_B[query], reach_BL[query]
        seed_rows[:], seed_scores[:], bar_rows[:], bar_scores[:] = -1, -np.inf, -1, -np.inf
        for level in range(len(edge_L1) - 1):
            start, stop = edge_L1[level], edge_L1[level + 1]
            code_Nw = code_X[num_items * start : num_items * stop].reshape((num_items, stop - start))
            if level == 0:
                _first_pass(
                    weight_w[:stop], unit, reach_L[0], code_Nw, tail_LN[0], allowed, bound_N, seed_scores, seed_rows
                )
                num_kept = _compress(seed_rows)
                _score_all(query_D, store_ND, seed_rows, num_kept, allowed, bar_scores, bar_rows)
                bar = bar_scores[0]
                num_bytes += num_items * (stop + 4) + num_kept * 4 * full
                count = _screen(bound_N, bar - slack_BL[query, 0], left)
            else:
                num_bytes += count * (stop - start + 4)
                enter, leave, tails = reach_L[level - 1], reach_L[level], tail_LN[level - 1 : level + 1]
                least = bar - slack_BL[query, level]
                count = _narrow(weight_w[start:stop], unit, enter, leave, code_Nw, tails, bound_N, least, left, count)
        _score_all(query_D, store_ND, left, count, allowed, scores_BK[query], rows_BK[query])
        _sort_heap(scores_BK[query], rows_BK[query])
        num_bytes += count * 4 * full
    return num_bytes
