"""Every width's scales, products and scaled vectors, by column blocks.

The squared norm of a prefix is a running sum over column blocks, and so is an inner product of two: all of them cost
one pass over the full vectors.

Shapes: ``user_VU`` (vectors, query size), ``item_ND`` (items, full width); ``vector_ND`` of either side; ``w`` a width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from recsys.widths import WidthLadder

TINY = 1e-12
"""Least squared norm: a zero prefix has score 0 with everything instead of NaN."""


def squares_by_width(vector_ND: Float[Tensor, "rows full"], widths: WidthLadder) -> Float[Tensor, "rows widths"]:
    """Return the squared norm of every vector's prefix at each width, narrowest first, by running sums over blocks."""
    return squares_by_block(vector_ND, widths.blocks).cumsum(dim=1)


def squares_by_block(vector_NC: Float[Tensor, "rows columns"], blocks: Sequence[slice]) -> Float[Tensor, "rows blocks"]:
    """Return the squared norm of each block of columns; blocks follow one another from the first column to the last."""
    return cast("Tensor", _Products.apply(vector_NC, None, blocks))  # type: ignore[no-untyped-call]


class _Products(torch.autograd.Function):
    """The inner product of each block of columns of two tensors' rows, or of one with itself.

    Of torch operations each would leave a tensor of the size of the whole to the gradient, and slices one each.
    """

    @staticmethod
    def forward(
        ctx: Any,
        left_NC: Float[Tensor, "rows columns"],
        right_NC: Float[Tensor, "rows columns"] | None,
        blocks: Sequence[slice],
    ) -> Float[Tensor, "rows blocks"]:
        product_NC = left_NC * (left_NC if right_NC is None else right_NC)
        ctx.blocks, ctx.is_square = blocks, right_NC is None
        ctx.save_for_backward(left_NC, *([] if right_NC is None else [right_NC]))
        return torch.stack([product_NC[:, block].sum(dim=1) for block in blocks], dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_NB: Float[Tensor, "rows blocks"]) -> tuple[Tensor | None, Tensor | None, None]:
        left_NC, *right = ctx.saved_tensors
        if ctx.is_square:
            return _scaled(left_NC, 2 * gradient_NB, ctx.blocks), None, None
        of_left = _scaled(right[0], gradient_NB, ctx.blocks) if ctx.needs_input_grad[0] else None
        of_right = _scaled(left_NC, gradient_NB, ctx.blocks) if ctx.needs_input_grad[1] else None
        return of_left, of_right, None


def _scaled(
    value_NC: Float[Tensor, "rows columns"], scale_NB: Float[Tensor, "rows blocks"], blocks: Sequence[slice]
) -> Float[Tensor, "rows columns"]:
    """Return each block of columns times its scale of the row."""
    scaled_NC = torch.empty_like(value_NC)
    for place, block in enumerate(blocks):
        torch.mul(value_NC[:, block], scale_NB[:, place, None], out=scaled_NC[:, block])
    return scaled_NC


def query_scales(user_VU: Float[Tensor, "vectors query"], widths: WidthLadder) -> Float[Tensor, "widths vectors"]:
    """Return what each width's part of a query is multiplied with to be `recsys.widths.query_at`.

    Args:
        user_VU: ``(vectors, query size)``, any scale.
        widths: the trained widths.
    """
    if widths.head == "tied":
        return item_scales(user_VU, widths)
    return squares_by_block(user_VU, widths.query_blocks).T.clamp_min(TINY).rsqrt()


def item_scales(item_ND: Float[Tensor, "items full"], widths: WidthLadder) -> Float[Tensor, "widths items"]:
    """Return what the prefix of each width is multiplied with to be `recsys.widths.truncate`.

    Args:
        item_ND: ``(items, full)``, any scale.
        widths: the trained widths.
    """
    scale_LN = squares_by_width(item_ND, widths).T.clamp_min(TINY).rsqrt()
    return scale_LN[-1:].expand_as(scale_LN) if widths.norm == "full" else scale_LN


def products_by_width(
    user_PU: Float[Tensor, "pairs query"], item_PD: Float[Tensor, "pairs full"], widths: WidthLadder
) -> Float[Tensor, "widths pairs"]:
    """Return the inner product of each pair at every width, before scaling.

    Args:
        user_PU: ``(pairs, query size)``.
        item_PD: ``(pairs, full)``.
        widths: the trained widths.
    """
    if widths.head == "per_width":
        parts = zip(widths.query_blocks, widths, strict=True)
        return torch.stack([(user_PU[:, block] * item_PD[:, :width]).sum(dim=1) for block, width in parts])
    product_PL = cast("Tensor", _Products.apply(user_PU, item_PD, widths.blocks))  # type: ignore[no-untyped-call]
    return product_PL.cumsum(dim=1).T


def queries_by_width(
    user_VU: Float[Tensor, "vectors query"], scale_LV: Float[Tensor, "widths vectors"], widths: WidthLadder
) -> Iterator[Float[Tensor, "vectors width"]]:
    """Yield the scaled query of each width, narrowest first.

    Args:
        user_VU: ``(vectors, query size)``.
        scale_LV: such as `query_scales`.
        widths: the trained widths.
    """
    if widths.head == "tied":
        yield from items_by_width(user_VU, scale_LV, widths)
        return
    for block, scale_V in zip(widths.query_blocks, scale_LV, strict=True):
        yield user_VU[:, block] * scale_V[:, None]


def items_by_width(
    item_ND: Float[Tensor, "items full"], scale_LN: Float[Tensor, "widths items"], widths: WidthLadder
) -> Iterator[Float[Tensor, "items width"]]:
    """Yield the scaled prefix of each width, narrowest first.

    Args:
        item_ND: ``(items, full)``.
        scale_LN: such as `item_scales`.
        widths: the trained widths.
    """
    for width, scale_N in zip(widths, scale_LN, strict=True):
        yield item_ND[:, :width] * scale_N[:, None]
