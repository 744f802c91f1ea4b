"""Making the next batches while the one before them is worked on: in one thread, a few at most, in the same order."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_T = TypeVar("_T")


@contextlib.contextmanager
def prefetched(source: Iterator[_T], *, ahead: int) -> Iterator[Iterator[_T]]:
    """Yield an iterator over the same things, of which a thread makes up to ``ahead`` before they are asked for.

    What ``source`` raises is raised where the thing would have come. However the block ends, the thread ends before
    it does, once it has made the one thing that it was at; what was made and not asked for is dropped.

    Args:
        source: is used by the thread alone from now on.
        ahead: things that may wait to be asked for, at least 1.
    """
    assert ahead > 0, f"ahead: got {ahead}"
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
        made: deque[Future[object]] = deque(pool.submit(next, source, end) for _ in range(ahead))

        def in_order() -> Iterator[_T]:
            while (thing := made.popleft().result()) is not end:
                made.append(pool.submit(next, source, end))
                yield thing  # type: ignore[misc]

        try:
            yield in_order()
        finally:
            for one in made:
                one.cancel()
