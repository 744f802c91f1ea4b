"""What a request may spend, and the rung that makes the best of it. Pure: the same arguments always give the same rung.

Time budgets climb the ladder's steps, along which latency, overlap and width all rise, so a larger budget never gets a
narrower width or a smaller expected overlap. Explicit widths and overlap floors choose among all measured rungs. What a
search will take now is given, since it moves (`serving.latency`).
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass

from recsys.errors import RequestError
from recsys.index.rungs import Ladder, Rung


class Degraded(enum.Enum):
    """Why an answer is less than what was asked for."""

    TIME_TOO_SHORT = "no rung fits the time that was left; the cheapest one answered"
    CUT_SHORT = "the time was up before the search had ended"
    OVERLAP_OUT_OF_REACH = "no rung reaches the overlap asked for; the best one answered"
    OVERLOADED = "the server is busy, so a cheaper rung answered than there was time for"


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What one call may spend; at most one of the three. With none, the call's deadline, if any, is the budget.

    Args:
        time_ms: milliseconds from the call's arrival to its answer.
        width: a trained width, whatever it costs.
        min_overlap: least expected overlap with the exact full-width answer, whatever it costs.

    Raises:
        RequestError: more than one is given, or one is out of range.
    """

    time_ms: float | None = None
    width: int | None = None
    min_overlap: float | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in vars(self).items() if value is not None}
        if len(given) > 1:
            raise RequestError("budget", f"got {' and '.join(given)}, expected at most one of them")
        if self.time_ms is not None and not (math.isfinite(self.time_ms) and self.time_ms > 0):
            raise RequestError("budget.time_ms", f"got {self.time_ms}, expected a finite number of ms above 0")
        if self.min_overlap is not None and not 0 < self.min_overlap <= 1:
            raise RequestError("budget.min_overlap", f"got {self.min_overlap}, expected a share above 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The rung that answers.

    Args:
        rung: how to search.
        expected_overlap: its measured overlap with the exact full-width answer at the k asked for.
        search_ms: what all searches of the call together take, as predicted (p99).
        degraded: why it is less than what was asked for, or None.
    """

    rung: Rung
    expected_overlap: float
    search_ms: float
    degraded: Degraded | None = None


@dataclass(frozen=True, kw_only=True)
class _Priced:
    """A rung with what it offers and costs this call."""

    rung: Rung
    overlap: float
    ms: float

    def worth(self, price: float) -> float:
        """Return the overlap less what the time costs others."""
        return self.overlap - price * self.rung.latency_p50_ms


def choose(
    ladder: Ladder,
    budget: Budget,
    *,
    k: int,
    p99_ms: Sequence[float],
    elapsed_ms: float = 0.0,
    overhead_ms: float = 0.0,
    deadline_ms: float | None = None,
    num_searches: int = 1,
    price: float = 0.0,
) -> Choice:
    """Choose the rung that answers a call.

    * A time (the budget's, cut short by the deadline): the best overlap at k, less its price, among the ladder's steps
      that fit what is left of it; the cheapest step, degraded, when none fits. A step that is predicted to be slower
      than a later one is passed over: the later one finds more.
    * A width: the best overlap at k among that width's rungs, the cheapest of several equally good ones.
    * A least overlap: the cheapest rung that reaches it; the best one, degraded, when none does.
    * Nothing: the step with the best overlap.

    What is cheapest, publishing says: what costs time now may be passing. A price on time makes a step worth its
    overlap less what its time costs others, for times and for nothing: who names a width or an overlap gets it or is
    refused elsewhere.

    Args:
        ladder: the bundle's measured rungs, at least one of them a step.
        budget: what the call may spend.
        k: items asked for.
        p99_ms: of one search for ``k`` items, predicted for each of the ladder's rungs, in order.
        elapsed_ms: already spent since the call arrived.
        overhead_ms: needed after the search, to filter, pack and send the answer.
        deadline_ms: from the call's arrival to its deadline; None when it has none.
        num_searches: searches that the call makes, one after another.
        price: what a millisecond of a search, as published (p50), costs others, in overlap.

    Raises:
        RequestError: no rung has the width asked for.
    """
    priced = [
        _Priced(rung=rung, overlap=rung.overlap_at(k), ms=num_searches * ms)
        for rung, ms in zip(ladder.rungs, p99_ms, strict=True)
    ]
    if budget.width is not None:
        if budget.width not in ladder.widths:
            trained = list(ladder.widths)
            raise RequestError("budget.width", f"got {budget.width}, expected a trained width, one of {trained}")
        return _choice(_best([each for each in priced if each.rung.width == budget.width]))
    if budget.min_overlap is not None:
        return _cheapest_reaching(priced, budget.min_overlap)
    limits_ms = [limit_ms for limit_ms in (budget.time_ms, deadline_ms) if limit_ms is not None]
    left_ms = min(limits_ms, default=math.inf) - elapsed_ms - overhead_ms
    steps = [each for each in priced if each.rung.on_ladder]
    fitting = [step for step in _undominated(steps) if step.ms <= left_ms]
    if not fitting:
        return _choice(steps[0], Degraded.TIME_TOO_SHORT)
    chosen = max(fitting, key=lambda step: (step.worth(price), -step.rung.latency_p99_ms))
    better = any(step.overlap > chosen.overlap for step in fitting)
    return _choice(chosen, Degraded.OVERLOADED if better else None)


def _undominated(steps: Sequence[_Priced]) -> list[_Priced]:
    """Return the steps that find more than all before them, and are faster than all such after them.

    Along the ladder the mean overlap rises, which at one k it may not do.
    """
    rising = [
        step for place, step in enumerate(steps) if all(step.overlap > before.overlap for before in steps[:place])
    ]
    return [step for place, step in enumerate(rising) if all(step.ms <= later.ms for later in rising[place + 1 :])]


def _cheapest_reaching(priced: Sequence[_Priced], min_overlap: float) -> Choice:
    reaching = [each for each in priced if each.overlap >= min_overlap]
    if not reaching:
        return _choice(_best(priced), Degraded.OVERLAP_OUT_OF_REACH)
    return _choice(min(reaching, key=lambda each: each.rung.latency_p99_ms))


def _best(priced: Sequence[_Priced]) -> _Priced:
    return max(priced, key=lambda each: (each.overlap, -each.rung.latency_p99_ms))


def _choice(priced: _Priced, degraded: Degraded | None = None) -> Choice:
    return Choice(rung=priced.rung, expected_overlap=priced.overlap, search_ms=priced.ms, degraded=degraded)
