"""Every width's scales, products and scaled vectors, by column blocks.

The squared norm of a prefix is a running sum over column blocks, and so is an inner product of two: all of them cost
one pass over the full vectors.

Shapes: ``user_VU`` (vectors, query size), ``item_ND`` (items, full width); ``vector_ND`` of either side; ``w`` a width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from recsys.widths import WidthLadder

TINY = 1e-12
"""Least squared norm: a zero prefix has score 0 with everything instead of NaN."""


def squares_by_width(vector_ND: Float[Tensor, "rows full"], widths: WidthLadder) -> Float[Tensor, "rows widths"]:
    """Return the squared norm of every vector's prefix at each width, narrowest first, by running sums over blocks."""
    return sums_by_block(vector_ND.square(), widths.blocks).cumsum(dim=1)


def sums_by_block(value_NC: Float[Tensor, "rows columns"], blocks: Sequence[slice]) -> Float[Tensor, "rows blocks"]:
    """Return the sum of each block of columns; blocks follow one another from the first column to the last.

    A split has one gradient for all of them. Each slice would have one of its own, of the size of the whole.
    """
    sizes = [block.stop - block.start for block in blocks]
    parts = value_NC.split(sizes, dim=1)  # type: ignore[no-untyped-call]
    return torch.stack([part.sum(dim=1) for part in parts], dim=1)


def query_scales(user_VU: Float[Tensor, "vectors query"], widths: WidthLadder) -> Float[Tensor, "widths vectors"]:
    """Return what each width's part of a query is multiplied with to be `recsys.widths.query_at`.

    Args:
        user_VU: ``(vectors, query size)``, any scale.
        widths: the trained widths.
    """
    if widths.head == "tied":
        return item_scales(user_VU, widths)
    return sums_by_block(user_VU.square(), widths.query_blocks).T.clamp_min(TINY).rsqrt()


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
    return sums_by_block(user_PU * item_PD, widths.blocks).cumsum(dim=1).T


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
