"""What a server writes about its calls: one object a line, with request ids, and nothing about who asked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from serving.v1 import candidates_pb2 as pb
from serving.v1.candidates_pb2_grpc import CandidateServiceStub

SECRET_USER, SECRET_ITEM, SECRET_VALUE = "a-user-nobody-may-know", "i17", "a-secret-word"


@pytest.fixture(scope="module")
def log(bundles):
    """Start the program, call it in several ways, stop it; give its lines and what calls got back."""
    words = ["--bundles", str(bundles), "--port", "0", "--workers", "1", "--log-format", "json", "--slow-call-ms", "0"]
    program = [Path(sys.executable).parent / "recsys-serve", *words]
    pipe = subprocess.PIPE
    with subprocess.Popen(program, stdout=pipe, stderr=pipe, text=True, env=os.environ) as running:
        address = running.stdout.readline().strip().removeprefix("listening on ")
        got = {}
        with grpc.insecure_channel(address) as channel:
            stub = CandidateServiceStub(channel)
            who = pb.User(id=SECRET_USER, features={"group": pb.FeatureValues(values=[SECRET_VALUE])})
            request = pb.RecommendRequest(user=who, k=3)
            got["slow"] = stub.Recommend.with_call(request, metadata=[("x-request-id", "mine-1")], timeout=60)[1]
            got["own"] = stub.Recommend.with_call(request, timeout=60)[1]
            history = pb.User(history=pb.History(item_ids=[SECRET_ITEM]), features={SECRET_VALUE: pb.FeatureValues()})
            for user, name, k in ((history, "refused", 3), (who, "too many", 0)):
                with pytest.raises(grpc.RpcError) as failed:
                    stub.Recommend(
                        pb.RecommendRequest(user=user, k=k), metadata=[("x-request-id", "x" * 100)], timeout=60
                    )
                got[name] = failed.value
            for _ in range(30):
                with pytest.raises(grpc.RpcError):
                    stub.Recommend(pb.RecommendRequest(k=0), timeout=60)
        running.send_signal(signal.SIGTERM)
        _, text = running.communicate(timeout=60)
    return [json.loads(line) for line in text.splitlines()], got, text


def request_id_of(call) -> str:
    return dict(call.trailing_metadata())["x-request-id"]


def test_every_line_is_one_object_with_a_time_a_level_and_a_source(log):
    lines, _, _ = log
    assert {"event", "level", "logger", "timestamp", "process"} <= set.intersection(*map(set, lines))
    assert any(line["event"].startswith("serving bundle") for line in lines)
    assert lines[-1]["event"].startswith("stopping")


def test_a_slow_call_is_logged_under_its_own_request_id(log):
    lines, got, _ = log
    assert request_id_of(got["slow"]) == "mine-1"
    (line,) = [line for line in lines if line.get("request_id") == "mine-1"]
    assert (line["event"], line["level"], line["method"]) == ("slow call", "warning", "Recommend")
    assert line["total_ms"] > 0
    assert line["rung"]


def test_a_call_without_a_request_id_gets_one(log):
    lines, got, _ = log
    made = request_id_of(got["own"])
    assert len(made) == 32
    assert [line["event"] for line in lines if line.get("request_id") == made] == ["slow call"]


def test_refusals_name_code_and_field_and_cut_long_request_ids(log):
    lines, got, _ = log
    assert request_id_of(got["refused"]) == "x" * 64
    refused = [line for line in lines if line.get("request_id") == "x" * 64]
    assert [(line["event"], line["code"], line["field"]) for line in refused] == [
        ("call refused", "INVALID_ARGUMENT", "user.features"),
        ("call refused", "INVALID_ARGUMENT", "k"),
    ]
    assert got["refused"].code() is grpc.StatusCode.INVALID_ARGUMENT


def test_many_refusals_make_few_lines(log):
    lines, _, _ = log
    refused = [line for line in lines if line["event"] == "call refused"]
    assert 2 <= len(refused) < 32


def test_nobody_is_named(log):
    _, _, text = log
    for secret in (SECRET_USER, SECRET_VALUE, f'"{SECRET_ITEM}"'):
        assert secret not in text


def test_lines_outside_calls_have_no_request_id(log):
    lines, _, _ = log
    assert not any("request_id" in line for line in lines if line["logger"] == "serving.server")
