"""Who is worked on, when, and how well, so that admitted calls answer in time while more come than can be answered.

As many calls are worked on at once as there are slots. Those that wait are taken by priority, then by who is due first.
Three things keep the wait short, the gentlest first:

* `serving.price.Dimmer`: a slot's time has a price, what it costs those who wait or will come meanwhile, so that each
  call works less. (A dimmer on optional work: brownout, Klein et al., ICSE 2014.)
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
from dataclasses import dataclass

from serving.price import FREE, MOST_BEFORE, Dimmer, Price

_NEW = 0.02
"""What each call counts in the mean of how long calls can wait."""
_BURST_S = 0.1
"""How long more calls may be here than the limit has it after the last moment that nobody waited."""
_PATIENCE_S = 1.0
"""A call without a limit, or with a later one, counts as lost to its client after this time."""
_MEMORY = 0.05
"""How much each call counts in the mean of what calls work."""


class Priority(enum.IntEnum):
    """Whose calls go first; whose answers are dimmed and refused first has the largest number."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


_WORTH = {Priority.HIGH: 4.0, Priority.NORMAL: 1.0, Priority.LOW: 0.25}
"""What overlap is worth, and so what part of the price of time counts."""


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
        price: what a millisecond of a core costs others, in answers, once it is taken up.
        refusal: why it is not worked on, once that is so.
    """

    priority: Priority = Priority.NORMAL
    arrived_s: float
    due_s: float
    latest_s: float = math.inf
    useless_s: float = math.inf
    hopeless: bool = False
    started_s: float | None = None
    price: Price = FREE
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
        self.value = self._burst = float(min(most, 8 * slots))
        self._drained_s = -math.inf

    def at(self, now_s: float) -> float:
        """Return how many may be here: more where all that waited were answered a moment ago, so that bursts pass."""
        return max(self.value, self._burst) if now_s - self._drained_s < _BURST_S else self.value

    def drained(self, now_s: float) -> None:
        """Note that a slot is free, so that nobody waits."""
        self._drained_s = now_s

    def learn(self, *, waited_s: float, worked_s: float, present: int, patient: float = 1.0) -> None:
        """Learn from a call that has been answered while so many were here.

        Args:
            waited_s: how long it waited.
            worked_s: how long it was worked on.
            present: calls that were here.
            patient: how many of those that wait can; twice as many are too many.
        """
        if 2 * present < self.value:
            return  # it says nothing of what happens at the limit
        queue = self.value * waited_s / max(waited_s + worked_s, 1e-9)
        step = max(1.0, math.log10(self.value))
        if queue < patient * step:
            self.value = min(self._most, self.value + step / self.value)
        elif queue > 2 * patient * step:
            self.value = max(self._least, self.value - step / self.value)


class Admission:
    """Decides over calls. Not safe for concurrent use.

    Args:
        slots: calls that are worked on at once.
        max_waiting: calls that may wait, at most.
        dimmer: whether work has a price while calls wait, so that overload costs overlap before it costs answers.
    """

    def __init__(self, *, slots: int, max_waiting: int, dimmer: bool = True) -> None:
        self.limit = Limit(slots=slots, most=slots + max_waiting)
        self.dimmer = Dimmer(slots=slots) if dimmer else None
        self._slots = slots
        self._working = 0
        self._waiting: list[tuple[int, float, int, Ticket]] = []
        self._numbers = itertools.count()
        self._mean_work_s = self._mean_used_s = 0.0
        self._num_before = 0
        self._hurry = 1 / _PATIENCE_S  # the mean over calls of one over the time that they can wait

    @property
    def num_present(self) -> int:
        """Calls that work or wait."""
        return self._working + len(self._waiting)

    @property
    def num_waiting(self) -> int:
        """Calls that wait."""
        return len(self._waiting)

    def full(self, num_inside: int, *, now_s: float) -> bool:
        """Whether so many calls are more than may be here; asked of each that comes, before it counts as one."""
        if num_inside < self._slots:
            self.limit.drained(now_s)
        return num_inside >= self.limit.at(now_s) + self._slots

    def turn_away(self, *, now_s: float) -> None:
        """Note that a call was refused before it was known what it asks for: it would have waited without an end."""
        if self.dimmer is not None:
            self.dimmer.learn(num_before=MOST_BEFORE, had_ms=1e3 / self._hurry, now_s=now_s)

    def level(self, *, now_s: float) -> float:
        """Return what a millisecond of work costs those who wait, as a share of the most that it can."""
        return 0.0 if self.dimmer is None else self.dimmer.level(work_ms=1e3 * self._mean_work_s, now_s=now_s)

    def enter(self, ticket: Ticket, *, now_s: float) -> list[Ticket]:
        """Take a call up, let it wait or refuse it; return those whose fate that decided, itself or another one."""
        place = (int(ticket.priority), ticket.due_s, next(self._numbers), ticket)
        free = self._working < self._slots
        # Where nothing else goes on, a late answer costs nobody anything, and is worth more than a refusal, to a client
        # that is still there.
        late_is_fine = (ticket.hopeless or self._working == 0) and now_s <= ticket.useless_s
        if free and (now_s <= ticket.latest_s or late_is_fine):
            return [self._start(ticket, now_s)]
        ahead = bisect.bisect_left(self._waiting, place)
        if now_s + self._mean_work_s * (ahead + 0.5) / self._slots > ticket.latest_s:
            return [self._refuse(ticket, Reason.LATE, now_s)]
        bisect.insort(self._waiting, place)
        if len(self._waiting) <= self._room(ticket.priority, now_s):
            return []
        # The newest of the lowest priority goes: those before it are nearer to their turn.
        lowest = self._waiting[-1][0]
        last = max((each for each in self._waiting if each[0] == lowest), key=lambda each: each[2])
        self._waiting.remove(last)
        return [self._refuse(last[-1], Reason.LIMIT, now_s)]

    def leave(self, ticket: Ticket, *, now_s: float, used_s: float | None = None) -> list[Ticket]:
        """Free a call's slot; return those whose fate that decided.

        Args:
            ticket: the call.
            now_s: the time.
            used_s: how long it used a core; None for all the time that it had the slot.
        """
        assert ticket.started_s is not None, "only what was taken up leaves"
        waited_s = ticket.started_s - ticket.arrived_s
        worked_s = now_s - ticket.started_s
        # As many as are answered in half of the time that calls can wait.
        patient = max(1.0, 0.5 * self._slots / (self._hurry * max(worked_s, self._mean_work_s, 1e-9)))
        self.limit.learn(waited_s=waited_s, worked_s=worked_s, present=self.num_present, patient=patient)
        weight = _MEMORY if self._mean_work_s else 1.0
        self._mean_work_s += weight * (worked_s - self._mean_work_s)
        self._mean_used_s += weight * ((worked_s if used_s is None else used_s) - self._mean_used_s)
        self._working -= 1
        if not self._waiting:
            self._num_before = 0
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

    def _room(self, priority: Priority, now_s: float) -> float:
        """Return how many may wait for one more of a priority to wait as well."""
        room = self.limit.at(now_s) - self._slots
        return room / 2 if priority is Priority.LOW else room

    def _start(self, ticket: Ticket, now_s: float) -> Ticket:
        self._learn(ticket, now_s)
        self._working += 1
        if self._working == self._slots:
            self._num_before += 1
        ticket.started_s = now_s
        if self.dimmer is not None and self._mean_used_s:
            work_ms, used_ms = 1e3 * self._mean_work_s, 1e3 * self._mean_used_s
            price = self.dimmer.price(work_ms=work_ms, used_ms=used_ms, now_s=now_s)
            ticket.price = price.times(1 / _WORTH[ticket.priority])
        return ticket

    def _refuse(self, ticket: Ticket, reason: Reason, now_s: float) -> Ticket:
        ticket.refusal = Refusal(reason=reason, retry_after_ms=self.retry_after_ms())
        self._learn(ticket, now_s)
        return ticket

    def _learn(self, ticket: Ticket, now_s: float) -> None:
        """Learn from a call that is decided about, unless nobody could answer it in time."""
        if ticket.hopeless:
            return
        had_s = min(_PATIENCE_S, max(ticket.latest_s - ticket.arrived_s, self._mean_work_s, 1e-6))
        self._hurry += _NEW * (1 / had_s - self._hurry)
        if self.dimmer is not None:
            self.dimmer.learn(num_before=self._num_before, had_ms=1e3 * had_s, now_s=now_s)
