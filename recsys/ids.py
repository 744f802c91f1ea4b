"""External ids and dense rows: the only place where one becomes the other.

Everything inside the system speaks in *rows* (0 to n - 1); everything a person or a service sees is an *id*, always a
string. An unknown id is the value `UNKNOWN`, never an exception: logs, histories and requests are full of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from recsys.errors import DataError

UNKNOWN = -1
"""The row of an id that is not in the vocabulary."""


class Vocabulary:
    """An immutable two-way mapping between ids and rows; row ``i`` is the i-th id given.

    Raises:
        DataError: an id appears twice.
    """

    def __init__(self, ids: Sequence[str]) -> None:
        self._ids = list(ids)
        self._row_of = {id_: row for row, id_ in enumerate(self._ids)}
        if len(self._row_of) != len(self._ids):
            seen: set[str] = set()
            twice = next(id_ for id_ in self._ids if id_ in seen or seen.add(id_))  # type: ignore[func-returns-value]
            raise DataError(f"vocabulary: got the id {twice!r} twice, expected every id once")

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, id_: object) -> bool:
        return id_ in self._row_of

    def row(self, id_: str) -> int:
        """Return the id's row, or `UNKNOWN`."""
        return self._row_of.get(id_, UNKNOWN)

    def rows(self, ids: Iterable[str]) -> np.ndarray:
        """Return int64 rows, one per id, `UNKNOWN` where an id is not in the vocabulary."""
        return np.fromiter((self._row_of.get(id_, UNKNOWN) for id_ in ids), dtype=np.int64)

    def id(self, row: int) -> str:
        """Return the id at a row, which must exist."""
        assert 0 <= row < len(self._ids), f"row {row} of {len(self._ids)}"
        return self._ids[row]

    def ids(self, rows: Iterable[int]) -> list[str]:
        """Return the ids at rows, which must all exist."""
        ids, wanted = self._ids, list(rows)
        assert min(wanted, default=0) >= 0, f"row {min(wanted)} of {len(ids)}"
        return [ids[row] for row in wanted]
