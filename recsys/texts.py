"""Many short strings as an Arrow column has them: their UTF-8 bytes one after another, and where each begins.

Some of many are picked by a compiled loop over bytes. A million Python strings lie all over memory; those of an answer
would be waited for one by one, and again when they are written into a message.

Shapes: ``N`` texts, ``K`` of them that are picked; ``start_N1`` has the end of the last one too.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
import pyarrow as pa
from jaxtyping import Int, UInt8


@dataclass(slots=True)
class Texts:
    """An immutable column of strings.

    Args:
        start_N1: int64, where each begins among the bytes, and the end of the last one; never falling.
        utf8: all bytes, contiguous.
    """

    start_N1: Int[np.ndarray, " texts_and_1"]
    utf8: UInt8[np.ndarray, " bytes"]

    @classmethod
    def of(cls, texts: Sequence[str]) -> Texts:
        """Return strings as a column."""
        _, starts, utf8 = pa.array(texts, type=pa.large_string()).buffers()
        return cls(np.frombuffer(starts, dtype=np.int64)[: len(texts) + 1], np.frombuffer(utf8, dtype=np.uint8))

    def __len__(self) -> int:
        return len(self.start_N1) - 1

    def pick(self, row_K: Int[np.ndarray, " picked"], *, beside: Texts) -> Texts:
        """Return the texts at rows, which must all exist; after the last row those of another column go on."""
        return Texts(*_pick(row_K, self.start_N1, self.utf8, beside.start_N1, beside.utf8))

    def to_list(self) -> list[str]:
        """Return the strings."""
        utf8 = self.utf8.tobytes()
        return [utf8[start:end].decode() for start, end in itertools.pairwise(self.start_N1.tolist())]


_WORDS = numba.types.Array(numba.int64, 1, "C", readonly=True)
_BYTES = numba.types.Array(numba.uint8, 1, "C", readonly=True)


@numba.njit([(_WORDS, _WORDS, _BYTES, _WORDS, _BYTES)], cache=True)
def _pick(
    row_K: np.ndarray, start_N1: np.ndarray, utf8: np.ndarray, start_M1: np.ndarray, utf8_beside: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    num, num_beside = len(start_N1) - 1, len(start_M1) - 1
    picked_K1 = np.zeros(len(row_K) + 1, np.int64)
    for k in range(len(row_K)):
        row = row_K[k]
        assert 0 <= row < num + num_beside, "a row of nothing"
        size = start_N1[row + 1] - start_N1[row] if row < num else start_M1[row - num + 1] - start_M1[row - num]
        picked_K1[k + 1] = picked_K1[k] + size
    picked = np.empty(picked_K1[-1], np.uint8)
    for k in range(len(row_K)):
        row, at = row_K[k], picked_K1[k]
        if row < num:
            for place in range(start_N1[row], start_N1[row + 1]):
                picked[at] = utf8[place]
                at += 1
        else:
            for place in range(start_M1[row - num], start_M1[row - num + 1]):
                picked[at] = utf8_beside[place]
                at += 1
    return picked_K1, picked
