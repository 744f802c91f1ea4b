"""How loops over candidates and items are compiled, and what they are made of.

What is compiled here is compiled for its one signature when its module is imported, and found in numba's cache on disk
from the second import on: never during a request. It runs on the calling thread, with the interpreter's lock released.

Shapes: ``query_D`` one query, ``code_ND`` (items, full width), ``rows_K`` and ``scores_K`` one answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

Function = TypeVar("Function", bound=Callable[..., Any])

# Sums may be reordered, which vector units need; NaN and infinity keep their meaning.
_FAST = {"reassoc", "contract", "nsz"}
_LINE_BYTES = 64


def compiled(*signatures: Any) -> Callable[[Function], Function]:
    """Compile at once for these signatures and no others."""
    return cast("Callable[[Function], Function]", numba.njit(list(signatures), cache=True, nogil=True, fastmath=_FAST))


def part(function: Function) -> Function:
    """Compile as a part of the kernels that call it."""
    return cast("Function", numba.njit(nogil=True, fastmath=_FAST)(function))


def array(dtype: Any, ndim: int, *, writable: bool = False) -> Any:
    """Return the type of a C-contiguous array; one that need not be writable may be mapped from a file."""
    return types.Array(dtype, ndim, "C", readonly=not writable)


@part
def inner_product(query_D: Any, code_ND: Any, row: int, start: int, stop: int) -> Any:
    """Return the inner product of a query with the columns from ``start`` to ``stop`` of a row."""
    total = np.float32(0)
    for column in range(start, stop):
        total += query_D[column] * _number(code_ND[row, column])
    return total


@part
def fetch_ahead(code_ND: Any, row: int, start: int, stop: int) -> None:
    """Start loading a row's columns: rows lie anywhere in memory, and the processor cannot guess where."""
    for column in range(start, stop, _LINE_BYTES // code_ND.itemsize):
        _prefetch(code_ND, row, column)


@part
def offer(score: Any, row: Any, scores_K: Any, rows_K: Any) -> None:
    """Put an item into a heap whose root is the worst of the k best so far, if it is better than that.

    The better of two is the one with the larger score, of equal scores the lower row.
    """
    if not _better(score, row, scores_K[0], rows_K[0]):
        return
    _sink(score, row, scores_K, rows_K, len(rows_K))


@part
def sort_heap(scores_K: Any, rows_K: Any) -> None:
    """Turn the heap into an answer, best first."""
    for last in range(len(rows_K) - 1, 0, -1):
        score, row = scores_K[last], rows_K[last]
        scores_K[last], rows_K[last] = scores_K[0], rows_K[0]
        _sink(score, row, scores_K, rows_K, last)


@part
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


@part
def _better(score: Any, row: Any, other_score: Any, other_row: Any) -> Any:
    return score > other_score or (score == other_score and row < other_row)


@intrinsic
def _number(_typing: Any, code: Any) -> Any:
    """Read a stored coordinate as float32; a half comes as its 16 bits.

    One instruction reads 8 or 16 halves at once where the processor has it, which numba's own types would not use.
    """

    def generate(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        if code == types.uint16:
            return builder.fpext(builder.bitcast(values[0], ir.HalfType()), ir.FloatType())
        return builder.sitofp(values[0], ir.FloatType()) if code == types.int8 else values[0]

    return types.float32(code), generate


@intrinsic
def _prefetch(_typing: Any, code_ND: Any, row: Any, column: Any) -> Any:
    """Ask for the cache line of ``code_ND[row, column]``."""

    def generate(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        view = cgutils.create_struct_proxy(code_ND)(context, builder, values[0])
        place = cgutils.get_item_pointer(context, builder, code_ND, view, values[1:], wraparound=False)
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        fetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(fetch, [builder.bitcast(place, byte), word(0), word(3), word(1)])
        return context.get_dummy_value()

    return types.void(code_ND, row, column), generate
