"""Work on threads that each do all of their part, products included, alone.

torch's own threads join after every operation, and busily wait for the next one: work on other threads in between would
wait for a core. So each of these threads takes operations as it would on a machine of one core.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")


def on_threads(work: Callable[[Sequence[Part]], Result], parts: Sequence[Part], num_threads: int) -> list[Result]:
    """Deal parts out to threads, always in the same way, and return what each thread makes of its own.

    Without gradients, which are a thread's own setting. On a single thread it is the calling one, as it is.

    Args:
        work: from some parts to a result; not called without any.
        parts: what is to be done, alike in size.
        num_threads: at most so many.
    """
    shares = [share for first in range(num_threads) if (share := parts[first::num_threads])]

    def alone(share: Sequence[Part]) -> Result:
        with torch.no_grad():
            return work(share)

    if len(shares) <= 1:
        return [alone(share) for share in shares]
    results = list(_pool(num_threads).map(alone, shares))
    torch.set_num_threads(num_threads)  # for threads to come, which would do as the last one that was started here
    return results


@cache
def _pool(num_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(num_threads, thread_name_prefix="loss", initializer=torch.set_num_threads, initargs=(1,))
