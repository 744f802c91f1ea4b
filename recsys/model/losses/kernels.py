"""All that is done to a tile's logits, with the products that make them and those that use their gradient, compiled.

Three steps, each over chunks of negatives that stay in a core's cache. *Products*: what a few vectors and a few
negatives come to grows in registers, column by column, and is put down wherever a width ends; so all widths cost the
products of the full width. *Terms*: a chunk's exponentials are added up while it is there. *Slopes*: when a tile's sums
are known, so is what the loss makes of them; exponentials are taken again, widest width first, and the products of the
gradient follow for the columns of each block. (Gradients in the forward pass: arXiv 2410.10989; chunks, and
exponentials twice instead of once and kept: arXiv 2205.14135.)

A product is of six rows and two registers, as many sums as a core with sixteen of them holds. For that the columns of
each block are filled up to whole registers with zeros, and vectors, negatives and gradients lie in panels of one
register's columns. Exponents are of base 2, in float32 by a polynomial, since vector units have no other: its relative
error of up to 3e-6 is what rounding does to a logit of 50.

Everything runs on the calling thread, with the interpreter's lock released, and is found in numba's cache on disk from
the second import on.

Shapes: ``V`` vectors, ``T`` of them in a tile, ``S`` strips of `ROWS`; ``N`` negatives, filled up to ``C`` chunks of
`CHUNK`, ``P`` panels of two registers; ``U`` and ``D`` columns of vectors and of negatives, filled up, ``E`` registers
of them, ``l`` a register's; ``H`` accidental hits, ``A`` (vector, positive) pairs; ``L`` widths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
from llvmlite import ir
from numba import core, extending, types

from recsys.model.losses.negatives import MASKED

Function = TypeVar("Function", bound=Callable[..., Any])

LANES, ROWS, CHUNK = 8, 6, 96
"""Columns of a register, rows that are multiplied at once, and negatives of a chunk, a multiple of either.

Where a core's registers hold more or fewer, the compiler takes a half or two for one.
"""
PANEL = 2 * LANES
_LN2 = np.log(2.0)
_NEVER, _NONE = -1e25, -1e20
"""Logit of what does not count, finite since its gradient of 0 is multiplied with it; and what is above it."""
RANGE = 80.0
"""Exponents that are not far from 0: their powers can be added up, and lost is only what would not matter to a sum."""
_SINGLE, _DOUBLE = (127, 23), (1023, 52)
"""Of floating point numbers: what is in the exponent's place for 1, and how many bits there are beyond that place."""
_POWERS = 0.009570102, 0.05591786, 0.24024745, 0.69312181, 0.99999926
"""``2**x`` on [-.5, .5], highest power first: the largest relative error is the least there is with so many."""
NUM_PARTS = 2 + len(_POWERS)
_intrinsic: Callable[[Callable[..., Any]], Callable[..., Any]] = extending.intrinsic
_generated: Any = core.cgutils


class Given(NamedTuple):
    """What is known of all tiles; logits, scales of vectors, weights and floors are in base 2.

    Args:
        block_L3: of each width the first register of columns, of vectors and of negatives, and how many there are.
        query_VU: vectors.
        item_PDN: negatives, a few side by side.
        item_CENl: negatives by chunk, a register's columns side by side.
        scale_LV: what products are multiplied with, by vector.
        scale_LN: and by negative.
        log_weight_N: what is added to them.
        from_L: a whole number that logits are counted from, so that they are not far above it.
        power_LK: what powers of 2, so counted, are made of.
        hit_start_V: where each vector's negatives that do not count begin; one more, where the last one's end.
        hit_H: those negatives, in order.
        pair_start_V: where each vector's pairs begin; one more, where the last one's end.
        floor_LA: what is in a pair's log beside the negatives.
        weight_LA: what the loss multiplies it with.
    """

    block_L3: Any
    query_VU: Any
    item_PDN: Any
    item_CENl: Any
    scale_LV: Any
    scale_LN: Any
    log_weight_N: Any
    from_L: Any
    power_LK: Any
    hit_start_V: Any
    hit_H: Any
    pair_start_V: Any
    floor_LA: Any
    weight_LA: Any


class Room(NamedTuple):
    """What a tile needs for itself.

    Args:
        query_SUT: its vectors, a strip side by side.
        query_ETl: its vectors, a register's columns side by side.
        gradient_ETl: the gradient with respect to them.
        near_CLTN: inner products at every width times scales of negatives, by chunk.
        slope_TN: a chunk's gradient with respect to products of one width and all wider ones.
        hit_T: the first of each row's negatives that do not count that is still to come.
        power_LTK: what a row's powers of 2 are made of for them to be its gradient.
        total_LTl: sums over negatives, several to be added up.
    """

    query_SUT: Any
    query_ETl: Any
    gradient_ETl: Any
    near_CLTN: Any
    slope_TN: Any
    hit_T: Any
    power_LTK: Any
    total_LTl: Any


class Found(NamedTuple):
    """What is found, of the tile's vectors alone or added to what other tiles have of the negatives.

    Args:
        log_sum_LV: the log-sum-exp of the negatives; about `MASKED` where none counts.
        scale_gradient_LV: gradient with respect to the log of ``scale_LV``.
        query_gradient_VU: gradient with respect to vectors.
        scale_gradient_LN: gradient with respect to the log of ``scale_LN``.
        item_gradient_CENl: gradient with respect to negatives.
    """

    log_sum_LV: Any
    scale_gradient_LV: Any
    query_gradient_VU: Any
    scale_gradient_LN: Any
    item_gradient_CENl: Any


class _Registers:
    """Generates instructions on whole registers, where loops of numba's would hold fewer sums in them or spill them.

    Args:
        builder: of the intrinsic that is generated.
        number: what a register holds, float32 or float64.
    """

    def __init__(self, builder: Any, number: Any) -> None:
        self.builder, self.number, self.kind = builder, number, ir.VectorType(number, LANES)

    def constant(self, value: float) -> Any:
        """Return a register of one value."""
        return ir.Constant(self.kind, [value] * LANES)

    def everywhere(self, address: Any) -> Any:
        """Return a register of the one number at an address."""
        number = self.builder.load(address)
        first = self.builder.insert_element(ir.Constant(self.kind, ir.Undefined), number, ir.IntType(32)(0))
        places = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        return self.builder.shuffle_vector(first, first, places)

    def parts(self, address: Any) -> list[Any]:
        """Return registers of what `power_parts` put at an address."""
        return [self.everywhere(self.builder.gep(address, [ir.IntType(64)(k)])) for k in range(NUM_PARTS)]

    def at(self, start: Any, *steps: tuple[Any, Any]) -> Any:
        """Return an address that is some steps further: of each their size, in numbers, and how many."""
        for size, count in steps:
            count = count if isinstance(count, ir.Value) else size.type(count)
            start = self.builder.gep(start, [self.builder.mul(size, count)])
        return start

    def read(self, start: Any, *steps: tuple[Any, Any]) -> Any:
        """Return the register at an address."""
        return self.builder.load(self.builder.bitcast(self.at(start, *steps), self.kind.as_pointer()), align=4)

    def write(self, register: Any, start: Any, *steps: tuple[Any, Any]) -> None:
        """Put a register at an address."""
        self.builder.store(register, self.builder.bitcast(self.at(start, *steps), self.kind.as_pointer()), align=4)

    def times(self, one: Any, other: Any) -> Any:
        """Return the product."""
        return self.builder.fmul(one, other)

    def with_product(self, total: Any, one: Any, other: Any) -> Any:
        """Return a sum with a product, in one instruction where there is one."""
        return self._call("fmuladd", one, other, total)

    def exp2(self, exponent: Any, parts: Sequence[Any]) -> tuple[Any, Any]:
        """Return two factors of a multiple of 2 to a power, as `power_parts` has it.

        One has the nearest integer as its exponent, the other is a polynomial of the rest.
        """
        builder, is_double = self.builder, self.number == ir.DoubleType()
        (least, rounding, *factors), (_, mantissa) = parts, _DOUBLE if is_double else _SINGLE
        bounded = builder.select(builder.fcmp_ordered(">", exponent, least), exponent, least)
        rounded = builder.fadd(bounded, rounding)
        rest = builder.fsub(bounded, builder.fsub(rounded, rounding))
        bits = ir.VectorType(ir.IntType(64 if is_double else 32), LANES)
        whole = builder.shl(builder.bitcast(rounded, bits), ir.Constant(bits, [mantissa] * LANES))
        if is_double:
            power = self.times(factors[-1], self._call("exp2", rest))
        else:
            power = factors[0]
            for factor in factors[1:]:
                power = self.with_product(factor, power, rest)
        return power, builder.bitcast(whole, self.kind)

    def _call(self, name: str, *registers: Any) -> Any:
        kind = ir.FunctionType(self.kind, [self.kind] * len(registers))
        called = f"llvm.{name}.v{LANES}f{64 if self.number == ir.DoubleType() else 32}"
        return self.builder.call(_generated.get_or_insert_function(self.builder.module, kind, called), registers)

    def loop(self, count: Any, sums: Sequence[Any], step: Callable[..., Sequence[Any]]) -> list[Any]:
        """Return what sums are after ``count`` steps, each of which makes new ones of its number and theirs."""
        builder, start = self.builder, self.builder.block
        head, body, end = (builder.append_basic_block(name) for name in ("loop", "step", "end"))
        builder.branch(head)
        builder.position_at_end(head)
        held = [builder.phi(one.type) for one in (count, *sums)]
        for one, value in zip(held, (count.type(0), *sums), strict=True):
            one.add_incoming(value, start)
        builder.cbranch(builder.icmp_signed("<", held[0], count), body, end)
        builder.position_at_end(body)
        made = [builder.add(held[0], count.type(1)), *step(*held)]
        for one, value in zip(held, made, strict=True):
            one.add_incoming(value, builder.block)
        builder.branch(head)
        builder.position_at_end(end)
        return held[1:]


@_intrinsic
def _at(_typing: Any, array: Any, place: Any) -> Any:
    """Return the address of a contiguous array's number at a place, counted through all of its dimensions."""

    def generate(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        return builder.gep(_generated.create_struct_proxy(array)(context, builder, values[0]).data, [values[1]])

    return types.CPointer(array.dtype)(array, types.int64), generate  # type: ignore[no-untyped-call]


@_intrinsic
def _put_products(
    _typing: Any, left: Any, right: Any, block_L3: Any, widths: Any, scale: Any, of_scale: Any, near: Any, of_near: Any
) -> Any:  # fmt: skip
    """Put down the inner products of a strip with a panel of negatives, times the negatives' scales.

    Each of the widths adds the columns of its block to the sums of the one before. Its scales are ``of_scale`` numbers
    further, and its products ``of_near``.
    """

    def generate(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        left, right, block_L3, widths, scale, of_scale, near, of_near = values
        does, size = _Registers(builder, left.type.pointee), widths.type
        cells = [(r, c) for r in range(ROWS) for c in range(2)]

        def width(w: Any, *sums: Any) -> Sequence[Any]:
            first, second, num = (builder.load(does.at(block_L3, (size(3), w), (size(1), place))) for place in range(3))
            rows, columns = does.at(left, (size(ROWS * LANES), first)), does.at(right, (size(PANEL * LANES), second))

            def register(e: Any, *sums: Any) -> Sequence[Any]:
                for k in range(LANES):
                    of_row = does.at(rows, (size(ROWS * LANES), e), (size(ROWS), k))
                    of_column = does.at(columns, (size(PANEL * LANES), e), (size(PANEL), k))
                    lefts = [does.everywhere(does.at(of_row, (size(1), r))) for r in range(ROWS)]
                    rights = [does.read(of_column, (size(LANES), c)) for c in range(2)]
                    sums = tuple(
                        does.with_product(one, lefts[r], rights[c]) for one, (r, c) in zip(sums, cells, strict=True)
                    )
                return sums

            ended = does.loop(num, sums, register)
            scales = [does.read(scale, (of_scale, w), (size(LANES), c)) for c in range(2)]
            for one, (r, c) in zip(ended, cells, strict=True):
                does.write(does.times(one, scales[c]), near, (of_near, w), (size(CHUNK), r), (size(LANES), c))
            return ended

        does.loop(widths, [does.constant(0)] * len(cells), width)
        return context.get_dummy_value()

    one = types.int64
    return types.void(left, right, block_L3, one, scale, one, near, one), generate


def _block_product(num_rows: int, num_registers: int) -> Any:
    """Return what adds products to sums, of some rows and registers, all of them held until the last step.

    In each of ``depth`` steps k, the sum at row r and register c grows by ``left[r * left_row + k * left_step]`` times
    the register at ``right[k * LANES + c * right_register]``. Sums are at ``sums[r * LANES + c * sums_register]``.
    """

    def product(
        _typing: Any, left: Any, left_row: Any, left_step: Any, right: Any, right_register: Any, depth: Any, sums: Any,
        sums_register: Any,
    ) -> Any:  # fmt: skip
        def generate(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
            left, left_row, left_step, right, right_register, depth, sums, sums_register = values
            does, lanes = _Registers(builder, left.type.pointee), depth.type(LANES)
            cells = [(r, c) for r in range(num_rows) for c in range(num_registers)]

            def step(k: Any, *held: Any) -> Sequence[Any]:
                rights = [does.read(right, (lanes, k), (right_register, c)) for c in range(num_registers)]
                lefts = [does.everywhere(does.at(left, (left_step, k), (left_row, r))) for r in range(num_rows)]
                return [does.with_product(one, lefts[r], rights[c]) for one, (r, c) in zip(held, cells, strict=True)]

            begun = [does.read(sums, (lanes, r), (sums_register, c)) for r, c in cells]
            for one, (r, c) in zip(does.loop(depth, begun, step), cells, strict=True):
                does.write(one, sums, (lanes, r), (sums_register, c))
            return context.get_dummy_value()

        one = types.int64
        return types.void(left, one, one, right, one, one, sums, one), generate

    return _intrinsic(product)


_add_two, _add_one = _block_product(ROWS, 2), _block_product(2 * ROWS, 1)


@_intrinsic
def _add_terms(_typing: Any, near_N: Any, scale: Any, weight_N: Any, power_K: Any, total_l: Any) -> Any:
    """Add a chunk's exponentials of a row to a register of sums."""

    def generate(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        near_N, scale, weight_N, power_K, total_l = values
        does, lanes = _Registers(builder, scale.type.pointee), ir.IntType(64)(LANES)
        scale, parts = does.everywhere(scale), does.parts(power_K)

        def step(k: Any, total: Any) -> Sequence[Any]:
            near, weight = does.read(near_N, (lanes, k)), does.read(weight_N, (lanes, k))
            return [does.with_product(total, *does.exp2(does.with_product(weight, near, scale), parts))]

        (total,) = does.loop(lanes.type(CHUNK // LANES), [does.read(total_l)], step)
        does.write(total, total_l)
        return context.get_dummy_value()

    return types.void(near_N, scale, weight_N, power_K, total_l), generate


@_intrinsic
def _add_slopes(
    _typing: Any, near_N: Any, scale: Any, weight_N: Any, power_K: Any, scale_N: Any, slope_N: Any,
    column_N: Any, total_l: Any,
) -> Any:  # fmt: skip
    """Add to a row's gradient with respect to products, and to sums of what was added times the products."""

    def generate(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        near_N, scale, weight_N, power_K, scale_N, slope_N, column_N, total_l = values
        does, lanes = _Registers(builder, scale.type.pointee), ir.IntType(64)(LANES)
        scale, parts = does.everywhere(scale), does.parts(power_K)

        def step(k: Any, total: Any) -> Sequence[Any]:
            near, weight = does.read(near_N, (lanes, k)), does.read(weight_N, (lanes, k))
            share = does.times(*does.exp2(does.with_product(weight, near, scale), parts))
            slope, own_scale = does.read(slope_N, (lanes, k)), does.read(scale_N, (lanes, k))
            does.write(does.with_product(slope, share, own_scale), slope_N, (lanes, k))
            does.write(does.with_product(does.read(column_N, (lanes, k)), share, near), column_N, (lanes, k))
            return [does.with_product(total, share, near)]

        (total,) = does.loop(lanes.type(CHUNK // LANES), [does.read(total_l)], step)
        does.write(total, total_l)
        return context.get_dummy_value()

    return types.void(near_N, scale, weight_N, power_K, scale_N, slope_N, column_N, total_l), generate


def _part(function: Function) -> Function:
    """Compile as a part of what calls it, always inlined.

    Otherwise a process that compiles calls the part as it is compiled alone, and one that finds the kernel on disk
    calls the copy in there, which may round elsewhere. Inlined before types are found, all compiles in half the time.
    """
    return cast("Function", numba.njit(nogil=True, inline="always")(function))


@_part
def power_parts(factor: Any, exponent: Any, part_K: Any) -> None:
    """Fill in what `_Registers.exp2` makes powers of, times ``factor * 2**exponent``.

    These are the least exponent, of which and of less than which nothing is left; what leaves the integer that is
    nearest to one in its last bits, if added; and the polynomial's factors.
    """
    whole = np.rint(exponent)
    bias, mantissa = _SINGLE if part_K.itemsize == 4 else _DOUBLE
    part_K[0], part_K[1] = -bias - whole, 1.5 * 2.0**mantissa + bias + whole
    scale = factor * 2.0 ** (exponent - whole)
    for k in range(len(_POWERS)):
        part_K[2 + k] = scale * _POWERS[k]
    if part_K.itemsize > 4:
        part_K[-1] = scale


@_part
def _lay_out(first: Any, stop: Any, given: Any, room: Any) -> None:
    for v in range(first, stop):
        t = v - first
        room.hit_T[t] = given.hit_start_V[v]
        for e in range(room.query_ETl.shape[0]):
            for k in range(LANES):
                number = given.query_VU[v, e * LANES + k]
                room.query_SUT[t // ROWS, e * LANES + k, t % ROWS] = number
                room.query_ETl[e, t, k] = number


@_part
def _leave_out(n: Any, w: Any, v: Any, t: Any, given: Any, room: Any) -> None:
    """Let a negative not count for a vector and width."""
    room.near_CLTN[n // CHUNK, w, t, n % CHUNK] = _NEVER / given.scale_LV[w, v]


@_part
def _products(c: Any, first: Any, stop: Any, is_nested: Any, given: Any, room: Any) -> None:
    """Fill in a chunk's inner products at every width."""
    _, num_widths, rows, _ = room.near_CLTN.shape
    num_query, num_item = room.query_SUT.shape[1], given.item_PDN.shape[1]
    together = num_widths if is_nested else 1
    for p in range(CHUNK // PANEL):
        right = _at(given.item_PDN, (c * (CHUNK // PANEL) + p) * num_item * PANEL)
        for s in range((stop - first + ROWS - 1) // ROWS):
            left = _at(room.query_SUT, s * num_query * ROWS)
            for w in range(0, num_widths, together):
                _put_products(
                    left,
                    right,
                    _at(given.block_L3, 3 * w),
                    together,
                    _at(given.scale_LN, w * given.scale_LN.shape[1] + c * CHUNK + p * PANEL),
                    given.scale_LN.shape[1],
                    _at(room.near_CLTN, ((c * num_widths + w) * rows + s * ROWS) * CHUNK + p * PANEL),
                    rows * CHUNK,
                )
    for v in range(first, stop):
        t = v - first
        while room.hit_T[t] < given.hit_start_V[v + 1] and given.hit_H[room.hit_T[t]] < (c + 1) * CHUNK:
            for w in range(num_widths):
                _leave_out(given.hit_H[room.hit_T[t]], w, v, t, given, room)
            room.hit_T[t] += 1


@_part
def _keep_hardest(num: int, w: Any, v: Any, t: Any, given: Any, room: Any, near_N: Any) -> None:
    """Leave out all but the ``num`` negatives that are nearest, whatever their weights.

    Of several that are equally near, as an item that was drawn more than once is, the first ones are kept.
    """
    for n in range(len(near_N)):
        near_N[n] = room.near_CLTN[n // CHUNK, w, t, n % CHUNK]
    least = np.partition(near_N, len(near_N) - num)[len(near_N) - num]
    num_equal = num
    for n in range(len(near_N)):
        if near_N[n] > least:
            num_equal -= 1
    for n in range(len(near_N)):
        if near_N[n] == least:
            num_equal -= 1
        if near_N[n] < least or (near_N[n] == least and num_equal < 0):
            _leave_out(n, w, v, t, given, room)


@_part
def _terms(c: Any, w: Any, v: Any, t: Any, power: Any, given: Any, room: Any) -> None:
    """Add a chunk's exponentials of a row to its sums."""
    _, num_widths, rows, _ = room.near_CLTN.shape
    _add_terms(
        _at(room.near_CLTN, ((c * num_widths + w) * rows + t) * CHUNK),
        _at(given.scale_LV, w * given.scale_LV.shape[1] + v),
        _at(given.log_weight_N, c * CHUNK),
        power,
        _at(room.total_LTl, (w * rows + t) * LANES),
    )


@_part
def _slopes(c: Any, w: Any, first: Any, stop: Any, given: Any, room: Any, found: Any) -> None:
    """Add a width's to a chunk's gradient with respect to products."""
    _, num_widths, rows, _ = room.near_CLTN.shape
    of_chunk = w * given.scale_LN.shape[1] + c * CHUNK
    for v in range(first, stop):
        t = v - first
        _add_slopes(
            _at(room.near_CLTN, ((c * num_widths + w) * rows + t) * CHUNK),
            _at(given.scale_LV, w * given.scale_LV.shape[1] + v),
            _at(given.log_weight_N, c * CHUNK),
            _at(room.power_LTK, (w * rows + t) * NUM_PARTS),
            _at(given.scale_LN, of_chunk),
            _at(room.slope_TN, t * CHUNK),
            _at(found.scale_gradient_LN, of_chunk),
            _at(room.total_LTl, (w * rows + t) * LANES),
        )


@_part
def _back(c: Any, w: Any, num_strips: Any, given: Any, room: Any, found: Any) -> None:
    """Multiply a chunk's gradient with a block's columns of either side, for the gradient of the other side."""
    rows, num_item = room.query_ETl.shape[1], given.item_CENl.shape[1]
    query_register, item_register = rows * LANES, CHUNK * LANES
    of_query, of_item, num = given.block_L3[w]
    query, item = of_query * query_register, (c * num_item + of_item) * item_register
    for _ in range(num // 2):
        for s in range(num_strips):
            sums, right = _at(room.gradient_ETl, query + s * ROWS * LANES), _at(given.item_CENl, item)
            left = _at(room.slope_TN, s * ROWS * CHUNK)
            _add_two(left, CHUNK, 1, right, item_register, CHUNK, sums, query_register)
        for n in range(0, CHUNK, ROWS):
            sums, right = _at(found.item_gradient_CENl, item + n * LANES), _at(room.query_ETl, query)
            _add_two(_at(room.slope_TN, n), 1, CHUNK, right, query_register, num_strips * ROWS, sums, item_register)
        query, item = query + 2 * query_register, item + 2 * item_register
    if num % 2:
        for t in range(0, num_strips * ROWS, 2 * ROWS):
            sums, right = _at(room.gradient_ETl, query + t * LANES), _at(given.item_CENl, item)
            _add_one(_at(room.slope_TN, t * CHUNK), CHUNK, 1, right, item_register, CHUNK, sums, query_register)
        for n in range(0, CHUNK, 2 * ROWS):
            sums, right = _at(found.item_gradient_CENl, item + n * LANES), _at(room.query_ETl, query)
            _add_one(_at(room.slope_TN, n), 1, CHUNK, right, query_register, num_strips * ROWS, sums, item_register)


@_part
def _largest(w: Any, v: Any, t: Any, given: Any, room: Any) -> Any:
    """Return a row's largest logit."""
    most = given.scale_LV.dtype.type(2 * MASKED)
    for n in range(given.scale_LN.shape[1]):
        near = room.near_CLTN[n // CHUNK, w, t, n % CHUNK]
        most = max(most, near * given.scale_LV[w, v] + given.log_weight_N[n])
    return most


@_part
def _follows(log_sum: Any, floor_a: Any, weight_a: Any) -> Any:
    """Return the gradient with respect to a log-sum of what the loss makes of it."""
    total = floor_a.dtype.type(0)
    for a in range(len(floor_a)):
        total += weight_a[a] / (1 + np.exp2(floor_a[a] - log_sum))
    return total


@_part
def _finish_sum(w: Any, v: Any, t: Any, given: Any, room: Any, found: Any) -> None:
    """Fill in a row's log-sum-exp, and what multiplies its exponentials in the gradient."""
    start, total = np.float64(given.from_L[w]), room.total_LTl[w, t].sum()
    if not total >= 2.0**-RANGE:
        # All logits are far below: once more, counted from the largest of them.
        most = _largest(w, v, t, given, room)
        if most < _NONE:
            found.log_sum_LV[w, v], room.power_LTK[w, t] = 2 * MASKED, 0
            return
        start = np.rint(np.float64(most))
        power_parts(1.0, -start, room.power_LTK[w, t])
        room.total_LTl[w, t] = 0
        for c in range(room.near_CLTN.shape[0]):
            _terms(c, w, v, t, _at(room.power_LTK, (w * room.power_LTK.shape[1] + t) * NUM_PARTS), given, room)
        total = room.total_LTl[w, t].sum()
    log_sum = start + np.log2(np.float64(total))
    found.log_sum_LV[w, v] = log_sum
    own = slice(given.pair_start_V[v], given.pair_start_V[v + 1])
    follows = _follows(found.log_sum_LV[w, v], given.floor_LA[w][own], given.weight_LA[w][own])
    power_parts(follows * given.scale_LV[w, v] * _LN2, -log_sum, room.power_LTK[w, t])


@_part
def _sums(
    first: Any, stop: Any, is_nested: Any, near_N: Any, num_hardest: Any, given: Any, room: Any, found: Any
) -> None:
    """Fill in the log-sum-exps of a tile, from products on."""
    num_chunks, num_widths, _, _ = room.near_CLTN.shape
    room.total_LTl[:] = 0
    for c in range(num_chunks):
        _products(c, first, stop, is_nested, given, room)
        if num_hardest == len(near_N):
            for w in range(num_widths):
                for v in range(first, stop):
                    _terms(c, w, v, v - first, _at(given.power_LK, w * NUM_PARTS), given, room)
    for w in range(num_widths):
        for v in range(first, stop):
            if num_hardest < len(near_N):
                _keep_hardest(num_hardest, w, v, v - first, given, room, near_N)
            _finish_sum(w, v, v - first, given, room, found)


@_part
def _gradients(first: Any, stop: Any, is_nested: Any, given: Any, room: Any, found: Any) -> None:
    """Fill in the gradients of a tile, or add it to those of negatives."""
    num_chunks, num_widths, _, _ = room.near_CLTN.shape
    room.gradient_ETl[:] = 0
    room.total_LTl[:] = 0
    for c in range(num_chunks):
        for w in range(num_widths - 1, -1, -1):
            if w == num_widths - 1 or not is_nested:
                room.slope_TN[:] = 0
            _slopes(c, w, first, stop, given, room, found)
            _back(c, w, (stop - first + ROWS - 1) // ROWS, given, room, found)
    for v in range(first, stop):
        for w in range(num_widths):
            found.scale_gradient_LV[w, v] = room.total_LTl[w, v - first].sum()
        for e in range(room.gradient_ETl.shape[0]):
            for k in range(LANES):
                found.query_gradient_VU[v, e * LANES + k] = room.gradient_ETl[e, v - first, k]


@numba.njit(nogil=True, cache=True)
def do_tiles(
    bound_B2: Any,
    is_nested: bool,
    learns: bool,
    num_hardest: int,
    near_N: Any,
    given: Any,
    room: Any,
    found: Any,
) -> None:
    """Do one tile after the other.

    Args:
        bound_B2: each tile's first vector, and the one after its last.
        is_nested: whether a width's products are those of its block, added to the narrower widths'.
        learns: whether gradients are asked for.
        num_hardest: negatives that count for each vector and width.
        near_N: room for the negatives of a row, without what fills up chunks.
        given: what is known.
        room: for a tile, with rows of zeros where it has fewer than there is room for.
        found: what is to be found.
    """
    for b in range(len(bound_B2)):
        first, stop = bound_B2[b]
        _lay_out(first, stop, given, room)
        _sums(first, stop, is_nested, near_N, num_hardest, given, room, found)
        if learns:
            _gradients(first, stop, is_nested, given, room, found)
