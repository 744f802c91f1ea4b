"""Searching a small random sample of answered calls again, exactly, to see how close answers come to what they claim.

It happens after the answer, on one thread of the lowest priority that no call waits for. What may be returned
(exclusions, filters) is what it was for the call. When measuring falls behind, samples are dropped and counted, not
kept: under heavy load fewer calls are looked at, and what is measured leans towards quieter moments. Nothing of a call
is kept beyond its vector, its rows and what may be returned, and that only until it is measured.

Shapes: ``query_1U`` (1, query size), ``rows_1K`` (1, items asked for).
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import random
import threading
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

from recsys.index.item_set import ItemSet
from recsys.index.rungs import Rung
from recsys.index.searcher import Searcher, use_one_thread
from recsys.index.truth import share_found
from serving.calibration import Calibration
from serving.metrics import Metrics
from serving.rate import RateLimit
from serving.settings import ShadowSettings

_LOWEST_PRIORITY = 19
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Searched:
    """One search that was answered, with what it takes to do it again.

    Args:
        searcher: what was searched.
        query_1U: for what.
        rows_1K: what was returned, `NOTHING` where no item was left.
        allowed: what might be returned.
        rung: how it was searched.
        expected_overlap: what the answer claimed.
        calibration: whose figures are corrected; None where the rung was not alone in answering.
    """

    searcher: Searcher
    query_1U: Float[np.ndarray, "1 query"]
    rows_1K: Int64[np.ndarray, "1 k"]
    allowed: ItemSet
    rung: Rung
    expected_overlap: float
    calibration: Calibration | None

    def overlap(self) -> float:
        """Search exactly at full width, and return the share of that answer which was returned."""
        k = self.rows_1K.shape[1]
        best_1K = self.searcher.score_all(self.query_1U, k=k, allowed=self.allowed).scores_BK
        return float(share_found(self.searcher.score(self.query_1U, self.rows_1K), best_1K)[0])


class Shadow:
    """Measures a sample of answers, on a thread of its own between `start` and `stop`.

    Args:
        settings: how many.
        metrics: where they are counted.
    """

    def __init__(self, settings: ShadowSettings, metrics: Metrics) -> None:
        self._share = settings.share
        self._random = random.Random(settings.seed)  # noqa: S311 (a sample, no secret)
        self._rate = RateLimit(settings.max_per_s)
        self._waiting: queue.Queue[Searched | None] = queue.Queue(settings.max_waiting)
        self._metrics = metrics
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)

    def chosen(self) -> bool:
        """Draw whether an answer is one of the sample."""
        if self._random.random() >= self._share:
            return False
        if not self._rate.take():
            self._metrics.shadow.dropped("rate")
            return False
        return True

    def offer(self, searched: Searched) -> None:
        """Measure a chosen answer when there is time; drop it if too many wait already. Never blocks."""
        try:
            self._waiting.put_nowait(searched)
        except queue.Full:
            self._metrics.shadow.dropped("busy")

    def measure(self, searched: Searched) -> None:
        """Measure an answer now."""
        overlap, rung = searched.overlap(), searched.rung
        self._metrics.shadow.measured(rung.name, expected=searched.expected_overlap, overlap=overlap)
        if searched.calibration is not None:
            k = searched.rows_1K.shape[1]
            correction = searched.calibration.record(rung.name, k=k, overlap=overlap)
            self._metrics.shadow.corrected(rung.name, k=rung.measured_k(k), correction=correction)

    def start(self) -> None:
        """Begin to measure what was offered, and what will be."""
        self._thread.start()

    def stop(self) -> None:
        """End with what is being measured now; what waits is let go."""
        self._stopping = True
        # A full queue needs no word of it: the thread sees that it is to stop at the next one that it takes.
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(None)
        self._thread.join()

    def _run(self) -> None:
        use_one_thread()
        # On Linux a priority is a thread's own.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)
        while (searched := self._waiting.get()) is not None and not self._stopping:
            try:
                self.measure(searched)
            except Exception:
                _log.exception("a shadow search failed at rung %s", searched.rung.name)
