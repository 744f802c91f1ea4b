"""What a server tells Prometheus: calls and their codes, time by stage and rung, widths, answers within their budgets.

A registry of its own, not the process-wide one: several servers may live in one process, and each counts its own calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, Summary, start_http_server

from recsys.errors import ConfigError
from serving.admission import Priority, Reason
from serving.gate import Gate
from serving.query import Answer, Call
from serving.view import CatalogueView

_BUCKETS_S = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


class _OfRung(NamedTuple):
    """What is counted at each answer of one rung; looked up once, since finding a series by its labels takes time."""

    answers: Counter
    queue_s: Histogram
    encode_s: Histogram
    scan_s: Histogram
    rerank_s: Histogram


class ShadowMetrics:
    """What is counted of answers that are searched again exactly (`serving.shadow`)."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._overlap, self._expected = (
            Summary(f"recsys_shadow_{name}", text, ["rung"], registry=registry)
            for name, text in (
                ("overlap", "Overlap of sampled answers with the exact ones."),
                ("expected_overlap", "Overlap that the same answers claimed."),
            )
        )
        self._error = Gauge(
            "recsys_shadow_error",
            "Mean overlap of sampled answers less what they claimed, since the start.",
            ["rung"],
            registry=registry,
        )
        self._dropped = Counter(
            "recsys_shadow_dropped", "Answers of the sample that were not measured.", ["reason"], registry=registry
        )
        self._correction = Gauge(
            "recsys_overlap_correction",
            "Expected overlap that answers claim now, less the published one.",
            ["rung", "k"],
            registry=registry,
        )
        self._errors: dict[str, tuple[int, float]] = {}

    def measured(self, rung: str, *, expected: float, overlap: float) -> None:
        """Count an answer that was searched again exactly. Of one thread at a time."""
        self._overlap.labels(rung).observe(overlap)
        self._expected.labels(rung).observe(expected)
        count, total = self._errors.get(rung, (0, 0.0))
        count, total = count + 1, total + overlap - expected
        self._errors[rung] = count, total
        self._error.labels(rung).set(total / count)

    def corrected(self, rung: str, *, k: int, correction: float) -> None:
        """Note by how much the expected overlap of a rung at a measured k differs from the published one."""
        self._correction.labels(rung, str(k)).set(correction)

    def dropped(self, reason: str) -> None:
        """Count an answer that was to be searched again and was not."""
        self._dropped.labels(reason).inc()


class Metrics:
    """Counts of one server. Safe for concurrent calls.

    Attributes:
        registry: all that is counted.
        shadow: what is counted of answers that are searched again.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._calls = Counter("recsys_calls", "Calls that a worker took up.", ["method", "code"], registry=registry)
        self._inside = Gauge("recsys_calls_in_progress", "Calls that are here, at work or waiting.", registry=registry)
        self._answer_s = Histogram(
            "recsys_answer_seconds",
            "From a call's arrival until its answer was ready to be sent.",
            ["method"],
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self._stage_s = Histogram(
            "recsys_stage_seconds",
            "Where the time of answered calls went: queue, encode, scan, rerank.",
            ["stage", "rung"],
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self._answers = Counter(
            "recsys_answers", "Answers by the rung that searched, and its width.", ["rung", "width"], registry=registry
        )
        self._degraded = Counter(
            "recsys_degraded", "Answers that were less than what was asked for.", ["reason"], registry=registry
        )
        self._timed = Counter(
            "recsys_timed_answers",
            "Answers to calls with a time budget or a deadline, by whether they were ready in time.",
            ["in_time"],
            registry=registry,
        )
        self.shadow = ShadowMetrics(registry)
        self._took_of_predicted = Histogram(
            "recsys_took_of_predicted",
            "Time to answer over the p99 that was predicted when the rung was chosen: 99 of 100 should be at most 1.",
            buckets=(0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 4.0),
            registry=registry,
        )
        self._changes = Counter(
            "recsys_catalogue_changes", "Items put in or replaced, and deleted.", ["kind"], registry=registry
        )
        self._refused = Counter(
            "recsys_refused",
            "Calls that were refused because the server is busy.",
            ["reason", "priority"],
            registry=registry,
        )
        self._gate = {
            name: Gauge(f"recsys_{name}", text, registry=registry)
            for name, text in (
                ("concurrency_limit", "Calls that may be here, worked on or waiting."),
                ("calls_waiting", "Calls that wait for their turn."),
                (
                    "dimmer_level",
                    "What a millisecond of work costs those who wait: 0 for nothing, 1 for all that a slot does in it.",
                ),
            )
        }
        self._bundle = Info("recsys_bundle", "The bundle of the latest answer.", registry=registry)
        self._version = ""
        self._of_rung = lru_cache(maxsize=1024)(self._find)
        self._call_of = lru_cache(maxsize=1024)(self._calls.labels)
        self._answer_s_of = lru_cache(maxsize=64)(self._answer_s.labels)
        self._timed_as = {in_time: self._timed.labels(str(in_time).lower()) for in_time in (True, False)}

    def watch_catalogue(self, view: Callable[[], CatalogueView]) -> None:
        """Show what changed since the live bundle was published, as it is whenever somebody asks."""
        shown: list[tuple[str, str, Callable[[CatalogueView], int]]] = [
            ("delta_items", "Items put in since the live bundle was published.", lambda now: len(now.items)),
            (
                "tombstones",
                "Items of the live bundle that were deleted or replaced.",
                lambda now: len(now.delta.hidden),
            ),
            ("sequence", "The last change that searches see.", lambda now: now.sequence),
        ]
        for name, says, number in shown:
            gauge = Gauge(f"recsys_catalogue_{name}", says, registry=self.registry)
            gauge.set_function(partial(lambda of: of(view()), number))

    def changed(self, kind: str, num: int) -> None:
        """Count changed items that were answered for, by what was done to them."""
        self._changes.labels(kind).inc(num)

    def called(self, method: str, code: str) -> None:
        """Count a call that ended with a status code."""
        self._call_of(method, code).inc()

    def refused(self, reason: Reason, priority: Priority | None) -> None:
        """Count a call that was refused because the server is busy; None for the priority of one that was not read."""
        self._refused.labels(reason.name.lower(), "unread" if priority is None else priority.name.lower()).inc()

    def watch(self, gate: Gate, *, num_inside: Callable[[], int]) -> None:
        """Show how a gate is doing, and how many calls are here, whenever somebody looks."""
        self._inside.set_function(num_inside)
        self._gate["concurrency_limit"].set_function(lambda: gate.limit)
        self._gate["calls_waiting"].set_function(lambda: gate.num_waiting)
        self._gate["dimmer_level"].set_function(lambda: gate.dimmer_level)

    def answered(self, method: str, answer: Answer, call: Call, *, ready_ms: float, time_ms: float | None) -> None:
        """Count an answer.

        Args:
            method: which call it answers.
            answer: what was done.
            call: when it came.
            ready_ms: from then until the answer was ready to be sent.
            time_ms: its time budget, if it has one; the call's deadline counts beside it.
        """
        timings = answer.timings
        self._answer_s_of(method).observe(ready_ms / 1e3)
        self._took_of_predicted.observe(ready_ms / answer.predicted_ms)
        of_rung = self._of_rung(answer.rung.name, answer.rung.width)
        of_rung.answers.inc()
        of_rung.queue_s.observe(timings.queue_ms / 1e3)
        of_rung.encode_s.observe(timings.encode_ms / 1e3)
        of_rung.scan_s.observe(timings.scan_ms / 1e3)
        of_rung.rerank_s.observe(timings.rerank_ms / 1e3)
        for reason in answer.degraded:
            self._degraded.labels(reason.name.lower()).inc()
        limits_ms = [limit_ms for limit_ms in (time_ms, call.deadline_ms) if limit_ms is not None]
        if limits_ms:
            self._timed_as[ready_ms <= min(limits_ms)].inc()
        if answer.bundle_version != self._version:
            self._version = answer.bundle_version
            self._bundle.info({"version": self._version})

    def _find(self, rung: str, width: int) -> _OfRung:
        stages = (self._stage_s.labels(stage, rung) for stage in ("queue", "encode", "scan", "rerank"))
        return _OfRung(self._answers.labels(rung, str(width)), *stages)


@contextmanager
def exported(metrics: Metrics, *, host: str, port: int) -> Iterator[int]:
    """Serve the metrics over HTTP, at any path, while this lasts; give the port.

    Args:
        metrics: what to serve.
        host: address to listen on, as gRPC takes it.
        port: port to listen on; 0 for any free one.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    try:
        server, thread = start_http_server(port, host.strip("[]"), registry=metrics.registry)
    except OSError as error:
        got = f"{host}:{port}"
        raise ConfigError(f"metrics_port: got {got}, which cannot be listened on: {error.strerror}") from error
    try:
        yield int(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
