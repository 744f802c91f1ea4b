"""Every width's squared norms and cosines from one pass over column blocks.

With ``u = [u1 u2 ...]`` and ``v = [v1 v2 ...]`` cut into column blocks at the widths, the inner product of two prefixes
is ``u1.v1 + u2.v2 + ...`` and their squared norms add up in the same way. Going block by block with running sums
therefore gives every width's cosine after multiplying each pair of columns exactly once: the work of one full-width
product, not of the sum of the widths.

Shapes: ``user_BD`` (batch, full width), ``item_SD`` (samples, full width), ``cosine_BS``; ``vector_ND`` of either side.
"""

from __future__ import annotations

from collections.abc import Iterator

from jaxtyping import Float
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
    user_BD: Float[Tensor, "batch full"], item_SD: Float[Tensor, "samples full"], widths: WidthLadder
) -> Iterator[Float[Tensor, "batch samples"]]:
    """Yield the cosine of every pair at each width, narrowest first, from running sums over column blocks.

    Args:
        user_BD: ``(batch, full)``, any scale.
        item_SD: ``(samples, full)``, any scale.
        widths: the trained widths; ``full`` is the last.
    """
    dot_BS = user_BD.new_zeros(())
    squares = zip(squares_by_width(user_BD, widths), squares_by_width(item_SD, widths), strict=True)
    for block, (user_square_B1, item_square_S1) in zip(widths.blocks, squares, strict=True):
        dot_BS = dot_BS + user_BD[:, block] @ item_SD[:, block].T
        yield dot_BS * user_square_B1.clamp_min(TINY).rsqrt() * item_square_S1.T.clamp_min(TINY).rsqrt()
