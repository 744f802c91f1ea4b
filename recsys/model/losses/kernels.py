"""The loop over a tile's logits, compiled: every pass over them but the products, while a row is in the core's cache.

A row of a tile is read once and written once, whatever the number of widths: block products become logits, their
exponentials and sums, and then, widest width first, what multiplies items and queries in the gradient. Exponents are
of base 2, by a polynomial in float32 (relative error 2e-7, about a rounding), since vector units have no other.

Everything runs on the calling thread, with the interpreter's lock released, and is found in numba's cache on disk from
the second import on. Loops over columns are functions of their own, of contiguous rows: only so do they become vector
instructions.

Shapes: ``T`` vectors of a tile, ``V`` vectors, ``N`` negatives, ``H`` accidental hits, ``P`` (vector, positive) pairs;
``L`` widths.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from llvmlite import ir
from numba import extending, types

from recsys.model.losses.negatives import MASKED

Function = TypeVar("Function", bound=Callable[..., Any])

# Sums may be reordered, which vector units need; NaN and infinity keep their meaning.
_FAST = {"reassoc", "contract", "nsz"}
_LN2 = np.log(2.0)
_intrinsic: Callable[[Callable[..., Any]], Callable[..., Any]] = extending.intrinsic


def _part(function: Function) -> Function:
    """Compile as a part of the kernel that calls it.

    Always inlined: otherwise a process that compiles calls the part as it is compiled alone, and one that finds the
    kernel on disk calls the copy in there, which adds up in another order.
    """
    return cast("Function", numba.njit(nogil=True, fastmath=_FAST, forceinline=True)(function))


@_intrinsic
def _larger(_typing: Any, one: Any, other: Any) -> Any:
    """Return the larger of two numbers, as the one instruction of which a loop makes vectors; of NaN either."""

    def generate(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        kind = values[0].type
        maximum = builder.module.declare_intrinsic("llvm.maxnum", [kind], ir.FunctionType(kind, [kind, kind]))
        return builder.call(maximum, values, fastmath=("nnan", "nsz"))

    return one(one, other), generate


@_intrinsic
def _shifted(_typing: Any, _value: Any, _exponent: Any) -> Any:
    """Return ``value * 2**e`` where the last bits of a float32, ``exponent``, hold e; it may not under- or overflow."""

    def generate(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        bits = [builder.bitcast(one, ir.IntType(32)) for one in values]
        moved = builder.add(bits[0], builder.shl(bits[1], ir.Constant(ir.IntType(32), 23)))
        return builder.bitcast(moved, ir.FloatType())

    return types.float32(types.float32, types.float32), generate


_LEAST = np.float32(-125.0)
_ROUNDING = np.float32(1.5 * 2**23)
"""Added to a float32 it leaves the nearest integer in the last bits."""
_ONE = np.float32(1.0)
_C1, _C2, _C3, _C4, _C5 = (np.float32(c) for c in (0.69314686, 0.24022238, 0.05550893, 0.00967171, 0.00132187))
"""``2**x - 1`` over ``x`` on [-.5, .5], by least squares of the relative error."""


# Sums are not reordered here: adding and taking away again would be nothing.
@numba.njit(nogil=True, fastmath={"contract"}, forceinline=True)
def _quick_exp2(exponent: Any) -> Any:
    bounded = _larger(exponent, _LEAST)
    rounded = bounded + _ROUNDING
    rest = bounded - (rounded - _ROUNDING)
    return _shifted(_ONE + rest * (_C1 + rest * (_C2 + rest * (_C3 + rest * (_C4 + rest * _C5)))), rounded)


def _exp2(exponent: Any) -> Any:
    """Return 2 to a power of at most 0; in float32 about 1e-38 where it is less than that."""
    return np.exp2(exponent)


@extending.overload(_exp2, strict=False)
def _exp2_of(exponent: Any) -> Callable[[Any], Any]:
    if exponent == types.float32:
        return lambda exponent: _quick_exp2(exponent)
    return lambda exponent: np.exp2(exponent)


@_part
def _logits(product_N: Any, scale: Any, scale_N: Any, log_weight_N: Any, logit_N: Any) -> Any:
    """Fill in logits and return the largest."""
    most = logit_N.dtype.type(2 * MASKED)
    for n in range(len(product_N)):
        logit = product_N[n] * (scale * scale_N[n]) + log_weight_N[n]
        logit_N[n] = logit
        most = _larger(most, logit)
    return most


@_part
def _further_logits(product_N: Any, narrower_N: Any, scale: Any, scale_N: Any, log_weight_N: Any, logit_N: Any) -> Any:
    """Add what narrower blocks give to a block's products; then as `_logits`."""
    most = logit_N.dtype.type(2 * MASKED)
    for n in range(len(product_N)):
        product = product_N[n] + narrower_N[n]
        product_N[n] = product
        logit = product * (scale * scale_N[n]) + log_weight_N[n]
        logit_N[n] = logit
        most = _larger(most, logit)
    return most


@_part
def _largest(logit_N: Any) -> Any:
    most = logit_N.dtype.type(2 * MASKED)
    for n in range(len(logit_N)):
        most = _larger(most, logit_N[n])
    return most


@_part
def _keep_hardest(num: int, product_N: Any, scale_N: Any, hit_h: Any, logit_N: Any, near_N: Any) -> None:
    """Mask all but the ``num`` negatives that are nearest, whatever their weights, of those that are no hits.

    Of several that are equally near, as an item that was drawn more than once is, the first ones are kept.
    """
    for n in range(len(near_N)):
        near_N[n] = product_N[n] * scale_N[n]
    for n in hit_h:
        near_N[n] = -np.inf
    least = np.partition(near_N, len(near_N) - num)[len(near_N) - num]
    num_equal = num
    for n in range(len(near_N)):
        if near_N[n] > least:
            num_equal -= 1
    for n in range(len(near_N)):
        if near_N[n] == least:
            num_equal -= 1
        if near_N[n] < least or (near_N[n] == least and num_equal < 0):
            logit_N[n] = MASKED


@_part
def _terms(logit_N: Any, most: Any) -> Any:
    """Turn logits into exponentials, relative to the largest, and return their sum."""
    total = logit_N.dtype.type(0)
    for n in range(len(logit_N)):
        term = _exp2(logit_N[n] - most)
        logit_N[n] = term
        total += term
    return total


@_part
def _slopes(term_N: Any, slope: Any, scale_N: Any, product_N: Any, column_N: Any) -> Any:
    """Turn products into the loss's gradient with respect to them; return the sum of the one times the other."""
    total = column_N.dtype.type(0)
    for n in range(len(term_N)):
        gradient = term_N[n] * (slope * scale_N[n])
        together = gradient * product_N[n]
        total += together
        column_N[n] += together
        product_N[n] = gradient
    return total


@_part
def _further_slopes(term_N: Any, slope: Any, scale_N: Any, product_N: Any, column_N: Any, wider_N: Any) -> Any:
    """As `_slopes`, with the gradient of all wider widths added: they have the block's products in them too."""
    total = column_N.dtype.type(0)
    for n in range(len(term_N)):
        gradient = term_N[n] * (slope * scale_N[n])
        together = gradient * product_N[n]
        total += together
        column_N[n] += together
        product_N[n] = gradient + wider_N[n]
    return total


@_part
def _follows(log_sum: Any, floor_p: Any, weight_p: Any) -> Any:
    """Return the gradient with respect to a log-sum of what the loss makes of it."""
    total = floor_p.dtype.type(0)
    for p in range(len(floor_p)):
        total += weight_p[p] / (1 + np.exp2(floor_p[p] - log_sum))
    return total


@numba.njit(nogil=True, cache=True, fastmath=_FAST)
def do_rows(
    first: int,
    stop: int,
    is_nested: bool,
    learns: bool,
    num_hardest: int,
    product_LTN: Any,
    scale_LV: Any,
    scale_LN: Any,
    log_weight_N: Any,
    hit_start_V: Any,
    hit_H: Any,
    pair_start_V: Any,
    floor_LP: Any,
    weight_LP: Any,
    log_sum_LV: Any,
    row_LV: Any,
    term_LN: Any,
    column_LN: Any,
) -> None:
    """Do a tile; logits, scales of vectors, weights, floors and log-sum-exps are in base 2.

    Args:
        first: the tile's first vector.
        stop: the one after the last.
        is_nested: whether a width's products are those of its block, to be added to the narrower widths'.
        learns: whether gradients are asked for.
        num_hardest: negatives that count for each vector and width.
        product_LTN: inner products of columns; becomes the loss's gradient with respect to them.
        scale_LV: what products are multiplied with, by vector.
        scale_LN: and by negative.
        log_weight_N: what is added to them.
        hit_start_V: where each vector's negatives that do not count begin; one more, where the last one's end.
        hit_H: those negatives.
        pair_start_V: where each vector's pairs begin; one more, where the last one's end.
        floor_LP: what is in a pair's log beside the negatives.
        weight_LP: what the loss multiplies it with.
        log_sum_LV: becomes the log-sum-exp of the negatives; about `MASKED` where none counts.
        row_LV: becomes the gradient with respect to the log of ``scale_LV``.
        term_LN: room for the exponentials of a row.
        column_LN: to it is added the gradient with respect to the log of ``scale_LN``.
    """
    num_widths, _, num_negatives = product_LTN.shape
    near_N = np.empty(num_negatives, dtype=term_LN.dtype)
    for v in range(first, stop):
        t = v - first
        hit_h = hit_H[hit_start_V[v] : hit_start_V[v + 1]]
        for w in range(num_widths):
            product_N, logit_N, scale = product_LTN[w, t], term_LN[w], scale_LV[w, v]
            if is_nested and w > 0:
                most = _further_logits(product_N, product_LTN[w - 1, t], scale, scale_LN[w], log_weight_N, logit_N)
            else:
                most = _logits(product_N, scale, scale_LN[w], log_weight_N, logit_N)
            for n in hit_h:
                logit_N[n] = 2 * MASKED
            if num_hardest < num_negatives:
                _keep_hardest(num_hardest, product_N, scale_LN[w], hit_h, logit_N, near_N)
            if len(hit_h) > 0 or num_hardest < num_negatives:
                most = _largest(logit_N)
            total = _terms(logit_N, most)
            for n in hit_h:
                logit_N[n] = 0
            if most < MASKED / 2:
                log_sum_LV[w, v], row_LV[w, v] = 2 * MASKED, 0
                continue
            log_sum_LV[w, v] = most + np.log2(total)
            own = slice(pair_start_V[v], pair_start_V[v + 1])
            row_LV[w, v] = _follows(log_sum_LV[w, v], floor_LP[w][own], weight_LP[w][own]) / total * scale * _LN2
        if not learns:
            continue
        for w in range(num_widths - 1, -1, -1):
            product_N, term_N, slope = product_LTN[w, t], term_LN[w], row_LV[w, v]
            if is_nested and w < num_widths - 1:
                wider_N = product_LTN[w + 1, t]
                row_LV[w, v] = _further_slopes(term_N, slope, scale_LN[w], product_N, column_LN[w], wider_N)
            else:
                row_LV[w, v] = _slopes(term_N, slope, scale_LN[w], product_N, column_LN[w])
