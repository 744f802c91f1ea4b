"""Which cells items are in: one each, and a second one for a few that many ask for.

Shapes: ``cell_N`` (items,), ``twice_T`` and ``cell_T`` (items with a second cell,).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

_PAGE = 1 << 16


@dataclass(frozen=True)
class Assignment:
    """Cells of items.

    Args:
        cell_N: the cell of each item.
        twice_T: rows of items that are in a second cell too, ascending.
        cell_T: that cell of each.
    """

    cell_N: Int64[np.ndarray, " items"]
    twice_T: Int64[np.ndarray, " twice"]
    cell_T: Int64[np.ndarray, " twice"]

    @classmethod
    def once(cls, cell_N: Int64[np.ndarray, " items"]) -> Assignment:
        """Return that every item is in one cell."""
        none = np.zeros(0, dtype=np.int64)
        return cls(cell_N, none, none)

    def pages(self) -> Iterator[tuple[Int64[np.ndarray, " page"], Int64[np.ndarray, " page"]]]:
        """Yield rows of items and their cells, some at a time, those of second cells last."""
        rows = np.concatenate([np.arange(len(self.cell_N)), self.twice_T])
        cells = np.concatenate([self.cell_N, self.cell_T])
        for start in range(0, len(rows), _PAGE):
            yield rows[start : start + _PAGE], cells[start : start + _PAGE]
