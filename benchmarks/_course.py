"""One training against the clock: evaluated as it goes while the clock stands still, ended by a goal or a limit.

A checkpoint is evaluated where training has gone on by a twentieth since the last one (a fifth in trials), so a time is
at most a twentieth, or one epoch, late, whoever trains. While a seeded sample of users says that the goal is far, the
sample is all that is ranked; the goal counts as reached by all users' recall alone, but in trials.

Shapes: ``user_QX`` (users that are evaluated, dimensions), ``item_NX`` (items, dimensions): what is multiplied.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from recsys.data.dataset import Queries
from recsys.evaluate.protocol import measure
from recsys.index.exact import exact_top_k

DEPTH = 20
METRIC = f"recall@{DEPTH}"
_SPACING, _SPACING_OF_TRIALS = 1.05, 1.2
_NEAR = 0.015
"""How far under the goal a sample's recall is still looked into: about three standard errors of 4,000 users'."""

Vectors = Callable[[], tuple[np.ndarray, np.ndarray]]
"""Makes every user's and every item's vector, by row; their inner products rank."""


@dataclass(frozen=True)
class Goal:
    """What is to be reached.

    Args:
        recall: the recall@20 over all queries.
        queries: of the test split.
        sampled: places of some of them, increasing.
    """

    recall: float
    queries: Queries
    sampled: np.ndarray

    @classmethod
    def of(cls, recall: float, queries: Queries, *, num_sampled: int, seed: int = 1) -> Goal:
        """Return a goal with a seeded sample of the queries; all of them where there are no more."""
        size = min(num_sampled, len(queries))
        return cls(recall, queries, np.sort(np.random.default_rng(seed).choice(len(queries), size, replace=False)))

    def recall_of(self, user_UX: np.ndarray, item_NX: np.ndarray, *, sampled: bool) -> float:
        """Return the mean recall@20 of vectors, given for all users of the dataset by row; seen items left out.

        Raises:
            WidthError: the vectors are not finite, or not of one width.
        """
        queries = self.queries.take(self.sampled) if sampled else self.queries
        masked = queries.history if queries.mask_seen else None
        _, ranked_QK = exact_top_k(user_UX[queries.user], item_NX, k=DEPTH, masked=masked)
        return measure(ranked_QK, queries, name="", num_items=len(item_NX), ks=(DEPTH,)).mean(METRIC)


class Ended(BaseException):
    """The goal or the limit was reached. Not an error: no library's handler of errors shall keep it."""


class Course:
    """A training under way.

    Args:
        goal: what is to be reached.
        limit_s: seconds of training after which the next checkpoint is the last.
        sampled: whether the sample alone is ranked, and decides: for trials of settings.
    """

    def __init__(self, goal: Goal, *, limit_s: float, sampled: bool = False) -> None:
        self.goal, self.limit_s, self.sampled = goal, limit_s, sampled
        self.curve: list[dict[str, float]] = []
        self.reached = False
        self.seconds = self.cpu_seconds = 0.0
        self._spacing = _SPACING_OF_TRIALS if sampled else _SPACING
        self._since = (0.0, 0.0)

    def run(self, training: Callable[[Course], None]) -> dict[str, Any]:
        """Train, which calls `checkpoint` now and then, until that ends it; return what became of it as plain values.

        ``seconds`` and ``cpu_seconds`` are of training alone, until the goal or, if it was not ``reached``, the end.
        """
        with contextlib.suppress(Ended):
            self._go_on()
            training(self)
            self._stop()
        best = max(self.curve, key=lambda point: point[METRIC]) if self.curve else None
        return {
            "reached": self.reached,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "best": best,
            "curve": self.curve,
        }

    def checkpoint(self, vectors: Vectors) -> None:
        """Stop the clock and evaluate, where that is due.

        Raises:
            Ended: training shall not go on.
        """
        self._stop()
        last, over = self.curve[-1]["seconds"] if self.curve else 0.0, self.seconds >= self.limit_s
        if over or self.seconds >= self._spacing * last:
            self._evaluate(*vectors(), over=over)
            if self.reached or over:
                raise Ended
        self._go_on()

    def _evaluate(self, user_UX: np.ndarray, item_NX: np.ndarray, *, over: bool) -> None:
        for sampled in (True,) if self.sampled else (True, False):
            recall = self.goal.recall_of(user_UX, item_NX, sampled=sampled)
            if sampled and not self.sampled and not over and recall < self.goal.recall - _NEAR:
                break  # far from it: all users need not be ranked
        num_users = len(self.goal.sampled if sampled else self.goal.queries)
        self.curve.append({"seconds": self.seconds, METRIC: recall, "num_users": num_users})
        self.reached = sampled == self.sampled and recall >= self.goal.recall

    def _go_on(self) -> None:
        self._since = (time.perf_counter(), time.process_time())

    def _stop(self) -> None:
        self.seconds += time.perf_counter() - self._since[0]
        self.cpu_seconds += time.process_time() - self._since[1]


@contextlib.contextmanager
def held_to(num_threads: int) -> Iterator[None]:
    """Let this thread and those that it starts run on so many processors, and torch with so many threads (Linux).

    A training that makes its batches in a thread of its own would otherwise have a second processor to itself.
    """
    processors, threads = os.sched_getaffinity(0), torch.get_num_threads()
    os.sched_setaffinity(0, sorted(processors)[:num_threads])
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        os.sched_setaffinity(0, processors)
