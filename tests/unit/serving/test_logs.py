"""Lines in both forms, and lines left out."""

from __future__ import annotations

import contextvars
import json
import logging

import pytest

from serving.logs import CallLog, configure, request_id
from serving.v1 import candidates_pb2 as pb


@pytest.fixture
def lines(capsys):
    """Give what reads the lines written so far; afterwards logging is as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield lambda: capsys.readouterr().err.splitlines()
    root.handlers[:] = handlers
    root.setLevel(level)


def report(total_ms, **rest):
    return pb.SearchReport(rung="exact16", timings=pb.Timings(queue_ms=1.5, total_ms=total_ms), **rest)


def test_text_is_for_people(lines):
    configure("text")
    CallLog(slow_ms=10).answered("Recommend", report(20.0))
    (line,) = lines()
    for part in ("warning", "slow call", "method=Recommend", "queue_ms=1.5", "total_ms=20.0", "serving.logs"):
        assert part in line


def test_json_is_for_programs_with_errors_in_the_line(lines):
    configure("json")
    try:
        int("what was wrong")
    except ValueError:
        logging.getLogger("some.module").exception("it failed with %d", 3)
    (line,) = lines()
    said = json.loads(line)
    assert (said["event"], said["level"], said["logger"]) == ("it failed with 3", "error", "some.module")
    assert "what was wrong" in said["exception"]


def test_lines_of_a_call_carry_its_request_id(lines):
    configure("json")
    call = contextvars.copy_context()
    call.run(request_id.set, "mine")
    call.run(logging.getLogger("some.module").info, "inside")
    logging.getLogger("some.module").info("outside")
    inside, outside = map(json.loads, lines())
    assert inside["request_id"] == "mine"
    assert "request_id" not in outside


def test_only_slow_answers_make_a_line(lines):
    configure("json")
    log = CallLog(slow_ms=10)
    log.answered("Recommend", report(10.0))
    log.answered("Recommend", report(10.1, degraded_reasons=[pb.DEGRADED_REASON_TIME_TOO_SHORT]))
    (line,) = map(json.loads, lines())
    assert (line["total_ms"], line["degraded"]) == (10.1, ["DEGRADED_REASON_TIME_TOO_SHORT"])


def test_the_next_line_says_how_many_were_left_out(lines):
    configure("json")
    log = CallLog(slow_ms=10, lines_per_s=0.2)
    for _ in range(4):
        log.refused("Recommend", "INVALID_ARGUMENT", field="user.features['a secret'][0]")
    log.answered("Recommend", report(20.0))
    first, slow = map(json.loads, lines())
    assert (first["event"], first["field"], slow["event"]) == ("call refused", "user.features", "slow call")
    log._limits["call refused"]._left = 1.0
    log.refused("Recommend", "INVALID_ARGUMENT")
    (after,) = map(json.loads, lines())
    assert after["num_left_out"] == 3
