"""What the stages of a call will take: 99th percentiles, measured at the start and followed from call to call.

A stage has several places that cost differently: search has the ladder's rungs, and so has what comes after it, since a
search that read much has emptied the processor's caches; encoding has sizes of what is encoded. Each place has a start
measurement and a `Tail` of what was seen since, as ratios to that. A place that many calls went through lately is
predicted from its own tail; one that few went through leans on how much slower or faster its neighbours became, and
without those on the start measurement. What was seen fades, so a rung that once was slow, and is not chosen since, is
tried again.

The weight of what was seen against what is assumed is that of credibility theory (Bühlmann 1967): n / (n + m).
"""

from __future__ import annotations

import bisect
import itertools
import math
import operator
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from recsys.index.rungs import Ladder, Rung

_QUANTILE = 0.99
_HALF_LIFE_S = 3.0
"""Half of what is known is forgotten in this time: long enough to know a p99 at some tens of calls a second, and short
enough that a slow moment, which is a p99 until a hundredth of it is left, is forgotten in twenty seconds."""
_CREDIBLE = 100.0
"""Observations (m, above) that count as much as what is assumed without them: fewer cannot tell a p99."""
_NEIGHBOUR = 0.5
"""What an observation of the next place is worth, of the one after that its square, and so on."""
_REFRESH_S = 0.05
"""Predictions are computed again this often at most; choosing between calls only reads them."""
_MOST_KS = 1024
"""Predictions that are kept, one for each k that is asked for."""
_RATIO = 1.05
"""Width of a bucket, and so the largest relative error of a quantile."""
_LEAST, _MOST = 1e-3, 1e4
_NUM_BUCKETS = math.ceil(math.log(_MOST / _LEAST) / math.log(_RATIO)) + 1
_RESCALE = 2.0**40


class Tail:
    """A high quantile of recent positive numbers. Not safe for concurrent use.

    A histogram whose buckets grow by a constant ratio bounds the relative error of any quantile (DDSketch: Masson, Rim
    and Lee, VLDB 2019); under forward decay (Cormode et al., ICDE 2009) later numbers count more, which is the same as
    that earlier ones fade, without a pass over the buckets.

    Args:
        half_life_s: until a number counts half.
    """

    def __init__(self, *, half_life_s: float = _HALF_LIFE_S) -> None:
        self._half_life_s = half_life_s
        self._counts = [0.0] * _NUM_BUCKETS
        self._total = 0.0
        self._since_s: float | None = None

    def add(self, value: float, *, now_s: float) -> None:
        """Count a number; those outside 0.001 to 10,000 count as the nearer end."""
        growth = self._growth(now_s)
        if growth > _RESCALE:
            self._counts = [count / growth for count in self._counts]
            self._total, self._since_s, growth = self._total / growth, now_s, 1.0
        place = math.ceil(math.log(max(value, _LEAST) / _LEAST) / _LOG_RATIO)
        self._counts[min(place, _NUM_BUCKETS - 1)] += growth
        self._total += growth

    def weight(self, *, now_s: float) -> float:
        """Return how many numbers of this moment those that were added are worth."""
        return self._total / self._growth(now_s)

    def quantile(self, share: float = _QUANTILE) -> float:
        """Return the upper end of the bucket that the quantile is in, the least end of all where there is nothing."""
        above, most_above = 0.0, (1 - share) * self._total
        for place in range(_NUM_BUCKETS - 1, 0, -1):
            above += self._counts[place]
            if above > most_above:
                return _LEAST * _RATIO**place
        return _LEAST

    def _growth(self, now_s: float) -> float:
        if self._since_s is None:
            self._since_s = now_s
        return float(2.0 ** ((now_s - self._since_s) / self._half_life_s))


class Stage:
    """The p99 of each place of one stage, in order, so that neighbours are alike. Safe for concurrent use.

    Args:
        start_ms: p99 by place as measured at the start, above 0.
        half_life_s: until an observation counts half.
        clock: seconds that never go back.
    """

    def __init__(
        self, start_ms: Sequence[float], *, half_life_s: float = _HALF_LIFE_S, clock: Callable[[], float] | None = None
    ) -> None:
        assert all(ms > 0 for ms in start_ms), "what was measured took time"
        self.start_ms = tuple(start_ms)
        self._tails = [Tail(half_life_s=half_life_s) for _ in start_ms]
        self._clock = clock or time.monotonic
        self._lock = threading.Lock()
        self._predicted_ms = self.start_ms
        self._fresh_until_s = -math.inf

    def observe(self, place: int, ms: float) -> None:
        """Count what a call took at a place: a few microseconds."""
        now_s = self._clock()
        with self._lock:
            self._tails[place].add(ms / self.start_ms[place], now_s=now_s)

    def p99_ms(self) -> tuple[float, ...]:
        """Predict every place, from what was seen until some hundredths of a second ago."""
        now_s = self._clock()
        if now_s >= self._fresh_until_s:
            with self._lock:
                self._predicted_ms = self._predict(now_s)
                self._fresh_until_s = now_s + _REFRESH_S
        return self._predicted_ms

    def _predict(self, now_s: float) -> tuple[float, ...]:
        weights = [tail.weight(now_s=now_s) for tail in self._tails]
        own = [math.log(tail.quantile()) if weight else 0.0 for tail, weight in zip(self._tails, weights, strict=True)]
        places = zip(self.start_ms, own, weights, _neighbours(own, weights), strict=True)
        return tuple(start_ms * math.exp(_blend(mine, weight, theirs)) for start_ms, mine, weight, theirs in places)


class Predicted(NamedTuple):
    """The p99 of each rung of the ladder, in order, for one k.

    Args:
        search_ms: of one search.
        after_ms: of what comes after it, per user.
        answer_ms: of both. A rung that was published as slower is never predicted to be faster: where it seems so, the
            other one met with a disturbance which it was spared, being chosen less often. Calls would flee to it just
            when it costs most.
        seen: what the two stages had seen.
    """

    search_ms: tuple[float, ...]
    after_ms: tuple[float, ...]
    answer_ms: tuple[float, ...]
    seen: tuple[tuple[float, ...], tuple[float, ...]]


class LatencyModel:
    """What calls on one bundle will take, stage by stage.

    Args:
        ladder: the bundle's rungs, whose p99 latencies are the start unless others are given.
        search_ms: the p99 of one search at each rung of the ladder, in order, as measured on this machine.
        rerank_shares: what of a search at each of them is scoring candidates again; none counts as 0.
        encode_ms: p99 of encoding, by users and items of histories that came with the call.
        after_ms: p99 of what comes after the search, per user, by items asked for; none counts as 0.
    """

    def __init__(
        self,
        ladder: Ladder,
        *,
        search_ms: Sequence[float] | None = None,
        rerank_shares: Sequence[float] | None = None,
        encode_ms: Mapping[int, float] | None = None,
        after_ms: Mapping[int, float] | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._rungs = ladder.rungs
        self._least_max_k = min(rung.largest_k for rung in ladder.rungs)
        self._place = {rung.name: place for place, rung in enumerate(ladder.rungs)}
        start_ms = search_ms or [rung.latency_p99_ms for rung in ladder.rungs]
        self._by_cost = sorted(range(len(ladder.rungs)), key=lambda place: ladder.rungs[place].latency_p99_ms)
        self._rerank_shares = rerank_shares or [0.0] * len(ladder.rungs)
        self._search = Stage(start_ms, clock=clock)
        slower = [ms / rung.latency_p99_ms for ms, rung in zip(start_ms, ladder.rungs, strict=True)]
        self._slower = math.fsum(slower) / len(slower)
        self._encode = _Sized(encode_ms or {}, clock=clock)
        self._start_after = _BySize(after_ms or {})
        self._after = Stage([1.0] * len(ladder.rungs), clock=clock)  # times what it took at the start
        self._predicted: dict[tuple[int, bool], Predicted] = {}

    def slower(self, *, k: int) -> float:
        """Return how many times as long as published a search takes here, undisturbed."""
        return self._slower * growth_with_k(self._rungs[0], k)

    def rerank_share(self, rung: Rung) -> float:
        """Return what of a search at a rung of the ladder is scoring candidates again, 0 to 1."""
        return self._rerank_shares[self._place[rung.name]]

    def encode_ms(self, size: int, *, start: bool = False) -> float:
        """Return the p99 of what comes before the search, for users and history items of that number."""
        return self._encode.p99_ms(size, start=start)

    def predict(self, k: int, *, start: bool = False) -> Predicted:
        """Return what to expect of each rung; ``start``: as it was at the start.

        That is what was predicted before, unless something has been seen since.
        """
        search, after = self._search, self._after
        seen = (search.start_ms, after.start_ms) if start else (search.p99_ms(), after.p99_ms())
        known = self._predicted.get((k, start))
        if known is not None and known.seen[0] is seen[0] and known.seen[1] is seen[1]:
            return known
        search_ms, start_ms = seen[0], self._start_after.ms(k)
        if k > self._least_max_k:
            search_ms = tuple(ms * growth_with_k(rung, k) for ms, rung in zip(search_ms, self._rungs, strict=True))
        after_ms = tuple(start_ms * times for times in seen[1])
        answer_ms = list(map(operator.add, search_ms, after_ms))
        most_ms = 0.0
        for place in self._by_cost:
            most_ms = answer_ms[place] = max(most_ms, answer_ms[place])
        if len(self._predicted) >= _MOST_KS:
            self._predicted.clear()
        predicted = self._predicted[k, start] = Predicted(search_ms, after_ms, tuple(answer_ms), seen)
        return predicted

    def place(self, rung: Rung) -> int:
        """Return the place of a rung in what is predicted by rung."""
        return self._place[rung.name]

    def searched(self, rung: Rung, *, k: int, ms: float) -> None:
        """Note what one search at a rung of the ladder took."""
        self._search.observe(self._place[rung.name], ms / growth_with_k(rung, k))

    def encoded(self, size: int, *, ms: float) -> None:
        """Note what came before a search."""
        self._encode.observe(size, ms)

    def finished(self, rung: Rung, *, k: int, ms: float) -> None:
        """Note what came after a search at a rung of the ladder, per user."""
        if start_ms := self._start_after.ms(k):
            self._after.observe(self._place[rung.name], ms / start_ms)


class _BySize:
    """What was measured by size: a size belongs to the smallest measured one that is no smaller, or the last."""

    def __init__(self, measured_ms: Mapping[int, float]) -> None:
        self._sizes = sorted(measured_ms)
        # Larger ones never count as cheaper: which of them was disturbed while it was measured is not known.
        self.highest_ms = list(itertools.accumulate((measured_ms[size] for size in self._sizes), max))

    def __len__(self) -> int:
        return len(self._sizes)

    def place(self, size: int) -> int:
        return min(bisect.bisect_left(self._sizes, size), len(self._sizes) - 1)

    def ms(self, size: int) -> float:
        """Return what was measured, 0 where nothing was."""
        return self.highest_ms[self.place(size)] if self._sizes else 0.0


class _Sized:
    """A stage whose places are measured sizes."""

    def __init__(self, start_ms: Mapping[int, float], *, clock: Callable[[], float] | None) -> None:
        self._start = _BySize(start_ms)
        self._stage = Stage(self._start.highest_ms, clock=clock)

    def p99_ms(self, size: int, *, start: bool) -> float:
        if start or not len(self._start):
            return self._start.ms(size)
        return self._stage.p99_ms()[self._start.place(size)]

    def observe(self, size: int, ms: float) -> None:
        if len(self._start):
            self._stage.observe(self._start.place(size), ms)


def growth_with_k(rung: Rung, k: int) -> float:
    """Return how much longer a search for ``k`` takes than one for the largest measured k.

    Searching for fewer costs a little less, which is left as a margin. For more, only keeping the best k and scoring
    them again grow, so the square root is meant as an upper bound. Being the same for all rungs, it never changes their
    order.
    """
    return math.sqrt(max(1.0, k / rung.largest_k))


def _neighbours(own: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Return for each place the log of how much slower than at the start the others are, nearer ones counting more."""
    weighted = [weight * slower for weight, slower in zip(weights, own, strict=True)]
    totals, sums = _from_others(weights), _from_others(weighted)
    return [_blend(slower / total, total, 0.0) if total else 0.0 for slower, total in zip(sums, totals, strict=True)]


def _from_others(values: Sequence[float]) -> list[float]:
    """Return for each place the sum of all others' values, each worth less the farther away it is."""
    below = list(itertools.accumulate(values[:-1], _nearer, initial=0.0))
    above = list(itertools.accumulate(values[:0:-1], _nearer, initial=0.0))[::-1]
    return list(map(operator.add, below, above))


def _nearer(farther: float, next_one: float) -> float:
    return _NEIGHBOUR * (farther + next_one)


def _blend(seen: float, weight: float, assumed: float) -> float:
    share = weight / (weight + _CREDIBLE)
    return share * seen + (1 - share) * assumed


_LOG_RATIO = math.log(_RATIO)
