"""Threads wait here until they may work: `serving.admission` with a lock, a clock and somebody to wake."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from serving.admission import Admission, Priority, Reason, Refusal, Ticket
from serving.errors import OverloadedError
from serving.query import Call

_HIGH_S = 10.0
"""While calls of high priority came within this time, none is refused unread: it may be one of them."""


class Gate:
    """Lets as many calls work at once as there are slots. Safe for concurrent use.

    Args:
        slots: calls that work at once.
        max_waiting: calls that may wait, at most.
        dimmer: whether work has a price while calls wait, so that overload costs overlap before it costs answers.
    """

    def __init__(self, *, slots: int, max_waiting: int, dimmer: bool = True) -> None:
        self._admission = Admission(slots=slots, max_waiting=max_waiting, dimmer=dimmer)
        self._changing = threading.Lock()
        self._sleepers: dict[Ticket, threading.Lock] = {}
        self._high_s = -math.inf

    @property
    def limit(self) -> float:
        """Calls that may be here, worked on or waiting."""
        return self._admission.limit.value

    @property
    def num_waiting(self) -> int:
        """Calls that wait."""
        return self._admission.num_waiting

    @property
    def dimmer_level(self) -> float:
        """What a millisecond of work costs those who wait, as a share of the most that it can."""
        with self._changing:
            return self._admission.level(now_s=time.perf_counter())

    def full(self, *, num_inside: int) -> bool:
        """Whether so many calls are more than may be here, so that one more is refused without being read."""
        now_s = time.perf_counter()
        if now_s - self._high_s <= _HIGH_S or not self._admission.full(num_inside, now_s=now_s):
            return False
        with self._changing:
            self._admission.turn_away(now_s=now_s)
        return True

    def retry_after_ms(self) -> float:
        """Return about how long it takes until those that wait have been answered."""
        return self._admission.retry_after_ms()

    @contextmanager
    def turn(self, ticket: Ticket, call: Call, *, wanted: Callable[[], bool] = lambda: True) -> Iterator[Call]:
        """Wait for a call's turn, and keep its slot while this lasts; give the call as it is from then on.

        Args:
            ticket: until when it makes sense to wait.
            call: when it came.
            wanted: whether somebody still waits for the answer.

        Raises:
            OverloadedError: it would be answered too late, or too many wait.
        """
        if ticket.priority is Priority.HIGH:
            self._high_s = time.perf_counter()
        self._wait(ticket)
        if ticket.refusal is not None:
            raise OverloadedError(ticket.refusal, priority=ticket.priority)
        assert ticket.started_s is not None, "it was decided that it may work"
        began_s = time.thread_time()
        try:
            if not wanted():
                raise OverloadedError(Refusal(reason=Reason.LATE, retry_after_ms=0.0), priority=ticket.priority)
            yield Call(
                arrived_s=call.arrived_s,
                started_s=ticket.started_s,
                deadline_ms=call.deadline_ms,
                price=ticket.price,
            )
        finally:
            with self._changing:
                used_s = time.thread_time() - began_s
                self._wake(self._admission.leave(ticket, now_s=time.perf_counter(), used_s=used_s))

    def _wait(self, ticket: Ticket) -> None:
        with self._changing:
            now_s = time.perf_counter()
            self._wake(self._admission.enter(ticket, now_s=now_s))
            if ticket.decided:
                return
            # A lock that whoever decides lets go of: an event is a lock, a condition and a list more.
            decided = self._sleepers[ticket] = threading.Lock()
            decided.acquire()
        if not decided.acquire(timeout=max(0.0, min(ticket.latest_s - now_s, threading.TIMEOUT_MAX))):
            with self._changing:
                self._admission.give_up(ticket, now_s=time.perf_counter())
                self._sleepers.pop(ticket, None)

    def _wake(self, decided: list[Ticket]) -> None:
        for ticket in decided:
            if (sleeper := self._sleepers.pop(ticket, None)) is not None:
                sleeper.release()
