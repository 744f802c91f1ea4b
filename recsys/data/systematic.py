"""Systematic sampling (Madow, 1949): rows drawn by weight, each with exactly the chance that its weight says.

A comb of equal distances is laid over rows that are as long as their weights. Only the weights' sums over blocks of
rows are held; within a block they are computed again for the teeth that fall on it.

Shapes: ``R`` rows, ``T`` teeth, ``B`` blocks, ``K`` rows of a block.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float64, Int64

_BLOCK = 32
"""Rows whose sum is one number in memory."""
_PIECE = 1 << 12
"""Blocks that are summed at a time."""

Weigh = Callable[[Int64[np.ndarray, " rows"]], Float64[np.ndarray, " rows"]]
"""Gives rows their weights, above 0 and at most 1."""


class SystematicDraw:
    """Draws some of ``num_rows`` rows, none twice.

    Args:
        weigh: says the weights.
        num_rows: all rows.
    """

    def __init__(self, weigh: Weigh, num_rows: int) -> None:
        self._weigh, self._num_rows = weigh, num_rows
        num_blocks = -(-num_rows // _BLOCK)
        sum_B = np.zeros(num_blocks)
        for first in range(0, num_blocks, _PIECE):
            blocks = np.arange(first, min(num_blocks, first + _PIECE))
            sum_B[blocks] = self._weights(blocks).sum(axis=1)
        self._total_B = np.concatenate([[0.0], np.cumsum(sum_B)])
        total = float(self._total_B[-1])
        self.num_drawn = int(total)
        """Rows in one draw: the sum of their weights, rounded down."""
        self.scale = self.num_drawn / total if total > 0 else 0.0
        """A row's chance to be drawn is its weight times this."""

    def rows(self, tooth_T: Int64[np.ndarray, " teeth"], *, offset: float) -> Int64[np.ndarray, " teeth"]:
        """Return the rows that teeth fall on.

        Args:
            tooth_T: ``(teeth,)`` 0 to ``num_drawn`` - 1.
            offset: of the comb, 0 to 1: the one random number of a draw.
        """
        level_T = (tooth_T + offset) / self.scale
        block_T = np.minimum(np.searchsorted(self._total_B, level_T, side="right"), len(self._total_B) - 1) - 1
        end_TK = self._total_B[block_T, None] + np.cumsum(self._weights(block_T), axis=1)
        # Sums are rounded, so a tooth may seem to fall behind the last row.
        place_T = np.minimum((end_TK <= level_T[:, None]).sum(axis=1), _BLOCK - 1)
        row_T: Int64[np.ndarray, " teeth"] = np.minimum(block_T * _BLOCK + place_T, self._num_rows - 1)
        return row_T

    def _weights(self, block_B: Int64[np.ndarray, " blocks"]) -> Float64[np.ndarray, "blocks rows"]:
        """Return the weights of blocks' rows; those behind the last row are 0."""
        row_R = (block_B[:, None] * _BLOCK + np.arange(_BLOCK)).reshape(-1)
        weight_R = self._weigh(np.minimum(row_R, self._num_rows - 1))
        inside_R: Float64[np.ndarray, " rows"] = np.where(row_R < self._num_rows, weight_R, 0.0)
        return inside_R.reshape(-1, _BLOCK)
