"""Dropout that does not depend on how many processes share a step.

Every process draws for the rows of all, from generators that a step finds in the same state, and uses what falls on its
own. So a step drops the same units whether one process does it or several.

Shapes: ``value_RC`` this process's rows.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recsys.data.parts import Parts


class RowDropout(nn.Module):
    """Like `torch.nn.Dropout`, for rows of which other processes have more.

    Args:
        share: of values that are dropped in training.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(
        self, value_RC: Float[Tensor, "rows columns"], rows: Parts | None = None
    ) -> Float[Tensor, "rows columns"]:
        """Return the values, in training some as zeros and the others larger by as much.

        Args:
            value_RC: ``(rows, columns)``.
            rows: which of a step's rows these are; None for all of them.
        """
        if not self.is_active:
            return value_RC
        return value_RC * self.factors(value_RC, rows or Parts.whole(len(value_RC)))

    @property
    def is_active(self) -> bool:
        """Whether anything is dropped."""
        return self.training and self.share > 0

    def factors(self, like: Float[Tensor, "any columns"], rows: Parts) -> Float[Tensor, "rows columns"]:
        """Draw what this process's rows are multiplied with; there are as many columns as ``like`` has."""
        kept_AC = like.new_empty(rows.total, like.shape[1]).bernoulli_(1 - self.share)
        return kept_AC[rows.own].div_(1 - self.share)


def draw_rows(num_rows: int, rows: Parts | None, device: torch.device) -> Float[Tensor, " rows"]:
    """Return a number between 0 and 1 for each of this process's rows.

    Args:
        num_rows: of this process.
        rows: which of a step's rows these are; None for all of them.
        device: to draw on.
    """
    rows = rows or Parts.whole(num_rows)
    return torch.rand(rows.total, device=device)[rows.own]
