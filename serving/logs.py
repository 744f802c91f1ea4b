"""What a server writes about itself: lines for people or for programs, and which of them are about which call.

Modules log as always, with `logging` and fields in ``extra``; structlog puts the lines into form. Every line that is
written while a call is worked on carries its request id. Nobody's id, history or feature value is ever logged.
"""

from __future__ import annotations

import logging
import re
import sys
from contextvars import ContextVar
from typing import Any, Literal

import structlog
from structlog.typing import EventDict, Processor

from serving.rate import RateLimit
from serving.v1 import candidates_pb2 as pb

LogFormat = Literal["text", "json"]
request_id: ContextVar[str] = ContextVar("request_id")
"""The call that this thread is working on."""

_LINES_PER_S = 5.0
_log = logging.getLogger(__name__)
# A feature's name stands in quotes in a field's path and is whatever a client sent.
_QUOTED = re.compile(r"\[['\"].*")


def configure(log_format: LogFormat, *, level: int = logging.INFO) -> None:
    """Send the lines of all loggers of this process to standard error, in one form.

    Args:
        log_format: ``text`` for people; ``json`` for programs, one object a line.
        level: the least level that is written.
    """
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.CallsiteParameterAdder({structlog.processors.CallsiteParameter.PROCESS}),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_request_id,
    ]
    last: list[Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if log_format == "json"
        else [structlog.dev.ConsoleRenderer(colors=False)]
    )
    handler = logging.StreamHandler(sys.stderr)
    remove = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[remove, *last]))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


class CallLog:
    """A line about calls that were slow and about calls that were refused, no more of each kind than can be read.

    Args:
        slow_ms: an answer that took longer is slow.
        lines_per_s: lines of each kind per second; the next one says how many were left out.
    """

    def __init__(self, *, slow_ms: float, lines_per_s: float = _LINES_PER_S) -> None:
        self._slow_ms = slow_ms
        self._limits = {event: RateLimit(lines_per_s) for event in ("slow call", "call refused")}
        self._num_left_out = dict.fromkeys(self._limits, 0)

    def answered(self, method: str, report: pb.SearchReport) -> None:
        """Write a line if the answer was slow."""
        if report.timings.total_ms <= self._slow_ms:
            return
        timings = {field.name: round(value, 3) for field, value in report.timings.ListFields()}
        reasons = [pb.DegradedReason.Name(reason) for reason in report.degraded_reasons]
        self._write("slow call", logging.WARNING, method=method, rung=report.rung, degraded=reasons, **timings)

    def refused(self, method: str, code: str, *, field: str | None = None) -> None:
        """Write a line about a call that got no answer, with the field of the request that was wrong, if one was."""
        where = {} if field is None else {"field": _QUOTED.sub("", field)}
        self._write("call refused", logging.INFO, method=method, code=code, **where)

    def _write(self, event: str, level: int, **fields: Any) -> None:
        if not self._limits[event].take():
            self._num_left_out[event] += 1
            return
        if num_left_out := self._num_left_out[event]:
            self._num_left_out[event] = 0
            fields["num_left_out"] = num_left_out
        _log.log(level, event, extra=fields)


def _add_request_id(_logger: Any, _method: str, event: EventDict) -> EventDict:
    if (given := request_id.get(None)) is not None:
        event["request_id"] = given
    return event
