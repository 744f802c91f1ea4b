"""At most so many of something per second."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class RateLimit:
    """Lets through what comes no faster than a rate, and a second's worth (at least one) at once. Safe for threads.

    Args:
        per_s: how many per second, on average; with 0 only the first passes.
        clock: seconds that never go back.
    """

    def __init__(self, per_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s, self._clock = per_s, clock
        self._most = max(1.0, per_s)
        self._left, self._counted_s = self._most, clock()
        self._counting = threading.Lock()

    def take(self) -> bool:
        """Return whether one more may pass now, and count it if so."""
        with self._counting:
            now_s = self._clock()
            self._left = min(self._most, self._left + self._per_s * (now_s - self._counted_s))
            self._counted_s = now_s
            if self._left < 1:
                return False
            self._left -= 1
            return True
