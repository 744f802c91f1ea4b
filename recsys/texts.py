"""Many short strings as an Arrow column has them: their UTF-8 bytes one after another, and where each begins.

A million Python strings lie all over memory: those of an answer would be waited for one by one, and again when they are
written into a message. From a column their bytes can be copied as they are.

Shapes: ``N`` texts, ``K`` of them that are picked; ``start_N1`` has the end of the last one too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

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

    def pick(self, row_K: Int[np.ndarray, " picked"], *, beside: Texts) -> PickedTexts:
        """Return the texts at rows, which must all exist; after the last row those of another column go on."""
        return PickedTexts(row_K, self, beside)

    def __getitem__(self, row: int) -> str:
        start, end = self.start_N1[row : row + 2].tolist()
        return self.utf8[start:end].tobytes().decode()


class PickedTexts(NamedTuple):
    """Some texts of two columns, one after the other, before anybody looks at them.

    Args:
        row_K: int64, their rows.
        column: the first column.
        beside: the other one, whose rows go on where the first one's end.
    """

    row_K: Int[np.ndarray, " picked"]
    column: Texts
    beside: Texts

    def to_list(self) -> list[str]:
        """Return the strings."""
        row_K, column, beside = self
        num = len(column)
        return [column[row] if row < num else beside[row - num] for row in row_K.tolist()]
