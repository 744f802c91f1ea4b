"""What every width's softmax has in common: its negatives, by their weights, and which of them do not count.

Shapes: ``V`` vectors, ``N`` negatives, ``H`` accidental hits.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

MASKED = -1e30
"""Logit of what does not count. Finite, unlike -inf, so that a softmax of nothing else has a gradient too (zero)."""


@dataclass(frozen=True)
class Negatives:
    """The negatives of a step, the same for all of its vectors but for accidental hits.

    Args:
        log_weight_N: ``(negatives,)`` added to every logit.
        hit_row_H: ``(hits,)`` non-decreasing; with the next, the (vector, negative) pairs that do not count.
        hit_negative_H: ``(hits,)``.
        num_hardest: only so many negatives, those with the highest scores, count for each vector; None means all.
    """

    log_weight_N: Float[Tensor, " negatives"]
    hit_row_H: Int[Tensor, " hits"]
    hit_negative_H: Int[Tensor, " hits"]
    num_hardest: int | None = None

    def hits(self, tile: slice) -> tuple[Tensor, Tensor]:
        """Return the hits of some vectors: rows counted from the first of them, and negatives."""
        start, stop = (int((self.hit_row_H < row).sum()) for row in (tile.start, tile.stop))
        return self.hit_row_H[start:stop] - tile.start, self.hit_negative_H[start:stop]
