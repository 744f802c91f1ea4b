"""The sums over negatives of all widths and their gradient on a CPU, by a compiled loop over tiles of vectors.

All passes over logits and all products are the kernel's (`recsys.model.losses.kernels`); here vectors are laid out for
it, tiles are dealt out to threads, and what is found is put together again.

Shapes: as in `recsys.model.losses.partition` and in the kernel.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recsys.model.losses.blocks import squares_by_block, squares_by_width
from recsys.model.losses.kernels import (
    CHUNK,
    LANES,
    NUM_PARTS,
    PANEL,
    RANGE,
    ROWS,
    Found,
    Given,
    Room,
    do_tiles,
    power_parts,
)
from recsys.model.losses.negatives import MASKED, Negatives
from recsys.model.losses.passes import Pairs, Scores, nan_if_any
from recsys.model.losses.threads import on_threads
from recsys.widths import WidthLadder

_LOG2_E = 1 / math.log(2)
_ROWS = 24 * ROWS
"""Vectors of a tile, at most. All negatives pass by each tile: with fewer they do so more often, more gain nothing."""
_TILE = 1 << 25
"""Logits of a tile, of all widths, that a thread has room for: 128 MiB."""


@dataclass(frozen=True)
class _Columns:
    """Where a width's columns begin, when those of each block are filled up to whole registers.

    Args:
        query: columns of a vector that stay side by side, and the first of their registers.
        item: those of a negative.
        num_query: registers of a vector.
        num_item: and of a negative.
        block_L3: of each width the first register of either, and how many there are.
    """

    query: Sequence[tuple[slice, int]]
    item: Sequence[tuple[slice, int]]
    num_query: int
    num_item: int
    block_L3: np.ndarray

    @classmethod
    def of(cls, widths: WidthLadder) -> _Columns:
        """Fill up the blocks of a ladder; of a head per width, each prefix as it is filled up for negatives."""
        num_L = [-(-(block.stop - block.start) // LANES) for block in widths.blocks]
        *start_L, num_item = itertools.accumulate(num_L, initial=0)
        blocks = list(zip(widths.blocks, start_L, strict=True))
        item = _runs(blocks)
        if widths.head == "tied":
            return cls(item, item, num_item, num_item, np.stack([start_L, start_L, num_L], axis=1))
        prefix_L = list(itertools.accumulate(num_L))
        *first_L, num_query = itertools.accumulate(prefix_L, initial=0)
        query = [
            (slice(whole.start + block.start, whole.start + block.stop), first + start)
            for whole, first, narrower in zip(widths.query_blocks, first_L, range(1, len(widths) + 1), strict=True)
            for block, start in blocks[:narrower]
        ]
        return cls(
            _runs(query), item, num_query, num_item, np.stack([first_L, np.zeros_like(first_L), prefix_L], axis=1)
        )


def _runs(blocks: Sequence[tuple[slice, int]]) -> Sequence[tuple[slice, int]]:
    """Return blocks with all that stay side by side as one."""
    runs: list[tuple[slice, int]] = []
    for block, start in blocks:
        first, first_start = runs[-1] if runs else (slice(-1, -1), 0)
        if first.stop == block.start and (start - first_start) * LANES == block.start - first.start:
            runs[-1] = slice(first.start, block.stop), first_start
        else:
            runs.append((block, start))
    return runs


def _filled(value_NC: Tensor, runs: Sequence[tuple[slice, int]], num_rows: int, num_registers: int) -> Tensor:
    """Return rows with columns where their registers are, and zeros elsewhere."""
    filled_NC = value_NC.new_zeros(num_rows, num_registers * LANES)
    for run, start in runs:
        filled_NC[: len(value_NC), start * LANES :][:, : run.stop - run.start] = value_NC[:, run]
    return filled_NC


def _emptied(filled_NC: Tensor, runs: Sequence[tuple[slice, int]]) -> Tensor:
    """Return rows without what they were filled up with."""
    return torch.cat([filled_NC[:, start * LANES :][:, : run.stop - run.start] for run, start in runs], dim=1)


def log_sums(
    scores: Scores, negatives: Negatives, widths: WidthLadder, pairs: Pairs, *, learns: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return log-sum-exps and, if asked for, the gradient with respect to each part of the scores.

    Args:
        scores: of every vector with every negative, on a CPU.
        negatives: their weights, and which do not count.
        widths: the trained widths.
        pairs: vectors, floors and weights that the loss is made of.
        learns: whether gradients are asked for; without, they are 0.
    """
    query_VU, item_ND, query_scale_LV, item_scale_LN = (one.detach() for one in vars(scores).values())
    num_widths, (num_vectors, num_negatives) = len(widths), (len(query_VU), len(item_ND))
    num_hardest = min(negatives.num_hardest or num_negatives, num_negatives)
    columns = _Columns.of(widths)
    given = _given(scores, negatives, widths, pairs, columns)
    log_sum_LV, row_LV = (query_VU.new_zeros(num_widths, num_vectors) for _ in range(2))
    query_gradient_VU = query_VU.new_zeros(given.query_VU.shape)

    def run(tiles: Sequence[slice]) -> tuple[Tensor, Tensor]:
        """Do some tiles; return what is a sum over them: gradients of the logs of items' scales and of items."""
        sums = query_VU.new_zeros(given.scale_LN.shape), query_VU.new_zeros(given.item_CENl.shape)
        num_chunks = len(given.item_CENl)
        room = _room(query_VU, columns, num_widths, num_chunks, max(one.stop - one.start for one in tiles))
        near_N = query_VU.new_empty(num_negatives).numpy()
        found = Found(*(one.numpy() for one in (log_sum_LV, row_LV, query_gradient_VU, *sums)))
        bound_B2 = np.array([(tile.start, tile.stop) for tile in tiles])
        do_tiles(bound_B2, widths.head == "tied", learns, num_hardest, near_N, given, room, found)
        return sums

    num_threads = torch.get_num_threads()
    results = on_threads(run, _tiles(num_vectors, num_widths * num_negatives, num_threads), num_threads)
    column_LN, item_gradient_CENl = (sum(parts[1:], parts[0]) for parts in zip(*results, strict=True))
    item_gradient_ND = item_gradient_CENl.transpose(1, 2).flatten(0, 1).flatten(1)[:num_negatives]
    # The kernel gives gradients with respect to the logs of scales.
    of_scales = row_LV / query_scale_LV, column_LN[:, :num_negatives] / item_scale_LN
    log_sum_LV = (log_sum_LV / _LOG2_E).clamp_min(MASKED) + nan_if_any(scores)
    return log_sum_LV, (
        _emptied(query_gradient_VU, columns.query),
        _emptied(item_gradient_ND, columns.item),
        *of_scales,
    )


def _given(scores: Scores, negatives: Negatives, widths: WidthLadder, pairs: Pairs, columns: _Columns) -> Given:
    """Lay out what is known of all tiles."""
    query_VU, item_ND, query_scale_LV, item_scale_LN = (one.detach() for one in vars(scores).values())
    num_widths, (num_vectors, num_negatives) = len(widths), (len(query_VU), len(item_ND))
    filled = max(1, -(-num_negatives // CHUNK)) * CHUNK  # one chunk too where there are no negatives
    item_filled_ND = _filled(item_ND, columns.item, filled, columns.num_item)
    scale_LN = item_ND.new_ones(num_widths, filled)
    scale_LN[:, :num_negatives] = item_scale_LN
    log_weight_N = item_ND.new_full((filled,), 2 * MASKED)
    log_weight_N[:num_negatives] = negatives.log_weight_N * _LOG2_E
    scale_LV, vectors = query_scale_LV * _LOG2_E, torch.arange(num_vectors + 1)
    bound_L = _bounds(query_VU, item_ND, scale_LV, item_scale_LN, widths) + log_weight_N.max()
    # Mostly 0, and if not, with powers above 1 as likely as below: so the least is lost to rounding and to underflow.
    from_L = (bound_L - RANGE).clamp_min(0).round()
    power_LK = query_VU.new_empty(num_widths, NUM_PARTS)
    for start, power_K in zip(from_L.tolist(), power_LK.numpy(), strict=True):
        power_parts(1.0, -start, power_K)
    return Given(
        columns.block_L3,
        *_read(
            _filled(query_VU, columns.query, num_vectors, columns.num_query),
            item_filled_ND.view(-1, PANEL, columns.num_item * LANES).transpose(1, 2),
            item_filled_ND.view(-1, CHUNK, columns.num_item, LANES).transpose(1, 2),
            scale_LV,
            scale_LN,
            log_weight_N,
            from_L,
            power_LK,
            torch.searchsorted(negatives.hit_row_H, vectors),
            negatives.hit_negative_H[(negatives.hit_row_H * num_negatives + negatives.hit_negative_H).argsort()],
            torch.searchsorted(pairs.row_P, vectors),
            pairs.floor_LP * _LOG2_E,
            pairs.weight_LP,
        ),
    )


def _bounds(query_VU: Tensor, item_ND: Tensor, scale_LV: Tensor, scale_LN: Tensor, widths: WidthLadder) -> Tensor:
    """Return for each width what no logit is above, but for weights and rounding (Cauchy-Schwarz)."""
    if widths.head == "tied":
        query_VL = squares_by_width(query_VU, widths)
    else:
        query_VL = squares_by_block(query_VU, widths.query_blocks)
    longest_query_L, longest_item_L = (
        torch.nn.functional.pad(square.sqrt().T * scale, (0, 1)).amax(dim=1)  # of none it is 0
        for square, scale in ((query_VL, scale_LV), (squares_by_width(item_ND, widths), scale_LN))
    )
    return longest_query_L * longest_item_L


def _room(like: Tensor, columns: _Columns, num_widths: int, num_chunks: int, rows: int) -> Room:
    """Make room for tiles of so many vectors, filled up to pairs of strips."""
    num_strips = -(-rows // (2 * ROWS)) * 2
    rows = num_strips * ROWS
    number, panels = like.numpy().dtype, (columns.num_query, rows, LANES)
    # numpy asks for large pages for large arrays, torch does not.
    return Room(
        query_SUT=np.zeros((num_strips, columns.num_query * LANES, ROWS), number),
        query_ETl=np.zeros(panels, number),
        gradient_ETl=np.empty(panels, number),
        near_CLTN=np.empty((num_chunks, num_widths, rows, CHUNK), number),
        slope_TN=np.zeros((rows, CHUNK), number),
        hit_T=np.empty(rows, np.int64),
        power_LTK=np.empty((num_widths, rows, NUM_PARTS), number),
        total_LTl=np.empty((num_widths, rows, LANES), number),
    )


def _tiles(num_vectors: int, num_logits: int, num_threads: int) -> list[slice]:
    """Return the vectors of each tile, with so many logits a vector; for each thread as many tiles, about alike."""
    most = max(1, min(_TILE // max(1, num_logits), _ROWS))
    rounds = -(-num_vectors // (most * num_threads))
    rows = -(-num_vectors // (rounds * num_threads))
    rows = -(-rows // ROWS) * ROWS if most >= ROWS else rows
    return [slice(start, min(start + rows, num_vectors)) for start in range(0, num_vectors, rows)]


def _read(*tensors: Tensor) -> list[np.ndarray]:
    """Return tensors to read as the kernel takes them."""
    return [one.contiguous().numpy() for one in tensors]
