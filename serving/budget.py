"""What a request may spend, and the rung that makes the best of it. Pure: the same arguments always give the same rung.

Time budgets climb the ladder's steps, along which latency, overlap and width all rise, so a larger budget never gets a
narrower width or a smaller expected overlap. Explicit widths and overlap floors choose among all measured rungs. What a
search will take now is given, since it moves (`serving.latency`).
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from recsys.errors import RequestError
from recsys.index.rungs import Ladder, Rung, Step
from serving.price import FREE, Price


class Degraded(enum.Enum):
    """Why an answer is less than what was asked for."""

    TIME_TOO_SHORT = "no rung fits the time that was left; the cheapest one answered"
    CUT_SHORT = "the time was up before the search had ended"
    OVERLAP_OUT_OF_REACH = "no rung reaches the overlap asked for; the best one answered"
    OVERLOADED = "the server is busy, so a cheaper rung answered than there was time for"


@dataclass(kw_only=True)
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


@dataclass(kw_only=True)
class Choice:
    """The rung that answers.

    Args:
        rung: how to search.
        expected_overlap: its measured overlap with the exact full-width answer at the k asked for.
        ms: what all searches of the call take with what comes after them, as predicted (p99).
        degraded: why it is less than what was asked for, or None.
    """

    rung: Rung
    expected_overlap: float
    ms: float
    degraded: Degraded | None = None


def choose(
    ladder: Ladder,
    budget: Budget,
    *,
    k: int,
    p99_ms: Sequence[float],
    elapsed_ms: float = 0.0,
    deadline_ms: float | None = None,
    num_searches: int = 1,
    price: Price = FREE,
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
        p99_ms: of one search for ``k`` items and of what is needed after it, to filter, pack and send what it found,
            predicted for each of the ladder's rungs, in order.
        elapsed_ms: already spent since the call arrived.
        deadline_ms: from the call's arrival to its deadline; None when it has none.
        num_searches: searches that the call makes, one after another.
        price: what searches cost others, in overlap, by how long they were published to take (p50).

    Raises:
        RequestError: no rung has the width asked for.
    """

    def choice(step: Step, degraded: Degraded | None = None) -> Choice:
        ms = num_searches * p99_ms[step.place]
        return Choice(rung=step.rung, expected_overlap=step.overlap, ms=ms, degraded=degraded)

    if budget.width is not None:
        of_width = [step for step in ladder.at(k) if step.rung.width == budget.width]
        if not of_width:
            trained = list(ladder.widths)
            raise RequestError("budget.width", f"got {budget.width}, expected a trained width, one of {trained}")
        return choice(max(of_width, key=_finds_most))
    if budget.min_overlap is not None:
        reaching = [step for step in ladder.at(k) if step.overlap >= budget.min_overlap]
        if not reaching:
            return choice(max(ladder.at(k), key=_finds_most), Degraded.OVERLAP_OUT_OF_REACH)
        return choice(min(reaching, key=lambda step: step.rung.latency_p99_ms))
    limits_ms = [limit_ms for limit_ms in (budget.time_ms, deadline_ms) if limit_ms is not None]
    left_ms = min(limits_ms, default=math.inf) - elapsed_ms
    climb = ladder.climb(k)
    fitting = _fitting(climb, p99_ms, left_ms / num_searches)
    best = next(fitting, None)
    if best is None:
        return choice(climb[0], Degraded.TIME_TOO_SHORT)
    most, best_worth = best, _worth(best, price, num_searches)
    for step in fitting:
        if step.overlap < best_worth:
            break  # a price only takes away, so neither this one nor any that finds less is worth as much
        if (worth := _worth(step, price, num_searches)) >= best_worth:
            best, best_worth = step, worth
    return choice(best, None if best is most else Degraded.OVERLOADED)


def _fitting(climb: Sequence[Step], p99_ms: Sequence[float], left_ms: float) -> Iterator[Step]:
    """Yield the steps that fit a time and are no slower than any that finds more, those that find most first."""
    least_ms = left_ms
    for step in reversed(climb):
        if p99_ms[step.place] <= least_ms:
            least_ms = p99_ms[step.place]
            yield step


def _worth(step: Step, price: Price, num_searches: int) -> float:
    """Return the overlap less what the time costs others, for each search."""
    return step.overlap - price.of(num_searches * step.rung.latency_p50_ms) / num_searches


def _finds_most(step: Step) -> tuple[float, float]:
    return step.overlap, -step.rung.latency_p99_ms
