"""Measure many ways to search in little time: all of them on a few queries, what survives on more.

Source: successive halving, Jamieson and Talwalkar, *Non-stochastic Best Arm Identification and Hyperparameter
Optimization* (AISTATS 2016). There the best half survives; here, where several objectives count, what is best by
non-dominated rank (`recsys.index.frontier`). Whatever can be called one query at a time is measured alike: the rungs of
a ladder, and other libraries that are compared with them.

Shapes: ``ms_PQ`` (passes, queries), ``overlap_QK`` (queries, ks).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from time import perf_counter
from typing import Any, Generic, TypeVar

import numpy as np
from jaxtyping import Float, Int64

from recsys.index import frontier
from recsys.index.timing import WARMED, Search, percentile, time_searches, undisturbed
from recsys.index.truth import Truth

Spec = TypeVar("Spec")

ETA = 3
"""A round measures on this many times the queries of the one before what is left after dropping all but this part."""
FIRST_QUERIES = 8
FLOORS: tuple[float, ...] = (0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999, 0.9995)
"""Overlaps that somebody may ask for: the fastest ways to reach each are kept."""
_STEP, _NUM_STEPS = 1.25, 6
"""What misses nothing is kept from so many steps of time above the fastest that does."""
_ONE_SIDED_95 = 1.645
"""Standard errors."""


@dataclass(frozen=True)
class Trial(Generic[Spec]):
    """One way to search, as measured on some queries.

    Args:
        spec: the way.
        ks: the k of each overlap.
        queries: which queries were asked.
        overlap_QK: share of the exact top-k found.
        ms_PQ: milliseconds of each call.
        size_bytes: memory that a search may read.
        disturbed_share: share of the calls, of all that were timed together, that another process disturbed.
    """

    spec: Spec
    ks: tuple[int, ...]
    queries: Int64[np.ndarray, " queries"]
    overlap_QK: Float[np.ndarray, "queries ks"]
    ms_PQ: Float[np.ndarray, "passes queries"]
    size_bytes: int
    disturbed_share: float

    @cached_property
    def overlap(self) -> dict[int, float]:
        """The mean overlap by k."""
        return dict(zip(self.ks, self.overlap_QK.mean(axis=0).tolist(), strict=True))

    @cached_property
    def p50_ms(self) -> float:
        """The median call."""
        return percentile(self.ms_PQ, 50)

    @cached_property
    def p99_ms(self) -> float:
        """The 99th percentile of the calls."""
        return percentile(self.ms_PQ, 99)

    def summary(self) -> dict[str, Any]:
        """Return plain figures."""
        return {
            "num_queries": len(self.overlap_QK),
            "overlap": {str(k): share for k, share in self.overlap.items()},
            "p50_ms": self.p50_ms,
            "p99_ms": self.p99_ms,
            "size_bytes": self.size_bytes,
        }


class Bench(Generic[Spec]):
    """Measures ways to search against the same truth, on the same queries.

    Args:
        search: answers one query in one way.
        truth: the exact answers.
        size_bytes: the memory of each way.
        seed: fixes the order of queries and ways.
    """

    def __init__(self, search: Search[Spec], truth: Truth, *, size_bytes: Callable[[Spec], int], seed: int) -> None:
        self.search = search
        self.truth = truth
        self.size_bytes = size_bytes
        self._order = np.random.default_rng(seed)
        self.queries = self._order.permutation(len(truth.query_QD))

    def measure(
        self,
        specs: Sequence[Spec],
        *,
        num_queries: int,
        repeats: int = 1,
        exact_ks: Callable[[Spec], bool] = lambda _spec: False,
        progress: Callable[[float], None] = lambda _share: None,
    ) -> list[Trial[Spec]]:
        """Time every spec at the largest k, and take every overlap.

        Args:
            specs: the ways to search.
            num_queries: how many of the queries, the first of one fixed order.
            repeats: passes through them.
            exact_ks: whether a spec searches for each smaller k anew, as a request for it does; otherwise its longest
                answer is cut.
            progress: called with the share that is done.
        """
        queries, ks = np.sort(self.queries[:num_queries]), self.truth.ks
        with undisturbed():
            timed = time_searches(
                self.search, specs, queries=queries, k=ks[-1], repeats=repeats, order=self._order, progress=progress
            )
            overlap_RQK = [
                self._overlap(spec, timed.rows_RQK[r], queries, exact_ks=exact_ks(spec)) for r, spec in enumerate(specs)
            ]
        return [
            Trial(
                spec=spec,
                ks=ks,
                queries=queries,
                overlap_QK=overlap_RQK[r],
                ms_PQ=timed.ms_RPQ[r],
                size_bytes=self.size_bytes(spec),
                disturbed_share=timed.disturbed_share,
            )
            for r, spec in enumerate(specs)
        ]

    def _overlap(self, spec: Spec, rows_QK: np.ndarray, queries: np.ndarray, *, exact_ks: bool) -> np.ndarray:
        largest = self.truth.ks[-1]
        columns = []
        for k in self.truth.ks:
            rows_Qk = rows_QK
            if exact_ks and k < largest:
                rows_Qk = np.stack([self.search(int(query), spec, k) for query in queries])
            columns.append(self.truth.overlap(rows_Qk, k=k, queries=queries))
        return np.column_stack(columns)

    def halve(
        self,
        specs: Sequence[Spec],
        *,
        keep: int,
        budget_s: float = math.inf,
        progress: Callable[[float], None] = lambda _share: None,
    ) -> tuple[list[Spec], list[list[Trial[Spec]]]]:
        """Drop all but the ``keep`` most promising specs.

        Args:
            specs: the ways to search.
            keep: how many survive at least, if there are as many.
            budget_s: seconds that it should take: where a further round would take longer, the one before drops all but
                ``keep``. One round is always made.
            progress: called with the share of the rounds that is done.

        Returns:
            the survivors, in the order given, and the trials of each round.
        """
        started, left = perf_counter(), list(specs)
        rounds: list[list[Trial[Spec]]] = []
        num_rounds = max(1, math.ceil(math.log(max(1.0, len(left) / keep), ETA)))
        num_queries = min(FIRST_QUERIES, len(self.queries))
        while len(left) > keep:
            done = len(rounds)
            trials = self.measure(
                left, num_queries=num_queries, progress=partial(_tell, progress, done=done, num=num_rounds)
            )
            rounds.append(trials)
            places = _survivors(trials, num=max(keep, math.ceil(len(left) / ETA)))
            num_queries = min(num_queries * ETA, len(self.queries))
            takes_s = pass_s((trials[place] for place in places), num_queries=num_queries)
            if len(places) > keep and perf_counter() - started + takes_s > budget_s:
                places = _survivors(trials, num=keep)
                progress(1.0)
            left = [left[place] for place in places]
        return left, rounds


def pass_s(trials: Iterable[Trial[Any]], *, num_queries: int) -> float:
    """Return about how many seconds one pass of these specs through so many queries takes, by their trials."""
    return WARMED * sum(float(trial.ms_PQ.mean()) for trial in trials) * num_queries / 1e3


def fastest_reaching(
    trials: Sequence[Trial[Any]], *, each: int, surely: bool, floors: Sequence[float] = FLOORS
) -> list[int]:
    """Return the places of the ``each`` fastest trials that reach a floor at the largest k, for any of the floors.

    Surely: with a margin, since what is reached by luck alone is not reached again.
    """
    overlap_TQ = np.stack([trial.overlap_QK[:, -1] for trial in trials])
    reached_T = overlap_TQ.mean(axis=1)
    if surely:
        reached_T -= _ONE_SIDED_95 * overlap_TQ.std(axis=1) / math.sqrt(overlap_TQ.shape[1])
    return frontier.fastest_reaching(reached_T, np.array([trial.p50_ms for trial in trials]), floors=floors, each=each)


def _survivors(trials: Sequence[Trial[Any]], *, num: int) -> list[int]:
    """Return the places of ``num`` trials: the fastest to reach each floor, up to half, and the frontiers' best.

    A frontier over several objectives and ks is wide: by itself it may keep nothing near an overlap that is asked for.
    On few queries the fastest to reach one are those that were lucky, so as many are kept that reach it surely, and
    what is next in line.
    """
    each = max(1, num // (4 * len(FLOORS)))
    fastest = {place for surely in (False, True) for place in fastest_reaching(trials, each=each, surely=surely)}
    fastest.update(_next_in_line(trials, each=each))
    return frontier.best(costs(trials, tail=False), num=num, first=sorted(fastest))


def _next_in_line(trials: Sequence[Trial[Any]], *, each: int) -> list[int]:
    """Return the places of slower trials than the fastest that misses next to nothing, which do not either.

    They look worse in every respect, and on few queries no margin tells that they may miss less.
    """
    reaching = [place for place, trial in enumerate(trials) if trial.overlap[trial.ks[-1]] >= FLOORS[-1]]
    reaching.sort(key=lambda place: trials[place].p50_ms)
    by_step: dict[int, list[int]] = {}
    for place in reaching:
        step = int(math.log(trials[place].p50_ms / trials[reaching[0]].p50_ms, _STEP))
        by_step.setdefault(step, []).append(place)
    return [place for step, places in by_step.items() if step <= _NUM_STEPS for place in places[:each]]


def _tell(progress: Callable[[float], None], share: float, *, done: int, num: int) -> None:
    progress(min(1.0, (done + share) / num))


def costs(trials: Sequence[Trial[Any]], *, tail: bool) -> list[Float[np.ndarray, "trials objectives"]]:
    """Return the objectives of trials for each k: what is missed, the median call, with ``tail`` the p99, and bytes."""
    overlap_TK = np.stack([trial.overlap_QK.mean(axis=0) for trial in trials])
    p50_T, p99_T, bytes_T = (
        np.array([getattr(trial, name) for trial in trials]) for name in ("p50_ms", "p99_ms", "size_bytes")
    )
    return frontier.objectives(overlap_TK, *((p50_T, p99_T, bytes_T) if tail else (p50_T, bytes_T)))
