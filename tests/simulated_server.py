"""A simulated server: Poisson arrivals, a mix of budgets and random search times, on a clock of its own.

Admission, dimmer, predictions and the choice of rungs are the real ones; only time and work are simulated.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass, field

import numpy as np

from recsys.index.rungs import Ladder, Rung
from serving.admission import Admission, Priority, Ticket
from serving.budget import Budget, Degraded, choose
from serving.latency import LatencyModel

K = 100
OUTSIDE_MS = 0.4
BUDGETS_MS = (4.0, 8.0, 16.0, 40.0, 80.0)


def ladder(*steps: tuple[float, float]) -> Ladder:
    """Return steps of those overlaps and median latencies."""
    rungs = [
        Rung(
            engine="exact",
            width=16 * (place + 1),
            overlap={K: overlap},
            latency_p50_ms=p50_ms,
            latency_p99_ms=1.6 * p50_ms,
            size_bytes=1,
        )
        for place, (overlap, p50_ms) in enumerate(steps)
    ]
    return Ladder(rungs=tuple(rungs), measured={})


LADDER = ladder((0.6, 0.8), (0.8, 1.5), (0.9, 3.0), (0.97, 7.0), (1.0, 20.0))


@dataclass(kw_only=True)
class Outcome:
    """What became of a call."""

    arrived_s: float
    budget_ms: float
    priority: Priority
    code: str
    took_ms: float = 0.0
    overlap: float = 0.0
    dimmed: bool = False

    @property
    def in_time(self) -> bool:
        return self.code == "OK" and self.took_ms <= self.budget_ms


@dataclass(kw_only=True)
class Simulation:
    """A server with its state; calls of several loads may follow each other."""

    slots: int = 2
    dimmer: bool = True
    rungs: Ladder = LADDER
    seed: int = 1
    slower: float = 1.0
    now_s: float = 0.0
    outcomes: list[Outcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)
        self.admission = Admission(slots=self.slots, max_waiting=256, dimmer=self.dimmer)
        self.worth = 1.0
        self.model = LatencyModel(self.rungs, clock=lambda: self.now_s)

    def run(self, rate: float, seconds: float) -> list[Outcome]:
        """Let calls come at a rate for a while; return what became of them."""
        end_s, numbers = self.now_s + seconds, itertools.count()
        arrivals = self.now_s + np.cumsum(self.random.exponential(1 / rate, size=int(rate * seconds * 1.3) + 50))
        events = [(at, next(numbers), "arrive", None) for at in arrivals[arrivals < end_s].tolist()]
        heapq.heapify(events)
        calls: dict[Ticket, Outcome] = {}
        before = len(self.outcomes)

        def settle(decided: list[Ticket]) -> None:
            for ticket in decided:
                call = calls[ticket]
                if ticket.refusal:
                    call.code = ticket.refusal.reason.name
                else:
                    heapq.heappush(
                        events, (self.now_s + self._work(ticket, call) / 1e3, next(numbers), "leave", ticket)
                    )

        while events:
            self.now_s, _, what, ticket = heapq.heappop(events)
            if what == "arrive":
                ticket, call = self._call()
                calls[ticket] = call
                self.outcomes.append(call)
                if self.admission.full(self.admission.num_present, now_s=self.now_s):
                    call.code = "UNREAD"
                    continue
                settle(self.admission.enter(ticket, now_s=self.now_s))
                if not ticket.decided and ticket.latest_s < np.inf:
                    heapq.heappush(events, (ticket.latest_s, next(numbers), "late", ticket))
            elif what == "late" and not ticket.decided:
                self.admission.give_up(ticket, now_s=self.now_s)
                settle([ticket])
            elif what == "leave":
                calls[ticket].took_ms = 1e3 * (self.now_s - ticket.arrived_s)
                settle(self.admission.leave(ticket, now_s=self.now_s))
        return self.outcomes[before:]

    def _call(self) -> tuple[Ticket, Outcome]:
        budget_ms = float(self.random.choice(BUDGETS_MS))
        priority = Priority(self.random.choice(3, p=[0.1, 0.8, 0.1]))
        needed_ms = 2 * OUTSIDE_MS + min(self.model.predict(K).search_ms)
        due_s = self.now_s + budget_ms / 1e3
        ticket = Ticket(
            priority=priority,
            arrived_s=self.now_s,
            due_s=due_s,
            latest_s=due_s - needed_ms / 1e3,
        )
        return ticket, Outcome(arrived_s=self.now_s, budget_ms=budget_ms, priority=priority, code="OK")

    def _work(self, ticket: Ticket, call: Outcome) -> float:
        """Choose, search for a random time, and return how long all of it takes."""
        waited_ms = 1e3 * (self.now_s - ticket.arrived_s)
        choice = choose(
            self.rungs,
            Budget(time_ms=call.budget_ms),
            k=K,
            p99_ms=[ms + OUTSIDE_MS for ms in self.model.predict(K).answer_ms],
            elapsed_ms=waited_ms + OUTSIDE_MS,
            price=ticket.price.times(self.worth),
        )
        search_ms = self.slower * choice.rung.latency_p50_ms * self.random.lognormal(0.0, 0.18)
        self.model.searched(choice.rung, k=K, ms=search_ms)
        self.worth += 0.05 * (choice.expected_overlap - self.worth)
        call.overlap, call.dimmed = choice.expected_overlap, choice.degraded is Degraded.OVERLOADED
        return OUTSIDE_MS * 2 + search_ms


def summary(outcomes: list[Outcome], seconds: float) -> dict[str, float]:
    """Return the figures of a load."""
    admitted = [call for call in outcomes if call.code == "OK"]
    in_time = [call for call in admitted if call.in_time]
    return {
        "attainment": len(in_time) / max(1, len(admitted)),
        "goodput": len(in_time) / seconds,
        "shed_share": 1 - len(admitted) / max(1, len(outcomes)),
        "overlap": sum(call.overlap for call in in_time) / max(1, len(outcomes)),
    }
