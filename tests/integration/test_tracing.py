"""Traces: sent to a collector over a real socket, as a part of the caller's trace, and only where asked for."""

from __future__ import annotations

import itertools
import subprocess
import sys
from concurrent import futures

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from recsys.errors import ConfigError
from serving.server import Server
from serving.settings import ServerSettings
from serving.tracing import spans_from_environment
from serving.v1 import candidates_pb2 as pb
from serving.v1.candidates_pb2_grpc import CandidateServiceStub

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = [("traceparent", f"00-{TRACE}-{PARENT}-01")]


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self):
        self.resources = []

    def Export(self, request, context):  # noqa: N802
        self.resources += request.resource_spans
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture(scope="module")
def traced(bundles):
    """Trace an answer, a refusal and a call of another trace; give the spans, by name, and who sent them."""
    collector = Collector()
    receiving = grpc.server(futures.ThreadPoolExecutor(1))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, receiving)
    port = receiving.add_insecure_port("127.0.0.1:0")
    receiving.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        with (
            Server(ServerSettings(bundles=bundles, port=0, workers=1)) as server,
            grpc.insecure_channel(server.address) as channel,
        ):
            stub = CandidateServiceStub(channel)
            request = pb.RecommendRequest(user=pb.User(id="u1"), k=3, budget=pb.Budget(time_ms=60_000))
            answer = stub.Recommend(request, metadata=TRACEPARENT)
            with pytest.raises(grpc.RpcError):
                stub.Recommend(pb.RecommendRequest(user=pb.User(id="u1"), k=0), metadata=TRACEPARENT)
            stub.Describe(pb.DescribeRequest())
    receiving.stop(None)
    spans = [span for one in collector.resources for scope in one.scope_spans for span in scope.spans]
    return collector.resources, spans, answer.report


def attributes(owner) -> dict:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in owner.attributes}


def test_an_answer_is_a_span_of_the_caller_s_trace_with_its_stages_inside(traced):
    _, spans, report = traced
    called, refused = [span for span in spans if span.parent_span_id.hex() == PARENT]
    assert called.trace_id.hex() == TRACE
    assert called.name == "serving.v1.CandidateService/Recommend"
    stages = [span for span in spans if span.parent_span_id == called.span_id]
    assert [span.name for span in stages] == ["queue", "encode", "scan", "rerank", "encode answer"]
    spent_ms = {span.name: (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6 for span in stages}
    assert spent_ms["scan"] == pytest.approx(report.timings.scan_ms, abs=1e-3)
    assert sum(spent_ms.values()) == pytest.approx(report.timings.total_ms, abs=1e-2)
    for one, following in itertools.pairwise(stages):
        assert one.end_time_unix_nano == following.start_time_unix_nano
    # Two clocks are read apart from each other, so edges agree to less than a millisecond and not to the nanosecond.
    assert abs(stages[0].start_time_unix_nano - called.start_time_unix_nano) < 1e6
    assert stages[-1].end_time_unix_nano < called.end_time_unix_nano + 1e6
    assert not [span for span in spans if span.parent_span_id == refused.span_id]


def test_the_span_says_what_was_asked_for_and_done(traced):
    _, spans, report = traced
    said = attributes(next(span for span in spans if span.parent_span_id.hex() == PARENT))
    assert said["recsys.rung"] == report.rung
    assert said["recsys.width"] == report.width
    assert said["recsys.expected_overlap"] == report.expected_overlap
    assert (said["recsys.k"], said["recsys.budget.time_ms"]) == (3, 60_000)
    assert said["rpc.grpc.status_code"] == 0
    assert "u1" not in said.values()


def test_a_refusal_is_a_failed_span(traced):
    _, spans, _ = traced
    refused = [span for span in spans if span.parent_span_id.hex() == PARENT][1]
    assert refused.status.message == "INVALID_ARGUMENT"
    assert attributes(refused)["rpc.grpc.status_code"] == grpc.StatusCode.INVALID_ARGUMENT.value[0]


def test_a_call_without_context_starts_a_trace(traced):
    _, spans, _ = traced
    (span,) = [span for span in spans if span.name.endswith("/Describe")]
    assert not span.parent_span_id
    assert span.trace_id.hex() != TRACE


def test_the_service_has_a_name(traced):
    resources, _, _ = traced
    assert {attributes(one.resource)["service.name"] for one in resources} == {"recsys-serve"}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
        {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
    ],
)
def test_traces_are_off_unless_asked_for(monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert spans_from_environment() is None


@pytest.mark.parametrize(
    ("name", "value"), [("OTEL_TRACES_EXPORTER", "zipkin"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")]
)
def test_what_cannot_be_done_is_refused_by_name(monkeypatch, name, value):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"{name}: got '{value}'"):
        spans_from_environment()


def test_without_the_extra_only_who_asks_for_traces_is_told(monkeypatch):
    program = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "import serving.server\n"
        "from serving.tracing import spans_from_environment\n"
        "print(spans_from_environment())\n"
    )
    command = [sys.executable, "-c", program]
    quiet = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (quiet.stdout, quiet.returncode) == ("None\n", 0)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    told = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "pip install 'matryoshka-recsys[tracing]'" in told.stderr
