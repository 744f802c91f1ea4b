"""What a request may spend, and the rung that makes the best of it. Pure: the same arguments always give the same rung.

Time budgets climb the ladder's steps, along which latency, overlap and width all rise, so a larger budget never gets a
narrower width or a smaller expected overlap. Explicit widths and overlap floors choose among all measured rungs.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable
from dataclasses import dataclass

from recsys.errors import RequestError
from recsys.index.rungs import Ladder, Rung


class Degraded(enum.Enum):
    """Why an answer is less than what was asked for."""

    TIME_TOO_SHORT = "no rung fits the time that was left; the cheapest one answered"
    OVERLAP_OUT_OF_REACH = "no rung reaches the overlap asked for; the best one answered"


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
        degraded: why it is less than what was asked for, or None.
    """

    rung: Rung
    expected_overlap: float
    degraded: Degraded | None = None


def choose(
    ladder: Ladder,
    budget: Budget,
    *,
    k: int,
    elapsed_ms: float = 0.0,
    overhead_ms: float = 0.0,
    deadline_ms: float | None = None,
    num_searches: int = 1,
) -> Choice:
    """Choose the rung that answers a call.

    * A time (the budget's, cut short by the deadline): the best overlap at k among the ladder's steps whose p99 fits
      what is left of it; the cheapest step, degraded, when none fits.
    * A width: the best overlap at k among that width's rungs, the cheapest of several equally good ones.
    * A least overlap: the cheapest rung that reaches it; the best one, degraded, when none does.
    * Nothing: the step with the best overlap.

    Args:
        ladder: the bundle's measured rungs, at least one of them a step.
        budget: what the call may spend.
        k: items asked for.
        elapsed_ms: already spent since the call arrived.
        overhead_ms: needed after the search, to filter, pack and send the answer.
        deadline_ms: from the call's arrival to its deadline; None when it has none.
        num_searches: searches that the call makes, one after another.

    Raises:
        RequestError: no rung has the width asked for.
    """
    if budget.width is not None:
        if budget.width not in ladder.widths:
            trained = list(ladder.widths)
            raise RequestError("budget.width", f"got {budget.width}, expected a trained width, one of {trained}")
        return _choice(ladder.best_of_width(budget.width, k=k), k)
    if budget.min_overlap is not None:
        return _cheapest_reaching(ladder, budget.min_overlap, k)
    limits_ms = [limit_ms for limit_ms in (budget.time_ms, deadline_ms) if limit_ms is not None]
    if not limits_ms:
        return _choice(_best(ladder.steps, k), k)
    left_ms = min(limits_ms) - elapsed_ms - overhead_ms
    fitting = [rung for rung in ladder.steps if num_searches * latency_ms(rung, k=k) <= left_ms]
    if not fitting:
        return _choice(_cheapest(ladder.steps), k, Degraded.TIME_TOO_SHORT)
    return _choice(_best(fitting, k), k)


def latency_ms(rung: Rung, *, k: int) -> float:
    """Predict the p99 of one search: the measured one, times the square root of how far k is past the measured k.

    Searching for fewer costs a little less, which is left as a margin. For more, only keeping the best k and scoring
    them again grow, so the root is meant as an upper bound. Being the same for all rungs, it never changes their order.
    """
    return rung.latency_p99_ms * math.sqrt(max(1.0, k / max(rung.overlap)))


def _cheapest_reaching(ladder: Ladder, min_overlap: float, k: int) -> Choice:
    reaching = [rung for rung in ladder.rungs if rung.overlap_at(k) >= min_overlap]
    if not reaching:
        return _choice(_best(ladder.rungs, k), k, Degraded.OVERLAP_OUT_OF_REACH)
    return _choice(_cheapest(reaching), k)


def _best(rungs: Iterable[Rung], k: int) -> Rung:
    return max(rungs, key=lambda rung: (rung.overlap_at(k), -rung.latency_p99_ms))


def _cheapest(rungs: Iterable[Rung]) -> Rung:
    return min(rungs, key=lambda rung: rung.latency_p99_ms)


def _choice(rung: Rung, k: int, degraded: Degraded | None = None) -> Choice:
    return Choice(rung=rung, expected_overlap=rung.overlap_at(k), degraded=degraded)
