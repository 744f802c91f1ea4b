"""The kernels of `recsys.model.losses.fused`, in Triton's language: Python's by its looks, compiled from its text.

Shapes: ``O`` rows of the side that a program owns a tile of, ``P`` of the other; ``C`` columns of a chunk, of which
blocks are made. Loops over widths and chunks are unrolled, and what they carry is in tuples.
"""

import triton
import triton.language as tl


@triton.jit
def _counts(is_hit, own_O, other_P, num_own, num_other, num_words):
    """Say which pairs of a tile count."""
    there = (own_O < num_own)[:, None] & (other_P < num_other)[None, :]
    word = tl.load(is_hit + own_O[:, None] * num_words + (other_P // 32)[None, :], mask=there, other=0)
    return there & (((word >> (other_P % 32)[None, :]) & 1) == 0)


@triton.jit
def _chunk(vector, row_O, num, start, C: tl.constexpr, COLUMNS: tl.constexpr):
    """Load a chunk of a tile's columns."""
    place = row_O[:, None] * COLUMNS + (start + tl.arange(0, C))[None, :]
    return tl.load(vector + place, mask=(row_O < num)[:, None], other=0.0)


@triton.jit
def _with_block(
    product, one, one_O, num_one, two, two_P, num_two, START: tl.constexpr, NUM: tl.constexpr, SIZE: tl.constexpr,
    COLUMNS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add a block's products to those of narrower ones."""
    for c in tl.static_range(NUM):
        one_OC = _chunk(one, one_O, num_one, START + c * SIZE, SIZE, COLUMNS)
        two_PC = _chunk(two, two_P, num_two, START + c * SIZE, SIZE, COLUMNS)
        product = tl.dot(one_OC, tl.trans(two_PC), acc=product, input_precision=PRECISION)
    return product


@triton.jit
def _row(value_L, width, row_O, num):
    """Load what a tile's rows have at a width."""
    return tl.load(value_L + width * num + row_O, mask=row_O < num, other=0.0)


@triton.jit
def find_sums(
    query, item, query_scale, item_scale, item_shift, is_hit, log_sum, num_queries, num_items, num_words,
    NUM_WIDTHS: tl.constexpr, START: tl.constexpr, NUM: tl.constexpr, SIZE: tl.constexpr,
    COLUMNS: tl.constexpr, OWN: tl.constexpr, OTHER: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Find a tile's log-sum-exps at every width, in base 2, by running maxima and sums."""
    own_O = tl.program_id(0) * OWN + tl.arange(0, OWN)
    most, total = (), ()
    for _ in tl.static_range(NUM_WIDTHS):
        most = most + (tl.full((OWN,), -1e30, tl.float32),)
        total = total + (tl.zeros((OWN,), tl.float32),)
    for first in range(0, num_items, OTHER):
        other_P = first + tl.arange(0, OTHER)
        counts = _counts(is_hit, own_O, other_P, num_queries, num_items, num_words)
        product = tl.zeros((OWN, OTHER), tl.float32)
        further, sums = (), ()
        for w in tl.static_range(NUM_WIDTHS):
            product = _with_block(
                product, query, own_O, num_queries, item, other_P, num_items, START[w], NUM[w], SIZE[w], COLUMNS,
                PRECISION,
            )  # fmt: skip
            scale_O, scale_P = _row(query_scale, w, own_O, num_queries), _row(item_scale, w, other_P, num_items)
            shift_P = _row(item_shift, w, other_P, num_items)
            logit = tl.where(counts, product * scale_O[:, None] * scale_P[None, :] - shift_P[None, :], -1e30)
            now_O = tl.maximum(most[w], tl.max(logit, axis=1))
            term = tl.where(counts, tl.exp2(logit - now_O[:, None]), 0.0)
            sums = sums + (total[w] * tl.exp2(most[w] - now_O) + tl.sum(term, axis=1),)
            further = further + (now_O,)
        most, total = further, sums
    for w in tl.static_range(NUM_WIDTHS):
        found_O = tl.where(total[w] > 0, most[w] + tl.log2(tl.maximum(total[w], 1e-38)), -1e30)
        tl.store(log_sum + w * num_queries + own_O, found_O, mask=own_O < num_queries)


@triton.jit
def find_slopes(
    own, own_scale, own_shift, own_factor, is_hit, other, other_scale, other_shift, other_factor,
    gradient, of_scale, num_own, num_other, num_words,
    NUM_WIDTHS: tl.constexpr, FIRST: tl.constexpr, START: tl.constexpr, NUM: tl.constexpr, SIZE: tl.constexpr,
    COLUMNS: tl.constexpr, OWN: tl.constexpr, OTHER: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Find the gradient of a tile's vectors, and of the logs of their scales."""
    own_O = tl.program_id(0) * OWN + tl.arange(0, OWN)
    of_scales, columns = (), ()
    for w in tl.static_range(NUM_WIDTHS):
        of_scales = of_scales + (tl.zeros((OWN,), tl.float32),)
        for _ in tl.static_range(NUM[w]):
            columns = columns + (tl.zeros((OWN, SIZE[w]), tl.float32),)
    for first in range(0, num_other, OTHER):
        other_P = first + tl.arange(0, OTHER)
        counts = _counts(is_hit, own_O, other_P, num_own, num_other, num_words)
        product = tl.zeros((OWN, OTHER), tl.float32)
        slope = tl.zeros((OWN, OTHER), tl.float32)
        products, scaled = (), ()
        for w in tl.static_range(NUM_WIDTHS):
            product = _with_block(
                product, own, own_O, num_own, other, other_P, num_other, START[w], NUM[w], SIZE[w], COLUMNS, PRECISION
            )
            products = products + (product,)
        # From the widest width down; what is found is put in front, so that narrow widths come first again.
        summed = ()
        for w in tl.static_range(NUM_WIDTHS - 1, -1, -1):
            scale_O, scale_P = _row(own_scale, w, own_O, num_own), _row(other_scale, w, other_P, num_other)
            shift_O, shift_P = _row(own_shift, w, own_O, num_own), _row(other_shift, w, other_P, num_other)
            factor_O, factor_P = _row(own_factor, w, own_O, num_own), _row(other_factor, w, other_P, num_other)
            scale = scale_O[:, None] * scale_P[None, :]
            exponent = products[w] * scale - shift_O[:, None] - shift_P[None, :]
            # A term is at most 1, but where nothing counts, and its sum is therefore about 0.
            term = tl.where(counts, tl.exp2(tl.minimum(exponent, 1.0)), 0.0) * (
                factor_O[:, None] * factor_P[None, :] * scale
            )
            scaled = (of_scales[w] + tl.sum(term * products[w], axis=1),) + scaled
            slope += term
            parts = ()
            for c in tl.static_range(NUM[w]):
                two = _chunk(other, other_P, num_other, START[w] + c * SIZE[w], SIZE[w], COLUMNS)
                so_far = columns[FIRST[w] + c]
                parts = parts + (tl.dot(slope.to(two.dtype), two, acc=so_far, input_precision=PRECISION),)
            summed = parts + summed
        of_scales, columns = scaled, summed
    for w in tl.static_range(NUM_WIDTHS):
        tl.store(of_scale + w * num_own + own_O, of_scales[w], mask=own_O < num_own)
        for c in tl.static_range(NUM[w]):
            place = own_O[:, None] * COLUMNS + (START[w] + c * SIZE[w] + tl.arange(0, SIZE[w]))[None, :]
            tl.store(gradient + place, columns[FIRST[w] + c], mask=(own_O < num_own)[:, None])
