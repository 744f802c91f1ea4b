"""Time searches on a machine that has other things to do, so that rungs are compared and not their luck.

Queries come in short blocks, and every rung answers a block before the next one starts, in an order that is drawn anew
each time: whatever else the machine does hits all rungs alike, and each rung still runs with caches as warm as in a
server that keeps using it. A call during which the system gave the core to another process measures that process, so it
is timed again. A percentile is taken over each pass through the queries, and the median of the passes is what counts:
one bad moment cannot reorder the ladder.

Shapes: ``query_QU`` (queries, query size), ``ms_RPQ`` (specs, passes, queries), ``rows_K`` (k,), ``rows_RQK`` (specs,
queries, k).
"""

from __future__ import annotations

import gc
import os
import platform
import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol, TypeVar

import faiss
import numpy as np
from jaxtyping import Float, Int64

from recsys import artifact
from recsys.index.item_set import ItemSet
from recsys.index.searcher import Searcher
from recsys.index.specs import RungSpec
from recsys.ragged import Ragged

_BLOCK = 8
WARMED = 1 + 1 / _BLOCK
"""Calls that are made for each that is timed: one for each block only warms the caches."""
_ATTEMPTS = 5
_ALWAYS_MS = 100.0
"""Of a call that takes longer the core is taken away in every attempt, and to repeat it is of no use."""


Spec = TypeVar("Spec", contravariant=True)


class Search(Protocol[Spec]):
    """Something that answers one query at a time in several ways, which are to be compared."""

    def __call__(self, query: int, spec: Spec, k: int) -> Int64[np.ndarray, " k"]:
        """Return the query's rows, best first, found in one of the ways."""
        ...


class LadderSearch:
    """The rungs of a searcher, each query with its own exclusions, as a server searches."""

    def __init__(self, searcher: Searcher, query_QU: np.ndarray, exclude: Ragged | None) -> None:
        self.searcher = searcher
        self.query_QU = query_QU
        self.exclude = exclude

    def __call__(self, query: int, spec: RungSpec, k: int) -> np.ndarray:
        """Return one query's rows at a rung, best first."""
        allowed = None if self.exclude is None else ItemSet.all_but(self.exclude[query], self.searcher.num_items)
        found = self.searcher.search(self.query_QU[query : query + 1], k=k, rung=spec, allowed=allowed)
        rows_K: np.ndarray = found.rows_BK[0]
        return rows_K


@dataclass(frozen=True)
class Timed:
    """Calls that were timed, by spec.

    Args:
        ms_RPQ: milliseconds of each call.
        rows_RQK: what each query got.
        disturbed_share: share of the calls that another process disturbed.
    """

    ms_RPQ: Float[np.ndarray, "specs passes queries"]
    rows_RQK: Int64[np.ndarray, "specs queries k"]
    disturbed_share: float


def time_searches(
    search: Search[Spec],
    specs: Sequence[Spec],
    *,
    queries: Int64[np.ndarray, " queries"],
    k: int,
    repeats: int,
    order: np.random.Generator,
    progress: Callable[[float], None],
) -> Timed:
    """Answer every query with every spec ``repeats`` times, one call at a time."""
    num_queries, num_disturbed = len(queries), 0
    ms_RPQ = np.empty((len(specs), repeats, num_queries))
    rows_RQK = np.empty((len(specs), num_queries, k), dtype=np.int64)
    for repeat in range(repeats):
        places = order.permutation(num_queries)
        for start in range(0, num_queries, _BLOCK):
            block = places[start : start + _BLOCK]
            for r in order.permutation(len(specs)):
                search(int(queries[block[0]]), specs[r], k)  # warms the caches for this rung
                for place in block:
                    ms, rows_RQK[r, place], disturbed = _time_one(search, int(queries[place]), specs[r], k)
                    ms_RPQ[r, repeat, place] = ms
                    num_disturbed += disturbed
            progress((repeat + (start + len(block)) / num_queries) / repeats)
    return Timed(ms_RPQ, rows_RQK, num_disturbed / ms_RPQ.size)


def _time_one(search: Search[Spec], query: int, spec: Spec, k: int) -> tuple[float, np.ndarray, bool]:
    """Return a call's milliseconds and rows, and whether the core was taken away even in the last of a few attempts."""
    for _ in range(_ATTEMPTS):
        preemptions = _num_preemptions()
        started = perf_counter()
        rows_K = search(query, spec, k)
        ms = 1e3 * (perf_counter() - started)
        disturbed = _num_preemptions() > preemptions
        if not disturbed or ms > _ALWAYS_MS:
            break
    return ms, rows_K, disturbed


def _num_preemptions() -> int:
    whose = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)
    return resource.getrusage(whose).ru_nivcsw


def percentile(ms_PQ: Float[np.ndarray, "passes queries"], percent: float) -> float:
    """Return the median over the passes of a percentile of each."""
    return float(np.median(np.percentile(ms_PQ, percent, axis=1)))


def machine() -> dict[str, Any]:
    """Describe where and when a measurement is made."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": 1,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": artifact.versions(),
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Search on one thread, and keep Python's garbage collector (as `timeit` does) out of the figures."""
    threads, collecting = faiss.omp_get_max_threads(), gc.isenabled()
    faiss.omp_set_num_threads(1)
    gc.disable()
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)
        if collecting:
            gc.enable()
