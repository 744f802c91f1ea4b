"""The threads that calls run in, and how many calls they have, those among them that no thread has begun with yet."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent import futures
from typing import Any


class Workers(futures.ThreadPoolExecutor):
    """A pool that counts.

    Args:
        num_threads: how many calls may be here.
        prepare: called in each thread before its first call.

    Attributes:
        num_inside: calls that were given to the pool and have not ended, whatever keeps them.
    """

    def __init__(self, num_threads: int, prepare: Callable[[], object]) -> None:
        super().__init__(num_threads, thread_name_prefix="call", initializer=prepare)
        self._counting = threading.Lock()
        self.num_inside = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **named: Any) -> futures.Future[Any]:
        """Run a call in one of the threads."""
        call = super().submit(fn, *args, **named)
        self._count(1)  # after what may refuse it, as a pool that is shutting down does
        call.add_done_callback(lambda _: self._count(-1))
        return call

    def _count(self, more: int) -> None:
        with self._counting:
            self.num_inside += more


class _AtOnce(futures.ThreadPoolExecutor):
    """Runs what it is given in the thread that gives it."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **named: Any) -> futures.Future[Any]:
        done: futures.Future[Any] = futures.Future()
        done.set_result(fn(*args, **named))
        return done


AT_ONCE = _AtOnce(1)
"""For what takes less time than it takes to wake a thread."""
