"""What every engine is to the searcher.

Shapes: ``query_BU`` (batch, query size), ``rows_BC`` (batch, candidates).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Float, Int64

from recsys.index.item_set import ItemSet
from recsys.index.specs import IndexSpec, RungSpec


@dataclass(slots=True)
class Found:
    """What a scan found, per query, best first.

    Args:
        rows_BC: int64 item rows, `recsys.index.exact.NOTHING` where there were no more.
        scores_BC: float32 scores at the scan's width, as good as its code; minus infinity where there were no more.
        touched_share: bytes of vectors and norms that were read over those of whole vectors, where the engine counts.
        done_share: share of the effort that was spent before the deadline; 1 where all was.
    """

    rows_BC: Int64[np.ndarray, "batch candidates"]
    scores_BC: Float[np.ndarray, "batch candidates"]
    touched_share: float | None = None
    done_share: float = 1.0


class Index(Protocol):
    """One index over the item vectors; nothing in it changes after it is made, so threads may share it."""

    @property
    def spec(self) -> IndexSpec:
        """What it is."""

    @property
    def size_bytes(self) -> int:
        """Bytes of its vectors, ids, cells and links; the shared full-width store is not among them."""

    def search(self, query_BU: np.ndarray, num: int, *, effort: RungSpec, allowed: ItemSet | None) -> Found:
        """Return the best ``num`` items at the index's width among those allowed.

        Args:
            query_BU: unit queries that were checked.
            num: candidates per query, from 1 to the number of items.
            effort: a rung of this index.
            allowed: what queries may get, None for everything. The rest is left out while scanning, so ``num`` items
                are found wherever the effort reaches that many.
        """

    def save(self, folder: Path) -> None:
        """Write it into an existing folder, under its own name."""
