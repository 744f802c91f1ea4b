"""How long a search may take, so that it can stop in time with the best that it has."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

_SPARE = 2.0
"""A search that may take this many times what it usually takes at most is not cut into pieces."""


@dataclass(kw_only=True)
class Deadline:
    """The moment by which a search has to have ended, and what is known of how long it takes.

    Args:
        until_s: that moment, on the clock of `time.perf_counter`.
        search_ms: what the search takes at most as a rule (its p99), stages after the scan included.
        rerank_ms: kept back for those stages.
    """

    until_s: float
    search_ms: float
    rerank_ms: float = 0.0

    @property
    def left_s(self) -> float:
        """Seconds that are left, negative past the deadline."""
        return self.until_s - time.perf_counter()

    @property
    def spare(self) -> bool:
        """Whether so much time is left that a search need not look at the clock."""
        return 1e3 * self.left_s >= _SPARE * self.search_ms

    @property
    def scan_until_s(self) -> float:
        """The moment by which the scan has to have ended."""
        return self.until_s - self.rerank_ms / 1e3

    def times(self, factor: float) -> Deadline:
        """Return the deadline of a search whose scan reads that many times as much."""
        return self if factor == 1 else replace(self, search_ms=factor * self.search_ms)


class Pace:
    """How much of a piece of work to do next, so that it ends in time or stops just before.

    Each part is half of what fits into the time left by the pace of the part before, or all that is left where twice of
    it fits: a few parts get close to any deadline, and two are enough where there is time.

    Args:
        total: units of the whole work.
        first: units of the first part, which is done whatever the time.
        until_s: when to stop, on the clock of `time.perf_counter`.
    """

    def __init__(self, total: int, *, first: int, until_s: float) -> None:
        self.total = total
        self.done = 0
        self._next = min(first, total)
        self._until_s = until_s
        self._since_s = time.perf_counter()

    @property
    def share(self) -> float:
        """Share of the work that is done."""
        return self.done / self.total if self.total else 1.0

    def next(self) -> slice | None:
        """Return the next part, None where there is none or no time for it. Call it when the part before is done."""
        if self.done == self.total:
            return None
        now_s = time.perf_counter()
        if self.done:
            per_unit_s = max(now_s - self._since_s, 1e-9) / self._next
            left, fitting = self.total - self.done, int((self._until_s - now_s) / per_unit_s)
            self._next = left if fitting >= 2 * left else min(left, fitting // 2)
        if self._next < 1:
            return None
        self._since_s = now_s
        part = slice(self.done, self.done + self._next)
        self.done = part.stop
        return part
