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
_FEW = 256
"""Up to so many rows are left out in a loop, and counted, in less time than NumPy takes to begin."""


class ItemSet:
    """A set of rows of one catalogue.

    Args:
        bits_X: one bit per item, the lowest of a byte first; those beyond the last item are 0.
        num_items: items in the catalogue.
        size: items in the set, where that is known; they are counted when somebody asks, where it is not.
    """

    def __init__(self, bits_X: UInt8[np.ndarray, " bytes"], num_items: int, *, size: int | None = None) -> None:
        bits_X.flags.writeable = False
        self.bits_X = bits_X
        self.num_items = num_items
        self._size = size

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
        return cls.all(num_items).without(rows)

    @classmethod
    def all(cls, num_items: int) -> ItemSet:
        """Return the whole catalogue."""
        bits_X = np.full(-(-num_items // _BITS), 255, dtype=np.uint8)
        if rest := num_items % _BITS:
            bits_X[-1] = (1 << rest) - 1
        return cls(bits_X, num_items, size=num_items)

    def without(self, rows: Int64[np.ndarray, " rows"]) -> ItemSet:
        """Return the set without some rows, in any order; those that are not in it change nothing."""
        if len(rows) > _FEW:
            return self - ItemSet.of(rows, self.num_items)
        bits, num_gone = bytearray(self.bits_X.data), 0
        for row in rows.tolist():
            byte, bit = row // _BITS, 1 << row % _BITS
            if 0 <= row < self.num_items and bits[byte] & bit:
                bits[byte] ^= bit
                num_gone += 1
        size = None if self._size is None else self._size - num_gone
        return ItemSet(np.frombuffer(bits, dtype=np.uint8), self.num_items, size=size)

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
        if self._size is None:
            self._size = int(np.bitwise_count(self.bits_X).sum(dtype=np.int64))
        return self._size

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
