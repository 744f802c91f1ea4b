"""Spans of OpenTelemetry for each call: one for the call, and one for each of its stages. Needs the extra ``tracing``.

Stages are laid out when the answer is ready, from the times that its report gives, so that tracing adds nothing between
them. Those of a batch are the sums over its users, one stage after another.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import grpc
from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from serving.v1 import candidates_pb2 as pb

_STAGES = ("queue", "encode", "scan", "rerank")
Asked = pb.RecommendRequest | pb.BatchRecommendRequest | pb.SimilarItemsRequest


class Spans:
    """Traces the calls of one server. Safe for concurrent calls.

    Args:
        provider: where spans go.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("serving")

    @contextmanager
    def call(
        self, service: str, method: str, *, metadata: Iterable[tuple[str, str | bytes]], arrived_s: float
    ) -> Iterator[None]:
        """Trace a call while this lasts, as a part of the trace that its metadata names (W3C trace context).

        Args:
            service: the service's full name.
            method: the method's name.
            metadata: as the call brought it.
            arrived_s: when it came, on the clock of `time.perf_counter`.
        """
        carrier = {key: value for key, value in metadata if isinstance(value, str)}
        span = self._tracer.start_span(
            f"{service}/{method}",
            context=propagate.extract(carrier),
            kind=trace.SpanKind.SERVER,
            start_time=_unix_ns(arrived_s),
            attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": method},
        )
        # What ends a call early is no fault of the span's: `ended` says how it ended.
        with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            yield

    def answered(self, request: Asked, report: pb.SearchReport, *, arrived_s: float) -> None:
        """Add what was asked for and done to the call's span, and a span for each stage."""
        span = trace.get_current_span()
        if not span.is_recording():
            return
        span.set_attributes(
            {
                "recsys.k": request.k,
                "recsys.rung": report.rung,
                "recsys.width": report.width,
                "recsys.expected_overlap": report.expected_overlap,
                "recsys.bundle_version": report.bundle_version,
                "recsys.degraded": [pb.DegradedReason.Name(reason) for reason in report.degraded_reasons],
                **{f"recsys.budget.{field.name}": value for field, value in request.budget.ListFields()},
            }
        )
        timings, at_ns = report.timings, _unix_ns(arrived_s)
        spent_ms = {stage: getattr(timings, f"{stage}_ms") for stage in _STAGES}
        spent_ms["encode answer"] = max(0.0, timings.total_ms - sum(spent_ms.values()))
        for stage, ms in spent_ms.items():
            started_ns, at_ns = at_ns, at_ns + int(ms * 1e6)
            self._tracer.start_span(stage, start_time=started_ns).end(at_ns)

    def ended(self, code: str) -> None:
        """Note the status that the call ended with."""
        span = trace.get_current_span()
        span.set_attribute("rpc.grpc.status_code", grpc.StatusCode[code].value[0])
        if code != "OK":
            span.set_status(trace.StatusCode.ERROR, code)

    def stop(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


def otlp_provider() -> TracerProvider:
    """Return a provider that sends spans to an OTLP collector, as OpenTelemetry's environment variables have it."""
    named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    resource = Resource.create() if named else Resource.create({"service.name": "recsys-serve"})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _unix_ns(at_s: float) -> int:
    """Return a moment of `time.perf_counter` as nanoseconds since 1970."""
    return time.time_ns() - int((time.perf_counter() - at_s) * 1e9)
