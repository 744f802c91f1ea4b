"""Who is worked on, when, and how well, so that admitted calls answer in time while more come than can be answered.

As many calls are worked on at once as there are slots. Those that wait are taken by priority, then by who is due first.
Three things keep the wait short, the gentlest first:

* `Dimmer`: while calls wait long beside what they work, the ladder is slowly cut from above, so that each call works
  less; it reopens more slowly. (Brownout: Klein et al., ICSE 2014.)
* `Limit`: how many calls may be here. Vegas (Brakmo and Peterson, 1994) as in Netflix's concurrency-limits, except that
  the time without a queue need not be guessed from a minimum: what each call waited is measured.
* A call is refused as soon as it is clear that not even the cheapest rung would answer it in time.

All of it is told what time it is, and waits for nothing; `serving.gate` adds the threads.
"""

from __future__ import annotations

import bisect
import enum
import itertools
import math
from dataclasses import dataclass, field

from serving.budget import Dim

_PERIOD_S = 0.1
_DIM_S, _REOPEN_S = 1.0, 5.0
"""How long it takes to dim from nothing to all where calls do nothing but wait, and to reopen where none waits."""
_WAITING_SHARE = 0.3
"""Of the time that calls are here, the share that they may wait before the ladder is cut."""
_MEMORY = 0.05
"""How much each call counts in the mean of what calls work."""
_GOLDEN = (math.sqrt(5) - 1) / 2


class Priority(enum.IntEnum):
    """Whose calls go first; whose answers are dimmed and refused first has the largest number."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


class Reason(enum.Enum):
    """Why a call was refused."""

    LATE = "not even the cheapest rung would answer in time"
    LIMIT = "as many calls wait as can be answered soon"


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A call that is not answered; retrying makes sense after about ``retry_after_ms``."""

    reason: Reason
    retry_after_ms: float


@dataclass(kw_only=True, eq=False)
class Ticket:
    """A call before it is worked on. Times are on the clock that `Admission` is told.

    Args:
        priority: whose call it is.
        arrived_s: when it came.
        due_s: when it should be answered; sooner ones go first.
        latest_s: when it must be taken up for the cheapest rung to answer in time; infinite without a limit.
        useless_s: when it must be taken up for the client to be there still: it leaves at its deadline, while a budget
            that is over leaves it waiting.
        hopeless: it could not be answered in time even by an idle server. It is answered late where nobody waits.
        queued: whether no slot was free when it came.
        dim: how far the ladder is cut for it, once it is taken up.
        refusal: why it is not worked on, once that is so.
    """

    priority: Priority = Priority.NORMAL
    arrived_s: float
    due_s: float
    latest_s: float = math.inf
    useless_s: float = math.inf
    hopeless: bool = False
    queued: bool = False
    started_s: float | None = None
    dim: Dim = field(default_factory=Dim)
    refusal: Refusal | None = None

    @property
    def decided(self) -> bool:
        """Whether it is or was worked on, or was refused."""
        return self.started_s is not None or self.refusal is not None


class Limit:
    """How many calls may be here, worked on or waiting.

    Args:
        slots: calls that are worked on at once.
        most: the largest limit.
    """

    def __init__(self, *, slots: int, most: int) -> None:
        self._least = float(min(most, 2 * slots))
        self._most = float(most)
        self.value = float(min(most, 8 * slots))

    def learn(self, *, waited_s: float, worked_s: float, present: int) -> None:
        """Learn from a call that has been answered while so many were here."""
        if 2 * present < self.value:
            return  # it says nothing of what happens at the limit
        queue = self.value * waited_s / max(waited_s + worked_s, 1e-9)
        step = max(1.0, math.log10(self.value))
        if queue < 3 * step:
            self.value = min(self._most, self.value + step / self.value)
        elif queue > 6 * step:
            self.value = max(self._least, self.value - step / self.value)


class Dimmer:
    """How far the ladder is cut, from how much of their time calls wait."""

    def __init__(self) -> None:
        self.level = 0.0
        self._waited_s = self._worked_s = 0.0
        self._since_s: float | None = None

    def learn(self, *, waited_s: float, worked_s: float, now_s: float) -> None:
        """Count a call that was answered or refused."""
        self.turn(now_s=now_s)
        self._waited_s += waited_s
        self._worked_s += worked_s

    def turn(self, *, now_s: float) -> None:
        """Dim or reopen, where a period is over."""
        if self._since_s is None:
            self._since_s = now_s
        elapsed_s = now_s - self._since_s
        if elapsed_s < _PERIOD_S:
            return
        share = self._waited_s / max(self._waited_s + self._worked_s, 1e-9)
        if share > _WAITING_SHARE:
            # Of a long pause only a period was busy.
            step = min(elapsed_s, 2 * _PERIOD_S) / _DIM_S * (share - _WAITING_SHARE) / (1 - _WAITING_SHARE)
        else:
            step = -elapsed_s / _REOPEN_S * (1 - share / _WAITING_SHARE)
        self.level = min(1.0, max(0.0, self.level + step))
        self._waited_s = self._worked_s = 0.0
        self._since_s = now_s

    def level_for(self, priority: Priority) -> float:
        """Return how far the ladder is cut for a priority: low ones twice as soon, high ones in the second half."""
        if priority is Priority.LOW:
            return min(1.0, 2 * self.level)
        return max(0.0, 2 * self.level - 1) if priority is Priority.HIGH else self.level


class Admission:
    """Decides over calls. Not safe for concurrent use.

    Args:
        slots: calls that are worked on at once.
        max_waiting: calls that may wait, at most.
        dimmer: whether overload may cost overlap before it costs answers.
    """

    def __init__(self, *, slots: int, max_waiting: int, dimmer: bool = True) -> None:
        self.limit = Limit(slots=slots, most=slots + max_waiting)
        self.dimmer = Dimmer() if dimmer else None
        self._slots = slots
        self._working = 0
        self._waiting: list[tuple[int, float, int, Ticket]] = []
        self._numbers = itertools.count()
        self._mean_work_s = 0.0

    @property
    def num_waiting(self) -> int:
        """Calls that wait."""
        return len(self._waiting)

    def enter(self, ticket: Ticket, *, now_s: float) -> list[Ticket]:
        """Take a call up, let it wait or refuse it; return those whose fate that decided, itself or another one."""
        place = (int(ticket.priority), ticket.due_s, next(self._numbers), ticket)
        free = self._working < self._slots
        # Where nothing else goes on, a late answer costs nobody anything, and is worth more than a refusal, to a client
        # that is still there.
        late_is_fine = (ticket.hopeless or self._working == 0) and now_s <= ticket.useless_s
        if free and (now_s <= ticket.latest_s or late_is_fine):
            return [self._start(ticket, now_s)]
        ticket.queued = True
        ahead = bisect.bisect_left(self._waiting, place)
        if now_s + self._mean_work_s * (ahead + 0.5) / self._slots > ticket.latest_s:
            return [self._refuse(ticket, Reason.LATE, now_s)]
        bisect.insort(self._waiting, place)
        if len(self._waiting) <= self._room(ticket.priority):
            return []
        # The newest of the lowest priority goes: those before it are nearer to their turn.
        lowest = self._waiting[-1][0]
        last = max((each for each in self._waiting if each[0] == lowest), key=lambda each: each[2])
        self._waiting.remove(last)
        return [self._refuse(last[-1], Reason.LIMIT, now_s)]

    def leave(self, ticket: Ticket, *, now_s: float) -> list[Ticket]:
        """Free a call's slot; return those whose fate that decided."""
        assert ticket.started_s is not None, "only what was taken up leaves"
        # What passes before a call that finds a slot is how threads take turns, no sign of load.
        waited_s = ticket.started_s - ticket.arrived_s if ticket.queued else 0.0
        worked_s = now_s - ticket.started_s
        self.limit.learn(waited_s=waited_s, worked_s=worked_s, present=self._working + len(self._waiting))
        self._learn(waited_s, worked_s, now_s)
        self._mean_work_s += (worked_s - self._mean_work_s) * (_MEMORY if self._mean_work_s else 1.0)
        self._working -= 1
        decided = []
        while self._waiting and self._working < self._slots:
            *_, first = self._waiting.pop(0)
            late = now_s > first.latest_s
            decided.append(self._refuse(first, Reason.LATE, now_s) if late else self._start(first, now_s))
        return decided

    def give_up(self, ticket: Ticket, *, now_s: float) -> None:
        """Refuse a call that has waited until it was too late, unless it has been decided about meanwhile."""
        if not ticket.decided:
            self._waiting = [each for each in self._waiting if each[-1] is not ticket]
            self._refuse(ticket, Reason.LATE, now_s)

    def retry_after_ms(self) -> float:
        """Return about how long it takes until those that wait have been answered."""
        return 1e3 * self._mean_work_s * (len(self._waiting) + 1) / self._slots

    def _room(self, priority: Priority) -> float:
        """Return how many may wait for one more of a priority to wait as well."""
        room = self.limit.value - self._slots
        return room / 2 if priority is Priority.LOW else room

    def _start(self, ticket: Ticket, now_s: float) -> Ticket:
        self._working += 1
        ticket.started_s = now_s
        if self.dimmer is not None:
            self.dimmer.turn(now_s=now_s)
            # Spread evenly, so that between two steps each gets its share of any few calls.
            chance = next(self._numbers) * _GOLDEN % 1
            ticket.dim = Dim(level=self.dimmer.level_for(ticket.priority), chance=chance)
        return ticket

    def _refuse(self, ticket: Ticket, reason: Reason, now_s: float) -> Ticket:
        ticket.refusal = Refusal(reason=reason, retry_after_ms=self.retry_after_ms())
        # It would have waited as long as those do that are here.
        waited_s = max(now_s - ticket.arrived_s, self.retry_after_ms() / 1e3)
        self._learn(0.0 if ticket.hopeless else waited_s, 0.0, now_s)
        return ticket

    def _learn(self, waited_s: float, worked_s: float, now_s: float) -> None:
        if self.dimmer is not None:
            self.dimmer.learn(waited_s=waited_s, worked_s=worked_s, now_s=now_s)
