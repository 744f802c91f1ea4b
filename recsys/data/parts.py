"""How the rows of a step are shared out over processes: one run of rows after another, in order of rank."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Parts:
    """How many rows each process has, and which of them are this one's.

    Args:
        counts: rows of each process, in order of rank.
        rank: which process this is.
    """

    counts: tuple[int, ...]
    rank: int = 0

    @classmethod
    def whole(cls, num_rows: int) -> Parts:
        """Give all rows to a process that is alone."""
        return cls((num_rows,))

    @classmethod
    def even(cls, num_rows: int, *, rank: int, world_size: int) -> Parts:
        """Give every process as many rows, or one more."""
        least, rest = divmod(num_rows, world_size)
        return cls(tuple(least + (one < rest) for one in range(world_size)), rank)

    @property
    def total(self) -> int:
        """Rows of all processes."""
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """Rows of a process on average.

        Sums over a process's rows, divided by this and averaged over processes, are means over all rows: so whatever
        averages gradients over processes gives those of the whole step's mean.
        """
        return self.total / len(self.counts)

    @property
    def own(self) -> slice:
        """This process's rows among all."""
        start = sum(self.counts[: self.rank])
        return slice(start, start + self.counts[self.rank])

    def cut(self, counts: Sequence[int]) -> list[Parts]:
        """Return this process's rows as consecutive parts, as if as many processes shared them.

        Args:
            counts: rows of each part.
        """
        assert sum(counts) == self.counts[self.rank], f"counts: got {counts} of {self}"
        shared = (*self.counts[: self.rank], *counts, *self.counts[self.rank + 1 :])
        return [Parts(shared, self.rank + part) for part in range(len(counts))]

    def of_lengths(self, lengths: np.ndarray) -> Parts:
        """Return how what rows hold is shared out with them.

        Args:
            lengths: ``(total,)`` how much each row holds.
        """
        bounds = itertools.pairwise(np.cumsum((0, *self.counts)))
        return Parts(tuple(int(lengths[first:stop].sum()) for first, stop in bounds), self.rank)
