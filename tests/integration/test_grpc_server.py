"""A real server over a real socket: health and reflection, full queues, and stopping."""

import queue
import threading
import time
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from recsys.errors import ConfigError, RequestError
from serving.client import Client, ServingError, user
from serving.gate import Gate
from serving.server import SERVICE, Server
from serving.settings import ServerSettings
from serving.v1 import candidates_pb2 as pb

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server(bundles):
    with Server(ServerSettings(bundles=bundles, port=0, workers=4, reflection=True)) as running:
        yield running


def ids(answer):
    return [item.item_id for item in answer.items]


class TestServer:
    def test_health(self, channel):
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", SERVICE):
            answer = stub.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING

    def test_reflection(self, channel):
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        (answer,) = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([request]))
        assert SERVICE in [service.name for service in answer.list_services_response.service]

    def test_reflection_is_off_by_default(self, bundles):
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        settings = ServerSettings(bundles=bundles, port=0, workers=1)
        with Server(settings) as server, grpc.insecure_channel(server.address) as channel:
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            with pytest.raises(grpc.RpcError) as failed:
                list(stub.ServerReflectionInfo(iter([request])))
        assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED

    def test_calls_from_many_threads_get_their_own_answers(self, client):
        users = [f"u{row}" for row in range(60)] * 4
        alone = {name: ids(client.recommend(user_id=name, k=20, width=16)) for name in set(users)}
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda name: ids(client.recommend(user_id=name, k=20, width=16)), users))
        assert together == [alone[name] for name in users]

    def test_a_taken_port_is_an_error_not_a_second_server(self, server, bundles):
        with pytest.raises(ConfigError, match=f"127.0.0.1:{server.port}"):
            Server(ServerSettings(bundles=bundles, port=server.port))


def test_what_each_stage_took_is_learned_once_the_call_has_ended(bundles):
    learned: queue.SimpleQueue[tuple[str, tuple, dict]] = queue.SimpleQueue()

    def noting(stage, learn):
        def noted(*args, **named):
            learn(*args, **named)
            learned.put((stage, args, named))

        return noted

    with Server(ServerSettings(bundles=bundles, port=0, workers=1)) as server, Client(server.address) as client:
        model = server.live.engine.latency
        for stage in ("encoded", "searched", "finished"):
            setattr(model, stage, noting(stage, getattr(model, stage)))
        for k, num_users, num_encoded, ask in (
            (5, 1, 1, partial(client.recommend, user_id="u1")),
            (6, 2, 2, partial(client.recommend_batch, [user("u1"), user("u2")])),
            (7, 1, 0, partial(client.similar_items, "i1")),
        ):
            report = ask(k=k).report
            spent = report.timings
            search_ms = spent.scan_ms + spent.rerank_ms
            told = [learned.get(timeout=30) for _ in range((num_encoded > 0) + num_users + 1)]
            if num_encoded:
                assert told.pop(0) == ("encoded", (num_encoded,), {"ms": pytest.approx(spent.encode_ms)})
            *searches, (stage, (rung,), after) = told
            assert (stage, rung.name, after["k"]) == ("finished", report.rung, k)
            assert after["ms"] * num_users > spent.total_ms - spent.queue_ms - spent.encode_ms - search_ms
            assert [(stage, of, its["k"]) for stage, (of,), its in searches] == [("searched", rung, k)] * num_users
            assert sum(its["ms"] for *_, its in searches) == pytest.approx(search_ms)
        assert learned.empty()


@contextmanager
def busy_server(bundles, **settings):
    """A server whose only worker is at a batch until `release` is set; yields it with all that a test needs."""
    with Server(ServerSettings(bundles=bundles, port=0, workers=1, **settings)) as server:
        engine = server.live.engine
        started, release, answered = threading.Event(), threading.Event(), []
        recommend, recommend_batch = engine.recommend, engine.recommend_batch

        def gated(query, *, call):
            started.set()
            assert release.wait(30)
            return recommend_batch(query, call=call)

        def noted(query, *, call):
            answered.append(query.user.id)
            return recommend(query, call=call)

        engine.recommend_batch, engine.recommend = gated, noted
        with Client(server.address, deadline_ms=60_000) as client, ThreadPoolExecutor(2) as pool:
            batch = pool.submit(client.recommend_batch, [user("u1"), user("u2")], k=5)
            assert started.wait(30)
            yield SimpleNamespace(
                server=server, client=client, pool=pool, batch=batch, release=release, answered=answered
            )
            release.set()


class TestBusyServer:
    def test_a_call_that_expired_in_the_queue_is_not_worked_on(self, bundles):
        with busy_server(bundles) as busy:
            with pytest.raises(ServingError) as failed:
                busy.client.recommend(user_id="late", k=5, deadline_ms=50)
            busy.release.set()
            assert len(busy.batch.result().candidates) == 2
            busy.client.recommend(user_id="in time", k=5)
        # Refused while there is still time to say so, unless this machine is too slow for that.
        late = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED)
        assert failed.value.code in late
        assert busy.answered == ["in time"]

    def test_waiting_for_a_worker_is_reported_and_taken_off_the_budget(self, bundles):
        with busy_server(bundles) as busy:
            waiting = busy.pool.submit(busy.client.recommend, user_id="u3", k=5, budget_ms=60_000)
            time.sleep(0.3)
            busy.release.set()
            report = waiting.result().report
        assert report.timings.queue_ms > 200
        assert report.timings.total_ms > report.timings.queue_ms
        assert report.predicted_ms > report.timings.queue_ms

    def test_a_call_that_would_be_late_is_refused_before_its_time_is_up_with_a_hint(self, bundles):
        with busy_server(bundles) as busy, pytest.raises(ServingError) as failed:
            busy.client.recommend(user_id="u3", k=5, budget_ms=2000)
        assert failed.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "cheapest rung" in str(failed.value)
        assert failed.value.retry_after_ms is not None
        assert busy.answered == []

    def test_whose_priority_is_high_goes_first(self, bundles):
        with busy_server(bundles) as busy, ThreadPoolExecutor(3) as pool:
            calls = []
            for priority in (pb.PRIORITY_LOW, pb.PRIORITY_UNSPECIFIED, pb.PRIORITY_HIGH):
                name = pb.Priority.Name(priority)
                calls.append(pool.submit(busy.client.recommend, user_id=name, k=5, priority=priority))
                time.sleep(0.1)
            busy.release.set()
            for call in calls:
                call.result()
        assert busy.answered == ["PRIORITY_HIGH", "PRIORITY_UNSPECIFIED", "PRIORITY_LOW"]

    def test_what_needs_no_search_is_answered_meanwhile(self, bundles):
        with busy_server(bundles) as busy:
            assert busy.client.describe(deadline_ms=20_000).num_items == 1000
            with pytest.raises(RequestError, match="k: got 0"):
                busy.client.recommend(user_id="u3", k=0)

    def test_too_many_waiting_calls_are_refused_at_once(self, bundles):
        with busy_server(bundles, max_waiting=0) as busy, pytest.raises(ServingError) as failed:
            busy.client.recommend(user_id="u3", k=5)
        assert failed.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED

    def test_past_a_number_of_calls_that_nobody_looks_at_grpc_refuses_by_itself(self, bundles, monkeypatch):
        looking, go_on = threading.Event(), threading.Event()

        def full(_gate, *, num_inside):
            looking.set()
            go_on.wait(60)
            return False

        monkeypatch.setattr(Gate, "full", full)
        settings = ServerSettings(bundles=bundles, port=0, workers=1, max_unread=8)
        with (
            Server(settings) as server,
            Client(server.address, deadline_ms=60_000) as client,
            ThreadPoolExecutor(20) as pool,
        ):
            first = pool.submit(client.recommend, user_id="u1", k=5)
            assert looking.wait(60)
            others = [pool.submit(client.recommend, user_id="u2", k=5) for _ in range(19)]
            # At most 8 can wait there, so 11 or more are refused while the first is being looked at.
            done, _ = wait(others, timeout=60, return_when=FIRST_EXCEPTION)
            assert done
            while sum(call.done() for call in others) < 11:
                time.sleep(0.01)
            refused = [call.exception() for call in others if call.done()]
            assert {error.code for error in refused} == {grpc.StatusCode.CANCELLED}
            go_on.set()
            answered = [call for call in others if call.exception() is None]
            assert 2 <= len(answered) <= 8
            assert len(first.result().items) == 5

    def test_where_too_many_are_inside_calls_are_refused_unread_but_for_those_that_need_no_turn(self, bundles):
        with busy_server(bundles, max_waiting=1) as busy, ThreadPoolExecutor(5) as pool:
            waiting = pool.submit(busy.client.recommend, user_id="u2", k=5)
            is_refused, wrong_fields = threading.Event(), []

            def insist():
                """Ask what is refused once it is read, until somebody is refused without that."""
                while not is_refused.is_set():
                    try:
                        busy.client.recommend(user_id="", k=0)
                    except ServingError as error:
                        is_refused.set()
                        return error
                    except RequestError as error:
                        wrong_fields.append(error.field)  # this one was read
                return None

            # With the call at work and the one that waits, four at a time are more than may be there.
            asking = [pool.submit(insist) for _ in range(4)]
            errors = [error for call in asking if (error := call.result()) is not None]
            assert {error.code for error in errors} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
            assert all(error.retry_after_ms is not None for error in errors)
            assert unread(busy.server) == len(errors)
            assert set(wrong_fields) <= {"k"}
            assert busy.client.describe(deadline_ms=20_000).num_items == 1000
            busy.release.set()
            assert len(waiting.result().items) == 5
            assert len(busy.client.recommend(user_id="u3", k=5).items) == 5
        assert busy.answered == ["u2", "u3"]

    def test_stopping_refuses_new_calls_and_lets_those_in_flight_finish(self, bundles):
        with busy_server(bundles) as busy:
            stopping = busy.pool.submit(busy.server.stop)
            while not refused(busy.client):
                time.sleep(0.01)
            assert not stopping.done()
            busy.release.set()
            assert len(busy.batch.result().candidates) == 2
            stopping.result()

    def test_health_turns_before_calls_are_refused(self, bundles):
        settings = ServerSettings(bundles=bundles, port=0, workers=2, drain_s=1.0)
        with Server(settings) as server, Client(server.address) as client, ThreadPoolExecutor(1) as pool:
            client.wait_until_serving(timeout_s=10)
            stopping = pool.submit(server.stop)
            time.sleep(0.3)
            with pytest.raises(ServingError, match="is stopping"):
                client.wait_until_serving(timeout_s=10)
            assert len(client.recommend(user_id="u3", k=5).items) == 5
            stopping.result()


def unread(server):
    return server.metrics.registry.get_sample_value("recsys_refused_total", {"reason": "limit", "priority": "unread"})


def refused(client):
    try:
        client.describe(deadline_ms=1000)
    except ServingError as error:
        return error.code is grpc.StatusCode.UNAVAILABLE
    return False
