"""The sum over a softmax's negatives at every width, and its gradient, for the products of one width.

An inner product of prefixes is the sum of the inner products of their blocks. So the blocks' products, as many
multiplications as the full width has alone, give every width's; and in the gradient, what a block's columns are
multiplied with is a sum too, over all widths that have the block in them, taken from the widest width down. What
differs by width is then one exponential per logit.

Vectors are taken a tile at a time, with all of their negatives. When a tile's sums are known, so is what the loss makes
of them, and the gradient follows at once: nothing of size (vectors, negatives) outlives its tile, and the backward pass
only scales what is there. (Gradients in the forward pass: arXiv 2410.10989, for language models.) Norms and
temperatures are factors of rows and columns. Whatever a loss does to either is left to autograd, on arrays without a
width's columns.

On a CPU a compiled loop does products and passes (`recsys.model.losses.compiled`). So do kernels on CUDA with Triton
(`recsys.model.losses.fused`), for all that they support: not for the hardest negatives alone, not for a head per width,
not in float64. That, and other devices, is left to torch operations (`recsys.model.losses.passes`).

Shapes: ``query_VU`` (vectors, query size), ``item_ND`` (negatives, full width); ``L`` widths,
``T`` vectors of a tile.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from recsys.model.losses import compiled
from recsys.model.losses.negatives import Negatives
from recsys.model.losses.passes import Pairs, Passes, Scores, nan_if_any
from recsys.widths import WidthLadder

_TILE = 1 << 23
"""Logits of a tile, of all widths: 32 MiB."""

_Way = Callable[..., tuple[Tensor, tuple[Tensor, ...]]]

_ROWS = 16, 256
"""Vectors of a tile: fewer make the products slow, more gain nothing."""


class LogSums(NamedTuple):
    """What is known of the negatives.

    Args:
        log_sum_LV: ``(widths, vectors)`` log-sum-exp of each vector's negatives, without a gradient; `MASKED` where
            none counts.
        carrier: 0, with the gradient that the loss has through ``log_sum_LV``: to be added to it.
    """

    log_sum_LV: Float[Tensor, "widths vectors"]
    carrier: Float[Tensor, ""]


def log_sums(scores: Scores, negatives: Negatives, widths: WidthLadder, pairs: Pairs) -> LogSums:
    """Return the log-sum-exp of each vector's negatives at every width, and how the loss follows it.

    For the gradient to be at hand when it is asked for, the loss must be known beforehand. In its dependence on the
    log-sum-exps it must be the sum over pairs and widths of ``weight * log(exp(floor) + exp(log_sum))``.

    Args:
        scores: of every vector with every negative. All of it has a gradient; nothing else has.
        negatives: their weights, and which do not count.
        widths: the trained widths.
        pairs: vectors, floors and weights that the loss is made of.
    """
    found: tuple[Tensor, Tensor] = _LogSums.apply(*vars(scores).values(), negatives, widths, pairs)  # type: ignore[no-untyped-call]
    return LogSums(*found)


class _LogSums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query_VU: Tensor,
        item_ND: Tensor,
        query_scale_LV: Tensor,
        item_scale_LN: Tensor,
        negatives: Negatives,
        widths: WidthLadder,
        pairs: Pairs,
    ) -> tuple[Tensor, Tensor]:
        scores = Scores(query_VU, item_ND, query_scale_LV, item_scale_LN)
        find = _way(scores, negatives, widths)
        with torch.autocast(query_VU.device.type, enabled=False):
            log_sum_LV, gradients = find(scores, negatives, widths, pairs, learns=any(ctx.needs_input_grad))
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(log_sum_LV)
        return log_sum_LV, query_VU.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return *(one * gradient for one in ctx.saved_tensors), None, None, None


def _way(scores: Scores, negatives: Negatives, widths: WidthLadder) -> _Way:
    """Return what finds log-sum-exps and, if asked for, the gradient with respect to each part of the scores."""
    if scores.query_VU.device.type == "cpu":
        return compiled.log_sums
    if scores.query_VU.device.type == "cuda" and importlib.util.find_spec("triton") is not None:
        from recsys.model.losses import fused

        if fused.supports(scores, negatives, widths):
            return fused.log_sums
    return _by_tile


def _by_tile(
    scores: Scores, negatives: Negatives, widths: WidthLadder, pairs: Pairs, *, learns: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    scores = Scores(*(one.detach() for one in vars(scores).values()))
    query_VU, item_ND = scores.query_VU, scores.item_ND
    passes = Passes(scores, negatives, pairs, widths, learns=learns)
    tiles = _tiles(scores, len(widths))
    product_LTN = query_VU.new_empty(len(widths), tiles[0].stop, len(item_ND))
    query_gradient_VU, item_gradient_ND = torch.zeros_like(query_VU), torch.zeros_like(item_ND)
    for tile in tiles:
        rows = tile.stop - tile.start
        for product_TN, (of_query, of_item) in zip(product_LTN, _columns(widths), strict=True):
            torch.mm(query_VU[tile, of_query], item_ND[:, of_item].T, out=product_TN[:rows])
        passes.run(tile, product_LTN[:, :rows])
        if not learns:
            continue
        for slope_TN, (of_query, of_item) in zip(product_LTN[:, :rows], _columns(widths), strict=True):
            torch.mm(slope_TN, item_ND[:, of_item], out=query_gradient_VU[tile, of_query])
            item_gradient_ND[:, of_item].addmm_(slope_TN.T, query_VU[tile, of_query])
    # Passes give gradients with respect to the logs of scales.
    of_scales = passes.row_LV / scores.query_scale_LV, passes.column_LN / scores.item_scale_LN
    return passes.log_sum_LV + nan_if_any(scores), (query_gradient_VU, item_gradient_ND, *of_scales)


def _tiles(scores: Scores, num_widths: int) -> list[slice]:
    """Return the vectors of each tile, of a bounded size."""
    num_vectors, num_negatives = len(scores.query_VU), len(scores.item_ND)
    least, most = _ROWS
    rows = min(max(_TILE // max(1, num_widths * num_negatives), least), most, num_vectors)
    return [slice(start, min(start + rows, num_vectors)) for start in range(0, num_vectors, rows)]


def _columns(widths: WidthLadder) -> list[tuple[slice, slice]]:
    """Return which columns of queries meet which of items: one block after another, or with heads all of each width."""
    if widths.head == "tied":
        return [(block, block) for block in widths.blocks]
    return [(block, slice(0, width)) for block, width in zip(widths.query_blocks, widths, strict=True)]
