"""Every width's vectors, scaled as scores have them, and the squared norms that scale them.

The squared norm of a prefix is a running sum over column blocks, so all of them cost one pass over the full vectors.
Scaled before they are multiplied, vectors give scores without a pass over the (much larger) matrix of scores.

Shapes: ``user_VU`` (vectors, query size), ``item_ND`` (items, full width); ``vector_ND`` of either side; ``w`` a width.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor

from recsys.widths import WidthLadder

TINY = 1e-12
"""Least squared norm: a zero prefix has score 0 with everything instead of NaN."""


def squares_by_width(vector_ND: Float[Tensor, "rows full"], widths: WidthLadder) -> Iterator[Float[Tensor, "rows 1"]]:
    """Yield the squared norm of every vector's prefix at each width, narrowest first, from running sums over blocks."""
    return itertools.accumulate(vector_ND[:, block].square().sum(dim=1, keepdim=True) for block in widths.blocks)


def queries_by_width(
    user_VU: Float[Tensor, "vectors query"], widths: WidthLadder
) -> Iterator[Float[Tensor, "vectors width"]]:
    """Yield `recsys.widths.query_at` of each width, narrowest first, for training: zeros stay zeros.

    Args:
        user_VU: ``(vectors, query size)``, any scale.
        widths: the trained widths.
    """
    if widths.head == "tied":
        yield from items_by_width(user_VU, widths)
        return
    for block in widths.query_blocks:
        user_Vw = user_VU[:, block]
        yield user_Vw * _inverse_norm(user_Vw.square().sum(dim=1, keepdim=True))


def items_by_width(item_ND: Float[Tensor, "items full"], widths: WidthLadder) -> Iterator[Float[Tensor, "items width"]]:
    """Yield `recsys.widths.truncate` of each width, narrowest first, for training: zeros stay zeros.

    Args:
        item_ND: ``(items, full)``, any scale.
        widths: the trained widths.
    """
    squares = list(squares_by_width(item_ND, widths))
    for width, square_N1 in zip(widths, squares, strict=True):
        yield item_ND[:, :width] * _inverse_norm(squares[-1] if widths.norm == "full" else square_N1)


def _inverse_norm(square_N1: Tensor) -> Tensor:
    return square_N1.clamp_min(TINY).rsqrt()
