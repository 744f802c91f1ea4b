"""What a call's work costs others, in answers: those that wait already, and those that will come while it lasts.

All of it is told what time it is, and waits for nothing.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass

_NEW, _HALF_LIFE_S = 0.02, 0.5
"""What each call counts, at least, in what is known of who waits; where few come, half is forgotten in this time."""
MOST_BEFORE = 30
"""Calls that one may have waited for; more would only take longer to forget."""
_ARRIVALS = 256
"""Calls that say how many come and how long they can wait."""
_LEAST_SPAN_S = 1.0
"""Until that many have come, those few are taken for what comes in no less than this time."""
_REFRESH_S = 0.05
"""Who comes is counted again this often at most."""


@dataclass(frozen=True, kw_only=True)
class Arrivals:
    """Who comes, as it was lately.

    Args:
        had_ms: how long each of some calls could wait when it came, shortest first.
        sum_ms: the sum of the first 0, 1, 2, ... of those.
        per_ms: how often each of them comes, and finds no slot free but for the one in question.
    """

    had_ms: tuple[float, ...] = ()
    sum_ms: tuple[float, ...] = (0.0,)
    per_ms: float = 0.0

    def lost(self, ms: float) -> float:
        """Return how many of those that come while a slot is taken for a time cannot wait for its end.

        Calls that come at any moment of it, each as likely, wait for the rest of it: of those that can wait ``h``, the
        ones that come in its first ``ms - h`` are lost.
        """
        num = bisect_left(self.had_ms, ms)
        return self.per_ms * (num * ms - self.sum_ms[num])


@dataclass(kw_only=True, eq=False)
class Price:
    """What it costs others that a slot is taken for a time.

    Args:
        waiting: what a millisecond costs those that wait, in answers.
        arrivals: who will come.
        weight: what an answer of others is worth.
        pace: how long a millisecond of `of` takes.
    """

    waiting: float = 0.0
    arrivals: Arrivals
    weight: float = 1.0
    pace: float = 1.0

    def of(self, ms: float) -> float:
        """Return what a time costs."""
        ms *= self.pace
        return self.weight * (self.waiting * ms + self.arrivals.lost(ms))

    def times(self, weight: float, *, pace: float = 1.0) -> Price:
        """Return the price where answers are worth, and milliseconds take, so many times as much."""
        return Price(waiting=self.waiting, arrivals=self.arrivals, weight=self.weight * weight, pace=self.pace * pace)


FREE = Price(arrivals=Arrivals())
"""Where nobody waits, and nobody comes."""


class Dimmer:
    """What a slot's time costs others.

    Those that wait: a call delays all that are taken up after it before a slot is free again. Each of those is lost if
    the delay is all the time that it had left; so a millisecond costs ``x`` of them, the mean over calls of those
    before it since then, each counting one over the time that the call had. Lost calls make room: one saves the work of
    one call, and ``x`` of them cost ``x / (1 + x * work)`` answers a millisecond. Where nobody waits that is nothing.
    Where calls wait without an end it is the answers that a slot gives in that time, and then the rung that makes the
    best of it is the one of the most overlap per second.

    Those that will come (`Arrivals`): a long search finds nobody waiting, and yet the next calls find it in their way.
    As many come as came lately, and can wait as long as those could.

    Args:
        slots: calls that are worked on at once.
    """

    def __init__(self, *, slots: int) -> None:
        self._slots = slots
        self._lost_per_ms = 0.0
        self._learned_s = -math.inf
        self._came: deque[tuple[float, float]] = deque(maxlen=_ARRIVALS)
        self._arrivals, self._fresh_until_s = Arrivals(), -math.inf

    def learn(self, *, num_before: int, had_ms: float, now_s: float) -> None:
        """Count a call.

        Args:
            num_before: of the calls that it may have waited for.
            had_ms: what it could wait when it came.
            now_s: the time.
        """
        lost_per_ms = min(num_before, MOST_BEFORE) / self._slots / had_ms
        weight = max(_NEW, 1 - self._left(now_s))
        self._lost_per_ms += weight * (lost_per_ms - self._lost_per_ms)
        self._learned_s = now_s
        self._came.append((now_s, had_ms))

    def level(self, *, work_ms: float, now_s: float) -> float:
        """Return what a millisecond costs those that wait, as a share of the most that it can: 0, up to 1."""
        lost = self._left(now_s) * self._lost_per_ms * work_ms
        return lost / (1 + lost)

    def price(self, *, work_ms: float, used_ms: float, now_s: float) -> Price:
        """Return what time costs.

        Args:
            work_ms: for how long calls have a slot in the mean.
            used_ms: how much of a core they use; threads that take turns make all work longer, and none of it costlier.
            now_s: the time.
        """
        if now_s >= self._fresh_until_s:
            self._arrivals = self._count(work_ms=work_ms, now_s=now_s)
            self._fresh_until_s = now_s + _REFRESH_S
        return Price(waiting=self.level(work_ms=work_ms, now_s=now_s) / used_ms, arrivals=self._arrivals)

    def _count(self, *, work_ms: float, now_s: float) -> Arrivals:
        if not self._came:
            return Arrivals()
        span_s = now_s - self._came[0][0]
        if len(self._came) < _ARRIVALS:
            span_s = max(span_s, _LEAST_SPAN_S)
        per_ms = 1 / max(1e3 * span_s, 1e-3)
        busy = min(1.0, len(self._came) * per_ms * work_ms / self._slots)
        had_ms = sorted(had_ms for _, had_ms in self._came)
        return Arrivals(
            had_ms=tuple(had_ms),
            sum_ms=tuple(itertools.accumulate(had_ms, initial=0.0)),
            per_ms=per_ms * busy ** (self._slots - 1),
        )

    def _left(self, now_s: float) -> float:
        """Return what share of what is known counts still."""
        return float(0.5 ** ((now_s - self._learned_s) / _HALF_LIFE_S))
