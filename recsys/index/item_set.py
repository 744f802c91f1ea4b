"""Sets of item rows: what an answer may hold, as one bit per item, which every engine can ask while it scans.

Sets are values: nothing in one changes after it is made, so threads may share it. Shapes: ``bits_X`` (bytes,), ``rows``
(items of the set,).
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import faiss
import numpy as np
from jaxtyping import Bool, Int64, UInt8

_BITS = 8
_MANY = 1 / 128
"""Share of the items from which on it takes less time to mark all in bytes and pack these, than to set bit by bit."""


class ItemSet:
    """A set of rows of one catalogue.

    Args:
        bits_X: one bit per item, the lowest of a byte first; those beyond the last item are 0.
        num_items: items in the catalogue.
    """

    def __init__(self, bits_X: UInt8[np.ndarray, " bytes"], num_items: int) -> None:
        bits_X.flags.writeable = False
        self.bits_X = bits_X
        self.num_items = num_items

    @classmethod
    def of(cls, rows: Int64[np.ndarray, " rows"], num_items: int) -> ItemSet:
        """Return the set of some rows, in any order; rows outside the catalogue are left out."""
        rows = rows[(rows >= 0) & (rows < num_items)]
        if len(rows) > _MANY * num_items:
            marked_N = np.zeros(num_items, dtype=bool)
            marked_N[rows] = True
            return cls(np.packbits(marked_N, bitorder="little"), num_items)
        bits_X = np.zeros(-(-num_items // _BITS), dtype=np.uint8)
        np.bitwise_or.at(bits_X, rows // _BITS, np.left_shift(1, rows % _BITS).astype(np.uint8))
        return cls(bits_X, num_items)

    @classmethod
    def all_but(cls, rows: Int64[np.ndarray, " rows"], num_items: int) -> ItemSet:
        """Return the whole catalogue without some rows."""
        bits_X = ~cls.of(rows, num_items).bits_X
        if rest := num_items % _BITS:
            bits_X[-1] &= (1 << rest) - 1
        return cls(bits_X, num_items)

    def __and__(self, other: ItemSet) -> ItemSet:
        """Return what is in both."""
        return ItemSet(self.bits_X & other.bits_X, self.num_items)

    def __or__(self, other: ItemSet) -> ItemSet:
        """Return what is in either."""
        return ItemSet(self.bits_X | other.bits_X, self.num_items)

    def __sub__(self, other: ItemSet) -> ItemSet:
        """Return what is in this one alone."""
        return ItemSet(self.bits_X & ~other.bits_X, self.num_items)

    def __len__(self) -> int:
        """Items in the set."""
        return self._count

    def holds(self, rows: Int64[np.ndarray, " rows"]) -> Bool[np.ndarray, " rows"]:
        """Return which rows are in the set; negative ones are not."""
        bit = np.right_shift(self.bits_X[rows // _BITS], (rows % _BITS).astype(np.uint8)) & 1
        held: np.ndarray = (bit == 1) & (rows >= 0)
        return held

    @cached_property
    def rows(self) -> Int64[np.ndarray, " rows"]:
        """The rows in the set, ascending."""
        byte = np.flatnonzero(self.bits_X)
        place, bit = np.nonzero(np.unpackbits(self.bits_X[byte, None], axis=1, bitorder="little"))
        rows: np.ndarray = _BITS * byte[place] + bit
        return rows

    @cached_property
    def selector(self) -> Any:
        """FAISS's form of it, which reads the bits where they lie."""
        return faiss.IDSelectorBitmap(self.bits_X)  # type: ignore[call-arg, arg-type]

    @cached_property
    def _count(self) -> int:
        return int(np.bitwise_count(self.bits_X).sum(dtype=np.int64))
