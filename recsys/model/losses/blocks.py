"""Every width's squared norms and cosines from one pass over column blocks.

With ``u = [u1 u2 ...]`` and ``v = [v1 v2 ...]`` cut into column blocks at the widths, the inner product of two prefixes
is ``u1.v1 + u2.v2 + ...`` and their squared norms add up in the same way. Going block by block with running sums
therefore gives every width's cosine after multiplying each pair of columns exactly once: the work of one full-width
product, not of the sum of the widths.

Shapes: ``user_VD`` (vectors, full width), ``item_ND`` (negatives, full width), ``cosine_VN``; ``P`` (vector, item)
pairs; ``vector_ND`` of either side.
"""

from __future__ import annotations

from collections.abc import Iterator

from jaxtyping import Float, Int
from torch import Tensor

from recsys.widths import WidthLadder

TINY = 1e-12
"""Least squared norm: a zero prefix has cosine 0 with everything instead of NaN."""


def squares_by_width(vector_ND: Float[Tensor, "rows full"], widths: WidthLadder) -> Iterator[Float[Tensor, "rows 1"]]:
    """Yield the squared norm of every vector's prefix at each width, narrowest first, from running sums over blocks."""
    square_N1 = vector_ND.new_zeros(())
    for block in widths.blocks:
        square_N1 = square_N1 + vector_ND[:, block].square().sum(dim=1, keepdim=True)
        yield square_N1


def cosines_by_width(
    user_VD: Float[Tensor, "vectors full"], item_ND: Float[Tensor, "negatives full"], widths: WidthLadder
) -> Iterator[Float[Tensor, "vectors negatives"]]:
    """Yield the cosine of every vector and item at each width, narrowest first, from running sums over column blocks.

    Args:
        user_VD: ``(vectors, full)``, any scale.
        item_ND: ``(negatives, full)``, any scale.
        widths: the trained widths; ``full`` is the last.
    """
    dot_VN = user_VD.new_zeros(())
    squares = zip(squares_by_width(user_VD, widths), squares_by_width(item_ND, widths), strict=True)
    for block, (user_square_V1, item_square_N1) in zip(widths.blocks, squares, strict=True):
        dot_VN = dot_VN + user_VD[:, block] @ item_ND[:, block].T
        yield dot_VN * user_square_V1.clamp_min(TINY).rsqrt() * item_square_N1.T.clamp_min(TINY).rsqrt()


def pair_cosines_by_width(
    user_VD: Float[Tensor, "vectors full"],
    item_SD: Float[Tensor, "samples full"],
    row_P: Int[Tensor, " pairs"],
    place_P: Int[Tensor, " pairs"],
    widths: WidthLadder,
) -> Iterator[Float[Tensor, " pairs"]]:
    """Yield the cosine of vector ``row_P[i]`` and item ``place_P[i]`` at each width, as `cosines_by_width` does."""
    # Selecting rows has a quicker gradient than indexing by them: it adds whole rows up.
    user_PD, item_PD = user_VD.index_select(0, row_P), item_SD.index_select(0, place_P)
    dot_P = user_VD.new_zeros(())
    squares = zip(squares_by_width(user_PD, widths), squares_by_width(item_PD, widths), strict=True)
    for block, (user_square_P1, item_square_P1) in zip(widths.blocks, squares, strict=True):
        dot_P = dot_P + (user_PD[:, block] * item_PD[:, block]).sum(dim=1)
        norms_P1 = user_square_P1.clamp_min(TINY).rsqrt() * item_square_P1.clamp_min(TINY).rsqrt()
        yield dot_P * norms_P1[:, 0]
