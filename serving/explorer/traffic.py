"""What a server is doing now, from its page for Prometheus: rates, latencies and widths over the last minute.

A page of counters says what happened since the server started; two readings of it say what happened between them.
"""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import TypeVar
from urllib.request import ProxyHandler, build_opener

from prometheus_client.parser import text_string_to_metric_families

from recsys.errors import ConfigError, RecsysError

_WINDOW_S = 60.0
_TIMEOUT_S = 2.0
Key = TypeVar("Key")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The counters of one moment.

    Args:
        at_s: when, on any clock that only goes forward.
        calls: calls by status code.
        widths: answers by width.
        in_time: answers to timed calls, by whether they were in time.
        answer_s: answers by the upper bound of the bucket that their time fell into or below, in seconds.
    """

    at_s: float
    calls: Mapping[str, float] = field(default_factory=dict)
    widths: Mapping[int, float] = field(default_factory=dict)
    in_time: Mapping[bool, float] = field(default_factory=dict)
    answer_s: Mapping[float, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What happened between two readings.

    Args:
        window_s: the time between them.
        calls_per_s: calls that ended, by status code.
        widths: answers by width.
        p50_ms: median time of an answer on the server; None without answers.
        p99_ms: the 99th percentile; None without answers.
        in_time_share: share of the answers to timed calls that were in time; None without any.
    """

    window_s: float
    calls_per_s: Mapping[str, float]
    widths: Mapping[int, float]
    p50_ms: float | None
    p99_ms: float | None
    in_time_share: float | None


class TrafficPage:
    """A server's page, read whenever somebody asks; the readings of the last minute are kept.

    Args:
        url: where the server exports its metrics.

    Raises:
        ConfigError: that is no HTTP address.
    """

    def __init__(self, url: str) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"metrics: got {url!r}, expected an address such as http://127.0.0.1:9090/metrics")
        self.url = url
        # Like candidates, metrics come from inside one's own network, never through a proxy meant for the web.
        self._opener = build_opener(ProxyHandler({}))
        self._readings: deque[Reading] = deque()
        self._adding = threading.Lock()

    def read(self, *, clock: Callable[[], float] = time.monotonic) -> Traffic:
        """Read the page and say what happened in the last minute, or since the first reading if that is less.

        Raises:
            RecsysError: the page cannot be read.
        """
        try:
            with self._opener.open(self.url, timeout=_TIMEOUT_S) as page:
                reading = parse(page.read().decode(), at_s=clock())
        except (OSError, HTTPException, ValueError) as error:
            raise RecsysError(f"{self.url}: got no page of metrics: {error}") from error
        with self._adding:
            readings = self._readings
            if readings and sum(reading.calls.values()) < sum(readings[-1].calls.values()):
                readings.clear()  # the server was started again, and counts from nothing
            readings.append(reading)
            while reading.at_s - readings[0].at_s > _WINDOW_S:
                readings.popleft()
            return between(readings[0], reading)


def parse(page: str, *, at_s: float) -> Reading:
    """Pick the counters out of a page in Prometheus' text format; ValueError where it is not one."""
    calls: dict[str, float] = defaultdict(float)
    widths: dict[int, float] = defaultdict(float)
    in_time: dict[bool, float] = defaultdict(float)
    answer_s: dict[float, float] = defaultdict(float)
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            labels = sample.labels
            match sample.name:
                case "recsys_calls_total":
                    calls[labels["code"]] += sample.value
                case "recsys_answers_total":
                    widths[int(labels["width"])] += sample.value
                case "recsys_timed_answers_total":
                    in_time[labels["in_time"] == "true"] += sample.value
                case "recsys_answer_seconds_bucket":
                    answer_s[float(labels["le"])] += sample.value
                case _:
                    pass
    return Reading(at_s=at_s, calls=calls, widths=widths, in_time=in_time, answer_s=answer_s)


def between(before: Reading, after: Reading) -> Traffic:
    """Return what happened from one reading to a later one of the same server."""
    window_s = after.at_s - before.at_s
    calls, widths = _grown(before.calls, after.calls), _grown(before.widths, after.widths)
    in_time = _grown(before.in_time, after.in_time)
    answer_s = {bound: after.answer_s[bound] - before.answer_s.get(bound, 0) for bound in sorted(after.answer_s)}
    return Traffic(
        window_s=window_s,
        calls_per_s={code: number / window_s for code, number in calls.items()},
        widths=widths,
        p50_ms=percentile_ms(answer_s, 0.5),
        p99_ms=percentile_ms(answer_s, 0.99),
        in_time_share=in_time.get(True, 0) / total if (total := sum(in_time.values())) else None,
    )


def percentile_ms(num_within: Mapping[float, float], share: float) -> float | None:
    """Estimate a percentile from a cumulative histogram, as Prometheus' ``histogram_quantile`` does.

    Args:
        num_within: observations at most each bound, by bound in seconds, increasing; the last bound may be infinite.
        share: of the observations that shall lie below, 0 to 1.

    Returns:
        Milliseconds, read off a straight line within the bucket, or the largest finite bound where it lies beyond
        that; None where nothing was observed.
    """
    total = max(num_within.values(), default=0)
    if total <= 0:
        return None
    low_s, below = 0.0, 0.0
    for bound_s, within in num_within.items():
        if within >= share * total:
            if math.isinf(bound_s):
                break
            part = (share * total - below) / (within - below) if within > below else 1.0
            return 1e3 * (low_s + (bound_s - low_s) * part)
        low_s, below = bound_s, within
    return 1e3 * low_s


def _grown(before: Mapping[Key, float], after: Mapping[Key, float]) -> dict[Key, float]:
    grown = {key: after[key] - before.get(key, 0) for key in after}
    return {key: number for key, number in grown.items() if number > 0}
